"""Ridge: exact minimization of objectives that are penalized least squares.

A fold whose centered rows can span all features is solved by its normal equations. Any
other fold is solved in the span of its rows, which gives the minimum-norm solution if
there is no penalty. The same rule holds for a single fit and for a grid of folds and
penalties.

For X in float32 or float16, the matrices are first summed and factored in float32, and
the solution is corrected by residuals that are computed from X. Where that does not
converge, as for columns that are nearly dependent, everything is computed in float64.
"""

from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np
from scipy.linalg import get_blas_funcs

from skqprobe._arrays.device import DeviceArray, concatenate
from skqprobe._solvers.symmetric_systems import (
    MeanPreconditioner,
    dots,
    solve_system,
    solve_systems,
    solve_together,
)

TOLERANCE = 1e-5
"""Size of the last correction in float32, relative to the solution, in the norm of the
objective."""

MAX_SOLUTIONS = 5
"""Maximum number of solutions in float32: the first and its corrections."""


def solve_ridge(objective):
    """Minimize an objective that is a penalized least-squares problem.

    Parameters
    ----------
    objective : LinearObjective
        Objective of a loss that has a method `least_squares`.

    Returns
    -------
    theta : ndarray of shape (n_parameters,)
        The minimum. Without a penalty, the one of minimum norm if the rows cannot span
        all features.
    """
    everything = np.ones((1, objective.layout.n_prompts), dtype=int)
    return _solve(_Single(objective, everything, np.array([objective.alpha])))[0, 0]


def solve_ridge_grid(grid):
    """Minimize all objectives of a grid whose loss is a least-squares problem.

    Parameters
    ----------
    grid : GridObjective
        Grid of a loss that has a method `least_squares`.

    Returns
    -------
    thetas : ndarray of shape (n_objectives, n_parameters)
        The minima.
    """
    return _solve(grid).reshape(grid.n_objectives, -1)


class _Single:
    """One objective, with the methods of a grid of one fold and one penalty."""

    def __init__(self, objective, in_fold, alphas):
        self.objective, self.in_fold, self.alphas = objective, in_fold, alphas

    def parts(self):
        return [([0], self.objective, 1.0)]

    def value_and_gradient(self, thetas, _):
        value, gradient = self.objective.value_and_gradient(thetas[0])
        return np.array([value]), gradient[None]


def _solve(grid):
    """Parameters of all folds and penalties, (n_folds, n_alphas, n_parameters)."""
    objective = grid.objective
    on_host = isinstance(objective.X, np.ndarray)
    if objective.dtype == np.float32 and on_host and grid.alphas.all():
        with np.errstate(all="ignore"):  # then float64 follows
            thetas = _solve_in_float32(grid)
        if thetas is not None:
            return thetas
    thetas = np.empty((len(grid.in_fold), len(grid.alphas), objective.n_parameters))
    # Centered inside prompts, the rows of a prompt span one dimension less.
    ranks = objective.layout.sizes - objective.loss.shift_invariant
    n_spanned = (grid.in_fold > 0) @ ranks - objective.has_intercept
    is_primal = n_spanned >= objective.n_features
    noise = None if grid.alphas.all() else objective.rounding_noise()
    if objective.has_intercept:
        grid = _centered(grid, objective.least_squares_means[0])
    if is_primal.any():
        thetas[is_primal] = _solve_primal(grid, np.flatnonzero(is_primal), noise)
    if not is_primal.all():
        thetas[~is_primal] = _solve_dual(grid, np.flatnonzero(~is_primal))
    return _to_raw(grid.objective, thetas)


def _to_raw(objective, thetas):
    """Convert parameters for scaled and centered columns to those of X as it is."""
    thetas[..., : objective.n_features] /= objective.scale
    return objective.to_raw(thetas)


def _centered(grid, center):
    """Subtract a vector from each row of X as it is read, for precision."""
    objective = replace(grid.objective, center=center.astype(grid.objective.dtype))
    return type(grid)(objective, grid.in_fold, grid.alphas)


def _with_intercept(objective, coefs, x_means, t_means):
    """Append the intercept ``t_mean - x_mean @ coef`` to coefficients, if there is one.

    Shapes are (n_folds, n_alphas, d), (n_folds, d), and (n_folds, 1 or n_alphas).
    """
    if not objective.has_intercept:
        return coefs
    intercepts = t_means - np.einsum("fad,fd->fa", coefs, x_means)
    return np.concatenate([coefs, intercepts[..., None]], axis=2)


# --- matrices in float32 --------------------------------------------------------------


def _solve_in_float32(grid):
    """Solve with matrices in float32, or return None if that does not converge.

    The first solution has the errors that rounding makes in a matrix and its factors.
    A correction is the solution for the residual, which is computed from X. A small
    correction shows that the errors were small.
    """
    objective, centered, required = grid.objective, grid, TOLERANCE**2
    n_rows = (grid.in_fold > 0) @ objective.layout.sizes
    has_few_rows = (n_rows < objective.n_features).any()
    if has_few_rows and not isinstance(grid, _Single):
        return None
    if objective.has_intercept or objective.loss.shift_invariant:
        _, some_rows, _ = objective.sampled_blocks(1)[0]  # which have a similar mean
        centered = _centered(grid, objective._read(some_rows).mean(axis=0))
    else:  # scores also have a mean, but only what varies makes a choice
        required *= objective.rewards.var() / (objective.rewards**2).mean()
        if not required > (4 * np.finfo(np.float32).eps) ** 2:
            return None
    # Rows that are centered inside prompts need no other center.
    rows = grid if objective.loss.shift_invariant else centered
    if has_few_rows:
        solutions = _dual_solutions(rows)
    else:
        solutions = _primal_solutions(rows, centered)
    first = None
    for thetas, squares in islice(solutions, MAX_SOLUTIONS):
        first = squares if first is None else first
        if (squares < required * first).all():  # not if all underflow to 0
            return _to_raw(centered.objective, thetas)
    return None


def _primal_solutions(rows, grid):
    """Yield solutions of the normal equations, each more precise than the last.

    Parameters
    ----------
    rows : GridObjective or _Single
        Objectives whose least-squares rows are summed.
    grid : GridObjective or _Single
        The same, with other columns if these are more precise for gradients.

    Yields
    ------
    thetas : ndarray of shape (n_folds, n_alphas, n_parameters)
        Parameters.
    squares : ndarray of shape (n_folds, n_alphas)
        Squares of the last corrections, in the norm of the objective.
    """
    objective, shape = grid.objective, (len(grid.in_fold), len(grid.alphas))
    sums = _sum_folds(rows, range(shape[0]), np.float32)
    equations = [fold.equations(objective.has_intercept) for fold in sums]
    grams, *others = zip(*equations, strict=True)
    moments, x_means, t_means, v_sums = map(np.array, others)
    moments = moments[:, None].repeat(shape[1], axis=1)
    t_means, v_sums = t_means[:, None], v_sums[:, None]
    mean = grams[0] if shape == (1, 1) else sum(grams) / len(grams)
    precondition = MeanPreconditioner(mean, grid.alphas)
    systems = precondition, grams, grid.alphas, (TOLERANCE / 2) ** 2
    thetas, which = 0.0, np.arange(shape[0] * shape[1])
    while True:
        if shape == (1, 1):
            coefs, solved = precondition(moments, which), True
        else:
            coefs, solved = solve_together(moments, *systems)
        if not np.all(solved):
            return
        thetas = thetas + _with_intercept(objective, coefs, x_means, t_means)
        yield thetas, dots(moments, coefs)
        flat = thetas.reshape(len(which), -1).copy()
        flat[:, : objective.n_features] /= objective.scale
        gradient = grid.value_and_gradient(flat, which)[1].reshape(thetas.shape)
        gradient[..., : objective.n_features] /= objective.scale
        sides, ends = objective.split(gradient / -2)
        moments, t_means = sides - ends[..., None] * x_means[:, None], ends / v_sums


def _dual_solutions(grid):
    """Yield the same for a single fit, in the span of its rows; see `_solve_dual`."""
    objective, shift = grid.objective, grid.alphas[0] / 2
    rows = ((X.copy(), t, v) for X, t, v in objective.least_squares_rows())
    X, t, v = map(np.concatenate, zip(*rows, strict=True))
    x_mean, t_mean, root = np.zeros((1, X.shape[1])), 0.0, np.sqrt(v)
    if objective.has_intercept:
        x_mean[0], t_mean = v.astype(X.dtype) @ X / v.sum(), v @ t / v.sum()
    X -= x_mean.astype(X.dtype)
    X *= root.astype(X.dtype)[:, None]
    target = root * (t - t_mean)
    (syrk,) = get_blas_funcs(("syrk",), (X,))
    gram = syrk(1.0, X.T, trans=True, lower=True)
    solve = partial(MeanPreconditioner(gram, grid.alphas), active=np.array([0]))
    coef, rest = np.zeros(X.shape[1]), target
    while True:
        dual = solve(rest[None, None])[0, 0]
        step = dual.astype(X.dtype) @ X
        image, coef = X @ step, coef + step
        theta = _with_intercept(objective, coef[None, None], x_mean, t_mean)
        yield theta, image @ image + shift * (step @ step)
        rest = rest - image - shift * dual


# --- at least as many rows as features -----------------------------------------------


def _solve_primal(grid, numbers, noise):
    """Solve folds by their normal equations."""
    objective, alphas = grid.objective, grid.alphas
    sums = _sum_folds(grid, numbers, np.float64)
    equations = [fold.equations(objective.has_intercept, noise) for fold in sums]
    grams, moments, x_means, t_means, _ = zip(*equations, strict=True)
    if len(grams) == len(alphas) == 1:
        coefs = solve_system(grams[0], moments[0], alphas[0])[None, None]
    else:
        coefs = solve_systems(grams, np.array(moments), alphas)
    return _with_intercept(objective, coefs, x_means, np.array(t_means)[:, None])


def _sum_folds(grid, numbers, dtype):
    """Compute the sums over the prompts of folds, in this order.

    Prompts that are in the same folds are summed once, so that X is read once for all
    folds and penalties.
    """
    sums = {number: NormalSums(grid.objective.n_features, dtype) for number in numbers}
    for folds, part, share in grid.parts():
        if share == 0:
            continue
        folds = [fold for fold in folds if fold in sums]
        if len(folds) == 1:  # without a second matrix
            sums[folds[0]].add_objective(part, share)
        elif folds:
            total = NormalSums(grid.objective.n_features, dtype)
            total.add_objective(part, share)
            for fold in folds:
                sums[fold].add(total)
    return list(sums.values())


class NormalSums:
    """Sums over prompts that make up the normal equations of least squares."""

    def __init__(self, d, dtype):
        # Sums of v x x', (v x t, v x) and (v t, v), and the weight of the prompts.
        self.gram = np.zeros((d, d), dtype, order="F")
        self.sides, self.ends, self.weight = np.zeros((2, d)), np.zeros(2), 0.0

    def add_objective(self, objective, share):
        """Add the prompts of an objective, whose weights sum to `share`.

        Parameters
        ----------
        objective : LinearObjective
            Objective of a loss that has a method `least_squares`.
        share : float
            Sum of the weights of the prompts.
        """
        dtype = self.gram.dtype
        for X, t, v in objective.least_squares_rows():
            root = np.sqrt(share * v)
            sides = np.stack([t * root, root])
            X = X * root.astype(dtype)[:, None]
            self.gram, products = add_products(self.gram, X, sides)
            self.sides += products
            self.ends += sides @ root
        self.weight += share

    def add(self, other):
        """Add the sums of other prompts."""
        self.gram += np.asarray(other.gram)  # which may be on a device
        self.sides += other.sides
        self.ends += other.ends
        self.weight += other.weight

    def equations(self, has_intercept, noise=None):
        """Make the normal equations, in the memory of the sums.

        Parameters
        ----------
        has_intercept : bool
            Whether an intercept absorbs the means.
        noise : ndarray of shape (d,), default=None
            Variance that rounding leaves in a constant column; if no penalty hides it.

        Returns
        -------
        gram : ndarray of shape (d, d)
            Matrix in Fortran order, of which only the lower triangle is valid.
        moment : ndarray of shape (d,)
            Right-hand side.
        x_mean : ndarray of shape (d,)
        t_mean : float
            Means that an intercept absorbs.
        v_sum : float
            Sum of the weights of the rows.
        """
        gram = np.asarray(self.gram, order="F")  # which may be on a device
        (moment, x_sum), (t_sum, v_sum) = self.sides, self.ends
        x_mean, t_mean = x_sum / (v_sum or 1), t_sum / (v_sum or 1)
        if has_intercept:
            (syr,) = get_blas_funcs(("syr",), (gram,))
            gram = syr(-v_sum, x_mean, a=gram, lower=True, overwrite_a=True)
            moment = moment - t_mean * x_sum
            # A column that does not vary leaves only rounding.
            constant = gram.diagonal() <= 1e-12 * v_sum * x_mean**2
            gram[constant], gram[:, constant], moment[constant] = 0, 0, 0
        if noise is not None:
            constant = gram.diagonal() <= noise * v_sum
            gram[constant], gram[:, constant], moment[constant] = 0, 0, 0
        weight = self.weight or 1
        gram /= weight
        return gram, moment / weight, x_mean, t_mean, v_sum / weight or 1.0


def add_products(gram, X, sides):
    """Add X' X to the lower triangle of `gram`, and compute ``sides @ X``.

    In place and with half the operations of a full product. For X on a device, the sum
    moves to the device.
    """
    if isinstance(X, DeviceArray):
        return gram + X.T @ X, sides @ X
    # Only scipy's BLAS: the threads of numpy's busy-wait for its next call, and slow
    # down those of scipy's.
    gemv, syrk = get_blas_funcs(("gemv", "syrk"), (X,))
    products = np.stack([gemv(1.0, X.T, side) for side in sides])
    return syrk(1.0, X.T, beta=1.0, c=gram, overwrite_c=True, lower=True), products


# --- fewer rows than features ---------------------------------------------------------


def _solve_dual(grid, numbers):
    """Solve folds in the span of their rows.

    With K the Gram matrix of the centered rows of a fold and V their weights, solve
    (V^(1/2) K V^(1/2) + alpha/2) u = V^(1/2) t; then coef = X' V^(1/2) u.
    """
    objective, alphas = grid.objective, grid.alphas
    # A copy of each block, as the next may be read into the same memory.
    rows = ((X.astype(np.float64), t, v) for X, t, v in objective.least_squares_rows())
    blocks, *targets = zip(*rows, strict=True)
    X, t, v = concatenate(blocks), *map(np.concatenate, targets)
    gram = np.asarray(X @ X.T)
    duals = np.zeros((len(numbers), len(alphas), len(t)))
    means = np.zeros((len(numbers), len(t)))  # X's mean is `means @ X`
    t_means = np.zeros(len(numbers))
    for i, number in enumerate(numbers):
        copies = np.repeat(grid.in_fold[number], objective.layout.sizes)
        inside = copies > 0
        if not inside.any():
            continue
        total = grid.in_fold[number] @ objective.prompt_weight
        weight = (copies * v)[inside] / (total or 1)
        K, target, root = gram[np.ix_(inside, inside)], t[inside], np.sqrt(weight)
        share = weight / (weight.sum() or 1)
        if objective.has_intercept:
            K_mean = K @ share
            K = K - K_mean - K_mean[:, None] + share @ K_mean
            t_means[i] = share @ target
            target = target - t_means[i]
            means[i, inside] = share
        K = root * K * root[:, None]
        for j, alpha in enumerate(alphas):
            dual = root * solve_system(K.copy(order="F"), root * target, alpha)
            if objective.has_intercept:
                dual -= share * dual.sum()  # centers the rows in duals @ X
            duals[i, j, inside] = dual
    coefs = (duals.reshape(-1, len(t)) @ X).reshape(*duals.shape[:2], -1)
    return _with_intercept(objective, coefs, np.asarray(means @ X), t_means[:, None])
