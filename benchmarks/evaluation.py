"""What evaluation costs: AUC with intervals against a bootstrap, and every localization score from maps on disk.

python benchmarks/evaluation.py [--presets] [--whole IMAGES]
"""

import argparse
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from chestmap.evaluation.evaluate import EvaluationContext, EvaluationSettings, evaluate
from chestmap.evaluation.presets.protocols import PRESETS
from chestmap.evaluation.statistics.auc import delong
from chestmap.evaluation.truth import Truth
from chestmap.predictions.folder import Chunk, Header, OwnRule, PredictionsWriter, open_predictions
from chestmap.types import Box, Frame
from chestmap.vocabulary import CHESTXRAY14

IMAGES, SIDE = 880, 64
FINDINGS = CHESTXRAY14.subset(CHESTXRAY14.names[:8])
FRAME = Frame.fit((1024.0, 1024.0), (512, 512))


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - clock, time.process_time() - processor


def maps_like_those_of_a_network(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One to three blobs on a weak background for each image and finding; and the first blob's x, y and width in cells."""
    y, x = np.mgrid[:SIDE, :SIDE]
    values = np.abs(rng.normal(0, 0.03, (IMAGES, len(FINDINGS), SIDE, SIDE)))
    blobs = np.stack([rng.uniform(12, 52, (*values.shape[:2], 3)), rng.uniform(12, 52, (*values.shape[:2], 3))], axis=-1)
    widths, heights = rng.uniform(2, 9, blobs.shape[:3]), rng.uniform(0.3, 1, blobs.shape[:3])
    heights[..., 0] = 1.0
    heights[..., 1:] *= rng.random(heights[..., 1:].shape) < 0.5
    for place in np.ndindex(heights.shape):
        distance = (x - blobs[place][0]) ** 2 + (y - blobs[place][1]) ** 2
        values[place[:2]] += heights[place] * np.exp(-distance / (2 * widths[place] ** 2))
    return values.astype(np.float16), np.concatenate([blobs[:, :, 0], widths[:, :, :1]], axis=-1)


def made(folder: Path) -> tuple[Path, Truth]:
    """A predictions folder and a truth with about 1,000 boxes near the blobs, as many as ChestX-ray14 has."""
    rng = np.random.default_rng(0)
    maps, blobs = maps_like_those_of_a_network(rng)
    ids, patients = tuple(f"{n:08}" for n in range(IMAGES)), tuple(f"p{n // 2}" for n in range(IMAGES))
    labels, boxes = np.zeros((IMAGES, len(FINDINGS)), dtype=np.float32), {}
    for row, image_id in enumerate(ids):
        for finding in rng.permutation(len(FINDINGS))[: 1 + (rng.random() < 0.12)]:
            (x, y), reach = 16 * blobs[row, finding, :2] + rng.normal(0, 40, 2), 16 * blobs[row, finding, 2]
            labels[row, finding] = 1
            box = Box(FINDINGS.names[finding], x - reach, y - reach, x + reach, y + reach)
            boxes[image_id] = (*boxes.get(image_id, ()), box)
    labels[(labels == 0) & (rng.random(labels.shape) < 0.12)] = 1  # labelled, never boxed
    writer = PredictionsWriter(
        folder, Header(findings=FINDINGS, canvas=(512, 512), model={"name": "made"}, own_rule=OwnRule(0.469))
    )
    scores = rng.random((IMAGES, len(FINDINGS))).astype(np.float32)
    writer.write(
        0, IMAGES, iter([Chunk(image_ids=ids, patient_ids=patients, frames=(FRAME,) * IMAGES, scores=scores, maps=maps)])
    )
    writer.finish()
    return folder, Truth(
        name="made",
        findings=FINDINGS,
        ids=ids,
        patients=patients,
        labels=labels,
        boxes=boxes,
        sizes=np.full((IMAGES, 2), 1024.0),
    )


def ranking() -> None:
    rng = np.random.default_rng(1)
    labels = (rng.random((25_596, 14)) < 0.08).astype(np.float64)
    scores = rng.random(labels.shape) + 0.3 * labels
    ours, _ = timed(lambda: [delong(scores[:, k], labels[:, k]).interval() for k in range(14)])
    few = 20
    drawn = [rng.integers(0, len(labels), len(labels)) for _ in range(few)]
    slow, _ = timed(lambda: [roc_auc_score(labels[d, 0], scores[d, 0]) for d in drawn])
    slow *= 1000 / few * 14
    print(f"| AUC with DeLong intervals, 14 findings x 25,596 images | {ours:.3f} s | |")
    print(f"| 1,000 bootstrap resamples by scikit-learn (from {few}) | {slow:.0f} s | {slow / ours:,.0f} x as long |")


def localization(*, presets: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, truth = made(Path(name) / "predictions")
        pairs = sum(len(boxes) for boxes in truth.boxes.values())
        predictions = open_predictions(folder)
        clock, processor = timed(lambda: evaluate(predictions, truth, EvaluationSettings(workers=2), EvaluationContext()))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        label = (
            f"everything for {IMAGES} images x {len(FINDINGS)} findings, {pairs} boxes, {SIDE} x {SIDE} maps at 1024 x 1024"
        )
        print(f"| {label} | {clock:.1f} s | {processor:.1f} s of processor, {memory:.2f} GB at most |")
        for preset in PRESETS if presets else ():
            settings = EvaluationSettings(workers=2, presets=(preset,), negatives=0)
            with_it, cost = timed(lambda settings=settings: evaluate(predictions, truth, settings, EvaluationContext()))
            print(f"| boxes alone, with preset {preset} | {with_it:.1f} s | {cost:.1f} s of processor |")


def whole(images: int) -> None:
    """As ChestX-ray14: 14 findings, and boxes on the first `IMAGES` only; the maps of these are used again for all others."""
    rng = np.random.default_rng(2)
    with tempfile.TemporaryDirectory() as name:
        first, truth = made(Path(name) / "first")
        maps = np.concatenate([chunk.maps for chunk in open_predictions(first).chunks()])
        maps = np.concatenate([maps, maps[:, :6]], axis=1)
        ids, patients = tuple(f"{n:08}" for n in range(images)), tuple(f"p{n // 4}" for n in range(images))
        labels = (rng.random((images, 14)) < 0.05).astype(np.float32)
        labels[:IMAGES, :8] = truth.labels
        scores = (0.7 * rng.random(labels.shape) + 0.3 * labels).astype(np.float32)
        header = Header(findings=CHESTXRAY14, canvas=(512, 512), model={"name": "made"}, own_rule=OwnRule(0.469))
        writer = PredictionsWriter(Path(name) / "whole", header)
        for part, begin in enumerate(range(0, images, IMAGES)):
            own = slice(begin, min(begin + IMAGES, images))
            count = own.stop - begin
            one = Chunk(
                image_ids=ids[own], patient_ids=patients[own], frames=(FRAME,) * count, scores=scores[own], maps=maps[:count]
            )
            writer.write(part, count, iter([one]))
        writer.finish()
        named = replace(
            truth, findings=CHESTXRAY14, ids=ids, patients=patients, labels=labels, sizes=np.full((images, 2), 1024.0)
        )
        predictions = open_predictions(Path(name) / "whole")
        clock, processor = timed(lambda: evaluate(predictions, named, EvaluationSettings(workers=2), EvaluationContext()))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        pairs = sum(len(boxes) for boxes in truth.boxes.values())
        label = f"everything for {images:,} images x 14 findings, {pairs} boxes"
        print(f"| {label} | {clock:.1f} s | {processor:.1f} s of processor, {memory:.2f} GB at most |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", action="store_true", help="also time each preset")
    parser.add_argument("--whole", type=int, help="instead a folder of so many images, such as 112120")
    chosen = parser.parse_args()
    print(
        f"{platform.machine()}, Python {sys.version.split()[0]}, numpy {np.__version__}\n\n| what | time | |\n| --- | ---: | --- |"
    )
    if chosen.whole:
        whole(chosen.whole)
    else:
        ranking()
        localization(presets=chosen.presets)
