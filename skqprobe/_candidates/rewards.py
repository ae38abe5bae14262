"""Rewards of candidates: one number, or one per objective."""

from collections.abc import Mapping

import numpy as np

from skqprobe._arrays.device import to_host
from skqprobe._candidates.validation import (
    check_numbers,
    check_values,
    list_to_array,
    wrong_shape,
)
from skqprobe._utils.sklearn_compat import column_names


class NamedRewards(np.ndarray):
    """Array whose last axis has the objectives, with their names.

    Rows of it, and other shapes with the same last axis, have the names, too.

    Attributes
    ----------
    objective_names : list of str or None
        Names of the objectives.
    """

    objective_names: list[str] | None = None

    def __getitem__(self, index):
        part = super().__getitem__(index)
        is_pair = isinstance(index, tuple) and len(index) == 2
        rows = index[0] if is_pair and index[1] is Ellipsis else index
        if not isinstance(rows, tuple) and np.ndim(rows) < self.ndim > 1:
            part.objective_names = self.objective_names
        return part

    def reshape(self, *shape, **options):
        """Change the shape; see :meth:`numpy.ndarray.reshape`."""
        reshaped = super().reshape(*shape, **options)
        if reshaped.shape[-1:] == self.shape[-1:]:
            reshaped.objective_names = self.objective_names
        return reshaped


def stack_rewards(rewards):
    """Make an array from rewards that are numbers, sequences, or dicts of numbers.

    Parameters
    ----------
    rewards : list
        Rewards of the candidates, all of one kind. None is a reward that failed.

    Returns
    -------
    rewards : ndarray of shape (n_rows,) or (n_rows, n_objectives)
        Rewards, with NaN for those that failed; NamedRewards if they are dicts.

    Raises
    ------
    TypeError, ValueError
        If a reward is not made of numbers, or rewards differ in kind.
    """
    first = next((reward for reward in rewards if reward is not None), 0.0)
    names = list(first) if isinstance(first, Mapping) else None
    failed = np.full(np.shape(first if names is None else names), np.nan)
    rows = [failed if r is None else _numbers(r, names) for r in rewards]
    stacked = np.array(rows, dtype=np.float64)
    if names is None:
        return stacked
    named = stacked.view(NamedRewards)
    named.objective_names = names
    return named


def _numbers(reward, names):
    """Order the numbers of a dict by the names of all rewards."""
    if names is None:
        return reward
    if not (isinstance(reward, Mapping) and reward.keys() == set(names)):
        raise ValueError(f"one has the objectives {names}, but another is {reward!r}")
    return [reward[name] for name in names]


def check_rewards(y, shape):
    """Validate rewards.

    Parameters
    ----------
    y : array-like of shape (n_prompts, k) or (n_rows,), or with a last axis of \
            objectives
        Rewards in user order. Each may also be a dict of named rewards.
    shape : tuple of int
        Leading shape of X.

    Returns
    -------
    rewards : ndarray of float64, of this shape, or (*shape, n_objectives)
    names : ndarray of str, of shape (n_objectives,), or None
        Names of the objectives, if `y` has them.

    Raises
    ------
    ValueError
        If the rewards are not finite, or of another shape.
    """
    y = to_host(y, "y")
    if not hasattr(y, "shape"):
        y = list_to_array(y, "y", "(n_rows,) or (n_rows, n_objectives)")
    if _holds_dicts(y):
        y = stack_rewards(np.ravel(y).tolist()).reshape(*np.shape(y), -1)
    if len(y.shape) <= len(shape):
        return check_values(y, shape, "y"), None
    named = isinstance(y, NamedRewards)
    names = y.objective_names if named else column_names(y)
    if tuple(y.shape[:-1]) != shape or y.shape[-1] == 0:
        expected = ", ".join(map(str, shape))
        raise ValueError(
            f"{wrong_shape('y', tuple(y.shape), shape)}, or ({expected}, n_objectives) "
            "with at least one objective."
        )
    y = check_numbers(np.asarray(y), "y", "Leave the candidate out, as rows.")
    return y, None if names is None else np.asarray(names, dtype=object)


def _holds_dicts(y):
    """Check for an array of named rewards."""
    is_object = getattr(getattr(y, "dtype", None), "kind", "") == "O"
    return is_object and np.size(y) > 0 and isinstance(np.ravel(y)[0], Mapping)
