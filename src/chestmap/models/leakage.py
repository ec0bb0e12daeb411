"""Checks whether images may judge a model: none may have trained it, and no patient of theirs.

Verbs that score a model ask here first. The model keeps salted hashes of its training images and patients, so that a leak
is noticed after images were renamed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from chestmap.datasets.registry import is_published
from chestmap.datasets.source import Source
from chestmap.datasets.split import Split
from chestmap.datasets.training_hashes import TrainingHashes
from chestmap.errors import BadImage, BadInput, Leak, Refused
from chestmap.evaluation.evaluated_set import ids_of_part
from chestmap.evaluation.truth import Truth, leak_notes, truth_of
from chestmap.imaging.canvas import CanvasSettings, on_canvas
from chestmap.imaging.pack_rows import pixel_hash
from chestmap.models.folder import read_about
from chestmap.predictions.folder import Predictions

LOOKED_AT = 100
"""Images of another source that are read to compare their pixels: where one in twenty trained the model, .994 of checks see one."""


def images_for(folder: Path, predictions: Predictions, source: Source, split: Split, part: str) -> tuple[Truth, list[str]]:
    """The images of a part that were predicted, and what a reader of numbers made from them must know.

    Refused where another model made the predictions, or where the images, or their patients, may have trained this one.
    """
    about = read_about(folder)
    made_by = str(predictions.header.model.get("sha256"))
    if made_by != about["sha256"]:
        raise Refused(
            f"{predictions.folder}: made by weights {made_by[:12]}…, but {folder} holds {about['sha256'][:12]}…; predict with it"
        )
    size = about["canvas"]["width"], about["canvas"]["height"]
    notes = check_seen(folder, about["data"], source, split.parts[part], size) if part in split.parts else None
    notes = check_split(folder, about["data"], source, split) if notes is None else notes
    predicted, listed = set(predictions.image_ids), ids_of_part(split, part)
    ids = [one for one in listed if one in predicted]
    if not ids:
        raise BadInput(
            f"{predictions.folder}: holds none of the {len(listed):,} images of {part} in split {split.name}; "
            f"run `chestmap predict {folder} --source … --split … --part {part}`"
        )
    truth = truth_of(source, ids)
    others = {name: truth_of(source, ids) for name, ids in split.parts.items() if name != part and ids}
    notes += leak_notes(truth, others, split)
    if missing := len(listed) - len(ids):
        notes.append(f"{missing:,} of the {len(listed):,} images of {part} were not predicted")
    return truth, notes


def check_predictions(predictions: Predictions, source: Source, split: Split | None, part: str = "test") -> list[str]:
    """As `check_split`, by the model's record in predictions.json; folders of other makers have none, and pass."""
    data = predictions.header.model.get("data")
    if not isinstance(data, Mapping) or "fingerprint" not in data:
        return ["whether these images trained its model is not known: predictions.json does not say what did"]
    if split and part == "train":
        raise Leak(f"{predictions.folder}: --part train: these images trained its model; score validation or test")
    predicted = set(predictions.image_ids)
    wanted = [*split.parts[part], *split.parts["validation"]] if split else source.ids
    scored = [one for one in wanted if one in predicted]
    told = check_seen(predictions.folder, data, source, scored, predictions.header.canvas)
    if told is not None:
        return told
    if split:
        return check_split(predictions.folder, data, source, split)
    if data["fingerprint"] == source.fingerprint or (source.name == data.get("source") and is_published(source.name)):
        raise Leak(
            f"{predictions.folder}: images of this {source.name} trained its model, by the split {data.get('split')}; "
            "name that split, so that these are left out"
        )
    return [_unchecked(data, source)]


def check_seen(
    folder: Path, data: Mapping[str, Any], source: Source, ids: Iterable[str], canvas: tuple[int, int]
) -> list[str] | None:
    """By the hashes that the model keeps: refuses images, or patients of the same source, that trained it.

    Otherwise a line states whether that is proven. Images of another source have other ids, so the pixels of some are compared.
    None where the model keeps no hashes.
    """
    if "seen" not in data:
        return None
    seen, images = TrainingHashes.from_dict(data["seen"], folder), list(ids)
    found = seen.overlap(images, source.images["patient_id"][source.rows(images)].to_list())
    same = seen.source == source.name
    if found.images or (same and found.patients):
        raise Leak(
            f"{folder}: {found.images:,} of these {len(images):,} images, and {found.patients:,} of their patients, trained the "
            f"model; name the split that trained it ({data.get('split')}), or score other patients"
        )
    if same:
        return [f"none of these {len(images):,} images and none of their patients trained the model: checked by its hashes"]
    return [_looked_at(folder, seen, source, images, canvas)]


def _looked_at(folder: Path, seen: TrainingHashes, source: Source, ids: Sequence[str], canvas: tuple[int, int]) -> str:
    """Reads some of the images, evenly spaced, and compares their pixels on the model's canvas with those that trained it."""
    chosen = ids[:: max(1, -(-len(ids) // LOOKED_AT))]
    pixels = [hashed for one in chosen if (hashed := _pixels(source, one, canvas))] if len(seen.pixels) else []
    if trained := seen.same_pixels(one for several in pixels for one in several):
        raise Leak(
            f"{folder}: {trained} of {len(pixels)} images that were looked at have the pixels of images that trained the model "
            f"({seen.source}), under other ids; score images of other patients"
        )
    if not pixels:
        return (
            f"no image of {source.name} has the id of one that trained the model ({seen.source}); whether the same pictures come "
            "under other ids was not checked"
        )
    return (
        f"no image of {source.name} has the id of one that trained the model ({seen.source}), and none of {len(pixels)} that were "
        "looked at its pixels; whether other pictures of the same patients are among them cannot be checked"
    )


def _pixels(source: Source, image_id: str, canvas: tuple[int, int]) -> tuple[bytes, ...]:
    """Hashes of an image on the canvas, in both ways to fit it there; nothing where its file cannot be read."""
    with suppress(BadImage, OSError):
        radiograph = source[source.row_of[image_id]].radiograph
        ways = (CanvasSettings(width=canvas[0], height=canvas[1], fit=fit) for fit in ("letterbox", "squash"))
        return tuple({pixel_hash(on_canvas(radiograph, way)[0].tobytes()) for way in ways})
    return ()


def check_split(folder: Path, data: Mapping[str, Any], source: Source, split: Split) -> list[str]:
    """`data` is that of model.json. Refused where what the split holds out may have trained the model; what cannot be checked is
    returned.

    A model folder older than `split_fingerprint` holds the counts of images and labels of each part, which are compared instead.
    """
    split.check(source)
    trained = str(data.get("split"))
    remedy = f"name the split that trained it ({trained}), or give it as a folder of `chestmap data split`"
    if data.get("fingerprint") == source.fingerprint:
        theirs = data.get("split_fingerprint")
        same = theirs == split.fingerprint if theirs else trained == split.name and _same_counts(data, source, split)
        if not same:
            how = "otherwise than" if trained == split.name else f"by {trained}, not by"
            raise Leak(f"{folder}: its training images were split {how} {split.name} ({split.fingerprint}); {remedy}")
        return []
    if source.name == data.get("source") and is_published(source.name) and split.name != trained:
        raise Leak(f"{folder}: its training images of {source.name} were split by {trained}, not by {split.name}; {remedy}")
    return [_unchecked(data, source)]


def _unchecked(data: Mapping[str, Any], source: Source) -> str:
    return (
        f"the images come from another {source.name} ({source.fingerprint}) than those of training ({data.get('source')}, "
        f"{data.get('fingerprint')}); whether they share patients was not checked"
    )


def _same_counts(data: Mapping[str, Any], source: Source, split: Split) -> bool:
    """Images that could not be read took no part, so there may be fewer; with as many, labels must agree, too."""
    for part in ("train", "validation"):
        rows, told = source.rows(split.parts[part]), data.get(part, {"images": 0})
        if told["images"] > len(rows):
            return False
        if told["images"] == len(rows) and "labels" in told:
            present = (source.known_labels(rows) >= 0.5).sum(axis=0)
            if [told["labels"][name]["present"] for name in source.findings] != present.tolist():
                return False
    return True
