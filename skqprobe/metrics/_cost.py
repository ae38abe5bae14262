"""reward_at_cost: rewards and numbers of candidates of a stopping rule."""

from dataclasses import dataclass
from numbers import Integral

import numpy as np
from sklearn.utils import check_random_state

from skqprobe._candidates.stopping import accepted_candidates
from skqprobe.metrics._per_prompt import (
    check_rewards,
    check_scores,
    mean_terms,
    reduce_terms,
)


@dataclass(frozen=True)
class RewardAtCost:
    """Number of candidates that a stopping rule draws, and reward of its choices.

    Parameters
    ----------
    n_drawn : float, or ndarray of shape (n_prompts,)
        Mean number of candidates that were drawn.
    reward : float, or ndarray of shape (n_prompts,)
        Mean reward of the chosen candidates.
    """

    n_drawn: float | np.ndarray
    reward: float | np.ndarray


def reward_at_cost(
    y,
    values,
    stopping,
    groups=None,
    random_state=None,
    *,
    k=None,
    batch_size=1,
    n_orders=20,
    average="mean",
    prompt_weight=None,
):
    """Compute reward and number of candidates of a stopping rule, on recorded ones.

    The candidates of each prompt are put in a random order, as if they were drawn one
    after the other, and the rule stops. The choice is the best accepted candidate by
    value; if the rule accepts none, the best of all.

    Parameters
    ----------
    y : array-like of shape (n_prompts, k) or (n_rows,)
        Rewards.
    values : array-like of shape (n_prompts, k) or (n_rows,)
        Values of the candidates that the rule is given: predicted rewards, such as
        those of `CalibratedPolicyCV.predict_rewards`. They are taken as known, also if
        they depend on siblings that were drawn later.
    stopping : object
        Stopping rule, such as :class:`~skqprobe.generators.ExpectedGain`, or any object
        with the method ``accept(values, uniforms)``; see :doc:`/guide/cost`.
    groups : array-like of shape (n_rows,), default=None
        Prompt labels of the rows: hashable values in any order. Not needed for sets.
    random_state : int, RandomState instance or None, default=None
        Seed or generator of the orders, and of rules that are random.
    k : int, default=None
        Maximum number of candidates per prompt. None takes all.
    batch_size : int, default=1
        Number of candidates that are drawn before the rule is called again.
    n_orders : int, default=20
        Number of random orders of each prompt, over which results are averaged.
    average : {"mean"} or None, default="mean"
        If None, return one value per prompt, in order of first appearance. Otherwise
        return their mean.
    prompt_weight : array-like of shape (n_prompts,), default=None
        Non-negative weights of the prompts, in order of first appearance.

    Returns
    -------
    result : RewardAtCost
        Object with `n_drawn` and `reward`.

    See Also
    --------
    best_of_k_reward : Reward of a fixed number of candidates.

    Examples
    --------
    >>> from skqprobe.generators import Threshold
    >>> from skqprobe.metrics import reward_at_cost
    >>> y = values = [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    >>> found = reward_at_cost(y, values, Threshold(0.5), random_state=0, average=None)
    >>> found.n_drawn, found.reward
    (array([2.5, 4. ]), array([1., 0.]))
    """
    rewards, layout = check_rewards(y, groups)
    values = check_scores(values, layout, "values")
    for name, count in {"k": k, "batch_size": batch_size, "n_orders": n_orders}.items():
        is_count = isinstance(count, Integral) and int(count) >= 1
        if not is_count and not (name == "k" and count is None):
            raise ValueError(f"{name} must be an integer of 1 or more; got {count!r}.")
    rng = check_random_state(random_state)
    n_drawn, reward = np.zeros((2, layout.n_prompts))
    for prompts, rows in layout.by_size():
        for order in _orders(rows.shape, n_orders, rng):
            drawn = np.take_along_axis(rows, order[:, :k], axis=1)
            uniforms = rng.random_sample(drawn.shape)
            n, chosen = _stop(values[drawn], uniforms, stopping, batch_size)
            n_drawn[prompts] += n
            reward[prompts] += rewards[drawn[np.arange(len(drawn)), chosen]]
    return RewardAtCost(
        *(
            reduce_terms(mean_terms(total / n_orders), average, prompt_weight)
            for total in (n_drawn, reward)
        )
    )


def _orders(shape, n_orders, rng):
    """Yield random orders of the candidates of each prompt.

    They are evenly spaced rotations of a few random orders: each is uniformly random,
    and each candidate comes first about equally often.
    """
    n_rotations = min(n_orders, shape[1])
    for i in range(n_orders):
        if i % n_rotations == 0:
            order = rng.random_sample(shape).argsort(axis=1)
        yield np.roll(order, -(i % n_rotations * shape[1] // n_rotations), axis=1)


def _stop(values, uniforms, stopping, batch_size):
    """Return number drawn and index of the choice per prompt, drawn in this order."""
    n_prompts, k = values.shape
    n_drawn, chosen = np.full(n_prompts, k), values.argmax(axis=1)
    active = np.arange(n_prompts)
    for n in range(batch_size, k + batch_size, batch_size):
        n = min(n, k)
        seen = values[active, :n]
        accepted = accepted_candidates(stopping, seen, uniforms[active, :n])
        stops = accepted.any(axis=1)
        best = np.where(accepted, seen, -np.inf).argmax(axis=1)
        chosen[active[stops]], n_drawn[active[stops]] = best[stops], n
        active = active[~stops]
        if not len(active):
            break
    return n_drawn, chosen
