"""Displays show the figures of the metrics, in both layouts."""

import sys

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge

from skqprobe import QProbePolicy, QProbeRegressor
from skqprobe.metrics import (
    base_reward,
    best_of_k_reward,
    expected_reward,
    kl_upper_estimate,
    oracle_reward,
)
from skqprobe.plotting import (
    PromptDifficultyDisplay,
    QValueDisplay,
    RewardCurveDisplay,
    RewardKLDisplay,
)

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

DISPLAYS = [PromptDifficultyDisplay, QValueDisplay, RewardCurveDisplay, RewardKLDisplay]
FAST = {RewardCurveDisplay: {"n_resamples": 50}, RewardKLDisplay: {"n_resamples": 50}}
every_display = pytest.mark.parametrize("display", DISPLAYS)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def policy(sets):
    return QProbePolicy("log_loss", temperature=0.5).fit(*sets)


@every_display
def test_estimator_and_predictions_and_layouts_agree(display, sets, policy):
    X, y = sets
    kwargs = FAST.get(display, {}).copy()
    if kwargs:
        kwargs["random_state"] = 0
    one = display.from_estimator(policy, X, y, name="mine", **kwargs)
    groups = np.repeat([f"prompt {i}" for i in range(60)], 6)
    Q = policy.decision_function(X).ravel()
    if display is RewardKLDisplay:
        kwargs["temperature"] = 0.5
    two = display.from_predictions(y.ravel(), Q, groups, name="mine", **kwargs)
    assert vars(one).keys() == vars(two).keys()
    for name, value in vars(one).items():
        if name.endswith("_") or name in ("name", "labels"):
            continue
        other = vars(two)[name]
        if not isinstance(value, list):
            value, other = [value], [other]
        for a, b in zip(value, other, strict=True):
            np.testing.assert_allclose(a, b)


@every_display
def test_draws_on_the_axes_given_and_again(display, sets, policy):
    X, y = sets
    figure, ax = plt.subplots()
    first = display.from_estimator(policy, X, y, ax=ax, **FAST.get(display, {}))
    assert first.ax_ is ax and first.figure_ is figure
    again = first.plot(name="another name")
    assert again is first and first.ax_ is not ax
    text = first.ax_.get_title()
    text += " ".join(t.get_text() for t in first.ax_.get_legend().get_texts())
    assert "another name" in text
    assert first.ax_.get_xlabel() and first.ax_.get_ylabel()


@every_display
@pytest.mark.parametrize("estimator", [QProbeRegressor(), QProbePolicy()])
def test_draws_any_probe_without_a_warning(display, sets, estimator):
    X, y = sets
    shown = display.from_estimator(estimator.fit(X, y), X, y, **FAST.get(display, {}))
    shown.figure_.canvas.draw()


@every_display
def test_draws_other_estimators_on_ragged_rows(display, rows):
    X, y, groups = rows
    ridge = Ridge().fit(X, y)
    kwargs = FAST.get(display, {})
    shown = display.from_estimator(ridge, X, y, groups, **kwargs)
    shown.figure_.canvas.draw()
    name = shown.ax_.get_title() + str(shown.ax_.get_legend_handles_labels()[1])
    assert "Ridge" in name


def test_reward_curve_shows_the_metrics(sets, policy):
    X, y = sets
    shown = RewardCurveDisplay.from_estimator(policy, X, y, n_resamples=200)
    assert shown.ks.tolist() == [1, 2, 4, 6]
    expected = best_of_k_reward(y, policy.decision_function(X), shown.ks)
    np.testing.assert_allclose(shown.line_.get_ydata(), expected)
    np.testing.assert_allclose(shown.oracle_.get_ydata(), oracle_reward(y, shown.ks))
    np.testing.assert_allclose(shown.base_.get_ydata(), base_reward(y))
    assert (shown.low <= shown.reward).all() and (shown.reward <= shown.high).all()
    assert (shown.low < shown.high).all()


def test_several_policies_share_an_axis(sets, policy):
    X, y = sets
    first = RewardCurveDisplay.from_estimator(policy, X, y, name="one", n_resamples=50)
    second = RewardCurveDisplay.from_estimator(
        QProbePolicy().fit(X, y),
        X,
        y,
        name="two",
        ax=first.ax_,
        plot_references=False,
        n_resamples=50,
        color="red",
    )
    labels = [text.get_text() for text in second.ax_.get_legend().get_texts()]
    assert labels == ["oracle", "base model", "one", "two"]
    assert second.line_.get_color() == "red" and second.oracle_ is None


def test_reward_kl_goes_from_the_base_model_to_the_best(sets, policy):
    X, y = sets
    shown = RewardKLDisplay.from_estimator(policy, X, y, n_resamples=200)
    Q = policy.decision_function(X)
    assert shown.kl[0] < 1e-12 and shown.reward[0] == pytest.approx(base_reward(y))
    assert shown.reward[-1] == pytest.approx(best_of_k_reward(y, Q, 6))
    assert (np.diff(shown.kl) > -1e-12).all() and (
        np.diff(shown.temperatures) < 0
    ).all()
    proba = policy.predict_proba(X)
    assert shown.point == (
        0.5,
        pytest.approx(kl_upper_estimate(proba)),
        pytest.approx(expected_reward(y, proba)),
    )
    # No line lies above the oracle's at its divergence.
    bound = np.interp(shown.kl, shown.oracle_kl, shown.oracle_reward)
    assert (shown.reward <= bound + 1e-3).all()
    given = RewardKLDisplay.from_predictions(y, Q, temperatures=[1, 2], n_resamples=50)
    assert given.temperatures.tolist() == [np.inf, 2, 1, 0]
    assert given.point is None and given.point_ is None


def test_q_values_by_reward_and_by_quarter(rng):
    y = np.array([[0, 1, 1, 0.5]] * 3)
    shown = QValueDisplay.from_predictions(y, 10 * y)
    assert shown.labels == ["reward 0", "reward 0.5", "reward 1"]
    assert [set(values) for values in shown.values] == [{0}, {5}, {10}]
    y = rng.normal(size=(10, 8))
    shown = QValueDisplay.from_predictions(y, y)
    assert [len(values) for values in shown.values] == [20] * 4
    for lower, higher in zip(shown.values[:-1], shown.values[1:], strict=True):
        assert lower.max() < higher.min()


def test_prompt_difficulty_shows_means_and_their_rank_correlation(sets, policy):
    X, y = sets
    shown = PromptDifficultyDisplay.from_estimator(policy, X, y)
    Q = policy.decision_function(X)
    np.testing.assert_allclose(shown.reward, y.mean(axis=1))
    inside = (Q - Q.mean(axis=1, keepdims=True)).std()
    np.testing.assert_allclose(shown.value, (Q.mean(axis=1) - Q.mean()) / inside)
    expected = spearmanr(y.mean(axis=1), Q.mean(axis=1)).statistic
    assert shown.correlation == pytest.approx(expected)
    flat = PromptDifficultyDisplay.from_predictions(y, np.zeros_like(y))
    assert np.isnan(flat.correlation)


@every_display
def test_bad_input_is_named(display, sets, policy):
    X, y = sets
    with pytest.raises(NotFittedError):
        display.from_estimator(QProbePolicy(), X, y)
    with pytest.raises(ValueError, match="scores has"):
        display.from_predictions(y, y[:, :3])
    if display is not QValueDisplay:
        with pytest.raises(ValueError, match="y has rows but no groups"):
            display.from_predictions(y.ravel(), y.ravel())


@every_display
def test_says_how_to_install_matplotlib(display, sets, monkeypatch):
    _, y = sets
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install "skqprobe\[plot\]"'):
        display.from_predictions(y, y, **FAST.get(display, {}))
