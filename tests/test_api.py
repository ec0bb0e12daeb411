"""The public face: its names are pinned, typed and light; every name has an example, and the examples run."""

import doctest
import importlib
import inspect
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from PIL import Image

import chestmap
from chestmap.errors import BadImage, BadInput
from training.small import METHODS, small_tree

NAMES = [
    "METHODS", "Box", "Dataset", "Findings", "Model", "Prediction", "Source", "evaluate", "load", "losses", "metrics", "predict", "report",
    "train",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(run_folder, dataset, tmp_path_factory):
    """A working folder as the examples have it: runs/own, film.png, films/, own.toml."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(run_folder, folder / "runs" / "own")
    shutil.copytree(dataset, folder / "films")
    shutil.copy(dataset / "003.png", folder / "film.png")
    (folder / "own.toml").write_text(tomli_w.dumps(small_tree(dataset)))
    return folder


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setitem(chestmap.METHODS, "small", METHODS["small"])
    return place


def test_the_public_names_are_these():
    assert chestmap.__all__ == NAMES
    assert [name for name in NAMES if getattr(chestmap, name) is None] == []
    assert set(NAMES) <= set(dir(chestmap))
    with pytest.raises(AttributeError, match="lode"):
        _ = chestmap.lode


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, chestmap; heavy = {'torch', 'numpy', 'polars', 'pydantic', 'cv2', 'PIL'} & set(sys.modules);"
        "print(sorted(heavy), len(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    heavy, modules = done.stdout.rsplit(" ", 1)
    assert heavy == "[]"
    assert int(modules) < 200


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_public_name_runs(name, here):
    item = getattr(chestmap, name)
    text = inspect.getdoc(item if name != "METHODS" else importlib.import_module("chestmap.methods"))
    assert text
    found = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    assert found.examples, f"chestmap.{name} has no example"
    said = []
    doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE).run(found, out=said.append)
    assert "".join(said) == ""


@pytest.mark.parametrize("name", [name for name in importlib.import_module("chestmap.metrics").__all__ if name.islower()])
def test_every_metric_and_loss_has_a_docstring(name):
    assert inspect.getdoc(getattr(chestmap.metrics, name))


def test_an_auc_of_plain_arrays_has_an_interval():
    scores = np.linspace(0, 1, 60)
    found = chestmap.metrics.auc(scores, (np.sin(40 * scores) + scores > 0.5).astype(float))
    low, high = found.interval()
    assert low < found.value < high


def test_predict_takes_whatever_holds_an_image(here):
    model = chestmap.load("runs/own", device="cpu")
    pixels = np.array(Image.open("film.png"))
    gray, color = torch.from_numpy(pixels), np.repeat(pixels[..., None], 3, axis=2)
    deep = Image.fromarray(pixels.astype(np.uint16) * 257)
    given = ["film.png", Path("film.png"), Path("film.png").read_bytes(), pixels, color, Image.open("film.png"), deep]
    given += [Image.fromarray(color), Image.fromarray(color).convert("RGBA"), gray, gray[None], gray[None].repeat(3, 1, 1)]
    given += [gray.float() / 255, pixels / 255.0]
    wanted = model.predict("film.png").scores
    for found in chestmap.predict(model, given):
        np.testing.assert_allclose(found.scores, wanted, atol=2e-3)
    assert chestmap.predict(model, []) == []
    for bad in ({"film": 1}, torch.zeros(2, 4, 4), np.zeros((4, 4, 2), np.uint8)):
        with pytest.raises(BadImage):
            chestmap.predict(model, bad)


def test_a_prediction_is_a_table_a_map_and_a_page(here):
    found = chestmap.predict("runs/own", "film.png")
    table = found.to_polars()
    assert table["finding"].to_list() == list(found.findings)
    assert table["score"].to_list() == pytest.approx([found.score(name) for name in found.findings])
    boxed = {box.finding: box.x0 for box in found.boxes}
    assert dict(zip(table["finding"], table["x0"], strict=True)) == {name: boxed.get(name) for name in found.findings}
    assert found.map("mass").tolist() == found.maps[1].astype(np.float32).tolist()
    assert "data:image/png;base64" in found._repr_html_()
    assert all(name in found._repr_html_() for name in found.findings)
    pandas = pytest.importorskip("pandas", reason="pandas is not installed; to_pandas is its only use")
    assert found.to_pandas().equals(pandas.DataFrame(table.to_dict(as_series=False)))


def test_a_dataset_feeds_a_loader_of_torch(here):
    source = chestmap.Source.open("folder", "films", labels="labels.csv", boxes="boxes.csv")
    films = chestmap.Dataset(source, size=64)
    assert len(films) == len(source) == 40
    again = pickle.loads(pickle.dumps(films))
    for position in (0, 3):
        image, labels, boxes = again[position]
        example = source[position]
        wanted = np.repeat(np.repeat(example.radiograph.pixels, 2, 0), 2, 1)
        assert float((image[0] - torch.from_numpy(wanted)).abs().mean()) < 0.1
        np.testing.assert_array_equal(labels.numpy(), example.labels)
        assert [source.findings.names[int(row[0])] for row in boxes] == [box.finding for box in example.boxes]
        for row, box in zip(boxes, example.boxes, strict=True):
            np.testing.assert_allclose(row[1:], np.array(box.corners) * 2, atol=1e-3)
    loader = torch.utils.data.DataLoader(films, batch_size=16, collate_fn=films.collate)
    images, labels, boxes = next(iter(loader))
    assert (images.shape, labels.shape, len(boxes)) == ((16, 1, 64, 64), (16, 3), 16)
    train = chestmap.Dataset(source, "train", size=64)
    assert 0 < len(train) < 40
    with pytest.raises(BadInput, match='did you mean "train"'):
        chestmap.Dataset(source, "trian", size=64)


def test_tables_in_memory_are_taken_wherever_a_file_is(here):
    import polars as pl

    pandas = pytest.importorskip("pandas", reason="pandas is not installed; its frames are taken without being imported")
    wanted = chestmap.Source.open("folder", "films", labels="labels.csv", boxes="boxes.csv")
    for read in (pl.read_csv, pandas.read_csv):
        tables = {"labels": read("films/labels.csv"), "boxes": read("films/boxes.csv")}
        found = chestmap.Source.open("folder", "films", **tables)
        assert found.fingerprint == wanted.fingerprint
    with pytest.raises(BadInput, match=r"^labels.csv: no column"):
        chestmap.Source.open("folder", "films", labels=pandas.DataFrame({"imagee": ["a"], "Mass": [1]}))


def test_options_of_load_are_those_of_the_verb(here):
    with pytest.raises(BadInput, match=r'devise: not a setting .* did you mean "device"'):
        chestmap.load("runs/own", devise="cpu")


@pytest.mark.slow
def test_a_users_file_passes_the_strict_checkers(tmp_path):
    pytest.importorskip("mypy", reason="mypy is not installed; it is in the dev extra")
    shutil.copy(Path(__file__).parent / "users_sample.py", tmp_path / "sample.py")
    source = Path(chestmap.__file__).parents[1]
    strict = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--follow-imports=silent",
        "--cache-dir",
        str(tmp_path / "cache"),
        "sample.py",
    ]
    done = subprocess.run(
        strict, cwd=tmp_path, capture_output=True, text=True, check=False, env={"MYPYPATH": str(source), "PATH": ""}
    )
    assert done.returncode == 0, done.stdout
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict", "extraPaths": [str(source)]}))
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "sample.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
