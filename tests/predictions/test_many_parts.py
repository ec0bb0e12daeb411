"""A predictions folder of more parts than a process may hold files open."""

import resource
import shutil

import numpy as np
import pytest

from chestmap.predictions.folder import Chunk, Header, OwnRule, PredictionsWriter, open_predictions
from chestmap.types import Findings, Frame

FRAME = Frame.from_list([80, 96, 64, 64, 1, 0, 0, 0, 1, 0])
OPEN, PARTS = 100, 120


@pytest.fixture
def few_files():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_more_parts_than_files_may_be_open(tmp_path, few_files):
    maps = np.arange(2 * 1 * 2 * 3, dtype=np.float16).reshape(2, 1, 2, 3)
    writer = PredictionsWriter(
        tmp_path, Header(findings=Findings(("Mass",)), canvas=(64, 64), model={}, own_rule=OwnRule(0.5))
    )
    writer.write(
        0,
        2,
        iter(
            [
                Chunk(
                    image_ids=("a", "b"),
                    patient_ids=("p", "q"),
                    frames=(FRAME, FRAME),
                    scores=np.float32([[0.25], [0.5]]),
                    maps=maps,
                )
            ]
        ),
    )
    for number in range(1, PARTS):
        shutil.copytree(tmp_path / "part-00000", tmp_path / f"part-{number:05d}")
    writer.finish()
    found = open_predictions(tmp_path)
    assert len(found) == 2 * PARTS
    assert np.array_equal(found[2 * PARTS - 1].maps, maps[1])
    assert sum(int(chunk.maps[:, 0, 1, 2].sum()) for chunk in found.chunks()) == PARTS * (5 + 11)
    assert np.array_equal(np.concatenate(found.parts[:3]), np.concatenate([maps] * 3))
