"""Rewards of policies, averaged over prompts; exact where an exact form exists."""

import numpy as np

from skqprobe._arrays.magnitude import SMALLEST, check_magnitude
from skqprobe._candidates.segments import segment_mean, segment_sum
from skqprobe._candidates.validation import (
    check_scored,
    check_sums_to_one,
    check_values,
)
from skqprobe.metrics._averages import (
    check_has_groups,
    check_ks,
    prompt_mean,
    warn_if_undefined,
)
from skqprobe.metrics._best_of_k import (
    average_ties,
    base_of_k,
    best_of_k,
    order_by_score,
    share_of_gain,
    soft_best_of_k,
)


def base_reward(y, groups=None, *, prompt_weight=None):
    """Compute the reward of the base model: that of a candidate taken at random.

    Parameters
    ----------
    y : array-like of shape (n_prompts, k) or (n_rows,)
        Rewards.
    groups : array-like of shape (n_rows,), default=None
        For rows: labels of the prompts, any hashable values in any order.
    prompt_weight : array-like of shape (n_prompts,) or (n_weightings, n_prompts), \
            default=None
        Weights of the prompts, in the order of their first appearance.

    Returns
    -------
    reward : float, or ndarray of shape (n_weightings,)
        Mean over prompts of their candidates' mean reward.

    Examples
    --------
    >>> from skqprobe.metrics import base_reward
    >>> base_reward([[1, 0, 0, 0], [1, 1, 0, 0]])
    0.375
    """
    rewards, layout = _check_rewards(y, groups)
    return prompt_mean(segment_mean(rewards, layout.offsets), prompt_weight)


def expected_reward(y, proba, groups=None, *, prompt_weight=None):
    """Compute the reward that a policy earns with its choice probabilities.

    Parameters
    ----------
    y : array-like of shape (n_prompts, k) or (n_rows,)
        Rewards.
    proba : array-like of shape (n_prompts, k) or (n_rows,)
        Choice probabilities, as `predict_proba` gives them.
    groups : array-like of shape (n_rows,), default=None
        For rows: labels of the prompts, any hashable values in any order.
    prompt_weight : array-like of shape (n_prompts,) or (n_weightings, n_prompts), \
            default=None
        Weights of the prompts, in the order of their first appearance.

    Returns
    -------
    reward : float, or ndarray of shape (n_weightings,)
        Mean over prompts of ``sum(proba * y)``.

    Examples
    --------
    >>> from skqprobe.metrics import expected_reward
    >>> expected_reward([[1, 0], [0, 1]], [[0.75, 0.25], [0.5, 0.5]])
    0.625
    """
    rewards, layout = _check_rewards(y, groups)
    proba = layout.to_prompt_order(check_values(proba, layout.shape, "proba"))
    check_sums_to_one(proba, layout)
    return prompt_mean(segment_sum(proba * rewards, layout.offsets), prompt_weight)


def best_of_k_reward(y, scores, k, groups=None, *, too_few="raise", prompt_weight=None):
    """Compute the reward of the best of k candidates by score, exactly.

    The expectation is over which k of a prompt's m scored candidates are drawn. The
    candidate of rank i, counted from the lowest score, is the best of
    ``C(i - 1, k - 1) / C(m, k)`` of all sets. Candidates of equal score are as likely
    to be chosen as each other.

    Parameters
    ----------
    y : array-like of shape (n_prompts, m) or (n_rows,)
        Rewards; any real numbers.
    scores : array-like of shape (n_prompts, m) or (n_rows,)
        Scores, such as the values of a probe; only their order in a prompt matters.
    k : int or array-like of int, of shape (n_k,)
        From how many candidates the best is taken, 1 or more.
    groups : array-like of shape (n_rows,), default=None
        For rows: labels of the prompts, any hashable values in any order.
    too_few : {"raise", "skip"}, default="raise"
        What to do where a prompt has fewer than k candidates: raise an error, or leave
        the prompt out of the mean for that k.
    prompt_weight : array-like of shape (n_prompts,) or (n_weightings, n_prompts), \
            default=None
        Weights of the prompts, in the order of their first appearance.

    Returns
    -------
    reward : float, or ndarray of shape (n_k,), (n_weightings,) or (n_weightings, n_k)
        Mean over prompts.

    Raises
    ------
    ValueError
        If k is larger than a prompt and `too_few="raise"`, or larger than all prompts.

    See Also
    --------
    soft_best_of_k_reward : At a temperature above 0.
    oracle_reward : With the rewards for scores.

    Examples
    --------
    >>> from skqprobe.metrics import best_of_k_reward
    >>> y = [[1, 0, 0, 0], [0, 0, 1, 1]]
    >>> scores = [[0.9, 0.1, 0.5, 0.3], [0.2, 0.4, 0.6, 0.3]]
    >>> best_of_k_reward(y, scores, k=[1, 2, 4])
    array([0.375     , 0.58333333, 1.        ])
    """
    rewards, layout = _check_rewards(y, groups)
    scores = _check_scores(scores, layout)
    ks, scalar = check_ks(k, layout, too_few)
    return prompt_mean(best_of_k(rewards, scores, ks, layout), prompt_weight, scalar)


def oracle_reward(y, k, groups=None, *, too_few="raise", prompt_weight=None):
    """Compute the reward of the truly best of k candidates, exactly.

    What no choice among k candidates can exceed. For rewards 0 and 1 this is pass@k, by
    its usual unbiased estimator [1]_.

    Parameters
    ----------
    y : array-like of shape (n_prompts, m) or (n_rows,)
        Rewards.
    k : int or array-like of int, of shape (n_k,)
        From how many candidates the best is taken, 1 or more.
    groups : array-like of shape (n_rows,), default=None
        For rows: labels of the prompts, any hashable values in any order.
    too_few : {"raise", "skip"}, default="raise"
        What to do where a prompt has fewer than k candidates: raise an error, or leave
        the prompt out of the mean for that k.
    prompt_weight : array-like of shape (n_prompts,) or (n_weightings, n_prompts), \
            default=None
        Weights of the prompts, in the order of their first appearance.

    Returns
    -------
    reward : float, or ndarray of shape (n_k,), (n_weightings,) or (n_weightings, n_k)
        Mean over prompts.

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
        y, y, k, groups, too_few=too_few, prompt_weight=prompt_weight
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
    prompt_weight=None,
):
    """Compute the reward of choosing among k candidates by softmax.

    The expectation is over which k of a prompt's m scored candidates are drawn, and
    over the choice, with probability ``softmax(scores / temperature)`` among the k. It
    is exact where k is 1, the temperature 0, or where there are at most `n_draws` sets
    of k, as for k = m; else it is a mean over `n_draws` random sets a prompt.

    Parameters
    ----------
    y : array-like of shape (n_prompts, m) or (n_rows,)
        Rewards.
    scores : array-like of shape (n_prompts, m) or (n_rows,)
        Scores, such as the values of a probe.
    k : int or array-like of int, of shape (n_k,)
        Among how many candidates the choice is, 1 or more.
    temperature : float
        Temperature of the choice, 0 or more, in units of the scores.
    groups : array-like of shape (n_rows,), default=None
        For rows: labels of the prompts, any hashable values in any order.
    n_draws : int, default=200
        How many sets of k candidates to draw for each prompt.
    random_state : int, RandomState instance or None, default=None
        Determines the draws.
    return_error : bool, default=False
        Whether to give the standard error of the Monte Carlo mean as well. It says
        nothing of the uncertainty over prompts, for which see `prompt_bootstrap`.
    too_few : {"raise", "skip"}, default="raise"
        What to do where a prompt has fewer than k candidates: raise an error, or leave
        the prompt out of the mean for that k.
    prompt_weight : array-like of shape (n_prompts,) or (n_weightings, n_prompts), \
            default=None
        Weights of the prompts, in the order of their first appearance.

    Returns
    -------
    reward : float, or ndarray of shape (n_k,), (n_weightings,) or (n_weightings, n_k)
        Mean over prompts.
    error : like `reward`
        Standard error by the draws, 0 where the reward is exact. Only if
        `return_error`.

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
    rewards, layout = _check_rewards(y, groups)
    scores = _check_scores(scores, layout)
    ks, scalar = check_ks(k, layout, too_few)
    soft = soft_best_of_k(
        rewards, scores, ks, temperature, layout, n_draws, random_state
    )
    reward = prompt_mean(soft.reward, prompt_weight, scalar)
    if not return_error:
        return reward
    check_magnitude(rewards, "y", SMALLEST)
    # The error of a weighted mean is sqrt(sum w^2 e^2) / sum w.
    kept = ~np.isnan(soft.error)
    weight = 1.0 if prompt_weight is None else np.asarray(prompt_weight, dtype=float)
    weight = np.broadcast_to(weight, (*np.shape(weight)[:-1], layout.n_prompts))
    error = np.sqrt(weight**2 @ np.where(kept, soft.error, 0) ** 2) / (weight @ kept)
    return reward, _plain(error[..., 0]) if scalar else error


def recovery(y, scores, k, groups=None, *, too_few="raise", prompt_weight=None):
    """Compute which share of the possible gain the choice among k candidates takes.

    ``(chosen - base) / (oracle - base)``, with the rewards of `best_of_k_reward`,
    `base_reward` and `oracle_reward`, each a mean over prompts: 0 for a random choice,
    1 for a perfect one, negative for one worse than random.

    Parameters
    ----------
    y : array-like of shape (n_prompts, m) or (n_rows,)
        Rewards.
    scores : array-like of shape (n_prompts, m) or (n_rows,)
        Scores, such as the values of a probe; only their order in a prompt matters.
    k : int or array-like of int, of shape (n_k,)
        From how many candidates the best is taken. NaN for 1, where nothing is to gain.
    groups : array-like of shape (n_rows,), default=None
        For rows: labels of the prompts, any hashable values in any order.
    too_few : {"raise", "skip"}, default="raise"
        What to do where a prompt has fewer than k candidates: raise an error, or leave
        the prompt out of all three means for that k.
    prompt_weight : array-like of shape (n_prompts,) or (n_weightings, n_prompts), \
            default=None
        Weights of the prompts, in the order of their first appearance.

    Returns
    -------
    recovery : float, or ndarray of shape (n_k,), (n_weightings,) or \
            (n_weightings, n_k)
        NaN, with an UndefinedMetricWarning, where the oracle gains nothing.

    Examples
    --------
    >>> from skqprobe.metrics import recovery
    >>> y = [[1, 0, 0, 0], [0, 0, 1, 1]]
    >>> scores = [[0.9, 0.1, 0.5, 0.3], [0.2, 0.4, 0.6, 0.3]]
    >>> print(f"{recovery(y, scores, k=2):.3f}")
    0.714
    """
    rewards, layout = _check_rewards(y, groups)
    scores = _check_scores(scores, layout)
    ks, scalar = check_ks(k, layout, too_few)
    chosen = best_of_k(rewards, scores, ks, layout)
    oracle = best_of_k(rewards, rewards, ks, layout)
    base = base_of_k(rewards, ks, layout)
    share = share_of_gain(
        *(prompt_mean(values, prompt_weight) for values in (chosen, base, oracle))
    )
    warn_if_undefined(share, "recovery", "the oracle gains nothing over the base")
    return _plain(share[..., 0]) if scalar else share


def win_rate(y, scores, k, groups=None, *, too_few="raise", prompt_weight=None):
    """Compute how often the best of k candidates by score beats a base sample.

    The base sample is one of the prompt's m candidates, at random; equal rewards count
    one half. A random choice has 0.5.

    Parameters
    ----------
    y : array-like of shape (n_prompts, m) or (n_rows,)
        Rewards; only their order in a prompt matters.
    scores : array-like of shape (n_prompts, m) or (n_rows,)
        Scores, such as the values of a probe; only their order in a prompt matters.
    k : int or array-like of int, of shape (n_k,)
        From how many candidates the best is taken, 1 or more.
    groups : array-like of shape (n_rows,), default=None
        For rows: labels of the prompts, any hashable values in any order.
    too_few : {"raise", "skip"}, default="raise"
        What to do where a prompt has fewer than k candidates: raise an error, or leave
        the prompt out of the mean for that k.
    prompt_weight : array-like of shape (n_prompts,) or (n_weightings, n_prompts), \
            default=None
        Weights of the prompts, in the order of their first appearance.

    Returns
    -------
    win_rate : float, or ndarray of shape (n_k,), (n_weightings,) or \
            (n_weightings, n_k)
        In [0, 1], a mean over prompts.

    Examples
    --------
    >>> from skqprobe.metrics import win_rate
    >>> y = [[1, 0, 0, 0], [0, 0, 1, 1]]
    >>> scores = [[0.9, 0.1, 0.5, 0.3], [0.2, 0.4, 0.6, 0.3]]
    >>> win_rate(y, scores, k=4)
    0.8125
    """
    rewards, layout = _check_rewards(y, groups)
    scores = _check_scores(scores, layout)
    ks, scalar = check_ks(k, layout, too_few)
    # The share of the prompt's candidates that each beats: its mean rank, less a half.
    order = order_by_score(rewards, layout)
    rank = np.arange(layout.n_rows) - np.repeat(layout.offsets[:-1], layout.sizes)
    beaten = np.empty(layout.n_rows)
    beaten[order] = average_ties(rank + 0.5, rewards[order], layout)
    beaten /= np.repeat(layout.sizes, layout.sizes)
    return prompt_mean(best_of_k(beaten, scores, ks, layout), prompt_weight, scalar)


def _check_rewards(y, groups):
    """Rewards prompt by prompt, and their layout; rows need groups."""
    rewards, layout = check_scored(y, groups, "y")
    check_has_groups(layout, "y")
    check_magnitude(rewards, "y")
    return rewards, layout


def _check_scores(scores, layout):
    return layout.to_prompt_order(check_values(scores, layout.shape, "scores"))


def _plain(value):
    return float(value) if np.ndim(value) == 0 else value
