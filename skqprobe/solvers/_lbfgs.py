"""L-BFGS on a well-conditioned version of the objective."""

import warnings

import numpy as np
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning

from skqprobe.solvers._conditioner import Conditioner

N_RESTARTS = 5
"""How often to begin anew where a line search fails: at kinks of the hinge loss, and
at the end of float32's precision."""


def minimize_lbfgs(objective, theta, *, tol, max_iter, on_iteration=None):
    """Minimise an objective with L-BFGS.

    Works in parameters of about equal curvature, see `Conditioner`, scaled so that the
    largest entry of the gradient at zero is 1. Neither the scale of the columns, nor
    that of the rewards, nor the start changes what `tol` means.

    Parameters
    ----------
    objective : LinearObjective
        What to minimise.
    theta : ndarray of shape (n_parameters,)
        Where to start.
    tol : float
        Stop when the largest entry of the gradient is `tol` times what it is at zero,
        or an iteration gains less than ``tol**1.5`` of what has been gained since zero.
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
    problem = _ConditionedProblem(objective)
    if problem.step == 0:
        return np.zeros_like(theta), 1
    v = problem.to_v(theta)

    def callback(v):
        if on_iteration is not None:
            value = problem.value_and_gradient(v)[0] * problem.step**2 + problem.offset
            if on_iteration(problem.to_theta(v), value):
                raise StopIteration

    n_iter, value = 0, np.inf
    precision = np.finfo(objective.dtype).eps
    for _ in range(N_RESTARTS + 1):
        result = minimize(
            problem.value_and_gradient,
            v,
            method="L-BFGS-B",
            jac=True,
            callback=callback,
            options={
                "maxiter": max_iter - n_iter,
                "maxfun": 50 * max_iter,
                "maxls": 50,
                "gtol": tol,
                # The hinge loss, whose gradient never vanishes, and probes that win
                # ever less by growing, end here. A gradient of size tol leaves about
                # tol**2 to gain; the many small steps of a slow end sum up to more.
                "ftol": max(tol**1.5, 64 * np.finfo(np.float64).eps),
            },
        )
        v, n_iter = result.x, n_iter + result.nit
        gain, value = value - result.fun, result.fun
        # A failed line search: anew without memory, unless that was no use just now.
        failed = result.status == 2
        if not failed or n_iter >= max_iter or gain <= 10 * precision * abs(value):
            break
    if result.status == 1 or (failed and n_iter >= max_iter):
        warnings.warn(
            f"L-BFGS did not converge after {n_iter} iterations (max_iter={max_iter}): "
            f"the largest entry of the gradient is {abs(result.jac).max():.1e} of "
            f"what it was at zero, tol={tol:g}. Increase max_iter, or alpha, or tol.",
            ConvergenceWarning,
            stacklevel=6,
        )
    return problem.to_theta(v), max(n_iter, 1)


class _ConditionedProblem:
    """The objective in well-conditioned parameters v, and its own unit of value."""

    def __init__(self, objective):
        self.objective = objective
        self.conditioner = Conditioner(objective)
        zero = np.zeros(objective.n_parameters)
        self.offset, gradient = objective.value_and_gradient(zero)
        gradient = self.conditioner.gradient_in_v(gradient)
        # With unit curvature, a step as long as the gradient leads near the minimum.
        self.step = abs(gradient).max()
        # Most fits start here: that they need not read X for it again.
        self._last = zero, 0.0, gradient / (self.step or 1)

    def to_theta(self, v):
        """Parameters of the objective."""
        return self.conditioner.to_theta(self.step * v)

    def to_v(self, theta):
        """Parameters of which the minimum is about 1 away from zero."""
        return self.conditioner.to_v(theta) / self.step

    def value_and_gradient(self, v):
        """Value and gradient; asked twice at a place, it computes once."""
        if not np.array_equal(v, self._last[0]):
            value, gradient = self.objective.value_and_gradient(self.to_theta(v))
            gradient = self.conditioner.gradient_in_v(gradient)
            value = (value - self.offset) / self.step / self.step
            self._last = v.copy(), value, gradient / self.step
        return self._last[1], self._last[2].copy()
