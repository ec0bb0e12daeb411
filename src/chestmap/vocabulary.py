"""The findings of each dataset, their spelling variants, and codes for reports.

Codes: SCT and DCM values are from DICOM PS3.16 or consistent public use; where none could be confirmed the code is local
(99CHESTMAP), since a wrong SNOMED code is worse than an honest local one.
"""

from chestmap.types import Code, Findings


def _codes(table: str) -> dict[str, Code]:
    rows = [[part.strip() for part in line.split("|")] for line in table.strip().splitlines()]
    return {name: Code(scheme, value, meaning) for name, scheme, value, meaning in rows}


CODES = _codes("""
    Aortic Enlargement         | 99CHESTMAP | aortic-enlargement         | Aortic enlargement
    Atelectasis                | SCT        | 46621007                   | Atelectasis
    Calcification              | 99CHESTMAP | calcification              | Calcification
    Cardiomegaly               | SCT        | 8186001                    | Cardiomegaly
    Clavicle Fracture          | 99CHESTMAP | clavicle-fracture          | Clavicle fracture
    Consolidation              | SCT        | 95436008                   | Lung consolidation
    Edema                      | SCT        | 19242006                   | Pulmonary edema
    Effusion                   | SCT        | 60046008                   | Pleural effusion
    Emphysema                  | SCT        | 87433001                   | Pulmonary emphysema
    Enlarged Cardiomediastinum | 99CHESTMAP | enlarged-cardiomediastinum | Enlarged cardiomediastinum
    Enlarged Pulmonary Artery  | 99CHESTMAP | enlarged-pulmonary-artery  | Enlarged pulmonary artery
    Fibrosis                   | SCT        | 51615001                   | Fibrosis of lung
    Fracture                   | SCT        | 125605004                  | Fracture of bone
    Hernia                     | SCT        | 39839004                   | Diaphragmatic hernia
    ILD                        | 99CHESTMAP | interstitial-lung-disease  | Interstitial lung disease
    Infiltration               | DCM        | 112121                     | Infiltrate
    Lung Cavity                | 99CHESTMAP | lung-cavity                | Lung cavity
    Lung Cyst                  | 99CHESTMAP | lung-cyst                  | Lung cyst
    Lung Lesion                | SCT        | 52988006                   | Lesion
    Lung Opacity               | DCM        | 112001                     | Opacity
    Mass                       | SCT        | 4147007                    | Mass
    Mediastinal Shift          | 99CHESTMAP | mediastinal-shift          | Mediastinal shift
    No Finding                 | SCT        | 17621005                   | Normal
    Nodule                     | SCT        | 27925004                   | Nodule
    Nodule/Mass                | 99CHESTMAP | nodule-or-mass             | Nodule or mass
    Other Lesion               | 99CHESTMAP | other-lesion               | Other lesion
    Pleural Effusion           | SCT        | 60046008                   | Pleural effusion
    Pleural Other              | 99CHESTMAP | pleural-other              | Other pleural finding
    Pleural Thickening         | 99CHESTMAP | pleural-thickening         | Pleural thickening
    Pneumonia                  | SCT        | 233604007                  | Pneumonia
    Pneumothorax               | SCT        | 36118008                   | Pneumothorax
    Pulmonary Fibrosis         | SCT        | 51615001                   | Fibrosis of lung
    Rib Fracture               | 99CHESTMAP | rib-fracture               | Rib fracture
    Support Devices            | 99CHESTMAP | support-devices            | Support devices
""")

NO_FINDING = "No Finding"
SUPPORT_DEVICES = "Support Devices"

CHESTXRAY14 = Findings(
    (
        "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
        "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural Thickening", "Hernia",
    ),
    {"Infiltrate": "Infiltration", "Pleural Effusion": "Effusion", "PT": "Pleural Thickening"},
    CODES,
)  # fmt: skip

BOXED_IN_CHESTXRAY14 = CHESTXRAY14.names[:8]
"""The findings that BBox_List_2017.csv marks."""

CHEXPERT = Findings(
    (
        "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
        "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
    ),
    {
        "Enlarg Cardiomediastinum": "Enlarged Cardiomediastinum",  # stray label of the public box file
        "Airspace Opacity": "Lung Opacity",
        "Effusion": "Pleural Effusion",
    },
    CODES,
)  # fmt: skip

VINDR = Findings(
    (
        "Aortic Enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle Fracture", "Consolidation", "Edema",
        "Emphysema", "Enlarged Pulmonary Artery", "ILD", "Infiltration", "Lung Cavity", "Lung Cyst", "Lung Opacity",
        "Mediastinal Shift", "Nodule/Mass", "Pleural Effusion", "Pleural Thickening", "Pneumothorax", "Pulmonary Fibrosis",
        "Rib Fracture", "Other Lesion", "No Finding",
    ),
    {"Enlarged PA": "Enlarged Pulmonary Artery", "Interstitial lung disease": "ILD"},
    CODES,
)  # fmt: skip

VOCABULARIES = {"chestxray14": CHESTXRAY14, "chexpert": CHEXPERT, "vindr": VINDR}
