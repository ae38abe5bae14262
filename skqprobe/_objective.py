"""The objective of a linear probe: one blocked pass over X gives value and gradient."""

from functools import cached_property

import numpy as np

from skqprobe._candidates import BLOCK_BYTES, row_blocks
from skqprobe._segments import segment_mean, spread


def linear_scores(X, coef, intercept):
    """Compute ``X @ coef + intercept``, block by block where X must be converted.

    Parameters
    ----------
    X : ndarray of shape (n_rows, d)
        Rows in any order.
    coef : ndarray of shape (d,)
        Coefficients of the probe.
    intercept : float
        Intercept of the probe.

    Returns
    -------
    scores : ndarray of shape (n_rows,), of X's dtype, float32 if that is float16
    """
    dtype = compute_dtype(X)
    coef = coef.astype(dtype, copy=False)  # BLAS is slow on mixed types
    if X.dtype == dtype:
        return X @ coef + dtype.type(intercept)
    scores = np.empty(len(X), dtype=dtype)
    for rows in row_blocks(X):
        scores[rows] = X[rows].astype(dtype) @ coef
    return scores + dtype.type(intercept)


def compute_dtype(X):
    """Dtype to compute in: X's own, float32 for float16."""
    return np.result_type(X.dtype, np.float32)


class LinearObjective:
    """Mean loss of a linear probe over prompts, plus ``alpha / 2 * |coef|**2``.

    The parameters theta are the d coefficients, followed by the intercept if there is
    one.

    Parameters
    ----------
    X : ndarray of shape (n_rows, d)
        Embeddings, as the user gave them.
    layout : Layout
        Where in X the candidates of each prompt lie. Rows of X it does not mention are
        not used.
    rewards : ndarray of shape (layout.n_rows,)
        Rewards, prompt by prompt.
    loss : BaseLoss
        The loss.
    alpha : float
        Strength of the L2 penalty, which spares the intercept.
    fit_intercept : bool
        Whether to add an intercept; a loss that needs a choice never has one.
    prompt_weight : ndarray of shape (layout.n_prompts,)
        Weights of the prompts in the mean; brought to sum 1, unless all are 0.
    row_weight : ndarray of shape (layout.n_rows,) or None
        Positive weights of the candidates inside their prompt.
    n_skipped : int
        How many of the prompts have weight 0 because the loss has no use for them.
    """

    def __init__(
        self,
        X,
        layout,
        rewards,
        loss,
        *,
        alpha,
        fit_intercept,
        prompt_weight,
        row_weight=None,
        n_skipped=0,
    ):
        self.X = X
        self.layout = layout
        self.rewards = rewards
        self.loss = loss
        self.alpha = alpha
        self.has_intercept = fit_intercept and not loss.needs_choice
        self.prompt_weight = prompt_weight / (prompt_weight.sum() or 1)
        self.n_skipped = n_skipped
        self.row_weight = row_weight
        self.dtype = compute_dtype(X)
        self.n_features = X.shape[1]
        self.n_parameters = self.n_features + self.has_intercept
        self._blocks = self._prompt_blocks()

    def _prompt_blocks(self):
        """Cut the prompts into blocks of about BLOCK_BYTES, each of whole prompts."""
        offsets = self.layout.offsets
        row_bytes = max(1, self.n_features * self.dtype.itemsize)
        n_rows = max(1, BLOCK_BYTES // row_bytes)
        blocks, first = [], 0
        while first < self.layout.n_prompts:
            after = np.searchsorted(offsets, offsets[first] + n_rows, side="right") - 1
            after = max(after, first + 1)
            prompts, rows = slice(first, after), slice(offsets[first], offsets[after])
            blocks.append((prompts, rows, offsets[first : after + 1] - offsets[first]))
            first = after
        return blocks

    def _read(self, rows):
        """Embeddings of rows counted prompt by prompt, in the dtype to compute in."""
        order = self.layout.order
        block = self.X[rows] if order is None else self.X[order[rows]]
        return block.astype(self.dtype, copy=False)

    def _weight(self, rows):
        return None if self.row_weight is None else self.row_weight[rows]

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
            slope = slope * spread(self.prompt_weight[prompts], offsets)
            gradient[: self.n_features] += X.T @ slope.astype(self.dtype)
            if self.has_intercept:
                gradient[-1] += slope.sum()
        return value, gradient

    def moments(self, full):
        """Mean of the columns, and their second moments around it.

        Around the mean of each prompt instead, if the loss reads only differences
        inside a prompt. All rows count the same.

        Parameters
        ----------
        full : bool
            Whether to compute all second moments or the variances alone.

        Returns
        -------
        mean : ndarray of shape (d,)
        moment : ndarray of shape (d, d) or (d,)
        """
        n_rows, d = self.layout.n_rows, self.n_features
        mean = np.zeros(d)
        for _, rows, _ in self._blocks:
            mean += self._read(rows).sum(axis=0, dtype=np.float64) / n_rows
        moment = np.zeros((d, d) if full else d)
        for _, rows, offsets in self._blocks:
            X = self._read(rows)
            X = X.astype(np.float64) if full else X
            if self.loss.needs_choice:
                X = X - spread(segment_mean(X, offsets).astype(X.dtype), offsets)
            else:
                X = X - mean.astype(X.dtype)
            moment += (X.T @ X if full else np.einsum("ij,ij->j", X, X)) / n_rows
        return mean, moment

    def score_curvature(self):
        """Typical curvature of the mean loss along a direction of unit spread in z."""
        rng = np.random.RandomState(0)
        step = 0.1 * rng.standard_normal(self.layout.n_rows)
        curvature = 0.0
        for prompts, rows, offsets in self._blocks:
            near, far = (
                self.loss.value_and_gradient(
                    scores, self.rewards[rows], offsets, self._weight(rows)
                )[1]
                for scores in (np.zeros_like(step[rows]), step[rows])
            )
            # The slope itself counts too: where the loss is not convex, or has kinks,
            # it tells the scale on which the loss bends.
            weight = spread(self.prompt_weight[prompts], offsets)
            curvature += weight @ (np.abs(far - near) / 0.1 + np.abs(near))
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
        for prompts, rows, offsets in self._blocks:
            X = self._read(rows)
            v, t = self._least_squares_terms(prompts, rows, offsets)
            if self.loss.needs_choice:
                weight = self._weight(rows)
                mean = segment_mean(X, offsets, weight)
                X = X - spread(mean, offsets).astype(self.dtype)
                t = t - spread(segment_mean(t, offsets, weight), offsets)
            elif self.has_intercept:
                X, t = X - x_mean.astype(self.dtype), t - t_mean
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

    def _least_squares_terms(self, prompts, rows, offsets):
        v, t = self.loss.least_squares(self.rewards[rows], offsets, self._weight(rows))
        return v * spread(self.prompt_weight[prompts], offsets), t
