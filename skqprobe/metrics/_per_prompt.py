"""The core of all metrics: terms per prompt, and their reduction over prompts.

Every metric is a ratio of two weighted sums over prompts. For a mean, the denominator
is 1 for each prompt where the metric is defined, and 0 elsewhere.
"""

from typing import NamedTuple

import numpy as np
from sklearn.utils import check_array

from skqprobe._arrays.device import to_host
from skqprobe._arrays.magnitude import SMALLEST, check_magnitude
from skqprobe._candidates.validation import check_scored, check_values, no_groups


class PromptTerms(NamedTuple):
    """Terms of a metric, whose value is ``sum(numerator) / sum(denominator)``.

    Parameters
    ----------
    numerator, denominator : ndarray of shape (n_prompts,) or (n_prompts, n_columns)
        Both are 0 for prompts where the metric is undefined. Columns are separate
        metrics, such as one for each number of candidates.
    """

    numerator: np.ndarray
    denominator: np.ndarray


def mean_terms(values):
    """Make the terms of a mean over the prompts whose values are not NaN.

    Parameters
    ----------
    values : ndarray of shape (n_prompts,) or (n_prompts, n_columns)
        Values per prompt.

    Returns
    -------
    terms : PromptTerms
    """
    defined = ~np.isnan(values)
    return PromptTerms(np.where(defined, values, 0), np.where(defined, 1.0, 0.0))


def gain_terms(chosen, base, oracle):
    """Make the terms of ``(chosen - base) / (oracle - base)``, a ratio of means.

    Parameters
    ----------
    chosen, base, oracle : ndarray of shape (n_prompts, n_columns)
        Rewards per prompt; NaN where a prompt is left out.

    Returns
    -------
    terms : PromptTerms
    """
    possible = oracle - base
    # Where all rewards of a prompt are equal, or k is 1, only rounding is left.
    informative = possible > 1e-12 * abs(base)
    return PromptTerms(
        np.where(informative, chosen - base, 0), np.where(informative, possible, 0)
    )


def reduce_terms(terms, average, prompt_weight):
    """Reduce terms to the value of a metric.

    Parameters
    ----------
    terms : PromptTerms
        Terms of the metric.
    average, prompt_weight
        Arguments of the metric.

    Returns
    -------
    value : float, or ndarray of shape (n_columns,), (n_prompts,) or \
            (n_prompts, n_columns)
        NaN where the metric is undefined.
    """
    if average is None:
        if prompt_weight is not None:
            raise ValueError(
                "prompt_weight weights a mean; with average=None, pass None."
            )
        return divide(*terms)
    if average != "mean":
        raise ValueError(f"average must be 'mean' or None; got {average!r}.")
    if prompt_weight is not None:
        prompt_weight = check_prompt_weight(prompt_weight, len(terms.numerator))
    return weighted_mean(terms, prompt_weight)


def weighted_mean(terms, weight=None):
    """Reduce terms with weights of shape (n_prompts,) or (n_weightings, n_prompts)."""
    if weight is None:
        weight = np.ones(len(terms.numerator))
    return divide(weight @ terms.numerator, weight @ terms.denominator)


def divide(numerator, denominator):
    """Divide; NaN where nothing is defined."""
    with np.errstate(invalid="ignore"):  # 0 / 0
        ratio = numerator / denominator
    return float(ratio) if np.ndim(ratio) == 0 else ratio


def first_column(terms, scalar):
    """Drop the axis of columns if `scalar`."""
    return PromptTerms(*(part[:, 0] for part in terms)) if scalar else terms


def check_rewards(y, groups):
    """Validate rewards; return them in prompt order, and their layout."""
    if len(getattr(y, "shape", ())) == 3:
        raise ValueError(
            f"y has shape {tuple(y.shape)}, which holds several objectives, and this "
            "metric takes one: pass y @ weights, or y[..., 0]. objective_rewards takes "
            "all of them."
        )
    rewards, layout = check_scored(y, groups, "y")
    check_has_groups(layout, "y")
    check_magnitude(rewards, "y")
    return rewards, layout


def check_scores(scores, layout, name="scores"):
    """Validate scores of the candidates of a layout; return them in prompt order."""
    return layout.to_prompt_order(check_values(scores, layout.shape, name))


def check_has_groups(layout, name):
    """Raise for rows without groups, which leave nothing to choose."""
    if not layout.grouped:
        raise ValueError(no_groups(name))


def check_prompt_weight(prompt_weight, n_prompts):
    """Validate weights of prompts, of shape (n_prompts,)."""
    weight = check_array(
        to_host(prompt_weight, "prompt_weight"),
        ensure_2d=False,
        dtype=np.float64,
        input_name="prompt_weight",
    )
    if weight.shape != (n_prompts,) or (weight < 0).any():
        raise ValueError(
            f"prompt_weight must have one weight of 0 or more for each of {n_prompts} "
            f"prompts; got shape {weight.shape}, the lowest {weight.min():.3g}."
        )
    check_magnitude(weight, "prompt_weight", SMALLEST)
    return weight


def check_counts(k, name="k"):
    """Validate one or several numbers of candidates; return them as an array."""
    ks = np.asarray(k)
    if ks.ndim > 1 or ks.size == 0 or ks.dtype.kind not in "iu" or (ks < 1).any():
        raise ValueError(
            f"{name} must be an integer of 1 or more, or a list; got {k!r}."
        )
    return ks.astype(np.intp)


def check_ks(k, layout, too_few):
    """Validate numbers of candidates, for all prompts or some of them.

    Returns
    -------
    ks : ndarray of int, of shape (n_k,)
    scalar : bool
        Whether `k` was one number.
    """
    ks = check_counts(k)
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
