"""A change of variables that makes an objective well-conditioned."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cholesky
from scipy.linalg.blas import dtrsv

FULL_COST = 10**11
"""Largest n_rows * d**2 for which all second moments of X are worth their cost."""

FULL_ENTRIES = 2**27
"""How many entries the factors of the second moments may have in all: 1 GiB."""


def affordable(objective, n_factors=1):
    """Tell whether the full second moments are worth their cost."""
    n_rows, d = objective.layout.n_rows, objective.n_features
    return n_rows * d**2 <= FULL_COST and n_factors * d**2 <= FULL_ENTRIES


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
    alpha : float
        Strength of its penalty.
    geometry : tuple
        What `measure_geometry` gives for the objective.
    """

    def __init__(self, objective, alpha, geometry):
        mean, moment, curvature = geometry
        d, full = objective.n_features, moment.ndim == 2
        hessian = curvature * moment
        diagonal = hessian.reshape(-1)[:: d + 1] if full else hessian  # a view
        # Rounding leaves a constant column a variance too; it must not be blown up to
        # that of the others.
        eps = np.finfo(objective.dtype).eps
        constant = diagonal <= curvature * (8 * eps * mean) ** 2
        np.maximum(diagonal, curvature * eps * mean**2, out=diagonal)
        diagonal[constant] = curvature * mean[constant] ** 2
        diagonal += alpha
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
                self.offset = _solve(self.factor, self.offset)

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
            coef = _solve(self.factor, coef, trans=True)
        coef = coef * self.scale
        if self.center is None:
            return coef
        return np.append(coef, v[-1] * self.intercept_scale - self.center @ coef)

    def to_v(self, theta):
        """Parameters of about unit curvature."""
        coef = theta if self.center is None else theta[:-1]
        v = coef / self.scale
        if self.factor is not None:
            v = v @ self.factor
        if self.center is None:
            return self._stretch(v, 0.5)
        return np.append(v, (theta[-1] + self.center @ coef) / self.intercept_scale)

    def gradient_in_v(self, gradient):
        """Gradient with respect to v, from that with respect to theta."""
        slope = gradient[-1]
        if self.center is not None:
            gradient = gradient[:-1] - self.center * slope
        gradient = gradient * self.scale
        if self.factor is not None:
            gradient = _solve(self.factor, gradient)
        if self.center is None:
            return self._stretch(gradient, -0.5)
        return np.append(gradient, slope * self.intercept_scale)


def measure_geometry(objective):
    """Measure what a `Conditioner` has to know of X and of the loss.

    Returns
    -------
    mean : ndarray of shape (d,)
        Mean of the columns.
    moment : ndarray of shape (d, d), or (d,) where it would cost too much
        Second moments of the columns, or the diagonal of them.
    curvature : float
        Typical curvature of the loss along a direction of unit spread in the scores.
    """
    mean, moment = objective.moments(full=affordable(objective))
    return mean, moment, objective.score_curvature()


def fold_geometries(grid):
    """Measure the geometries of all folds of a grid, reading X once for the moments.

    Parameters
    ----------
    grid : GridObjective
        The grid.

    Returns
    -------
    geometries : list of tuple
        What `measure_geometry` would give for each fold.
    """
    full = affordable(grid.objective, grid.n_objectives)
    d = grid.objective.n_features
    nothing = _Moments(0, np.zeros(d), np.zeros((d, d) if full else d))
    sums = [nothing] * len(grid.folds)
    for folds, part, _ in grid.parts():
        moments = _Moments(part.layout.n_rows, *part.moments(full))
        for fold in folds:
            sums[fold] = sums[fold].merge(moments, grid.objective.loss.needs_choice)
    return [
        (total.mean, total.moment, objective.score_curvature())
        for total, objective in zip(sums, grid.fold_objectives, strict=True)
    ]


@dataclass(frozen=True)
class _Moments:
    """Number, mean and second moments of rows."""

    n: int
    mean: np.ndarray
    moment: np.ndarray

    def merge(self, other, around_prompts):
        """Moments of the rows of both."""
        n = self.n + other.n
        share, step = other.n / n, other.mean - self.mean
        moment = self.moment + share * (other.moment - self.moment)
        if not around_prompts:  # but around the mean, which moves
            square = np.outer(step, step) if moment.ndim == 2 else step**2
            moment += share * (1 - share) * square
        return _Moments(n, self.mean + share * step, moment)


def _solve(factor, vector, trans=False):
    """Solve with a lower triangular factor."""
    return dtrsv(factor, vector, lower=True, trans=trans)


def _cholesky(hessian, scale):
    """Cholesky factor of the scaled Hessian, made positive definite where it is not."""
    hessian *= scale
    hessian *= scale[:, None]
    diagonal = hessian.reshape(-1)[:: len(hessian) + 1]
    jitter = 1e-14 * len(hessian)
    while True:
        diagonal += jitter
        try:
            # In Fortran's order, in which BLAS takes it without a copy.
            return np.asfortranarray(cholesky(hessian, lower=True, check_finite=False))
        except LinAlgError:
            jitter *= 100
