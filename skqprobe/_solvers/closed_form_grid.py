"""Closed forms for many folds and penalties at once."""

import numpy as np
from scipy.linalg.blas import dsyr

from skqprobe._solvers.closed_form import add_products
from skqprobe._solvers.ridge_grid import solve_ridge_grid


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
    objective = grid.objective
    n_folds, d = len(grid.in_fold), objective.n_features
    center = _center(objective)
    sums = [NormalSums(d) for _ in range(n_folds)]
    for folds, part, share in grid.parts():
        if share > 0:
            total = NormalSums(d).add_objective(part, share, center)
            for fold in folds:
                sums[fold].add(total)
    equations = [fold.equations(objective.has_intercept) for fold in sums]
    grams, moments, x_means, t_means = zip(*equations, strict=True)
    coefs = solve_ridge_grid(grams, np.array(moments), grid.alphas)
    if objective.has_intercept:
        offsets = np.einsum("fad,fd->fa", coefs, np.array(x_means) + center)
        intercepts = np.array(t_means)[:, None] - offsets
        coefs = np.concatenate([coefs, intercepts[..., None]], axis=2)
    return coefs.reshape(grid.n_objectives, -1)


def _center(objective):
    """Choose what to take off X before products are summed: its mean, for precision."""
    if objective.has_intercept:
        return objective.least_squares_means[0]
    return np.zeros(objective.n_features)


class NormalSums:
    """Sums over prompts that make up the normal equations of least squares."""

    def __init__(self, d):
        # Of v x x', (v x t, v x) and (v t, v), and the weight of the prompts.
        self.gram = np.zeros((d, d), order="F")
        self.sides, self.ends, self.weight = np.zeros((2, d)), np.zeros(2), 0.0

    def add_objective(self, objective, share, center):
        """Add the prompts of an objective, which weigh `share` in all.

        Parameters
        ----------
        objective : LinearObjective
            Of a loss that has a method `least_squares`.
        share : float
            The weight.
        center : ndarray of shape (d,)
            What to take off each row of X, for precision.
        """
        for X, t, v in objective.least_squares_rows():
            root = np.sqrt(share * v)
            X = (X - center.astype(X.dtype)) * root[:, None]  # float64 from here on
            sides = np.stack([t * root, root])
            self.gram, products = add_products(self.gram, X, sides)
            self.sides += products
            self.ends += sides @ root
        self.weight += share
        return self

    def add(self, other):
        """Add the sums of other prompts."""
        self.gram += np.asarray(other.gram)  # which may be on a device
        self.sides += other.sides
        self.ends += other.ends
        self.weight += other.weight

    def equations(self, has_intercept):
        """Make the normal equations; the sums are used up.

        Returns
        -------
        gram : ndarray of shape (d, d)
            In Fortran order; the lower triangle alone is to be read.
        moment : ndarray of shape (d,)
        x_mean : ndarray of shape (d,)
        t_mean : float
            Means, which an intercept takes up; x_mean is less `center`.
        """
        gram, (moment, x_sum), (t_sum, v_sum) = self.gram, self.sides, self.ends
        x_mean, t_mean = x_sum / (v_sum or 1), t_sum / (v_sum or 1)
        if has_intercept:
            gram = dsyr(-v_sum, x_mean, a=gram, lower=True, overwrite_a=True)
            moment = moment - t_mean * x_sum
            # Of a column that does not vary, nothing but rounding is left.
            constant = gram.diagonal() <= 1e-12 * v_sum * x_mean**2
            gram[constant], gram[:, constant], moment[constant] = 0, 0, 0
        gram /= self.weight or 1
        return gram, moment / (self.weight or 1), x_mean, t_mean
