"""Says why cells at one half mark a finding or miss it: how sure the image is, whether a cell gets there, what the mask meets.

python benchmarks/own_rule.py PREDICTIONS ROOT [--part 0]

PREDICTIONS is a folder that a room with probabilities as maps (patch_mil, cia_net) made of a dataset in NIH's layout at ROOT. Masks and
boxes are compared on the grid of the map. The best cut of each map is an oracle: it looks at the box.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl

from chestmap.datasets.nih import NihSettings, read_nih
from chestmap.predictions.folder import open_predictions
from chestmap.types import Box, Frame

HALF = 0.5
CUTS = np.linspace(0.5, 0.995, 25)
"""Shares of a map's cells that lie below the cuts tried for the oracle."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("predictions", type=Path)
    options.add_argument("root", type=Path)
    options.add_argument("--part", type=int, help="images of this part of the folder alone")
    chosen = options.parse_args()
    print(told(pairs_of(chosen.predictions, chosen.root, chosen.part)))


def pairs_of(folder: Path, root: Path, part: int | None) -> pl.DataFrame:
    """One row for each image and finding with boxes."""
    source, predictions = read_nih(NihSettings(root=root)), open_predictions(folder)
    wanted = set(predictions.image_ids)
    if part is not None:
        wanted = set(pl.read_parquet(folder / f"part-{part:05d}" / "scores.parquet")["image_id"])
    rows = []
    for chunk in predictions.chunks(64):
        for place, image_id in enumerate(chunk.image_ids):
            boxes = source.boxes.get(image_id, ()) if image_id in wanted else ()
            for finding in dict.fromkeys(box.finding for box in boxes):
                column = predictions.header.findings.index(finding)
                values = np.asarray(chunk.maps[place][column], dtype=np.float64)
                ground = ground_of([box for box in boxes if box.finding == finding], chunk.frames[place], values.shape)
                rows.append({"finding": finding, "score": float(chunk.scores[place][column]), **facts(values, ground)})
    return pl.DataFrame(rows)


def ground_of(boxes: list[Box], frame: Frame, shape: tuple[int, int]) -> np.ndarray:
    """Cells that boxes cover by more than half along each side."""
    ground = np.zeros(shape, dtype=bool)
    for box in frame.resized((shape[1], shape[0])).to_canvas(boxes):
        x0, y0, x1, y1 = (max(0, round(value)) for value in box.corners)
        ground[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = True
    return ground


def facts(values: np.ndarray, ground: np.ndarray) -> dict[str, float]:
    mask = values >= HALF
    return {
        "greatest": values.max(),
        "mask": mask.mean(),
        "box": ground.mean(),
        "iou": overlap(mask, ground),
        "best": max(overlap(values >= cut, ground) for cut in np.quantile(values, CUTS)),
        "peak": float(ground.flat[values.argmax()]),
    }


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))


def told(pairs: pl.DataFrame) -> str:
    """A line for each finding, the mean over them, and what holds of the pairs that are marked at all."""
    marked = pl.col("greatest") >= HALF
    shares = {
        "marked": marked.mean(),
        "T(IoU) .1": (pl.col("iou") >= 0.1).mean(),
        "T(IoU) .3": (pl.col("iou") >= 0.3).mean(),
        "best cut .1": (pl.col("best") >= 0.1).mean(),
        "best cut .3": (pl.col("best") >= 0.3).mean(),
        "peak in box": pl.col("peak").mean(),
    }
    medians = {"box, share of canvas": pl.col("box"), "score": pl.col("score"), "greatest cell": pl.col("greatest")}
    each = pairs.group_by("finding").agg(
        pl.len().alias("pairs"),
        *(value.median().alias(name) for name, value in medians.items()),
        *(value.alias(name) for name, value in shares.items()),
    )
    lines = ["| | " + " | ".join(each.columns[1:]) + " |", "|---|" + "---:|" * (len(each.columns) - 1)]
    rows = each.sort("finding").rows()
    lines += [f"| {row[0]} | {row[1]} | " + " | ".join(f"{value:.2f}" for value in row[2:]) + " |" for row in rows]
    mean = each.select(*(pl.col(name).mean() for name in each.columns[2:])).row(0)
    lines.append(f"| mean | {len(pairs)} | " + " | ".join(f"{value:.3f}" for value in mean) + " |")
    some = pairs.filter(marked)
    if len(some):
        area = some.select(pl.col("mask").median(), pl.col("box").median()).row(0)
        hit = [(some["iou"] >= at).mean() for at in (0.1, 0.3)]
        lines.append(
            f"\nOf {len(some)} marked pairs the mask covers {area[0]:.3f} of the canvas (median), the box {area[1]:.3f}; "
            f"{hit[0]:.3f} meet IoU .1, {hit[1]:.3f} meet .3."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
