from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skqprobe._candidates.segments import (
    repeat_per_prompt,
    segment_log_softmax,
    segment_max,
    segment_mean,
    segment_sum,
    stable_order,
)

SIZES = [3, 1, 1, 5, 2]
OFFSETS = np.array([0, 3, 4, 5, 10, 12])
PROMPTS = [slice(start, end) for start, end in pairwise(OFFSETS)]


@pytest.fixture(params=[(12,), (12, 3)], ids=["1d", "2d"])
def values(request, rng):
    return rng.normal(size=request.param)


def test_sum_and_means(values, rng):
    expected = [sum(values[rows]) for rows in PROMPTS]
    assert_allclose(segment_sum(values, OFFSETS), expected)
    expected = [values[rows].mean(axis=0) for rows in PROMPTS]
    assert_allclose(segment_mean(values, OFFSETS), expected)
    w = rng.uniform(0.1, 5, size=12)
    expected = [np.average(values[r], axis=0, weights=w[r]) for r in PROMPTS]
    assert_allclose(segment_mean(values, OFFSETS, w), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sum_of_many_numbers_is_accurate(rng, dtype):
    values = rng.normal(3, size=(4000, 2)).astype(dtype)
    total = segment_sum(values, np.array([0, 4000]))
    assert total.dtype == dtype
    assert_allclose(total[0], values.sum(axis=0, dtype=np.float64), rtol=1e-7)


@pytest.mark.parametrize("n", [1, 2, 1000])
def test_stable_order_is_a_stable_argsort(rng, n):
    codes = rng.integers(0, 1 + n // 3, size=n)
    assert_array_equal(stable_order(codes), np.argsort(codes, kind="stable"))


def test_max(rng):
    values = rng.normal(size=12)
    assert_array_equal(segment_max(values, OFFSETS), [max(values[r]) for r in PROMPTS])


def test_repeat_per_prompt():
    expected = [0, 0, 0, 1, 2, 3, 3, 3, 3, 3, 4, 4]
    assert_array_equal(repeat_per_prompt(np.arange(5), OFFSETS), expected)
    assert_array_equal(repeat_per_prompt(np.eye(5), OFFSETS), np.eye(5)[expected])


def test_log_softmax(rng):
    scores = rng.normal(size=12)
    result = segment_log_softmax(scores, OFFSETS)
    for rows in PROMPTS:
        mass = np.exp(scores[rows])
        assert_allclose(result[rows], np.log(mass / mass.sum()), atol=1e-14)


def test_weights_of_log_softmax_are_copies(rng):
    scores, weight = rng.normal(size=12), rng.integers(1, 5, size=12)
    copies = np.repeat(scores, weight)
    copy_offsets = np.append(0, np.cumsum([weight[rows].sum() for rows in PROMPTS]))
    first_copy = np.cumsum(weight) - weight
    assert_allclose(
        segment_log_softmax(scores, OFFSETS, weight.astype(float)),
        segment_log_softmax(copies, copy_offsets)[first_copy],
        atol=1e-14,
    )


def test_log_softmax_of_extreme_scores():
    scores = np.array([1e300, -1e300, 0, 1e300, 1e300])
    expected = [0, -2e300, -1e300, -np.log(2), -np.log(2)]
    assert_allclose(segment_log_softmax(scores, np.array([0, 3, 5])), expected)
