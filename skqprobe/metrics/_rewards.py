"""Rewards of choices, per prompt or averaged over prompts."""

import numpy as np
from sklearn.exceptions import UndefinedMetricWarning

from skqprobe._arrays.magnitude import SMALLEST, check_magnitude
from skqprobe._candidates.choice import choice_reward, expected_rewards
from skqprobe._candidates.segments import segment_mean
from skqprobe._candidates.validation import check_sums_to_one
from skqprobe._utils.warn import warn_user
from skqprobe.metrics._best_of_k import (
    average_ties,
    base_of_k,
    best_of_k,
    order_by_score,
)
from skqprobe.metrics._per_prompt import (
    check_ks,
    check_prompt_weight,
    check_rewards,
    check_scores,
    divide,
    first_column,
    gain_terms,
    mean_terms,
    reduce_terms,
)
from skqprobe.metrics._soft_best_of_k import soft_best_of_k


def base_reward(y, groups=None, *, average="mean", prompt_weight=None):
    """Compute the reward of the base model: that of a random candidate.

    Parameters
    ----------
    y : array-like of shape (n_prompts, k) or (n_rows,)
        Rewards.
    groups : array-like of shape (n_rows,), default=None
        Prompt labels of the rows: hashable values in any order. Not needed for sets.
    average : {"mean"} or None, default="mean"
        If None, return one value per prompt, in order of first appearance. Otherwise
        return their mean.
    prompt_weight : array-like of shape (n_prompts,), default=None
        Non-negative weights of the prompts, in order of first appearance.

    Returns
    -------
    reward : float, or ndarray of shape (n_prompts,)
        Mean reward of the candidates of a prompt.

    Examples
    --------
    >>> from skqprobe.metrics import base_reward
    >>> base_reward([[1, 0, 0, 0], [1, 1, 0, 0]])
    0.375
    >>> base_reward([[1, 0, 0, 0], [1, 1, 0, 0]], average=None)
    array([0.25, 0.5 ])
    """
    rewards, layout = check_rewards(y, groups)
    values = segment_mean(rewards, layout.offsets)
    return reduce_terms(mean_terms(values), average, prompt_weight)


def expected_reward(y, proba, groups=None, *, average="mean", prompt_weight=None):
    """Compute the expected reward of a policy from its choice probabilities.

    Parameters
    ----------
    y : array-like of shape (n_prompts, k) or (n_rows,)
        Rewards.
    proba : array-like of shape (n_prompts, k) or (n_rows,)
        Choice probabilities, as returned by `predict_proba`.
    groups : array-like of shape (n_rows,), default=None
        Prompt labels of the rows: hashable values in any order. Not needed for sets.
    average : {"mean"} or None, default="mean"
        If None, return one value per prompt, in order of first appearance. Otherwise
        return their mean.
    prompt_weight : array-like of shape (n_prompts,), default=None
        Non-negative weights of the prompts, in order of first appearance.

    Returns
    -------
    reward : float, or ndarray of shape (n_prompts,)
        ``sum(proba * y)`` of a prompt.

    Examples
    --------
    >>> from skqprobe.metrics import expected_reward
    >>> expected_reward([[1, 0], [0, 1]], [[0.75, 0.25], [0.5, 0.5]])
    0.625
    """
    rewards, layout = check_rewards(y, groups)
    proba = check_scores(proba, layout, "proba")
    check_sums_to_one(proba, layout)
    values = expected_rewards(proba, rewards, layout)
    return reduce_terms(mean_terms(values), average, prompt_weight)


def softmax_reward(
    y, scores, temperature, groups=None, *, average="mean", prompt_weight=None
):
    """Compute the expected reward of a choice by softmax among all candidates.

    Parameters
    ----------
    y : array-like of shape (n_prompts, k) or (n_rows,)
        Rewards.
    scores : array-like of shape (n_prompts, k) or (n_rows,)
        Scores of the candidates, such as the values of a probe.
    temperature : float
        Temperature of the choice, in [0, inf], in units of the scores. At 0 the best
        candidate is chosen, and candidates of equal score share the probability.
    groups : array-like of shape (n_rows,), default=None
        Prompt labels of the rows: hashable values in any order. Not needed for sets.
    average : {"mean"} or None, default="mean"
        If None, return one value per prompt, in order of first appearance. Otherwise
        return their mean.
    prompt_weight : array-like of shape (n_prompts,), default=None
        Non-negative weights of the prompts, in order of first appearance.

    Returns
    -------
    reward : float, or ndarray of shape (n_prompts,)
        ``sum(softmax(scores / temperature) * y)`` of a prompt.

    See Also
    --------
    soft_best_of_k_reward : The same among k of the candidates.

    Examples
    --------
    >>> from skqprobe.metrics import softmax_reward
    >>> y, scores = [[1, 0], [0, 1]], [[2.0, 1.0], [2.0, 1.0]]
    >>> softmax_reward(y, scores, temperature=0, average=None)
    array([1., 0.])
    """
    rewards, layout = check_rewards(y, groups)
    scores = check_scores(scores, layout)
    values = choice_reward(scores, rewards, layout, temperature)
    return reduce_terms(mean_terms(values), average, prompt_weight)


def best_of_k_reward(
    y, scores, k, groups=None, *, too_few="raise", average="mean", prompt_weight=None
):
    """Compute the expected reward of the best of k candidates by score, exactly.

    The expectation is over which k of the m scored candidates of a prompt are drawn.
    The candidate of rank i, counted from the lowest score, is the best of
    ``C(i - 1, k - 1) / C(m, k)`` of all sets. Candidates of equal score are equally
    likely to be chosen.

    Parameters
    ----------
    y : array-like of shape (n_prompts, m) or (n_rows,)
        Rewards.
    scores : array-like of shape (n_prompts, m) or (n_rows,)
        Scores of the candidates, such as the values of a probe. Only their order inside
        a prompt matters.
    k : int or array-like of int, of shape (n_k,)
        Number of candidates from which the best is chosen, 1 or more.
    groups : array-like of shape (n_rows,), default=None
        Prompt labels of the rows: hashable values in any order. Not needed for sets.
    too_few : {"raise", "skip"}, default="raise"
        Whether to raise an error if a prompt has fewer than k candidates, or to leave
        out such prompts for that k.
    average : {"mean"} or None, default="mean"
        If None, return one value per prompt, in order of first appearance. Otherwise
        return their mean.
    prompt_weight : array-like of shape (n_prompts,), default=None
        Non-negative weights of the prompts, in order of first appearance.

    Returns
    -------
    reward : float, or ndarray of shape (n_k,), (n_prompts,) or (n_prompts, n_k)
        NaN for a prompt that is left out.

    Raises
    ------
    ValueError
        If k is larger than a prompt and `too_few="raise"`, or larger than all prompts.

    See Also
    --------
    soft_best_of_k_reward : Choice at a temperature above 0.
    oracle_reward : Choice by the rewards themselves.

    Examples
    --------
    >>> from skqprobe.metrics import best_of_k_reward
    >>> y = [[1, 0, 0, 0], [0, 0, 1, 1]]
    >>> scores = [[0.9, 0.1, 0.5, 0.3], [0.2, 0.4, 0.6, 0.3]]
    >>> best_of_k_reward(y, scores, k=[1, 2, 4])
    array([0.375     , 0.58333333, 1.        ])
    >>> best_of_k_reward(y, scores, k=2, average=None)
    array([0.5       , 0.66666667])
    """
    rewards, scores, layout, ks, scalar = _check(y, scores, k, groups, too_few)
    terms = mean_terms(best_of_k(rewards, scores, ks, layout))
    return reduce_terms(first_column(terms, scalar), average, prompt_weight)


def oracle_reward(
    y, k, groups=None, *, too_few="raise", average="mean", prompt_weight=None
):
    """Compute the expected reward of the best of k candidates by reward, exactly.

    It is the upper bound of every choice among k candidates. For rewards 0 and 1 it is
    pass@k, by the usual unbiased estimator [1]_.

    Parameters
    ----------
    y : array-like of shape (n_prompts, m) or (n_rows,)
        Rewards.
    k : int or array-like of int, of shape (n_k,)
        Number of candidates from which the best is chosen, 1 or more.
    groups : array-like of shape (n_rows,), default=None
        Prompt labels of the rows: hashable values in any order. Not needed for sets.
    too_few : {"raise", "skip"}, default="raise"
        Whether to raise an error if a prompt has fewer than k candidates, or to leave
        out such prompts for that k.
    average : {"mean"} or None, default="mean"
        If None, return one value per prompt, in order of first appearance. Otherwise
        return their mean.
    prompt_weight : array-like of shape (n_prompts,), default=None
        Non-negative weights of the prompts, in order of first appearance.

    Returns
    -------
    reward : float, or ndarray of shape (n_k,), (n_prompts,) or (n_prompts, n_k)
        NaN for a prompt that is left out.

    References
    ----------
    .. [1] Chen et al., "Evaluating Large Language Models Trained on Code", 2021, arXiv
       2107.03374, equation 1.

    Examples
    --------
    >>> from skqprobe.metrics import oracle_reward
    >>> print(f"{oracle_reward([[1, 0, 0, 0], [0, 0, 1, 1]], k=2):.4f}")
    0.6667
    """
    return best_of_k_reward(
        y,
        y,
        k,
        groups,
        too_few=too_few,
        average=average,
        prompt_weight=prompt_weight,
    )


def soft_best_of_k_reward(
    y,
    scores,
    k,
    temperature,
    groups=None,
    *,
    n_draws=200,
    random_state=None,
    return_error=False,
    too_few="raise",
    average="mean",
    prompt_weight=None,
):
    """Compute the expected reward of a choice by softmax among k candidates.

    The expectation is over which k of the m scored candidates of a prompt are drawn,
    and over the choice with probability ``softmax(scores / temperature)`` among the k.
    It is exact if k is 1, if the temperature is 0, or if there are at most `n_draws`
    sets of k candidates, as for k = m. Otherwise it is the mean over `n_draws` random
    sets per prompt.

    Parameters
    ----------
    y : array-like of shape (n_prompts, m) or (n_rows,)
        Rewards.
    scores : array-like of shape (n_prompts, m) or (n_rows,)
        Scores of the candidates, such as the values of a probe.
    k : int or array-like of int, of shape (n_k,)
        Number of candidates among which one is chosen, 1 or more.
    temperature : float
        Temperature of the choice, in [0, inf], in units of the scores. At 0 the best
        candidate is chosen, and candidates of equal score share the probability.
    groups : array-like of shape (n_rows,), default=None
        Prompt labels of the rows: hashable values in any order. Not needed for sets.
    n_draws : int, default=200
        Number of sets of k candidates to draw per prompt, 2 or more.
    random_state : int, RandomState instance or None, default=None
        Seed or generator of the draws.
    return_error : bool, default=False
        Whether to return the standard error of the Monte Carlo mean, too. It does not
        measure the uncertainty over prompts, for which see `prompt_bootstrap`.
    too_few : {"raise", "skip"}, default="raise"
        Whether to raise an error if a prompt has fewer than k candidates, or to leave
        out such prompts for that k.
    average : {"mean"} or None, default="mean"
        If None, return one value per prompt, in order of first appearance. Otherwise
        return their mean.
    prompt_weight : array-like of shape (n_prompts,), default=None
        Non-negative weights of the prompts, in order of first appearance.

    Returns
    -------
    reward : float, or ndarray of shape (n_k,), (n_prompts,) or (n_prompts, n_k)
        NaN for a prompt that is left out.
    error : float or ndarray, of the shape of `reward`
        Standard error from the draws, 0 where the reward is exact. Only if
        `return_error` is True.

    Examples
    --------
    >>> from skqprobe.metrics import soft_best_of_k_reward
    >>> y = [[1, 0, 0, 0], [0, 0, 1, 1]]
    >>> scores = [[0.9, 0.1, 0.5, 0.3], [0.2, 0.4, 0.6, 0.3]]
    >>> print(f"{soft_best_of_k_reward(y, scores, 4, 0.1):.4f}")
    0.9258
    >>> print(f"{soft_best_of_k_reward(y, scores, 2, 0.1):.4f}")
    0.5702
    """
    rewards, scores, layout, ks, scalar = _check(y, scores, k, groups, too_few)
    soft = soft_best_of_k(
        rewards, scores, ks, temperature, layout, n_draws, random_state
    )
    terms = first_column(mean_terms(soft.reward), scalar)
    reward = reduce_terms(terms, average, prompt_weight)
    if not return_error:
        return reward
    error = soft.error[:, 0] if scalar else soft.error
    if average is None:
        return reward, error
    check_magnitude(rewards, "y", SMALLEST)
    # The error of a weighted mean is sqrt(sum w^2 e^2) / sum w.
    weight = np.ones(layout.n_prompts)
    if prompt_weight is not None:
        weight = check_prompt_weight(prompt_weight, layout.n_prompts)
    squares = weight**2 @ np.nan_to_num(error) ** 2
    error = divide(np.sqrt(squares), weight @ terms.denominator)
    return reward, float(error) if scalar else error


def recovery(
    y, scores, k, groups=None, *, too_few="raise", average="mean", prompt_weight=None
):
    """Compute the share of the possible gain that a choice among k candidates attains.

    ``(chosen - base) / (oracle - base)``, with the rewards of `best_of_k_reward`,
    `base_reward` and `oracle_reward`. It is 0 for a random choice, 1 for a perfect one,
    and negative for one that is worse than random.

    Parameters
    ----------
    y : array-like of shape (n_prompts, m) or (n_rows,)
        Rewards.
    scores : array-like of shape (n_prompts, m) or (n_rows,)
        Scores of the candidates, such as the values of a probe. Only their order inside
        a prompt matters.
    k : int or array-like of int, of shape (n_k,)
        Number of candidates from which the best is chosen, 1 or more. For 1 there is no
        possible gain.
    groups : array-like of shape (n_rows,), default=None
        Prompt labels of the rows: hashable values in any order. Not needed for sets.
    too_few : {"raise", "skip"}, default="raise"
        Whether to raise an error if a prompt has fewer than k candidates, or to leave
        out such prompts for that k.
    average : {"mean"} or None, default="mean"
        If None, return the share per prompt, in order of first appearance. Otherwise
        return the ratio of the two means over prompts, which is not the mean of the
        ratios.
    prompt_weight : array-like of shape (n_prompts,), default=None
        Non-negative weights of the prompts, in order of first appearance.

    Returns
    -------
    recovery : float, or ndarray of shape (n_k,), (n_prompts,) or (n_prompts, n_k)
        At most 1. NaN for a prompt without a possible gain.

    Warns
    -----
    UndefinedMetricWarning
        If no prompt has a possible gain, so that the ratio is NaN.

    Examples
    --------
    >>> from skqprobe.metrics import recovery
    >>> y = [[1, 0, 0, 0], [0, 0, 1, 1]]
    >>> scores = [[0.9, 0.1, 0.5, 0.3], [0.2, 0.4, 0.6, 0.3]]
    >>> print(f"{recovery(y, scores, k=2):.3f}")
    0.714
    """
    terms = recovery_terms(y, scores, k, groups, too_few=too_few)
    share = reduce_terms(terms, average, prompt_weight)
    if average is not None and np.isnan(share).any():
        warn_user(
            "recovery is undefined and set to NaN where the oracle gains nothing over "
            "the base.",
            UndefinedMetricWarning,
        )
    return share


def recovery_terms(y, scores, k, groups=None, *, too_few="raise"):
    """Compute gain and possible gain per prompt, for `recovery` and its bootstrap."""
    rewards, scores, layout, ks, scalar = _check(y, scores, k, groups, too_few)
    chosen = best_of_k(rewards, scores, ks, layout)
    oracle = best_of_k(rewards, rewards, ks, layout)
    terms = gain_terms(chosen, base_of_k(rewards, ks, layout), oracle)
    return first_column(terms, scalar)


# `prompt_bootstrap` resamples the terms of a ratio, not the ratios of the prompts.
recovery.terms = recovery_terms  # type: ignore[attr-defined]


def win_rate(
    y, scores, k, groups=None, *, too_few="raise", average="mean", prompt_weight=None
):
    """Compute how often the best of k candidates by score beats a base sample.

    The base sample is a random one of the m candidates of the prompt. Equal rewards
    count one half, so that a random choice has a win rate of 0.5.

    Parameters
    ----------
    y : array-like of shape (n_prompts, m) or (n_rows,)
        Rewards. Only their order inside a prompt matters.
    scores : array-like of shape (n_prompts, m) or (n_rows,)
        Scores of the candidates, such as the values of a probe. Only their order inside
        a prompt matters.
    k : int or array-like of int, of shape (n_k,)
        Number of candidates from which the best is chosen, 1 or more.
    groups : array-like of shape (n_rows,), default=None
        Prompt labels of the rows: hashable values in any order. Not needed for sets.
    too_few : {"raise", "skip"}, default="raise"
        Whether to raise an error if a prompt has fewer than k candidates, or to leave
        out such prompts for that k.
    average : {"mean"} or None, default="mean"
        If None, return one value per prompt, in order of first appearance. Otherwise
        return their mean.
    prompt_weight : array-like of shape (n_prompts,), default=None
        Non-negative weights of the prompts, in order of first appearance.

    Returns
    -------
    win_rate : float, or ndarray of shape (n_k,), (n_prompts,) or (n_prompts, n_k)
        In [0, 1]. NaN for a prompt that is left out.

    Examples
    --------
    >>> from skqprobe.metrics import win_rate
    >>> y = [[1, 0, 0, 0], [0, 0, 1, 1]]
    >>> scores = [[0.9, 0.1, 0.5, 0.3], [0.2, 0.4, 0.6, 0.3]]
    >>> win_rate(y, scores, k=4)
    0.8125
    """
    rewards, scores, layout, ks, scalar = _check(y, scores, k, groups, too_few)
    # A candidate beats a share of its prompt's candidates: its mean rank, less a half.
    order = order_by_score(rewards, layout)
    rank = np.arange(layout.n_rows) - np.repeat(layout.offsets[:-1], layout.sizes)
    beaten = np.empty(layout.n_rows)
    beaten[order] = average_ties(rank + 0.5, rewards[order], layout)
    beaten /= np.repeat(layout.sizes, layout.sizes)
    terms = mean_terms(best_of_k(beaten, scores, ks, layout))
    return reduce_terms(first_column(terms, scalar), average, prompt_weight)


def _check(y, scores, k, groups, too_few):
    """Validate the arguments of metrics of k candidates."""
    rewards, layout = check_rewards(y, groups)
    return rewards, check_scores(scores, layout), layout, *check_ks(k, layout, too_few)
