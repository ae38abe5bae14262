"""Rewards of choices by several objectives, and the weights that meet a budget."""

from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
from sklearn.utils import check_scalar

from skqprobe._arrays.device import to_host
from skqprobe._arrays.magnitude import check_magnitude
from skqprobe._candidates.choice import (
    check_objective_weights,
    choice_probabilities,
    expected_rewards,
)
from skqprobe._candidates.layout import check_layout
from skqprobe._candidates.segments import repeat_per_prompt, segment_mean
from skqprobe._candidates.validation import check_numbers, list_to_array
from skqprobe.metrics._bootstrap import Estimate, bootstrap_terms
from skqprobe.metrics._per_prompt import (
    check_has_groups,
    check_scores,
    mean_terms,
    reduce_terms,
)

N_WEIGHTS = 101
"""Number of weights among which a budget is met."""


def objective_rewards(
    y, scores, temperature=0.0, groups=None, *, average="mean", prompt_weight=None
):
    """Compute the expected reward in each objective of a choice by softmax.

    Parameters
    ----------
    y : array-like of shape (n_prompts, k, n_objectives) or (n_rows, n_objectives)
        Rewards in each objective.
    scores : array-like of shape (n_prompts, k) or (n_rows,)
        Scores of the candidates, such as the values of a probe.
    temperature : float, default=0.0
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
    rewards : ndarray of shape (n_objectives,) or (n_prompts, n_objectives)
        ``sum(softmax(scores / temperature) * y[..., j])`` of each objective j.

    See Also
    --------
    softmax_reward : The same for one objective.
    weights_at_cost : Weights of the objectives that meet a budget.

    Examples
    --------
    >>> from skqprobe.metrics import objective_rewards
    >>> y = [[[1, -20], [0, -5]], [[0, -30], [1, -10]]]  # correct, minus the length
    >>> objective_rewards(y, scores=[[2, 1], [1, 2]])
    array([  1., -15.])
    """
    rewards, layout = check_objectives(y, groups)
    scores = check_scores(scores, layout)
    proba = choice_probabilities(scores, layout, temperature)
    values = expected_rewards(proba[:, None], rewards, layout)
    return reduce_terms(mean_terms(values), average, prompt_weight)


# `prompt_bootstrap` finds the prompts in the scores.
objective_rewards.takes_objectives = True  # type: ignore[attr-defined]


@dataclass(frozen=True)
class WeightMixture:
    """Random choice of one or two weights of the objectives.

    Parameters
    ----------
    weights : ndarray of shape (1, n_objectives) or (2, n_objectives)
        Weights, for `objective_weights` of a policy.
    probabilities : ndarray of shape (1,) or (2,)
        Probability of each, to draw from for each prompt.
    reward : Estimate
        Expected reward in the other objectives, with its interval.
    cost : Estimate
        Expected cost, with its interval.
    """

    weights: np.ndarray
    probabilities: np.ndarray
    reward: Estimate
    cost: Estimate


def weights_at_cost(
    y,
    values,
    max_cost,
    groups=None,
    *,
    objective=-1,
    objective_weights=None,
    temperature=0.0,
    n_resamples=9999,
    confidence_level=0.95,
    random_state=None,
):
    """Find the weights of the objectives that have the highest reward at a mean cost.

    One objective is a cost with a negative sign, such as minus the number of
    characters. Its weight is increased from 0, in 101 steps, until the other objectives
    have the weight 0. Of all mixtures of two of these weights, the one of highest
    reward among those whose mean cost is at most `max_cost` is returned. It is a single
    weight, or mixes its two neighbors on the front, so that the mean cost is
    `max_cost`.

    Parameters
    ----------
    y : array-like of shape (n_prompts, k, n_objectives) or (n_rows, n_objectives)
        Rewards in each objective, of prompts that were not used to train the policy.
    values : array-like of shape (n_prompts, k, n_objectives) or (n_rows, n_objectives)
        Values of the candidates in each objective, as returned by `predict_objectives`.
        For a known objective, such as the length, these are the rewards.
    max_cost : float
        Highest mean cost.
    groups : array-like of shape (n_rows,), default=None
        Prompt labels of the rows: hashable values in any order. Not needed for sets.
    objective : int, default=-1
        Index of the objective that is minus the cost.
    objective_weights : array-like of shape (n_objectives,), default=None
        Weights of the other objectives to each other; that of the cost is ignored. None
        weights them by 1.
    temperature : float, default=0.0
        Temperature of the choice, in [0, inf], in units of the weighted values.
    n_resamples : int, default=9999
        Number of resamples of the prompts.
    confidence_level : float, default=0.95
        Level of the interval, in (0, 1).
    random_state : int, RandomState instance or None, default=None
        Seed or generator of the resamples.

    Returns
    -------
    mixture : WeightMixture
        Weights, their probabilities, and the estimates of reward and cost on these
        prompts. The weights were selected on the same prompts: on others, the mean cost
        varies as its interval tells, and the reward is on average slightly lower.

    Raises
    ------
    ValueError
        If the mean cost of all weights is above `max_cost`.

    See Also
    --------
    objective_rewards : Rewards of one choice.

    Examples
    --------
    >>> import numpy as np
    >>> from skqprobe import QProbePolicy
    >>> from skqprobe.datasets import load_two_words
    >>> from skqprobe.metrics import weights_at_cost
    >>> data = load_two_words()
    >>> X, y = data.data, np.stack([data.target, -data.n_tokens], axis=2)
    >>> policy = QProbePolicy("squared_error", alpha=0.01).fit(X[:120], y[:120])
    >>> values = policy.predict_objectives(X[120:])
    >>> mixture = weights_at_cost(y[120:], values, max_cost=8, random_state=0)
    >>> print(mixture.reward, mixture.cost)  # of the base model: 0.358 and 9.74
    0.723 [0.640, 0.796] 8.000 [7.773, 8.239]
    >>> mixture.weights.shape, mixture.probabilities.round(2)
    ((2, 2), array([0.82, 0.18]))
    """
    rewards, values, layout = check_rewards_and_values(y, values, groups)
    n_objectives = values.shape[1]
    if n_objectives < 2:
        raise ValueError("y has 1 objective; a trade-off needs two or more.")
    check_scalar(max_cost, "max_cost", Real)
    if np.isnan(max_cost):
        raise ValueError("max_cost is NaN; pass the highest mean cost.")
    last = n_objectives - 1
    check_scalar(objective, "objective", Integral, min_val=-last - 1, max_val=last)
    base = np.ones(n_objectives)
    if objective_weights is not None:
        base = check_objective_weights(objective_weights, n_objectives).copy()
    objective = int(objective)  # a bool would be a mask
    base[objective] = 0
    weights = weight_path(values, layout, base, objective, N_WEIGHTS)
    chosen = choice_rewards(values, weights, rewards, layout, temperature)
    terms = np.stack([chosen @ base, -chosen[..., objective]], axis=2)
    distinct = _middle_of_equals(terms)
    some, probabilities = _best_mixture(terms[distinct].mean(axis=1), max_cost)
    some = distinct[some]
    mixed = np.einsum("w,wpj->pj", probabilities, terms[some])
    reward, cost = (
        bootstrap_terms(
            mean_terms(each),
            names=[name],
            n_resamples=n_resamples,
            confidence_level=confidence_level,
            random_state=random_state,
        )
        for each, name in zip(mixed.T, ("the reward", "the cost"), strict=True)
    )
    return WeightMixture(weights[some], probabilities, reward, cost)


def _middle_of_equals(terms):
    """Find the weights in the middle of those that choose alike, far from a change.

    Of those that choose by one objective alone, these are the weights.
    """
    changes = np.flatnonzero((np.diff(terms, axis=0) != 0).any(axis=(1, 2))) + 1
    alike = np.split(np.arange(len(terms)), changes)
    middle = np.array([numbers[len(numbers) // 2] for numbers in alike])
    middle[-1] = len(terms) - 1
    middle[0] = 0
    return middle


def _best_mixture(points, max_cost):
    """Find the choices whose mixture has the highest reward at a mean cost.

    Parameters
    ----------
    points : ndarray of shape (n_weights, 2)
        Mean reward and cost.
    max_cost : float
        Highest mean cost of the mixture.

    Returns
    -------
    some : list of int
        One or two choices.
    probabilities : ndarray of shape (1,) or (2,)
    """
    reward, cost = points.T
    cheap, dear = np.flatnonzero(cost <= max_cost), np.flatnonzero(cost > max_cost)
    if not cheap.size:
        raise ValueError(
            f"max_cost={max_cost:.6g} is below the lowest mean cost of a choice, "
            f"{cost.min():.6g}. Allow a higher cost, or add cheaper candidates."
        )
    best = cheap[np.lexsort((cost[cheap], -reward[cheap]))[0]]
    if not dear.size:
        return [best], np.ones(1)
    share = (max_cost - cost[cheap, None]) / (cost[dear] - cost[cheap, None])
    mixed = reward[cheap, None] + share * (reward[dear] - reward[cheap, None])
    i, j = np.unravel_index(mixed.argmax(), mixed.shape)
    if mixed[i, j] <= reward[best]:
        return [best], np.ones(1)
    return [cheap[i], dear[j]], np.array([1 - share[i, j], share[i, j]])


def choice_rewards(values, weights, rewards, layout, temperature):
    """Compute the rewards of choices by several weights, in each objective.

    Returns
    -------
    chosen : ndarray of shape (n_weights, n_prompts, n_objectives)
    """
    chosen = []
    for scores in (values @ weights.T).T:
        proba = choice_probabilities(scores, layout, temperature)
        chosen.append(expected_rewards(proba[:, None], rewards, layout))
    return np.array(chosen)


def weight_path(values, layout, base, objective, n_weights):
    """Make weights that lead from `base` to one objective alone.

    The values of the objective are scaled to the standard deviation, inside prompts, of
    the values weighted by `base`, so that a step of any objective has a similar effect.

    Returns
    -------
    weights : ndarray of shape (n_weights, n_objectives)
    """
    both = np.column_stack([values @ base, values[:, objective]])
    mean = repeat_per_prompt(segment_mean(both, layout.offsets), layout.offsets)
    spread, spread_of_one = (both - mean).std(axis=0)
    share = np.linspace(0, 1, n_weights)[:, None]
    one = np.zeros(len(base))
    one[objective] = (spread or 1.0) / (spread_of_one or 1.0)
    return (1 - share) * base + share * one


def check_rewards_and_values(y, values, groups):
    """Validate rewards and values in several objectives, of one shape."""
    rewards, layout = check_objectives(y, groups)
    values, other = check_objectives(values, groups, "values")
    if rewards.shape != values.shape or layout.shape != other.shape:
        raise ValueError(
            f"values has shape {(*other.shape, values.shape[1])}; it must have the "
            f"shape of y, {(*layout.shape, rewards.shape[1])}."
        )
    return rewards, values, layout


def check_objectives(y, groups, name="y"):
    """Validate rewards or values in several objectives, and make their layout.

    Returns
    -------
    rewards : ndarray of float64, of shape (n_rows, n_objectives)
        Numbers in prompt order.
    layout : Layout
        Layout of the candidates.
    """
    shapes = "(n_prompts, k, n_objectives), or (n_rows, n_objectives) with groups"
    y = to_host(y, name)
    y = y if hasattr(y, "shape") else list_to_array(y, name, shapes)
    shape, ndim = tuple(y.shape), len(y.shape)
    if ndim not in (2, 3) or (ndim == 2 and groups is None) or shape[-1] == 0:
        raise ValueError(f"{name} must have shape {shapes}; got {shape}.")
    layout = check_layout(shape[:-1], groups)
    check_has_groups(layout, name)
    y = check_numbers(y, name, "Leave the candidate out, as rows with groups.")
    check_magnitude(y, name)
    return layout.to_prompt_order(y), layout
