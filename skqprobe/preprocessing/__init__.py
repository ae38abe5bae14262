"""Transformers over candidate sets."""

from skqprobe.preprocessing._per_candidate import PerCandidate

__all__ = ["PerCandidate"]
