"""Draws from choice probabilities."""

from numbers import Integral

import numpy as np
from sklearn.utils import check_random_state

from skqprobe._arrays.device import to_namespace_of
from skqprobe._candidates.validation import check_proba, warn_without_groups


def draw_candidates(proba, layout, size, random_state):
    """Draw rows by their probabilities.

    Parameters
    ----------
    proba : ndarray of shape (n_rows,)
        Choice probabilities in prompt order.
    layout : Layout
        Layout of the candidates.
    size : int or None
        Number of draws per prompt, with replacement. None makes one draw and drops the
        axis.
    random_state : int, RandomState instance or None
        Seed or generator of the draws.

    Returns
    -------
    rows : ndarray of int, of shape (n_prompts,) or (n_prompts, size)
        Rows in prompt order.

    Raises
    ------
    ValueError
        If `size` is not None or an integer of 1 or more.
    """
    check_size(size)
    starts = layout.offsets[:-1]
    cumulated = np.cumsum(proba, dtype=np.float64)
    before = cumulated[starts] - proba[starts]
    mass = cumulated[layout.offsets[1:] - 1] - before
    uniform = check_random_state(random_state).random_sample(
        (layout.n_prompts, 1 if size is None else size)
    )
    target = before[:, None] + uniform * mass[:, None]
    rows = np.searchsorted(cumulated, target, side="right")
    # Rounding may move a target past the rows of its prompt that have mass.
    possible = np.flatnonzero(proba > 0)
    first = possible[np.searchsorted(possible, starts)]
    last = possible[np.searchsorted(possible, layout.offsets[1:]) - 1]
    rows = np.clip(rows, first[:, None], last[:, None])
    return rows[:, 0] if size is None else rows


def check_size(size):
    """Raise unless the number of draws is None, or an integer of 1 or more."""
    is_count = isinstance(size, Integral) and not isinstance(size, bool)
    if size is not None and not (is_count and int(size) >= 1):
        raise ValueError(f"size must be None or an integer of 1 or more; got {size!r}.")


def sample_candidates(proba, groups=None, *, size=None, random_state=None):
    """Draw one candidate per prompt by the probabilities of a policy.

    This is :meth:`QProbePolicy.sample` for pipelines and searches, which have the
    method `predict_proba` of a policy, but not its `sample`.

    Parameters
    ----------
    proba : array-like of shape (n_prompts, k) or (n_rows,)
        Choice probabilities. They are non-negative and sum to 1 inside each prompt.
    groups : array-like of shape (n_rows,), default=None
        Prompt labels of the rows: hashable values in any order. Not needed for sets.
    size : int, default=None
        Number of draws per prompt, with replacement. None makes one draw and drops the
        axis.
    random_state : int, RandomState instance or None, default=None
        Seed or generator of the draws.

    Returns
    -------
    chosen : ndarray of int, of shape (n_prompts,) or (n_prompts, size)
        For sets, the index along axis 1. For rows, the position in `proba`, with the
        prompts in order of first appearance.

    Raises
    ------
    ValueError
        If probabilities are negative, not finite, or do not sum to 1 inside a prompt,
        or `size` is not None or an integer of 1 or more.

    Warns
    -----
    UserWarning
        If rows have no groups, so that every row is a prompt of its own.

    See Also
    --------
    QProbePolicy.sample : Draw with a fitted policy.

    Examples
    --------
    >>> from skqprobe import sample_candidates
    >>> proba = [[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]]
    >>> sample_candidates(proba, size=4, random_state=0)
    array([[1, 1, 1, 1],
           [0, 2, 0, 2]])
    """
    probabilities, layout = check_proba(proba, groups)
    warn_without_groups(layout)
    chosen = draw_candidates(probabilities, layout, size, random_state)
    return to_namespace_of(proba, layout.to_user_index(chosen))
