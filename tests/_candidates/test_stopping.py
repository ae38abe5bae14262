"""Stopping rules."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import chisquare
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skqprobe.generators import ExpectedGain, RejectionSampling, Threshold

RULES = [ExpectedGain(0.1), Threshold(0.5), RejectionSampling(1.0, 2.0)]


@pytest.fixture
def values(rng):
    """Values of 50 training prompts, of different means."""
    return rng.normal(size=(50, 8)) + 2 * rng.normal(size=(50, 1))


# ExpectedGain


def slow_gain(training, drawn):
    """Expected gain from its definition, one training prompt after the other."""
    every, best = training.ravel(), max(drawn)
    limits = np.unique(np.quantile(every, np.arange(1, 24) / 24))
    all_bins = np.searchsorted(limits, every, side="right")
    likelihoods, gains = [], []
    for values in training:
        likelihood, bins = 1.0, np.searchsorted(limits, values, side="right")
        for value in drawn:
            b = np.searchsorted(limits, value, side="right")
            share = ((all_bins == b).sum() + 1 / 24) / (every.size + 1)
            likelihood *= ((bins == b).sum() + 8 * share) / (len(values) + 8)
        likelihoods.append(likelihood)
        gain = np.maximum(values - best, 0).sum()
        pooled = np.maximum(every - best, 0).mean()
        gains.append((gain + 8 * pooled) / (len(values) + 8))
    return np.average(gains, weights=likelihoods) * 2 / (2 + len(drawn))


def test_gain_by_hand(values):
    rule = ExpectedGain(0.1).fit(values)
    for drawn in ([0.2], [-1.0, -0.5, -2.0], [2.0, 3.0], [-4.0, 1.0, 1.1, 1.2]):
        found = rule.expected_gain(np.array([drawn]))[0]
        assert found == pytest.approx(slow_gain(values, drawn), rel=0.01)


def test_values_so_far_tell_the_kind_of_prompt(rng):
    low, high = rng.random((40, 30)), 10 + 3 * rng.random((40, 30))
    rule = ExpectedGain(0.1).fit(np.vstack([low, high]))
    # The best of a low prompt is not expected to gain what a high one has.
    drawn = np.array([[0.2, 0.3, 0.9]])
    pooled = np.maximum(np.vstack([low, high]) - 0.9, 0).mean()
    assert rule.expected_gain(drawn)[0] < 0.3 * pooled * 2 / 5


def test_gain_of_equal_prompts_is_that_of_all_values(rng):
    values = np.repeat(rng.random((1, 500)), 3, axis=0)
    rule = ExpectedGain(0.1).fit(values)
    best = np.array([-1.0, 0.0, 0.3, 0.9, 0.999, 2.0])
    expected = np.maximum(values[0][:, None] - best, 0).mean(axis=0) * 2 / 3
    assert_allclose(rule.expected_gain(best[:, None]), expected, atol=2e-3)


def test_it_stops_below_the_cost(values):
    rule = ExpectedGain(0.1).fit(values)
    drawn = values[:, :3]
    gain = rule.expected_gain(drawn)
    cost = np.median(gain)
    accepted = rule.set_params(cost=cost).accept(drawn, None)
    assert_array_equal(accepted, np.repeat((gain <= cost)[:, None], 3, axis=1))
    assert 0 < accepted.mean() < 1
    assert not rule.set_params(cost=0).accept(drawn[:, :1] - 99).any()


def test_gain_falls_with_the_best_value_and_the_number(values):
    rule = ExpectedGain(0.1).fit(values)
    grid = np.linspace(-6, 6, 50)[:, None]
    drawn = np.hstack([grid, np.full((50, 1), -7.0)])
    first = rule.expected_gain(np.full((1, 1), 0.0))[0]
    assert rule.expected_gain(np.zeros((1, 9)))[0] < first
    assert (rule.expected_gain(drawn) >= 0).all()
    assert rule.expected_gain(np.full((1, 1), 99.0))[0] == 0


def test_prior_of_ragged_rows(values):
    rows, groups = values.ravel(), np.repeat(np.arange(50), 8)
    order = np.random.default_rng(1).permutation(400)
    sets, ragged = ExpectedGain(0.1).fit(values), ExpectedGain(0.1)
    ragged.fit(rows[order], groups[order])
    new = values[:, :4]
    assert_allclose(ragged.expected_gain(new), sets.expected_gain(new))
    few = order[::3]
    assert ragged.fit(rows[few], groups[few]).expected_gain(new).shape == (50,)


def test_equal_values():
    rule = ExpectedGain(0.1).fit(np.ones((4, 3)))
    assert_allclose(rule.expected_gain(np.array([[1.0], [0.5]])), [0, 0.5 * 2 / 3])


# RejectionSampling


@pytest.mark.parametrize("bound", [1.0, 0.4])
def test_it_draws_from_the_tilted_policy(bound):
    base, q, temperature = np.array([0.5, 0.3, 0.15, 0.05]), [0.1, 0.4, 0.6, 1.0], 0.4
    q = np.array(q)
    rng = np.random.default_rng(0)
    drawn = rng.choice(4, size=(20000, 60), p=base)
    rule = RejectionSampling(temperature, bound)
    accepted = rule.accept(q[drawn], rng.random(drawn.shape))
    assert (accepted.sum(axis=1) == 1).all()
    counts = np.bincount(drawn[accepted], minlength=4)
    weight = base * np.exp(q / temperature)
    cut = base * np.minimum(np.exp(q / temperature), np.exp(bound / temperature))
    assert chisquare(counts, 20000 * cut / cut.sum()).pvalue > 1e-3
    if bound == 1.0:  # the bound is exact
        assert chisquare(counts, 20000 * weight / weight.sum()).pvalue > 1e-3
    else:  # the distance is at most the mass that is cut off, as stated
        exact, found = weight / weight.sum(), cut / cut.sum()
        distance = abs(exact - found).sum() / 2
        recorded = np.repeat(q, (base * 100).astype(int))[None]
        stated = rule.fit(recorded).excess_mass_
        assert stated == pytest.approx(1 - cut.sum() / weight.sum())
        assert 0.01 < distance <= stated
        assert chisquare(counts, 20000 * exact).pvalue < 1e-6


def test_bound_is_a_quantile(values):
    rule = RejectionSampling(2.0, quantile=0.9).fit(values)
    assert rule.bound_ == np.quantile(values, 0.9)
    assert 0 < rule.excess_mass_ < 1
    assert RejectionSampling(2.0, quantile=1).fit(values).excess_mass_ == 0
    assert RejectionSampling(2.0, bound=-1.0).fit(values).bound_ == -1
    # Values far from 0, which overflow without care.
    assert RejectionSampling(1e-3).fit(values * 1e6).excess_mass_ <= 1
    rows, groups = values.ravel(), np.repeat(np.arange(50), 8)
    ragged = clone(rule).fit(rows, groups)
    assert ragged.excess_mass_ == pytest.approx(rule.excess_mass_)


# All rules


def test_unknown_values_are_left_out(values):
    unknown = values.copy()
    unknown[::5], unknown[1, 2:] = np.nan, np.nan
    known = ~np.isnan(unknown)
    groups = np.repeat(np.arange(50), 8).reshape(50, 8)[known]
    drawn = values[:4, :3]
    found = ExpectedGain(0.1).fit(unknown).expected_gain(drawn)
    expected = ExpectedGain(0.1).fit(unknown[known], groups).expected_gain(drawn)
    assert_array_equal(found, expected)
    found = RejectionSampling(1.0).fit(unknown)
    expected = RejectionSampling(1.0).fit(unknown[known], groups)
    assert vars(found) == vars(expected)


@pytest.mark.parametrize("temperature", [1e-310, 1e-3])
def test_low_temperature_accepts_those_at_the_bound(temperature):
    rule = RejectionSampling(temperature, bound=1.0)
    accepted = rule.accept(np.array([[-9.0, 1.0]]), np.array([[0.1, 0.9]]))
    assert_array_equal(accepted, [[False, True]])


def test_rules_do_not_change_what_they_get(values):
    uniforms = np.random.default_rng(0).random(values.shape)
    kept = values.copy()
    for rule in RULES:
        rule = clone(rule)
        if hasattr(rule, "fit"):
            rule.fit(values)
        one = rule.accept(values, uniforms)
        assert one.dtype == bool and one.shape == values.shape
        assert_array_equal(rule.accept(values[:5], uniforms[:5]), one[:5])
        assert_array_equal(values, kept)


def test_errors():
    values = np.zeros((3, 2))
    with pytest.raises(NotFittedError):
        ExpectedGain(0.1).accept(values)
    with pytest.raises(NotFittedError):
        RejectionSampling(1.0).accept(values, values)
    for rule, words in (
        (ExpectedGain(-1), "'cost'"),
        (RejectionSampling(0), "'temperature'"),
        (RejectionSampling(1.0, "high"), "'bound'"),
        (RejectionSampling(1.0, np.nan), "'bound'"),
        (RejectionSampling(1.0, quantile=2), "'quantile'"),
    ):
        with pytest.raises(ValueError, match=words):
            rule.fit(values)
    for value in ("high", np.nan):
        with pytest.raises(ValueError, match="'value' parameter"):
            Threshold(value).accept(values)
    assert not Threshold(np.inf).accept(values).any()  # of conformal_threshold
    for bad, words in (
        ([[np.nan, np.nan]], "all NaN"),
        ([[np.inf, 1]], "infinity"),
        ([1.0, 2.0], "values has rows but no"),
    ):
        with pytest.raises(ValueError, match=words):
            ExpectedGain(0.1).fit(bad)
