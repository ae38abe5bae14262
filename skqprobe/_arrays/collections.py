"""Dask collections: functions of their partitions, and sums of the results.

No function imports dask, except with a collection as argument.
"""

import operator
import pickle
import threading
import weakref
from contextlib import contextmanager
from itertools import compress
from typing import Any
from uuid import uuid4

import numpy as np

from skqprobe._utils.optional import import_optional

FAULTS = MemoryError, TimeoutError, ConnectionError
"""Errors of a cluster, besides those of its package."""

FAN_IN = 16
"""Number of results that one task adds."""

SMALL_BYTES = 2**15
"""Number of bytes of a function and its arguments that each of its tasks may have."""


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

    Attributes
    ----------
    tasks : list
        The objects, or their futures on a cluster.
    """

    def __init__(self, tasks):
        get, client = scheduler()
        with explain_faults(get):
            if client is None:
                tasks = import_dask().compute(*tasks, scheduler=get)
            else:
                tasks = client.compute(tasks)
        self._set(tasks, get, client)

    def _set(self, tasks, get, client):
        self.tasks, self.get, self.client = list(tasks), get, client
        _live.parts.add(self)
        return self

    @classmethod
    def scatter(cls, values):
        """Make parts of objects in this process, such as settings of each part."""
        nothing = object.__new__(cls)._set([None] * len(values), *scheduler())
        return nothing.map(_second, own=values)

    def __len__(self):
        return len(self.tasks)

    def values(self):
        """Return the objects."""
        return self.collect(_first)

    def keep(self, mask):
        """Return some of the parts."""
        kept = compress(self.tasks, mask)
        return object.__new__(Parts)._set(kept, self.get, self.client)

    def map(self, function, *shared, each=(), own=None):
        """Return the parts ``function(part, *others, *shared)``, as they are computed.

        Parameters
        ----------
        function : callable
            Function, which must not change its arguments.
        *shared : objects
            Arguments for all parts. They are sent once if they are large.
        each : sequence of Parts
            Other parts of the same partitions.
        own : list, default=None
            Objects in this process, one for each part: its last other argument. Where
            that is None, the function is not called.
        """
        graph, keys = self._calls(function, shared, each, own)
        options = {} if self.client is None else {"sync": False}
        tasks = self._run(graph, keys, **options)
        return object.__new__(Parts)._set(tasks, self.get, self.client)

    def collect(self, function, *shared, each=(), own=None):
        """Return a list of the results of `map`, None where there is no call."""
        graph, keys = self._calls(function, shared, each, own)
        called = [key for key in keys if key is not None]
        found = dict(zip(called, self._run(graph, called), strict=True))
        return [found.get(key) for key in keys]

    def total(self, function, *shared, each=(), own=None, add=operator.add):
        """Add the results of `map` in a tree, in the order of the parts.

        The order does not depend on the number of workers. None is not added.
        """
        graph, keys = self._calls(function, shared, each, own)
        level = [key for key in keys if key is not None]
        if not level:
            return None
        while True:
            groups = [level[i : i + FAN_IN] for i in range(0, len(level), FAN_IN)]
            name = f"sum-{uuid4().hex}"
            level = [(name, i) for i in range(len(groups))]
            for key, children in zip(level, groups, strict=True):
                graph[key] = (_join, add, children)
            if len(level) == 1:
                return self._run(graph, level)[0]

    def _calls(self, function, shared, each, own):
        """Make a graph of calls, and the key of each, or None."""
        name = f"{getattr(function, '__name__', 'call')}-{uuid4().hex}"
        graph: dict = {}
        keys: list = []
        call: Any = (function, shared)
        sent: tuple = ()
        if self.client is not None:
            call = import_dask("cloudpickle").dumps(call)
            if len(call) > SMALL_BYTES:
                graph[name, "shared"], sent = (bytes, call), ((name, "shared"),)
                call = None
        columns = zip(self.tasks, *(parts.tasks for parts in each), strict=True)
        for i, parts in enumerate(columns):
            if own is not None and own[i] is None:
                keys.append(None)
                continue
            keys.append((name, i))
            last = () if own is None else (own[i],)
            if self.client is None:
                graph[keys[-1]] = (_Call(call, parts, last),)
            else:
                graph[keys[-1]] = (_Call(call, (), last), *sent, *parts)
        return graph, keys

    def _run(self, graph, keys, **options):
        with explain_faults(self.get):
            return self.get(graph, keys, **options)


def scheduler():
    """Return the function that computes graphs, and its client if that is a cluster."""
    get = import_dask("dask.base").get_scheduler()
    if get is None:
        get = import_dask("dask.threaded").get
    return get, getattr(get, "__self__", None)


class _Call:
    """Call of a function for a part.

    Parameters
    ----------
    call : tuple, bytes or None
        Function and last arguments, which may be pickled. None if they are given.
    parts, own : tuple
        First arguments, and those after others that are given.
    """

    def __init__(self, call, parts, own):
        self.call, self.parts, self.own = call, parts, own

    def __call__(self, *parts):
        call, parts = (self.call, parts) if self.call else (parts[0], parts[1:])
        function, shared = pickle.loads(call) if isinstance(call, bytes) else call
        return function(*self.parts, *parts, *self.own, *shared)


def _first(part):
    return part


def _second(part, own):
    return own


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
