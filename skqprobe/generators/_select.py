"""select_candidates: the candidates of each prompt that are to be rewarded."""

from numbers import Integral

import numpy as np
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state, gen_batches

from skqprobe._arrays.blocks import row_blocks
from skqprobe._arrays.device import to_host
from skqprobe._arrays.magnitude import LARGEST
from skqprobe._candidates.layout import check_layout
from skqprobe._candidates.validation import (
    check_candidates,
    check_limits,
    warn_without_groups,
)
from skqprobe._utils.estimator import BaseEstimator

ENTRIES_AT_ONCE = 2**22
"""Number of entries of X that are compared at a time: 32 MiB."""


def select_candidates(X, n_select, groups=None, random_state=None):
    """Select candidates that differ, to have only these rewarded.

    The first one is the candidate farthest from the mean of its prompt. Each next one
    is the candidate whose nearest selected one is farthest (farthest-first traversal
    [1]_). Columns are divided by their standard deviation over all candidates, and
    centered within prompts. No rewards are needed.

    Parameters
    ----------
    X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
        Embeddings of (prompt, completion) pairs, as sets or rows.
    n_select : int
        Number of candidates per prompt.
    groups : array-like of shape (n_rows,), default=None
        Prompt labels of the rows: hashable values in any order. Not needed for sets.
    random_state : int, RandomState instance or None, default=None
        Seed or generator of the choice among candidates at the same distance, such as
        duplicates.

    Returns
    -------
    selected : ndarray of int, of shape (n_prompts, n_select)
        Selected candidates of each prompt, in the order of the selection. For sets, the
        indices along axis 1. For rows, the positions in X, with the prompts in order of
        first appearance.

    Raises
    ------
    ValueError
        If a prompt has fewer than `n_select` candidates, or an argument is malformed.

    Warns
    -----
    UserWarning
        If rows have no groups, so that every row is a prompt of its own.

    See Also
    --------
    collect : Collect rewards; with `n_rewards`, of candidates selected in this way.

    References
    ----------
    .. [1] Gonzalez, "Clustering to minimize the maximum intercluster distance",
       Theoretical Computer Science 38, 1985, pages 293-306.

    Examples
    --------
    >>> from skqprobe.generators import select_candidates
    >>> X = [[[0.0], [0.1], [1.0], [5.0]], [[3.0], [3.0], [3.1], [0.0]]]
    >>> select_candidates(X, 2, random_state=0)
    array([[3, 0],
           [3, 2]])
    """
    if not isinstance(n_select, Integral) or isinstance(n_select, bool) or n_select < 1:
        raise ValueError(f"n_select must be an integer of 1 or more; got {n_select!r}.")
    X, shape = check_candidates(BaseEstimator(), to_host(X, "X"), reset=True)
    check_limits(X, shape, 0.0, LARGEST)
    layout = check_layout(shape, groups)
    warn_without_groups(layout)
    if layout.sizes.min() < n_select:
        raise ValueError(
            f"n_select={n_select}, but a prompt has {layout.sizes.min()} candidates; "
            "leave such prompts out, or select fewer."
        )
    scaler = StandardScaler()
    for rows in row_blocks(X):
        scaler.partial_fit(X[rows])
    tie = check_random_state(random_state).random_sample(layout.n_rows)
    selected = np.empty((layout.n_prompts, n_select), dtype=np.intp)
    for prompts, rows in layout.by_size():
        n_entries = rows.shape[1] * X.shape[1]
        for block in gen_batches(len(rows), max(1, ENTRIES_AT_ONCE // n_entries)):
            part = np.take_along_axis(rows[block], tie[rows[block]].argsort(axis=1), 1)
            places = part if layout.order is None else layout.order[part]
            picked = _farthest_first(X[places] / scaler.scale_, n_select)
            selected[prompts[block]] = np.take_along_axis(part, picked, axis=1)
    return layout.to_user_index(selected)


def _farthest_first(Z, n_select):
    """Return the indices of candidates that differ, from (n_prompts, k, d)."""
    every = np.arange(len(Z))
    picked = np.empty((len(Z), n_select), dtype=np.intp)
    nearest = _squared_norm(Z - Z.mean(axis=1, keepdims=True))
    for i in range(n_select):
        picked[:, i] = nearest.argmax(axis=1)
        distance = _squared_norm(Z - Z[every, picked[:, i]][:, None])
        nearest = distance if i == 0 else np.minimum(nearest, distance)
        nearest[every[:, None], picked[:, : i + 1]] = -1
    return picked


def _squared_norm(Z):
    return np.einsum("pkd,pkd->pk", Z, Z)
