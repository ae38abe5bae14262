"""Dask collections: functions of their partitions, and sums of the results.

No function imports dask, except with a collection as argument.
"""

import operator
import threading
import weakref
from contextlib import contextmanager
from itertools import compress

import numpy as np

from skqprobe._utils.optional import import_optional

FAULTS = MemoryError, TimeoutError, ConnectionError
"""Errors of a cluster, besides those of its package."""

FAN_IN = 16
"""Number of results that one task adds."""


def is_dask(values):
    """Check for any collection of Dask."""
    package = type(values).__module__.partition(".")[0]
    return package == "dask" and hasattr(values, "__dask_graph__")


def is_collection(values):
    """Check for an array, a data frame or a series of Dask."""
    return is_dask(values) and hasattr(values, "_meta")  # a Delayed has any name


def import_dask(module="dask"):
    """Import dask, or one of its modules."""
    return import_optional(module, needed_by="A Dask collection", extra="dask")


class Parts:
    """Objects on the workers of a cluster, one per partition of the data.

    The scheduler computes those of a worker that is lost again, on other workers. Parts
    exist only during a call. If a computation fails, the cluster forgets all of them.

    Parameters
    ----------
    tasks : list of Delayed
        Tasks that make the objects. With a cluster, they start in the background.
    """

    def __init__(self, tasks):
        self.get = import_dask("dask.base").get_scheduler()
        with explain_faults(self.get):
            kept = import_dask().persist(*tasks, scheduler=self.get)
        self._set(list(kept))

    def _set(self, tasks):
        self.tasks = tasks
        _live.parts.add(self)

    @classmethod
    def scatter(cls, values):
        """Make parts of objects in this process, such as settings of each part."""
        delayed = import_dask().delayed
        return cls([delayed(value, traverse=False, pure=False) for value in values])

    def __len__(self):
        return len(self.tasks)

    def values(self):
        """Return the objects."""
        return list(compute(*self.tasks, get=self.get))

    def keep(self, mask):
        """Return some of the parts."""
        kept = object.__new__(Parts)
        kept.get = self.get
        kept._set(list(compress(self.tasks, mask)))
        return kept

    def map(self, function, *shared, each=()):
        """Return the parts ``function(part, *others, *shared)``, as they are computed.

        Parameters
        ----------
        function : callable
            Function, which must not change its arguments.
        *shared : objects
            Arguments for all parts. They are sent once.
        each : sequence of Parts
            Other parts of the same partitions.
        """
        return Parts(self._apply(function, shared, each))

    def collect(self, function, *shared, each=()):
        """Return a list of the results of `map`."""
        return list(compute(*self._apply(function, shared, each), get=self.get))

    def total(self, function, *shared, each=(), add=operator.add):
        """Add the results of `map` in a tree, in the order of the parts.

        The order does not depend on the number of workers. None is not added.
        """
        level = self._apply(function, shared, each)
        join = import_dask().delayed(_join, pure=False)
        while True:
            level = [
                join(add, level[start : start + FAN_IN])
                for start in range(0, len(level), FAN_IN)
            ]
            if len(level) == 1:
                return compute(*level, get=self.get)[0]

    def _apply(self, function, shared, each):
        delayed = import_dask().delayed
        call = delayed(_call, pure=False)
        shared = delayed((function, shared), traverse=False, pure=False)
        columns = zip(self.tasks, *(parts.tasks for parts in each), strict=True)
        return [call(shared, *column) for column in columns]


def _call(shared, *parts):
    function, arguments = shared
    return function(*parts, *arguments)


def _join(add, results):
    results = [result for result in results if result is not None]
    if not results:
        return None
    total = results[0]
    for result in results[1:]:
        total = add(total, result)
    return total


class _Live(threading.local):
    """Parts of the calls in this thread."""

    def __init__(self):
        self.parts: weakref.WeakSet = weakref.WeakSet()


_live = _Live()


def compute(*tasks, get=None):
    """Compute tasks, which are optimized already, by the scheduler `get`."""
    with explain_faults(get):
        return import_dask().compute(*tasks, optimize_graph=False, scheduler=get)


@contextmanager
def explain_faults(get=None):
    """Explain errors of the cluster, and forget the parts after any error."""
    client = getattr(get, "__self__", None)
    try:
        status = getattr(client, "status", "running")
        if status != "running":
            raise ConnectionError(f"the client is {status}.")
        yield
    except BaseException as error:
        _forget_parts(client)
        package = type(error).__module__.partition(".")[0]
        is_fault = package in ("distributed", "concurrent", "asyncio", "tornado")
        if not (is_fault or isinstance(error, FAULTS)):
            raise
        raise RuntimeError(
            f"The Dask cluster failed with {type(error).__name__}: {error} If a worker "
            "was lost or out of memory, make the partitions of X smaller (X.rechunk), "
            "or give each worker more memory (memory_limit). If the scheduler was "
            "lost, connect a new Client. The estimator is unchanged: repeat the call."
        ) from error


def in_partition(error, start):
    """Make the error of a partition from that of a function of its arrays."""
    return type(error)(f"{error} (In the partition that begins at X[{start}].)")


def _forget_parts(client):
    """Cancel all parts, which the traceback of an error would keep on the workers."""
    tasks = [task for parts in _live.parts for task in parts.tasks]
    for parts in list(_live.parts):
        parts.tasks = []
    if getattr(client, "status", None) == "running":
        client.cancel(import_dask("distributed").futures_of(tasks))


def generator_states(random_state, sizes, draw):
    """List the states of a generator before the draws for each part.

    Parameters
    ----------
    random_state : RandomState instance
        Generator, which is advanced as by the draws for all parts at once.
    sizes : list of int
        Number of draws for each part.
    draw : callable
        Function ``draw(random_state, size)``.
    """
    states = []
    for size in sizes:
        states.append(random_state.get_state())
        for start in range(0, size, 2**20):
            draw(random_state, min(2**20, size - start))
    return states


def add_each(first, second):
    """Add the entries of two tuples or lists."""
    return [one + other for one, other in zip(first, second, strict=True)]


def row_chunks(array, n_rows):
    """Rechunk an array along its first axis, with the other axes in one piece."""
    whole = dict.fromkeys(range(1, array.ndim), -1)
    return array.rechunk({0: tuple(map(int, n_rows)), **whole})


def as_array(values, sizes):
    """Convert values with one entry per row of X to an array with its partitions."""
    da = import_dask("dask.array")
    if isinstance(values, np.ndarray):
        values = da.from_array(values, chunks=-1)
    return row_chunks(values, sizes)
