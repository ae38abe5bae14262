"""Rewards of several objectives as arrays, with the names of the objectives."""

from collections.abc import Mapping

import numpy as np

from skqprobe._arrays.last_axis import LastAxisArray


class NamedRewards(LastAxisArray):
    """Array whose last axis has the objectives, with their names.

    Attributes
    ----------
    objective_names : list of str or None
        Names of the objectives.
    """

    @property
    def objective_names(self):
        """Names of the objectives."""
        return self.last_axis

    @objective_names.setter
    def objective_names(self, names):
        self.last_axis = names


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
