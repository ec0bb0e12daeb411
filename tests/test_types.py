"""The nouns: findings resolve, boxes have area, frames go there and back."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chestmap.errors import BadBox, BadInput, UnknownFinding
from chestmap.types import Box, Findings, Frame, Radiograph
from chestmap.vocabulary import CHESTXRAY14, CHEXPERT, CODES, VINDR, VOCABULARIES

sizes = st.integers(16, 4000)
fits = st.sampled_from(["letterbox", "squash"])


@st.composite
def frames(draw):
    return Frame.fit((draw(sizes), draw(sizes)), (draw(st.integers(16, 1024)), draw(st.integers(16, 1024))), draw(fits))


@st.composite
def boxes(draw, side=4000):
    x0, y0 = draw(st.floats(0, side - 2)), draw(st.floats(0, side - 2))
    return Box("Mass", x0, y0, draw(st.floats(x0 + 1, side)), draw(st.floats(y0 + 1, side)))


class TestFindings:
    @pytest.mark.parametrize(
        ("given", "name"),
        [("Infiltrate", "Infiltration"), ("pleural_thickening", "Pleural Thickening"), ("Pleural_Thickening", "Pleural Thickening"),
         ("MASS", "Mass"), ("Hernia", "Hernia")],
    )  # fmt: skip
    def test_spellings_of_chestxray14_resolve(self, given, name):
        assert CHESTXRAY14.resolve(given) == name

    def test_stray_labels_of_the_chexpert_boxes_resolve(self):
        assert CHEXPERT.resolve("Enlarg_Cardiomediastinum") == "Enlarged Cardiomediastinum"
        assert CHEXPERT.resolve("edema") == "Edema"

    def test_an_unknown_name_offers_the_nearest(self):
        with pytest.raises(UnknownFinding, match=r'"Pneumotorax" is not one of .*did you mean "Pneumothorax"'):
            CHESTXRAY14.resolve("Pneumotorax")

    def test_a_name_twice_is_refused(self):
        with pytest.raises(BadInput, match="differ"):
            Findings(("Mass", "mass"))

    def test_subset_keeps_the_order_given(self):
        few = CHESTXRAY14.subset(["Nodule", "Infiltrate"])
        assert few.names == ("Nodule", "Infiltration")
        assert few.index("Infiltrate") == 1

    def test_every_finding_has_a_code(self):
        for findings in VOCABULARIES.values():
            assert set(findings.names) <= set(CODES)

    def test_sizes_of_the_vocabularies(self):
        assert (len(CHESTXRAY14), len(CHEXPERT), len(VINDR)) == (14, 14, 23)

    def test_findings_survive_a_trip_to_another_process(self):
        again = pickle.loads(pickle.dumps(CHESTXRAY14))
        assert again == CHESTXRAY14
        assert again.resolve("Infiltrate") == "Infiltration"

    @given(st.sampled_from(CHESTXRAY14.names), st.sampled_from([" ", "_", "-", ""]), st.booleans())
    def test_resolving_is_idempotent_and_blind_to_separators(self, name, separator, upper):
        spelled = name.replace(" ", separator)
        assert CHESTXRAY14.resolve(spelled.upper() if upper else spelled) == name


class TestBox:
    @pytest.mark.parametrize("corners", [(0, 0, 0, 5), (0, 0, 5, 0), (5, 0, 1, 5), (0, 0, math.nan, 5), (0, 0, math.inf, 5)])
    def test_no_area_or_no_number_is_an_error(self, corners):
        with pytest.raises(BadBox, match="Mass box"):
            Box("Mass", *corners)

    @given(boxes(), boxes())
    def test_iou_is_symmetric_and_at_most_one(self, one, other):
        assert one.iou(other) == pytest.approx(other.iou(one))
        assert 0 <= one.iou(other) <= 1 + 1e-12
        assert one.iou(one) == pytest.approx(1)

    def test_iou_by_hand(self):
        assert Box("Mass", 0, 0, 10, 10).iou(Box("Mass", 5, 0, 15, 10)) == pytest.approx(50 / 150)
        assert Box("Mass", 0, 0, 10, 10).iou(Box("Mass", 10, 0, 20, 10)) == 0

    def test_clipping(self):
        assert Box("Mass", -5, 2, 5, 30).clipped(20, 20) == Box("Mass", 0, 2, 5, 20)
        assert Box("Mass", -5, 0, 0, 30).clipped(20, 20) is None


class TestFrame:
    @given(frames(), boxes())
    def test_there_and_back(self, frame, box):
        (back,) = frame.to_image(frame.to_canvas([box]))
        assert back.corners == pytest.approx(box.corners, rel=1e-9, abs=1e-6)

    @given(frames(), boxes(), st.booleans())
    def test_there_and_back_after_flip_and_resize(self, frame, box, flip):
        frame = (frame.flipped() if flip else frame).resized((64, 48))
        assert frame.is_flipped == flip
        (back,) = frame.to_image(frame.to_canvas([box]))
        assert back.corners == pytest.approx(box.corners, rel=1e-9, abs=1e-6)

    @given(frames())
    def test_the_image_lies_on_the_canvas(self, frame):
        (whole,) = frame.to_canvas([Box("Mass", 0, 0, *frame.image)])
        assert whole.x0 >= -1e-6
        assert whole.y0 >= -1e-6
        assert whole.x1 <= frame.canvas[0] + 1e-6
        assert whole.y1 <= frame.canvas[1] + 1e-6

    def test_letterbox_by_hand(self):
        frame = Frame.fit((200, 100), (50, 50), "letterbox")
        assert frame.to_canvas([Box("Mass", 0, 0, 200, 100)])[0].corners == (0, 12.5, 50, 37.5)

    def test_squash_by_hand(self):
        frame = Frame.fit((200, 100), (50, 50), "squash")
        assert frame.to_canvas([Box("Mass", 100, 50, 200, 100)])[0].corners == (25, 25, 50, 50)

    def test_flip_by_hand(self):
        frame = Frame.fit((100, 100), (50, 50)).flipped()
        assert frame.to_canvas([Box("Mass", 0, 0, 20, 10)])[0].corners == (40, 0, 50, 5)

    def test_a_quarter_turn_swaps_width_and_height(self):
        frame = Frame.fit((100, 100), (100, 100)).then((0.0, -1.0, 100.0, 1.0, 0.0, 0.0))
        assert frame.to_canvas([Box("Mass", 0, 0, 30, 10)])[0].corners == pytest.approx((90, 0, 100, 30))

    @given(frames())
    def test_ten_numbers_hold_a_frame(self, frame):
        assert Frame.from_list(frame.as_list()) == frame

    def test_a_flat_map_is_refused(self):
        with pytest.raises(BadInput, match="invertible"):
            Frame((10, 10), (10, 10), (1.0, 0.0, 0.0, 1.0, 0.0, 0.0))


def test_a_radiograph_without_a_size_takes_the_one_of_its_pixels():
    assert Radiograph(pixels=np.zeros((20, 30), np.float32), image_id="a").size == (30.0, 20.0)
