"""Stopping rules: whether the candidates that were drawn so far are enough.

A rule has one method, ``accept(values, uniforms)``. Public as `skqprobe.generators`.
"""

from numbers import Real

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skqprobe._arrays.magnitude import check_magnitude
from skqprobe._candidates.choice import choice_mass
from skqprobe._candidates.segments import (
    repeat_per_prompt,
    segment_max,
    segment_sum,
)
from skqprobe._candidates.validation import check_scored, no_groups
from skqprobe._utils.estimator import BaseEstimator
from skqprobe._utils.sklearn_compat import FloatInterval, _fit_context

N_BINS, N_LEVELS = 24, 101
"""Numbers of bins of a value in the likelihood, and of best values in the table."""

SMOOTHING = 8
"""Number of candidates, like those of all prompts, that are added to each prompt."""

CONCENTRATION = 2
"""Number of candidates drawn at which the next one repeats one of them with
probability 1/2."""


class ExpectedGain(BaseEstimator):
    """Stop when the expected gain of another candidate is below its cost.

    The gain is the amount by which the value of the next candidate exceeds the best
    value so far. Its expectation is that of a candidate of the training prompts,
    weighted by the likelihoods of the values so far, times ``2 / (2 + n_drawn)``: each
    training prompt is the base of a Dirichlet process with concentration 2, since the
    candidates of a prompt resemble each other more than those of any training prompt.
    For a known distribution and any number of candidates, to stop when the gain is
    below the cost is optimal [1]_.

    Read more in :doc:`the user guide </guide/cost>`.

    Parameters
    ----------
    cost : float
        Cost of a candidate, in [0, inf), in units of the values: predicted rewards.

    Attributes
    ----------
    bins_ : ndarray of shape (n_bins - 1,)
        Limits between the bins of a value.
    log_likelihood_ : ndarray of shape (n_prompts, n_bins)
        Logarithm of the probability of each bin for each training prompt.
    levels_ : ndarray of shape (n_levels,)
        Best values of the table of gains.
    gain_ : ndarray of shape (n_prompts, n_levels)
        Expected gain of a candidate of each training prompt over each level.

    See Also
    --------
    skqprobe.metrics.reward_at_cost : Rewards and numbers of candidates of a rule.

    References
    ----------
    .. [1] Weitzman, "Optimal search for the best alternative", Econometrica 47, 1979,
       pages 641-654.

    Examples
    --------
    >>> import numpy as np
    >>> from skqprobe.generators import ExpectedGain
    >>> values = np.random.default_rng(0).random((100, 8))  # of training prompts
    >>> rule = ExpectedGain(cost=0.05).fit(values)
    >>> rule.accept(np.array([[0.9, 0.2], [0.1, 0.2]])).all(axis=1)
    array([ True, False])
    """

    _parameter_constraints: dict = {
        "cost": [FloatInterval(Real, 0, None, closed="left")]
    }

    def __init__(self, cost):
        self.cost = cost

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, values, groups=None):
        """Learn the distributions of the values of training prompts.

        Parameters
        ----------
        values : array-like of shape (n_prompts, k) or (n_rows,)
            Predicted rewards of candidates whose prompts the probe was not fitted to,
            such as ``CalibratedPolicyCV.held_out_rewards_``. NaN are left out.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets.

        Returns
        -------
        self : object
            Fitted rule.
        """
        values, layout = _check_training_values(values, groups)
        self.bins_ = np.unique(np.quantile(values, np.arange(1, N_BINS) / N_BINS))
        n_bins, sizes = len(self.bins_) + 1, layout.sizes[:, None]
        prompt = np.repeat(np.arange(layout.n_prompts), layout.sizes)
        at = prompt * n_bins + np.searchsorted(self.bins_, values, side="right")
        counts = np.bincount(at, minlength=layout.n_prompts * n_bins)
        counts = counts.reshape(-1, n_bins)
        share = (counts.sum(axis=0) + 1 / n_bins) / (len(values) + 1)
        smooth = (counts + SMOOTHING * share) / (sizes + SMOOTHING)
        self.log_likelihood_ = np.log(smooth)
        self.levels_ = np.unique(np.quantile(values, np.linspace(0, 1, N_LEVELS)))
        total = np.stack(
            [
                segment_sum(np.maximum(values - level, 0), layout.offsets)
                for level in self.levels_
            ],
            axis=1,
        )
        share = total.sum(axis=0) / len(values)
        self.gain_ = (total + SMOOTHING * share) / (sizes + SMOOTHING)
        return self

    def expected_gain(self, values):
        """Compute the expected gain of another candidate.

        Parameters
        ----------
        values : ndarray of shape (n_prompts, n_drawn)
            Predicted rewards of the candidates drawn so far.

        Returns
        -------
        gain : ndarray of shape (n_prompts,)
            Expected amount by which the next value exceeds the best one.
        """
        check_is_fitted(self)
        n_prompts, n_drawn = values.shape
        every, n_bins = np.arange(n_prompts), len(self.bins_) + 1
        at = every[:, None] * n_bins + np.searchsorted(self.bins_, values, side="right")
        counts = np.bincount(at.ravel(), minlength=n_prompts * n_bins)
        log_weight = counts.reshape(-1, n_bins) @ self.log_likelihood_.T
        weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
        table = weight @ self.gain_ / weight.sum(axis=1, keepdims=True)
        best = values.max(axis=1)
        place = np.interp(best, self.levels_, np.arange(len(self.levels_)))
        left, share = place.astype(int), place % 1
        right = np.minimum(left + 1, len(self.levels_) - 1)
        gain = (1 - share) * table[every, left] + share * table[every, right]
        gain += np.maximum(self.levels_[0] - best, 0)  # below all training values
        return gain * CONCENTRATION / (CONCENTRATION + n_drawn)

    def accept(self, values, uniforms=None):
        """Decide which prompts have enough candidates.

        Parameters
        ----------
        values : ndarray of shape (n_prompts, n_drawn)
            Predicted rewards of the candidates drawn so far.
        uniforms : ndarray of shape (n_prompts, n_drawn), default=None
            One random number in [0, 1) per candidate; not used.

        Returns
        -------
        accepted : ndarray of bool, of shape (n_prompts, n_drawn)
            Candidates among which to choose: all or none of a prompt.
        """
        self._validate_params()
        is_enough = self.expected_gain(values) <= self.cost
        return np.repeat(is_enough[:, None], values.shape[1], axis=1)


class Threshold(BaseEstimator):
    """Stop at the first candidate that is predicted to be good enough.

    Parameters
    ----------
    value : float
        Lowest value of a candidate that is good enough.

    See Also
    --------
    ExpectedGain : Rule that weighs the gain of another candidate against its cost.

    Examples
    --------
    >>> import numpy as np
    >>> from skqprobe.generators import Threshold
    >>> Threshold(0.5).accept(np.array([[0.9, 0.2], [0.1, 0.2]]))
    array([[ True, False],
           [False, False]])
    """

    _parameter_constraints: dict = {
        "value": [FloatInterval(Real, None, None, closed="both")]  # not NaN
    }

    def __init__(self, value):
        self.value = value

    def accept(self, values, uniforms=None):
        """Decide which candidates are good enough.

        Parameters
        ----------
        values : ndarray of shape (n_prompts, n_drawn)
            Predicted rewards of the candidates drawn so far.
        uniforms : ndarray of shape (n_prompts, n_drawn), default=None
            One random number in [0, 1) per candidate; not used.

        Returns
        -------
        accepted : ndarray of bool, of shape (n_prompts, n_drawn)
            Candidates among which to choose; if a prompt has none, it needs more.
        """
        self._validate_params()
        return values >= self.value


class RejectionSampling(BaseEstimator):
    """Draw from the tilted policy: accept candidates at random, by their values.

    A candidate of value Q is accepted with probability
    ``min(1, exp((Q - bound) / temperature))``, and the first accepted one is chosen. If
    no value exceeds the bound, it is distributed as the language model, tilted by
    ``exp(Q / temperature)`` [1]_: exactly, where a softmax over k candidates is an
    approximation. If values exceed it, the total variation distance from the tilted
    policy is at most `excess_mass_`.

    Parameters
    ----------
    temperature : float
        Temperature of the tilted policy, in (0, inf), in units of the values.
    bound : float, default=None
        Bound of the values. None takes the `quantile` of those in `fit`. A lower bound
        needs fewer candidates and has a larger `excess_mass_`.
    quantile : float, default=0.99
        Share of the training values that are below the bound, in [0, 1].

    Attributes
    ----------
    bound_ : float
        Bound of the values.
    excess_mass_ : float
        Share of the tilted policy that the bound cuts off: the mean over training
        prompts of ``sum(max(w - w_bound, 0)) / sum(w)`` with ``w = exp(Q /
        temperature)``.

    See Also
    --------
    skqprobe.sample_candidates : Draw from a softmax over k candidates.

    References
    ----------
    .. [1] Li, Jelassi, Zhang, Kakade, Wattenberg, Brandfonbrener, "Q-Probe: A
       Lightweight Approach to Reward Maximization for Language Models", ICML 2024,
       arXiv 2402.14688, section 4.2.

    Examples
    --------
    >>> import numpy as np
    >>> from skqprobe.generators import RejectionSampling
    >>> values = np.random.default_rng(0).random((100, 8))  # of training prompts
    >>> rule = RejectionSampling(temperature=0.5).fit(values)
    >>> print(f"{rule.bound_:.2f} {rule.excess_mass_:.4f}")
    0.99 0.0002
    >>> rule.accept(np.array([[0.1, 0.9]]), np.array([[0.5, 0.5]]))
    array([[False,  True]])
    """

    _parameter_constraints: dict = {
        "temperature": [FloatInterval(Real, 0, None, closed="neither")],
        "bound": [FloatInterval(Real, None, None, closed="neither"), None],
        "quantile": [FloatInterval(Real, 0, 1, closed="both")],
    }

    def __init__(self, temperature, bound=None, quantile=0.99):
        self.temperature = temperature
        self.bound = bound
        self.quantile = quantile

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, values, groups=None):
        """Find the bound, and how much of the tilted policy it cuts off.

        Parameters
        ----------
        values : array-like of shape (n_prompts, k) or (n_rows,)
            Predicted rewards of candidates whose prompts the probe was not fitted to,
            such as ``CalibratedPolicyCV.held_out_rewards_``. NaN are left out.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets.

        Returns
        -------
        self : object
            Fitted rule.
        """
        values, layout = _check_training_values(values, groups)
        bound = np.quantile(values, self.quantile) if self.bound is None else self.bound
        offsets = layout.offsets
        best = repeat_per_prompt(segment_max(values, offsets), offsets)
        mass = choice_mass(values, best, self.temperature)
        within = choice_mass(np.minimum(values, bound), best, self.temperature)
        excess = 1 - segment_sum(within, offsets) / segment_sum(mass, offsets)
        self.bound_, self.excess_mass_ = float(bound), float(excess.mean())
        return self

    def accept(self, values, uniforms):
        """Accept the first candidate whose random number is low enough.

        Parameters
        ----------
        values : ndarray of shape (n_prompts, n_drawn)
            Predicted rewards of the candidates drawn so far.
        uniforms : ndarray of shape (n_prompts, n_drawn)
            One random number in [0, 1) per candidate.

        Returns
        -------
        accepted : ndarray of bool, of shape (n_prompts, n_drawn)
            The first accepted candidate of a prompt, or none if it needs more.
        """
        self._validate_params()
        if self.bound is None:
            check_is_fitted(self)
        bound = self.bound_ if self.bound is None else self.bound
        low = np.minimum(values, bound)
        accepted = uniforms < choice_mass(low, np.float64(bound), self.temperature)
        return accepted & (accepted.cumsum(axis=1) == 1)


def _check_training_values(values, groups):
    """Validate the values of training prompts; return those known in prompt order."""
    values, layout = check_scored(values, groups, "values", allow_nan=True)
    if not layout.grouped:
        raise ValueError(no_groups("values"))
    known = ~np.isnan(values)
    if not known.any():
        raise ValueError("values are all NaN; pass those of at least one prompt.")
    values, layout = values[known], layout.keep(known)
    check_magnitude(values, "values")
    return values, layout


def accepted_candidates(stopping, values, uniforms):
    """Call a rule, and check that it returns one bool per candidate."""
    if not hasattr(stopping, "accept") or isinstance(stopping, type):
        raise ValueError(
            "stopping must be a rule, with the method accept(values, uniforms); got "
            f"{stopping!r}."
        )
    accepted = np.asarray(stopping.accept(values, uniforms))
    if accepted.shape != values.shape or accepted.dtype != bool:
        raise ValueError(
            f"accept of {type(stopping).__name__} must return an array of bool, of the "
            f"shape of values, {values.shape}; got {accepted.dtype}, "
            f"{accepted.shape}."
        )
    return accepted
