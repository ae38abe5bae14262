"""Rows of X in the partitions of a Dask collection, apart from what belongs to them.

Workers keep an X that fits in their memory. Any other X is read again from its source
in each call that needs it, which costs less than a copy on disk.
"""

import os
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np

from skqprobe._arrays.blocks import take_rows
from skqprobe._arrays.collections import (
    Parts,
    explain_faults,
    import_dask,
    scheduler,
)

KEPT_SHARE = 0.5
"""Part of the memory of all workers that X may take. Dask spills from 0.6 on."""


class Recipe:
    """Function that computes a block of a Dask array in this process.

    Parameters
    ----------
    graph : dict
        Tasks, on which the block depends.
    key : tuple
        Key of the block.
    """

    def __init__(self, graph, key):
        self.graph, self.key = graph, key

    def __call__(self):
        """Compute the block."""
        return import_dask().get(self.graph, self.key)


def fits(array):
    """Whether the workers keep an array: it is there, or fits in their memory."""
    get, client = scheduler()
    if client is not None and import_dask("distributed").futures_of(array):
        return True
    with explain_faults(get):
        return array.nbytes <= KEPT_SHARE * _memory(client)


def recipes_of(array):
    """List how to compute each block of an array, as a `Recipe`."""
    graph, cull = dict(array.__dask_graph__()), import_dask("dask.optimization").cull
    keys = import_dask("dask.core").flatten(array.__dask_keys__())
    return [Recipe(cull(graph, [key])[0], key) for key in keys]


def _memory(client):
    """Bytes of memory of all workers, or of this machine; infinite if unknown."""
    if client is None:
        if not hasattr(os, "sysconf"):
            return np.inf
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = client.run_on_scheduler(_memory_limits)
    return sum(limits) if limits and all(limits) else np.inf


def _memory_limits(dask_scheduler):
    return [worker.memory_limit for worker in dask_scheduler.workers.values()]


class PartRows:
    """Rows of a partition, which are in memory during a call only.

    Parameters
    ----------
    shape, dtype
        Shape and type of the rows, after checks.
    source : Recipe or None
        How to read them again; None if they are given to each call.
    """

    ndim = 2

    def __init__(self, shape, dtype, source):
        self.shape, self.dtype, self.source = shape, dtype, source
        self.itemsize, self.lock, self._rows = dtype.itemsize, Lock(), None

    def __reduce__(self):
        return PartRows, (self.shape, self.dtype, self.source)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        if self._rows is None:
            self._set(self.source())
        return take_rows(self._rows, rows)

    def _set(self, block):
        rows = np.asarray(block).reshape(self.shape).astype(self.dtype, copy=False)
        # A message leaves arrays unaligned, of which numpy adds the products in another
        # order, and slowly.
        self._rows = np.require(rows, None, "A")

    @contextmanager
    def at_hand(self, block=None):
        """Have the rows in memory, those of a block if one is given."""
        with self.lock:
            try:
                if block is not None:
                    self._set(block)
                yield
            finally:
                self._rows = None


@dataclass(frozen=True)
class RowParts:
    """Parts with rows of X, which functions of a part can read.

    The methods are those of `Parts`, with an option `reads`: whether X is read.

    Parameters
    ----------
    parts : Parts
        Objects with an attribute `X`, their `PartRows`.
    rows : Parts or None
        Blocks of X; None if they are read again.
    """

    parts: Parts
    rows: Any

    def keep(self, mask):
        """Return some of the parts."""
        rows = None if self.rows is None else self.rows.keep(mask)
        return RowParts(self.parts.keep(mask), rows)

    def map(self, function, *shared, **options):
        """Leave the results of a function of each part on the workers."""
        return self._call(self.parts.map, function, shared, **options)

    def collect(self, function, *shared, **options):
        """List the results of a function of each part."""
        return self._call(self.parts.collect, function, shared, **options)

    def total(self, function, *shared, **options):
        """Add the results of a function of each part."""
        return self._call(self.parts.total, function, shared, **options)

    def _call(self, method, function, shared, each=(), reads=True, **options):
        is_given = reads and self.rows is not None
        each = [self.rows, *each] if is_given else each
        return method(_WithRows(function, is_given), *shared, each=each, **options)


class _WithRows:
    """Function of a part whose rows of X are at hand.

    Parameters
    ----------
    function : callable
        Function of the part.
    is_given : bool
        Whether the block of X is the second argument.
    """

    def __init__(self, function, is_given):
        self.function, self.is_given = function, is_given
        self.__name__ = getattr(function, "__name__", "call")

    def __call__(self, part, *arguments):
        block = None
        if self.is_given:
            block, arguments = arguments[0], arguments[1:]
        with part.X.at_hand(block):
            return self.function(part, *arguments)
