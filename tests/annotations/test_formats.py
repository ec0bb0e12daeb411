"""COCO, Label Studio and CVAT: cases worked by hand, and everything out and in again with the same bits."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chestmap.annotations.annotated_image import AnnotatedImage
from chestmap.annotations.interchange import Predicted, annotated_of, export, import_annotations, read_annotations
from chestmap.datasets.checks.check import check
from chestmap.datasets.coco import read_scored
from chestmap.datasets.folder import FolderSettings, read_folder
from chestmap.errors import BadInput, BadTable
from chestmap.types import Box, Findings

# percent signs and spaces are what addresses get wrong
FINDINGS = Findings(("Effusion", "Mass & <co>"))
IMAGES = [
    AnnotatedImage(
        image="a/film 5%20.png",
        size=(200, 100),
        labels={"Effusion": True, "Mass & <co>": False},
        boxes=(Box("Effusion", 50, 25, 150, 75),),
        patient="p1",
    ),
    AnnotatedImage(image="b.png", size=(80, 40), labels={"Mass & <co>": True}, boxes=(), patient="p2"),
    AnnotatedImage(image="c.png", size=(80, 40)),
]
MODEL = Predicted({"b.png": [Box("Effusion", 8, 4, 16, 24, 0.75)], "film 5%20": []}, "ham-1")


def test_label_studio_as_its_documentation_has_it(tmp_path):
    """Percent of the original size; from_name and to_name are those of the configuration."""
    out = tmp_path / "tasks.json"
    export(out, "label-studio", FINDINGS, IMAGES, MODEL, "s3://films/")
    tasks = json.loads(out.read_text())
    assert [task["data"]["image"] for task in tasks] == [f"s3://films/{one.image}" for one in IMAGES]
    box, present, absent = tasks[0]["annotations"][0]["result"]
    assert box["value"] == {"x": 25, "y": 25, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["Effusion"]}
    assert (box["type"], box["original_width"], box["original_height"]) == ("rectanglelabels", 200, 100)
    assert present["value"] == {"choices": ["Effusion"]}
    assert (absent["from_name"], absent["value"]) == ("absent", {"choices": ["Mass & <co>"]})
    (prediction,) = tasks[1]["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("ham-1", 0.75)
    value = prediction["result"][0]["value"]
    assert [value[key] for key in ("x", "y", "width", "height")] == [10, 10, 10, 50]
    assert prediction["result"][0]["score"] == 0.75
    assert tasks[0]["predictions"][0]["result"] == []
    assert "annotations" not in tasks[2]
    config = ET.parse(tmp_path / "tasks.config.xml").getroot()
    controls = {one.get("name"): one for one in config if one.get("toName")}
    assert {one["from_name"] for one in (box, present, absent)} == set(controls)
    assert all(one.get("toName") == "image" for one in controls.values())
    assert [one.get("value") for one in controls["box"]] == list(FINDINGS)


def test_label_studio_takes_the_newest_word_of_people_and_says_what_it_cannot_use(tmp_path):
    def region(finding, **more):
        value = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": [finding]} | more
        return {"type": "rectanglelabels", "original_width": 1000, "original_height": 500, "value": value}

    def said(at, *result, **more):
        return {"updated_at": at, "result": list(result)} | more

    tasks = [
        {
            "data": {"image": "/data/upload/3/0a1b2c3d-x%20y.png", "patient_id": "p9"},
            "annotations": [said("2026-02-01", region("Mass")), said("2026-01-01", region("Nodule"))],
            "predictions": [said("", region("Hernia"))],
        },
        {
            "data": {"image": "/data/local-files/?d=in%20it/z.png"},
            "annotations": [said("", region("Mass", rotation=5), region("Mass", x="?"))],
        },
        {"data": {"image": "s3://a/50%20.png"}, "annotations": [said("", region("Mass") | {"type": "brushlabels"})]},
        {"data": {"image": "skipped.png"}, "annotations": [said("", region("Mass"), was_cancelled=True)]},
    ]
    (tmp_path / "t.json").write_text(json.dumps(tasks))
    images, aside = read_annotations(tmp_path / "t.json")
    assert [(one.image, one.patient) for one in images] == [("x y.png", "p9"), ("in it/z.png", ""), ("s3://a/50%20.png", "")]
    assert images[0].boxes == (Box("Mass", 100, 100, 400, 300),)
    assert images[1].boxes == ()
    assert [line.startswith("t.json: in it/z.png: a box is not usable") for line in aside.lines] == [True, True, False]
    assert "brushlabels" in aside.lines[2]


def test_label_studio_of_other_kinds_costs_what_is_wrong_alone(tmp_path):
    def task(name, result):
        return {"data": {"image": name}, "annotations": [{"result": result}]}

    value = {"x": 10, "y": 20, "width": 30, "height": 40, "rectanglelabels": ["Mass"]}
    region = {"type": "rectanglelabels", "original_width": 100, "original_height": 100, "value": value}
    odd = [
        5,
        [region | {"original_width": 10**400}],
        [region | {"original_width": "1e999"}],
        [region | {"original_height": 0}],
        [region | {"value": value | {"rectanglelabels": "Mass"}}],
        [region | {"value": value | {"x": 10**400}}],
        [region | {"value": value | {"width": None}}],
    ]
    tasks = [task(f"{number}.png", result) for number, result in enumerate([*odd, [region]])]
    (tmp_path / "t.json").write_text(json.dumps(tasks))
    images, aside = read_annotations(tmp_path / "t.json")
    assert [len(one.boxes) for one in images] == [0] * len(odd) + [1]
    assert len(aside.lines) == len(odd)
    assert all(len(line) < 200 for line in aside.lines)


@pytest.mark.parametrize("size", ['width="nan" height="5"', 'width="5" height="1e999"', 'width="0" height="5"'])
def test_an_image_of_no_size_is_refused(tmp_path, size):
    image = f'<image name="a" {size}></image>'
    (tmp_path / "t.xml").write_text(f"<annotations><version>1.1</version>{image}</annotations>")
    with pytest.raises(BadTable, match="has no width and height in pixels"):
        read_annotations(tmp_path / "t.xml")


def test_cvat_as_its_documentation_has_it(tmp_path):
    text = """<?xml version="1.0" encoding="utf-8"?>
    <annotations><version>1.1</version><meta><task><name>films</name></task></meta>
      <image id="0" name="x.png" width="1000" height="500">
        <box label="Mass" source="manual" occluded="0" xtl="1.50" ytl="2" xbr="30.25" ybr="40" z_order="0">
          <attribute name="sure">false</attribute></box>
        <box label="Nodule" source="auto" occluded="0" xtl="1" ytl="2" xbr="3" ybr="4" z_order="0"></box>
        <polygon label="Nodule" source="manual" points="1,2;3,4;5,6"></polygon>
        <box label="Nodule" source="manual" rotation="12.5" xtl="1" ytl="2" xbr="3" ybr="4"></box>
        <tag label="Hernia" source="manual"></tag><tag label="Edema" source="auto"></tag>
        <tag label="Effusion" source="manual"><attribute name="present">false</attribute></tag>
      </image>
    </annotations>"""
    (tmp_path / "t.xml").write_text(text)
    images, aside = read_annotations(tmp_path / "t.xml")
    labels = {"Hernia": True, "Effusion": False}
    assert images == [
        AnnotatedImage(image="x.png", size=(1000, 500), labels=labels, boxes=(Box("Mass", 1.5, 2, 30.25, 40),))
    ]
    assert len(aside.lines) == 2
    export(tmp_path / "o.xml", "cvat", FINDINGS, IMAGES, MODEL)
    root = ET.parse(tmp_path / "o.xml").getroot()
    assert root.findtext("version") == "1.1"
    assert [one.findtext("name") for one in root.iter("label") if one.find("name") is not None] == list(FINDINGS)
    (auto,) = [one for one in root.iter("box") if one.get("source") == "auto"]
    assert [float(auto.get(key)) for key in ("xtl", "ytl", "xbr", "ybr")] == [8, 4, 16, 24]
    assert auto.findtext("attribute") == "0.75"


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotations><version>1.1</version>&x;</annotations>',
        '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "xx"><!ENTITY y "&x;&x;">]><annotations>&y;</annotations>',
        "<annotations><version>1.1</version>",
        "<annotations></annotations>",
        '<annotations><version>1.1</version><image name="a"></image></annotations>',
        '[{"id": 1, "image": "a.png"}]',
        "image,finding",
        '{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2], "score": 0.5}],'
        ' "categories": [{"id": 1, "name": "Mass"}]}',
    ],
)
def test_what_is_no_annotation_of_people_is_one_line(tmp_path, text):
    (tmp_path / "t").write_text(text)
    with pytest.raises(BadTable) as refused:
        read_annotations(tmp_path / "t")
    assert "\n" not in str(refused.value)


NUMBERS = st.floats(0, 1000, allow_nan=False, width=32)


@settings(max_examples=25)
@given(
    st.lists(st.tuples(NUMBERS, NUMBERS, st.floats(1, 500), st.floats(1, 500), st.sampled_from(FINDINGS.names)), max_size=5)
)
@pytest.mark.parametrize("form", ["coco", "label-studio", "cvat"])
def test_boxes_come_back_where_they_were(tmp_path_factory, form, boxes):
    marks = tuple(Box(name, x, y, x + w, y + h) for x, y, w, h, name in boxes)
    folder = tmp_path_factory.mktemp("form")
    export(
        folder / "f",
        form,
        FINDINGS,
        [AnnotatedImage(image="x.png", size=(1500, 1500), labels={"Effusion": True}, boxes=marks)],
    )
    images, aside = read_annotations(folder / "f")
    assert aside.lines == []
    assert [one.finding for one in images[0].boxes] == [one.finding for one in marks]
    corners = [one.corners for one in images[0].boxes]
    assert np.allclose(corners, [one.corners for one in marks], rtol=0, atol=1e-9) or not marks


def test_coco_results_belong_to_the_dataset_form(tmp_path):
    export(tmp_path / "d.json", "coco", FINDINGS, IMAGES)
    export(tmp_path / "r.json", "coco-results", FINDINGS, IMAGES, MODEL)
    assert json.loads((tmp_path / "r.json").read_text()) == [
        {"image_id": 2, "category_id": 1, "bbox": [8, 4, 8, 20], "score": 0.75}
    ]
    found = read_scored(tmp_path / "r.json", tmp_path / "d.json")
    assert found == {"a/film 5%20.png": [], "b.png": MODEL.boxes["b.png"], "c.png": []}
    with pytest.raises(BadTable, match="a score from 0 to 1"):
        read_scored(tmp_path / "d.json")


@pytest.mark.parametrize("form", ["coco", "label-studio", "cvat"])
def test_what_people_marked_becomes_a_folder_to_train_on(tmp_path, form):
    """From a folder out, and in again as another folder; what the form cannot hold (COCO: labels without boxes) is unknown."""
    films, file = tmp_path / "films", tmp_path / "marks"
    for one in IMAGES:
        (films / one.image).parent.mkdir(parents=True, exist_ok=True)
        width, height = one.size
        cv2.imwrite(
            str(films / one.image), np.random.default_rng(len(one.image)).integers(0, 255, (height, width), np.uint8)
        )
    (films / "labels.csv").write_text("image,patient_id,Effusion,Mass\na/film 5%20.png,p1,1,0\nb.png,p2,,1\nc.png,p2,,\n")
    (films / "boxes.csv").write_text("image,finding,x0,y0,x1,y1\na/film 5%20.png,Effusion,50,25,150,75\n")
    source = read_folder(FolderSettings(root=films, labels="labels.csv", boxes="boxes.csv"))
    images = annotated_of(source)
    assert [(one.size, dict(one.labels)) for one in images] == [
        ((200, 100), {"Effusion": True, "Mass": False}), ((80, 40), {"Mass": True}), ((80, 40), {}),
    ]  # fmt: skip
    export(file, form, source.findings, images, MODEL)
    aside = import_annotations(file, films, tmp_path / "in")
    assert aside.lines == []
    back = read_folder(FolderSettings(root=tmp_path / "in", labels="labels.csv", boxes="boxes.json"))
    assert check(back, decode=True, workers=1, progress=False).problems == ()
    first = back.row_of["images/a/film 5%20.png"]
    assert back.boxes["images/a/film 5%20.png"] == (Box("Effusion", 50, 25, 150, 75),)
    assert dict(zip(back.findings, back.labels[first].tolist(), strict=True)) == (
        {"Effusion": 1} if form == "coco" else {"Effusion": 1, "Mass": 0}
    )
    assert len(back) == (1 if form == "coco" else 2)
    import_annotations(file, films, tmp_path / "whole", complete=True)
    whole = read_folder(FolderSettings(root=tmp_path / "whole", labels="labels.csv", boxes="boxes.json"))
    assert set(whole.labels.ravel().tolist()) <= {0, 1}


def test_what_is_not_there_or_lies_outside_is_told(tmp_path):
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((50, 50), np.uint8))
    boxes = (Box("Mass", 40, 40, 60, 60), Box("Mass", 70, 70, 80, 80))
    export(
        tmp_path / "f",
        "coco",
        Findings(("Mass",)),
        [
            AnnotatedImage(image="x.png", size=(50, 50), labels={}, boxes=boxes),
            AnnotatedImage(image="y.png", size=(9, 9), labels={}, boxes=boxes[:0]),
        ],
    )
    aside = import_annotations(tmp_path / "f", tmp_path, tmp_path / "out", complete=True)
    assert aside.lines[0].startswith("f: x.png: a box of Mass lies outside")
    assert "y.png: is not below" in aside.lines[1]
    made = json.loads((tmp_path / "out" / "boxes.json").read_text())
    assert [mark["bbox"] for mark in made["annotations"]] == [[40, 40, 10, 10]]
    with pytest.raises(BadInput, match="allowed: coco, coco-results, label-studio, cvat"):
        export(tmp_path / "f", "labelstudio", FINDINGS, IMAGES)
    assert not list(Path(tmp_path).glob("*.part"))
