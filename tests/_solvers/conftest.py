import numpy as np
import pytest

from skqprobe._solvers import preconditioner


@pytest.fixture(params=["full", "diagonal"])
def conditioning(request, monkeypatch):
    """Run a test with both kinds of preconditioner."""
    if request.param == "diagonal":
        monkeypatch.setattr(preconditioner, "FULL_FEATURES", 0)
    return request.param


@pytest.fixture(scope="module")
def noisy():
    """300 prompts of 8, 30 features; too noisy to be separable."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 8, 30))
    signal = X @ rng.normal(size=30) / np.sqrt(30)
    return X, (signal + 1.5 * rng.normal(size=(300, 8)) > 0).astype(float)
