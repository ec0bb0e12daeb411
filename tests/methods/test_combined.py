"""Combined: its losses by hand, the place prior, and what its maps promise."""

import math

import pytest
import torch

from chestmap.methods.combined import (
    OWN_RULE,
    Combined,
    CombinedSettings,
    Member,
    absent_loss,
    cell_loss,
    overlap_loss,
    shares,
    start_place,
)
from chestmap.nn.boxes import masks_at
from chestmap.tensors import Batch
from chestmap.types import Box, Findings, Frame
from training.small import small_data, write_dataset

SETTINGS = {
    "backbone": {"name": "test_resnet", "stages": [2, 3, 4], "pyramid": 16},
    "width": 16,
}


def settings(**changes):
    return CombinedSettings(**(SETTINGS | changes))


def network(**changes):
    torch.manual_seed(0)
    how = settings(**changes)
    return Combined([Member(how, 3, (64, 64)) for _ in range(how.members)], how).eval()


def test_a_cell_loss_of_one_is_knowing_the_size_alone():
    masks = torch.zeros(1, 2, 8, 8)
    masks[:, 0, 2:6, 2:6] = 1
    share = 16 / 64
    cells = torch.full((1, 2, 8, 8), math.log(share / (1 - share)), requires_grad=True)
    boxed = torch.tensor([[1.0, 0.0]])
    loss = cell_loss(cells, masks, boxed)
    loss.backward()
    assert loss.item() == pytest.approx(1.0, rel=1e-5)
    assert cells.grad[:, 1].abs().sum() == 0
    assert cells.grad[0, 0, 3, 3] < 0 < cells.grad[0, 0, 0, 0]
    assert cell_loss(cells, masks, torch.zeros(1, 2)).item() == 0


def test_overlap_and_absence_by_hand():
    masks = torch.zeros(1, 1, 2, 2)
    masks[..., 0, :] = 1
    cells = torch.tensor([[[[0.0, 0.0], [0.0, 0.0]]]])  # p = .5: 1 shared of 2 + 2 - 1
    assert overlap_loss(cells, masks, torch.ones(1, 1)).item() == pytest.approx(1 - 1 / 3)
    assert absent_loss(cells, torch.zeros(1, 1)).item() == pytest.approx(math.log(2))
    assert absent_loss(cells, torch.ones(1, 1)).item() == 0
    assert absent_loss(cells, torch.full((1, 1), math.nan)).item() == 0


def test_shares_are_areas_of_cells():
    findings = Findings(("Mass",))
    frame = Frame((64.0, 64.0), (64, 64), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    boxes = ((Box("Mass", 8, 8, 20, 16),),)
    found = shares(
        Batch(
            images=torch.zeros(1, 1, 64, 64),
            labels=torch.zeros(1, 1),
            frames=(frame,),
            boxes=boxes,
            ids=("a",),
            findings=findings,
        ),
        (8, 8),
    )
    wanted = torch.zeros(8, 8)
    wanted[1, 1], wanted[1, 2] = 1.0, 0.5
    assert torch.equal(found[0, 0], wanted)


def test_the_place_prior_is_high_where_boxes_lie(tmp_path):
    part = small_data(write_dataset(tmp_path / "data")).train
    member = Member(settings(), len(part.findings), (32, 32))
    start_place(member, part, smooth=1)
    chance = torch.sigmoid(member.place.detach())
    rows, columns = chance.shape[-2:]
    for name, (x, y) in {"Effusion": (2, 20), "Mass": (18, 4), "Nodule": (20, 22)}.items():
        row, column = int((y + 4) / 32 * rows), int((x + 4) / 32 * columns)
        of_finding = chance[part.findings.index(name)]
        assert of_finding[row, column] == of_finding.max()


def test_the_own_rule_cuts_out_the_rectangle_and_the_peak_is_its_most_certain_cell():
    net = network()
    with torch.no_grad():
        net.members[0].place.fill_(-6.0)
        net.members[0].place[:, 2:5, 3:6] = 2.0  # an untrained network says half of everything, and the best box is the film
        seen = net.members[0](torch.rand(2, 1, 64, 64))
        output = net(torch.rand(2, 1, 64, 64))
    assert output.maps.shape == seen.cells.shape
    masks = masks_at(output.maps, OWN_RULE.threshold)
    for mask in masks.flatten(0, 1):
        rows, columns = mask.any(1), mask.any(0)
        assert mask.any()
        assert torch.equal(mask, rows[:, None] & columns)
    with torch.no_grad():
        cells = network(decode="cells")(torch.rand(2, 1, 64, 64)).maps
    assert ((cells > 0) & (cells < 1)).all()


def test_members_and_the_mirrored_film_are_averaged():
    images = torch.rand(1, 1, 64, 64)
    two, mirrored = network(members=2, decode="cells"), network(decode="cells", mirror=True)
    with torch.no_grad():
        each = [member(images) for member in two.members]
        torch.testing.assert_close(two(images).maps, (each[0].maps + each[1].maps) / 2)
        torch.testing.assert_close(two(images).logits, (each[0].logits + each[1].logits) / 2)
        one, other = mirrored.members[0](images), mirrored.members[0](images.flip(-1))
        torch.testing.assert_close(mirrored(images).maps, (one.maps + other.maps.flip(-1)) / 2)
