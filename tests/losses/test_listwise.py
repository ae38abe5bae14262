import numpy as np
import pytest
from numpy.testing import assert_allclose

from skqprobe.losses import ContrastivePolicyGradient, PolicyGradient


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


def test_centred_form_of_contrastive_policy_gradient(scores, rewards, offsets, prompts):
    b = 1.7
    value, gradient = ContrastivePolicyGradient(b).value_and_gradient(
        scores, rewards, offsets
    )
    for prompt, rows in enumerate(prompts):
        z, r = scores[rows], rewards[rows]
        error = (r - r.mean()) - b * (z - z.mean())
        assert value[prompt] == pytest.approx(len(z) / 2 * (error**2).sum())
        assert_allclose(gradient[rows], -len(z) * b * error, atol=1e-14)
