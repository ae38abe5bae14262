import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax

from skqprobe._candidates.choice import (
    best_candidates,
    choice_probabilities,
    choice_reward,
)
from skqprobe._candidates.layout import check_layout


@pytest.fixture
def layout(rng):
    return check_layout((50,), np.sort(rng.integers(0, 12, size=50)))


def split(values, layout):
    return np.split(values, layout.offsets[1:-1])


@pytest.mark.parametrize("temperature", [0.1, 1, 3.5, np.float32(0.5)])
def test_probabilities_are_softmax_inside_each_prompt(layout, rng, temperature):
    scores, rewards = rng.normal(size=(2, 50))
    expected = [softmax(z / temperature) for z in split(scores, layout)]
    proba = choice_probabilities(scores, layout, temperature)
    assert_allclose(proba, np.concatenate(expected), rtol=1e-10)
    reward = choice_reward(scores, rewards, layout, temperature)
    by_prompt = zip(expected, split(rewards, layout), strict=True)
    assert_allclose(reward, [q @ r for q, r in by_prompt])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("temperature", [0, 5e-324, 1e-300, 1e-10, 1.0, 1e10, 1e300])
def test_extreme_temperatures(layout, rng, temperature, dtype):
    """Probabilities have no overflow, no NaN and no warning."""
    scores = rng.normal(size=50).astype(dtype)
    proba = choice_probabilities(scores, layout, temperature)
    assert proba.dtype == dtype
    of_prompts = split(proba, layout)
    assert_allclose([q.sum() for q in of_prompts], 1, rtol=np.finfo(dtype).eps * 10)
    if temperature < 1e-9:  # far below any difference of scores
        assert {q.max() for q in of_prompts} == {1}
        assert_array_equal(np.flatnonzero(proba), best_candidates(scores, layout))
    if temperature > 1e9:
        assert_allclose(proba, np.repeat(1 / layout.sizes, layout.sizes), rtol=1e-6)


def test_temperature_zero_is_shared_among_equal_best():
    scores = np.array([[0, 2, 2, 1], [3, 3, 3, 3], [5, 1, 5, 5], [0, 1, 2, 3.0]])
    expected = [[0, 1 / 2, 1 / 2, 0], [1 / 4] * 4, [1 / 3, 0, 1 / 3, 1 / 3]]
    proba = choice_probabilities(scores.ravel(), check_layout((4, 4)), 0)
    assert_allclose(proba, np.ravel([*expected, [0, 0, 0, 1]]))


@pytest.mark.parametrize("temperature", [0, 0.5])
def test_weights_are_copies(temperature, rng):
    weight, groups = np.array([1, 3, 2, 1, 2, 5]), np.repeat([0, 1], 3)
    copies = np.repeat(np.arange(6), weight)
    layout, of_copies = (check_layout(g.shape, g) for g in (groups, groups[copies]))
    for z in (rng.normal(size=6), np.zeros(6)):
        one_by_one = choice_probabilities(z[copies], of_copies, temperature)
        found = choice_probabilities(z, layout, temperature, weight)
        assert_allclose(found, np.bincount(copies, one_by_one))
        reward = choice_reward(z, weight, layout, temperature, weight)
        assert_allclose(reward, np.add.reduceat(found * weight, [0, 3]))


def test_best_candidates_are_the_first_maxima(layout, rng):
    scores = rng.integers(0, 3, size=50).astype(float)
    first = [np.argmax(z) for z in split(scores, layout)]
    assert_array_equal(best_candidates(scores, layout), layout.offsets[:-1] + first)
