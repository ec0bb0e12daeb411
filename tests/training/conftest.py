import pytest

from training.small import small_data, write_dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Folder of the tiny dataset, packed."""
    root = write_dataset(tmp_path_factory.mktemp("small") / "data")
    small_data(root)
    return root


@pytest.fixture(scope="session")
def data(dataset):
    return small_data(dataset)
