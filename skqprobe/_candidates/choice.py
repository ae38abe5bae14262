"""Choice by values: probabilities, best candidates, and the settings of the choice."""

from numbers import Real

import numpy as np

from skqprobe._arrays.device import to_host
from skqprobe._arrays.magnitude import LARGEST, LARGEST_SINGLE, check_magnitude
from skqprobe._candidates.segments import repeat_per_prompt, segment_max, segment_sum
from skqprobe._candidates.validation import check_numbers, check_values
from skqprobe._utils.sklearn_compat import FloatInterval


def choice_probabilities(scores, layout, temperature, weight=None):
    """Compute the softmax of the scores at a temperature, inside each prompt.

    Parameters
    ----------
    scores : ndarray of shape (n_rows,)
        Scores in prompt order.
    layout : Layout
        Layout of the candidates.
    temperature : float
        Temperature in [0, inf]. At 0, the best candidates of a prompt share the
        probability equally.
    weight : ndarray of shape (n_rows,), default=None
        Number of copies of each candidate. The probability of a candidate is that of
        all its copies.

    Returns
    -------
    proba : ndarray of shape (n_rows,)
        Probabilities in prompt order, in the dtype of the scores.

    Raises
    ------
    ValueError
        If `temperature` is not a number of 0 or more.
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
        Finite scores, and the best score of their prompt.
    temperature : float
        Temperature in [0, inf].

    Returns
    -------
    mass : ndarray of float64
        Numbers in [0, 1].
    """
    if temperature == 0:
        return (scores == best).astype(np.float64)
    # Halves, since a difference of finite numbers may overflow.
    temperature = float(temperature)
    half_behind = scores.astype(np.float64) / 2 - best.astype(np.float64) / 2
    with np.errstate(over="ignore"):  # exp(-inf), far behind at a low temperature
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
        Temperature in [0, inf].
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
    """Raise unless the temperature is a number of 0 or more."""
    # scikit-learn does not validate a temperature that was set after fit.
    if not FloatInterval(Real, 0, np.inf, closed="both").is_satisfied_by(temperature):
        raise ValueError(
            "temperature must be a number of 0 or more (0 selects the best candidate); "
            f"got {temperature!r}."
        )


def check_objective_weights(weights, n_objectives, name="objective_weights"):
    """Validate the weights of the objectives in the value of a candidate.

    Parameters
    ----------
    weights : array-like of shape (n_objectives,) or None
        Weights of any sign; None means equal weights with the sum 1.
    n_objectives : int
        Number of objectives of the probe.
    name : str, default="objective_weights"
        Name of the weights in errors.

    Returns
    -------
    weights : ndarray of float64, of shape (n_objectives,)

    Raises
    ------
    ValueError
        If there is not one finite number per objective.
    """
    if weights is None:
        return np.full(n_objectives, 1 / n_objectives)
    weights = np.asarray(to_host(weights, name))
    if weights.shape != (n_objectives,):
        raise ValueError(
            f"{name} has shape {weights.shape}; pass one number per "
            f"objective of fit's y, ({n_objectives},), or None for equal weights."
        )
    hint = "A weight of 0 leaves an objective out."
    weights = check_numbers(weights, name, hint)
    check_magnitude(weights, name)
    return weights


def check_offset(offset, shape, dtype):
    """Validate the known part of the values, and return it in `dtype`, (n_rows,)."""
    offset = check_values(offset, shape, "offset")
    high = LARGEST if dtype == np.float64 else LARGEST_SINGLE
    check_magnitude(offset, "offset", high=high)
    return offset.reshape(-1).astype(dtype)


def best_candidates(scores, layout):
    """Find the row of the best candidate of each prompt, the first among equals."""
    offsets = layout.offsets
    best = repeat_per_prompt(segment_max(scores, offsets), offsets)
    rows = np.flatnonzero(scores == best)
    return rows[np.searchsorted(rows, offsets[:-1])]
