"""Losses of pairs of candidates of a prompt."""

from abc import abstractmethod

import numpy as np

from skqprobe.losses._base import BaseLoss, _check_positive, _softplus

PAIRS_AT_ONCE = 2**15
"""How many pairs a pairwise loss takes at a time: few enough to stay in cache."""


class _PairwiseLoss(BaseLoss):
    """Mean of a function of ``z_i - z_j`` over the pairs with ``r_i > r_j``."""

    shift_invariant = True

    @abstractmethod
    def _pair_loss(self, margin):
        """Value and derivative for margins ``z_i - z_j`` of the better over the worse.

        `margin` may be overwritten.
        """

    def informative_prompts(self, rewards, offsets):
        """Tell which prompts have two candidates of different rewards."""
        lowest = np.minimum.reduceat(rewards, offsets[:-1])
        return lowest < np.maximum.reduceat(rewards, offsets[:-1])

    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        """Evaluate the loss; see :class:`BaseLoss`.

        Prompts of equal size are taken together, as many at a time as PAIRS_AT_ONCE
        allows. A prompt without any pair has value and gradient 0.
        """
        value = np.zeros(len(offsets) - 1)
        gradient = np.zeros_like(scores)
        sizes = np.diff(offsets)
        for k in np.unique(sizes[sizes > 1]):
            prompts = np.flatnonzero(sizes == k)
            step = max(1, PAIRS_AT_ONCE // k**2)
            for start in range(0, len(prompts), step):
                some = prompts[start : start + step]
                rows = offsets[some][:, None] + np.arange(k)
                value[some], gradient[rows] = self._mean_over_pairs(
                    scores[rows],
                    rewards[rows],
                    None if weight is None else weight[rows],
                )
        return value, gradient

    def _mean_over_pairs(self, z, r, w):
        """Values and gradients of prompts of one size, from arrays (n_prompts, k)."""
        value, gradient = np.zeros(len(z)), np.zeros_like(z)
        n_pairs = np.zeros(len(z))
        if w is not None:
            w = w / w.max(axis=1, keepdims=True)  # or products may leave float64
        step = max(1, PAIRS_AT_ONCE // z.size)
        for first in range(0, z.shape[1], step):
            better = slice(first, first + step)
            pairs = np.greater(r[:, better, None], r[:, None, :]).astype(z.dtype)
            if w is not None:
                pairs *= w[:, better, None] * w[:, None, :]
            loss, slope = self._pair_loss(z[:, better, None] - z[:, None, :])
            slope *= pairs
            n_pairs += pairs.sum(axis=(1, 2))
            value += np.einsum("pij,pij->p", loss, pairs)
            gradient[:, better] += slope.sum(axis=2)
            gradient -= slope.sum(axis=1)
        n_pairs[n_pairs == 0] = 1
        return value / n_pairs, gradient / n_pairs[:, None]


class PairwiseLogistic(_PairwiseLoss):
    """Preference L_CE of the paper (Bradley-Terry).

    The mean over pairs with ``r_i > r_j`` of ``-log sigmoid(z_i - z_j)``. Costs O(k**2)
    a prompt.
    """

    def _pair_loss(self, margin):
        value, slope = _softplus(np.negative(margin, out=margin))
        return value, np.negative(slope, out=slope)


class PairwiseHinge(_PairwiseLoss):
    """Preference loss "clip" of the code that the paper's authors published.

    The mean over pairs with ``r_i > r_j`` of ``max(0, margin - (z_i - z_j))``. Costs
    O(k**2) a prompt.

    Parameters
    ----------
    margin : float, default=0.1
        By how much the better candidate should lead; above 0. The default is that of
        the authors' code.
    """

    def __init__(self, margin=0.1):
        self.margin = margin

    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        """Evaluate the loss; see :class:`BaseLoss`."""
        _check_positive(self, "margin")
        return super().value_and_gradient(scores, rewards, offsets, weight)

    def _pair_loss(self, margin):
        short = np.maximum(self.margin - margin, 0)
        return short, -(short > 0).astype(margin.dtype)
