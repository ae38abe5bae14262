import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.model_selection import GridSearchCV

from skqprobe import QProbePolicy
from skqprobe.losses import (
    ConditionalLogit,
    ContrastivePolicyGradient,
    PolicyGradient,
    QuantileFilteredImitation,
)


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


# Conditional logit


def choose(values, rng):
    """Draw one candidate per prompt by softmax, as counts of choices."""
    chosen = (values + rng.gumbel(size=values.shape)).argmax(axis=1)
    return np.eye(values.shape[1])[chosen]


def fit_logit(X, y, groups=None, alpha=0.0, **settings):
    loss = ConditionalLogit(**settings)
    policy = QProbePolicy(loss, alpha=alpha, temperature=1, tol=1e-12)
    return policy.fit(X, y, groups)


def test_conditional_logit_equals_statsmodels(rng):
    api = pytest.importorskip("statsmodels.discrete.conditional_models")
    X = rng.normal(size=(300, 5, 3))
    y = choose(X @ [1.0, -0.5, 0.2], rng)
    groups = np.repeat(np.arange(300), 5)
    model = api.ConditionalLogit(y.ravel(), X.reshape(-1, 3), groups=groups)
    peer = model.fit(disp=False, method="newton")
    assert_allclose(fit_logit(X, y).coef_, peer.params, atol=1e-6)


@pytest.mark.parametrize("penalty", [1e-3, 1.0])
def test_conditional_logit_of_items_equals_choix(penalty, rng):
    choix = pytest.importorskip("choix")
    n_items, strength = 6, rng.normal(size=6)
    rows, counts, groups, data = [], [], [], []
    for prompt in range(200):
        shown = rng.permutation(n_items)[: rng.integers(2, 5)]  # only these
        picked = choose(strength[shown][None], rng)[0]
        rows.append(np.eye(n_items)[shown])
        counts.append(picked)
        groups += [prompt] * len(shown)
        data.append((shown[picked == 1][0], shown[picked == 0]))
    peer = choix.opt_top1(n_items, data, alpha=penalty, tol=1e-12)
    policy = fit_logit(
        np.concatenate(rows), np.concatenate(counts), groups, 2 * penalty / 200
    )
    assert_allclose(policy.coef_, peer, atol=1e-6)


def test_counts_of_choices_are_copies_of_prompts(sets, rng):
    X, _ = sets
    counts = rng.integers(0, 3, size=X.shape[:2])
    counts[0] = 0  # no choice: skipped
    prompt, candidate = np.nonzero(counts)
    repeats = counts[prompt, candidate]
    prompt, candidate = np.repeat(prompt, repeats), np.repeat(candidate, repeats)
    single = np.eye(X.shape[1])[candidate]
    n_prompts = len(X) - 1
    policy = fit_logit(X, counts, alpha=0.1 * len(prompt) / n_prompts)
    copied = fit_logit(X[prompt], single, alpha=0.1)
    assert_allclose(policy.coef_, copied.coef_, rtol=1e-5)
    assert policy.n_skipped_prompts_ == 1
    normalized = fit_logit(X, counts, alpha=0.1, normalize=True)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    assert_allclose(normalized.coef_, fit_logit(X, shares, alpha=0.1).coef_, rtol=1e-5)


def test_negative_counts_are_refused(sets):
    X, y = sets
    with pytest.raises(ValueError, match="y must hold counts of choices, 0 or more"):
        QProbePolicy("conditional_logit").fit(X, y - 1)


def test_columns_of_the_position_remove_its_effect(rng):
    """Users prefer the first places, and good answers stand there more often."""
    n_prompts, k, theta = 4000, 4, np.array([1.0, -0.5, 0.0])
    X = rng.normal(size=(n_prompts, k, 3))
    order = (-X[..., 2] + rng.gumbel(size=(n_prompts, k))).argsort(axis=1)
    X = np.take_along_axis(X, order[..., None], axis=1)  # the third column sorts
    y = choose(X @ theta + [1.5, 1.0, 0.5, 0.0], rng)
    place = np.broadcast_to(np.eye(k), (n_prompts, k, k))
    biased = fit_logit(X, y).coef_
    coef = fit_logit(np.concatenate([X, place], axis=2), y).coef_
    assert abs(biased - theta).max() > 0.2
    assert_allclose(coef[:3], theta, atol=0.1)
    assert_allclose(coef[3:] - coef[-1], [1.5, 1.0, 0.5, 0.0], atol=0.2)
    # Held constant at the time of the choice, the columns have no effect.
    fresh = rng.normal(size=(50, k, 3))
    policy = fit_logit(np.concatenate([X, place], axis=2), y)
    shown = np.concatenate([fresh, np.zeros((50, k, k))], axis=2)
    assert_allclose(policy.decision_function(shown), fresh @ coef[:3])


# Quantile-filtered imitation


@pytest.mark.parametrize(
    "quantile, kept", [(0, 4), (0.25, 3), (0.5, 2), (0.7, 2), (0.75, 1), (1, 1)]
)
def test_quantile_of_distinct_rewards(quantile, kept):
    rewards = np.array([3.0, 1.0, 4.0, 2.0])
    loss = QuantileFilteredImitation(quantile)
    _, gradient = loss.value_and_gradient(np.zeros(4), rewards, np.array([0, 4]))
    assert_allclose(0.25 - gradient, (rewards > 4 - kept) / kept, atol=1e-15)


@pytest.mark.parametrize("k", [5, 10, 16, 29, 48, 100])
@pytest.mark.parametrize("quantile", [0.5, 0.75, 0.8, 0.9, 0.95])
def test_kept_are_those_at_or_above_the_quantile(k, quantile, rng):
    rewards = rng.normal(size=k)
    expected = rewards >= np.quantile(rewards, quantile)
    loss = QuantileFilteredImitation(quantile)
    _, gradient = loss.value_and_gradient(np.zeros(k), rewards, np.array([0, k]))
    assert_allclose(1 / k - gradient, expected / expected.sum(), atol=1e-15)


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan, np.inf, "0.5", None])
def test_quantile_must_be_a_share(value, sets):
    policy = QProbePolicy(QuantileFilteredImitation(value))
    with pytest.raises(ValueError, match=r"quantile of .* a number from 0 to 1; got"):
        policy.fit(*sets)
    assert not hasattr(policy, "coef_")


def test_search_over_the_quantile(sets):
    policy = QProbePolicy(QuantileFilteredImitation(), alpha=0.1)
    grid = {"loss__quantile": [0.5, 0.9]}
    search = GridSearchCV(policy, grid, cv=3).fit(*sets)
    scores = search.cv_results_["mean_test_score"]
    assert scores[0] != scores[1]
