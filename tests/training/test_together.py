"""Several processes learn what one learns from the same batches."""

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from training.several import finished, launched
from training.small import train_even

MACHINE = {"images_per_second", "memory_gb"}


def curve(folder) -> dict[tuple[str, ...], float]:
    """Every logged number by (step, epoch, update, name)."""
    rows = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()[1:]]
    return {(*row[:3], row[4]): float(row[5]) for row in rows if row[4] not in MACHINE}


def assert_same_training(one, other) -> None:
    mine, theirs = curve(one), curve(other)
    assert mine.keys() == theirs.keys()
    assert len(mine) > 30
    for place, value in mine.items():
        assert theirs[place] == pytest.approx(value, rel=2e-5, abs=2e-6), place
    weights = [load_file(folder / "1-learn" / "weights.safetensors") for folder in (one, other)]
    for name, value in weights[0].items():
        assert_close(weights[1][name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.fixture(scope="module")
def alone(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "run"
    finished(*launched(1, train_even, str(dataset), str(folder)))
    return folder


def test_two_processes_learn_what_one_learns(dataset, alone, tmp_path):
    finished(*launched(2, train_even, str(dataset), str(tmp_path)))
    assert_same_training(alone, tmp_path)
