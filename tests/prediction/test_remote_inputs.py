"""Images at addresses: the names, the order and the numbers of the same files on this machine; what is missing is set aside, once told."""

import shutil
import sys

import polars as pl
import pytest

from chestmap.errors import BadImage, BadInput, BadTable, Unreachable
from chestmap.imaging.limits import Limits
from chestmap.prediction import decoding
from chestmap.prediction.inputs import Inputs
from chestmap.prediction.job import JobSettings, Shard, open_job, predict_all, predict_shard
from chestmap.prediction.providers import FileProvider
from chestmap.predictions.folder import open_predictions
from chestmap.storage import stores
from chestmap.storage.addresses import content_at, plain_path, site
from imaging.dicom_samples import as_bytes, chest, radiograph
from prediction.bare_store import Bare
from prediction.predict_small import small_predictor
from prediction.test_shard import ODD
from prediction.test_stream import same
from training.small import write_dataset

SETTINGS = JobSettings(batch_size=2, part_size=4, workers=0)


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("CHESTMAP_KEY", "of the tests")
    monkeypatch.setattr(stores, "WAIT", 0)
    Bare.begin(tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture(scope="module")
def predictor(run_folder):
    return small_predictor(run_folder / "model")


def predicted(predictor, given, out):
    return predict_all(predictor, [str(one) for one in given], out, SETTINGS, progress=False)


def test_a_folder_there_is_read_as_a_folder_here(predictor, store, tmp_path):
    films = write_dataset(store / "bucket" / "films", count=5)
    (films / "deep" / "er").mkdir(parents=True)
    (films / "deep" / "er" / "IM1").write_bytes(as_bytes(radiograph(chest())))
    (films / "deep" / "notes").write_bytes(b"x")
    (films / "bad.png").write_bytes(b"nothing")
    (films / "earlier").mkdir()
    shutil.copy(films / "000.png", films / "earlier")
    (films / "earlier" / "predictions.json").write_text("{}")
    here, there = (
        predicted(predictor, [films], tmp_path / "here"),
        predicted(predictor, ["bare://bucket/films/"], tmp_path / "there"),
    )
    assert [(one.images, one.failed, one.passed_over) for one in (here, there)] == [(6, here.failed, 3)] * 2
    same(tmp_path / "here", tmp_path / "there")
    names = [source.name for source in Inputs(["bare://bucket/films/00*.png"])]
    assert names == [f"{number:03d}.png" for number in range(5)]
    mixed = Inputs(
        ["bare://bucket/films/deep", str(films / "000.png"), "bare://bucket/films/001.png", f"file://{films}/002.png"]
    )
    assert [source.name for source in mixed] == ["deep/er/IM1", "000.png", "001.png", "002.png"]


def test_rows_may_be_addresses_and_a_list_may_lie_at_one(predictor, store, tmp_path):
    films = write_dataset(store / "bucket" / "films", count=4)
    rows = ["bare://bucket/films/000.png", "bare://bucket/films/none.png", str(films / "001.png"), f"file://{films}/002.png"]
    pl.DataFrame({"path": rows, "image_id": ["", "", "mine", ""]}).write_parquet(tmp_path / "list.parquet")
    given, out = [str(tmp_path / "list.parquet")], tmp_path / "out"
    share = predict_shard(open_job(predictor, FileProvider(given), out, SETTINGS), Shard(), 0, progress=False)
    assert (share.images, len(share.failed)) == (3, 1)
    assert open_predictions(out).image_ids[:2] == ("bucket/films/000.png", "mine")
    assert "bucket/films/none.png,there is no such file: check the address" in (out / "errors.csv").read_text()
    (store / "bucket" / "list.txt").write_text("films/000.png\nfilms/003.png\n")
    assert predicted(predictor, ["bare://bucket/list.txt"], tmp_path / "txt").images == 2
    assert open_predictions(tmp_path / "txt").image_ids == ("films/000.png", "films/003.png")


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_list_there_names_its_rows_as_here(predictor, store, tmp_path, kind):
    """The quick way through a table, the walk that knows every input, and the same list on this machine."""
    table = pl.DataFrame(
        {"path": [*ODD, "bare://bucket/sub/f.png", "bare://other/g.png"], "image_id": ["", "an id", *[""] * 9]}
    )
    folder = store / "bucket" / "sub"
    folder.mkdir(parents=True)
    (table.write_parquet if kind == "parquet" else table.write_csv)(folder / f"list.{kind}")
    far, near = f"bare://bucket/sub/list.{kind}", folder / f"list.{kind}"
    job = open_job(predictor, FileProvider([far]), tmp_path / "out", SETTINGS)
    quick = [source for number in range(job.blocks.parts) for source in job.blocks.inputs(number)]
    assert quick == list(Inputs([far]))
    here = list(Inputs([str(near)]))
    assert [one.name for one in quick if "abs" not in one.name][:8] == [one.name for one in here if "abs" not in one.name][
        :8
    ]
    assert {one.path for one in quick} >= {
        "bare://bucket/sub/a.png",
        "bare://bucket/up.png",
        "/abs/d.png",
        "bare://other/g.png",
    }
    assert [one.name for one in quick[-2:]] == ["f.png", "other/g.png"]


def test_what_is_wrong_with_an_address_is_told_in_one_line(predictor, store, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    (store / "bucket").mkdir(parents=True)
    (store / "bucket" / "odd.parquet").write_bytes(b"PAR1 and no more")
    for given, kind, said in (
        ("s3://bucket/films", BadInput, "s3fs"),
        ("bare://bucket/films", BadInput, "no such file or folder at this address"),
        ("bare://bucket/*.png", BadInput, "no file matches"),
        ("bare://bucket/list.csv", BadInput, "no such file at this address"),
        ("bare://bucket/films.zip", BadInput, "fetch it first"),
        ("bare://bucket/odd.parquet", BadTable, "^bare://bucket/odd.parquet: cannot be read as a table"),
    ):
        with pytest.raises(kind, match=said) as caught:
            predicted(predictor, [given], tmp_path / "out")
        assert "\n" not in str(caught.value)
    (tmp_path / "list.csv").write_text("path\n" + "".join(f"s3://bucket/Never^Shown/{row}.png\n" for row in range(3)))
    with pytest.raises(Unreachable, match=r"^s3://bucket: .*s3fs") as caught:
        predicted(predictor, [tmp_path / "list.csv"], tmp_path / "out")
    assert "Shown" not in str(caught.value)


def test_a_store_that_denies_is_told_once_and_a_single_image_set_aside(predictor, store, tmp_path):
    films = write_dataset(store / "bucket" / "films", count=2)
    (films / "denied.png").write_bytes(b"x")
    outcome = predicted(predictor, ["bare://bucket/films"], tmp_path / "out")
    assert outcome.images == 2
    assert outcome.failed[0].reason == "access is denied (PermissionError: Access Denied: …): check address and credentials"
    for number in range(20):
        (films / f"denied {number:02d}.png").write_bytes(b"x")
    with pytest.raises(Unreachable, match=r"^bare://bucket: gave none of 16 inputs in a row") as caught:
        predicted(predictor, ["bare://bucket/films"], tmp_path / "more")
    assert "\n" not in str(caught.value)
    job = open_job(predictor, FileProvider(["bare://bucket/films"]), tmp_path / "shared", SETTINGS)
    with pytest.raises(Unreachable):
        predict_shard(job, Shard(), 0, progress=False)


def test_failures_of_a_store_keep_names_to_themselves(store, monkeypatch):
    monkeypatch.setattr(Bare, "cat_file", fails := Failing())
    for error, kind, said in (
        (FileNotFoundError("bucket/Never^Shown.png"), BadImage, "there is no such file"),
        (OSError("reading bucket/Never^Shown.png: reset"), BadImage, r"cannot be fetched \(OSError: reading …: reset\)"),
        (ValueError("Never^Shown.png?"), BadImage, "check the address"),
        (
            NoCredentialsError("no credentials"),
            Unreachable,
            "^bare://bucket: NoCredentialsError: no credentials; check cred",
        ),
    ):
        monkeypatch.setitem(sys.modules, "botocore.exceptions", sys.modules[__name__])
        fails.error = error
        with pytest.raises(kind, match=said) as caught:
            content_at("bare://bucket/Never^Shown.png", 100)
        assert "Shown" not in str(caught.value)
    assert fails.calls == 1 + 3 + 1 + 1


class BotoCoreError(Exception):
    """No OSError there."""


class NoCredentialsError(BotoCoreError):
    pass


class Failing:
    error: Exception
    calls = 0

    def __call__(self, *words, **more):
        self.calls += 1
        raise self.error


def test_no_more_of_a_file_is_taken_than_may_be_read(store, monkeypatch):
    monkeypatch.setattr(decoding, "LIMITS", Limits(file_bytes=1000))
    (store / "bucket").mkdir(parents=True)
    (store / "bucket" / "large.png").write_bytes(bytes(2000))
    with pytest.raises(BadImage, match="1,001 bytes; at most 1,000 are read"):
        decoding.content(decoding.Input(name="large.png", path="bare://bucket/large.png"))
    assert content_at("bare://bucket/large.png", first=132) == bytes(132)


@pytest.mark.parametrize(
    ("address", "path", "store"),
    [
        ("s3://bucket/a/b.png", "bucket/a/b.png", "s3://bucket"),
        ("https://user:secret@host/a.png?X-Amz-Signature=secret", "host/a.png", "https://host"),
        ("gs://bucket/odd?name#1.png", "bucket/odd?name#1.png", "gs://bucket"),
        ("memory:///a.png", "a.png", "memory://"),
        ("ftp://user:secret@host/a.png", "host/a.png", "ftp://host"),
    ],
)
def test_a_name_holds_no_password_and_no_signature(address, path, store):
    assert (plain_path(address), site(address)) == (path, store)
