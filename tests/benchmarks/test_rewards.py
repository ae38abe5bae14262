"""Rewards per prompt agree with plain loops over candidates and sets."""

from itertools import combinations

import numpy as np
import pytest


def reward_of_best(y, values):
    return y[values == values.max()].mean()


def test_exact_rewards(rewards, make_data, alone):
    data = make_data(n_prompts=5, m=4)
    values = alone.decision_function(data.X)
    found = rewards.expected_rewards(alone, data, [2, 4])
    for column, k in enumerate([2, 4]):
        sets = np.array(list(combinations(range(4), k)))
        for y, Q, mean in zip(data.y, values, found[:, column], strict=True):
            expected = np.mean([reward_of_best(y[some], Q[some]) for some in sets])
            assert mean == pytest.approx(expected)
        # All sets, as if they were drawn, give the exact reward.
        sets = {k: np.broadcast_to(sets[:, None], (len(sets), 5, k))}
        drawn = rewards.expected_rewards(alone, data, [k], sets)
        np.testing.assert_allclose(drawn[:, 0], found[:, column])


def test_set_rewards(rewards, make_data, in_context):
    """Each set is valued without the other candidates of the prompt."""
    data = make_data(n_prompts=7, m=6, binary=False)
    sets = rewards.random_sets(np.random.default_rng(0), (4, 7, 6), 3)
    found = rewards.set_rewards(in_context, data, sets)
    for number, prompt in np.ndindex(4, 7):
        some = sets[number, prompt]
        values = in_context.decision_function(data.X[None, prompt, some])[0]
        best = reward_of_best(data.y[prompt, some], values)
        assert found[number, prompt] == pytest.approx(best)
    mean = rewards.expected_rewards(in_context, data, [3, 6], {3: sets})
    np.testing.assert_allclose(mean[:, 0], found.mean(axis=0))
    exact = rewards.expected_rewards(in_context, data, [3, 6])
    np.testing.assert_array_equal(mean[:, 1], exact[:, 1])
    assert np.abs(exact - mean).max() > 0.05


def test_random_sets(rewards):
    sets = rewards.random_sets(np.random.default_rng(0), (40, 50, 8), 3)
    assert sets.shape == (40, 50, 3)
    assert (np.diff(np.sort(sets)) > 0).all()  # without repetition
    counts = np.bincount(sets.ravel(), minlength=8)
    assert len(counts) == 8 and (abs(counts - 750) < 5 * np.sqrt(750)).all()
