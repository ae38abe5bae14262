"""Closed form for objectives that are a ridge regression."""

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, lstsq


def solve_closed_form(objective):
    """Minimise an objective that is a penalised least-squares problem.

    Solves the normal equations in the smaller of d and n_rows, with the products
    accumulated block by block in float64.

    Parameters
    ----------
    objective : LinearObjective
        Of a loss that has a method `least_squares`.

    Returns
    -------
    theta : ndarray of shape (n_parameters,)
        The minimum; without a penalty, one of the minima where there are many.
    """
    if objective.n_features <= objective.layout.n_rows:
        coef = _primal(objective)
    else:
        coef = _dual(objective)
    if not objective.has_intercept:
        return coef
    x_mean, t_mean = objective.least_squares_means
    return np.append(coef, t_mean - x_mean @ coef)


def _primal(objective):
    """Solve (X' V X + alpha/2) coef = X' V t."""
    d = objective.n_features
    gram, moment = np.zeros((d, d)), np.zeros(d)
    for X, t, v in objective.least_squares_blocks():
        root = np.sqrt(v)
        X = X * root[:, None]  # float64 from here on
        gram += X.T @ X
        moment += X.T @ (root * t)
    return solve_normal_equations(gram, moment, objective.alpha)


def solve_normal_equations(gram, moment, alpha):
    """Solve (gram + alpha/2) coef = moment; `gram` is overwritten."""
    gram[np.diag_indices(len(gram))] += alpha / 2
    return _solve(gram, moment, alpha)


def _dual(objective):
    """Solve (Z Z' + alpha/2) u = V^(1/2) t for Z = V^(1/2) X; then coef = Z' u."""
    blocks = [
        (X * np.sqrt(v)[:, None], t * np.sqrt(v))
        for X, t, v in objective.least_squares_blocks()
    ]
    Z = np.concatenate([X for X, _ in blocks]).astype(np.float64)
    target = np.concatenate([t for _, t in blocks])
    return Z.T @ solve_normal_equations(Z @ Z.T, target, objective.alpha)


def _solve(gram, target, alpha):
    """Solve a symmetric positive (semi-)definite system."""
    # A unit diagonal first: columns of very different scales cost no digits then.
    scale = np.sqrt(np.diag(gram))
    scale[scale == 0] = 1
    gram /= scale
    gram /= scale[:, None]
    target = target / scale
    if alpha > 0:
        try:
            return cho_solve(cho_factor(gram, lower=True), target) / scale
        except LinAlgError:
            pass  # singular to working precision
    return lstsq(gram, target, lapack_driver="gelsy", cond=1e-13)[0] / scale
