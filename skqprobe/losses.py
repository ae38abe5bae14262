"""The losses: value and gradient on the scores of candidates, and nothing else.

A loss sees the scores, rewards and weights of candidates that lie prompt by prompt, and
the offsets where each prompt begins. It returns one value a prompt and, for each
candidate, the derivative of its prompt's value with respect to its score. It knows
nothing of embeddings, coefficients, penalties or layouts.

A loss of your own is a subclass of :class:`BaseLoss` with one method,
`value_and_gradient`, passed as ``QProbePolicy(loss=MyLoss())``.
"""

from abc import ABC, abstractmethod
from numbers import Real

import numpy as np
from scipy.special import expit

from skqprobe._estimator import BaseEstimator
from skqprobe._segments import (
    segment_log_softmax,
    segment_mean,
    segment_sum,
    spread,
)

__all__ = [
    "LOSSES",
    "BaseLoss",
    "ContrastivePolicyGradient",
    "LogLoss",
    "PairwiseHinge",
    "PairwiseLogistic",
    "PolicyGradient",
    "SoftmaxCrossEntropy",
    "SquaredError",
    "get_loss",
]

PAIRS_AT_ONCE = 2**15
"""How many pairs a pairwise loss takes at a time: few enough to stay in cache."""


class BaseLoss(ABC, BaseEstimator):
    """Base class of all losses.

    A subclass implements :meth:`value_and_gradient`. Settings are arguments of its
    ``__init__``, stored under their own names, so that ``clone`` and ``get_params``
    keep them and a search reaches them as ``loss__name``.

    Attributes
    ----------
    needs_choice : bool
        True for a loss that reads only differences of scores inside a prompt. Such a
        loss cannot see an intercept, and learns nothing where every prompt has a
        single candidate.

    Examples
    --------
    The squared error of the softmax choice, as a loss of one's own:

    >>> import numpy as np
    >>> from skqprobe import QProbePolicy
    >>> from skqprobe.losses import BaseLoss, PolicyGradient
    >>> class SquaredRegret(BaseLoss):
    ...     needs_choice = True
    ...
    ...     def value_and_gradient(self, scores, rewards, offsets, weight=None):
    ...         value, gradient = PolicyGradient().value_and_gradient(
    ...             scores, rewards, offsets, weight
    ...         )
    ...         regret = value + np.maximum.reduceat(rewards, offsets[:-1])
    ...         slope = np.repeat(2 * regret, np.diff(offsets))
    ...         return regret**2, slope * gradient
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(50, 4, 3)), rng.random(size=(50, 4))
    >>> policy = QProbePolicy(loss=SquaredRegret()).fit(X, y)
    >>> policy.predict(X[:5]).shape
    (5,)
    """

    needs_choice = False

    @abstractmethod
    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        """Evaluate the loss.

        Parameters
        ----------
        scores : ndarray of shape (n_rows,), float64
            Probe values, prompt by prompt.
        rewards : ndarray of shape (n_rows,), float64
            Rewards, prompt by prompt.
        offsets : ndarray of shape (n_prompts + 1,), int
            Prompt p has the rows ``offsets[p]`` to ``offsets[p + 1] - 1``, at least
            one.
        weight : ndarray of shape (n_rows,), float64, default=None
            Positive; row i counts as ``weight[i]`` copies of itself in its prompt.

        Returns
        -------
        value : ndarray of shape (n_prompts,)
            The loss of each prompt.
        gradient : ndarray of shape (n_rows,)
            Derivative of the loss of a row's prompt with respect to the row's score.
        """

    def check_rewards(self, rewards):
        """Raise a ValueError if the loss is not defined for these rewards.

        Parameters
        ----------
        rewards : ndarray of shape (n_rows,)
            Rewards of the training data.
        """

    def informative_prompts(self, rewards, offsets):
        """Tell which prompts the loss is defined for; the others are left out.

        Parameters
        ----------
        rewards : ndarray of shape (n_rows,)
            Rewards, prompt by prompt.
        offsets : ndarray of shape (n_prompts + 1,)
            Where each prompt begins.

        Returns
        -------
        informative : ndarray of bool, of shape (n_prompts,)
        """
        return np.ones(len(offsets) - 1, dtype=bool)

    def inverse_link(self, scores):
        """Map a score to the expected reward that it stands for.

        Parameters
        ----------
        scores : ndarray of shape (n_rows,)
            Probe values.

        Returns
        -------
        expected : ndarray of shape (n_rows,)
            The scores themselves, unless a subclass says otherwise.
        """
        return scores


class SquaredError(BaseLoss):
    """L_Q of the paper: ``mean_i (z_i - r_i)**2``."""

    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        """Evaluate the loss; see :class:`BaseLoss`."""
        error = scores - rewards
        share = _share(offsets, weight)
        return segment_sum(share * error**2, offsets), 2 * share * error

    def least_squares(self, rewards, offsets, weight=None):
        """Give v and t for which the loss is ``sum_i v_i (z_i - t_i)**2``.

        For a loss that needs a choice, z and t are centred inside each prompt first.
        """
        return _share(offsets, weight), rewards


class LogLoss(BaseLoss):
    """L_CE of the paper: ``mean_i BCE(sigmoid(z_i), r_i)`` for rewards in [0, 1]."""

    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        """Evaluate the loss; see :class:`BaseLoss`."""
        share = _share(offsets, weight)
        softplus, slope = _softplus(scores)
        value = softplus - rewards * scores
        return segment_sum(share * value, offsets), share * (slope - rewards)

    def check_rewards(self, rewards):
        """Raise unless all rewards lie in [0, 1]."""
        if rewards.min() < 0 or rewards.max() > 1:
            raise ValueError(
                "y must lie in [0, 1] for loss='log_loss'; got values from "
                f"{rewards.min():.6g} to {rewards.max():.6g}. Rescale the rewards, or "
                "use a loss that takes any, such as 'squared_error' or "
                "'policy_gradient'."
            )

    def inverse_link(self, scores):
        """Map a score to a probability."""
        return expit(scores)


class PolicyGradient(BaseLoss):
    """L_PG of the paper: ``- sum_i q_i r_i`` with ``q = softmax(z)``.

    Minus the expected reward of the candidate that the softmax policy chooses. Not
    convex in the scores.
    """

    needs_choice = True

    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        """Evaluate the loss; see :class:`BaseLoss`."""
        q = np.exp(segment_log_softmax(scores, offsets, weight))
        if weight is not None:
            q *= weight
        expected = segment_sum(q * rewards, offsets)
        return -expected, q * (spread(expected, offsets) - rewards)


class SoftmaxCrossEntropy(BaseLoss):
    """InfoNCA: ``- sum_i t_i log q_i`` with ``t = softmax(r / a)``.

    Listwise cross-entropy between the softmax of the scores and that of the rewards
    [1]_. Convex in the scores.

    Parameters
    ----------
    target_temperature : float, default=0.1
        The a of the formula, above 0 and in units of the reward: small values put all
        mass of the target on the best rewards, large ones spread it evenly.

    References
    ----------
    .. [1] Chen et al., "Noise Contrastive Alignment of Language Models with Explicit
       Rewards", 2024, arXiv 2402.05369.
    """

    needs_choice = True

    def __init__(self, target_temperature=0.1):
        self.target_temperature = target_temperature

    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        """Evaluate the loss; see :class:`BaseLoss`."""
        _check_positive(self, "target_temperature")
        log_target = segment_log_softmax(
            rewards / self.target_temperature, offsets, weight
        )
        target = np.exp(log_target)
        log_q = segment_log_softmax(scores, offsets, weight)
        q = np.exp(log_q)
        if weight is not None:
            target, q = target * weight, q * weight
        return segment_sum(-target * log_q, offsets), q - target


class ContrastivePolicyGradient(BaseLoss):
    """CoPG: the sum over pairs of ``1/2 ((r_i - r_j) - b (z_i - z_j))**2``.

    Equal to ``k/2 sum_i ((r_i - mean r) - b (z_i - mean z))**2`` [1]_: on a fixed
    candidate set, ridge regression of the prompt-centred rewards on the prompt-centred
    embeddings. As a sum over pairs it grows with k**2, so that in ragged data prompts
    with many candidates weigh more.

    Parameters
    ----------
    b : float, default=1.0
        What a difference in score is worth in reward; above 0.

    References
    ----------
    .. [1] Flet-Berliac et al., "Contrastive Policy Gradient: Aligning LLMs on
       sequence-level scores in a supervised-friendly fashion", 2024, arXiv 2406.19185.
    """

    needs_choice = True

    def __init__(self, b=1.0):
        self.b = b

    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        """Evaluate the loss; see :class:`BaseLoss`."""
        v, target = self.least_squares(rewards, offsets, weight)
        error = scores - target
        error = error - spread(segment_mean(error, offsets, weight), offsets)
        return segment_sum(v * error**2, offsets), 2 * v * error

    def least_squares(self, rewards, offsets, weight=None):
        """Give v and t for which the loss is ``sum_i v_i (z_i - t_i)**2``.

        Both z and t are centred inside each prompt first.
        """
        _check_positive(self, "b")
        weight = np.ones(len(rewards)) if weight is None else weight
        copies = spread(segment_sum(weight, offsets), offsets)
        return self.b**2 * copies * weight / 2, rewards / self.b


class _PairwiseLoss(BaseLoss):
    """Mean of a function of ``z_i - z_j`` over the pairs with ``r_i > r_j``."""

    needs_choice = True

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


def _share(offsets, weight):
    """Share of each row in its prompt: weights that sum to 1 inside a prompt."""
    if weight is None:
        return spread(1 / np.diff(offsets), offsets)
    return weight / spread(segment_sum(weight, offsets), offsets)


def _softplus(z):
    """``log(1 + exp(z))`` and its derivative, the logistic function.

    The same as ``np.logaddexp(0, z)`` and ``scipy.special.expit(z)``, at a small part
    of their time: numpy computes exp and log1p on whole vector registers.
    """
    small = np.exp(-np.abs(z))  # at most 1: no overflow
    slope = np.where(z >= 0, 1.0, small)
    slope /= 1 + small
    value = np.log1p(small, out=small)
    value += np.maximum(z, 0)
    return value, slope


def _check_positive(loss, name):
    value = getattr(loss, name)
    if not (isinstance(value, Real) and 0 < float(value) < np.inf):
        raise ValueError(
            f"{name} of {type(loss).__name__} must be a finite number above 0; got "
            f"{value!r}."
        )


LOSSES = {
    "squared_error": SquaredError,
    "log_loss": LogLoss,
    "policy_gradient": PolicyGradient,
    "pairwise_logistic": PairwiseLogistic,
    "pairwise_hinge": PairwiseHinge,
    "softmax_cross_entropy": SoftmaxCrossEntropy,
    "contrastive_policy_gradient": ContrastivePolicyGradient,
}
"""The losses by name."""


def get_loss(loss):
    """Return the loss of that name, with its default settings, or the loss itself.

    Parameters
    ----------
    loss : str or object with a method `value_and_gradient`
        A key of :data:`LOSSES`, or a loss object.

    Returns
    -------
    loss : BaseLoss

    Examples
    --------
    >>> from skqprobe.losses import get_loss
    >>> get_loss("pairwise_hinge")
    PairwiseHinge()
    """
    return LOSSES[loss]() if isinstance(loss, str) else loss
