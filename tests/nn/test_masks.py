"""Disease masks that are empty or wide are named, and the highest scores can take the place of a fixed one."""

import pytest
import torch

from chestmap.nn.masks import MaskMean, least_scores, mask_facts, mask_warnings

NAMES = ("Effusion", "Mass", "Nodule")


@pytest.fixture
def mean():
    """Of two images: the first surely shows an effusion, the second a mass, nobody a nodule."""
    evidence = torch.zeros(2, 3, 4, 4)
    evidence[0, 0, :1, :2], evidence[1, 1, :3, :] = 1, 1
    found = MaskMean(torch.zeros(3, dtype=torch.bool), 0.8)
    found.add(evidence, torch.tensor([[3.0, -3.0, 1.0], [-3.0, 3.0, 1.0]]))
    return found


def test_the_highest_scores_stand_in_for_a_fixed_one():
    scores = torch.stack([torch.linspace(0, 0.19, 20), torch.linspace(0.5, 0.69, 20)], dim=1)
    assert least_scores(scores, 0.1).tolist() == pytest.approx([0.18, 0.68])
    assert least_scores(scores, 0.001).tolist() == pytest.approx([0.19, 0.69])  # one image always counts
    few = MaskMean(torch.zeros(2, dtype=torch.bool), least_scores(scores, 0.1))
    few.add(torch.rand(20, 2, 4, 4), torch.logit(scores.double()))
    assert few.count.tolist() == [2, 2]


def test_cover_and_agreement_with_boxes_by_hand(mean):
    places = torch.zeros(3, 4, 4)
    places[0, :1, :2], places[2, 0, 0] = 5, 1
    facts = mask_facts(NAMES, mean, mean.masks(0.5), places)
    assert facts["Effusion"] == {"maps": 1, "cover": 0.125, "correlation_with_boxes": 1.0}
    assert facts["Mass"] == {"maps": 1, "cover": 0.75, "correlation_with_boxes": None}  # nobody boxed one
    assert facts["Nodule"] == {"maps": 0, "cover": 0.0, "correlation_with_boxes": None}


def test_empty_and_wide_masks_are_named(mean):
    facts = mask_facts(NAMES, mean, mean.masks(0.5), torch.zeros(3, 4, 4))
    empty, wide = mask_warnings(facts, "a score of 0.8")
    assert empty.startswith("no mask for Nodule: no training image reaches a score of 0.8; lower least_score")
    assert wide == "masks of Mass cover more than half of the canvas; raise mask_level"
    assert mask_warnings({"Effusion": facts["Effusion"]}, "a score of 0.8") == []
