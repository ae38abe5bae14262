"""Selection of the weights of views by cross-validated ridge regression."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import solve
from sklearn.utils.extmath import randomized_svd

from skqprobe._arrays.blocks import BlockReader
from skqprobe._arrays.device import to_host
from skqprobe._arrays.views import EMBEDDING_COLUMNS
from skqprobe._candidates.segments import repeat_per_prompt, segment_sum
from skqprobe._objectives.base import center_per_prompt

OFF = 1e6
"""Penalty that leaves nothing of a view."""

PENALTIES = (OFF, 100.0, 10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4)
"""Penalties of a view to try, in units of its total variance, the strongest first."""

ROUNDING = 1e-12
"""Largest difference inside prompts of a column that is the same for all candidates of
a prompt, in units of its largest number."""

MAX_ROWS = 2**15
"""Number of rows, about, from which the weights are chosen."""

MAX_COLUMNS = 128
"""Number of principal directions to which a view with more columns is reduced."""


@dataclass(frozen=True)
class SampledPrompts:
    """Evenly spaced prompts, from which the weights are chosen.

    Parameters
    ----------
    X : ndarray or DeviceArray of shape (n_rows, d)
        Embeddings in prompt order.
    sizes : ndarray of int, of shape (n_prompts,)
        Numbers of candidates.
    rewards : ndarray of shape (n_rows,)
        Rewards, those of several objectives weighted.
    weight : ndarray of shape (n_rows,), or None
        Weights of the candidates.
    prompt_weight : ndarray of shape (n_prompts,)
        Weights of the prompts.
    train, test : ndarray of int, of shape (n_folds, n_prompts)
        Number of times that each fold trains on a prompt, and scores on it.
    """

    X: Any
    sizes: Any
    rewards: Any
    weight: Any
    prompt_weight: Any
    train: Any
    test: Any


def sample_prompts(data, weighted, folds, objective_weights, n_rows=None, skip=0):
    """Sample prompts with a weight, about MAX_ROWS rows out of `n_rows`.

    If the data are a part, `n_rows` is the number for all, and `skip` that of the
    prompts with a weight in the parts before.
    """
    layout, prompt_weight, weight = weighted
    train, held_out = folds
    first = layout.offsets[:-1]
    test = [layout.to_prompt_order(fold.copies)[first] for fold in held_out]
    used, some = np.flatnonzero(prompt_weight), np.zeros(layout.n_prompts, bool)
    n_rows = layout.sizes[used].sum() if n_rows is None else n_rows
    step = -(-n_rows // MAX_ROWS)
    some[used[-skip % step :: step]] = True
    layout = layout.keep(repeat_per_prompt(some, layout.offsets))
    rewards = data.rewards @ objective_weights if data.is_vector else data.rewards
    rows = slice(None) if layout.order is None else layout.order
    return SampledPrompts(
        to_host(BlockReader(data.X)(rows), "X"),
        layout.sizes,
        layout.to_prompt_order(rewards),
        layout.to_prompt_order(weight),
        prompt_weight[some],
        train[:, some],
        np.array(test)[:, some],
    )


def choose_view_weights(sample, views, scale):
    """Choose the weights of views by the error of ridge regression in other folds.

    Banded ridge regression [1]_ of the rewards minus their mean per prompt has one
    penalty per view, which coordinate descent chooses. A penalty is the largest one
    whose squared error is within one standard error of the smallest, so that a view
    that does not help is left out. Embeddings share one, unless others are better by
    more than a standard error. All weights are 1 unless the chosen ones lower the error
    by more than a standard error.

    Parameters
    ----------
    sample : SampledPrompts
        Prompts and their folds.
    views : dict of ndarray of int
        Columns of each view, by name.
    scale : ndarray of shape (n_features,) or float
        Numbers by which the columns are divided.

    Returns
    -------
    view_weights : dict of float
        Weight of each view. The weighted views have the total variance of the views.

    References
    ----------
    .. [1] Nunez-Elizalde, Huth, Gallant, "Voxelwise encoding models with non-spherical
       multivariate normal priors", NeuroImage, 2019.
    """
    ridge = BandedRidge(sample, views, scale)
    variances = ridge.variances
    varies = variances > 0
    weights = np.ones(len(variances))
    if varies.sum() > 1:
        equal, chosen = ridge.best(_equal_weights(ridge)), _descend(ridge)
        if ridge.best([equal, chosen]) is chosen:
            weights[varies] /= chosen[varies] * variances[varies]
            total = variances.sum() / (weights * variances)[varies].sum()
            weights[varies] *= total
    return dict(zip(views, weights.tolist(), strict=True))


def _equal_weights(ridge):
    """List penalties with which all views have the same weight, the strongest first."""
    varies, relative = ridge.variances > 0, np.full(len(ridge.variances), np.inf)
    relative[varies] = ridge.variances[varies].mean() / ridge.variances[varies]
    return [np.minimum(value * relative, OFF) for value in PENALTIES[1:]]


def _descend(ridge):
    """Penalties of the views by coordinate descent, (n_views,).

    First, embeddings share a penalty. They then get penalties of their own only where
    that lowers the error by more than one standard error.
    """
    varies = ridge.variances > 0
    views = np.flatnonzero(varies)
    wide = [view for view in views if ridge.sizes[view] >= EMBEDDING_COLUMNS]
    parts = [wide] * bool(wide) + [[view] for view in views if view not in wide]
    common = [np.where(varies, value, OFF) for value in PENALTIES[1:]]
    penalties = ridge.best(common)
    for part in parts:
        penalties = ridge.best(_changes(penalties, part))
    for view in views:
        changes = _changes(penalties, [view])
        penalties = ridge.best([penalties, *changes])
    return penalties


def _changes(penalties, part):
    """List the penalties with other values for some views, the strongest first."""
    changes = np.tile(penalties, (len(PENALTIES), 1))
    changes[:, part] = np.array(PENALTIES)[:, None]
    return [each for each in changes if each.min() < OFF]


class BandedRidge:
    """Ridge regression of centered rewards with a penalty per view, on folds.

    Parameters
    ----------
    sample, views, scale
        See `choose_view_weights`.

    Attributes
    ----------
    sizes : list of int
        Number of columns of each view.
    variances : ndarray of shape (n_views,)
        Total variance of the columns of each view inside prompts.
    """

    def __init__(self, sample, views, scale):
        self.offsets, self._errors = np.append(0, np.cumsum(sample.sizes)), {}
        self.train, self.test, weight = sample.train, sample.test, sample.weight
        self.rewards = center_per_prompt(sample.rewards, self.offsets, weight)
        self.row_weight = np.ones(self.offsets[-1]) if weight is None else weight
        total = segment_sum(self.row_weight, self.offsets)
        self.prompt_weight = sample.prompt_weight / sample.prompt_weight.sum()
        self.row_weight = self.row_weight / repeat_per_prompt(total, self.offsets)
        of_prompt = repeat_per_prompt(self.prompt_weight, self.offsets)
        self.share = self.row_weight * of_prompt
        X = np.asarray(sample.X)
        self.sizes = [len(view) for view in views.values()]
        views = [self._reduced(X, view, scale, weight) for view in views.values()]
        self.variances = np.array([variance for _, variance in views])
        self.X = np.hstack([columns for columns, _ in views])
        self.view_of_column = np.repeat(
            np.arange(len(views)), [columns.shape[1] for columns, _ in views]
        )
        self.equations = self._sum_products()

    def _reduced(self, X, view, scale, weight):
        """Columns of a view, centered and of total variance 1, and their variance."""
        # In float64, since the columns may be far from 0 or of any magnitude.
        columns = X[:, view] / np.broadcast_to(scale, X.shape[1:])[view]
        tiny = ROUNDING * np.abs(columns).max(axis=0)
        columns = center_per_prompt(columns, self.offsets, weight)
        columns *= np.abs(columns).max(axis=0) > tiny
        variance = float(self.share @ np.einsum("ij,ij->i", columns, columns))
        columns = (columns / (np.sqrt(variance) or 1.0)).astype(np.float32)
        if columns.shape[1] > MAX_COLUMNS and variance > 0:
            n_components = min(MAX_COLUMNS, len(columns))
            weighted = columns * np.sqrt(self.share)[:, None].astype(np.float32)
            *_, directions = randomized_svd(
                weighted, n_components, n_iter=2, random_state=0
            )
            columns = columns @ directions.T
        return columns, variance

    def _sum_products(self):
        """Matrix and right side of the normal equations of each fold."""
        n_columns = self.X.shape[1]
        matrices = np.zeros((len(self.train), n_columns, n_columns))
        sides = np.zeros((len(self.train), n_columns))
        # Of prompts that are in the same training sets the sums are needed once.
        patterns, number = np.unique(self.train, axis=1, return_inverse=True)
        number = repeat_per_prompt(number.reshape(-1), self.offsets)
        for i, pattern in enumerate(patterns.T):
            rows = number == i
            weighted = self.X[rows] * self.share[rows, None]
            matrices += np.multiply.outer(pattern, weighted.T @ self.X[rows])
            sides += np.multiply.outer(pattern, self.rewards[rows] @ weighted)
        totals = np.maximum(self.train @ self.prompt_weight, np.finfo(float).tiny)
        return matrices / totals[:, None, None], sides / totals[:, None]

    def errors(self, penalties):
        """Mean squared error of each prompt over the folds that hold it out."""
        key = tuple(penalties)
        if key not in self._errors:
            of_column, total = penalties[self.view_of_column], 0.0
            for matrix, side, copies in zip(*self.equations, self.test, strict=True):
                coef = solve(matrix + np.diag(of_column), side, assume_a="pos")
                rows = repeat_per_prompt(copies > 0, self.offsets)
                error = np.zeros(len(rows))
                error[rows] = (self.X[rows] @ coef - self.rewards[rows]) ** 2
                total += copies * segment_sum(error * self.row_weight, self.offsets)
            self._errors[key] = total
        return self._errors[key]

    def best(self, candidates):
        """Return the first penalties within one standard error of the best ones."""
        errors = np.array([self.errors(each) for each in candidates])
        excess = errors - errors[(errors @ self.prompt_weight).argmin()]
        mean = excess @ self.prompt_weight
        spread = (self.prompt_weight * (excess - mean[:, None])) ** 2
        return candidates[int(np.argmax(mean <= np.sqrt(spread.sum(axis=1))))]
