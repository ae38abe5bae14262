from dataclasses import replace

import numpy as np
import pytest
from cases import LEAST_SQUARES, SMOOTH, make_objective, solve_ridge
from numpy.testing import assert_allclose

from skqprobe._arrays import blocks
from skqprobe._candidates.layout import check_layout
from skqprobe._estimators._fit import weighted_layout
from skqprobe._objectives import linear
from skqprobe._objectives.grid import GridObjective, WholeGrid, restrict
from skqprobe._solvers import (
    minimize_lbfgs,
    preconditioner,
    solve_ridge_grid,
)
from skqprobe._solvers.preconditioner import model_fold_hessians, model_hessian
from skqprobe.losses import LOSSES

ALPHAS = np.array([0.3, 0.01])
two_kinds_of_loss = pytest.mark.parametrize("loss", ["log_loss", "policy_gradient"])


@pytest.fixture(params=["rows", "weighted"])
def grid_of(request, rows, rng):
    """Return a function that makes the grid of a loss on rows, with three folds."""
    X, y, groups = rows
    weight = None if request.param == "rows" else rng.integers(0, 4, len(y))
    layout, prompt_weight, candidate_weight = weighted_layout(
        check_layout(y.shape, groups), weight
    )
    in_fold = rng.random((3, layout.n_prompts)) < [[0.7], [0.5], [0.6]]

    def make(loss):
        rewards = layout.to_prompt_order(y)
        informative = LOSSES[loss]().informative_prompts(rewards, layout.offsets)
        objective = make_objective(
            X + np.array([10, 0, -3, 0]),
            y,
            loss,
            layout=layout,
            alpha=5.0,
            prompt_weight=np.where(informative, prompt_weight, 0),
            candidate_weight=layout.to_prompt_order(candidate_weight),
        )
        return GridObjective([objective], in_fold, ALPHAS)

    return make


def whole(objective):
    """Grid of one objective."""
    return WholeGrid([objective])


def single(grid, number):
    """Make the objective of that number alone."""
    fold, alpha = divmod(number, len(ALPHAS))
    objective = restrict(grid.objective, grid.in_fold[fold])
    objective.alpha = ALPHAS[alpha]
    return objective


@pytest.mark.parametrize("loss", LOSSES)
def test_values_and_gradients_are_those_of_single_objectives(loss, grid_of, rng):
    grid = grid_of(loss)
    assert grid.n_objectives == 6
    which = np.array([5, 0, 2])
    thetas = rng.normal(size=(3, grid.objective.n_parameters))
    found = zip(*grid.value_and_gradient(thetas, which), strict=True)
    for theta, number, (value, gradient) in zip(thetas, which, found, strict=True):
        expected = single(grid, number).value_and_gradient(theta)
        assert value == pytest.approx(expected[0])
        assert_allclose(gradient, expected[1], atol=1e-12)


@two_kinds_of_loss
def test_curvatures_are_those_of_single_objectives(loss, grid_of, rng):
    grid = grid_of(loss)
    thetas = rng.normal(size=(3, grid.objective.n_parameters))
    which = np.array([5, 0, 2])
    found = grid.score_curvatures(thetas, which)
    for theta, number, curvature in zip(thetas, which, found, strict=True):
        fold = single(grid, number)
        expected = fold.score_curvature(fold.scores(theta))
        assert_allclose(curvature, expected, atol=1e-12)


def assert_same_models(found, expected):
    assert_allclose(found.mean, expected.mean, atol=1e-12)
    assert found.curvature == pytest.approx(expected.curvature)
    moments = found.moment, expected.moment
    if found.moment.ndim == 2:  # of which only the lower triangle is valid
        moments = map(np.tril, moments)
    assert_allclose(*moments, atol=1e-12)


@pytest.mark.parametrize("full", [True, False])
@two_kinds_of_loss
def test_hessian_models_are_those_of_the_folds(loss, full, grid_of, monkeypatch):
    if not full:
        monkeypatch.setattr(preconditioner, "FULL_FEATURES", 0)
    grid = grid_of(loss)
    for in_fold, model in zip(grid.in_fold, model_fold_hessians(grid), strict=True):
        expected = model_hessian(restrict(grid.objective, in_fold))
        assert_same_models(model, expected)
        assert model.moment.ndim == 1 + full


@pytest.mark.parametrize("block_bytes", [300, 2**22])
@pytest.mark.parametrize("loss", LEAST_SQUARES)
def test_ridge_is_that_of_single_objectives(loss, block_bytes, grid_of, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(linear, "PRODUCT_ROWS", 1)
    grid = grid_of(loss)
    expected = [solve_ridge(single(grid, number)) for number in range(6)]
    assert_allclose(solve_ridge_grid(grid), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("loss", SMOOTH)
def test_lbfgs_is_that_of_single_objectives(loss, grid_of):
    grid, settings = grid_of(loss), {"tol": 1e-8, "max_iter": 1000}
    state = minimize_lbfgs(grid, **settings)
    assert state.converged.all()
    alone = [minimize_lbfgs(whole(single(grid, i)), **settings) for i in range(6)]
    expected = [each.thetas[0] for each in alone]
    assert_allclose(state.thetas, expected, rtol=1e-5, atol=1e-6)


def test_a_fold_without_weight_stays_at_zero(grid_of):
    grid = grid_of("squared_error")
    in_fold = grid.in_fold & [[True], [False], [True]]
    grid = GridObjective([grid.objective], in_fold, ALPHAS)
    for thetas in (
        solve_ridge_grid(grid),
        minimize_lbfgs(grid, tol=1e-4, max_iter=100).thetas,
    ):
        assert not thetas[2:4].any()
        assert thetas[0].any() and thetas[4].any()


def test_centered_columns_in_float32(grid_of):
    """Only a grid of columns with a large common offset is changed."""
    grid = grid_of("pairwise_logistic")

    def single_precision(X):
        objective = replace(grid.objective, X=X.astype(np.float32))
        return GridObjective([objective], grid.in_fold, ALPHAS)

    plain, shifted = (
        single_precision(grid.objective.X),
        single_precision(grid.objective.X + 1000),
    )
    assert plain.centered() is plain
    assert shifted.centered() is not shifted
    thetas = [
        minimize_lbfgs(each, tol=1e-6, max_iter=500).thetas for each in (plain, shifted)
    ]
    assert_allclose(thetas[1], thetas[0], rtol=1e-2, atol=1e-3)


# Several rewards


@pytest.fixture
def several(grid_of, rng):
    """Return a function that makes a grid of two folds, two rewards, two penalties."""

    def make(loss):
        first = grid_of(loss).objective
        rewards = np.clip(first.rewards + rng.normal(size=len(first.rewards)), 0, 1)
        informative = first.loss.informative_prompts(rewards, first.layout.offsets)
        weight = np.where(informative, first.prompt_weight, 0)
        other = replace(first, rewards=rewards, prompt_weight=weight)
        in_fold = rng.random((2, first.layout.n_prompts)) < 0.7
        return GridObjective([first, other], in_fold, ALPHAS)

    return make


def singles(grid):
    """Make all objectives of a grid, each alone, in their order."""
    restricted = [
        restrict(o, copies) for copies in grid.in_fold for o in grid.objectives
    ]
    return [replace(each, alpha=alpha) for each in restricted for alpha in grid.alphas]


@pytest.mark.parametrize("loss", LOSSES)
def test_evaluations_of_several_rewards(loss, several, rng):
    grid = several(loss)
    assert grid.n_objectives == 8
    thetas = rng.normal(size=(8, grid.objective.n_parameters))
    which = np.array([6, 1, 3])
    values, gradients = grid.value_and_gradient(thetas[which], which)
    curvatures = grid.score_curvatures(thetas[which], which)
    for i, number in enumerate(which):
        objective = singles(grid)[number]
        value, gradient = objective.value_and_gradient(thetas[number])
        assert values[i] == pytest.approx(value)
        assert_allclose(gradients[i], gradient, atol=1e-12)
        scores = objective.scores(thetas[number])
        expected = objective.score_curvature(scores)
        assert_allclose(curvatures[i], expected, atol=1e-12)
    constants = [each.best_constant() for each in singles(grid)]
    assert_allclose(grid.best_constants(), constants)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_whole_grid_is_that_of_one_fold(loss, several, rng):
    objectives = several(loss).objectives
    whole = WholeGrid(objectives)
    everything = np.ones((1, objectives[0].layout.n_prompts), dtype=int)
    grid = GridObjective(objectives, everything, [objectives[0].alpha])
    thetas, which = rng.normal(size=(2, grid.objective.n_parameters)), np.array([1, 0])
    for found, expected in zip(
        whole.value_and_gradient(thetas, which),
        grid.value_and_gradient(thetas, which),
        strict=True,
    ):
        assert_allclose(found, expected, atol=1e-12)
    assert_allclose(
        whole.score_curvatures(thetas, which), grid.score_curvatures(thetas, which)
    )
    found, expected = model_fold_hessians(whole), model_fold_hessians(grid)
    for one, other in zip(found, expected, strict=True):
        assert_allclose(one.moment, other.moment, atol=1e-12)
        assert one.curvature == pytest.approx(other.curvature)


@pytest.mark.parametrize("full", [True, False])
@two_kinds_of_loss
def test_hessian_models_of_several_rewards(loss, full, several, monkeypatch):
    if not full:
        monkeypatch.setattr(preconditioner, "FULL_FEATURES", 0)
    grid = several(loss)
    expected = map(model_hessian, singles(grid)[::2])
    for found, model in zip(model_fold_hessians(grid), expected, strict=True):
        assert_same_models(found, model)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("alphas", [ALPHAS, np.array([0.3, 0.0])], ids=["", "and 0"])
@pytest.mark.parametrize("loss", LEAST_SQUARES)
def test_ridge_of_several_rewards(loss, alphas, dtype, several):
    grid = several(loss)
    grid = GridObjective(grid.objectives, grid.in_fold, alphas)
    expected = [solve_ridge(each) for each in singles(grid)]
    grid = grid.replace(X=grid.objective.X.astype(dtype))
    close = 1e-8 if dtype == np.float64 else 1e-3
    assert_allclose(solve_ridge_grid(grid), expected, rtol=close, atol=close)


@pytest.mark.parametrize("loss", SMOOTH)
def test_lbfgs_of_several_rewards(loss, several, rng):
    grid, settings = several(loss), {"tol": 1e-8, "max_iter": 1000}
    found = minimize_lbfgs(grid, **settings)
    alone = [minimize_lbfgs(whole(each), **settings) for each in singles(grid)]
    expected = [each.thetas[0] for each in alone]
    assert found.converged.all()
    assert_allclose(found.thetas, expected, rtol=1e-5, atol=1e-6)
    assert found.n_iter.max() <= max(each.n_iter[0] for each in alone) + 3
    if loss == "policy_gradient":  # not convex
        return
    near = found.thetas + 1e-3 * rng.normal(size=found.thetas.shape)
    again = minimize_lbfgs(grid, near, **settings)
    assert_allclose(again.thetas, expected, rtol=1e-4, atol=1e-5)
    assert again.n_iter.max() <= found.n_iter.max()
