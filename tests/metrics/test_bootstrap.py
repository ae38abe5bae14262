import numpy as np
import pytest
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
)


@pytest.fixture
def scored(rng):
    y = rng.integers(0, 2, size=(80, 6)).astype(float)
    return y, y + rng.normal(size=y.shape), rng.normal(size=y.shape)


def test_is_the_interval_of_scipy_over_prompts(scored):
    y, scores, _ = scored
    got = prompt_bootstrap(best_of_k_reward, y, scores, k=6, random_state=0)
    by_prompt = np.take_along_axis(y, scores.argmax(axis=1)[:, None], axis=1)[:, 0]
    expected = bootstrap((by_prompt,), np.mean, random_state=np.random.RandomState(0))
    assert got.value == by_prompt.mean()
    np.testing.assert_allclose(
        [got.low, got.high, got.standard_error],
        [*expected.confidence_interval, expected.standard_error],
    )


def test_a_ratio_is_resampled_as_one(scored):
    y, scores, _ = scored
    got = prompt_bootstrap(recovery, y, scores, k=6, n_resamples=500, random_state=0)

    def share(rows):
        return recovery(y[rows], scores[rows], 6)

    expected = bootstrap(
        (np.arange(80),),
        share,
        vectorized=False,
        n_resamples=500,
        random_state=np.random.RandomState(0),
    )
    assert got.value == share(np.arange(80))
    # Not to the last digit: the correction counts resamples that equal the figure, and
    # rounding parts some of them from it.
    np.testing.assert_allclose(
        [got.low, got.high], expected.confidence_interval, rtol=2e-3
    )


def test_differences_are_paired(scored):
    y, good, poor = scored
    gain = prompt_bootstrap(best_of_k_reward, y, good, versus=poor, k=6, random_state=0)
    parts = [
        prompt_bootstrap(best_of_k_reward, y, s, k=6, random_state=0)
        for s in (good, poor)
    ]
    assert gain.value == pytest.approx(parts[0].value - parts[1].value)
    same = prompt_bootstrap(best_of_k_reward, y, good, versus=good, k=6)
    assert (same.value, same.low, same.high, same.standard_error) == (0, 0, 0, 0)
    # Policies that mostly agree differ by less than they vary from prompt to prompt.
    nearly = good + 1e-3 * poor
    close = prompt_bootstrap(
        best_of_k_reward, y, good, versus=nearly, k=6, random_state=0
    )
    assert close.standard_error < 0.2 * parts[0].standard_error


def test_both_layouts_and_lists_of_k_agree(scored):
    y, scores, _ = scored
    groups = np.repeat(np.arange(80), 6)
    kwargs = {"n_resamples": 300, "random_state": 0}
    sets = prompt_bootstrap(best_of_k_reward, y, scores, k=[1, 6], **kwargs)
    rows = prompt_bootstrap(
        best_of_k_reward, y.ravel(), scores.ravel(), k=[1, 6], groups=groups, **kwargs
    )
    one = prompt_bootstrap(best_of_k_reward, y, scores, k=6, **kwargs)
    for name in ("value", "low", "high", "standard_error"):
        np.testing.assert_allclose(getattr(sets, name), getattr(rows, name))
        np.testing.assert_allclose(getattr(sets, name)[1], getattr(one, name))
        assert type(getattr(one, name)) is float


@pytest.mark.parametrize("as_labels", [str, lambda i: (i,), lambda i: -7 * i])
def test_scattered_rows_with_any_labels_agree_with_sets(scored, rng, as_labels):
    y, good, poor = scored
    kwargs = {"k": [1, 4], "n_resamples": 300, "random_state": 0}
    order = rng.permutation(y.size)
    groups = [as_labels(int(i) // 6) for i in order]
    # Resamples are of prompts in the order of their first appearance.
    by_first = np.argsort(np.unique(order // 6, return_index=True)[1])
    y_, good_, poor_ = (values[by_first] for values in (y, good, poor))
    sets = prompt_bootstrap(best_of_k_reward, y_, good_, versus=poor_, **kwargs)
    rows = prompt_bootstrap(
        best_of_k_reward,
        *(values.ravel()[order] for values in (y, good)),
        versus=poor.ravel()[order].tolist(),
        groups=groups,
        **kwargs,
    )
    for name in ("value", "low", "high", "standard_error"):
        np.testing.assert_allclose(getattr(rows, name), getattr(sets, name), atol=1e-12)


def test_of_very_many_prompts_percentiles_are_taken(scored, monkeypatch):
    y, scores, _ = scored
    monkeypatch.setattr("skqprobe.metrics._bootstrap.MAX_PROMPTS_FOR_BCA", 79)
    monkeypatch.setattr("skqprobe.metrics._bootstrap.COUNTS_AT_ONCE", 10)
    got = prompt_bootstrap(best_of_k_reward, y, scores, k=6, random_state=0)
    by_prompt = np.take_along_axis(y, scores.argmax(axis=1)[:, None], axis=1)[:, 0]
    expected = bootstrap(
        (by_prompt,),
        np.mean,
        method="percentile",
        batch=8,
        random_state=np.random.RandomState(0),
    )
    np.testing.assert_allclose(
        [got.low, got.high, got.standard_error],
        [*expected.confidence_interval, expected.standard_error],
    )


def test_metrics_of_probabilities_and_of_rewards_alone(scored):
    y, scores, _ = scored
    proba = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    kwargs = {"n_resamples": 100, "random_state": 0}
    for metric, arrays in [
        (base_reward, (y,)),
        (expected_reward, (y, proba)),
        (kl_upper_estimate, (proba,)),
    ]:
        got = prompt_bootstrap(metric, *arrays, **kwargs)
        assert got.low < got.value == metric(*arrays) < got.high


def test_covers_the_truth_as_often_as_it_says(rng):
    n_covered = 0
    for _ in range(200):
        y = rng.integers(0, 2, size=(40, 3))
        got = prompt_bootstrap(
            base_reward,
            y,
            n_resamples=400,
            confidence_level=0.8,
            random_state=rng.integers(2**31),
        )
        n_covered += got.low <= 0.5 <= got.high
    assert 0.7 < n_covered / 200 < 0.9


def test_repeats_with_a_seed_and_widens_with_the_level(scored):
    y, scores, _ = scored

    def ends(level, seed):
        got = prompt_bootstrap(
            recovery, y, scores, k=3, confidence_level=level, random_state=seed
        )
        return got.low, got.high

    assert ends(0.9, 1) == ends(0.9, 1) != ends(0.9, 2)
    assert ends(0.99, 1)[0] < ends(0.9, 1)[0] and ends(0.9, 1)[1] < ends(0.99, 1)[1]


def test_constant_figures_have_an_interval_of_no_width():
    got = prompt_bootstrap(base_reward, np.ones((5, 3)))
    assert (got.low, got.value, got.high) == (1, 1, 1)


def test_prints_the_figure_and_its_interval():
    assert str(Estimate(0.5, 0.25, 0.75, 0.1, 0.95)) == "0.500 [0.250, 0.750]"
    many = Estimate(*np.zeros((4, 2)), 0.95)
    assert "value=array" in str(many)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="at least two prompts"):
        prompt_bootstrap(base_reward, [[1, 0]])
    with pytest.raises(ValueError, match="Give the arrays"):
        prompt_bootstrap(base_reward)
    with pytest.raises(ValueError, match="no groups"):
        prompt_bootstrap(base_reward, [1.0, 0.0])
    with pytest.raises(ValueError, match="k=4 is more"):
        prompt_bootstrap(best_of_k_reward, np.eye(3), np.eye(3), k=4)


def test_a_ratio_that_few_prompts_inform(rng):
    """The interval is that of the resamples in which it is defined, with a warning."""
    y = np.zeros((20, 4))
    y[:2, 0] = 1  # (18 / 20)**20 = 12% of the resamples have neither prompt
    scores = rng.normal(size=(20, 4))
    with pytest.warns(UndefinedMetricWarning, match=r"on 2 of 20 .* in 1\d\.\d+% of"):
        estimate = prompt_bootstrap(recovery, y, scores, k=4, random_state=0)
    shares = recovery(y, scores, 4, average=None)[:2]
    assert np.isfinite([estimate.low, estimate.high, estimate.standard_error]).all()
    # Each resample is a weighted mean of the two shares.
    assert estimate.low == pytest.approx(min(shares))
    assert estimate.high == pytest.approx(max(shares))


def test_a_ratio_that_no_prompt_informs():
    with pytest.warns(UndefinedMetricWarning, match="recovery is undefined"):
        estimate = prompt_bootstrap(recovery, np.ones((3, 2)), np.ones((3, 2)), k=2)
    assert np.isnan([estimate.value, estimate.low, estimate.high]).all()


def test_a_metric_of_the_user():
    y = np.arange(12.0).reshape(4, 3)

    def spread(y, groups=None, average=None):
        return np.ptp(y, axis=1)

    estimate = prompt_bootstrap(spread, y, n_resamples=99)
    assert (estimate.value, estimate.low, estimate.high) == (2, 2, 2)
    with pytest.raises(ValueError, match=r"each of 4 prompts; <lambda> .* \(12,\)"):
        prompt_bootstrap(lambda y, **options: y.ravel(), y)
