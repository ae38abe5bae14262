import sys
import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from skqprobe import QProbePolicy
from skqprobe._arrays import threads
from skqprobe._arrays.threads import threads_for
from skqprobe.losses import PairwiseLogistic


def n_threads():
    return max(
        (lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"),
        default=1,
    )


@pytest.fixture
def two_threads():
    with threadpool_limits(2, user_api="blas"):
        if n_threads() != 2:
            pytest.skip("BLAS has only one thread")
        yield


def test_only_small_arrays_limit_threads(two_threads, monkeypatch):
    X = np.zeros((10, 3))
    with threads_for(X):
        assert n_threads() == 1
        with threads_for(X):
            assert n_threads() == 1
        assert n_threads() == 1
    assert n_threads() == 2
    with pytest.raises(KeyError), threads_for(X):
        raise KeyError
    assert n_threads() == 2
    monkeypatch.setattr(threads, "SMALL_BYTES", X.nbytes - 1)
    with threads_for(X):
        assert n_threads() == 2


def test_computations_in_several_threads_leave_no_limit(two_threads):
    X, entered, leave = np.zeros((10, 3)), threading.Event(), threading.Event()

    def compute():
        with threads_for(X):
            entered.set()
            leave.wait(10)

    other = threading.Thread(target=compute)
    with threads_for(X):
        other.start()
        entered.wait(10)
    leave.set()
    other.join(10)
    assert n_threads() == 2


def test_a_small_fit_uses_one_thread(two_threads, sets):
    seen = []

    class Loss(PairwiseLogistic):
        def value_and_gradient(self, *arguments):
            seen.append(n_threads())
            return super().value_and_gradient(*arguments)

    QProbePolicy(Loss()).fit(*sets)
    assert max(seen[3:]) == 1 and n_threads() == 2


def test_an_interrupt_at_any_line_leaves_no_limit(monkeypatch):
    def trace(frame, event, arg):
        if frame.f_code is not threads_for.__wrapped__.__code__:
            return None
        if event == "line":
            lines_left[0] -= 1
            if lines_left[0] == 0:
                raise KeyboardInterrupt
        return trace

    for last in range(1, 6):
        lines_left = [last]
        monkeypatch.setattr(threads, "_limited", threading.Lock())
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            with pytest.raises(KeyboardInterrupt), threads_for(np.zeros((10, 3))):
                pass
        finally:
            sys.settrace(before)
        assert not threads._limited.locked()
