"""A split: which images train, validate and test. On disk with a fingerprint; refused where patients leak unannounced.

`split_rules.py` defines each name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from chestmap.datasets.source import Source
from chestmap.datasets.split_rules import RULES, SplitSettings, patients_of
from chestmap.errors import BadInput, BadTable, Leak, Refused
from chestmap.settings import checked
from chestmap.storage.atomic import write_text

__all__ = ["PARTS", "Shared", "Split", "SplitSettings", "leaks", "make_split", "read_split"]

PARTS = ("train", "validation", "test")
SHARES_IMAGES = ("official-plus-boxes",)
VALIDATES_ON_TEST = "validation-is-test"
"""A split that validates on its test must carry this in its name."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Image ids of each part; `source` is the fingerprint of the source that it was made for.

    Refuses what no name can excuse: an image in two parts (but for the names in `SHARES_IMAGES`), a validation that is the
    test. Patients need the source: `check`.
    """

    name: str
    parts: Mapping[str, tuple[str, ...]]
    seed: int
    source: str
    shares_patients: bool = False

    def __post_init__(self) -> None:
        parts = {part: tuple(self.parts.get(part, ())) for part in PARTS}
        if unknown := set(self.parts) - set(PARTS):
            raise BadInput(f"split {self.name}: part {min(unknown)} is not one of {', '.join(PARTS)}")
        object.__setattr__(self, "parts", MappingProxyType(parts))
        sets = {part: set(ids) for part, ids in parts.items()}
        if sets["test"] and sets["validation"] == sets["test"] and VALIDATES_ON_TEST not in self.name:
            raise Refused(
                f"split {self.name}: validation equals test, so the test would choose the model; hold out other patients, "
                f'or say so with "{VALIDATES_ON_TEST}" in the name'
            )
        for part in PARTS:
            if len(sets[part]) != len(parts[part]):
                raise BadInput(f"split {self.name}: {part} names {len(parts[part]) - len(sets[part])} images twice")
        for one, other in combinations(PARTS, 2):
            if (both := sets[one] & sets[other]) and not self._may_share(one, other):
                raise Leak(f"split {self.name}: {len(both)} images are in both {one} and {other}, the first is {min(both)}")

    def __reduce__(self) -> tuple[object, ...]:
        return Split, (self.name, dict(self.parts), self.seed, self.source, self.shares_patients)

    def _may_share(self, one: str, other: str) -> bool:
        return self.name in SHARES_IMAGES or (VALIDATES_ON_TEST in self.name and {one, other} == {"validation", "test"})

    @cached_property
    def fingerprint(self) -> str:
        """Of all that is on disk, so that no line can be edited unnoticed."""
        digest = sha256(repr((self.name, self.seed, self.source, self.shares_patients)).encode())
        for part in PARTS:
            digest.update("\n".join(["", part, *self.parts[part]]).encode())
        return digest.hexdigest()[:16]

    def check(self, source: Source) -> None:
        """Refused for another source; a `Leak` where two sides share patients and the name promises otherwise."""
        if self.source != source.fingerprint:
            raise Refused(
                f"split {self.name} was made for a source with fingerprint {self.source}, {source.name} has "
                f"{source.fingerprint} (other images, patients, labels or boxes); make the split again"
            )
        if self.shares_patients:
            return
        for (one, other), shared in leaks(self, source).items():
            if shared.patients:
                raise Leak(
                    f"split {self.name}: {shared.patients} of the {shared.of} patients of {other} are also in {one}, but its "
                    "name promises whole patients; use a patient-wise split, or one that says it shares patients"
                )

    def write(self, folder: Path) -> Path:
        """`split.json` and one text file of image ids for each part; `split.json` is last, so that a torn write is noticed."""
        folder.mkdir(parents=True, exist_ok=True)
        for part, ids in self.parts.items():
            write_text(folder / f"{part}.txt", "".join(f"{image_id}\n" for image_id in ids))
        about = {
            "form": 1,
            "name": self.name,
            "seed": self.seed,
            "source": self.source,
            "shares_patients": self.shares_patients,
            "images": {part: len(ids) for part, ids in self.parts.items()},
            "fingerprint": self.fingerprint,
        }
        write_text(folder / "split.json", json.dumps(about, indent=2) + "\n")
        return folder


class Shared(NamedTuple):
    """What two parts have in common; `of` is the number of patients in the second."""

    images: int
    patients: int
    of: int


def read_split(folder: Path, source: Source | None = None) -> Split:
    """A written split; refused where a file was edited, or where it does not belong to `source`."""
    try:
        about = json.loads((folder / "split.json").read_text(encoding="utf-8"))
        parts = {part: tuple((folder / f"{part}.txt").read_text(encoding="utf-8").split("\n")[:-1]) for part in PARTS}
        split = Split(
            name=str(about["name"]),
            parts=parts,
            seed=int(about["seed"]),
            source=str(about["source"]),
            shares_patients=bool(about["shares_patients"]),
        )
        fingerprint = about["fingerprint"]
    except FileNotFoundError as error:
        raise BadInput(f"{error.filename}: missing; a split folder holds split.json, {'.txt, '.join(PARTS)}.txt") from None
    except BadInput:
        raise
    except (OSError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BadInput(f"{folder}: not a split folder ({error.__class__.__name__}); make the split again") from None
    if split.fingerprint != fingerprint:
        raise Refused(f"{folder}: split {split.name:.100} was edited after it was made (fingerprint differs); make it again")
    if source is not None:
        split.check(source)
    return split


def leaks(split: Split, source: Source) -> dict[tuple[str, str], Shared]:
    """For each pair of parts, the images and patients that are in both.

    The known ones of ChestX-ray14: `official-boxes` 668 of 726 test patients, the folds of HAM 136 of 155 to 172 of 184.
    """
    patient_of = patients_of(source)
    images = {part: set(split.parts[part]) for part in PARTS}
    try:
        patients = {part: {patient_of[image_id] for image_id in ids} for part, ids in images.items()}
    except KeyError as error:
        raise BadTable(f"{source.name}: image {error.args[0]} of split {split.name} is not in the table") from None
    return {
        (one, other): Shared(len(images[one] & images[other]), len(patients[one] & patients[other]), len(patients[other]))
        for one, other in combinations(PARTS, 2)
    }


def make_split(source: Source, settings: SplitSettings) -> Split:
    """The parts that the settings' name describes, in the order of the source.

    Raises `Leak` where the source itself (its lists) breaks what the name promises.
    """
    rule, shares_patients = RULES[settings.kind]
    sides = rule(source, settings)
    parts = {part: tuple(one for one in source.ids if part in sides.get(one, "").split()) for part in PARTS}
    needed = ("train",) if settings.kind in ("search", "everything") else ("train", "test")
    if empty := [part for part in needed if not parts[part]]:
        raise BadInput(
            f"{source.name}: split {settings.name} leaves no image to {' and '.join(empty)} ({len(source)} images, "
            f"{len(source.boxes)} with boxes); choose another split or other shares"
        )
    split = Split(
        name=settings.name, parts=parts, seed=settings.seed, source=source.fingerprint, shares_patients=shares_patients
    )
    split.check(source)
    return split


def split_of(source: Source, name: str) -> Split:
    """A split by name, or read from a folder that `chestmap data split` wrote."""
    if Path(name).is_dir():
        return read_split(Path(name))
    return make_split(source, checked(SplitSettings, {"name": name}, name="--split"))
