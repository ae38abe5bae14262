"""Each idea of the benchmark of ideas does what its description says."""

import importlib.util

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy
from skqprobe.metrics import base_reward, best_of_k_reward, oracle_reward
from skqprobe.preprocessing import SiblingFeatures

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)

LINEAR = [
    *("no_siblings", "all_six", "set_centered", "neighbor_mean", "policy_gradient"),
    *("log_loss", "squared_error", "pairwise_hinge", "softmax_cross_entropy"),
    *("contrastive_policy_gradient", "quantile_filtered_imitation"),
    *("sets_of_10", "rewards_by_spread"),
    *("prompt_scale", "prompt_whitening", "nystroem", "bagging", "lower_bound"),
    "two_probes",
]


@pytest.fixture
def fit(load):
    return load("lift").fit


@pytest.fixture
def make_data(load):
    """Function that makes data in which only differences inside a prompt matter."""

    def make(seed=0, n_prompts=60, m=6, name="A", view_sizes=(5,)):
        rng = np.random.default_rng(seed)
        d = sum(view_sizes)
        X = rng.normal(size=(n_prompts, m, d)) + rng.normal(size=(n_prompts, 1, d))
        y = X[..., 0] - X[..., 0].mean(axis=1, keepdims=True)
        y = (y + 0.3 * rng.normal(size=y.shape) > 0).astype(float)
        X, groups = X.astype(np.float32), np.arange(n_prompts)
        return load("_data").Data(name, X, y, groups, None, None, view_sizes)

    return make


@pytest.mark.parametrize("name", LINEAR)
def test_every_idea_learns(ideas, fit, make_data, name):
    data = make_data(n_prompts=260)
    train, test = data.take(np.arange(130)), data.take(np.arange(130, 260))
    model, alpha = fit(ideas.IDEAS[name], train, 6, reference_alpha=0.1)
    values = model.decision_function(test.X)
    assert values.shape == test.y.shape and alpha in ideas.ALPHAS
    reward, best = best_of_k_reward(test.y, values, 6), oracle_reward(test.y, 6)
    assert reward > (base_reward(test.y) + best) / 2


def test_siblings_alone_learn_agreement(ideas, fit, make_data):
    data = make_data()
    apart = np.linalg.norm(ideas.centered(data.X), axis=2)
    data.y[:] = apart <= np.median(apart, axis=1, keepdims=True)
    model, _ = fit(ideas.IDEAS["siblings_alone"], data.take(np.arange(40)), 6)
    assert model[-1].n_features_in_ == 9
    values = model.decision_function(data.X[40:])
    assert best_of_k_reward(data.y[40:], values, 6) > 0.75


@pytest.mark.parametrize(
    "name", ["prompt_pca", pytest.param("hidden_layer", marks=needs_torch)]
)
def test_ideas_for_more_features_learn(ideas, fit, make_data, name):
    data = make_data(n_prompts=120, view_sizes=(70,))
    train, test = data.take(np.arange(90)), data.take(np.arange(90, 120))
    model, _ = fit(ideas.IDEAS[name], train, 6)
    values = model.decision_function(test.X)
    assert best_of_k_reward(test.y, values, 6) > base_reward(test.y) + 0.1
    probe = model[-1]
    assert probe.n_features_in_ == (64 if name == "prompt_pca" else 70) + 9
    assert probe.hidden_layer_sizes == ((256,) if name == "hidden_layer" else ())


def test_all_ideas_are_tested(ideas):
    of_two = {"emb_pair", "emb_completion"}
    assert {*LINEAR, "siblings_alone", "prompt_pca", "hidden_layer"} | of_two == set(
        ideas.IDEAS
    )


def test_prompt_centered_columns(ideas, make_data):
    X = make_data().X * np.array([1, 2, 4, 8, 16], np.float32)
    scaled = ideas.PromptCentered(StandardScaler()).fit(X).transform(X)
    np.testing.assert_allclose(scaled.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(axis=(0, 1)), 1, rtol=1e-4)

    rows = ideas.centered(X.astype(float)).reshape(-1, 5)
    covariance = rows.T @ rows / len(rows)
    shrunk = 0.5 * covariance + 0.5 * np.trace(covariance) / 5 * np.eye(5)
    matrix = ideas.Whitening().fit(rows).matrix_
    np.testing.assert_allclose(matrix.T @ shrunk @ matrix, np.eye(5), atol=1e-10)


def test_neighbor_mean_is_of_near_siblings(ideas):
    X = np.array([[[1, 0, 5], [1, 0.1, 5], [0, 1, 5]]], dtype=float)
    out = ideas.NeighborMean((2, 1)).fit(X).transform(X)
    assert out.shape == (1, 3, 6)
    np.testing.assert_array_equal(out[..., :3], X)
    np.testing.assert_allclose(out[0, 0, 3:5], [1, 0.1], atol=1e-3)  # without itself
    np.testing.assert_allclose(out[..., 5], 5)  # by view
    weight = np.exp([-1 / 0.1, (0.1 / np.sqrt(1.01) - 1) / 0.1])
    np.testing.assert_allclose(out[0, 2, 3:5], weight @ X[0, :2, :2] / weight.sum())


def test_in_place_keeps_the_siblings(ideas, make_data):
    data = make_data(view_sizes=(3, 2))
    whole = SiblingFeatures(view_sizes=(3, 2)).fit(data.X).transform(data.X)
    scale = ideas.PromptCentered(StandardScaler())
    placed = ideas.in_place(data, scale).fit(data.X).transform(data.X)
    np.testing.assert_array_equal(placed[..., 5:], whole[..., 5:])
    np.testing.assert_array_equal(placed[..., :5], scale.fit(data.X).transform(data.X))


def test_one_embedding(ideas, fit, make_data):
    data = make_data(name="humaneval_codegen16b", view_sizes=(3, 2))
    for key, columns in (("emb_pair", slice(0, 3)), ("emb_completion", slice(3, 5))):
        made = ideas.IDEAS[key].features(data).fit(data.X)
        alone = SiblingFeatures().fit(data.X[..., columns])
        np.testing.assert_array_equal(
            made.transform(data.X), alone.transform(data.X[..., columns])
        )
    assert fit(ideas.IDEAS["emb_pair"], make_data(), 6) is None


def test_rewards_by_spread(ideas, make_data):
    """A prompt's spread says nothing; one of almost equal rewards is not blown up."""
    data = make_data()
    y = np.random.default_rng(0).normal(size=data.y.shape)
    factor = np.linspace(0.5, 2, len(y))[:, None]
    y, wide = (r / y.std(axis=1, keepdims=True) for r in (y, factor * y))
    plain = QProbePolicy(ideas.COPG).fit(data.X, y).coef_
    spread = [ideas.OnSpread(ideas.COPG).fit(data.X, r).coef_ for r in (y, wide)]
    np.testing.assert_allclose(spread, [plain, plain], rtol=1e-3, atol=1e-5)
    y[0] *= 1e-9
    level = ideas.OnSpread(ideas.COPG).fit(data.X, y).coef_
    y[0] = 0
    flat = ideas.OnSpread(ideas.COPG).fit(data.X, y).coef_
    np.testing.assert_allclose(level, flat, rtol=1e-5)


def test_lower_bound_is_the_posterior_of_ridge(ideas, make_data):
    data = make_data()
    n, k, d = data.X.shape
    alpha = 0.3
    model = ideas.LowerBound(ideas.COPG, alpha=alpha).fit(data.X, data.y)
    rows = ideas.centered(data.X.astype(float)).reshape(-1, d)
    rewards = ideas.centered(data.y).ravel()
    inverse = np.linalg.inv(rows.T @ rows + alpha * n * k * np.eye(d))
    np.testing.assert_allclose(model.coef_, inverse @ rows.T @ rewards, rtol=1e-3)
    noise = np.sum((rewards - rows @ model.coef_) ** 2) / (n * (k - 1))
    variance = noise * np.einsum("ij,jk,ik->i", rows, inverse, rows)
    value = data.X @ model.coef_ - np.sqrt(variance).reshape(n, k)
    np.testing.assert_allclose(
        model.decision_function(data.X), value, rtol=1e-4, atol=1e-4
    )


def test_two_probes_have_equal_influence(ideas, make_data):
    data = make_data()
    two = ideas.TwoProbes(alpha=0.1).fit(data.X, data.y)
    assert [probe.alpha for probe in two.probes_] == [0.1, 0.1]
    assert [probe.loss for probe in two.probes_] == ["pairwise_logistic", ideas.COPG]
    values = [probe.decision_function(data.X) for probe in two.probes_]
    values = [value / ideas.centered(value).std() for value in values]
    correlation = np.corrcoef(sum(values).ravel(), two.decision_function(data.X).flat)
    assert correlation[0, 1] == pytest.approx(1, abs=1e-6)
