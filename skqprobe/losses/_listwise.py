"""Listwise losses: a function of all candidates of a prompt together."""

import numpy as np

from skqprobe._candidates.segments import (
    repeat_per_prompt,
    segment_log_softmax,
    segment_mean,
    segment_sum,
)
from skqprobe.losses._base import BaseLoss
from skqprobe.losses._functions import candidate_share, positive_setting


class PolicyGradient(BaseLoss):
    """Minus the expected reward of the softmax policy: ``-sum_i q_i r_i``.

    Here ``q = softmax(z)``. This is L_PG of the paper [1]_. Not convex in the scores.
    The derivative with respect to ``z_j`` is ``-q_j (r_j - sum_i q_i r_i)``.

    References
    ----------
    .. [1] Li et al., "Q-Probe: A Lightweight Approach to Reward Maximization for
       Language Models", 2024, arXiv 2402.14688v1, section 5.1, equation 5.
    """

    shift_invariant = True

    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        """Compute value and gradient; see :class:`BaseLoss`."""
        q = np.exp(segment_log_softmax(scores, offsets, weight))
        if weight is not None:
            q *= weight
        expected = segment_sum(q * rewards, offsets)
        return -expected, q * (repeat_per_prompt(expected, offsets) - rewards)


class SoftmaxCrossEntropy(BaseLoss):
    """Cross-entropy of softmax policy and rewards: ``-sum_i t_i log q_i``.

    Here ``q = softmax(z)``, ``t = softmax(r / a)``, and a is `target_temperature`. This
    is the loss InfoNCA [1]_. Convex in the scores.

    Parameters
    ----------
    target_temperature : float, default=0.1
        Temperature a of the target, in (0, inf), in the unit of the reward. A low
        temperature concentrates the target on the best rewards. A high temperature
        spreads it evenly.

    References
    ----------
    .. [1] Chen et al., "Noise Contrastive Alignment of Language Models with Explicit
       Rewards", 2024, arXiv 2402.05369.
    """

    shift_invariant = True

    def __init__(self, target_temperature=0.1):
        self.target_temperature = target_temperature

    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        """Compute value and gradient; see :class:`BaseLoss`."""
        temperature = positive_setting(self, "target_temperature")
        log_target = segment_log_softmax(rewards / temperature, offsets, weight)
        target = np.exp(log_target)
        log_q = segment_log_softmax(scores, offsets, weight)
        q = np.exp(log_q)
        if weight is not None:
            target, q = target * weight, q * weight
        return segment_sum(-target * log_q, offsets), q - target


class ContrastivePolicyGradient(BaseLoss):
    """Squared error of differences, as a mean over pairs.

    The loss CoPG [1]_ is the mean of ``((r_i - r_j) - b (z_i - z_j))**2 / 4`` over all
    k**2 pairs (i, j). It equals ``mean_i ((r_i - mean r) - b (z_i - mean z))**2 / 2``.
    On a fixed candidate set, this is the ridge regression of the prompt-centered
    rewards on the prompt-centered embeddings. Convex in the scores.

    For two candidates with rewards 1 and 0, it is b**2 / 8 times the loss IPO [2]_,
    whose beta (tau in [2]_) is b / 2 times the temperature of the choice.

    Parameters
    ----------
    b : float, default=1.0
        Difference in reward that corresponds to a difference of 1 in score, in (0,
        inf). It is the paper's beta if the temperature of the choice is 1. There is no
        need to tune it: the coefficients for b and alpha are those for 1 and ``alpha /
        b**2``, divided by b.

    Notes
    -----
    The paper proves that the minimum is the policy of maximum expected reward minus
    beta times its KL divergence from the base model, for candidates of any model. The
    proof assumes realizability: the values of some probe equal the rewards, up to a
    constant per prompt and the factor b. Otherwise, the minimum also depends on how
    often each candidate was drawn.

    References
    ----------
    .. [1] Flet-Berliac et al., "Contrastive Policy Gradient: Aligning LLMs on
       sequence-level scores in a supervised-friendly fashion", 2024, arXiv 2406.19185.
    .. [2] Azar et al., "A General Theoretical Paradigm to Understand Learning from
       Human Preferences", 2023, arXiv 2310.12036.
    """

    shift_invariant = True

    def __init__(self, b=1.0):
        self.b = b

    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        """Compute value and gradient; see :class:`BaseLoss`."""
        v, target = self.least_squares(rewards, offsets, weight)
        error = scores - target
        error = error - repeat_per_prompt(segment_mean(error, offsets, weight), offsets)
        return segment_sum(v * error**2, offsets), 2 * v * error

    def least_squares(self, rewards, offsets, weight=None):
        """Return v and t for which the loss is ``sum_i v_i (z_i - t_i)**2``.

        The loss is shift-invariant: z and t are centered within each prompt first.
        """
        b = positive_setting(self, "b")
        return b**2 / 2 * candidate_share(offsets, weight), rewards / b
