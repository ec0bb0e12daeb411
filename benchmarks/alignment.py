"""What alignment does to where lungs lie: their spread over test images of a misaligned phantom, before and after, and a picture.

    python benchmarks/alignment.py FOLDER [--images 800] [--misalignment 3] [--picture docs/alignment.png]

Draws the phantom, learns an anchor and an aligner from its training list alone, and measures on its test list. The truth is the
phantom's own geometry: four points of the chest (top, bottom, left, right of the lungs) as the beam projects them. Prints Markdown
for benchmarks/alignment.md.
"""

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from chestmap.datasets.nih import NihSettings
from chestmap.datasets.split import SplitSettings
from chestmap.nn.alignment import Aligner, aligned, matrices
from chestmap.nn.backbone import BackboneSettings
from chestmap.packs.build import PackSettings
from chestmap.packs.loader import Loader, LoaderSettings, Part
from chestmap.phantom import Case, PhantomSettings, write_phantom
from chestmap.phantom.body import make_body
from chestmap.phantom.chest import Chest
from chestmap.phantom.exam import make_exam, make_raster
from chestmap.phantom.findings.catalog import change_of
from chestmap.phantom.population import make_population
from chestmap.training import Run, RunSettings, Schedule
from chestmap.training.alignment_steps import AlignmentSettings, align
from chestmap.training.training_data import DataSettings, open_data

SHOWN = 6  # images in the picture
MEASURES = ("center, across", "center, down", "width", "height", "roll")


@dataclass(frozen=True, eq=False)
class Seen:
    """Test images with the four points of each ([image, point, x and y], canvas pixels).

    `straight` are the points of the same people had they been well placed; what is left then is their own and their breath's.
    """

    images: np.ndarray
    points: np.ndarray
    straight: np.ndarray


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--images", type=int, default=800)
    options.add_argument("--canvas", type=int, default=96)
    options.add_argument("--misalignment", type=float, default=3.0)
    options.add_argument("--epochs", type=int, default=30)
    options.add_argument("--backbone", default="test_resnet")
    options.add_argument("--learning-rate", type=float, default=2e-3)
    options.add_argument("--picture", type=Path)
    asked = options.parse_args()
    torch.set_num_threads(1)
    started, used = time.monotonic(), time.process_time()
    phantom = PhantomSettings(images=asked.images, side=128, seed=23, misalignment=asked.misalignment, processes=1)
    name = f"{asked.images}-{asked.misalignment:g}"
    root = write_phantom(asked.folder / f"phantom-{name}", phantom, progress=False)
    data = open_data(
        DataSettings(
            source=NihSettings(root=root),
            split=SplitSettings(name="official"),
            pack=PackSettings(width=asked.canvas, height=asked.canvas),
            cache=asked.folder / "cache",
        ),
        progress=False,
    )
    drawn = time.process_time() - used
    settings = AlignmentSettings.model_validate(
        {
            "aligner": {"backbone": BackboneSettings(name=asked.backbone)},
            "pool": 16,
            "perceptual_weight": 0,
            "judge": {"name": "test_resnet"},
        }
    )
    schedule = Schedule(
        epochs=asked.epochs, batch_size=16, optimizer="adamw", learning_rate=asked.learning_rate, weight_decay=1e-2,
        warmup=1.0, decay="cosine", augment=False, select="last",
    )  # fmt: skip
    learned = asked.folder / f"run-{name}-{asked.canvas}-{asked.backbone}-{asked.epochs}-{asked.learning_rate:g}"
    with Run(learned, RunSettings(device="cpu", workers=0, tensorboard=False), progress=False) as run:
        aligner = align(run, data, settings, schedule).aligner
    assert data.test is not None
    before = seen(data.test, phantom)
    after = moved(aligner, before, asked.canvas)
    print(markdown(before, after, asked, (drawn, time.process_time() - used, time.monotonic() - started)))
    if asked.picture:
        Image.fromarray(picture(before, after)[:, :, ::-1]).quantize(96).save(asked.picture, optimize=True)


def seen(part: Part, phantom: PhantomSettings) -> Seen:
    people, canvas = make_population(phantom), part.pack.settings.width
    case_of = {people.image_id(row): people.case(row, phantom) for row in range(len(people))}
    cases = [case_of[image_id.removesuffix(".png")] for image_id in part.ids]
    points, straight = (
        canvas * np.stack([landmarks(replace(case, misalignment=much)) for case in cases])
        for much in (phantom.misalignment, 0.0)
    )
    batches = Loader(part=part, settings=LoaderSettings(batch_size=32), shuffle=False).epoch(0)
    return Seen(np.concatenate([batch.images.numpy() for batch in batches]), points, straight)


def landmarks(case: Case) -> np.ndarray:
    """Top, bottom, left and right of the lungs, as shares of the film's sides."""
    body = make_body(case.seed, case.patient, case.sex, case.age)
    exam = make_exam(body, case.view, case.follow_up, case.misalignment)
    chest = Chest(body, exam, change_of(body, exam, case.findings))
    low = chest.bottom - 0.25 * (chest.bottom - body.apex)
    wall = float(body.wall(low, chest.bottom))
    points = np.array([[0.0, body.apex], [0.0, chest.bottom], [-wall, low], [wall, low]])
    raster = make_raster(exam, body, chest.bottom, 1024)
    return raster.to_pixels(exam.place(points)) / 1024


def moved(aligner: Aligner, before: Seen, canvas: int) -> Seen:
    images, points = [], []
    for start in range(0, len(before.images), 32):
        some = torch.from_numpy(before.images[start : start + 32])
        with torch.inference_mode():
            theta = aligner.eval()(some)
            images.append(aligned(some, theta).numpy())
        for (a, b, c, d, e, f), four in zip(
            matrices(theta, (canvas, canvas)), before.points[start : start + 32], strict=True
        ):
            points.append(four @ np.array([[a, d], [b, e]]) + (c, f))
    return Seen(np.concatenate(images), np.stack(points), before.straight)


def measured(points: np.ndarray, side: int) -> np.ndarray:
    """By image: center (midway between top and bottom), width, height in percent of the canvas; roll in degrees."""
    top, bottom, left, right = points.transpose(1, 0, 2) / side
    center, across, along = (top + bottom) / 2, right - left, bottom - top
    roll = np.degrees(np.arctan2(across[:, 1], across[:, 0]))
    return np.column_stack([100 * center, 100 * np.hypot(*across.T), 100 * np.hypot(*along.T), roll])


def markdown(before: Seen, after: Seen, asked: argparse.Namespace, seconds: tuple[float, float, float]) -> str:
    side = before.images.shape[-1]
    one, other, best = (measured(points, side).std(0, ddof=1) for points in (before.points, after.points, before.straight))
    sharp = [float(np.mean((seen.images - seen.images.mean(0)) ** 2)) for seen in (before, after)]
    lines = [
        f"{asked.images} images, misalignment {asked.misalignment:g}, {asked.canvas} × {asked.canvas} canvas, `{asked.backbone}`, "
        f"{asked.epochs} epochs; {len(before.images)} test images. {seconds[0]:.0f} s of one core to draw and pack, "
        f"{seconds[1]:.0f} s in all ({seconds[2]:.0f} s by the clock).",
        "",
        "| standard deviation over test images | as they are | aligned | ratio | well placed, not aligned |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, a, b, c in zip(MEASURES, one, other, best, strict=True):
        unit = "°" if name == "roll" else " % of the canvas"
        lines.append(f"| {name} | {a:.2f}{unit} | {b:.2f}{unit} | {b / a:.2f} | {c:.2f}{unit} |")
    lines.append(
        f"| variance of pixels about their mean image | {sharp[0]:.4f} | {sharp[1]:.4f} | {sharp[1] / sharp[0]:.2f} | |"
    )
    return "\n".join(lines)


def picture(before: Seen, after: Seen) -> np.ndarray:
    """Above as they are, below aligned: some test images, their four points joined, then the mean of all; the cross is the mean center."""
    places = measured(before.points, before.images.shape[-1])
    spread = np.abs(places - places.mean(0)) / places.std(0)
    chosen = np.argsort(-spread.max(1))[: 4 * SHOWN : 4]  # from the most misaligned on
    return np.concatenate([_row(found, chosen) for found in (before, after)])


def _row(found: Seen, chosen: np.ndarray) -> np.ndarray:
    side = 192
    scale = side / found.images.shape[-1]
    middle = np.rint(found.points[:, :2].mean((0, 1)) * scale).astype(int)
    panels = []
    for pixels, points in [
        *((found.images[row, 0], found.points[row]) for row in chosen),
        (found.images[:, 0].mean(0), None),
    ]:
        grey = cv2.resize((pixels * 255).clip(0, 255).astype(np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)
        panel = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
        cv2.line(panel, (int(middle[0]), 0), (int(middle[0]), side), (90, 90, 90), 1, cv2.LINE_AA)
        cv2.line(panel, (0, int(middle[1])), (side, int(middle[1])), (90, 90, 90), 1, cv2.LINE_AA)
        if points is not None:
            top, bottom, left, right = np.rint(points * scale).astype(int).tolist()
            for start, stop in ((top, bottom), (left, right)):
                cv2.line(panel, start, stop, (60, 200, 255), 1, cv2.LINE_AA)
        panels.append(cv2.copyMakeBorder(panel, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255)))
    return np.concatenate(panels, axis=1)


if __name__ == "__main__":
    main()
