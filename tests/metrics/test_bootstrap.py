import re
import warnings
from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import bootstrap
from sklearn.exceptions import UndefinedMetricWarning

from skqprobe.metrics import (
    Estimate,
    base_reward,
    best_of_k_reward,
    expected_reward,
    kl_upper_estimate,
    prompt_bootstrap,
    recovery,
    softmax_reward,
)

FIELDS = ("value", "low", "high", "standard_error")

EQUAL = "has no width: all {} prompts have the same value, but up to {} of all"


@pytest.fixture
def scored(rng):
    """Rewards of 80 prompts of 6 candidates, with good scores and random ones."""
    y = rng.integers(0, 2, size=(80, 6)).astype(float)
    return y, y + rng.normal(size=y.shape), rng.normal(size=y.shape)


def proba_of(scores):
    return abs(scores) / abs(scores).sum(axis=-1, keepdims=True)


def assert_same_estimate(one, other, **tolerance):
    for name in FIELDS:
        assert_allclose(getattr(one, name), getattr(other, name), **tolerance)


def test_interval_is_that_of_scipy_over_prompts(scored, monkeypatch):
    _, scores, y = scored
    y = np.exp(y)  # skewed, so that the acceleration matters
    monkeypatch.setattr("skqprobe.metrics._bootstrap.DRAWS_AT_ONCE", 1000)
    found = prompt_bootstrap(best_of_k_reward, y, scores, k=6, random_state=0)
    by_prompt = np.take_along_axis(y, scores.argmax(axis=1)[:, None], axis=1)[:, 0]
    expected = bootstrap((by_prompt,), np.mean, random_state=np.random.RandomState(0))
    assert found.value == pytest.approx(by_prompt.mean())
    assert_allclose([found.low, found.high], expected.confidence_interval)
    assert_allclose(found.standard_error, expected.standard_error)


def test_numerator_and_denominator_of_a_ratio_are_resampled(scored):
    y, scores, _ = scored
    found = prompt_bootstrap(recovery, y, scores, k=6, n_resamples=500, random_state=0)

    def share(rows):
        return recovery(y[rows], scores[rows], 6)

    rows, state = np.arange(80), np.random.RandomState(0)
    options = {"vectorized": False, "n_resamples": 500, "random_state": state}
    expected = bootstrap((rows,), share, **options).confidence_interval
    assert found.value == share(rows)
    # Not to the last digit: the correction counts resamples that equal the value, and
    # some of them differ from it by rounding.
    assert_allclose([found.low, found.high], expected, rtol=2e-3)


def test_scalar_and_list_of_k_agree(scored):
    y, scores, versus = scored
    options = {"versus": versus, "n_resamples": 300, "random_state": 0}
    one, many = (
        prompt_bootstrap(best_of_k_reward, y, scores, k=k, **options)
        for k in (6, [1, 6])
    )
    for name in FIELDS:
        assert_allclose(getattr(many, name)[1], getattr(one, name))
        assert type(getattr(one, name)) is float


def test_differences_are_paired(scored):
    y, good, poor = scored
    options = {"k": 6, "random_state": 0}
    gain = prompt_bootstrap(best_of_k_reward, y, good, versus=poor, **options)
    parts = [prompt_bootstrap(best_of_k_reward, y, s, **options) for s in (good, poor)]
    assert gain.value == pytest.approx(parts[0].value - parts[1].value)
    same = prompt_bootstrap(best_of_k_reward, y, good, versus=good, k=6)
    assert [getattr(same, name) for name in FIELDS] == [0, 0, 0, 0]
    # Similar policies differ by less than the variation over prompts.
    similar = good + 0.03 * poor
    close = prompt_bootstrap(best_of_k_reward, y, good, versus=similar, **options)
    assert 0 < close.standard_error < 0.3 * parts[0].standard_error


@pytest.mark.parametrize("as_label", [str, lambda i: (i,), lambda i: -7 * i])
def test_shuffled_rows_with_any_labels_agree_with_sets(scored, rng, as_label):
    options = {"k": [1, 4], "n_resamples": 300, "random_state": 0}
    order = rng.permutation(480)
    groups = [as_label(int(i) // 6) for i in order]
    # Resamples are of prompts in order of first appearance.
    by_first = np.argsort(np.unique(order // 6, return_index=True)[1])
    y, good, poor = (values[by_first] for values in scored)
    sets = prompt_bootstrap(best_of_k_reward, y, good, versus=poor, **options)
    y, good, poor = (values.ravel()[order] for values in scored)
    rows = prompt_bootstrap(
        best_of_k_reward, y, good, versus=poor.tolist(), groups=groups, **options
    )
    assert_same_estimate(rows, sets, atol=1e-12)


def test_metrics_of_probabilities_and_of_rewards_alone(scored):
    y, good, poor = scored
    proba, versus = proba_of(good), proba_of(poor)
    few = {"n_resamples": 100, "random_state": 0}
    for metric, arrays, options in [
        (base_reward, (y,), {}),
        (expected_reward, (y, proba), {}),
        (kl_upper_estimate, (proba,), {}),
        (softmax_reward, (y, good), {"temperature": 0.5}),
    ]:
        settings = few | options | {"confidence_level": 0.8}
        found = prompt_bootstrap(metric, *arrays, **settings)
        assert found.confidence_level == 0.8
        assert found.low < found.value == metric(*arrays, **options) < found.high
    kl = prompt_bootstrap(kl_upper_estimate, proba, versus=versus, **few)
    expected = kl_upper_estimate(proba) - kl_upper_estimate(versus)
    assert kl.value == pytest.approx(expected)


def test_seed_and_confidence_level(scored):
    y, scores, _ = scored

    def ends(level, seed):
        found = prompt_bootstrap(
            recovery, y, scores, k=3, confidence_level=level, random_state=seed
        )
        return found.low, found.high

    assert ends(0.9, 1) == ends(0.9, 1) != ends(0.9, 2)
    assert ends(0.99, 1)[0] < ends(0.9, 1)[0] and ends(0.9, 1)[1] < ends(0.99, 1)[1]


def test_interval_of_a_constant_has_no_width():
    message = f"of base_reward {EQUAL.format(2, '100%')}"
    with pytest.warns(UndefinedMetricWarning, match=message):
        found = prompt_bootstrap(base_reward, np.ones((2, 3)))  # the fewest prompts
    assert (found.low, found.value, found.high) == (1, 1, 1)


def test_warning_if_all_prompts_agree(rng):
    """Of 20 prompts with rare rewards, often all have 0: no interval covers .05."""
    few = {"n_resamples": 99, "random_state": 0}
    y = np.full((20, 3), 0.1)  # the means of resamples differ by rounding
    with pytest.warns(UndefinedMetricWarning, match=EQUAL.format(20, "15%")):
        prompt_bootstrap(base_reward, y, **few)
    y[0, 0] = 1.0  # one that differs is enough
    found = prompt_bootstrap(base_reward, y, **few)
    assert found.low < found.high
    # At k=2 the prompts differ, at k=3 they agree. Differences may be 0 by design.
    y, scores = rng.permuted(np.tile(np.arange(3.0), (30, 1)), axis=1), np.ones((30, 3))
    scores[:15] = y[:15]
    with pytest.warns(UndefinedMetricWarning, match=EQUAL.format(30, "10%")):
        prompt_bootstrap(best_of_k_reward, y, y, k=[2, 3], **few)
    prompt_bootstrap(best_of_k_reward, y, y, versus=scores, k=[1, 2], **few)


def test_coverage_of_rare_rewards():
    """The intervals without a warning contain the true mean; all, in 82% of samples."""
    rng, covered, quiet = np.random.default_rng(0), [], []
    for _ in range(300):
        y = (rng.random((20, 1)) < 0.086).astype(float)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = prompt_bootstrap(base_reward, y, n_resamples=299, random_state=0)
        covered.append(found.low <= 0.086 <= found.high)
        quiet.append(not caught)
    assert np.mean(covered) < 0.87
    assert np.mean(np.compress(quiet, covered)) > 0.95


def test_str_of_an_estimate():
    assert str(Estimate(0.5, 0.25, 0.75, 0.1, 0.95)) == "0.500 [0.250, 0.750]"
    assert "value=array" in str(Estimate(*np.zeros((4, 2)), 0.95))


def informed_by(n_informative, n_prompts, rng):
    """Rewards and scores of which few prompts have a possible gain."""
    y = np.zeros((n_prompts, 4))
    y[:n_informative, 0] = 1
    scores = rng.normal(size=y.shape)
    scores[:2] = y[0], -y[1]  # the best candidate is chosen, and is not
    return y, scores


def test_ratio_that_few_prompts_inform(rng):
    """The interval is that of the resamples in which it is defined, with a warning."""
    y, scores = informed_by(2, 20, rng)
    message = "of recovery is unreliable: only 2 of 20 prompts inform it"
    with pytest.warns(UndefinedMetricWarning, match=message):
        estimate = prompt_bootstrap(recovery, y, scores, k=4, random_state=0)
    shares = recovery(y, scores, 4, average=None)[:2]
    # (18 / 20)**20 = 12% of the resamples have neither prompt; each of the others is a
    # weighted mean of the two shares.
    assert [estimate.low, estimate.high] == pytest.approx([min(shares), max(shares)])
    assert 0 < estimate.standard_error < abs(shares[0] - shares[1])


def test_column_that_no_resample_informs():
    values, few = np.ones((20, 2)), {"n_resamples": 2, "random_state": 2}
    values[2:, 1] = np.nan
    with pytest.warns(UndefinedMetricWarning, match="only 2 of 20 prompts"):
        found = prompt_bootstrap(lambda y, **options: values, np.ones((20, 1)), **few)
    assert_allclose([found.value, found.low], [[1, 1], [1, np.nan]])


def test_ratio_that_one_prompt_informs(rng):
    y, scores = informed_by(1, 20, rng)
    with pytest.warns(UndefinedMetricWarning, match="only 1 of 20 prompts"):
        estimate = prompt_bootstrap(recovery, y, scores, k=4, random_state=0)
    assert estimate.value == 1
    assert np.isnan([estimate.low, estimate.high, estimate.standard_error]).all()


def test_warning_begins_below_ten_informative_prompts(rng):
    few = {"k": 4, "n_resamples": 99, "random_state": 0}
    for n_prompts in (9, 30):
        y, scores = informed_by(min(n_prompts, 10), n_prompts, rng)
        prompt_bootstrap(recovery, y, scores, **few)
    with pytest.warns(UndefinedMetricWarning, match="only 9 of 30 prompts"):
        prompt_bootstrap(recovery, *informed_by(9, 30, rng), **few)
    y = np.where(np.arange(30) < 9, np.arange(30), np.nan)
    with pytest.warns(UndefinedMetricWarning, match="of <lambda> .* 9 of 30 prompts"):
        prompt_bootstrap(lambda x, **options: y, np.ones((30, 2)), n_resamples=99)
    # A prompt informs a difference if it informs one of the two metrics.
    arrays, versus = (np.ones((30, 2)), y), np.ones(30)
    prompt_bootstrap(lambda x, y, **_: y, *arrays, versus=versus, n_resamples=99)


@pytest.mark.filterwarnings("ignore:The interval of recovery has no width")
@pytest.mark.parametrize("n_informative", [12, 40])
def test_coverage_without_a_warning(n_informative):
    """benchmarks/coverage.py measures more cases."""
    rng, covered = np.random.default_rng(0), []
    for _ in range(200):
        y = rng.integers(0, 2, size=(40, 8)) * (np.arange(40) < n_informative)[:, None]
        scores = y + rng.normal(size=y.shape)
        few = {"k": 8, "n_resamples": 299, "random_state": 0}
        found = prompt_bootstrap(recovery, y, scores, **few)
        covered.append(found.low <= 0.6272 <= found.high)  # of a million prompts
    assert 0.9 < np.mean(covered) < 0.99


def test_ratio_that_no_prompt_informs():
    message = "^recovery is undefined"
    with pytest.warns(UndefinedMetricWarning, match=message):
        y = np.ones((3, 2))
        estimate = prompt_bootstrap(partial(recovery, k=2), y, y)
    assert np.isnan([estimate.value, estimate.low, estimate.high]).all()


def test_metric_of_the_user():
    y = 2e4 * np.arange(12).reshape(4, 3)

    def spread(y, groups=None, average=None):
        return np.ptp(y, axis=1).astype(np.float16)  # their sum exceeds float16

    with pytest.warns(UndefinedMetricWarning, match="of spread has no width"):
        estimate = prompt_bootstrap(spread, y, n_resamples=99)
    assert (estimate.value, estimate.low, estimate.high) == (4e4, 4e4, 4e4)
    for shape in [(12,), (4, 3, 1)]:
        message = rf"each of 4 prompts; <lambda> .* {re.escape(str(shape))}"
        with pytest.raises(ValueError, match=message):
            prompt_bootstrap(lambda y, to, **options: y.reshape(to), y, to=shape)


ONE_PROMPT = r"^An interval over prompts needs at least two prompts\.$"
NOT_AN_ARRAY = "^the first array could not be made an array"


@pytest.mark.parametrize(
    ("metric", "arrays", "message"),
    [
        (base_reward, [[[1, 0]]], ONE_PROMPT),
        (base_reward, [], "Give the arrays"),
        (base_reward, [[1.0, 0.0]], "no groups"),
        (softmax_reward, [[[1.0], [1.0, 2.0]]], NOT_AN_ARRAY),
        (partial(best_of_k_reward, k=4), [np.eye(3), np.eye(3)], "k=4 is more"),
    ],
)
def test_bad_input(metric, arrays, message):
    with pytest.raises(ValueError, match=message):
        prompt_bootstrap(metric, *arrays)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence_level": 95}, r"confidence_level must be in \(0, 1\); got 95"),
        ({"confidence_level": 1}, r"confidence_level must be in \(0, 1\); got 1"),
        ({"n_resamples": 1}, "n_resamples must be 2 or more; got 1"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        prompt_bootstrap(base_reward, np.eye(3), **options)


def test_a_partial_of_a_ratio_is_that_ratio(scored):
    y, scores, _ = scored
    few = {"n_resamples": 99, "random_state": 0}
    expected = prompt_bootstrap(recovery, y, scores, k=3, **few)
    assert prompt_bootstrap(partial(recovery, k=3), y, scores, **few) == expected


def test_weights_do_not_apply_to_values_per_prompt(scored):
    y, scores, _ = scored
    with pytest.raises(ValueError, match=r"^prompt_weight weights a mean;.*None\.$"):
        weight = np.ones(len(y))
        prompt_bootstrap(best_of_k_reward, y, scores, k=3, prompt_weight=weight)
