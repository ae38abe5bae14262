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

GAP = 3e-4
"""Part of the total gain that may be left at a minimum. A search that rounding ends
earlier has not converged."""

MAX_FALL = 30
"""Factor by which the curvature may fall in a search before another one is worth it."""

MAX_ROUNDS = 2
"""Maximum number of searches for one minimum, each with the curvature at the end of the
one before."""


def minimize_lbfgs(objective, theta, *, tol, max_iter, on_iteration=None):
    """Minimize an objective with L-BFGS.

    The search runs in parameters of about equal curvature, see `Preconditioner`, scaled
    so that the gradient at the best constant scores has length 1. The meaning of `tol`
    therefore depends neither on the scale of the columns or the rewards, nor on the
    starting point.

    Parameters
    ----------
    objective : LinearObjective
        Objective to minimize.
    theta : ndarray of shape (n_parameters,)
        Starting point.
    tol : float
        Tolerance, above 0. The search has converged when the gradient is `tol` times as
        long as at the best constant scores, or successive iterations gain less than
        ``tol**1.5`` of the total gain since then, see `minimize_batched_lbfgs`.
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
        If the search has not converged after `max_iter` iterations, or rounding ended
        it while more than GAP is left to gain.
    """
    objective = objective.centered()

    def smoothed(loss):
        smooth = replace(objective, loss=loss)

        def evaluate(thetas, which):
            value, gradient = smooth.value_and_gradient(thetas[0])
            return np.array([value]), gradient[None]

        def measure_curvatures(thetas):
            return [smooth.score_curvature(smooth.scores(thetas[0]))]

        return evaluate, measure_curvatures

    def callback(thetas, values):
        theta, value = thetas[0], values[0]
        if len(stages) > 1:
            value = objective.value_and_gradient(theta)[0]
        return on_iteration(objective.to_raw(theta), value)

    stages = _stages(objective.loss, tol)
    model = model_hessian(replace(objective, loss=stages[0][0]))
    thetas, state = _minimize(
        [(*smoothed(loss), until) for loss, until in stages],
        [(objective, objective.alpha, model)],
        objective.from_raw(theta)[None],
        objective.best_constant()[None],
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


def minimize_lbfgs_grid(grid, thetas=None, *, tol, max_iter, on_iteration=None):
    """Minimize all objectives of a grid with L-BFGS, in common reads of X.

    Up to rounding, each search takes the path of `minimize_lbfgs` on its objective.

    Parameters
    ----------
    grid : GridObjective
        Objectives to minimize.
    thetas : ndarray of shape (n_objectives, n_parameters), default=None
        Starting points. None means zeros.
    tol : float
        Tolerance, see `minimize_lbfgs`.
    max_iter : int
        Maximum number of iterations of each search.
    on_iteration : callable, default=None
        Function called with all parameters and the sum of the values after iterations.
        It returns True to stop.

    Returns
    -------
    thetas : ndarray of shape (n_objectives, n_parameters)
        Parameters at the minima.
    converged : ndarray of bool, of shape (n_objectives,)
        Whether each search has converged.
    n_iter : int
        Largest number of iterations of a search, at least 1.
    """
    grid = grid.centered()
    if thetas is None:
        thetas = np.zeros((grid.n_objectives, grid.objective.n_parameters))
    stages = [
        (grid.with_loss(loss), until)
        for loss, until in _stages(grid.objective.loss, tol)
    ]

    def callback(thetas, values):
        if len(stages) > 1:
            values = grid.value_and_gradient(thetas, np.arange(len(thetas)))[0]
        return on_iteration(grid.objective.to_raw(thetas), values.sum())

    first = stages[0][0]
    folds = zip(first.fold_objectives, model_fold_hessians(first), strict=True)
    thetas, state = _minimize(
        [(grid.value_and_gradient, grid.score_curvatures, tol) for grid, tol in stages],
        [(fold, alpha, model) for fold, model in folds for alpha in grid.alphas],
        grid.objective.from_raw(thetas),
        grid.best_constants(),
        max_iter=max_iter,
        on_iteration=None if on_iteration is None else callback,
    )
    n_iter = max(int(state.n_iter.max()), 1)
    return grid.objective.to_raw(thetas), state.converged, n_iter


def _stages(loss, tol):
    """List losses to minimize one after the other, each with its tolerance.

    The gradient of a loss with kinks says nothing about the distance from the minimum.
    Smooth losses that approach it have the minimum as their limit.
    """
    if not hasattr(loss, "smoothed"):
        return [(loss, tol)]
    # Widths from 1 to 30 * tol, each about a seventh of the one before.
    n_stages = 1 + max(1, round(-np.log10(30 * tol) / np.log10(7)))
    widths = np.geomspace(1, min(30 * tol, 0.1), n_stages)
    tols = np.append(np.full(n_stages - 1, 10 * tol), tol)
    return [(loss.smoothed(w), t) for w, t in zip(widths, tols, strict=True)]


def _minimize(stages, models, thetas, constants, *, max_iter, on_iteration=None):
    """Minimize objectives in stages, each from the minimum of the one before.

    Where softmax and sigmoid saturate, the curvature of a loss is far smaller than at
    zero. If so much may be left to gain for this reason, the search goes on with the
    curvature that it has found.

    Parameters
    ----------
    stages : list of tuple
        Per stage: a function that evaluates all objectives, see
        `_PreconditionedProblems`; a function that maps thetas to the curvature of the
        loss of each objective; and the tolerance, see `minimize_lbfgs`.
    models : list of tuple
        Arguments of the `Preconditioner` of each objective, for scores of zero.
    thetas : ndarray of shape (n, n_parameters)
        Starting points. Zeros are replaced by `constants`.
    constants : ndarray of shape (n, n_parameters)
        Parameters of the best probes of equal scores. Gains are relative to theirs.
    max_iter : int
        See `minimize_lbfgs`.
    on_iteration : callable, default=None
        Function called with thetas and values after each iteration. It returns True to
        stop.

    Returns
    -------
    thetas : ndarray of shape (n, n_parameters)
        Parameters at the minima.
    state : object
        Result of the last `minimize_batched_lbfgs`, with `n_iter` of all stages.
    """
    everything, n_iter = np.arange(len(thetas)), 0
    smooth = len(stages) > 1 or models[0][0].loss.smooth
    for stage, (evaluate, measure, tol) in enumerate(stages):
        at_constants = evaluate(constants, everything)
        if stage > 0:
            models = _with_curvatures(models, measure(thetas))
        elif thetas.any():
            thetas = _check_start(evaluate, thetas, constants, at_constants[0])
        else:
            thetas = constants
        for _ in range(MAX_ROUNDS):
            preconditioners = [Preconditioner(*model) for model in models]
            problems = _PreconditionedProblems(evaluate, preconditioners, at_constants)
            state = minimize_batched_lbfgs(
                problems.value_and_gradient,
                problems.to_v(thetas),
                # Most fits start there, which saves them a read of X.
                problems.at_constants if thetas is constants else None,
                tol=tol,
                ftol=_least_gain(tol),
                max_iter=max_iter - n_iter,
                precision=np.finfo(models[0][0].dtype).eps,
                on_iteration=on_iteration and problems.callback(on_iteration),
            )
            moved = state.n_iter > 0
            thetas = np.where(moved[:, None], problems.to_theta(state.point), thetas)
            n_iter = n_iter + state.n_iter
            if state.stopped or not smooth:
                break
            before = np.array([model.curvature for _, _, model in models])
            after = np.array(measure(thetas))
            models = _with_curvatures(models, after)
            fall = np.divide(before, after, out=np.ones_like(after), where=after > 0)
            is_minimum = _is_minimum(state, fall, tol)
            if (is_minimum & (fall < MAX_FALL) | ~state.converged).all():
                break
        if state.stopped:
            break
        if smooth:
            state.converged &= is_minimum
    state.n_iter = n_iter
    return thetas, state


def _with_curvatures(models, curvatures):
    """Replace the curvature of the loss in the arguments of preconditioners."""
    return [
        (objective, alpha, replace(model, curvature=curvature))
        for (objective, alpha, model), curvature in zip(models, curvatures, strict=True)
    ]


def _is_minimum(state, fall, tol):
    """Check that little is left to gain, from the gradient and the curvature.

    In parameters of unit curvature, half of the squared gradient is left to gain, or
    more if the curvature has fallen by a factor `fall`.
    """
    left = np.linalg.norm(state.gradient, axis=1) ** 2 / 2 * np.maximum(fall, 1)
    return (left <= max(GAP, tol) * abs(state.value)) | (state.value == 0)


def _check_start(evaluate, thetas, constants, values_at_constants):
    """Replace starting points that are worse than a tenth of them, or than constants.

    A start from a fit to features of another scale would be far from the minimum, where
    the preconditioner is poor.
    """
    everything = np.arange(len(thetas))
    values, smaller = (evaluate(t, everything)[0] for t in (thetas, thetas / 10))
    is_good = values < np.minimum(smaller, values_at_constants)
    return np.where(is_good[:, None], thetas, constants)


def _least_gain(tol):
    """Compute the gain, relative to the total gain, below which a search has converged.

    This criterion ends searches on losses with kinks, whose gradient never vanishes,
    and on probes that gain ever less as they grow. A gradient of length `tol` leaves
    about ``tol**2`` to gain, but the many small steps of a slow search add up to more.
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
    at_constants : tuple of ndarray
        Values and gradients of all problems at the best constant scores. They are the
        zero and the unit of the values.
    """

    def __init__(self, evaluate, preconditioners, at_constants):
        self.evaluate = evaluate
        self.preconditioners = preconditioners
        self.everything = np.arange(len(preconditioners))
        self.offset, gradients = at_constants
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

    def to_theta(self, v):
        """Convert parameters v of all problems to theta."""
        return self._convert("to_theta", self.unit[:, None] * v, self.everything)

    def to_v(self, thetas):
        """Convert thetas to v, in which the minima are about 1 away."""
        return self._convert("to_v", thetas, self.everything) / self.unit[:, None]

    def to_values(self, values):
        """Convert values from the units of the problems to those of the objectives."""
        return values * self.unit**2 + self.offset

    def callback(self, on_iteration):
        """Make the function of parameters v and their values from one of thetas."""
        return lambda v, values: on_iteration(self.to_theta(v), self.to_values(values))

    def value_and_gradient(self, v, which):
        """Evaluate some of the problems, in their own units."""
        unit = self.unit[which]
        thetas = self._convert("to_theta", unit[:, None] * v, which)
        values, gradients = self.evaluate(thetas, which)
        gradients = self._convert("gradient_in_v", gradients, which)
        return (values - self.offset[which]) / unit / unit, gradients / unit[:, None]
