"""`chestmap predict --out ADDRESS` as it is typed, and what reads an address."""

import pytest
import typer
from typer.testing import CliRunner

from chestmap.cli import predict, score
from chestmap.errors import BadInput
from chestmap.methods import METHODS as ALL
from chestmap.prediction.ray import PartActor
from chestmap.prediction.request import Request
from chestmap.predictions.folder import open_predictions
from chestmap.storage import stores
from prediction.bare_store import Bare
from prediction.predict_small import small_predictor
from prediction.test_remote import files_in
from training.small import METHODS, write_dataset

app = typer.Typer()
predict.add_to(app)
score.add_to(app)

FP32 = ("--device", "cpu", "--engine", "torch", "--precision", "32", "--workers", "0", "--batch-size", "4")


@pytest.fixture(autouse=True)
def store(monkeypatch, tmp_path):
    monkeypatch.setitem(ALL, "small", METHODS["small"])
    monkeypatch.setenv("CHESTMAP_KEY", "of the tests")
    monkeypatch.setattr(stores, "WAIT", 0)
    monkeypatch.chdir(tmp_path)
    Bare.begin(tmp_path / "store")
    return tmp_path / "store"


def typed(*words):
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def test_results_of_every_kind_go_to_the_address(run_folder, tmp_path, store):
    films = write_dataset(store / "bucket" / "films", count=3)
    words = (
        "predict",
        run_folder / "model",
        "bare://bucket/films",
        *FP32,
        "--write",
        "csv,overlays",
        "--scratch",
        tmp_path / "scratch",
    )
    done = typed(*words, "--out", "bare://bucket/out/")
    assert (done.exit_code, done.stdout.strip()) == (0, "bare://bucket/out/")
    assert list((tmp_path / "scratch").iterdir()) == []
    assert "3 images; 2 files that are no images were passed over" in done.stderr
    assert (
        typed("predict", run_folder / "model", films, *FP32, "--write", "csv,overlays", "--out", tmp_path / "out").exit_code
        == 0
    )
    assert files_in(store / "bucket" / "out") == files_in(tmp_path / "out")
    before = {name: (store / name).stat().st_mtime_ns for name in Bare.names() if "overlays" in name or "part-" in name}
    (films / "bad.png").write_bytes(b"nothing")
    done = typed(*words, "--out", "bare://bucket/out")
    assert done.exit_code == 1
    assert "their reasons are in bare://bucket/out/errors.csv" in done.stderr
    assert (store / "bucket/out/errors.csv").is_file()
    assert all((store / name).stat().st_mtime_ns == time for name, time in before.items())  # only what changed is sent


def test_shares_then_the_tables(run_folder, tmp_path, store):
    films = write_dataset(tmp_path / "films", count=5)
    words = ("predict", run_folder / "model", films, "--out", "bare://bucket/out", *FP32)
    done = typed(*words, "--shard", "0/2")
    assert "5 images; the folder is complete" in done.stderr
    with pytest.raises(BadInput, match="for an address leave it out of --shard 0/2"):
        typed(*words, "--shard", "0/2", "--write", "overlays")
    assert typed(*words, "--shard", "0/1", "--write", "csv").exit_code == 0
    assert (
        typed(
            "predict", run_folder / "model", films, "--out", tmp_path / "out", *FP32, "--shard", "0/1", "--write", "csv"
        ).exit_code
        == 0
    )
    assert files_in(store / "bucket" / "out") == files_in(tmp_path / "out")


def test_a_dataset_and_what_reads_it(run_folder, tmp_path, store):
    films = write_dataset(tmp_path / "films", count=6)
    data = ("--source", "folder", "--root", films, "--set", "labels=labels.csv", "--set", "boxes=boxes.csv")
    assert typed("predict", run_folder / "model", *data, "--out", "bare://bucket/all", *FP32).exit_code == 0
    assert typed("predict", run_folder / "model", *data, "--out", tmp_path / "out", *FP32).exit_code == 0
    assert files_in(store / "bucket" / "all") == files_in(tmp_path / "out")
    with pytest.raises(BadInput, match="is read only; say with --out"):
        typed("evaluate", "bare://bucket/all", *data)
    done = typed("compare", "bare://bucket/all", tmp_path / "out", *data, "--json", "--cache", tmp_path / "cache")
    assert done.exit_code == 0
    assert "difference" in done.stdout


def test_an_actor_of_a_cluster_makes_parts_for_an_address(run_folder, tmp_path, store):
    films = write_dataset(tmp_path / "films", count=4)
    sizes = {"batch_size": 2, "part_size": 2}
    work = Request(
        model=run_folder / "model", out="bare://bucket/out", given=(str(films),), settings=sizes, scratch=tmp_path / "scratch",
        open_predictor=lambda: small_predictor(run_folder / "model"),
    )  # fmt: skip
    one, other = (PartActor(work, 2, apart=False) for _ in range(2))
    assert one.missing() == {0: 2, 1: 2}
    assert (one.predict(0), other.predict(1), other.predict(0)) == (0, 1, 0)
    assert one.complete().images == 4
    assert len(open_predictions("bare://bucket/out", tmp_path / "cache")) == 4
