"""Confidence intervals by a bootstrap over prompts."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import ndtr, ndtri
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.utils import check_random_state, gen_batches

from skqprobe._candidates.validation import check_scored
from skqprobe._utils.warn import warn_user
from skqprobe.metrics._per_prompt import PromptTerms, divide, mean_terms, weighted_mean

DRAWS_AT_ONCE = 2**17
"""Number of prompts drawn at one time."""

FEW_PROMPTS = 10
"""Number of informative prompts below which an interval is unreliable."""


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
    bias-corrected and accelerated one, as of `scipy.stats.bootstrap`, from the
    resamples in which the metric is defined.

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
        For `objective_rewards`, `y` has one more axis.
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
        shape (n_k,) for a list of k, or (n_objectives,).

    Raises
    ------
    ValueError
        If there are fewer than two prompts, or a setting is out of its range.

    Warns
    -----
    UndefinedMetricWarning
        If the metric is undefined on all prompts; if fewer than 10 of more prompts
        inform it, in which case the interval is unreliable, and NaN if it is one; or,
        without `versus`, if all prompts have the same value, so that the interval has
        no width.

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
    while isinstance(metric, partial):
        arrays, options = (*metric.args, *arrays), {**metric.keywords, **options}
        metric = metric.func
    if not arrays:
        raise ValueError("Give the arrays that the metric takes, such as y and scores.")
    if getattr(metric, "takes_objectives", False):
        layout = check_scored(arrays[-1], groups, "the last array")[1]
    else:
        layout = check_scored(arrays[0], groups, "the first array")[1]
    terms = [_metric_terms(metric, arrays, groups, layout, options)]
    if versus is not None:
        arrays = (*arrays[:-1], versus)
        terms.append(_metric_terms(metric, arrays, groups, layout, options))
    estimate = bootstrap_terms(
        *terms,
        names=[_name(metric)],
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
    terms,
    versus=None,
    *,
    names=("the reward",),
    n_resamples,
    confidence_level,
    random_state,
):
    """Bootstrap a metric, or the difference of two, from their terms per prompt.

    Parameters
    ----------
    terms : PromptTerms
        Terms of the metric.
    versus : PromptTerms, default=None
        Terms of a metric to subtract.
    names : list of (str or None), default=("the reward",)
        Name of the metric, or of each column, in warnings. None for no warning.
    n_resamples, confidence_level, random_state
        See `prompt_bootstrap`.

    Returns
    -------
    estimate : Estimate
    """
    n_prompts = len(terms.numerator)
    if n_prompts < 2:
        raise ValueError("An interval over prompts needs at least two prompts.")
    if not 0 < confidence_level < 1:
        raise ValueError(f"confidence_level must be in (0, 1); got {confidence_level}.")
    if n_resamples < 2:
        raise ValueError(f"n_resamples must be 2 or more; got {n_resamples!r}.")
    scalar = terms.numerator.ndim == 1
    parts = [*terms, *([] if versus is None else versus)]
    parts = [part.reshape(n_prompts, -1) for part in parts]
    value = np.atleast_1d(weighted_mean(terms))
    if versus is not None:
        value = value - weighted_mean(versus)
    # In units of its own magnitude, since squares and cubes are computed.
    unit = np.ldexp(1.0, np.frexp(np.nan_to_num(value))[1])
    rng = check_random_state(random_state)
    resampled = _resample(parts, n_resamples, rng) / unit
    informs = np.logical_or.reduce([denominator != 0 for denominator in parts[1::2]])
    n_informative = np.count_nonzero(informs, axis=0)
    low, high, error = np.full((3, len(value)), np.nan)
    is_defined = ~np.isnan(resampled)
    agree = np.zeros(len(value), dtype=bool)
    for column in np.flatnonzero((n_informative > 1) & (is_defined.sum(axis=0) > 1)):
        defined = resampled[is_defined[:, column], column]
        agree[column] = np.ptp(defined) < 1e-12  # in units of the value
        sums = [part[:, column].sum() - part[:, column] for part in parts]
        without_one = _difference_of_ratios(sums) / unit[column]
        found = value[column] / unit[column]
        tails = _bca_tails(defined, found, without_one, confidence_level)
        low[column], high[column] = unit[column] * np.quantile(defined, tails)
        error[column] = unit[column] * defined.std(ddof=1)
    if versus is not None:
        agree[:] = False  # so do those of a policy and itself, and of all at k=1
    _warn_if_unreliable(n_prompts, n_informative, agree, names)
    if scalar:
        value, low, high, error = (x.item() for x in (value, low, high, error))
    return Estimate(value, low, high, error, confidence_level)


def _difference_of_ratios(sums):
    """Compute a ratio of 2 sums of terms, or a difference of ratios of 4."""
    ratio = divide(sums[0], sums[1])
    return ratio if len(sums) == 2 else ratio - divide(sums[2], sums[3])


def _resample(parts, n_resamples, rng):
    """Compute a metric in resamples of prompts, of shape (n_resamples, n_columns)."""
    n_prompts, n_columns = parts[0].shape
    sums = np.empty((len(parts), n_resamples, n_columns))
    step = max(1, DRAWS_AT_ONCE // n_prompts)
    for block in gen_batches(n_resamples, step):
        some = sums[:, block]
        shape = some.shape[1], n_prompts
        index = rng.randint(0, n_prompts, shape, dtype=np.int32)
        index += n_prompts * np.arange(len(index), dtype=np.int32)[:, None]
        counts = np.bincount(index.ravel(), minlength=index.size)
        counts = counts.reshape(shape).astype(np.float64)
        for sums_of_part, part in zip(some, parts, strict=True):
            sums_of_part[:] = counts @ part
    return _difference_of_ratios(sums)


def _bca_tails(resampled, value, without_one, confidence_level):
    """Find the quantiles of the bias-corrected and accelerated interval."""
    tails = np.array([1 - confidence_level, 1 + confidence_level]) / 2
    below = ((resampled < value).mean() + (resampled <= value).mean()) / 2
    shift = without_one.mean() - without_one
    with np.errstate(invalid="ignore", divide="ignore"):
        bias, normal = ndtri(below), ndtri(tails)
        acceleration = (shift**3).sum() / (6 * (shift**2).sum() ** 1.5)
        corrected = ndtr(bias + (bias + normal) / (1 - acceleration * (bias + normal)))
    # They are not defined if all resamples agree, or are on one side of the value.
    return corrected if np.isfinite(corrected).all() else tails


def _warn_if_unreliable(n_prompts, n_informative, agree, names):
    """Warn of the column that the fewest prompts inform, or whose prompts agree."""
    names = np.resize(np.array(names, dtype=object), len(agree))
    named = np.array([name is not None for name in names])
    few = named & (n_informative > 0) & (n_informative < min(FEW_PROMPTS, n_prompts))
    if few.any():
        column = np.where(few, n_informative, n_prompts).argmin()
        problem = (
            f"is unreliable: only {n_informative[column]} of {n_prompts} prompts "
            "inform it"
        )
    elif (agree & named).any():
        column = (agree & named).argmax()
        n = n_informative[column]
        problem = (
            f"has no width: all {n} prompts have the same value, but up to "
            f"{min(1, 3 / n):.0%} of all prompts may have another one"
        )
    else:
        return
    warn_user(
        f"The interval of {names[column]} {problem}. Use more prompts.",
        UndefinedMetricWarning,
    )
