"""The notebooks run from the first cell to the last."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted((FOLDER / "notebooks").glob("*.ipynb"))

NEEDS = {"pacs-to-training": ("pynetdicom", "fastapi")}


@pytest.fixture(scope="module")
def runner():
    pytest.importorskip("IPython", reason="ipykernel is not installed; it is in the docs extra")
    pytest.importorskip("nbformat", reason="nbformat is not installed; it is in the docs extra")
    spec = importlib.util.spec_from_file_location("run_notebooks", FOLDER / "run_notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """`write_phantom` that draws each phantom once for all notebooks, and copies it afterwards."""
    from chestmap.phantom import write_phantom

    made = {}

    def write(folder, settings, **options):
        key = settings.model_dump_json()
        if key not in made:
            made[key] = write_phantom(tmp_path_factory.mktemp("phantom") / "made", settings, **options)
        return shutil.copytree(made[key], folder)

    return write


def ran(path, runner, monkeypatch) -> int:
    import chestmap

    for module in NEEDS.get(path.stem, ()):
        pytest.importorskip(module, reason=f"{module} is not installed; it is in the extras dicom and serve")
    monkeypatch.delitem(chestmap.METHODS._loaded, "mine", raising=False)
    return runner.run(path, keep=False)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, runner, drawn, monkeypatch, without_graph):
    """All cells; that a training writes its graph is for `cli/test_own_folder.py`, with the same method."""
    monkeypatch.setattr("chestmap.phantom.write_phantom", drawn)
    assert ran(path, runner, monkeypatch) > 3


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_with_the_graph_of_its_model(path, runner, monkeypatch):
    assert ran(path, runner, monkeypatch) > 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_with_its_outputs(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells)
    assert sum(bool(cell["outputs"]) for cell in cells) >= 2
    assert path.stat().st_size < 1_000_000
