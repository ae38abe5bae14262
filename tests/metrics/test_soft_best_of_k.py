from functools import partial
from itertools import combinations
from math import comb

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skqprobe.metrics import soft_best_of_k_reward


@pytest.mark.parametrize("temperature", [0.0, 0.3, 10.0])
@pytest.mark.parametrize("k", [1, 2, 4, 5])
def test_is_the_mean_over_all_subsets(rng, k, temperature):
    y, scores = rng.normal(size=(2, 3, 5))
    expected = []
    for prompt in range(3):
        for subset in map(list, combinations(range(5), k)):
            s, r = scores[prompt, subset], y[prompt, subset]
            q = np.exp((s - s.max()) / temperature) if temperature else s == s.max()
            expected.append(q @ r / q.sum())
    metric = partial(
        soft_best_of_k_reward, y, scores, k, temperature, return_error=True
    )
    exact, error = metric()
    assert error == 0
    assert exact == pytest.approx(np.mean(expected))
    # By Monte Carlo, if there are more sets than draws.
    drawn = [metric(n_draws=4, random_state=seed) for seed in range(100)]
    rewards, errors = np.transpose(drawn)
    drawn_at_random = k not in (1, 5) and temperature > 0
    assert (errors > 0).tolist() == [drawn_at_random] * 100
    assert abs(rewards.mean() - exact) <= 4 * errors.mean() / 10 + 1e-12


def test_error_is_the_standard_deviation_over_repeated_draws(rng):
    y, scores = rng.normal(size=(2, 4, 8))
    metric = partial(soft_best_of_k_reward, y, scores, 3, 0.5, return_error=True)
    runs = [metric(n_draws=50, random_state=seed) for seed in range(200)]
    rewards, errors = np.transpose(runs)
    assert 0.8 < rewards.std() / errors.mean() < 1.2


def test_error_of_a_weighted_mean(rng):
    y, scores = rng.normal(size=(2, 4, 5))
    drawn = {"n_draws": 5, "random_state": 0, "return_error": True}  # of 10 sets
    metric = partial(soft_best_of_k_reward, y, scores, [2, 5], 0.5, **drawn)
    _, of_prompts = metric(average=None)
    for weight in ([1, 1, 1, 1], [0, 2, 1, 0], [3, 0, 0, 1]):
        _, error = metric(prompt_weight=weight)
        share = np.array(weight) / sum(weight)
        assert_allclose(error, np.sqrt(share**2 @ np.square(of_prompts)))
    _, plain = metric()
    assert_allclose(plain, metric(prompt_weight=np.ones(4))[1])
    assert plain[0] > 0 == plain[1]


def test_error_of_two_draws_is_half_their_distance():
    """The standard deviation |a - b| / sqrt(2), divided by sqrt(2) for two draws."""
    y, scores = np.array([[0.0, 1.0, 3.0]]), np.array([[1.0, 2.0, 3.0]])
    for seed in range(20):
        mean, error = soft_best_of_k_reward(
            y, scores, 2, 0.5, n_draws=2, random_state=seed, return_error=True
        )
        if error > 0:
            break
    sets = [
        soft_best_of_k_reward(y[:, pair], scores[:, pair], 2, 0.5)
        for pair in ([0, 1], [0, 2], [1, 2])
    ]
    means = {round(abs(a - b) / 2, 9): (a + b) / 2 for a in sets for b in sets}
    assert means[round(error, 9)] == pytest.approx(mean)


def test_large_problems_are_drawn_in_parts(rng, monkeypatch):
    y, scores = rng.normal(size=(2, 30, 10))
    monkeypatch.setattr("skqprobe.metrics._soft_best_of_k.DRAWS_AT_ONCE", 7 * 100 * 10)
    drawn, error = soft_best_of_k_reward(
        y, scores, 3, 0.5, n_draws=100, random_state=0, return_error=True
    )
    exact, no_error = soft_best_of_k_reward(
        y, scores, 3, 0.5, n_draws=comb(10, 3), return_error=True
    )
    assert 0 < abs(drawn - exact) < 5 * error
    assert no_error == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature must be a number"),
        ({"n_draws": 0}, "n_draws must be"),
        ({"y": [[0.0, 1e-200]], "return_error": True}, "y has numbers .* too small"),
    ],
)
def test_bad_input(options, message):
    arguments = {"y": [[0.0, 1.0]], "scores": [[0.0, 1.0]], "k": 1, "temperature": 1}
    with pytest.raises(ValueError, match=message):
        soft_best_of_k_reward(**arguments | options)
