"""What each name of a split means: which side an image is on. `split.py` holds the split itself.

- `official`: the publisher's lists; validation is a share of the training list's patients.
- `official-boxes`: trains on every image without a box, tests on those with one (HAM Table III); shares patients.
- `official-plus-boxes`: boxed images train too, by their labels alone, and are the test (attention mining); shares images.
- `clean-boxes`: `official-boxes` without the training images of test patients.
- `fold-1` … `fold-5`: a fifth of the annotated images tests; shares of the rest train, drawn by image as in the papers.
- `clean-fold-1` … `clean-fold-5`: the same drawn by patient.
- `ham-fold-1` … `ham-fold-5`: the lists that the authors of HAM published; shares patients.
- `ag-cnn`: 70/10/20 % by image; `ag-cnn-patients` and `patients` by patient.
- `everything`: all images train, for a model that is scored elsewhere; it has no test.
- `search`: 20 % of the official training list, for choosing loss weights; it has no test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from chestmap.datasets.source import Source
from chestmap.errors import BadInput, BadTable, Leak
from chestmap.settings import Settings

SplitName = Literal[
    "official", "official-boxes", "official-plus-boxes", "clean-boxes",
    "fold-1", "fold-2", "fold-3", "fold-4", "fold-5",
    "clean-fold-1", "clean-fold-2", "clean-fold-3", "clean-fold-4", "clean-fold-5",
    "ham-fold-1", "ham-fold-2", "ham-fold-3", "ham-fold-4", "ham-fold-5",
    "ag-cnn", "ag-cnn-patients", "patients", "search", "everything",
]  # fmt: skip
VALIDATION_LISTS = ("validation", "valid", "val")
Sides = dict[str, str]
"""Image or patient id → part; who is not in it takes no part. `train test` is both."""


class SplitSettings(Settings):
    """The papers' pairs of `annotated` / `unannotated` are 0.8 / 0.5 (localization), 0.7 / 0.7 (classification), 0.8 / 1.0.

    `validation` is a share of the images or patients concerned; None means 0.1, and none for `official-boxes` and its kin,
    which train on everything. In a fold it comes from what is left over, so at `annotated=0.8` it holds no boxes: the papers'
    training takes all of them.
    """

    name: SplitName = "official"
    seed: int = Field(default=0, ge=0)
    annotated: float = Field(default=0.8, ge=0, le=0.8)
    unannotated: float = Field(default=0.5, ge=0, le=1)
    validation: float | None = Field(default=None, ge=0, lt=1)
    test: float = Field(default=0.2, gt=0, lt=1)  # of `patients` and `ag-cnn`
    test_on: Literal["annotated", "all"] = "annotated"  # a fold's test: boxed images, or a fifth of the others too
    lists: Path | None = None  # folder of the authors' lists, for `ham-fold-k`

    @model_validator(mode="after")
    def _fits(self) -> SplitSettings:
        if self.test_on == "all" and self.unannotated > 0.8:
            raise ValueError(f"unannotated {self.unannotated:g} with test_on all: at most 0.8, a fifth is the test")
        if self.name.startswith("ham-fold") and self.lists is None:
            raise ValueError(f'{self.name} reads the published lists: set "lists" to their folder')
        return self

    @property
    def fold(self) -> int | None:
        """The number at the end of a name such as `fold-3`; none for other names."""
        last = self.name.rpartition("-")[2]
        return int(last) if last.isdigit() else None

    @property
    def kind(self) -> str:
        """The name without the number of the fold."""
        return self.name if self.fold is None else self.name[:-2]

    def held_out(self, usual: float = 0.1) -> float:
        """The share of training patients that validate: the given one, or what is usual for the split."""
        return usual if self.validation is None else self.validation


def shuffled(names: Iterable[str], seed: int, purpose: str) -> list[str]:
    """By a hash of each name: an image keeps its place when others come or go, on every machine and version."""
    salt = f"{seed}/{purpose}/"
    return sorted(set(names), key=lambda name: (blake2b((salt + name).encode(), digest_size=8).digest(), name))


def patients_of(source: Source) -> dict[str, str]:
    """Image id → patient; an image without a patient id is a patient of its own."""
    pairs = zip(source.ids, source.images["patient_id"], strict=True)
    return {image_id: patient or f"image {image_id}" for image_id, patient in pairs}


def _cut(units: list[str], shares: Mapping[str, float]) -> Sides:
    """The first units to the first part and so on, by their shares; a share of 1 or more takes all that is left."""
    sides, start = {}, 0
    for part, share in shares.items():
        end = min(len(units), start + round(share * len(units)))
        sides |= dict.fromkeys(units[start:end], part)
        start = end
    return sides


def _list(source: Source, *names: str) -> tuple[str, ...]:
    for name in names:
        if name in source.lists:
            return source.lists[name]
    raise BadInput(f'{source.name}: has no official {names[0]} list; use split "patients" instead')


def _official(source: Source, settings: SplitSettings) -> Sides:
    """Where the publisher has three lists (a folder may), his validation is taken unless a share is asked for; where he has
    training and validation alone, as CheXpert's public part, his validation is the test.
    """
    training = _list(source, "train_val", "train")
    tested = _list(source, "test", *VALIDATION_LISTS)
    published = [source.lists[name] for name in VALIDATION_LISTS if name in source.lists and "test" in source.lists]
    patient_of = patients_of(source)
    patients = shuffled((patient_of[one] for one in training), settings.seed, "official")
    held_out = _cut(patients, {"validation": settings.held_out(0.0 if published else 0.1)})
    sides = {one: held_out.get(patient_of[one], "train") for one in training}
    if published and settings.validation is None:
        sides |= dict.fromkeys(published[0], "validation")
    for one in tested:
        if one in sides:
            raise Leak(f"{source.name}: image {one} is in both the training and the test list")
        sides[one] = "test"
    return sides


def _search(source: Source, settings: SplitSettings) -> Sides:
    """Within the training list, so that no test image helps to choose a loss weight."""
    patient_of = patients_of(source)
    training = _list(source, "train_val", "train")
    patients = shuffled((patient_of[one] for one in training), settings.seed, "search")
    fifth = patients[: round(0.2 * len(patients))]
    side_of = _cut(fifth, {"validation": settings.held_out(0.2), "train": 1})
    return {one: side_of[patient_of[one]] for one in training if patient_of[one] in side_of}


def _boxes_out(source: Source, settings: SplitSettings) -> Sides:
    """Every image with a box is tested; patients with a box also train unless the split is the clean one."""
    patient_of = patients_of(source)
    unannotated = [one for one in source.ids if one not in source.boxes]
    tested = {patient_of[one] for one in source.boxes} if settings.name == "clean-boxes" else set()
    patients = shuffled((patient_of[one] for one in unannotated), settings.seed, "boxes")
    held_out = _cut(patients, {"validation": settings.held_out(0.0)})
    sides = {one: held_out.get(patient_of[one], "train") for one in unannotated if patient_of[one] not in tested}
    return sides | dict.fromkeys(source.boxes, "test")


def _plus_boxes(source: Source, settings: SplitSettings) -> Sides:
    sides = {one: part for one, part in _official(source, settings).items() if part != "test"}
    return sides | dict.fromkeys(source.boxes, "train test")


def _everything(source: Source, settings: SplitSettings) -> Sides:  # noqa: ARG001 -- a rule
    return dict.fromkeys(source.ids, "train")


def _by_image(source: Source, settings: SplitSettings) -> Sides:
    return _cut(shuffled(source.ids, settings.seed, "images"), _shares(settings))


def _by_patient(source: Source, settings: SplitSettings) -> Sides:
    patient_of = patients_of(source)
    side_of = _cut(shuffled(patient_of.values(), settings.seed, "patients"), _shares(settings))
    return {one: side_of[patient] for one, patient in patient_of.items()}


def _shares(settings: SplitSettings) -> dict[str, float]:
    return {"test": settings.test, "validation": settings.held_out(), "train": 1}


def _circle(units: list[str], settings: SplitSettings, train: float, *, tests: bool) -> Sides:
    """One fifth of the units is the test; going round from there, the first share trains and the next validates."""
    fold = settings.fold or 1
    start, end = len(units) * (fold - 1) // 5, len(units) * fold // 5
    tested = units[start:end] if tests else []
    rest = units[end:] + units[: start if tests else end]
    wanted = round(train * len(units))
    validation = round(settings.held_out() * len(units))
    sides = dict.fromkeys(rest[:wanted], "train") | dict.fromkeys(rest[wanted : wanted + validation], "validation")
    return sides | dict.fromkeys(tested, "test")


def _fold(source: Source, settings: SplitSettings) -> Sides:
    annotated = shuffled(source.boxes, settings.seed, "annotated")
    others = shuffled((one for one in source.ids if one not in source.boxes), settings.seed, "unannotated")
    sides = _circle(others, settings, settings.unannotated, tests=settings.test_on == "all")
    return sides | _circle(annotated, settings, settings.annotated, tests=True)


def _clean_fold(source: Source, settings: SplitSettings) -> Sides:
    """Patients instead of images; an image without a box is left out where its patient's boxes are in another part."""
    patient_of = patients_of(source)
    annotated = shuffled((patient_of[one] for one in source.boxes), settings.seed, "annotated")
    others = shuffled((patient_of[one] for one in source.ids if one not in source.boxes), settings.seed, "unannotated")
    boxed = _circle(annotated, settings, settings.annotated, tests=True)
    plain = _circle(others, settings, settings.unannotated, tests=settings.test_on == "all")
    sides = {}
    for one, patient in patient_of.items():
        side = (boxed if one in source.boxes else plain).get(patient, "")
        if one in source.boxes or boxed.get(patient, side) == side:
            sides[one] = side
    return sides


def _ham_fold(source: Source, settings: SplitSettings) -> Sides:
    """From the authors' full lists (`fold1/train_0.5_0.8.txt` …), or from their lists of annotated images alone
    (`fold1/train_0.8.txt` …, `test_bboxs.txt`), where the unannotated images are drawn here.

    The authors validate on the test images; here the validation list counts only where it is not trained on.
    """
    lists = settings.lists or Path()
    folder = lists / f"fold{settings.fold}"
    annotated, unannotated = f"{settings.annotated:g}", f"{settings.unannotated:g}"
    if (folder / f"train_{unannotated}_{annotated}.txt").is_file():
        test = "test_0.2_0.2.txt" if settings.test_on == "all" else "test_0_0.2.txt"
        return _published(source, folder, "val_0.1_0.1.txt", f"train_{unannotated}_{annotated}.txt", test)
    boxed = set(_ids(source, lists / "test_bboxs.txt"))
    others = shuffled((one for one in source.ids if one not in boxed), settings.seed, "unannotated")
    sides = _circle(others, settings, settings.unannotated, tests=settings.test_on == "all")
    return sides | _published(source, folder, "val_0.1.txt", f"train_{annotated}.txt", "test.txt")


def _published(source: Source, folder: Path, validation: str, train: str, test: str) -> Sides:
    sides = dict.fromkeys(_ids(source, folder / validation), "validation")
    sides |= dict.fromkeys(_ids(source, folder / train), "train")
    tested = _ids(source, folder / test)
    if both := [one for one in tested if one in sides]:
        raise Leak(f"{folder}: {len(both)} images of {test} are also in {train} or {validation}, the first is {both[0]}")
    return sides | dict.fromkeys(tested, "test")


def _ids(source: Source, path: Path) -> list[str]:
    """A list of image names, with or without their extension; every one must be in the source."""
    try:
        listed = path.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        beside = sorted(entry.name for entry in path.parent.glob("*.txt"))
        raise BadInput(f"{path}: missing; there are {', '.join(beside) or 'no lists'} beside it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadTable(f"{path}: not a readable list of image names ({error.__class__.__name__})") from None
    ids = [one if one in source.row_of else Path(one).stem for one in listed]
    if missing := [one for one in ids if one not in source.row_of]:
        raise BadTable(
            f"{path}: {len(missing)} of {len(ids)} listed images are not in {source.name}, the first is {missing[0]}; "
            "complete the dataset or choose another split"
        )
    return ids


RULES: dict[str, tuple[Callable[[Source, SplitSettings], Sides], bool]] = {
    "official": (_official, False),
    "official-boxes": (_boxes_out, True),
    "official-plus-boxes": (_plus_boxes, True),
    "clean-boxes": (_boxes_out, False),
    "fold": (_fold, True),
    "clean-fold": (_clean_fold, False),
    "ham-fold": (_ham_fold, True),
    "ag-cnn": (_by_image, True),
    "ag-cnn-patients": (_by_patient, False),
    "patients": (_by_patient, False),
    "search": (_search, False),
    "everything": (_everything, False),
}
"""Kind of split → its rule, and whether two sides may share patients."""
