"""From scores to a choice: probabilities, the best candidate, a draw."""

import warnings
from numbers import Integral, Real

import numpy as np
from sklearn.utils import check_random_state

from skqprobe._array_api import like
from skqprobe._candidates import NO_GROUPS, check_scored
from skqprobe._segments import segment_max, segment_sum, spread


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
    best = spread(segment_max(scores, offsets), offsets)
    mass = choice_mass(scores, best, temperature)
    if weight is not None:
        mass = mass * weight
    proba = mass / spread(segment_sum(mass, offsets), offsets)
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


def choice_reward(scores, rewards, layout, temperature, prompt_weight, row_weight=None):
    """Compute the expected reward of the choice, the mean over prompts.

    Parameters
    ----------
    scores, rewards : ndarray of shape (n_rows,)
        Probe values and rewards, prompt by prompt.
    layout, temperature
        See `choice_probabilities`.
    prompt_weight : ndarray of shape (n_prompts,)
        Weights of the prompts in the mean.
    row_weight : ndarray of shape (n_rows,), default=None
        How many copies there are of each row.

    Returns
    -------
    reward : float
    """
    scores = scores.astype(np.float64)
    proba = choice_probabilities(scores, layout, temperature, row_weight)
    reward = segment_sum(proba * rewards, layout.offsets)
    return float(np.average(reward, weights=prompt_weight))


def check_temperature(temperature):
    """Raise unless the temperature is a number from 0 up."""
    # It may have been set after fit, so that no other check has seen it.
    if not (isinstance(temperature, Real) and float(temperature) >= 0):
        raise ValueError(
            f"temperature must be a number of 0 or more (0 takes the best candidate); "
            f"got {temperature!r}."
        )


def best_rows(scores, layout):
    """Row of the best candidate of each prompt, the first among equals."""
    offsets = layout.offsets
    best = np.flatnonzero(scores == spread(segment_max(scores, offsets), offsets))
    return best[np.searchsorted(best, offsets[:-1])]


def draw_rows(proba, layout, size, random_state):
    """Draw rows by their probabilities: (n_prompts,), or (n_prompts, size)."""
    is_count = isinstance(size, Integral) and not isinstance(size, bool)
    if size is not None and not (is_count and int(size) >= 1):
        raise ValueError(f"size must be None or an integer of 1 or more; got {size!r}.")
    starts = layout.offsets[:-1]
    cumulated = np.cumsum(proba, dtype=np.float64)
    before = cumulated[starts] - proba[starts]
    mass = cumulated[layout.offsets[1:] - 1] - before
    uniform = check_random_state(random_state).random_sample(
        (layout.n_prompts, 1 if size is None else size)
    )
    target = before[:, None] + uniform * mass[:, None]
    rows = np.searchsorted(cumulated, target, side="right")
    # Rounding may carry a target to its prompt's edge: back to a row that has mass.
    possible = np.flatnonzero(proba > 0)
    first = possible[np.searchsorted(possible, starts)]
    last = possible[np.searchsorted(possible, layout.offsets[1:]) - 1]
    rows = np.clip(rows, first[:, None], last[:, None])
    return rows[:, 0] if size is None else rows


def sample_candidates(proba, groups=None, *, size=None, random_state=None):
    """Draw a candidate for each prompt by the probabilities of a policy.

    What :meth:`QProbePolicy.sample` does, for use behind a pipeline or a search, which
    pass on `predict_proba` but not `sample`.

    Parameters
    ----------
    proba : array-like of shape (n_prompts, k) or (n_rows,)
        Choice probabilities; non-negative, and of sum 1 inside each prompt.
    groups : array-like of shape (n_rows,), default=None
        For rows: the labels of the prompts, any hashable values in any order.
    size : int, default=None
        How many draws to make a prompt, with replacement; None makes one and leaves
        out the axis.
    random_state : int, RandomState instance or None, default=None
        Determines the draws.

    Returns
    -------
    chosen : ndarray of int, of shape (n_prompts,) or (n_prompts, size)
        For sets the index along axis 1; for rows the position in `proba`, prompts in
        the order of their first appearance.

    Raises
    ------
    ValueError
        If the probabilities are negative, not finite, or do not sum to 1 in a prompt.

    Examples
    --------
    >>> from skqprobe import sample_candidates
    >>> proba = [[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]]
    >>> sample_candidates(proba, size=4, random_state=0)
    array([[1, 1, 1, 1],
           [0, 2, 0, 2]])
    """
    rows, layout = check_proba(proba, groups)
    warn_without_groups(layout)
    return like(proba, layout.answer(draw_rows(rows, layout, size, random_state)))


def check_proba(proba, groups):
    """Validate choice probabilities.

    Returns
    -------
    proba : ndarray of shape (n_rows,), of float64
        Prompt by prompt.
    layout : Layout
    """
    rows, layout = check_scored(proba, groups, "proba")
    check_sums_to_one(rows, layout)
    return rows, layout


def check_sums_to_one(proba, layout):
    """Raise unless these are choice probabilities, prompt by prompt."""
    total = segment_sum(proba, layout.offsets)
    if (proba < 0).any() or (abs(total - 1) > 1e-3).any():
        raise ValueError(
            "proba must be non-negative and sum to 1 inside each prompt; the lowest is "
            f"{proba.min():.3g}, and the sums go from {total.min():.3g} to "
            f"{total.max():.3g}."
        )


def warn_without_groups(layout, stacklevel=3):
    """Warn that rows without groups leave nothing to choose."""
    if not layout.grouped and layout.n_rows > 1:
        warnings.warn(NO_GROUPS, UserWarning, stacklevel=stacklevel)
