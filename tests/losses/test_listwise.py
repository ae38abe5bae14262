import numpy as np
import pytest
from numpy.testing import assert_allclose

from skqprobe import QProbePolicy
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


# Contrastive policy gradient


def fit_copg(X, y, b=1.0, alpha=0.1, groups=None, **settings):
    loss = ContrastivePolicyGradient(b)
    return QProbePolicy(loss, alpha=alpha, temperature=1).fit(X, y, groups, **settings)


@pytest.mark.parametrize("b", [0.5, 2.0])
def test_contrastive_policy_gradient_reaches_the_optimal_policy_off_policy(b, rng):
    """Three arms, of which 90% of the candidates are the worst: the paper's bandit.

    Embeddings of arms are realizable. The arms are equally likely in the base model, so
    that the optimal policy is softmax(r / b).
    """
    reward = np.array([0.0, 1.0, 2.5])
    arms = rng.choice(3, size=(200, 8), p=[0.9, 0.08, 0.02])
    X, y = np.eye(3)[arms], reward[arms]
    optimal = np.exp(reward / b) / np.exp(reward / b).sum()
    policy = fit_copg(X, y, b, alpha=1e-10)
    assert_allclose(policy.predict_proba(np.eye(3)[None])[0], optimal, 1e-6)
    # The policy gradient depends on how often the arms were drawn.
    other = QProbePolicy("policy_gradient", alpha=0.01, temperature=1).fit(X, y)
    assert abs(other.predict_proba(np.eye(3)[None])[0] - optimal).max() > 0.02


@pytest.mark.parametrize("b", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_ipo_is_contrastive_policy_gradient_of_pairs(b, temperature, rng):
    z, r = rng.normal(size=(50, 2)), np.tile([1.0, 0.0], (50, 1))
    loss = ContrastivePolicyGradient(b)
    value, gradient = loss.value_and_gradient(z.ravel(), r.ravel(), np.arange(51) * 2)
    # IPO: (h - 1 / (2 beta))**2, with the log ratio h of policy and base model.
    beta = b * temperature / 2
    error = (z[:, 0] - z[:, 1]) / temperature - 1 / (2 * beta)
    factor = (b * temperature) ** 2 / 8
    assert_allclose(value, factor * error**2, rtol=1e-12)
    slope = factor * 2 * error / temperature
    assert_allclose(gradient.reshape(50, 2), np.array([slope, -slope]).T, rtol=1e-12)


def test_copies_of_all_candidates_do_not_change_contrastive_policy_gradient(sets):
    X, y = sets
    coef = fit_copg(X, y).coef_
    twice = fit_copg(np.repeat(X, 2, axis=1), np.repeat(y, 2, axis=1)).coef_
    assert_allclose(twice, coef, rtol=1e-10)
    weighted = fit_copg(X, y, sample_weight=np.full(y.shape, 0.37)).coef_
    assert_allclose(weighted, coef, rtol=1e-10)


def test_ragged_prompts_count_alike_in_contrastive_policy_gradient(sets):
    X, y = sets
    X, y = X[:2], y[:2]
    rows = np.concatenate([X[0], X[1], X[1], X[1]]), np.concatenate([y[0], *[y[1]] * 3])
    groups = np.repeat([0, 1], [y.shape[1], 3 * y.shape[1]])
    assert_allclose(fit_copg(*rows, groups=groups).coef_, fit_copg(X, y).coef_, 1e-10)


def test_b_is_redundant_with_alpha(sets):
    found = fit_copg(*sets, b=2.0, alpha=0.1).coef_
    assert_allclose(found, fit_copg(*sets, alpha=0.1 / 4).coef_ / 2, rtol=1e-10)
