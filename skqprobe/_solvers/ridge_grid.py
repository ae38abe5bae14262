"""Ridge regressions of many folds and penalties, from few factorisations."""

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.linalg.blas import dsymm

from skqprobe._solvers.closed_form import solve_normal_equations

PRECISION = 1e-9
"""How far what a solution leaves of the equations falls, as the preconditioner weighs
it."""

MAX_STEPS = 40
"""How many steps to take with the factors of all folds before one gets its own."""


def solve_ridge_grid(grams, moments, alphas):
    """Solve (gram + alpha/2) coef = moment for all folds and penalties.

    A factorisation costs d**3 / 3, a solution with it 2 d**2. Folds that share most of
    their prompts have similar matrices, and so have penalties of similar size: the
    factors of the mean matrix with one penalty of a decade are the preconditioner of
    conjugate gradients [1]_ for all folds and all penalties of that decade. These go in
    lockstep, so that a step reads each matrix once, whatever the number of penalties. A
    fold that does not get there, as where there are more features than rows, gets
    factors of its own matrix, and at last those of its matrix with the very penalty.

    Parameters
    ----------
    grams : list of ndarray of shape (d, d)
        Symmetric and positive semi-definite, in Fortran order; of each only the lower
        triangle is read.
    moments : ndarray of shape (n_folds, d)
        The right-hand sides.
    alphas : ndarray of shape (n_alphas,)
        Penalties, 0 or more.

    Returns
    -------
    coefs : ndarray of shape (n_folds, n_alphas, d)
        The solutions.

    References
    ----------
    .. [1] Hestenes and Stiefel, "Methods of conjugate gradients for solving linear
       systems", Journal of Research of the National Bureau of Standards 49, 1952.
    """
    alphas = np.asarray(alphas)
    coefs = np.zeros((len(grams), len(alphas), grams[0].shape[0]))
    positive = np.flatnonzero(alphas)
    left = np.ones((len(grams), len(alphas)), dtype=bool)
    if len(positive):
        found, solved = _solve_together(grams, moments, alphas[positive])
        coefs[:, positive], left[:, positive] = found, ~solved
    for fold in np.flatnonzero(left.any(axis=1)):
        gram, moment, own = grams[fold], moments[fold], alphas[left[fold]]
        if len(grams) > 1:
            coefs[fold, left[fold]] = solve_ridge_grid([gram], moment[None], own)[0]
        else:
            coefs[fold, left[fold]] = [
                solve_normal_equations(gram.copy(order="K"), moment, alpha)
                for alpha in own
            ]
    return coefs


def _solve_together(grams, moments, alphas):
    """Try conjugate gradients with factors of the mean of the matrices.

    The penalties are above 0.

    Returns
    -------
    coefs : ndarray of shape (n_folds, n_alphas, d)
    solved : ndarray of bool, of shape (n_folds, n_alphas)
        Which have the precision asked for.
    """
    precondition = _Preconditioner(sum(grams) / len(grams), alphas)
    unit = abs(moments / precondition.scale).max(axis=1)[:, None, None]
    unit[unit == 0] = 1
    residual = np.repeat(moments[:, None] / unit, len(alphas), axis=1)
    coefs = np.zeros_like(residual)
    going = np.arange(len(alphas))
    direction = precondition(residual, going)
    size = _dots(residual, direction)
    enough = PRECISION**2 * size
    for _ in range(MAX_STEPS):
        going = np.flatnonzero((size > enough).any(axis=0))
        if len(going) == 0:
            break
        ahead = direction[:, going]
        image = _multiply(grams, ahead) + alphas[going, None] / 2 * ahead
        length = _ratio(size[:, going], _dots(ahead, image))[..., None]
        coefs[:, going] += length * ahead
        residual[:, going] -= length * image
        step = precondition(residual, going)
        new = _dots(residual[:, going], step)
        turn = _ratio(new, size[:, going])[..., None]
        direction[:, going] = step + turn * ahead
        size[:, going] = new
    # Rounding can make a size negative, which is no solution.
    return coefs * unit, abs(size) <= enough


class _Preconditioner:
    """Solves for one penalty of each decade, in place of all in that decade.

    In float32 where that can be, which takes half of the time and of the memory.
    """

    def __init__(self, gram, alphas):
        # A unit diagonal: columns of very different scales cost no digits then.
        diagonal = gram.diagonal() + alphas.min() / 2
        self.scale = np.sqrt(diagonal)
        gram /= self.scale
        gram /= self.scale[:, None]
        decades = np.round(np.log10(alphas))
        self.near = [decades == decade for decade in np.unique(decades)]
        middles = [np.exp(np.log(alphas[near]).mean()) for near in self.near]
        # Beyond that, a column has no share in any solution.
        shifts = np.minimum(np.array(middles)[:, None] / 2 / diagonal, 1e30)
        self.factors = [_factor(gram, shift) for shift in shifts]

    def __call__(self, residuals, going):
        """Solve for residuals of shape (n_folds, n_alphas, d), of some penalties."""
        steps = np.empty((len(residuals), len(going), len(self.scale)))
        for near, factor in zip(self.near, self.factors, strict=True):
            chosen = near[going]
            if chosen.any():
                step = residuals[:, going[chosen]] / self.scale
                columns = step.reshape(-1, len(self.scale)).T.astype(factor.dtype)
                columns = cho_solve((factor, True), columns, check_finite=False)
                steps[:, chosen] = columns.T.reshape(step.shape) / self.scale
        return steps


def _factor(gram, shift):
    """Factor gram + diag(shift), in float32 if possible; the identity if not at all."""
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
    return np.stack([dsymm(1.0, gram, rows.T, lower=True).T for gram, rows in pairs])


def _dots(left, right):
    """Products of vectors that are the last axis."""
    return np.einsum("ijk,ijk->ij", left, right)


def _ratio(above, below):
    """Divide; 0 where there is nothing left to divide."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
