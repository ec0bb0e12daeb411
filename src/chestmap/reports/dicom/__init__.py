"""Results as DICOM objects, and de-identified radiographs. `docs/dicom.md` explains what each is for."""

from chestmap.reports.dicom.provenance import DEFAULT_KINDS, KINDS, Kind, Provenance, is_result, kinds_of
from chestmap.reports.dicom.source_header import read_source
from chestmap.reports.dicom.write import result_objects, write_dicom

__all__ = [
    "DEFAULT_KINDS",
    "KINDS",
    "Kind",
    "Provenance",
    "is_result",
    "kinds_of",
    "read_source",
    "result_objects",
    "write_dicom",
]
