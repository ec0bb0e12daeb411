"""An overlay shows each box where it is and nothing where the map says nothing."""

import numpy as np
import pytest
from PIL import Image

from chestmap.errors import BadInput
from chestmap.predictions.folder import OwnRule
from chestmap.reports.map_layers import OWN_COLOR, TRUE_COLOR
from chestmap.reports.overlay import HEAD, MARGIN, OverlayStyle, OverlayWriter, overlay, write_overlay
from chestmap.types import Box, Findings, Frame, Prediction, Radiograph, Writer

FINDINGS = Findings(("Mass", "Edema"))
STYLE = OverlayStyle(longest=100, most=2, rule=OwnRule(0.5))


def made(maps: np.ndarray, boxes: tuple[Box, ...] = ()) -> tuple[Radiograph, Prediction]:
    frame = Frame.fit((200.0, 100.0), (64, 64))
    radiograph = Radiograph(pixels=np.full((50, 100), 0.5, dtype=np.float32), image_id="a", size=(200.0, 100.0))
    return radiograph, Prediction("a/b.png", "p", FINDINGS, np.array([0.2, 0.9]), maps.astype(np.float16), frame, boxes)


def panel(sheet: np.ndarray, place: int) -> np.ndarray:
    left = MARGIN + place * (100 + MARGIN)
    return sheet[HEAD : HEAD + 50, left : left + 100].astype(int)


def test_boxes_stand_where_they_are():
    maps = np.zeros((2, 8, 8))
    maps[1, 4, 4] = 1
    radiograph, prediction = made(maps, (Box("Edema", 40, 20, 120, 80),))
    sheet = overlay(radiograph, prediction, STYLE, (Box("Edema", 20, 20, 60, 60), Box("Mass", 100, 40, 160, 80)))
    first, second = panel(sheet, 1), panel(sheet, 2)  # the highest score first: Edema, then Mass
    assert tuple(first[10, 45]) == OWN_COLOR
    assert tuple(first[39, 50]) == OWN_COLOR
    assert tuple(first[12, 10]) == TRUE_COLOR
    assert tuple(second[20, 60]) == TRUE_COLOR
    assert (panel(sheet, 0) == 128).all()


@pytest.mark.parametrize("true", [(), (Box("Mass", 100, 40, 160, 80),)])
def test_the_legend_tells_of_true_boxes_where_some_are_known(true):
    radiograph, prediction = made(np.zeros((2, 8, 8)))
    legend = overlay(radiograph, prediction, STYLE, true)[HEAD + 50 :]
    assert (legend == TRUE_COLOR).all(axis=2).any() == bool(true)


def test_a_flat_map_leaves_the_image_as_it_is():
    radiograph, prediction = made(np.zeros((2, 8, 8)))
    sheet = overlay(radiograph, prediction, STYLE)
    assert (panel(sheet, 1) == 128).all()


def test_a_map_colors_its_peak_and_gives_boxes_of_its_own():
    maps = np.zeros((2, 8, 8))
    maps[1, 3:5, 3:5] = 1
    radiograph, prediction = made(maps)
    shown = panel(overlay(radiograph, prediction, STYLE), 1)
    red, _, blue = shown[25, 50]
    assert red > blue + 60
    assert (shown == OWN_COLOR).all(axis=2).any()


def test_only_scores_that_reach_the_least_are_shown():
    radiograph, prediction = made(np.zeros((2, 8, 8)))
    sheet = overlay(radiograph, prediction, OverlayStyle(longest=100, least_score=0.5))
    assert sheet.shape[1] == 2 * (100 + MARGIN) + MARGIN


def test_the_writer_writes_whole_png_files(tmp_path):
    radiograph, prediction = made(np.zeros((2, 8, 8)))
    writer = OverlayWriter(tmp_path / "shown", lambda _: radiograph, STYLE)
    assert isinstance(writer, Writer)
    writer.write(prediction)
    assert [entry.name for entry in (tmp_path / "shown").iterdir()] == ["a_b.png"]
    with Image.open(tmp_path / "shown" / "a_b.png") as written:
        assert written.size == (3 * (100 + MARGIN) + MARGIN, HEAD + 50 + 34)


def test_another_kind_of_file_is_told(tmp_path):
    with pytest.raises(BadInput, match=r"ends in \.png"):
        write_overlay(tmp_path / "a.jpg", np.zeros((4, 4, 3), dtype=np.uint8))
