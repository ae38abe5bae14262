"""Statistics over prompts, with 95% bootstrap intervals.

Each function returns a dict that is ready for JSON: `value`, the ends `low` and `high`
of the interval, and the `standard_error`.
"""

import warnings

import numpy as np

from skqprobe.metrics import prompt_bootstrap


def mean_interval(rewards, n_resamples):
    """Estimate the mean of one value per prompt, of shape (n_prompts,)."""
    return _interval(_values, rewards, n_resamples=n_resamples)


def recovery_interval(rewards, base, oracle, n_resamples):
    """Estimate (reward - base) / (oracle - base), a ratio of means over prompts.

    The arrays are of shape (n_prompts,). Returns None if no prompt has a possible gain.
    """
    if not recovery_terms(rewards, base, oracle)[1].any():
        return None
    return _interval(_recovery, rewards, base, oracle, n_resamples=n_resamples)


def group_interval(count, total, n_resamples, versus=None):
    """Estimate the mean of values that are summed by group, or a difference of two.

    Parameters
    ----------
    count : ndarray of shape (n_groups,)
        Number of values of each group.
    total, versus : ndarray of shape (n_groups, n_points)
        Sums of the values of each group, and sums to subtract. Groups are resampled.
    n_resamples : int
        Number of resamples.
    """
    return _interval(
        _group_mean, count[:, None], total, versus=versus, n_resamples=n_resamples
    )


def _interval(metric, *arrays, **options):
    with warnings.catch_warnings():  # some values are differences, which may all be 0
        warnings.filterwarnings("ignore", "The interval of .* has no width")
        found = prompt_bootstrap(metric, *arrays, random_state=0, **options)
    names = ("value", "low", "high", "standard_error")
    return {name: np.asarray(getattr(found, name)).tolist() for name in names}


def _values(rewards, groups=None, average=None):
    return rewards


def _recovery(rewards, base, oracle, groups=None, average=None):
    gain, possible = recovery_terms(rewards, base, oracle)
    return gain / possible


def recovery_terms(rewards, base, oracle, groups=None):
    """Compute the gain and the possible gain per prompt; both 0 where there is none."""
    possible = oracle - base
    # Rounding leaves a little if k is 1, or if all rewards of a prompt are equal.
    informative = possible > 1e-12 * np.abs(base)
    return np.where(informative, [rewards - base, possible], 0)


_recovery.terms = recovery_terms


def _group_mean(count, total, groups=None, average=None):
    return total / count


def _group_terms(count, total, groups=None):
    return total, np.broadcast_to(count, total.shape)


_group_mean.terms = _group_terms
