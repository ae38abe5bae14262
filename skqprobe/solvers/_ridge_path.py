"""Ridge regression for many penalties, from few factorisations."""

import numpy as np
from scipy.linalg import eigh_tridiagonal

from skqprobe.solvers._closed_form import factor_normal_equations

PRECISION = 1e-8
"""The relative error of coefficients that are not solved for directly."""

MAX_STEPS = 40
"""How many steps to take from one factorisation: they then cost as much as another."""


def solve_ridge_path(gram, moment, alphas):
    """Solve (gram + alpha/2) coef = moment for many alphas.

    A factorisation costs d**3 / 3, a solution with it 2 d**2. With B the inverse at one
    penalty, the solutions at all others are functions of B times the solution at this
    one. They lie near the space that a few products with B span, unless the penalty is
    far away: the shift-and-invert Lanczos method [1]_.

    Parameters
    ----------
    gram : ndarray of shape (d, d)
        Symmetric and positive semi-definite; only the lower triangle is read.
    moment : ndarray of shape (d,)
        The right-hand side.
    alphas : ndarray of shape (n_alphas,)
        Penalties, 0 or more.

    Returns
    -------
    coefs : ndarray of shape (n_alphas, d)
        The solutions, to a relative error of PRECISION in length.

    References
    ----------
    .. [1] van den Eshof and Hochbruck, "Preconditioning Lanczos approximations to the
       matrix exponential", SIAM Journal on Scientific Computing 27, 2006.
    """
    alphas = np.asarray(alphas)
    coefs = np.zeros((len(alphas), len(moment)))
    if (alphas == 0).any():
        coefs[alphas == 0] = factor_normal_equations(gram.copy(order="K"), 0)(moment)
    left = np.argsort(alphas)[(alphas == 0).sum() :]
    while len(left):
        # What is near in a series of penalties lies on both sides.
        alpha = alphas[left[len(left) // 2]]
        solve = factor_normal_equations(gram.copy(order="K"), alpha)
        near, found = _solve_near(solve, solve(moment), alphas[left], alpha)
        coefs[left[near]] = found
        left = left[~near]
    return coefs


def _solve_near(solve, solution, alphas, alpha):
    """Solve for penalties near `alpha`, for which `solve` has the factors.

    Returns
    -------
    near : ndarray of bool, of shape (n_alphas,)
        Which were near enough; `alpha` itself always is.
    coefs : ndarray of shape (n_near, d)
        Their solutions.
    """
    length, shift = np.linalg.norm(solution), (alphas - alpha) / 2
    if length == 0:
        return np.ones(len(alphas), dtype=bool), np.zeros((len(alphas), len(solution)))
    # How much longer an error can be than what it leaves of the equations.
    growth = np.maximum(alpha / alphas, 1)
    basis = [solution / length]
    diagonal: list = []
    beside: list = []
    for _ in range(MAX_STEPS):
        vectors = np.array(basis)
        image = solve(basis[-1])
        diagonal.append(basis[-1] @ image)
        for _ in range(2):  # once leaves rounding errors that grow
            image = image - (vectors @ image) @ vectors
        outside = np.linalg.norm(image)
        ritz, rotation = eigh_tridiagonal(diagonal, beside)
        shares = (rotation[0] * length / (1 + np.outer(shift, ritz))) @ rotation.T
        error = growth * abs(shift * outside * shares[:, -1])
        near = error <= PRECISION * np.linalg.norm(shares, axis=1)
        if near.all() or outside == 0:
            break
        beside.append(outside)
        basis.append(image / outside)
    return near, shares[near] @ vectors
