"""Estimates agree with plain sums, and intervals with those of scipy."""

import numpy as np
import pytest
from scipy.stats import bootstrap


@pytest.fixture
def arrays(rng):
    """Rewards of a method, of the base model and of the oracle."""
    base, possible = rng.random((2, 60))
    return base + possible * rng.random(60), base, base + possible


def check(found, arrays, statistic):
    expected = bootstrap(
        arrays, statistic, paired=True, vectorized=True, random_state=1
    )
    error = expected.standard_error
    assert found["value"] == pytest.approx(statistic(*arrays, axis=0))
    ends = found["low"], found["high"]
    assert ends == pytest.approx(expected.confidence_interval, abs=0.1 * error)
    assert found["standard_error"] == pytest.approx(error, rel=0.05)


def test_mean(intervals, arrays):
    check(intervals.mean_interval(arrays[0], 9999), arrays[:1], np.mean)


def test_recovery(intervals, arrays):
    def recovery(reward, base, oracle, axis):
        gain = reward.mean(axis) - base.mean(axis)
        return gain / (oracle.mean(axis) - base.mean(axis))

    check(intervals.recovery_interval(*arrays, 9999), arrays, recovery)
    # Rewards are resampled together: the oracle recovers all in every resample.
    _, base, oracle = arrays
    for reward, share in ((base, 0), (oracle, 1)):
        found = intervals.recovery_interval(reward, base, oracle, 99)
        ends = found["low"], found["value"], found["high"]
        assert ends == pytest.approx((share, share, share))


def test_recovery_without_possible_gain(intervals, arrays):
    reward, base, oracle = arrays
    rounding = base * (1 + 1e-15)
    assert intervals.recovery_interval(reward, base, rounding, 99) is None
    # A prompt without possible gain changes nothing.
    more = [np.append(values, 0.3) for values in arrays]
    whole = intervals.recovery_interval(*more, 99)
    part = intervals.recovery_interval(reward, base, oracle, 99)
    assert whole["value"] == pytest.approx(part["value"])


def test_group_mean(intervals, rng):
    count, total = rng.integers(1, 5, 50), rng.normal(size=(50, 2))

    def mean(count, total, axis):
        return total.sum(axis) / count.sum(axis)

    found = intervals.group_interval(count, total, 9999)
    for column in range(2):
        point = {name: values[column] for name, values in found.items()}
        check(point, (count, total[:, column]), mean)
    zero = intervals.group_interval(count, total, 99, versus=total)
    assert zero["value"] == zero["low"] == zero["high"] == [0.0, 0.0]
    other = intervals.group_interval(count, total, 99, versus=2 * total)
    assert other["value"] == pytest.approx([-value for value in found["value"]])
