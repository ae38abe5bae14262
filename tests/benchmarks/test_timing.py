"""Ratios, medians and peaks of memory are what the tables call them."""

import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from skqprobe import QProbePolicy

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is read from /proc"
)


@pytest.fixture
def timing(load):
    return load("_timing")


def test_scale(timing):
    shape, plan = (464, 200, 4096), timing.Plan(1 / 8)
    assert plan.fewer_prompts(shape) == (58, 200, 4096)
    assert plan.smaller(shape) == (164, 200, 1448)
    assert timing.Plan(1.0).smaller(shape) == shape
    assert timing.Plan(1e-9).smaller(shape) == (10, 200, 4)


def test_ratio(timing):
    row = timing.Row("a fit", 3.0, "s", "a peer", 2.0, target=1.5)
    assert row.ratio == 1.5 and row.met is True
    assert timing.Row("a fit", 3.01, "s", "a peer", 2.0, target=1.5).met is False
    alone = timing.Row("evaluations", 41, "", target=40)
    assert alone.ratio is None and alone.met is False
    assert timing.Row("evaluations", 40, "", target=40).met is True
    free = timing.Row("exponent", 1.0, "")
    assert free.ratio is None and free.met is None
    keys = {"what", "value", "unit", "peer", "peer_value", "target", "note", "points"}
    assert set(row.as_dict()) == keys | {"ratio", "met"}


def test_take_turns(timing, monkeypatch):
    clock, order = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def call(name, durations):
        durations = iter(durations)

        def advance():
            order.append(name)
            clock[0] += next(durations)
            return len(order)

        return advance

    calls = {"a": call("a", [9, 1, 5, 2]), "b": call("b", [1, 1, 1, 1])}
    plan = timing.Plan(repeats=3, budget=100)
    seconds, note, results = timing.take_turns(calls, plan)
    assert seconds == {"a": 2, "b": 1}  # medians, without the first round
    assert note == "rounds: 3" and "".join(order) == "ab" * 4
    assert results == {"a": 7, "b": 8}
    # If the first round takes all the time, it counts.
    calls = {"a": call("a", [9]), "b": call("b", [1])}
    seconds, note, _ = timing.take_turns(calls, timing.Plan(repeats=3, budget=5))
    assert seconds == {"a": 9, "b": 1} and note == "rounds: 1"
    # A short call is repeated.
    calls = {"a": call("a", [0.005] * 100)}
    seconds, _, _ = timing.take_turns(calls, timing.Plan(repeats=2, budget=5))
    assert seconds["a"] == pytest.approx(0.005) and order.count("a") == 4 + 1 + 1 + 8


def test_fit_counting(timing, sets):
    policy = QProbePolicy("log_loss", alpha=1.0)
    seconds = timing.fit_counting(policy, *sets)
    assert len(seconds) > policy.n_iter_ and min(seconds) > 0
    policy.fit(*sets)  # no longer counted
    assert len(seconds) == len(timing.fit_counting(policy, *sets))


@needs_proc
def test_peak_growth_contains_freed_memory(timing):
    make_and_drop = partial(np.ones, 200 * 10**6, dtype=np.uint8)
    growth = timing.in_new_process(timing.peak_growth, make_and_drop)
    assert growth == pytest.approx(200e6, rel=0.05)
