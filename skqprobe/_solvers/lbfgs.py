"""L-BFGS in well-conditioned parameters, for one objective or for a grid of them."""

from dataclasses import replace
from itertools import repeat
from types import SimpleNamespace

import numpy as np

from skqprobe._arrays.threads import one_thread
from skqprobe._solvers.batched_lbfgs import minimize_batched_lbfgs
from skqprobe._solvers.preconditioner import (
    Preconditioner,
    model_fold_hessians,
    model_hessian,
)

GAP, GAP_WITH_KINKS = 3e-4, 1e-3
"""Part of the total gain that may be left at a minimum, by an estimate that is too high
near kinks. A search that rounding ends earlier has not converged."""

BIAS = 5
"""Part of the total gain, in units of the tolerance, that smoothed kinks may cost."""

MAX_FALL = 30
"""Factor by which the curvature may fall in a search before another one is worth it."""

MAX_ROUNDS = 3
"""Maximum number of searches for one minimum, each with the curvature at the end of the
one before."""


@one_thread()  # but for sums over large X
def minimize_lbfgs(grid, thetas=None, *, tol, max_iter, on_iteration=None):
    """Minimize all objectives of a grid with L-BFGS, in common reads of X.

    Each search runs in parameters of about equal curvature, see `Preconditioner`,
    scaled so that the gradient at the best constant scores has length 1. The meaning of
    `tol` therefore depends neither on the scale of the columns or the rewards, nor on
    the starting point. Up to rounding, a search takes the same path in any grid.

    Parameters
    ----------
    grid : GridObjective
        Objectives to minimize.
    thetas : ndarray of shape (n_objectives, n_parameters), default=None
        Starting points. None means zeros.
    tol : float
        Tolerance, above 0. A search has converged when the gradient is `tol` times as
        long as at the best constant scores, or the gains of the last iterations show
        that little of the total gain is left, in proportion to `tol`.
    max_iter : int
        Maximum number of iterations of each search, at least 1.
    on_iteration : callable, default=None
        Function called with all parameters and the sum of the values after iterations.
        It returns True to stop.

    Returns
    -------
    state : object
        Attributes per objective: `thetas`, the parameters at the minimum; `n_iter`;
        `converged`, False after `max_iter` iterations, or if rounding ended the search
        while more than GAP is left to gain; `length`, that of the gradient as a part of
        that at the best constant scores; and `left`, an estimate of what is left to
        gain.
    """
    grid = grid.centered().in_span()
    n = grid.n_objectives
    if thetas is None or not thetas.any():
        thetas = np.zeros((n, grid.objective.n_parameters))
    else:
        thetas = grid.objective.from_raw(thetas)
    loss = grid.objective.loss
    widths = _widths(tol) if hasattr(loss, "smoothed") else [0]

    def callback(thetas, values):
        if len(widths) > 1:
            values = grid.value_and_gradient(thetas, np.arange(n))[0]
        return on_iteration(grid.objective.to_raw(thetas), values.sum())

    state = SimpleNamespace(
        thetas=thetas,
        values=np.zeros(n),
        n_iter=np.zeros(n, dtype=int),
        converged=np.zeros(n, dtype=bool),
        length=np.zeros(n),
        left=np.zeros(n),
        models=None,
        stopped=False,
    )
    settings = {"max_iter": max_iter, "on_iteration": on_iteration and callback}
    active = np.arange(n)
    for width in widths:
        smoothed = grid.with_loss(loss.smoothed(width)) if width else grid
        is_last = width == widths[-1]
        _minimize_stage(smoothed, state, active, is_last, tol, **settings)
        if widths[0] > width > widths[-1] and not state.stopped:
            active = active[~_is_smooth_enough(grid, width, state, active, tol)]
        if state.stopped or len(active) == 0:
            break
    state.thetas = grid.objective.to_raw(state.thetas)
    return state


def _minimize_stage(grid, state, active, is_last, tol, max_iter, on_iteration):
    """Minimize objectives of a grid from the parameters in a state, and update it.

    Where softmax and sigmoid saturate, the curvature of a loss is far smaller than at
    zero, and that of most prompts is nearly 0. A search that takes long, or ends where
    much may be left to gain for this reason, goes on with the curvature that it has
    found.

    Parameters
    ----------
    grid : GridObjective
        Objectives.
    state : object
        See `minimize_lbfgs`.
    active : ndarray of int
        Numbers of the objectives to minimize.
    is_last : bool
        Whether the minimum counts. Otherwise, one search at lower precision is enough.
    tol, max_iter, on_iteration
        See `minimize_lbfgs`.
    """
    is_near = state.models is not None
    ftol = (0.1 if is_near and is_last else 0.3) * tol
    constants = grid.best_constants()
    at_constants = grid.value_and_gradient(constants, np.arange(grid.n_objectives))
    is_constant = not (is_near or state.thetas.any())
    if is_constant:
        state.thetas = constants
    elif not is_near:
        state.thetas = _check_start(grid, state.thetas, constants, at_constants[0])
    goes_on = is_last and grid.objective.loss.smooth
    # A later search is better conditioned, so that less is left where it gains little.
    later, min_recent, gap = 5 * ftol, 2, GAP
    if not is_near:  # they all share the moments of X
        state.models = np.repeat(model_fold_hessians(grid), len(grid.alphas))
        models = state.models[active]
    else:
        # Only their scale counts: other rows curve the loss after few steps.
        curvatures = grid.score_curvatures(state.thetas[active], active)
        models = [
            replace(model, curvature=curvature.sum() or model.curvature)
            for model, curvature in zip(state.models[active], curvatures, strict=True)
        ]
        later, min_recent, gap = 0.3 * ftol, 5, GAP_WITH_KINKS
    for number in range(MAX_ROUNDS if is_last else 1):
        preconditioners = _preconditioners(grid, active, models)
        problems = _PreconditionedProblems(grid, preconditioners, at_constants, active)

        def has_fallen(v, which, problems=problems, numbers=active):
            thetas = problems.to_theta(v, which)
            now = grid.score_curvatures(thetas, numbers[which])
            return problems.fall(now, which) >= MAX_FALL

        found = minimize_batched_lbfgs(
            problems.value_and_gradient,
            problems.to_v(state.thetas[active]),
            # Most fits start there, which saves them a read of X.
            problems.at_constants if is_constant and number == 0 else None,
            tol=tol if is_last else 10 * tol,
            ftol=max(ftol if number == 0 else later, 64 * np.finfo(float).eps),
            # The first steps of a search that starts near its minimum gain little.
            min_recent=min_recent if number == 0 else 4,
            max_iter=max_iter - state.n_iter[active],
            precision=np.finfo(grid.objective.dtype).eps,
            on_iteration=on_iteration and problems.callback(on_iteration, state),
            must_stop=has_fallen if goes_on and number < MAX_ROUNDS - 1 else None,
        )
        problems.update(state, found)
        if found.stopped or not goes_on:
            return
        curvatures = grid.score_curvatures(state.thetas[active], active)
        fall = problems.fall(curvatures, np.arange(len(active)))
        is_minimum = _is_minimum(found, fall, max(gap, tol))
        state.converged[active] &= is_minimum
        is_done = found.converged & is_minimum & (fall < MAX_FALL)
        is_done |= state.n_iter[active] >= max_iter
        active = active[~is_done]
        if len(active) == 0:
            return
        curvatures = [curvatures[i] for i in np.flatnonzero(~is_done)]
        folds = _folds(grid, active)
        models = map(model_hessian, folds, curvatures, repeat(len(active)))


def _folds(grid, which):
    """List the objectives, without penalties, that have these numbers in a grid."""
    return [grid.fold_objectives[i] for i in which // len(grid.alphas)]


def _preconditioners(grid, which, models):
    """Make the preconditioners of objectives from models of their Hessians."""
    alphas = grid.alphas[which % len(grid.alphas)]
    return list(map(Preconditioner, _folds(grid, which), alphas, models))


def _widths(tol):
    """List the widths of smooth losses to minimize one after the other.

    The gradient of a loss with kinks says nothing about the distance from the minimum.
    Smooth losses that approach it have the minimum as their limit.
    """
    # From 1 to 30 * tol, each about a seventh of the one before.
    n_stages = 1 + max(1, round(-np.log10(30 * tol) / np.log10(7)))
    return np.geomspace(1, min(30 * tol, 0.1), n_stages)


def _is_smooth_enough(grid, width, state, which, tol):
    """Check that minima of a smoothed loss are near those of the loss with kinks.

    From the change of the smoothed loss with its width follows the dual value of the
    loss with kinks [1]_, a lower bound of its minimum.

    References
    ----------
    .. [1] Nesterov, "Smooth minimization of non-smooth functions", 2005.
    """
    loss = grid.objective.loss
    thetas, zeros = state.thetas[which], np.zeros_like(state.thetas[which])

    def values(loss, thetas):
        return grid.with_loss(loss).value_and_gradient(thetas, which)[0]

    exact, smooth, wider = (
        values(each, thetas)
        for each in (loss, loss.smoothed(width), loss.smoothed(1.1 * width))
    )
    gap = exact - smooth - 10 * (smooth - wider) + state.left[which]
    return gap <= BIAS * tol * (values(loss, zeros) - exact)


def _is_minimum(state, fall, gap):
    """Check that little is left to gain, from the gradient and the curvature.

    In parameters of unit curvature, half of the squared gradient is left to gain, or
    more if the curvature has fallen by a factor `fall`.
    """
    left = np.linalg.norm(state.gradient, axis=1) ** 2 / 2 * np.maximum(fall, 1)
    return (left <= gap * abs(state.value)) | (state.value == 0)


def _check_start(grid, thetas, constants, values_at_constants):
    """Replace starting points that are worse than a tenth of them, or than constants.

    A start from a fit to features of another scale would be far from the minimum, where
    the preconditioner is poor.
    """
    everything = np.arange(len(thetas))
    values, smaller = (
        grid.value_and_gradient(each, everything)[0] for each in (thetas, thetas / 10)
    )
    is_good = values < np.minimum(smaller, values_at_constants)
    return np.where(is_good[:, None], thetas, constants)


class _PreconditionedProblems:
    """Objectives in well-conditioned parameters v, each in its own unit of value.

    Parameters
    ----------
    grid : GridObjective
        All objectives.
    preconditioners : list of Preconditioner
        Preconditioner of each problem.
    at_constants : tuple of ndarray
        Values and gradients of all objectives at the best constant scores. They are the
        zero and the unit of the values.
    numbers : ndarray of int
        Numbers of the objectives.
    """

    def __init__(self, grid, preconditioners, at_constants, numbers):
        self.grid, self.numbers = grid, numbers
        self.preconditioners = preconditioners
        self.everything = np.arange(len(preconditioners))
        self.offset, gradients = (array[numbers] for array in at_constants)
        gradients = self._convert("gradient_in_v", gradients, self.everything)
        # With unit curvature, a step of the length of the gradient ends near the
        # minimum.
        self.unit = np.linalg.norm(gradients, axis=1)
        self.unit[self.unit == 0] = 1
        self.at_constants = np.zeros(len(self.unit)), gradients / self.unit[:, None]

    def _convert(self, method, vectors, which):
        """Apply a method of the preconditioners to the vectors of some problems."""
        converted = [
            getattr(self.preconditioners[number], method)(vector)
            for number, vector in zip(which, vectors, strict=True)
        ]
        return np.array(converted)

    def to_theta(self, v, which=slice(None)):
        """Convert parameters v of some problems to theta."""
        unit = self.unit[which, None]
        return self._convert("to_theta", unit * v, self.everything[which])

    def to_v(self, thetas):
        """Convert thetas to v, in which the minima are about 1 away."""
        return self._convert("to_v", thetas, self.everything) / self.unit[:, None]

    def to_values(self, values):
        """Convert values from the units of the problems to those of the objectives."""
        return values * self.unit**2 + self.offset

    def fall(self, curvatures, which):
        """Compute the factors by which curvatures fell below those of the models."""
        before = np.array([self.preconditioners[i].curvature for i in which])
        after = np.array([each.sum() for each in curvatures])
        return np.divide(before, after, out=np.ones_like(after), where=after > 0)

    def update(self, state, found):
        """Move the parameters of a state to what a search has found."""
        moved = found.n_iter > 0
        numbers = self.numbers[moved]
        state.thetas[numbers] = self.to_theta(found.point)[moved]
        state.values[self.numbers] = self.to_values(found.value)
        state.n_iter[self.numbers] += found.n_iter
        state.converged[self.numbers] = found.converged
        state.length[self.numbers] = np.linalg.norm(found.gradient, axis=1)
        state.left[self.numbers] = (state.length[self.numbers] * self.unit) ** 2 / 2
        state.stopped = found.stopped

    def callback(self, on_iteration, state):
        """Make the function of parameters v and their values from one of all thetas."""

        def call(v, values):
            thetas, all_values = state.thetas.copy(), state.values.copy()
            thetas[self.numbers] = self.to_theta(v)
            all_values[self.numbers] = self.to_values(values)
            return on_iteration(thetas, all_values)

        return call

    def value_and_gradient(self, v, which):
        """Evaluate some of the problems, in their own units."""
        unit = self.unit[which]
        thetas = self._convert("to_theta", unit[:, None] * v, which)
        values, gradients = self.grid.value_and_gradient(thetas, self.numbers[which])
        gradients = self._convert("gradient_in_v", gradients, which)
        return (values - self.offset[which]) / unit / unit, gradients / unit[:, None]
