"""Ratios, medians and peaks of memory are what the tables call them."""

import time
from functools import partial

import numpy as np
import pytest

from skqprobe import QProbePolicy


def test_scale(timing):
    shape, plan = (464, 200, 4096), timing.Plan(1 / 8)
    assert plan.fewer_prompts(shape) == (58, 200, 4096)
    assert plan.smaller(shape) == (164, 200, 1448)
    assert timing.Plan(1.0).smaller(shape) == shape
    assert timing.Plan(1e-9).smaller(shape) == (10, 200, 4)


def test_ratio(timing):
    def row(value, target=None, peer=("a peer", 2.0)):
        return timing.Row("a fit", value, "s", *peer, target=target)

    assert (row(3.0, 1.5).ratio, row(3.0, 1.5).met) == (1.5, True)
    assert row(3.01, 1.5).met is False
    alone = {"peer": ()}
    assert (row(41, 40, **alone).ratio, row(41, 40, **alone).met) == (None, False)
    assert row(40, 40, **alone).met is True
    assert (row(1.0, **alone).ratio, row(1.0, **alone).met) == (None, None)
    keys = {"what", "value", "unit", "peer", "peer_value", "target", "note", "points"}
    assert set(row(1.0).as_dict()) == keys | {"ratio", "met"}


def test_take_turns(timing, monkeypatch):
    clock, order = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: None)

    def take_turns(repeats, budget, **durations):
        def call(name, durations):
            def advance():
                order.append(name)
                clock[0] += next(durations)
                return len(order)

            return advance

        calls = {name: call(name, iter(each)) for name, each in durations.items()}
        return timing.take_turns(calls, timing.Plan(repeats=repeats, budget=budget))

    seconds, note, results = take_turns(3, 100, a=[9, 1, 5, 2], b=[1, 1, 1, 1])
    assert seconds == {"a": 2, "b": 1}  # medians, without the first round
    assert note == "rounds: 3" and "".join(order) == "ab" * 4
    assert results == {"a": 7, "b": 8}
    # If the first round takes all the time, it counts.
    seconds, note, _ = take_turns(3, 5, a=[9], b=[1])
    assert seconds == {"a": 9, "b": 1} and note == "rounds: 1"
    # A short call is repeated.
    seconds, _, _ = take_turns(2, 5, a=[0.005] * 100)
    assert seconds["a"] == pytest.approx(0.005) and order.count("a") == 4 + 1 + 1 + 8


def test_fit_counting(timing, sets):
    policy = QProbePolicy("log_loss", alpha=1.0)
    seconds = timing.fit_counting(policy, *sets)
    assert len(seconds) > policy.n_iter_ and min(seconds) > 0
    policy.fit(*sets)  # no longer counted
    assert len(seconds) == len(timing.fit_counting(policy, *sets))


@pytest.mark.usefixtures("proc")
def test_peak_growth_contains_freed_memory(timing):
    make_and_drop = partial(np.ones, 200 * 10**6, dtype=np.uint8)
    growth = timing.in_new_process(timing.peak_growth, make_and_drop)
    assert growth == pytest.approx(200e6, rel=0.05)
