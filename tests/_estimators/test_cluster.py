"""Fits on a cluster of processes, of which some fail."""

import _thread
import gc
import os
import signal
import time
import warnings

import cluster
import joblib
import numpy as np
import pytest
from estimators import assert_same_state, state_of
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skqprobe import QProbePolicy, QProbePolicyCV
from skqprobe._arrays import part_rows

dask = pytest.importorskip("dask")
pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")

pytestmark = pytest.mark.slow

QUIET = {
    "dashboard_address": ":0",
    "processes": True,
    "threads_per_worker": 1,
    "silence_logs": 50,
}


@pytest.fixture(scope="module")
def workers():
    """A cluster of two processes."""
    once = {"distributed.scheduler.allowed-failures": 1}
    with (
        dask.config.set(once),
        distributed.LocalCluster(n_workers=2, **QUIET) as found,
    ):
        yield found


@pytest.fixture
def client(workers):
    workers.scale(2)
    with distributed.Client(workers) as client:
        client.wait_for_workers(2, timeout=120)
        yield client
        gc.collect()  # of an estimator that a test has kept in a cycle
        assert cluster.wait_until(lambda: cluster.n_tasks(client) == 0)


@pytest.fixture
def after_iterations(monkeypatch):
    """Function that calls another after some evaluations of a fit."""
    from skqprobe._objectives.distributed import DistributedGrid

    original = DistributedGrid.value_and_gradient

    def install(number, function):
        left = [number]

        def evaluate(*arguments):
            left[0] -= 1
            if left[0] == 0:
                function()
            return original(*arguments)

        monkeypatch.setattr(DistributedGrid, "value_and_gradient", evaluate)

    return install


def pids(client):
    return list(client.run(os.getpid).values())


@pytest.fixture(scope="module")
def expected():
    return QProbePolicy("log_loss").fit(*cluster.in_memory())


def test_fit_and_predict(client, expected):
    X, y = cluster.make_data()
    found, again = (QProbePolicy("log_loss").fit(X, y) for _ in range(2))
    assert_allclose(found.coef_, expected.coef_, rtol=1e-9)
    assert_array_equal(found.coef_, again.coef_)
    score = expected.score(*cluster.in_memory())
    assert float(found.score(X, y)) == pytest.approx(score)
    settings = {"losses": ["squared_error"], "cv": 3, "alphas": (1.0, 1e-3)}
    search = QProbePolicyCV(**settings).fit(X, y)
    in_memory = QProbePolicyCV(**settings).fit(*cluster.in_memory())
    assert search.best_params_ == in_memory.best_params_


@pytest.mark.parametrize("is_kept", [True, False])
def test_worker_is_killed(is_kept, client, expected, after_iterations, monkeypatch):
    X, y = cluster.make_data()
    if is_kept:
        X, y = client.persist((X, y))
    else:
        monkeypatch.setattr(part_rows, "_memory", lambda client: 0)
    before = pids(client)

    def kill_one():
        cluster.kill(before[0])

    after_iterations(5, kill_one)
    policy = QProbePolicy("log_loss").fit(X, y)
    assert_allclose(policy.coef_, expected.coef_, rtol=1e-9)
    assert cluster.wait_until(lambda: len(client.scheduler_info()["workers"]) == 2)
    assert before[0] not in pids(client)


def test_worker_is_killed_in_the_checks(client, expected):
    X, y = cluster.make_data(pause=0.1)
    before = pids(client)
    thread = cluster.call_soon(lambda: (time.sleep(0.3), cluster.kill(before[1])))
    policy = QProbePolicy("log_loss").fit(X, y)
    thread.join()
    assert_allclose(policy.coef_, expected.coef_, rtol=1e-9)


def exhaust_memory(i):
    """End the process as a system without memory does."""
    os.kill(os.getpid(), 9)


def test_worker_is_out_of_memory(client):
    import dask.array as da

    X, y = cluster.make_data()
    policy = QProbePolicy().fit(X, y)
    state = state_of(policy)
    broken = X.map_blocks(exhaust_memory, meta=np.empty((0, 0, 0)))
    with pytest.raises(RuntimeError, match=r"The Dask cluster failed.*memory_limit"):
        policy.fit(broken, y)
    assert_same_state(state_of(policy), state)
    del broken
    assert isinstance(X, da.Array)
    client.wait_for_workers(2, timeout=120)


def test_memory_error(client):
    X, y = cluster.make_data()

    def fail(block):
        raise MemoryError("Unable to allocate")

    with pytest.raises(RuntimeError, match="Unable to allocate"):
        QProbePolicy().fit(X.map_blocks(fail, meta=np.empty((0, 0, 0))), y)


def test_client_is_interrupted(client, after_iterations):
    X, y = cluster.make_data()
    policy = QProbePolicy("log_loss").fit(X, y)
    state = state_of(policy)

    def interrupt_soon():
        cluster.call_soon(lambda: (time.sleep(0.01), _thread.interrupt_main()))

    after_iterations(1, interrupt_soon)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:  # a process in the background ignores it
        with pytest.raises(KeyboardInterrupt):
            policy.fit(X, y)
            time.sleep(5)  # the interrupt may come late
    finally:
        signal.signal(signal.SIGINT, before)
    assert_same_state(state_of(policy), state)
    # The fixture checks that no task is left.


def test_scheduler_is_gone(expected):
    X, y = cluster.make_data()
    policy = QProbePolicy("log_loss").fit(*cluster.in_memory())
    state = state_of(policy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = distributed.LocalCluster(n_workers=1, **QUIET)
        client = distributed.Client(own, timeout=5)
        from skqprobe._objectives.distributed import DistributedGrid

        original = DistributedGrid.value_and_gradient
        with pytest.MonkeyPatch.context() as patch:

            def close_first(*arguments):
                own.close(timeout=10)
                return original(*arguments)

            patch.setattr(DistributedGrid, "value_and_gradient", close_first)
            with pytest.raises(RuntimeError, match="The Dask cluster failed"):
                policy.fit(X, y)
        client.close(timeout=2)
    assert_same_state(state_of(policy), state)


def test_spilling(tmp_path, expected, after_iterations):
    """Parts that do not fit in memory are read again from disk."""
    import dask

    settings = {
        "distributed.worker.memory.target": 1e-6,  # of the limit: spill everything
        "distributed.worker.memory.spill": False,
        "temporary-directory": str(tmp_path),
    }
    with (
        dask.config.set(settings),
        distributed.LocalCluster(n_workers=1, memory_limit="1GiB", **QUIET) as own,
        distributed.Client(own) as client,
    ):
        X, y = cluster.make_data()
        on_disk = []

        def count():
            found = client.run(lambda dask_worker: len(dask_worker.data.slow))
            on_disk.extend(found.values())

        after_iterations(3, count)
        policy = QProbePolicy("log_loss").fit(X, y)
        assert_allclose(policy.coef_, expected.coef_, rtol=1e-9)
        assert on_disk[0] >= cluster.N_PARTS


def test_memory_of_the_workers():
    with (
        distributed.LocalCluster(n_workers=2, memory_limit="300MiB", **QUIET) as own,
        distributed.Client(own) as client,
    ):
        assert part_rows._memory(client) == 600 * 2**20
        X = dask.array.zeros((700, 1000, 100), chunks=(1, -1, -1))
        assert not part_rows.fits(X) and part_rows.fits(X[:300])
        kept = client.persist(X[:2])
        assert part_rows.fits(dask.array.concatenate([kept, X]))


def test_search_of_scikit_learn(client):
    """The Dask backend of joblib fits to numpy arrays on the workers."""
    X, y = cluster.in_memory()
    search = GridSearchCV(QProbePolicy(), {"alpha": [1.0, 1e-3]}, cv=2, n_jobs=2)
    with joblib.parallel_backend("dask"):
        found = clone(search).fit(X, y)
    expected = search.set_params(n_jobs=1).fit(X, y)
    assert found.best_params_ == expected.best_params_
    scores = (each.cv_results_["mean_test_score"] for each in (found, expected))
    assert_allclose(*scores)
    policies = (each.best_estimator_.coef_ for each in (found, expected))
    assert_allclose(*policies)
