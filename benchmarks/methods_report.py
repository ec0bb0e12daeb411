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

from chestmap.datasets.nih import NihSettings, read_nih
from chestmap.datasets.source import Source
from chestmap.evaluation.resampling import holm, numbered, patient_weights
from chestmap.evaluation.scores import Evaluation, read_evaluation
from methods import CLAIMS, ROWS, SEVEN, Claim, Row

DRAWS = 5000
HEADLINE = ("mask", "validation", 0.3)
SHOWN = (
    ("mask", "own", 0.1),
    ("mask", "own", 0.3),
    ("mask", "own", 0.5),
    ("mask", "validation", 0.1),
    HEADLINE,
    ("largest", "validation", 0.3),
)


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

    def hits(self, geometry: str, rule: str, at: float, finding: str = "") -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        """Hits summed over seeds and pairs counted, [patient, finding], and the patients; of one finding or of all."""
        patient_of = dict(zip(self.source.ids, self.source.images["patient_id"], strict=True))
        chosen = [table.filter((pl.col("geometry") == geometry) & (pl.col("rule") == rule)) for table in self.cases]
        table = pl.concat(chosen).sort("image_id", "finding", maintain_order=True)
        table = table.filter(pl.col("finding") == finding) if finding else table
        patients, findings = sorted({patient_of[one] for one in table["image_id"]}), sorted(set(table["finding"]))
        place = np.array([patients.index(patient_of[one]) for one in table["image_id"]])
        column = np.array([findings.index(one) for one in table["finding"]])
        hits, pairs = np.zeros((len(patients), len(findings))), np.zeros((len(patients), len(findings)))
        np.add.at(hits, (place, column), (table["iou"].to_numpy() >= at).astype(float))
        np.add.at(pairs, (place, column), 1.0)
        return hits, pairs, tuple(patients)

    def by_seed(self, measure: str, **wanted: object) -> list[float]:
        return [one.one(measure, finding="mean", **wanted).value for one in self.evaluations]

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
    chosen = options.parse_args()
    made = {name: found for name in ROWS if (found := read(chosen.folder, name, chosen.seeds))}
    print(table_of([made[name] for name in SEVEN if name in made], made.get("cam")))
    print(floors(made["cam"]))
    print(table_of([one for name, one in made.items() if name not in SEVEN and one.row.root != "real"], made.get("cam")))
    print(claims_of(made))
    print(real_table([one for one in made.values() if one.row.root == "real"]))


def read(folder: Path, name: str, seeds: list[int]) -> Made | None:
    runs = {seed: folder / "runs" / f"{name}-{seed}" for seed in seeds}
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


def rate(hits: np.ndarray, pairs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over findings of the share of pairs met, under each row of weights over patients."""
    with np.errstate(invalid="ignore"):
        return np.nanmean((weights @ hits) / (weights @ pairs), axis=1)


def told(value: float, low: float, high: float) -> str:
    return f"{short(value)} [{short(low)}, {short(high)}]"


def short(value: float) -> str:
    """.125 for 0.125."""
    return f"{value:.3f}".removeprefix("0")


def table_of(rows: list[Made], baseline: Made | None) -> str:
    heads = [
        "",
        "seeds",
        "AUC",
        *(f"T(IoU) {at:g}, {geometry}, {rule}" for geometry, rule, at in SHOWN),
        "T(IoR) .5, mask, validation",
        "against `cam`: T(IoU) .3",
        "p",
        "processor",
        "memory",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for one in rows:
        auc = one.aucs()
        cells = [one.row.title, " ".join(map(str, one.seeds)), told(auc[0], *np.percentile(auc[1:], [2.5, 97.5]))]
        for geometry, rule, at in SHOWN:
            hits, pairs, patients = one.hits(geometry, rule, at)
            drawn = patient_weights(len(patients), 1000, 0)
            cells.append(
                told(
                    rate(hits, pairs, np.ones((1, len(patients))))[0], *np.percentile(rate(hits, pairs, drawn), [2.5, 97.5])
                )
            )
        cells.append(short(np.mean(one.by_seed("T(IoR)", at=0.5, geometry="mask", rule="validation"))))
        test = (
            difference(one, baseline, HEADLINE)
            if baseline and one is not baseline and one.row.root != "phantom-moved"
            else None
        )
        cells += [f"{test[0]:+.3f}", f"{test[3]:.4f}"] if test else ["", ""]
        cells += [
            f"{np.mean([cost['processor_seconds'] for cost in one.costs]) / 60:.1f} min",
            f"{np.max([cost['gigabytes'] for cost in one.costs]):.2f} GB",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def real_table(rows: list[Made]) -> str:
    """Few images: hits are counted, not averaged. No boxes are for validation, so thresholds come from the other test patients."""
    lines = [
        "| room | seeds | AUC | hits at IoU .1, own | at .3, own | at .1, threshold of other patients | at .3 |",
        "|---|---|---|---|---|---|---|",
    ]
    rules = [(rule, at) for rule in ("own", "validation") for at in (0.1, 0.3)]
    for one in rows:
        auc = one.aucs()
        counts = [one.hits("mask", rule, at)[:2] for rule, at in rules]
        cells = [f"{hits.sum():.0f} of {pairs.sum():.0f}" for hits, pairs in counts]
        spread = told(auc[0], *np.percentile(auc[1:], [2.5, 97.5]))
        lines.append("| " + " | ".join([one.row.title, " ".join(map(str, one.seeds)), spread, *cells]) + " |")
    return "\n".join(lines) + "\n"


def difference(
    first: Made, second: Made, what: tuple[str, str, float], finding: str = ""
) -> tuple[float, float, float, float]:
    """Difference of the rates, its interval, and p of exchanging the rows for whole patients; of the seeds that both have."""
    (one, pairs, _), (other, others, _) = (made.hits(*what, finding) for made in paired(first, second))
    if not np.array_equal(pairs, others):
        raise ValueError(f"{first.row.title}, {second.row.title}: other pairs")
    drawn = patient_weights(len(pairs), DRAWS, 0)
    spread = rate(one, pairs, drawn) - rate(other, pairs, drawn)
    shares = ((one - other) / pairs.sum(0)).mean(1)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (DRAWS, len(shares)))
    reached = np.abs(signs @ shares) >= abs(shares.sum()) - 1e-12
    return float(shares.sum()), *np.percentile(spread, [2.5, 97.5]).tolist(), float((reached.sum() + 1) / (DRAWS + 1))


def paired(first: Made, second: Made) -> tuple[Made, Made]:
    """Both with the seeds that both have."""
    seeds = [seed for seed in first.seeds if seed in second.seeds]
    one, other = (
        replace(
            made,
            seeds=tuple(seeds),
            evaluations=[made.evaluations[made.seeds.index(seed)] for seed in seeds],
            cases=[made.cases[made.seeds.index(seed)] for seed in seeds],
            scores=[made.scores[made.seeds.index(seed)] for seed in seeds],
        )
        for made in (first, second)
    )
    return one, other


def floors(one: Made) -> str:
    lines = ["| floor | T(IoU) .1 | .3 | .5 |", "|---|---|---|---|"]
    scores = one.evaluations[0]
    rules = sorted({row.rule for row in scores.rows if row.rule.startswith("floor")})
    for rule in rules:
        found = [[row.value for row in scores.select("T(IoU)", finding="mean", rule=rule, at=at)] for at in (0.1, 0.3, 0.5)]
        lines.append(
            f"| {rule.removeprefix('floor ')} | "
            + " | ".join(f"{values[0]:.3f}".replace("0.", ".") if values else "" for values in found)
            + " |"
        )
    return "\n".join(lines) + "\n"


def claims_of(made: dict[str, Made]) -> str:
    tried = [
        (claim, tested(claim, made[claim.better], made[claim.worse]))
        for claim in CLAIMS
        if claim.better in made and claim.worse in made
    ]
    known = [index for index, (_, test) in enumerate(tried) if test[3] is not None]
    corrected = dict(zip(known, holm([tried[index][1][3] for index in known]), strict=True))
    lines = ["| paper | claim | measure | difference | each seed | p | p, Holm | verdict |", "|" + "---|" * 8]
    for index, (claim, (value, low, high, p, seeds)) in enumerate(tried):
        ranges = " ".join(f"{one:+.3f}" for one in seeds)
        spread = f" [{low:+.3f}, {high:+.3f}]" if low is not None else ""
        ps = (f"{p:.4f}", f"{corrected[index]:.3f}") if p is not None else ("", "")
        lines.append(
            f"| {claim.paper} | {claim.text} | {measured(claim)} | {value:+.3f}{spread} | {ranges} | {ps[0]} | {ps[1]} | {verdict(value, corrected.get(index))} |"
        )
    return "\n".join(lines) + "\n"


def measured(claim: Claim) -> str:
    return {"T(IoU)": "T(IoU) .3", "AUC": "AUC", "T(IoR)": "T(IoR) .5"}[claim.measure] + (
        f", {claim.finding}" if claim.finding else ""
    )


def verdict(value: float, p: float | None) -> str:
    if p is None:
        return f"not tested; goes {'that' if value > 0 else 'the other'} way"
    if p < 0.05:
        return "holds" if value > 0 else "the opposite holds"
    return "not shown"


def tested(claim: Claim, first: Made, second: Made) -> tuple[float, float | None, float | None, float | None, list[float]]:
    one, other = paired(first, second)
    geometry, rule, at = HEADLINE
    if claim.measure == "AUC":
        change = one.aucs() - other.aucs()
        each = np.subtract(one.by_seed("AUC"), other.by_seed("AUC")).tolist()
        p = min(1.0, 2 * min((change[1:] <= 0).mean(), (change[1:] >= 0).mean()) + 1 / len(change))
        return float(change[0]), *np.percentile(change[1:], [2.5, 97.5]).tolist(), float(p), each
    at = 0.5 if claim.measure == "T(IoR)" else at
    wanted = {"at": at, "geometry": geometry, "rule": rule, "finding": claim.finding or "mean"}
    pairs = zip(one.evaluations, other.evaluations, strict=True)
    each = [a.one(claim.measure, **wanted).value - b.one(claim.measure, **wanted).value for a, b in pairs]
    if claim.measure == "T(IoR)":  # cases.csv holds IoU alone
        return float(np.mean(each)), None, None, None, each
    return *difference(one, other, HEADLINE, claim.finding), each


if __name__ == "__main__":
    main()
