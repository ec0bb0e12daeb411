"""The table of benchmarks/real.md, of every row whose predictions are there: `python benchmarks/real_table.py FILMS WORK`.

Rows are compared on fold 1, which all have, and once more on all folds that a row and the floor share. T(IoU) is of masks, the mean
over findings; its thresholds come from boxes of other patients. Intervals and p are from resampled patients.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from real import FOLDS, ROWS, Films, films_of, names_of

from chestmap.evaluation.evaluate import EvaluationSettings, evaluate
from chestmap.evaluation.scores import Evaluation
from chestmap.evaluation.truth import truth_of
from chestmap.predictions.folder import open_predictions

LIMITS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
HEAD = (0.1, 0.3, 0.5)
MEANS = {"": "mean", " without Cardiomegaly": "mean without Cardiomegaly"}
HERE = Path(__file__).with_suffix(".json")


def folds_of(films: Films, name: str) -> tuple[int, ...]:
    folder = films.work / "predictions" / name
    return tuple(fold for fold in range(FOLDS) if (folder / f"part-{fold:05d}").is_dir())


@cache
def scored(films: Films, name: str, folds: tuple[int, ...]) -> Evaluation:
    ids = [one for fold in folds for one in films.test_ids(fold)]
    predictions = open_predictions(films.work / "predictions" / name)
    settings = EvaluationSettings(resamples=500, workers=1, iou=LIMITS)
    return evaluate(predictions, truth_of(films.source, ids), settings, title=name)


def cell(evaluation: Evaluation, measure: str, finding: str, **wanted: Any) -> list[float | None]:
    found = evaluation.select(measure, finding=finding, **wanted)
    return [found[0].value, found[0].low, found[0].high] if found else [None] * 3


def figures(evaluation: Evaluation) -> dict[str, Any]:
    found: dict[str, Any] = {"AUC": cell(evaluation, "AUC", "mean"), "boxes": evaluation.about["boxes"]}
    for rule in ("own", "validation", "oracle"):
        for at in LIMITS:
            for word, finding in MEANS.items():
                found[f"T(IoU) {at} {rule}{word}"] = cell(evaluation, "T(IoU)", finding, at=at, rule=rule, geometry="mask")
    found["AFP"] = cell(evaluation, "AFP", "mean", rule="validation")
    found["pointing"] = cell(evaluation, "pointing game", "mean")
    names = [
        name for name in evaluation.findings if cell(evaluation, "T(IoU)", name, at=0.3, rule="validation")[0] is not None
    ]
    for at in HEAD:
        by = {name: cell(evaluation, "T(IoU)", name, at=at, rule="validation", geometry="mask")[0] for name in names}
        found[f"by finding {at}"] = by
    found["AUC by finding"] = {name: cell(evaluation, "AUC", name) for name in evaluation.findings}
    return found


def excess(one: Evaluation, other: Evaluation, at: float, draws: int = 2000) -> list[float]:
    """The mean over findings of T(IoU) of one less that of the other, its interval and two-sided p, patients resampled."""
    key = ("mask", "validation")
    a, b = one.cases.hits[key], other.cases.hits[key]
    assert np.array_equal(a.image, b.image), "other boxes"
    assert np.array_equal(a.finding, b.finding), "other boxes"
    change = (a.iou >= at).astype(float) - (b.iou >= at).astype(float)
    patient = np.unique(one.cases.images.patient[a.image], return_inverse=True)[1]
    names = np.unique(a.finding)
    weights = np.random.default_rng(0).multinomial(
        patient.max() + 1, np.full(patient.max() + 1, 1 / (patient.max() + 1)), draws
    )
    drawn = np.vstack([np.ones(patient.max() + 1), weights])[:, patient]
    means = [
        drawn[:, a.finding == name] @ change[a.finding == name] / drawn[:, a.finding == name].sum(1).clip(1)
        for name in names
    ]
    mean = np.stack(means).mean(0)
    low, high = np.percentile(mean[1:], (2.5, 97.5))
    p = 2 * min((mean[1:] <= 0).mean(), (mean[1:] >= 0).mean())
    return [float(mean[0]), float(low), float(high), float(max(min(p, 1.0), 1 / draws))]


def main(root: str, work: str, *again: str) -> None:
    """Scores what is not in the table yet, and the rows named in `again`."""
    films = films_of(Path(root), Path(work), 256)
    table = json.loads(HERE.read_text()) if HERE.is_file() else {}
    names = [name for name in [*names_of(ROWS), "medoid"] if folds_of(films, name)]
    for name in names:
        every = folds_of(films, name)
        for folds in {(0,), every} if 0 in every else {every}:
            key = f"{name} {words(folds)}"
            if key in table and name not in again:
                continue
            one, floor = scored(films, name, folds), scored(films, "medoid", folds)
            table[key] = figures(one) | {f"excess {at}": excess(one, floor, at) for at in HEAD}
            HERE.write_text(json.dumps(table, indent=1) + "\n")
            print(key, flush=True)
    for key in [key for key in table if key.split()[0] in ("combined", "combined-imagenet")]:
        compare(films, table, key, names)
    HERE.write_text(json.dumps(table, indent=1) + "\n")
    print("\n".join(lines(table)))


def words(folds: tuple[int, ...]) -> str:
    return ",".join(str(fold + 1) for fold in folds)


def compare(films: Films, table: dict[str, Any], key: str, names: list[str]) -> None:
    """Sets `over NAME AT` of a row: against every single system that has the same folds, or those that it shares with HAM."""
    name, folds = key.split()[0], tuple(int(one) - 1 for one in key.split()[1].split(","))
    for other in names:
        if other.startswith("combined") or other == "medoid":
            continue
        shared = tuple(fold for fold in folds if fold in folds_of(films, other))
        wanted = [f"over {other} {at} on {words(shared)}" for at in HEAD]
        if not shared or (len(shared) == 1 and len(folds) > 1) or all(one in table[key] for one in wanted):
            continue
        pair = scored(films, name, shared), scored(films, other, shared)
        table[key] |= {one: excess(*pair, at) for one, at in zip(wanted, HEAD, strict=True)}
        clean = tuple(fold for fold in shared if fold)  # the recipe was chosen while figures of fold 1 were seen
        if clean and clean != shared:
            pair = scored(films, name, clean), scored(films, other, clean)
            table[key] |= {f"over {other} {at} on {words(clean)}": excess(*pair, at) for at in HEAD}


def lines(table: dict[str, Any]) -> list[str]:
    """The Markdown table."""
    head = "| row | folds | AUC | .1 | .3 | .5 | without Cardiomegaly | own rule | oracle | pointing | AFP | over the medoid at .3 |"
    found = [head, "|---" * 12 + "|"]
    for key, row in table.items():
        name, folds = key.rsplit(" ", 1)
        spans = [_with_ends(row[f"T(IoU) {at} validation"]) for at in HEAD]
        plain = [
            " ".join(_two(row[f"T(IoU) {at} {rule}"][0]) for at in HEAD)
            for rule in ("validation without Cardiomegaly", "own", "oracle")
        ]
        more = [_two(row["pointing"][0]), _two(row["AFP"][0])]
        over = row["excess 0.3"]
        cells = [
            name,
            folds,
            _with_ends(row["AUC"]),
            *spans,
            *plain,
            *more,
            f"{over[0]:+.3f} [{over[1]:+.3f}, {over[2]:+.3f}]",
        ]
        found.append(f"| {' | '.join(cells)} |")
    return found


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".removeprefix("0") if value < 1 else f"{value:.2f}"


def _with_ends(cell: list[float | None]) -> str:
    value, low, high = cell
    if value is None:
        return "–"
    ends = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    return f"{value:.3f}{ends}".replace("0.", ".")


if __name__ == "__main__":
    main(*sys.argv[1:])
