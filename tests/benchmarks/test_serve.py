"""A small version of the load: nothing is lost or mixed up, and memory is flat."""

import math

import pytest


@pytest.mark.slow
def test_a_small_load(serve):
    found = serve.measure_load(300, 40, k=3, latency=0.01, faults=0.05)
    assert found["answered"] == 300
    assert found["mixed up"] == found["lost"] == 0
    assert found["with some draws failed"] > 0
    first, *_, last = found["memory in MB, by tenths"]
    assert math.isnan(last) or last - first < 20


@pytest.mark.slow
def test_overhead(serve):
    found = serve.measure_overhead(n=40)
    assert 0 < found["bare"] < found["k = 1"] < found["k = 8"]
    assert found["overhead at k = 1"] < 5
    assert found["choice among 16 x 384"] < 3
