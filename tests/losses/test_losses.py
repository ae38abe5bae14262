"""Tests that every loss passes."""

import math
from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pytest
from cases import CONVEX
from numpy.testing import assert_allclose, assert_array_equal

from skqprobe import QProbePolicy
from skqprobe.losses import LOSSES, SquaredError, get_loss

SETTINGS = [
    ("pairwise_hinge", {"margin": 0.7}),
    ("softmax_cross_entropy", {"target_temperature": 0.6}),
    ("contrastive_policy_gradient", {"b": 2.5}),
]
ALL_SETTINGS = [
    *((name, {}) for name in LOSSES),
    *SETTINGS,
    ("conditional_logit", {"normalize": True}),
    *(("quantile_filtered_imitation", {"quantile": q}) for q in (0, 0.4, 0.5, 1)),
]

every_loss = pytest.mark.parametrize("name", LOSSES)


# Formulas for one prompt, in plain Python.


def softmax(values):
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def squared_error(z, r):
    return sum((zi - ri) ** 2 for zi, ri in zip(z, r, strict=True)) / len(z)


def log_loss(z, r):
    total = 0.0
    for zi, ri in zip(z, r, strict=True):
        total += ri * math.log(1 + math.exp(-zi))  # -log of the probability
        total += (1 - ri) * math.log(1 + math.exp(zi))
    return total / len(z)


def policy_gradient(z, r):
    return -sum(qi * ri for qi, ri in zip(softmax(z), r, strict=True))


def mean_over_pairs(pair_loss, z, r):
    pairs = [(i, j) for i, j in permutations(range(len(r)), 2) if r[i] > r[j]]
    total = sum(pair_loss(z[i] - z[j]) for i, j in pairs)
    return total / len(pairs) if pairs else 0.0


def pairwise_logistic(z, r):
    return mean_over_pairs(lambda lead: -math.log(1 / (1 + math.exp(-lead))), z, r)


def pairwise_hinge(z, r, margin=0.1):
    return mean_over_pairs(lambda lead: max(0.0, margin - lead), z, r)


def softmax_cross_entropy(z, r, target_temperature=0.1):
    target = softmax([ri / target_temperature for ri in r])
    return -sum(ti * math.log(qi) for ti, qi in zip(target, softmax(z), strict=True))


def contrastive_policy_gradient(z, r, b=1.0):
    pairs = product(range(len(z)), repeat=2)
    return (
        sum(((r[i] - r[j]) - b * (z[i] - z[j])) ** 2 / 4 for i, j in pairs)
        / len(z) ** 2
    )


def conditional_logit(z, r, normalize=False):
    total = sum(r) if normalize and sum(r) else 1
    return -sum(ri / total * math.log(qi) for ri, qi in zip(r, softmax(z), strict=True))


def quantile_filtered_imitation(z, r, quantile=0.9):
    at_most = [sum(rj <= ri for rj in r) / len(r) for ri in r]
    pairs = zip(softmax(z), r, at_most, strict=True)
    kept = [math.log(q) for q, ri, share in pairs if share > quantile or ri == max(r)]
    return -sum(kept) / len(kept)


FORMULAS = {
    formula.__name__: formula
    for formula in [
        squared_error,
        log_loss,
        policy_gradient,
        pairwise_logistic,
        pairwise_hinge,
        softmax_cross_entropy,
        contrastive_policy_gradient,
        conditional_logit,
        quantile_filtered_imitation,
    ]
}


def test_every_loss_has_a_formula():
    assert set(FORMULAS) == set(LOSSES)


# Values and gradients


@pytest.mark.parametrize("name, settings", ALL_SETTINGS)
def test_value_matches_formula(
    name, settings, scores, rewards, offsets, prompts, weight
):
    value, _ = LOSSES[name](**settings).value_and_gradient(
        scores, rewards, offsets, weight
    )
    copies = np.ones(len(scores), int) if weight is None else weight.astype(int)
    expected = [
        FORMULAS[name](
            np.repeat(scores[rows], copies[rows]).tolist(),
            np.repeat(rewards[rows], copies[rows]).tolist(),
            **settings,
        )
        for rows in prompts
    ]
    assert value.dtype == np.float64
    assert_allclose(value, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name, settings", ALL_SETTINGS)
@pytest.mark.parametrize("factor", [None, 1, 0.37])
def test_gradient_matches_finite_differences(
    name, settings, factor, scores, rewards, offsets, prompts, rng
):
    weight = None if factor is None else factor * rng.integers(1, 4, len(scores))

    def evaluate(scores):
        loss = LOSSES[name](**settings)
        return loss.value_and_gradient(scores, rewards, offsets, weight)

    _, gradient = evaluate(scores)
    assert gradient.shape == scores.shape
    assert gradient.dtype == np.float64
    for prompt, rows in enumerate(prompts):
        for row in range(rows.start, rows.stop):
            step = np.zeros_like(scores)
            step[row] = 1e-6
            slope = (evaluate(scores + step)[0] - evaluate(scores - step)[0]) / 2e-6
            assert slope[prompt] == pytest.approx(gradient[row], abs=1e-7, rel=1e-7)
            slope[prompt] = 0
            assert_array_equal(slope, 0)  # no effect on other prompts


@every_loss
@pytest.mark.parametrize("magnitude", [1e-300, 1e-8, 1, 30, 800, 1e8])
def test_value_and_gradient_to_many_digits(name, magnitude, monkeypatch):
    mpmath = pytest.importorskip("mpmath")
    monkeypatch.setitem(globals(), "math", mpmath)  # for the formulas
    scores = np.array([1.0, -0.7, 0.25, 0]) * magnitude
    rewards = np.array([0.0, 1, 0.5, 0.5])
    with mpmath.workdps(60):
        z, r = ([mpmath.mpf(x) for x in values] for values in (scores, rewards))
        expected = float(FORMULAS[name](z, r))
        step = mpmath.mpf(10) ** -25 * max(magnitude, 1)
        slopes = []
        for i in range(4):
            up, down = ([*z[:i], z[i] + h, *z[i + 1 :]] for h in (step, -step))
            change = FORMULAS[name](up, r) - FORMULAS[name](down, r)
            slopes.append(float(change / (2 * step)))
    value, gradient = LOSSES[name]().value_and_gradient(
        scores, rewards, np.array([0, 4])
    )
    assert_allclose(value, expected, rtol=1e-12, atol=1e-300)
    assert_allclose(gradient, slopes, rtol=1e-9, atol=1e-13)


@every_loss
def test_arguments_are_not_changed(name, scores, rewards, offsets, weight):
    arrays = [scores, rewards, offsets] + ([] if weight is None else [weight])
    before = [array.copy() for array in arrays]
    LOSSES[name]().value_and_gradient(scores, rewards, offsets, weight)
    for array, copy in zip(arrays, before, strict=True):
        assert_array_equal(array, copy)


@every_loss
def test_shift_of_the_scores_of_a_prompt(
    name, scores, rewards, offsets, prompts, weight, rng
):
    loss = LOSSES[name]()
    if not loss.shift_invariant:
        value, _ = loss.value_and_gradient(scores, rewards, offsets)
        shifted, _ = loss.value_and_gradient(scores + 3, rewards, offsets)
        assert abs(shifted - value).min() > 0.01
        return
    value, gradient = loss.value_and_gradient(scores, rewards, offsets, weight)
    shift = np.repeat(rng.normal(size=len(prompts)), np.diff(offsets))
    shifted = loss.value_and_gradient(scores + shift, rewards, offsets, weight)
    assert_allclose(shifted[0], value, atol=1e-12)
    assert_allclose(shifted[1], gradient, atol=1e-12)
    for rows in prompts:
        assert abs(gradient[rows].sum()) < 1e-14 * max(1, abs(gradient[rows]).sum())
    assert abs(gradient).max() > 0.1


@pytest.mark.parametrize("name", CONVEX)
def test_convex_along_random_lines(name, rewards, offsets, weight, rng):
    def evaluate(scores):
        return LOSSES[name]().value_and_gradient(scores, rewards, offsets, weight)

    for scale in (0.1, 1, 10):
        start, end = rng.normal(scale=scale, size=(2, len(rewards)))
        (start_value, start_gradient), (end_value, end_gradient) = map(
            evaluate, (start, end)
        )
        rounding = 1e-12 * (1 + start_value + end_value)
        for share in (0.1, 0.5, 0.8):
            between, _ = evaluate((1 - share) * start + share * end)
            chord = (1 - share) * start_value + share * end_value
            assert (between <= chord + rounding).all()
        slopes = (end_gradient - start_gradient) * (end - start)
        slopes = np.add.reduceat(slopes, offsets[:-1])
        assert (slopes >= -rounding * scale).all()


# Limits of one prompt with the scores 1e5, 0, -1e5 and the rewards 0, 1/2, 1.
T = np.exp([0, 5, 10]) / np.exp([0, 5, 10]).sum()
LIMITS = {
    "squared_error": (1e10 + 0.25 + (1e5 + 1) ** 2) / 3,
    "log_loss": (1e5 + math.log(2) + 1e5) / 3,
    "policy_gradient": 0.0,
    "pairwise_logistic": (1e5 + 2e5 + 1e5) / 3,
    "pairwise_hinge": (1e5 + 2e5 + 1e5) / 3 + 0.1,
    "softmax_cross_entropy": T[1] * 1e5 + T[2] * 2e5,
    "contrastive_policy_gradient": (2 * (0.5 + 1e5) ** 2 + (1 + 2e5) ** 2) / 18,
    "conditional_logit": 0.5 * 1e5 + 2e5,
    "quantile_filtered_imitation": 2e5,
}


@every_loss
def test_limit_of_large_scores(name):
    value, _ = LOSSES[name]().value_and_gradient(
        np.array([1e5, 0, -1e5]), np.array([0, 0.5, 1]), np.array([0, 3])
    )
    assert_allclose(value, LIMITS[name], rtol=1e-12)


@every_loss
def test_extreme_scores_give_finite_results(name, rewards, offsets, weight, rng):
    # Squares of more than 1e154 overflow.
    largest = 1e100 if hasattr(LOSSES[name], "least_squares") else 1e300
    for magnitude in (1e5, largest):
        scores = rng.choice([-magnitude, 0.0, magnitude], len(rewards))
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            value, gradient = LOSSES[name]().value_and_gradient(
                scores, rewards, offsets, weight
            )
        assert np.isfinite(value).all()
        assert np.isfinite(gradient).all()


# Optional methods


@every_loss
def test_valid_rewards(name):
    loss = LOSSES[name]()
    loss.check_rewards(np.array([0, 0.5, 1]))
    if name not in ("log_loss", "conditional_logit"):
        loss.check_rewards(np.array([-3.0, 1e10]))


@every_loss
def test_informative_prompts(name):
    # Two equal rewards, a single candidate of reward 0, and two different rewards.
    offsets, rewards = np.array([0, 2, 3, 5]), np.array([1.0, 1, 0, 1, 0])
    informative = LOSSES[name]().informative_prompts(rewards, offsets)
    equal = not name.startswith("pairwise")
    single = equal and name != "conditional_logit"
    assert informative.tolist() == [equal, single, True]


@every_loss
def test_inverse_link(name):
    scores = np.array([-1e5, -2, 0, 2, 1e5])
    expected = scores.copy()
    if name == "log_loss":
        expected[[0, 4]], expected[1:4] = [0, 1], 1 / (1 + np.exp([2, 0, -2]))
    found = LOSSES[name]().inverse_link(scores)
    assert_allclose(found[1:4], expected[1:4])
    assert_array_equal(found[[0, 4]], expected[[0, 4]])


def test_least_squares_of_squared_error(scores, rewards, offsets, weight):
    loss = SquaredError()
    v, t = loss.least_squares(rewards, offsets, weight)
    value, _ = loss.value_and_gradient(scores, rewards, offsets, weight)
    assert_allclose(np.add.reduceat(v * (scores - t) ** 2, offsets[:-1]), value)


@every_loss
def test_get_loss(name):
    loss = get_loss(name)
    assert type(loss) is LOSSES[name]
    assert get_loss(loss) is loss


# Settings


def test_default_settings():
    defaults = {name: loss().get_params() for name, loss in LOSSES.items()}
    assert {name: params for name, params in defaults.items() if params} == {
        "pairwise_hinge": {"margin": 0.1},
        "softmax_cross_entropy": {"target_temperature": 0.1},
        "contrastive_policy_gradient": {"b": 1.0},
        "conditional_logit": {"normalize": False},
        "quantile_filtered_imitation": {"quantile": 0.9},
    }


@pytest.mark.parametrize("name, settings", SETTINGS)
def test_settings_change_the_fit(name, settings, sets):
    loss = LOSSES[name](**settings)
    policy = QProbePolicy(loss=loss).fit(*sets)
    default = QProbePolicy(loss=name).fit(*sets)
    assert not np.array_equal(policy.coef_, default.coef_)
    assert policy.loss is loss
    assert loss.get_params() == settings


@pytest.mark.parametrize(
    "value", [0, -1.0, np.nan, np.inf, pytest.param(10**400, id="huge")]
)
@pytest.mark.parametrize("name, settings", SETTINGS)
@pytest.mark.parametrize("solver", ["auto", "lbfgs"])
def test_settings_must_be_positive(name, settings, value, solver, sets):
    (setting,) = settings
    loss = LOSSES[name](**{setting: value})  # __init__ does not validate
    message = f"{setting} of {type(loss).__name__} must be a finite number above 0; got"
    policy = QProbePolicy(loss=loss, solver=solver)
    with pytest.raises(ValueError, match=message):
        policy.fit(*sets)
    assert not hasattr(policy, "coef_")


@pytest.mark.parametrize("name, settings", SETTINGS)
def test_settings_may_be_fractions(name, settings, sets):
    (setting,) = settings
    coefs = [
        QProbePolicy(LOSSES[name](**{setting: value})).fit(*sets).coef_
        for value in (0.5, Fraction(1, 2))
    ]
    np.testing.assert_array_equal(*coefs)
