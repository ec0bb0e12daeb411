"""Predicting from files: the same bits after a kill, nothing twice, nothing lost, bad inputs told, and nobody's name in it."""

import csv
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest

from chestmap.errors import BadInput, Refused
from chestmap.imaging.decoders import DIED
from chestmap.prediction.decoding import Failed, decode_all
from chestmap.prediction.inputs import Inputs
from chestmap.prediction.job import JobSettings, predict_all, reading_for
from chestmap.predictions.folder import open_predictions
from imaging.deadly import deadly
from imaging.dicom_samples import as_bytes, chest, radiograph
from imaging.picture_samples import grey_png
from imaging.test_bad_images import BAD
from prediction.predict_small import SETTINGS, small_predictor
from training.small import write_dataset

TESTS = Path(__file__).parents[1]
READABLE = [7, 8, 7, 8, 8, 2]
"""Images in each part: blocks hold eight inputs, two of which are broken."""


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("CHESTMAP_KEY", "of the tests")


@pytest.fixture(scope="module")
def predictor(run_folder):
    return small_predictor(run_folder / "model")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Forty images and two files that are none, at the start and in between."""
    folder = write_dataset(tmp_path_factory.mktemp("stream") / "films")
    (folder / "000a.png").write_bytes(b"nothing")
    (folder / "020a.png").write_bytes(grey_png()[:500])
    return folder


def predicted(predictor, given, out, settings=SETTINGS, **options):
    return predict_all(predictor, [str(one) for one in given], out, settings, progress=False, **options)


@pytest.fixture(scope="module")
def whole(predictor, films, tmp_path_factory):
    os.environ["CHESTMAP_KEY"] = "of the tests"
    out = tmp_path_factory.mktemp("whole") / "out"
    return out, predicted(predictor, [films], out)


def same(one: Path, other: Path) -> None:
    """Byte for byte in scores and maps, and in how the parts are cut."""
    first, second = open_predictions(one), open_predictions(other)
    assert first.image_ids == second.image_ids
    assert [len(maps) for maps in first.parts] == [len(maps) for maps in second.parts]
    assert first.scores.tobytes() == second.scores.tobytes()
    for a, b in zip(first.parts, second.parts, strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_scores_are_those_of_each_image_alone(whole, predictor, films):
    folder, outcome = whole
    found = open_predictions(folder)
    assert outcome.images == len(found) == 40
    assert [len(maps) for maps in found.parts] == READABLE
    assert found.image_ids == tuple(f"{number:03d}.png" for number in range(40))
    for row in (0, 6, 7, 39):
        alone = predictor.predict(films / found.image_ids[row])
        np.testing.assert_allclose(alone.scores, found.scores[row], atol=1e-6)
        np.testing.assert_allclose(alone.maps, found[row].maps, rtol=1e-2, atol=1e-4)


def test_bad_files_are_told_and_told_again(whole, predictor, films):
    folder, outcome = whole
    assert [one.name for one in outcome.failed] == ["000a.png", "020a.png"]
    rows = list(csv.reader((folder / "errors.csv").read_text().splitlines()))
    assert rows[0] == ["input", "reason"]
    assert rows[1] == ["000a.png", "text; PNG, JPEG and DICOM are read: name an image"]
    again = predicted(predictor, [films], folder)
    assert again.failed == outcome.failed
    assert outcome.passed_over >= 2  # labels.csv, boxes.csv


def killed(model, films, out, batch):
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent / 'src'}{os.pathsep}{TESTS}"}
    command = [sys.executable, str(TESTS / "prediction" / "predict_small.py"), *map(str, (model, films, out, batch))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_after_kill_9_the_folder_is_the_same_to_the_last_bit(run_folder, films, whole, predictor, tmp_path):
    out = tmp_path / "out"
    killed(run_folder / "model", films, out, 13)  # in the fifth part; the writing thread may be two batches behind
    parts = len(list(out.glob("part-?????")))
    assert 3 <= parts <= 4
    seen = []
    forward = predictor.forward
    predictor.forward = CountingForward(forward, seen)
    try:
        predicted(predictor, [films], out)
    finally:
        predictor.forward = forward
    assert sum(seen) == 40 - sum(READABLE[:parts])  # nothing twice
    same(out, whole[0])
    assert (out / "errors.csv").read_text() == (whole[0] / "errors.csv").read_text()


class CountingForward:
    def __init__(self, forward, seen):
        self.forward, self.seen = forward, seen
        self.engine, self.device, self.precision = forward.engine, forward.device, forward.precision

    def __call__(self, images):
        self.seen.append(len(images))
        return self.forward(images)


@pytest.mark.slow
def test_killed_three_times_among_500(run_folder, predictor, tmp_path):
    """From outside, at moments that nobody chose."""
    films = write_dataset(tmp_path / "films", count=500)
    predicted(predictor, [films], tmp_path / "whole")
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent / 'src'}{os.pathsep}{TESTS}"}
    out = tmp_path / "out"
    command = [sys.executable, str(TESTS / "prediction" / "predict_small.py")]
    command += [str(one) for one in (run_folder / "model", films, out, -1, 0.05)]
    for wanted in (10, 25, 45):
        process = subprocess.Popen(command, env=environment)
        while len(list(out.glob("part-?????"))) < wanted:
            assert process.poll() is None
            time.sleep(0.013)
        process.kill()
        process.wait()
    left = 500 - 8 * len(list(out.glob("part-?????")))
    assert 0 < left < 160
    assert predicted(predictor, [films], out).images == 500
    same(out, tmp_path / "whole")


def test_new_files_are_added_and_missing_ones_refused(predictor, films, tmp_path):
    folder, out = shutil.copytree(films, tmp_path / "films"), tmp_path / "out"
    late = (folder / "000.png").rename(tmp_path / "late.png")
    assert predicted(predictor, [folder], out).images == 39
    late.rename(folder / "000.png")
    assert predicted(predictor, [folder], out).images == 40
    found = open_predictions(out)
    assert len(set(found.image_ids)) == 40
    assert found.image_ids[-1] == "000.png"
    (folder / "005.png").unlink()
    with pytest.raises(Refused, match="holds 1 images that are not among these inputs"):
        predicted(predictor, [folder], out)


def test_another_way_of_computing_is_not_mixed_in(predictor, films, whole):
    with pytest.raises(Refused, match="batch_size was 3, is 4"):
        predicted(predictor, [films], whole[0], JobSettings(batch_size=4, part_size=8, workers=0))


def test_two_calls_do_not_write_the_same_folder(predictor, films, tmp_path):
    def second(folder, inputs):
        with pytest.raises(Refused, match="another call is writing here"):
            predicted(predictor, [films], tmp_path)

    predicted(predictor, [films / "000.png"], tmp_path, on_part=second)


def test_processes_give_the_same_and_outlive_a_death(predictor, films, tmp_path, whole, monkeypatch):
    predicted(predictor, [films], tmp_path / "out", SETTINGS.model_copy(update={"workers": 1}))
    same(tmp_path / "out", whole[0])


def test_a_machine_short_of_memory_fails_no_image(predictor, films, tmp_path, whole, monkeypatch):
    """The same call goes on later: what was kept as failed would not be read again."""

    def short(*_):
        raise error

    for error in (MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory"), without_room()):
        with monkeypatch.context() as patch:
            patch.setattr("chestmap.prediction.decoding.radiograph_of", short)
            with pytest.raises(type(error)):
                predicted(predictor, [films], tmp_path / "out")
    predicted(predictor, [films], tmp_path / "out")
    same(tmp_path / "out", whole[0])


def without_room():
    """What OpenCV raises for a lack of memory."""
    with pytest.raises(cv2.error) as caught:
        cv2.copyMakeBorder(np.zeros((1, 1), np.uint8), 0, 2**31 - 9, 0, 2**31 - 9, cv2.BORDER_CONSTANT)
    return caught.value


def test_an_empty_folder_and_a_folder_of_text_are_wrong_use(predictor, tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "notes.txt").write_text("x")
    with pytest.raises(BadInput, match="no PNG, JPEG or DICOM file among 1 files"):
        predicted(predictor, [tmp_path / "films"], tmp_path / "out")


CHOSEN = (
    "empty", "zeros", "text", "web page", "svg", "pdf", "postscript", "gif", "tiff", "webp", "random", "lfs pointer",
    "png cut in half", "png wrong checksum", "png 60,000 x 60,000", "png 1 x 1", "png blank", "png all transparent",
    "png animated", "png 16,000 x 1", "png unknown critical chunk",
    "jpeg cut in half", "jpeg 65,000 x 65,000", "jpeg cmyk", "jpeg arithmetic",
    "dicom cut in pixels", "dicom cut in header", "dicom without preamble", "dicom unknown transfer syntax", "dicom ct",
    "dicom hand", "dicom left lateral", "dicom two frames", "dicom no pixels", "dicom no rows", "dicom deflated cut",
    "dicom report", "dicom one byte short",
)  # fmt: skip
"""Of the bad contents that `tests/data` knows, those of the issue; deep nesting and bombs cost seconds and are tested there."""


def test_forty_bad_inputs_are_told_and_the_good_among_them_predicted(predictor, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    expected = {}
    for number, name in enumerate(CHOSEN):
        content, said = BAD[name]
        path = folder / f"bad {number:02d}.{'dcm' if 'dicom' in name else 'png'}"
        path.write_bytes(content() if callable(content) else content)
        expected[path.name] = said
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "deep").symlink_to(folder)
    expected |= {"loop.png": "Too many levels of symbolic links", "gone.png": "No such file"}
    (folder / "good.png").write_bytes(grey_png())
    (folder / "deep bits.png").write_bytes(grey_png(before=b""))
    (folder / "good.dcm").write_bytes(as_bytes(radiograph(chest())))
    outcome = predicted(predictor, [folder], tmp_path / "out")
    reasons = {one.name: one.reason for one in outcome.failed}
    assert len(expected) == 40
    assert reasons.keys() == expected.keys()
    for name, said in expected.items():
        assert said in reasons[name], name
        assert len(reasons[name].splitlines()) == 1
        assert str(tmp_path) not in reasons[name]
    assert open_predictions(tmp_path / "out").image_ids == ("deep bits.png", "good.dcm", "good.png")


def test_an_archive_is_read_in_place_and_its_tricks_are_told(predictor, tmp_path):
    path = tmp_path / "films.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/good.png", grey_png())
        archive.writestr("IM1", as_bytes(radiograph(chest())))
        archive.writestr("../../out.png", grey_png())
        archive.writestr("/etc/film.png", grey_png())
        archive.writestr("bomb.png", bytes(200 << 20))
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("__MACOSX/._x.png", b"x")
        archive.writestr("notes.txt", b"x")
    raw = bytearray(path.read_bytes())
    place = raw.index(b"a/good.png") + 40
    outcome = predicted(predictor, [path], tmp_path / "out")
    reasons = {one.name: one.reason for one in outcome.failed}
    assert sorted(reasons) == ["bomb.png", "etc/film.png", "link.png", "out.png"]
    assert "leads out of the archive" in reasons["out.png"]
    assert "leads out of the archive" in reasons["etc/film.png"]
    assert "209,715,200 bytes; at most" in reasons["bomb.png"]
    assert "a link in the archive" in reasons["link.png"]
    assert set(open_predictions(tmp_path / "out").image_ids) == {"a/good.png", "IM1"}
    assert not (tmp_path / "out.png").exists()
    raw[place] ^= 255
    path.write_bytes(raw)
    broken = predicted(predictor, [path], tmp_path / "other")
    assert "the archive is damaged" in {one.name: one.reason for one in broken.failed}["a/good.png"]


def test_nothing_of_a_patient_is_written(predictor, tmp_path):
    folder = tmp_path / "NEVER_SHOWN" / "20240131"
    folder.mkdir(parents=True)
    header = {
        "PatientName": "Never^Shown",
        "PatientID": "MRN-4711-8",
        "PatientBirthDate": "19610203",
        "StudyDate": "20240131",
    }
    (folder / "mrn47118_pa.dcm").write_bytes(as_bytes(radiograph(chest(), **header)))
    (folder / "IM2.dcm").write_bytes(as_bytes(radiograph(chest(bits=10), **header)))
    (folder / "IM3.dcm").write_bytes(as_bytes(radiograph(chest(), ViewPosition="LL", **header)))
    (folder / "IM4.dcm").write_bytes(as_bytes(radiograph(chest(), **header))[:700])
    out = tmp_path / "out"
    outcome = predicted(predictor, [tmp_path / "NEVER_SHOWN", tmp_path / "NEVER_SHOWN" / "20240131"], out)
    assert (outcome.images, len(outcome.failed)) == (2, 2)
    found = open_predictions(out)
    assert len(set(found.table["patient_id"])) == 1
    assert found.table["patient_id"][0].startswith("patient-")
    written = "".join(path.read_bytes().decode("latin-1") for path in sorted(out.rglob("*")) if path.is_file())
    for word in ("NEVER", "SHOWN", "Never", "Shown", "4711", "1961", "20240131"):
        assert word not in written
        assert not any(word in str(path.relative_to(out)) for path in out.rglob("*"))
    shown = predicted(predictor, [folder], tmp_path / "asked", SETTINGS.model_copy(update={"show_patient": True}))
    assert shown.images == 2
    asked = open_predictions(tmp_path / "asked")
    assert set(asked.image_ids) == {"IM2.dcm", "mrn47118_pa.dcm"}
    assert set(asked.table["patient_id"]) == {"MRN-4711-8"}


def test_decoding_in_order_whatever_dies(predictor, films, monkeypatch):
    """A process that dies takes nobody with it but the input that killed it."""
    from chestmap.prediction import decoding

    monkeypatch.setattr(decoding, "decode", deadly)
    results = list(decode_all(Inputs([str(films)]), reading_for(predictor, JobSettings()), 2))
    assert [source.name for source, _ in results] == [source.name for source in Inputs([str(films)])]
    assert [source.name for source, one in results if isinstance(one, Failed) and one.reason == DIED] == ["020.png"]


def test_each_part_tells_its_inputs_also_when_it_was_there(predictor, films, whole):
    told = {}
    predicted(
        predictor, [films], whole[0], on_part=lambda folder, inputs: told.update({folder.name: [one.name for one in inputs]})
    )
    tables = {
        folder.name: pl.read_parquet(folder / "scores.parquet")["image_id"].to_list() for folder in whole[0].glob("part-*")
    }
    assert told == tables
