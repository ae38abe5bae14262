"""Common tests of all displays."""

import sys

import numpy as np
import pytest
from cases import as_rows
from numpy.testing import assert_allclose
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge

from skqprobe import QProbePolicy, QProbeRegressor
from skqprobe.plotting import (
    PromptDifficultyDisplay,
    QValueDisplay,
    RewardCurveDisplay,
    RewardKLDisplay,
)

FAST = {"n_resamples": 50, "random_state": 0}
every_display = pytest.mark.parametrize(
    ("display", "options"),
    [
        (PromptDifficultyDisplay, {}),
        (QValueDisplay, {}),
        (RewardCurveDisplay, FAST),
        (RewardKLDisplay, FAST),
    ],
    ids=["difficulty", "q values", "reward curve", "reward kl"],
)


@every_display
def test_estimator_in_sets_and_predictions_in_rows_agree(
    display, options, sets, policy
):
    X, y = sets
    one = display.from_estimator(policy, X, y, name="mine", **options)
    if display is RewardKLDisplay:
        options = {**options, "temperature": 0.5}
    Q, y, groups = as_rows(policy.decision_function(X), y)
    two = display.from_predictions(y, Q.ravel(), groups, name="mine", **options)
    assert vars(one).keys() == vars(two).keys()
    for name, value in vars(one).items():
        if name.endswith("_") or name in ("name", "labels"):
            continue
        other = vars(two)[name]
        if not isinstance(value, list):
            value, other = [value], [other]
        for a, b in zip(value, other, strict=True):
            assert_allclose(a, b)


@every_display
def test_axes_and_name(display, options, sets, policy, pyplot):
    figure, ax = pyplot.subplots()
    first = display.from_estimator(policy, *sets, ax=ax, **options)
    assert first.ax_ is ax and first.figure_ is figure
    again = first.plot(name="another name")
    assert again is first and first.ax_ is not ax
    text = first.ax_.get_title()
    text += " ".join(t.get_text() for t in first.ax_.get_legend().get_texts())
    assert "another name" in text
    assert first.ax_.get_xlabel() and first.ax_.get_ylabel()


@every_display
@pytest.mark.parametrize("estimator", [QProbeRegressor(), QProbePolicy()])
def test_any_probe_without_a_warning(display, options, sets, estimator):
    shown = display.from_estimator(estimator.fit(*sets), *sets, **options)
    shown.figure_.canvas.draw()


@every_display
def test_other_estimators_on_ragged_rows(display, options, rows):
    X, y, groups = rows
    shown = display.from_estimator(Ridge().fit(X, y), X, y, groups, **options)
    shown.figure_.canvas.draw()
    name = shown.ax_.get_title() + str(shown.ax_.get_legend_handles_labels()[1])
    assert "Ridge" in name


@every_display
def test_bad_input(display, options, sets):
    X, y = sets
    with pytest.raises(NotFittedError):
        display.from_estimator(QProbePolicy(), X, y)
    with pytest.raises(ValueError, match="scores has"):
        display.from_predictions(y, y[:, :3])
    if display is not QValueDisplay:
        with pytest.raises(ValueError, match="y has rows but no groups"):
            display.from_predictions(y.ravel(), y.ravel())


@every_display
def test_message_without_matplotlib(display, options, sets, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    message = rf'^{display.__name__} needs .*: pip install "skqprobe\[plot\]"'
    with pytest.raises(ImportError, match=message):
        display.from_predictions(sets[1], sets[0][..., 0], **options)


@every_display
def test_several_objectives_are_weighted(display, options, sets):
    X, y = sets
    both = np.stack([y, X[..., 1]], axis=2)
    policy = QProbePolicy("squared_error", objective_weights=[1, 0.3]).fit(X, both)
    shown = display.from_estimator(policy, X, both, **options)
    expected = display.from_estimator(policy, X, both @ [1, 0.3], **options)
    line, other = (d.figure_.axes[0].dataLim.bounds for d in (shown, expected))
    assert_allclose(line, other)
