import json
import subprocess
import sys

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

from chestmap.datasets.split import Split
from chestmap.errors import BadInput, BadSettings, Leak
from chestmap.evaluation.comparison import ComparisonSettings, compare
from chestmap.evaluation.evaluate import EvaluationContext, EvaluationSettings, evaluate
from chestmap.evaluation.scores import read_evaluation
from chestmap.evaluation.side_by_side import classification_table, localization_table, preset_table, summary_table
from chestmap.settings import checked

QUICK = EvaluationSettings(resamples=40, workers=1)


def case(made, images: int = 40, seed: int = 0, noise: float = 1.0, start: int = 0):
    """Blobs near the boxes and scores near the labels; patients are numbered from `start`, two images each."""
    rng = np.random.default_rng(seed)
    built = made(["Cardiomegaly", "Mass", "Hernia"], canvas=(32, 32), prefix=f"image{start or ''}")
    for number in range(images):
        labels = [float(rng.random() < 0.5), float(rng.random() < 0.5), 1.0]
        maps, boxes = rng.random((3, 8, 8)), {}
        for index, name in enumerate(("Cardiomegaly", "Mass")):
            x, y = rng.integers(0, 5, 2)
            maps[index, y : y + 3, x : x + 3] += 3 / noise
            if labels[index] and number % 4:
                boxes[name] = [(4.0 * x, 4.0 * y, 4.0 * x + 12, 4.0 * y + 12)]
        maps = np.stack([gaussian_filter(one, 0.5) for one in maps])
        scores = 1 / (1 + np.exp(-(2 * np.array(labels) - 1 + rng.normal(0, noise, 3))))
        built.image(maps, boxes, labels, scores.tolist(), patient=f"p{start + number // 2}")
    return built


def test_a_whole_evaluation(made, tmp_path) -> None:
    test, validation, training = case(made), case(made, seed=1, start=100), case(made, seed=2, start=200)
    held = EvaluationContext(validation=(validation.predictions(), validation.truth()), training=training.truth())
    settings = EvaluationSettings(resamples=40, presets=("ham", "wang2017"), workers=2)
    found = evaluate(test.predictions(), test.truth(), settings, held, title="blobs")
    truth, predictions = test.truth(), test.predictions()
    auc = found.only_score("AUC", finding="Mass")
    assert auc.value == pytest.approx(roc_auc_score(truth.labels[:, 1], predictions.scores[:, 1]))
    assert auc.low < auc.value < auc.high
    assert auc.support + auc.negatives == 40
    hernia = found.only_score("AUC", finding="Hernia")  # every image has it: one kind of label
    assert (hernia.value, hernia.low, hernia.support) == (None, None, 40)
    mean = found.only_score("AUC", finding="mean")
    assert mean.value == pytest.approx(np.mean([auc.value, found.only_score("AUC", finding="Cardiomegaly").value]))
    assert found.only_score("AUC", finding="mean without Cardiomegaly").value == pytest.approx(auc.value)
    assert found.only_score("ECE", finding="Mass", rule="platt on validation").value is not None
    assert found.only_score("sensitivity", finding="Mass", rule="validation youden").threshold is not None
    assert not found.select("sensitivity", finding="Hernia")
    for rule in ("own", "validation", "oracle", "preset ham", "floor medoid", "ceiling 64x64"):
        assert found.select("T(IoU)", rule=rule, finding="mean", at=0.3), rule
    assert found.only_score("T(IoU)", rule="validation", finding="mean", at=0.3, geometry="mask").value > 0.5
    assert found.only_score("gated T(IoU)", rule="validation", finding="mean", at=0.3, geometry="mask").value is not None
    assert {curve.kind for curve in found.curves} == {
        "roc", "precision-recall", "reliability", "accuracy", "threshold", "froc",
    }  # fmt: skip
    assert found.notes == ()
    assert found.about["fitted"]["calibration"]["fitted"] == [True, True, False]
    path = found.write(tmp_path / "metrics.json")
    assert read_evaluation(path).rows == found.rows
    assert json.loads(path.read_text())["about"]["settings"]["resamples"] == 40
    again = evaluate(test.predictions(), test.truth(), settings, held, title="blobs")
    assert again.rows == found.rows


def test_tables_print_every_way(made) -> None:
    test, training = case(made), case(made, seed=2, start=200)
    settings = EvaluationSettings(resamples=10, presets=("ham",), workers=1)
    found = [
        evaluate(test.predictions(), test.truth(), settings, EvaluationContext(training=training.truth()), title=title)
        for title in ("A & B", "other")
    ]
    table = localization_table(found, "T(IoU)", geometry="mask")
    assert table.headers == ("T(IoU)", "", "Card.", "Mass", "mean", "mean without Cardiomegaly")
    assert table.rows[0][1] == "boxes"
    assert int(table.rows[0][2]) + int(table.rows[0][3]) == int(table.rows[0][4])
    labels = [row[1] for row in table.rows if row[0] == "0.3"]
    assert labels[:3] == ["A & B, own", "A & B, validation", "A & B, oracle"]
    assert "floor medoid" in labels
    assert labels.count("floor medoid") == 1
    classified = classification_table(found)
    assert next(row for row in classified.rows if row[0] == "Hernia")[2] == "n/a"
    assert r"A \& B" in classified.to_latex()
    assert classified.to_markdown().count("\n| ") >= 6
    assert classified.to_csv().startswith("finding,with / without,A & B,other\n")
    assert preset_table(found, "ham").rows[0][0] == "T(IoU) at 0.1"
    assert summary_table(found).rows[0][0] == "AUC"
    assert len(summary_table(found).to_rich().columns) == 3


def test_shared_patients_are_refused_unless_the_split_says_so(made) -> None:
    test, other = case(made, images=8), case(made, images=8, seed=1, start=3)
    with pytest.raises(Leak, match=r"1 of the 4 patients that are scored are also in training"):
        evaluate(test.predictions(), test.truth(), QUICK, EvaluationContext(training=other.truth()))
    with pytest.raises(Leak, match=r"also in validation"):
        evaluate(test.predictions(), test.truth(), QUICK, EvaluationContext(validation=(other.predictions(), other.truth())))
    parts = {"train": ("a",), "test": ("b",)}
    promises = Split(name="official", parts=parts, seed=0, source="")
    with pytest.raises(Leak):
        evaluate(test.predictions(), test.truth(), QUICK, EvaluationContext(training=other.truth(), split=promises))
    says_so = Split(name="ham-fold-1", parts=parts, seed=0, source="", shares_patients=True)
    found = evaluate(test.predictions(), test.truth(), QUICK, EvaluationContext(training=other.truth(), split=says_so))
    assert any("split ham-fold-1 leaks: 0 images and 1 of the 4 patients" in note for note in found.notes)


def test_predictions_must_cover_the_truth_and_share_findings(made) -> None:
    small, large = case(made, images=4), case(made, images=6)
    with pytest.raises(BadInput, match="2 of the 6 images to score were not predicted, the first is image-004"):
        evaluate(small.predictions(), large.truth(), QUICK)
    part = evaluate(large.predictions(), large.truth(range(1, 4)), QUICK)
    assert part.about["images"] == 3
    with pytest.raises(BadInput, match="have none in common"):
        evaluate(
            made(["Fibrosis"]).image(np.zeros((1, 8, 8))).predictions(), made(["Mass"]).image(np.zeros((1, 8, 8))).truth()
        )


def test_without_boxes_images_are_scored_alone(made) -> None:
    built = made(["Mass"])
    for number in range(6):
        built.image(np.random.default_rng(number).random((1, 8, 8)), labels=[number % 2], scores=[number / 6])
    found = evaluate(built.predictions(), built.truth(), QUICK)
    assert found.only_score("AUC", finding="Mass").value is not None
    assert not found.select("T(IoU)")


def test_scores_of_exactly_zero_and_one_are_scored_without_a_warning(made) -> None:
    """Any warning is an error here; a logit of 0 had printed one."""
    test, validation = case(made), case(made, seed=1, start=100)
    for built in (test, validation):
        built.rows = [(*row[:4], [float(value > 0.5) for value in row[4]], *row[5:]) for row in built.rows]
    held = EvaluationContext(validation=(validation.predictions(), validation.truth()))
    found = evaluate(test.predictions(), test.truth(), QUICK, held)
    assert found.only_score("AUC", finding="Mass").value is not None
    assert found.only_score("ECE", finding="Mass", rule="platt on validation").value is not None


def test_settings_name_their_mistakes() -> None:
    with pytest.raises(BadSettings, match="presets"):
        checked(EvaluationSettings, {"presets": ["hamm"]}, name="evaluation.toml")
    with pytest.raises(BadSettings, match="confidence"):
        checked(EvaluationSettings, {"confidence": 95}, name="evaluation.toml")


def test_the_better_of_two_is_found_and_equals_are_not(made) -> None:
    good, bad = case(made, images=80), case(made, images=80)
    shuffled = np.random.default_rng(0).permutation(80)
    rows = [list(row) for row in bad.rows]
    for row, other in zip(rows, shuffled, strict=True):
        row[2], row[4] = good.rows[other][2], good.rows[other][4]  # maps and scores of other images
    bad.rows = [tuple(row) for row in rows]
    first, second = (evaluate(one.predictions(), one.truth(), QUICK).cases for one in (good, bad))
    how = ComparisonSettings(iou=(0.3,), draws=500)
    found = {(d.measure, d.finding, d.geometry, d.rule): d for d in compare(first, second, how)}
    auc = found["AUC", "Mass", "", ""]
    assert auc.difference == pytest.approx(auc.first - auc.second)
    assert auc.low > 0
    assert auc.p <= auc.corrected < 0.01
    hits = found["T(IoU)", "Mass", "mask", "own"]
    assert hits.first - hits.second == pytest.approx(hits.difference)
    assert hits.low > 0.1
    assert max(hits.p, hits.mcnemar) < 0.01
    assert hits.odds_ratio > 3
    assert hits.only_first - hits.only_second == round(hits.difference * hits.support)
    same = compare(first, first, how)
    assert all(one.p == 1.0 and one.difference == 0.0 for one in same)
    assert [one.family for one in same].count("primary") == 2
    assert len(same) == 2 + 2 + 2 * len(first.hits)
    fewer = evaluate(good.predictions(), good.truth(range(40)), QUICK).cases
    with pytest.raises(BadInput, match="80 and 40 images"):
        compare(first, fewer)


def test_evaluation_needs_no_torch() -> None:
    code = "import sys, chestmap.evaluation.evaluate, chestmap.evaluation.side_by_side; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
