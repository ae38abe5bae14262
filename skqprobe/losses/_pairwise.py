"""Pairwise losses: a mean over pairs of candidates of a prompt."""

from abc import abstractmethod
from math import comb

import numpy as np
from sklearn.utils import gen_batches

from skqprobe._candidates.segments import stable_order
from skqprobe._utils.warn import warn_user
from skqprobe.losses._base import BaseLoss
from skqprobe.losses._functions import positive_setting, softplus

PAIRS_AT_ONCE = 2**15
"""Number of pairs that a pairwise loss computes at a time, few enough for the cache."""

SORTED_PROMPT = 64
"""Number of candidates from which they are sorted to leave out parts without pairs."""

LARGE_PROMPT = 1000
"""Number of candidates above which a hinge loss sorts them, and does not list pairs."""

MANY_PAIRS = 10**8
"""Number of pairs in large prompts above which a fit warns: two seconds per evaluation
of the loss."""


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
        if z.shape[1] < SORTED_PROMPT:
            return self._mean_over_table(z, r, w)
        order = np.argsort(-r, axis=1)
        z, r, w = (
            array if array is None else np.take_along_axis(array, order, axis=1)
            for array in (z, r, w)
        )
        value, gradient = self._mean_over_table(z, r, w, is_sorted=True)
        back = np.argsort(order, axis=1)
        return value, np.take_along_axis(gradient, back, axis=1)

    def _mean_over_table(self, z, r, w, is_sorted=False):
        """Compute them from tables of pairs.

        With the highest rewards first, rows and columns without pairs are left out:
        the last and the first ones.
        """
        value, gradient = np.zeros(len(z)), np.zeros_like(z)
        n_pairs, n_rows, worse = np.zeros(len(z)), z.shape[1], slice(None)
        if w is not None:
            w = w / w.max(axis=1, keepdims=True)  # keeps products in range
        if is_sorted:
            n_rows = np.count_nonzero((r > r[:, -1:]).any(axis=0))
        for better in gen_batches(max(1, n_rows), max(1, PAIRS_AT_ONCE // z.size)):
            if is_sorted:
                is_worse = (r < r[:, better.start, None]).any(axis=0)
                worse = slice(np.argmax(is_worse), None)
            pairs = np.greater(r[:, better, None], r[:, None, worse]).astype(z.dtype)
            if w is not None:
                pairs *= w[:, better, None] * w[:, None, worse]
            loss, slope = self._pair_loss(z[:, better, None] - z[:, None, worse])
            slope *= pairs
            n_pairs += pairs.sum(axis=(1, 2))
            value += np.einsum("pij,pij->p", loss, pairs)
            gradient[:, better] += slope.sum(axis=2)
            gradient[:, worse] -= slope.sum(axis=1)
        n_pairs[n_pairs == 0] = 1
        return value / n_pairs, gradient / n_pairs[:, None]


class PairwiseLogistic(_PairwiseLoss):
    """Logistic loss of pairs: the mean of ``-log sigmoid(z_i - z_j)``.

    The mean is over the pairs with ``r_i > r_j`` (Bradley-Terry). This is the
    preference loss of the paper [1]_. Convex in the scores. It costs O(k**2) per
    prompt, and a fit to prompts of many thousand candidates gives a warning.

    References
    ----------
    .. [1] Li et al., "Q-Probe: A Lightweight Approach to Reward Maximization for
       Language Models", 2024, arXiv 2402.14688v1, section 5.2, equations 6 and 7.
    """

    def informative_prompts(self, rewards, offsets):
        """Find the prompts with two different rewards; see :class:`BaseLoss`.

        Warns
        -----
        UserWarning
            If there are so many pairs in large prompts that a fit is slow.
        """
        sizes = np.diff(offsets)
        n_pairs = int((sizes[sizes > LARGE_PROMPT] ** 2).sum())
        if n_pairs > MANY_PAIRS:
            warn_user(
                f"{type(self).__name__} compares all pairs of candidates of a prompt, "
                f"{n_pairs:.0e} in prompts of up to {sizes.max()} candidates, which "
                "takes seconds per evaluation. Set n_candidates=100 of QProbePolicy, "
                "which splits the candidates of a prompt into sets of 100, or use "
                "loss='pairwise_hinge', which sorts them."
            )
        return super().informative_prompts(rewards, offsets)

    def _pair_loss(self, margin):
        value, slope = softplus(-margin)
        return value, -slope


class PairwiseHinge(_PairwiseLoss):
    """Hinge loss of pairs: the mean of ``max(0, margin - (z_i - z_j))``.

    The mean is over the pairs with ``r_i > r_j``. This is the preference loss "clip" of
    the code that the authors of the paper published [1]_. Convex in the scores. It
    costs O(k**2) per prompt, and O(k log(k)**2) above 1000 candidates, which are
    sorted.

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
        positive_setting(self, "margin")
        return super().value_and_gradient(scores, rewards, offsets, weight)

    def _pair_loss(self, margin):
        short = np.maximum(positive_setting(self, "margin") - margin, 0)
        return short, -(short > 0).astype(margin.dtype)

    def _powers(self):
        """List (margin, factor, power) of positive parts of which the loss is a sum."""
        return [(positive_setting(self, "margin"), 1.0, 1)]

    def _mean_over_pairs(self, z, r, w):
        if z.shape[1] <= LARGE_PROMPT:
            return super()._mean_over_pairs(z, r, w)
        weights = np.ones_like(z) if w is None else w
        value, gradient = zip(*map(self._sort, z, r, weights), strict=True)
        return np.array(value), np.array(gradient)

    def _sort(self, z, r, w):
        """Compute the value and the gradient of one prompt by sorting."""
        z, w = z - z.mean(), w / w.sum()
        codes = np.unique(r, return_inverse=True)[1]
        of_code = np.bincount(codes, w)
        n_pairs = w @ (np.cumsum(of_code) - of_code)[codes] or 1.0
        value, gradient = 0.0, np.zeros_like(z)
        for margin, factor, power in self._powers():
            lower = _sums_over_lower(z, codes, w, margin, power)
            higher = _sums_over_lower(-z, codes.max() - codes, w, margin, power - 1)
            value += factor * (w @ lower[power])
            gradient += factor * power * w * (higher[power - 1] - lower[power - 1])
        return value / n_pairs, gradient / n_pairs

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
        margin = positive_setting(self, "margin")
        return _SmoothedHinge(margin, width * margin)


class _SmoothedHinge(PairwiseHinge):
    """Huber's loss of the distance to the margin."""

    smooth = True

    def __init__(self, margin, width):
        super().__init__(margin)
        self.width = width

    def _powers(self):
        # The parabola goes on below a second one, which makes it a line.
        factor = 1 / (2 * self.width)
        return [(self.margin, factor, 2), (self.margin - self.width, -factor, 2)]

    def _pair_loss(self, margin):
        margin -= self.margin
        slope = np.clip(margin / self.width, -1, 0)
        margin -= self.width / 2 * slope
        margin *= slope
        return margin, slope


def _sums_over_lower(z, codes, w, margin, power):
    """Sum ``w_j s_ij**p`` over the j of lower code for which s_ij is positive.

    Here ``s_ij = margin - (z_i - z_j)``. Two different codes have a highest bit in
    which they differ. For each bit, the candidates whose codes agree above it are a
    group. In a group, all i with the bit are compared with all j without it: the sums
    are over the j that come after ``z_i - margin`` in the order of the scores.

    Returns
    -------
    sums : ndarray of shape (power + 1, k)
        Sums for the powers p from 0 to `power`.
    """
    k = len(z)
    thresholds = z - margin
    order = np.argsort(np.concatenate((z, thresholds)), kind="stable")
    is_threshold, codes = order >= k, codes[order % k]
    terms = w * z ** np.arange(power + 1)[:, None]
    terms = np.hstack((terms, np.zeros_like(terms)))[:, order]
    sums = np.zeros_like(terms)
    for bit in range(int(codes.max()).bit_length()):
        chosen = np.flatnonzero((codes >> bit) % 2 == is_threshold)
        chosen = chosen[stable_order(codes[chosen] >> (bit + 1))]
        group = codes[chosen] >> (bit + 1)
        end = np.searchsorted(group, group, side="right")
        for term, total in zip(terms, sums, strict=True):
            running = np.append(0, np.cumsum(term[chosen]))
            total[chosen] += running[end] - running[:-1]
    raw = np.empty((power + 1, k))
    raw[:, order[is_threshold] - k] = sums[:, is_threshold]
    return [
        sum(comb(p, q) * (-thresholds) ** (p - q) * raw[q] for q in range(p + 1))
        for p in range(power + 1)
    ]
