"""Coordinates in the span of few rows, with which an objective has few features."""

import numpy as np
from scipy.linalg import solve_triangular
from scipy.linalg.lapack import dpstrf

from skqprobe._objectives.base import center_per_prompt

PRECISION = 1e-12
"""Square of the smallest part of a row outside the span of others, relative to the
largest square of a row. Below it, rounding dominates."""


class RowSpan:
    """Orthonormal coordinates in the span of the rows of an objective.

    A part of the coefficients that is orthogonal to all rows changes no score, and adds
    to the penalty. With L a pivoted Cholesky factor of X X', the rows of ``Q = inv(L)
    X`` are orthonormal. For ``coef = Q' u``, the scores are L u, and the penalty is
    that of u: L replaces X without an approximation. Means that an intercept or a
    shift-invariant loss absorbs are subtracted from X first.

    Parameters
    ----------
    objective : LinearObjective
        Objective of X with fewer rows than features.

    Attributes
    ----------
    coordinates : ndarray of shape (n_rows, rank)
        Coordinates L of the rows, in prompt order.
    lost : float
        Upper bound of the squared part of a row that is not in the span.
    """

    def __init__(self, objective):
        self.objective, n_rows = objective, objective.layout.n_rows
        self.mean = np.zeros(objective.n_features)
        if objective.has_intercept:
            self.mean = objective.column_mean()
        gram = np.empty((n_rows, n_rows), order="F")
        for i, block in enumerate(objective._blocks):
            X = self._read(block)
            for other in objective._blocks[:i]:
                gram[block[1], other[1]] = X @ self._read(other).T
            gram[block[1], block[1]] = X @ X.T
        largest = gram.diagonal().max()
        factor, pivots, rank, _ = dpstrf(gram, tol=PRECISION * largest, lower=True)
        self.coordinates = np.empty((n_rows, rank))
        self.coordinates[pivots - 1] = np.tril(factor)[:, :rank]
        self.pivots = pivots[:rank] - 1
        n_absorbed = objective.has_intercept
        if objective.loss.shift_invariant:
            n_absorbed = objective.layout.n_prompts
        self.lost = PRECISION * largest * (rank < n_rows - n_absorbed)

    def _read(self, block):
        """Read a block of scaled rows, without the means that are absorbed."""
        _, rows, offsets = block
        X = (self.objective._read(rows) - self.mean) / self.objective.scale
        is_invariant = self.objective.loss.shift_invariant
        return center_per_prompt(X, offsets) if is_invariant else X

    def _solve(self, vectors, trans):
        """Solve with the coordinates of the pivots, for vectors of shape (n, rank)."""
        triangle = self.coordinates[self.pivots]
        return solve_triangular(triangle, vectors.T, lower=True, trans=trans).T

    def to_raw(self, thetas):
        """Convert parameters, (n, n_parameters), to those of the objective."""
        objective, rank = self.objective, len(self.pivots)
        shares = np.zeros((len(thetas), objective.layout.n_rows))
        shares[:, self.pivots] = self._solve(thetas[:, :rank], trans=1)
        blocks = objective._blocks
        coefs = sum(shares[:, block[1]] @ self._read(block) for block in blocks)
        coefs /= objective.scale
        if not objective.has_intercept:
            return coefs
        return np.column_stack([coefs, thetas[:, -1] - coefs @ self.mean])

    def from_raw(self, thetas):
        """Convert parameters of the objective, but for what changes no score."""
        coefs, intercepts = self.objective.split(thetas)
        scaled = (coefs * self.objective.scale).T
        scores = [self._read(block) @ scaled for block in self.objective._blocks]
        found = self._solve(np.vstack(scores)[self.pivots].T, trans=0)
        if not self.objective.has_intercept:
            return found
        return np.column_stack([found, intercepts + coefs @ self.mean])
