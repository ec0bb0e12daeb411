"""What is given becomes a stream of inputs with names that do not depend on where they lie."""

import os
import warnings
import zipfile
from pathlib import Path

import pytest
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite

from chestmap.errors import BadImage, BadInput
from chestmap.prediction.decoding import content
from chestmap.prediction.inputs import Inputs
from chestmap.prediction.pseudonym import Pseudonyms, own_key, repeats
from imaging.dicom_samples import as_bytes, chest, radiograph
from imaging.picture_samples import grey_png


@pytest.fixture
def films(tmp_path):
    root = tmp_path / "films"
    for name in (
        "b/1.png",
        "a/2.PNG",
        "a/1.png",
        "a/.hidden.png",
        "__MACOSX/1.png",
        "a/deep/er/3.jpg",
        "a/notes.txt",
        "c.tif",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(grey_png())
    (root / "1.2.840.5").write_bytes(as_bytes(radiograph(chest())))
    return root


def names(*given):
    return [source.name for source in Inputs([str(one) for one in given])]


def test_a_folder_is_walked_in_order(films):
    inputs = Inputs([str(films)])
    assert [source.name for source in inputs] == ["1.2.840.5", "c.tif", "a/1.png", "a/2.PNG", "a/deep/er/3.jpg", "b/1.png"]
    assert inputs.passed_over == 1
    assert inputs.count() == 6
    assert len({source.key for source in inputs}) == 6


def test_names_are_those_below_what_all_have_in_common(films, monkeypatch):
    assert names(films / "a" / "1.png") == ["1.png"]
    assert names(films / "b", films / "a" / "1.png") == ["b/1.png", "a/1.png"]
    monkeypatch.chdir(films.parent)
    assert names("films") == names(films)
    assert names("films/a/*.png") == names(films / "a" / "1.png")
    assert names("films/**/1.png") == ["__MACOSX/1.png", "a/1.png", "b/1.png"]


def test_results_below_the_inputs_are_no_inputs(films):
    (films / "results" / "overlays").mkdir(parents=True)
    (films / "results" / "overlays" / "1.png").write_bytes(grey_png())
    assert len(names(films)) == 7
    (films / "results" / "predictions.json").write_text("{}")
    assert len(names(films)) == 6


def test_what_is_given_twice_comes_once(films):
    assert names(films, films / "a", films / "a" / "1.png") == names(films)


def test_loops_and_links_of_folders_end(films):
    (films / "a" / "loop").symlink_to(films)
    (films / "again").symlink_to(films / "b")
    found = names(films)
    assert len(found) == 6
    assert "again/1.png" in found or "b/1.png" in found


def test_a_folder_that_may_not_be_read_is_told(films, monkeypatch):
    real = os.scandir

    def refused(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refused)  # root, who may run this, is never refused
    (told,) = [source for source in Inputs([str(films)]) if source.problem]
    assert told.name == "a/deep"
    assert "folder cannot be opened (Permission denied)" in told.problem


def test_lists_of_paths(films):
    (films / "list.txt").write_text("a/1.png\nb/1.png\n\nnowhere.png\n")
    assert names(films / "list.txt") == ["a/1.png", "b/1.png", "nowhere.png"]
    (films / "list.csv").write_text("path,image_id,note\na/1.png,one,x\nb/1.png,two,y\na/2.PNG,two,z\n")
    assert names(films / "list.csv") == ["one", "two", "two~2"]


@pytest.mark.parametrize("row", ["http://[", "zip://a.png::/x", "://", "memory://", "a::b::c", "http://[::1", "file://"])
def test_a_row_that_is_no_address_costs_that_row_alone(films, row):
    (films / "list.csv").write_text(f"path\na/1.png\n{row}\nb/1.png\n")
    (films / "list.txt").write_text(f"a/1.png\n{row}\nb/1.png\n")
    for given in ("list.csv", "list.txt"):
        listed = list(Inputs([str(films / given)]))
        assert len(listed) == 3
        assert [listed[0].name, listed[2].name] == ["a/1.png", "b/1.png"]
        assert listed[1].name
        with pytest.raises(BadImage) as caught:
            content(listed[1])
        assert "\n" not in str(caught.value)


def test_a_dicomdir_lists_its_files_and_none_outside(films):
    records = []
    for parts in (["A", "IM1"], ["A", "IM2"], ["..", "secret"], "ALONE", ["A/..", "x"]):
        record = Dataset()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the standard forbids is the point
            record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", parts
        records.append(record)
    patient = Dataset()
    patient.DirectoryRecordType, patient.PatientName = "PATIENT", "Never^Shown"
    whole = Dataset()
    whole.DirectoryRecordSequence = [patient, *records]
    whole.file_meta = FileMetaDataset()
    whole.file_meta.MediaStorageSOPClassUID = whole.SOPClassUID = uid.MediaStorageDirectoryStorage
    whole.file_meta.MediaStorageSOPInstanceUID = whole.SOPInstanceUID = "1.2.3"
    whole.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    (films / "a" / "im2").write_bytes(as_bytes(radiograph(chest())))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcmwrite(films / "DICOMDIR", whole, enforce_file_format=True)
    sources = list(Inputs([str(films / "DICOMDIR")]))
    assert [source.name for source in sources if not source.problem] == ["A/IM1", "a/im2", "ALONE"]
    problems = [source.problem for source in sources if source.problem]
    assert len(problems) == 2
    assert all("no place below its folder" in problem for problem in problems)
    (films / "DICOMDIR").write_bytes(b"nothing of the kind" * 20)
    with pytest.raises(BadInput, match="no readable DICOMDIR"):
        names(films / "DICOMDIR")


def test_names_from_archives_are_made_plain(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("a\x1b[31m.png", "a?[31m.png", "\u202egnp.png", "long" * 100 + ".png"):
            archive.writestr(name, grey_png())
    found = names(tmp_path / "x.zip")
    assert len(set(found)) == 4
    assert all(name.isprintable() and len(name) < 220 for name in found)
    (tmp_path / "y.zip").write_bytes(b"PK\x03\x04 nothing")
    (broken,) = Inputs([str(tmp_path / "y.zip")])
    assert "ZIP archive cannot be opened" in broken.problem


@pytest.mark.parametrize(
    ("given", "said"), [("flims", 'did you mean "films"'), ("films/*.xyz", "no file matches this pattern")]
)
def test_what_is_not_there_is_told_at_once(films, monkeypatch, given, said):
    monkeypatch.chdir(films.parent)
    with pytest.raises(BadInput, match=said):
        names(given)


def test_words_about_a_patient_are_found_however_they_are_joined():
    words = frozenset({"doe", "john", "doejohn", "mrn4711", "20240131", "li"})
    for part in ("DOE^JOHN", "doe-john_pa.dcm", "xMRN4711y.dcm", "mrn-47-11.dcm", "1.2.20240131.5", "li.dcm"):
        assert repeats(part, words), part
    for part in ("IM0001", "doer.dcm", "line.dcm", "4712"):
        assert not repeats(part, words), part


def test_pseudonyms_need_the_key(monkeypatch, tmp_path):
    one, other = Pseudonyms(b"1" * 32), Pseudonyms(b"2" * 32)
    assert one.patient("4711") == Pseudonyms(b"1" * 32).patient("4711") != other.patient("4711")
    assert Pseudonyms(None).patient("4711") == "4711"
    monkeypatch.delenv("CHESTMAP_KEY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    key = own_key()
    assert key == own_key()
    assert len(key) == 32
    assert (tmp_path / "chestmap" / "pseudonym.key").stat().st_mode & 0o077 == 0
    (tmp_path / "chestmap" / "pseudonym.key").write_bytes(b"")
    with pytest.raises(BadInput, match="0 bytes are no key"):
        own_key()


def test_a_member_without_a_name_is_passed_over(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("abcde", b"")
        archive.writestr("film.png", b"")
    content = bytearray((tmp_path / "x.zip").read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 28], content[entry + 32] = 0, 5  # its name becomes its comment
    (tmp_path / "x.zip").write_bytes(content)
    assert [Path(one.name).name for one in Inputs([str(tmp_path / "x.zip")])] == ["film.png"]
