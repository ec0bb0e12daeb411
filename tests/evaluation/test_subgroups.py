"""Groups hold whom they should, and their AUCs are those of the images in them alone."""

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from chestmap.evaluation.classification import images_of
from chestmap.evaluation.score_columns import Resampling
from chestmap.evaluation.subgroups import group_scores, groups_of

HOW = Resampling(resamples=50)


def table(sex, age, view):
    return pl.DataFrame({"sex": sex, "age": pl.Series(age, dtype=pl.Float32), "view": view})


def test_groups_by_hand():
    found = groups_of(table(["F", "M", "", "F", "F"], [17.9, 18, None, 80, 101], ["PA"] * 4 + [""]))
    assert [(one.kind, one.name, one.rows.tolist()) for one in found] == [
        ("sex", "female", [0, 3, 4]),
        ("sex", "male", [1]),
        ("sex", "unknown", [2]),
        ("age", "0–17", [0]),
        ("age", "18–39", [1]),
        ("age", "80+", [3, 4]),
        ("age", "unknown", [2]),
        ("view", "PA", [0, 1, 2, 3]),
        ("view", "unknown", [4]),
    ]
    assert groups_of(table([""] * 2, [None] * 2, [""] * 2)) == []


@pytest.fixture
def images():
    """Mass is told in women alone; Hernia came three times."""
    random = np.random.default_rng(0)
    labels = (random.random((600, 2)) < (0.4, 0.005)).astype(float)
    scores = np.clip(0.5 + random.normal(0, 0.2, (600, 2)), 0, 1)
    female = np.arange(600) % 4 < 2
    scores[female, 0] += 0.5 * labels[female, 0]
    labels[7, 0] = np.nan
    return images_of(("Mass", "Hernia"), scores, labels, np.arange(600) // 2), female


def test_an_auc_is_that_of_the_group_alone(images):
    every, female = images
    groups = groups_of(table(np.where(female, "F", "M"), [50] * 600, ["AP"] * 600))
    found = {(one.group, one.score.finding): one for one in group_scores(every, groups, 10, HOW)}
    for name, rows in (("female", female), ("male", ~female), ("40–59", female | True)):
        kept = rows & ~np.isnan(every.labels[:, 0])
        row = found[name, "Mass"].score
        assert row.value == pytest.approx(roc_auc_score(every.labels[kept, 0], every.scores[kept, 0]))
        assert row.low < row.value < row.high
        assert row.support + row.negatives == kept.sum()
        assert found[name, "Mass"].images == rows.sum()
    assert found["female", "Mass"].score.low > found["male", "Mass"].score.high


def test_few_images_give_no_value_and_no_part_in_the_mean(images):
    every, female = images
    groups = groups_of(table(np.where(female, "F", "M"), [None] * 600, [""] * 600))
    found = {(one.group, one.score.finding): one for one in group_scores(every, groups, 10, HOW)}
    mean, mass = found["female", "mean"], found["female", "Mass"]
    assert found["female", "Hernia"].score.value is None
    assert mean.score.value == pytest.approx(mass.score.value)
    assert (mean.score.support, mean.score.unit, mean.score.patients) == (1, "findings", 150)
    kept = ~np.isnan(every.labels[:, 0])
    assert mean.of_all == pytest.approx(roc_auc_score(every.labels[kept, 0], every.scores[kept, 0]))  # of the same finding
    assert mean.score.low < mean.score.value < mean.score.high
    nothing = group_scores(every, groups, 1000, HOW)
    assert all(one.score.value is None for one in nothing)
    assert {"kind": "sex", "group": "female", "images": 300}.items() <= nothing[0].as_dict().items()
