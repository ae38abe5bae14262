"""L-BFGS in well-conditioned parameters, for one objective or for a grid of them."""

from dataclasses import replace

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skqprobe._solvers.batched_lbfgs import minimize_batched_lbfgs
from skqprobe._solvers.preconditioner import (
    Preconditioner,
    model_fold_hessians,
    model_hessian,
)
from skqprobe._utils.warn import warn_user

NEAR = 0.1
"""Length of the gradient, relative to that at zero, at which the parameters are near
enough to the minimum to measure the curvature there."""

MAX_RESCALINGS = 12
"""Maximum number of divisions by ten of a starting point."""

GAP = 1e-3
"""Part of the total gain that may be left at a minimum. A search that rounding ends
earlier has not converged."""


def minimize_lbfgs(objective, theta, *, tol, max_iter, on_iteration=None):
    """Minimize an objective with L-BFGS.

    The search runs in parameters of about equal curvature, see `Preconditioner`, scaled
    so that the gradient at zero has length 1. The meaning of `tol` therefore depends
    neither on the scale of the columns or the rewards, nor on the starting point.

    Parameters
    ----------
    objective : LinearObjective
        Objective to minimize.
    theta : ndarray of shape (n_parameters,)
        Starting point.
    tol : float
        Tolerance, above 0. The search has converged when the gradient is `tol` times as
        long as at zero, or an iteration gains less than ``tol**1.5`` of the total gain
        since zero.
    max_iter : int
        Maximum number of iterations, at least 1.
    on_iteration : callable, default=None
        Function called with (theta, value) after each iteration. It returns True to
        stop.

    Returns
    -------
    theta : ndarray of shape (n_parameters,)
        Parameters at the minimum.
    n_iter : int
        Number of iterations, at least 1.

    Warns
    -----
    ConvergenceWarning
        If the search has not converged after `max_iter` iterations.
    """
    objective = objective.centered()

    def evaluate(thetas, which):
        value, gradient = objective.value_and_gradient(thetas[0])
        return np.array([value]), gradient[None]

    def measure_curvatures(thetas):
        return [objective.score_curvature(objective.scores(thetas[0]))]

    def callback(thetas, values):
        return on_iteration(objective.to_raw(thetas[0]), values[0])

    thetas, state = _minimize(
        evaluate,
        measure_curvatures,
        [(objective, objective.alpha, model_hessian(objective))],
        objective.from_raw(theta)[None],
        tol=tol,
        max_iter=max_iter,
        on_iteration=None if on_iteration is None else callback,
    )
    n_iter = int(state.n_iter[0])
    if not state.converged[0]:
        warn_user(
            f"L-BFGS did not converge after {n_iter} iterations (max_iter={max_iter}): "
            f"the gradient is {np.linalg.norm(state.gradient[0]):.1e} times as long as "
            f"at zero, tol={tol:g}. Increase max_iter, or alpha, or tol.",
            ConvergenceWarning,
        )
    return objective.to_raw(thetas[0]), max(n_iter, 1)


def minimize_lbfgs_grid(grid, *, tol, max_iter):
    """Minimize all objectives of a grid with L-BFGS, in common reads of X.

    Up to rounding, each search takes the path of `minimize_lbfgs` on its fold.

    Parameters
    ----------
    grid : GridObjective
        Objectives to minimize.
    tol : float
        Tolerance, see `minimize_lbfgs`.
    max_iter : int
        Maximum number of iterations of each search.

    Returns
    -------
    thetas : ndarray of shape (n_objectives, n_parameters)
        Parameters at the minima.
    converged : ndarray of bool, of shape (n_objectives,)
        Whether each search has converged.
    """
    grid = grid.centered()
    folds = zip(grid.fold_objectives, model_fold_hessians(grid), strict=True)
    thetas, state = _minimize(
        grid.value_and_gradient,
        grid.score_curvatures,
        [(fold, alpha, model) for fold, model in folds for alpha in grid.alphas],
        np.zeros((grid.n_objectives, grid.objective.n_parameters)),
        tol=tol,
        max_iter=max_iter,
    )
    return grid.objective.to_raw(thetas), state.converged


def _minimize(
    evaluate, measure_curvatures, models, thetas, *, tol, max_iter, on_iteration=None
):
    """Minimize objectives in two stages.

    Where softmax and sigmoid saturate, the curvature of a loss is far smaller than at
    zero. The second stage starts near the minimum, in parameters that are
    well-conditioned for the curvature there.

    Parameters
    ----------
    evaluate : callable
        Function of all objectives, see `_PreconditionedProblems`.
    measure_curvatures : callable
        Function that maps thetas to the curvature of the loss of each objective.
    models : list of tuple
        Arguments of the `Preconditioner` of each objective, for scores of zero.
    thetas : ndarray of shape (n, n_parameters)
        Starting points.
    tol, max_iter
        See `minimize_lbfgs`.
    on_iteration : callable, default=None
        Function called with thetas and values after each iteration. It returns True to
        stop.

    Returns
    -------
    thetas : ndarray of shape (n, n_parameters)
        Parameters at the minima.
    state : object
        Result of the last `minimize_batched_lbfgs`, with `n_iter` of both stages.
    """
    at_zero = evaluate(np.zeros_like(thetas), np.arange(len(thetas)))
    if thetas.any():
        thetas = _rescale(evaluate, thetas, at_zero[0])
    n_iter = 0

    def callback(v, values):
        return on_iteration(problems.to_theta(v), problems.to_values(values))

    for until in [NEAR, tol] if tol < NEAR else [tol]:
        if until < NEAR:
            curvatures = measure_curvatures(thetas)
            models = [
                (objective, alpha, replace(model, curvature=curvature))
                for (objective, alpha, model), curvature in zip(
                    models, curvatures, strict=True
                )
            ]
        preconditioners = [Preconditioner(*model) for model in models]
        problems = _PreconditionedProblems(evaluate, preconditioners, at_zero)
        state = minimize_batched_lbfgs(
            problems.value_and_gradient,
            problems.to_v(thetas),
            # Most fits start at zero, which saves them a read of X.
            None if thetas.any() else problems.at_zero,
            tol=until,
            ftol=_least_gain(until),
            max_iter=max_iter - n_iter,
            precision=np.finfo(models[0][0].dtype).eps,
            on_iteration=None if on_iteration is None else callback,
        )
        moved = state.n_iter > 0
        thetas = np.where(moved[:, None], problems.to_theta(state.point), thetas)
        n_iter = n_iter + state.n_iter
        if state.stopped:
            break
    state.n_iter = n_iter
    # With unit curvature, half of the squared gradient is left to gain.
    length = np.linalg.norm(state.gradient, axis=1)
    is_minimum = length**2 / 2 <= max(GAP, tol) * abs(state.value)
    is_minimum |= (length <= tol) | (state.value == 0)
    if models[0][0].loss.smooth and not state.stopped:
        state.converged &= is_minimum
    return thetas, state


def _rescale(evaluate, thetas, values_at_zero):
    """Divide starting points by powers of ten while that decreases the value.

    A start from a fit to features of another scale would be far from the minimum, where
    the preconditioner is poor. One that is worse than zero is replaced by zero.
    """
    everything = np.arange(len(thetas))
    values = evaluate(thetas, everything)[0]
    for _ in range(MAX_RESCALINGS):
        smaller = evaluate(thetas / 10, everything)[0]
        is_better = smaller < values
        if not is_better.any():
            break
        thetas = np.where(is_better[:, None], thetas / 10, thetas)
        values = np.minimum(values, smaller)
    return np.where((values < values_at_zero)[:, None], thetas, 0)


def _least_gain(tol):
    """Compute the gain, relative to the total gain, below which a search has converged.

    This criterion ends searches on the hinge loss, whose gradient never vanishes, and
    on probes that gain ever less as they grow. A gradient of length `tol` leaves about
    ``tol**2`` to gain, but the many small steps of a slow search add up to more.
    """
    return max(tol**1.5, 64 * np.finfo(np.float64).eps)


class _PreconditionedProblems:
    """Objectives in well-conditioned parameters v, each in its own unit of value.

    Parameters
    ----------
    evaluate : callable
        Function that maps thetas, (n, n_parameters), and the numbers of as many
        problems, (n,), to values, (n,), and gradients, (n, n_parameters).
    preconditioners : list of Preconditioner
        Preconditioner of each problem.
    at_zero : tuple of ndarray
        Values and gradients of all problems at thetas of zero.
    """

    def __init__(self, evaluate, preconditioners, at_zero):
        self.evaluate = evaluate
        self.preconditioners = preconditioners
        self.everything = np.arange(len(preconditioners))
        self.offset, gradients = at_zero
        gradients = self._convert("gradient_in_v", gradients, self.everything)
        # With unit curvature, a step of the length of the gradient ends near the
        # minimum.
        self.unit = np.linalg.norm(gradients, axis=1)
        self.unit[self.unit == 0] = 1
        self.at_zero = np.zeros(len(self.unit)), gradients / self.unit[:, None]

    def _convert(self, method, vectors, which):
        """Apply a method of the preconditioners to the vectors of some problems."""
        converted = [
            getattr(self.preconditioners[number], method)(vector)
            for number, vector in zip(which, vectors, strict=True)
        ]
        return np.array(converted)

    def to_theta(self, v):
        """Convert parameters v of all problems to theta."""
        return self._convert("to_theta", self.unit[:, None] * v, self.everything)

    def to_v(self, thetas):
        """Convert thetas to v, in which the minima are about 1 away from zero."""
        return self._convert("to_v", thetas, self.everything) / self.unit[:, None]

    def to_values(self, values):
        """Convert values from the units of the problems to those of the objectives."""
        return values * self.unit**2 + self.offset

    def value_and_gradient(self, v, which):
        """Evaluate some of the problems, in their own units."""
        unit = self.unit[which]
        thetas = self._convert("to_theta", unit[:, None] * v, which)
        values, gradients = self.evaluate(thetas, which)
        gradients = self._convert("gradient_in_v", gradients, which)
        return (values - self.offset[which]) / unit / unit, gradients / unit[:, None]
