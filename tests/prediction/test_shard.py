"""Shares of a folder: whoever makes which part, in whatever order, killed or doubled, the folder is that of one process."""

import os
import shutil

import numpy as np
import polars as pl
import pytest

from chestmap.errors import BadInput, BadTable, Refused
from chestmap.prediction.decoding import decode_all
from chestmap.prediction.inputs import Inputs
from chestmap.prediction.job import JobSettings, Shard, open_job, predict_all, predict_shard
from chestmap.prediction.providers import FileProvider
from chestmap.predictions.folder import open_predictions, read_header
from imaging.dicom_samples import as_bytes, chest, radiograph
from imaging.picture_samples import grey_png
from prediction.predict_small import SETTINGS, small_predictor
from prediction.test_stream import same
from training.small import write_dataset


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("CHESTMAP_KEY", "of the tests")


@pytest.fixture(scope="module")
def predictor(run_folder):
    return small_predictor(run_folder / "model")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("shard") / "films")


@pytest.fixture(scope="module")
def whole(predictor, films, tmp_path_factory):
    os.environ["CHESTMAP_KEY"] = "of the tests"
    out = tmp_path_factory.mktemp("shard") / "whole"
    predict_all(predictor, [str(films)], out, SETTINGS, progress=False)
    return out


def shared(predictor, given, out, shard="0/1", settings=SETTINGS, **options):
    shard = Shard.parse(shard)
    job = open_job(predictor, FileProvider([str(one) for one in given]), out, settings, shard.count)
    return predict_shard(job, shard, 0, progress=False, **options)


def files_of(out):
    return sorted(path.relative_to(out).as_posix() for path in out.iterdir())


def test_three_shares_in_any_order_are_the_folder_of_one_process(predictor, films, whole, tmp_path):
    out = tmp_path / "out"
    told = [shared(predictor, [films], out, shard) for shard in ("2/3", "0/3")]
    assert [(one.images, one.left) for one in told] == [(8, 4), (16, 2)]
    assert not read_header(out)["complete"]
    assert shared(predictor, [films], out, "1/3").left == 0
    same(out, whole)
    assert files_of(out) == ["SHA256SUMS", *(f"part-{number:05d}" for number in range(5)), "predictions.json"]
    assert shared(predictor, [films], out, "1/3").images == 40  # once more, with nothing to do


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


class Dying:
    def __init__(self, forward, last):
        self.forward, self.left, self.seen = forward, last, 0
        self.engine, self.device, self.precision = forward.engine, forward.device, forward.precision

    def __call__(self, images):
        self.left -= 1
        self.seen += len(images)
        if not self.left:
            raise Killed
        return self.forward(images)


def test_what_a_killed_process_has_finished_is_not_done_again(run_folder, films, whole, tmp_path):
    predictor, out = small_predictor(run_folder / "model"), tmp_path / "out"
    forward = predictor.forward
    predictor.forward = Dying(forward, 8)
    with pytest.raises(Killed):
        shared(predictor, [films], out)
    assert [path.name for path in sorted(out.glob("part-?????"))] == ["part-00000", "part-00001"]
    assert list(out.glob("part-*.making-*"))
    predictor.forward = Dying(forward, 0)
    assert shared(predictor, [films], out).images == 40
    assert predictor.forward.seen == 24
    same(out, whole)
    assert not list(out.glob("*making*"))


def test_a_process_that_is_overtaken_changes_nothing(predictor, films, whole, tmp_path):
    """Another one makes all parts, completes the folder and clears up while this one is in the middle of a part."""
    out, seen = tmp_path / "out", []
    job = open_job(predictor, FileProvider([str(films)]), out, SETTINGS)

    def decode(inputs):
        for pair in decode_all(inputs, job.reading, 0):
            seen.append(pair)
            if len(seen) == 5:
                shared(predictor, [films], out)
                before.update({path: path.stat().st_mtime_ns for path in out.rglob("*")})
            yield pair

    before: dict = {}
    assert list(job.predict([0], decode, lambda *_: None)) == [1] * 8
    assert before.keys() == set(out.rglob("*"))
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path.is_file())
    same(out, whole)
    assert predict_shard(job, Shard(), 0, progress=False).images == 40  # its plan is gone, the folder is whole


def test_bad_files_are_told_wherever_they_stand(predictor, films, whole, tmp_path):
    folder = shutil.copytree(films, tmp_path / "films")
    for name in ("000a.png", "020a.png"):
        (folder / name).write_bytes(b"nothing")
    for number in range(9):
        (folder / f"999 {number}.png").write_bytes(b"nothing")  # the last block holds nothing else
    out, plain = tmp_path / "out", tmp_path / "plain"
    assert shared(predictor, [folder], out, "0/2").left == 3
    share = shared(predictor, [folder], out, "1/2")
    assert (share.images, len(share.failed), share.left) == (40, 11, 0)
    predict_all(predictor, [str(folder)], plain, SETTINGS, progress=False)
    assert (out / "errors.csv").read_text() == (plain / "errors.csv").read_text()
    found, expected = open_predictions(out), open_predictions(whole)
    assert [len(maps) for maps in found.parts] == [7, 8, 7, 8, 8, 2, 0]
    assert found.image_ids == expected.image_ids
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)


def test_no_name_of_a_patient_is_left_whichever_block_tells_it(predictor, tmp_path):
    folder = tmp_path / "films" / "Shown^Never"
    folder.mkdir(parents=True)
    header = {"PatientName": "Never^Shown", "PatientID": "MRN-4711-8"}
    (folder / "IM1.dcm").write_bytes(as_bytes(radiograph(chest(), **header)))
    (folder / "IM2.dcm").write_bytes(b"broken, of the same folder, in another block")
    given, out = [tmp_path / "films"], tmp_path / "out"
    settings = SETTINGS.model_copy(update={"part_size": 1})
    assert len(shared(predictor, given, out, "1/2", settings).failed) == 1
    assert shared(predictor, given, out, "0/2", settings).left == 0
    written = "".join(path.read_bytes().decode("latin-1") for path in sorted(out.rglob("*")) if path.is_file())
    for word in ("Never", "Shown", "4711"):
        assert word not in written
    assert 'IM2.dcm,"text;' in (out / "errors.csv").read_text().split("/")[1]


def test_a_part_that_was_deleted_is_made_again(predictor, films, whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "out")
    assert shared(predictor, [films], out).images == 40  # of a plain call
    shutil.rmtree(out / "part-00003")
    assert shared(predictor, [films], out, "0/2").left == 1
    assert not read_header(out)["complete"]
    assert shared(predictor, [films], out, "1/2").left == 0
    same(out, whole)


def test_other_inputs_other_views_other_keys_are_refused(predictor, films, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shared(predictor, [films], out, "0/2")
    with pytest.raises(Refused, match="images that are not among these inputs"):
        shared(predictor, [films / "000.png"], out, "1/2")
    with pytest.raises(Refused, match="begun with another --any-view"):
        shared(predictor, [films], out, "1/2", SETTINGS.model_copy(update={"views": "any"}))
    monkeypatch.setenv("CHESTMAP_KEY", "of another machine")
    with pytest.raises(Refused, match="begun with another pseudonym key; all processes of a folder need the same"):
        shared(predictor, [films], out, "1/2")


@pytest.mark.parametrize("text", ["8/8", "1", "a/b", "1/0", "-1/2", "1/2/3"])
def test_a_share_that_is_none_is_told(text):
    with pytest.raises(BadInput) as caught:
        Shard.parse(text)
    assert "0/8 to 7/8" in str(caught.value)


ODD = [
    "a.png",
    "./b.png",
    "deep/er/c.png",
    "x//y.png",
    "../up.png",
    "/abs/d.png",
    "with space.png",
    "ü.png",
    ".hidden/e.png",
]


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv"])
def test_a_list_is_named_as_its_rows_one_by_one(tmp_path, predictor, kind):
    """The quick way through a table against the walk that knows every input."""
    ids = ["", "", "one id", "", "", "", "é/7", "", ""]
    table, path = pl.DataFrame({"Image Index": ODD, "image_id": ids, "rest": range(len(ODD))}), tmp_path / f"list.{kind}"
    if kind == "parquet":
        table.write_parquet(path)
    else:
        table.write_csv(path, separator="," if kind == "csv" else "\t")
    job = open_job(predictor, FileProvider([str(path)]), tmp_path / "out", SETTINGS.model_copy(update={"part_size": 4}))
    assert [source for number in range(3) for source in job.blocks.inputs(number)] == list(Inputs([str(path)]))


def test_a_list_with_a_name_twice_or_no_paths_is_told(tmp_path, predictor):
    path, out = tmp_path / "list.parquet", tmp_path / "out"
    pl.DataFrame({"path": ["a.png", "b.png", "a.png"]}).write_parquet(path)
    with pytest.raises(BadTable, match=r'"a\.png" stands 2 times'):
        shared(predictor, [path], out)
    pl.DataFrame({"pth": ["a.png"]}).write_parquet(path)
    with pytest.raises(BadTable, match=r'no column "path"; did you mean "pth"'):
        shared(predictor, [path], out)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(BadTable, match="cannot be read as a table"):
        shared(predictor, [path], out)
    pl.DataFrame({"path": []}, {"path": pl.String}).write_parquet(path)
    with pytest.raises(BadInput, match="name images"):
        shared(predictor, [path], out)
    assert files_of(out) == []


def test_an_image_without_finite_scores_ends_nothing(run_folder, films, tmp_path):
    """Also where it is alone in its batch; weights that are wrong end it."""
    from chestmap.errors import Diverged

    predictor = small_predictor(run_folder / "model")
    forward = predictor.forward

    def spoiled(images):
        logits, maps = forward(images)
        logits[np.asarray(images).reshape(len(images), -1).max(axis=1) > 0.99] = np.nan
        return logits, maps

    predictor.forward = spoiled
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "white.png").write_bytes(grey_png())
    shutil.copy(films / "000.png", tmp_path / "films")
    share = shared(predictor, [tmp_path / "films"], tmp_path / "out", settings=JobSettings(batch_size=1))
    assert (share.images, len(share.failed)) == (1, 1)
    assert "white.png,its scores are no finite numbers" in (tmp_path / "out" / "errors.csv").read_text()
    predictor.forward = lambda images: (forward(images)[0] * np.nan, forward(images)[1])
    with pytest.raises(Diverged, match="check the weights"):
        shared(predictor, [tmp_path / "films"], tmp_path / "other", settings=JobSettings(batch_size=1))
