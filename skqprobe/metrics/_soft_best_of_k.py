"""Choice by softmax among random sets of k candidates: exact, or by Monte Carlo."""

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from scipy.special import entr
from sklearn.utils import check_random_state, gen_batches

from skqprobe._candidates.choice import check_temperature, choice_mass
from skqprobe.metrics._best_of_k import best_of_k

DRAWS_AT_ONCE = 2**21
"""Number of candidates drawn at one time by Monte Carlo."""


@dataclass(frozen=True)
class SoftBestOfK:
    """Properties of a choice by softmax among k candidates, per prompt.

    Parameters
    ----------
    reward : ndarray of shape (n_prompts, n_k)
        Expected reward.
    error : ndarray of shape (n_prompts, n_k)
        Standard error of the reward from the draws, 0 if every set is taken.
    entropy : ndarray of shape (n_prompts, n_k)
        Mean entropy of the choice, in nats.
    perplexity : ndarray of shape (n_prompts, n_k)
        Mean exponential of the entropy.
    """

    reward: np.ndarray
    error: np.ndarray
    entropy: np.ndarray
    perplexity: np.ndarray


def soft_best_of_k(rewards, scores, ks, temperature, layout, n_draws, random_state):
    """Choose by softmax among random sets of k candidates of each prompt.

    Parameters
    ----------
    rewards, scores : ndarray of shape (n_rows,)
        Rewards and scores in prompt order.
    ks : ndarray of int, of shape (n_k,)
        Sizes of the sets.
    temperature : float
        Temperature in [0, inf].
    layout : Layout
        Layout of the candidates.
    n_draws : int
        Number of random sets per prompt. If there are at most as many different sets,
        each is taken once.
    random_state : int, RandomState instance or None
        Seed or generator of the draws.

    Returns
    -------
    soft : SoftBestOfK
        NaN where a prompt has fewer than k candidates.
    """
    check_temperature(temperature)
    if n_draws < 2:
        raise ValueError(f"n_draws must be 2 or more; got {n_draws!r}.")
    rng = check_random_state(random_state)
    out = np.full((4, layout.n_prompts, len(ks)), np.nan)
    for prompts, rows in layout.by_size():
        for column, k in enumerate(ks):
            if k <= rows.shape[1]:
                for part, sets, is_exact in _sets_of_k(rows, k, n_draws, rng):
                    out[:, prompts[part], column] = _soft_choice(
                        rewards[sets], scores[sets], temperature, is_exact
                    )
    soft = SoftBestOfK(*out)
    exact = (ks == 1) | (temperature == 0)
    soft.reward[:, exact] = best_of_k(rewards, scores, ks[exact], layout)
    soft.error[:, exact] *= 0
    return soft


def _sets_of_k(rows, k, n_draws, rng):
    """Yield parts of the prompts, sets of k of their rows, and if these are all sets.

    `rows` are of shape (n_prompts, m), the sets of shape (n_part, n_sets, k).
    """
    m = rows.shape[1]
    n_sets = comb(m, k)
    parts = gen_batches(len(rows), max(1, DRAWS_AT_ONCE // (min(n_sets, n_draws) * m)))
    if n_sets <= n_draws:
        every_set = np.array(list(combinations(range(m), k)))
        for part in parts:
            yield part, rows[part][:, every_set], True
    else:
        for part in parts:
            draws = rng.random_sample((len(rows[part]), n_draws, m))
            drawn = np.argpartition(draws, k - 1)[..., :k]
            yield part, np.take_along_axis(rows[part][:, None], drawn, axis=-1), False


def _soft_choice(rewards, scores, temperature, is_exact):
    """Mean reward, its error, entropy and perplexity, over sets on the second axis."""
    proba = choice_mass(scores, scores.max(axis=-1, keepdims=True), temperature)
    proba /= proba.sum(axis=-1, keepdims=True)
    reward = (proba * rewards).sum(axis=-1)
    entropy = entr(proba).sum(axis=-1)
    error = 0 if is_exact else reward.std(axis=1, ddof=1) / np.sqrt(reward.shape[1])
    return (
        reward.mean(axis=1),
        np.broadcast_to(error, len(reward)),
        entropy.mean(axis=1),
        np.exp(entropy).mean(axis=1),
    )
