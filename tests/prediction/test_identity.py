"""Checks that an input is known by what it holds: a changed one is predicted anew, and no result is kept of the old one."""

import json
import os
import shutil

import polars as pl
import pytest
import typer
from pydicom import dcmread
from typer.testing import CliRunner

from chestmap.cli import predict
from chestmap.errors import BadTable, Refused
from chestmap.methods import METHODS as ALL
from chestmap.models.engines import ForwardSettings, open_forward
from chestmap.models.folder import open_model
from chestmap.models.predictor import Predictor
from chestmap.prediction.inputs import Inputs
from chestmap.prediction.job import JobSettings, Shard, open_job, predict_all, predict_shard
from chestmap.prediction.providers import FileProvider
from chestmap.predictions.folder import open_predictions
from imaging.dicom_samples import as_bytes, chest, radiograph
from prediction.predict_small import small_predictor
from prediction.test_one_job import dataset, files_in
from training.small import METHODS, write_dataset

app = typer.Typer()
predict.add_to(app)

SETTINGS = JobSettings(batch_size=2, part_size=4, workers=0)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(ALL, "small", METHODS["small"])
    monkeypatch.setenv("CHESTMAP_KEY", "of the tests")


@pytest.fixture(scope="module")
def predictor(run_folder):
    return small_predictor(run_folder / "model")


@pytest.fixture
def films(tmp_path):
    return write_dataset(tmp_path / "films", count=8)


def typed(*words):
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


FP32 = ("--device", "cpu", "--engine", "torch", "--workers", "0", "--batch-size", "2")


def replaced_by(path, other):
    """Another file under the same name, of the same size and time: a copy of a CD keeps both."""
    status = path.stat()
    content = other.read_bytes()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return len(content) == status.st_size


def test_patient_b_does_not_get_the_findings_of_patient_a(run_folder, tmp_path):
    """`IM000001` of A, then of B under the same name, as every CD has it."""
    folder, out = tmp_path / "films", tmp_path / "out"
    folder.mkdir()
    uids = ("1.2.3.1", "1.2.3.2")
    bytes_of = [
        as_bytes(radiograph(chest(bits=bits), SOPInstanceUID=uid, PatientID=f"P{uid[-1]}"))
        for bits, uid in zip((12, 10), uids, strict=True)
    ]
    words = (run_folder / "model", folder, "--out", out, "--write", "csv,dicom", *FP32)
    for content, uid in zip(bytes_of, uids, strict=True):
        (folder / "IM000001").write_bytes(content)
        done = typed(*words)
        assert done.exit_code == 0, done.stderr
        written = [dcmread(path) for path in out.rglob("*.dcm")]
        assert {one.PatientID for one in written} == {f"P{uid[-1]}"}
    assert "1 of them changed since an earlier call" in done.stderr
    fresh = tmp_path / "fresh"
    assert typed(run_folder / "model", folder, "--out", fresh, "--write", "csv,dicom", *FP32).exit_code == 0
    kept, expected = (
        {name: content for name, content in files_in(one).items() if not name.endswith(".dcm")} for one in (out, fresh)
    )
    assert kept == expected


@pytest.mark.parametrize("shards", [1, 2])
def test_a_changed_picture_is_predicted_anew_and_the_rest_is_kept(predictor, films, tmp_path, shards):
    out = tmp_path / "out"

    def call():
        for index in range(shards):
            job = open_job(predictor, FileProvider([str(films)]), out, SETTINGS, shards)
            share = predict_shard(job, Shard(index, shards), 0, progress=False)
        return share

    call()
    before = (out / "part-00000" / "maps.npy").stat().st_mtime_ns
    replaced_by(films / "006.png", films / "001.png")
    call()
    predict_all(predictor, [str(films)], tmp_path / "fresh", SETTINGS, progress=False)
    assert files_in(out) == files_in(tmp_path / "fresh")
    assert (out / "part-00000" / "maps.npy").stat().st_mtime_ns == before


def test_a_killed_call_does_not_keep_what_changed_meanwhile(predictor, films, tmp_path):
    out = tmp_path / "out"
    job = open_job(predictor, FileProvider([str(films)]), out, SETTINGS)
    numbers = job.predict([0], lambda inputs: job.provider.decode(inputs, job.reading, 0, 4), lambda *_: None)
    assert sum(numbers) == 4
    replaced_by(films / "001.png", films / "003.png")
    share = predict_all(predictor, [str(films)], out, SETTINGS, progress=False)
    assert (share.images, share.changed) == (8, 1)
    predict_all(predictor, [str(films)], tmp_path / "fresh", SETTINGS, progress=False)
    assert files_in(out) == files_in(tmp_path / "fresh")


def test_a_broken_file_that_was_mended_is_predicted(predictor, films, tmp_path):
    good = (films / "002.png").read_bytes()
    (films / "002.png").write_bytes(b"nothing")
    out = tmp_path / "out"
    assert len(predict_all(predictor, [str(films)], out, SETTINGS, progress=False).failed) == 1
    (films / "002.png").write_bytes(good)
    share = predict_all(predictor, [str(films)], out, SETTINGS, progress=False)
    assert (share.images, share.failed, share.changed) == (8, (), 1)
    assert not (out / "errors.csv").exists()


def test_what_did_not_change_is_not_even_read(predictor, films, tmp_path, monkeypatch):
    from chestmap.prediction import decoding

    monkeypatch.setattr(decoding, "SETTLED", 0)
    predict_all(predictor, [str(films)], tmp_path / "out", SETTINGS, progress=False)
    monkeypatch.setattr(decoding, "content", lambda source: pytest.fail(f"{source.name} was read"))
    share = predict_all(predictor, [str(films)], tmp_path / "out", SETTINGS, progress=False)
    assert (share.images, share.changed) == (8, 0)


def test_an_image_that_changes_while_it_is_predicted_gets_no_result(run_folder, tmp_path, monkeypatch):
    """The header that a result copies is that of the very file that was predicted."""
    from chestmap.prediction import output_formats

    folder = tmp_path / "films"
    folder.mkdir()
    path = folder / "IM1"
    path.write_bytes(as_bytes(radiograph(chest(), SOPInstanceUID="1.2.3.1")))
    other = as_bytes(radiograph(chest(), SOPInstanceUID="1.2.3.2"))
    really = output_formats.content
    monkeypatch.setattr(output_formats, "content", lambda source: path.write_bytes(other) and really(source))
    done = typed(run_folder / "model", folder, "--out", tmp_path / "out", "--write", "dicom", *FP32)
    assert done.exit_code == 1
    assert "another image than the one that was predicted" in (tmp_path / "out" / "errors.csv").read_text()
    assert not list((tmp_path / "out").rglob("*.dcm"))


def test_a_row_of_a_list_never_vanishes(predictor, tmp_path):
    """A name with a comma and without quotation marks."""
    films = write_dataset(tmp_path / "films", count=2)
    shutil.move(films / "000.png", films / "Doe, John.png")
    path = tmp_path / "list.csv"
    path.write_text("path\nfilms/Doe, John.png\nfilms/001.png\n")
    assert [source.name for source in Inputs([str(path)])] == ["films/Doe, John.png", "films/001.png"]
    assert predict_all(predictor, [str(path)], tmp_path / "out", SETTINGS, progress=False).images == 2
    path.write_text("path,image_id\nfilms/Doe, John.png,1\nfilms/001.png,2\n")
    for read in (lambda: list(Inputs([str(path)])), lambda: list(FileProvider([str(path)]).frames())):
        with pytest.raises(BadTable, match="quotation marks") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_two_precisions_never_share_a_folder(run_folder, films, tmp_path):
    """Also of a dataset, and also where a part is missing; the message names what differs."""
    model, out = open_model(run_folder / "model", METHODS), tmp_path / "out"
    half = Predictor(model, open_forward(model, ForwardSettings(engine="torch", device="cpu", precision="bf16")))
    full = small_predictor(run_folder / "model")
    provider = dataset(films, full)
    predict_all(full, provider, out, SETTINGS, progress=False)
    header = json.loads((out / "predictions.json").read_text())
    assert header["model"]["forward"] == {"engine": "torch", "device": "cpu", "precision": 32, "batch_size": 2}
    shutil.rmtree(out / "part-00001")
    with pytest.raises(Refused, match="precision was 32, is bf16"):
        predict_all(half, provider, out, SETTINGS, progress=False)
    with pytest.raises(Refused, match="batch_size was 2, is 4"):
        predict_all(full, provider, out, JobSettings(batch_size=4, workers=0), progress=False)
    predict_all(full, provider, out, SETTINGS, progress=False)
    assert len(open_predictions(out)) == 8


def test_shards_take_a_dataset(run_folder, films, tmp_path):
    words = (run_folder / "model", "--source", "folder", "--root", films, "--set", "labels=labels.csv")
    words += ("--cache", tmp_path / "cache", *FP32)
    for shard in ("1/2", "0/2"):
        done = typed(*words, "--out", tmp_path / "shards", "--shard", shard)
        assert done.exit_code == 0, done.stderr
    assert "the folder is complete" in done.stderr
    assert typed(*words, "--out", tmp_path / "plain").exit_code == 0
    assert files_in(tmp_path / "shards") == files_in(tmp_path / "plain")
    assert pl.read_parquet(tmp_path / "plain" / "part-00000" / "scores.parquet")["patient_id"][0] == "p0"
