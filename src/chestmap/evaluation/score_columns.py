"""Columns of values over the same rows (boxes, pairs, images) become scores: means by finding, intervals by patient, macro means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from chestmap.evaluation.resampling import by_patient, interval, numbered, patient_weights, resampled_rates
from chestmap.evaluation.scores import Score, finding_groups, number


@dataclass(frozen=True)
class Resampling:
    """How intervals are made; `without` names findings that a further mean leaves out."""

    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0
    without: tuple[str, ...] = ("Cardiomegaly",)


@dataclass(frozen=True, eq=False)
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
        return self.finding == finding


def scores_of(block: Block, names: Sequence[str], how: Resampling) -> list[Score]:
    """A row for each finding and column, then the macro means; patients are drawn once for all findings."""
    reported = list(block.findings) or [int(index) for index in np.unique(block.finding)]
    if not reported or not block.heads:
        return []
    patient = numbered(block.patient.tolist())
    num_patients = int(patient.max()) + 1 if len(patient) else 1
    weights = patient_weights(num_patients, how.resamples, how.seed)
    means = np.full((len(reported), len(block.heads)), np.nan)
    samples = np.full((len(reported), how.resamples, len(block.heads)), np.nan)
    rows: list[Score] = []
    for place, finding in enumerate(reported):
        here = block.where(finding)
        values = block.values[here]
        counted = (~np.isnan(values)).sum(axis=0)
        if len(values):
            means[place] = np.nansum(values, axis=0) / np.where(counted, counted, np.nan)
            samples[place] = resampled_rates(values, patient[here], weights)
        low, high = interval(samples[place], how.confidence)
        patients = len(set(patient[here].tolist()))
        for column, head in enumerate(block.heads):
            rows.append(
                Score(
                    finding=names[finding],
                    value=number(means[place, column]),
                    low=number(low[column]),
                    high=number(high[column]),
                    support=int(counted[column]),
                    unit=block.unit,
                    patients=patients,
                    threshold=None if block.thresholds is None else number(block.thresholds[finding, column]),
                    ties=0 if block.ties is None else int(block.ties[here, column].sum()),
                    **head,
                )
            )
    return rows + macro(block.heads, [names[index] for index in reported], means, samples, how, rows)


@dataclass(frozen=True, eq=False)
class Sums:
    """`measures` turns sums of `columns` over rows, [..., column], into values, [..., head]."""

    finding: Int[np.ndarray, "row"]
    patient: Int[np.ndarray, "row"]
    columns: Float[np.ndarray, "row column"]
    measures: Callable[[np.ndarray], np.ndarray]


def scores_of_sums(
    sums: Sums, heads: Sequence[Mapping[str, Any]], names: Sequence[str], how: Resampling, *, macros: bool = True
) -> list[Score]:
    """Like `scores_of`, for scores that are no means: each resample adds up its rows and measures again."""
    present: list[int] = np.unique(sums.finding).tolist()
    if not present:
        return []
    patient = numbered(sums.patient.tolist())
    weights = patient_weights(int(patient.max()) + 1, how.resamples, how.seed).astype(np.float64)
    means, samples, rows = [], [], []
    for finding in present:
        here = sums.finding == finding
        added = by_patient(sums.columns[here], patient[here], weights.shape[1])
        means.append(sums.measures(added.sum(axis=0)))
        samples.append(sums.measures(weights @ added))
        low, high = interval(samples[-1], how.confidence)
        shared: dict[str, Any] = {
            "finding": names[finding],
            "support": int(here.sum()),
            "patients": len(set(patient[here].tolist())),
        }
        for value, below, above, head in zip(means[-1], low, high, heads, strict=True):
            rows.append(Score(value=number(value), low=number(below), high=number(above), **shared, **head))
    if not macros:
        return rows
    return rows + macro(heads, [names[index] for index in present], np.stack(means), np.stack(samples), how, rows)


def macro(
    heads: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    means: Float[np.ndarray, "finding column"],
    samples: Float[np.ndarray, "finding resample column"],
    how: Resampling,
    parts: Iterable[Score],
) -> list[Score]:
    """Means over findings, with and without those of `how.without`; support and patients are sums over the findings.

    A finding without a value stays out. In a resample that draws no patient of a finding, the others are averaged.
    """
    rows: list[Score] = []
    parts = list(parts)
    for label, members in finding_groups(names, how.without).items():
        low, high = interval(_mean(samples[members]), how.confidence)
        center = _mean(means[members])
        chosen = {names[index] for index in members}
        for column, head in enumerate(heads):
            inside = parts[column :: len(heads)]
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


def _mean(values: np.ndarray) -> np.ndarray:
    there = ~np.isnan(values)
    count = there.sum(axis=0)
    return np.where(there, values, 0.0).sum(axis=0) / np.where(count, count, np.nan)
