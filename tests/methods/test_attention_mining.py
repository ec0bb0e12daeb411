"""Attention mining: every equation against plain loops in float64, the task, the stages of training, the published settings."""

import math
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from chestmap.errors import BadInput
from chestmap.evaluation.presets.protocols import CAI_CUTS
from chestmap.methods import METHODS
from chestmap.methods import attention_mining as am
from chestmap.training import Data, Run, RunSettings
from chestmap.training.config import read_config
from chestmap.types import Findings

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "attention_mining").glob("*.toml"))
NAN = math.nan
LABELS = {
    "none present": [[0, 0, 0], [0, 0, 0]],
    "one present": [[0, 1, 0], [0, 0, 0]],
    "many present": [[1, 1, 0], [1, 1, 1]],
    "some unknown": [[1, NAN, 0], [NAN, NAN, NAN], [NAN, NAN, 1]],
    "all unknown": [[NAN] * 3, [NAN] * 3],
}


def settings(**more):
    return am.AttentionMiningSettings.model_validate(dict(am.METHOD.tiny) | more)


def branches(findings=3, **more):
    torch.manual_seed(more.pop("seed", 0))
    return am.Branches(settings(**more), findings).double().eval()


def images(count=2, side=64):
    return torch.rand(count, 1, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def slopes(function, array, h=1e-6):
    out = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + h
        above = function()
        array[index] = kept - h
        out[index] = (above - function()) / (2 * h)
        array[index] = kept
    return out


def cross_entropy(logit, label):
    score = 1 / (1 + math.exp(-logit))
    return -math.log(score) if label == 1 else -math.log(1 - score)


def loss_by_hand(logits, labels):
    """eq. 2: the mean over the known images of a finding; eq. 3: the mean over findings with a known image."""
    means = []
    for c in range(labels.shape[1]):
        errors = [cross_entropy(z, y) for z, y in zip(logits[:, c], labels[:, c], strict=True) if not math.isnan(y)]
        means += [sum(errors) / len(errors)] if errors else []
    return sum(means) / len(means) if means else 0.0


def preservation_by_hand(before, after):
    """eq. 4 for each layer, eq. 5 their mean."""
    layers = []
    for one, other in zip(before, after, strict=True):
        total = 0.0
        for i in range(len(one)):
            pooled = [np.mean(one[i, d]) - np.mean(other[i, d]) for d in range(one.shape[1])]
            total += math.sqrt(sum(value**2 for value in pooled))
        layers.append(total / len(one))
    return sum(layers) / len(layers)


def region(one, level=0.5):
    """Cells reached from the greatest value through cells at `level` of the range or above, eight neighbors each."""
    found = np.zeros(one.shape, dtype=bool)
    if one.max() == one.min():
        return found
    above, waiting = (one - one.min()) / (one.max() - one.min()) >= level, [np.unravel_index(one.argmax(), one.shape)]
    while waiting:
        y, x = waiting.pop()
        if 0 <= y < one.shape[0] and 0 <= x < one.shape[1] and above[y, x] and not found[y, x]:
            found[y, x] = True
            waiting += [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return found


def mined_by_hand(networks, seen):
    """eq. 7 step by step, and eq. 8; maps [batch finding h w]."""
    maps, masks = [], []
    for network in networks:
        with torch.no_grad():
            x = network.last(network.layers(seen)).numpy()
        w = network.head.weight.detach().numpy()
        mask = masks[-1].copy() if masks else np.ones((len(x), len(w), *x.shape[2:]))
        shown = np.zeros(mask.shape)
        for i in range(len(x)):
            for c in range(len(w)):
                erased = np.stack([x[i, d] * mask[i, c] for d in range(x.shape[1])])  # X ⊙ M
                shown[i, c] = sum(w[c, d] * erased[d] for d in range(x.shape[1]))
                mask[i, c][region(shown[i, c])] = 0
        maps, masks = [*maps, shown], [*masks, mask]
    total = np.zeros(maps[0].shape)
    for t in range(len(maps)):
        total += maps[t] + sum(maps[earlier] * (1 - masks[earlier]) for earlier in range(t))
    return maps, masks, total / len(maps)


def test_a_branch_sees_its_own_erased_features():
    """eq. 1 and the logit of eq. 2, with the erased features of every finding made; the bias lies outside."""
    net, rng = branches(upsample="none"), np.random.default_rng(0)
    x, mask = rng.normal(size=(2, net.head.in_features, 3, 4)), (rng.random((2, 3, 3, 4)) < 0.6) * 1.0
    weight, bias = net.head.weight.detach().numpy(), net.head.bias.detach().numpy()
    wanted = np.zeros((2, 3))
    for i in range(2):
        for c in range(3):
            erased = x[i] * np.repeat(mask[i, c][None], x.shape[1], axis=0)  # eq. 1
            wanted[i, c] = sum(weight[c, d] * erased[d].mean() for d in range(x.shape[1])) + bias[c]
    features = torch.tensor(x, requires_grad=True)
    found = net.logits(features, torch.tensor(mask).bool())
    np.testing.assert_allclose(found.detach().numpy(), wanted, atol=1e-12)
    plain = net.head(features.mean((2, 3)))
    torch.testing.assert_close(net.logits(features), plain)
    found[:, 1].sum().backward()
    assert features.grad is not None
    assert (features.grad[torch.tensor(mask[:, 1] == 0)[:, None].expand_as(features)] == 0).all()


@pytest.mark.parametrize("case", LABELS)
def test_branch_loss_is_eq_2_and_3(case):
    labels = np.array(LABELS[case], dtype=float)
    logits = np.random.default_rng(2).normal(size=labels.shape) * 2
    given = torch.tensor(logits, requires_grad=True)
    value = am.branch_loss(given, torch.tensor(labels))
    value.backward()
    assert value.item() == pytest.approx(loss_by_hand(logits, labels), abs=1e-12)
    np.testing.assert_allclose(given.grad, slopes(lambda: loss_by_hand(logits, labels), logits), atol=1e-8)


def test_preservation_is_eq_4_and_5():
    rng = np.random.default_rng(3)
    shapes = [(4, 5, 3, 3), (4, 2, 6, 6), (4, 3)]
    before, after = ([rng.normal(size=shape) for shape in shapes] for _ in range(2))
    given = [torch.tensor(one, requires_grad=True) for one in after]
    value = am.preservation_loss([torch.tensor(one) for one in before], given)
    value.backward()
    assert value.item() == pytest.approx(preservation_by_hand(before, after), abs=1e-12)
    for tensor, array in zip(given, after, strict=True):
        wanted = slopes(lambda: preservation_by_hand(before, after), array)
        np.testing.assert_allclose(tensor.grad, wanted, atol=1e-8)
    pooled = [one.mean((-2, -1)) if one.ndim == 4 else one for one in before]
    assert am.preservation_loss([*map(torch.tensor, pooled)], given).item() == pytest.approx(value.item())


def test_eq_4_as_printed_is_one_norm_of_all_images():
    """Smaller by the root of N - n than the mean of norms, where images are equally far apart."""
    before, after = torch.zeros(9, 4), torch.full((9, 4), 0.5, requires_grad=True)
    value = am.preservation_loss([before], [after], form="printed")
    value.backward()
    assert value.item() == pytest.approx(math.sqrt(9 * 4 * 0.25) / 9)
    assert am.preservation_loss([before], [after]).item() == pytest.approx(3 * value.item())
    assert after.grad[0, 0].item() == pytest.approx(0.5 / math.sqrt(9) / 9)
    same = torch.ones(2, 3, requires_grad=True)
    am.preservation_loss([same.detach()], [same], form="printed").backward()
    assert (same.grad == 0).all()


def test_preservation_of_what_did_not_change_and_of_nothing():
    same = torch.rand(3, 4, 2, 2, requires_grad=True)
    am.preservation_loss([same.detach()], [same]).backward()
    assert (same.grad == 0).all()
    assert am.preservation_loss([torch.zeros(0, 4)], [torch.zeros(0, 4)]) == 0


@pytest.mark.parametrize("upsample", ["bilinear", "deconvolution"])
def test_aggregation_is_that_of_2_3(upsample):
    """1 x 1 convolutions, batch norm, ReLU; the deeper stage brought to twice its size; both side by side."""
    net = branches(upsample=upsample, width=6)
    scale = net.multi_scale
    for norm in (module for module in scale.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean, 0, 0.3)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    rng = np.random.default_rng(4)
    channels = net.backbone.channels_of
    fine, deep = rng.uniform(size=(1, channels[3], 4, 4)), rng.uniform(size=(1, channels[4], 2, 2))
    state = {key: value.numpy() for key, value in scale.state_dict().items()}

    def narrowed(x, part):
        y = np.einsum("ok,khw->ohw", state[f"{part}.0.weight"][:, :, 0, 0], x)
        mean, var = state[f"{part}.1.running_mean"], state[f"{part}.1.running_var"]
        y = (y - mean[:, None, None]) / np.sqrt(var + 1e-5)[:, None, None] * state[f"{part}.1.weight"][:, None, None]
        return np.maximum(y, 0)

    small = narrowed(deep[0], "deep")
    if upsample == "bilinear":
        along = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])  # cell centers of twice the size
        large = np.einsum("yi,oij,xj->oyx", along, small, along)
    else:
        kernel, large = state["deconvolution.weight"], np.zeros((6, 6, 6))
        for y, x in np.ndindex(2, 2):  # each cell stamps the kernel around twice its place
            large[:, 2 * y : 2 * y + 3, 2 * x : 2 * x + 3] += np.einsum("i,iohw->ohw", small[:, y, x], kernel)
        large = large[:, 1:5, 1:5] + state["deconvolution.bias"][:, None, None]
    with torch.no_grad():
        found = scale(torch.tensor(fine), torch.tensor(deep))[0].numpy()
    np.testing.assert_allclose(found, np.concatenate([large, narrowed(fine[0], "fine")]), atol=1e-9)


def test_maps_are_eq_7_and_8():
    """Of three networks, as mining leaves them; then fewer steps."""
    nets, seen = [branches(seed=seed) for seed in range(3)], images(3, 128)
    maps, masks, final = mined_by_hand(nets, seen)
    found = am.searched(nets, seen, settings())
    for t in range(3):
        np.testing.assert_allclose(found[0][t].detach(), maps[t], atol=1e-9)
        np.testing.assert_array_equal(found[1][t], masks[t] == 1)
    kept = [one.sum((2, 3)) for one in masks]
    assert ((kept[2] < kept[1]) & (kept[1] < kept[0]) & (kept[0] < 64)).any()  # a finding that every step erases from
    with torch.no_grad():
        output = am.AttentionMining(nets, settings())(seen)
        np.testing.assert_allclose(output.maps, final - final.min((2, 3), keepdims=True), atol=1e-9)
        torch.testing.assert_close(output.logits, nets[2](seen).logits)
        for shown in (1, 2):
            fewer = am.AttentionMining(nets, settings(shown=shown))(seen)
            wanted = mined_by_hand(nets[:shown], seen)[2]
            np.testing.assert_allclose(fewer.maps, wanted - wanted.min((2, 3), keepdims=True), atol=1e-9)


def test_scaled_maps_weigh_the_same_in_eq_8():
    nets, seen = [branches(seed=seed) for seed in range(2)], images()
    (first, second), (mask, _), _ = mined_by_hand(nets, seen)
    one, other = (
        (a - a.min((2, 3), keepdims=True)) / (a.max((2, 3), keepdims=True) - a.min((2, 3), keepdims=True))
        for a in (first, second)
    )
    wanted = (one + mask * other + one * (1 - mask)) / 2
    found = am.AttentionMining(nets, settings(scaled=True))(seen).maps.detach()
    np.testing.assert_allclose(found, wanted - wanted.min((2, 3), keepdims=True), atol=1e-9)


def test_positive_evidence_alone():
    nets = [branches(seed=seed, evidence="positive") for seed in range(2)]
    maps, masks, _ = am.searched(nets, images(), settings(evidence="positive"))
    assert all((one >= 0).all() for one in maps)
    torch.testing.assert_close(maps[0].detach(), nets[0](images()).maps.detach())
    assert (masks[1] <= masks[0]).all()


def doubled(batch):
    return replace(batch, images=batch.images.double(), labels=batch.labels.double())


@pytest.mark.parametrize("preservation", ["none", "vanilla", "full"])
def test_a_step_is_eq_6(batch, preservation):
    """Step 3: the first n images are erased as the two networks before erase them, the others are kept."""
    batch, more = doubled(batch), {"preservation": preservation, "share": 0.25, "preservation_weight": 0.7}
    net, original, *earlier = (branches(seed=seed) for seed in range(4))
    task = am.Mine(net, settings(**more), original, earlier).train()
    n = 8 if preservation == "none" else 2
    with torch.no_grad():
        terms = task(batch)
        layers, before = net.layers(batch.images), original.layers(batch.images)
    mask = np.ones((8, 3, 4, 4))
    mask[:n] = mined_by_hand(earlier, batch.images[:n])[1][-1]
    w, x = net.head.weight.detach().numpy(), layers["aggregated"].numpy()
    logits = np.array([[np.mean((x[i] * mask[i, c]).transpose(1, 2, 0) @ w[c]) for c in range(3)] for i in range(8)])
    logits += net.head.bias.detach().numpy()
    assert terms["findings"].item() == pytest.approx(loss_by_hand(logits, batch.labels.numpy()), abs=1e-9)
    if preservation == "full":
        names = ("stage3", "stage4", "aggregated", "logits")
        pairs = [[one[name][n:].numpy() for name in names] for one in (before, layers)]
        assert terms["preservation"].item() == pytest.approx(0.7 * preservation_by_hand(*pairs), abs=1e-9)
    assert set(terms) == {"findings", "preservation"} - (set() if preservation == "full" else {"preservation"})


def test_the_original_and_the_earlier_networks_stand_still(batch):
    net, original, earlier = (branches(seed=seed) for seed in range(3))
    task = am.Mine(net, settings(), original, [earlier]).train()
    sum(task(doubled(batch)).values()).backward()
    for still in (original, earlier):
        assert not any(parameter.requires_grad for parameter in still.parameters())
        assert not still.training
    assert all(parameter.grad is not None for parameter in net.parameters())
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert net.training
    assert not any(norm.training for norm in norms)
    moving = am.Mine(net, settings(still_norms=False), original).train()
    assert all(norm.training for norm in norms)
    assert set(moving.state_dict()) == {f"network.{name}" for name in net.state_dict()}


def test_stages_are_computed_from_the_first_that_is_read():
    """Of a frozen trunk no more need be kept; the weights are the same."""
    read = {(): (3, 4), ("stage2",): (2, 3, 4), ("stage1", "stage4"): (1, 2, 3, 4)}
    for named, stages in read.items():
        net = branches(preserved=(*named, "logits"))
        assert net.stages == stages
        assert {name for name in net.layers(images()) if name.startswith("stage")} == {f"stage{one}" for one in stages}
    assert branches(preserved=("logits",), upsample="none").stages == (4,)
    assert branches(preserved=("stage1",)).state_dict().keys() == branches().state_dict().keys()


def test_only_chosen_layers_are_preserved(batch):
    value = {}
    for chosen in [("stage1",), ("logits",), ("stage1", "logits")]:
        net, original = branches(seed=0, preserved=chosen), branches(seed=1, preserved=chosen)
        task = am.Mine(net, settings(preserved=chosen), original).eval()
        value[chosen] = task(doubled(batch))["preservation"].item()
    assert value["stage1", "logits"] == pytest.approx((value["stage1",] + value["logits",]) / 2)


def test_of_boxes_only_their_being_there_is_known(batch):
    """The images to mine are named by it; where the boxes lie reaches neither losses nor gradients."""
    some = doubled(batch)
    some = replace(some, boxes=some.boxes[::-1], images=some.images.flip(0), labels=some.labels.flip(0))
    away = replace(some, boxes=tuple(tuple(replace(box, x0=0, y0=0, x1=3, y1=64) for box in of) for of in some.boxes))
    found = []
    for given in (some, away):
        net, original, earlier = (branches(seed=seed) for seed in range(3))
        task = am.Mine(net, settings(mined="boxed", share=0.25), original, [earlier]).train()
        assert task.rows(given) == [5, 6]
        terms = task(given)
        sum(terms.values()).backward()
        found.append([*terms.values(), *(parameter.grad for parameter in net.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.fixture
def data(part):
    return Data(findings=part.findings, pack=part.pack.settings, train=part, validation=None, test=None, split="all")


@pytest.fixture
def run(tmp_path):
    with Run(tmp_path / "run", RunSettings(device="cpu", workers=0, tensorboard=False), progress=False) as run:
        yield run


@pytest.mark.parametrize(
    ("more", "steps"),
    [
        ({"upsample": "none", "steps": 0}, ["1-classify"]),
        ({"upsample": "deconvolution", "steps": 0}, ["1-classify", "2-aggregate", "3-tune"]),
        ({"upsample": "none", "steps": 2, "preservation": "none"}, ["1-classify", "2-mine1", "3-mine2"]),
        ({"steps": 1, "mined": "boxed"}, ["1-classify", "2-aggregate", "3-tune", "4-mine1"]),
    ],
    ids=["baseline", "deconvolution", "without KP", "boxed"],
)
def test_rows_of_the_tables_are_steps(run, data, more, steps):
    network = am.recipe(run, data, settings(**more))
    assert [step.step for step in run.steps] == steps
    assert len(network.networks) == max(1, more["steps"])
    side = 2 if more.get("upsample") == "none" else 4
    assert network(torch.rand(1, 1, 64, 64)).maps.shape == (1, 3, side, side)


def test_where_aggregation_upsamples_nothing_it_says_so(run, data, monkeypatch):
    """At an output stride of 16 the last two stages of this backbone are of one size; at 32 they are not."""
    said = []
    monkeypatch.setattr(type(run.screen), "tell", lambda _, line: said.append(line))
    for stride in (32, 16):
        backbone = {**am.METHOD.tiny["backbone"], "output_stride": stride}
        with Run(run.folder / str(stride), run.settings, progress=False) as one:
            am.recipe(one, data, settings(backbone=backbone, steps=0))
    assert [line for line in said if "nothing is upsampled" in line] == [
        "multi-scale aggregation joins stages of the same stride (16), so nothing is upsampled; with "
        "backbone.output_stride = 32 the last stage is brought to twice its size, as in the paper"
    ]


def test_the_backbone_waits_while_the_layers_above_learn(run, data, monkeypatch):
    seen = {}
    fit = run.fit

    def watched(name, task, part, schedule, validation=None, **others):
        before = {key: value.clone() for key, value in task.network.state_dict().items()}
        trained = fit(name, task, part, schedule, validation, **others)
        after = task.network.state_dict()
        seen[name] = {key.partition(".")[0] for key, value in before.items() if not torch.equal(value, after[key])}
        return trained

    monkeypatch.setattr(run, "fit", watched)
    am.recipe(run, data, settings(steps=1))
    everything = {"backbone", "multi_scale", "head"}
    assert seen == {
        "classify": {"backbone", "head"},
        "aggregate": {"multi_scale", "head"},
        "tune": everything,
        "mine1": everything,
    }


def test_who_trains_on_what(part):
    plain, mined = am.parts(part, settings(mined="boxed", preservation="full"))
    assert (plain.ids, mined.ids) == (part.ids[3:], part.ids)
    plain, mined = am.parts(part, settings(mined="boxed", preservation="none"))
    assert (plain.ids, mined.ids) == (part.ids[3:], part.ids[:3])
    for more in ({}, {"mined": "boxed", "steps": 0}):
        plain, mined = am.parts(part, settings(**more))
        assert plain.ids == mined.ids == part.ids
    for some in (np.arange(3), np.arange(3, 8)):
        with pytest.raises(BadInput, match=r'of . images have boxes; mined = "boxed" needs some'):
            am.parts(part.select(some), settings(mined="boxed"))


def test_the_paper_s_networks():
    with torch.device("meta"):
        net = am.build(am.AttentionMiningSettings(), Findings(("Mass", "Nodule")), (512, 512))
        shapes = {name: tuple(value.shape) for name, value in net.networks[2].named_parameters()}
    assert len(net.networks) == 3
    assert shapes["multi_scale.deep.0.weight"] == (512, 2048, 1, 1)
    assert shapes["multi_scale.fine.0.weight"] == (256, 1024, 1, 1)
    assert shapes["head.weight"] == (2, 768)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_are_the_paper_s(path):
    config, name = read_config(path, [], METHODS), path.stem
    made, side = config.settings, 1024 if "1024" in path.stem else 512
    assert config.data.pack.width == config.data.pack.height == side
    assert (made.classify.epochs, made.classify.learning_rate) == (50, 0.1)
    assert made.classify.batch_size == made.tune.batch_size == {512: 64, 1024: 32}[side] or made.upsample == "none"
    assert made.aggregate.epochs == 10
    assert (made.tune.select, made.tune.patience > 0) == ("loss", True)
    assert (made.width, made.share, made.preservation_weight) == (512, 0.125, 0.5)
    assert set(made.preserved) == {"stage3", "stage4", "aggregated", "logits"}
    assert made.backbone.weights == "imagenet"
    if side == 1024 or name.endswith("512"):
        upsample = {"baseline": "none", "bilinear": "bilinear", "deconv": "deconvolution"}[name.split("-")[0]]
        assert (config.data.split.name, made.upsample, made.steps) == ("official", upsample, 0)
        return
    assert (config.data.split.name, made.upsample, made.mined) == ("official-plus-boxes", "bilinear", "boxed")
    assert made.steps == (int(name[-1]) if "steps-" in name else 3)
    assert made.preservation == {"kp-none": "none", "kp-vanilla": "vanilla", "kp-vanilla-steps-1": "vanilla"}.get(
        name, "full"
    )


def test_every_row_has_its_config():
    published = Path(am.__file__).parents[1] / "evaluation" / "published.toml"
    tables = tomllib.loads(published.read_text())["table"]
    asked = {config for table in tables.values() for config in table.get("configs", {}).values()}
    wanted = {name.split("/")[1] for name in asked if name.startswith("attention_mining/")}
    assert wanted == {path.stem for path in CONFIGS}


def test_the_own_rule_is_the_middle_of_the_preset_s_three_levels():
    assert am.OWN_RULE.normalize
    assert sorted(CAI_CUTS)[1] == am.OWN_RULE.threshold
