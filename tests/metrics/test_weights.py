"""`prompt_weight` and `too_few` mean the same in every metric, errors included."""

import warnings

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
)
from skqprobe.metrics._scorers import softmax_reward

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
    expected = [metric(y[rows], scores[rows]) for rows in COPIES]
    np.testing.assert_allclose(metric(y, scores, prompt_weight=WEIGHTS), expected)
    np.testing.assert_allclose(metric(y, scores, prompt_weight=WEIGHTS[1]), expected[1])


def test_the_error_of_a_weighted_mean_of_draws(problem):
    y, scores = problem
    drawn = {"n_draws": 5, "random_state": 0, "return_error": True}  # of 10 sets
    of_one = [
        soft_best_of_k_reward(
            y, scores, [2, 5], 0.5, **drawn, prompt_weight=np.eye(4)[prompt]
        )[1]
        for prompt in range(4)
    ]
    _, got = soft_best_of_k_reward(
        y, scores, [2, 5], 0.5, **drawn, prompt_weight=WEIGHTS
    )
    share = WEIGHTS / WEIGHTS.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(got, np.sqrt(share**2 @ np.square(of_one)))
    _, plain = soft_best_of_k_reward(y, scores, [2, 5], 0.5, **drawn)
    np.testing.assert_allclose(plain, got[0])
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


def test_a_weighting_that_leaves_no_prompt_gives_nan_quietly():
    y, groups = [1.0, 5.0, 7.0], ["a", "b", "b"]
    means = oracle_reward(
        y, 2, groups, too_few="skip", prompt_weight=[[1.0, 0.0], [1.0, 1.0]]
    )
    np.testing.assert_array_equal(means, [np.nan, 7])


def test_one_weighting_of_many_may_have_nothing_to_gain():
    y = np.array([[0.0, 1.0], [1.0, 1.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # resamples of a bootstrap would warn each
        share = recovery(y, y, 2, prompt_weight=[[1, 1], [0, 1]])
    np.testing.assert_array_equal(share, [1, np.nan])


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
