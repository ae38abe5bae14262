"""Section `busy` of `speed.py`: fits while another process has one of the cores."""

import multiprocessing
import os
from contextlib import contextmanager
from functools import partial

from _speed_shapes import make_case
from _timing import Row, fit_quietly, take_turns
from threadpoolctl import threadpool_limits

from skqprobe import QProbePolicy, QProbePolicyCV

TARGET = 1.3


def spin():
    while True:
        pass


@contextmanager
def neighbor():
    """Run a process that uses one core all the time."""
    process = multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def fit_with(n_threads, estimator, case):
    with threadpool_limits(n_threads, user_api="blas"):
        fit_quietly(estimator, case.X, case.y)


def measure_busy(plan):
    """Compare fits with all threads of BLAS to fits with one."""
    small = make_case((60, 40, 512))
    large = make_case((max(20, round(2000 * plan.scale)), 8, 1024))
    search = QProbePolicyCV(["log_loss", "pairwise_logistic"], cv=5)
    fits = [
        (QProbePolicy("log_loss"), small),
        (QProbePolicy("log_loss"), large),
        (QProbePolicy("policy_gradient"), large),
        (QProbePolicy("pairwise_hinge"), large),
        (QProbePolicy("squared_error"), large),
        (search, small),
    ]
    table = []
    with neighbor():
        for estimator, case in fits:
            calls = {
                "all": partial(fit_with, os.cpu_count(), estimator, case),
                "one": partial(fit_with, 1, estimator, case),
            }
            seconds, note, _ = take_turns(calls, plan)
            what = getattr(estimator, "loss", "a search over two losses")
            name = f"busy neighbor: {what}, {case.name}"
            peer = "one thread", seconds["one"]
            table.append(Row(name, seconds["all"], "s", *peer, TARGET, note))
    return table
