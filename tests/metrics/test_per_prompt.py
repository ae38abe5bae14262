"""Arguments that all metrics share: average, prompt_weight and too_few."""

from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skqprobe.metrics import (
    base_reward,
    best_of_k_reward,
    effective_candidates,
    expected_reward,
    kl_upper_estimate,
    oracle_reward,
    recovery,
    soft_best_of_k_reward,
    softmax_reward,
    win_rate,
)

WEIGHTS = np.array([[1, 1, 1, 1], [0, 2, 1, 0], [3, 0, 0, 0], [3, 0, 0, 1]])


def proba_of(scores):
    return abs(scores) / abs(scores).sum(axis=1, keepdims=True)


METRICS = {
    "base": lambda y, s, **w: base_reward(y, **w),
    "best of k": lambda y, s, **w: best_of_k_reward(y, s, [2, 5], **w),
    "best of 2": lambda y, s, **w: best_of_k_reward(y, s, 2, **w),
    "oracle": lambda y, s, **w: oracle_reward(y, [2, 5], **w),
    "recovery": lambda y, s, **w: recovery(y, s, [2, 5], **w),
    "win rate": lambda y, s, **w: win_rate(y, s, [2, 5], **w),
    "soft, exact": lambda y, s, **w: soft_best_of_k_reward(y, s, [1, 5], 0.5, **w),
    "softmax": lambda y, s, **w: softmax_reward(y, s, 0.5, **w),
    "expected": lambda y, s, **w: expected_reward(y, proba_of(s), **w),
    "kl": lambda y, s, **w: kl_upper_estimate(proba_of(s), **w),
    "effective": lambda y, s, **w: effective_candidates(proba_of(s), **w),
}
every_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)


@pytest.fixture
def problem(rng):
    """Rewards and scores of 4 prompts of 5 candidates."""
    return rng.normal(size=(2, 4, 5))


@every_metric
def test_a_weight_is_a_number_of_copies_of_a_prompt(problem, metric):
    y, scores = problem
    for weight in WEIGHTS:
        copies = np.repeat(np.arange(4), weight)
        expected = metric(y[copies], scores[copies])
        assert_allclose(metric(y, scores, prompt_weight=weight), expected)


@every_metric
def test_values_per_prompt(problem, metric):
    """With average=None, the value of each prompt alone, of which the mean is taken."""
    y, scores = problem
    values = metric(y, scores, average=None)
    alone = [metric(y[i : i + 1], scores[i : i + 1]) for i in range(4)]
    assert_allclose(values, alone)
    if metric is not METRICS["recovery"]:  # a ratio of means
        assert_allclose(values.mean(axis=0), metric(y, scores))


@every_metric
def test_unknown_average(problem, metric):
    with pytest.raises(ValueError, match="average must be 'mean' or None; got 'macro'"):
        metric(*problem, average="macro")


def test_recovery_per_prompt():
    y = np.array([[0.0, 1.0, 0.5], [1.0, 1.0, 1.0], [0.0, 0.0, 4.0]])
    scores = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 2.0], [0.0, 0.0, 1.0]])
    assert_allclose(recovery(y, scores, 3, average=None), [0, np.nan, 1])
    gains = np.array([0, 4 - 4 / 3]), np.array([0.5, 4 - 4 / 3])
    expected = gains[0].sum() / gains[1].sum()
    assert recovery(y, scores, 3) == pytest.approx(expected)


Y, SCORES = np.array([1.0, 0, 0, 5, 3, 4, 2]), np.array([3.0, 2, 1, 5, 1, 2, 3])
GROUPS = ["a", "a", "a", "b", "c", "c", "c"]


def test_every_ragged_prompt_has_the_same_weight():
    expected = pytest.approx((1 / 3 + 5 + 3) / 3)
    assert base_reward(Y, GROUPS) == expected
    assert best_of_k_reward(Y, SCORES, 1, GROUPS) == expected


def test_prompts_with_fewer_than_k_candidates():
    message = r"^k=3 .* 1 to 3 candidates\..* at most 1, or too_few='skip' to"
    with pytest.raises(ValueError, match=message):
        best_of_k_reward(Y, SCORES, 3, GROUPS)
    with pytest.raises(ValueError, match="k=4"):
        oracle_reward(Y, 4, GROUPS, too_few="skip")
    kept, of_kept = [0, 1, 2, 4, 5, 6], np.repeat(["a", "c"], 3)
    for metric in (best_of_k_reward, recovery, win_rate):
        expected = metric(Y[kept], SCORES[kept], 3, of_kept)
        found = metric(Y, SCORES, 3, GROUPS, too_few="skip")
        assert found == pytest.approx(expected)
    soft = partial(
        soft_best_of_k_reward, Y, SCORES, [1, 3], 0.0, GROUPS, too_few="skip"
    )
    assert_allclose(soft(), [(1 / 3 + 5 + 3) / 3, 1.5])
    _, error = soft(average=None, return_error=True)
    assert_array_equal(error, [[0, 0], [0, np.nan], [0, 0]])


def test_weights_that_leave_no_prompt_give_nan():
    y, groups = [1.0, 5.0, 7.0], ["a", "b", "b"]
    metric = partial(oracle_reward, y, 2, groups, too_few="skip")
    assert metric() == 7
    assert metric(prompt_weight=[1.0, 1.0]) == 7
    assert np.isnan(metric(prompt_weight=[1.0, 0.0]))
    assert_array_equal(metric(average=None), [np.nan, 7])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("y", [1.0, 2.0], "y has rows but no groups"),
        ("y", [[1, np.inf], [1, 2]], "y contains inf"),
        ("y", [[1, 2], [3]], "y could not be made an array"),
        ("scores", [[1, 2, 3]], "scores has shape"),
        ("scores", [[1, np.nan], [1, 2]], "scores contains NaN"),
        ("k", 0, "k must be an integer of 1 or more"),
        ("k", 1.5, "k must be an integer of 1 or more"),
        ("k", [[1]], "k must be an integer"),
        ("k", [], "k must be an integer"),
        ("k", True, "k must be an integer"),
        ("k", 3, r"^k=3 .* Give a k of at most 2\.$"),
        ("too_few", "drop", "too_few must be"),
        ("prompt_weight", [1.0], "prompt_weight must have one weight"),
        ("prompt_weight", [1.0, -1.0], "prompt_weight must have one weight"),
        ("prompt_weight", [1.0, np.nan], "^Input prompt_weight contains NaN"),
        ("prompt_weight", [0.0, 1e-200], "^prompt_weight has numbers .* too small"),
        ("prompt_weight", [0.0, 1e200], "^prompt_weight has numbers .* too large"),
        # As in scikit-learn, an array of strings is converted if it holds numbers.
        ("prompt_weight", ["one", "two"], "could not convert string"),
    ],
)
def test_bad_input(name, value, message):
    arguments = {"y": [[0, 1], [1, 0]], "scores": [[1, 2], [2, 1]], "k": 1}
    with pytest.raises(ValueError, match=message):
        best_of_k_reward(**arguments | {name: value})
