"""AG-CNN: the losses of each stage, what moves in it, the output No Finding, and the settings of every published row."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from chestmap.methods import METHODS
from chestmap.methods import ag_cnn as ag
from chestmap.models.folder import open_model, write_model
from chestmap.packs.loader import Loader, LoaderSettings
from chestmap.storage.manifest import seal
from chestmap.training import Data, Run, RunSettings
from chestmap.training.config import read_config
from chestmap.training.train import Trained
from chestmap.types import Findings

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "ag_cnn").glob("*.toml"))
FINDINGS = Findings(("Mass", "Nodule", "Effusion"))
NAN = math.nan


def settings(**more):
    return ag.AgCnnSettings.model_validate(dict(ag.METHOD.tiny) | more)


def network(findings=FINDINGS, **more):
    torch.manual_seed(0)
    return ag.build(settings(**more), findings, (64, 64)).double().eval()


def loss_by_hand(logits, labels):
    """eq. 1 and 2, averaged over the known labels of a batch."""
    terms = []
    for z, label in ((z, label) for row in zip(logits, labels, strict=True) for z, label in zip(*row, strict=True)):
        if not math.isnan(label):
            p = 1 / (1 + math.exp(-z))  # eq. 1
            terms.append(-(label * math.log(p) + (1 - label) * math.log(1 - p)))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("trained", [stage for order in ag.ORDERS.values() for stage in order])
def test_losses_of_eq_1_and_2(batch, trained):
    """With the output No Finding, which the source does not have."""
    net = network()
    task = ag.Stage(net, trained)
    batch = replace(batch, images=batch.images.double())
    wide = [[*row, NAN if any(map(math.isnan, row)) else float(not any(row))] for row in batch.labels.tolist()]
    assert [row[-1] for row in wide].count(1.0) == 3
    terms, look = task(batch), net.look(batch.images, ag.ALL)
    assert tuple(terms) == trained
    for name in trained:
        assert terms[name].item() == pytest.approx(loss_by_hand(look.logits[name].tolist(), wide), rel=1e-5)
    judged = [look.logits[name][:, :3] for name in (trained if trained == ("global", "local") else trained[-1:])]
    torch.testing.assert_close(task.predict(batch).logits, sum(judged) / len(judged))


def test_no_finding_is_learned_and_dropped_or_kept():
    labels = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, NAN, 0], [NAN, 1, 0], [0, 0.3, 0]])
    assert str(ag.no_finding_labels(labels)[:, 0].tolist()) == "[1.0, 0.0, nan, 0.0, nan]"
    own = Findings(("No Finding", "Mass"))
    for findings, more, outputs in ((FINDINGS, {}, 4), (FINDINGS, {"no_finding": False}, 3), (own, {}, 2)):
        net = network(findings, **more)
        assert {net.global_branch.head.out_features, net.fusion_branch.out_features} == {outputs}
        assert net(torch.rand(1, 1, 64, 64, dtype=torch.float64)).logits.shape == (1, len(findings))


MOVES = {
    "G_L_F": [("global", "G"), ("local", "L"), ("fusion", "F")],
    "G_L_F*": [("global", "G"), ("local", "L"), ("global_local_fusion", "GLF")],
    "G_LF": [("global", "G"), ("local_fusion", "LF")],
    "GL_F": [("global_local", "GL"), ("fusion", "F")],
    "GLF": [("global_local_fusion", "GLF")],
}  # Table II, and section III.C for what stands still


class Watched(Run):
    def fit(self, name, task, part, schedule, validation=None, **more):
        before = {key: value.clone() for key, value in task.network.state_dict().items()}
        trained = super().fit(name, task, part, schedule, validation, **more)
        after = trained.network.state_dict()
        moved = {key for key in before if not torch.equal(before[key], after[key])}
        self.seen = [*getattr(self, "seen", []), (name, moved, schedule.batch_size)]
        return trained


@pytest.mark.parametrize("order", list(MOVES))
def test_what_moves_in_each_stage(order, part, tmp_path):
    data = Data(findings=part.findings, pack=part.pack.settings, train=part, validation=part, test=None, split="all")
    quick = {"epochs": 1, "learning_rate": 1e-2, "batches": 2, "augment": False}
    schedules = {
        f"{name}_branch": {**quick, "batch_size": size} for name, size in (("global", 4), ("local", 3), ("fusion", 2))
    }
    run = Watched(tmp_path, RunSettings(device="cpu", workers=0, tensorboard=False), progress=False)
    with run:
        net = ag.recipe(run, data, settings(order=order, **schedules))
    assert [name for name, _, _ in run.seen] == [name for name, _ in MOVES[order]]
    for (_, moved, size), (_, letters) in zip(run.seen, MOVES[order], strict=True):
        assert {key[0].upper() for key in moved} == set(letters)
        assert size == {"G": 4, "L": 3, "F": 2}[letters[-1]]
        for letter, name in zip("GLF", ag.ALL, strict=True):
            weights = [key for key, value in net.named_parameters() if key.startswith(f"{name}_branch")]
            still = [key for key in weights if key not in moved]
            assert letter not in letters or not still, f"{name} learns, but not {still}"
    steps = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("[0-9]-*/done.json"))]
    assert len(steps) == len(MOVES[order])
    assert json.loads(next(tmp_path.glob("[0-9]-crops/crops.json")).read_text())["boxes"] == 3
    assert all(step["measure"] == "auc" for step in steps)  # the best by validation, in each stage


def test_one_training_answers_for_every_branch(part, tmp_path):
    """`answer` is a word in model.json."""
    net = network().float()
    trained = Trained(
        method=ag.METHOD,
        settings=settings(),
        findings=FINDINGS,
        canvas=part.pack.settings,
        network=net,
        data={"source": "none", "fingerprint": "", "split": "all"},
    )
    write_model(tmp_path, trained)
    images, said = torch.rand(2, 1, 64, 64), {}
    for name in ag.ALL:
        place = shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-{name}"))
        about = json.loads((place / "model.json").read_text())
        about["settings"]["answer"] = name
        (place / "model.json").write_text(json.dumps(about))
        seal(place)
        said[name] = open_model(place, METHODS).network(images).logits
        torch.testing.assert_close(said[name], net.look(images, ag.ALL).logits[name][:, :3])
    assert not torch.allclose(said["fusion"], said["global"])


@pytest.mark.parametrize("name", ["resnet50.tv_in1k", "densenet121.tv_in1k"])
def test_the_paper_s_networks(name):
    with torch.device("meta"):
        net = ag.build(settings(backbone={"name": name}), Findings(tuple(f"finding {n}" for n in range(14))), (224, 224))
    channels = {"resnet50.tv_in1k": 2048, "densenet121.tv_in1k": 1024}[name]
    assert tuple(net.local_branch.head.weight.shape) == (15, channels)
    assert tuple(net.fusion_branch.weight.shape) == (15, 2 * channels)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_are_the_paper_s(path):
    config = read_config(path, [], METHODS)
    made = config.settings
    assert (config.data.split.name, config.data.pack.canvas, config.data.augment.crop) == ("ag-cnn", (224, 224), (0.08, 1.0))
    assert made.backbone.weights == "imagenet"
    dense = path.stem == "densenet121"
    sizes = {
        "global_branch": 64 if dense else 128,
        "local_branch": 32 if dense else 64,
        "fusion_branch": 32 if dense else 64,
    }
    for name, size in sizes.items():
        one = getattr(made, name)
        assert (one.batch_size, one.epochs, one.optimizer, one.learning_rate) == (size, 50, "sgd", 0.01)
        assert (one.momentum, one.weight_decay, one.decay, one.every, one.factor) == (0.9, 1e-4, "step", 20, 0.1)
    rows = {
        "order-gl_f": "GL_F",
        "order-glf": "GLF",
        "order-g_lf": "G_LF",
        "order-g_l_f-all": "G_L_F*",
        "global-twice": "GLF",
    }
    assert made.order == rows.get(path.stem, "G_L_F")
    assert made.statistic == {"map-l1": "L1", "map-l2": "L2"}.get(path.stem, "max")
    assert made.tau == (0.1 if path.stem == "tau-0.1" else 0.7)
    assert made.cropped == (path.stem != "global-twice")


def test_every_run_says_how_large_crops_are_and_how_many_boxes_they_hold(part, tmp_path):
    """At tau .3 and .9; the larger crop holds no fewer boxes, and tau is chosen by the AUC of the crops."""
    settings = ag.AgCnnSettings.model_validate({**ag.METHOD.tiny, "taus": (0.3, 0.9)})
    torch.manual_seed(0)
    network = ag.build(settings, part.findings, (64, 64)).eval()
    ag.write_crops(network, part, settings.taus, tmp_path)
    about = json.loads((tmp_path / "crops.json").read_text())
    wide, narrow = about["crops"]
    assert wide["median_area"] >= narrow["median_area"] > 0
    assert 1 >= wide["boxes_held"] >= narrow["boxes_held"] >= 0
    assert about["boxes"] == 3
    assert about["chosen"] == max(about["crops"], key=lambda row: row["auc"])["tau"]
    network.get_buffer("chosen_tau").fill_(0.9)
    batch = next(Loader(part=part, settings=LoaderSettings(batch_size=8), shuffle=False).epoch(0))
    features = network.global_branch(batch.images)[0]
    assert torch.equal(network.box(features), network.box(features, 0.9))


def test_a_box_is_held_where_its_center_lies_in_the_crop(batch):
    whole, corner = torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 8), torch.tensor([[0.0, 0.0, 0.05, 0.05]] * 8)
    assert ag._inside_crop(batch, whole) == [True] * 3
    assert ag._inside_crop(batch, corner) == [False] * 3


def test_a_tau_cannot_be_chosen_without_a_global_stage():
    with pytest.raises(ValueError, match='taus are chosen between the global branch and the crops: they need order "G_L_F"'):
        ag.AgCnnSettings(taus=(0.5, 0.7), order="GLF")
