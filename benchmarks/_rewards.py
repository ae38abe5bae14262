"""Rewards per prompt of the best of k candidates."""

import numpy as np

from skqprobe.metrics import best_of_k_reward


def exact_rewards(y, values, ks):
    """Compute the expected reward of the best of k of the m candidates by value.

    Parameters
    ----------
    y, values : ndarray of shape (n_prompts, m)
        Rewards, and the values by which a candidate is chosen.
    ks : list of int
        Numbers of candidates, of shape (n_ks,).

    Returns
    -------
    rewards : ndarray of shape (n_prompts, n_ks)
    """
    return best_of_k_reward(y, values, ks, average=None)


def random_sets(rng, shape, k):
    """Draw k of m candidates without repetition, for `shape` (..., m)."""
    return rng.random(shape).argsort(axis=-1)[..., :k]


def set_rewards(model, data, sets):
    """Compute the reward of the best candidate of each set, valued on its own.

    Parameters
    ----------
    model : estimator
        Fitted estimator with `decision_function`.
    data : Data
        Prompts to choose for.
    sets : ndarray of int, of shape (n_sets, n_prompts, k)
        Positions of the candidates of each set.

    Returns
    -------
    rewards : ndarray of shape (n_sets, n_prompts)
    """
    rewards = np.empty(sets.shape[:2])
    for number, positions in enumerate(sets):
        X = np.take_along_axis(data.X, positions[..., None], axis=1)
        y = np.take_along_axis(data.y, positions, axis=1)
        values = model.decision_function(X)
        rewards[number] = best_of_k_reward(y, values, y.shape[1], average=None)
    return rewards


def expected_rewards(model, data, ks, sets=None):
    """Compute the expected reward of the best of k of the candidates.

    Parameters
    ----------
    model : estimator
        Fitted estimator with `decision_function`.
    data : Data
        Prompts to choose for.
    ks : list of int
        Numbers of candidates.
    sets : dict of int to ndarray of shape (n_sets, n_prompts, k), default=None
        Sets of candidates by k, for a model whose values depend on the other candidates
        of a set. The reward at that k is the mean over the sets; otherwise it is exact.

    Returns
    -------
    rewards : ndarray of shape (n_prompts, n_ks)
    """
    rewards = exact_rewards(data.y, model.decision_function(data.X), ks)
    for column, k in enumerate(ks):
        if sets and k in sets:
            rewards[:, column] = set_rewards(model, data, sets[k]).mean(axis=0)
    return rewards
