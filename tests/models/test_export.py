"""An exported model says what torch says, in every room whose network is a graph, and needs neither torch nor chestmap."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from chestmap.errors import BadInput, Diverged, Refused
from chestmap.imaging.canvas import CanvasSettings
from chestmap.imaging.read import read_radiograph
from chestmap.methods import METHODS
from chestmap.models import export as module
from chestmap.models.export import FORMATS, export, run
from chestmap.models.folder import Model, open_model
from chestmap.models.graph import Graph, traced
from chestmap.models.predictor import Predictor, images_of
from chestmap.predictions.folder import OwnRule
from chestmap.tensors import Output
from chestmap.types import Findings
from training.small import METHODS as SMALL

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def model(run_folder):
    """Calibrated, and without any label of one finding."""
    opened = open_model(run_folder / "model", SMALL)
    labels = {"train": {"labels": {"Effusion": {"present": 3}, "Mass": {"present": 2}, "Nodule": {"present": 0}}}}
    changes = {"calibration": {"Effusion": {"slope": 1.5, "offset": -0.25}}, "data": {**opened.about["data"], **labels}}
    return replace(opened, about={**opened.about, **changes})


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    return export(model, FORMATS, tmp_path_factory.mktemp("export") / "out")


@pytest.fixture(scope="module")
def canvases():
    return np.random.default_rng(7).integers(0, 256, (5, 32, 32), dtype=np.uint8)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_agrees_for_every_batch(name, model, exported, canvases):
    for count in (5, 1):
        scores, maps = run(exported, name, canvases[:count])
        wanted = Predictor(model).raw(images_of(canvases[:count]))
        assert scores.shape == (count, 2)  # "Nodule" had no label
        np.testing.assert_allclose(scores, wanted[0], atol=1e-5)
        np.testing.assert_allclose(maps, wanted[1], rtol=1e-3, atol=1e-4)


def test_scores_are_calibrated(model, exported, canvases):
    with torch.no_grad():
        logits = model.network(torch.from_numpy(images_of(canvases))).logits.numpy()
    scores, _ = run(exported, "onnx", canvases)
    np.testing.assert_allclose(scores[:, 0], 1 / (1 + np.exp(-(1.5 * logits[:, 0] - 0.25))), atol=1e-5)
    np.testing.assert_allclose(scores[:, 1], 1 / (1 + np.exp(-logits[:, 1])), atol=1e-5)


def test_the_description_and_its_checksums(exported, model):
    about = json.loads((exported / "export.json").read_text())
    assert about["findings"] == ["Effusion", "Mass"]
    assert about["input"]["shape"] == ["batch", 1, 32, 32]
    assert about["outputs"]["maps"]["shape"] == ["batch", 2, 32, 32]
    assert about["outputs"]["scores"]["calibrated"]
    assert about["own_rule"] == {"threshold": 0.5, "normalize": True}
    assert about["model_sha256"] == model.sha256
    assert set(about["files"]) == {"network.onnx", "network.xml", "network.bin", "network.pt2"}
    assert not list(exported.parent.glob("*.making"))


def test_the_graph_alone_says_what_it_is(exported, model):
    about = onnxruntime.InferenceSession(exported / "network.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(about["findings"]) == ["Effusion", "Mass"]
    assert json.loads(about["canvas"]) == {"width": 32, "height": 32, "fit": model.canvas.fit}
    assert about["weights_sha256"] == model.sha256
    assert about["license"] == "none stated"
    assert "not a medical device" in about["use"]


BLOCKED = """\
import sys
for name in ("torch", "chestmap", "timm"):
    sys.modules[name] = None
exec(open("program.py").read())
"""


@pytest.mark.parametrize(("name", "fit"), [("onnx", "letterbox"), ("openvino", "squash")])
def test_the_readme_program_runs_where_there_is_no_torch(name, fit, model, tmp_path):
    model = replace(model, canvas=CanvasSettings(width=48, height=32, fit=fit))
    folder = export(model, [name], tmp_path / "out")
    program = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
    assert len(program.splitlines()) <= 18
    assert (folder / "program.py").read_text() == program
    rows, columns = np.mgrid[:90, :61]
    film = (127 + 60 * np.sin(rows / 9) + 60 * np.cos(columns / 5)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "film.png"), film)
    command = [sys.executable, "-c", BLOCKED, str(tmp_path / "film.png")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert not done.returncode, done.stderr
    printed = dict(line.split("\t") for line in done.stdout.splitlines())
    wanted = Predictor(model).predict_many([read_radiograph(tmp_path / "film.png")])[0]
    assert list(printed) == list(wanted.findings)
    np.testing.assert_allclose([float(value) for value in printed.values()], wanted.scores, atol=1e-4)


QUICK = ("ham",)
ROOMS = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in METHODS]


@pytest.mark.parametrize("name", ROOMS)
def test_every_room_is_a_graph(name, tmp_path):
    method, canvas, findings = METHODS[name], CanvasSettings(width=96, height=64), Findings(("Effusion", "Mass", "Nodule"))
    torch.manual_seed(0)
    settings = method.settings.model_validate({"name": name, **method.tiny})
    network = method.build(settings, findings, canvas.canvas).eval()
    for buffer in ("thumbs", "attentions", "masks"):
        if buffer in dict(network.named_buffers()):
            network.get_buffer(buffer).copy_(torch.rand(network.get_buffer(buffer).shape) * 9)
    about = {
        "method": name,
        "title": method.title,
        "paper": method.paper,
        "sha256": "0",
        "data": {},
        "own_rule": {"threshold": 0.5, "normalize": True},
    }
    model = Model(folder=tmp_path, findings=findings, canvas=canvas, own_rule=OwnRule(0.5), about=about, built=network)
    folder = export(model, ["onnx"] if name in QUICK else ["onnx", "openvino"], tmp_path / "out")
    canvases = np.random.default_rng(1).integers(0, 256, (3, 64, 96)).astype(np.uint8)
    wanted = Predictor(model).raw(images_of(canvases))
    for kind in json.loads((folder / "export.json").read_text())["scores_differ_from_torch"]:
        scores, maps = run(folder, kind, canvases)
        np.testing.assert_allclose(scores, wanted[0], atol=1e-4)
        np.testing.assert_allclose(maps, wanted[1], rtol=1e-3, atol=1e-3 * float(wanted[1].max()))


class Deciding(torch.nn.Module):
    def forward(self, images):
        return Output(images.mean((-2, -1)) if images.sum() > 9 else images.amax((-2, -1)), images)


def test_a_network_that_decides_by_its_numbers_is_refused():
    with pytest.raises(Refused, match=r"ham: torch cannot write this network as a graph .* use the engine torch"):
        traced(Graph(Deciding()), (8, 8), "ham")


def test_a_folder_that_is_not_empty_is_left_alone(model, tmp_path):
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(BadInput, match="is not empty"):
        export(model, ["onnx"], tmp_path)
    assert (tmp_path / "mine").read_text() == "kept"


def test_a_graph_that_differs_is_not_written(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "run", lambda *_: (np.full((3, 2), 0.5), np.zeros((3, 2, 32, 32))))
    with pytest.raises(Diverged, match="differs from torch"):
        export(model, ["onnx"], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
