"""The score that chooses the weights."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from chestmap.errors import BadInput
from chestmap.training.validation import mean_auc


@given(st.integers(2, 60), st.integers(1, 4), st.integers(0, 10**6))
def test_the_area_agrees_with_scikit_learn(images, findings, seed):
    random = np.random.default_rng(seed)
    scores = random.integers(0, 6, (images, findings)).astype(np.float32)  # many ties
    labels = random.choice([0.0, 1.0, np.nan, 0.4], (images, findings), p=[0.5, 0.3, 0.1, 0.1]).astype(np.float32)
    expected = []
    for score, label in zip(scores.T, labels.T, strict=True):
        known = (label == 0) | (label == 1)
        if len(set(label[known])) == 2:
            expected.append(roc_auc_score(label[known], score[known]))
    if expected:
        assert mean_auc(scores, labels) == pytest.approx(np.mean(expected))
    else:
        with pytest.raises(BadInput, match="no finding is both present and absent"):
            mean_auc(scores, labels)
