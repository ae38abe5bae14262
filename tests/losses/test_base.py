"""Losses that users define, and loss objects in scikit-learn."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import GridSearchCV

from skqprobe import QProbePolicy
from skqprobe.losses import BaseLoss


class ScaledSquaredError(BaseLoss):
    """A loss with one method and one setting."""

    def __init__(self, scale=1.0):
        self.scale = scale

    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        error = scores - rewards
        weight = np.ones(len(scores)) if weight is None else weight
        total = np.add.reduceat(weight, offsets[:-1])
        share = self.scale * weight / np.repeat(total, np.diff(offsets))
        value = np.add.reduceat(share * error**2, offsets[:-1])
        return value, 2 * share * error


def test_own_loss_is_minimized(sets, rng):
    X, y = sets
    policy = QProbePolicy(loss=ScaledSquaredError(scale=5), alpha=0.5, tol=1e-8)
    expected = QProbePolicy(loss="squared_error", alpha=0.1)
    for weight in (None, rng.integers(0, 3, len(y)), rng.integers(0, 3, y.shape)):
        policy.fit(X, y, sample_weight=weight)
        expected.fit(X, y, sample_weight=weight)
        assert_allclose(policy.coef_, expected.coef_, rtol=1e-6)
        assert policy.intercept_ == pytest.approx(expected.intercept_)
    assert policy.predict(X).shape == (len(X),)
    assert policy.score(X, y) > y.mean()


def test_search_over_a_setting(sets):
    X, y = sets
    scales = [1e-6, 1.0]
    search = GridSearchCV(
        QProbePolicy(loss=ScaledSquaredError(), alpha=1.0),
        {"loss__scale": scales},
        scoring=lambda policy, X, y: -((policy.decision_function(X) - y) ** 2).mean(),
    ).fit(X, y)
    assert search.cv_results_["param_loss__scale"].tolist() == scales
    # The penalty dominates a loss of scale 1e-6.
    assert search.best_params_ == {"loss__scale": 1.0}
    alone = QProbePolicy(loss=ScaledSquaredError(), alpha=1.0).fit(X, y)
    assert_array_equal(alone.coef_, search.best_estimator_.coef_)


def test_own_loss_has_no_closed_form(sets):
    policy = QProbePolicy(loss=ScaledSquaredError(), solver="closed_form")
    with pytest.raises(ValueError, match="solver='closed_form' cannot minimize"):
        policy.fit(*sets)


def test_value_and_gradient_is_required():
    class Unfinished(BaseLoss):
        pass

    for loss in (BaseLoss, Unfinished):
        with pytest.raises(TypeError, match="value_and_gradient"):
            loss()
