"""A film of .25 x .5 mm through the whole service: the scores of its square twin, and boxes in the file's own pixels."""

import io

import numpy as np
import pydicom

from imaging.dicom_samples import as_bytes, chest, radiograph
from serving.small import upload

ROWS, COLUMNS = 96, 120


def test_its_scores_are_the_twins_and_its_boxes_come_back(client):
    wide = chest(ROWS, COLUMNS).astype(np.float64)
    half = np.rint((wide[:, ::2] + wide[:, 1::2]) / 2).astype(np.uint16)
    film = as_bytes(radiograph(half, ImagerPixelSpacing=[0.25, 0.5], SOPInstanceUID="1.2.3.1"))
    twin = as_bytes(radiograph(chest(ROWS, COLUMNS), ImagerPixelSpacing=[0.25, 0.25], SOPInstanceUID="1.2.3.2"))
    first, second = client.post("/v1/predict", files=upload(film, twin, name="film.dcm")).json()["studies"]
    assert (first["image"]["width"], first["image"]["height"]) == (COLUMNS, ROWS)
    assert first["image"]["spacing"] == second["image"]["spacing"] == [0.25, 0.25]
    pairs = list(zip(first["results"][0]["findings"], second["results"][0]["findings"], strict=True))
    assert max(abs(one["score"] - other["score"]) for one, other in pairs) < 0.03
    places = [(corners(a), corners(b)) for one, other in pairs for a, b in zip(one["boxes"], other["boxes"], strict=True)]
    assert places
    assert max(np.abs(np.subtract(a, b)).max() for a, b in places) <= 2 * COLUMNS / 32

    report, original = (outlines(client, one["id"]) for one in (first, second))
    assert report.keys() == original.keys()
    for name, outline in report.items():
        assert np.allclose(outline[:, 0], original[name][:, 0] / 2, atol=COLUMNS / 32)
        assert np.allclose(outline[:, 1], original[name][:, 1], atol=2 * ROWS / 32)


def corners(box):
    return [box[key] for key in ("x0", "y0", "x1", "y1")]


def outlines(client, study):
    """(column, row) of each region of the report, by its finding."""
    answer = client.get(f"/v1/studies/{study}/dicom")
    body, kind = answer.content, answer.headers["content-type"]
    if kind.startswith("multipart"):
        border = b"--" + kind.rpartition("boundary=")[2].encode()
        body = next(part.partition(b"\r\n\r\n")[2] for part in body.split(border) if b"DICM" in part)
    report = pydicom.dcmread(io.BytesIO(body))
    found = {}
    for item in walk(report):
        if item.get("ValueType") == "CONTAINER":
            codes = [one for one in item.get("ContentSequence", ()) if one.get("ValueType") == "CODE"]
            regions = [one for one in item.get("ContentSequence", ()) if one.get("ValueType") == "SCOORD"]
            named = [one.ConceptCodeSequence[0].CodeMeaning for one in codes if code(one) == "121071"]
            if named and regions:
                found[named[0]] = np.reshape(regions[0].GraphicData, (-1, 2))
    assert found
    return found


def code(item):
    return item.ConceptNameCodeSequence[0].CodeValue


def walk(item):
    yield item
    for child in item.get("ContentSequence", ()):
        yield from walk(child)
