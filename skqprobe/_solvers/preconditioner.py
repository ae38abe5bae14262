"""A change of variables that makes an objective well-conditioned."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cholesky
from scipy.linalg.blas import dtrsv

FULL_COST = 10**11
"""Largest n_rows * d**2 for which all second moments of X are worth their cost."""

FULL_ENTRIES = 2**27
"""How many entries the factors of the second moments may have in all: 1 GiB."""

N_DIRECTIONS = 64
"""How many principal directions of X to look for where all moments cost too much."""

N_SAMPLED = 2**14
"""In how many rows."""

N_POWERS = 3
"""How often these are read, for a power iteration each."""


@dataclass(frozen=True)
class HessianModel:
    """What a `Preconditioner` has to know of X and of the loss.

    Parameters
    ----------
    mean : ndarray of shape (d,)
        Mean of the columns.
    moment : ndarray of shape (d, d), or (d,) where it would cost too much
        Second moments of the columns, or the diagonal of them.
    curvature : float
        Typical curvature of the loss along a direction of unit spread in the scores.
    directions : ndarray of shape (d, n)
        Directions u in columns of unit variance, so long that the second moments are
        about proportional to I + u u' summed over them; n is 0 if the moments are full.
    """

    mean: np.ndarray
    moment: np.ndarray
    curvature: float
    directions: np.ndarray


class Preconditioner:
    """Parameters v in which an objective has about unit curvature everywhere.

    Columns of hidden states differ in scale by orders of magnitude and are strongly
    correlated; L-BFGS would need an iteration for each such difference. The Hessian is
    about ``c * M + alpha`` on the coefficients, with c the typical curvature of the
    loss and M the second moments of X (inside prompts, if only these count). With L its
    Cholesky factor, ``coef = inv(L).T @ v``. Where M would cost too much, its diagonal
    and the principal directions of a sample stand for it. An intercept belongs to the
    centred columns, so that it does not interfere; without one, the common offset of
    the columns is a direction of its own.

    A guess is good enough: it changes the path of a solver, not the optimum.

    Parameters
    ----------
    objective : LinearObjective
        The objective.
    alpha : float
        Strength of its penalty.
    model : HessianModel
        What `model_hessian` gives for the objective.
    """

    def __init__(self, objective, alpha, model):
        mean, curvature = model.mean, model.curvature
        d, full = objective.n_features, model.moment.ndim == 2
        hessian = curvature * model.moment
        diagonal = hessian.reshape(-1)[:: d + 1] if full else hessian  # a view
        # Rounding leaves a constant column a variance too; it must not be blown up to
        # that of the others.
        eps = np.finfo(objective.dtype).eps
        constant = diagonal <= curvature * (8 * eps * mean) ** 2
        np.maximum(diagonal, curvature * eps * mean**2, out=diagonal)
        diagonal[constant] = curvature * mean[constant] ** 2
        share = diagonal / np.where(diagonal + alpha, diagonal + alpha, 1)
        diagonal += alpha
        diagonal[diagonal == 0] = 1
        self.scale = 1 / np.sqrt(diagonal)
        self.factor = _cholesky(hessian, self.scale) if full else None
        self.center = mean if objective.has_intercept else None
        self.intercept_scale = 1 / np.sqrt(curvature or 1)
        # The penalty, which is the same in all directions, makes them less marked.
        long = np.sqrt(share)[:, None] * model.directions
        if self.center is None and not objective.loss.shift_invariant:
            # Nothing takes the mean up: the second moments are M + mean mean'.
            offset = np.sqrt(curvature) * mean * self.scale
            offset = _solve(self.factor, offset) if full else offset
            long = np.column_stack([long, offset])
        self.basis, length, _ = np.linalg.svd(long, full_matrices=False)
        self.curvatures = 1 + length**2

    def _stretch(self, v, power):
        """Multiply by (I + u u' summed over the directions)**power."""
        along = (self.curvatures**power - 1) * (v @ self.basis)
        return v + self.basis @ along

    def to_theta(self, v):
        """Parameters of the objective."""
        coef = self._stretch(v if self.center is None else v[:-1], -0.5)
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
        v = self._stretch(v, 0.5)
        if self.center is None:
            return v
        return np.append(v, (theta[-1] + self.center @ coef) / self.intercept_scale)

    def gradient_in_v(self, gradient):
        """Gradient with respect to v, from that with respect to theta."""
        slope = gradient[-1]
        if self.center is not None:
            gradient = gradient[:-1] - self.center * slope
        gradient = gradient * self.scale
        if self.factor is not None:
            gradient = _solve(self.factor, gradient)
        gradient = self._stretch(gradient, -0.5)
        if self.center is None:
            return gradient
        return np.append(gradient, slope * self.intercept_scale)


def model_hessian(objective):
    """Measure what a `Preconditioner` has to know of X and of the loss.

    Returns
    -------
    model : HessianModel
    """
    if not affordable(objective):
        return _sampled_model(objective)
    mean, moment = objective.moments(full=True)
    return HessianModel(mean, moment, objective.score_curvature(), _none(objective))


def model_fold_hessians(grid):
    """Measure the models of all folds of a grid, reading X once for the moments.

    Parameters
    ----------
    grid : GridObjective
        The grid.

    Returns
    -------
    models : list of HessianModel
        What `model_hessian` gives for each fold, but for rounding, and for the
        memory that full moments may take.
    """
    if not affordable(grid.objective, grid.n_objectives):
        return [_sampled_model(objective) for objective in grid.fold_objectives]
    d = grid.objective.n_features
    sums = [_Moments(0, np.zeros(d), np.zeros((d, d)))] * len(grid.in_fold)
    for folds, part, _ in grid.parts():
        moments = _Moments(part.layout.n_rows, *part.moments(full=True))
        for fold in folds:
            sums[fold] = sums[fold].merge(moments, grid.objective.loss.shift_invariant)
    return [
        HessianModel(s.mean, s.moment, objective.score_curvature(), _none(objective))
        for s, objective in zip(sums, grid.fold_objectives, strict=True)
    ]


def affordable(objective, n_factors=1):
    """Tell whether the full second moments are worth their cost."""
    n_rows, d = objective.layout.n_rows, objective.n_features
    return n_rows * d**2 <= FULL_COST and n_factors * d**2 <= FULL_ENTRIES


def _none(objective):
    return np.zeros((objective.n_features, 0))


def _sampled_model(objective):
    """Measure the variances and the principal directions of a sample."""
    blocks = objective.sampled_blocks(N_SAMPLED)
    mean, variance = objective.moments(full=False, blocks=blocks)
    directions = _principal_directions(objective, mean, variance, blocks)
    return HessianModel(mean, variance, objective.score_curvature(), directions)


def _principal_directions(objective, mean, variance, blocks):
    """Find where the second moments of standardised columns stand out from the rest.

    Of rows without any structure, too, some directions of a sample have large moments:
    up to the edge that Marchenko and Pastur found (1967). Those beyond it are taken.
    """
    d, rank = len(mean), min(N_DIRECTIONS, len(mean) // 4)
    scale = np.sqrt(variance)
    inverse = np.divide(1, scale, where=scale > 0, out=np.zeros_like(scale))
    inverse = inverse.astype(objective.dtype)[:, None]
    # A power iteration on a few directions more than are wanted.
    image = np.random.RandomState(0).standard_normal((d, min(d, rank + 10)))
    for _ in range(N_POWERS):
        basis = np.linalg.qr(image)[0].astype(objective.dtype)
        image = inverse * objective.moment_product(mean, inverse * basis, blocks)
    moments, rotation = np.linalg.eigh(basis.T.astype(np.float64) @ image)
    moments, rotation = moments[::-1][:rank], rotation[:, ::-1][:, :rank]
    # Standardised columns have a variance of 1 each.
    rest = ((scale > 0).sum() - moments.sum()) / max(d - rank, 1)
    if rest <= 0:
        return np.zeros((d, 0))
    n_rows = sum(rows.stop - rows.start for _, rows, _ in blocks)
    beyond = moments > rest * (1 + np.sqrt(d / n_rows)) ** 2
    return basis @ rotation[:, beyond] * np.sqrt(moments[beyond] / rest - 1)


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
            moment += share * (1 - share) * np.outer(step, step)
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
