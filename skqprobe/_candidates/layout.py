"""Layouts: positions of the candidates of each prompt in X, y, groups and weights.

Sets are an X of shape (n_prompts, k, d). Rows are an X of shape (n_rows, d) with one
label per row. Other modules use candidates in prompt order, and the offsets at which
the prompts begin.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from skqprobe._candidates.labels import check_groups, encode_labels
from skqprobe._candidates.segments import stable_order


@dataclass(frozen=True)
class Layout:
    """Positions of the candidates of each prompt in the arrays of the user.

    Parameters
    ----------
    shape : tuple of int
        Leading shape of the user's arrays: (n_prompts, k) for sets, (n_rows,) for rows.
    offsets : ndarray of int, of shape (n_prompts + 1,)
        Beginnings of the prompts: in prompt order, prompt p has the rows ``offsets[p]``
        to ``offsets[p + 1] - 1``.
    order : ndarray of int, of shape (n_rows,), or None
        Positions of the rows, in prompt order, in the user's flattened arrays. None if
        user order is prompt order.
    grouped : bool, default=True
        Whether rows share prompts. False for rows without groups, where every row is a
        prompt of its own.
    """

    shape: tuple[int, ...]
    offsets: np.ndarray
    order: np.ndarray | None = None
    grouped: bool = True

    @cached_property
    def sizes(self):
        """Number of candidates of each prompt."""
        return np.diff(self.offsets)

    @property
    def n_prompts(self):
        """Number of prompts."""
        return len(self.offsets) - 1

    @property
    def n_rows(self):
        """Number of candidates of all prompts."""
        return self.offsets[-1]

    def to_prompt_order(self, values):
        """Reorder values from user order to prompt order; None stays None.

        Values may have a last axis of objectives.
        """
        if values is None:
            return None
        values = values.reshape(-1, *values.shape[len(self.shape) :])
        return values if self.order is None else values[self.order]

    def to_user_order(self, values):
        """Reorder values from prompt order to user order and shape."""
        if self.order is not None:
            ordered, values = values, np.empty_like(values)
            values[self.order] = ordered
        return values.reshape(*self.shape, *values.shape[1:])

    def to_user_index(self, rows):
        """Convert chosen rows to the user's indexing.

        Parameters
        ----------
        rows : ndarray of int, of shape (n_prompts,) or (n_prompts, size)
            Chosen rows of each prompt, in prompt order.

        Returns
        -------
        index : ndarray of int, of the same shape
            For sets, the index along axis 1. For rows, the position in X; without
            groups, 0 as in sets of one candidate.
        """
        if len(self.shape) == 2 or not self.grouped:
            starts = self.offsets[:-1]
            return rows - starts.reshape((-1,) + (1,) * (rows.ndim - 1))
        return rows if self.order is None else self.order[rows]

    def keep(self, mask):
        """Keep the rows where `mask` is True, in prompt order, and prompts with any."""
        order = np.arange(len(mask)) if self.order is None else self.order
        sizes = np.add.reduceat(mask, self.offsets[:-1])
        return replace(self, order=order[mask], offsets=_offsets(sizes[sizes > 0]))

    def by_size(self):
        """Yield the prompts of each size, and their rows, (n_such_prompts, size)."""
        sizes, counts = np.unique(self.sizes, return_counts=True)
        of_size = np.split(stable_order(self.sizes), np.cumsum(counts)[:-1])
        for size, prompts in zip(sizes, of_size, strict=True):
            yield prompts, self.offsets[prompts][:, None] + np.arange(size)

    def split(self, n_candidates, random_state):
        """Split the candidates of each prompt into random sets of about equal size.

        Parameters
        ----------
        n_candidates : int
            Maximum number of candidates in a set.
        random_state : RandomState instance
            Generator of the split.

        Returns
        -------
        layout : Layout
            Layout with each set as a prompt. The sets of a prompt are consecutive.
        n_sets : ndarray of int, of shape (n_prompts,)
            Number of sets of each prompt.
        """
        n_sets = -(-self.sizes // min(n_candidates, self.n_rows))
        prompt = np.repeat(np.arange(self.n_prompts), self.sizes)
        shuffled = np.argsort(random_state.random_sample(self.n_rows))
        shuffled = shuffled[stable_order(prompt[shuffled])]
        rank = np.arange(self.n_rows) - np.repeat(self.offsets[:-1], self.sizes)
        first_set = np.concatenate(([0], np.cumsum(n_sets[:-1])))
        label = first_set[prompt] + rank % n_sets[prompt]
        rows = shuffled[stable_order(label)]
        order = rows if self.order is None else self.order[rows]
        layout = replace(self, order=order, offsets=_offsets(np.bincount(label)))
        return layout, n_sets


def _offsets(sizes):
    """Compute the beginnings of prompts from their sizes."""
    return np.concatenate(([0], np.cumsum(sizes)))


def check_layout(shape, groups=None):
    """Make the layout of arrays with this leading shape.

    Parameters
    ----------
    shape : tuple of int
        Leading shape, (n_prompts, k) or (n_rows,).
    groups : array-like of shape (n_rows,), or (n_prompts,) for sets, default=None
        Prompt labels: hashable values in any order. For sets, they are validated only:
        a splitter may need them, but the layout does not.

    Returns
    -------
    layout : Layout
        Layout with the prompts in order of first appearance.

    Raises
    ------
    ValueError
        If there are no candidates, or `groups` is malformed.
    """
    if 0 in shape:
        raise ValueError(f"There are no candidates: the shape is {shape}.")
    if groups is not None:
        groups = check_groups(groups, shape)
    if len(shape) == 2:
        n_prompts, k = shape
        return Layout(shape, np.arange(n_prompts + 1) * k)
    if groups is None:
        return Layout(shape, np.arange(shape[0] + 1), grouped=False)
    # Encode one label per run of equal labels: in most data, a prompt is one run.
    starts = np.flatnonzero(np.concatenate(([True], groups[1:] != groups[:-1])))
    prompts = encode_labels(groups[starts])
    if prompts[-1] == len(prompts) - 1:
        return Layout(shape, np.append(starts, shape[0]))
    codes = np.repeat(prompts, np.diff(np.append(starts, shape[0])))
    return Layout(shape, _offsets(np.bincount(codes)), stable_order(codes))
