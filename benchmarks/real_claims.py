"""The claims of the papers on real films: each by its paper's own measure first, then by the headline; from real_table.json alone.

python benchmarks/real_claims.py

One seed and one fold, so nothing is called "holds". The standard error of a difference is that of independent rows, which is
greater than the paired one; "visible from" is 2.8 of them.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).with_name("real_table.json")
HEADLINE = "T(IoU) 0.3 validation"
WITHOUT = " without Cardiomegaly"
NEEDED = 1.96 + 0.84


class Claim(NamedTuple):
    """`measure` is a key of the table; `printed` is the difference that the paper prints, on its data."""

    paper: str
    text: str
    better: str
    worse: str
    measure: str
    printed: float


CLAIMS = (
    Claim("HAM", "without boxes, localizes better than the classifier", "ham-0-16", "cam-16", "T(IoU) 0.1 own", 0.26),
    Claim("HAM", "without boxes, has a higher AUC", "ham-0-16", "cam-16", "AUC", 0.003),
    Claim("HAM", "LSE pooling localizes better than the mean", "cam-16", "cam-16-mean", "T(IoU) 0.1 own", 0.05),
    Claim("HAM", "the foreground block localizes better", "ham-0-16-fab", "cam-16", "T(IoU) 0.1 own", 0.17),
    Claim("HAM", "the other losses localize better", "ham-0-16", "ham-0-16-fab", "T(IoU) 0.1 own", 0.09),
    Claim("HAM", "boxes localize better than none (tuned)", "ham-80-tuned", "ham-0-16", "T(IoU) 0.3 own", 0.24),
    Claim("HAM", "AMSE is better than MSE (tuned)", "ham-80-tuned", "ham-80-tuned-mse", "T(IoU) 0.3 own", 0.08),
    Claim("HAM", "with boxes, is above Li 2018 (both tuned)", "ham-80-tuned", "patch-80-tuned", "T(IoU) 0.3 own", 0.11),
    Claim("Li 2018", "boxes localize better than none", "patch-80", "patch-0", "T(IoU) 0.1 own", 0.16),
    Claim("CIA-Net", "with boxes, is above Li 2018", "cia-80", "patch-80", "T(IoU) 0.3 own", 0.04),
    Claim("CIA-Net", "with boxes, the contrast helps", "cia-80", "cia-base-80", "T(IoU) 0.3 own", 0.01),
    Claim("Attention mining", "three steps localize better than one", "mining-3", "mining-1", "T(IoU) 0.3 own", 0.02),
    Claim("Attention mining", "preservation localizes better", "mining-3", "mining-3-unpreserved", "T(IoU) 0.3 own", 0.13),
    Claim("Disease masks", "masks are better than alignment alone", "masks", "masks-none", "T(IoU) 0.3 own", 0.10),
)


def main() -> None:
    table = json.loads(HERE.read_text(encoding="utf-8"))
    heads = ["paper", "claim", "its measure", "printed", "here", f"without {WITHOUT.split()[-1]}", "visible from", "verdict"]
    heads += ["over the medoid", "by T(IoU) .3, validation"]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for claim in CLAIMS:
        if f"{claim.better} 1" in table and f"{claim.worse} 1" in table:
            print("| " + " | ".join(cells(claim, table)) + " |")


def cells(claim: Claim, table: dict[str, dict[str, list[float]]]) -> list[str]:
    better, worse, floor = (table[f"{name} 1"] for name in (claim.better, claim.worse, "medoid"))
    change, error = difference(better, worse, claim.measure)
    has_boxes = claim.measure != "AUC"
    less = f"{difference(better, worse, claim.measure + WITHOUT)[0]:+.3f}" if has_boxes else ""
    over = f"{difference(better, floor, claim.measure)[0]:+.3f}" if has_boxes else ""
    headline = f"{difference(better, worse, HEADLINE)[0]:+.3f}" if has_boxes else ""
    values = f"{change:+.3f} ({better[claim.measure][0]:.3f} against {worse[claim.measure][0]:.3f})"
    said = [claim.paper, claim.text, claim.measure.replace("0.", "."), f"{claim.printed:+.3f}", values, less]
    return [*said, f"{NEEDED * error:.3f}", verdict(change, error, claim.printed), over, headline]


def difference(one: dict[str, list[float]], other: dict[str, list[float]], key: str) -> tuple[float, float]:
    """With its standard error, from the 95 % intervals of both."""
    errors = [(row[key][2] - row[key][1]) / (2 * 1.96) for row in (one, other)]
    return one[key][0] - other[key][0], math.hypot(*errors)


def verdict(change: float, error: float, printed: float) -> str:
    if abs(change) > 1.96 * error:
        return f"1 seed: goes {'this' if change > 0 else 'the other'} way"
    return "cannot be seen here" if printed < NEEDED * error else "not shown"


if __name__ == "__main__":
    main()
