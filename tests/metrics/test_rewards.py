"""Rewards against brute force over all subsets, and their invariants."""

from fractions import Fraction
from functools import partial
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import UndefinedMetricWarning

from skqprobe.metrics import (
    base_reward,
    best_of_k_reward,
    expected_reward,
    oracle_reward,
    recovery,
    soft_best_of_k_reward,
    softmax_reward,
    win_rate,
)


def brute_best_of_k(y, scores, k):
    """Mean over all k-subsets of the mean reward of their highest scores."""
    rewards = []
    for r, s in zip(y, scores, strict=True):
        subsets = map(list, combinations(range(len(r)), k))
        chosen = [r[i][s[i] == s[i].max()].mean() for i in subsets]
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
def test_best_of_k_and_win_rate_are_means_over_all_subsets(problem):
    y, scores = problem
    ks = np.arange(1, y.shape[1] + 1)
    expected = [brute_best_of_k(y, scores, k) for k in ks]
    assert_allclose(best_of_k_reward(y, scores, ks), expected, atol=1e-12)
    # The win rate is the mean over base samples, too.
    beats = (y[:, :, None] > y[:, None]) + 0.5 * (y[:, :, None] == y[:, None])
    expected = [brute_best_of_k(beats.mean(axis=2), scores, k) for k in ks]
    assert_allclose(win_rate(y, scores, ks), expected, atol=1e-12)


@pytest.mark.parametrize("m", [1, 4, 100])
def test_oracle_of_binary_rewards_is_pass_at_k(rng, m):
    y = rng.integers(0, 2, size=(7, m))
    for k in {1, 2, 3, m} & set(range(1, m + 1)):
        usual = [1 - comb(m - c, k) / comb(m, k) for c in y.sum(axis=1)]
        assert oracle_reward(y, k) == pytest.approx(np.mean(usual), abs=1e-13)


@pytest.mark.parametrize("k", [1, 2, 100, 5000, 9_999, 10_000])
def test_ten_thousand_candidates_are_exact(k):
    m = 10_000
    ranks = np.arange(m)
    # The mean of the highest of k of 0..m-1 is k (m + 1) / (k + 1) - 1.
    expected = float(Fraction(k * (m + 1), k + 1) - 1)
    assert best_of_k_reward([ranks], [ranks], k) == pytest.approx(expected, rel=1e-12)
    # One right candidate, ranked first or last: k / m, and 0 or 1 / m.
    one = np.zeros((1, m))
    one[0, -1] = 1
    assert best_of_k_reward(one, [ranks], k) == pytest.approx(k / m, rel=1e-13)
    assert best_of_k_reward(one, [-ranks], k) == (0 if k > 1 else pytest.approx(1 / m))


@given(problems(st.floats(-1e3, 1e3, allow_subnormal=False)))
def test_bounds(problem):
    """Rewards are at most the oracle's, which rise with k from those of the base."""
    y, scores = problem
    ks, slack = np.arange(1, y.shape[1] + 1), 1e-9
    perfect, oracle = best_of_k_reward(y, y, ks), oracle_reward(y, ks)
    assert (base_reward(y) <= perfect + slack).all()
    assert (np.diff(perfect) >= -slack).all()
    assert_array_equal(perfect, oracle)
    assert (best_of_k_reward(y, scores, ks) <= oracle + slack).all()
    assert_allclose(oracle[-1], y.max(axis=1).mean(), atol=slack)
    assert_allclose(best_of_k_reward(y, scores, 1), y.mean(), atol=slack)
    assert np.all((win_rate(y, scores, ks) >= 0) & (win_rate(y, scores, ks) <= 1))
    assert win_rate(y, scores, 1) == pytest.approx(0.5)


@given(problems(), st.randoms(use_true_random=False))
def test_only_the_order_of_scores_matters_and_not_that_of_rows(problem, random):
    y, scores = problem
    ks, order = np.arange(1, y.shape[1] + 1), list(range(y.size))
    random.shuffle(order)
    groups = np.repeat(np.arange(len(y)), y.shape[1])[order]
    for metric in (best_of_k_reward, win_rate):
        expected = metric(y, scores, ks)
        assert_allclose(metric(y, np.exp(3 * scores), ks), expected)
        shuffled = metric(y.ravel()[order], scores.ravel()[order], ks, groups)
        assert_allclose(shuffled, expected, atol=1e-12)


def test_recovery_is_the_share_of_the_possible_gain(rng):
    y, scores = rng.normal(size=(2, 20, 6))
    base, oracle = base_reward(y), oracle_reward(y, [2, 6])
    expected = (best_of_k_reward(y, scores, [2, 6]) - base) / (oracle - base)
    assert_allclose(recovery(y, scores, [2, 6]), expected)
    assert recovery(y, y, 3) == pytest.approx(1)
    assert recovery(y, -y, 3) < 0
    assert recovery(y, np.zeros_like(y), 3) == pytest.approx(0)


@pytest.mark.parametrize("level", [1e-9, 1, 1e9])
def test_recovery_without_a_possible_gain_is_nan(level):
    """At any magnitude of the rewards: a difference by rounding is no gain."""
    message = r"recovery is undefined and set to NaN where the oracle gains nothing "
    y = np.full((2, 7), level * 0.1)
    with pytest.warns(UndefinedMetricWarning, match=message + r"over the base\."):
        assert np.isnan(recovery(y, np.arange(14).reshape(2, 7), 3))
    y[0, 0] = level
    with pytest.warns(UndefinedMetricWarning, match=message):
        shares = recovery(y, y, [1, 7])
    assert_allclose(shares, [np.nan, 1])


def test_expected_reward(rng):
    y, proba = rng.normal(size=(5, 4)), rng.dirichlet(np.ones(4), size=5)
    expected = (y * proba).sum(axis=1).mean()
    assert expected_reward(y, proba) == pytest.approx(expected)
    groups = np.repeat(list("abcde"), 4)
    assert expected_reward(y.ravel(), proba.ravel(), groups) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "scores", "message"),
    [
        (expected_reward, [[2.0, 0.0], [1.0, 1.0]], "sum to 1"),
        (expected_reward, [[1.0], [1.0]], "^proba has shape"),
        (partial(softmax_reward, temperature=1.0), [[[1.0]]], "^scores has shape"),
    ],
)
def test_bad_scores(metric, scores, message):
    with pytest.raises(ValueError, match=message):
        metric([[0.0, 1.0], [1.0, 0.0]], scores)


@pytest.mark.parametrize("metric", [best_of_k_reward, recovery, win_rate])
def test_one_k_gives_a_number_and_a_list_an_array(metric, rng):
    y, scores = rng.normal(size=(2, 4, 5))
    one, several = metric(y, scores, 2), metric(y, scores, [2, 3])
    assert type(one) is float and several.shape == (2,)
    assert one == pytest.approx(several[0])
    values = metric(y, scores, 2, average=None)
    np.testing.assert_allclose(values, metric(y, scores, [2, 3], average=None)[:, 0])


def test_error_of_one_k_is_a_number(rng):
    y, scores = rng.normal(size=(2, 4, 5))
    draws = {"n_draws": 5, "random_state": 0, "return_error": True}
    one = soft_best_of_k_reward(y, scores, 2, 0.5, **draws)
    several = soft_best_of_k_reward(y, scores, [2], 0.5, **draws)
    assert all(type(each) is float for each in one)
    np.testing.assert_allclose(np.array(several)[:, 0], one)
