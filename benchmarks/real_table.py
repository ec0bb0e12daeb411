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
from real import FOLDS, Films, films_of, writer_of
from real_rows import ROWS, names_of

from chestmap.evaluation.evaluate import EvaluationSettings, evaluate
from chestmap.evaluation.scores import Evaluation
from chestmap.evaluation.truth import truth_of
from chestmap.predictions.folder import OwnRule, open_predictions

LIMITS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
IOR = (0.1, 0.25, 0.5, 0.75)
HEAD = (0.1, 0.3, 0.5)
MEANS = {"": "mean", " without Cardiomegaly": "mean without Cardiomegaly"}
CLAIMS = {
    "ham-0": ("cam",),
    "ham-80": ("ham-0", "patch-80", "cia-80", "cam"),
    "ham-0-16": ("cam-16", "ham-0-16-fab", "ham-0-16-fab-pa", "ham-0"),
    "ham-0-16-fab": ("cam-16",),
    "ham-0-16-fab-pa": ("ham-0-16-fab",),
    "ham-80-refined": ("ham-80-tuned",),
    "patch-80-tuned": ("patch-80", "ham-80-tuned"),
    "ham-80-tuned": ("ham-80", "ham-0-16", "ham-40-tuned", "ham-80-tuned-mse", "patch-80", "cia-80", "cia-base-80"),
    "cam-16": ("cam-16-mean", "cam"),
    "patch-80": ("patch-0", "cam", "cam-16"),
    "cia-80": ("patch-80", "cia-base-80", "cia-0"),
    "cia-base-80": ("cia-base-0",),
    "cia-base-0": ("patch-0", "cam-16"),
    "cia-0": ("cia-base-0", "patch-0"),
    "mining-3": ("mining-1", "mining-3-unpreserved", "cam"),
    "masks": ("masks-none", "patch-0"),
    "combined": ("place-only", "combined-no-prior"),
    "combined-views": ("combined", "ham-80-tuned"),
    "combined-tuned": ("combined", "ham-80-tuned", "patch-80-tuned"),
    "combined-joined": ("ham-80-tuned", "patch-80-tuned", "combined-tuned", "combined-tuned-views", "patch-80-tuned-views"),
}
"""What papers claim of their own systems, besides `combined` against every single one."""
AGAINST_ALL = ("combined",)  # with every single system
CLEAN = {
    "combined-views": (3, 4),
    "combined-patches": (3, 4),
}  # folds that nothing was chosen on, where they are not all but 1
TUNED = ("-tuned", "-joined", "-refined")  # rows chosen on patients who are tested in folds 2 to 5: clean without them
HERE = Path(__file__).with_suffix(".json")


def folds_of(films: Films, name: str) -> tuple[int, ...]:
    folder = films.work / "predictions" / name
    return tuple(fold for fold in range(FOLDS) if (folder / f"part-{fold:05d}").is_dir())


def numbered(films: Films, name: str, folds: tuple[int, ...]) -> Path:
    """A predictions folder of these folds alone, as parts without a gap."""
    row, place = films.work / "predictions" / name, films.work / "numbered" / f"{name}-{words(folds)}"
    rule = OwnRule(**json.loads((row / "predictions.json").read_text())["own_rule"])
    writer = writer_of(films, place, rule)
    for number, fold in enumerate(folds):
        part = place / f"part-{number:05d}"
        if not part.is_symlink():
            part.symlink_to(row / f"part-{fold:05d}")
    writer.finish(len(folds))
    return place


@cache
def scored(films: Films, name: str, folds: tuple[int, ...], *, untuned: bool = False) -> Evaluation:
    """Of the folds' test films; `untuned` leaves out those of the tuning patients of fold 1."""
    left_out = set(films.tuning_ids(0)) if untuned else set()
    ids = [one for fold in folds for one in films.test_ids(fold) if one not in left_out]
    predictions = open_predictions(numbered(films, name, folds))
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
    for at in IOR:
        found[f"T(IoR) {at} validation"] = cell(evaluation, "T(IoR)", "mean", at=at, rule="validation", geometry="mask")
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
        wanted = dict.fromkeys([(0,), every] if 0 in every else [every])
        for key in [
            key for key in table if key.split()[0] == name and key not in [f"{name} {words(one)}" for one in wanted]
        ]:
            del table[key]  # of fewer folds
        for folds in wanted:
            key = f"{name} {words(folds)}"
            if key in table and name not in again:
                continue
            one, floor = scored(films, name, folds), scored(films, "medoid", folds)
            table[key] = figures(one) | {f"excess {at}": excess(one, floor, at) for at in HEAD}
            HERE.write_text(json.dumps(table, indent=1) + "\n")
            print(key, flush=True)
    singles = [name for name in names if not name.startswith(("combined", "medoid"))]
    for key in table:
        name = key.split()[0]
        for other in dict.fromkeys((*CLAIMS.get(name, ()), *(singles if name in AGAINST_ALL else ()))):
            if other in names:
                compare(films, table, key, other)
    HERE.write_text(json.dumps(table, indent=1) + "\n")
    print("\n".join(lines(table)))


def words(folds: tuple[int, ...]) -> str:
    return ",".join(str(fold + 1) for fold in folds)


def compare(films: Films, table: dict[str, Any], key: str, other: str) -> None:
    """Sets `over OTHER AT on FOLDS` of a row, on the folds that both have; and once on folds that nothing was chosen on.

    The recipe of `combined` was chosen while figures of fold 1 were seen, the means over views with those of folds 1 to 3. A star
    leaves out the tuning patients of fold 1, on whom settings were chosen: they are tested in other folds.
    """
    name, folds = key.split()[0], tuple(int(one) - 1 for one in key.split()[1].split(","))
    shared = tuple(fold for fold in folds if fold in folds_of(films, other))
    if len(folds) > 1 and shared == (0,):
        return
    clean = tuple(fold for fold in shared if fold in CLEAN.get(name, range(1, FOLDS)))
    tuned = any(word in one for one in (name, other) for word in TUNED)
    for some, untuned in dict.fromkeys(((shared, False), (clean, tuned))):
        wanted = {f"over {other} {at} on {words(some)}{'*' * untuned}": at for at in HEAD}
        if some and not all(one in table[key] for one in wanted):
            pair = scored(films, name, some, untuned=untuned), scored(films, other, some, untuned=untuned)
            table[key] |= {one: excess(*pair, at) for one, at in wanted.items()}


def lines(table: dict[str, Any]) -> list[str]:
    """Markdown tables: fold 1, which all rows have; more folds; and what is above what."""
    table = {key: table[key] for name in [*names_of(ROWS), "medoid"] for key in table if key.split()[0] == name}
    first = [key for key in table if key.endswith(" 1")]
    found = [*_rows(table, first), "", *_rows(table, [key for key in table if key not in first]), ""]
    found += ["| | over | folds | .1 | .3 | .5 |", "|---" * 6 + "|"]
    for key, row in table.items():
        for over in [one for one in row if one.startswith("over ") and " 0.1 " in one]:
            _, other, _, _, folds = over.split()
            cells = [_change(row[over.replace(" 0.1 ", f" {at} ")]) for at in HEAD]
            found.append(f"| {key.split()[0]} | {other} | {folds} | {' | '.join(cells)} |")
    return found


def _rows(table: dict[str, Any], keys: list[str]) -> list[str]:
    head = "| row | folds | boxes | AUC | .1 | .3 | .5 | without Cardiomegaly | own rule | oracle | AFP | over the medoid at .3 |"
    found = [head, "|---" * 12 + "|"]
    for key in keys:
        row, (name, folds) = table[key], key.rsplit(" ", 1)
        spans = [_with_ends(row[f"T(IoU) {at} validation"]) for at in HEAD]
        plain = [
            " ".join(_two(row[f"T(IoU) {at} {rule}"][0]) for at in HEAD)
            for rule in ("validation without Cardiomegaly", "own", "oracle")
        ]
        over = _change(row["excess 0.3"])
        cells = [name, folds, str(row["boxes"]), _with_ends(row["AUC"]), *spans, *plain, _two(row["AFP"][0]), over]
        found.append(f"| {' | '.join(cells)} |")
    return found


def _change(cell: list[float]) -> str:
    value, low, high, p = cell
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}], p {p:.2g}".replace("0.", ".")


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
