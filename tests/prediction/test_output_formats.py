"""What is written beside the predictions: tables that other programs read, overlays, DICOM results, a page; made once."""

import csv
import io
import json

import numpy as np
import pytest
from pydicom import dcmread

from chestmap.datasets.coco import read_coco
from chestmap.datasets.folder_tables import read_box_table
from chestmap.errors import BadInput
from chestmap.prediction.job import predict_all, reading_for
from chestmap.prediction.output_formats import Outputs, checked_kinds
from chestmap.predictions.folder import open_predictions
from chestmap.reports.dicom.deidentify import write_deidentified
from chestmap.reports.result_tables import safe_cell
from imaging.dicom_samples import as_bytes, chest, radiograph
from prediction.predict_small import SETTINGS, small_predictor
from training.small import write_dataset

KEY = b"a key of sixteen bytes or more"


@pytest.fixture(scope="module")
def predictor(run_folder):
    return small_predictor(run_folder / "model")


def write(predictor, films, out, *kinds, key=None):
    with Outputs(
        out=out, predictor=predictor, reading=reading_for(predictor, SETTINGS), kinds=checked_kinds(kinds), key=key
    ) as outputs:
        predict_all(predictor, [str(films)], out, SETTINGS, on_part=outputs.on_part, progress=False)
        outputs.finish()
    return outputs


@pytest.fixture(scope="module")
def made(predictor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs")
    films = write_dataset(folder / "films", count=10)
    (films / "x=1.dcm").write_bytes(as_bytes(radiograph(chest(), PatientID="4711", PatientBirthDate=None)))
    return films, folder / "out", write(predictor, films, folder / "out", "csv,json", "coco", "overlays,report,dicom")


def test_tables_say_what_memory_says(made, predictor):
    films, out, _ = made
    found = open_predictions(out)
    rows = list(csv.DictReader((out / "scores.csv").read_text().splitlines()))
    boxes = list(csv.DictReader((out / "boxes.csv").read_text().splitlines()))
    lines = json.loads((out / "results.json").read_text())
    assert [row["image_id"] for row in rows] == list(found.image_ids) == [line["image_id"] for line in lines["images"]]
    assert lines["model"]["sha256"] == predictor.model.sha256
    for row, line, image in zip(rows, lines["images"], found, strict=True):
        np.testing.assert_allclose([float(row[name]) for name in found.findings], image.scores, atol=1e-6)
        np.testing.assert_allclose(list(line["scores"].values()), image.scores, atol=1e-6)
    alone = predictor.predict(films / "003.png").boxes
    told = [box for box in boxes if box["image"] == "003.png"]
    assert [box["finding"] for box in told] == [box.finding for box in alone]
    for one, other in zip(told, alone, strict=True):
        np.testing.assert_allclose([float(one[key]) for key in ("x0", "y0", "x1", "y1")], other.corners, atol=0.01)
        assert float(one["score"]) == pytest.approx(other.score, abs=1e-5)
    (line,) = [line for line in lines["images"] if line["image_id"] == "003.png"]
    assert [box["finding"] for box in line["boxes"]] == [box.finding for box in alone]


def test_coco_and_csv_come_back_through_our_own_readers(made):
    films, out, _ = made
    table, sizes = read_coco(out / "coco.json")
    again = read_box_table(out / "boxes.csv")
    assert not table.problems
    assert len(table.rows) == len(again.rows) > 5
    assert len(sizes) == 11
    np.testing.assert_allclose(table.rows["x1"], again.rows["x1"], atol=0.02)
    results, whole = (json.loads((out / name).read_text()) for name in ("coco_results.json", "coco.json"))
    assert [{key: mark[key] for key in results[0]} for mark in whole["annotations"]] == results
    assert all((films / image["file_name"]).is_file() for image in whole["images"])  # where other programs look


def test_pictures_results_and_page(made):
    _, out, outputs = made
    pictures = {path.name for path in (out / "overlays").iterdir()}
    assert pictures == {*(f"{number:03d}.png" for number in range(10)), "x=1.dcm.png"}
    assert outputs.without_dicom == 10
    assert not outputs.failed
    assert {path.name.split("-")[0] for path in (out / "dicom" / "x=1.dcm").iterdir()} >= {"sr", "sc"}
    page = (out / "report.html").read_text()
    assert page.count("<figure") == 11
    assert "4711" not in page


def test_results_of_no_one_join_the_deidentified_image(predictor, tmp_path):
    """The same key gives the same identifiers, whether the image or its results come first."""
    film = tmp_path / "film.dcm"
    film.write_bytes(as_bytes(radiograph(chest(), PatientID="4711", PatientName="Doe^Jane", StudyDate="20200101")))
    (tmp_path / "image").mkdir()
    write_deidentified(film.read_bytes(), KEY, tmp_path / "image")
    (image,) = (dcmread(path) for path in (tmp_path / "image").iterdir())
    outputs = write(predictor, film, tmp_path / "out", "dicom", key=KEY)
    assert not outputs.failed
    results = [path.read_bytes() for path in (tmp_path / "out" / "dicom").rglob("*.dcm") if path.is_file()]
    assert len(results) >= 2
    for content in results:
        result = dcmread(io.BytesIO(content))
        assert (result.PatientID, result.StudyInstanceUID) == (image.PatientID, image.StudyInstanceUID)
        assert (image.SOPInstanceUID.encode() in content) == (result.Modality in {"SR", "PR"})  # a picture refers to nothing
        assert not any(secret in content for secret in (b"4711", b"Doe", b"20200101", b"patient-7"))


def test_a_second_call_makes_only_what_is_missing(made, predictor):
    films, out, _ = made
    (out / "overlays" / "004.png").unlink()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.suffix in {".png", ".dcm", ".npy"}}
    write(predictor, films, out, "overlays,dicom,csv")
    assert (out / "overlays" / "004.png").exists()
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_an_unknown_kind_is_told():
    with pytest.raises(BadInput, match=r'--write overlay: allowed: .*did you mean "overlays"'):
        checked_kinds(["csv,overlay"])
    assert checked_kinds([]) == {"predictions"}


def test_a_cell_is_never_a_formula():
    assert safe_cell("=cmd|' /C calc'!A0") == "'=cmd|' /C calc'!A0"
    assert safe_cell("a=1.png") == "a=1.png"
