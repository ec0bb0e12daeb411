import pytest
import torch

from training.small import write_dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("golden") / "data")


@pytest.fixture(autouse=True)
def _two_threads():
    """As recorded: with one thread sums round otherwise, which mining in steps enlarges to 2% (`5-mine2 preservation`)."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
