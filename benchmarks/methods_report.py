"""What `benchmarks/methods.py` made in a folder, as Markdown for benchmarks/methods.md: python benchmarks/methods_report.py FOLDER

Rates are means over findings, then over seeds. Intervals resample patients, all seeds together; p exchanges two rows for whole
patients, all seeds together (AUC: from the resamples). Neither holds the luck of a seed: the range over seeds stands beside.
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from methods_claims import claims_of, difference, paired, rate
from methods_rows import HEADLINE, ROWS, SEVEN, Measure, Row, run_of

from chestmap.datasets.nih import NihSettings, read_nih
from chestmap.datasets.source import Source
from chestmap.evaluation.floors import ceiling_rows
from chestmap.evaluation.rates import Limits
from chestmap.evaluation.score_columns import Resampling
from chestmap.evaluation.scores import Evaluation, read_evaluation
from chestmap.evaluation.statistics.resampling import numbered, patient_weights
from chestmap.evaluation.truth import truth_of

SHOWN = (
    Measure(at=0.1, rule="own"),
    Measure(at=0.3, rule="own"),
    Measure(at=0.5, rule="own"),
    Measure(at=0.1),
    HEADLINE,
    Measure(geometry="largest"),
)
LARGE = "Cardiomegaly"
"""Nearly always in one place and large: every floor finds it, so means stand with and without it."""


@dataclass(frozen=True, eq=False)
class Made:
    """One row: for each seed what was scored, the overlap of each boxed pair, and every image's scores."""

    row: Row
    seeds: tuple[int, ...]
    evaluations: list[Evaluation]
    cases: list[pl.DataFrame]
    scores: list[pl.DataFrame]
    costs: list[dict[str, float]]
    source: Source

    def of(self, places: list[int]) -> "Made":
        """These of its seeds."""
        return replace(
            self,
            seeds=tuple(self.seeds[one] for one in places),
            evaluations=[self.evaluations[one] for one in places],
            cases=[self.cases[one] for one in places],
            scores=[self.scores[one] for one in places],
            costs=[self.costs[one] for one in places],
        )

    def only(self, place: int) -> "Made":
        return self.of([place])

    def hits(self, measure: Measure) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        """Hits summed over seeds and pairs counted, [patient, finding], and the patients; of one finding or of all."""
        patient_of = dict(zip(self.source.ids, self.source.images["patient_id"], strict=True))
        same = (pl.col("geometry") == measure.geometry) & (pl.col("rule") == measure.rule)
        table = pl.concat([table.filter(same) for table in self.cases]).sort("image_id", "finding", maintain_order=True)
        table = table.filter(pl.col("finding") == measure.finding) if measure.finding else table
        patients, findings = sorted({patient_of[one] for one in table["image_id"]}), sorted(set(table["finding"]))
        place = np.array([patients.index(patient_of[one]) for one in table["image_id"]])
        column = np.array([findings.index(one) for one in table["finding"]])
        hits, pairs = np.zeros((len(patients), len(findings))), np.zeros((len(patients), len(findings)))
        overlap = table[measure.what.removeprefix("T(").removesuffix(")").lower()].to_numpy()
        np.add.at(hits, (place, column), (overlap >= measure.at).astype(float))
        np.add.at(pairs, (place, column), 1.0)
        return hits, pairs, tuple(patients)

    def by_finding(self, rule: str, at: float, geometry: str = "") -> dict[str, float]:
        """T(IoU) of the mask by finding, the mean over seeds; of a floor or a ceiling where `rule` names one."""
        wanted = {"rule": rule, "at": at} | ({"geometry": geometry} if geometry else {})
        found: dict[str, list[float]] = {}
        for one in self.evaluations:
            for score in one.select("T(IoU)", **wanted):
                if score.finding in self.source.findings and score.value is not None:
                    found.setdefault(score.finding, []).append(score.value)
        return {name: float(np.mean(values)) for name, values in found.items()}

    def by_seed(self, measure: str, **wanted: object) -> list[float]:
        return [one.only_score(measure, finding="mean", **wanted).value for one in self.evaluations]

    def aucs(self) -> np.ndarray:
        """Mean AUC over findings and seeds in each resample of patients, the first of which is the data as they are."""
        table = self.scores[0]
        labels = self.source.labels[self.source.rows(table["image_id"])]
        patient = numbered(table["patient_id"].to_list())
        drawn = np.concatenate([np.ones((1, patient.max() + 1)), patient_weights(patient.max() + 1, 1000, 0)])[:, patient]
        names = [name for index, name in enumerate(self.source.findings) if 0 < (labels[:, index] == 1).sum() < len(labels)]
        areas = [
            area(scores[name].to_numpy(), labels[:, self.source.findings.index(name)] == 1, drawn)
            for scores in self.scores
            for name in names
        ]
        return np.nanmean(areas, axis=0)


def area(scores: np.ndarray, present: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUC under each row of weights; a tie counts half."""
    _, level = np.unique(scores, return_inverse=True)
    above, below = np.zeros((len(weights), level.max() + 1)), np.zeros((len(weights), level.max() + 1))
    for index, place in enumerate(level):
        (above if present[index] else below)[:, place] += weights[:, index]
    order = np.cumsum(below, axis=1) - below / 2
    with np.errstate(invalid="ignore"):
        return (above * order).sum(1) / (above.sum(1) * below.sum(1))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--times", type=int, default=1, help="the point of the learning curve")
    chosen = options.parse_args()
    made = {name: found for name in ROWS if (found := read(chosen.folder, name, chosen.seeds, chosen.times))}
    print(claims_of(made))
    print(table_of([made[name] for name in SEVEN if name in made], made.get("cam")))
    print(excess([one for one in made.values() if one.row.root != "real"], made.get("cam")))
    if "cam" in made:
        print(floors(made["cam"]))
        print(ceilings(made["cam"]))
    print(table_of([one for name, one in made.items() if name not in SEVEN and one.row.root != "real"], made.get("cam")))
    print(real_table([one for one in made.values() if one.row.root == "real"]))


def read(folder: Path, name: str, seeds: list[int], times: int) -> Made | None:
    runs = {seed: run_of(folder, name, seed, times) for seed in seeds}
    runs = {seed: run for seed, run in runs.items() if (run / "cost.json").exists()}
    if not runs:
        return None
    source = read_nih(NihSettings(root=folder / ROWS[name].root))
    test = set(source.lists["test"])
    tables = [
        pl.concat([pl.read_parquet(part) for part in sorted(run.glob("predictions/part-*/scores.parquet"))])
        for run in runs.values()
    ]
    return Made(
        ROWS[name],
        tuple(runs),
        [read_evaluation(run / "predictions" / "metrics.json") for run in runs.values()],
        [pl.read_csv(run / "predictions" / "cases.csv") for run in runs.values()],
        [table.filter(pl.col("image_id").is_in(test)).sort("image_id") for table in tables],
        [json.loads((run / "cost.json").read_text(encoding="utf-8")) for run in runs.values()],
        source,
    )


def told(value: float, low: float, high: float) -> str:
    return f"{short(value)} [{short(low)}, {short(high)}]"


def short(value: float) -> str:
    """.125 for 0.125; nothing for what is not known."""
    return "" if np.isnan(value) else f"{value:.3f}".replace("0.", ".", 1)


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in rows)]) + "\n"


def table_of(rows: list[Made], baseline: Made | None) -> str:
    heads = ["", "seeds", "AUC", *map(str, SHOWN), "T(IoR) .5, mask, validation", f"against `cam`: {HEADLINE}", "p"]
    lines = []
    for one in rows:
        auc = one.aucs()
        cells = [one.row.title, " ".join(map(str, one.seeds)), told(auc[0], *np.percentile(auc[1:], [2.5, 97.5]))]
        for measure in SHOWN:
            hits, pairs, patients = one.hits(measure)
            value = rate(hits, pairs, np.ones((1, len(patients))))[0]
            drawn = rate(hits, pairs, patient_weights(len(patients), 1000, 0))
            cells.append(told(value, *np.percentile(drawn, [2.5, 97.5])))
        cells.append(short(np.mean(one.by_seed("T(IoR)", at=0.5, geometry="mask", rule="validation"))))
        compared = baseline and one is not baseline and one.row.root != "phantom-moved"
        test = difference(*paired(one, baseline), HEADLINE) if compared and baseline else None
        cells += [f"{test[0]:+.3f}", f"{test[3]:.4f}"] if test else ["", ""]
        seconds, memory = ([cost[key] for cost in one.costs] for key in ("processor_seconds", "gigabytes"))
        lines.append([*cells, f"{np.mean(seconds) / 60:.1f} min", f"{np.max(memory):.2f} GB"])
    return markdown([*heads, "processor", "memory"], lines)


def means(values: dict[str, float]) -> tuple[float, float]:
    """With and without the large finding."""
    others = [value for name, value in values.items() if name != LARGE]
    return float(np.mean(list(values.values()))) if values else np.nan, float(np.mean(others)) if others else np.nan


def excess(rows: list[Made], boxed: Made | None = None) -> str:
    """T(IoU) of the mask by validation thresholds over the medoid floor of the same test images.

    Where a row's training shows no boxes, the medoid is that of the boxes of `boxed`.
    """
    limits = (0.1, 0.3, 0.5)
    heads = ["over the medoid box"]
    heads += [f"T(IoU) {short(at).rstrip('0')}{word}" for at in limits for word in (", all", f", without {LARGE}")]
    lines = []
    for one in rows:
        cells = [one.row.title]
        for at in limits:
            reached, floor = one.by_finding("validation", at, "mask"), one.by_finding("floor medoid", at)
            floor = floor or (boxed.by_finding("floor medoid", at) if boxed and one.row.root != "phantom-moved" else {})
            over = {name: value - floor[name] for name, value in reached.items() if name in floor}
            cells += ["" if np.isnan(value) else f"{value:+.3f}" for value in means(over)]
        lines.append(cells)
    return markdown(heads, lines)


def floors(one: Made) -> str:
    """Of predictors that never look, by finding, and their means with and without the large finding."""
    rules = sorted({row.rule for row in one.evaluations[0].rows if row.rule.startswith("floor")})
    return _by_finding(one, rules, "floor")


def ceilings(one: Made) -> str:
    """The most that a map of so many hard cells can reach, by finding; also for grids coarser than an evaluation has."""
    grids = (4, 8, 16, 32)
    truth = truth_of(one.source, one.scores[0]["image_id"].to_list())
    rows = ceiling_rows(truth, Limits(iou=(0.1, 0.3, 0.5)), Resampling(2), grids)
    made = replace(one, evaluations=[Evaluation(title="", findings=one.source.findings, rows=tuple(rows))])
    return _by_finding(made, [f"ceiling {grid}x{grid}" for grid in grids], "ceiling")


def _by_finding(one: Made, rules: list[str], kind: str) -> str:
    lines, names = [], sorted(one.by_finding(rules[0], 0.1))
    for rule in rules:
        for at in (0.1, 0.3, 0.5):
            values = one.by_finding(rule, at)
            if values:
                cells = [rule.removeprefix(f"{kind} "), f"{at:g}", *(short(value) for value in means(values))]
                lines.append([*cells, *(short(values.get(name, np.nan)) for name in names)])
    return markdown([kind, "T(IoU)", "mean", f"without {LARGE}", *names], lines)


def real_table(rows: list[Made]) -> str:
    """Few images: hits are counted, not averaged. No boxes are for validation, so thresholds come from the other test patients."""
    heads = ["room", "seeds", "AUC", "hits at IoU .1, own", "at .3, own", "at .1, threshold of other patients", "at .3"]
    lines = []
    for one in rows:
        auc = one.aucs()
        counts = [one.hits(Measure(at=at, rule=rule))[:2] for rule in ("own", "validation") for at in (0.1, 0.3)]
        cells = [f"{hits.sum():.0f} of {pairs.sum():.0f}" for hits, pairs in counts]
        spread = told(auc[0], *np.percentile(auc[1:], [2.5, 97.5]))
        lines.append([one.row.title, " ".join(map(str, one.seeds)), spread, *cells])
    return markdown(heads, lines)


if __name__ == "__main__":
    main()
