import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from chestmap.datasets.folder import FolderSettings, read_folder
from chestmap.datasets.source import UNKNOWN, Source
from chestmap.errors import BadTable
from chestmap.types import Box
from chestmap.vocabulary import CHESTXRAY14

LABELS = """\
image,patient_id,view,age,sex,hospital,Effusion,Lung Mass
a.png,p1,PA,61,F,north,1,0
b/c,p1,ap,062Y,female,south,,-1
b/d.dcm,p2,,,,south,0.0,1.0
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "b" / ".cache").mkdir(parents=True)
    for name in ("a.png", "b/c.jpg", "b/e.PNG", "b/.hidden.png", "b/.cache/f.png", "b/notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "b" / "d.dcm").write_bytes(b"")
    (tmp_path / "b" / "0001").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "b" / "README").write_bytes(b"DICM")
    return tmp_path


def folder(root: Path, labels: str | None = None, boxes: str | dict | None = None, **settings: Any) -> Source:
    if labels is not None:
        (root / "labels.csv").write_text(labels)
        settings["labels"] = "labels.csv"
    if boxes is not None:
        settings["boxes"] = "boxes.json" if isinstance(boxes, dict) else "boxes.csv"
        (root / settings["boxes"]).write_text(json.dumps(boxes) if isinstance(boxes, dict) else boxes)
    return read_folder(FolderSettings(root=root, **settings))


def kinds(source: Source, level: str) -> dict[str, int]:
    return {problem.kind: problem.count for problem in source.problems if problem.level == level}


def test_images_alone(root):
    source = folder(root)
    assert source.ids == ("a.png", "b/0001", "b/c.jpg", "b/d.dcm", "b/e.PNG")
    assert source.findings.names == CHESTXRAY14.names
    assert (source.labels == UNKNOWN).all()
    assert source.images["patient_id"].to_list() == list(source.ids)
    assert source.path(2) == root / "b" / "c.jpg"
    assert kinds(source, "note") == {"patients": 5}
    assert folder(root, findings=("Goitre",)).findings.names == ("Goitre",)


def test_an_image_alone_can_be_opened(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (60, 50), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    example = folder(tmp_path)[0]
    np.testing.assert_allclose(example.radiograph.pixels, pixels / 255, atol=1e-6)
    assert example.radiograph.size == (50, 60)
    assert np.isnan(example.labels).all()


def test_one_column_for_each_finding(root):
    source = folder(root, LABELS)
    assert source.findings.names == ("Effusion", "Lung Mass")
    assert source.labels.tolist() == [[1, 0], [UNKNOWN, UNKNOWN], [0, 1]]
    assert source.ids == ("a.png", "b/c", "b/d.dcm")
    assert source.images["path"].to_list() == ["a.png", "b/c.jpg", "b/d.dcm"]
    assert source.images["view"].to_list() == ["PA", "AP", ""]
    assert source.images["age"].to_list() == [61, 62, None]
    assert source.images["sex"].to_list() == ["F", "F", ""]
    assert kinds(source, "note") == {"unlisted image": 2}


def test_images_are_found_by_path_name_or_stem(root):
    (root / "a.jpg").touch()
    source = folder(
        root, "file,Mass\n" + "".join(f"{name},1\n" for name in ("a.png", "b\\c.jpg", "d", "e.PNG", "0001", "gone.png", "a"))
    )
    assert source.images["path"].to_list() == ["a.png", "b/c.jpg", "b/d.dcm", "b/e.PNG", "b/0001", "gone.png", "a"]
    again = folder(root, "file,Mass\nd,1\nd.dcm,1\n")
    assert again.ids == ("d",)
    assert kinds(again, "error") == {"repeated row": 1}


def test_one_column_of_names(root):
    labels = "image;findings;split\na.png;Effusion|Mass;train\nb/c.jpg;No Finding;test\nb/d.dcm;;\nb/e.PNG;pleural effusion;test\n"
    source = folder(root, labels)
    assert source.findings.names == ("Effusion", "Mass")
    assert source.labels.tolist() == [[1, 1], [0, 0], [UNKNOWN, UNKNOWN], [1, 0]]
    assert source.lists == {"train": ("a.png",), "test": ("b/c.jpg", "b/e.PNG")}
    assert kinds(source, "repaired") == {"label spelling": 1}
    assert not kinds(source, "error")
    chosen = folder(root, labels, findings=("Mass", "Efusion"))
    assert chosen.labels.tolist() == [[1, 0], [0, 0], [UNKNOWN, UNKNOWN], [0, 0]]
    told = next(problem.message for problem in chosen.problems if problem.kind == "unmarked finding")
    assert told == 'labels.csv: Efusion never stands in it, so it is absent everywhere; did you mean "Effusion"?'


def test_columns_are_chosen_by_name(root):
    source = folder(root, LABELS, findings=("lung_mass",))
    assert source.labels.tolist() == [[0], [UNKNOWN], [1]]
    with pytest.raises(BadTable, match='no column "Efusion"; did you mean "Effusion"'):
        folder(root, LABELS, findings=("Efusion", "Lung Mass"))
    report = "image,findings,Mass\na.png,The heart is large.,1\n"
    assert folder(root, report, findings=("Mass",)).labels.tolist() == [[1]]


def test_columns_that_hold_no_labels_are_not_findings(root):
    source = folder(root, "image,score,Mass,comment\na.png,17,1,fine\nb/c.jpg,3,x,1\nb/d.dcm,8,0,bad\n")
    assert source.findings.names == ("Mass",)
    assert source.labels.tolist() == [[1], [UNKNOWN], [0]]
    assert kinds(source, "error") == {"label value": 1}


@pytest.mark.parametrize(
    "boxes",
    [
        "image,finding,x0,y0,x1,y1\na,Effusion,1,2,11,22\nb/d.dcm,lung mass,0,0,5,5\n",
        "image,finding,x1,y1,x2,y2\na,Effusion,1,2,11,22\nd.dcm,lung mass,0,0,5,5\n",
        "file_name,label,x,y,w,h\na.png,Effusion,1,2,10,20\nd,lung mass,0,0,5,5\n",
        "image_id;finding;x;y;width;height\na.png;Effusion;1;2;10;20\nd;lung mass;0;0;5;5\n",
        "image,finding,xmin,ymin,xmax,ymax\na.jpeg,Effusion,1,2,11,22\nb/d,lung mass,0,0,5,5\n",
    ],
    ids=["corners from 0", "corners from 1", "sides", "sides in words", "extremes"],
)
def test_boxes_in_a_table(root, boxes):
    source = folder(root, LABELS, boxes)
    assert source.boxes == {"a.png": (Box("Effusion", 1, 2, 11, 22),), "b/d.dcm": (Box("Lung Mass", 0, 0, 5, 5),)}
    assert not kinds(source, "error")


def test_bad_boxes_are_set_aside(root):
    source = folder(
        root,
        LABELS,
        "image,finding,x0,y0,x1,y1\na,Effusion,1,2,11,22\nz,Effusion,1,2,3,4\na,Effusion,inf,2,3,4\na,Goitre,1,2,3,4\n",
    )
    assert source.boxes == {"a.png": (Box("Effusion", 1, 2, 11, 22),)}
    assert kinds(source, "error") == {"box of another image": 1, "number": 1}
    assert kinds(source, "note")["unlabeled finding"] == 1


COCO = {
    "images": [{"id": 7, "file_name": "a.png", "width": 100, "height": 200}, {"id": 8, "file_name": "b/c.jpg"}],
    "categories": [{"id": 1, "name": "effusion"}, {"id": 2, "name": "Lung Mass"}],
    "annotations": [
        {"image_id": 7, "category_id": 1, "bbox": [10, 20, 100, 40]},
        {"image_id": 8, "category_id": 2, "bbox": [1, 2, 3, 4]},
        {"image_id": 9, "category_id": 2, "bbox": [1, 2, 3, 4]},
        {"image_id": 8, "category_id": 2, "bbox": [1, 2, 3]},
        {"image_id": 8, "category_id": 2},
        "box",
    ],
}


def test_boxes_in_a_coco_file_bring_their_image_space(root):
    source = folder(root, LABELS, COCO)
    assert source.images["width"].to_list() == [100, None, None]
    assert source.images["height"].to_list() == [200, None, None]
    assert source.boxes == {"a.png": (Box("Effusion", 10, 20, 100, 60),), "b/c": (Box("Lung Mass", 1, 2, 4, 6),)}
    assert kinds(source, "error") == {"annotation": 4}
    assert kinds(source, "repaired") == {"label spelling": 1, "box clipped": 1}


def test_boxes_without_labels_name_the_findings(root):
    source = folder(root, boxes=COCO)
    assert source.findings.names == ("Lung Mass", "effusion")
    assert (source.labels == UNKNOWN).all()
    assert set(source.boxes) == {"a.png", "b/c.jpg"}


def test_a_folder_without_images_or_labels(tmp_path):
    with pytest.raises(BadTable, match="no PNG, JPEG or DICOM file"):
        folder(tmp_path)
    with pytest.raises(BadTable, match="no such folder"):
        folder(tmp_path / "gone")
    (tmp_path / "labels.csv").touch()
    with pytest.raises(BadTable, match=r'label\.csv: no such file; did you mean "labels.csv"'):
        read_folder(FolderSettings(root=tmp_path, labels="label.csv"))


def test_file_names_that_are_no_unicode_do_not_stop_the_rest(root):
    try:
        shutil.copy(root / "a.png", root / "b" / b"\xff\xfe.png".decode("utf-8", "surrogateescape"))
    except OSError:
        pytest.skip("this file system allows no such name")
    assert len(folder(root)) == 5


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("Image Name,Class,xmin,ymin,width,height", "a.png,Mass,1,2,3,4"),
        ("image,finding,x1,y1,w,h", "a.png,Mass,1,2,3,4"),
        ("filename,Category,Xmin,Ymin,Xmax,Ymax", "a.png,Mass,1,2,4,6"),
        ("file,label,x0,y0,x1,y1", "a.png,Mass,1,2,4,6"),
        ("file,label,x1,y1,x2,y2", "a.png,Mass,1,2,4,6"),
        ("film,diagnosis,Left,Top,Right,Bottom", "a.png,Mass,1,2,4,6"),
        ("filename,width,height,class,xmin,ymin,xmax,ymax", "a.png,640,480,Mass,1,2,4,6"),  # of the image, as VOC has them
    ],
)
def test_usual_header_words_are_understood(root, header, row):
    source = folder(root, "image,Mass\na.png,1\n", f"{header}\n{row}\n")
    assert source.boxes == {"a.png": (Box("Mass", 1, 2, 4, 6),)}


@pytest.mark.parametrize("mark", [",", ";"])
def test_names_of_one_column_may_have_other_marks_between_them(root, mark):
    text = (
        f"image\tDiagnosis\na.png\tEffusion{mark} Mass\nb/c.jpg\tMass{mark} Effusion\nb/d.dcm\tMass\nb/e.PNG\tNo Finding\n"
    )
    source = folder(root, text)
    assert source.findings.names == ("Effusion", "Mass")
    assert source.labels.tolist() == [[1, 1], [1, 1], [0, 1], [0, 0]]
    assert kinds(source, "note")["separator"] == 4


def test_a_comma_may_be_part_of_a_name(root):
    source = folder(root, "image\tfindings\na.png\tOpacity, basal\nb/c.jpg\tLine\nb/d.dcm\t\n")
    assert set(source.findings.names) == {"Line", "Opacity, basal"}


def test_names_that_differ_in_case_alone_are_found_and_reported(root):
    source = folder(root, "image,Mass\nA.PNG,1\nb/C.jpg,0\nE.png,0\n", "image,finding,x,y,w,h\na.PNG,Mass,1,2,3,4\n")
    assert source.images["path"].to_list() == ["a.png", "b/c.jpg", "b/e.PNG"]
    assert source.ids == ("A.PNG", "b/C.jpg", "E.png")
    assert kinds(source, "repaired") == {"image name": 3}
    assert source.boxes == {"A.PNG": (Box("Mass", 1, 2, 4, 6),)}


def test_two_files_that_differ_in_case_alone_are_not_guessed(root):
    (root / "A.png").write_bytes(b"")
    source = folder(root, "image,Mass\na.png,1\nA.png,0\na.PNG,0\n")
    assert source.images["path"].to_list() == ["a.png", "A.png", "a.PNG"]
    assert "repaired" not in {problem.level for problem in source.problems}


def test_a_finding_in_its_own_spelling_is_no_repair(root):
    for labels in ("image,findings\na.png,Pleural_Thickening\n", "image,Pleural_Thickening\na.png,1\n"):
        source = folder(root, labels, "image,finding,x,y,w,h\na.png,Pleural_Thickening,1,2,3,4\n")
        assert kinds(source, "repaired") == {}
        assert source.findings.names == ("Pleural_Thickening",)


@pytest.fixture
def films(tmp_path):
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((400, 600), np.uint8))
    return tmp_path


FOUR = "image,Mass\n" + "".join(f"{number}.png,1\n" for number in range(4))


def marked(header, *corners):
    return f"image,finding,{header}\n" + "".join(f"{number}.png,Mass,{row}\n" for number, row in enumerate(corners))


FRACTIONS = marked("x,y,w,h", "0.1,0.2,0.3,0.4", "0.5,0.5,0.5,0.5")
PERCENT = marked("x,y,w,h", "10,20,30,40", "50,50,50,50", "1,2,3,4")
AS_CORNERS = marked("x,y,w,h", "300,200,400,300", "500,300,600,400", "100,150,300,390", "10,10,20,30")
OTHER_UNITS = {
    "fractions": (FRACTIONS, "no box reaches beyond 1, so they are fractions of the image"),
    "percent": (PERCENT, "no box reaches beyond 100 in images of 400 pixels and more, so they are percent"),
    "corners": (
        AS_CORNERS,
        "boxes of x, y, width, height leave their images, and as corners x0, y0, x1, y1 they lie inside",
    ),
    "corners in COCO": (
        {
            "images": [{"id": number, "file_name": f"{number}.png"} for number in range(4)],
            "categories": [{"id": 1, "name": "Mass"}],
            "annotations": [
                {"image_id": number, "category_id": 1, "bbox": [int(one) for one in row.split(",")[2:]]}
                for number, row in enumerate(AS_CORNERS.splitlines()[1:])
            ],
        },
        "boxes of x, y, width, height leave their images",
    ),
}


@pytest.mark.parametrize("case", OTHER_UNITS)
def test_boxes_in_another_unit_are_refused(films, case):
    boxes, said = OTHER_UNITS[case]
    with pytest.raises(BadTable, match=said) as caught:
        folder(films, FOUR, boxes)
    assert 'box_unit="' in str(caught.value)
    assert folder(films, FOUR, boxes, box_unit="pixels").boxes


@pytest.mark.parametrize(("unit", "boxes"), [("fraction", FRACTIONS), ("percent", PERCENT)])
def test_boxes_in_a_named_unit_become_pixels(films, unit, boxes):
    source = folder(films, FOUR, boxes, box_unit=unit)
    first, second = source.boxes["0.png"][0], source.boxes["1.png"][0]
    assert first.corners == pytest.approx((60, 80, 240, 240))
    assert second.corners == pytest.approx((300, 200, 600, 400))
    (films / "0.png").unlink()  # it costs its own boxes
    source = folder(films, FOUR, boxes, box_unit=unit)
    assert "0.png" not in source.boxes
    assert source.boxes["1.png"][0].corners == pytest.approx((300, 200, 600, 400))
    assert any("0.png cannot be opened" in problem.message for problem in source.problems)
    for path in films.glob("*.png"):
        path.unlink()
    with pytest.raises(BadTable, match=r"need the sizes of images, and \d\.png cannot be opened"):
        folder(films, FOUR, boxes, box_unit=unit)


@pytest.mark.parametrize(
    "boxes",
    [
        marked("x,y,w,h", "300,200,100,90", "10,10,20,30", "5,5,50,60", "100,150,200,240"),
        marked("x,y,w,h", "1,2,30,40", "5,6,20,20", "10,10,40,40"),  # in a corner of 100 pixels, and not far
        marked("x,y,w,h", "30,40,50,50"),  # one box says nothing
        marked("x0,y0,x1,y1", "300,200,400,300", "500,300,600,400", "100,150,300,390", "10,10,20,30"),
    ],
)
def test_boxes_in_pixels_are_taken_as_they_are(films, boxes):
    assert folder(films, FOUR, boxes).boxes


def test_an_empty_column_is_no_finding(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("image,comment,Mass,Effusion\na.png,,1,\nb.png,,0,\n")  # nobody has looked at the effusion yet
    assert read_folder(FolderSettings(root=tmp_path, labels="labels.csv")).findings.names == ("Mass", "Effusion")
