"""Turns columns of values over rows (boxes, pairs, images) into scores: means by finding, intervals by patient, macro means.

Values that are not known are NaN and count nowhere. Every interval comes from resamples of whole patients, which all
columns share, so that differences can be tested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from chestmap.evaluation.scores import Score, finding_groups, number
from chestmap.evaluation.statistics.intervals import Means, Spread, mean_of_means, patient_means
from chestmap.evaluation.statistics.resampling import by_patient, numbered, patient_weights


@dataclass(frozen=True)
class Resampling:
    """How intervals are made; `without` names findings that a further mean leaves out.

    Resamples serve average precision, MaxBoxAccV2 and PxAP, of which no variance is known in closed form.
    """

    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0
    without: tuple[str, ...] = ("Cardiomegaly",)


@dataclass(frozen=True, eq=False, kw_only=True)
class Block:
    """`values` are averaged over the rows of each finding; `heads` are the fields of Score for each column.

    A NaN value leaves its row out of its column. `thresholds` are those on the map, `ties` the values that equal their limit.
    """

    finding: Int[np.ndarray, "row"]
    patient: Int[np.ndarray, "row"]
    values: Float[np.ndarray, "row column"]
    heads: Sequence[Mapping[str, Any]]
    unit: str = "pairs"
    thresholds: Float[np.ndarray, "finding column"] | None = None
    ties: np.ndarray | None = None
    findings: Sequence[int] = field(default=())  # those to report; by default those with rows

    def where(self, finding: int) -> np.ndarray:
        """Marks the rows of one finding."""
        return self.finding == finding


def scores_of(block: Block, names: Sequence[str], how: Resampling) -> list[Score]:
    """Makes a row for each finding and column, then the macro means.

    Reports `block.findings`, or the findings that have rows where it names none. Without findings or heads there are
    no rows.
    """
    reported = list(block.findings) or [int(index) for index in np.unique(block.finding)]
    if not reported or not block.heads:
        return []
    patient = numbered(block.patient.tolist())
    num_patients = int(patient.max()) + 1 if len(patient) else 1
    parts: list[Means] = []
    rows: list[Score] = []
    for finding in reported:
        here = block.where(finding)
        found = patient_means(block.values[here], patient[here], num_patients, how.confidence)
        parts.append(found)
        patients = len(np.unique(patient[here]))
        for column, head in enumerate(block.heads):
            rows.append(
                Score(
                    finding=names[finding],
                    value=number(found.value[column]),
                    low=number(found.low[column]),
                    high=number(found.high[column]),
                    support=int(found.count[column]),
                    unit=block.unit,
                    patients=patients,
                    threshold=None if block.thresholds is None else number(block.thresholds[finding, column]),
                    ties=0 if block.ties is None else int(block.ties[here, column].sum()),
                    **head,
                )
            )
    means = Parts(*(np.stack([getattr(one, key) for one in parts]) for key in ("value", "low", "high", "influence")))
    return rows + macro(block.heads, [names[index] for index in reported], means, how, rows)


@dataclass(frozen=True, eq=False)
class Sums:
    """Holds columns that are added up before they are measured, for scores that are no means over rows.

    `measures` turns sums of `columns` over rows, [..., column], into values, [..., head]. It is called once with the
    sums of all patients and once with those of every resample, so it must take any leading axes.
    """

    finding: Int[np.ndarray, "row"]
    patient: Int[np.ndarray, "row"]
    columns: Float[np.ndarray, "row column"]
    measures: Callable[[np.ndarray], np.ndarray]


def scores_of_sums(
    sums: Sums, heads: Sequence[Mapping[str, Any]], names: Sequence[str], how: Resampling, *, macros: bool = True
) -> list[Score]:
    """Makes rows like `scores_of`, for scores that are no means: each resample adds up its rows and measures again.

    `how` gives number and seed of the resamples. Without `macros` the means over findings are left out.
    """
    present: list[int] = np.unique(sums.finding).tolist()
    if not present:
        return []
    patient = numbered(sums.patient.tolist())
    weights = patient_weights(int(patient.max()) + 1, how.resamples, how.seed).astype(np.float64)
    parts, rows = [], []
    for finding in present:
        here = sums.finding == finding
        added = by_patient(sums.columns[here], patient[here], weights.shape[1])
        value, drawn = sums.measures(added.sum(axis=0)), sums.measures(weights @ added)
        low, high, errors = resampled_ends(value, drawn, np.bincount(patient[here]), how)
        parts.append((value, low, high, errors))
        shared: dict[str, Any] = {
            "finding": names[finding],
            "support": int(here.sum()),
            "patients": len(np.unique(patient[here])),
        }
        for one, below, above, head in zip(value, low, high, heads, strict=True):
            rows.append(Score(value=number(one), low=number(below), high=number(above), **shared, **head))
    if not macros:
        return rows
    means = Parts(*(np.stack(column) for column in zip(*parts, strict=True)))
    return rows + macro(heads, [names[index] for index in present], means, how, rows)


def resampled_ends(
    value: Float[np.ndarray, "column"],
    drawn: Float[np.ndarray, "resample column"],
    counts: Int[np.ndarray, "patient"],
    how: Resampling,
) -> tuple[np.ndarray, np.ndarray, Float[np.ndarray, "resample column"]]:
    """Ends for measures in [0, 1] from the variance over resamples, and the resamples' errors.

    `counts` are the rows of each patient on which the measure depends. A single resample gives no interval.
    """
    there = ~np.isnan(drawn)
    center = np.where(there, drawn, 0.0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    errors = np.where(there, drawn - center, 0.0)
    variance = (errors**2).sum(axis=0) / np.maximum(there.sum(axis=0) - 1, 1)
    held = counts[counts > 0].astype(np.float64)
    freedom, least = np.full(len(value), len(held) - 1.0), np.full(len(value), held.sum() ** 2 / (held**2).sum())
    low, high = Spread(value, variance, freedom, least).bounded(how.confidence)
    lost = np.isnan(value) | (there.sum(axis=0) < 2)
    return np.where(lost, np.nan, low), np.where(lost, np.nan, high), errors


@dataclass(frozen=True, eq=False)
class Parts:
    """Keeps what macro means are made from: values of findings, their ends, and their errors.

    `scores_of` gives errors by patient, `scores_of_sums` by resample. All findings share that axis, so their mean has
    ends too.
    """

    value: Float[np.ndarray, "finding column"]
    low: Float[np.ndarray, "finding column"]
    high: Float[np.ndarray, "finding column"]
    errors: Float[np.ndarray, "finding error column"]

    def mean(self, members: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Averages the findings at these places; returns value, low and high end of each column."""
        some = list(members)
        return mean_of_means(self.value[some], (self.low[some], self.high[some]), self.errors[some])


def macro(
    heads: Sequence[Mapping[str, Any]], names: Sequence[str], parts: Parts, how: Resampling, scores: Iterable[Score]
) -> list[Score]:
    """Means over findings, with and without those of `how.without`; support and patients are sums over the findings.

    A finding without a value stays out.
    """
    rows: list[Score] = []
    scores = list(scores)
    for label, members in finding_groups(names, how.without).items():
        center, low, high = parts.mean(members)
        chosen = {names[index] for index in members}
        for column, head in enumerate(heads):
            inside = scores[column :: len(heads)]
            rows.append(
                Score(
                    finding=label,
                    value=number(center[column]),
                    low=number(low[column]),
                    high=number(high[column]),
                    support=sum(part.support for part in inside if part.finding in chosen),
                    unit=inside[0].unit if inside else "pairs",
                    negatives=sum(part.negatives for part in inside if part.finding in chosen),
                    **head,
                )
            )
    return rows
