import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import spearmanr

from skqprobe.plotting import PromptDifficultyDisplay


def test_means_and_their_rank_correlation(sets, policy):
    X, y = sets
    shown = PromptDifficultyDisplay.from_estimator(policy, X, y)
    Q = policy.decision_function(X)
    assert_allclose(shown.reward, y.mean(axis=1))
    inside = (Q - Q.mean(axis=1, keepdims=True)).std()
    assert_allclose(shown.value, (Q.mean(axis=1) - Q.mean()) / inside)
    expected = spearmanr(y.mean(axis=1), Q.mean(axis=1)).statistic
    assert shown.correlation == pytest.approx(expected)
    constant = PromptDifficultyDisplay.from_predictions(y, np.zeros_like(y))
    assert np.isnan(constant.correlation)
