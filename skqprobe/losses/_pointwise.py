"""Losses of single candidates: squared error and log loss."""

from scipy.special import expit

from skqprobe._candidates.segments import segment_sum
from skqprobe.losses._base import BaseLoss, _share, _softplus


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
