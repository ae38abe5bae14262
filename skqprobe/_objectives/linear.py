"""Scores of a linear probe, and the objective of its training."""

import copy
from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from itertools import pairwise
from operator import add

import numpy as np

from skqprobe._arrays.blocks import PRODUCT_ROWS, BlockReader, row_blocks, rows_at_once
from skqprobe._arrays.device import add_gram
from skqprobe._arrays.threads import (
    Parts,
    is_small,
    map_parts,
    n_blas_threads,
    one_thread,
)
from skqprobe._candidates.segments import repeat_per_prompt
from skqprobe._objectives.base import Objective, center_per_prompt
from skqprobe._objectives.parameters import LinearParameters
from skqprobe._objectives.span import RowSpan

SPAN_ROWS = 768
"""Maximum number of rows, if they cannot span the features, to compute in their span.
Their products cost less than an approximation."""

SAMPLED_BLOCKS = 8
"""Minimum number of blocks in a sample of rows, so that it has several prompts."""

ROWS_PER_MATRIX = 8
"""Minimum number of rows per feature for threads with a (d, d) matrix each."""

MEAN_ROWS = 2**8
"""Number of rows whose mean is near enough to all, to subtract it for precision."""


def linear_scores(X, coef, intercept):
    """Compute ``X @ coef + intercept``, in blocks unless X is a plain array in memory.

    Parameters
    ----------
    X : ndarray or DeviceArray of shape (n_rows, d)
        Embeddings in any order.
    coef : ndarray of shape (d,) or (d, n)
        Coefficients of the probe, or of several.
    intercept : float or ndarray of shape (n,)
        Intercept of each probe.

    Returns
    -------
    scores : ndarray of shape (n_rows,) or (n_rows, n)
        Scores in the dtype of X, or float32 for float16.
    """
    read = BlockReader(X)
    dtype = read.dtype
    coef = coef.astype(dtype, copy=False)  # BLAS is slow with mixed types
    intercept = np.asarray(intercept, dtype=dtype)
    if read.is_plain:
        return X @ coef + intercept
    scores = np.empty((len(X), *coef.shape[1:]), dtype=dtype)
    with one_thread():  # torch, which converts float16, has threads of its own
        for rows in row_blocks(X):
            scores[rows] = read.unchecked(rows) @ coef
    return scores + intercept


class LinearObjective(LinearParameters, Objective):
    """Mean loss of a linear probe over prompts, plus ``alpha / 2 * |coef|**2``.

    X is read in blocks of whole prompts.

    Parameters
    ----------
    X, layout, rewards, loss, **settings
        See `Objective`.
    """

    def __post_init__(self):
        super().__post_init__()
        self._set_parameters()
        self._n_rows_at_once = rows_at_once(self.X, self.dtype.itemsize)
        self._blocks = prompt_blocks(self.layout.offsets, self._n_rows_at_once)

    @cached_property
    def parts(self):
        """Objectives of some blocks each, for threads that read X at the same time."""
        n_parts = 1
        if self.reader.is_plain and not is_small(self.X):
            n_parts = min(n_blas_threads(), len(self._blocks))
        if n_parts <= 1:
            return [self]
        ends = np.linspace(0, len(self._blocks), n_parts + 1).round().astype(int)
        blocks = [self._blocks[a:b] for a, b in pairwise(ends)]
        return Parts(map(self.with_blocks, blocks))

    def matrix_parts(self):
        """Return `parts` if a (d, d) matrix for each takes little memory, or [self]."""
        has_room = self.n_rows >= ROWS_PER_MATRIX * self.n_features
        return self.parts if has_room else [self]

    def _sum_over_parts(self, function):
        """Sum each of the results of a function of parts, computed in threads."""
        results = map_parts(function, self.parts)
        return [reduce(add, parts) for parts in zip(*results, strict=True)]

    def in_span(self, alpha):
        """Return the objective in the span of its rows, if these are few.

        It has the same minima for penalties from `alpha` on; see `RowSpan`.
        """
        few = min(SPAN_ROWS, self.n_features - 1)
        if not self.on_host or self.n_rows > few:
            return self
        span = RowSpan(self)
        is_empty = span.coordinates.size == 0
        if is_empty or span.lost * self.curvature_at_zero > alpha:
            return self
        return replace(
            self,
            X=span.coordinates.astype(self.dtype),
            layout=replace(self.layout, order=None),
            center=None,
            columns=None,
            span=span,
        )

    def value_and_gradient(self, theta):
        """Evaluate the objective in one read of X.

        Parameters
        ----------
        theta : ndarray of shape (n_parameters,)
            Coefficients and intercept.

        Returns
        -------
        value : float
            Mean loss plus penalty.
        gradient : ndarray of shape (n_parameters,)
            Gradient with respect to `theta`.
        """
        values, gradients = evaluate_together([self], theta[None])
        return values[0], gradients[0]

    def scores(self, theta):
        """Compute the scores in prompt order, of shape (n_rows,)."""
        coef, intercept = self.split(theta)
        coef = coef.astype(self.dtype)
        scores = [self._read(rows) @ coef for _, rows, _ in self._blocks]
        return np.concatenate(scores).astype(np.float64) + intercept

    def score_curvature(self, scores=None):
        """Measure the curvature of the mean loss in a direction of unit spread.

        It is the absolute change of the slope in a normal step of standard deviation
        0.1 in all scores, divided by 0.1, plus the absolute slope.

        Parameters
        ----------
        scores : ndarray of shape (n_rows,), default=None
            Scores, in prompt order, at which to measure. None means 0.

        Returns
        -------
        curvature : ndarray of shape (n_rows,)
            Typical curvature in the score of each row, in prompt order.
        """
        rng = np.random.RandomState(0)
        if self.noise is not None:
            rng.set_state(self.noise)
        near = np.zeros(self.layout.n_rows) if scores is None else scores
        far = near + 0.1 * rng.standard_normal(len(near))
        curvature = np.empty(self.layout.n_rows)
        for prompts, rows, offsets in self._blocks:
            data = self.rewards[rows], offsets, self._weight(rows)
            _, here = self.loss.value_and_gradient(near[rows], *data)
            _, there = self.loss.value_and_gradient(far[rows], *data)
            # If a loss is not convex or has kinks, the slope itself indicates the scale
            # on which the loss bends.
            bend = np.abs(there - here) / 0.1 + np.abs(here)
            weight = repeat_per_prompt(self.prompt_weight[prompts], offsets)
            curvature[rows] = weight * bend
        return curvature

    def moments(self, full, weight=None, dtype=None):
        """Compute the mean of the columns, and their second moments around it.

        For a shift-invariant loss, the second moments are around the mean of each
        prompt.

        Parameters
        ----------
        full : bool
            Whether to compute all second moments. Otherwise, only the variances.
        weight : ndarray of shape (n_rows,), default=None
            Positive weights of the rows, in prompt order. None means equal weights.
        dtype : dtype, default=None
            Type to compute squares in. None means that of the computation, or float64
            if squares are out of its range.

        Returns
        -------
        mean : ndarray of shape (d,)
            Mean of the columns, or about it for a shift-invariant loss.
        moment : ndarray of shape (d, d) or (d,)
            Second moments, of which only the lower triangle is valid, or variances.
        """
        d, mean = self.n_features, self.sampled_mean

        def square(part):
            total, sums, moment = 0.0, np.zeros(d), np.zeros(d)
            if full:
                moment = np.zeros((d, d), dtype or self.dtype, order="F")
            for _, rows, offsets in part._blocks:
                X = part._read(rows)
                if dtype is not None:
                    X = X.astype(dtype)
                share = None if weight is None else weight[rows]
                if self.loss.shift_invariant:
                    X = center_per_prompt(X, offsets, share)
                else:
                    X = X - mean.astype(X.dtype)
                    ones = np.ones(len(X)) if share is None else share
                    sums += ones.astype(X.dtype) @ X
                if full:
                    moment = add_gram(moment, X, share)
                else:
                    if share is not None:
                        X = X * np.sqrt(share).astype(X.dtype)[:, None]
                    moment = moment + (X * X).sum(axis=0, dtype=np.float64)
                total += len(X) if share is None else share.sum()
            return total, sums, moment

        with np.errstate(over="ignore", invalid="ignore"):
            total, sums, moment = self._sum_over_parts(square)
        moment, step = np.asarray(moment, dtype=np.float64) / total, sums / total
        mean, moment = (
            mean + step,
            moment - (np.outer(step, step).T if full else step**2),
        )
        variance = moment.diagonal() if full else moment
        lost = (variance < 1e-30) & (mean != 0) & (abs(mean) < 1e-10)
        if dtype is None and (lost | ~np.isfinite(variance)).any():
            return self.moments(full, weight, np.float64)
        return mean, moment

    @cached_property
    def curvature_at_zero(self):
        """Sum of `score_curvature` at scores of 0."""
        return self.score_curvature().sum()

    def pooled_moments(self, full, weight=None):
        """Compute `moments` that can be added to those of other rows."""
        total = self.n_rows
        if weight is not None:
            total = sum(weight[rows].sum() for _, rows, _ in self._blocks)
        is_around_mean = not self.loss.shift_invariant
        mean, moment = self.moments(full, weight)
        return Moments(total, mean, moment, is_around_mean)

    def sampled_moments(self, full, n_rows, weight=None):
        """Compute the `moments` of the blocks of `sample`."""
        sample, weight = self.sample(n_rows, weight)
        return sample.moments(full, weight)

    def sample(self, n_rows, weight=None):
        """Return the objective of blocks of at least `n_rows` in total, or of all.

        They are drawn at a fixed seed, or those with the largest weights of the rows.

        Returns
        -------
        objective : LinearObjective
            Objective whose `moments` and `moment_product` read these blocks only.
        weight : ndarray or None
            Weights of its rows.
        """
        offsets = self.layout.offsets
        at_once = rows_of_block(n_rows, self._n_rows_at_once)
        starts = block_starts(offsets, at_once)
        ends, sums = offsets[starts], None
        if weight is not None:
            sums = [weight[a:b].sum() for a, b in pairwise(ends)]
        chosen = choose_blocks(np.diff(ends), n_rows, sums)
        blocks = [block_of(offsets, *starts[i : i + 2]) for i in chosen]
        return self.with_blocks(blocks), weight

    def with_blocks(self, blocks):
        """Return the objective whose moments are those of some blocks."""
        part = copy.copy(self)
        vars(part).pop("parts", None)
        part._forget_rows()
        part._blocks = blocks
        return part

    @property
    def on_host(self):
        """Whether rows are numpy arrays."""
        return isinstance(self.X, np.ndarray)

    @property
    def n_prompts(self):
        """Number of prompts."""
        return self.layout.n_prompts

    @property
    def n_rows(self):
        """Number of rows that are read."""
        return sum(rows.stop - rows.start for _, rows, _ in self._blocks)

    def column_mean(self):
        """Compute the mean of the columns, (d,)."""
        sums = np.zeros(self.n_features)
        for _, rows, _ in self._blocks:
            sums = sums + self._read(rows).sum(axis=0, dtype=np.float64)
        return sums / self.n_rows

    @cached_property
    def sampled_mean(self):
        """Mean of the columns in a sample of rows, (d,), up to rounding in its type."""
        n_rows = min(self.layout.n_rows, MEAN_ROWS)
        rows = np.linspace(0, self.layout.n_rows - 1, n_rows).astype(int)
        return np.full(n_rows, 1 / n_rows, self.dtype) @ self._read(rows)

    def moment_product(self, mean, basis, weight=None):
        """Multiply the second moments, as defined by `moments`, by a matrix.

        Parameters
        ----------
        mean : ndarray of shape (d,)
            Mean of the columns.
        basis : ndarray of shape (d, n)
            Matrix of few columns.
        weight : ndarray of shape (n_rows,), default=None
            Positive weights of the rows, in prompt order.

        Returns
        -------
        product : ndarray of shape (d, n)
            Second moments times `basis`.
        """
        at_mean = mean @ basis

        def multiply(part):
            product, total = np.zeros_like(basis), 0.0
            for _, rows, offsets in part._blocks:
                X, share = part._read(rows), None if weight is None else weight[rows]
                # Centering one factor of the product is enough.
                image = X @ basis
                if self.loss.shift_invariant:
                    image = center_per_prompt(image, offsets, share)
                else:
                    image -= at_mean.astype(image.dtype)
                if share is not None:
                    image = image * share.astype(image.dtype)[:, None]
                product = product + X.T @ image
                total += len(X) if share is None else share.sum()
            return product, total

        product, total = self._sum_over_parts(multiply)
        return product / total

    @cached_property
    def are_pairs(self):
        """Whether only the difference of the two rows of each prompt has an effect."""
        return self.loss.shift_invariant and bool((self.layout.sizes == 2).all())

    def least_squares_rows(self, others=(), merge_pairs=False):
        """Yield the least-squares problem of a loss with the method `least_squares`.

        It is that of columns divided by `scale`. Up to a constant, the objective is
        ``sum_i v_i (x_i @ coef + intercept - t_i)**2 + alpha / 2 * |coef|**2`` over the
        rows of all blocks.

        Parameters
        ----------
        others : sequence of LinearObjective, default=()
            Objectives of other rewards with the same weights.
        merge_pairs : bool, default=False
            Whether each prompt is one row, the difference of two, if they `are_pairs`.

        Yields
        ------
        X : ndarray or DeviceArray of shape (n, d)
            Rows in prompt order, centered inside prompts if the loss is
            shift-invariant.
        t : ndarray of shape (1 + len(others), n)
            Targets, centered in the same way.
        v : ndarray of shape (n,)
            Weights.
        """
        n_rows = max(PRODUCT_ROWS, self._n_rows_at_once)
        first = last = 0
        if self._blocks:
            first, last = self._blocks[0][0].start, self._blocks[-1][0].stop
        blocks = prompt_blocks(self.layout.offsets, n_rows, first, last)
        for prompts, rows, offsets in blocks:
            X, weight = self._read(rows), self._weight(rows)
            terms = [
                objective._least_squares_terms(prompts, rows, offsets)
                for objective in (self, *others)
            ]
            v, t = terms[0][0], np.array([targets for _, targets in terms])
            if merge_pairs and self.are_pairs:
                X, t = X[::2] - X[1::2], t[:, ::2] - t[:, 1::2]
                total = v[::2] + v[1::2]
                v = v[::2] * v[1::2] / np.where(total, total, 1)
            elif self.loss.shift_invariant:
                X = center_per_prompt(X, offsets, weight)
                t = center_per_prompt(t.T, offsets, weight).T
            if self.columns is not None:
                X = X * np.asarray(1 / self.scale, X.dtype)
            yield X, t, v

    def least_squares_weights(self):
        """Compute the weights v of all rows of the least-squares problem."""
        every = slice(None), slice(None), self.layout.offsets
        return self._least_squares_terms(*every)[0]

    def square_sums(self):
        """Sum the squares of each column, (d,)."""
        squares = np.zeros(self.n_features)
        for _, rows, _ in self._blocks:
            X = self._read(rows).astype(np.float64)
            squares += (X * X).sum(axis=0, dtype=np.float64)
        return squares

    def at_constant(self, intercept):
        """Compute the mean loss of equal scores, and its derivative by the score."""
        total = np.zeros(2)
        for block in self._blocks:
            scores = np.full(block[-1][-1], intercept)
            loss, slope = self._weighted_loss(scores, *block)
            total += loss, slope.sum()
        return total


@dataclass(frozen=True)
class Moments:
    """Mean and second moments of rows; a sum is that of the rows of both.

    Parameters
    ----------
    total : float
        Number of rows, or sum of their weights.
    mean, moment : ndarray
        Results of `LinearObjective.moments`.
    is_around_mean : bool
        Whether the second moments are around the mean, which changes in a sum.
    """

    total: float
    mean: np.ndarray
    moment: np.ndarray
    is_around_mean: bool

    def __add__(self, other):
        total, step = self.total + other.total, other.mean - self.mean
        share = other.total / total
        moment = (1 - share) * self.moment + share * other.moment
        if self.is_around_mean:
            square = np.outer(step, step) if moment.ndim == 2 else step * step
            moment += share * (1 - share) * square
        mean = self.mean + share * step
        return Moments(total, mean, moment, self.is_around_mean)


def prompt_blocks(offsets, n_rows, first=0, last=None):
    """List blocks (prompts, rows, offsets) of up to `n_rows`, or of one prompt.

    They cover the prompts from `first` to before `last`, or all.
    """
    starts = block_starts(offsets, n_rows, first, last)
    return [block_of(offsets, *ends) for ends in pairwise(starts)]


def block_starts(offsets, n_rows, first=0, last=None):
    """List the first prompt of each block of up to `n_rows`, and the last end."""
    starts, last = [first], len(offsets) - 1 if last is None else last
    while (first := starts[-1]) < last:
        after = bisect_right(offsets, offsets[first] + n_rows, first) - 1
        starts.append(min(max(after, first + 1), last))
    return starts


def block_of(offsets, first, after):
    """Make the block (prompts, rows, offsets) of consecutive prompts."""
    rows = slice(offsets[first], offsets[after])
    return slice(first, after), rows, offsets[first : after + 1] - offsets[first]


def rows_of_block(n_sampled, n_rows_at_once):
    """Return the number of rows of a block in a sample."""
    return min(n_rows_at_once, -(-n_sampled // SAMPLED_BLOCKS))


def choose_blocks(sizes, n_rows, weights=None):
    """Choose blocks of at least `n_rows` in total: random ones, or the heaviest."""
    if weights is None:
        order = np.random.RandomState(0).permutation(len(sizes))
    else:
        order = np.argsort(weights)[::-1]
    return order[: np.searchsorted(np.cumsum(sizes[order]), n_rows) + 1]


def evaluate_together(objectives, thetas):
    """Evaluate objectives on one X, of different rewards, in one read of it.

    Parameters
    ----------
    objectives : sequence of LinearObjective
        Objectives that differ only in rewards and weights of the prompts.
    thetas : ndarray of shape (n, n_parameters)
        Parameters of each objective.

    Returns
    -------
    values : ndarray of shape (n,)
        Mean losses plus penalties.
    gradients : ndarray of shape (n, n_parameters)
        Gradients with respect to `thetas`.
    """
    first = objectives[0]
    values, gradients = first.penalty(thetas, first.alpha)
    for losses, slopes in evaluate_losses(objectives, thetas):
        values, gradients = values + losses, gradients + slopes
    return values, gradients


def evaluate_losses(objectives, thetas):
    """Evaluate the losses without the penalty: a list with the terms of each thread."""
    first = objectives[0]
    coefs, intercepts = first.split(thetas)
    evaluate = partial(
        _evaluate_blocks, objectives, coefs.astype(first.dtype), intercepts
    )
    return map_parts(evaluate, first.parts)


def _evaluate_blocks(objectives, coefs, intercepts, part):
    """Sum losses and their gradients over the blocks of a part of the first."""
    first, d = objectives[0], objectives[0].n_features
    values = np.zeros(len(objectives))
    gradients = np.zeros((len(objectives), first.n_parameters))
    for prompts, rows, offsets in part._blocks:
        X = part._read(rows)
        scores = (coefs @ X.T).astype(np.float64) + intercepts[:, None]
        slopes = np.empty_like(scores)
        for i, objective in enumerate(objectives):
            loss, slopes[i] = objective._weighted_loss(
                scores[i], prompts, rows, offsets
            )
            values[i] += loss
        gradients[:, :d] += slopes.astype(first.dtype) @ X
        if first.has_intercept:
            gradients[:, -1] += slopes.sum(axis=1)
    return values, gradients
