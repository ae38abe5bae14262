"""Sums, maxima and softmax inside each prompt, over rows that lie prompt by prompt.

A segment is one prompt: rows ``offsets[p]`` to ``offsets[p + 1] - 1``. No segment is
empty.
"""

import numpy as np
from scipy.sparse import csr_array


def stable_order(codes):
    """Order rows by non-negative integers, equal ones as they stand.

    The same as a stable argsort, which takes ten times as long for many rows: scipy
    sorts the columns of a sparse row by counting.
    """
    n = len(codes)
    row = csr_array((np.arange(n), codes, [0, n]), shape=(1, codes.max() + 1))
    return row.tocsc().data


def segment_sum(values, offsets):
    """Sum inside each prompt, along axis 0."""
    if values.ndim == 1:
        return np.add.reduceat(values, offsets[:-1])
    # Along the first of two axes numpy takes ten times as long. In float64, since the
    # product adds one number after the other, where numpy adds sums of a few.
    n_rows = len(values)
    parts = np.ones(n_rows), np.arange(n_rows), offsets
    total = csr_array(parts, shape=(len(offsets) - 1, n_rows)) @ values
    return total.astype(values.dtype, copy=False)


def segment_max(values, offsets):
    """Maximum inside each prompt."""
    return np.maximum.reduceat(values, offsets[:-1])


def repeat_per_prompt(values, offsets):
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
    shifted = scores - repeat_per_prompt(segment_max(scores, offsets), offsets)
    mass = np.exp(shifted)
    if weight is not None:
        mass *= weight
    return shifted - repeat_per_prompt(np.log(segment_sum(mass, offsets)), offsets)
