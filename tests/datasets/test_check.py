import io
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from rich.console import Console

from chestmap.datasets import open_source, source_settings
from chestmap.datasets.checks.check import Report, check
from chestmap.datasets.checks.check_tables import render
from chestmap.datasets.columns import as_images
from chestmap.datasets.folder import FolderSettings, read_folder
from chestmap.datasets.source import UNKNOWN, Problem, Source
from chestmap.datasets.split import Split
from chestmap.errors import BadSettings
from chestmap.types import Box, Findings

FINDINGS = Findings(("Effusion", "Mass"))
LABELS = np.array([[1, 1], [1, 0], [0, UNKNOWN], [1, 1], [0, 0]], dtype=np.int8)
BOXES = {
    "a": (Box("Effusion", 1, 2, 3, 4), Box("Effusion", 5, 2, 9, 4)),
    "b": (Box("Effusion", 1, 2, 3, 4), Box("Mass", 1, 2, 3, 4)),
}


def source(root: Path, **changes) -> Source:
    rows = pl.DataFrame(
        {
            "image_id": list("abcde"),
            "patient_id": list("ppqrs"),
            "path": [f"{name}.png" for name in "abcde"],
            "view": ["PA", "PA", "AP", "", "PA"],
        }
    )
    return replace(
        Source(name="tiny", findings=FINDINGS, root=root, images=as_images(rows), labels=LABELS, boxes=BOXES), **changes
    )


def look(*arguments, **options) -> Report:
    return check(*arguments, progress=False, **options)


def errors(report: Report) -> dict[str, int]:
    return {problem.kind: problem.count for problem in report.problems if problem.level == "error"}


def pictures(root: Path, side: int = 16) -> None:
    for seed, name in enumerate("abcde"):
        cv2.imwrite(str(root / f"{name}.png"), np.random.default_rng(seed).integers(0, 255, (side, side), dtype=np.uint8))


def test_counts_by_hand(tmp_path):
    report = look(source(tmp_path), files=False)
    assert (report.images, report.patients, report.boxes, report.boxed_images) == (5, 4, 4, 2)
    assert report.views == {"PA": 3, "AP": 1, "unknown": 1}
    effusion, mass = report.findings
    assert (effusion.positive, effusion.negative, effusion.unknown) == (3, 2, 0)
    assert (mass.positive, mass.negative, mass.unknown) == (2, 2, 1)
    assert (effusion.boxes, effusion.boxed_images, effusion.many_boxes) == (3, 2, 1)
    assert (mass.boxes, mass.boxed_images, mass.many_boxes) == (1, 1, 0)
    assert (effusion.labeled_unboxed, mass.labeled_unboxed) == (0, 1)  # image a shows a mass that no box marks
    assert (effusion.boxed_unlabeled, mass.boxed_unlabeled) == (0, 1)  # image b has a box of a mass that its label denies
    assert report.labeled_unboxed == 1
    assert not report.failed


def test_findings_that_no_box_ever_marks_are_not_missing_boxes(tmp_path):
    report = look(source(tmp_path, boxes={"a": BOXES["a"]}), files=False)
    assert report.labeled_unboxed == 0


def test_missing_and_empty_files(tmp_path):
    pictures(tmp_path)
    assert not look(source(tmp_path)).failed
    (tmp_path / "b.png").unlink()
    (tmp_path / "c.png").write_bytes(b"")
    report = look(source(tmp_path))
    assert errors(report) == {"missing file": 1, "empty file": 1}
    assert report.failed
    told = {problem.kind: problem.message for problem in report.problems}
    assert told["missing file"] == f"1 of 5 images are not there, such as {tmp_path / 'b.png'}; fetch them again"
    absent = look(source(tmp_path / "elsewhere"))
    assert "look at the tables alone" in absent.problems[0].message
    assert not look(source(tmp_path / "elsewhere"), files=False).failed


def test_decoding_finds_unreadable_files_and_equal_pixels(tmp_path):
    pictures(tmp_path)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    pixels = cv2.imread(str(tmp_path / "c.png"), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(tmp_path / "d.png"), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    (tmp_path / "e.png").write_bytes((tmp_path / "e.png").read_bytes()[:60])
    report = look(source(tmp_path, boxes={}), decode=True, workers=1)
    assert errors(report) == {"unreadable file": 1, "same pixels": 2}
    unreadable = next(problem.message for problem in report.problems if problem.kind == "unreadable file")
    assert unreadable.startswith(str(tmp_path / "e.png"))
    same = {problem.level: problem.message for problem in report.problems if problem.kind == "same pixels"}
    assert same == {
        "error": "1 groups of images of different patients hold the same pixels, such as c and d",
        "note": "1 groups of images hold the same pixels, such as a and b",
    }
    assert report.looked == "pixels"


def test_processes_find_the_same(tmp_path):
    pictures(tmp_path)
    names = [f"{name}{copy}" for copy in range(4) for name in "abcde"]
    for name in names:
        (tmp_path / f"{name}.png").write_bytes((tmp_path / f"{name[0]}.png").read_bytes())
    (tmp_path / "b2.png").write_bytes(b"no image")
    rows = pl.DataFrame({"image_id": names, "path": [f"{name}.png" for name in names]})
    many = Source(name="many", findings=FINDINGS, root=tmp_path, images=as_images(rows), labels=np.zeros((20, 2), np.int8))
    one, two = (look(many, decode=True, workers=workers) for workers in (1, 2))
    assert one == two
    assert errors(one) == {"unreadable file": 1, "same pixels": 19}


def test_boxes_that_the_pixels_contradict(tmp_path):
    pictures(tmp_path)
    far = source(tmp_path, boxes={"a": (Box("Mass", 1, 1, 40, 8),)})
    assert errors(look(far, decode=True, workers=1)) == {"box outside": 1}
    wide = far.images.with_columns(pl.lit(64.0, pl.Float32).alias("width"), pl.lit(64.0, pl.Float32).alias("height"))
    assert errors(look(replace(far, images=wide), decode=True, workers=1)) == {}
    bent = wide.with_columns(pl.lit(32.0, pl.Float32).alias("height"))
    assert errors(look(replace(far, images=bent), decode=True, workers=1)) == {"aspect": 5}


def test_leaks_between_lists_and_splits(tmp_path):
    clean = source(tmp_path, lists={"train": ("a", "b", "c"), "test": ("d", "e")})
    report = look(clean, files=False)
    assert not report.failed
    assert [(part.part, part.images, part.patients, part.boxed_images) for part in report.parts] == [
        ("train", 3, 2, 2),
        ("test", 2, 2, 0),
    ]
    leaking = source(tmp_path, lists={"train": ("a", "c"), "test": ("b", "c", "z")})
    report = look(leaking, files=False)
    assert errors(report) == {"foreign image": 1, "shared image": 1, "shared patient": 2}
    split = Split(
        name="fold-1", parts={"train": ("a", "c"), "validation": ("d",), "test": ("b",)}, seed=0, source=clean.fingerprint
    )
    report = look(clean, [split], files=False)
    assert errors(report) == {"shared patient": 1}
    assert "fold-1: 1 patients are in both train and test, such as p" in [problem.message for problem in report.problems]
    said = replace(split, name="ham-fold-1", shares_patients=True)
    report = look(clean, [said], files=False)
    assert not report.failed
    assert {problem.kind: problem.level for problem in report.problems} == {"shared patient": "note"}


def test_repeated_images_and_the_reader_s_errors_fail(tmp_path):
    twice = source(tmp_path, images=as_images(pl.DataFrame({"image_id": list("abcaa"), "path": list("abcaa")})), boxes={})
    assert errors(look(twice, files=False)) == {"repeated image": 2}
    repaired = source(tmp_path, problems=(Problem("repaired", "label spelling", "x"),))
    assert not look(repaired, files=False).failed
    wrong = source(tmp_path, problems=(Problem("error", "number", "x"),))
    assert look(wrong, files=False).failed


def test_the_report_prints_and_becomes_json(tmp_path):
    problems = (Problem("error", "number", "a [bold] row", 3), Problem("note", "label table", "labels come from x.csv"))
    report = look(source(tmp_path, lists={"train": ("a",), "test": ("d",)}, problems=problems), files=False)
    out = io.StringIO()
    render(report, Console(file=out, width=160))
    text = out.getvalue()
    assert all(word in text for word in ("Effusion", "published lists", "a [bold] row", "4 on 2 images", "errors: 1"))
    assert text.index("a [bold] row") < text.index("labels come from")
    tree = json.loads(json.dumps(report.as_dict()))
    assert tree["failed"] is True
    assert tree["labeled_unboxed"] == 1
    assert tree["findings"][0]["finding"] == "Effusion"


def test_sources_open_by_name(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8), np.uint8))
    settings = source_settings({"name": "folder", "root": str(tmp_path)})
    assert open_source(settings).ids == ("a.png",)
    with pytest.raises(BadSettings, match='did you mean "nih"'):
        source_settings({"name": "nhi", "root": "."})
    with pytest.raises(BadSettings) as caught:
        source_settings({"name": "nih", "finding": ["Mass"], "no_finding": "perhaps"})
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert any('"findings"' in line for line in lines)


def test_a_film_brighter_at_its_border_is_a_note(tmp_path):
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    chest = (200 * (np.hypot(x, y) < 0.8)).astype(np.uint8) + np.uint8(20)
    cv2.imwrite(str(tmp_path / "right.png"), chest)
    cv2.imwrite(str(tmp_path / "wrong.png"), 255 - chest)
    report = check(read_folder(FolderSettings(root=tmp_path)), decode=True, workers=1, progress=False)
    (note,) = [problem for problem in report.problems if problem.kind == "brightness"]
    assert note.level == "note"
    assert "1 images are brighter at their border than in the middle, such as wrong.png" in note.message
