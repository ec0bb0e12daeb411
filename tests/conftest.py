"""What every test may use: the shared data and a browser, where there are any."""

import gc
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import settings

import shapes

gc.disable()  # until all tests are collected: the garbage collector looks at millions of objects of imports that stay
sys.dont_write_bytecode = False  # hundreds of processes load the same modules; compiling torch anew takes each ten seconds
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # workers share the cores; see chestmap.cli
os.environ.setdefault("OMP_NUM_THREADS", "1")
jaxtyping.jaxtyped = shapes.only_where_arrays_are  # what the hook of --jaxtyping-packages decorates with
settings.register_profile("chestmap", deadline=None, derandomize=True)  # a busy machine is not a failure
settings.load_profile("chestmap")

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SHARED = Path(os.environ.get("CHESTMAP_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


LONGEST = (
    "docs/test_notebooks.py", "serving/test_review_page.py", "serving/test_reading_tools.py", "conformance/test_every_method.py",
    "training/test_resume.py", "training/test_together.py", "serving/test_page_accessibility.py", "cli/test_own_folder.py",
    "serving/test_crash.py", "serving/dicom/test_orthanc.py", "models/test_export.py", "reports/dicom/test_templates.py",
    "training/test_pieces.py", "models/test_without_torch.py", "reproduction/test_reproduce.py", "faults/test_faults.py",
)  # fmt: skip
"""Files that take ten seconds and more: they begin first, so that no worker is left alone with one."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    if absent := [str(path) for path in places if not path.is_file()]:
        raise pytest.UsageError(f"conftest.py: LONGEST names files that are not there: {', '.join(absent)}")
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """`shared_data("nih")` is a folder of real data, or skips the test where it is absent."""

    def folder(name: str) -> Path:
        if not (SHARED / name).is_dir():
            pytest.skip(f"real data {SHARED / name} is absent; set CHESTMAP_SHARED_DATA to its parent")
        return SHARED / name

    return folder


@pytest.fixture
def without_graph(monkeypatch):
    """Trainings that write no graph of their model, which takes ten times as long as a small training."""
    from chestmap.errors import Refused
    from chestmap.models import export

    def refuse(_: object) -> None:
        raise Refused("no graph in this test")

    monkeypatch.setattr(export, "add_graph", refuse)


@pytest.fixture(scope="module")
def browser():
    """A Chromium, which the tests of a file share."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; it is in the dev extra")
    path = os.environ.get("CHESTMAP_CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if path is None:
        pytest.skip(f"no {', '.join(CHROMIUMS)} on the path; install one, or name it in CHESTMAP_CHROMIUM")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Folder of the tiny dataset of `training.small`."""
    from training.small import write_dataset  # imports torch, which many test files do without

    return write_dataset(tmp_path_factory.mktemp("small") / "data")


@pytest.fixture(scope="session")
def data(dataset):
    from training.small import small_data

    return small_data(dataset)


@pytest.fixture(scope="session")
def run_folder(dataset, tmp_path_factory):
    """A finished run of the small method."""
    from chestmap.models.folder import write_model
    from chestmap.training.config import config_of
    from chestmap.training.train import train
    from training.small import METHODS, small_tree

    folder = tmp_path_factory.mktemp("small") / "run"
    train(config_of(small_tree(dataset), METHODS, name="small.toml"), folder, write_model, progress=False)
    return folder
