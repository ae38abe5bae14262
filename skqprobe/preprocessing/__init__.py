"""Transformers of candidate sets."""

from skqprobe._utils.public import set_module
from skqprobe.preprocessing._per_candidate import PerCandidate
from skqprobe.preprocessing._sibling_features import SiblingFeatures

__all__ = ["PerCandidate", "SiblingFeatures"]

set_module(globals())
