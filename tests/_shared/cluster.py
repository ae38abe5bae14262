"""Data of the tests on a Dask cluster, made on its workers, and counters of tasks."""

import os
import signal
import threading
import time

import numpy as np

N_PARTS, N_PROMPTS, K, D = 4, 50, 4, 6


def make_part(i, pause=0.0):
    """Embeddings and rewards of a partition, with a pause."""
    time.sleep(pause)
    rng = np.random.default_rng(i)
    X = rng.normal(size=(N_PROMPTS, K, D))
    return X, (X[..., 0] + rng.normal(size=X.shape[:2]) > 0).astype(float)


def make_data(pause=0.0):
    """Dask arrays X and y, whose parts are computed again if they are lost."""
    import dask
    import dask.array as da

    make = dask.delayed(make_part, pure=False, nout=2)
    parts = [make(i, pause) for i in range(N_PARTS)]
    X, y = (
        da.concatenate(
            [da.from_delayed(part[i], shape, float) for part in parts], axis=0
        )
        for i, shape in enumerate([(N_PROMPTS, K, D), (N_PROMPTS, K)])
    )
    return X, y


def in_memory():
    """The same data as numpy arrays."""
    parts = [make_part(i) for i in range(N_PARTS)]
    return tuple(np.concatenate(each) for each in zip(*parts, strict=True))


def n_tasks(client):
    """Number of tasks with a result, or that wait or run."""

    def count(dask_scheduler):
        # The scheduler keeps the names of some tasks that it has released.
        states = [task.state for task in dask_scheduler.tasks.values()]
        return len(states) - states.count("released")

    return client.run_on_scheduler(count)


def wait_until(condition, seconds=20):
    """Wait until a condition holds; return whether it does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def call_soon(function, *arguments):
    """Call a function in a thread."""
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    return thread
