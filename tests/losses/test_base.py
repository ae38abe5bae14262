"""Losses that users define, and loss objects in scikit-learn."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
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


class ZeroGradientSquaredError(ScaledSquaredError):
    """A loss with a gradient that is always 0."""

    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        value, gradient = super().value_and_gradient(scores, rewards, offsets, weight)
        return value, np.zeros_like(gradient)


def test_own_loss_is_minimised(sets, rng):
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


def test_solver_uses_the_gradient_of_an_own_loss(sets):
    policy = QProbePolicy(loss=ZeroGradientSquaredError()).fit(*sets)
    assert_array_equal(policy.coef_, 0)


def test_own_loss_is_copied(sets):
    policy = QProbePolicy(loss=ScaledSquaredError(scale=5))
    assert policy.get_params()["loss__scale"] == 5
    copy = clone(policy).set_params(loss__scale=7)
    assert isinstance(copy.loss, ScaledSquaredError)
    assert (policy.loss.scale, copy.loss.scale) == (5, 7)
    copy.fit(*sets)
    loaded = pickle.loads(pickle.dumps(copy))
    assert loaded.loss.scale == 7
    assert_array_equal(loaded.predict(sets[0]), copy.predict(sets[0]))


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
    with pytest.raises(ValueError, match="solver='closed_form' cannot minimise"):
        policy.fit(*sets)


def test_value_and_gradient_is_required():
    class Unfinished(BaseLoss):
        pass

    for loss in (BaseLoss, Unfinished):
        with pytest.raises(TypeError, match="value_and_gradient"):
            loss()
