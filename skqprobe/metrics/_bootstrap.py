"""Confidence intervals by a bootstrap over prompts."""

import warnings
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.stats import DegenerateDataWarning, bootstrap
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.utils import check_random_state

from skqprobe._candidates.validation import check_scored
from skqprobe._utils.warn import warn_user
from skqprobe.metrics._per_prompt import PromptTerms, mean_terms, weighted_mean

COUNTS_AT_ONCE = 2**22
"""Number of prompt weights made at one time."""

MIN_AT_ONCE = 8
"""Minimum number of resamples made at one time: a reduction reads all terms."""

MAX_PROMPTS_FOR_BCA = 10_000
"""Maximum number of prompts for an accelerated interval. Its cost is quadratic in the
number of prompts, and its correction vanishes as that grows."""


@dataclass(frozen=True)
class Estimate:
    """A metric and its bootstrap interval.

    Parameters
    ----------
    value : float or ndarray
        Value of the metric on the prompts.
    low, high : float or ndarray
        Ends of the confidence interval.
    standard_error : float or ndarray
        Standard deviation of the metric over resamples.
    confidence_level : float
        Level of the interval, in (0, 1).
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
    """Compute a metric, or its difference for two policies, with a bootstrap interval.

    Prompts are resampled, with all their candidates. What is resampled are the terms of
    the metric per prompt, so that the metric itself is called once. The interval is the
    bias-corrected and accelerated one of `scipy.stats.bootstrap`. For more than
    10,000 prompts it is the percentile interval, which is much faster and hardly
    differs.

    Parameters
    ----------
    metric : callable
        Metric of :mod:`skqprobe.metrics`, or any function that is called as
        ``metric(*arrays, groups=groups, average=None, **options)`` and returns one
        value per prompt, of shape (n_prompts,) or (n_prompts, n_k); the estimate is
        their mean. NaN leaves a prompt out. For a ratio of means, it has an attribute
        `terms`, a function of the same arguments without `average`, which returns
        numerator and denominator per prompt, both 0 for a prompt that is left out.
    *arrays : array-like of shape (n_prompts, k) or (n_rows,)
        Arrays that the metric takes: `y` and `scores`, or `y` and `proba`, or `proba`.
    versus : array-like of shape (n_prompts, k) or (n_rows,), default=None
        Scores (or probabilities) of another policy. The estimate is then the metric
        with the last of `arrays`, minus the metric with `versus` in its place, on the
        same prompts in every resample.
    groups : array-like of shape (n_rows,), default=None
        Prompt labels of the rows: hashable values in any order. Not needed for sets.
    n_resamples : int, default=9999
        Number of resamples of the prompts.
    confidence_level : float, default=0.95
        Level of the interval, in (0, 1).
    random_state : int, RandomState instance or None, default=None
        Seed or generator of the resamples.
    **options : dict
        Other arguments of the metric, such as ``k=10``.

    Returns
    -------
    estimate : Estimate
        Attributes `value`, `low`, `high` and `standard_error` are floats, or arrays of
        shape (n_k,) for a list of k.

    Raises
    ------
    ValueError
        If there are fewer than two prompts.

    Warns
    -----
    UndefinedMetricWarning
        If the metric is undefined on all prompts, or in some of the resamples. The
        interval then consists of quantiles of the resamples in which it is defined.

    Notes
    -----
    The interval measures the variation over prompts, for given scores. The prompts must
    not have been used to train or choose the policy.

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
    terms = [_metric_terms(metric, arrays, groups, layout, options)]
    if versus is not None:
        arrays = (*arrays[:-1], versus)
        terms.append(_metric_terms(metric, arrays, groups, layout, options))
    estimate = bootstrap_terms(
        *terms,
        n_resamples=n_resamples,
        confidence_level=confidence_level,
        random_state=random_state,
    )
    if np.isnan(estimate.value).any():
        warn_user(
            f"{_name(metric)} is undefined and set to NaN, since no prompt informs it.",
            UndefinedMetricWarning,
        )
    return estimate


def _metric_terms(metric, arrays, groups, layout, options):
    """Call a metric for its terms per prompt."""
    while isinstance(metric, partial):
        arrays, options = (*metric.args, *arrays), {**metric.keywords, **options}
        metric = metric.func
    if hasattr(metric, "terms"):
        terms = PromptTerms(*metric.terms(*arrays, groups=groups, **options))
    else:
        values = metric(*arrays, groups=groups, average=None, **options)
        terms = mean_terms(np.asarray(values, dtype=np.float64))
    shape = np.shape(terms.numerator)
    if shape[:1] != (layout.n_prompts,) or len(shape) > 2:
        raise ValueError(
            f"With average=None, metric must return one value for each of "
            f"{layout.n_prompts} prompts; {_name(metric)} returned shape {shape}."
        )
    return terms


def _name(metric):
    return getattr(metric, "__name__", repr(metric))


def bootstrap_terms(
    terms, versus=None, *, n_resamples=9999, confidence_level=0.95, random_state=None
):
    """Bootstrap a metric, or the difference of two, from their terms per prompt.

    Parameters
    ----------
    terms : PromptTerms
        Terms of the metric.
    versus : PromptTerms, default=None
        Terms of a metric to subtract.
    n_resamples, confidence_level, random_state
        See `prompt_bootstrap`.

    Returns
    -------
    estimate : Estimate
    """
    n_prompts = len(terms.numerator)
    if n_prompts < 2:
        raise ValueError("An interval over prompts needs at least two prompts.")

    def weighted(weight):
        value = weighted_mean(terms, weight)
        return value if versus is None else value - weighted_mean(versus, weight)

    value = weighted(np.ones(n_prompts))
    # In units of its own magnitude: scipy computes squares and cubes.
    unit = np.ldexp(1.0, np.frexp(np.nan_to_num(value))[1])

    def statistic(index, axis=-1):
        # scipy passes indices of prompts on the last axis, resamples on the first.
        if index.ndim == 1:
            return value / unit
        shifted = index + n_prompts * np.arange(len(index))[:, None]
        counts = np.bincount(shifted.ravel(), minlength=n_prompts * len(index))
        values = weighted(counts.reshape(len(index), n_prompts))
        return np.moveaxis(values / unit, 0, -1)

    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", DegenerateDataWarning)
        result = bootstrap(
            (np.arange(n_prompts),),
            statistic,
            n_resamples=n_resamples,
            batch=max(MIN_AT_ONCE, COUNTS_AT_ONCE // n_prompts),
            vectorized=True,
            method="BCa" if n_prompts <= MAX_PROMPTS_FOR_BCA else "percentile",
            confidence_level=confidence_level,
            random_state=check_random_state(random_state),
        )
    resampled = result.bootstrap_distribution
    _warn_if_undefined(value, resampled, terms)
    low, high = result.confidence_interval
    # scipy returns NaN if all resamples agree, or if some are undefined.
    tails = [(1 - confidence_level) / 2, (1 + confidence_level) / 2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all of them undefined
        percentiles = np.nanquantile(resampled, tails, axis=-1)
        error = unit * np.nanstd(resampled, axis=-1, ddof=1)
    low = unit * np.where(np.isnan(low), percentiles[0], low)
    high = unit * np.where(np.isnan(high), percentiles[1], high)
    if np.ndim(value) == 0:
        value, low, high, error = map(float, (value, low, high, error))
    return Estimate(value, low, high, error, confidence_level)


def _warn_if_undefined(value, resampled, terms):
    """Warn if a metric that is defined on all prompts is undefined in resamples."""
    share = np.where(np.isnan(value), 0, np.isnan(resampled).mean(axis=-1))
    if share.any():
        column = share.argmax()
        n_informative = np.count_nonzero(terms.denominator, axis=0).flat[column]
        warn_user(
            f"A metric rests on {n_informative} of {len(terms.denominator)} prompts, "
            f"and is undefined in {share.flat[column]:.2%} of the resamples. Its "
            "interval consists of quantiles of the others. Use more prompts.",
            UndefinedMetricWarning,
        )
