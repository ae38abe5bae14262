"""From scores to choice probabilities and to the best candidate."""

from numbers import Real

import numpy as np

from skqprobe._candidates.segments import repeat_per_prompt, segment_max, segment_sum


def choice_probabilities(scores, layout, temperature, weight=None):
    """Softmax of the scores at a temperature, inside each prompt.

    Parameters
    ----------
    scores : ndarray of shape (n_rows,)
        Probe values, prompt by prompt.
    layout : Layout
        Where each prompt begins.
    temperature : float
        In [0, inf); 0 shares the mass evenly among a prompt's best candidates.
    weight : ndarray of shape (n_rows,), default=None
        How many copies there are of each row. The probability of a row is that of all
        its copies.

    Returns
    -------
    proba : ndarray of shape (n_rows,) and the dtype of the scores
    """
    check_temperature(temperature)
    offsets = layout.offsets
    best = repeat_per_prompt(segment_max(scores, offsets), offsets)
    mass = choice_mass(scores, best, temperature)
    if weight is not None:
        mass = mass * weight
    proba = mass / repeat_per_prompt(segment_sum(mass, offsets), offsets)
    return proba.astype(scores.dtype, copy=False)


def choice_mass(scores, best, temperature):
    """Compute ``exp((scores - best) / temperature)``, or its limit at 0, in float64.

    Parameters
    ----------
    scores, best : ndarray
        Probe values, and the best of their prompt.
    temperature : float
        0 or more.

    Returns
    -------
    mass : ndarray of float64
        In [0, 1], for any finite scores.
    """
    if temperature == 0:
        return (scores == best).astype(np.float64)
    # Halves: a difference of finite numbers can be twice the largest there is.
    half_behind = scores.astype(np.float64) / 2 - best.astype(np.float64) / 2
    with np.errstate(over="ignore"):  # far behind at a low temperature: exp(-inf)
        return np.exp(half_behind / temperature * 2)


def choice_reward(scores, rewards, layout, temperature, candidate_weight=None):
    """Compute the expected reward of the choice by softmax of the scores, per prompt.

    Parameters
    ----------
    scores, rewards : ndarray of shape (n_rows,)
        Scores and rewards in prompt order.
    layout : Layout
        Layout of the candidates.
    temperature : float
        Temperature in [0, inf).
    candidate_weight : ndarray of shape (n_rows,), default=None
        Number of copies of each candidate.

    Returns
    -------
    reward : ndarray of shape (n_prompts,)
    """
    scores = scores.astype(np.float64)
    proba = choice_probabilities(scores, layout, temperature, candidate_weight)
    return expected_rewards(proba, rewards, layout)


def expected_rewards(proba, rewards, layout):
    """Compute the expected reward of a choice by its probabilities, per prompt."""
    return segment_sum(proba * rewards, layout.offsets)


def check_temperature(temperature):
    """Raise unless the temperature is a number from 0 up."""
    # It may have been set after fit, so that no other check has seen it.
    if not (isinstance(temperature, Real) and float(temperature) >= 0):
        raise ValueError(
            f"temperature must be a number of 0 or more (0 takes the best candidate); "
            f"got {temperature!r}."
        )


def best_candidates(scores, layout):
    """Row of the best candidate of each prompt, the first among equals."""
    offsets = layout.offsets
    best = np.flatnonzero(
        scores == repeat_per_prompt(segment_max(scores, offsets), offsets)
    )
    return best[np.searchsorted(best, offsets[:-1])]
