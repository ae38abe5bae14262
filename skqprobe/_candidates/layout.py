"""Layouts: where the candidates of each prompt are in X, y, groups and weights.

Sets are an X of shape (n_prompts, k, d); rows are an X of shape (n_rows, d) with one
group label per row. The other modules see candidates in prompt order, and the offsets
where each prompt begins.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from skqprobe._candidates.labels import check_groups, encode_labels
from skqprobe._candidates.segments import (
    stable_order,
)


@dataclass(frozen=True)
class Layout:
    """Which rows belong to which prompt.

    Parameters
    ----------
    shape : tuple of int
        The leading shape of what the user gave: (n_prompts, k) for sets, (n_rows,) for
        rows.
    offsets : ndarray of shape (n_prompts + 1,)
        Prompt p has the rows ``offsets[p]`` to ``offsets[p + 1] - 1``, counted prompt
        by prompt.
    order : ndarray of shape (n_rows,) or None
        Where those rows lie in the user's (flattened) arrays; None when they lie there
        prompt by prompt already.
    grouped : bool
        False for rows without groups, where every row is a prompt of its own.
    """

    shape: tuple[int, ...]
    offsets: np.ndarray
    order: np.ndarray | None = None
    grouped: bool = True

    @cached_property
    def sizes(self):
        """Number of candidates by prompt."""
        return np.diff(self.offsets)

    @property
    def n_prompts(self):
        """Number of prompts."""
        return len(self.offsets) - 1

    @property
    def n_rows(self):
        """Number of candidates, over all prompts."""
        return self.offsets[-1]

    def to_prompt_order(self, values):
        """Reorder values from user order, in the leading shape; None stays None."""
        if values is None:
            return None
        values = values.reshape(-1)
        return values if self.order is None else values[self.order]

    def to_user_order(self, values):
        """Bring values that lie prompt by prompt into the user's leading shape."""
        if self.order is not None:
            ordered, values = values, np.empty_like(values)
            values[self.order] = ordered
        return values.reshape(self.shape)

    def to_user_index(self, rows):
        """Name chosen rows as the user counts: along axis 1 in sets, else in X.

        `rows` has prompts on axis 0.
        """
        if len(self.shape) == 2 or not self.grouped:
            starts = self.offsets[:-1]
            return rows - starts.reshape((-1,) + (1,) * (rows.ndim - 1))
        return rows if self.order is None else self.order[rows]

    def keep(self, mask):
        """Leave out the rows where mask is False, and prompts left without any."""
        order = np.arange(len(mask)) if self.order is None else self.order
        sizes = np.add.reduceat(mask, self.offsets[:-1], dtype=np.intp)
        return replace(self, order=order[mask], offsets=_offsets(sizes[sizes > 0]))

    def by_size(self):
        """Yield the prompts of each size, and their rows: (n_such_prompts, size)."""
        sizes, counts = np.unique(self.sizes, return_counts=True)
        of_size = np.split(stable_order(self.sizes), np.cumsum(counts)[:-1])
        for size, prompts in zip(sizes, of_size, strict=True):
            yield prompts, self.offsets[prompts][:, None] + np.arange(size)

    def split(self, n_candidates, random_state):
        """Deal each prompt's candidates into random sets of about equal size.

        Returns
        -------
        layout : Layout
            With one prompt a set, of at most `n_candidates` candidates each.
        n_sets : ndarray of shape (n_prompts,)
            In how many sets each prompt was dealt.
        """
        n_sets = -(-self.sizes // n_candidates)
        prompt = np.repeat(np.arange(self.n_prompts), self.sizes)
        shuffled = np.argsort(random_state.random_sample(self.n_rows), kind="stable")
        shuffled = shuffled[stable_order(prompt[shuffled])]
        rank = np.arange(self.n_rows) - np.repeat(self.offsets[:-1], self.sizes)
        first_set = np.concatenate(([0], np.cumsum(n_sets[:-1])))
        label = first_set[prompt] + rank % n_sets[prompt]
        dealt = shuffled[stable_order(label)]
        order = dealt if self.order is None else self.order[dealt]
        return (
            replace(self, order=order, offsets=_offsets(np.bincount(label))),
            n_sets,
        )


def _offsets(sizes):
    return np.concatenate(([0], np.cumsum(sizes))).astype(np.intp)


def check_layout(shape, groups=None):
    """Make the layout of arrays with this leading shape.

    Parameters
    ----------
    shape : tuple of int
        (n_prompts, k) or (n_rows,).
    groups : array-like of shape (n_rows,), or (n_prompts,) with sets, default=None
        Labels of the prompts, any hashable values, in any order. Sets know their
        prompts; groups are then only checked, so that a splitter may have them.

    Returns
    -------
    layout : Layout
        Prompts stand in the order of their first appearance.
    """
    if 0 in shape:
        raise ValueError(f"There are no candidates: the shape is {shape}.")
    if groups is not None:
        groups = check_groups(groups, shape)
    if len(shape) == 2:
        n_prompts, k = shape
        return Layout(shape, np.arange(n_prompts + 1, dtype=np.intp) * k)
    if groups is None:
        return Layout(shape, np.arange(shape[0] + 1, dtype=np.intp), grouped=False)
    # Labels are compared once a run of equal ones: in most data a prompt is one run.
    starts = np.flatnonzero(np.concatenate(([True], groups[1:] != groups[:-1])))
    prompts = encode_labels(groups[starts])
    if prompts[-1] == len(prompts) - 1:
        return Layout(shape, np.append(starts, shape[0]))
    codes = np.repeat(prompts, np.diff(np.append(starts, shape[0])))
    return Layout(shape, _offsets(np.bincount(codes)), stable_order(codes))
