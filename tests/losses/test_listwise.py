import numpy as np
from numpy.testing import assert_allclose

from skqprobe.losses import PolicyGradient


def test_baseline_does_not_change_the_policy_gradient(
    scores, rewards, offsets, sizes, weight, rng
):
    baseline = rng.normal(size=len(sizes))
    value, gradient = PolicyGradient().value_and_gradient(
        scores, rewards, offsets, weight
    )
    shifted = PolicyGradient().value_and_gradient(
        scores, rewards - np.repeat(baseline, sizes), offsets, weight
    )
    assert_allclose(shifted[1], gradient, atol=1e-14)
    assert_allclose(shifted[0], value + baseline)
