"""A model folder that holds its graph predicts, serves and reports where torch, timm and torchvision cannot be imported."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from chestmap.errors import BadInput, BadModel
from chestmap.models import engines
from chestmap.models.engines import ForwardSettings, chosen, open_forward
from chestmap.models.export import add_graph, write_with_graph
from chestmap.models.folder import open_model, read_about, write_about
from chestmap.models.predictor import load
from chestmap.models.verify import look_over
from chestmap.storage.manifest import seal
from serving.small import trained_small, write_small_model
from training.small import METHODS

onnxruntime = pytest.importorskip("onnxruntime")

BLOCK = """
import sys
for name in ("torch", "timm", "torchvision", "lightning_fabric", "safetensors", "tensorboard"):
    sys.modules[name] = None
"""
PREDICT = """
import json, chestmap
model = chestmap.load(sys.argv[1])
found = model.predict(sys.argv[2])
found.show()
print(json.dumps([found.scores.tolist(), [[box.finding, *box.corners] for box in found.boxes], model.forward.engine]))
"""
VERB = """
from chestmap.cli import main
main()
"""
SERVE = """
from pathlib import Path
from chestmap.models.predictor import load
from chestmap.serving.engine.served_model import ServedModel
from chestmap.serving.engine.service import Service
from chestmap.serving.engine.settings import ServeSettings
from chestmap.serving.store.store import Store
from chestmap.serving.http.app import create_app
import chestmap.serving.http.start, chestmap.serving.dicom.start
served = ServedModel(load(sys.argv[1]))
import numpy as np
from chestmap.types import Frame
canvas = served.predictor.model.canvas.canvas
frame = Frame.fit((80.0, 96.0), canvas)
said = served.run_network(np.full((1, canvas[1], canvas[0]), 90, np.uint8), [frame], [("study", Path(sys.argv[2]))])
answers = served.kept(said)
assert len(answers[0].findings) == 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_small_model(tmp_path_factory.mktemp("small") / "model")
    assert load(folder).forward.engine == "torch"  # no graph yet
    add_graph(open_model(folder, None))
    return folder


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "film.png"
    rows, columns = np.mgrid[:90, :61]
    cv2.imwrite(str(path), (127 + 60 * np.sin(rows / 9) + 60 * np.cos(columns / 5)).astype(np.uint8))
    return path


def run(program, *arguments):
    command = [sys.executable, "-c", BLOCK + program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=os.environ)
    assert not done.returncode, done.stderr
    return done.stdout


def test_load_predicts_what_torch_predicts(folder, film):
    scores, boxes, engine = json.loads(run(PREDICT, folder, film))
    assert engine == "onnx"
    wanted = load(folder, ForwardSettings(engine="torch")).predict(film)
    np.testing.assert_allclose(scores, wanted.scores, atol=1e-4)
    assert [box[0] for box in boxes] == [box.finding for box in wanted.boxes]
    for box, other in zip(boxes, wanted.boxes, strict=True):
        np.testing.assert_allclose(box[1:], other.corners, atol=1)


def test_the_graph_in_the_folder_says_what_it_is(folder):
    about = onnxruntime.InferenceSession(folder / "graph.onnx").get_modelmeta().custom_metadata_map
    model = open_model(folder)
    assert json.loads(about["findings"]) == list(model.findings)
    assert about["weights_sha256"] == model.sha256


def test_the_verb_predicts_and_reports(folder, film, tmp_path):
    run(VERB, "predict", folder, film, "--out", tmp_path / "out", "--write", "csv,json,coco,overlays,report")
    assert (tmp_path / "out" / "report.html").is_file()
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())["complete"]


def test_the_service_and_the_node_answer(folder, tmp_path):
    pytest.importorskip("fastapi")
    pytest.importorskip("pynetdicom")
    run(SERVE, folder, tmp_path)


def test_a_folder_without_a_graph_says_what_to_do(folder, monkeypatch):
    model = open_model(folder)
    monkeypatch.setattr(engines, "is_installed", lambda name: name == "onnxruntime")
    object.__setattr__(model, "about", {**model.about, "graph": None})
    with pytest.raises(BadInput, match=r"holds no graph, so it needs torch.*export .* --into"):
        open_forward(model)


def test_a_plain_installation_names_the_extra_that_runs_the_graph(folder, monkeypatch):
    monkeypatch.setattr(engines, "is_installed", lambda name: False)
    monkeypatch.setattr(engines, "has_cuda", lambda: False)
    with pytest.raises(BadInput, match=r'no program is installed that runs its graph; pip install "chestmap\[infer\]"'):
        open_forward(open_model(folder))


def test_auto_takes_the_graph_but_not_on_a_graphics_card(monkeypatch):
    monkeypatch.setattr(engines, "has_cuda", lambda: False)
    assert chosen(ForwardSettings(), graph=True)[0] == "onnx"
    monkeypatch.setattr(engines, "has_cuda", lambda: True)
    assert chosen(ForwardSettings(), graph=True)[:2] == ("torch", "cuda")
    assert chosen(ForwardSettings(device="cpu"), graph=True)[:2] == ("onnx", "cpu")


def test_a_graph_of_other_weights_is_not_used_and_a_changed_one_is_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "model")
    about = read_about(copy)
    (copy / "model.json").write_text(json.dumps({**about, "graph": {**about["graph"], "weights": "0" * 64}}))
    seal(copy)
    assert open_model(copy).graph is None
    (copy / "model.json").write_text(json.dumps(about))
    seal(copy)
    (copy / "graph.onnx").write_bytes(b"other")
    with pytest.raises(BadModel, match=r"graph.onnx: is not the graph that model.json describes"):
        _ = open_model(copy).graph


def test_a_network_that_is_no_graph_is_kept_with_the_reason(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise BadInput("no graph of this")

    monkeypatch.setattr("chestmap.models.export.engine_graph", refuse)
    (tmp_path / "model").mkdir()
    write_with_graph(tmp_path / "model", trained_small())
    assert read_about(tmp_path / "model")["graph"] == {"refused": "no graph of this"}
    assert open_model(tmp_path / "model").graph is None


def test_a_folder_with_a_graph_is_whole(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "model")
    from chestmap.methods import METHODS as ALL

    assert look_over(copy, {**ALL, **METHODS}).problems == ()


def test_a_graph_reads_half_precision_from_the_weights(folder, film, tmp_path):
    """The weights lie there once, the graph says what torch says, and changed weights are refused by programs without torch."""
    copy = shutil.copytree(folder, tmp_path / "model")
    about, weights = read_about(copy), copy / "weights.safetensors"
    half = {key: one.half() if one.is_floating_point() else one for key, one in load_file(weights).items()}
    save_file(half, weights)
    (copy / "graph.onnx").unlink()
    kept = {key: value for key, value in about.items() if key != "graph"}
    write_about(copy, kept | {"sha256": hashlib.sha256(weights.read_bytes()).hexdigest()})
    seal(copy)
    size = add_graph(open_model(copy, None)).stat().st_size
    assert size < (folder / "graph.onnx").stat().st_size
    scores, boxes, engine = json.loads(run(PREDICT, copy, film))
    wanted = load(copy, ForwardSettings(engine="torch")).predict(film)
    assert engine == "onnx"
    np.testing.assert_allclose(scores, wanted.scores, atol=1e-4)
    assert [box[0] for box in boxes] == [box.finding for box in wanted.boxes]
    for box, other in zip(boxes, wanted.boxes, strict=True):
        np.testing.assert_allclose(box[1:], other.corners, atol=1)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BadModel, match=r"weights.safetensors: .*get the model again"):
        _ = open_model(copy).graph
