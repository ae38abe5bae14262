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
from time import perf_counter, thread_time

import numpy as np
from threadpoolctl import ThreadpoolController

SMALL_BYTES = 2**25
"""Maximum number of bytes of an X whose products use one thread."""

N_SLOW, N_SERIAL = 2, 50
"""Number of consecutive sums that threads slow down, and of sums in one thread after
them. A single short one is often slow, since the system may begin both threads on one
core."""

_limit = Lock()
_n_serial = _n_slow = 0
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


def map_parts(function, parts):
    """Apply a function to each part, in a thread each, with BLAS in one thread.

    Where another process has a core, threads can take longer than all their work takes
    in one thread. After N_SLOW such calls, the next N_SERIAL use one, with the same
    results.

    Returns
    -------
    results : list
    """
    global _n_serial, _n_slow
    if len(parts) == 1:
        with one_thread():
            return [function(parts[0])]
    errors = np.geterr()  # which hold in this thread alone

    def call(part):
        start = thread_time()
        with np.errstate(**errors):
            return function(part), thread_time() - start

    with one_thread():
        if _n_serial > 0:
            _n_serial -= 1
            return [call(part)[0] for part in parts]
        start = perf_counter()
        with ThreadPoolExecutor(len(parts)) as pool:
            results, seconds = zip(*pool.map(call, parts), strict=True)
        is_slow = perf_counter() - start > sum(seconds)
        _n_slow = _n_slow + 1 if is_slow else 0
        if _n_slow == N_SLOW:
            _n_slow, _n_serial = 0, N_SERIAL
        return list(results)
