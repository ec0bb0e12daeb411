"""The findings of each dataset, their spelling variants, and codes for reports.

Codes: SCT and DCM values are from DICOM PS3.16 or consistent public use; where none could be confirmed the code is local
(99CHESTMAP), since a wrong SNOMED code is worse than an honest local one.
"""

from collections.abc import Iterable

from chestmap.types import Code, Findings


def _codes(table: str) -> dict[str, Code]:
    rows = [[part.strip() for part in line.split("|")] for line in table.strip().splitlines()]
    return {name: Code(scheme, value, meaning) for name, scheme, value, meaning in rows}


CODES = _codes("""
    Aortic Enlargement         | 99CHESTMAP | aortic-enlarged  | Aortic enlargement
    Atelectasis                | SCT        | 46621007         | Atelectasis
    Calcification              | SCT        | 18115005         | Pathologic calcification
    Cardiomegaly               | SCT        | 8186001          | Cardiomegaly
    Clavicle Fracture          | 99CHESTMAP | clavicle-fract   | Clavicle fracture
    Consolidation              | SCT        | 95436008         | Lung consolidation
    Edema                      | SCT        | 19242006         | Pulmonary edema
    Effusion                   | SCT        | 60046008         | Pleural effusion
    Emphysema                  | SCT        | 87433001         | Pulmonary emphysema
    Enlarged Cardiomediastinum | 99CHESTMAP | enlarged-cardmed | Enlarged cardiomediastinum
    Enlarged Pulmonary Artery  | 99CHESTMAP | enlarged-pulm-a  | Enlarged pulmonary artery
    Fibrosis                   | SCT        | 51615001         | Fibrosis of lung
    Fracture                   | SCT        | 125605004        | Fracture of bone
    Hernia                     | SCT        | 39839004         | Diaphragmatic hernia
    ILD                        | 99CHESTMAP | interstitial-ld  | Interstitial lung disease
    Infiltration               | DCM        | 112121           | Infiltrate
    Lung Cavity                | 99CHESTMAP | lung-cavity      | Lung cavity
    Lung Cyst                  | SCT        | 367643001        | Cyst
    Lung Lesion                | SCT        | 52988006         | Lesion
    Lung Opacity               | DCM        | 112001           | Opacity
    Mass                       | SCT        | 4147007          | Mass
    Mediastinal Shift          | 99CHESTMAP | mediastin-shift  | Mediastinal shift
    No Finding                 | SCT        | 17621005         | Normal
    Nodule                     | SCT        | 27925004         | Nodule
    Nodule/Mass                | 99CHESTMAP | nodule-or-mass   | Nodule or mass
    Other Lesion               | 99CHESTMAP | other-lesion     | Other lesion
    Pleural Effusion           | SCT        | 60046008         | Pleural effusion
    Pleural Other              | 99CHESTMAP | pleural-other    | Other pleural finding
    Pleural Thickening         | 99CHESTMAP | pleural-thick    | Pleural thickening
    Pneumonia                  | SCT        | 233604007        | Pneumonia
    Pneumothorax               | SCT        | 36118008         | Pneumothorax
    Pulmonary Fibrosis         | SCT        | 51615001         | Fibrosis of lung
    Rib Fracture               | 99CHESTMAP | rib-fracture     | Rib fracture
    Support Devices            | 99CHESTMAP | support-devices  | Support devices
""")
"""A value has at most 16 letters, as DICOM's type SH; a general one (Mass, Cyst) is made specific by its site."""

RADLEX = _codes("""
    Atelectasis                | RADLEX     | RID28493         | atelectasis
    Consolidation              | RADLEX     | RID43255         | consolidation
    Edema                      | RADLEX     | RID4866          | pulmonary edema
    Effusion                   | RADLEX     | RID34539         | pleural effusion
    Emphysema                  | RADLEX     | RID4799          | emphysema
    Fracture                   | RADLEX     | RID4650          | fracture
    Lung Opacity               | RADLEX     | RID28530         | opacity
    Mass                       | RADLEX     | RID3874          | mass
    Nodule                     | RADLEX     | RID50149         | pulmonary nodule
    Pleural Effusion           | RADLEX     | RID34539         | pleural effusion
    Pneumonia                  | RADLEX     | RID5350          | pneumonia
    Pneumothorax               | RADLEX     | RID5352          | pneumothorax
""")
"""Second codes, where RadLex has a class that means the same; it has none for cardiomegaly."""

SITES = _codes("""
    Aortic Enlargement         | SCT        | 15825003         | Aorta
    Cardiomegaly               | SCT        | 80891009         | Heart
    Clavicle Fracture          | SCT        | 51299004         | Clavicle
    Effusion                   | SCT        | 3120008          | Pleura
    Enlarged Cardiomediastinum | SCT        | 72410000         | Mediastinum
    Enlarged Pulmonary Artery  | SCT        | 81040000         | Pulmonary artery
    Fracture                   | SCT        | 272710004        | Bone of thorax
    Hernia                     | SCT        | 5798000          | Diaphragm
    Mediastinal Shift          | SCT        | 72410000         | Mediastinum
    Pleural Effusion           | SCT        | 3120008          | Pleura
    Pleural Other              | SCT        | 3120008          | Pleura
    Pleural Thickening         | SCT        | 3120008          | Pleura
    Pneumothorax               | SCT        | 3120008          | Pleura
    Rib Fracture               | SCT        | 113197003        | Rib
""") | dict.fromkeys(
    (
        "Atelectasis", "Consolidation", "Edema", "Emphysema", "Fibrosis", "ILD", "Infiltration", "Lung Cavity", "Lung Cyst",
        "Lung Lesion", "Lung Opacity", "Mass", "Nodule", "Nodule/Mass", "Pneumonia", "Pulmonary Fibrosis",
    ),
    Code("SCT", "39607008", "Lung"),
)  # fmt: skip
"""Where a finding lies, all from PS3.16; one without an entry is somewhere in the chest."""

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
ALIASES = {alias: name for whole in VOCABULARIES.values() for alias, name in whole.aliases.items()}


def folder_findings(names: Iterable[str]) -> Findings:
    """Findings by any name; those that the published vocabularies know bring their aliases and codes."""
    return Findings(tuple(names), ALIASES, CODES)
