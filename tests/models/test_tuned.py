"""`--engine auto` takes what was measured, as long as it says what fp32 says."""

import json

import numpy as np
import pytest

from chestmap.errors import BadInput
from chestmap.models import engines
from chestmap.models import tuned as module
from chestmap.models.engines import Forward, ForwardSettings, open_forward
from chestmap.models.folder import open_model
from chestmap.models.tuned import Candidate, tune, tuned
from chestmap.types import Radiograph
from training.small import METHODS

NEAR, FAR = 1e-4, 0.5


@pytest.fixture
def model(run_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CHESTMAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(engines, "has_cuda", lambda: False)
    return open_model(run_folder / "model", METHODS)


@pytest.fixture
def measured(model, monkeypatch):
    """Programs that differ from fp32 by a known amount, and are as fast as they are told to be."""
    shift = {
        ("onnx", 32): NEAR,
        ("openvino", 32): 0.0,
        ("openvino", "bf16"): FAR,
        ("torch", 32): 0.0,
        ("torch", "bf16"): NEAR,
    }
    speed = {("onnx", 32): 9, ("openvino", 32): 5, ("openvino", "bf16"): 99, ("torch", 32): 3, ("torch", "bf16"): 30}
    grid = np.linspace(0, 1, 3 * 8 * 8, dtype=np.float32).reshape(1, 3, 8, 8)

    def opened(_, settings):
        way = settings.engine, settings.precision
        return Forward(
            engine=way[0],
            device="cpu",
            precision=way[1],
            compute=lambda images: (np.full((len(images), 3), shift[way], np.float32), np.repeat(grid, len(images), 0)),
        )

    monkeypatch.setattr(module, "open_forward", opened)
    monkeypatch.setattr(module, "is_installed", lambda name: True)
    monkeypatch.setattr(module, "threads", lambda: 2)

    def rates(forward, images, seconds):
        return speed[forward.engine, forward.precision] * len(images)

    monkeypatch.setattr(module, "_rate", rates)
    return tune(model, [Radiograph(pixels=np.full((40, 40), 0.5, np.float32), image_id="one")], seconds=0)


def test_all_ways_are_measured_fastest_first(measured):
    assert len(measured) == 5 * 2 * 3
    assert (measured[0].engine, measured[0].precision, measured[0].batch) == ("openvino", "bf16", 8)
    assert not measured[0].is_near  # the fastest, and too far away
    assert [way.rate for way in measured] == sorted((way.rate for way in measured), reverse=True)


def test_auto_takes_the_fastest_near_one(measured, model, monkeypatch):
    assert (tuned(model, "auto").engine, tuned(model, "auto").precision) == ("torch", "bf16")
    assert (tuned(model, 32).engine, tuned(model, 32).precision) == ("onnx", 32)
    assert tuned(model, "bf16") is None
    settings, why = engines._measured(model, ForwardSettings())
    assert (settings.engine, settings.precision) == ("onnx", 32)
    assert why == "onnx, fp32, 1 threads, 8 images at once: the fastest way that was measured here"
    assert engines._measured(model, ForwardSettings(engine="torch")) == (ForwardSettings(engine="torch"), "")


@pytest.mark.parametrize("change", ["processor", "onnxruntime"])
def test_another_machine_measures_its_own(change, measured, model, monkeypatch):
    monkeypatch.setattr(module, "processor_name", lambda: "another") if change == "processor" else None
    monkeypatch.setattr(module, "_version", lambda name: "9") if change == "onnxruntime" else None
    assert tuned(model, 32) is None


def test_a_damaged_note_is_passed_over(measured, model):
    (note,) = (module.cache_folder() / "engines").iterdir()
    kept = json.loads(note.read_text())
    note.write_text(json.dumps({**kept, "fastest": {"32": {"engine": "onnx"}}}))
    assert tuned(model, 32) is None


def test_without_an_image_nothing_is_measured(model):
    with pytest.raises(BadInput, match="no image to measure with"):
        tune(model, [])


def test_a_real_way_is_measured_and_taken(model, monkeypatch):
    monkeypatch.setattr(module, "_ways", lambda *_, **__: iter([Candidate(engine="torch", precision=32, threads=1)]))
    tune(model, [Radiograph(pixels=np.full((40, 40), 0.5, np.float32), image_id="one")], seconds=0.001)
    forward = open_forward(model)
    assert (forward.engine, forward.precision) == ("torch", 32)
    assert forward.why
