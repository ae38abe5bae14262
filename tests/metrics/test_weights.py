"""`prompt_weight` and `too_few` mean the same in every metric, errors included."""

from functools import partial

import numpy as np
import pytest

from skqprobe.metrics import (
    base_reward,
    effective_candidates,
    expected_reward,
    kl_upper_estimate,
    oracle_reward,
    prompt_bootstrap,
    recovery,
    soft_best_of_k_reward,
    softmax_reward,
)

WEIGHTS = np.array([[1, 1, 1, 1], [0, 2, 1, 0], [3, 0, 0, 1]])
COPIES = [np.repeat(np.arange(4), weight) for weight in WEIGHTS]


@pytest.fixture
def problem(rng):
    """Rewards and scores of 4 prompts of 5 candidates."""
    return rng.normal(size=(2, 4, 5))


METRICS = {
    "base": lambda y, s, **w: base_reward(y, **w),
    "oracle": lambda y, s, **w: oracle_reward(y, [2, 5], **w),
    "soft, exact": lambda y, s, **w: soft_best_of_k_reward(y, s, [1, 5], 0.5, **w),
    "softmax": lambda y, s, **w: softmax_reward(y, s, 0.5, **w),
    "expected": lambda y, s, **w: expected_reward(y, abs(s) / row_sums(s), **w),
    "kl": lambda y, s, **w: kl_upper_estimate(abs(s) / row_sums(s), **w),
    "effective": lambda y, s, **w: effective_candidates(abs(s) / row_sums(s), **w),
}


def row_sums(scores):
    return abs(scores).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_a_weight_is_that_many_copies_of_a_prompt(problem, metric):
    y, scores = problem
    for weight, rows in zip(WEIGHTS, COPIES, strict=True):
        expected = metric(y[rows], scores[rows])
        np.testing.assert_allclose(metric(y, scores, prompt_weight=weight), expected)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_values_per_prompt(problem, metric):
    """`average=None` gives the metric of each prompt alone, of which the mean is."""
    y, scores = problem
    values = metric(y, scores, average=None)
    alone = [metric(y[i : i + 1], scores[i : i + 1]) for i in range(4)]
    np.testing.assert_allclose(values, alone)
    np.testing.assert_allclose(values.mean(axis=0), metric(y, scores))


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_unknown_average(problem, metric):
    with pytest.raises(ValueError, match="average must be 'mean' or None; got 'macro'"):
        metric(*problem, average="macro")


def test_the_error_of_a_weighted_mean_of_draws(problem):
    y, scores = problem
    drawn = {"n_draws": 5, "random_state": 0, "return_error": True}  # of 10 sets
    metric = partial(soft_best_of_k_reward, y, scores, [2, 5], 0.5, **drawn)
    _, of_one = metric(average=None)
    for weight in WEIGHTS:
        _, got = metric(prompt_weight=weight)
        share = weight / weight.sum()
        np.testing.assert_allclose(got, np.sqrt(share**2 @ np.square(of_one)))
    _, plain = metric()
    np.testing.assert_allclose(plain, metric(prompt_weight=WEIGHTS[0])[1])
    assert plain[0] > 0 == plain[1]


def test_the_error_of_two_draws_is_half_their_distance():
    y, scores = np.array([[0.0, 1.0, 3.0]]), np.array([[1.0, 2.0, 3.0]])
    for seed in range(20):
        mean, error = soft_best_of_k_reward(
            y, scores, 2, 0.5, n_draws=2, random_state=seed, return_error=True
        )
        if error > 0:
            break
    # Standard deviation |a - b| / sqrt(2), over sqrt(2) draws.
    sets = [
        soft_best_of_k_reward(y[:, pair], scores[:, pair], 2, 0.5)
        for pair in ([0, 1], [0, 2], [1, 2])
    ]
    gaps = {round(abs(a - b) / 2, 9): (a + b) / 2 for a in sets for b in sets}
    assert gaps[round(error, 9)] == pytest.approx(mean)


def test_the_oracle_leaves_out_prompts_with_too_few():
    y, groups = [1.0, 5.0, 7.0], ["a", "b", "b"]
    assert oracle_reward(y, 2, groups, too_few="skip") == 7


def test_weights_that_leave_no_prompt_give_nan():
    y, groups = [1.0, 5.0, 7.0], ["a", "b", "b"]
    metric = partial(oracle_reward, y, 2, groups, too_few="skip")
    assert np.isnan(metric(prompt_weight=[1.0, 0.0]))
    assert metric(prompt_weight=[1.0, 1.0]) == 7
    np.testing.assert_array_equal(metric(average=None), [np.nan, 7])


def test_recovery_per_prompt():
    """Its mean is a ratio of means, and not the mean of the ratios."""
    y = np.array([[0.0, 1.0, 0.5], [1.0, 1.0, 1.0], [0.0, 0.0, 4.0]])
    scores = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 2.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(recovery(y, scores, 3, average=None), [0, np.nan, 1])
    gains = np.array([0, 4 - 4 / 3]), np.array([0.5, 4 - 4 / 3])
    assert recovery(y, scores, 3) == pytest.approx(gains[0].sum() / gains[1].sum())


@pytest.mark.parametrize("level", [1e-9, 1, 1e9])
def test_what_rounding_leaves_is_no_gain_at_any_level_of_reward(level):
    y = np.full((2, 7), level * 0.1)
    with pytest.warns(
        match="recovery is undefined and set to NaN where the oracle gains nothing "
        r"over the base\."
    ):
        assert np.isnan(recovery(y, np.arange(14).reshape(2, 7), 3))
    y[0, 0] = level
    assert recovery(y, y, 7) == pytest.approx(1)


def test_policies_are_compared_in_every_layout_and_by_probabilities(rng):
    y, scores, versus = rng.normal(size=(3, 20, 4))
    groups, few = np.repeat(np.arange(20), 4), {"n_resamples": 99, "random_state": 0}
    sets = prompt_bootstrap(softmax_of_scores, y, scores, versus=versus, **few)
    rows = [array.ravel() for array in (y, scores)]
    rows = prompt_bootstrap(
        softmax_of_scores, *rows, versus=versus.ravel(), groups=groups, **few
    )
    assert sets == rows
    first, second = (abs(s) / row_sums(s) for s in (scores, versus))
    kl = prompt_bootstrap(kl_upper_estimate, first, versus=second, **few)
    expected = kl_upper_estimate(first) - kl_upper_estimate(second)
    assert kl.value == pytest.approx(expected)


def softmax_of_scores(y, scores, **options):
    return softmax_reward(y, scores, 0.5, **options)


def test_an_interval_knows_its_level():
    estimate = prompt_bootstrap(
        base_reward, [[1, 0], [0, 0]], n_resamples=99, confidence_level=0.8
    )
    assert estimate.confidence_level == 0.8
