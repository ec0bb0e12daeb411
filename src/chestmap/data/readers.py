"""Boxes that several readers drew of one image, merged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from chestmap.types import Box

Marks = Mapping[str, Sequence[Box]]
"""Reader: the boxes that he drew of one finding on one image."""


def agreed(marks: Marks, least: int, overlap: float) -> tuple[Box, ...]:
    """The mean box of each group that at least `least` readers share.

    A group is a box and, from every other reader, the box that overlaps it most, if by `overlap` (IoU) or more. Groups are
    taken in the order of their size and then of their overlap, and no box serves twice.
    """
    left = {reader: list(boxes) for reader, boxes in marks.items()}
    merged = []
    while any(left.values()):
        groups = [_group(seed, reader, left, overlap) for reader in sorted(left) for seed in left[reader]]
        best = max(groups, key=lambda group: (len(group), sum(shared for _, _, shared in group)))
        if len(best) < least:
            break
        merged.append(_mean([box for _, box, _ in best]))
        for reader, box, _ in best:
            left[reader].remove(box)
    return tuple(sorted(merged, key=lambda box: box.corners))


def _group(seed: Box, reader: str, left: Marks, overlap: float) -> list[tuple[str, Box, float]]:
    group = [(reader, seed, 1.0)]
    for other in sorted(left):
        if other != reader and left[other]:
            near = max(left[other], key=seed.iou)
            if (shared := seed.iou(near)) >= overlap:
                group.append((other, near, shared))
    return group


def _mean(boxes: Sequence[Box]) -> Box:
    corners = [sum(values) / len(boxes) for values in zip(*(box.corners for box in boxes), strict=True)]
    return Box(boxes[0].finding, *corners)


def by_reader(pairs: Sequence[tuple[str, Box]]) -> dict[str, list[Box]]:
    marks: dict[str, list[Box]] = defaultdict(list)
    for reader, box in pairs:
        marks[reader].append(box)
    return dict(marks)
