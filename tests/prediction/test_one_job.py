"""Checks that every way to ask for a prediction gives the same folder, byte for byte, whatever is killed on the way."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from chestmap.datasets import open_source, source_settings
from chestmap.prediction.job import JobSettings, Shard, open_job, predict_all, predict_shard
from chestmap.prediction.providers import DatasetProvider, FileProvider
from chestmap.storage import stores
from prediction.bare_store import Bare
from prediction.predict_small import small_predictor
from training.small import write_dataset

TESTS = Path(__file__).parents[1]
SETTINGS = JobSettings(batch_size=3, part_size=8, workers=0, show_patient=True)


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("CHESTMAP_KEY", "of the tests")
    monkeypatch.setattr(stores, "WAIT", 0)
    Bare.begin(tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture(scope="module")
def predictor(run_folder):
    return small_predictor(run_folder / "model")


def films_of(folder, count):
    """Images whose patient is the image itself, as files have it, and two that are broken."""
    write_dataset(folder, count=count)
    labels = pl.read_csv(folder / "labels.csv", infer_schema=False)
    labels.with_columns(pl.col("image").alias("patient_id")).write_csv(folder / "labels.csv")
    (folder / "000.png").write_bytes(b"nothing")
    content = (folder / "012.png").read_bytes()
    (folder / "012.png").write_bytes(content[: len(content) // 2])
    return folder


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return films_of(tmp_path_factory.mktemp("one job") / "films", 24)


def files_in(folder):
    """Names and bytes; hidden files are locks and caches."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(predictor, films, tmp_path_factory):
    os.environ["CHESTMAP_KEY"] = "of the tests"
    out = tmp_path_factory.mktemp("whole") / "out"
    assert predict_all(predictor, [str(films)], out, SETTINGS, progress=False).images == 22
    return files_in(out)


def parts_of(files):
    """Without the header, which names the dataset where there is one."""
    return {name: content for name, content in files.items() if name.startswith("part-")}


def dataset(films, cache, predictor):
    source = open_source(source_settings({"name": "folder", "root": str(films), "labels": "labels.csv"}))
    return DatasetProvider.packed(source, sorted(source.ids), predictor.model.canvas, cache)


def in_shards(predictor, provider, out, order=("2/3", "0/3", "1/3")):
    for text in order:
        shard = Shard.parse(text)
        share = predict_shard(open_job(predictor, provider, out, SETTINGS, shard.count), shard, 0, progress=False)
    assert share.left == 0
    return files_in(out)


def the_list(films, path):
    names = sorted(one.name for one in films.glob("*.png"))
    pl.DataFrame({"path": [str(films / name) for name in names], "image_id": names}).write_csv(path)
    return FileProvider([str(path)])


def test_files_a_list_and_shards_of_both(predictor, films, whole, tmp_path):
    assert in_shards(predictor, FileProvider([str(films)]), tmp_path / "shards") == whole
    given = the_list(films, tmp_path / "list.csv")
    predict_all(predictor, given, tmp_path / "list", SETTINGS, progress=False)
    assert files_in(tmp_path / "list") == whole
    assert in_shards(predictor, given, tmp_path / "shards of the list") == whole


def test_a_dataset_and_its_shards(predictor, films, whole, tmp_path):
    provider = dataset(films, tmp_path / "cache", predictor)
    predict_all(predictor, provider, tmp_path / "out", SETTINGS, progress=False)
    found = files_in(tmp_path / "out")
    assert parts_of(found) == parts_of(whole)
    assert in_shards(predictor, provider, tmp_path / "shards", ("0/3", "1/3", "2/3")) == found


def test_an_object_store(predictor, films, whole, store):
    predict_all(predictor, [str(films)], "bare://bucket/out", SETTINGS, progress=False)
    assert files_in(store / "bucket" / "out") == whole


def test_images_in_an_object_store(predictor, films, whole, store, tmp_path):
    shutil.copytree(films, store / "bucket" / "films")
    predict_all(predictor, ["bare://bucket/films"], tmp_path / "out", SETTINGS, progress=False)
    assert files_in(tmp_path / "out") == whole


def test_any_call_completes_what_any_other_began(predictor, films, whole, tmp_path):
    """A shard of the files, a shard of the dataset, and a plain call for the rest."""
    out, provider = tmp_path / "out", dataset(films, tmp_path / "cache", predictor)
    files = FileProvider([str(films)])
    share = predict_shard(open_job(predictor, files, out, SETTINGS, 3), Shard(1, 3), 0, progress=False)
    assert share.left == 2
    predict_all(predictor, provider, out, SETTINGS, progress=False)
    assert parts_of(files_in(out)) == parts_of(whole)
    shutil.rmtree(out / "part-00001")
    predict_all(predictor, files, out, SETTINGS, progress=False)
    assert parts_of(files_in(out)) == parts_of(whole)


def killed_at(run_folder, films, out, batch):
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent / 'src'}{os.pathsep}{TESTS}"}
    command = [sys.executable, str(TESTS / "prediction" / "predict_small.py")]
    command += [str(one) for one in (run_folder / "model", films, out, batch, 0, "shown")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr


def test_kill_9_in_the_middle(predictor, run_folder, films, whole, tmp_path):
    killed_at(run_folder, films, tmp_path / "out", 5)
    assert not (tmp_path / "out" / "SHA256SUMS").exists()
    predict_all(predictor, [str(films)], tmp_path / "out", SETTINGS, progress=False)
    assert files_in(tmp_path / "out") == whole


@pytest.mark.slow
def test_three_hundred_images_by_every_route_and_killed_on_each(predictor, run_folder, tmp_path, store):
    films = films_of(tmp_path / "films", 300)
    predict_all(predictor, [str(films)], tmp_path / "whole", SETTINGS, progress=False)
    expected = files_in(tmp_path / "whole")
    assert len(expected) > 38 * 4
    numbers = np.random.default_rng(0).integers(1, 90, 4)
    given, provider = the_list(films, tmp_path / "list.csv"), dataset(films, tmp_path / "cache", predictor)
    for route, number in enumerate(numbers.tolist()):
        out = tmp_path / f"killed {route}"
        killed_at(run_folder, films, out, number)
        if route == 0:
            predict_all(predictor, given, out, SETTINGS, progress=False)
        elif route == 1:
            predict_all(predictor, provider, out, SETTINGS, progress=False)
        elif route == 2:
            in_shards(predictor, FileProvider([str(films)]), out, ("2/3", "1/3", "0/3"))
        else:
            killed_at(run_folder, films, out, 7)
            predict_all(predictor, [str(films)], out, SETTINGS, progress=False)
        assert parts_of(files_in(out)) == parts_of(expected), route
        assert route == 1 or files_in(out) == expected
    predict_all(predictor, given, "bare://bucket/out", SETTINGS, progress=False)
    assert files_in(store / "bucket" / "out") == expected
