"""Functions that several losses share."""

from numbers import Real

import numpy as np

from skqprobe._candidates.segments import (
    repeat_per_prompt,
    segment_log_softmax,
    segment_sum,
)


def candidate_share(offsets, weight):
    """Compute the share of each candidate in the weight of its prompt."""
    if weight is None:
        return repeat_per_prompt(1 / np.diff(offsets), offsets)
    return weight / repeat_per_prompt(segment_sum(weight, offsets), offsets)


def cross_entropy(scores, target, offsets, weight):
    """Compute ``-sum_i t_i log q_i`` of targets of all copies, and its gradient."""
    log_q = segment_log_softmax(scores, offsets, weight)
    q = np.exp(log_q) if weight is None else np.exp(log_q) * weight
    total = repeat_per_prompt(segment_sum(target, offsets), offsets)
    return segment_sum(-target * log_q, offsets), total * q - target


def softplus(z):
    """Compute ``log(1 + exp(z))`` and its derivative, the logistic function.

    The results equal ``np.logaddexp(0, z)`` and ``scipy.special.expit(z)``, which are
    much slower: numpy vectorizes exp and log1p.
    """
    small = np.exp(-np.abs(z))  # at most 1: no overflow
    slope = np.where(z >= 0, 1.0, small)
    slope /= 1 + small
    value = np.log1p(small, out=small)
    value += np.maximum(z, 0)
    return value, slope


def positive_setting(loss, name):
    """Return a setting of a loss as a float; raise unless it is finite and above 0."""
    value = getattr(loss, name)
    try:
        number = float(value) if isinstance(value, Real) else np.nan
    except OverflowError:
        number = np.inf
    if not 0 < number < np.inf:
        raise ValueError(
            f"{name} of {type(loss).__name__} must be a finite number above 0; got "
            f"{value!r}."
        )
    return number
