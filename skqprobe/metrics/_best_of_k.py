"""Choices among random sets of k candidates: exact, or by Monte Carlo, by prompt."""

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from scipy.special import entr
from sklearn.utils import check_random_state

from skqprobe._candidates.choice import check_temperature, choice_mass
from skqprobe._candidates.segments import segment_mean

DRAWS_AT_ONCE = 2**21
"""How many candidates are drawn at a time by Monte Carlo."""


def order_by_score(scores, layout):
    """Sort the rows of each prompt by score, the lowest first."""
    order = np.empty(layout.n_rows, dtype=np.intp)
    for _, rows in layout.by_size():  # many short sorts, not a long one
        by_score = np.argsort(scores[rows], axis=1, kind="stable")
        order[rows] = np.take_along_axis(rows, by_score, axis=1)
    return order


def average_ties(values, scores, layout):
    """Average values, sorted by score in each prompt, over equal scores."""
    first = np.concatenate(([True], scores[1:] != scores[:-1]))
    first[layout.offsets[:-1]] = True
    starts = np.flatnonzero(first)
    sizes = np.diff(starts, append=layout.n_rows)
    return np.repeat(np.add.reduceat(values, starts) / sizes, sizes)


def best_of_k(rewards, scores, ks, layout):
    """Reward of best-of-k by prompt: (n_prompts, n_k), NaN where it has too few."""
    order = order_by_score(scores, layout)
    ordered = average_ties(rewards[order], scores[order], layout)
    reward = np.empty((layout.n_prompts, len(ks)))
    for prompts, rows in layout.by_size():
        reward[prompts] = ordered[rows] @ _rank_weights(rows.shape[1], ks)
    return reward


def base_of_k(rewards, ks, layout):
    """Mean reward by prompt: (n_prompts, n_k), NaN where it has too few for k."""
    mean = segment_mean(rewards, layout.offsets)[:, None]
    return np.where(layout.sizes[:, None] >= ks, mean, np.nan)


def share_of_gain(chosen, base, oracle):
    """Compute (chosen - base) / (oracle - base); NaN where nothing is to gain."""
    possible = oracle - base
    # Rounding leaves a little where all rewards of a prompt are equal, or k is 1.
    possible = np.where(possible > 1e-12 * abs(base), possible, np.nan)
    return (chosen - base) / possible


def _rank_weights(m, ks):
    """Share of the k-subsets of m that each rank is the highest of: (m, n_k).

    The weights C(i - 1, k - 1) / C(m, k) are a product from rank m down, which needs no
    binomial coefficient: w(m) = k / m and w(i - 1) = w(i) (i - k) / (i - 1).
    """
    rank = np.arange(m, 1, -1)[:, None]
    ratios = np.maximum(rank - ks, 0) / (rank - 1)
    weights = np.cumprod(np.vstack([ks / m, ratios]), axis=0)[::-1]
    return np.where(ks <= m, weights, np.nan)


@dataclass(frozen=True)
class SoftBestOfK:
    """What a choice by softmax among k candidates gives, each (n_prompts, n_k).

    Parameters
    ----------
    reward : ndarray
        Expected reward.
    error : ndarray
        Standard error of the reward by Monte Carlo; 0 where every set is taken.
    entropy : ndarray
        Mean entropy of the choice, in nats.
    perplexity : ndarray
        Mean exponential of that entropy.
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
        Prompt by prompt.
    ks : ndarray of int, of shape (n_k,)
        Sizes of the sets.
    temperature : float
        0 or more.
    layout : Layout
        Which rows belong to which prompt.
    n_draws : int
        Number of random sets of each prompt; where there are no more sets than that,
        every set is taken, once.
    random_state : int, RandomState instance or None
        Determines the sets.

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
        m = rows.shape[1]
        for column, k in enumerate(ks):
            if k > m:
                continue
            n_sets = comb(m, k)
            every_set = None
            if n_sets <= n_draws:
                every_set = np.array(list(combinations(range(m), k)))
            step = max(1, DRAWS_AT_ONCE // (min(n_sets, n_draws) * m))
            for start in range(0, len(prompts), step):
                some = rows[start : start + step]
                if every_set is not None:
                    some = some[:, every_set]
                else:
                    draws = rng.random_sample((len(some), n_draws, m))
                    drawn = np.argpartition(draws, k - 1, axis=-1)[..., :k]
                    some = np.take_along_axis(some[:, None], drawn, axis=-1)
                chosen = _soft_choice(rewards[some], scores[some], temperature)
                out[:, prompts[start : start + step], column] = chosen
                if every_set is not None:
                    out[1, prompts[start : start + step], column] = 0
    soft = SoftBestOfK(*out)
    exact = (ks == 1) | (temperature == 0)
    soft.reward[:, exact] = best_of_k(rewards, scores, ks[exact], layout)
    soft.error[:, exact] *= 0
    return soft


def _soft_choice(rewards, scores, temperature):
    """Mean reward, its error, entropy and perplexity, over sets on the second axis."""
    proba = choice_mass(scores, scores.max(axis=-1, keepdims=True), temperature)
    proba /= proba.sum(axis=-1, keepdims=True)
    reward = (proba * rewards).sum(axis=-1)
    entropy = entr(proba).sum(axis=-1)
    n_sets = reward.shape[1]
    error = reward.std(axis=1, ddof=1) / np.sqrt(n_sets) if n_sets > 1 else 0
    error = np.broadcast_to(error, len(reward))
    return (
        reward.mean(axis=1),
        error,
        entropy.mean(axis=1),
        np.exp(entropy).mean(axis=1),
    )
