"""Certainty: intervals by the bootstrap over prompts."""

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.stats import DegenerateDataWarning, bootstrap
from sklearn.utils import check_random_state

from skqprobe._arrays.device import to_host
from skqprobe._candidates.segments import repeat_per_prompt
from skqprobe._candidates.validation import check_scored

COUNTS_AT_ONCE = 2**22
"""How many weights of prompts are made at a time."""

LEAST_AT_ONCE = 8
"""How many resamples are made at a time, at least: a metric reads all rows for them."""

MOST_FOR_BCA = 10_000
"""For how many prompts an interval is accelerated, at most: that takes the square of
their number, and matters the less the more there are."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its bootstrap interval.

    Parameters
    ----------
    value : float or ndarray
        The figure, on the prompts there are.
    low, high : float or ndarray
        Ends of the confidence interval.
    standard_error : float or ndarray
        Standard deviation of the figure over resamples.
    confidence_level : float
        Of the interval, in (0, 1).
    """

    value: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray
    standard_error: float | np.ndarray
    confidence_level: float

    def __str__(self):
        if np.ndim(self.value):
            return repr(self)
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def prompt_bootstrap(
    metric,
    *arrays,
    versus=None,
    groups=None,
    n_resamples=9999,
    confidence_level=0.95,
    random_state=None,
    **options,
):
    """Compute a metric with a bootstrap interval, or the difference of two policies.

    Prompts are resampled, never candidates: those of a prompt go together. The interval
    is scipy's, bias-corrected and accelerated; of more than 10,000 prompts, for which
    that would be slow and correct next to nothing, the percentiles of the resamples.

    Parameters
    ----------
    metric : callable
        A metric of this module, or any function with `groups` and `prompt_weight` that
        takes weights of shape (n_weightings, n_prompts), as they all do.
    *arrays : array-like of shape (n_prompts, k) or (n_rows,)
        What the metric takes: `y` and `scores`, or `y` and `proba`, or `proba`.
    versus : array-like of shape (n_prompts, k) or (n_rows,), default=None
        The scores (or probabilities) of another policy. The figure is then the metric
        with the last of `arrays`, less the metric with `versus` in its place, on the
        same prompts in every resample.
    groups : array-like of shape (n_rows,), default=None
        For rows: labels of the prompts, any hashable values in any order.
    n_resamples : int, default=9999
        How many times to resample the prompts.
    confidence_level : float, default=0.95
        Of the interval, in (0, 1).
    random_state : int, RandomState instance or None, default=None
        Determines the resamples.
    **options : dict
        Further arguments of the metric, such as ``k=10``.

    Returns
    -------
    estimate : Estimate
        With `value`, `low`, `high` and `standard_error`: floats, or arrays of shape
        (n_k,) for a list of k.

    Notes
    -----
    The interval says how the figure would vary over other prompts, for scores as they
    are. The prompts must not have been used to train or choose the policy.

    Examples
    --------
    >>> import numpy as np
    >>> from skqprobe.metrics import best_of_k_reward, prompt_bootstrap
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 2, size=(100, 8))
    >>> good, poor = y + rng.normal(size=y.shape), rng.normal(size=y.shape)
    >>> print(prompt_bootstrap(best_of_k_reward, y, good, k=4, random_state=0))
    0.756 [0.703, 0.802]
    >>> gain = prompt_bootstrap(
    ...     best_of_k_reward, y, good, versus=poor, k=4, random_state=0
    ... )
    >>> print(gain)
    0.265 [0.205, 0.327]
    """
    if not arrays:
        raise ValueError("Give the arrays that the metric takes, such as y and scores.")
    layout = check_scored(arrays[0], groups, "the first array")[1]
    if groups is not None and len(layout.shape) == 1:
        # The metric is called over and over: rows and labels in an order that is easy.
        arrays = tuple(_prompt_by_prompt(values, layout) for values in arrays)
        versus = None if versus is None else _prompt_by_prompt(versus, layout)
        groups = repeat_per_prompt(np.arange(layout.n_prompts), layout.offsets)

    def statistic(prompt_weight):
        value = metric(*arrays, groups=groups, prompt_weight=prompt_weight, **options)
        if versus is not None:
            value = value - metric(
                *arrays[:-1],
                versus,
                groups=groups,
                prompt_weight=prompt_weight,
                **options,
            )
        return np.asarray(value)

    return bootstrap_weights(
        statistic, layout.n_prompts, n_resamples, confidence_level, random_state
    )


def _prompt_by_prompt(values, layout):
    """Sort rows by prompt; what has another shape the metric will refuse."""
    values = np.asarray(to_host(values))
    return layout.to_prompt_order(values) if values.size == layout.n_rows else values


def bootstrap_weights(
    statistic, n_prompts, n_resamples=9999, confidence_level=0.95, random_state=None
):
    """Bootstrap a statistic of weights: a resample counts how often each prompt is in.

    Parameters
    ----------
    statistic : callable
        Maps weights of shape (n_weightings, n_prompts) to values of shape
        (n_weightings,) or (n_weightings, n_k).
    n_prompts : int
        Number of prompts, 2 or more.
    n_resamples, confidence_level, random_state
        See `prompt_bootstrap`.

    Returns
    -------
    estimate : Estimate
    """
    if n_prompts < 2:
        raise ValueError("An interval over prompts needs at least two prompts.")

    def of_resamples(index):
        # scipy hands over numbers of prompts on the last axis, resamples on the first.
        if index.ndim == 1:
            return of_resamples(index[None])[..., 0]
        shifted = index + n_prompts * np.arange(len(index))[:, None]
        counts = np.bincount(shifted.ravel(), minlength=n_prompts * len(index))
        return np.moveaxis(statistic(counts.reshape(len(index), n_prompts)), 0, -1)

    value = of_resamples(np.arange(n_prompts))
    # In units of its own size: scipy takes squares and cubes.
    unit = np.ldexp(1.0, np.frexp(np.nan_to_num(value))[1])

    def in_units(index, axis=-1):
        return of_resamples(index) / (unit if index.ndim == 1 else unit[..., None])

    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", DegenerateDataWarning)
        result = bootstrap(
            (np.arange(n_prompts),),
            in_units,
            n_resamples=n_resamples,
            batch=max(LEAST_AT_ONCE, COUNTS_AT_ONCE // n_prompts),
            vectorized=True,
            method="BCa" if n_prompts <= MOST_FOR_BCA else "percentile",
            confidence_level=confidence_level,
            random_state=check_random_state(random_state),
        )
    low, high = result.confidence_interval
    # Where all resamples agree there is nothing to correct, and scipy gives NaN.
    tails = [(1 - confidence_level) / 2, (1 + confidence_level) / 2]
    percentiles = np.quantile(result.bootstrap_distribution, tails, axis=-1)
    low = unit * np.where(np.isnan(low), percentiles[0], low)
    high = unit * np.where(np.isnan(high), percentiles[1], high)
    error = unit * result.standard_error
    if np.ndim(value) == 0:
        value, low, high, error = map(float, (value, low, high, error))
    return Estimate(value, low, high, error, confidence_level)
