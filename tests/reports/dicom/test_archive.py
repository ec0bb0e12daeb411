"""Results in a real archive: stored by C-STORE, found by their study, fetched again, and stored twice without a second copy."""

import json
import re
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from chestmap.reports.dicom import write_dicom
from reports.dicom.conftest import FOUND, HEIGHT, WIDTH, predicted


def test_results_join_their_image_in_the_archive(orthanc, phantoms, written):
    """One study of one patient holds the image and a series for each kind; what is fetched is what was sent, bit for bit."""
    assert orthanc.store([phantoms["DX2"], *written]) == [0] * (1 + len(written))
    source = pydicom.dcmread(phantoms["DX2"], stop_before_pixels=True)
    (study,) = orthanc.get("/studies?expand")
    assert study["MainDicomTags"]["StudyInstanceUID"] == source.StudyInstanceUID
    assert len(orthanc.get("/patients")) == 1
    series = json.loads(orthanc.request(f"/dicom-web/studies/{source.StudyInstanceUID}/series"))
    shown = sorted((one["00200011"]["Value"][0], one["00080060"]["Value"][0]) for one in series)
    assert shown == [
        (1, "DX"),
        (9001, "SR"),
        (9002, "PR"),
        (9003, "OT"),
        (9004, "SR"),
        (9005, "SEG"),
        (9601, "OT"),
        (9602, "OT"),
    ]
    for path in written:
        sent = pydicom.dcmread(path)
        assert _plain(orthanc.file(sent.SOPInstanceUID)) == _plain(sent)
        if path.name.startswith(("sc-", "seg-")):
            place = (
                f"/dicom-web/studies/{sent.StudyInstanceUID}/series/{sent.SeriesInstanceUID}/instances/{sent.SOPInstanceUID}"
            )
            assert orthanc.request(f"{place}/rendered").startswith(b"\xff\xd8")  # a JPEG


def test_the_boxes_come_back(orthanc, written):
    orthanc.store(written[:1])
    report = orthanc.file(pydicom.dcmread(written[0]).SOPInstanceUID)
    numbers = [float(value) for item in _items(report) if item.get("ValueType") == "SCOORD" for value in item.GraphicData]
    boxes = [corner for box in predicted(WIDTH, HEIGHT, FOUND).boxes[:2] for corner in (box.x0, box.y0)]
    np.testing.assert_allclose([numbers[0], numbers[1], numbers[10], numbers[11]], boxes, atol=1e-4)


def test_sending_twice_is_one_object(orthanc, phantoms, written, about, tmp_path):
    """Also where the second was made anew, some time later."""
    orthanc.store(written[:2])
    first = sorted(orthanc.get("/instances"))
    again = write_dicom(pydicom.dcmread(phantoms["DX2"]), predicted(WIDTH, HEIGHT, FOUND), about, tmp_path, ["sr", "gsps"])
    assert orthanc.store(again) == [0, 0]
    assert sorted(orthanc.get("/instances")) == first
    assert len(first) == 2


def test_the_archive_listens_on_the_loopback_only(orthanc):
    """Its DICOM port takes whatever comes."""
    tables = (Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6"))
    lines = [line.split() for table in tables for line in table]
    own = {f"{port:04X}" for port in (orthanc.http_port, orthanc.dicom_port)}
    listening = {
        (line[1].split(":")[0], line[1].split(":")[1]) for line in lines if line[3] == "0A" and line[1].split(":")[1] in own
    }
    assert {port for _, port in listening} == own
    assert {address for address, _ in listening} == {"0100007F"}


def _plain(dataset: Dataset) -> str:
    """Without what an archive adds: offsets, group lengths, padding."""
    return re.sub(r"\(0002.*?\n|Dataset.file_meta -+\n|-+\n", "", str(dataset))


def _items(item: Dataset):
    yield item
    for child in item.get("ContentSequence", ()):
        yield from _items(child)
