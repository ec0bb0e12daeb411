"""A contact sheet shows every image once, where it says, with its boxes."""

import numpy as np
import pytest

from chestmap.errors import BadInput
from chestmap.reports.contact_sheet import contact_sheet
from chestmap.types import Box


def flat(value: int, height: int = 40, width: int = 40) -> np.ndarray:
    return np.full((height, width), value, np.uint8)


def test_images_fill_their_cells_row_by_row():
    sheet = contact_sheet([flat(10), flat(90), flat(170)], columns=2, cell=50)
    assert sheet.shape == (2 * 54 + 4, 2 * 54 + 4, 3)
    assert [tuple(sheet[29, 29]), tuple(sheet[29, 83]), tuple(sheet[83, 29])] == [(10,) * 3, (90,) * 3, (170,) * 3]
    assert (sheet[60:, 60:] == sheet[0, 0]).all()  # the empty cell is ground


def test_boxes_are_drawn_where_they_are():
    box = Box("Mass", 10, 20, 30, 40)
    sheet = contact_sheet([flat(0)], boxes=[[box]], columns=1, cell=80)
    yellow = np.argwhere((sheet == (255, 208, 32)).all(2))
    assert yellow.min(0).tolist() == [4 + 40, 4 + 20]
    assert yellow.max(0).tolist() == [4 + 79, 4 + 59]


def test_a_wide_float_image_keeps_its_aspect():
    sheet = contact_sheet([np.ones((20, 40))], columns=1, cell=80)
    white = np.argwhere((sheet == 255).all(2))
    assert (white.max(0) - white.min(0) + 1).tolist() == [40, 80]


def test_captions_take_room_below():
    bare, told = (contact_sheet([flat(0)], captions, columns=1, cell=100) for captions in ([], ["Nodule"]))
    assert told.shape[0] > bare.shape[0]
    assert told[104:].max() > 100


def test_a_long_caption_stays_in_its_cell():
    sheet = contact_sheet([flat(0), flat(0)], ["Atelectasis and Consolidation and Effusion", ""], columns=2, cell=60)
    assert sheet[64:, 66:].max() == sheet[0, 0].max()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"images": []}, "at least 1"), ({"images": [flat(1)], "captions": ["a", "b"]}, "2 captions for 1 images")],
)
def test_what_does_not_fit_together_is_told(arguments, words):
    with pytest.raises(BadInput, match=words):
        contact_sheet(**arguments)
