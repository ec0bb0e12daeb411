"""Keeps patients out of what is written: pseudonyms for ids, and for file names that repeat words of a DICOM header.

A pseudonym is a keyed hash (BLAKE2), so that nobody without the key can try all patient ids. The key is CHESTMAP_KEY, or a
file made once for each user; the same key gives the same pseudonyms in every output. No torch here: processes that decode use it.
"""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from chestmap.errors import BadImage, BadInput
from chestmap.imaging.limits import LIMITS

KEYWORDS = (
    "SpecificCharacterSet", "PatientName", "PatientID", "OtherPatientIDs", "PatientBirthDate", "PatientBirthName",
    "PatientMotherBirthName", "PatientAddress", "PatientTelephoneNumbers", "AccessionNumber", "ReferringPhysicianName",
    "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate",
)  # fmt: skip
"""Elements to search for in file names."""

LONG = 4
"""Minimum letters for a word to match anywhere; a shorter one matches only as a whole word."""


@dataclass(frozen=True)
class Pseudonyms:
    """Without a key nothing is hidden: what `--show-patient` asks for."""

    key: bytes | None

    def patient(self, patient_id: str) -> str:
        """Replaces a patient's id by `patient-` and a keyed hash; without a key the id stays."""
        return patient_id if self.key is None or not patient_id else f"patient-{self._hash(patient_id)}"

    def name(self, name: str, patient: frozenset[str]) -> str:
        """A path with "/" in which parts that repeat a word about the patient are replaced; its ending stays."""
        if self.key is None or not patient:
            return name
        return "/".join(self.hidden(part) if repeats(part, patient) else part for part in name.split("/"))

    def hidden(self, part: str) -> str:
        """The pseudonym of a part of a path, always the same."""
        ending = Path(part).suffix.lower()
        return f"hidden-{self._hash(part)}{ending if ending in {'.png', '.jpg', '.jpeg', '.dcm', '.zip'} else ''}"

    def _hash(self, text: str) -> str:
        return blake2b(text.encode("utf-8", "surrogatepass"), key=self.key or b"", digest_size=6).hexdigest()


def words_of_patient(data: bytes) -> frozenset[str]:
    """The words of a DICOM header about its patient, of letters and digits; nothing for any other file."""
    if data[128:132] != b"DICM":
        return frozenset()
    from chestmap.imaging.dicom_header import FAILURES, quiet, read_header

    try:
        with quiet():
            header = read_header(data, LIMITS, KEYWORDS)
            texts = [str(value) for keyword in KEYWORDS[1:] for value in header.values(keyword)]
    except (*FAILURES, BadImage):
        return frozenset()
    words = {word for text in texts for word in (*_words(text), "".join(_words(text)))}
    return frozenset(word for word in words if len(word) > 1)


def repeats(part: str, patient: frozenset[str]) -> bool:
    """Whether a part of a path holds a word about the patient, however it is spelled or joined."""
    words = _words(part)
    joined = "".join(words)
    return any(word in words or (len(word) >= LONG and word in joined) for word in patient)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def own_key() -> bytes:
    """Of this user: made when it is first needed, readable by nobody else."""
    if given := os.environ.get("CHESTMAP_KEY"):
        return blake2b(given.encode(), digest_size=32).digest()
    path = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "chestmap" / "pseudonym.key"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f"{path.name}.{os.getpid()}")
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
            try:
                os.link(beside, path)  # the first of several processes wins
            except FileExistsError:
                pass
            finally:
                beside.unlink()
        key = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; set CHESTMAP_KEY to a secret from which pseudonyms are made") from None
    if len(key) < 16:
        raise BadInput(f"{path}: {len(key)} bytes are no key; delete it, or set CHESTMAP_KEY")
    return key[:64]
