"""Ridge: exact minimization of objectives that are penalized least squares.

A fold whose centered rows can span all features is solved by its normal equations. Any
other fold is solved in the span of its rows, which gives the minimum-norm solution if
there is no penalty. The same rule holds for a single fit and for a grid of folds and
penalties.

For X in float32 or float16, the matrices are first summed and factored in float32, and
the solution is corrected by residuals that are computed from X. Where that does not
converge, as for columns that are nearly dependent, everything is computed in float64.
"""

import copy
from functools import partial
from itertools import islice

import numpy as np
from scipy.linalg import get_blas_funcs

from skqprobe._arrays.device import DeviceArray, add_gram, concatenate
from skqprobe._arrays.threads import map_parts, one_thread
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

OF_CORRECTION = 1e-2
"""Precision of a correction, relative to itself."""

MAX_SOLUTIONS = 5
"""Maximum number of solutions in float32: the first and its corrections."""


def solve_ridge_grid(grid):
    """Minimize all objectives of a grid whose loss is a least-squares problem.

    Parameters
    ----------
    grid : GridObjective
        Grid of a loss that has a method `least_squares`.

    Returns
    -------
    thetas : ndarray of shape (n_objectives, n_parameters)
        The minima. Without a penalty, those of minimum norm if the rows cannot span all
        features.
    """
    is_single = len(grid.objectives) == 1
    with one_thread(grid.shares_sums):
        if is_single or grid.total(_have_equal_weights, add=bool.__and__):
            thetas = _solve(grid)
        else:
            thetas = [_solve(grid.with_objectives([each])) for each in grid.objectives]
            thetas = np.concatenate(thetas, axis=1)
    return thetas.reshape(grid.n_objectives, -1)


def _have_equal_weights(grid):
    return have_equal_weights(grid.objectives)


def have_equal_weights(objectives):
    """Check that rows have the same weights for all rewards, so the same matrix."""
    if len(objectives) == 1:
        return True
    first, *others = (each.least_squares_weights() for each in objectives)
    return all(np.array_equal(first, other) for other in others)


def _penalties(grid):
    """Penalties of all objectives of a fold."""
    return np.tile(grid.alphas, len(grid.objectives))


def _solve(grid):
    """Parameters of all objectives, (n_folds, n_rewards * n_alphas, n_parameters)."""
    objective = grid.objective
    if objective.dtype == np.float32 and objective.on_host and grid.alphas.all():
        with np.errstate(all="ignore"):  # then float64 follows
            thetas = _solve_in_float32(grid)
        if thetas is not None:
            return thetas
    thetas = np.empty((grid.n_folds, len(_penalties(grid)), objective.n_parameters))
    # Centered inside prompts, the rows of a prompt span one dimension less.
    n_spanned = _count_rows(grid, objective.loss.shift_invariant)
    n_spanned = n_spanned - objective.has_intercept
    is_primal = n_spanned >= objective.n_features
    noise = None if grid.alphas.all() else objective.rounding_noise()
    if not is_primal.all():
        grid = grid.gathered()
    if objective.has_intercept:
        grid = _centered(grid)
    if is_primal.any():
        thetas[is_primal] = _solve_primal(grid, np.flatnonzero(is_primal), noise)
    if not is_primal.all():
        thetas[~is_primal] = _solve_dual(grid, np.flatnonzero(~is_primal))
    return _to_raw(grid.objective, thetas)


def _count_rows(grid, n_lost):
    """Count the rows of each fold, less `n_lost` per prompt."""
    folds = grid.fold_objectives[:: len(grid.objectives)]
    return np.array([fold.n_rows - n_lost * fold.n_prompts for fold in folds])


def _count_least_squares_rows(grid):
    """Count the rows of the least-squares problem of each fold."""
    return (grid.in_fold > 0) @ _n_rows(grid.objective)


def _to_raw(objective, thetas):
    """Convert parameters for scaled and centered columns to those of X as it is."""
    thetas[..., : objective.n_features] /= objective.scale
    return objective.to_raw(thetas)


def _centered(grid):
    """Subtract about the mean from each row of X as it is read, for precision."""
    objective = grid.objective
    return grid.replace(center=objective.sampled_mean.astype(objective.dtype))


def _with_intercept(objective, coefs, x_means, t_means):
    """Append the intercept ``t_mean - x_mean @ coef`` to coefficients, if there is one.

    Shapes are (n_folds, n, d), (n_folds, d), and (n_folds, n).
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
    n_rows = grid.total(_count_least_squares_rows)
    has_few_rows = (n_rows < objective.n_features).any()
    if has_few_rows and not grid.is_whole:
        return None
    if objective.has_intercept or objective.loss.shift_invariant:
        centered = _centered(grid)
    else:  # scores also have a mean, but only what varies makes a choice
        n, sums, squares = grid.total(_reward_sums)
        required *= 1 - sums**2 / squares / n
        if not (required > (4 * np.finfo(np.float32).eps) ** 2).all():
            return None
        required = required.repeat(len(grid.alphas))
    # Rows that are centered inside prompts need no other center.
    rows = grid if objective.loss.shift_invariant else centered
    if has_few_rows:
        solutions = _dual_solutions(rows.gathered())
    else:
        solutions = _primal_solutions(rows, centered)
    first = None
    for thetas, squares in islice(solutions, MAX_SOLUTIONS):
        first = squares if first is None else first
        if (squares < required * first).all():  # not if all underflow to 0
            return _to_raw(centered.objective, thetas)
    return None


def _reward_sums(grid):
    """Count the rewards, and sum them and their squares, of each objective."""
    rewards = np.array([each.rewards for each in grid.objectives])
    one = np.ones(len(rewards))
    return np.array([one * rewards.shape[1], rewards.sum(1), (rewards**2).sum(1)])


def _primal_solutions(rows, grid):
    """Yield solutions of the normal equations, each more precise than the last.

    Parameters
    ----------
    rows : GridObjective
        Objectives whose least-squares rows are summed.
    grid : GridObjective
        The same, with other columns if these are more precise for gradients.

    Yields
    ------
    thetas : ndarray of shape (n_folds, n_rewards * n_alphas, n_parameters)
        Parameters.
    squares : ndarray of shape (n_folds, n_rewards * n_alphas)
        Squares of the last corrections, in the norm of the objective.
    """
    objective, penalties = grid.objective, _penalties(grid)
    shape = grid.n_folds, len(penalties)
    sums = rows.total(_sum_folds, range(shape[0]), np.float32, add=_add_folds)
    equations = [fold.equations(objective.has_intercept) for fold in sums]
    grams, *others = zip(*equations, strict=True)
    moments, x_means, t_means, v_sums = map(np.array, others)
    moments = moments.repeat(len(grid.alphas), axis=1)
    t_means, v_sums = t_means.repeat(len(grid.alphas), axis=1), v_sums[:, None]
    mean = grams[0] if grid.is_whole else sum(grams) / len(grams)
    precondition = MeanPreconditioner(mean, penalties)
    systems, required = (precondition, grams, penalties), (TOLERANCE / 2) ** 2
    thetas, which = 0.0, np.arange(shape[0] * shape[1])
    while True:
        if grid.is_whole:
            coefs, solved = precondition(moments, which), True
        else:
            coefs, solved = solve_together(moments, *systems, required)
        if not np.all(solved):
            return
        thetas = thetas + _with_intercept(objective, coefs, x_means, t_means)
        yield thetas, dots(moments, coefs)
        flat = thetas.reshape(len(which), -1).copy()
        flat[:, : objective.n_features] /= objective.scale
        gradient = grid.value_and_gradient(flat, which)[1].reshape(thetas.shape)
        gradient[..., : objective.n_features] /= objective.scale
        required = OF_CORRECTION**2
        sides, ends = objective.split(gradient / -2)
        moments, t_means = sides - ends[..., None] * x_means[:, None], ends / v_sums


def _dual_solutions(grid):
    """Yield the same for a single fit, in the span of its rows; see `_solve_dual`."""
    objective, shift = grid.objective, grid.alphas[0] / 2
    X, t, v = _all_rows(grid, np.copy)
    root, share = np.sqrt(v), objective.has_intercept * v / v.sum()
    gram = _weighted_gram(_gram(X), root, share)
    solve = partial(
        MeanPreconditioner(gram, _penalties(grid)), active=np.arange(len(t))
    )
    coef, intercept = np.zeros((len(t), X.shape[1])), t @ share
    rest = root * (t - intercept[:, None])
    while True:
        dual = solve(rest[None])[0]
        weights = root * dual
        weights -= share * weights.sum(axis=1, keepdims=True)  # centers the rows
        step = weights.astype(X.dtype) @ X
        scores, coef = (step @ X.T).astype(np.float64), coef + step
        offset = scores @ share
        image, intercept = root * (scores - offset[:, None]), intercept - offset
        theta = np.column_stack([coef, intercept])[:, : objective.n_parameters]
        squares = dots(image[None], image[None]) + shift * dots(step[None], step[None])
        yield theta[None], squares
        rest = rest - image - shift * dual


def _n_rows(objective):
    """Count the least-squares rows of each prompt."""
    return objective.layout.sizes // (2 if objective.are_pairs else 1)


def _gram(X):
    """Compute X X', or its lower triangle in Fortran order."""
    if isinstance(X, DeviceArray):
        return np.asarray(X @ X.T, order="F")
    (syrk,) = get_blas_funcs(("syrk",), (X,))
    return syrk(1.0, X.T, trans=True, lower=True)


def _weighted_gram(gram, root, share):
    """Subtract the mean from rows, then multiply them by roots of their weights.

    In the memory of the lower triangle of their products. The mean has weights `share`,
    which are all 0 for none.
    """
    if share.any():
        symv, syr2 = get_blas_funcs(("symv", "syr2"), (gram,))
        mean = symv(1.0, gram, share, lower=True)
        mean -= share @ mean / 2
        ones = np.ones(len(gram))
        gram = syr2(-1.0, ones, mean, a=gram, lower=True, overwrite_a=True)
    if np.ptp(root) == 0:
        gram *= root[0] ** 2
    else:
        gram *= root
        gram *= root[:, None]
    return gram


def _all_rows(grid, convert):
    """Join the least-squares rows of all blocks, each converted before the next read.

    Shapes are (n, d), (n_rewards, n) and (n,).
    """
    objective, *others = grid.objectives
    rows = objective.least_squares_rows(others, merge_pairs=True)
    rows = ((convert(X), t, v) for X, t, v in rows)
    blocks, targets, weights = zip(*rows, strict=True)
    return concatenate(blocks), np.concatenate(targets, axis=1), np.concatenate(weights)


# --- at least as many rows as features -----------------------------------------------


def _solve_primal(grid, numbers, noise):
    """Solve folds by their normal equations."""
    objective, alphas = grid.objective, grid.alphas
    sums = grid.total(_sum_folds, numbers, np.float64, add=_add_folds)
    equations = [fold.equations(objective.has_intercept, noise) for fold in sums]
    grams, *others = zip(*equations, strict=True)
    moments, x_means, t_means, _ = map(np.array, others)
    if len(grams) == len(alphas) == 1:
        coefs = solve_system(grams[0], moments[0].T, alphas[0]).T[None]
    else:
        moments = moments.repeat(len(alphas), axis=1)
        coefs = solve_systems(grams, moments, _penalties(grid))
    t_means = t_means.repeat(len(alphas), axis=1)
    return _with_intercept(objective, coefs, x_means, t_means)


def _sum_folds(grid, numbers, dtype):
    """Compute the sums over the prompts of folds, in this order.

    Prompts that are in the same folds are summed once, so that X is read once for all
    folds and penalties.
    """
    size = len(grid.objectives), grid.objective.n_features, dtype
    sums = {number: NormalSums(*size) for number in numbers}
    for folds, part, share in grid.parts():
        if share == 0:
            continue
        folds = [fold for fold in folds if fold in sums]
        if len(folds) == 1:  # without a second matrix
            sums[folds[0]].add_objectives(part, share)
        elif folds:
            total = NormalSums(*size)
            total.add_objectives(part, share)
            for fold in folds:
                sums[fold].add(total)
    return list(sums.values())


def _add_folds(first, second):
    sums = copy.deepcopy(first)
    for one, other in zip(sums, second, strict=True):
        one.add(other)
    return sums


class NormalSums:
    """Sums over prompts that make up the normal equations of least squares."""

    def __init__(self, n_rewards, d, dtype):
        # Sums of v x x', (v x t, v x) and (v t, v), and the weight of the prompts.
        self.gram = np.zeros((d, d), dtype, order="F")
        self.sides, self.ends = np.zeros((n_rewards + 1, d)), np.zeros(n_rewards + 1)
        self.weight = 0.0

    def add_objectives(self, objectives, share):
        """Add the prompts of objectives, whose weights sum to `share`.

        Parameters
        ----------
        objectives : list of LinearObjective
            Objectives, one per reward, of a loss that has a method `least_squares`.
        share : float
            Sum of the weights of the prompts.
        """
        first, *others = objectives
        parts = first.matrix_parts()
        size = len(objectives), first.n_features, self.gram.dtype
        sums = [self, *(NormalSums(*size) for _ in parts[1:])]

        def add_rows(number):
            sums[number]._add_rows(parts[number], others, share)

        if len(parts) == 1:
            add_rows(0)
        else:
            map_parts(add_rows, range(len(parts)))
        for other in sums[1:]:
            self.add(other)
        self.weight += share

    def _add_rows(self, objective, others, share):
        for X, t, v in objective.least_squares_rows(others, merge_pairs=True):
            v = share * v
            sides, X = np.vstack([t * v, v]), X.astype(self.gram.dtype, copy=False)
            self.gram, products = add_products(self.gram, X, sides, v)
            self.sides += products
            self.ends += sides.sum(axis=1)

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
        moments : ndarray of shape (n_rewards, d)
            Right-hand sides.
        x_mean : ndarray of shape (d,)
        t_means : ndarray of shape (n_rewards,)
            Means that an intercept absorbs.
        v_sum : float
            Sum of the weights of the rows.
        """
        gram = np.asarray(self.gram, order="F")  # which may be on a device
        x_sum, v_sum, moments = self.sides[-1], self.ends[-1], self.sides[:-1]
        x_mean, t_means = x_sum / (v_sum or 1), self.ends[:-1] / (v_sum or 1)
        if has_intercept:
            (syr,) = get_blas_funcs(("syr",), (gram,))
            gram = syr(-v_sum, x_mean, a=gram, lower=True, overwrite_a=True)
            moments = moments - np.outer(t_means, x_sum)
            # A column that does not vary leaves only rounding.
            constant = gram.diagonal() <= 1e-12 * v_sum * x_mean**2
            gram[constant], gram[:, constant], moments[:, constant] = 0, 0, 0
        if noise is not None:
            constant = gram.diagonal() <= noise * v_sum
            gram[constant], gram[:, constant], moments[:, constant] = 0, 0, 0
        weight = self.weight or 1
        gram /= weight
        return gram, moments / weight, x_mean, t_means, v_sum / weight or 1.0


def add_products(gram, X, sides, weight=None):
    """Add X' diag(weight) X to the lower triangle of `gram`; compute ``sides @ X``."""
    if isinstance(X, DeviceArray):
        return add_gram(gram, X, weight), sides @ X
    # Only scipy's BLAS: the threads of numpy's busy-wait for its next call, and slow
    # down those of scipy's.
    (gemv,) = get_blas_funcs(("gemv",), (X,))
    products = np.stack([gemv(1.0, X.T, side) for side in sides])
    return add_gram(gram, X, weight), products


# --- fewer rows than features ---------------------------------------------------------


def _solve_dual(grid, numbers):
    """Solve folds in the span of their rows.

    With K the Gram matrix of the centered rows of a fold and V their weights, solve
    (V^(1/2) K V^(1/2) + alpha/2) u = V^(1/2) t; then coef = X' V^(1/2) u.
    """
    objective, alphas = grid.objective, grid.alphas
    X, t, v = _all_rows(grid, lambda X: X.astype(np.float64))
    gram = _gram(X)
    duals = np.zeros((len(numbers), len(t), len(alphas), len(v)))
    means = np.zeros((len(numbers), len(v)))  # X's mean is `means @ X`
    t_means = np.zeros((len(numbers), len(t)))
    for i, number in enumerate(numbers):
        copies = np.repeat(grid.in_fold[number], _n_rows(objective))
        inside = copies > 0
        if not inside.any():
            continue
        total = grid.in_fold[number] @ objective.prompt_weight
        weight = (copies * v)[inside] / (total or 1)
        K = gram if grid.is_whole else gram.T[np.ix_(inside, inside)].T
        target, root = t[:, inside], np.sqrt(weight)
        share = objective.has_intercept * weight / (weight.sum() or 1)
        K = _weighted_gram(K, root, share)
        t_means[i] = target @ share
        target = target - t_means[i][:, None]
        means[i, inside] = share
        for j, alpha in enumerate(alphas):
            own = K if len(alphas) == 1 else K.copy(order="F")
            dual = root * solve_system(own, (root * target).T, alpha).T
            dual -= share * dual.sum(axis=1, keepdims=True)  # centers the rows
            duals[i, :, j, inside] = dual.T
    coefs = (duals.reshape(-1, len(v)) @ X).reshape(len(numbers), -1, X.shape[1])
    t_means = t_means.repeat(len(alphas), axis=1)
    return _with_intercept(objective, coefs, np.asarray(means @ X), t_means)
