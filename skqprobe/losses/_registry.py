"""The losses by name."""

from skqprobe.losses._listwise import (
    ConditionalLogit,
    ContrastivePolicyGradient,
    PolicyGradient,
    QuantileFilteredImitation,
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
    "conditional_logit": ConditionalLogit,
    "quantile_filtered_imitation": QuantileFilteredImitation,
}
"""Loss classes by name."""


def get_loss(loss):
    """Return a loss object for a name or a loss object.

    Parameters
    ----------
    loss : str or BaseLoss
        Key of :data:`LOSSES`, or a loss object.

    Returns
    -------
    loss : BaseLoss
        Loss of that name with its default settings, or the loss object itself.

    Examples
    --------
    >>> from skqprobe.losses import get_loss
    >>> get_loss("pairwise_hinge")
    PairwiseHinge()
    """
    return LOSSES[loss]() if isinstance(loss, str) else loss
