"""Number of threads of BLAS in computations that are too small to gain from several.

The threads of OpenBLAS wait for each other actively at the end of each product. Where
another process has one of the cores, a product of a millisecond takes many times as
long with two threads as with one.
"""

from contextlib import ExitStack, contextmanager
from functools import cache
from threading import Lock

from threadpoolctl import ThreadpoolController

SMALL_BYTES = 2**25
"""Maximum number of bytes of an X whose products use one thread."""

_limited = Lock()


@cache
def _controller():
    return ThreadpoolController()


@contextmanager
def threads_for(X):
    """Limit BLAS to one thread while X is small.

    The limit holds for the whole process, so that only one computation at a time sets
    and restores it.
    """
    is_small = len(X) * X.shape[1] * X.itemsize <= SMALL_BYTES
    with ExitStack() as stack:
        # In one expression: an interrupt in between would leave it locked.
        if is_small and _limited.acquire(False) and [stack.callback(_limited.release)]:
            stack.enter_context(_controller().limit(limits=1, user_api="blas"))
        yield
