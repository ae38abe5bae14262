"""The losses by name."""

from skqprobe.losses._listwise import (
    ContrastivePolicyGradient,
    PolicyGradient,
    SoftmaxCrossEntropy,
)
from skqprobe.losses._pairwise import PairwiseHinge, PairwiseLogistic
from skqprobe.losses._pointwise import LogLoss, SquaredError

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
