from dataclasses import replace

import numpy as np
import pytest
from cases import CONVEX, make_objective
from numpy.testing import assert_allclose

from skqprobe import QProbePolicy
from skqprobe._objectives import linear
from skqprobe.losses import LOSSES


@pytest.fixture(params=["sets", "rows", "weighted", "standardized", "no intercept"])
def arguments(request, rng):
    """12 prompts of 3 candidates, 50 features, as arguments of `make_objective`."""
    X = 10 + rng.normal(size=(12, 3, 50)) * rng.lognormal(size=50)
    y, settings = (rng.random((12, 3)) > 0.5) * 1.0, {}
    if request.param == "rows":
        settings["groups"] = rng.permutation(36) % 12
        X, y = X.reshape(36, 50), y.ravel()
    elif request.param == "weighted":
        settings["candidate_weight"] = rng.integers(1, 4, 36) * 1.0
        settings["prompt_weight"] = rng.random(12)
    elif request.param == "standardized":
        settings["columns"] = X.mean(axis=(0, 1)), X.std(axis=(0, 1))
    elif request.param == "no intercept":
        settings["fit_intercept"] = False
    return X, y, settings


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_scores_and_penalties_are_the_same(loss, center, arguments, rng, monkeypatch):
    X, y, settings = arguments
    monkeypatch.setattr("skqprobe._arrays.blocks.BLOCK_BYTES", 4000)  # 10 rows
    objective = make_objective(X, y, loss, alpha=0.1, **settings)
    if center and objective.has_intercept:
        objective = replace(objective, center=rng.normal(size=50))
    found = objective.in_span(0.1)
    rank = 24 if objective.loss.shift_invariant else 36 - objective.has_intercept
    assert len(objective._blocks) > 1
    assert found.n_features == rank
    thetas = rng.normal(size=(3, found.n_parameters))
    raw = found.span.to_raw(thetas)
    for theta, one in zip(thetas, raw, strict=True):
        value, gradient = found.value_and_gradient(theta)
        expected, slope = objective.value_and_gradient(one)
        assert value == pytest.approx(expected)
        # The gradient is that in the span.
        step = found.span.to_raw(np.eye(found.n_parameters))
        step -= found.span.to_raw(np.zeros_like(thetas[:1]))
        assert_allclose(gradient, step @ slope, atol=1e-10 * abs(slope).max())
    # Back, also from parameters as they are.
    assert_allclose(found.span.from_raw(raw), thetas)
    assert_allclose(found.from_raw(found.to_raw(thetas)), thetas)
    outside = rng.normal(size=raw.shape)
    back = found.to_raw(found.from_raw(outside))
    scores, expected = (
        replace(objective, center=None).scores(each) for each in (back[0], outside[0])
    )
    if objective.loss.shift_invariant:
        scores, expected = (
            each - np.repeat(each.reshape(12, 3).mean(axis=1), 3)
            for each in (scores, expected)
        )
    assert_allclose(scores, expected, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("loss", [loss for loss in CONVEX if loss != "pairwise_hinge"])
def test_fits_end_at_the_same_minimum(loss, dtype, rng, monkeypatch):
    X = (3 + rng.normal(size=(20, 3, 100))).astype(dtype)
    y = (rng.random((20, 3)) > 0.5) * 1.0
    fits = []
    for n_rows in (60, 0):
        monkeypatch.setattr(linear, "SPAN_ROWS", n_rows)
        policy = QProbePolicy(loss, alpha=0.01, tol=1e-6, solver="lbfgs").fit(X, y)
        fits.append(policy.decision_function(X))
    assert_allclose(*fits, atol=2e-3 * np.ptp(fits[1]))


def test_rows_that_are_equal(rng):
    """Their difference is rounding, which a penalty hides."""
    X = rng.normal(size=(6, 4, 50))
    X[:, 2] = X[:, 3]
    objective = make_objective(X, rng.random((6, 4)), "log_loss")
    found = objective.in_span(0.1)
    assert found.n_features == 17
    theta = rng.normal(size=(1, found.n_parameters))
    value, _ = found.value_and_gradient(theta[0])
    expected, _ = objective.value_and_gradient(found.to_raw(theta)[0])
    assert value == pytest.approx(expected)
    assert objective.in_span(0.0) is objective


def test_all_rows_are_equal(rng):
    objective = make_objective(np.ones((6, 4, 50)), rng.random((6, 4)), "log_loss")
    assert objective.in_span(0.1) is objective


def test_many_rows_stay_as_they_are(rng, monkeypatch):
    objective = make_objective(rng.normal(size=(6, 4, 50)), np.eye(6, 4), "log_loss")
    assert objective.in_span(0.1) is not objective
    monkeypatch.setattr(linear, "SPAN_ROWS", 23)
    assert objective.in_span(0.1) is objective
    square = make_objective(rng.normal(size=(6, 4, 24)), np.eye(6, 4), "log_loss")
    assert square.in_span(0.1) is square
