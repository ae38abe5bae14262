"""Fits end at the minimum that an independent solver finds, or warn."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import excess
from sklearn.exceptions import ConvergenceWarning

from skqprobe import QProbePolicy
from skqprobe.losses import LOSSES

SMOOTH = [name for name in LOSSES if LOSSES[name].smooth]


def synthetic(seed, shape, scale, offset, dtype):
    """Columns of unequal scale with a common offset, and rewards of 0 and 1."""
    rng = np.random.default_rng(seed)
    columns = rng.lognormal(sigma=scale, size=shape[-1])
    noise = rng.normal(size=shape)
    X = (columns * (noise + offset)).astype(dtype)
    scores = noise @ rng.normal(size=shape[-1]) + rng.normal(size=shape[:-1])
    y = (scores > np.median(scores)).astype(float)
    y[0, :2] = 0, 1  # at least one informative prompt
    return X, y, rng.integers(1, 4, shape[0]).astype(float)


def excess_of_fit(loss, X, y, weight, alpha):
    """Part of the gain that a fit misses, and whether it warns."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        policy = QProbePolicy(loss, alpha=alpha).fit(X, y, sample_weight=weight)
    found = excess(loss, X, y, weight, alpha, policy.coef_, policy.intercept_)
    return found, bool(caught)


@pytest.mark.slow
@pytest.mark.parametrize("loss", SMOOTH)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(3, 30), st.integers(2, 8), st.integers(1, 80)),
    scale=st.sampled_from([0, 1, 3]),
    offset=st.sampled_from([0, 1, 20, 100]),
    dtype=st.sampled_from(["f4", "f8"]),
    alpha=st.sampled_from([1e-8, 1e-4, 1e-2, 1.0]),
)
def test_a_fit_misses_little_of_the_gain_or_warns(
    loss, seed, shape, scale, offset, dtype, alpha
):
    X, y, weight = synthetic(seed, shape, scale, offset, dtype)
    missed, warned = excess_of_fit(loss, X, y, weight, alpha)
    assert missed <= 1e-3 or warned


@pytest.mark.parametrize("loss", SMOOTH)
@pytest.mark.parametrize(
    "shape, offset, alpha",
    [
        ((30, 5, 300), 20, 0),  # fewer rows than features, and no penalty
        ((12, 6, 120), 1e3, 0),
        ((40, 8, 60), 1e5, 1e-4),
    ],
)
def test_a_common_offset_in_float32(loss, shape, offset, alpha):
    """Without centered columns, up to all of the gain was missed, without a warning."""
    X, y, weight = synthetic(0, shape, 0, offset, "f4")
    missed, _ = excess_of_fit(loss, X, y, weight, alpha)
    assert missed <= 1e-3


@pytest.mark.parametrize("loss", [name for name in SMOOTH if name != "policy_gradient"])
@pytest.mark.parametrize("shape", [(30, 5, 8), (20, 5, 200)])
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_a_warm_start_of_another_scale(loss, shape, scale):
    """The start does not decide where the fit of a convex loss ends."""
    X, y, weight = synthetic(0, shape, 0, 1, "f8")
    policy = QProbePolicy(loss, alpha=1e-8, warm_start=True)
    policy.fit(X * scale, y, sample_weight=weight).fit(X, y, sample_weight=weight)
    found = excess(loss, X, y, weight, 1e-8, policy.coef_, policy.intercept_)
    assert abs(found) <= 1e-3
