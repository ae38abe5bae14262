import numpy as np
import pytest
from cases import make_objective, minimize_lbfgs
from numpy.testing import assert_allclose, assert_array_equal

from skqprobe._solvers import preconditioner
from skqprobe._solvers.preconditioner import Preconditioner, model_hessian
from skqprobe.losses import LOSSES


def make_preconditioner(objective):
    return Preconditioner(objective, objective.alpha, model_hessian(objective))


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("alpha", [0, 1e-2])
@pytest.mark.parametrize("loss", ["log_loss", "policy_gradient"])
def test_is_linear_and_invertible(loss, alpha, fit_intercept, sets, rng, conditioning):
    X, y = sets
    X = (X @ rng.normal(size=(4, 4)) + [5, 0, -3, 100]) * [1, 1e3, 1e-3, 1]
    objective = make_objective(X, y, loss, alpha=alpha, fit_intercept=fit_intercept)
    result, n = make_preconditioner(objective), objective.n_parameters
    assert (result.factor is None) == (conditioning == "diagonal")
    assert (result.center is None) != objective.has_intercept
    one, other, slope = rng.normal(size=(3, n))
    # An inverse in both directions.
    theta = result.to_theta(one)
    assert theta.shape == one.shape
    assert_allclose(result.to_v(theta), one, rtol=1e-8)
    assert_allclose(result.to_theta(result.to_v(theta)), theta)
    # Linear.
    assert_array_equal(result.to_theta(np.zeros(n)), 0)
    expected = 2 * theta - result.to_theta(other)
    assert_allclose(result.to_theta(2 * one - other), expected)
    # The gradient is the transpose: d f(theta(v)) / dv of a linear function f.
    expected = [slope @ result.to_theta(e) for e in np.eye(n)]
    gradient = result.gradient_in_v(slope)
    assert_allclose(gradient, expected, atol=1e-12 * abs(gradient).max())


@pytest.mark.parametrize("alpha", [0, 0.3])
@pytest.mark.parametrize("loss", LOSSES)
def test_curvature_is_about_the_same_in_all_directions(loss, alpha, noisy, rng):
    X, y = noisy
    X = X[..., :5] @ rng.normal(size=(5, 5)) * 10 ** rng.uniform(-3, 3, 5) + 10
    objective = make_objective(X, y, loss, alpha=alpha)
    result = make_preconditioner(objective)
    # Second differences over a finite distance, to average the kinks of the hinge.
    step = 0.1 if loss == "pairwise_hinge" else 1e-3

    def gradient(v):
        _, gradient = objective.value_and_gradient(result.to_theta(v))
        return result.gradient_in_v(gradient)

    steps = step * np.eye(objective.n_parameters)
    hessian = np.array([(gradient(e) - gradient(-e)) / (2 * step) for e in steps])
    hessian = (hessian + hessian.T) / 2
    if loss == "policy_gradient":  # not convex
        hessian = hessian + 2 * np.eye(len(hessian))
    eigenvalues = np.linalg.eigvalsh(hessian)
    assert 0 < eigenvalues[-1] < 10 * eigenvalues[0]


@pytest.mark.parametrize("loss", ["log_loss", "pairwise_logistic"])
def test_principal_directions_replace_full_moments(loss, rng, monkeypatch):
    monkeypatch.setattr(preconditioner, "FULL_FEATURES", 0)
    n, k, d, n_strong = 100, 8, 60, 5
    strong = np.linalg.qr(rng.normal(size=(d, n_strong)))[0]
    X = rng.normal(size=(n, k, d))
    noise = model_hessian(make_objective(X, np.ones((n, k)), loss, alpha=0.01))
    assert noise.directions.shape[1] <= 3  # some may be at the edge
    X += 30 * rng.normal(size=(n, k, n_strong)) @ strong.T
    y = (X @ strong[:, 0] / 30 + X[..., 0] + rng.normal(size=(n, k)) > 0).astype(float)
    objective = make_objective(X, y, loss, alpha=0.01)
    model = model_hessian(objective)
    assert model.directions.shape[1] >= n_strong
    # In standardized columns, they span the strong directions.
    standardized = strong / np.sqrt(model.moment)[:, None]
    basis = np.linalg.qr(model.directions)[0]
    left = standardized - basis @ (basis.T @ standardized)
    assert np.linalg.norm(left) < 0.2 * np.linalg.norm(standardized)
    # And they save iterations.
    start, settings = np.zeros(objective.n_parameters), {"tol": 1e-4, "max_iter": 200}
    _, n_iter = minimize_lbfgs(objective, start, **settings)
    monkeypatch.setattr(preconditioner, "N_DIRECTIONS", 0)
    _, n_iter_without = minimize_lbfgs(objective, start, **settings)
    assert n_iter < 0.7 * n_iter_without


def test_columns_of_unequal_scale_and_few_rows(rng):
    """Scaled to unit variance, columns would lead far away: 2,000 iterations."""
    X = rng.normal(size=(12, 10, 1000)) * rng.lognormal(size=1000)
    y = (X.mean(axis=-1) + rng.normal(size=(12, 10)) > 0).astype(float)
    _, n_iter = minimize_lbfgs(
        make_objective(X, y, "softmax_cross_entropy", alpha=1e-4),
        np.zeros(1000),
        tol=1e-5,
        max_iter=3000,
    )
    assert n_iter < 60


@pytest.mark.parametrize("n_factors", [1, 3])
def test_factors_of_many_objectives_take_little_memory(n_factors, sets, monkeypatch):
    objective = make_objective(*sets, "log_loss", alpha=0.1)
    d = objective.n_features
    monkeypatch.setattr(preconditioner, "FULL_ENTRIES", 2 * d**2)
    model = model_hessian(objective, objective.score_curvature(), n_factors)
    assert model.moment.ndim == (2 if n_factors == 1 else 1)


@pytest.mark.parametrize("full", [False, True])
def test_moments_are_those_of_a_quarter_of_the_rows(full, rng, monkeypatch):
    X, y = rng.normal(size=(400, 4, 5)), rng.random((400, 4))
    monkeypatch.setattr(preconditioner, "FULL_FEATURES", 5 * full)
    monkeypatch.setattr(preconditioner, "N_SAMPLED", 1)
    objective = make_objective(X, y, "log_loss")
    read, rows_read = objective._read, set()

    def reading(rows):
        rows_read.update(np.arange(y.size)[rows])
        return read(rows)

    monkeypatch.setattr(objective, "_read", reading)
    model_hessian(objective)
    n_of_mean = len(np.linspace(0, y.size - 1, 256))
    assert y.size / 4 <= len(rows_read) <= y.size / 3 + n_of_mean
