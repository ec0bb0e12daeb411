"""Checks that every way to ask for a prediction gives the same folder, byte for byte, whatever is killed on the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import polars as pl
import pytest

from chestmap.phantom import Case, draw
from chestmap.prediction import ray as cluster
from chestmap.prediction.job import JobSettings, Shard, open_job, predict_all, predict_shard
from chestmap.prediction.providers import FileProvider
from chestmap.prediction.ray import ClusterSettings, predict_on_cluster
from chestmap.prediction.request import Request
from chestmap.storage import stores
from prediction.bare_store import Bare
from prediction.predict_small import predict, provider_of, small_predictor
from prediction.test_ray import StandIn
from training.small import write_dataset

TESTS = Path(__file__).parents[1]
BROKEN = (0, 12)
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


def apart_from_the_dataset(files):
    """The header says which images of which dataset it is of, so that an evaluation refuses others; all else is the same."""
    header = json.loads(files["predictions.json"])
    header.pop("dataset", None)
    return {**files, "predictions.json": header, "SHA256SUMS": b""}


def dataset(films, predictor):
    return provider_of("dataset", films, predictor)


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
    provider = dataset(films, predictor)
    predict_all(predictor, provider, tmp_path / "out", SETTINGS, progress=False)
    found = files_in(tmp_path / "out")
    assert apart_from_the_dataset(found) == apart_from_the_dataset(whole)
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
    out, provider = tmp_path / "out", dataset(films, predictor)
    files = FileProvider([str(films)])
    share = predict_shard(open_job(predictor, files, out, SETTINGS, 3), Shard(1, 3), 0, progress=False)
    assert share.left == 2
    predict_all(predictor, provider, out, SETTINGS, progress=False)
    assert apart_from_the_dataset(files_in(out)) == apart_from_the_dataset(whole)
    shutil.rmtree(out / "part-00001")
    predict_all(predictor, files, out, SETTINGS, progress=False)
    assert apart_from_the_dataset(files_in(out)) == apart_from_the_dataset(whole)


def killed_at(run_folder, films, out, batch, route="files"):
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent / 'src'}{os.pathsep}{TESTS}", "BARE_ROOT": str(Bare.root)}
    command = [sys.executable, str(TESTS / "prediction" / "predict_small.py")]
    command += [str(one) for one in (run_folder / "model", films, out, batch, 0, "shown", route)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_kill_9_in_the_middle(predictor, run_folder, films, whole, tmp_path):
    killed_at(run_folder, films, tmp_path / "out", 5)
    assert not (tmp_path / "out" / "SHA256SUMS").exists()
    predict_all(predictor, [str(films)], tmp_path / "out", SETTINGS, progress=False)
    assert files_in(tmp_path / "out") == whole


class Actors(StandIn):
    """Two actors of a cluster, in this process."""

    def remote(self, **_):
        def made(kind):
            def begun(*words, **named):
                actor = kind(*words, **named)
                call = lambda name: SimpleNamespace(remote=lambda *words: lambda: getattr(actor, name)(*words))  # noqa: E731
                return SimpleNamespace(**{name: call(name) for name in ("missing", "predict", "complete")})

            return SimpleNamespace(remote=begun)

        return made


def on_ray(predictor, monkeypatch, films, out):
    monkeypatch.setattr(cluster, "connected", lambda *_: nullcontext(Actors(CPU=2.0)))
    request = Request(
        model=Path(), out=str(out), given=(str(films),), settings=SETTINGS.model_dump(), open_predictor=lambda: predictor
    )
    share = predict_on_cluster(request, ClusterSettings(actors=2), lambda _: None, progress=False)
    assert share.left == 0


def test_actors_of_a_cluster(predictor, films, whole, tmp_path, monkeypatch):
    on_ray(predictor, monkeypatch, films, tmp_path / "out")
    assert files_in(tmp_path / "out") == whole


def phantoms(folder, count):
    """Drawn chests in place of the pictures, of the same names."""
    films_of(folder, count)
    for number, path in enumerate(sorted(folder.glob("*.png"))):
        if number not in BROKEN:
            found = ("Effusion", "Mass", "Nodule")[number % 3]
            case = Case(
                seed=0, patient=number, follow_up=0, sex="FM"[number % 2], age=20 + number % 60, view="PA", findings=(found,)
            )
            cv2.imwrite(str(path), draw(case, 64).pixels)
    the_list(folder, folder.parent / "list.csv")
    return folder


@pytest.mark.slow
def test_three_hundred_phantoms_by_every_route_and_killed_on_each(predictor, run_folder, tmp_path, store, monkeypatch):
    films = phantoms(tmp_path / "films", 300)
    predict_all(predictor, [str(films)], tmp_path / "whole", SETTINGS, progress=False)
    expected = files_in(tmp_path / "whole")
    assert len(expected) > 38 * 4
    shutil.copytree(films, store / "bucket" / "films")
    moments = iter(np.random.default_rng(0).integers(1, 90, 20).tolist())
    routes = {name: (films, tmp_path / f"by {name}", name) for name in ("files", "list", "dataset", "shards")}
    routes["store"] = films, "bare://bucket/out", "files"
    for name, (given, out, route) in routes.items():
        killed_at(run_folder, given, out, next(moments), route)
        predict(predictor, route, given, str(out), SETTINGS)
        found = files_in(store / "bucket" / "out" if name == "store" else out)
        assert apart_from_the_dataset(found) == apart_from_the_dataset(expected), name
        assert name == "dataset" or found == expected, name
    predict_all(predictor, ["bare://bucket/films"], tmp_path / "from the store", SETTINGS, progress=False)
    assert files_in(tmp_path / "from the store") == expected
    killed_at(run_folder, films, tmp_path / "ray", next(moments))
    on_ray(predictor, monkeypatch, films, tmp_path / "ray")
    assert files_in(tmp_path / "ray") == expected
    killed_at(run_folder, films, tmp_path / "mixed", 30, "shards")  # and each goes on with what another began
    killed_at(run_folder, films, tmp_path / "mixed", 20, "list")
    predict(predictor, "dataset", films, str(tmp_path / "mixed"), SETTINGS)
    assert apart_from_the_dataset(files_in(tmp_path / "mixed")) == apart_from_the_dataset(expected)
