"""Rewards against brute force over all subsets, and what must hold of any of them."""

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.exceptions import UndefinedMetricWarning

from skqprobe.metrics import (
    base_reward,
    best_of_k_reward,
    expected_reward,
    oracle_reward,
    recovery,
    soft_best_of_k_reward,
    win_rate,
)


def subsets(m, k):
    return [list(subset) for subset in combinations(range(m), k)]


def brute_best_of_k(y, scores, k):
    """Mean over all k-subsets of the mean reward of their highest scores."""
    rewards = []
    for prompt in range(len(y)):
        chosen = []
        for subset in subsets(y.shape[1], k):
            s, r = scores[prompt, subset], y[prompt, subset]
            chosen.append(r[s == s.max()].mean())
        rewards.append(np.mean(chosen))
    return np.mean(rewards)


# Few distinct values, so that ties are common.
tied = st.integers(-2, 2).map(float)


@st.composite
def problems(draw, elements=tied):
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 5)))
    y = draw(arrays(float, shape, elements=elements))
    return y, draw(arrays(float, shape, elements=elements))


@given(problems())
def test_best_of_k_is_the_mean_over_all_subsets(problem):
    y, scores = problem
    ks = np.arange(1, y.shape[1] + 1)
    expected = [brute_best_of_k(y, scores, k) for k in ks]
    np.testing.assert_allclose(best_of_k_reward(y, scores, ks), expected, atol=1e-12)


@given(problems())
def test_win_rate_is_the_mean_over_subsets_and_base_samples(problem):
    y, scores = problem
    beats = (y[:, :, None] > y[:, None]) + 0.5 * (y[:, :, None] == y[:, None])
    for k in range(1, y.shape[1] + 1):
        expected = brute_best_of_k(beats.mean(axis=2), scores, k)
        np.testing.assert_allclose(win_rate(y, scores, k), expected, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.0, 0.3, 10.0])
@pytest.mark.parametrize("k", [1, 2, 4, 5])
def test_soft_best_of_k_is_the_mean_over_all_subsets(rng, k, temperature):
    y, scores = rng.normal(size=(2, 3, 5))
    expected = []
    for prompt in range(3):
        for subset in subsets(5, k):
            s, r = scores[prompt, subset], y[prompt, subset]
            q = np.exp((s - s.max()) / temperature) if temperature else s == s.max()
            expected.append(q @ r / q.sum())
    exact, error = soft_best_of_k_reward(y, scores, k, temperature, return_error=True)
    assert error == 0
    assert exact == pytest.approx(np.mean(expected))
    # And by Monte Carlo, where there are more sets than draws.
    drawn = [
        soft_best_of_k_reward(
            y, scores, k, temperature, n_draws=4, random_state=seed, return_error=True
        )
        for seed in range(100)
    ]
    rewards, errors = np.transpose(drawn)
    if k in (1, 5) or temperature == 0:
        assert not errors.any()
    else:
        assert errors.all()
    assert abs(rewards.mean() - exact) <= 4 * errors.mean() / 10 + 1e-12


def test_error_of_soft_best_of_k_is_that_of_repeated_draws(rng):
    y, scores = rng.normal(size=(2, 4, 8))
    runs = [
        soft_best_of_k_reward(
            y, scores, 3, 0.5, n_draws=50, random_state=seed, return_error=True
        )
        for seed in range(200)
    ]
    rewards, errors = np.transpose(runs)
    assert 0.8 < rewards.std() / errors.mean() < 1.2


@pytest.mark.parametrize("m", [1, 4, 100])
def test_oracle_of_binary_rewards_is_pass_at_k(rng, m):
    y = rng.integers(0, 2, size=(7, m))
    for k in {1, 2, 3, m} & set(range(1, m + 1)):
        usual = [1 - comb(m - c, k) / comb(m, k) for c in y.sum(axis=1)]
        assert oracle_reward(y, k) == pytest.approx(np.mean(usual), abs=1e-13)


@pytest.mark.parametrize("k", [1, 2, 100, 5000, 9_999, 10_000])
def test_ten_thousand_candidates_are_as_exact_as_ten(k):
    m = 10_000
    ranks = np.arange(m)
    # The mean of the highest of k of 0..m-1 is k (m + 1) / (k + 1) - 1.
    expected = float(Fraction(k * (m + 1), k + 1) - 1)
    assert best_of_k_reward([ranks], [ranks], k) == pytest.approx(expected, rel=1e-12)
    # And of one right candidate in front or behind: k / m, and 0 or 1.
    one = np.zeros((1, m))
    one[0, -1] = 1
    assert best_of_k_reward(one, [ranks], k) == pytest.approx(k / m, rel=1e-13)
    assert best_of_k_reward(one, [-ranks], k) == (0 if k > 1 else pytest.approx(1 / m))


values = st.floats(-1e3, 1e3, allow_subnormal=False)


@given(problems(values))
def test_between_base_and_oracle_and_rising_with_k_for_a_perfect_score(problem):
    y, scores = problem
    ks = np.arange(1, y.shape[1] + 1)
    perfect = best_of_k_reward(y, y, ks)
    oracle = oracle_reward(y, ks)
    slack = 1e-9
    assert (base_reward(y) <= perfect + slack).all()
    assert (np.diff(perfect) >= -slack).all()
    np.testing.assert_array_equal(perfect, oracle)
    assert (best_of_k_reward(y, scores, ks) <= oracle + slack).all()
    np.testing.assert_allclose(oracle[-1], y.max(axis=1).mean(), atol=slack)
    np.testing.assert_allclose(best_of_k_reward(y, scores, 1), y.mean(), atol=slack)
    assert np.all((win_rate(y, scores, ks) >= 0) & (win_rate(y, scores, ks) <= 1))
    assert win_rate(y, scores, 1) == pytest.approx(0.5)


@given(problems(), st.randoms(use_true_random=False))
def test_increasing_maps_and_the_order_of_rows_change_nothing(problem, random):
    y, scores = problem
    ks = np.arange(1, y.shape[1] + 1)
    order = list(range(y.size))
    random.shuffle(order)
    groups = np.repeat(np.arange(len(y)), y.shape[1])[order]
    for metric in (best_of_k_reward, win_rate):
        expected = metric(y, scores, ks)
        np.testing.assert_allclose(metric(y, np.exp(3 * scores), ks), expected)
        shuffled = metric(y.ravel()[order], scores.ravel()[order], ks, groups)
        np.testing.assert_allclose(shuffled, expected, atol=1e-12)


def test_recovery_is_the_share_of_the_possible_gain(rng):
    y, scores = rng.normal(size=(2, 20, 6))
    base, oracle = base_reward(y), oracle_reward(y, [2, 6])
    expected = (best_of_k_reward(y, scores, [2, 6]) - base) / (oracle - base)
    np.testing.assert_allclose(recovery(y, scores, [2, 6]), expected)
    assert recovery(y, y, 3) == pytest.approx(1)
    assert recovery(y, -y, 3) < 0
    assert recovery(y, np.zeros_like(y), 3) == pytest.approx(0)


def test_recovery_without_a_possible_gain_is_nan_and_says_so():
    with pytest.warns(UndefinedMetricWarning, match="recovery is undefined"):
        assert np.isnan(recovery([[0.1, 0.1, 0.1]], [[1, 2, 3]], 3))
    with pytest.warns(UndefinedMetricWarning):
        shares = recovery([[0, 1]], [[0, 1]], [1, 2])
    np.testing.assert_array_equal(shares, [np.nan, 1])


def test_expected_reward(rng):
    y, proba = rng.normal(size=(5, 4)), rng.dirichlet(np.ones(4), size=5)
    expected = (y * proba).sum(axis=1).mean()
    assert expected_reward(y, proba) == pytest.approx(expected)
    groups = np.repeat(list("abcde"), 4)
    assert expected_reward(y.ravel(), proba.ravel(), groups) == pytest.approx(expected)
    with pytest.raises(ValueError, match="sum to 1"):
        expected_reward(y, proba * 2)


class TestRagged:
    y = np.array([1.0, 0, 0, 5, 3, 4, 2])
    scores = np.array([3.0, 2, 1, 5, 1, 2, 3])
    groups = ["a", "a", "a", "b", "c", "c", "c"]

    def test_every_prompt_counts_once(self):
        assert base_reward(self.y, self.groups) == pytest.approx((1 / 3 + 5 + 3) / 3)
        reward = best_of_k_reward(self.y, self.scores, 1, self.groups)
        assert reward == pytest.approx((1 / 3 + 5 + 3) / 3)

    def test_a_prompt_with_too_few_raises_or_is_left_out(self):
        with pytest.raises(ValueError, match=r"k=3 .* 1 to 3 candidates.*too_few='sk"):
            best_of_k_reward(self.y, self.scores, 3, self.groups)
        for metric in (best_of_k_reward, recovery, win_rate):
            kept = [0, 1, 2, 4, 5, 6]
            expected = metric(
                self.y[kept], self.scores[kept], 3, np.repeat(["a", "c"], 3)
            )
            got = metric(self.y, self.scores, 3, self.groups, too_few="skip")
            assert got == pytest.approx(expected)
        soft = soft_best_of_k_reward(
            self.y, self.scores, [1, 3], 0.0, self.groups, too_few="skip"
        )
        np.testing.assert_allclose(soft, [(1 / 3 + 5 + 3) / 3, 1.5])

    def test_too_many_for_all_raises_always(self):
        with pytest.raises(ValueError, match="k=4"):
            oracle_reward(self.y, 4, self.groups, too_few="skip")


def test_weights_count_prompts(rng):
    y, scores = rng.normal(size=(2, 4, 5))
    weight = np.array([[1, 1, 1, 1], [0, 2, 1, 0], [3, 0, 0, 0]])
    repeated = [np.arange(4), [1, 1, 2], [0, 0, 0]]
    for metric in (best_of_k_reward, recovery, win_rate):
        for rows, one in zip(repeated, weight, strict=True):
            got = metric(y, scores, [2, 5], prompt_weight=one)
            expected = metric(y[rows], scores[rows], [2, 5])
            np.testing.assert_allclose(got, expected, atol=1e-12)
            one_k = metric(y, scores, 2, prompt_weight=one)
            assert one_k == pytest.approx(got[0])
    for rows, one in zip(repeated, weight, strict=True):
        expected = base_reward(y[rows])
        assert base_reward(y, prompt_weight=one) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": [1.0, 2.0], "scores": [1, 2]}, "y has rows but no groups"),
        ({"scores": [[1, 2, 3]]}, "scores has shape"),
        ({"scores": [[1, np.nan], [1, 2]]}, "scores contains NaN"),
        ({"y": [[1, np.inf], [1, 2]]}, "y contains inf"),
        ({"y": [[1, 2], [3]]}, "y could not be made an array"),
        ({"k": 0}, "k must be an integer of 1 or more"),
        ({"k": 1.5}, "k must be an integer of 1 or more"),
        ({"k": [[1]]}, "k must be an integer"),
        ({"k": []}, "k must be an integer"),
        ({"k": True}, "k must be an integer"),
        ({"k": 3}, r"k=3 .* at most 2"),
        ({"too_few": "drop"}, "too_few must be"),
        ({"prompt_weight": [1.0]}, "prompt_weight must have one weight"),
        ({"prompt_weight": [1.0, -1.0]}, "prompt_weight must have one weight"),
    ],
)
def test_bad_input_is_named(arguments, message):
    arguments = {"y": [[0, 1], [1, 0]], "scores": [[1, 2], [2, 1]], "k": 1} | arguments
    with pytest.raises(ValueError, match=message):
        best_of_k_reward(**arguments)


def test_soft_best_of_k_names_its_own_bad_input():
    y = [[0.0, 1.0]]
    with pytest.raises(ValueError, match="temperature must be a number"):
        soft_best_of_k_reward(y, y, 1, -1)
    with pytest.raises(ValueError, match="n_draws must be"):
        soft_best_of_k_reward(y, y, 1, 1.0, n_draws=0)


def test_large_problems_are_drawn_in_parts(rng, monkeypatch):
    y, scores = rng.normal(size=(2, 30, 10))
    monkeypatch.setattr("skqprobe.metrics._soft_best_of_k.DRAWS_AT_ONCE", 7 * 100 * 10)
    whole, error = soft_best_of_k_reward(
        y, scores, 3, 0.5, n_draws=100, random_state=0, return_error=True
    )
    exact = soft_best_of_k_reward(y, scores, 3, 0.5, n_draws=comb(10, 3))
    assert 0 < abs(whole - exact) < 5 * error
