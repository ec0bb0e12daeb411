"""Reads what a header states of the exam itself: its order, why it was made, and how the patient was placed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from chestmap.imaging.dicom_header import Header  # imports pydicom, which a service of PNG files may lack

OF_ORDER = (
    "AccessionNumber",
    "RequestAttributesSequence",
    "ReasonForTheRequestedProcedure",
    "ReasonForStudy",
    "AdditionalPatientHistory",
)
OF_POSITION = ("PatientPosition", "PatientOrientationCodeSequence")
REASONS = ("ReasonForTheRequestedProcedure", "ReasonForStudy", "AdditionalPatientHistory")
"""In order of how close each is to the order of this exam."""
LONGEST_REASON = 200
LYING = {"S": "supine", "P": "prone", "DR": "right decubitus", "DL": "left decubitus"}
"""By the last letters of Patient Position (PS3.3 C.7.3.1.1.2)."""


def order_of(header: Header) -> dict[str, str]:
    """Accession number and indication. Both may identify a patient: a store keeps them only where it shows patients."""
    requests = [type(header)(item, header.syntax) for item in header.items("RequestAttributesSequence")]
    accessions = [one.text("AccessionNumber") for one in (header, *requests)]
    reasons = [one.text(keyword, LONGEST_REASON) for keyword in REASONS for one in (*requests, header)]
    return {"accession": next(filter(None, accessions), "")[:16], "indication": next(filter(None, reasons), "")}


def position_of(header: Header) -> str:
    """How the patient was placed, such as "erect"; empty where the header does not state it."""
    for item in header.items("PatientOrientationCodeSequence"):
        inner = type(header)(item, header.syntax)
        words = [
            _meaning(inner, item),
            *(_meaning(inner, one) for one in inner.items("PatientOrientationModifierCodeSequence")),
        ]
        if found := " ".join(word for word in words if word):
            return found[:32]
    placed = header.text("PatientPosition").upper()
    return next((word for ending, word in LYING.items() if placed in {f"HF{ending}", f"FF{ending}"}), "")


def _meaning(header: Header, item: Dataset) -> str:
    return type(header)(item, header.syntax).text("CodeMeaning").lower()
