"""Lists the files of a DICOMDIR, as CDs and USB sticks carry it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydicom import dcmread, uid
from pydicom.filereader import read_file_meta_info

from chestmap.errors import BadInput
from chestmap.imaging.dicom_header import FAILURES, quiet

LARGEST = 64 << 20
"""Bytes: some 100,000 images."""


def dicomdir_files(path: Path) -> Iterator[tuple[Path, str]]:
    """Paths of image records in the order of the file, with a problem where a path leads out of its folder."""
    root = path.parent
    try:
        if path.stat().st_size > LARGEST:
            raise BadInput(f"{path}: more than {LARGEST >> 20} MB; expected a DICOMDIR: give the folder instead")
        with quiet():
            if read_file_meta_info(path).TransferSyntaxUID == uid.DeflatedExplicitVRLittleEndian:
                raise BadInput(f"{path}: deflated; a DICOMDIR is never: give the folder instead")
            dataset = dcmread(path, specific_tags=["DirectoryRecordSequence"])
            records = list(dataset.DirectoryRecordSequence)
            referenced = [_parts(record) for record in records if "ReferencedFileID" in record and _may_be_image(record)]
    except FAILURES as error:
        said = " ".join(str(error).split())[:120]
        raise BadInput(f"{path}: no readable DICOMDIR ({said}): give the folder instead") from None
    for parts in referenced:
        yield _located(root, parts)


def _may_be_image(record: object) -> bool:
    """Records of presentation states and reports also refer to files."""
    return str(getattr(record, "DirectoryRecordType", "IMAGE")).upper() == "IMAGE"


def _parts(record: object) -> list[str]:
    value = getattr(record, "ReferencedFileID", None)
    return [str(part) for part in ([value] if isinstance(value, str) else value or [])]


def _located(root: Path, parts: list[str]) -> tuple[Path, str]:
    """Names are upper case in a DICOMDIR; copies of a CD often are not."""
    if not parts or any(part in {"", ".", ".."} or set(part) & set("/\\:\0") for part in parts):
        return root / "DICOMDIR", f"refers to {'/'.join(parts)[:80]!r}, which is no place below its folder: it is not read"
    path = root.joinpath(*parts)
    lower = root.joinpath(*(part.lower() for part in parts))
    found = path if path.exists() or not lower.exists() else lower
    if found.exists() and not found.resolve().is_relative_to(root.resolve()):
        return root / "DICOMDIR", f"refers to {'/'.join(parts)[:80]!r}, a link out of its folder: it is not read"
    return found, ""
