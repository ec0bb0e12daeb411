"""What every test may use: the shared data and a browser, where there are any."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # workers share the cores; see chestmap.cli
settings.register_profile("chestmap", deadline=None, derandomize=True)  # a busy machine is not a failure
settings.load_profile("chestmap")

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SHARED = Path(os.environ.get("CHESTMAP_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """`shared_data("nih")` is a folder of real data, or skips the test where it is absent."""

    def folder(name: str) -> Path:
        if not (SHARED / name).is_dir():
            pytest.skip(f"real data {SHARED / name} is absent; set CHESTMAP_SHARED_DATA to its parent")
        return SHARED / name

    return folder


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
