"""Computes AUC by sex, age band and view: whether a model that is good on average is good for everyone.

Groups come from the columns sex, age and view of the dataset. A finding with few images in a group has no value there: its
interval would mean little, and few images point to single patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int

from chestmap.evaluation.classification import Images
from chestmap.evaluation.measure import Measure
from chestmap.evaluation.score_columns import Resampling
from chestmap.evaluation.scores import MEAN, Score, number
from chestmap.evaluation.statistics.auc import delong
from chestmap.evaluation.statistics.auc_by_patient import PatientAuc, clustered
from chestmap.evaluation.statistics.intervals import mean_of_means
from chestmap.evaluation.statistics.resampling import numbered

AGES = (0, 18, 40, 60, 80)
"""Where bands begin, in years; the last is open."""

SEXES = {"F": "female", "M": "male"}
UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class Group:
    """Images of one kind of patient or picture, such as sex: female."""

    kind: str
    name: str
    rows: Int[np.ndarray, "image"]


@dataclass(frozen=True, kw_only=True)
class GroupScore:
    """`score` is an AUC of the group; of a mean, `of_all` is that of all images over the same findings, and `images` its images."""

    kind: str
    group: str
    images: int
    score: Score
    of_all: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the difference to all images only where it was computed."""
        told = {"kind": self.kind, "group": self.group, "images": self.images, **self.score.as_dict()}
        return told if self.of_all is None else told | {"of_all": self.of_all}


def groups_of(images: pl.DataFrame) -> list[Group]:
    """From the columns `sex`, `age` and `view` of a source's images; a kind of which nothing is known is left out."""
    found = []
    for kind, names in (
        ("sex", [SEXES.get(sex, UNKNOWN) for sex in images["sex"]]),
        ("age", [_band(age) for age in images["age"]]),
        ("view", [view or UNKNOWN for view in images["view"]]),
    ):
        each = np.array(names, dtype=object)
        there = [name for name in _ordered(set(names)) if name != UNKNOWN]
        if there:
            there += [UNKNOWN] if UNKNOWN in names else []
            found += [Group(kind, name, np.flatnonzero(each == name)) for name in there]
    return found


def _band(age: float | None) -> str:
    """18–39 is from the 18th birthday to the day before the 40th."""
    if age is None or np.isnan(age):
        return UNKNOWN
    bands = [f"{low}–{high - 1}" for low, high in pairwise(AGES)] + [f"{AGES[-1]}+"]
    return bands[int(np.searchsorted(AGES, age, side="right")) - 1]


def _ordered(names: set[str]) -> list[str]:
    """Ages by their numbers, the rest by name."""
    return sorted(names, key=lambda name: (int(name.split("–")[0].rstrip("+")) if name[0].isdigit() else 0, name))


def group_scores(images: Images, groups: Sequence[Group], least: int, how: Resampling) -> list[GroupScore]:
    """AUC of each finding, then their mean, with intervals by patient.

    A finding with fewer than `least` images with it, or without, has no value in that group and no part in its mean: its interval
    would mean little, and few images point to single patients.
    """
    whole = [delong(images.scores[:, index], images.labels[:, index]) for index in range(len(images.names))]
    found = []
    for group in groups:
        some = replace(
            images,
            scores=images.scores[group.rows],
            labels=images.labels[group.rows],
            patient=numbered(images.patient[group.rows].tolist()),
        )
        enough = [min(int((column == 1).sum()), int((column == 0).sum())) >= least for column in some.labels.T]
        rows = [_of_finding(some, index, how, known=enough[index]) for index in range(len(images.names))]
        found += [GroupScore(kind=group.kind, group=group.name, images=len(group.rows), score=row) for row, _ in rows]
        of_all = [auc.value for auc, kept in zip(whole, enough, strict=True) if kept and auc]
        mean = _mean(some, rows)
        found.append(
            GroupScore(
                kind=group.kind,
                group=group.name,
                images=len(group.rows),
                score=mean,
                of_all=float(np.mean(of_all)) if of_all else None,
            )
        )
    return found


def _of_finding(images: Images, index: int, how: Resampling, *, known: bool) -> tuple[Score, PatientAuc | None]:
    found = clustered(images.scores[:, index], images.labels[:, index], images.patient) if known else None
    counts = images.counts(index)
    if found is None:
        return Score(measure=Measure.AUC, value=None, **counts), None
    low, high = found.auc.interval(how.confidence)
    return Score(measure=Measure.AUC, value=found.auc.value, low=number(low), high=number(high), **counts), found


def _mean(images: Images, found: Sequence[tuple[Score, PatientAuc | None]]) -> Score:
    """Over the findings that have a value; `support` counts them."""
    patients = int(images.patient.max()) + 1 if len(images.patient) else 0
    there = [(row, auc.errors.influence) for row, auc in found if auc is not None]
    if not there:
        return Score(measure=Measure.AUC, finding=MEAN, value=None, unit="findings", patients=patients)
    value, low, high = (np.array([[getattr(row, key)] for row, _ in there]) for key in ("value", "low", "high"))
    errors = np.stack([np.pad(one, (0, patients - len(one))) for _, one in there])[..., None]
    center, below, above = (float(one[0]) for one in mean_of_means(value, (low, high), errors))
    return Score(
        measure=Measure.AUC,
        finding=MEAN,
        value=center,
        low=number(below),
        high=number(above),
        support=len(there),
        unit="findings",
        patients=patients,
    )
