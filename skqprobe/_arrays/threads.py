"""Threads of BLAS, and threads in place of them.

The threads of OpenBLAS wait for each other actively at the end of each product. Where
another process has one of the cores, a product of a millisecond takes many times as
long with two threads as with one. Small computations therefore use one thread, and
sums over large X use threads of their own, which wait only once per sum.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from threading import Lock
from time import perf_counter

import numpy as np
from threadpoolctl import ThreadpoolController

SMALL_BYTES = 2**25
"""Maximum number of bytes of an X whose products use one thread."""

N_KEPT = 50
"""Number of calls after which the slower way is tried again."""

_limit = Lock()
_n_unlimited = 1


@cache
def _controller():
    return ThreadpoolController()


@contextmanager
def threads_for(X):
    """Limit BLAS to one thread while X is small.

    The limit holds for the whole process, so that only one computation at a time sets
    and restores it.
    """
    with one_thread(is_small(X)):
        yield


def is_small(X):
    """Whether products with X use one thread; None is an X in other processes."""
    return X is None or len(X) * X.shape[1] * X.itemsize <= SMALL_BYTES


@contextmanager
def one_thread(limited=True):
    """Limit BLAS to one thread, unless it is limited already."""
    global _n_unlimited
    with ExitStack() as stack:
        # In one line: an interrupt in between would leave it locked.
        if limited and _limit.acquire(False) and [stack.callback(_limit.release)]:
            _n_unlimited = _n_blas_threads()
            stack.enter_context(_controller().limit(limits=1, user_api="blas"))
        yield


def n_blas_threads():
    """Return the number of threads that BLAS would use without our limit."""
    return _n_unlimited if _limit.locked() else _n_blas_threads()


def _n_blas_threads():
    blas = (lib for lib in _controller().info() if lib["user_api"] == "blas")
    return max((lib["num_threads"] for lib in blas), default=1)


class Parts(list):
    """Parts of a sum, and the times of functions of them in threads and in one."""

    def __init__(self, parts):
        super().__init__(parts)
        self.times = {}


class _Times:
    """Last times of a function in threads and in one thread."""

    def __init__(self):
        self.n_calls, self.seconds = 0, {}

    def prefer_threads(self):
        """Whether threads are faster, or are to be tried."""
        if self.n_calls < 2:
            return self.n_calls == 0
        is_faster = self.seconds[True] < self.seconds[False]
        return is_faster != (self.n_calls % N_KEPT == 0)

    def add(self, in_threads, seconds):
        """Add the time of a call."""
        self.seconds[in_threads] = seconds
        self.n_calls += 1


def map_parts(function, parts):
    """Apply a function to each part, with BLAS in one thread.

    In a thread for each part, or for `Parts` in one, if that has taken less time:
    another process may have a core, and much Python or little memory bandwidth slow
    threads down. The results are the same.

    Returns
    -------
    results : list
    """
    with one_thread():
        if len(parts) == 1:
            return [function(parts[0])]
        times = _Times()
        if isinstance(parts, Parts):
            name = getattr(function, "func", function).__qualname__
            times = parts.times.setdefault(name, times)
        in_threads, start = times.prefer_threads(), perf_counter()
        if in_threads:
            results = _map_threads(function, parts)
        else:
            results = [function(part) for part in parts]
        times.add(in_threads, perf_counter() - start)
        return results


def _map_threads(function, parts):
    errors = np.geterr()  # which hold in this thread alone

    def call(part):
        with np.errstate(**errors):
            return function(part)

    with ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(call, parts))
