"""The card's figures are those of what the model gives; what may not judge it is refused; the weights stay."""

import json
import shutil

import numpy as np
import pytest
import typer
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from chestmap.cli import model
from chestmap.errors import BadInput, BadModel, Refused
from chestmap.evaluation.scores import read_evaluation
from chestmap.evaluation.settings import EvaluationSettings
from chestmap.models.calibrate import calibrate, write_calibration
from chestmap.models.cards.card import write_card
from chestmap.models.folder import read_about
from chestmap.models.performance_figures import FigureSettings, measure, of_metrics
from chestmap.reproduction.score_run import score_split
from chestmap.storage.manifest import seal
from models.toy_model import Toy

QUICK = FigureSettings(resamples=20)
app = typer.Typer()
model.add_to(app)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    toy = Toy(tmp_path_factory.mktemp("toy"))
    write_calibration(toy.model, calibrate(toy.model, toy.predictions, toy.source, toy.split))
    return toy


@pytest.fixture(scope="module")
def figures(toy):
    return measure(toy.model, toy.predictions, toy.source, toy.split, QUICK)


@pytest.fixture
def folder(toy, tmp_path):
    return shutil.copytree(toy.model, tmp_path / "model")


def found(figures, measure, finding, at=None, rule=None):
    (row,) = [
        row
        for row in figures["scores"]
        if (row["measure"], row["finding"], row.get("at")) == (measure, finding, at) and rule in (None, row.get("rule"))
    ]
    return row


def test_figures_are_of_the_calibrated_model_on_test_images(toy, figures):
    ids = toy.split.parts["test"]
    labels, z, about = toy.source.labels[toy.source.rows(ids), 0], toy.of(ids)[:, 0], read_about(toy.model)
    line, point = about["calibration"]["Effusion"], about["operating_points"]["Effusion"]
    scores = expit(line["slope"] * z + line["offset"])
    assert found(figures, "AUC", "Effusion")["value"] == pytest.approx(roc_auc_score(labels, z))
    assert found(figures, "sensitivity", "Effusion")["value"] == pytest.approx((scores >= point)[labels == 1].mean())
    bins = np.minimum((scores * 15).astype(int), 14)
    gaps = [abs(scores[bins == one].sum() - labels[bins == one].sum()) for one in range(15)]
    assert found(figures, "ECE", "Effusion")["value"] == pytest.approx(sum(gaps) / len(ids), abs=1e-6)
    boxed = [one for one in ids if any(box.finding == "Mass" for box in toy.source.boxes.get(one, ()))]
    met = found(figures, "T(IoU)", "Mass", 0.5, "model")
    assert (met["support"], met["value"]) == (len(boxed), 1.0)  # every map is alike, and cut where validation boxes are met
    assert figures["on"]["images"] == len(ids)


def test_groups_are_told_with_intervals(toy, figures):
    ids = toy.split.parts["test"]
    rows = toy.source.rows(ids)
    female = (toy.source.images["sex"][rows] == "F").to_numpy()
    (row,) = [one for one in figures["groups"] if (one["group"], one["finding"]) == ("female", "Effusion")]
    value = roc_auc_score(toy.source.labels[rows, 0][female], toy.of(ids)[female, 0])
    assert row["value"] == pytest.approx(value)
    assert row["low"] < value < row["high"]
    assert {one["kind"] for one in figures["groups"]} == {"sex", "age", "view"}


def test_the_card_reads_as_markdown_and_lies_beside_the_weights(toy, folder, figures):
    weights = (folder / "weights.safetensors").read_bytes()
    text = write_card(folder, read_about(folder), figures)
    assert (folder / "README.md").read_text() == text
    assert (folder / "weights.safetensors").read_bytes() == weights
    for line in text.splitlines():
        assert line.count("|") == 0 or line.startswith("| ")
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("| ")]
    assert len(tables) == 6  # calibration, findings, groups, and one each for sex, age and view
    for table in tables:
        assert len({line.count(" | ") for line in table}) == 1
    for words in ("Not a medical device", "the patient is the unit", "female", "seed 7", "config.toml"):
        assert words in text
    picture = (folder / "reliability.svg").read_text()
    assert picture.count("<circle") == sum(len(one["x"]) for one in figures["reliability"])
    assert write_card(folder, read_about(folder)) == text  # what was measured stays


def test_figures_of_before_a_calibration_say_so(folder, figures):
    about = read_about(folder)
    write_card(folder, about, figures)
    assert "measure again" in write_card(folder, about | {"operating_points": {"Mass": 0.5}})
    assert "of other weights" in write_card(folder, about | {"sha256": "0" * 64})
    assert "Not calibrated" in write_card(folder, {key: about[key] for key in about if key != "calibrated_on"})
    (folder / "figures.json").write_text("[")
    with pytest.raises(BadModel, match=r"figures\.json: changed after it was written"):
        write_card(folder, about)
    seal(folder)
    with pytest.raises(BadModel, match=r"figures\.json: cannot be read"):
        write_card(folder, about)


@pytest.mark.parametrize("part", ["train", "validation"])
def test_images_that_made_the_model_do_not_judge_it(toy, part):
    with pytest.raises(Refused, match="measure it on test"):
        measure(toy.model, toy.predictions, toy.source, toy.split, QUICK, part=part)


def test_metrics_are_taken_over_where_they_are_of_this_model(toy, folder, tmp_path):
    scored = score_split(toy.predictions, toy.source, toy.split, EvaluationSettings(resamples=2, negatives=1, workers=1))
    path = scored.write(tmp_path / "metrics.json")
    figures = of_metrics(folder, read_evaluation(path))
    assert found(figures, "AUC", "Mass")["value"] == pytest.approx(scored.only_score("AUC", finding="Mass").value)
    assert found(figures, "T(IoU)", "Mass", 0.5, "validation")["value"] == 1.0
    assert not [row for row in figures["scores"] if row["measure"] == "ECE"]  # of scores that were not calibrated
    text = write_card(folder, read_about(folder), figures)
    assert "calibrated after these images were predicted" in text
    assert "Performance by sex, age and view was not measured" in text
    for changes, message in (({"model": {"sha256": "0" * 64}}, "other weights"), ({"split": "fold-1"}, "of split fold-1")):
        tree = json.loads(path.read_text())
        tree["about"] |= changes
        (tmp_path / "other.json").write_text(json.dumps(tree))
        with pytest.raises(Refused, match=message):
            of_metrics(folder, read_evaluation(tmp_path / "other.json"))
    with pytest.raises(BadInput, match=r"expected a metrics\.json"):
        read_evaluation(folder / "model.json")


def test_the_verb_prints_the_card(toy, folder, tmp_path):
    options = [
        "--source",
        "folder",
        "--root",
        str(toy.source.root),
        "--set",
        "labels=labels.csv",
        "--set",
        "boxes=boxes.csv",
    ]
    words = ["model", "card", str(folder), "--predictions", str(toy.predictions.folder), *options]
    with pytest.raises(BadInput, match="needs the split that trained the model"):
        CliRunner().invoke(app, words, catch_exceptions=False)
    done = CliRunner().invoke(app, ["model", "card", str(folder)], catch_exceptions=False)
    assert done.stdout == (folder / "README.md").read_text()
    assert "Not measured yet" in done.stdout
    words += ["--split", str(toy.split.write(tmp_path / "split"))]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.stdout == (folder / "README.md").read_text()
    assert "### By sex, age and view" in done.stdout
