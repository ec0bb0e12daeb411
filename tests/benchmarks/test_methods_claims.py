"""The verdict on a claim: seen, not shown, or not to be seen with so many patients and seeds; rows and claims fit together."""

import importlib.util
import sys
from argparse import Namespace
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from methods_claims import Outcome, verdict, visible
from methods_report import Made, excess, means, short
from methods_rows import CLAIMS, HEADLINE, ROWS, Measure, run_of

from chestmap.methods import METHODS
from chestmap.models.folder import open_model, read_about
from chestmap.phantom import PhantomSettings, write_phantom
from chestmap.training.config import read_config

BENCH = importlib.util.spec_from_file_location("bench_of_methods", Path(__file__).parents[2] / "benchmarks" / "methods.py")
assert BENCH is not None
assert BENCH.loader is not None
bench = importlib.util.module_from_spec(BENCH)  # another "methods" is among the tests
BENCH.loader.exec_module(bench)
sys.path.remove(str(Path(__file__).parents[2] / "benchmarks"))  # its training.py would hide the folder of the tests
CONFIGS = Path(__file__).parents[2] / "configs" / "phantom"


def test_a_row_reads_the_weights_of_another_one(tmp_path):
    from serving.small import write_small_model  # at the top it would be benchmarks/serving.py

    trained = write_small_model(tmp_path / "trained")
    settings = {**read_about(trained)["settings"], "r": 2.5}
    bench.reread(trained, tmp_path / "again", settings)
    again = open_model(tmp_path / "again", METHODS)
    assert again.about["settings"]["r"] == 2.5 != read_about(trained)["settings"]["r"]
    assert (tmp_path / "again" / "weights.safetensors").read_bytes() == (trained / "weights.safetensors").read_bytes()


def outcome(difference: float, each: list[float], least: float) -> Outcome:
    return Outcome(difference, difference - 0.02, difference + 0.02, 0.01, each, least)


def test_a_claim_holds_from_three_seeds_on():
    three, one = outcome(0.1, [0.1, 0.1, 0.1], 0.05), outcome(0.1, [0.1], 0.05)
    assert verdict(three, 0.01, 0.2) == "holds"
    assert verdict(three._replace(difference=-0.1), 0.01, 0.2) == "the opposite holds"
    assert verdict(one, 0.01, 0.2) == "1 seed: goes this way"
    assert verdict(three, 0.5, 0.2) == "not shown"


def test_what_is_smaller_than_can_be_seen_is_not_called_not_shown():
    assert verdict(outcome(0.01, [0.01, 0.0, 0.02], 0.08), 0.6, 0.03) == "cannot be seen here"
    assert verdict(outcome(0.01, [0.01, 0.0, 0.02], 0.08), 0.6, None) == "not shown"


def test_the_least_visible_difference_holds_patients_and_seeds():
    assert visible(0.01, [0.1]) == pytest.approx(0.028)
    assert visible(0.0, [0.0, 0.02]) == pytest.approx(2.8 * 0.01, rel=1e-6)
    assert visible(0.01, [0.0, 0.02]) == pytest.approx(2.8 * 2**0.5 * 0.01, rel=1e-6)


def test_every_claim_compares_rows_that_are_there():
    for claim in CLAIMS:
        assert {claim.better, claim.worse} <= set(ROWS), claim.text
    for name, row in ROWS.items():
        assert (CONFIGS / f"{row.config}.toml").is_file(), name
        assert not row.of or row.of in ROWS, name


def test_a_longer_budget_multiplies_epochs_and_a_start_is_handed_to_every_row(tmp_path):
    chosen = Namespace(folder=tmp_path, side=256, times=4, start=tmp_path / "start", heads=False, epochs=None)
    sets = bench.sets_of(chosen, ROWS["ag-long"], 1)
    config = read_config(CONFIGS / "ag_cnn.toml", sets, METHODS)
    assert (config.settings.global_branch.epochs, config.settings.fusion_branch.epochs) == (48, 16)
    assert config.settings.backbone.weights == str(tmp_path / "start")
    assert (config.data.pack.width, config.run.seed) == (256, 1)
    assert run_of(tmp_path, "cam", 2, 4).name == "cam-2-x4"
    for row in ROWS.values():
        read_config(CONFIGS / f"{row.config}.toml", bench.sets_of(chosen, row, 0), METHODS)


def test_heads_alone_learn_on_kept_features(tmp_path):
    chosen = Namespace(folder=tmp_path, side=128, times=1, start=tmp_path / "start", heads=True, epochs=6)
    for name in ("cam", "ham", "patch_mil", "cia_net", "cia-random"):
        config = read_config(CONFIGS / f"{ROWS[name].config}.toml", bench.sets_of(chosen, ROWS[name], 0), METHODS)
        made = config.settings
        assert (made.backbone.frozen, config.data.views.count) == (3, 0)
        assert (made.classify if name == "cam" else made.attend).epochs == 6
        assert not getattr(made, "aligned", False)


def test_a_measure_and_a_mean_read_as_they_are():
    assert str(HEADLINE) == "T(IoU) .3, mask, validation"
    assert str(Measure("AUC")) == "AUC"
    assert str(Measure(geometry="any", rule="own", finding="Nodule")) == "T(IoU) .3, any, own, Nodule"
    assert means({"Cardiomegaly": 1.0, "Nodule": 0.0}) == (0.5, 0.0)
    assert (short(0.125), short(-0.125), short(float("nan"))) == (".125", "-.125", "")


def test_the_excess_is_over_the_medoid_of_the_same_findings(monkeypatch):
    """Of findings that the floor has, with and without Cardiomegaly."""
    rates = {
        "validation": {"Cardiomegaly": 1.0, "Mass": 0.4, "Nodule": 0.3},
        "floor medoid": {"Cardiomegaly": 0.8, "Mass": 0.1},
    }
    monkeypatch.setattr(Made, "by_finding", lambda _, rule, at, geometry="": rates[rule])
    one = Made(ROWS["ham"], (0,), [], [], [], [], None)
    assert "| HAM without boxes | +0.250 | +0.300 |" in excess([one])


def test_the_place_only_control_shows_noise_where_it_trains(tmp_path):
    """Test images and all boxes stay; nothing of a training or validation image does."""
    sides = {"images": 24, "side": 48, "seed": 3, "enrich": 0.8, "boxed": 1.0, "boxed_train": 1.0, "processes": 1}
    write_phantom(tmp_path / "whole", PhantomSettings.model_validate(sides), progress=False)
    bench.place_only(tmp_path / "whole", tmp_path / "noise")
    test = set((tmp_path / "whole" / "test_list.txt").read_text().split())
    assert (tmp_path / "noise" / "BBox_List_2017.csv").read_text() == (tmp_path / "whole" / "BBox_List_2017.csv").read_text()
    for path in (tmp_path / "whole" / "images").iterdir():
        before, after = (cv2.imread(str(tmp_path / name / "images" / path.name), 0) for name in ("whole", "noise"))
        assert before.shape == after.shape
        assert np.array_equal(before, after) == (path.name in test)
        assert path.name in test or abs(np.corrcoef(before.ravel(), after.ravel())[0, 1]) < 0.1


def test_means_of_an_evaluation_are_no_findings():
    """An evaluation has a mean with and one without Cardiomegaly; neither is averaged again."""
    rows = [
        Namespace(finding=name, value=value) for name, value in (("Mass", 0.2), ("mean", 0.6), ("mean without Mass", 1.0))
    ]
    one = Made(ROWS["ham"], (0,), [Namespace(select=lambda *_, **__: rows)], [], [], [], Namespace(findings=("Mass",)))
    assert one.by_finding("own", 0.3) == {"Mass": 0.2}


def test_a_row_without_boxes_is_held_against_the_medoid_of_a_row_with_boxes(monkeypatch):
    def rates(made, rule, _at, _geometry=""):
        return {"Mass": 0.4} if rule == "validation" else {"Mass": 0.1} if made.row is ROWS["cam"] else {}

    monkeypatch.setattr(Made, "by_finding", rates)
    boxed, one = (Made(ROWS[name], (0,), [], [], [], [], None) for name in ("cam", "cia_net"))
    assert "| CIA-Net without boxes | +0.300 | +0.300 |" in excess([one], boxed)
