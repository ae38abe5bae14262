"""Sums, maxima and softmax inside each prompt, over rows that lie prompt by prompt.

A segment is one prompt: rows ``offsets[p]`` to ``offsets[p + 1] - 1``. No segment is
empty.
"""

import numpy as np


def segment_sum(values, offsets):
    """Sum inside each prompt, along axis 0."""
    return np.add.reduceat(values, offsets[:-1], axis=0)


def segment_max(values, offsets):
    """Maximum inside each prompt."""
    return np.maximum.reduceat(values, offsets[:-1])


def spread(values, offsets):
    """Repeat one value a prompt for each of its rows."""
    return np.repeat(values, np.diff(offsets), axis=0)


def segment_mean(values, offsets, weight=None):
    """(Weighted) mean inside each prompt, along axis 0."""
    if weight is None:
        total = np.diff(offsets)
    else:
        total = segment_sum(weight, offsets)
        values = (values.T * weight).T
    return (segment_sum(values, offsets).T / total).T


def segment_log_softmax(scores, offsets, weight=None):
    """Logarithm of the softmax inside each prompt.

    With weights, row i stands for ``weight[i]`` copies of itself, and its entry is that
    of one copy.
    """
    shifted = scores - spread(segment_max(scores, offsets), offsets)
    mass = np.exp(shifted)
    if weight is not None:
        mass *= weight
    return shifted - spread(np.log(segment_sum(mass, offsets)), offsets)
