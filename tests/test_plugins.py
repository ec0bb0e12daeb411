"""A package of its own adds a method, a reader and an output format; nobody touches this package for it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chestmap.errors import BadInput
from chestmap.methods import METHODS, described
from chestmap.plugins import Registry

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "examples" / "chestmap-sample"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Where the sample is installed as an installer would leave it: its modules and the metadata with its entry points."""
    import tomllib

    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(SAMPLE / "src" / "chestmap_sample", folder / "chestmap_sample")
    about = tomllib.loads((SAMPLE / "pyproject.toml").read_text())["project"]
    info = folder / "chestmap_sample-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in entries.items())
        for group, entries in about["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    random, rows = np.random.default_rng(1), []
    for number in range(24):
        pixels = random.integers(0, 120, (32, 32), dtype=np.uint8)
        present = number % 2 == 0
        if present:
            pixels[8:16, 8:16] = 240
        Image.fromarray(pixels).save(folder / f"{number}.png")
        marks = [{"finding": "Mass", "box": [8, 8, 16, 16]}] if present else []
        rows.append(
            {"path": f"{number}.png", "patient": f"p{number}", "findings": ["Mass"] if present else [], "boxes": marks}
        )
    (folder / "images.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.slow
def test_the_sample_trains_predicts_and_is_scored(site, films, tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(site)!r})
import chestmap
from chestmap.cli import app
from chestmap.methods import described
assert "shallow" in chestmap.METHODS and described("shallow") == ("Shallow sample", "none; a sample")
assert "chestmap_sample.method" not in sys.modules
data = {{"source": {{"name": "json_lines", "root": {str(films)!r}}}, "split": {{"name": "patients", "validation": 0.3, "test": 0.3}},
        "pack": {{"width": 32, "height": 32}}, "cache": "cache"}}
method = {{"name": "shallow", "learn": {{"epochs": 2, "batch_size": 4, "learning_rate": 0.01}}}}
run = {{"device": "cpu", "workers": 0, "tensorboard": False}}
chestmap.train({{"run": run, "data": data, "method": method}}, out="run", progress=False)
assert chestmap.load("run").model.method.name == "shallow"
scores = chestmap.evaluate("run", resamples=5)
assert 0 <= scores.only_score("AUC", finding="mean").value <= 1
app(["predict", "run/model", {str(films)!r}, "--out", "out", "--write", "markdown,yolo", "--workers", "0"], standalone_mode=False)
assert len(open("out/results.md").read().split("## ")) == 25
"""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    without = f"""
import sys
sys.argv = ["chestmap", "predict", "run/model", {str(films)!r}, "--out", "y", "--workers", "0", *sys.argv[1:]]
from chestmap.cli import main
main()
"""
    command = [sys.executable, "-c", without]
    done = subprocess.run(
        [*command, "--engine", "torch"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "shallow" in done.stderr
    assert "Traceback" not in done.stderr
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr  # the graph in the folder needs no package of its method


def entry(folder, monkeypatch, text, module=""):
    info = folder / "broken-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text(f"[a.group]\n{text}\n")
    (folder / "broken_plugin.py").write_text(module)
    monkeypatch.syspath_prepend(folder)


def test_a_broken_plug_in_is_one_line_and_stops_nobody_else(tmp_path, monkeypatch):
    entry(tmp_path, monkeypatch, "bad = broken_plugin:THING\nown = broken_plugin:THING", "raise OSError('no disk')")
    registry = Registry("a.group", {"own": "chestmap.reports.result_tables:CSV"})
    assert list(registry) == ["own", "bad"]
    with pytest.raises(BadInput, match=r'"bad" of package broken 2.0 cannot be loaded \(OSError: no disk\)'):
        _ = registry["bad"]
    assert registry.origin("own") == "chestmap.reports.result_tables:CSV"


def test_an_error_class_of_the_plug_in_itself_is_one_line(tmp_path, monkeypatch):
    entry(tmp_path, monkeypatch, "bad = broken_plugin:THING", "class Odd(Exception): pass\nraise Odd('its own')")
    with pytest.raises(BadInput, match=r'"bad" of package broken 2.0 cannot be loaded \(Odd: its own\); update or remove'):
        _ = Registry("a.group", {})["bad"]


def test_a_plug_in_under_another_name_is_refused(tmp_path, monkeypatch):
    entry(tmp_path, monkeypatch, "good = broken_plugin:THING", "class THING: name = 'other'")
    with pytest.raises(BadInput, match="both names must be the same"):
        _ = Registry("a.group", {})["good"]


def test_a_registry_names_what_it_knows():
    registry = Registry("no.group", {"csv": "chestmap.reports.result_tables:CSV"})
    with pytest.raises(BadInput, match=r'--write: allowed: csv \(got .cvs.\); did you mean "csv"'):
        registry.named("cvs", "--write")
    with pytest.raises(KeyError):
        _ = registry["other"]


def test_title_and_paper_are_read_without_importing_a_method():
    code = (
        "import sys; from chestmap.methods import METHODS, described;"
        "lines = [described(name) for name in METHODS]; assert all(title and paper for title, paper in lines); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert described("cam") == (METHODS["cam"].title, METHODS["cam"].paper)
