"""What every test may use: the shared data, where there is any."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("chestmap", deadline=None, derandomize=True)  # a busy machine is not a failure
settings.load_profile("chestmap")

SHARED = Path(os.environ.get("CHESTMAP_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """`shared_data("nih")` is a folder of real data, or skips the test where it is absent."""

    def folder(name: str) -> Path:
        if not (SHARED / name).is_dir():
            pytest.skip(f"real data {SHARED / name} is absent; set CHESTMAP_SHARED_DATA to its parent")
        return SHARED / name

    return folder
