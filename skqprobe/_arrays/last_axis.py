"""Arrays that keep a description of their last axis."""

from typing import Any

import numpy as np


class LastAxisArray(np.ndarray):
    """Array with a description of its last axis, such as names.

    Rows, copies, other dtypes and other shapes with the same last axis have the
    description, too. Other results have none, and those of arithmetic are plain.

    Attributes
    ----------
    last_axis : object
        Description of the last axis, or None.
    """

    last_axis: Any = None

    def __getitem__(self, index):
        part = super().__getitem__(index)
        is_pair = isinstance(index, tuple) and len(index) == 2
        rows = index[0] if is_pair and index[1] is Ellipsis else index
        if not isinstance(rows, tuple) and np.ndim(rows) < self.ndim > 1:
            part.last_axis = self.last_axis
        return part

    def __array_wrap__(self, array, context=None, return_scalar=False):
        """Return results of arithmetic as plain arrays or numbers."""
        if array is self:  # in place
            return self
        plain = np.asarray(array)
        return plain if plain.ndim else plain[()]

    def _described(self, array):
        array.last_axis = self.last_axis
        return array

    def copy(self, order="C"):
        """Copy the array; see :meth:`numpy.ndarray.copy`."""
        return self._described(super().copy(order))

    def astype(self, dtype, *args, **options):
        """Convert to another dtype; see :meth:`numpy.ndarray.astype`."""
        return self._described(super().astype(dtype, *args, **options))

    def take(self, indices, axis=None, out=None, mode="raise"):
        """Select elements along an axis; see :meth:`numpy.ndarray.take`."""
        taken = super().take(indices, axis, out, mode)
        is_kept = axis is not None and axis % self.ndim < self.ndim - 1
        return self._described(taken) if is_kept and out is None else taken

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    def __reduce__(self):
        make, arguments, state = tuple(super().__reduce__())
        return make, arguments, (state, self.last_axis)

    def __setstate__(self, state):
        state, self.last_axis = state
        super().__setstate__(state)

    def reshape(self, *shape, **options):
        """Change the shape; see :meth:`numpy.ndarray.reshape`."""
        reshaped = super().reshape(*shape, **options)
        if reshaped.shape[-1:] == self.shape[-1:]:
            reshaped.last_axis = self.last_axis
        return reshaped
