"""Warm-up of loss terms, limits on their share of the gradient at the features, and what the log tells of both."""

import pytest
import torch
from lightning_fabric import Fabric

from chestmap.errors import BadSettings
from chestmap.nn.backbone import Backbone, BackboneSettings, watched_features
from chestmap.training import Run, Schedule
from chestmap.training.optimization.balance import Balance
from training.small import EVEN, Classify, Net, run_settings
from training.test_pieces import ham_task

ONE = Fabric(accelerator="cpu", devices=1)


def balance(weights=None, norms=None, **terms) -> Balance:
    schedule = Schedule.model_validate({"terms": terms})
    return Balance(ONE, weights or {}, schedule, {} if norms is None else norms, compiled=False)


def test_a_term_grows_in_over_its_warmup():
    found = balance(boxes={"warmup": 2.0})
    factors = [found.factors("1-learn", ("findings", "boxes"), update, 4)["boxes"] for update in (0, 3, 7, 8, 100)]
    assert factors == pytest.approx([1 / 9, 4 / 9, 8 / 9, 1, 1])
    assert found.factors("1-learn", ("findings", "boxes"), 0, 4)["findings"] == 1


def test_a_limited_term_has_at_most_its_share():
    """Of norms 1 and 9, a share of .2 leaves .25 of the second; below its limit a term is left alone."""
    found = balance(norms={"findings": 1.0, "boxes": 9.0}, boxes={"most": 0.2})
    factor = found.factors("1-learn", ("findings", "boxes"), 50, 4)["boxes"]
    assert 9 * factor / (1 + 9 * factor) == pytest.approx(0.2)
    low = balance(norms={"findings": 1.0, "boxes": 0.1}, boxes={"most": 0.2})
    assert low.factors("1-learn", ("findings", "boxes"), 50, 4)["boxes"] == 1.0
    unmeasured = balance(boxes={"most": 0.2})
    assert unmeasured.factors("1-learn", ("findings", "boxes"), 0, 4)["boxes"] == 0.0


def test_shares_are_norms_of_gradients_at_the_backbones_features():
    """By hand, whole and in two pieces."""
    torch.manual_seed(0)
    backbone, images = Backbone(BackboneSettings(name="test_resnet")).eval(), torch.rand(4, 1, 64, 64)
    frozen = Backbone(BackboneSettings(name="test_resnet")).requires_grad_(requires_grad=False)
    both = torch.nn.ModuleList([backbone, frozen])

    def terms(features):
        return {"findings": features.square().mean(), "boxes": 3 * features.abs().mean()}

    features = backbone(images).detach().requires_grad_()
    wanted = [torch.autograd.grad(value, features)[0].norm().item() for value in terms(features).values()]
    for pieces in (1, 2):
        found = balance()
        assert found.begin(0, logged=True)
        for some in images.chunk(pieces):
            with watched_features(both) as seen:
                values = terms(backbone(some))
                frozen(some)
            assert len(seen) == 1
            found.measure("1-learn", values, seen, 1 / pieces)
        shares = found.shares({"findings": 1.0, "boxes": 1.0})
        assert shares["boxes_share"] == pytest.approx(wanted[1] / sum(wanted), rel=1e-4)
        assert sum(shares.values()) == pytest.approx(1)
    assert backbone.watched is None


def logged(folder) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for line in (folder / "log.csv").read_text().splitlines()[1:]:
        row = line.split(",")
        found.setdefault(row[4], []).append(float(row[5]))
    return found


@pytest.mark.parametrize("most", [None, 0.02])
def test_the_log_holds_raw_and_weighted_values_and_shares_and_the_limit_holds(most, data, tmp_path):
    terms = {"boxes": {"most": most}} if most else {}
    schedule = Schedule.model_validate(EVEN.model_dump() | {"epochs": 2, "terms": terms, "learning_rate": 1e-4})
    with Run(tmp_path, run_settings("log_every=1"), progress=False) as run:
        run.fit("learn", ham_task(), data.train, schedule)
    found = logged(tmp_path)
    assert len(found["boxes"]) == len(found["boxes_raw"]) == len(found["boxes_share"]) > 5
    late = slice(2, None)
    if most is None:
        assert found["boxes"] == pytest.approx([0.5 * value for value in found["boxes_raw"]], rel=1e-5)
        assert max(found["boxes_share"]) > 0.1
    else:
        assert (
            sum(found["boxes_share"][late]) / len(found["boxes_share"][late]) < 5 * most
        )  # batches differ, norms are averaged
        assert sum(found["boxes_share"][late]) > 0
        assert found["boxes"][0] == 0
    loss = [sum(found[name][row] for name in ("findings", "positive", "bound", "union", "boxes")) for row in range(6)]
    assert found["loss"][:6] == pytest.approx(loss, rel=1e-4)


def test_a_term_that_is_none_and_a_limit_without_features_are_refused(data, tmp_path):
    for place, terms, said in (
        ("a", {"box": {"warmup": 0.5}}, r"terms\.box: no loss term of this step \(classify, quiet\)"),
        ("b", {"quiet": {"most": 0.5}}, r"terms\.quiet\.most: no features of a backbone learn"),
    ):
        schedule = Schedule.model_validate({"epochs": 1, "batch_size": 4, "terms": terms})
        with Run(tmp_path / place, run_settings(), progress=False) as run, pytest.raises(BadSettings, match=said):
            run.fit("learn", Classify(Net()), data.train, schedule)


def test_a_limit_on_a_compiled_network_is_refused():
    schedule = Schedule.model_validate({"terms": {"boxes": {"most": 0.5}}})
    with pytest.raises(BadSettings, match=r"terms\.boxes\.most: .* run\.compile = false"):
        Balance(ONE, {}, schedule, {}, compiled=True)
