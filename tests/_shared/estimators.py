"""States of estimators, which tests compare, and the data in shared/data."""

import copy
from pathlib import Path

import numpy as np
import pytest

REAL_DATA = Path(__file__).parents[3] / "shared" / "data"
needs_real_data = pytest.mark.skipif(
    not REAL_DATA.exists(), reason="no shared/data beside the checkout"
)


def real_data(name):
    """Return embeddings, rewards and groups of a file in shared/data."""
    with np.load(REAL_DATA / f"{name}.npz") as file:
        X = file["embeddings" if "embeddings" in file else "emb_pair"]
        groups = file["groups"] if "groups" in file else np.arange(len(X))
        return X.astype(np.float32), file["rewards"].astype(float), groups


def state_of(estimator):
    """Return copies of all attributes, and of the attributes of nested estimators."""
    state = {}
    for name, value in vars(estimator).items():
        if hasattr(value, "get_params") and not isinstance(value, type):
            value = copy.deepcopy(vars(value))
        elif isinstance(value, np.ndarray | list | dict | tuple):
            value = copy.deepcopy(value)
        state[name] = value
    state.pop("_finished", None)  # batches that an embedder keeps for the next call
    return state


def assert_same_state(state, expected):
    """Check that two results of `state_of` are equal, dtypes included."""
    assert state.keys() == expected.keys()
    for name, value in state.items():
        np.testing.assert_equal(value, expected[name], err_msg=name)
        assert getattr(value, "dtype", None) == getattr(expected[name], "dtype", None)


def assert_refused(method, words, *args, error=ValueError, **kwargs):
    """Check that a method raises an error and leaves its estimator unchanged."""
    estimator = method.__self__
    before = state_of(estimator)
    with pytest.raises(error, match=words):
        method(*args, **kwargs)
    assert_same_state(state_of(estimator), before)
