import tracemalloc

import numpy as np
import pytest
from cases import LEAST_SQUARES, centered_in_prompts, make_objective, solve_ridge
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import Ridge

from skqprobe import QProbePolicy
from skqprobe._arrays import blocks
from skqprobe._objectives import linear
from skqprobe._objectives.grid import GridObjective
from skqprobe._solvers import ridge, solve_ridge_grid, symmetric_systems
from skqprobe.losses import ContrastivePolicyGradient

ALPHAS = np.logspace(3, -6, 20)

every_loss = pytest.mark.parametrize("loss", LEAST_SQUARES)
with_and_without_intercept = pytest.mark.parametrize("fit_intercept", [False, True])


@pytest.fixture(params=["few_features", "many_features"])
def problem(request, rng):
    """30 prompts of 4, with 7 features (fewer than rows) or with 150 (more)."""
    d = 7 if request.param == "few_features" else 150
    X = rng.normal(size=(30, 4, d)) + rng.normal(size=d)
    return X, X[..., 0] - X[..., 1] + rng.normal(size=(30, 4))


def solve(X, y, loss, **settings):
    return solve_ridge(make_objective(X, y, loss, **settings))


# The solution of one objective


@pytest.mark.parametrize("alpha", [1e-4, 0.1, 100])
@with_and_without_intercept
@every_loss
def test_gradient_vanishes(loss, fit_intercept, alpha, problem):
    objective = make_objective(*problem, loss, alpha=alpha, fit_intercept=fit_intercept)
    theta = solve_ridge(objective)
    assert theta.shape == (objective.n_parameters,)
    _, at_zero = objective.value_and_gradient(np.zeros_like(theta))
    _, gradient = objective.value_and_gradient(theta)
    assert abs(gradient).max() < 1e-10 * abs(at_zero).max()


@pytest.mark.parametrize("b", [1.0, 2.5])
@pytest.mark.parametrize("weighted", [False, True])
def test_contrastive_policy_gradient_is_ridge_on_centered_rows(b, weighted, rows, rng):
    X, y, groups = rows
    weight = rng.uniform(0.2, 4, len(X)) if weighted else np.ones(len(X))
    policy = QProbePolicy(ContrastivePolicyGradient(b), alpha=0.1, solver="closed_form")
    policy.fit(X, y, groups, sample_weight=weight if weighted else None)
    copies = {label: weight[groups == label].sum() for label in set(groups)}
    expected = Ridge(0.1 / b**2 * len(copies), fit_intercept=False).fit(
        centered_in_prompts(X, groups, weight),
        centered_in_prompts(y, groups, weight) / b,
        sample_weight=weight / [copies[label] for label in groups],
    )
    assert_allclose(policy.coef_, expected.coef_, rtol=1e-8)
    assert policy.intercept_ == 0
    assert policy.n_iter_ == 1


@pytest.mark.parametrize("n_folds", [1, 3])
@pytest.mark.parametrize("d", [7, 90])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pairs(dtype, weighted, d, n_folds, rng):
    """60 pairs, of fewer features or of more."""
    X, y = (rng.normal(size=(60, 2, d)) + 3).astype(dtype), rng.random((60, 2))
    weight = rng.uniform(0.5, 2, size=y.size) if weighted else None
    settings = {"candidate_weight": weight, "prompt_weight": rng.uniform(1, 2, 60)}
    objective = make_objective(X, y, "contrastive_policy_gradient", **settings)
    in_fold = np.arange(60) % n_folds != 1
    in_fold = np.array([np.roll(in_fold, i) for i in range(n_folds)]).astype(int)
    grid = GridObjective([objective], in_fold, [1e-3, 0.1])
    thetas, which = solve_ridge_grid(grid), np.arange(grid.n_objectives)
    _, at_zero = grid.value_and_gradient(np.zeros_like(thetas), which)
    _, gradient = grid.value_and_gradient(thetas, which)
    tolerance = 1e-4 if dtype == np.float32 else 1e-10
    assert abs(gradient).max() < tolerance * abs(at_zero).max()


@every_loss
def test_without_penalty(loss, problem):
    X, y = problem
    theta = solve(X, y, loss, alpha=0)
    if loss == "squared_error":
        design = np.column_stack([X.reshape(y.size, -1), np.ones(y.size)])
        target = y.ravel()
    else:
        design = (X - X.mean(axis=1, keepdims=True)).reshape(y.size, -1)
        target = (y - y.mean(axis=1, keepdims=True)).ravel()
    expected = np.linalg.lstsq(design, target, rcond=None)[0]
    assert_allclose(design @ theta, design @ expected, atol=1e-8)
    if design.shape[1] < y.size:  # the solution is unique
        assert_allclose(theta, expected, rtol=1e-8)


@pytest.mark.parametrize("alpha", [0, 1e-7, 1e-3])
@every_loss
def test_constant_and_duplicated_columns(loss, alpha, problem):
    X, y = problem
    d, constant = X.shape[-1], np.full((*y.shape, 1), 0.1)  # no sum of powers of two
    degenerate = np.concatenate([X, X[..., :2], constant, 0 * constant], axis=-1)
    theta = solve(degenerate, y, loss, alpha=alpha)
    assert np.isfinite(theta).all()
    if alpha > 0:
        assert_allclose(theta[:2], theta[d : d + 2], rtol=1e-3, atol=1e-6)
        assert abs(theta[d + 2]) < 1e-6
    assert theta[d + 3] == 0

    # A duplicated column equals one column times sqrt(2) under the same penalty.
    same = X.copy()
    same[..., :2] *= np.sqrt(2)
    expected = solve(same, y, loss, alpha=alpha)
    scores, expected_scores = degenerate @ theta[: d + 4], same @ expected[:d]
    if loss == "squared_error":
        scores, expected_scores = scores + theta[-1], expected_scores + expected[-1]
    else:
        scores = scores - scores.mean(axis=1, keepdims=True)
        expected_scores -= expected_scores.mean(axis=1, keepdims=True)
    assert_allclose(scores, expected_scores, atol=1e-6)


@pytest.mark.parametrize(
    ("alpha", "scale", "shift", "rtol"),
    [(0, 10.0 ** np.linspace(-6, 6, 7), 0, 1e-9), (0.1, np.ones(7), 1e3, 1e-8)],
    ids=["many scales", "far from zero"],
)
@every_loss
def test_scaled_and_shifted_columns(loss, alpha, scale, shift, rtol, rng):
    X = rng.normal(size=(30, 4, 7))
    y = X[..., 0] + rng.normal(size=(30, 4))
    theta = solve(X, y, loss, alpha=alpha)
    changed = solve(X * scale + shift, y, loss, alpha=alpha)
    assert_allclose(changed[:7] * scale, theta[:7], rtol=rtol)


@pytest.mark.parametrize("alpha", [0, 1e-8])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@every_loss
def test_dependent_columns_in_low_precision(loss, dtype, alpha, rng):
    """The normal equations do not add the rounding of products in float32.

    Up to the rounding of X, half of the columns are combinations of the others.
    """
    X = rng.normal(size=(100, 6, 20))
    X[..., 10:] = X[..., :10] @ rng.normal(size=(10, 10))
    y = X[..., 0] + rng.normal(size=(100, 6))
    X = X.astype(dtype)
    exact = make_objective(X.astype(np.float64), y, loss, alpha=alpha)
    best, _ = exact.value_and_gradient(solve_ridge(exact))
    theta = solve(X, y, loss, alpha=alpha)
    assert exact.value_and_gradient(theta)[0] == pytest.approx(best, rel=1e-4)


# The choice of the solver


@pytest.mark.parametrize("loss", ["squared_error", "contrastive_policy_gradient"])
def test_solvers_of_losses_with_a_closed_form(loss, sets):
    assert loss in LEAST_SQUARES
    auto, closed, lbfgs = (
        QProbePolicy(loss, solver=solver, tol=1e-8).fit(*sets)
        for solver in ("auto", "closed_form", "lbfgs")
    )
    assert_array_equal(closed.coef_, auto.coef_)
    assert lbfgs.n_iter_ > 1
    assert_allclose(lbfgs.coef_, closed.coef_, atol=1e-7)
    assert lbfgs.intercept_ == pytest.approx(closed.intercept_, abs=1e-7)


# Matrices in float32


@pytest.fixture
def accepted(monkeypatch):
    """Whether each solution with matrices in float32 was accepted."""
    original, found = ridge._solve_in_float32, []

    def solve_in_float32(grid):
        thetas = original(grid)
        found.append(thetas is not None)
        return thetas

    monkeypatch.setattr(ridge, "_solve_in_float32", solve_in_float32)
    return found


def embeddings(rng, d, dtype=np.float32):
    """60 prompts of 5, whose columns have offsets and many scales."""
    X = rng.normal(size=(60, 5, d)) + rng.normal(size=(60, 1, d)) + 5
    X = (X * rng.lognormal(size=d)).astype(dtype)
    return X, X[..., 0] / X[..., 0].std() + rng.normal(size=(60, 5))


def score_error(thetas, X, y, loss, **settings):
    """Largest error of the scores of several solutions, relative to their spread."""
    exact = make_objective(X.astype(np.float64), y, loss, **settings)
    scores = np.array([exact.scores(theta) for theta in (*thetas, solve_ridge(exact))])
    if exact.loss.shift_invariant:
        scores = scores.reshape(-1, *y.shape)
        scores -= scores.mean(axis=-1, keepdims=True)
    return abs(scores[:-1] - scores[-1]).max() / scores[-1].std()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("d", [40, 400])
@pytest.mark.parametrize("weighted", [False, True])
@with_and_without_intercept
@every_loss
def test_float32(loss, fit_intercept, weighted, d, dtype, accepted, rng):
    X, y = embeddings(rng, d, dtype)
    settings = {"alpha": 1e-3, "fit_intercept": fit_intercept}
    if weighted:
        settings["prompt_weight"] = rng.uniform(0, 2, 60)
        settings["candidate_weight"] = rng.uniform(0.1, 2, 300)
    theta = solve(X, y, loss, **settings)
    assert accepted == [True]
    assert score_error([theta], X, y, loss, **settings) < 2e-5


@pytest.mark.parametrize("d", [40, 400])
@every_loss
def test_corrections_in_float32(loss, d, accepted, monkeypatch, rng):
    X, y = embeddings(rng, d)
    X[..., 1] = X[..., 0] + 0.03 * X[..., 1]  # a matrix that is nearly singular
    y += (X[..., 1] - X[..., 0]) / 0.03
    theta = solve(X, y, loss, alpha=1e-6)
    monkeypatch.setattr(ridge, "TOLERANCE", 2.0)
    first = solve(X, y, loss, alpha=1e-6)
    assert accepted == [True, True]
    errors = [score_error([t], X, y, loss, alpha=1e-6) for t in (theta, first)]
    assert errors[0] < 2e-5 < 5e-5 < errors[1]


@pytest.mark.parametrize("d", [40, 400])
@every_loss
def test_float64_where_float32_does_not_converge(loss, d, accepted, monkeypatch, rng):
    X, y = embeddings(rng, d)
    monkeypatch.setattr(ridge, "MAX_SOLUTIONS", 1)  # no correction
    theta = solve(X, y, loss)
    assert accepted == [False]
    assert score_error([theta], X, y, loss) < 1e-6


@pytest.mark.parametrize("unit", [1e-25, 1e25])
@every_loss
def test_squares_out_of_the_range_of_float32(loss, unit, accepted, rng):
    X, y = embeddings(rng, 40)
    settings = {"alpha": 1e-3 * unit**2}
    theta = solve(X * np.float32(unit), y, loss, **settings)
    assert accepted == [False]
    assert score_error([theta], X * np.float32(unit), y, loss, **settings) < 1e-5


@pytest.mark.parametrize("d", [40, 400])
@pytest.mark.parametrize("mean", [1.0, 1e5])
def test_mean_of_rewards_without_intercept_in_float32(mean, d, accepted, rng):
    """A large mean takes the digits of what differs between candidates."""
    X, y = embeddings(rng, d)
    X[..., 0] = 1.0
    settings = {"alpha": 1e-4, "fit_intercept": False}
    theta = solve(X, y + mean, "squared_error", **settings)
    assert accepted == [mean == 1]
    assert score_error([theta], X, y + mean, "squared_error", **settings) < 1e-4


@pytest.mark.parametrize("weighted", [False, True])
@every_loss
def test_grid_in_float32(loss, weighted, accepted, rng):
    X, y = embeddings(rng, 40)
    in_fold = rng.integers(0, 3, (4, 60))
    weight = {"prompt_weight": rng.uniform(0, 2, 60)} if weighted else {}
    grid = GridObjective([make_objective(X, y, loss, **weight)], in_fold, ALPHAS)
    thetas = solve_ridge_grid(grid)
    assert accepted == [True]
    for number in range(0, 80, 7):
        copies, alpha = in_fold[number // 20], ALPHAS[number % 20]
        weight = grid.objective.prompt_weight * copies
        settings = {"alpha": alpha, "prompt_weight": weight}
        assert score_error([thetas[number]], X, y, loss, **settings) < 1e-4


@every_loss
def test_grid_in_float64_where_float32_does_not_converge(
    loss, accepted, monkeypatch, rng
):
    X, y = embeddings(rng, 40)
    in_fold = np.arange(60) % 3 != [[0], [1], [2]]
    grid = GridObjective([make_objective(X, y, loss)], in_fold, ALPHAS[::6])
    expected = solve_ridge_grid(grid)
    monkeypatch.setattr(symmetric_systems, "MAX_STEPS", 0)
    thetas = solve_ridge_grid(grid)
    assert accepted == [True, False]
    error = np.linalg.norm(thetas - expected, axis=1)
    assert (error < 1e-4 * np.linalg.norm(expected, axis=1)).all()


@every_loss
def test_float16_in_several_blocks_with_few_rows(loss, accepted, monkeypatch, rng):
    """The reader converts all blocks in the same memory."""
    X, y = embeddings(rng, 400, np.float16)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4 * 400 * 8)
    monkeypatch.setattr(linear, "PRODUCT_ROWS", 8)
    for alpha in (1e-3, 0):  # without a penalty, in float64
        theta = solve(X, y, loss, alpha=alpha)
        assert score_error([theta], X, y, loss, alpha=alpha) < 1e-4
    assert accepted == [True]


def test_memory_of_a_fit_in_float32(rng):
    """A matrix and its factor, in float32."""
    d = 600
    X, y = rng.normal(size=(400, 2, d)).astype(np.float32), rng.normal(size=(400, 2))
    tracemalloc.start()
    solve(X, y, "squared_error")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.2 * 4 * d**2 + 2 * X.nbytes


# Systems of several folds and penalties
