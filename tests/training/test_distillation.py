"""Distillation: its losses against an independent computation, where a teacher's map lies, and a network that follows its teacher."""

import numpy as np
import pytest
import torch

from chestmap.errors import BadInput
from chestmap.geometry import Frame
from chestmap.methods import METHODS
from chestmap.nn.process_sums import counting_together
from chestmap.packs.loader import Loader, LoaderSettings
from chestmap.predictions.folder import Chunk, Header, OwnRule, PredictionsWriter, open_predictions
from chestmap.training.config import config_of
from chestmap.training.distillation import Answers, Distill, TeacherAround, answers_of, map_loss, score_loss
from chestmap.training.train import train
from chestmap.types import Findings
from training.small import data_settings

ORDER = Findings(("Nodule", "Effusion", "Mass", "Fibrosis"))
"""Other findings than the student's, in another order."""
GRID = 8


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def write_answers(folder, part, findings=ORDER, ids=None):
    """A teacher that is sure: scores of .9 where the label is present, .1 where not, and a map with one bright cell."""
    ids = list(part.ids if ids is None else ids)
    header = Header(
        findings=findings, canvas=(32, 32), model={"sha256": "0"}, own_rule=OwnRule(0.5), data="", part_size=len(ids)
    )
    writer = PredictionsWriter(folder, header)
    scores = np.full((len(ids), len(findings)), 0.1, np.float32)
    maps = np.zeros((len(ids), len(findings), GRID, GRID), np.float16)
    for row, one in enumerate(ids):
        labels = dict(zip(part.findings, part.labels[list(part.ids).index(one)], strict=True))
        for column, name in enumerate(findings):
            scores[row, column] = 0.9 if labels.get(name) == 1 else 0.1
            maps[row, column, 1, column + 1] = 3.0
    frames = tuple(part.base_frame(one) for one in ids)
    writer.write(
        0, len(ids), iter([Chunk(image_ids=tuple(ids), patient_ids=tuple(ids), frames=frames, scores=scores, maps=maps)])
    )
    writer.finish(1)
    return folder


def test_scores_are_matched_as_the_equation_has_it():
    random = np.random.default_rng(0)
    logits, taught = random.normal(size=(5, 3)) * 3, random.uniform(0.01, 0.99, (5, 3))
    for temperature in (1.0, 4.0):
        teacher = np.log(taught / (1 - taught))
        aim, own = sigmoid(teacher / temperature), sigmoid(logits / temperature)
        expected = temperature**2 * -(aim * np.log(own) + (1 - aim) * np.log(1 - own)).mean()
        found = score_loss(torch.tensor(logits), torch.tensor(taught), temperature)
        assert float(found) == pytest.approx(expected, rel=1e-5)


def test_a_network_that_is_its_teacher_has_no_gradient_of_scores():
    logits = torch.tensor([[2.0, -3.0], [0.5, 8.0]], requires_grad=True)
    score_loss(logits, torch.sigmoid(logits.detach()), 3.0).backward()
    assert logits.grad.abs().max() < 1e-6


def test_maps_are_matched_as_the_equation_has_it():
    random = np.random.default_rng(1)
    maps, taught = random.random((4, 3, 5, 6)), random.random((4, 3, 5, 6))
    scores = random.random((4, 3))
    low, high = maps.min((2, 3), keepdims=True), maps.max((2, 3), keepdims=True)
    apart = (((maps - low) / (high - low) - taught) ** 2).mean((2, 3))
    found = map_loss(torch.tensor(maps), torch.tensor(taught), torch.tensor(scores))
    assert float(found) == pytest.approx((scores * apart).sum() / scores.sum(), rel=1e-5)


@pytest.mark.parametrize("moved", ["as it is", "mirrored", "shifted"])
def test_a_map_lies_where_its_image_lies_now(data, tmp_path, moved):
    """The student's grid is half as fine; a mirrored image gets a mirrored map, findings come in the student's order."""
    part = data.train
    answers = Answers(open_predictions(write_answers(tmp_path / "a", part)), data.findings)
    one = part.ids[0]
    frame = part.base_frame(one)
    frame = {"as it is": frame, "mirrored": frame.flipped(), "shifted": frame.then((1, 0, 8, 0, 1, 8))}[moved]
    found = answers.maps([one], [frame], (GRID, GRID))[0]
    for row, name in enumerate(data.findings):
        column = ORDER.index(name)
        wanted = {"as it is": (1, column + 1), "mirrored": (1, GRID - 2 - column), "shifted": (3, column + 3)}[moved]
        assert np.unravel_index(int(found[row].argmax()), (GRID, GRID)) == wanted
        assert float(found[row].max()) == 1
    small = answers.maps([one], [frame], (GRID // 2, GRID // 2))
    assert small.shape == (1, 3, GRID // 2, GRID // 2)


def test_a_teacher_of_another_canvas_is_sampled_in_the_image(data, tmp_path):
    part = data.train
    answers = Answers(open_predictions(write_answers(tmp_path / "a", part)), data.findings)
    one, frame = part.ids[0], part.base_frame(part.ids[0])
    large = Frame.fit((frame.image[0] * 4, frame.image[1] * 4), (96, 96))  # the same film, stored with more pixels
    assert torch.allclose(answers.maps([one], [large], (GRID, GRID)), answers.maps([one], [frame], (GRID, GRID)), atol=1e-5)


class Fixed(torch.nn.Module):
    """Gives logits and maps that depend on the image alone."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, images):
        from chestmap.tensors import Output

        maps = torch.nn.functional.avg_pool2d(images, 4).expand(-1, 3, -1, -1) * self.scale
        return Output(maps.mean((2, 3)) * self.scale, maps)


def test_pieces_of_a_batch_add_up_to_the_whole(data, tmp_path):
    folder = write_answers(tmp_path / "a", data.train)
    settings = TeacherAround(predictions=str(folder))
    task = Distill(Fixed(), answers_of(settings, data.findings, data.train.ids), settings)
    batch = next(Loader(part=data.train, settings=LoaderSettings(batch_size=10), shuffle=False).epoch(0))
    with torch.no_grad():
        whole = task(batch)
    assert set(whole) == {"findings", "scores", "maps"}
    sums = dict.fromkeys(whole, 0.0)
    for piece in batch.pieces(3):
        with torch.no_grad(), counting_together(1, len(piece) / len(batch)):
            for name, value in task(piece).items():
                sums[name] += float(value) * len(piece) / len(batch)
    assert sums == pytest.approx({name: float(value) for name, value in whole.items()}, rel=1e-5)


def test_answers_that_lack_an_image_or_a_finding_are_refused(data, tmp_path):
    ids = data.train.ids
    few = write_answers(tmp_path / "few", data.train, ids=ids[1:])
    with pytest.raises(BadInput, match=rf"lacks 1 of {len(ids)} training images, the first {ids[0]}"):
        answers_of(TeacherAround(predictions=str(few)), data.findings, ids)
    other = write_answers(tmp_path / "other", data.train, Findings(("Mass", "Nodule")))
    with pytest.raises(BadInput, match="says nothing of Effusion"):
        answers_of(TeacherAround(predictions=str(other)), data.findings, ids)
    with pytest.raises(BadInput, match=r"holds no predictions\.json; run `chestmap predict TEACHER"):
        TeacherAround(predictions=str(tmp_path)).identity  # noqa: B018


def test_a_network_follows_its_teacher(dataset, data, tmp_path):
    """After the method's own step; the model needs no teacher any more, and other answers train the steps anew."""
    folder = write_answers(tmp_path / "teacher", data.train)
    schedule = {"epochs": 30, "batch_size": 8, "learning_rate": 1e-2, "warmup": 0.0, "augment": False, "select": "last"}
    tree = {
        "run": {"device": "cpu", "workers": 0, "tensorboard": False, "checkpoint_minutes": 0},
        "data": data_settings(dataset).model_dump(mode="json", exclude_none=True),
        "method": {"name": "cam", **METHODS["cam"].tiny},
        "around": {"teacher": {"predictions": str(folder), "labels": 0, "schedule": schedule}},
    }
    kept = []
    config = config_of(tree, METHODS, name="taught.toml")
    train(config, tmp_path / "run", lambda _, trained: kept.append(trained), progress=False)
    steps = [path.name for path in sorted((tmp_path / "run").glob("[0-9]-*"))]
    assert [one.partition("-")[2] for one in steps][-1] == "distill"
    assert kept[0].around.of_model == {}
    answers = answers_of(config.around.teacher, data.findings, data.train.ids)
    batch = next(Loader(part=data.train, settings=LoaderSettings(batch_size=len(data.train.ids)), shuffle=False).epoch(0))
    with torch.no_grad():
        seen = kept[0].network(batch.images)
    taught = answers.scores(batch.ids)
    agree = ((torch.sigmoid(seen.logits) > 0.5) == (taught > 0.5)).double().mean()
    assert agree > 0.8
    changed = config.around.teacher.model_copy(update={"temperature": 5.0})
    assert changed.identity != config.around.teacher.identity
