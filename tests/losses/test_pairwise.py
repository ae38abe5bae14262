import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skqprobe.losses import PairwiseHinge, PairwiseLogistic

both_losses = pytest.mark.parametrize("Loss", [PairwiseLogistic, PairwiseHinge])


@both_losses
def test_prompts_without_a_pair_have_value_and_gradient_0(Loss, weight):
    offsets = np.array([0, 3, 4, 6])  # equal rewards, one candidate, a pair
    scores = np.array([3.0, -1, 2, 5, 0, 0])
    rewards = np.array([0.5, 0.5, 0.5, 1, 1, 0])
    value, gradient = Loss().value_and_gradient(
        scores, rewards, offsets, None if weight is None else weight[: len(scores)]
    )
    assert_array_equal(value[:2], 0)
    assert_array_equal(gradient[:4], 0)
    assert value[2] > 0
    assert gradient[5] == -gradient[4] > 0


@both_losses
@pytest.mark.parametrize("pairs", [1, 7, 20, 40])
def test_number_of_pairs_at_once_does_not_matter(
    Loss, pairs, scores, rewards, offsets, weight, monkeypatch
):
    expected = Loss().value_and_gradient(scores, rewards, offsets, weight)
    monkeypatch.setattr("skqprobe.losses._pairwise.PAIRS_AT_ONCE", pairs)
    result = Loss().value_and_gradient(scores, rewards, offsets, weight)
    for one, other in zip(result, expected, strict=True):
        assert_allclose(one, other, atol=1e-15)


@both_losses
def test_products_of_large_weights_do_not_overflow(Loss, rng):
    scores, rewards, offsets = rng.normal(size=5), np.arange(5.0), np.array([0, 2, 5])
    one, large = (
        Loss().value_and_gradient(scores, rewards, offsets, np.full(5, weight))
        for weight in (1.0, 1e150)
    )
    assert_allclose(large[0], one[0])
    assert_allclose(large[1], one[1])
