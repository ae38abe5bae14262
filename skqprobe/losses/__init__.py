"""Losses: value and gradient on the scores of candidates.

A loss reads the scores, rewards and weights of candidates in prompt order, and the
offsets where each prompt begins. It returns one value per prompt, and for each
candidate the derivative of the value of its prompt with respect to its score. A loss
does not depend on embeddings, coefficients, penalties or layouts.

To define another loss, subclass :class:`BaseLoss`, implement `value_and_gradient`, and
pass an instance: ``QProbePolicy(loss=MyLoss())``.
"""

from skqprobe._utils.public import set_module
from skqprobe.losses._base import BaseLoss
from skqprobe.losses._listwise import (
    ConditionalLogit,
    ContrastivePolicyGradient,
    PolicyGradient,
    QuantileFilteredImitation,
    SoftmaxCrossEntropy,
)
from skqprobe.losses._pairwise import PairwiseHinge, PairwiseLogistic
from skqprobe.losses._pointwise import LogLoss, SquaredError
from skqprobe.losses._registry import LOSSES, get_loss

__all__ = [
    "LOSSES",
    "BaseLoss",
    "ConditionalLogit",
    "ContrastivePolicyGradient",
    "LogLoss",
    "PairwiseHinge",
    "PairwiseLogistic",
    "PolicyGradient",
    "QuantileFilteredImitation",
    "SoftmaxCrossEntropy",
    "SquaredError",
    "get_loss",
]

set_module(globals())
