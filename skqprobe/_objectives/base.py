"""Objective: mean loss of a probe over prompts plus an L2 penalty."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from skqprobe._arrays.blocks import BlockReader
from skqprobe._arrays.device import DeviceArray
from skqprobe._candidates.layout import Layout
from skqprobe._candidates.segments import repeat_per_prompt, segment_mean


@dataclass(eq=False)
class Objective:
    """Base class: mean loss of a probe over prompts plus an L2 penalty.

    Parameters
    ----------
    X : ndarray or DeviceArray of shape (n_rows, d)
        Embeddings in user order.
    layout : Layout
        Layout of the candidates. Rows of X that it leaves out are not used.
    rewards : ndarray of shape (layout.n_rows,)
        Rewards in prompt order.
    loss : BaseLoss
        Loss.
    alpha : float
        Strength of the L2 penalty, in [0, inf). It does not apply to intercepts.
    fit_intercept : bool
        Whether to add an intercept to the scores. A shift-invariant loss has none.
    prompt_weight : ndarray of shape (layout.n_prompts,)
        Non-negative weights of the prompts in the mean. They are scaled to sum to 1,
        unless all are 0.
    candidate_weight : ndarray of shape (layout.n_rows,), default=None
        Positive weights of the candidates inside their prompt, in prompt order.
    n_skipped : int, default=0
        Number of prompts that are not informative for the loss and have weight 0.
    center : ndarray of shape (d,), default=None
        Vector that is subtracted from each row of X when it is read, so that an
        intercept is that of X minus `center`.
    columns : tuple of ndarray, default=None
        Means and scales of the columns. The penalty applies to the coefficients of
        columns from which the mean is subtracted, and that are divided by the scale.
    span : RowSpan, default=None
        Span of the rows of other columns, if X are coordinates in it.
    whole_weight : float, default=None
        Sum of the weights of all prompts, if these are a part of more. Means over
        prompts are then sums over the parts.
    noise : tuple, default=None
        State of the generator of `score_curvature` at these rows, if they are a part.
    """

    X: Any
    layout: Layout
    rewards: np.ndarray
    loss: Any
    _: KW_ONLY
    alpha: float
    fit_intercept: bool
    prompt_weight: np.ndarray
    candidate_weight: np.ndarray | None = None
    n_skipped: int = 0
    center: np.ndarray | None = None
    columns: tuple | None = None
    span: Any = None
    whole_weight: float | None = None
    noise: tuple | None = None

    def __post_init__(self):
        self.has_intercept = self.fit_intercept and not self.loss.shift_invariant
        self.total_weight = self.whole_weight
        if self.whole_weight is None:
            self.total_weight = self.prompt_weight.sum()
        else:
            self.whole_weight = 1.0  # of the scaled weights
        self.prompt_weight = self.prompt_weight / (self.total_weight or 1)
        self.reader = BlockReader(self.X)
        self.dtype = self.reader.dtype
        self.n_features = self.X.shape[1]
        self._forget_rows()

    def leave_out_all(self):
        """Set the weights of all prompts to 0."""
        self.prompt_weight, self.total_weight = np.zeros_like(self.prompt_weight), 0.0

    def _forget_rows(self):
        """Forget the rows that were read last, whose memory is used again."""
        self._buffer = self._centered = np.empty(0)
        self._rows = None

    def _read(self, rows):
        """Read embeddings of rows in prompt order, in the dtype to compute in."""
        if isinstance(rows, slice) and rows == self._rows:  # all rows, if they are few
            return self._centered
        order = self.layout.order
        X = self.reader(rows if order is None else order[rows])
        if self.center is None or not isinstance(X, np.ndarray):
            return X if self.center is None else X - self.center
        # In memory that is used again: new memory takes longer than the subtraction.
        if self._buffer.size < X.size:
            self._buffer = np.empty(X.size, X.dtype)
        self._centered = self._buffer[: X.size].reshape(X.shape)
        self._rows = rows if isinstance(rows, slice) else None
        return np.subtract(X, self.center, out=self._centered)

    def _weight(self, rows):
        return None if self.candidate_weight is None else self.candidate_weight[rows]

    def _weighted_loss(self, scores, prompts, rows, offsets):
        """Sum the weighted losses of prompts, and differentiate by their scores."""
        losses, slope = self.loss.value_and_gradient(
            scores, self.rewards[rows], offsets, self._weight(rows)
        )
        weight = self.prompt_weight[prompts]
        return weight @ losses, slope * repeat_per_prompt(weight, offsets)

    def _least_squares_terms(self, prompts, rows, offsets):
        """Compute v and t with which the mean loss is ``sum(v * (scores - t)**2)``.

        For a shift-invariant loss, scores and t are centered inside prompts first.
        """
        v, t = self.loss.least_squares(self.rewards[rows], offsets, self._weight(rows))
        return v * repeat_per_prompt(self.prompt_weight[prompts], offsets), t


def center_per_prompt(values, offsets, weight=None):
    """Subtract the (weighted) mean of each prompt from the values of its rows."""
    if isinstance(values, DeviceArray):
        return values.centered(offsets, weight)
    sizes = np.diff(offsets)
    if weight is None and (sizes == sizes[0]).all():
        sets = values.reshape(len(sizes), sizes[0], *values.shape[1:])
        return (sets - sets.mean(axis=1, keepdims=True)).reshape(values.shape)
    mean = segment_mean(values, offsets, weight).astype(values.dtype)
    return values - repeat_per_prompt(mean, offsets)
