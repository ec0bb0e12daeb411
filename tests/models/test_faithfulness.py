"""Deletion and insertion on a score that is known: the mean brightness of one corner."""

from itertools import pairwise
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from chestmap.datasets.folder import FolderSettings, read_folder
from chestmap.errors import BadInput
from chestmap.imaging.canvas import CanvasSettings
from chestmap.models.faithfulness import faithfulness, faithfulness_of, faithfulness_table, outside_share


def corner(canvases: np.ndarray) -> np.ndarray:
    """The score of finding 1 is the mean of the upper left quarter."""
    mean = canvases[:, 0, :16, :16].mean(axis=(1, 2))
    return np.stack([np.zeros(len(mean)), mean], axis=1)


def picture() -> np.ndarray:
    canvas = np.zeros((32, 32), np.float32)
    canvas[:16, :16] = 1.0
    return canvas


def cells(y: int, x: int) -> np.ndarray:
    values = np.zeros((4, 4), np.float32)
    values[y : y + 2, x : x + 2] = 1.0
    return values


def test_a_map_of_the_right_corner_beats_the_floor_and_one_of_the_wrong_corner_does_not() -> None:
    right, wrong = (faithfulness(corner, picture(), cells(*at), 1) for at in ((0, 0), (2, 2)))
    assert right.deletion < right.random_deletion < wrong.deletion
    assert right.insertion > right.random_insertion > wrong.insertion
    assert (right.random_deletion, right.random_insertion) == (wrong.random_deletion, wrong.random_insertion)


def test_the_areas_agree_with_plain_loops() -> None:
    values = np.random.default_rng(0).random((32, 32))
    canvas, steps = np.random.default_rng(1).random((32, 32)).astype(np.float32), 4
    found = faithfulness(corner, canvas, values, 1, steps=steps)
    blurred = cv2.GaussianBlur(canvas, (0, 0), 0.08 * 32, borderType=cv2.BORDER_REPLICATE)
    order = sorted(range(1024), key=lambda pixel: -np.float32(values.ravel()[pixel]))
    curve = []
    for step in range(steps + 1):
        now = canvas.ravel().copy()
        for pixel in order[: round(step / steps * 1024)]:
            now[pixel] = blurred.ravel()[pixel]
        curve.append(float(now.reshape(32, 32)[:16, :16].mean()))
    area = sum((a + b) / 2 / steps for a, b in pairwise(curve))
    assert found.deletion == pytest.approx(area, abs=1e-5)


def test_a_map_without_numbers_is_refused() -> None:
    with pytest.raises(BadInput, match="no numbers"):
        faithfulness(corner, picture(), np.full((4, 4), np.nan), 1)


def test_the_share_outside_a_region() -> None:
    mask = np.zeros((8, 8))
    mask[:4] = 1
    values = np.zeros((8, 8))
    values[3:5] = 1.0
    assert outside_share(values, mask) == pytest.approx(0.5)
    assert outside_share(np.ones((8, 8)), mask) == pytest.approx(1 - mask.mean())
    assert np.isnan(outside_share(np.zeros((8, 8)), mask))


class Corner:
    """A predictor of which the score is the brightness of one corner, and the map is there or elsewhere."""

    findings = ("Nodule", "Mass")

    def __init__(self, *, right: bool) -> None:
        self.model, self.right = SimpleNamespace(canvas=CanvasSettings(width=32, height=32)), right

    def raw(self, images):
        maps = np.zeros((len(images), 2, 4, 4), np.float16)
        maps[:, 1, slice(0, 2) if self.right else slice(2, 4), slice(0, 2) if self.right else slice(2, 4)] = 1
        return corner(images), maps


@pytest.mark.parametrize("right", [True, False])
def test_over_the_images_of_a_source(tmp_path, right: bool) -> None:
    """Of six images four have the finding, and one of these cannot be read."""
    random = np.random.default_rng(0)
    for number in range(6):
        film = random.integers(0, 40, (32, 32)).astype(np.uint8)
        film[:16, :16] = 200 + number
        cv2.imwrite(str(tmp_path / f"f{number}.png"), film)
    (tmp_path / "f3.png").write_bytes(b"no picture")
    (tmp_path / "labels.csv").write_text(
        "image,patient_id,Mass\n" + "".join(f"f{n}.png,p{n},{int(n > 1)}\n" for n in range(6))
    )
    source = read_folder(FolderSettings(root=tmp_path, labels="labels.csv"))
    (found,) = faithfulness_of(Corner(right=right), source, source.ids, steps=8)
    assert (found.finding, found.images) == ("Mass", 3)
    less, more = found.deletion - found.random_deletion, found.insertion - found.random_insertion
    assert (less < 0 < more) if right else (more < 0 < less)
    assert found.deletion_ends[0] < less < found.deletion_ends[1]
    assert found.insertion_ends[0] < more < found.insertion_ends[1]
    assert faithfulness_table([found]).rows[0][:3] == ("Mass", "3", f"{found.deletion:.3f}")
