"""Every kind of object that is written, through the programs that validate DICOM: dciodvfy and dcmpschk find no error."""

import shutil
import subprocess

import pydicom
import pytest

from chestmap.reports.dicom.earlier import Earlier, withdrawal
from chestmap.reports.dicom.verified import ReaderReport, Verdict, verified_objects
from chestmap.reports.dicom.write import write_objects
from chestmap.types import Box
from reports.dicom.conftest import HEIGHT, WIDTH, errors_of, run

VERDICTS = (
    Verdict("Effusion", present=True, boxes=(Box("Effusion", 10, 20, 60, 80), Box("Effusion", 70, 20, 90, 80))),
    Verdict("Mass", present=True),
    Verdict("Nodule", present=False, bulk=True),
)


@pytest.fixture(scope="module")
def earlier(written):
    """What an archive would hold of the model."""
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in written]
    return [Earlier(str(one.SOPInstanceUID), str(one.SeriesInstanceUID), str(one.SOPClassUID)) for one in headers]


def report(verdicts=VERDICTS):
    return ReaderReport(
        reader="Ana Lima", organization="research", at="2031-04-05T10:11:12.000000+00:00", version=2, study="s-1",
        size=(WIDTH, HEIGHT), verdicts=verdicts, note="Compared with 2030.", measures=("distance 25.0 mm",), key=True,
    )  # fmt: skip


def test_what_a_reader_verifies_and_rejects_is_valid(phantoms, earlier, tmp_path):
    """A report with regions, one of text alone, rejection notes of a reader and of the service, a key image."""
    for name, verdicts in (("regions", VERDICTS), ("text", VERDICTS[1:]), ("nothing", ())):
        for source in ("DX2", "CR1"):
            made = verified_objects(pydicom.dcmread(phantoms[source]), report(verdicts), earlier, earlier)
            paths = write_objects(made, tmp_path / name / source)
            assert sorted(path.name.split("-")[0] for path in paths) == ["kos", "kos", "sr"]
            assert [error for path in paths for error in errors_of(path)] == []
    note = withdrawal(pydicom.dcmread(phantoms["DX2"]), earlier, "A corrected image replaced it.")
    (path,) = write_objects([("kos", note)], tmp_path)
    assert errors_of(path) == []
    for path in tmp_path.rglob("*.dcm"):
        assert run("dsrdump", path)  # dcmtk reads it, with its own check of the content


def test_presentation_states_pass_dcmpschk(written):
    if shutil.which("dcmpschk") is None:
        pytest.skip("dcmpschk is absent: apt-get install dcmtk")
    (state,) = [path for path in written if path.name.startswith("gsps")]
    done = subprocess.run(["dcmpschk", "-v", str(state)], capture_output=True, text=True, check=True)
    said = (done.stdout + done.stderr).splitlines()
    assert [line for line in said if line.startswith("E:")] == []
    assert "W: Test passed." in said
