"""`chestmap predict` as it is typed: files or a dataset, exit codes, and what goes where."""

import json
import shutil
import sys

import pytest
import typer
from typer.testing import CliRunner

from chestmap.cli import predict
from chestmap.errors import BadInput
from chestmap.methods import METHODS as ALL
from chestmap.predictions.folder import open_predictions
from training.small import METHODS, write_dataset

app = typer.Typer()
predict.add_to(app)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(ALL, "small", METHODS["small"])
    monkeypatch.setenv("CHESTMAP_KEY", "of the tests")


def typed(*words):
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


FP32 = ("--device", "cpu", "--engine", "torch", "--precision", "32", "--workers", "0", "--batch-size", "4")


def test_files_in_a_folder_out(run_folder, tmp_path):
    films = write_dataset(tmp_path / "films", count=6)
    done = typed(run_folder / "model", films, "--out", tmp_path / "out", "--write", "csv", *FP32)
    assert done.exit_code == 0
    assert done.stdout.strip() == str(tmp_path / "out")
    assert "6 images; 2 files that are no images were passed over" in done.stderr
    assert (tmp_path / "out" / "boxes.csv").is_file()
    assert not (tmp_path / "out" / "errors.csv").exists()
    (films / "bad.png").write_bytes(b"nothing")
    done = typed(run_folder / "model", films, "--out", tmp_path / "out", *FP32)
    assert done.exit_code == 1
    assert "1 inputs were set aside; their reasons are in" in done.stderr
    assert 'bad.png,"text; PNG' in (tmp_path / "out" / "errors.csv").read_text()


def test_a_dataset_by_name_and_as_it_was_typed_before(run_folder, tmp_path):
    films, out = write_dataset(tmp_path / "films", count=6), tmp_path / "out"
    rest = ("--set", "labels=labels.csv", "--cache", tmp_path / "cache", "--write", "overlays,csv", *FP32)
    (films / "003.png").write_bytes(b"nothing")
    done = typed(run_folder / "model", "--source", "folder", "--root", films, "--out", out, *rest)
    assert done.exit_code == 1
    assert (out / "errors.csv").read_text().splitlines()[1] == '003.png,"text; PNG, JPEG and DICOM are read: name an image"'
    found = open_predictions(out)
    assert found.image_ids == ("000.png", "001.png", "002.png", "004.png", "005.png")
    assert found.table["patient_id"].to_list() == ["p0", "p0", "p1", "p2", "p2"]
    assert {path.name for path in (out / "overlays").iterdir()} == set(found.image_ids)
    assert (
        typed(run_folder / "model", "folder", films, "--out", out, *rest).exit_code == 1
    )  # the same, nothing is done again


@pytest.mark.parametrize(
    "words", [("--source", "nih"), ("x.png", "--source", "nih", "--root", "."), ("nih",), ("--write", "pictures", ".")]
)
def test_what_does_not_fit_together_is_told(run_folder, tmp_path, words):
    with pytest.raises(BadInput) as caught:
        typed(run_folder / "model", *words, "--out", tmp_path / "out", *FP32)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_shares_of_a_list_and_the_tables_at_the_end(run_folder, tmp_path):
    films, out = write_dataset(tmp_path / "films", count=6), tmp_path / "out"
    (films / "003.png").write_bytes(b"nothing")
    table = tmp_path / "list.csv"
    table.write_text("path\n" + "\n".join(f"films/{number:03d}.png" for number in range(6)) + "\n")
    words = (run_folder / "model", table, "--out", out, *FP32)
    done = typed(*words, "--shard", "1/2")
    assert (done.exit_code, done.stdout.strip()) == (0, str(out))
    assert "0 images of this shard; 1 parts are left to other shards" in done.stderr
    done = typed(*words, "--shard", "0/2")
    assert done.exit_code == 0  # a scheduler would start the task again
    assert f"5 images, 1 inputs set aside ({out / 'errors.csv'}); the folder is complete" in done.stderr
    assert typed(*words, "--shard", "0/1", "--write", "csv").exit_code == 0
    assert len((out / "scores.csv").read_text().splitlines()) == 6
    assert "films/003.png" in (out / "errors.csv").read_text()


def test_a_run_folder_knows_its_images_and_where_they_go(run_folder, dataset, tmp_path):
    run = shutil.copytree(run_folder, tmp_path / "run")
    done = typed(run, *FP32)
    assert done.exit_code == 0
    assert done.stdout.strip() == str(run / "predictions")
    assert len(open_predictions(run / "predictions")) > 5
    with pytest.raises(BadInput, match="--out FOLDER: say where the predictions go"):
        typed(run / "model", "--source", "folder", "--root", dataset, *FP32)


def test_without_a_folder_boxes_are_printed_and_nothing_is_kept(run_folder, tmp_path, monkeypatch):
    import chestmap

    films = write_dataset(tmp_path / "films", count=3)
    (films / "002.png").write_bytes(b"broken")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = typed(run_folder, "films", *FP32)
    assert done.exit_code == 1
    assert "002.png: text; PNG, JPEG and DICOM are read" in done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["image", "finding", "score", "present", "x0", "y0", "x1", "y1"]
    wanted = chestmap.predict(str(run_folder), ["films/000.png", "films/001.png"])
    assert [line[0] for line in lines[1:]] == ["000.png"] * 3 + ["001.png"] * 3
    for line in lines[1:]:
        found = wanted[int(line[0][:3])]
        assert float(line[2]) == pytest.approx(found.score(line[1]), abs=1e-3)
    kept = json.loads(typed(run_folder, "films/000.png", "--json", *FP32).stdout)
    assert [row["score"] for row in kept] == sorted((row["score"] for row in kept), reverse=True)
    for box in wanted[0].boxes:
        assert next(row["box"] for row in kept if row["finding"] == box.finding) == pytest.approx(box.corners, abs=0.06)
    assert sorted(tmp_path.rglob("*")) == before


def test_shares_that_cannot_be_are_told(run_folder, tmp_path):
    words = (run_folder / "model", tmp_path, "--out", tmp_path / "out", *FP32)
    for more, said in (
        (("--shard", "2/2"), "allowed are 0/2 to 1/2"),
        (("--shard", "0/2", "--write", "csv"), "needs all parts"),
        (("--shard", "0/2", "--write", "createml"), "needs all parts"),
        (("--shard", "0/2", "--cluster", "auto"), "not both"),
        (("--cluster", "auto", "--write", "csv"), "--shard 0/1 afterwards"),
    ):
        with pytest.raises(BadInput, match=said):
            typed(*words, *more)
    assert not (tmp_path / "out").exists()


def test_without_ray_the_extra_is_named(run_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadInput, match=r'pip install "chestmap\[cluster\]"'):
        typed(run_folder / "model", tmp_path, "--out", tmp_path / "out", "--cluster", "auto", *FP32)
