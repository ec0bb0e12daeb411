"""Computes how far the readers of finished independent reads agree, finding by finding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

from chestmap.evaluation.verdict_agreement import cohen_kappa, gwet_ac1, overlap
from chestmap.serving.store.independent_reads import presence
from chestmap.serving.store.review_schema import ReadOut
from chestmap.types import Box

Verdicts = dict[str, tuple[bool, tuple[Box, ...]]]
"""What one reader said of each finding of an image."""


def agreement_of(studies: Iterable[Sequence[ReadOut]]) -> tuple[int, list[dict[str, Any]]]:
    """How many studies, and a row for each finding and pair of readers; with `readers` empty, for all of them."""
    said = [{one.reader: _verdicts(one) for one in reads} for reads in studies]
    findings = sorted({name for study in said for one in study.values() for name in one})
    pairs = sorted({pair for study in said for pair in combinations(sorted(study), 2)})
    rows = [_row(name, said, pair) for name in findings for pair in ((), *pairs)]
    return len(said), [one for one in rows if one["images"]]


def _verdicts(read: ReadOut) -> Verdicts:
    there = presence({name: one.model_dump() for name, one in read.findings.items()})
    boxes = {name: tuple(Box(name, b.x0, b.y0, b.x1, b.y1) for b in read.findings[name].boxes) for name in there}
    return {name: (present, boxes[name]) for name, present in there.items()}


def _row(finding: str, said: Sequence[dict[str, Verdicts]], pair: Sequence[str]) -> dict[str, Any]:
    """Kappa is for two readers; that of more is the mean of their pairs (Light 1971)."""
    chosen = [{reader: one[finding] for reader, one in study.items() if finding in one} for study in said]
    chosen = [{reader: one for reader, one in study.items() if not pair or reader in pair} for study in chosen]
    chosen = [study for study in chosen if len(study) > 1]
    readers = sorted({reader for study in chosen for reader in study})
    kappas = [
        cohen_kappa([(study[a][0], study[b][0]) for study in chosen if a in study and b in study])
        for a, b in combinations(readers, 2)
    ]
    known = [value for value in kappas if value == value]
    marked = [
        overlap(study[a][1], study[b][1])
        for study in chosen
        for a, b in combinations(sorted(study), 2)
        if study[a][0] and study[b][0] and study[a][1] and study[b][1]
    ]
    return {
        "finding": finding, "readers": list(pair), "images": len(chosen), "kappa": fmean(known) if known else None,
        "ac1": gwet_ac1([{reader: one[0] for reader, one in study.items()} for study in chosen]),
        "boxes": len(marked), "iou": fmean(marked) if marked else None,
    }  # fmt: skip
