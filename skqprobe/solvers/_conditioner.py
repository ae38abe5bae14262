"""A change of variables that makes an objective well-conditioned."""

import numpy as np
from scipy.linalg import LinAlgError, cholesky, solve_triangular

FULL_COST = 10**11
"""Largest n_rows * d**2 for which all second moments of X are worth their cost."""


class Conditioner:
    """Parameters v in which an objective has about unit curvature everywhere.

    Columns of hidden states differ in scale by orders of magnitude and are strongly
    correlated; L-BFGS would need an iteration for each such difference. The Hessian is
    about ``c * M + alpha`` on the coefficients, with c the typical curvature of the
    loss and M the second moments of X (inside prompts, if only these count). With L its
    Cholesky factor, ``coef = inv(L).T @ v``. Where M would cost too much, its diagonal
    stands for it. An intercept belongs to the centred columns, so that it does not
    interfere; without one, the common offset of the columns is a direction of its own.

    A guess is good enough: it changes the path of a solver, not the optimum.

    Parameters
    ----------
    objective : LinearObjective
        The objective.
    """

    def __init__(self, objective):
        d, n_rows = objective.n_features, objective.layout.n_rows
        full = n_rows * d**2 <= FULL_COST
        mean, moment = objective.moments(full)
        curvature = objective.score_curvature()
        hessian = curvature * moment
        diagonal = hessian.reshape(-1)[:: d + 1] if full else hessian  # a view
        # Rounding leaves a constant column a variance too; it must not be blown up to
        # that of the others.
        eps = np.finfo(objective.dtype).eps
        constant = diagonal <= curvature * (8 * eps * mean) ** 2
        np.maximum(diagonal, curvature * eps * mean**2, out=diagonal)
        diagonal[constant] = curvature * mean[constant] ** 2
        diagonal += objective.alpha
        diagonal[diagonal == 0] = 1
        self.scale = 1 / np.sqrt(diagonal)
        self.factor = _cholesky(hessian, self.scale) if full else None
        self.center = mean if objective.has_intercept else None
        self.intercept_scale = 1 / np.sqrt(curvature or 1)
        self.offset = np.zeros(d)
        if self.center is None and not objective.loss.needs_choice:
            # Nothing takes the mean up: the second moments are M + mean mean'.
            self.offset = np.sqrt(curvature) * mean * self.scale
            if full:
                self.offset = solve_triangular(self.factor, self.offset, lower=True)

    def _stretch(self, v, power):
        """Multiply by (1 + u u')**power, with u the direction of the offset."""
        u, square = self.offset, self.offset @ self.offset
        if square == 0:
            return v
        return v + ((1 + square) ** power - 1) / square * (u @ v) * u

    def to_theta(self, v):
        """Parameters of the objective."""
        coef = self._stretch(v, -0.5) if self.center is None else v[:-1]
        if self.factor is not None:
            coef = solve_triangular(self.factor, coef, lower=True, trans="T")
        coef = coef * self.scale
        if self.center is None:
            return coef
        return np.append(coef, v[-1] * self.intercept_scale - self.center @ coef)

    def to_v(self, theta):
        """Parameters of about unit curvature."""
        coef = theta if self.center is None else theta[:-1]
        v = coef / self.scale
        if self.factor is not None:
            v = self.factor.T @ v
        if self.center is None:
            return self._stretch(v, 0.5)
        return np.append(v, (theta[-1] + self.center @ coef) / self.intercept_scale)

    def gradient_in_v(self, gradient):
        """Gradient with respect to v, from that with respect to theta."""
        if self.center is not None:
            slope = gradient[-1]
            gradient = gradient[:-1] - self.center * slope
        gradient = gradient * self.scale
        if self.factor is not None:
            gradient = solve_triangular(self.factor, gradient, lower=True)
        if self.center is None:
            return self._stretch(gradient, -0.5)
        return np.append(gradient, slope * self.intercept_scale)


def _cholesky(hessian, scale):
    """Cholesky factor of the scaled Hessian, made positive definite where it is not."""
    hessian *= scale
    hessian *= scale[:, None]
    diagonal = hessian.reshape(-1)[:: len(hessian) + 1]
    jitter = 1e-14 * len(hessian)
    while True:
        diagonal += jitter
        try:
            return cholesky(hessian, lower=True)
        except LinAlgError:
            jitter *= 100
