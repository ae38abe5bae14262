import numpy as np
import pytest


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def sets(rng):
    """60 prompts, 6 candidates, 4 features; noisy 0/1 rewards that lean on two."""
    X = rng.normal(size=(60, 6, 4))
    signal = X[..., 0] - 0.5 * X[..., 1] + rng.normal(size=(60, 6))
    return X, (signal > 0).astype(float)


@pytest.fixture
def rows(rng):
    """The ragged layout: 40 prompts of 1 to 9 candidates, shuffled, string labels."""
    sizes = rng.integers(1, 10, size=40)
    groups = rng.permutation(np.repeat([f"prompt {i}" for i in range(40)], sizes))
    X = rng.normal(size=(len(groups), 4))
    signal = X[:, 0] - 0.5 * X[:, 1] + rng.normal(size=len(groups))
    return X, (signal > 0).astype(float), groups
