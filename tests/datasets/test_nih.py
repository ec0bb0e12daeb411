import gzip
from pathlib import Path

import numpy as np
import pytest

from chestmap.datasets.checks.check import check
from chestmap.datasets.nih import NihSettings, read_nih
from chestmap.datasets.source import UNKNOWN, Source
from chestmap.errors import BadTable, UnknownFinding
from chestmap.types import Box
from chestmap.vocabulary import CHESTXRAY14

HEADER_2020 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
HEADER_2017 = HEADER_2020 + ","
ROWS = (
    ("00000001_000.png", "Cardiomegaly|Emphysema", 0, 1, 58, "M", "PA", 2682, 2749, 0.143, 0.143),
    ("00000001_001.png", "No Finding", 1, 1, 58, "M", "AP", 2682, 2749, 0.143, 0.143),
    ("00000002_000.png", "Pleural_Thickening|Infiltration", 0, 2, 81, "F", "PA", 2500, 2048, 0.168, 0.168),
)
BOXES = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"


def nih(
    root: Path, rows: tuple = ROWS, header: str = HEADER_2020, boxes: str = "", name: str = "Data_Entry_2017.csv"
) -> Source:
    lines = [",".join(map(str, row)) for row in rows]
    (root / name).write_text("\n".join([header, *lines]) + "\n")
    if boxes:
        (root / "BBox_List_2017.csv").write_text(BOXES + boxes)
    return read_nih(NihSettings(root=root))


def kinds(source: Source, level: str) -> dict[str, int]:
    return {problem.kind: problem.count for problem in source.problems if problem.level == level}


def test_the_published_counts_come_out(shared_data):
    source = read_nih(NihSettings(root=shared_data("nih-full")))
    report = check(source, files=False)
    assert (report.images, report.patients) == (112_120, 30_805)
    assert {part.part: part.images for part in report.parts} == {"train_val": 86_524, "test": 25_596}
    assert (report.boxes, report.boxed_images) == (984, 880)
    assert {part.part: part.boxed_images for part in report.parts} == {"train_val": 0, "test": 880}
    assert sum(one.many_boxes for one in report.findings) == 0
    assert report.labeled_unboxed == 721
    unboxed = {one.finding: one.labeled_unboxed for one in report.findings if one.boxes}
    assert unboxed == {
        "Atelectasis": 122, "Cardiomegaly": 39, "Effusion": 159, "Infiltration": 189,
        "Mass": 53, "Nodule": 83, "Pneumonia": 11, "Pneumothorax": 65,
    }  # fmt: skip
    assert not any(problem.kind == "shared patient" for problem in report.problems)
    assert not report.failed
    assert {one.finding: one.boxes for one in report.findings if one.boxes} == {
        "Atelectasis": 180, "Effusion": 153, "Cardiomegaly": 146, "Infiltration": 123,
        "Pneumonia": 120, "Pneumothorax": 98, "Mass": 85, "Nodule": 79,
    }  # fmt: skip
    assert kinds(source, "repaired") == {"label spelling": 123}
    assert source.images["width"].unique().to_list() == [1024.0]
    assert report.views == {"PA": 67_310, "AP": 44_810}


def test_labels_agree_with_a_plain_reading_of_the_table(shared_data):
    root = shared_data("nih-full")
    source = read_nih(NihSettings(root=root))
    with gzip.open(root / "Data_Entry_2017_v2020.csv.gz", "rt") as file:
        lines = file.read().split("\n")[1:]
    for row in range(0, 112_120, 997):
        image, labels, _, patient = lines[row].split(",")[:4]
        named = {name.replace("_", " ") for name in labels.split("|")} - {"No Finding"}
        assert source.ids[row] == image
        assert source.images["patient_id"][row] == patient
        assert {name for name, label in zip(source.findings, source.labels[row], strict=True) if label} == named


def test_small_images_keep_boxes_in_the_1024_frame(shared_data):
    source = read_nih(NihSettings(root=shared_data("nih")))
    assert len(source) == 1004
    image = next(iter(source.boxes))
    example = source[source.row_of[image]]
    assert example.radiograph.pixels.shape == (512, 512)
    assert example.radiograph.size == (1024.0, 1024.0)
    assert example.radiograph.patient_id == str(int(image[:8]))
    assert example.boxes == source.boxes[image]
    assert not check(source).failed


def test_labels_views_and_patients(tmp_path):
    source = nih(tmp_path)
    assert source.findings.names == CHESTXRAY14.names
    present = [[name for name, label in zip(source.findings, row, strict=True) if label == 1] for row in source.labels]
    assert present == [["Cardiomegaly", "Emphysema"], [], ["Infiltration", "Pleural Thickening"]]
    assert source.labels.min() == 0
    assert source.images["patient_id"].to_list() == ["1", "1", "2"]
    assert source.images["view"].to_list() == ["PA", "AP", "PA"]
    assert source.images["sex"].to_list() == ["M", "M", "F"]
    assert source.path(0) == tmp_path / "images" / "00000001_000.png"
    assert not kinds(source, "error")
    assert set(kinds(source, "note")) == {"label table", "no boxes", "no list"}


def test_the_table_of_2017_pads_its_ages_and_ends_its_rows_with_a_comma(tmp_path):
    ages = ("058Y", "411Y", "005M")
    rows = tuple((*row[:4], age, *row[5:], "") for row, age in zip(ROWS, ages, strict=True))
    source = nih(tmp_path, rows, HEADER_2017)
    assert source.images["age"].to_list() == [58.0, None, pytest.approx(5 / 12)]
    assert kinds(source, "repaired") == {"age": 1}
    told = next(problem.message for problem in source.problems if problem.kind == "age")
    assert told == 'Data_Entry_2017.csv row 3: age "411Y": expected 0 to 120 years; taken as unknown'


def test_the_table_of_2020_wins_where_both_are_there(tmp_path):
    nih(tmp_path)
    newer = nih(tmp_path, ROWS[:2], name="Data_Entry_2017_v2020.csv")
    assert len(newer) == 2
    older = read_nih(NihSettings(root=tmp_path, table="Data_Entry_2017.csv"))
    assert len(older) == 3
    assert "labels come from Data_Entry_2017.csv" in [problem.message for problem in older.problems]


def test_a_choice_of_findings_and_no_finding(tmp_path):
    nih(tmp_path)
    source = read_nih(NihSettings(root=tmp_path, findings=("infiltrate", "Cardiomegaly"), no_finding=True))
    assert source.findings.names == ("Infiltration", "Cardiomegaly", "No Finding")
    assert source.labels.tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    with pytest.raises(UnknownFinding, match='did you mean "Mass"'):
        read_nih(NihSettings.model_construct(root=tmp_path, findings=("Mas",)))


def test_boxes_are_corners_clipped_to_the_image(tmp_path):
    boxes = (
        "00000001_000.png,Cardiomegaly,100,200,300,400\n"
        "00000002_000.png,Infiltrate,1000,-10,100,60\n"
        "00000002_000.png,Mass,10,10,0,60\n"
        "00000002_000.png,Mass,1100,10,10,60\n"
        "00000002_000.png,Mass,ten,10,10,60\n"
        "00000002_000.png,Mess,10,10,10,60\n"
        "00000009_000.png,Mass,10,10,10,60\n"
        "00000001_000.png,Cardiomegaly,100,200,300,400\n"
    )
    source = nih(tmp_path, boxes=boxes)
    assert source.boxes == {
        "00000001_000.png": (Box("Cardiomegaly", 100, 200, 400, 600),),
        "00000002_000.png": (Box("Infiltration", 1000, 0, 1024, 50),),
    }
    assert kinds(source, "repaired") == {"label spelling": 1, "box clipped": 1, "repeated box": 1}
    assert kinds(source, "error") == {"number": 1, "unknown finding": 1, "box without area": 1, "box outside": 1}
    assert kinds(source, "note")["box of another image"] == 1
    told = {problem.kind: problem.message for problem in source.problems}
    assert told["number"] == 'BBox_List_2017.csv row 6: x "ten": expected a number; set aside'
    assert told["unknown finding"].startswith(
        'BBox_List_2017.csv row 7: "Mess" is not a finding of this source; did you mean "Mass"?'
    )


def test_a_box_of_a_finding_that_was_not_chosen_is_left_out(tmp_path):
    nih(tmp_path, boxes="00000001_000.png,Cardiomegaly,100,200,300,400\n00000001_000.png,Mass,1,2,3,4\n")
    source = read_nih(NihSettings(root=tmp_path, findings=("Mass",)))
    assert source.boxes == {"00000001_000.png": (Box("Mass", 1, 2, 4, 6),)}
    assert not kinds(source, "error")


def test_images_in_the_publisher_s_twelve_folders(tmp_path):
    for number, row in enumerate(ROWS, start=1):
        folder = tmp_path / f"images_{number:03}" / "images"
        folder.mkdir(parents=True)
        (folder / row[0]).touch()
    (tmp_path / "images_004.tar.gz").touch()
    source = nih(tmp_path)
    assert source.images["path"].to_list() == [
        f"images_{number:03}/images/{row[0]}" for number, row in enumerate(ROWS, start=1)
    ]


def test_images_beside_the_table(tmp_path):
    (tmp_path / ROWS[0][0]).touch()
    assert nih(tmp_path).path(0) == tmp_path / ROWS[0][0]


def test_repeated_rows(tmp_path):
    other = ("00000002_000.png", "Mass", *ROWS[2][2:])
    source = nih(tmp_path, (*ROWS, ROWS[0], other))
    assert source.ids == tuple(row[0] for row in ROWS)
    assert kinds(source, "repaired") == {"repeated row": 1}
    assert kinds(source, "error") == {"repeated row": 1}
    assert source.labels[2].sum() == 2


def test_rows_with_bad_labels_are_set_aside_and_the_rest_goes_on(tmp_path):
    rows = (
        *ROWS,
        ("00000003_000.png", "Efusion", 0, 3, 50, "M", "PA", 1, 1, 1, 1),
        ("00000003_001.png", "No Finding|Mass", 0, 3, 50, "M", "LL", 1, 1, 1, 1),
        ("00000003_002.png", "", 0, 3, 50, "X", "oblique", 1, 1, 1, 1),
        ("00000003_003.png", " infiltrate | Mass", 0, "", "young", "M", "PA", 1, 1, 1, 1),
    )
    source = nih(tmp_path, rows)
    assert source.ids[3:] == ("00000003_001.png", "00000003_002.png", "00000003_003.png")
    mass = source.findings.index("Mass")
    assert source.labels[3].nonzero()[0].tolist() == [mass]
    assert (source.labels[4] == UNKNOWN).all()
    assert source.labels[5].nonzero()[0].tolist() == [source.findings.index("Infiltration"), mass]
    assert source.images["patient_id"][5] == "3"
    assert source.images["view"].to_list()[3:] == ["LATERAL", "", "PA"]
    assert kinds(source, "error") == {"unknown finding": 1, "no label": 1}
    assert kinds(source, "repaired") == {
        "contradiction": 1,
        "label spelling": 1,
        "patient": 1,
        "age": 1,
        "view": 1,
        "sex": 1,
    }
    assert np.isnan(source.known_labels(np.array([4]))).all()


def test_a_patient_that_the_file_name_contradicts_is_an_error(tmp_path):
    row = ("00000007_000.png", "Mass", 0, 8, 50, "M", "PA", 1, 1, 1, 1)
    source = nih(tmp_path, (*ROWS, row))
    assert kinds(source, "error") == {"patient": 1}
    assert source.images["patient_id"][3] == "8"


def test_lists_hold_images_of_the_table_only(tmp_path):
    (tmp_path / "train_val_list.txt").write_text("00000001_000.png\r\n\r\n00000001_001.png\r\n00000001_000.png\r\n")
    (tmp_path / "test_list.txt").write_text("00000002_000.png\n00000099_000.png")
    source = nih(tmp_path)
    assert source.lists == {"train_val": ("00000001_000.png", "00000001_001.png"), "test": ("00000002_000.png",)}
    assert kinds(source, "note")["listed image absent"] == 1
    (tmp_path / "test_list.txt").write_text("patient,fold\n1,2\n")
    with pytest.raises(
        BadTable, match=r"test_list.txt: none of its 2 lines is an image of the table; the first is patient,fold"
    ):
        nih(tmp_path)


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: gzip.compress(text.encode()),
        lambda text: text.replace(",", ";").encode(),
        lambda text: text.replace(",", "\t").encode(),
        lambda text: ("\n\n" + text.replace("\n", "\n\n")).encode(),
        lambda text: "\n".join(
            ",".join(f'"{cell}"' for cell in line.split(",")) for line in text.strip().split("\n")
        ).encode(),
        lambda text: text.replace("Follow-up #", "Folge\xfc #").encode("cp1252"),
    ],
    ids=["bom", "utf-16", "crlf", "cr", "gzip", "semicolons", "tabs", "blank lines", "quotes", "cp1252"],
)
def test_a_table_saved_otherwise_is_the_same_table(tmp_path, encode):
    plain = nih(tmp_path)
    path = tmp_path / "Data_Entry_2017.csv"
    path.write_bytes(encode(path.read_text()))
    again = read_nih(NihSettings(root=tmp_path))
    assert again.fingerprint == plain.fingerprint
    assert again.images.equals(plain.images)
    assert not kinds(again, "error")


def test_select_and_fingerprint(tmp_path):
    source = nih(tmp_path, boxes="00000001_000.png,Cardiomegaly,100,200,300,400\n")
    part = source.select(np.array([2, 0]))
    assert part.ids == ("00000002_000.png", "00000001_000.png")
    assert part.boxes == source.boxes
    (tmp_path / "other").mkdir()
    moved = nih(tmp_path / "other", boxes="00000001_000.png,Cardiomegaly,100,200,300,400\n")
    assert moved.fingerprint == source.fingerprint
    assert nih(tmp_path / "other", boxes="00000001_000.png,Cardiomegaly,100,200,300,401\n").fingerprint != source.fingerprint
