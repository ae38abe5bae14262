import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import check_grad

from skqprobe._arrays import blocks
from skqprobe._candidates.layout import check_layout
from skqprobe._estimators._fit import weighted_layout
from skqprobe._objectives import linear
from skqprobe._objectives.grid import GridObjective, restrict
from skqprobe._objectives.linear import LinearObjective
from skqprobe._solvers import (
    minimize_lbfgs,
    minimize_lbfgs_grid,
    preconditioner,
    solve_ridge,
    solve_ridge_grid,
)
from skqprobe._solvers.preconditioner import model_fold_hessians, model_hessian
from skqprobe.losses import LOSSES

LEAST_SQUARES = [name for name in LOSSES if hasattr(LOSSES[name], "least_squares")]
ALPHAS = np.array([0.3, 0.01])


@pytest.fixture(params=["rows", "weighted"])
def grid_of(request, rows, rng):
    """Makes the grid of a loss on ragged rows, with three folds that overlap."""
    X, y, groups = rows
    weight = None if request.param == "rows" else rng.integers(0, 4, len(y))
    layout, prompt_weight, candidate_weight = weighted_layout(
        check_layout(y.shape, groups), weight
    )
    in_fold = rng.random((3, layout.n_prompts)) < [[0.7], [0.5], [0.6]]

    def make(loss, dtype=np.float64):
        rewards = layout.to_prompt_order(y)
        informative = LOSSES[loss]().informative_prompts(rewards, layout.offsets)
        objective = LinearObjective(
            (X + np.array([10, 0, -3, 0])).astype(dtype),
            layout,
            rewards,
            LOSSES[loss](),
            alpha=5.0,
            fit_intercept=True,
            prompt_weight=np.where(informative, prompt_weight, 0),
            candidate_weight=None
            if candidate_weight is None
            else layout.to_prompt_order(candidate_weight),
        )
        return GridObjective(objective, in_fold, ALPHAS)

    return make


def single(grid, number):
    """The objective of that number, by itself."""
    fold, alpha = divmod(number, len(ALPHAS))
    objective = restrict(grid.objective, grid.in_fold[fold])
    objective.alpha = ALPHAS[alpha]
    return objective


@pytest.mark.parametrize("loss", LOSSES)
def test_is_the_objective_of_every_fold_and_penalty(loss, grid_of, rng):
    grid = grid_of(loss)
    assert grid.n_objectives == 6
    which = np.array([5, 0, 2])
    thetas = rng.normal(size=(3, grid.objective.n_parameters))
    values, gradients = grid.value_and_gradient(thetas, which)
    for theta, number, value, gradient in zip(
        thetas, which, values, gradients, strict=True
    ):
        expected = single(grid, number).value_and_gradient(theta)
        assert value == pytest.approx(expected[0])
        assert_allclose(gradient, expected[1], atol=1e-12)


@pytest.mark.parametrize("loss", ["log_loss", "policy_gradient"])
def test_gradient_is_the_slope_of_the_value(loss, grid_of, rng):
    grid = grid_of(loss)
    theta = rng.normal(size=grid.objective.n_parameters)

    def part(theta, which):
        return grid.value_and_gradient(theta[None], np.array([3]))[which][0]

    error = check_grad(lambda t: part(t, 0), lambda t: part(t, 1), theta)
    assert error < 1e-5


@pytest.mark.parametrize("loss", ["log_loss", "policy_gradient"])
def test_curvatures_are_those_of_the_folds(loss, grid_of, rng):
    grid = grid_of(loss)
    thetas = rng.normal(size=(6, grid.objective.n_parameters))
    for number, curvature in enumerate(grid.score_curvatures(thetas)):
        fold = single(grid, number)
        expected = fold.score_curvature(fold.scores(thetas[number]))
        assert curvature == pytest.approx(expected)


def test_parts_make_up_the_folds(grid_of):
    grid = grid_of("squared_error")
    n_rows, share = np.zeros(3), np.zeros(3)
    for folds, part, weight in grid.parts():
        n_rows[folds] += part.layout.n_rows
        share[folds] += weight
    for fold in range(3):
        assert n_rows[fold] == len(grid.fold_rows[fold])
        mask = grid.in_fold[fold]
        assert share[fold] == pytest.approx(grid.objective.prompt_weight[mask].sum())


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("loss", ["log_loss", "policy_gradient"])
def test_geometries_are_those_of_the_folds(loss, full, grid_of, monkeypatch):
    if not full:
        monkeypatch.setattr(preconditioner, "FULL_COST", 0)
    grid = grid_of(loss)
    for fold, model in enumerate(model_fold_hessians(grid)):
        objective = restrict(grid.objective, grid.in_fold[fold])
        expected = model_hessian(objective)
        for name in ("mean", "moment", "curvature"):
            found = getattr(model, name)
            assert_allclose(found, getattr(expected, name), atol=1e-12)
        assert model.moment.ndim == 1 + full


@pytest.mark.parametrize("block_bytes", [300, 2**22])
@pytest.mark.parametrize("loss", LEAST_SQUARES)
def test_closed_form_is_that_of_every_fold(loss, block_bytes, grid_of, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(linear, "PRODUCT_ROWS", 1)
    grid = grid_of(loss)
    thetas = solve_ridge_grid(grid)
    for number, theta in enumerate(thetas):
        expected = solve_ridge(single(grid, number))
        assert_allclose(theta, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "pairwise_hinge"])
def test_lbfgs_is_that_of_every_fold(loss, grid_of):
    grid = grid_of(loss)
    thetas, converged = minimize_lbfgs_grid(grid, tol=1e-8, max_iter=1000)
    assert converged.all()
    for number, theta in enumerate(thetas):
        objective = single(grid, number)
        start = np.zeros(objective.n_parameters)
        expected, _ = minimize_lbfgs(objective, start, tol=1e-8, max_iter=1000)
        assert_allclose(theta, expected, rtol=1e-5, atol=1e-6)


def test_a_fold_of_no_weight_stays_at_zero(grid_of):
    grid = grid_of("squared_error")
    grid = GridObjective(
        grid.objective, grid.in_fold & [[True], [False], [True]], ALPHAS
    )
    for thetas in (
        solve_ridge_grid(grid),
        minimize_lbfgs_grid(grid, tol=1e-4, max_iter=100)[0],
    ):
        assert not thetas[2:4].any()
        assert thetas[0].any() and thetas[4].any()
