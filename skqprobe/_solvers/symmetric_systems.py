"""Penalized symmetric systems: one alone, or many similar ones together."""

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, get_blas_funcs, lstsq

PRECISION = 1e-9
"""Reduction of the residual by conjugate gradients, in the preconditioner's norm."""

MAX_STEPS = 40
"""Maximum number of conjugate gradient steps with the factors of all folds, before a
fold gets factors of its own."""


def solve_system(gram, moment, alpha):
    """Solve (gram + alpha/2) coef = moment, for one or several moments, (d, n).

    Only the lower triangle of `gram` is read, and it is overwritten.
    """
    diagonal = np.einsum("ii->i", gram)  # a view
    diagonal += alpha / 2
    if alpha > 0:
        try:
            factor = cho_factor(gram, lower=True, check_finite=False)
            return cho_solve(factor, moment, check_finite=False)
        except LinAlgError:
            pass  # singular to working precision
    # With a unit diagonal, columns of very different scales cost no digits.
    scale = np.sqrt(diagonal)
    scale[scale == 0] = 1
    gram /= scale
    gram /= scale[:, None]
    scale = scale.reshape(-1, *[1] * (moment.ndim - 1))
    full = np.tril(gram) + np.tril(gram, -1).T
    return lstsq(full, moment / scale, lapack_driver="gelsy", cond=1e-13)[0] / scale


def solve_systems(grams, moments, alphas):
    """Solve (gram + alpha/2) coef = moment for all folds, each with several penalties.

    A factorization costs d**3 / 3 operations, a solution with it 2 d**2. Folds that
    share most of their prompts have similar matrices, and so have penalties of similar
    magnitude. The factors of the mean matrix with one penalty per decade are the
    preconditioner of conjugate gradients [1]_ for all folds and all penalties of that
    decade. All run together, so that a step reads each matrix once, whatever the number
    of penalties. A fold that does not converge gets factors of its own matrix, and
    finally those of its matrix with its exact penalty.

    Parameters
    ----------
    grams : list of ndarray of shape (d, d)
        Symmetric and positive semi-definite matrices in Fortran order, of which only
        the lower triangle is read.
    moments : ndarray of shape (n_folds, n, d)
        Right-hand sides.
    alphas : ndarray of shape (n,)
        Penalty of each right-hand side, in [0, inf).

    Returns
    -------
    coefs : ndarray of shape (n_folds, n, d)
        Solutions.

    References
    ----------
    .. [1] Hestenes and Stiefel, "Methods of conjugate gradients for solving linear
       systems", Journal of Research of the National Bureau of Standards 49, 1952.
    """
    alphas = np.asarray(alphas)
    coefs = np.zeros_like(moments)
    positive = np.flatnonzero(alphas)
    remains = np.ones((len(grams), len(alphas)), dtype=bool)
    if len(positive):
        chosen = alphas[positive]
        precondition = MeanPreconditioner(sum(grams) / len(grams), chosen)
        # The factors of several folds can be stiff where the matrix of one is singular.
        # A small residual leaves an error there that the penalty alone limits.
        limit = 1.0 if len(grams) == 1 else chosen / 2 / precondition.largest
        required = PRECISION**2 * np.minimum(limit, 1)
        systems = moments[:, positive], precondition, grams, chosen
        found, solved = solve_together(*systems, required)
        coefs[:, positive], remains[:, positive] = found, ~solved
    for fold in np.flatnonzero(remains.any(axis=1)):
        gram, rest = grams[fold], remains[fold]
        if len(grams) > 1:
            own = moments[None, fold, rest]
            coefs[fold, rest] = solve_systems([gram], own, alphas[rest])[0]
            continue
        for alpha in np.unique(alphas[rest]):
            same = rest & (alphas == alpha)
            sides = moments[fold, same].T
            coefs[fold, same] = solve_system(gram.copy(order="K"), sides, alpha).T
    return coefs


def solve_together(moments, precondition, grams, alphas, required):
    """Run conjugate gradients with factors of the mean matrix, for positive penalties.

    Parameters
    ----------
    moments : ndarray of shape (n_folds, 1 or n_alphas, d)
        Right-hand sides.
    precondition : MeanPreconditioner
    grams, alphas
        See `solve_systems`.
    required : float or ndarray of shape (n_alphas,)
        Square of the reduction of the residual, in the preconditioner's norm.

    Returns
    -------
    coefs : ndarray of shape (n_folds, n_alphas, d)
    solved : ndarray of bool, of shape (n_folds, n_alphas)
        Whether a solution has the required precision.
    """
    unit = abs(moments / precondition.scale).max(axis=2, keepdims=True)
    unit[unit == 0] = 1
    residual = np.repeat(moments / unit, len(alphas) // moments.shape[1], axis=1)
    coefs = np.zeros_like(residual)
    active = np.arange(len(alphas))
    direction = precondition(residual, active)
    squares = dots(residual, direction)
    required = required * squares
    for _ in range(MAX_STEPS):
        active = np.flatnonzero((squares > required).any(axis=0))
        if len(active) == 0:
            break
        ahead = direction[:, active]
        image = _multiply(grams, ahead) + alphas[active, None] / 2 * ahead
        length = _ratio(squares[:, active], dots(ahead, image))[..., None]
        coefs[:, active] += length * ahead
        residual[:, active] -= length * image
        step = precondition(residual, active)
        new = dots(residual[:, active], step)
        turn = _ratio(new, squares[:, active])[..., None]
        direction[:, active] = step + turn * ahead
        squares[:, active] = new
    # Rounding can make a square negative, which is no solution.
    return coefs * unit, abs(squares) <= required


class MeanPreconditioner:
    """Solves systems with the mean matrix and one penalty per decade.

    In float32 where possible, which takes half the time and memory.
    """

    def __init__(self, gram, alphas):
        # With a unit diagonal, columns of very different scales cost no digits.
        diagonal = gram.diagonal() + alphas.min() / 2
        self.scale, self.largest = np.sqrt(diagonal), diagonal.max() or 1
        gram /= self.scale
        gram /= self.scale[:, None]
        decades = np.round(np.log10(alphas))
        self.near = [decades == decade for decade in np.unique(decades)]
        middles = [np.exp(np.log(alphas[near]).mean()) for near in self.near]
        # Above this shift, a column has no share in any solution.
        shifts = np.minimum(np.array(middles)[:, None] / 2 / diagonal, 1e30)
        if gram.dtype == np.float32:  # where rounding can make it indefinite
            shifts += np.finfo(np.float32).eps * len(gram) ** 0.5 / 2
        self.factors = [_factor(gram, shift) for shift in shifts]

    def __call__(self, residuals, active):
        """Solve for residuals of shape (n_folds, n_alphas, d), for some penalties."""
        steps = np.empty((len(residuals), len(active), len(self.scale)))
        for near, factor in zip(self.near, self.factors, strict=True):
            chosen = near[active]
            if chosen.any():
                step = residuals[:, active[chosen]] / self.scale
                columns = step.reshape(-1, len(self.scale)).T.astype(factor.dtype)
                columns = cho_solve((factor, True), columns, check_finite=False)
                steps[:, chosen] = columns.T.reshape(step.shape) / self.scale
        return steps


def _factor(gram, shift):
    """Factor gram + diag(shift), in float32 if possible; the identity if singular."""
    for dtype in (np.float32, np.float64):
        matrix = gram.astype(dtype, order="F")
        np.einsum("ii->i", matrix)[:] += shift
        try:
            return cho_factor(matrix, True, overwrite_a=True, check_finite=False)[0]
        except LinAlgError:
            pass  # singular to working precision
    return np.eye(len(gram))


def _multiply(grams, vectors):
    """Multiply the matrix of each fold with its vectors, (n_folds, n, d)."""
    pairs = zip(grams, vectors, strict=True)
    (symm,) = get_blas_funcs(("symm",), (grams[0],))
    return np.stack([symm(1.0, gram, rows.T, lower=True).T for gram, rows in pairs])


def dots(left, right):
    """Scalar products of vectors along the last axis."""
    return np.einsum("ijk,ijk->ij", left, right)


def _ratio(above, below):
    """Divide; 0 where the divisor is not positive."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
