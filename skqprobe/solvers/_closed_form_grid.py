"""Closed forms for many folds and penalties at once."""

import numpy as np

from skqprobe.solvers._closed_form import add_products, empty_gram
from skqprobe.solvers._ridge_path import solve_ridge_path


def solve_closed_form_grid(grid):
    """Minimise all objectives of a grid whose loss is a least-squares problem.

    The normal equations of a fold are sums over its prompts. Prompts that are in the
    same folds are summed once, so that X is read a single time whatever the number of
    folds and penalties.

    Parameters
    ----------
    grid : GridObjective
        Of a loss that has a method `least_squares`.

    Returns
    -------
    thetas : ndarray of shape (n_objectives, n_parameters)
        The minima.
    """
    n_folds, d = len(grid.in_fold), grid.objective.n_features
    center = _center(grid.objective)
    sums = [NormalSums(d) for _ in range(n_folds)]
    for folds, part, share in grid.parts():
        if share > 0:
            total = NormalSums(d).add_objective(part, share, center)
            for fold in folds:
                sums[fold].add(total)
    thetas = [
        fold.solve(grid.alphas, center, grid.objective.has_intercept) for fold in sums
    ]
    return np.concatenate(thetas)


def _center(objective):
    """Choose what to take off X before products are summed: its mean, for precision."""
    if objective.has_intercept:
        return objective.least_squares_means[0]
    return np.zeros(objective.n_features)


class NormalSums:
    """Sums over prompts that make up the normal equations of least squares."""

    def __init__(self, d):
        # Of v x x', v x t, v x, v t and v, and the weight of the prompts.
        self.gram, self.moment = empty_gram(d), np.zeros(d)
        self.x, self.t, self.v, self.weight = np.zeros(d), 0.0, 0.0, 0.0

    def add_objective(self, objective, share, center):
        """Add the prompts of an objective, which weigh `share` in all."""
        for X, t, v in objective.least_squares_rows():
            root = np.sqrt(share * v)
            X = (X - center.astype(X.dtype)) * root[:, None]  # float64 from here on
            t = t * root
            self.gram = add_products(self.gram, X)
            self.moment += X.T @ t
            self.x += X.T @ root
            self.t += t @ root
            self.v += root @ root
        self.weight += share
        return self

    def add(self, other):
        """Add the sums of other prompts."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def solve(self, alphas, center, has_intercept):
        """Solve for the coefficients, and intercepts if any, of all penalties."""
        d = len(self.x)
        if self.weight == 0:
            return np.zeros((len(alphas), d + has_intercept))
        gram = np.asarray(self.gram) / self.weight
        moment = self.moment / self.weight
        if has_intercept:
            x, t, v = self.x / self.v, self.t / self.v, self.v / self.weight
            gram -= v * np.outer(x, x)
            moment -= v * t * x
        coefs = solve_ridge_path(gram, moment, alphas)
        if not has_intercept:
            return coefs
        return np.column_stack([coefs, t - coefs @ (x + center)])
