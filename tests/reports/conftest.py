"""A small evaluation, a run folder and pictures made by hand; the numbers are chosen so that every kind of cell occurs."""

import csv
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chestmap.reports.pictures import Picture
from chestmap.types import Box

FINDINGS = ["Mass", "Effusion", "Hernia"]
LIMITS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def _row(measure: str, finding: str, value: float | None, **rest: Any) -> dict[str, Any]:
    around = {} if value is None else {"low": round(value - 0.05, 3), "high": round(value + 0.04, 3)}
    return {"measure": measure, "finding": finding, "value": value, "support": 12, "negatives": 30} | around | rest


def metrics_tree(localized: bool = True) -> dict[str, Any]:
    """Hernia was never labelled present: n/a. Mass and Effusion carry boxes."""
    scores = [_row("AUC", "Mass", 0.8124), _row("AUC", "Effusion", 0.7), _row("AUC", "mean", 0.7562)]
    scores += [_row("AUC", "Hernia", None, support=0), _row("AP", "Mass", 0.4), _row("AP", "Effusion", 0.35)]
    scores += [_row("ECE", "Mass", 0.1)]
    curves: list[dict[str, Any]] = [
        {"kind": kind, "finding": name, "x": [0.0, 0.2, 1.0], "y": [0.0, 0.7, 1.0]}
        for kind in ("roc", "precision-recall")
        for name in ("Mass", "Effusion")
    ]
    curves.append({"kind": "reliability", "finding": "Mass", "x": [0.1, 0.6], "y": [0.05, 0.5], "weight": [30, 12]})
    if localized:
        scores += _localization_scores()
        curves.append(
            {
                "kind": "froc",
                "finding": "Mass",
                "x": [0.1, 1, 4],
                "y": [0.2, 0.5, 0.8],
                "rule": "validation",
                "geometry": "any",
            }
        )
        for rule in ("validation", "own"):
            for name in ("Mass", "Effusion", "mean"):
                points = {"x": [0.0, 0.1, 0.3, 0.7, 1.0], "y": [1.0, 0.8, 0.5, 0.1, 0.0]}
                curves.append({"kind": "accuracy", "finding": name, "rule": rule, "geometry": "mask"} | points)
    about = {
        "source": "nih", "images": 42, "patients": 40, "boxes": 24, "split": "official", "split_fingerprint": "",
        "settings": {"confidence": 0.95, "resamples": 1000},
    }  # fmt: skip
    return {"title": "A model", "findings": FINDINGS, "about": about, "notes": [], "scores": scores, "curves": curves}


def _localization_scores() -> list[dict[str, Any]]:
    found = []
    rules = {"validation": 0.8, "own": 0.7, "oracle": 0.9, "floor medoid": 0.5, "ceiling 16x16": 0.99, "preset ham": 0.75}
    for rule, best in rules.items():
        geometry = "" if rule.startswith("floor") else "mask"
        for limit in LIMITS:
            for name, step in (("Mass", 0.02), ("Effusion", -0.02), ("mean", 0.0)):
                value = round(best - limit + step, 4)
                found.append(_row("T(IoU)", name, max(value, 0.0), at=limit, geometry=geometry, rule=rule, threshold=0.6))
    found += [_row("mean IoU", name, 0.333, geometry="mask", rule="validation") for name in ("Mass", "Effusion", "mean")]
    return [*found, _row("FROC", "Mass", 0.51, at=1.0, geometry="any", rule="validation")]


@pytest.fixture(scope="session")
def metrics() -> Callable[..., dict[str, Any]]:
    return metrics_tree


def picture(finding: str, number: int, iou: float | None, label: Any = "present", score: float = 0.5) -> Picture:
    image = np.random.default_rng(number).integers(0, 255, (48, 60), dtype=np.uint8)
    values = np.zeros((48, 60), dtype=np.float32)
    values[10:30, 20:40] = 1.0
    true = () if iou is None else (Box(finding, 18, 8, 38, 28),)
    return Picture(
        finding=finding,
        image_id=f"image-{number}",
        image=image,
        label=label,
        score=score,
        map=values,
        threshold=0.6,
        true=true,
        iou=iou,
    )


@pytest.fixture(scope="session")
def pictures() -> list[Picture]:
    return [
        picture("Mass", 0, 0.62, score=0.9), picture("Mass", 1, 0.31, score=0.2), picture("Mass", 2, 0.05, score=0.8),
        picture("Mass", 3, None, "absent", 0.7), picture("Effusion", 4, 0.55, score=0.6), picture("Effusion", 5, None, "unknown", 0.1),
    ]  # fmt: skip


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "a-run"
    (folder / "model").mkdir(parents=True)
    (folder / "config.toml").write_text('[method]\nname = "ham"  # <b>\n')
    data = {"source": "nih", "split": "official", "train": {"images": 1234, "fingerprint": "aaaa"}}
    model = {"title": "HAM", "paper": "Ouyang 2021", "sha256": "f" * 64, "data": data}
    (folder / "model" / "model.json").write_text(json.dumps(model))
    start = {
        "time": "2026-01-02T03:04:05+00:00",
        "versions": {"torch": "2.15"},
        "machine": {"cores": 2},
        "git": {"commit": "c" * 40},
    }
    (folder / "environment.json").write_text(json.dumps({"starts": [start]}))
    with (folder / "log.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("step", "epoch", "update", "seconds", "name", "value"))
        for update in range(400):
            for name, value in (("bound", 2 / (1 + update)), ("union", 1 / (1 + update)), ("loss", 3 / (1 + update))):
                rows.writerow(("1-classify", 1 + update // 100, update, update * 0.5, name, value))
            rows.writerow(("1-classify", 1 + update // 100, update, update * 0.5, "images_per_second", 30))
            if update % 100 == 99:
                rows.writerow(("1-classify", 1 + update // 100, update, update * 0.5, "validation_auc", 0.6 + update / 4000))
        file.write("1-classify,5,400")
    return folder


class Page(HTMLParser):
    """What a page holds, read without a browser: every tag with its attributes, and the text of table rows by table class."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.table, self.cell = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag == "table":
            self.table = given.get("class") or ""
            self.tables[self.table] = []
        elif tag == "tr":
            self.tables[self.table].append([])
        elif tag in ("td", "th"):
            self.tables[self.table][-1].append("")
            self.cell = True
        elif self.cell:
            self.tables[self.table][-1][-1] += " "

    def handle_endtag(self, tag: str) -> None:
        self.cell = self.cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.cell:
            self.tables[self.table][-1][-1] += data

    def row(self, table: str, name: str) -> list[str]:
        rows = ([" ".join(cell.split()) for cell in row] for row in self.tables[table])
        return next(row for row in rows if row[0] == name)


@pytest.fixture
def page() -> Callable[[str], Page]:
    return Page
