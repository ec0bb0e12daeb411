"""The starter: a model that comes with the package, found by its name, small, and honest about what it saw."""

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from chestmap.api.model_names import model_folder
from chestmap.cli import predict
from chestmap.methods import METHODS
from chestmap.models.engines import ForwardSettings
from chestmap.models.folder import open_model
from chestmap.models.hub import known_models
from chestmap.models.network import network_of
from chestmap.models.predictor import load

FOLDER = model_folder("starter")


@pytest.fixture(scope="module")
def film():
    """Two dark lungs in a gray chest; no film of a patient is needed to see that boxes come out."""
    y, x = np.mgrid[0:300, 0:280]
    lungs = sum(np.exp(-(((x - center) / 45) ** 2) - ((y - 140) / 90) ** 2) for center in (80, 200))
    return (200 - 150 * np.clip(lungs, 0, 1)).astype(np.uint8)


def test_it_is_found_by_name_and_small():
    assert FOLDER.name == "starter"
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 12e6
    assert open_model(FOLDER, METHODS).sha256 == known_models()["starter"]["sha256"]
    allowed = {".safetensors", ".onnx", ".json", ".md", ".svg", ".toml", ""}  # the last is SHA256SUMS
    assert {path.suffix for path in FOLDER.iterdir()} <= allowed


def test_it_computes_in_single_precision_and_gives_boxes(film):
    predictor = load(FOLDER, ForwardSettings(engine="torch"))
    assert {value.dtype for value in network_of(predictor.model).state_dict().values() if value.is_floating_point()} == {
        torch.float32
    }
    prediction = predictor.predict(film)
    assert np.isfinite(prediction.scores).all()
    assert ((prediction.scores > 0) & (prediction.scores < 1)).all()
    boxes = {box.finding: box for box in prediction.boxes}
    assert {"Cardiomegaly", "Effusion", "Pneumonia"} <= boxes.keys()
    for box in boxes.values():
        assert 0 <= box.x0 < box.x1 <= 280
        assert 0 <= box.y0 < box.y1 <= 300
    heart = boxes["Cardiomegaly"]
    assert (heart.x1 - heart.x0) * (heart.y1 - heart.y0) < 0.6 * film.size


def test_its_graph_gives_boxes_without_torch(film, tmp_path):
    """In a process that cannot import torch; scores within 1e-4 of torch's, boxes within a pixel."""
    pytest.importorskip("onnxruntime")
    cv2.imwrite(str(tmp_path / "film.png"), film)
    program = """
import sys
for name in ("torch", "timm", "torchvision", "safetensors", "lightning_fabric"):
    sys.modules[name] = None
import json, chestmap
model = chestmap.load("starter")
found = model.predict(sys.argv[1])
print(json.dumps([model.forward.engine, found.scores.tolist(), [[box.finding, *box.corners] for box in found.boxes]]))
"""
    command = [sys.executable, "-c", program, str(tmp_path / "film.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert not done.returncode, done.stderr
    engine, scores, boxes = json.loads(done.stdout)
    wanted = load(FOLDER, ForwardSettings(engine="torch")).predict(film)
    assert engine == "onnx"
    np.testing.assert_allclose(scores, wanted.scores, atol=1e-4)
    assert [box[0] for box in boxes] == [box.finding for box in wanted.boxes]
    for box, other in zip(boxes, wanted.boxes, strict=True):
        np.testing.assert_allclose(box[1:], other.corners, atol=1)


def test_its_card_says_what_it_saw_and_what_it_is_for():
    text = (FOLDER / "README.md").read_text()
    for words in ("Research use only", "NIH Clinical Center", "ChestX-ray8", "2,746", "711", "By sex, age and view"):
        assert words in text
    assert not re.search(r"/(work|home|root|tmp)/", text + (FOLDER / "model.json").read_text())


def test_predict_takes_the_name(film, tmp_path: Path):
    app = typer.Typer()
    predict.add_to(app)
    cv2.imwrite(str(tmp_path / "film.png"), film)
    words = ["starter", str(tmp_path / "film.png"), "--out", str(tmp_path / "out"), "--write", "csv", "--workers", "0"]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "Cardiomegaly" in "".join(path.read_text() for path in (tmp_path / "out").rglob("*.csv"))
