"""Losses of all candidates of a prompt at once."""

import numpy as np

from skqprobe._candidates.segments import (
    repeat_per_prompt,
    segment_log_softmax,
    segment_mean,
    segment_sum,
)
from skqprobe.losses._base import BaseLoss, _check_positive


class PolicyGradient(BaseLoss):
    """L_PG of the paper: ``- sum_i q_i r_i`` with ``q = softmax(z)``.

    Minus the expected reward of the candidate that the softmax policy chooses. Not
    convex in the scores.
    """

    shift_invariant = True

    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        """Evaluate the loss; see :class:`BaseLoss`."""
        q = np.exp(segment_log_softmax(scores, offsets, weight))
        if weight is not None:
            q *= weight
        expected = segment_sum(q * rewards, offsets)
        return -expected, q * (repeat_per_prompt(expected, offsets) - rewards)


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

    shift_invariant = True

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

    shift_invariant = True

    def __init__(self, b=1.0):
        self.b = b

    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        """Evaluate the loss; see :class:`BaseLoss`."""
        v, target = self.least_squares(rewards, offsets, weight)
        error = scores - target
        error = error - repeat_per_prompt(segment_mean(error, offsets, weight), offsets)
        return segment_sum(v * error**2, offsets), 2 * v * error

    def least_squares(self, rewards, offsets, weight=None):
        """Give v and t for which the loss is ``sum_i v_i (z_i - t_i)**2``.

        Both z and t are centred inside each prompt first.
        """
        _check_positive(self, "b")
        weight = np.ones(len(rewards)) if weight is None else weight
        copies = repeat_per_prompt(segment_sum(weight, offsets), offsets)
        return self.b**2 * copies * weight / 2, rewards / self.b
