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
def test_products_of_extreme_weights_stay_in_range(Loss, rng):
    scores, rewards, offsets = rng.normal(size=6), np.arange(6.0), np.array([0, 3, 6])
    one, extreme = (
        Loss().value_and_gradient(scores, rewards, offsets, np.repeat(weight, 3))
        for weight in ([1.0, 1.0], [1e150, 1e-150])
    )
    assert_allclose(extreme[0], one[0])
    assert_allclose(extreme[1], one[1])


@pytest.mark.parametrize("width", [0.25, 1.0])
def test_smoothed_hinge_has_a_parabola_of_its_width(width):
    lead = np.linspace(-1, 1, 41)
    n, short, w = len(lead), 0.4 - lead, 0.4 * width
    scores = np.column_stack([lead, 0 * lead]).ravel()
    value, gradient = (
        PairwiseHinge(0.4)
        .smoothed(width)
        .value_and_gradient(scores, np.tile([1.0, 0], n), np.arange(n + 1) * 2)
    )
    parabola = np.where(short > 0, short**2 / (2 * w), 0)
    assert_allclose(value, np.where(short > w, short - w / 2, parabola), atol=1e-15)
    assert_allclose(gradient[::2], -np.clip(short / w, 0, 1), atol=1e-15)
