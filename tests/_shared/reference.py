"""An independent reference: linear probes by scipy, in float64."""

import numpy as np
from scipy.optimize import minimize

from skqprobe.losses import LOSSES


def problem(loss, X, y, weight, alpha):
    """Return the objective of centered columns, as a function of theta.

    The last entry of theta is the intercept, which shift-invariant losses ignore.
    """
    n, k, d = X.shape
    rows = np.asarray(X, dtype=np.float64).reshape(n * k, d)
    rows = rows - rows.mean(axis=0)
    offsets, rewards = np.arange(n + 1) * k, y.reshape(-1)
    informative = LOSSES[loss]().informative_prompts(rewards, offsets)
    share = np.where(informative, weight, 0) / weight[informative].sum()

    def objective(theta):
        scores = rows @ theta[:-1] + theta[-1]
        losses, slope = LOSSES[loss]().value_and_gradient(scores, rewards, offsets)
        slope = slope * np.repeat(share, k)
        gradient = np.append(rows.T @ slope + alpha * theta[:-1], slope.sum())
        return share @ losses + alpha / 2 * theta[:-1] @ theta[:-1], gradient

    return rows, objective


def excess(loss, X, y, weight, alpha, coef, intercept):
    """Part of the possible gain over zero that given coefficients miss.

    A loss that is not convex is compared with the local minimum below the coefficients.
    """
    rows, objective = problem(loss, X, y, weight, alpha)
    mean = np.asarray(X, dtype=np.float64).mean(axis=(0, 1))
    theta = np.append(coef.astype(np.float64), intercept + mean @ coef)
    # In parameters of about equal curvature, in the span of the rows.
    _, scale, basis = np.linalg.svd(rows, full_matrices=False)
    kept = scale > 1e-10 * scale[0]
    step = 1 / np.sqrt(scale[kept] ** 2 / len(rows) + alpha)
    to_theta = np.zeros((len(theta), kept.sum() + 1))
    to_theta[:-1, :-1], to_theta[-1, -1] = basis[kept].T * step, 1

    def in_span(v):
        value, gradient = objective(to_theta @ v)
        return value, to_theta.T @ gradient

    start = np.zeros(kept.sum() + 1)
    if loss == "policy_gradient":
        start[:-1] = basis[kept] @ theta[:-1] / step
        start[-1] = theta[-1]
    options = {"maxiter": 3000, "maxfun": 6000, "ftol": 1e-15, "gtol": 1e-10}
    best = minimize(in_span, start, jac=True, method="L-BFGS-B", options=options).fun
    zero = objective(np.zeros_like(theta))[0]
    return (objective(theta)[0] - best) / (zero - best)
