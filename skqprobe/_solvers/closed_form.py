"""Closed form for objectives that are a ridge regression."""

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, lstsq
from scipy.linalg.blas import dgemm, dsyrk

from skqprobe._arrays.device import DeviceArray, concatenate


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
    gram, moment = np.zeros((d, d), order="F"), np.zeros((1, d))
    for X, t, v in objective.least_squares_blocks():
        root = np.sqrt(v)
        X = X * root[:, None]  # float64 from here on
        gram, product = add_products(gram, X, (root * t)[None])
        moment += product
    return solve_normal_equations(np.asarray(gram), moment[0], objective.alpha)


def add_products(gram, X, sides):
    """Add X' X to the lower triangle of `gram`, and compute ``sides @ X``.

    In place and in half the operations. For X on a device the sum moves there, to stay.
    """
    if isinstance(X, DeviceArray):
        return gram + X.T @ X, sides @ X
    # The threads of numpy's BLAS wait busily for its next call, in the way of those of
    # scipy's: only one of the two here.
    products = dgemm(1.0, X.T, sides.T).T
    return dsyrk(1.0, X.T, beta=1.0, c=gram, overwrite_c=True, lower=True), products


def solve_normal_equations(gram, moment, alpha):
    """Solve (gram + alpha/2) coef = moment.

    Of `gram` the lower triangle is read; it is overwritten.
    """
    diagonal = np.einsum("ii->i", gram)  # a view
    diagonal += alpha / 2
    # A unit diagonal first: columns of very different scales cost no digits then.
    scale = np.sqrt(diagonal)
    scale[scale == 0] = 1
    gram /= scale
    gram /= scale[:, None]
    if alpha > 0:
        try:
            factor = cho_factor(gram, lower=True, check_finite=False)
            return cho_solve(factor, moment / scale, check_finite=False) / scale
        except LinAlgError:
            pass  # singular to working precision
    full = np.tril(gram) + np.tril(gram, -1).T
    return lstsq(full, moment / scale, lapack_driver="gelsy", cond=1e-13)[0] / scale


def _dual(objective):
    """Solve (Z Z' + alpha/2) u = V^(1/2) t for Z = V^(1/2) X; then coef = Z' u."""
    blocks = [
        (X * np.sqrt(v)[:, None], t * np.sqrt(v))
        for X, t, v in objective.least_squares_blocks()
    ]
    Z = concatenate([X for X, _ in blocks]).astype(np.float64)
    target = np.concatenate([t for _, t in blocks])
    gram = np.asarray(Z @ Z.T)
    return Z.T @ solve_normal_equations(gram, target, objective.alpha)
