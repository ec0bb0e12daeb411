"""What a user writes; the strict type checkers pass it, and nothing here is run."""

from pathlib import Path

import numpy as np

import chestmap


def seen(*what: object) -> None:
    """Stands for what the user does with it."""


def scores(folder: Path, films: list[Path]) -> dict[str, float]:
    model: chestmap.Model = chestmap.load(folder, device="cpu")
    one: chestmap.Prediction = chestmap.predict(model, films[0])
    many: list[chestmap.Prediction] = chestmap.predict(model, films)
    names: chestmap.Findings = one.findings
    boxes: tuple[chestmap.Box, ...] = many[0].boxes
    seen(names.names, [box.corners for box in boxes], one.map("Mass").shape, one.to_polars().height)
    return {name: one.score(name) for name in names}


def training(config: Path) -> Path:
    source: chestmap.Source = chestmap.Source.open("folder", config.parent, labels="labels.csv")
    seen(len(source), sorted(chestmap.METHODS))
    model: Path = chestmap.train(config, ["run.seed=1"], out="runs/own")
    evaluation = chestmap.evaluate("runs/own", part="test", resamples=200)
    seen(evaluation.only_score("AUC", finding="mean").value)
    page: Path = chestmap.report("runs/own", pictures=20)
    area = chestmap.metrics.auc(np.array([0.1, 0.9]), np.array([0.0, 1.0]))
    seen(page, area.value if area else None)
    return model
