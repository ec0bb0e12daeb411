"""Checks that predictions and truth are of the same images, in the same image space, before anything is scored.

`evaluate`, calibration and card figures come through `matched`. It refuses what is missing, doubled or outside of its
image, in one line that names the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from jaxtyping import Float

from chestmap.datasets.source import Source
from chestmap.datasets.split import Split
from chestmap.errors import BadInput, BadModel, did_you_mean
from chestmap.evaluation.truth import Alignment, Truth, aligned, sized
from chestmap.predictions.folder import Predictions
from chestmap.predictions.image_set import ImageSet, image_set, image_set_of

SLACK = 1.0
"""Pixels by which a side may differ after rounding."""

OUTSIDE = 0.1
"""Share of boxes outside their image from which the image space itself must be wrong."""


@dataclass(frozen=True, eq=False)
class MatchedSet:
    """Predictions and truth in one image space; `notes` are what a reader must know of how they came there."""

    predictions: Predictions
    truth: Truth
    alignment: Alignment
    notes: tuple[str, ...] = ()


def matched(predictions: Predictions, truth: Truth) -> MatchedSet:
    """Brings predictions and truth of the same images into one image space.

    Refuses what contradicts itself or the truth. Predictions of scaled copies are scaled back, with a note.
    """
    _check_whole(predictions)
    alignment = aligned(predictions, truth)
    predictions, scaled = _in_space_of(predictions, truth, alignment)
    return MatchedSet(predictions, sized(truth, predictions, alignment), alignment, tuple(scaled))


def set_of(truth: Truth) -> ImageSet:
    """The images of a truth as an object that tables and pages carry."""
    return image_set((truth.name, truth.fingerprint), truth.ids, truth.patients, truth.sizes, truth.boxes)


def ids_of_part(split: Split, part: str) -> tuple[str, ...]:
    """The images of a part; an unknown or empty one is refused."""
    if part not in split.parts:
        raise BadInput(
            f'--part "{part}": split {split.name} has the parts {", ".join(split.parts)}{did_you_mean(part, split.parts)}'
        )
    if not split.parts[part]:
        raise BadInput(f"--part {part}: split {split.name} has no images there; name another part")
    return split.parts[part]


def shared_ids(each: Sequence[Predictions]) -> tuple[str, ...]:
    """Images that all predictions hold, in the order of the first."""
    others = [set(one.image_ids) for one in each[1:]]
    return tuple(one for one in each[0].image_ids if all(one in other for other in others))


def missing_note(wanted: Iterable[str], scored: Iterable[str], what: str) -> list[str]:
    """A line where images are missing; nothing where all were scored."""
    wanted = list(wanted)
    gone = sorted(set(wanted) - set(scored))
    if not gone:
        return []
    return [
        f"{len(gone):,} of the {len(wanted):,} images of {what} are missing from the predictions, the first is {gone[0]}"
    ]


def check_space(boxes: int, lost: int, predictions: Predictions) -> None:
    """Refuses a scoring in which many boxes lie outside their image.

    `lost` of the `boxes` do. Up to the share `OUTSIDE` of them is let pass.
    """
    if lost and lost > OUTSIDE * boxes:
        raise BadInput(
            f"{predictions.folder}: {lost} of {boxes} boxes lie outside their image, so boxes and predictions are not in one "
            "image space; predict the images that were annotated, or give their width and height in the source"
        )


def _check_whole(predictions: Predictions) -> None:
    """Refuses a folder that holds fewer or more images than `predict` recorded."""
    told = _recorded(predictions)
    if told is not None and told.images != len(predictions):
        raise BadModel(
            f"{predictions.folder}: holds {len(predictions):,} of the {told.images:,} images that were predicted; a part was "
            "deleted, so run the same `chestmap predict` again"
        )


def check_recorded(predictions: Predictions, source: Source) -> list[str]:
    """Compares the digests that `predict` recorded with those of the same images in the source as it is now.

    Where the source did not change, other digests mean other images than those recorded, which is refused. A note names what changed
    in a source of the same name.
    """
    told = _recorded(predictions)
    if told is None or told.source != source.name:
        return []
    known = [one for one in predictions.image_ids if one in source.row_of]
    now = image_set_of(source, known)
    images, boxes = now.digest == told.digest, now.box_digest == told.box_digest
    if told.fingerprint == source.fingerprint:
        if not images or not boxes:
            raise BadModel(
                f"{predictions.folder}: its images are not the {told.images:,} of {told.source} that predictions.json records; "
                "parts of another folder are among them, so predict again"
            )
        return []
    same = {"images, patients or sizes": images, "boxes": boxes}
    changed = [name for name, equal in same.items() if not equal] or ["labels, or images that were not predicted"]
    return [
        f"predicted on {told.source} ({told.fingerprint}), scored on {source.name} ({source.fingerprint}): "
        f"{' and '.join(changed)} changed in between"
    ]


def _recorded(predictions: Predictions) -> ImageSet | None:
    """Reads which images `predict` recorded in the header; None where it recorded none."""
    stored = predictions.header.dataset
    return ImageSet.from_dict(stored, predictions.folder) if stored else None


def _in_space_of(predictions: Predictions, truth: Truth, alignment: Alignment) -> tuple[Predictions, list[str]]:
    """Frames of scaled copies lead from the truth's image space instead; other contradictions are refused."""
    table = predictions.table
    size = table.select("width", "height").to_numpy().astype(np.float64)
    frames = np.array(table["frame"].to_list(), dtype=np.float64).reshape(-1, 10)
    wrong = np.abs(frames[:, :2] - size).max(axis=1, initial=0) > SLACK
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise BadModel(
            f"{predictions.folder}: {int(wrong.sum())} images whose width and height contradict their frame, the first is "
            f"{predictions.image_ids[row]} ({_pixels(size[row])} and {_pixels(frames[row, :2])}); predict again"
        )
    known, there = truth.sizes, size[alignment.rows]
    other = np.abs(known - there).max(axis=1) > SLACK  # False where the truth knows no size
    if not other.any():
        return predictions, []
    shrink = there / known
    uneven = (
        other
        & (np.abs(known * shrink[:, :1] - there).max(axis=1) > SLACK)
        & (np.abs(known * shrink[:, 1:] - there).max(axis=1) > SLACK)
    )
    if uneven.any():
        image = int(np.flatnonzero(uneven)[0])
        raise BadInput(
            f"{predictions.folder}: {int(uneven.sum())} of {len(truth)} images have another shape than in {truth.name}, the first is "
            f"{truth.ids[image]} ({_pixels(there[image])} and {_pixels(known[image])}); predict the images of that source"
        )
    image = int(np.flatnonzero(other)[0])
    rows = alignment.rows[other]
    size[rows], frames[rows] = known[other], _scaled(frames[rows], known[other], shrink[other])
    note = (
        f"{int(other.sum())} images were predicted at another size ({_pixels(there[image])} for {_pixels(known[image])} of "
        f"{truth.name}, {truth.ids[image]}); their frames were scaled to the source's image space"
    )
    columns = {
        "width": pl.Series(size[:, 0]).cast(table["width"].dtype),
        "height": pl.Series(size[:, 1]).cast(table["height"].dtype),
        "frame": pl.Series(frames.tolist()).cast(table["frame"].dtype),
    }
    return replace(predictions, table=table.with_columns(**columns)), [note]


def _scaled(
    frames: Float[np.ndarray, "row 10"], known: Float[np.ndarray, "row 2"], shrink: Float[np.ndarray, "row 2"]
) -> np.ndarray:
    """Leads frames from the truth's image space, and no longer from that of a scaled copy.

    The first two numbers of a frame, its image size, become `known`. The matrix's x and y columns shrink by `shrink`.
    """
    found = frames.copy()
    found[:, :2] = known
    found[:, [4, 7]] *= shrink[:, :1]
    found[:, [5, 8]] *= shrink[:, 1:]
    return found


def _pixels(size: np.ndarray) -> str:
    """Writes (width, height) for a message."""
    return f"{size[0]:g} × {size[1]:g}"
