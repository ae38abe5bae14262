"""Pointwise losses: a sum over the candidates of a prompt."""

from scipy.special import expit

from skqprobe._candidates.segments import segment_sum
from skqprobe.losses._base import BaseLoss
from skqprobe.losses._functions import candidate_share, softplus


class SquaredError(BaseLoss):
    """Squared error of the score: ``mean_i (z_i - r_i)**2``.

    This is L_Q of the paper [1]_. Convex in the scores.

    References
    ----------
    .. [1] Li et al., "Q-Probe: A Lightweight Approach to Reward Maximization for
       Language Models", 2024, arXiv 2402.14688v1, section 5.1, equation 2.
    """

    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        """Compute value and gradient; see :class:`BaseLoss`."""
        error = scores - rewards
        share = candidate_share(offsets, weight)
        return segment_sum(share * error**2, offsets), 2 * share * error

    def least_squares(self, rewards, offsets, weight=None):
        """Return v and t for which the loss is ``sum_i v_i (z_i - t_i)**2``."""
        return candidate_share(offsets, weight), rewards


class LogLoss(BaseLoss):
    """Binary cross-entropy: ``mean_i -r_i log p_i - (1 - r_i) log(1 - p_i)``.

    Here ``p_i = sigmoid(z_i)`` and the rewards are in [0, 1]. This is L_CE of the paper
    [1]_. Convex in the scores.

    References
    ----------
    .. [1] Li et al., "Q-Probe: A Lightweight Approach to Reward Maximization for
       Language Models", 2024, arXiv 2402.14688v1, section 5.1, equation 3.
    """

    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        """Compute value and gradient; see :class:`BaseLoss`."""
        share = candidate_share(offsets, weight)
        value, slope = softplus(scores)
        value = value - rewards * scores
        return segment_sum(share * value, offsets), share * (slope - rewards)

    def check_rewards(self, rewards):
        """Check that all rewards lie in [0, 1]; see :class:`BaseLoss`."""
        if rewards.min() < 0 or rewards.max() > 1:
            raise ValueError(
                "y must lie in [0, 1] for loss='log_loss'; got values from "
                f"{rewards.min():.6g} to {rewards.max():.6g}. Rescale the rewards, or "
                "use a loss that takes any, such as 'squared_error' or "
                "'policy_gradient'."
            )

    def inverse_link(self, scores):
        """Map scores to probabilities; see :class:`BaseLoss`."""
        return expit(scores)
