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
    boxes = [(reader, box) for reader in sorted(marks) for box in marks[reader]]
    if sum(map(bool, marks.values())) < least:
        return ()
    shared = [[one.iou(other) if reader != also else 0.0 for also, other in boxes] for reader, one in boxes]
    left = set(range(len(boxes)))
    merged = []
    while left:
        groups = [_group(seed, left, boxes, shared[seed], overlap) for seed in sorted(left)]
        best = max(groups, key=lambda group: (len(group), sum(shared[group[0]][other] for other in group)))
        if len(best) < least:
            break
        merged.append(_mean([boxes[index][1] for index in best]))
        left.difference_update(best)
    return tuple(sorted(merged, key=lambda box: box.corners))


def _group(
    seed: int, left: set[int], boxes: Sequence[tuple[str, Box]], shared: Sequence[float], overlap: float
) -> list[int]:
    nearest = {boxes[seed][0]: seed}
    for index in sorted(left, key=lambda index: -shared[index]):
        if shared[index] >= overlap:
            nearest.setdefault(boxes[index][0], index)
    return list(nearest.values())


def _mean(boxes: Sequence[Box]) -> Box:
    corners = [sum(values) / len(boxes) for values in zip(*(box.corners for box in boxes), strict=True)]
    return Box(boxes[0].finding, *corners)


def by_reader(pairs: Sequence[tuple[str, Box]]) -> dict[str, list[Box]]:
    """Groups the boxes of an image by reader."""
    marks: dict[str, list[Box]] = defaultdict(list)
    for reader, box in pairs:
        marks[reader].append(box)
    return dict(marks)
