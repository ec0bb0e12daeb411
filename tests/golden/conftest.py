import pytest

from training.small import write_dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("golden") / "data")
