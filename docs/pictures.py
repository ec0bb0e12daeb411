# ruff: noqa: INP001
"""The pictures of the documentation, drawn anew: `python docs/pictures.py`.

`python docs/pictures.py --nih FOLDER --out sheet.png` puts real images of ChestX-ray14 beside phantom ones, to be looked at
and thrown away: they may not be given on with this project.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from chestmap.datasets.nih import NihSettings, read_nih
from chestmap.phantom import Case, draw
from chestmap.reports.contact_sheet import contact_sheet
from chestmap.types import Box
from chestmap.vocabulary import CHESTXRAY14

HERE = Path(__file__).parent
SHOWN = [(), *((name,) for name in CHESTXRAY14), ("Effusion", "Cardiomegaly"), ("Nodule", "Emphysema"), ()]


def phantom_cases(shown: Iterable[tuple[str, ...]], seed: int) -> list[Case]:
    return [
        Case(
            seed=seed,
            patient=number,
            follow_up=0,
            sex="MF"[number % 2],
            age=35 + 7 * number % 45,
            view="AP" if number % 3 == 2 else "PA",
            findings=findings,
        )
        for number, findings in enumerate(shown)
    ]


def phantom_sheet(cases: list[Case], columns: int, cell: int) -> np.ndarray:
    """Drawn at twice the size shown."""
    side = 2 * cell
    drawings = [draw(case, side) for case in cases]
    captions = [f"{' + '.join(case.findings) or 'no finding'} ({case.view})" for case in cases]
    return contact_sheet(
        [one.pixels for one in drawings], captions, [scaled(one.boxes, side / 1024) for one in drawings], columns, cell
    )


def scaled(boxes: Iterable[Box], k: float) -> list[Box]:
    return [replace(box, x0=box.x0 * k, y0=box.y0 * k, x1=box.x1 * k, y1=box.y1 * k) for box in boxes]


def real_sheet(folder: Path, columns: int, cell: int, seed: int) -> np.ndarray:
    """Two rows of real images: some of each finding that the folder has, then of none."""
    source = read_nih(NihSettings(root=folder))
    random = np.random.default_rng(seed)
    rows = []
    for column in range(len(source.findings)):
        having = np.flatnonzero(source.labels[:, column] == 1)
        rows += [int(random.choice(having))] if len(having) else []
    rows += [int(row) for row in random.choice(np.flatnonzero((source.labels != 1).all(1)), 4)]
    examples = [source[row] for row in rows]
    captions = [
        " + ".join(name for name, label in zip(source.findings, one.labels, strict=True) if label == 1) or "no finding"
        for one in examples
    ]
    boxes = [scaled(one.boxes, one.radiograph.pixels.shape[1] / one.radiograph.size[0]) for one in examples]
    return contact_sheet([one.radiograph.pixels for one in examples], captions, boxes, columns, cell)


def save(path: Path, sheet: np.ndarray) -> None:
    """96 colors are enough for a page and halve the file."""
    Image.fromarray(sheet).quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nih", type=Path, help="a folder of ChestX-ray14")
    parser.add_argument("--out", type=Path, help="where the sheet with real images goes; needed with --nih")
    parser.add_argument("--seed", type=int, default=4)
    asked = parser.parse_args()
    columns, cell = 6, 180
    sheet = phantom_sheet(phantom_cases(SHOWN, asked.seed), columns, cell)
    if asked.nih is None:
        save(HERE / "phantom.png", sheet)
        return
    if asked.out is None or HERE.parent in asked.out.resolve().parents:
        parser.error("--nih needs --out with a file outside of the repository, as real images must not get into it")
    Image.fromarray(np.concatenate([real_sheet(asked.nih, columns, cell, asked.seed), sheet])).save(asked.out)


if __name__ == "__main__":
    main()
