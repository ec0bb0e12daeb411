"""`chestmap predict --write seg,pmap`, as it is typed: valid objects that other programs read; films whose pixels are not square."""

import csv
import json
import shutil
import subprocess

import highdicom
import numpy as np
import pydicom
import pytest
import typer
from typer.testing import CliRunner

from chestmap.cli import predict
from imaging.dicom_samples import as_bytes, chest, radiograph
from serving.small import write_small_model

app = typer.Typer()
predict.add_to(app)
FP32 = ("--device", "cpu", "--engine", "torch", "--precision", "32", "--workers", "0", "--batch-size", "4")
ROWS, COLUMNS = 96, 120
KINDS = ("sr", "gsps", "sc", "seg", "pmap", "scores")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """One of square pixels, one of .25 x .5 mm, and the square twin of that."""
    folder, wide = tmp_path_factory.mktemp("films"), chest(ROWS, COLUMNS)
    half = np.rint((wide[:, ::2].astype(float) + wide[:, 1::2]) / 2).astype(np.uint16)
    made = {
        "plain": (np.roll(chest(60, 72), 3, axis=1), [0.2, 0.2]),
        "flat": (half, [0.25, 0.5]),
        "twin": (wide, [0.25, 0.25]),
    }
    for number, (name, (pixels, spacing)) in enumerate(made.items(), 1):
        own = {
            "SOPInstanceUID": f"1.2.3.{number}", "SeriesInstanceUID": f"1.2.4.{number}", "StudyInstanceUID": f"1.2.5.{number}",
            "ImagerPixelSpacing": spacing, "PatientBirthDate": None, "PatientSex": "F", "StudyDate": "20310405", "StudyTime": "101112",
            "AccessionNumber": "A-1", "ReferringPhysicianName": None, "StudyID": "7", "PatientOrientation": ["L", "F"],
        }  # fmt: skip
        (folder / f"{name}.dcm").write_bytes(as_bytes(radiograph(pixels, **own)))
    return folder


@pytest.fixture(scope="module")
def out(films, tmp_path_factory):
    folder = tmp_path_factory.mktemp("typed")
    model = write_small_model(folder / "model")
    words = (model, films, "--out", folder / "out", "--write", "seg,pmap,scores,dicom", "--write", "csv,json,coco", *FP32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHESTMAP_KEY", "of the tests")
        done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return folder / "out"


def objects(out, kind):
    """`dicom` holds reports, states and pictures; other kinds have a folder of their own. Each image has one in it."""
    folder = out / (kind if kind in {"seg", "pmap", "scores"} else "dicom")
    return sorted(path for path in folder.rglob("*.dcm") if path.is_file() and path.name.startswith(f"{kind}-"))


def test_every_kind_that_was_asked_for_is_there_for_each_film(out, films):
    assert [kind for kind in KINDS if not objects(out, kind)] == []
    studies = {str(pydicom.dcmread(path).StudyInstanceUID) for path in objects(out, "pmap")}
    assert studies == {str(pydicom.dcmread(path).StudyInstanceUID) for path in films.iterdir()}


def test_highdicom_reads_segments_and_maps_with_their_films_rows_and_columns(out, films):
    sources = {str(one.StudyInstanceUID): one for one in map(pydicom.dcmread, films.iterdir())}
    assert objects(out, "seg")
    for path in objects(out, "seg"):
        made = highdicom.seg.segread(path)
        film = sources[str(made.StudyInstanceUID)]
        assert (made.Rows, made.Columns) == (film.Rows, film.Columns)
        assert made.number_of_segments >= 1
        found = made.get_pixels_by_source_instance([film.SOPInstanceUID])
        assert found.shape == (1, film.Rows, film.Columns, made.number_of_segments)
        assert found.any(axis=(0, 1, 2)).all()
    for path in objects(out, "pmap"):
        made = highdicom.pm.ParametricMap.from_dataset(pydicom.dcmread(path))
        film = sources[str(made.StudyInstanceUID)]
        assert (made.Rows, made.Columns) == (film.Rows, film.Columns)


def test_dciodvfy_and_dcmpschk_find_no_error(out):
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is absent: apt-get install dicom3tools")
    for kind in KINDS:
        for path in objects(out, kind):
            done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
            lines = (done.stdout + done.stderr).splitlines()
            assert [line for line in lines if line.startswith("Error") or "Error -" in line] == [], path.name
    if shutil.which("dcmpschk") is None:
        pytest.skip("dcmpschk is absent: apt-get install dcmtk")
    for path in objects(out, "gsps"):
        done = subprocess.run(["dcmpschk", "-v", str(path)], capture_output=True, text=True, check=True)
        assert "W: Test passed." in done.stdout + done.stderr


def corners(found):
    return np.array(sorted(found))


def test_tables_of_a_film_with_oblong_pixels_are_those_of_its_square_twin(out):
    """In pixels of the square image that was read, of the size that each table states; all tables agree."""
    scores = {row["image_id"]: row for row in csv.DictReader((out / "scores.csv").read_text().splitlines())}
    assert [(row["width"], row["height"]) for name, row in scores.items() if "plain" not in name] == [
        (str(COLUMNS), str(ROWS))
    ] * 2
    boxes = {"flat": [], "twin": []}
    for row in csv.DictReader((out / "boxes.csv").read_text().splitlines()):
        if (name := row["image"].removesuffix(".dcm")) in boxes:
            boxes[name].append([float(row[key]) for key in ("x0", "y0", "x1", "y1")])
    assert boxes["flat"]
    assert np.abs(corners(boxes["flat"]) - corners(boxes["twin"])).max() <= 2 * COLUMNS / 32
    lines = {one["image_id"]: one for one in json.loads((out / "results.json").read_text())["images"]}
    coco = json.loads((out / "coco.json").read_text())
    ids = {one["file_name"]: one for one in coco["images"]}
    for name, found in boxes.items():
        told = [box["box"] for box in lines[f"{name}.dcm"]["boxes"]]
        np.testing.assert_allclose(corners(told), corners(found), atol=0.06)
        image = ids[f"{name}.dcm"]
        assert (image["width"], image["height"]) == (COLUMNS, ROWS)
        told = [one["bbox"] for one in coco["annotations"] if one["image_id"] == image["id"]]
        np.testing.assert_allclose(corners([[x, y, x + w, y + h] for x, y, w, h in told]), corners(found), atol=0.06)


def test_its_report_is_in_the_files_own_pixels(out, films):
    """The film has half the columns of its twin; so have the regions of its report and the marks of its presentation state."""
    files = {name: pydicom.dcmread(films / f"{name}.dcm") for name in ("flat", "twin")}
    found = {}
    for name, film in files.items():
        (report,) = [
            one for one in map(pydicom.dcmread, objects(out, "sr")) if one.StudyInstanceUID == film.StudyInstanceUID
        ]
        regions = [np.reshape(item.GraphicData, (-1, 2)) for item in walk(report) if item.get("ValueType") == "SCOORD"]
        found[name] = np.array(sorted([*one.min(0), *one.max(0)] for one in regions))
    assert len(found["flat"])
    assert found["flat"][:, [0, 2]].max() <= files["flat"].Columns == COLUMNS // 2
    assert np.abs(found["flat"] * [2, 1, 2, 1] - found["twin"]).max() <= 2 * COLUMNS / 32


def walk(item):
    yield item
    for child in item.get("ContentSequence", ()):
        yield from walk(child)
