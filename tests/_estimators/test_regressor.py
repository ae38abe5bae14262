import numpy as np
import pytest
from cases import WITH_INTERCEPT
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, Ridge

from skqprobe import QProbeRegressor, sample_candidates

with_and_without_intercept = pytest.mark.parametrize("fit_intercept", [False, True])


@pytest.fixture(params=[7, 150], ids=["few features", "many features"])
def problem(request, rng):
    """30 prompts of 4 candidates."""
    X = rng.normal(size=(30, 4, request.param)) + rng.normal(size=request.param)
    return X, X[..., 0] - X[..., 1] + rng.normal(size=(30, 4))


def share_of_rows(groups, weight):
    """Weights of rows whose sum is the same for each prompt, and 1 in total."""
    total = {label: weight[groups == label].sum() for label in set(groups)}
    return weight / [total[label] for label in groups] / len(total)


def assert_same_fit(model, expected, **tolerance):
    assert_allclose(model.coef_, expected.coef_.ravel(), **tolerance)
    assert_allclose(model.intercept_, expected.intercept_, rtol=tolerance["rtol"])


# Squared error is ridge regression


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 10])
@with_and_without_intercept
@pytest.mark.parametrize("layout", ["sets", "rows"])
def test_squared_error_is_ridge(layout, fit_intercept, alpha, problem):
    X, y = problem
    flat = X.reshape(y.size, -1), y.ravel()
    expected = Ridge(alpha * y.size / 2, fit_intercept=fit_intercept).fit(*flat)
    model = QProbeRegressor(
        alpha=alpha, fit_intercept=fit_intercept, solver="closed_form"
    ).fit(*(flat if layout == "rows" else problem))
    assert model.n_iter_ == 1
    assert_same_fit(model, expected, rtol=1e-8, atol=1e-10)


def test_squared_error_with_weights_of_rows(rows, rng):
    X, y, groups = rows
    weight = rng.uniform(0.2, 4, len(X))
    model = QProbeRegressor(alpha=0.1).fit(X, y, groups, sample_weight=weight)
    share = share_of_rows(groups, weight)
    expected = Ridge(0.1 / 2).fit(X, y, sample_weight=share)
    assert_same_fit(model, expected, rtol=1e-8)


# Log loss is logistic regression


@with_and_without_intercept
@pytest.mark.parametrize("alpha", [1e-3, 0.1])
def test_log_loss_is_logistic_regression(alpha, fit_intercept, rows, rng):
    """A reward r is a success of weight r and a failure of weight 1 - r."""
    X, _, groups = rows
    y, weight = rng.uniform(size=len(X)), rng.uniform(0.5, 2, size=len(X))
    share = share_of_rows(groups, weight)
    expected = LogisticRegression(
        C=1 / alpha, fit_intercept=fit_intercept, solver="newton-cholesky", tol=1e-10
    ).fit(
        np.concatenate([X, X]),
        np.repeat([1, 0], len(X)),
        sample_weight=np.concatenate([share * y, share * (1 - y)]),
    )
    model = QProbeRegressor(
        loss="log_loss", alpha=alpha, fit_intercept=fit_intercept, tol=1e-8
    ).fit(X, y, groups, sample_weight=weight)
    assert_same_fit(model, expected, rtol=1e-5, atol=1e-7)
    assert_allclose(model.predict(X), expected.predict_proba(X)[:, 1], rtol=1e-5)


@pytest.mark.parametrize("loss", WITH_INTERCEPT)
def test_choice_is_by_softmax_of_the_predictions(sets, loss):
    """In units of the reward: for log_loss, of the probability."""
    X, y = sets
    model = QProbeRegressor(loss, temperature=0.3).fit(X, y)
    proba = softmax(model.predict(X) / 0.3, axis=1)
    assert_array_equal(
        model.sample(X, size=9, random_state=0),
        sample_candidates(proba, size=9, random_state=0),
    )
    model.temperature = 0
    assert_array_equal(model.sample(X), model.predict(X).argmax(axis=1))
