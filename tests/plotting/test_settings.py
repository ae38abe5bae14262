"""Settings of the displays that `test_displays.py` leaves at their defaults."""

import numpy as np
import pytest

plt = pytest.importorskip("matplotlib.pyplot")

from skqprobe.plotting import RewardCurveDisplay, RewardKLDisplay  # noqa: E402


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def scored(rng):
    y = rng.integers(0, 2, size=(30, 6)).astype(float)
    return y, y + rng.normal(size=y.shape)


def test_the_curve_is_drawn_at_the_ks_that_are_given(scored):
    display = RewardCurveDisplay.from_predictions(*scored, ks=[5, 2, 5], n_resamples=99)
    np.testing.assert_array_equal(display.line_.get_xdata(), [2, 5])


def test_no_references_where_they_are_not_asked_for(scored):
    display = RewardKLDisplay.from_predictions(
        *scored, plot_references=False, n_resamples=99
    )
    assert display.oracle_ is None
    labels = [line.get_label() for line in display.ax_.get_lines()]
    assert not {"oracle", "base model"} & set(labels)
