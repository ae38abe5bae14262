"""Listwise losses: a function of all candidates of a prompt together."""

from numbers import Real

import numpy as np

from skqprobe._candidates.segments import (
    repeat_per_prompt,
    segment_log_softmax,
    segment_max,
    segment_mean,
    segment_sum,
    stable_order,
)
from skqprobe.losses._base import BaseLoss
from skqprobe.losses._functions import (
    candidate_share,
    cross_entropy,
    positive_setting,
)


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
        target = np.exp(segment_log_softmax(rewards / temperature, offsets, weight))
        target = target if weight is None else target * weight
        return cross_entropy(scores, target, offsets, weight)


class ConditionalLogit(BaseLoss):
    """Negative log-likelihood of choices: ``-sum_i c_i log q_i``.

    Here ``q = softmax(z)``, and y holds ``c_i``, how many times candidate i was chosen
    from those of its prompt that were shown. This is the conditional logit model [1]_:
    at temperature 1, `predict_proba` of a policy gives the probability of each choice.
    Prompts without a choice are skipped. Convex in the scores.

    Parameters
    ----------
    normalize : bool, default=False
        Whether to divide the counts of a prompt by their sum, so that all prompts have
        the same influence. If False, a prompt has influence in proportion to its
        number of choices.

    References
    ----------
    .. [1] McFadden, "Conditional Logit Analysis of Qualitative Choice Behavior", in
       Frontiers in Econometrics, 1974, pages 105-142.
    """

    shift_invariant = True

    def __init__(self, normalize=False):
        self.normalize = normalize

    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        """Compute value and gradient; see :class:`BaseLoss`.

        A prompt without a choice has value and gradient 0.
        """
        counts = rewards if weight is None else rewards * weight
        if self.normalize:
            total = segment_sum(counts, offsets)
            total[total == 0] = 1
            counts = counts / repeat_per_prompt(total, offsets)
        return cross_entropy(scores, counts, offsets, weight)

    def check_rewards(self, rewards):
        """Check that all counts are 0 or more; see :class:`BaseLoss`."""
        if rewards.min() < 0:
            raise ValueError(
                "y must hold counts of choices, 0 or more, for "
                f"loss='conditional_logit'; got values down to {rewards.min():.6g}. "
                "For rewards, use a loss that takes any, such as 'pairwise_logistic'."
            )

    def informative_prompts(self, rewards, offsets):
        """Find the prompts with a choice; see :class:`BaseLoss`."""
        return segment_max(rewards, offsets) > 0


class QuantileFilteredImitation(BaseLoss):
    """Imitation of the best candidates: the mean of ``-log q_i`` over those kept.

    Here ``q = softmax(z)``. Kept are the candidates whose reward is at or above the
    quantile of the rewards of their prompt: the best one, and those for which more than
    the share `quantile` of the candidates have at most their reward. So candidates with
    equal rewards are kept or left out together. This is the imitation step of QFIL
    [1]_, with the candidates as draws of the base policy. Convex in the scores. In our
    measurements, it trails `PairwiseLogistic` or about equals it, see
    :doc:`/guide/choices`.

    Parameters
    ----------
    quantile : float, default=0.9
        Share of the candidates below the quantile, in [0, 1]. 0 keeps all candidates,
        1 keeps those with the highest reward.

    References
    ----------
    .. [1] "Quantile Filtered Imitation Learning", 2021, arXiv 2112.00950.
    """

    shift_invariant = True

    def __init__(self, quantile=0.9):
        self.quantile = quantile

    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        """Compute value and gradient; see :class:`BaseLoss`."""
        share = candidate_share(offsets, weight)
        kept = share * self._is_kept(rewards, offsets, share)
        kept /= repeat_per_prompt(segment_sum(kept, offsets), offsets)
        return cross_entropy(scores, kept, offsets, weight)

    def _is_kept(self, rewards, offsets, share):
        quantile = self.quantile
        if not (isinstance(quantile, Real) and 0 <= float(quantile) <= 1):
            raise ValueError(
                f"quantile of {type(self).__name__} must be a number from 0 to 1; got "
                f"{quantile!r}."
            )
        begin, sizes = offsets[:-1], np.diff(offsets)
        prompt = repeat_per_prompt(np.arange(len(sizes)), offsets)
        order = np.argsort(rewards)
        order = order[stable_order(prompt[order])]
        up_to = np.append(0, np.cumsum(share[order]))
        up_to = up_to[1:] - repeat_per_prompt(up_to[begin], offsets)
        n_below = segment_sum((up_to <= float(quantile) + 1e-9).astype(int), offsets)
        lowest = rewards[order][begin + np.minimum(n_below, sizes - 1)]
        return rewards >= repeat_per_prompt(lowest, offsets)


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
