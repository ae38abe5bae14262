"""L-BFGS on well-conditioned versions of objectives: of one, or of a whole grid."""

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
"""How long the gradient is, against that at zero, near enough to the minimum to measure
the curvature there."""


def minimize_lbfgs(objective, theta, *, tol, max_iter, on_iteration=None):
    """Minimise an objective with L-BFGS.

    Works in parameters of about equal curvature, see `Preconditioner`, scaled so that
    the gradient at zero has length 1. Neither the scale of the columns, nor that of the
    rewards, nor the start changes what `tol` means.

    Parameters
    ----------
    objective : LinearObjective
        What to minimise.
    theta : ndarray of shape (n_parameters,)
        Where to start.
    tol : float
        Stop when the gradient is `tol` times as long as at zero, or an iteration gains
        less than ``tol**1.5`` of what has been gained since zero.
    max_iter : int
        The most iterations; more raise a ConvergenceWarning.
    on_iteration : callable, default=None
        Called with (theta, value) after each iteration; returns True to stop.

    Returns
    -------
    theta : ndarray of shape (n_parameters,)
        The minimum found.
    n_iter : int
        Number of iterations, at least 1.
    """

    def evaluate(thetas, which):
        value, gradient = objective.value_and_gradient(thetas[0])
        return np.array([value]), gradient[None]

    def preconditioners(thetas=None):
        here = model
        if thetas is not None:
            curvature = objective.score_curvature(objective.scores(thetas[0]))
            here = replace(model, curvature=curvature)
        return [Preconditioner(objective, objective.alpha, here)]

    def callback(thetas, values):
        return on_iteration(thetas[0], values[0])

    model = model_hessian(objective)
    thetas, ends = _minimize(
        evaluate,
        preconditioners,
        theta[None],
        tol=tol,
        max_iter=max_iter,
        precision=np.finfo(objective.dtype).eps,
        on_iteration=None if on_iteration is None else callback,
    )
    n_iter = int(ends.n_iter[0])
    if not ends.converged[0]:
        warn_user(
            f"L-BFGS did not converge after {n_iter} iterations (max_iter={max_iter}): "
            f"the gradient is {np.linalg.norm(ends.gradient[0]):.1e} times as long as "
            f"at zero, tol={tol:g}. Increase max_iter, or alpha, or tol.",
            ConvergenceWarning,
        )
    return thetas[0], max(n_iter, 1)


def minimize_lbfgs_grid(grid, *, tol, max_iter):
    """Minimise all objectives of a grid with L-BFGS, reading X for all of them at once.

    Each takes the path that `minimize_lbfgs` would take on its fold, but for rounding.

    Parameters
    ----------
    grid : GridObjective
        What to minimise.
    tol : float
        See `minimize_lbfgs`.
    max_iter : int
        The most iterations for each.

    Returns
    -------
    thetas : ndarray of shape (n_objectives, n_parameters)
        The minima found.
    converged : ndarray of bool, of shape (n_objectives,)
        False where the iterations did not suffice.
    """
    alphas = np.tile(grid.alphas, len(grid.in_fold))
    objectives, models = (
        np.repeat(np.array(of_folds, dtype=object), len(grid.alphas))
        for of_folds in (grid.fold_objectives, model_fold_hessians(grid))
    )

    def preconditioners(thetas=None):
        if thetas is None:
            return list(map(Preconditioner, objectives, alphas, models))
        curvatures = grid.score_curvatures(thetas)
        here = [
            replace(model, curvature=curvature)
            for model, curvature in zip(models, curvatures, strict=True)
        ]
        return list(map(Preconditioner, objectives, alphas, here))

    thetas, ends = _minimize(
        grid.value_and_gradient,
        preconditioners,
        np.zeros((grid.n_objectives, grid.objective.n_parameters)),
        tol=tol,
        max_iter=max_iter,
        precision=np.finfo(grid.objective.dtype).eps,
    )
    return thetas, ends.converged


def _minimize(
    evaluate, preconditioners, thetas, *, tol, max_iter, precision, on_iteration=None
):
    """Minimise objectives in two stages.

    Where softmax and sigmoid saturate, a loss is far less curved than at zero. Near the
    minimum its curvature is measured anew, for parameters that are well-conditioned
    there.

    Parameters
    ----------
    evaluate : callable
        See _PreconditionedProblems.
    preconditioners : callable
        Makes those for scores of zero, or for the scores of thetas that it is given.
    thetas : ndarray of shape (n, n_parameters)
        Where to start.
    tol, max_iter, precision, on_iteration
        See `minimize_batched_lbfgs`; `on_iteration` gets thetas and values.

    Returns
    -------
    thetas : ndarray of shape (n, n_parameters)
        The minima.
    ends : object
        Of the last `minimize_batched_lbfgs`, with the iterations of both.
    """
    at_zero = evaluate(np.zeros_like(thetas), np.arange(len(thetas)))
    n_iter, stopped = 0, False

    def callback(v, values):
        nonlocal stopped
        stopped = on_iteration(problems.to_theta(v), problems.to_values(values))
        return stopped

    for until in [NEAR, tol] if tol < NEAR else [tol]:
        made = preconditioners() if until >= NEAR else preconditioners(thetas)
        problems = _PreconditionedProblems(evaluate, made, at_zero)
        ends = minimize_batched_lbfgs(
            problems.value_and_gradient,
            problems.to_v(thetas),
            # Most fits start at zero: that they need not read X for it again.
            None if thetas.any() else problems.at_zero,
            tol=until,
            ftol=least_gain(until),
            max_iter=max_iter - n_iter,
            precision=precision,
            on_iteration=None if on_iteration is None else callback,
        )
        moved = ends.n_iter > 0
        thetas = np.where(moved[:, None], problems.to_theta(ends.point), thetas)
        n_iter = n_iter + ends.n_iter
        if stopped:
            break
    ends.n_iter = n_iter
    return thetas, ends


def least_gain(tol):
    """Tell the gain of an iteration, relative to all so far, that is not worth another.

    The hinge loss, whose gradient never vanishes, and probes that win ever less by
    growing, end by it. A gradient of size `tol` leaves about ``tol**2`` to gain; the
    many small steps of a slow end sum up to more.
    """
    return max(tol**1.5, 64 * np.finfo(np.float64).eps)


class _PreconditionedProblems:
    """Objectives in well-conditioned parameters v, each in its own unit of value.

    Parameters
    ----------
    evaluate : callable
        Maps thetas (n, n_parameters) and the numbers of as many problems (n,) to their
        values (n,) and gradients (n, n_parameters).
    preconditioners : list of Preconditioner
        One a problem.
    at_zero : tuple of ndarray
        The values and gradients of all problems at thetas of zero.
    """

    def __init__(self, evaluate, preconditioners, at_zero):
        self.evaluate = evaluate
        self.preconditioners = preconditioners
        self.everything = np.arange(len(preconditioners))
        self.offset, gradients = at_zero
        gradients = self._convert("gradient_in_v", gradients, self.everything)
        # With unit curvature, a step as long as the gradient leads near the minimum.
        self.unit = np.linalg.norm(gradients, axis=1)
        self.unit[self.unit == 0] = 1
        self.at_zero = np.zeros(len(self.unit)), gradients / self.unit[:, None]

    def _convert(self, method, vectors, which):
        converted = [
            getattr(self.preconditioners[number], method)(vector)
            for number, vector in zip(which, vectors, strict=True)
        ]
        return np.array(converted)

    def to_theta(self, v):
        """Parameters of all problems."""
        return self._convert("to_theta", self.unit[:, None] * v, self.everything)

    def to_v(self, thetas):
        """Parameters of which the minima are about 1 away from zero."""
        return self._convert("to_v", thetas, self.everything) / self.unit[:, None]

    def to_values(self, values):
        """Values of the objectives, from those in units of their own."""
        return values * self.unit**2 + self.offset

    def value_and_gradient(self, v, which):
        """Values and gradients, in units of their own, of some of the problems."""
        unit = self.unit[which]
        thetas = self._convert("to_theta", unit[:, None] * v, which)
        values, gradients = self.evaluate(thetas, which)
        gradients = self._convert("gradient_in_v", gradients, which)
        return (values - self.offset[which]) / unit / unit, gradients / unit[:, None]
