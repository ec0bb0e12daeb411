import pytest

from chestmap.inference.model_folder import write_model
from chestmap.training.config import config_of
from chestmap.training.train import train
from training.small import METHODS, small_data, small_tree, write_dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("inference") / "data")


@pytest.fixture(scope="session")
def data(dataset):
    return small_data(dataset)


@pytest.fixture(scope="session")
def run_folder(dataset, tmp_path_factory):
    """A finished run of the small method."""
    folder = tmp_path_factory.mktemp("inference") / "run"
    train(config_of(small_tree(dataset), METHODS, name="small.toml"), folder, write_model, progress=False)
    return folder
