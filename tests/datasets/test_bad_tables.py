"""Damaged tables: one line that says what came and where; damage to a row costs that row alone."""

import gzip
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chestmap.datasets import SOURCES, open_source, source_settings
from chestmap.datasets.csv_table import read_csv
from chestmap.datasets.text_files import read_json, read_list, read_text
from chestmap.errors import BadTable, ChestmapError
from chestmap.settings import read_toml
from chestmap.vocabulary import CHEXPERT

ENTRIES = """\
Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position
00000001_000.png,Cardiomegaly|Emphysema,0,1,58,M,PA
00000001_001.png,No Finding,1,1,58,M,AP
00000002_000.png,Effusion,0,2,81,F,PA
"""
BOXES = """\
Image Index,Finding Label,Bbox [x,y,w,h],,,
00000001_000.png,Cardiomegaly,100,200,300,400
00000002_000.png,Effusion,10,20,30,40
"""
KEY = "train/patient00001/study1/view1_frontal.jpg"
TRAIN = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,"
    + ",".join(CHEXPERT)
    + f"\nCheXpert-v1.0/{KEY},Male,50,Frontal,AP"
    + ",1.0" * 14
    + "\n"
)
MARKS = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\na,Cardiomegaly,3,R1,1,2,30,40\n"
COCO: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.png"}],
    "categories": [{"id": 1, "name": "Mass"}],
    "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
}

NIH = {"name": "nih"}
CHEX = {"name": "chexpert"}
VINDR = {"name": "vindr"}
FOLDER = {"name": "folder", "labels": "labels.csv"}
BOXED = FOLDER | {"boxes": "boxes.csv"}
IN_COCO = FOLDER | {"boxes": "boxes.json"}
LABELS = "image,Mass\na.png,1\n"
D, B = "Data_Entry_2017.csv", "BBox_List_2017.csv"

STRUCTURAL: dict[str, tuple[dict[str, Any], dict[str, str | bytes], str]] = {
    "no tables": (
        NIH,
        {"data_entry.csv": ENTRIES},
        "expected Data_Entry_2017_v2020.csv or Data_Entry_2017.csv (or .gz); it holds data_entry.csv",
    ),
    "empty folder": (NIH, {}, "it holds no table"),
    "empty table": (NIH, {D: ""}, "Data_Entry_2017.csv: is empty"),
    "blank table": (NIH, {D: " \n\n"}, "Data_Entry_2017.csv: is empty"),
    "header alone": (NIH, {D: ENTRIES.split("\n")[0]}, "no usable row below the header"),
    "missing column": (NIH, {D: ENTRIES.replace("Patient ID", "Patent Nr")}, 'no column "Patient ID"'),
    "near column": (NIH, {D: ENTRIES.replace("Image Index", "Image Idx")}, 'did you mean "Image Idx"?'),
    "two missing columns": (
        NIH,
        {D: ENTRIES.replace("Image Index", "A").replace("Patient ID", "B")},
        'no column "Image Index"; no column "Patient ID"',
    ),
    "no header": (NIH, {D: ENTRIES.split("\n", 1)[1]}, "the first line holds 00000001_000.png, Cardiomegaly|Emphysema"),
    "column twice": (NIH, {D: ENTRIES.replace("Follow-up #", "Patient ID")}, 'column "Patient ID" stands 2 times'),
    "cut gzip": (NIH, {D + ".gz": gzip.compress(ENTRIES.encode())[:-20]}, "damaged or cut short; fetch it again"),
    "gzip in name only": (NIH, {D + ".gz": b"\x1f\x8bnot gzip at all"}, "damaged or cut short"),
    "zero bytes": (NIH, {D: ENTRIES.encode() + bytes(64)}, "holds zero bytes"),
    "utf-16 without its mark": (NIH, {D: ENTRIES.encode("utf-16-le")}, "UTF-16 without its mark"),
    "web page": (
        NIH,
        {D: "<!DOCTYPE html>\n<html><body>Sign in</body></html>"},
        "is a web page; the download asked for a login or failed",
    ),
    "excel": (NIH, {D: b"PK\x03\x04" + bytes(40)}, "a zip archive or an Excel workbook; unpack it or save it as CSV"),
    "image": (NIH, {D: b"\x89PNG\r\n\x1a\n" + bytes(40)}, "is an image; expected a text file"),
    "git lfs": (
        NIH,
        {D: "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"},
        "a pointer of Git LFS; fetch the file itself",
    ),
    "open quote": (NIH, {D: ENTRIES.replace(",Effusion", ',"Effusion')}, 'row 4: a quotation mark (") is not closed'),
    "quote inside a field": (NIH, {D: ENTRIES.replace(",No Finding", ',"No" Finding')}, "row 3: a quotation mark"),
    "header too short": (
        NIH,
        {D: ENTRIES.replace(",Patient Gender,View Position", "")},
        "row 2: 7 fields under 5 column names, as in 3 of 3 rows",
    ),
    "boxes without numbers": (
        NIH,
        {D: ENTRIES, B: "Image Index,Finding Label\nx,y\n"},
        'no column "Bbox [x"; no column "y"; no column "w"; no column "h]"',
    ),
    "list of other names": (
        NIH,
        {D: ENTRIES, "test_list.txt": "a\nb\n"},
        "none of its 2 lines is an image of the table; the first is a",
    ),
    "empty list": (NIH, {D: ENTRIES, "test_list.txt": "\n"}, "test_list.txt: is empty"),
    "list of zero bytes": (NIH, {D: ENTRIES, "test_list.txt": bytes(99)}, "test_list.txt: holds zero bytes"),
    "no table of chexpert": (CHEX, {"training.csv": TRAIN}, "expected train.csv or train_labels.csv or valid.csv"),
    "chexpert without findings": (
        CHEX,
        {"train.csv": TRAIN.replace("Edema", "Oedema")},
        'no column "Edema"; did you mean "Oedema"?',
    ),
    "json cut": (
        CHEX,
        {"train.csv": TRAIN, "BBoxes.json": '{"a": {"Edema": [[1, 2'},
        "BBoxes.json: not JSON: Expecting ',' delimiter at line 1, column 23",
    ),
    "json list": (CHEX, {"train.csv": TRAIN, "BBoxes.json": "[1]"}, "BBoxes.json: holds a list, expected an object"),
    "json key twice": (
        CHEX,
        {"train.csv": TRAIN, "BBoxes.json": '{"a": {}, "b": {}, "a": {}}'},
        'the key "a" stands twice in one object',
    ),
    "json nan": (CHEX, {"train.csv": TRAIN, "BBoxes.json": '{"a": NaN}'}, "NaN is not a JSON number"),
    "json number of 5,000 digits": (
        CHEX,
        {"train.csv": TRAIN, "BBoxes.json": '{"a": {"Edema": [[1, 2, 3, ' + "9" * 5000 + "]]}}"},
        "numbers too long",
    ),
    "line without end": (NIH, {D: "x" * 200_000}, "its first line, of 200,000 characters, holds no column names"),
    "json bomb": (CHEX, {"train.csv": TRAIN, "BBoxes.json": "[" * 200_000}, "BBoxes.json: "),
    "named box file absent": (
        CHEX | {"boxes": "Boxes.json"},
        {"train.csv": TRAIN, "BBoxes.json": "{}"},
        'did you mean "BBoxes.json"?',
    ),
    "sizes absent": (CHEX | {"original_sizes": "sizes.csv"}, {"train.csv": TRAIN}, "sizes.csv: no such file"),
    "no table of vindr": (
        VINDR,
        {"labels.csv": MARKS},
        "expected train.csv or annotations_train.csv or annotations_test.csv",
    ),
    "vindr without corners": (VINDR, {"train.csv": MARKS.replace("x_max", "xmx")}, 'no column "x_max"; did you mean "xmx"?'),
    "labels absent": (FOLDER, {"label.csv": LABELS}, 'labels.csv: no such file; did you mean "label.csv"?'),
    "labels without images": (FOLDER, {"labels.csv": "name,Mass\na,1\n"}, 'no column "image"'),
    "labels without labels": (
        FOLDER,
        {"labels.csv": "image,comment\na,fine\n"},
        "no column of labels (1, 0, -1 or blank) and none called findings; others are comment; call a column of names (Mass|Nodule) findings",
    ),
    "label column twice": (FOLDER, {"labels.csv": "image,Mass,Mass\na,1,0\n"}, 'column "Mass" stands 2 times'),
    "labels in prose": (FOLDER, {"labels.csv": "image,findings\na,\n"}, "its column of findings names none"),
    "boxes without corners": (
        BOXED,
        {"labels.csv": LABELS, "boxes.csv": "image,finding,x,y,w\na,Mass,1,2,3\n"},
        "expected columns x0, y0, x1, y1 or x, y, w, h; its columns are image, finding, x, y, w",
    ),
    "coco without images": (
        IN_COCO,
        {"labels.csv": LABELS, "boxes.json": json.dumps(COCO | {"images": None})},
        "no list of images",
    ),
    "coco of half a letter": (
        IN_COCO,
        {"labels.csv": LABELS, "boxes.json": json.dumps(COCO | {"images": [{"id": 1, "file_name": "\ud800"}]})},
        "boxes.json: holds half a letter",
    ),
    "coco image without name": (
        IN_COCO,
        {"labels.csv": LABELS, "boxes.json": json.dumps(COCO | {"images": [{"id": 1}]})},
        "images entry 0 has no id or no file_name",
    ),
    "coco ids twice": (
        IN_COCO,
        {"labels.csv": LABELS, "boxes.json": json.dumps(COCO | {"categories": COCO["categories"] * 2})},
        "two categories have the id 1",
    ),
}


def write(root: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.mark.parametrize("case", STRUCTURAL)
def test_damage_to_a_whole_file_is_told_in_one_line(tmp_path, case):
    tree, files, expected = STRUCTURAL[case]
    write(tmp_path, files)
    with pytest.raises(BadTable) as caught:
        open_source(source_settings(tree | {"root": str(tmp_path)}))
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message
    assert len(message) < 600


LOCAL: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "short row": (
        NIH,
        {D: ENTRIES + "00000003_000.png,Mass\n"},
        "row length: Data_Entry_2017.csv row 5: 2 fields, expected 7; set aside",
    ),
    "long row": (NIH, {D: ENTRIES + "00000003_000.png,Mass,0,3,50,M,PA,1,2\n"}, "row 5: 9 fields, expected 7"),
    "cut last row": (NIH, {D: ENTRIES + "000000"}, "row 5: 1 fields"),
    "row of another table": (NIH, {D: ENTRIES + "a b c d\n"}, "row 5: 1 fields"),
    "quoted short row": (NIH, {D: ENTRIES + '"00000003_000.png","Mass"\n'}, "row 5: 2 fields"),
    "no image name": (
        NIH,
        {D: ENTRIES + ",Mass,0,3,50,M,PA\n"},
        "image name: Data_Entry_2017.csv row 5: the image has no name",
    ),
    "no patient": (
        NIH,
        {D: ENTRIES + "x.png,Mass,0,,50,M,PA\n"},
        "patient: Data_Entry_2017.csv row 5: x.png has no patient",
    ),
    "unknown label": (
        NIH,
        {D: ENTRIES + "x.png,Masse,0,3,50,M,PA\n"},
        'row 5: "Masse" is not a finding of this source; did you mean "Mass"?; set aside',
    ),
    "braces in a label": (NIH, {D: ENTRIES + "x.png,{row},0,3,50,M,PA\n"}, '"{row}" is not a finding'),
    "other labels again": (
        NIH,
        {D: ENTRIES + "00000002_000.png,Mass,0,2,81,F,PA\n"},
        "repeated row: Data_Entry_2017.csv row 5: 00000002_000.png stands in an earlier row with other values",
    ),
    "box of letters": (
        NIH,
        {D: ENTRIES, B: BOXES + "00000001_000.png,Mass,1,2,3,four\n"},
        'number: BBox_List_2017.csv row 4: h "four": expected a number',
    ),
    "box of commas": (NIH, {D: ENTRIES, B: BOXES + '00000001_000.png,Mass,"1,5",2,3,4\n'}, 'x "1,5": expected a number'),
    "box at infinity": (NIH, {D: ENTRIES, B: BOXES + "00000001_000.png,Mass,1,2,inf,4\n"}, 'w "inf": expected a number'),
    "box of nothing": (NIH, {D: ENTRIES, B: BOXES + "00000001_000.png,Mass,1,2,3,\n"}, 'h "": expected a number'),
    "flat box": (NIH, {D: ENTRIES, B: BOXES + "00000001_000.png,Mass,1,2,3,-4\n"}, "Mass box (1, 2, 4, -2) has no area"),
    "box outside": (
        NIH,
        {D: ENTRIES, B: BOXES + "00000001_000.png,Mass,2000,2,3,4\n"},
        "lies outside its image of 1024 x 1024",
    ),
    "box of no finding": (NIH, {D: ENTRIES, B: BOXES + "00000001_000.png,Lungs,1,2,3,4\n"}, '"Lungs" is not a finding'),
    "chexpert path": (
        CHEX,
        {"train.csv": TRAIN + "scan.jpg,Male,5,Frontal,AP" + "," * 14 + "\n"},
        'image name: train.csv row 3: "scan.jpg": expected train/patient',
    ),
    "chexpert cell": (
        CHEX,
        {"train.csv": TRAIN.replace("1.0\n", "3.0\n")},
        'column Support Devices "3.0": expected 1, 0, -1 or nothing',
    ),
    "chexpert mark": (
        CHEX,
        {"train.csv": TRAIN, "BBoxes.json": json.dumps({KEY: {"Edema": [[1, 2, 3, 4], [1, 2]]}})},
        f"box entry: BBoxes.json entry {KEY}: expected",
    ),
    "chexpert number": (
        CHEX,
        {"train.csv": TRAIN, "BBoxes.json": json.dumps({KEY: {"Edema": [[1, 2, 3, 4], [1, 2, 3, 10**400]]}})},
        f"box entry: BBoxes.json entry {KEY}: expected",
    ),
    "chexpert mark at infinity": (
        CHEX,
        {"train.csv": TRAIN, "BBoxes.json": f'{{"{KEY}": {{"Edema": [[1, 2, 3, 4], [1, 2, 3, 1e999]]}}}}'},
        f"number: BBoxes.json entry {KEY}: Edema box (1, 2, 3, inf) is not of finite numbers",
    ),
    "vindr box": (VINDR, {"train.csv": MARKS + "a,ILD,1,R1,1,2,3,?\n"}, 'number: train.csv row 3: y1 "?"'),
    "folder cell": (
        FOLDER,
        {"labels.csv": LABELS + "b.png,maybe\nc.png,0\n"},
        'column Mass "maybe": expected 1, 0, -1 or nothing; taken as unknown',
    ),
    "folder width with a comma": (
        FOLDER,
        {"labels.csv": 'image,Mass,width,height\na.png,1,"1,024",1024\n'},
        'size: labels.csv row 2: width "1,024": expected 1 to 1,000,000 pixels as a plain number; the size is taken as unknown',
    ),
    "folder height of no image": (
        FOLDER,
        {"labels.csv": "image,Mass,Width,Height\na.png,1,1024,0\n"},
        'height "0": expected',
    ),
    "folder box": (
        BOXED,
        {"labels.csv": LABELS, "boxes.csv": "image,finding,x,y,w,h\na,Mass,1,2,3,4\nq,Mass,1,2,3,4\n"},
        "boxes.csv row 3: q is not among the images",
    ),
    "coco box": (
        IN_COCO,
        {"labels.csv": LABELS, "boxes.json": json.dumps(COCO | {"annotations": [{}, *COCO["annotations"]]})},
        "annotation: boxes.json annotation 0: expected",
    ),
}


@pytest.mark.parametrize("case", LOCAL)
def test_damage_to_a_row_costs_that_row_alone(tmp_path, case):
    tree, files, expected = LOCAL[case]
    write(tmp_path, files)
    source = open_source(source_settings(tree | {"root": str(tmp_path)}))
    errors = [f"{problem.kind}: {problem.message}" for problem in source.problems if problem.level == "error"]
    assert len(errors) == 1
    assert expected in errors[0]
    assert "\n" not in errors[0]
    good = {"nih": 3, "chexpert": 1, "vindr": 1, "folder": {"folder cell": 3, "column of brackets": 2}.get(case, 1)}
    assert len(source) == good[tree["name"]]
    if "box" in case or "mark" in case:
        assert source.boxes
    assert source.fingerprint


@pytest.mark.parametrize(
    ("cells", "size"),
    [
        ("1024,768", (1024.0, 768.0)),
        ("n/a,768", (None, None)),
        (",", (None, None)),
        ("NaN,NA", (None, None)),
        ("1e999,768", (None, None)),
    ],
)
def test_the_size_of_an_image_is_whole_or_unknown(tmp_path, cells, size):
    write(tmp_path, {"labels.csv": f"image,Mass,width,height\na.png,1,{cells}\n"})
    source = open_source(source_settings(FOLDER | {"root": str(tmp_path)}))
    assert source.images.select("width", "height").row(0) == size
    assert source.findings.names == ("Mass",)
    assert source.fingerprint


def test_the_height_of_a_patient_is_no_size_of_an_image(tmp_path):
    write(tmp_path, {"labels.csv": "image,Mass,height\na.png,1,170\n"})
    source = open_source(source_settings(FOLDER | {"root": str(tmp_path)}))
    assert source.images.select("width", "height").row(0) == (None, None)
    assert not [one for one in source.problems if one.level == "error"]


def test_a_table_of_names_alone_may_repeat_one(tmp_path):
    write(tmp_path, {"labels.csv": "image\na.png\na.png\n"})
    with pytest.raises(BadTable, match="no column of labels"):
        open_source(source_settings(FOLDER | {"root": str(tmp_path)}))
    write(tmp_path, {"labels.csv": "image,Mass\na.png,1\na.png,1\n"})
    assert len(open_source(source_settings(FOLDER | {"root": str(tmp_path)}))) == 1


LIMITED = """
import resource, sys
from pathlib import Path
from chestmap.datasets.text_files import read_text
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), -1))
print(len(read_text(Path(sys.argv[1]))))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_a_small_table_is_read_in_little_address_space(tmp_path):
    """A read of 2 GiB at once would ask for that much."""
    write(tmp_path, {"labels.csv": LABELS})
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "labels.csv")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(len(LABELS)), done.stderr


TOML = {
    "not toml": ("[source\nname = 'nih'", "not TOML"),
    "no name": ("[source]\nroot = '.'", f"allowed names: {', '.join(SOURCES)} (got None)"),
    "other name": ("[source]\nname = 'vinder'\nroot = '.'", 'did you mean "vindr"?'),
    "no root": ("[source]\nname = 'nih'", "root: missing"),
    "unknown key": ("[source]\nname = 'nih'\nroot = '.'\nfindngs = ['Mass']", 'did you mean "findings" or "no_finding"?'),
    "unknown finding": ("[source]\nname = 'nih'\nroot = '.'\nfindings = ['Masses']", 'did you mean "Mass"?'),
    "finding twice": ("[source]\nname = 'nih'\nroot = '.'\nfindings = ['Mass', 'mass']", "names must be present and differ"),
    "no finding at all": ("[source]\nname = 'nih'\nroot = '.'\nfindings = []", "names must be present and differ"),
    "unknown policy": ("[source]\nname = 'chexpert'\nroot = '.'\nuncertain = 'one'", "uncertain"),
    "policy of no finding": (
        "[source]\nname = 'chexpert'\nroot = '.'\nuncertain = {Oedemas = 'ones'}",
        'did you mean "Edema"?',
    ),
    "too many readers": ("[source]\nname = 'vindr'\nroot = '.'\nagreement = 18", "agreement"),
    "no readers": ("[source]\nname = 'vindr'\nroot = '.'\nreaders = 'all'", "allowed: union, agreement"),
}


@pytest.mark.parametrize("case", TOML)
def test_settings_that_name_no_source(tmp_path, case):
    text, expected = TOML[case]
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(ChestmapError) as caught:
        source_settings(read_toml(tmp_path / "run.toml")["source"], name="run.toml: source")
    assert expected in str(caught.value)


def test_more_unknown_names_than_anyone_reads_are_told_together(tmp_path):
    rows = "".join(f"{number}.png,Wrong {number},0,{number},50,M,PA\n" for number in range(100, 150))
    write(tmp_path, {D: ENTRIES + rows})
    source = open_source(source_settings(NIH | {"root": str(tmp_path)}))
    told = [problem for problem in source.problems if problem.level == "error"]
    assert len(told) == 13
    assert sum(problem.count for problem in told) == 50
    assert len(source) == 3


@pytest.mark.parametrize("read", [read_text, read_list, lambda path: read_csv(path, {}), lambda path: read_json(path, dict)])
def test_what_is_no_file(tmp_path, read: Callable[[Path], object]):
    with pytest.raises(BadTable, match="cannot be read"):
        read(tmp_path)
    with pytest.raises(BadTable, match="no such file"):
        read(tmp_path / "x" / "y.csv")


GOOD: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "nih": (NIH, {D: ENTRIES, B: BOXES, "test_list.txt": "00000001_000.png\n"}),
    "chexpert": (CHEX, {"train.csv": TRAIN, "BBoxes.json": json.dumps({KEY: {"Edema": [[1, 2, 3, 4]]}})}),
    "vindr": (VINDR, {"train.csv": MARKS}),
    "folder": (BOXED, {"labels.csv": LABELS, "boxes.csv": "image,finding,x,y,w,h\na,Mass,1,2,3,4\n"}),
    "coco": (IN_COCO, {"labels.csv": LABELS, "boxes.json": json.dumps(COCO)}),
}


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.integers(0, 2**32))
def test_random_damage_never_ends_in_a_traceback(tmp_path_factory, kind, seed):
    tree, files = GOOD[kind]
    chance = random.Random(seed)
    root = tmp_path_factory.mktemp("fuzz")
    damaged: dict[str, str | bytes] = dict(files)
    name = chance.choice(sorted(files))
    content = bytearray(files[name].encode())
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(content) + 1)
        match chance.randrange(4):
            case 0:
                content[place : place + chance.randint(1, 20)] = b""
            case 1:
                content[place:place] = chance.choice(
                    [b'"', b",", b"\n", b"\0", b"{", b"\xff", b"-", b"1e999", b"|", b"1" * 400, "\N{ROCKET}".encode()]
                )
            case 2:
                content[place : place + 1] = bytes([chance.randrange(256)])
            case 3:
                content[place:place] = content[chance.randrange(len(content) + 1) :][:40]
    damaged[name] = bytes(content)
    write(root, damaged)
    try:
        source = open_source(source_settings(tree | {"root": str(root)}))
    except ChestmapError:
        return
    assert len(source.fingerprint) == 16
    assert all(box.finding in source.findings.names for boxes in source.boxes.values() for box in boxes)
