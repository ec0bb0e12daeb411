"""The notebooks run from the first cell to the last."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from chestmap.methods import METHODS

FOLDER = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted((FOLDER / "notebooks").glob("*.ipynb"), key=lambda path: (path.stem != "own-folder", path))
"""The first one needs the folder of its training again; of the same training another gets a copy."""

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


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """`chestmap.train` that trains the same folder of films in the same way once for all notebooks."""
    import chestmap

    real, made = chestmap.train, {}

    def train(config, overrides=(), out=None, **options):
        if not isinstance(config, str):
            return real(config, overrides, out, **options)
        films = sorted(Path(config).parent.iterdir())
        key = tuple(overrides), tuple((path.name, path.read_bytes()) for path in films if path.is_file())
        if key not in made:
            model = real(config, overrides, out, **options)
            made[key] = shutil.copytree(out, tmp_path_factory.mktemp("runs") / "run")
            return model
        return Path(shutil.copytree(made[key], out)) / "model"

    return train


@pytest.fixture(autouse=True)
def _no_method_stays():
    """A notebook registers a method of its own, in a process that later tests share."""
    yield
    METHODS.pop("mine", None)


def ran(path, runner) -> int:
    for module in NEEDS.get(path.stem, ()):
        pytest.importorskip(module, reason=f"{module} is not installed; it is in the extras dicom and serve")
    return runner.run(path, keep=False)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, runner, drawn, trained, monkeypatch, without_graph):
    """All cells; that a training writes its graph is for `cli/test_own_folder.py`, with the same method."""
    monkeypatch.setattr("chestmap.phantom.write_phantom", drawn)
    monkeypatch.setattr("chestmap.train", trained)
    assert ran(path, runner) > 3


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_with_the_graph_of_its_model(path, runner):
    assert ran(path, runner) > 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_with_its_outputs(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells)
    assert sum(bool(cell["outputs"]) for cell in cells) >= 2
    assert path.stat().st_size < 1_000_000


def test_a_notebook_shows_a_picture_of_a_prediction():
    cells = json.loads((FOLDER / "notebooks" / "look-at-a-prediction.ipynb").read_text())["cells"]
    assert any("image/png" in one.get("data", {}) for cell in cells for one in cell.get("outputs", ()))
