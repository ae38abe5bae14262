"""Means over prompts, and the checks that all metrics share."""

import warnings

import numpy as np
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.utils import check_array

from skqprobe._arrays.magnitude import SMALLEST, check_magnitude
from skqprobe._candidates.validation import NO_GROUPS


def prompt_mean(values, prompt_weight=None, scalar=False):
    """Average over prompts, leaving out those that are NaN.

    Parameters
    ----------
    values : ndarray of shape (n_prompts,) or (n_prompts, n_k)
        One value (or one for each k) a prompt; NaN for one to be left out.
    prompt_weight : array-like of shape (n_prompts,) or (n_weightings, n_prompts), \
            default=None
        Weights; None for equal ones.
    scalar : bool, default=False
        Whether to leave out the axis of k, of length 1.

    Returns
    -------
    mean : float, or ndarray of shape (n_k,), (n_weightings,) or (n_weightings, n_k)
        NaN where no prompt of positive weight is left.
    """
    if scalar:
        values = values[:, 0]
    if prompt_weight is None:
        weight = np.ones(len(values))
    else:
        weight = check_prompt_weight(prompt_weight, len(values))
    kept = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean = weight @ np.where(kept, values, 0) / (weight @ kept)
    return float(mean) if mean.ndim == 0 else mean


def check_has_groups(layout, name):
    """Raise for rows without groups, which leave nothing to choose."""
    if not layout.grouped:
        raise ValueError(NO_GROUPS.replace("X", name, 1))


def check_prompt_weight(prompt_weight, n_prompts):
    """Validate weights of prompts: (n_prompts,) or (n_weightings, n_prompts)."""
    weight = check_array(
        prompt_weight,
        ensure_2d=False,
        dtype=np.float64,
        input_name="prompt_weight",
    )
    if weight.ndim == 0 or weight.shape[-1] != n_prompts or (weight < 0).any():
        raise ValueError(
            f"prompt_weight must have one weight of 0 or more for each of {n_prompts} "
            f"prompts; got shape {weight.shape}, the lowest {weight.min():.3g}."
        )
    check_magnitude(weight, "prompt_weight", SMALLEST)
    return weight


def check_ks(k, layout, too_few):
    """Validate numbers of candidates.

    Returns
    -------
    ks : ndarray of int, of shape (n_k,)
    scalar : bool
        Whether k was one number.
    """
    ks = np.asarray(k)
    if ks.ndim > 1 or ks.size == 0 or ks.dtype.kind not in "iu" or (ks < 1).any():
        raise ValueError(f"k must be an integer of 1 or more, or a list; got {k!r}.")
    if too_few not in ("raise", "skip"):
        raise ValueError(f"too_few must be 'raise' or 'skip'; got {too_few!r}.")
    fewest, most = layout.sizes.min(), layout.sizes.max()
    if ks.max() > most or (ks.max() > fewest and too_few == "raise"):
        hint = ""
        if ks.max() <= most:
            hint = ", or too_few='skip' to leave out the prompts that have fewer"
        raise ValueError(
            f"k={ks.max()} is more than a prompt has: the prompts have {fewest} to "
            f"{most} candidates. Give a k of at most {fewest}{hint}."
        )
    return np.atleast_1d(ks), ks.ndim == 0


def warn_if_undefined(values, name, reason):
    """Warn where a metric is NaN; not for many weightings, of which some may be."""
    if np.ndim(values) < 2 and np.isnan(values).any():
        warnings.warn(
            f"{name} is undefined and set to NaN where {reason}.",
            UndefinedMetricWarning,
            stacklevel=3,
        )
