"""The engine of a job: the one that its folder was begun with, or the fastest that is measured on its own images."""

import json
import shutil

import pytest

from chestmap.models import engines, tuned
from chestmap.models.engines import ForwardSettings
from chestmap.models.export import add_graph
from chestmap.models.folder import open_model
from chestmap.prediction import measured_engine
from chestmap.prediction.job import Shard
from chestmap.prediction.measured_engine import as_begun
from chestmap.prediction.request import Request
from serving.small import write_small_model
from training.small import write_dataset

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def with_graph(tmp_path_factory):
    folder = write_small_model(tmp_path_factory.mktemp("small") / "model")
    add_graph(open_model(folder))
    return folder


@pytest.fixture
def job(with_graph, tmp_path, monkeypatch):
    """A request of six images, and a machine on which nothing was measured yet."""
    monkeypatch.setenv("CHESTMAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CHESTMAP_KEY", "of the tests")
    monkeypatch.setattr(engines, "has_cuda", lambda: False)
    monkeypatch.setattr(measured_engine, "has_cuda", lambda: False)
    films = write_dataset(tmp_path / "films", count=6)
    return Request(model=with_graph, out=str(tmp_path / "out"), given=(str(films),), settings={"workers": 0})


def kept(tmp_path):
    return sorted((tmp_path / "cache" / "engines").glob("*.json"))


def test_a_small_job_measures_nothing(job, tmp_path, capsys):
    job.run()
    assert kept(tmp_path) == []
    assert "Measuring" not in capsys.readouterr().err


def test_a_large_job_measures_once_and_says_so_in_a_line(job, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measured_engine, "FEWEST", 6)
    monkeypatch.setattr(measured_engine, "SECONDS", 0.0)
    _, outputs = job.run()
    (note,) = kept(tmp_path)
    tree = json.loads(note.read_text())
    assert {way["engine"] for way in tree["ways"]} == {"onnx", "openvino"}
    assert outputs.predictor.forward.engine == tree["fastest"]["32"]["engine"]
    assert "the fastest way that was measured here" in outputs.predictor.forward.why
    assert len([line for line in capsys.readouterr().err.splitlines() if line.startswith("Measuring")]) == 1
    job.run()
    assert "Measuring" not in capsys.readouterr().err


def test_a_share_of_a_job_measures_nothing(job, tmp_path, monkeypatch):
    monkeypatch.setattr(measured_engine, "FEWEST", 1)
    monkeypatch.setattr(measured_engine, "SECONDS", 0.0)
    job.run(Shard(0, 2))
    assert kept(tmp_path) == []


def test_a_call_that_goes_on_keeps_the_engine_of_the_first(job, tmp_path, monkeypatch):
    job.run()
    out = tmp_path / "out"
    assert json.loads((out / "predictions.json").read_text())["model"]["forward"]["engine"] == "onnx"
    shutil.rmtree(out / "part-00000")
    way = tuned.Candidate(engine="openvino", precision=32, threads=1, rate=9.0)
    monkeypatch.setattr(tuned, "tuned", lambda model, precision: way)
    (tmp_path / "cache" / "engines").mkdir(parents=True, exist_ok=True)
    share, outputs = job.run()
    assert (share.images, outputs.predictor.forward.engine) == (6, "onnx")
    assert as_begun(ForwardSettings(engine="openvino"), out).engine == "openvino"
    assert as_begun(ForwardSettings(device="cuda"), out).engine == "auto"
    assert as_begun(ForwardSettings(), tmp_path) == ForwardSettings()
