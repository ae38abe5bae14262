import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skqprobe._candidates.segments import segment_log_softmax, segment_sum, stable_order


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


def test_log_softmax_of_extreme_scores():
    scores = np.array([1e300, -1e300, 0, 1e300, 1e300])
    expected = [0, -2e300, -1e300, -np.log(2), -np.log(2)]
    assert_allclose(segment_log_softmax(scores, np.array([0, 3, 5])), expected)
