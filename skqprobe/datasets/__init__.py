"""Data sets that ship with the package."""

from skqprobe._utils.public import set_module
from skqprobe.datasets._two_words import load_two_words

__all__ = ["load_two_words"]

set_module(globals())
