"""Draws from choice probabilities."""

from numbers import Integral

import numpy as np
from sklearn.utils import check_random_state

from skqprobe._arrays.device import to_namespace_of
from skqprobe._candidates.validation import check_proba, warn_without_groups


def draw_candidates(proba, layout, size, random_state):
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
    return to_namespace_of(
        proba, layout.to_user_index(draw_candidates(rows, layout, size, random_state))
    )
