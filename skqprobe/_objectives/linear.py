"""Scores of a linear probe, and the objective that its training minimises."""

from functools import cached_property

import numpy as np

from skqprobe._arrays.blocks import PRODUCT_ROWS, BlockReader, row_blocks, rows_at_once
from skqprobe._arrays.device import DeviceArray
from skqprobe._candidates.segments import repeat_per_prompt, segment_mean
from skqprobe._objectives.base import Objective


def linear_scores(X, coef, intercept):
    """Compute ``X @ coef + intercept``, block by block where X is not plain memory.

    Parameters
    ----------
    X : ndarray or DeviceArray of shape (n_rows, d)
        Rows in any order.
    coef : ndarray of shape (d,)
        Coefficients of the probe.
    intercept : float
        Intercept of the probe.

    Returns
    -------
    scores : ndarray of shape (n_rows,), of X's dtype, float32 if that is float16
    """
    read = BlockReader(X)
    dtype = read.dtype
    coef = coef.astype(dtype, copy=False)  # BLAS is slow on mixed types
    if read.is_plain:
        return X @ coef + dtype.type(intercept)
    scores = np.empty(len(X), dtype=dtype)
    for rows in row_blocks(X):
        scores[rows] = read.unchecked(rows) @ coef
    return scores + dtype.type(intercept)


class LinearObjective(Objective):
    """Mean loss of a linear probe over prompts, plus ``alpha / 2 * |coef|**2``.

    One blocked pass over X gives value and gradient. The parameters theta are the d
    coefficients, followed by the intercept if there is one.

    Parameters
    ----------
    X, layout, rewards, loss, **settings
        See Objective.
    """

    def __init__(self, X, layout, rewards, loss, **settings):
        super().__init__(X, layout, rewards, loss, **settings)
        self.n_parameters = self.n_features + self.has_intercept
        self._n_rows_at_once = rows_at_once(X, self.dtype.itemsize)
        self._blocks = self._prompt_blocks(self._n_rows_at_once)

    def _prompt_blocks(self, n_rows):
        """Cut the prompts into blocks of whole prompts, of up to that many rows."""
        offsets = self.layout.offsets
        blocks, first = [], 0
        while first < self.layout.n_prompts:
            after = np.searchsorted(offsets, offsets[first] + n_rows, side="right") - 1
            after = max(after, first + 1)
            prompts, rows = slice(first, after), slice(offsets[first], offsets[after])
            blocks.append((prompts, rows, offsets[first : after + 1] - offsets[first]))
            first = after
        return blocks

    def split(self, theta):
        """Coefficients and intercept of the parameters."""
        if self.has_intercept:
            return theta[:-1], theta[-1]
        return theta, 0.0

    def value_and_gradient(self, theta):
        """Evaluate the objective, reading X once.

        Parameters
        ----------
        theta : ndarray of shape (n_parameters,)
            Coefficients and intercept.

        Returns
        -------
        value : float
        gradient : ndarray of shape (n_parameters,)
        """
        coef, intercept = self.split(theta)
        value = self.alpha / 2 * (coef @ coef)
        gradient = np.zeros(self.n_parameters)
        gradient[: self.n_features] = self.alpha * coef
        coef = coef.astype(self.dtype)
        for prompts, rows, offsets in self._blocks:
            X = self._read(rows)
            scores = (X @ coef).astype(np.float64) + intercept
            losses, slope = self.loss.value_and_gradient(
                scores, self.rewards[rows], offsets, self._weight(rows)
            )
            value += self.prompt_weight[prompts] @ losses
            slope = slope * repeat_per_prompt(self.prompt_weight[prompts], offsets)
            gradient[: self.n_features] += X.T @ slope.astype(self.dtype)
            if self.has_intercept:
                gradient[-1] += slope.sum()
        return value, gradient

    def moments(self, full, blocks=None):
        """Mean of the columns, and their second moments around it.

        Around the mean of each prompt instead, if the loss reads only differences
        inside a prompt. All rows count the same.

        Parameters
        ----------
        full : bool
            Whether to compute all second moments or the variances alone.
        blocks : list, default=None
            Those to take, of `sampled_blocks`; None takes all rows.

        Returns
        -------
        mean : ndarray of shape (d,)
        moment : ndarray of shape (d, d) or (d,)
        """
        blocks, d = self._blocks if blocks is None else blocks, self.n_features
        mean, n_rows = np.zeros(d), 0
        for _, rows, _ in blocks:
            X = self._read(rows)
            mean, n_rows = mean + X.sum(axis=0, dtype=np.float64), n_rows + len(X)
        mean /= n_rows
        moment = np.zeros((d, d) if full else d)
        for _, rows, offsets in blocks:
            X = self._read(rows)
            X = X.astype(np.float64) if full else X
            if self.loss.shift_invariant:
                X = _centered(X, offsets)
            else:
                X = X - mean.astype(X.dtype)
            squares = X.T @ X if full else (X * X).sum(axis=0, dtype=np.float64)
            moment = moment + squares
        return mean, np.asarray(moment) / n_rows

    def sampled_blocks(self, n_rows):
        """Draw some blocks, of about that many rows in all, as far as there are."""
        order = np.random.RandomState(0).permutation(len(self._blocks))
        sizes = np.array([rows.stop - rows.start for _, rows, _ in self._blocks])
        n_blocks = np.searchsorted(np.cumsum(sizes[order]), n_rows) + 1
        return [self._blocks[i] for i in order[:n_blocks]]

    def moment_product(self, mean, basis, blocks):
        """Multiply the second moments, as of `moments`, with a few columns.

        Parameters
        ----------
        mean : ndarray of shape (d,)
            Mean of the columns.
        basis : ndarray of shape (d, n)
            What to multiply.
        blocks : list
            The blocks to take.

        Returns
        -------
        product : ndarray of shape (d, n)
        """
        product, n_rows = np.zeros_like(basis), 0
        for _, rows, offsets in blocks:
            X = self._read(rows) - mean.astype(self.dtype)
            image = X @ basis
            if self.loss.shift_invariant:
                # Centred on one side of the product, which is enough.
                image -= repeat_per_prompt(
                    segment_mean(image, offsets), offsets
                ).astype(X.dtype)
            product, n_rows = product + X.T @ image, n_rows + len(X)
        return product / n_rows

    def scores(self, theta):
        """Compute the scores, of shape (n_rows,), prompt by prompt."""
        coef, intercept = self.split(theta)
        coef = coef.astype(self.dtype)
        scores = [self._read(rows) @ coef for _, rows, _ in self._blocks]
        return np.concatenate(scores).astype(np.float64) + intercept

    def score_curvature(self, scores=None):
        """Typical curvature of the mean loss along a direction of unit spread in z.

        Parameters
        ----------
        scores : ndarray of shape (n_rows,), default=None
            Where, prompt by prompt; None for scores of zero.

        Returns
        -------
        curvature : float
        """
        rng = np.random.RandomState(0)
        near = np.zeros(self.layout.n_rows) if scores is None else scores
        far = near + 0.1 * rng.standard_normal(len(near))
        curvature = 0.0
        for prompts, rows, offsets in self._blocks:
            here, there = (
                self.loss.value_and_gradient(
                    z[rows], self.rewards[rows], offsets, self._weight(rows)
                )[1]
                for z in (near, far)
            )
            # The slope itself counts too: where the loss is not convex, or has kinks,
            # it tells the scale on which the loss bends.
            weight = repeat_per_prompt(self.prompt_weight[prompts], offsets)
            curvature += weight @ (np.abs(there - here) / 0.1 + np.abs(here))
        return curvature

    def least_squares_blocks(self):
        """Yield the centred least-squares problem that the objective is.

        The objective is ``sum_i v_i (x_i @ coef - t_i)**2 + alpha / 2 |coef|**2`` over
        all blocks of (X, t, v), up to a constant.

        Yields
        ------
        X : ndarray of shape (n, d)
            Rows, centred inside prompts if the loss needs a choice, else around
            the column means if there is an intercept.
        t : ndarray of shape (n,)
            Targets, centred the same way.
        v : ndarray of shape (n,)
            Weights.
        """
        if self.has_intercept:
            x_mean, t_mean = self.least_squares_means
        for X, t, v in self.least_squares_rows():
            if self.has_intercept:
                X, t = X - x_mean.astype(self.dtype), t - t_mean
            yield X, t, v

    def least_squares_rows(self):
        """Yield the same as `least_squares_blocks`, centred inside prompts at most."""
        n_rows = max(PRODUCT_ROWS, self._n_rows_at_once)
        for prompts, rows, offsets in self._prompt_blocks(n_rows):
            X = self._read(rows)
            v, t = self._least_squares_terms(prompts, rows, offsets)
            if self.loss.shift_invariant:
                weight = self._weight(rows)
                X = _centered(X, offsets, weight)
                t = t - repeat_per_prompt(segment_mean(t, offsets, weight), offsets)
            yield X, t, v

    @cached_property
    def least_squares_means(self):
        """Weighted means of the rows and of the targets."""
        x_mean, t_mean, total = np.zeros(self.n_features), 0.0, 0.0
        for prompts, rows, offsets in self._blocks:
            v, t = self._least_squares_terms(prompts, rows, offsets)
            x_mean += v.astype(self.dtype) @ self._read(rows)
            t_mean += v @ t
            total += v.sum()
        return x_mean / total, t_mean / total


def _centered(X, offsets, weight=None):
    """Subtract the (weighted) mean of each prompt from its rows."""
    if isinstance(X, DeviceArray):
        return X.centered(offsets, weight)
    return X - repeat_per_prompt(
        segment_mean(X, offsets, weight).astype(X.dtype), offsets
    )
