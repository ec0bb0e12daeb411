"""Batches: masks follow frames, unknown labels stay unknown."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from chestmap.tensors import Batch
from chestmap.types import Box, Findings, Frame

FINDINGS = Findings(("Mass", "Nodule"))


def batch(boxes, frame, labels=(1.0, float("nan"))):
    return Batch(
        images=torch.zeros(1, 1, 8, 8),
        labels=torch.tensor([labels]),
        frames=(frame,),
        boxes=(tuple(boxes),),
        ids=("a",),
        findings=FINDINGS,
    )


def test_known_and_boxed():
    one = batch([Box("Mass", 0, 0, 5, 5)], Frame.fit((10, 10), (8, 8)))
    assert one.is_known.tolist() == [[True, False]]
    assert one.boxed.tolist() == [[1.0, 0.0]]


def test_two_boxes_of_a_finding_make_one_mask():
    one = batch([Box("Nodule", 0, 0, 2, 2), Box("Nodule", 6, 6, 8, 8)], Frame.fit((8, 8), (8, 8)))
    masks = one.masks(8, 8)[0]
    assert masks[0].sum() == 0
    assert masks[1].sum() == 8
    assert masks[1, :2, :2].all()
    assert masks[1, 6:, 6:].all()


@given(
    st.floats(0, 20),
    st.floats(0, 20),
    st.floats(0.5, 12),
    st.floats(0.5, 12),
    st.integers(4, 20),
    st.integers(4, 20),
    st.booleans(),
)
def test_a_mask_is_one_where_the_center_of_a_cell_lies_in_the_box(x, y, width, height, columns, rows, flip):
    frame = Frame.fit((24, 30), (8, 8), "letterbox")
    frame = frame.flipped() if flip else frame
    box = Box("Mass", x, y, x + width, y + height)
    (moved,) = frame.resized((columns, rows)).to_canvas([box])
    expected = np.zeros((rows, columns))
    for row in range(rows):
        for column in range(columns):
            expected[row, column] = moved.x0 <= column + 0.5 < moved.x1 and moved.y0 <= row + 0.5 < moved.y1
    assert np.array_equal(batch([box], frame).masks(rows, columns)[0, 0].numpy(), expected)


def test_to_keeps_everything_else():
    one = batch([Box("Mass", 0, 0, 5, 5)], Frame.fit((10, 10), (8, 8)))
    moved = one.to("cpu")
    assert moved.boxes == one.boxes
    assert torch.equal(moved.images, one.images)
