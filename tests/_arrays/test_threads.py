import sys
import threading

import numpy as np
import pytest
from numpy.testing import assert_allclose
from threadpoolctl import threadpool_info, threadpool_limits

from skqprobe import QProbePolicy, QProbePolicyCV
from skqprobe._arrays import blocks, threads
from skqprobe._arrays.threads import Parts, map_parts, one_thread, threads_for
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


def test_parts_have_a_thread_each_with_blas_in_one(two_threads):
    both = threading.Barrier(2)

    def call(part):
        both.wait(10)  # breaks if the calls run one after the other
        return part, n_threads(), threading.get_ident()

    results = map_parts(call, "ab")
    assert [part for part, _, _ in results] == ["a", "b"]
    assert [number for _, number, _ in results] == [1, 1]
    assert results[0][2] != results[1][2]
    assert map_parts(lambda part: (part, n_threads()), "a") == [("a", 1)]
    assert n_threads() == 2


def test_the_faster_way_is_kept(two_threads, monkeypatch):
    monkeypatch.setattr(threads, "N_KEPT", 7)
    here, clock = threading.get_ident(), [0.0]
    monkeypatch.setattr(threads, "perf_counter", lambda: clock[0])
    costs = {True: 3.0, False: 2.0}  # of both parts, in threads and in one

    def work(part):
        in_thread = threading.get_ident() != here
        clock[0] += costs[in_thread] / 2
        return in_thread

    def ways(parts, n):
        found = [map_parts(work, parts) for _ in range(n)]
        assert all(way in ([True] * 2, [False] * 2) for way in found)
        return [way[0] for way in found]

    parts = Parts("ab")
    assert ways(parts, 7) == [True, False, False, False, False, False, False]
    costs[True] = 1.0  # found at the next trial
    assert ways(parts, 3) == [True, True, True]
    assert map_parts(work, "a") == [False]
    assert ways("ab", 3) == [True, True, True]  # no times are kept


def test_our_limit_does_not_count(two_threads):
    with one_thread():
        assert n_threads() == 1 and threads.n_blas_threads() == 2
    assert threads.n_blas_threads() == 2


def test_parts_raise_as_the_caller_does(two_threads):
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        map_parts(lambda x: x * x, [np.ones(1), np.full(1, 1e200)])


@pytest.mark.parametrize("loss", ["log_loss", "policy_gradient"])
def test_a_large_fit_in_several_threads(loss, two_threads, sets, monkeypatch):
    X, y = sets
    idents = set()

    class Reader(blocks.BlockReader):
        def __call__(self, rows):
            idents.add(threading.get_ident())
            return super().__call__(rows)

    expected = QProbePolicy(loss).fit(X, y)
    search = QProbePolicyCV([loss], alphas=[1e-3, 1.0], cv=2)
    scores = search.fit(X, y).cv_results_["mean_test_score"]
    monkeypatch.setattr(threads, "SMALL_BYTES", 0)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2**8)
    monkeypatch.setattr("skqprobe._objectives.base.BlockReader", Reader)
    assert_allclose(QProbePolicy(loss).fit(X, y).coef_, expected.coef_, rtol=1e-5)
    assert len(idents) > 1
    assert_allclose(search.fit(X, y).cv_results_["mean_test_score"], scores)


def test_an_interrupt_at_any_line_leaves_no_limit(monkeypatch):
    def trace(frame, event, arg):
        if frame.f_code is not one_thread.__wrapped__.__code__:
            return None
        if event == "line":
            lines_left[0] -= 1
            if lines_left[0] == 0:
                raise KeyboardInterrupt
        return trace

    for last in range(1, 6):
        lines_left = [last]
        monkeypatch.setattr(threads, "_limit", threading.Lock())
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            with pytest.raises(KeyboardInterrupt), one_thread():
                pass
        finally:
            sys.settrace(before)
        assert not threads._limit.locked()
