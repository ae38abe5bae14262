"""Extreme numbers: the result is correct, or an error names the cause.

The expected results come from scaling laws, closed forms or arithmetic of many digits.
Warnings of numpy, such as of overflow, are errors here, like all warnings.
"""

import re
import warnings
from contextlib import nullcontext
from fractions import Fraction
from itertools import product
from math import comb

import numpy as np
import pytest
from cases import (
    PAIRWISE,
    PROBES_AND_LOSSES,
    SHIFT_INVARIANT,
    every_loss,
    every_probe,
    every_probe_and_loss,
    values_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning, UndefinedMetricWarning

from skqprobe import (
    QProbePolicy,
    QProbePolicyCV,
    QProbeRegressor,
    sample_candidates,
)
from skqprobe._candidates.choice import choice_probabilities
from skqprobe._candidates.layout import check_layout
from skqprobe.losses import LOSSES, SoftmaxCrossEntropy, get_loss
from skqprobe.metrics import (
    base_reward,
    best_of_k_reward,
    effective_candidates,
    expected_reward,
    expected_reward_scorer,
    kl_upper_estimate,
    oracle_reward,
    policy_report,
    prompt_bootstrap,
    recovery,
    soft_best_of_k_reward,
    win_rate,
)
from skqprobe.preprocessing import SiblingFeatures

HUGE, TINY = 2.0**100, 2.0**-100  # about 1e30 and 1e-30; products with them are exact

float32_and_float64 = pytest.mark.parametrize("dtype", [np.float32, np.float64])
every_dtype = pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])

# A fit to data that can be separated need not converge; only its numbers are tested.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def assert_close(actual, desired, rtol=1e-3):
    """Agreement relative to the largest number, which determines a choice."""
    actual = np.asarray(actual, dtype=np.float64)
    desired = np.asarray(desired, dtype=np.float64)
    assert np.isfinite(actual).all()
    assert np.abs(actual - desired).max() <= rtol * np.abs(desired).max()


def fit(loss, X, y, alpha=0.01, Probe=QProbePolicy, **fit_params):
    return Probe(loss, alpha=alpha).fit(X, y, **fit_params)


def uninformative_if(condition, loss, reason):
    """Expect the warning of a fit in which no prompt is informative, if it is one."""
    name = re.escape(repr(get_loss(loss)))
    words = rf"No prompt is informative for loss={name}.*{reason}.*zero"
    return pytest.warns(UserWarning, match=words) if condition else nullcontext()


# --- the magnitude of rewards, embeddings and weights


@pytest.mark.parametrize(
    "scale, dtype",
    [
        *product((TINY, HUGE), (np.float16, np.float32, np.float64)),
        (1e-140, np.float64),
        (1e140, np.float64),
    ],
)
@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "log_loss"])
def test_scale_of_rewards(sets, loss, scale, dtype):
    X, y = sets
    plain, alpha, divisor = loss, 0.01, 1.0
    if hasattr(get_loss(loss), "least_squares"):
        divisor = scale
    elif loss in ("policy_gradient", "conditional_logit"):
        alpha = 0.01 * scale
    elif loss == "softmax_cross_entropy":
        loss = SoftmaxCrossEntropy(target_temperature=0.1 * scale)
    coef = fit(loss, X.astype(dtype), y * scale, alpha).coef_.astype(np.float64)
    expected = fit(plain, X.astype(dtype).astype(np.float64), y).coef_
    assert_close(coef / divisor, expected, 5e-3 if TINY <= scale <= HUGE else 1e-3)


@every_probe_and_loss
@pytest.mark.parametrize(
    "scale, dtype",
    [
        (1e-140, np.float64),
        (1e140, np.float64),
        (1e-30, np.float32),
        (1e30, np.float32),
        (2.0**-14, np.float16),  # most numbers are subnormal
        (1e4, np.float16),
    ],
)
def test_scale_of_embeddings(sets, Probe, loss, scale, dtype):
    X, y = sets
    scaled = (X * scale).astype(dtype)
    assert np.isfinite(scaled).all()
    probe = fit(loss, scaled, y, 0.01 * scale**2, Probe)
    expected = fit(loss, X, y, 0.01, Probe)
    assert_close(values_of(probe, scaled), values_of(expected, X), 1e-2)


@pytest.mark.parametrize("loss", PAIRWISE)
def test_pairs_of_tiny_weight_count_in_their_prompt(sets, loss):
    X, y = sets
    weight = np.ones(y.shape)
    weight[::2] = 1e-200  # so that the product of two is 0
    assert_close(fit(loss, X, y, sample_weight=weight).coef_, fit(loss, X, y).coef_)


@every_probe_and_loss
@pytest.mark.parametrize(
    "name, scale",
    [*product(("X", "y", "sample_weight"), (1e-200, 1e200)), ("X", 5e-322)],
)
def test_magnitudes_beyond_float64_are_named(sets, Probe, loss, name, scale):
    X, y = sets
    given = {"X": X, "y": y, "sample_weight": np.ones(y.shape)}
    given[name] = given[name] * scale
    if loss == "log_loss" and name == "y" and scale > 1:
        pytest.skip("these rewards are not in [0, 1]: tested in test_bad_input.py")
    size = "small" if scale < 1 else "large"
    words = rf"^{name} has numbers .* too {size} .*Rescale"
    with pytest.raises(ValueError, match=words):
        Probe(loss).fit(**given)
    if name == "y":
        with pytest.raises(ValueError, match=f"{name} has numbers of up to"):
            QProbePolicyCV([loss], cv=2).fit(X, given["y"])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_rewards_beyond_float32_are_named(sets, scale, dtype):
    X, y = sets
    with pytest.raises(ValueError, match=r"y has numbers .*pass X in float64"):
        QProbePolicy("squared_error").fit(X.astype(dtype), y * scale)
    policy = QProbePolicy("squared_error").fit(X, y * scale)
    assert_close(policy.coef_ / scale, QProbePolicy("squared_error").fit(X, y).coef_)


@every_probe_and_loss
def test_coefficients_beyond_float32_are_an_error(sets, Probe, loss):
    X, y = sets
    small = (X * 1e-41).astype(np.float32)  # subnormal: coefficients of 1e41
    with pytest.raises(ValueError, match="coefficients cannot be computed"):
        Probe(loss, alpha=0).fit(small, y)
    with pytest.raises(ValueError, match="coefficients cannot be computed"):
        QProbePolicyCV([loss], alphas=[0], cv=2).fit(small, y)
    if loss == "squared_error":
        large = (X * 1e30).astype(np.float32)  # coefficients of 1e-60
        with pytest.raises(ValueError, match="coefficients cannot be computed"):
            Probe(loss, alpha=0).fit(large, y * 1e-30)


@every_probe_and_loss
def test_one_column_of_subnormal_numbers(sets, Probe, loss):
    X, y = sets
    with_column = X.astype(np.float32)
    with_column[..., 2] *= np.float32(1e-41)
    kept = [0, 1, 3]
    expected = fit(loss, X[..., kept], y, Probe=Probe)
    probe = fit(loss, with_column, y, Probe=Probe)
    assert_close(values_of(probe, with_column), values_of(expected, X[..., kept]), 1e-2)


@pytest.mark.parametrize("hidden", [False, True])
@float32_and_float64
def test_values_that_overflow_are_an_error(sets, dtype, hidden):
    X, y = sets
    policy = QProbePolicy("squared_error").fit(X.astype(dtype), y * 1e10)
    if hidden:  # prediction needs no torch
        policy.coefs_ = [np.eye(4, dtype=dtype) * 10, np.ones((4, 1), dtype)]
        policy.intercepts_ = [np.zeros(4, dtype), np.zeros(1, dtype)]
    X = np.full((3, 2, 4), np.finfo(dtype).max / 4, dtype=dtype)
    for method in ("decision_function", "predict", "predict_proba", "sample"):
        with pytest.raises(ValueError, match=f"X has numbers .* overflow {X.dtype}"):
            getattr(policy, method)(X)


@every_probe
def test_score_names_rewards_that_are_too_large(sets, Probe):
    X, y = sets
    with pytest.raises(ValueError, match=r"y has numbers .* too large"):
        Probe().fit(X, y).score(X, y * 1e200)
    if Probe is QProbeRegressor:
        score = Probe().fit(X, y * HUGE).score(X, y * HUGE)
        assert score == pytest.approx(Probe().fit(X, y).score(X, y))


# --- few, many, constant and equal candidates, features and rewards


@every_probe_and_loss
@every_dtype
def test_one_candidate_per_prompt(sets, Probe, loss, dtype):
    X, y = sets[0][:, :1].astype(dtype), sets[1][:, :1]
    with uninformative_if(loss in SHIFT_INVARIANT, loss, "two candidates"):
        probe = fit(loss, X, y, Probe=Probe)
    if loss in SHIFT_INVARIANT:
        assert not probe.coef_.any()
    else:
        rows = fit(loss, X[:, 0], y[:, 0], Probe=QProbeRegressor)
        assert_close(probe.coef_, rows.coef_, 1e-6)
    assert (probe.sample(X, random_state=0) == 0).all()
    if Probe is QProbePolicy:
        assert (probe.predict_proba(X) == 1).all()
        assert probe.score(X, y) == pytest.approx(y.mean())


@every_probe_and_loss
def test_one_prompt_of_one_candidate(Probe, loss):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # nothing to learn from
        probe = Probe(loss).fit([[[2.0, 1.0]]], [[1.0]])
    assert np.isfinite(probe.coef_).all() and probe.sample([[[2.0, 1.0]]]) == [0]


@every_probe_and_loss
@pytest.mark.parametrize("alpha", [0, 0.01])
def test_one_feature(sets, Probe, loss, alpha):
    X, y = sets
    one = fit(loss, X[..., :1], y, alpha, Probe)
    assert one.coef_.shape == (1,) and one.coef_[0] > 0
    if alpha:
        padded = np.concatenate([X[..., :1], np.zeros_like(X[..., :1])], axis=2)
        assert_close(fit(loss, padded, y, alpha, Probe).coef_, [one.coef_[0], 0])


@every_probe_and_loss
@float32_and_float64
def test_more_features_than_rows(rng, Probe, loss, dtype):
    X, y = rng.normal(size=(5, 4, 60)), np.array([[0.0, 1, 0.5, 1]] * 5)
    # The coefficients are in the span of the rows: rotate into it.
    basis = np.linalg.qr(X.reshape(20, 60).T)[0]
    wide = fit(loss, X.astype(dtype), y, 0.1, Probe)
    narrow = fit(loss, X @ basis, y, 0.1, Probe)
    # The end of a fit depends on the tolerance where the minimum is not sharp, and on
    # rounding where the loss has kinks.
    rtol = {"pairwise_hinge": 0.1, "policy_gradient": 2e-2}.get(loss, 5e-3)
    assert_close(wide.coef_, basis @ narrow.coef_, rtol)


def test_more_features_than_rows_without_penalty(rng):
    X, y = rng.normal(size=(5, 4, 60)), rng.normal(size=(5, 4))
    probe = QProbeRegressor(alpha=0).fit(X, y)
    np.testing.assert_allclose(probe.predict(X), y, atol=1e-9)
    centered = X.reshape(20, 60) - X.mean(axis=(0, 1))
    shortest = np.linalg.lstsq(centered, (y - y.mean()).ravel(), rcond=1e-10)[0]
    assert_close(probe.coef_, shortest, 1e-6)


@every_probe_and_loss
@pytest.mark.parametrize("constant", [3.0, 1e4, 1e-4])
@every_dtype
def test_constant_feature_changes_nothing(sets, Probe, loss, constant, dtype):
    X, y = sets
    X = X.astype(dtype)
    padded = np.concatenate([X, np.full_like(X[..., :1], constant)], axis=2)
    probe, expected = (fit(loss, Z, y, Probe=Probe) for Z in (padded, X))
    assert_close(values_of(probe, padded), values_of(expected, X), 1e-2)


@every_probe_and_loss
@pytest.mark.parametrize("alpha", [0, 0.01])
@pytest.mark.parametrize("constant", [0.0, 3.0, 1e30])
@float32_and_float64
def test_all_embeddings_equal(sets, Probe, loss, alpha, constant, dtype):
    _, y = sets
    X = np.full((*y.shape, 3), constant, dtype=dtype)
    probe = fit(loss, X, y, alpha, Probe)
    assert np.ptp(values_of(probe, X)) == 0
    if loss not in SHIFT_INVARIANT:
        reward = values_of(probe, X)[0, 0]
        if Probe is QProbePolicy:
            reward = get_loss(loss).inverse_link(np.float64(reward))
        assert reward == pytest.approx(y.mean(), rel=1e-2)
    policy = QProbePolicy(loss, alpha=alpha, temperature=0.1).fit(X, y)
    np.testing.assert_allclose(policy.predict_proba(X), 1 / y.shape[1], rtol=1e-6)


@every_probe_and_loss
@pytest.mark.parametrize("reward", [0.0, 0.25, 1.0, HUGE])
def test_all_rewards_equal(sets, Probe, loss, reward):
    X = sets[0]
    y = np.full(X.shape[:2], reward)
    if loss == "log_loss" and reward > 1:
        pytest.skip("log_loss takes rewards in [0, 1]")
    is_skipped = loss in PAIRWISE or (loss == "conditional_logit" and reward == 0)
    with uninformative_if(is_skipped, loss, "different rewards"):
        probe = fit(loss, X, y, Probe=Probe)
    if is_skipped:
        assert probe.n_skipped_prompts_ == len(X)
        assert probe.intercept_ == 0 and not probe.coef_.any()
        probe.temperature = 1
        np.testing.assert_allclose(probe.predict_proba(X), 1 / 6)
    # With rewards of 1, the intercept of log_loss grows until `tol` ends the fit.
    atol = 1e-3 if loss == "log_loss" else 1e-6 * max(reward, 1)
    np.testing.assert_allclose(probe.coef_, 0, atol=atol)
    if Probe is QProbeRegressor:
        np.testing.assert_allclose(probe.predict(X), reward, atol=2e-3, rtol=1e-9)


@pytest.mark.parametrize("loss", SHIFT_INVARIANT)
def test_rewards_equal_in_every_prompt(sets, rng, loss):
    X = sets[0]
    y = np.repeat(rng.random((len(X), 1)), X.shape[1], axis=1)
    with uninformative_if(loss in PAIRWISE, loss, "different rewards"):
        policy = fit(loss, X, y)
    assert policy.n_skipped_prompts_ == (len(X) if loss in PAIRWISE else 0)
    # Rounding leaves differences of rewards of about 1e-16.
    np.testing.assert_allclose(policy.coef_, 0, atol=1e-10)


@every_probe_and_loss
def test_two_copies_of_each_candidate(sets, Probe, loss):
    X, y = sets
    twice = [np.repeat(values, 2, axis=1) for values in sets]
    probe = fit(loss, *twice, 0.01, Probe)
    assert_close(probe.coef_, fit(loss, X, y, 0.01, Probe).coef_, 5e-3)


@pytest.mark.parametrize("loss", SHIFT_INVARIANT)
@pytest.mark.parametrize("alpha", [0, 0.01])
def test_equal_candidates_in_every_prompt(sets, loss, alpha):
    X, y = sets
    X = np.repeat(X[:, :1], X.shape[1], axis=1)
    policy = QProbePolicy(loss, alpha=alpha, temperature=1).fit(X, y)
    np.testing.assert_allclose(policy.predict_proba(X), 1 / X.shape[1], rtol=1e-6)
    assert policy.score(X, y) == pytest.approx(y.mean())


@every_probe_and_loss
@pytest.mark.parametrize("alpha", [0, 1e-300, 1e-12, 1e-4])
@float32_and_float64
def test_separable_rewards(rng, Probe, loss, alpha, dtype):
    X = rng.normal(size=(40, 5, 3))
    y = (X[..., 0] > 0).astype(float)
    X[..., 0] += 0.2 * np.sign(X[..., 0])
    X = X.astype(dtype)
    probe = fit(loss, X, y, alpha, Probe)
    values = values_of(probe, X)
    assert np.isfinite(probe.coef_).all() and np.isfinite(values).all()
    chosen = np.take_along_axis(y, values.argmax(axis=1)[:, None], axis=1)[:, 0]
    np.testing.assert_array_equal(chosen, y.max(axis=1))
    if loss == "log_loss" and Probe is QProbeRegressor and alpha < 1e-4:
        assert np.abs(values - y).max() < 0.05


# --- the penalty


@every_probe_and_loss
@pytest.mark.parametrize("alpha", [1e6, 1e12])
@every_dtype
def test_huge_penalty_gives_a_gradient_step(sets, Probe, loss, alpha, dtype):
    X, y = sets
    X = X.astype(dtype)
    scores = np.zeros(y.size)
    if loss == "squared_error":
        scores += y.mean()
    elif loss == "log_loss":
        scores += np.log(y.mean() / (1 - y.mean()))
    offsets = np.arange(len(y) + 1) * y.shape[1]
    slope = get_loss(loss).value_and_gradient(scores, y.ravel(), offsets)[1]
    informative = get_loss(loss).informative_prompts(y.ravel(), offsets)
    gradient = X.reshape(-1, X.shape[2]).T.astype(float) @ slope / informative.sum()
    assert_close(fit(loss, X, y, alpha, Probe).coef_, -gradient / alpha, 5e-3)


def test_equal_columns_share_a_coefficient_if_rounding_absorbs_the_penalty(rng):
    x, y = rng.normal(size=(50, 1)), rng.normal(size=50)
    once = QProbeRegressor(alpha=0).fit(x, y)
    twice = QProbeRegressor(alpha=1e-30).fit(np.hstack([x, x]), y)
    np.testing.assert_allclose(twice.coef_, once.coef_.repeat(2) / 2)


@every_loss
@every_dtype
def test_search_over_extreme_parameters(sets, loss, dtype):
    X, y = sets[0].astype(dtype), sets[1]
    search = QProbePolicyCV(
        [loss], alphas=[1e12, 1e-2, 1e-12, 0], temperatures=[1e300, 1e-300, 0, 1], cv=3
    ).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    at_random = [p["temperature"] == 1e300 for p in search.cv_results_["params"]]
    even = search.cv_results_["mean_test_score"][at_random]
    np.testing.assert_allclose(even, y.mean(), rtol=1e-4)
    if dtype == np.float64:  # float32 cannot hold an intercept and 1e-12 of it
        assert search.score(X, y) > y.mean() + 0.1


# --- choices


def softmax_of_many_digits(scores, temperature):
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(60):
        scaled = [mpmath.mpf(float(z)) / mpmath.mpf(float(temperature)) for z in scores]
        mass = [mpmath.exp(value - max(scaled)) for value in scaled]
        return np.array([float(value / mpmath.fsum(mass)) for value in mass])


@float32_and_float64
@pytest.mark.parametrize(
    "magnitude", [5e-324, 1e-300, 1e-40, 1e-6, 1, 1e6, 1e38, 1e300, 1.7e308]
)
@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-3, 1, 1e3, 1e30, 1e300])
def test_probabilities_to_many_digits(magnitude, temperature, dtype):
    scores = np.array([1.0, 0.5, 0.999999, -1, 0]) * magnitude
    if abs(scores).max() > np.finfo(dtype).max:
        pytest.skip("there are no such scores in float32")
    scores = scores.astype(dtype)
    proba = choice_probabilities(scores, check_layout((1, 5)), temperature)
    assert proba.dtype == dtype
    expected = softmax_of_many_digits(scores, temperature)
    # Subnormal numbers have fewer digits.
    rtol, atol = (1e-6 if dtype == np.float32 else 1e-12), np.finfo(dtype).tiny
    np.testing.assert_allclose(proba, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("temperature", [0, 1e-300, 1, 1e300])
@float32_and_float64
def test_draws_with_scores_of_the_largest_magnitude(temperature, dtype):
    end = np.finfo(dtype).max
    scores = np.array([[end, -end, end, 0], [-end, -end, -end, -end]], dtype=dtype)
    layout = check_layout((2, 4))
    proba = choice_probabilities(scores.ravel(), layout, temperature).reshape(2, 4)
    draws = sample_candidates(proba, size=200, random_state=0)
    assert (draws >= 0).all() and (draws < 4).all()
    if temperature < 1e300:
        np.testing.assert_array_equal(proba, [[0.5, 0, 0.5, 0], [0.25] * 4])
        assert set(draws[0]) == {0, 2} and set(draws[1]) == {0, 1, 2, 3}


def test_probabilities_that_underflow_sum_to_one():
    proba = np.array([[5e-324, 1 - 1e-16, 1e-310]])
    assert (sample_candidates(proba, size=1000, random_state=0) == 1).all()
    assert kl_upper_estimate(proba) == pytest.approx(np.log(3))
    assert effective_candidates(proba) == pytest.approx(1)


# --- very many candidates

MANY = 100_000


@pytest.mark.slow
@every_loss
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_hundred_thousand_candidates(rng, loss, dtype):
    X = rng.normal(size=(2, MANY, 2)).astype(dtype)
    y = (X[..., 0] > 1).astype(float)
    # All 10**10 pairs would take too long: pairwise losses take sets.
    n_candidates = 10 if loss in PAIRWISE else None
    policy = QProbePolicy(
        loss, alpha=1e-3, n_candidates=n_candidates, random_state=0, max_iter=50
    ).fit(X, y)
    assert policy.score(X, y) == 1
    assert abs(policy.coef_[1]) < 0.1 * policy.coef_[0]
    policy.set_params(temperature=1e300)
    np.testing.assert_allclose(policy.predict_proba(X), 1 / MANY, rtol=1e-5)
    assert policy.score(X, y) == pytest.approx(y.mean(), rel=1e-6)
    assert (policy.sample(X, size=50, random_state=0) < MANY).all()


def test_metrics_of_a_hundred_thousand_candidates():
    y = np.random.default_rng(0).permutation(MANY).astype(float)[None]
    assert win_rate(y, y, MANY) == pytest.approx(1 - 0.5 / MANY, rel=1e-12)
    binary = np.zeros((1, MANY))
    binary[0, :10] = 1
    expected = 1 - comb(MANY - 10, 500) / comb(MANY, 500)
    assert oracle_reward(binary, 500) == pytest.approx(expected, rel=1e-9)
    even = np.full((1, MANY), 1 / MANY, dtype=np.float32)
    assert kl_upper_estimate(even) == pytest.approx(0, abs=1e-6)
    assert effective_candidates(even) == pytest.approx(MANY, rel=1e-6)
    assert expected_reward(y, even) == pytest.approx((MANY - 1) / 2, rel=1e-6)


# --- metrics


class Fixed:
    """A policy of given values."""

    temperature = 0.5

    def __init__(self, values):
        self.values = values

    def decision_function(self, X):
        return self.values


SEED = {"random_state": 0}
REWARD_METRICS = {
    "base": lambda y, z, **w: base_reward(y, **w),
    "best of 3": lambda y, z, **w: best_of_k_reward(y, z, [1, 3, 6], **w),
    "oracle": lambda y, z, **w: oracle_reward(y, [1, 3, 6], **w),
    "soft": lambda y, z, **w: soft_best_of_k_reward(y, z, 3, 0.5, **SEED, **w),
    "greedy": lambda y, z: expected_reward_scorer(0)(Fixed(z), None, y),
}
RELATIVE_METRICS = {
    "recovery": lambda y, z, **w: recovery(y, z, [3, 6], **w),
    "win rate": lambda y, z, **w: win_rate(y, z, [1, 3, 6], **w),
}
METRICS = REWARD_METRICS | RELATIVE_METRICS


@pytest.fixture
def scored(rng):
    return rng.random((12, 6)), rng.normal(size=(12, 6))


@pytest.mark.parametrize("scale", [1e-300, TINY, HUGE, 1e149])
@pytest.mark.parametrize("name", METRICS)
def test_metrics_scale_with_rewards(scored, name, scale):
    y, z = scored
    scaled = np.asarray(METRICS[name](y * scale, z))
    unit = scale if name in REWARD_METRICS else 1
    np.testing.assert_allclose(scaled / unit, METRICS[name](y, z), rtol=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_metrics_of_the_largest_scores(scored, name):
    y, z = scored
    end = np.finfo(float).max
    far = np.where(z > 0.5, end, np.where(z < -0.5, -end, 0.0))
    levels = np.where(z > 0.5, 1e3, np.where(z < -0.5, -1e3, 0.0))
    np.testing.assert_allclose(
        METRICS[name](y, far), METRICS[name](y, levels), rtol=1e-9
    )


@pytest.mark.parametrize("name", METRICS)
def test_rewards_too_large_for_metrics_are_named(scored, name):
    y, z = scored
    with pytest.raises(ValueError, match=r"y has numbers .* too large"):
        METRICS[name](np.where(y > 0.5, 1.7e308, -1.7e308), z)


@pytest.mark.parametrize("scale", [1e-140, TINY, HUGE, 1e140])
def test_errors_and_intervals_scale_with_rewards(scored, scale):
    y, z = scored

    def figures(y):
        few = {"n_resamples": 199, **SEED}
        soft = METRICS["soft"](y, z, return_error=True)
        one = prompt_bootstrap(best_of_k_reward, y, z, k=3, **few)
        two = prompt_bootstrap(best_of_k_reward, y, z, versus=-z, k=[3, 6], **few)
        intervals = [(e.value, e.low, e.high, e.standard_error) for e in (one, two)]
        return np.concatenate([soft, *map(np.ravel, intervals)])

    np.testing.assert_allclose(figures(y * scale) / scale, figures(y), rtol=1e-7)
    with pytest.raises(ValueError, match=r"y has numbers .* too small"):
        METRICS["soft"](y * 1e-200, z, return_error=True)


@pytest.mark.parametrize("scale", [TINY, HUGE])
def test_report_scales_with_rewards(scored, scale):
    y, z = scored
    pytest.importorskip("pandas")
    settings = {"ks": (3, 6), "n_resamples": 99, "random_state": 0}
    plain, scaled = (
        policy_report(Fixed(z), None, r, **settings).drop(columns="n_prompts")
        for r in (y, y * scale)
    )
    unit = np.where(
        plain.index.get_level_values(1).isin(["base", "greedy", "sampled", "oracle"]),
        scale,
        1.0,
    )
    np.testing.assert_allclose(scaled.to_numpy() / unit[:, None], plain, rtol=1e-7)


@pytest.mark.parametrize("scale", [1e-140, 1e140])
@pytest.mark.parametrize("name", sorted(set(METRICS) - {"greedy"}))
def test_scale_of_weights_does_not_matter_in_metrics(scored, rng, name, scale):
    y, z = scored
    weight = rng.random(len(y))
    more = {"return_error": True} if name == "soft" else {}
    scaled = METRICS[name](y, z, prompt_weight=weight * scale, **more)
    expected = METRICS[name](y, z, prompt_weight=weight, **more)
    np.testing.assert_allclose(scaled, expected, rtol=1e-9)
    with pytest.raises(ValueError, match=r"prompt_weight has numbers .* too large"):
        METRICS[name](y, z, prompt_weight=np.full(len(y), 1e200))


def test_constant_rewards_in_metrics(scored):
    z = scored[1]
    y = np.full(z.shape, 0.1)
    for reward in (
        base_reward(y),
        best_of_k_reward(y, z, 3),
        soft_best_of_k_reward(y, z, 3, 1.0, random_state=0),
    ):
        assert reward == pytest.approx(0.1, rel=1e-12)
    assert win_rate(y, z, 3) == pytest.approx(0.5)
    with pytest.warns(UndefinedMetricWarning, match="has no width"):
        interval = prompt_bootstrap(base_reward, y, n_resamples=99, random_state=0)
    assert interval.low == pytest.approx(0.1) and interval.high == pytest.approx(0.1)


# --- networks

NETWORK = {"hidden_layer_sizes": (8,), "max_iter": 5, "random_state": 0}


@float32_and_float64
@every_probe_and_loss
def test_networks_of_constant_and_scaled_features(sets, Probe, loss, dtype):
    pytest.importorskip("torch")
    X, y = sets
    plain = Probe(loss, **NETWORK).fit(X * [1, 1, 1, 0], y)
    Z = (X * [1e-25, 1.0, 1e25, 0.0] + [0.0, 0.0, 0.0, 3.0]).astype(dtype)
    probe = Probe(loss, **NETWORK).fit(Z, y)
    assert_close(values_of(probe, Z), values_of(plain, X * [1, 1, 1, 0]), 1e-2)


@pytest.mark.parametrize("scale", [TINY, HUGE])
@pytest.mark.parametrize("loss", ["squared_error", "contrastive_policy_gradient"])
def test_networks_of_scaled_rewards(sets, loss, scale):
    pytest.importorskip("torch")
    X, y = sets[0].astype(np.float32), sets[1]
    plain = QProbePolicy(loss, **NETWORK).fit(X, y)
    scaled = QProbePolicy(loss, **NETWORK).fit(X, y * scale)
    assert_close(scaled.decision_function(X) / scale, plain.decision_function(X))


def test_networks_name_rewards_that_are_too_large(sets):
    pytest.importorskip("torch")
    X, y = sets[0].astype(np.float32), sets[1]
    with pytest.raises(ValueError, match=r"y has numbers .* too large"):
        QProbePolicy("policy_gradient", **NETWORK).fit(X, y * HUGE)


# --- any numbers

CANNOT_BE_COMPUTED = "The coefficients cannot be computed"
magnitudes = st.sampled_from(
    [0.0, 5e-324, 1e-200, 1e-40, 1e-8, 1.0, 1e8, 1e38, 1e200, 1e308]
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    data=st.data(),
    case=st.sampled_from(
        [*PROBES_AND_LOSSES, *((QProbePolicyCV, loss) for loss in LOSSES)]
    ),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_results_are_finite_or_an_error_names_the_cause(data, case, dtype):
    Probe, loss = case
    n, k, d = (data.draw(st.integers(2, 5)) for _ in range(3))
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    columns = np.array([data.draw(magnitudes) for _ in range(d)])
    with np.errstate(over="ignore", under="ignore"):
        X = (rng.uniform(-1, 1, size=(n, k, d)) * columns).astype(dtype)
    y = rng.choice([0.0, 0.3, 1.0], size=(n, k)) * data.draw(magnitudes)
    weight = rng.choice([0.0, 1.0], size=(n, k)) * data.draw(magnitudes)
    weight[:, 0] = 1.0
    alpha = data.draw(st.sampled_from([0.0, 1e-300, 1e-4, 1.0, 1e12, 1e300]))
    if Probe is QProbePolicyCV:
        probe = Probe([loss], alphas=[alpha, 1.0], cv=2, max_iter=50, random_state=0)
    else:
        probe = Probe(loss, alpha=alpha, max_iter=50, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "No prompt is informative")
        try:
            probe.fit(X, y, sample_weight=weight)
            values = values_of(probe, X)
        except ValueError as error:
            words = "Input X ", "X ", "y ", "sample_weight ", CANNOT_BE_COMPUTED
            assert str(error).startswith(words)
            return
    assert np.isfinite(probe.coef_).all() and np.isfinite(probe.intercept_)
    assert np.isfinite(values).all()
    if Probe is QProbeRegressor:
        return
    proba = probe.predict_proba(X)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
    assert 0 <= probe.score(X, y) <= y.max() * (1 + 1e-9)


def test_settings_of_other_types_and_extremes(sets):
    X, y = sets
    expected = QProbePolicy(alpha=0.25).fit(X, y)
    policy = QProbePolicy(alpha=np.longdouble(0.25), max_iter=10**30).fit(X, y)
    np.testing.assert_array_equal(policy.coef_, expected.coef_)
    loose = QProbePolicyCV(["log_loss"], tol=1e300, max_iter=10**30).fit(X, y)
    assert not loose.coef_.any()
    found = QProbePolicy(alpha=Fraction(1, 4), tol=Fraction(1, 9)).fit(X, y)
    again = QProbePolicy(alpha=0.25, tol=1 / 9).fit(X, y)
    np.testing.assert_array_equal(found.coef_, again.coef_)
    found = QProbePolicyCV(["squared_error"], alphas=[Fraction(1, 4)]).fit(X, y)
    again = QProbePolicyCV(["squared_error"], alphas=[0.25]).fit(X, y)
    np.testing.assert_array_equal(found.coef_, again.coef_)
    for share in (Fraction(1, 4), 0.25):
        features = SiblingFeatures(embedding="drop", variance_share=share)
        assert features.fit_transform(X).var() <= 0.25 * (1 + 1e-9)
    random = QProbePolicy(temperature=np.inf).fit(X, y)
    np.testing.assert_allclose(random.predict_proba(X), 1 / y.shape[1])
    policy.temperature = Fraction(1, 2)  # after the fit, any real number
    half = expected.set_params(temperature=0.5).predict_proba(X)
    np.testing.assert_allclose(policy.predict_proba(X), half)
    whole, split = (
        QProbePolicy("log_loss", n_candidates=k).fit(X, y) for k in (None, 10**30)
    )
    np.testing.assert_allclose(split.coef_, whole.coef_, rtol=1e-3)


@pytest.mark.parametrize("name", ["alpha", "temperature", "tol"])
def test_settings_beyond_all_floats(sets, name):
    with pytest.raises(ValueError, match=f"'{name}' parameter .* Got 1000"):
        QProbePolicy(**{name: 10**400}).fit(*sets)


def test_settings_of_a_search_beyond_all_floats(sets):
    for name in ("alphas", "temperatures"):
        with pytest.raises(ValueError, match=f"{name[:-1]}s? must be .*; got 1000"):
            QProbePolicyCV(**{name: [10**400]}).fit(*sets)
    with pytest.raises(ValueError, match=r"'tol' parameter .* Got 1000"):
        QProbePolicyCV(tol=10**400).fit(*sets)
    with pytest.raises(ValueError, match="'variance_share' parameter"):
        SiblingFeatures(variance_share=10**400).fit(sets[0])
