import pytest

from skqprobe import QProbePolicy


@pytest.fixture(autouse=True)
def pyplot():
    """Skip without matplotlib, draw without a window, and close all figures."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    yield pyplot
    pyplot.close("all")


@pytest.fixture
def policy(sets):
    return QProbePolicy("log_loss", temperature=0.5).fit(*sets)


@pytest.fixture
def scored(rng):
    """Rewards of 30 prompts of 6 candidates, and scores."""
    y = rng.integers(0, 2, size=(30, 6)).astype(float)
    return y, y + rng.normal(size=y.shape)
