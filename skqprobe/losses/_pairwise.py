"""Pairwise losses: a mean over pairs of candidates of a prompt."""

from abc import abstractmethod

import numpy as np
from sklearn.utils import gen_batches

from skqprobe.losses._base import BaseLoss
from skqprobe.losses._functions import check_positive_setting, softplus

PAIRS_AT_ONCE = 2**15
"""Number of pairs that a pairwise loss computes at a time, few enough for the cache."""


class _PairwiseLoss(BaseLoss):
    """Mean of a function of ``z_i - z_j`` over the pairs with ``r_i > r_j``."""

    shift_invariant = True

    @abstractmethod
    def _pair_loss(self, margin):
        """Compute value and derivative for margins ``z_i - z_j``.

        The implementation may overwrite `margin`.
        """

    def informative_prompts(self, rewards, offsets):
        """Find the prompts with two different rewards; see :class:`BaseLoss`."""
        lowest = np.minimum.reduceat(rewards, offsets[:-1])
        return lowest < np.maximum.reduceat(rewards, offsets[:-1])

    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        """Compute value and gradient; see :class:`BaseLoss`.

        A prompt without any pair has value and gradient 0.
        """
        value = np.zeros(len(offsets) - 1)
        gradient = np.zeros_like(scores)
        sizes = np.diff(offsets)
        for k in np.unique(sizes):
            prompts = np.flatnonzero(sizes == k)
            step = max(1, PAIRS_AT_ONCE // k**2)
            for block in gen_batches(len(prompts), step):
                some = prompts[block]
                rows = offsets[some][:, None] + np.arange(k)
                value[some], gradient[rows] = self._mean_over_pairs(
                    scores[rows],
                    rewards[rows],
                    None if weight is None else weight[rows],
                )
        return value, gradient

    def _mean_over_pairs(self, z, r, w):
        """Compute values and gradients of prompts of one size from (n_prompts, k)."""
        value, gradient = np.zeros(len(z)), np.zeros_like(z)
        n_pairs = np.zeros(len(z))
        if w is not None:
            w = w / w.max(axis=1, keepdims=True)  # keeps products in range
        step = max(1, PAIRS_AT_ONCE // z.size)
        for better in gen_batches(z.shape[1], step):
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
    """Logistic loss of pairs: the mean of ``-log sigmoid(z_i - z_j)``.

    The mean is over the pairs with ``r_i > r_j`` (Bradley-Terry). This is the
    preference loss of the paper [1]_. Convex in the scores. It costs O(k**2) per
    prompt.

    References
    ----------
    .. [1] Li et al., "Q-Probe: A Lightweight Approach to Reward Maximization for
       Language Models", 2024, arXiv 2402.14688v1, section 5.2, equations 6 and 7.
    """

    def _pair_loss(self, margin):
        value, slope = softplus(-margin)
        return value, -slope


class PairwiseHinge(_PairwiseLoss):
    """Hinge loss of pairs: the mean of ``max(0, margin - (z_i - z_j))``.

    The mean is over the pairs with ``r_i > r_j``. This is the preference loss "clip" of
    the code that the authors of the paper published [1]_. Convex in the scores. It
    costs O(k**2) per prompt.

    Parameters
    ----------
    margin : float, default=0.1
        Difference in score by which the better candidate should lead, in (0, inf). The
        default is that of the authors' code.

    References
    ----------
    .. [1] https://github.com/likenneth/q_probe
    """

    smooth = False

    def __init__(self, margin=0.1):
        self.margin = margin

    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        """Compute value and gradient; see :class:`BaseLoss`."""
        check_positive_setting(self, "margin")
        return super().value_and_gradient(scores, rewards, offsets, weight)

    def _pair_loss(self, margin):
        short = np.maximum(self.margin - margin, 0)
        return short, -(short > 0).astype(margin.dtype)

    def smoothed(self, width):
        """Return the loss with a parabola in place of the kink.

        Parameters
        ----------
        width : float
            Width of the parabola, in units of the margin, above 0.

        Returns
        -------
        loss : BaseLoss
            Smooth loss, less than this one by at most ``width * margin / 2``.
        """
        check_positive_setting(self, "margin")
        return _SmoothedHinge(self.margin, width * self.margin)


class _SmoothedHinge(PairwiseHinge):
    """Huber's loss of the distance to the margin."""

    smooth = True

    def __init__(self, margin, width):
        super().__init__(margin)
        self.width = width

    def _pair_loss(self, margin):
        short = np.subtract(self.margin, margin, out=margin)
        slope = np.clip(short / self.width, 0, 1)
        short -= self.width / 2 * slope
        short *= slope
        return short, -slope
