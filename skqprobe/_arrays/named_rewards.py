"""Rewards of several objectives as arrays, with the names of the objectives."""

from collections.abc import Mapping

import numpy as np


class NamedRewards(np.ndarray):
    """Array whose last axis has the objectives, with their names.

    Rows, copies, other dtypes and other shapes with the same last axis have the names,
    too.

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

    def _with_names(self, array):
        array.objective_names = self.objective_names
        return array

    def copy(self, order="C"):
        """Copy the array; see :meth:`numpy.ndarray.copy`."""
        return self._with_names(super().copy(order))

    def astype(self, dtype, *args, **options):
        """Convert to another dtype; see :meth:`numpy.ndarray.astype`."""
        return self._with_names(super().astype(dtype, *args, **options))

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    def __reduce__(self):
        make, arguments, state = tuple(super().__reduce__())
        return make, arguments, (state, self.objective_names)

    def __setstate__(self, state):
        state, self.objective_names = state
        super().__setstate__(state)

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
    if len(shapes := set(map(np.shape, rows))) > 1:
        raise ValueError(f"they have the shapes {sorted(shapes)}")
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
