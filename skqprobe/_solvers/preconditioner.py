"""Change of variables after which an objective is well-conditioned."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg.blas import dtrmv, dtrsv
from scipy.linalg.lapack import dpotrf

FULL_FEATURES = 768
"""Maximum number of features for which all second moments of X are computed. They halve
the number of evaluations, and cost as much as at most about d / 80 of them."""

FULL_ENTRIES = 2**27
"""Maximum number of entries in all factors of second moments: 1 GiB."""

N_DIRECTIONS = 64
"""Maximum number of principal directions of X, if all moments cost too much."""

SAMPLED_SHARE, N_SAMPLED, SAMPLED_PER_FEATURE = 4, 2**12, 16
"""Moments are those of a sample of a quarter of the rows, but of at least N_SAMPLED
rows, and of at least 16 per feature if all second moments are computed."""

N_POWERS = 3
"""Number of power iterations, each of which reads the sample once."""


@dataclass(frozen=True)
class HessianModel:
    """Properties of X and of the loss that a `Preconditioner` needs.

    Parameters
    ----------
    mean : ndarray of shape (d,)
        Mean of the columns.
    moment : ndarray of shape (d, d) or (d,)
        Second moments of the columns. If all cost too much, the squared scale of each
        column.
    curvature : float
        Typical curvature of the mean loss in a direction of unit spread in the scores.
    directions : ndarray of shape (d, n)
        Principal directions u of the scaled columns. If the second moments are full, n
        is 0.
    rest : float
        The second moments of the scaled columns are about ``rest * (I + u u')``, summed
        over the directions.
    """

    mean: np.ndarray
    moment: np.ndarray
    curvature: float
    directions: np.ndarray
    rest: float = 1.0


class Preconditioner:
    """Parameters v in which an objective has about unit curvature in all directions.

    Columns of hidden states differ in scale by orders of magnitude and are strongly
    correlated. L-BFGS would need an iteration for each such difference. The Hessian is
    about ``c * M + alpha`` on the coefficients, where c is the typical curvature of the
    loss, and M are the second moments of X, inside prompts for a shift-invariant loss.
    With L its Cholesky factor, ``coef = inv(L).T @ v``. If M costs too much, its
    diagonal and the principal directions of a sample replace it. The intercept is that
    of centered columns, so that it does not interact with the coefficients. Without an
    intercept, the mean of the columns is one more direction.

    An approximation is sufficient: it affects the path of a solver, not the optimum.

    Parameters
    ----------
    objective : LinearObjective
        Objective.
    alpha : float
        Strength of its L2 penalty, in [0, inf).
    model : HessianModel
        Result of `model_hessian` for the objective.
    """

    def __init__(self, objective, alpha, model):
        mean, curvature = model.mean, model.curvature
        self.curvature = curvature
        penalty = alpha * objective.scale**2
        full = model.moment.ndim == 2
        hessian = curvature * model.moment
        diagonal = np.einsum("ii->i", hessian) if full else hessian  # a view
        # After rounding, a constant column has a small variance, which must not be
        # scaled to that of the others.
        eps = np.finfo(objective.dtype).eps
        constant = diagonal <= curvature * (8 * eps * mean) ** 2
        np.maximum(diagonal, curvature * eps * mean**2, out=diagonal)
        diagonal[constant] = curvature * mean[constant] ** 2
        diagonal *= model.rest
        share = diagonal / np.where(diagonal + penalty, diagonal + penalty, 1)
        diagonal += penalty
        diagonal[diagonal == 0] = 1
        self.scale = 1 / np.sqrt(diagonal)
        self.factor = _cholesky(hessian, self.scale) if full else None
        self.center = mean if objective.has_intercept else None
        self.intercept_scale = 1 / np.sqrt(curvature or 1)
        # The penalty, which is equal in all directions, makes them less prominent.
        directions = np.sqrt(share)[:, None] * model.directions
        if self.center is None and not objective.loss.shift_invariant:
            # No intercept absorbs the mean: the second moments are M + mean mean'.
            offset = self._solve(np.sqrt(curvature) * mean * self.scale)
            directions = np.column_stack([directions, offset])
        self.basis, length, _ = np.linalg.svd(directions, full_matrices=False)
        self.curvatures = 1 + length**2

    def _solve(self, vector, trans=False):
        """Solve a system with the Cholesky factor or its transpose, if there is one."""
        if self.factor is None:
            return vector
        return dtrsv(self.factor, vector, lower=True, trans=trans)

    def _stretch(self, v, power):
        """Multiply by (I + u u' summed over the directions) to the given power."""
        if len(self.curvatures) == 0:
            return v
        along = (self.curvatures**power - 1) * (v @ self.basis)
        return v + self.basis @ along

    def to_theta(self, v):
        """Convert parameters v to theta."""
        coef = self._stretch(v if self.center is None else v[:-1], -0.5)
        coef = self._solve(coef, trans=True) * self.scale
        if self.center is None:
            return coef
        return np.append(coef, v[-1] * self.intercept_scale - self.center @ coef)

    def to_v(self, theta):
        """Convert theta to parameters v."""
        coef = theta if self.center is None else theta[:-1]
        v = coef / self.scale
        if self.factor is not None:
            v = dtrmv(self.factor, v, lower=True, trans=True)
        v = self._stretch(v, 0.5)
        if self.center is None:
            return v
        return np.append(v, (theta[-1] + self.center @ coef) / self.intercept_scale)

    def gradient_in_v(self, gradient):
        """Convert the gradient with respect to theta to that with respect to v."""
        slope = gradient[-1]
        if self.center is not None:
            gradient = gradient[:-1] - self.center * slope
        gradient = self._stretch(self._solve(gradient * self.scale), -0.5)
        if self.center is None:
            return gradient
        return np.append(gradient, slope * self.intercept_scale)


def model_hessian(objective, curvature=None, n_factors=1):
    """Measure the Hessian model of an objective.

    Parameters
    ----------
    objective : LinearObjective
        Objective.
    curvature : ndarray of shape (n_rows,), default=None
        Curvature of the loss in the score of each row, which weights the second
        moments. None means that at scores of 0, and equal weights.
    n_factors : int, default=1
        Number of models that are needed at the same time.

    Returns
    -------
    model : HessianModel
        Model with full second moments, or with those of a sample if they cost too much.
    """
    weight = None
    if curvature is not None and curvature.any():
        weight = curvature.clip(1e-12 * curvature.max())
    if not _is_affordable(objective, n_factors):
        return _sampled_model(objective, weight)
    n_rows = _sampled_rows(objective, True)
    mean, moment = objective.sampled_moments(True, n_rows, weight)
    return _full_model(objective, mean, moment, weight)


def model_fold_hessians(grid):
    """Measure the Hessian models of all folds of a grid, in one read for the moments.

    Parameters
    ----------
    grid : GridObjective
        Grid of folds and penalties.

    Returns
    -------
    models : list of HessianModel
        Results of `model_hessian` for the `fold_objectives`, up to rounding. They are
        of samples if the factors of all folds and penalties would take too much memory.
    """
    n_rewards = len(grid.objectives)
    folds = grid.fold_objectives[::n_rewards]
    is_full = _is_affordable(grid.objective, grid.n_objectives)
    if not is_full or _sampled_rows(folds[0], True) < folds[0].n_rows:
        models = [model_hessian(fold, None, grid.n_objectives) for fold in folds]
        return _per_reward(models, grid)
    pooled = grid.total(_fold_moments, add=_pool_folds)
    models = [
        _full_model(objective, *_mean_and_moment(moments, grid.objective.n_features))
        for objective, moments in zip(folds, pooled, strict=True)
    ]
    return _per_reward(models, grid)


def _fold_moments(grid):
    """Pool the moments of the prompts of each fold; None of a fold without prompts."""
    pooled = [None] * grid.n_folds
    for folds, (part, *_), _ in grid.parts():
        moments = part.pooled_moments(True)
        for fold in folds:
            pooled[fold] = _pool(pooled[fold], moments)
    return pooled


def _pool_folds(first, second):
    return list(map(_pool, first, second))


def _pool(first, second):
    if first is None or second is None:
        return second if first is None else first
    return first + second


def _mean_and_moment(moments, d):
    if moments is None:
        return np.zeros(d), np.zeros((d, d))
    return moments.mean, moments.moment


def _per_reward(models, grid):
    """Repeat the model of each fold for all rewards, with their own curvatures."""
    if len(grid.objectives) == 1:
        return models
    repeated = [model for model in models for _ in grid.objectives]
    return [
        replace(model, curvature=objective.curvature_at_zero)
        for model, objective in zip(repeated, grid.fold_objectives, strict=True)
    ]


def _is_affordable(objective, n_factors=1):
    """Check that full second moments, and this number of factors, cost little."""
    d = objective.n_features
    return d <= FULL_FEATURES and n_factors * d**2 <= FULL_ENTRIES


def _sampled_rows(objective, is_full):
    """Count rows whose moments are near enough to those of all."""
    n_features = is_full * objective.n_features
    share = objective.n_rows // SAMPLED_SHARE
    return max(share, N_SAMPLED, SAMPLED_PER_FEATURE * n_features)


def _full_model(objective, mean, moment, curvature=None):
    """Make the model of full second moments, which needs no directions."""
    no_directions = np.zeros((objective.n_features, 0))
    return HessianModel(mean, moment, _total(objective, curvature), no_directions)


def _total(objective, curvature):
    """Sum the curvatures of rows; None means those at scores of 0."""
    return objective.curvature_at_zero if curvature is None else curvature.sum()


def _sampled_model(objective, weight=None):
    """Make the model of scales and principal directions of a sample.

    The scales are standard deviations. If the rows cannot span the features, the
    minimum lies in their span, which only the penalty tells from the rest. Scaled
    columns have another span, from which many small steps lead back. Square roots of
    standard deviations are a compromise.
    """
    sample, share = objective.sample(_sampled_rows(objective, False), weight)
    mean, variance = sample.moments(False, share)
    n_lost = objective.n_prompts if objective.loss.shift_invariant else 0
    squares = variance
    if objective.n_rows - n_lost < objective.n_features and variance.any():
        squares = np.sqrt(variance * np.exp(np.log(variance[variance > 0]).mean()))
    principal = _principal_directions(sample, mean, variance, squares, share)
    return HessianModel(mean, squares, _total(objective, weight), *principal)


def _principal_directions(sample, mean, variance, squares, weight):
    """Find directions of scaled columns with exceptionally large second moments.

    In a sample of unstructured rows, too, moments reach up to the edge of the
    distribution of Marchenko and Pastur (1967). Only directions beyond the edge are
    returned.

    Returns
    -------
    directions : ndarray of shape (d, n)
    rest : float
        See `HessianModel`.
    """
    d, rank = len(mean), min(N_DIRECTIONS, len(mean) // 4)
    scale = np.sqrt(squares)
    inverse = np.divide(1, scale, where=scale > 0, out=np.zeros_like(scale))
    inverse = inverse.astype(sample.dtype)[:, None]
    # Power iterations on a few more directions than are needed.
    image = np.random.RandomState(0).standard_normal((d, min(d, rank + 10)))
    for _ in range(N_POWERS):
        basis = np.linalg.qr(image)[0].astype(sample.dtype)
        product = sample.moment_product(mean, inverse * basis, weight)
        image = inverse * product
    moments, rotation = np.linalg.eigh(basis.T.astype(np.float64) @ image)
    moments, rotation = moments[::-1][:rank], rotation[:, ::-1][:, :rank]
    # All variance lies in the span of the rows.
    few, many = sorted((d, sample.n_rows))
    total = (variance[scale > 0] / squares[scale > 0]).sum()
    rest = (total - moments.sum()) / max(few - rank, 1)
    if rest < 1e-6 * total:  # rounding: the directions are all that there is
        rest = min(moments[moments > 1e-6 * total], default=1.0)
    beyond = moments > rest * (1 + np.sqrt(few / many)) ** 2
    return basis @ rotation[:, beyond] * np.sqrt(moments[beyond] / rest - 1), rest


def _cholesky(hessian, scale):
    """Compute the lower Cholesky factor of the scaled Hessian plus a jitter.

    The jitter grows until the matrix is positive definite. Only the lower triangles are
    read and written, in Fortran order.
    """
    hessian *= scale
    hessian *= scale[:, None]
    jitter = 1e-14 * len(hessian)
    diagonal = np.einsum("ii->i", hessian)  # a view
    while True:
        diagonal += jitter
        factor, failed = dpotrf(hessian, lower=True, clean=False)
        if not failed:
            return factor
        jitter *= 100
