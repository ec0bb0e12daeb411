"""`chestmap init` and `all`: a folder with the usual mess becomes a config, and a config becomes a report."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from chestmap.api.own_config import SPLIT
from chestmap.api.own_folder import CONFIG, look, write_config
from chestmap.cli import app
from chestmap.datasets.split import make_split
from chestmap.errors import BadInput
from chestmap.methods import METHODS
from chestmap.settings import read_toml
from chestmap.training.config import read_config

SIDE = 256
BOX = (64.0, 32.0, 128.0, 96.0)  # of every image with a mass, in pixels


@pytest.fixture
def films(tmp_path):
    """Thirty images in two folders, a table of labels that names patients, and no boxes yet."""
    folder = tmp_path / "films"
    random, rows = np.random.default_rng(2), ["Image,patient_id,Mass,Effusion"]
    for number in range(30):
        place = folder / ("a" if number % 2 else "b")
        place.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 100, (SIDE, SIDE), dtype=np.uint8)
        if number % 3 == 0:
            pixels[32:96, 64:128] = 220
        Image.fromarray(pixels).save(place / f"{number:02d}.png")
        rows.append(f"{number:02d}.png,p{number // 2},{int(number % 3 == 0)},{number % 2}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def boxed(folder, header, numbers):
    lines = [f"{number:02d}.png,Mass,{','.join(map(str, numbers))}" for number in range(0, 30, 3)]
    (folder / "marks.csv").write_text("\n".join([f"image,finding,{header}", *lines]) + "\n")


@pytest.mark.parametrize(
    ("header", "numbers", "unit"),
    [
        ("x0,y0,x1,y1", BOX, None),
        ("x,y,w,h", (64, 32, 64, 64), None),
        ("x0,y0,x1,y1", [value / SIDE for value in BOX], "fractions of the image"),
        ("x,y,w,h", (64 / SIDE, 32 / SIDE, 64 / SIDE, 64 / SIDE), "fractions of the image"),
        ("x0,y0,x1,y1", [70.0, 60.0, 95.0, 90.0], "percent of the image"),
        ("x,y,w,h", (150, 140, 250, 240), "are corners"),
    ],
)
def test_boxes_in_any_unit_become_pixels(films, header, numbers, unit):
    boxed(films, header, numbers)
    found, source = look(films)
    (box,) = source.boxes["00.png"]
    wanted = {
        "percent of the image": [value / 100 * SIDE for value in numbers],
        "are corners": list(numbers),
    }.get(unit, list(BOX))
    assert box.corners == pytest.approx(wanted, abs=0.02)
    assert [unit in note for note in found.notes if note.startswith("marks.csv")] == ([True] if unit else [])


def test_a_missing_image_takes_its_own_boxes_alone(films):
    boxed(films, "x0,y0,x1,y1", [70.0, 60.0, 95.0, 90.0])
    next(films.rglob("03.png")).unlink()
    next(films.rglob("06.png")).write_bytes(b"broken")
    found, source = look(films)
    assert found.unit == "percent"
    assert sorted(source.boxes) == [f"{number:02d}.png" for number in range(0, 30, 3) if number not in {3, 6}]
    (problem,) = [one for one in source.problems if one.kind == "box of an image without size"]
    assert (problem.count, "03.png cannot be opened" in problem.message) == (2, True)


def test_the_config_is_one_that_trains_here(films):
    boxed(films, "x0,y0,x1,y1", BOX)
    path, _, source = write_config(films)
    assert path == films / CONFIG
    config = read_config(path, [], METHODS)
    assert config.data.source.root == films
    assert config.data.source.labels == "labels.csv"
    assert config.data.source.boxes == "marks.csv"
    assert config.data.split.name == "patients"
    assert "30 images, 15 patients; 10 boxes" in path.read_text()
    assert source.findings.names == ("Mass", "Effusion")
    with pytest.raises(BadInput, match="is there already; train with it, or write it anew with --again"):
        write_config(films)
    write_config(films, again=True)


def test_the_last_epoch_is_kept_where_validation_ranks_nothing(films):
    """The two patients of validation have the same labels: training would end after its first epoch."""
    rows = ["Image,patient_id,Mass"] + [f"{number:02d}.png,p{number // 2},1" for number in range(30)]
    (films / "labels.csv").write_text("\n".join(rows).replace("02.png,p1,1", "02.png,p1,0") + "\n")
    path, _, source = write_config(films)
    assert "02.png" not in make_split(source, SPLIT).parts["validation"]
    assert read_toml(path)["method"]["learn"]["select"] == "last"


def test_columns_and_boxes_that_are_not_used_are_named(films):
    rows = (films / "labels.csv").read_text().splitlines()
    header = "Image Name;Patient No.;Mass;Pleural effusion;Remarks"
    lines = [";".join([*row.split(","), "see report"]) for row in rows[1:]]
    (films / "labels.csv").write_text("\n".join([header, *lines]) + "\n")
    (films / "marks.csv").write_text(
        "Image Name,Class,xmin,ymin,width,height\n00.png,effusion,64,32,64,64\n03,mass,64,32,64,64\n"
    )
    found, source = look(films)
    assert source.images["patient_id"].n_unique() == 15
    assert "labels.csv: columns left alone: Remarks" in found.notes
    assert list(source.boxes) == ["03.png"]
    (problem,) = [one for one in source.problems if one.kind == "unlabeled finding"]
    assert 'effusion has no labels; its boxes are left out; did you mean "Pleural effusion"?' in problem.message
    (films / "labels.csv").write_text("\n".join([header.replace("Patient No.", "Ref"), *lines]) + "\n")
    assert any("no column of patients" in note for note in look(films)[0].notes)


def test_a_table_of_boxes_that_cannot_be_used_says_why(films):
    (films / "marks.csv").write_text("image,reader,left,top,right,bottom\n00.png,AB,1,2,3,4\n")
    (films / "visits.csv").write_text("image,day\n00.png,3\n")
    found, source = look(films)
    assert not source.boxes
    assert (
        'marks.csv is left alone: no column "finding"; the first line holds image, reader, left, top, right, bottom'
        in found.notes
    )
    assert "visits.csv is left alone" in found.notes


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_the_config_of_each_machine_builds_a_network_from_the_package_alone(films, device, monkeypatch):
    monkeypatch.setattr("chestmap.api.own_folder.machine", lambda: device)
    path, _, source = write_config(films)
    config = read_config(path, ["run.device=cpu"], METHODS)
    network = config.method.build(config.settings, source.findings, config.data.pack.canvas)
    assert config.settings.backbone.weights == "starter"
    assert sum(one.numel() for one in network.parameters()) > 1e6


def yolo(folder):
    (folder / "classes.txt").write_text("Mass\n")
    for number in range(30):
        place = folder / "labels" / f"{number:02d}.txt"
        place.parent.mkdir(exist_ok=True)
        place.write_text("0 0.375 0.25 0.25 0.25\n" if number % 3 == 0 else "")


def voc(folder):
    (folder / "marks").mkdir()
    for number in range(30):
        box = "<bndbox><xmin>65</xmin><ymin>33</ymin><xmax>128</xmax><ymax>96</ymax></bndbox>"
        marks = f"<object><name>Mass</name>{box}</object>" if number % 3 == 0 else ""
        size = f"<size><width>{SIDE}</width><height>{SIDE}</height></size>"
        text = f"<annotation><filename>{number:02d}.png</filename>{size}{marks}</annotation>"
        (folder / "marks" / f"{number:02d}.xml").write_text(text)


def createml(folder):
    mark = {"label": "Mass", "coordinates": {"x": 96, "y": 64, "width": 64, "height": 64}}
    rows = [{"image": f"{number:02d}.png", "annotations": [mark] if number % 3 == 0 else []} for number in range(30)]
    (folder / "marks.json").write_text(json.dumps(rows))


def coco(folder):
    images = [{"id": number, "file_name": f"{number:02d}.png", "width": SIDE, "height": SIDE} for number in range(30)]
    marks = [{"id": n, "image_id": n, "category_id": 1, "bbox": [64, 32, 64, 64]} for n in range(0, 30, 3)]
    tree = {"images": images, "annotations": marks, "categories": [{"id": 1, "name": "Mass"}]}
    (folder / "marks.json").write_text(json.dumps(tree))


@pytest.mark.parametrize("form", [yolo, voc, createml, coco])
def test_boxes_of_other_programs_are_labels_where_there_is_no_table(films, form):
    (films / "labels.csv").unlink()
    form(films)
    found, source = look(films)
    assert found.root == films / "chestmap-data"
    assert int((source.labels == 1).sum()) == 10
    assert int((source.labels == 0).sum()) == 20
    (box,) = next(iter(source.boxes.values()))
    assert box.corners == pytest.approx(BOX, abs=0.02)
    assert any("counts as absent" in note for note in found.notes)


def test_coco_next_to_a_table_is_used_for_boxes(films):
    coco(films)
    found, source = look(films)
    assert (found.labels, found.boxes) == ("labels.csv", "marks.json")
    assert len(source.boxes) == 10


def spoil_nothing_there(films):
    for path in films.rglob("*.png"):
        path.unlink()


def spoil_no_table(films):
    (films / "labels.csv").unlink()


def spoil_other_names(films):
    text = (films / "labels.csv").read_text()
    (films / "labels.csv").write_text(text.replace(".png", "-x.png"))


def spoil_few(films):
    text = (films / "labels.csv").read_text().splitlines()
    (films / "labels.csv").write_text("\n".join(text[:9]) + "\n")


def spoil_one_kind(films):
    rows = [f"{number:02d}.png,1" for number in range(30)]
    (films / "labels.csv").write_text("\n".join(["image,Mass", *rows]) + "\n")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_nothing_there, "no PNG, JPEG or DICOM image"),
        (spoil_no_table, "no table of labels; write labels.csv with a column image"),
        (spoil_other_names, "none of its 30 images is in the folder; the first is 00-x.png"),
        (spoil_few, "8 images have a known label; at least 20"),
        (spoil_one_kind, "no finding is both present and absent: Mass"),
    ],
)
def test_what_stops_a_training_is_one_line(films, spoil, said):
    spoil(films)
    with pytest.raises(BadInput) as problem:
        look(films)
    assert said in str(problem.value)
    assert len(str(problem.value).splitlines()) == 1


def test_all_goes_from_the_folder_to_the_report(films, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    boxed(films, "x0,y0,x1,y1", BOX)
    tiny = ["method.learn.epochs=1", "method.learn.batches=2", "method.learn.batch_size=4", "data.views.count=1"]
    tiny += ["data.pack.width=64", "data.pack.height=64", "run.device=cpu"]
    tiny += ["method.backbone.name=test_resnet", "method.backbone.weights=none"]  # the notebooks train the config's own
    words = [word for setting in tiny for word in ("--set", setting)]
    done = CliRunner().invoke(app, ["all", "films", "--pictures", "2", *words])
    assert done.exit_code == 0, done.output
    page = tmp_path / "runs" / "films" / "report.html"
    assert str(page.resolve()) in done.output
    assert page.is_file()
    model = json.loads((tmp_path / "runs" / "films" / "model" / "model.json").read_text())
    assert model["graph"]["differs_from_torch"] < 1e-4
    assert read_toml(tmp_path / "runs" / "films" / "config.toml")["data"]["source"]["root"] == str(films)
