import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chestmap.datasets.checks.check import check
from chestmap.datasets.consensus import agreed
from chestmap.datasets.source import UNKNOWN, Source
from chestmap.datasets.vindr import VindrSettings, read_vindr
from chestmap.errors import BadTable
from chestmap.types import Box

HEADER = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n"
MARKS = """\
a,Cardiomegaly,3,R1,100,100,200,200
a,Cardiomegaly,3,R2,104,100,204,200
a,Cardiomegaly,3,R3,500,500,600,600
a,Nodule/Mass,8,R1,10,10,20,20
b,No finding,14,R1,,,,
b,No finding,14,R2,,,,
b,No finding,14,R4,,,,
c,No finding,14,R1,,,,
c,Aortic enlargement,0,R2,1,2,30,40
c,Aortic enlargement,0,R4,1,2,30,40
"""


def vindr(root: Path, marks: str = MARKS, **settings: Any) -> Source:
    (root / "train.csv").write_text(HEADER + marks)
    return read_vindr(VindrSettings(root=root, **settings))


def kinds(source: Source, level: str) -> dict[str, int]:
    return {problem.kind: problem.count for problem in source.problems if problem.level == level}


def labels(source: Source) -> dict[str, dict[str, int]]:
    return {
        image: dict(zip(source.findings, map(int, row), strict=True))
        for image, row in zip(source.ids, source.labels, strict=True)
    }


def test_the_published_labels(shared_data):
    few = {"Pneumothorax": 226, "Atelectasis": 279, "Consolidation": 556}
    source = read_vindr(VindrSettings(root=shared_data("vindr"), findings=tuple(few), no_finding=True))
    report = check(source, files=False)
    assert report.images == 15_000
    assert report.findings[-1].positive == 10_606
    assert {one.finding: one.boxes for one in report.findings[:-1]} == few
    assert not report.failed


@pytest.mark.slow  # 36,096 boxes, each checked by beartype
def test_the_published_boxes(shared_data):
    source = read_vindr(VindrSettings(root=shared_data("vindr"), no_finding=True))
    report = check(source, files=False)
    assert report.images == 15_000
    assert (report.boxes, report.boxed_images) == (36_096, 4_394)
    counts = {one.finding: one for one in report.findings}
    assert counts["No Finding"].positive == 10_606
    assert (counts["Aortic Enlargement"].boxes, counts["Pneumothorax"].boxes) == (7_162, 226)
    assert len(source.findings) == 15
    assert report.labeled_unboxed == 0
    assert source.images["width"].null_count() == 15_000
    assert not report.failed


def test_agreement_on_a_part_of_the_published_table(shared_data, tmp_path):
    with gzip.open(shared_data("vindr") / "train.csv.gz", "rt") as file:
        lines = [line for line in file.read().splitlines()[1:] if line.startswith(("0", "1"))]
    source = vindr(tmp_path, "\n".join(lines), readers="agreement")
    report = check(source, files=False)
    # Independently: images that at least two of three readers marked.
    readers: dict[tuple[str, str], set[str]] = {}
    for image, finding, _, reader, *_ in (line.split(",") for line in lines):
        readers.setdefault((image, finding.lower()), set()).add(reader)
    for one in report.findings:
        assert one.positive == sum(
            len(names) >= 2 for (_, finding), names in readers.items() if finding == one.finding.lower()
        )
        assert one.boxed_unlabeled == 0
    assert 0 < sum(one.boxed_images for one in report.findings) < sum(one.positive for one in report.findings)


def test_union_keeps_every_reader_s_box(tmp_path):
    source = vindr(tmp_path)
    assert source.ids == ("a", "b", "c")
    assert source.findings.names == ("Aortic Enlargement", "Cardiomegaly", "Nodule/Mass")
    assert [box.x0 for box in source.boxes["a"]] == [100, 104, 500, 10]
    assert len(source.boxes["c"]) == 2
    assert labels(source)["a"] == {"Aortic Enlargement": 0, "Cardiomegaly": 1, "Nodule/Mass": 1}
    assert labels(source)["c"] == {"Aortic Enlargement": 1, "Cardiomegaly": 0, "Nodule/Mass": 0}
    assert source.path(1) == tmp_path / "train" / "b.dicom"
    assert source.images["patient_id"].to_list() == ["a", "b", "c"]
    assert source.lists == {"train": ("a", "b", "c")}
    assert kinds(source, "note") == {"patients": 3}
    assert not kinds(source, "repaired")


def test_agreement_of_two(tmp_path):
    source = vindr(tmp_path, readers="agreement", no_finding=True)
    assert source.boxes == {"a": (Box("Cardiomegaly", 102, 100, 202, 200),), "c": (Box("Aortic Enlargement", 1, 2, 30, 40),)}
    assert labels(source)["a"] == {"Aortic Enlargement": 0, "Cardiomegaly": 1, "Nodule/Mass": 0, "No Finding": 0}
    assert [row["No Finding"] for row in labels(source).values()] == [0, 1, 0]
    disputed = vindr(tmp_path, readers="agreement", disputed="unknown")
    assert labels(disputed)["a"]["Nodule/Mass"] == UNKNOWN


def test_agreement_of_three(tmp_path):
    source = vindr(tmp_path, readers="agreement", agreement=3)
    assert source.boxes == {}
    assert labels(source)["a"]["Cardiomegaly"] == 1  # all three marked it, in two places
    strict = vindr(tmp_path, readers="agreement", overlap=0.95)
    assert strict.boxes.keys() == {"c"}


def test_an_image_with_fewer_readers_needs_all_of_them(tmp_path):
    marks = "a,Cardiomegaly,3,R1,1,1,9,9\nb,Cardiomegaly,3,R1,1,1,9,9\nb,No finding,3,R2,,,,\n"
    source = vindr(tmp_path, marks, readers="agreement", agreement=3)
    assert list(source.boxes) == ["a"]
    assert [row["Cardiomegaly"] for row in labels(source).values()] == [1, 0]


def test_the_test_table_is_a_consensus_without_readers(tmp_path):
    (tmp_path / "annotations_test.csv").write_text(
        "image_id,class_name,x_min,y_min,x_max,y_max\nt,ILD,1,2,3,4\nu,No finding,,,,\n"
    )
    source = vindr(tmp_path, readers="agreement", agreement=3)
    assert source.lists["test"] == ("t", "u")
    assert source.boxes["t"] == (Box("ILD", 1, 2, 3, 4),)
    assert labels(source)["t"]["ILD"] == 1
    assert source.images["path"][3] == "test/t.dicom"
    (tmp_path / "annotations_test.csv").write_text("image_id,class_name,x_min,y_min,x_max,y_max\na,ILD,1,2,3,4\n")
    with pytest.raises(BadTable, match="image a is in the training and in the test table"):
        vindr(tmp_path)


def test_files_of_another_ending(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "b.png").touch()
    assert vindr(tmp_path).images["path"].to_list() == ["train/a.png", "train/b.png", "train/c.png"]


def test_chosen_findings_that_no_one_marks_are_unknown(tmp_path):
    source = vindr(tmp_path, findings=("Edema", "Cardiomegaly"))
    assert source.labels.tolist() == [[UNKNOWN, 1], [UNKNOWN, 0], [UNKNOWN, 0]]
    assert "Edema" in next(problem.message for problem in source.problems if problem.kind == "unmarked finding")


def test_damaged_rows_are_set_aside(tmp_path):
    bad = (
        "d,Cardiomegaly,3,R1,,,,\n"
        "a,Cardiomegaly,3,R1,1,2,3,x\n"
        "a,Cardiomegaly,3,R1,9,2,3,4\n"
        "a,Cardiomegalia,3,R1,1,2,3,4\n"
        "a,Cardiomegaly,3,,1,2,3,4\n"
        ",Cardiomegaly,3,R1,1,2,3,4\n"
        "b,ILD,3,R1,1,2,3,4\n"
        "a,Cardiomegaly,3,R1,100,100,200,200\n"
    )
    source = vindr(tmp_path, MARKS + bad)
    assert source.ids == ("a", "b", "c")
    kept = {image: boxes for image, boxes in source.boxes.items() if image != "b"}
    assert kept == vindr(tmp_path).boxes
    counts = {"box": 1, "number": 1, "box without area": 1, "unknown finding": 1, "reader": 1, "image name": 1}
    assert kinds(source, "error") == counts
    assert kinds(source, "repaired") == {"contradiction": 1, "repeated box": 1}


def test_groups_take_one_box_from_each_reader():
    near, far = Box("Mass", 0, 0, 10, 10), Box("Mass", 0, 0, 10, 8)
    marks = {"R1": [near], "R2": [far, Box("Mass", 0, 0, 10, 9)], "R3": [Box("Mass", 50, 50, 60, 60)]}
    assert agreed(marks, 2, 0.5) == (Box("Mass", 0, 0, 10, 9.5),)
    assert len(agreed(marks, 1, 0.5)) == 3
    assert agreed(marks, 3, 0.5) == ()
    assert agreed({}, 1, 0.5) == ()


sides = st.integers(1, 20)
corners = st.builds(lambda x, y, w, h: Box("Mass", x, y, x + w, y + h), st.integers(0, 30), st.integers(0, 30), sides, sides)
readers = st.dictionaries(st.sampled_from(["R1", "R2", "R3"]), st.lists(corners, max_size=4), max_size=3)


@given(readers, st.integers(1, 3), st.floats(0.1, 1))
def test_agreed_boxes_lie_within_the_readers_boxes(marks, least, overlap):
    merged = agreed(marks, least, overlap)
    drawn = [box for boxes in marks.values() for box in boxes]
    assert len(merged) * least <= len(drawn)
    if least == 1 and drawn:
        assert len(merged) >= max(map(len, marks.values()))
    for box in merged:
        assert min(one.x0 for one in drawn) <= box.x0 < box.x1 <= max(one.x1 for one in drawn)
    turned = {name: boxes[::-1] for name, boxes in reversed(marks.items())}
    assert np.isclose(
        sum(box.area for box in agreed(turned, least, 1.0)), sum(box.area for box in agreed(marks, least, 1.0))
    )
