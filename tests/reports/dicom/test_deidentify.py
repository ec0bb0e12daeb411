"""De-identification: markers are planted wherever a header can hold one, and looked for, byte by byte, in whatever comes out."""

import copy
from datetime import datetime
from io import BytesIO

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from typer.testing import CliRunner

from chestmap.cli import data
from chestmap.errors import BadImage
from chestmap.imaging.read import ReadSettings, radiograph_of
from chestmap.reports.dicom import KINDS, result_objects, write_dicom
from chestmap.reports.dicom.deidentify import KeepOptions, deidentified, write_deidentified
from imaging.dicom_samples import as_bytes, chest, compressed, look_up_table, radiograph
from reports.dicom.conftest import FOUND, HEIGHT, WIDTH, errors_of, predicted

SALT = b"sixteen letters."
MARK = "Zyxwv"
DATES = ("19471213", "20170304", "20170305", "103059")


def planted(source: Dataset) -> Dataset:
    """A name, id, date, address, telephone or free text in every place; all words hold the same mark."""
    made = copy.deepcopy(source)
    for keyword in (
        "PatientName", "PatientID", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName", "ReferringPhysicianName",
        "OperatorsName", "PerformingPhysicianName", "NameOfPhysiciansReadingStudy", "RequestingPhysician", "AccessionNumber",
        "StudyID", "InstitutionName", "InstitutionalDepartmentName", "StationName", "StudyDescription", "SeriesDescription",
        "ProtocolName", "DeviceSerialNumber", "PatientTelephoneNumbers", "MilitaryRank", "CountryOfResidence", "Manufacturer",
        "ManufacturerModelName", "SoftwareVersions", "DetectorID", "PlateID", "FilterType", "IssuerOfPatientID", "GantryID",
    ):  # fmt: skip
        setattr(made, keyword, f"{MARK} {keyword[:6]}")
    for keyword in (
        "PatientAddress", "InstitutionAddress", "PatientComments", "ImageComments", "DerivationDescription",
        "AdditionalPatientHistory", "Allergies", "AcquisitionDeviceProcessingDescription", "StudyComments", "TextComments",
    ):  # fmt: skip
        setattr(made, keyword, f"{MARK} street 5, phone {MARK} 0761")
    made.ImageType = ["ORIGINAL", "PRIMARY", MARK.upper()]
    made.PatientBirthDate = DATES[0]
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "InstanceCreationDate"):
        setattr(made, keyword, DATES[1])
    made.AcquisitionDateTime, made.StudyTime = DATES[2] + DATES[3], DATES[3]
    made.WindowCenterWidthExplanation = MARK
    _plant_nested(made)
    made.add_new(0x00091001, "LO", MARK)
    block = made.private_block(0x0019, f"{MARK} MAKER", create=True)
    block.add_new(0x10, "LO", MARK)
    block.add_new(0x11, "SQ", [_item(PatientName=MARK)])
    made.add_new(0x60000022, "LO", MARK)
    made.add_new(0x60003000, "OW", MARK.encode() + b"\0")
    made.add_new(0x50003000, "OW", MARK.encode() + b"\0")
    made.add_new(0x40000010, "LT", MARK)
    made.add_new(0x00100FFF, "LO", MARK)  # no dictionary knows it
    made.add_new(0xFFFCFFFC, "OB", MARK.encode() + b"\0")
    made.PixelData = made.PixelData + MARK.encode() + b"\0"
    made.preamble = MARK.encode().ljust(128, b"\0")
    made.file_meta.SourceApplicationEntityTitle = MARK
    made.file_meta.PrivateInformationCreatorUID, made.file_meta.PrivateInformation = "1.2.3", MARK.encode() + b"\0"
    return made


def _item(**elements: object) -> Dataset:
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def _plant_nested(made: Dataset) -> None:
    inner = _item(PersonName=MARK, PersonTelephoneNumbers=MARK, InstitutionName=MARK, CodeMeaning=MARK)
    made.RequestAttributesSequence = [_item(RequestedProcedureDescription=MARK, RequestedProcedureCodeSequence=[inner])]
    made.ReferencedStudySequence = [_item(ReferencedSOPInstanceUID="1.2.840.113619.7777.1")]
    made.ViewCodeSequence[0].CodeMeaning = MARK
    made.ViewCodeSequence[0].ViewModifierCodeSequence = [inner]
    made.AnatomicRegionSequence[0].CodeMeaning = MARK
    made.AcquisitionContextSequence = [_item(TextValue=MARK, ConceptNameCodeSequence=[inner])]
    made.OriginalAttributesSequence = [_item(ModifiedAttributesSequence=[_item(PatientName=MARK)], ModifyingSystem=MARK)]
    table = look_up_table(0, list(range(0, 65536, 16)), 16)
    table.LUTExplanation, table.PatientName = MARK, MARK
    made.VOILUTSequence = [table]


def words_of(source: Dataset) -> list[bytes]:
    """Also the identifiers, which say where an image came from."""
    uids = [str(source[keyword].value) for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")]
    return [word.encode() for word in (MARK, MARK.upper(), *DATES, *uids, "1.2.840.113619.7777.1")]


def found_in(data: bytes, words: list[bytes]) -> list[bytes]:
    return [word for word in words if word in data]


@pytest.fixture
def marked(dx):
    return planted(dx)


def test_no_planted_word_is_left(marked, tmp_path):
    words = words_of(marked)
    assert found_in(as_bytes(marked), words) == words  # the markers are there to be found
    assert write_deidentified(as_bytes(marked), SALT, tmp_path)
    (path,) = tmp_path.iterdir()
    assert found_in(path.read_bytes(), words) == []
    assert errors_of(path) == []
    made = pydicom.dcmread(path)
    assert made.PatientIdentityRemoved == "YES"
    assert made.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert not [element for element in made.iterall() if element.tag.is_private]


def test_the_picture_is_the_same(marked):
    before = radiograph_of(as_bytes(marked), "x")
    after = radiograph_of(as_bytes(deidentified(marked, SALT)), "x")
    np.testing.assert_array_equal(after.pixels, before.pixels)
    assert (after.view, after.spacing_mm) == (before.view, before.spacing_mm)
    assert MARK not in repr(after.patient_id)


def test_results_of_a_deidentified_image_tell_nothing_and_belong_to_it(marked, about, tmp_path):
    made = deidentified(marked, SALT)
    prediction = predicted(WIDTH, HEIGHT, FOUND)
    paths = write_dicom(made, prediction, about, tmp_path, KINDS)
    for path in paths:
        assert found_in(path.read_bytes() + path.name.encode(), words_of(marked)) == []
        assert errors_of(path) == []
        result = pydicom.dcmread(path)
        assert (result.StudyInstanceUID, result.PatientID) == (made.StudyInstanceUID, made.PatientID)
        assert result.PatientIdentityRemoved == "YES"


def test_files_and_messages_of_results_tell_nothing(marked, about, tmp_path, caplog):
    """Results for a hospital's own archive carry the patient; their names, and what is logged on the way, do not."""
    paths = write_dicom(marked, predicted(WIDTH, HEIGHT, FOUND), about, tmp_path, KINDS)
    del marked.SeriesInstanceUID
    with pytest.raises(BadImage) as caught:
        list(result_objects(marked, predicted(WIDTH, HEIGHT, FOUND), about, ["sr"]))
    told = "".join([*(path.name for path in paths), str(caught.value), caplog.text]).encode()
    assert found_in(told, [MARK.encode(), *(date.encode() for date in DATES)]) == []
    for path in paths:  # of what could be copied, only what joins the study and names the patient
        made = pydicom.dcmread(path)
        kept = {element.keyword for element in made.iterall() if MARK in str(element.value) and element.VR != "SQ"}
        assert kept <= {
            "PatientName", "PatientID", "AccessionNumber", "StudyID", "ReferringPhysicianName", "StudyDescription", "IssuerOfPatientID",
        }  # fmt: skip


def test_a_batch_stays_together_and_salts_keep_batches_apart(dx):
    second = copy.deepcopy(dx)
    second.SOPInstanceUID = "1.2.3.4"
    one, two, other = deidentified(dx, SALT), deidentified(second, SALT), deidentified(dx, b"another salt, too")
    assert (one.StudyInstanceUID, one.PatientID) == (two.StudyInstanceUID, two.PatientID)
    assert one.SOPInstanceUID != two.SOPInstanceUID
    assert one == deidentified(dx, SALT)
    assert other.StudyInstanceUID != one.StudyInstanceUID
    assert other.PatientID != one.PatientID
    second.PatientID = "another"
    assert deidentified(second, SALT).PatientID != one.PatientID
    del dx.PatientID
    del second.PatientID
    second.StudyInstanceUID = "1.2.3.5"
    assert deidentified(dx, SALT).PatientID != deidentified(second, SALT).PatientID  # not all nameless are one patient
    with pytest.raises(ValueError, match="guessed"):
        deidentified(dx, b"short")


@pytest.mark.parametrize(
    "syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.70"]
)
def test_in_every_transfer_syntax(syntax, dx, tmp_path):
    """Implicit, big endian, deflated, and JPEG with a comment among its segments."""
    source = compressed(dx, syntax)
    source.PatientName = MARK
    if syntax.endswith("4.70"):
        frame = next(generate_frames(source.PixelData, number_of_frames=1))
        comment = b"\xff\xfe" + (len(MARK) + 2).to_bytes(2, "big") + MARK.encode()
        source.PixelData = encapsulate([frame[:2] + comment + frame[2:]])
        source["PixelData"].VR, source["PixelData"].is_undefined_length = "OB", True
    data = as_bytes(source)
    write_deidentified(data, SALT, tmp_path)
    (path,) = tmp_path.iterdir()
    after = path.read_bytes()
    assert MARK.encode() not in after
    np.testing.assert_array_equal(radiograph_of(after, "x").pixels, radiograph_of(data, "x").pixels)
    dumped = as_bytes(pydicom.dcmread(BytesIO(after)))
    assert MARK.encode() not in dumped


def test_text_in_the_pixels_is_refused_where_it_is_told(dx):
    dx.BurnedInAnnotation = "YES"
    with pytest.raises(BadImage, match="burned"):
        deidentified(dx, SALT)


def test_result_objects_are_made_anew_rather_than_cleaned(results):
    with pytest.raises(BadImage, match="make result objects anew"):
        deidentified(results["sr"][0], SALT)


def test_the_verb(phantoms, dx, tmp_path, monkeypatch):
    """Names of files that are left out are not said unless asked."""
    source = tmp_path / "in"
    source.mkdir()
    for name, path in phantoms.items():
        (source / f"{MARK} {name}.dcm").write_bytes(path.read_bytes())
    dx.BurnedInAnnotation = "YES"
    (source / f"{MARK} burned.dcm").write_bytes(as_bytes(dx))
    dx.BurnedInAnnotation, dx.Rows = "NO", dx.Rows // 2  # the same identifier, another picture
    (source / f"{MARK} twin.dcm").write_bytes(as_bytes(dx))
    command = ["deidentify", str(source), "--out", str(tmp_path / "out")]
    monkeypatch.setenv("CHESTMAP_KEY", "a secret of these tests")
    done = CliRunner().invoke(data.app, command)
    assert done.exit_code == 1, done.output
    assert MARK not in done.output.replace(str(tmp_path), "")
    assert "burned" in done.output
    assert "same SOPInstanceUID" in done.output
    assert "2 files were left out" in done.output
    made = list((tmp_path / "out").iterdir())
    assert len(made) == 4
    for path in made:
        assert radiograph_of(path.read_bytes(), path.name, ReadSettings()).view in {"PA", "AP"}
    again = CliRunner().invoke(data.app, [*command, "--show-names"])
    assert f"{MARK} burned.dcm" in again.output
    assert sorted((tmp_path / "out").iterdir()) == sorted(made)  # the same key, the same names


def test_options_of_the_profile_are_kept_and_named():
    """Age and sex as they are, dates moved by one span for each patient, so that intervals stay."""
    films = [radiograph(chest(), PatientAge="093Y", PatientSex="F", StudyDate=date) for date in ("20240101", "20240401")]
    salt, keeping = SALT, KeepOptions(age_and_sex=True, shifted_dates=True)
    first, second = (deidentified(one, salt, keeping) for one in films)
    assert (first.PatientAge, first.PatientSex) == ("090Y", "F")
    dates = [datetime.strptime(one.StudyDate, "%Y%m%d") for one in (first, second)]  # noqa: DTZ007
    assert (dates[1] - dates[0]).days == 91
    assert first.StudyDate < "20240101"
    assert first.LongitudinalTemporalInformationModified == "MODIFIED"
    assert [one.CodeValue for one in first.DeidentificationMethodCodeSequence] == ["113100", "113108", "113107"]
    plain = deidentified(films[0], salt)
    assert (plain.get("PatientAge"), plain.PatientSex, plain.StudyDate) == (None, None, None)
