"""Results at an address: whatever dies while it sends, whoever shares, a downloaded copy is byte for byte the folder of a local run."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chestmap.errors import BadInput, BadModel
from chestmap.prediction.job import JobSettings, Shard, open_job, predict_all, predict_shard
from chestmap.prediction.providers import FileProvider
from chestmap.predictions.folder import open_predictions, read_header
from chestmap.storage import stores
from chestmap.storage.results_folder import RemoteFolder, place_of
from prediction.bare_store import Bare, Killed
from prediction.predict_small import small_predictor
from training.small import write_dataset

TESTS = Path(__file__).parents[1]
AT = "bare://bucket/results/of it"
SETTINGS = JobSettings(batch_size=2, part_size=3, workers=0)


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("CHESTMAP_KEY", "of the tests")
    monkeypatch.setattr(stores, "WAIT", 0)
    Bare.begin(tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture(scope="module")
def predictor(run_folder):
    return small_predictor(run_folder / "model")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Three parts, and a file in the second that is no image."""
    folder = write_dataset(tmp_path_factory.mktemp("remote") / "films", count=8)
    (folder / "003a.png").write_bytes(b"nothing")
    return folder


def streamed(predictor, films, out):
    return predict_all(predictor, [str(films)], out, SETTINGS, progress=False)


def shared(predictor, films, out, shard="0/1"):
    shard = Shard.parse(shard)
    return predict_shard(
        open_job(predictor, FileProvider([str(films)]), out, SETTINGS, shard.count), shard, 0, progress=False
    )


WAYS = {"stream": streamed, "shard": shared}


@pytest.fixture(scope="module")
def local(predictor, films, tmp_path_factory):
    os.environ["CHESTMAP_KEY"] = "of the tests"
    folder = tmp_path_factory.mktemp("local")
    for name, way in WAYS.items():
        way(predictor, films, folder / name)
    return folder


def files_in(folder):
    """Names and bytes; hidden files are locks and caches."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_copy_of_what_is_there_is_the_local_folder(predictor, films, local, store, way, late):
    Bare.begin(store, late=late)
    done = WAYS[way](predictor, films, AT)
    assert done.images == 8
    assert files_in(store / "bucket/results/of it") == files_in(local / way)


@pytest.mark.parametrize(("way", "step"), [("shard", 6), *(pytest.param(way, 1, marks=pytest.mark.slow) for way in WAYS)])
def test_whichever_put_it_dies_in_the_next_call_makes_it_whole(predictor, films, local, tmp_path, way, step):
    """One put after the other, until a call lives through."""
    for number in range(2, 40, step):
        Bare.begin(tmp_path / str(number), dies=number)
        try:
            WAYS[way](predictor, films, AT)
        except Killed:
            Bare.dies = 0
            there = [name for name in Bare.names() if name.endswith("predictions.json")]
            assert not there or b'"complete": false' in (Bare.root / there[0]).read_bytes()
            WAYS[way](predictor, films, AT)
        else:
            break
        assert files_in(Bare.root / "bucket/results/of it") == files_in(local / way), number
    assert 12 < number < 36


def test_kill_9_while_a_part_is_sent(predictor, films, local, store, tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent / 'src'}{os.pathsep}{TESTS}"}
    environment |= {"BARE_ROOT": str(store), "BARE_DIES": "7", "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(TESTS / "prediction" / "bare_store.py"), str(local / "shard"), AT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    place = RemoteFolder(AT, tmp_path)
    assert place.parts() == {0}
    assert any("part-00001" in name for name in Bare.names())  # half of it
    assert shared(predictor, films, place).images == 8
    assert files_in(store / "bucket/results/of it") == files_in(local / "shard")


def test_shares_in_any_order_and_nothing_is_done_twice(predictor, films, local, store):
    assert shared(predictor, films, AT, "2/3").left == 2
    assert "bucket/results/of it/plan/chosen" in Bare.names()
    share = shared(predictor, films, AT, "0/3")
    assert (share.images, share.left) == (3, 1)
    before = {name: (store / name).stat().st_mtime_ns for name in Bare.names()}
    share = shared(predictor, films, AT, "1/3")
    assert (share.images, len(share.failed), share.left) == (8, 1, 0)
    after = {name: (store / name).stat().st_mtime_ns for name in Bare.names()}
    assert all(after[name] == time for name, time in before.items() if name.endswith(("scores.parquet", "maps.npy")))
    assert files_in(store / "bucket/results/of it") == files_in(local / "shard")


def test_two_that_meet_at_the_start_and_at_the_end(predictor, films, local, store):
    """Both found no plan, one is chosen; both make all parts, the first stays; both complete the folder."""
    one, other = place_of(AT), place_of(AT)
    jobs = [open_job(predictor, FileProvider([str(films)]), place, SETTINGS) for place in (one, other)]
    assert len([name for name in Bare.names() if name.endswith("plan.json")]) == 1
    times = []
    for job in jobs:
        assert predict_shard(job, Shard(), 0, progress=False).images == 8
        times.append({name: (store / name).stat().st_mtime_ns for name in Bare.names() if "part-" in name})
    assert times[0] == times[1]
    assert files_in(store / "bucket/results/of it") == files_in(local / "shard")


def test_a_plan_that_lost_is_replaced_by_the_one_that_was_chosen(predictor, films, monkeypatch):
    first, second = place_of(AT), place_of(AT)
    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "bring_plan", lambda self: False)  # both looked before either wrote
        open_job(predictor, FileProvider([str(films)]), first, SETTINGS)
        job = open_job(predictor, FileProvider([str(films)]), second, SETTINGS.model_copy(update={"part_size": 5}))
    assert (job.blocks.part_size, job.blocks.parts) == (3, 3)


def test_a_folder_that_grew(predictor, films, tmp_path):
    folder = shutil.copytree(films, tmp_path / "films")
    late = (folder / "000.png").rename(tmp_path / "late.png")
    assert streamed(predictor, folder, AT).images == 7
    late.rename(folder / "000.png")
    assert streamed(predictor, folder, AT).images == 8
    assert open_predictions(AT, tmp_path / "cache").image_ids[-1] == "000.png"


def test_a_reader_fetches_once_what_does_not_change(predictor, films, local, store, tmp_path, monkeypatch):
    assert shared(predictor, films, AT, "0/2").left
    with pytest.raises(BadModel, match="predictions are unfinished"):
        open_predictions(AT, tmp_path)
    shared(predictor, films, AT, "1/2")
    names, really = [], Bare.get_file
    monkeypatch.setattr(Bare, "get_file", lambda self, there, here, **more: names.append(there) or really(self, there, here))
    found = open_predictions(AT, tmp_path)
    assert found.folder.name == "of_it"
    assert found.image_ids == open_predictions(local / "shard").image_ids
    assert len(names) == 11  # the header, scores and maps of three parts, and four sums
    open_predictions(AT, tmp_path)
    assert len(names) == 11
    score = store / "bucket/results/of it/part-00002/scores.parquet"
    score.write_bytes(score.read_bytes())
    shutil.rmtree(store / "bucket/results/of it/part-00001")
    with pytest.raises(BadModel, match="without a gap"):
        open_predictions(AT, tmp_path)
    assert len(names) == 12
    with pytest.raises(BadModel, match=r"no predictions\.json; expected a folder that"):
        open_predictions("bare://bucket/nothing", tmp_path)


def test_an_address_of_this_machine_is_a_folder(predictor, films, local, tmp_path):
    shared(predictor, films, f"file://{tmp_path}/out")
    assert files_in(tmp_path / "out") == files_in(local / "shard")
    assert not list(tmp_path.glob("chestmap-sending-*"))


def test_from_memory_too(predictor, films, local, tmp_path):
    shared(predictor, films, "memory://bucket/out")
    assert open_predictions("memory://bucket/out", tmp_path).table.equals(open_predictions(local / "shard").table)


def test_what_is_no_place_is_told_in_one_line(predictor, films, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    for address, said in (
        ("s3://bucket/out", "s3fs"),
        ("https://host/out", "expected a folder of an object store"),
        ("sftp://host/out", "expected a folder of an object store"),
        ("bare://", "expected a folder of an object store"),
        ("nowhere://bucket/out", "expected a folder, or an address"),
    ):
        with pytest.raises(BadInput, match=said) as caught:
            shared(predictor, films, address)
        assert "\n" not in str(caught.value)

    def denied(self, *words, **more):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(Bare, "_put", denied)
    with pytest.raises(BadInput, match="PermissionError: Access Denied; check address, credentials") as caught:
        shared(predictor, films, AT)


def test_a_store_that_fails_for_a_while_is_asked_again_and_nothing_is_left_behind(
    predictor, films, local, store, monkeypatch, tmp_path
):
    failures, really = [OSError("reset"), TimeoutError()], Bare._put

    def shaky(self, path, content, mode):
        if failures and "part-" in path:
            raise failures.pop()
        really(self, path, content, mode)

    monkeypatch.setattr(Bare, "_put", shaky)
    place = RemoteFolder(AT, tmp_path / "scratch")
    shared(predictor, films, place)
    assert not failures
    assert read_header(place.folder)["complete"]
    assert not list(place.folder.glob("part-*/maps.npy"))
    assert files_in(store / "bucket/results/of it") == files_in(local / "shard")
    del place
    assert list((tmp_path / "scratch").iterdir()) == []
