"""The table of ideas: each does what its line says, and the protocol is honest."""

import importlib
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy
from skqprobe.metrics import base_reward, best_of_k_reward, oracle_reward
from skqprobe.preprocessing import SiblingFeatures

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.exists(), reason="not a checkout")

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)

LINEAR = [
    *("no_siblings", "all_six", "set_centred", "neighbour_mean", "policy_gradient"),
    *("log_loss", "squared_error", "pairwise_hinge", "softmax_cross_entropy"),
    *("contrastive_policy_gradient", "sets_of_10", "rewards_by_spread"),
    *("prompt_scale", "prompt_whitening", "nystroem", "bagging", "lower_bound"),
    "two_probes",
]


@pytest.fixture
def lift(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for each in ("lift", "reward"):  # not another module of the name
        monkeypatch.delitem(sys.modules, each, raising=False)
    return importlib.import_module("lift")


def make_data(lift, seed=0, n_prompts=60, m=6, name="A", view_sizes=(5,), **more):
    """Candidates whose reward, 0 or 1, leans on the first feature."""
    rng = np.random.default_rng(seed)
    d = sum(view_sizes)
    X = rng.normal(size=(n_prompts, m, d)) + rng.normal(size=(n_prompts, 1, d))
    y = X[..., 0] - X[..., 0].mean(axis=1, keepdims=True)
    y = (y + 0.3 * rng.normal(size=y.shape) > 0).astype(float)
    groups = more.get("groups", np.arange(n_prompts))
    X = X.astype(np.float32)
    return sys.modules["reward"].Data(name, X, y, groups, None, None, view_sizes)


@pytest.mark.parametrize("name", LINEAR)
def test_every_idea_learns(lift, name):
    data = make_data(lift, n_prompts=260)
    train, test = data.take(np.arange(130)), data.take(np.arange(130, 260))
    model, alpha = lift.fit(lift.IDEAS[name], train, 6, reference_alpha=0.1)
    values = model.decision_function(test.X)
    assert values.shape == test.y.shape and alpha in lift.ALPHAS
    reward, best = best_of_k_reward(test.y, values, 6), oracle_reward(test.y, 6)
    assert reward > (base_reward(test.y) + best) / 2


def test_siblings_alone_learn_agreement(lift):
    data = make_data(lift)
    apart = np.linalg.norm(lift.centred(data.X), axis=2)
    data.y[:] = apart <= np.median(apart, axis=1, keepdims=True)
    model, _ = lift.fit(lift.IDEAS["siblings_alone"], data.take(np.arange(40)), 6)
    assert model[-1].n_features_in_ == 9
    values = model.decision_function(data.X[40:])
    assert best_of_k_reward(data.y[40:], values, 6) > 0.75


@pytest.mark.parametrize(
    "name", ["prompt_pca", pytest.param("hidden_layer", marks=needs_torch)]
)
def test_ideas_for_more_features_learn(lift, name):
    data = make_data(lift, n_prompts=120, view_sizes=(70,))
    train, test = data.take(np.arange(90)), data.take(np.arange(90, 120))
    model, _ = lift.fit(lift.IDEAS[name], train, 6)
    values = model.decision_function(test.X)
    assert best_of_k_reward(test.y, values, 6) > base_reward(test.y) + 0.1
    probe = model[-1]
    assert probe.n_features_in_ == (64 if name == "prompt_pca" else 70) + 9
    assert probe.hidden_layer_sizes == ((256,) if name == "hidden_layer" else ())


def test_all_ideas_are_tested(lift):
    of_two = {"emb_pair", "emb_completion"}
    assert {*LINEAR, "siblings_alone", "prompt_pca", "hidden_layer"} | of_two == set(
        lift.IDEAS
    )


def test_prompt_centred_columns(lift):
    X = make_data(lift).X * np.array([1, 2, 4, 8, 16], np.float32)
    scaled = lift.PromptCentred(StandardScaler()).fit(X).transform(X)
    np.testing.assert_allclose(scaled.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(axis=(0, 1)), 1, rtol=1e-4)

    rows = lift.centred(X.astype(float)).reshape(-1, 5)
    covariance = rows.T @ rows / len(rows)
    shrunk = 0.5 * covariance + 0.5 * np.trace(covariance) / 5 * np.eye(5)
    matrix = lift.Whitening().fit(rows).matrix_
    np.testing.assert_allclose(matrix.T @ shrunk @ matrix, np.eye(5), atol=1e-10)


def test_neighbour_mean_is_of_near_siblings(lift):
    X = np.array([[[1, 0, 5], [1, 0.1, 5], [0, 1, 5]]], dtype=float)
    out = lift.NeighbourMean((2, 1)).fit(X).transform(X)
    assert out.shape == (1, 3, 6)
    np.testing.assert_array_equal(out[..., :3], X)
    np.testing.assert_allclose(out[0, 0, 3:5], [1, 0.1], atol=1e-3)  # not itself
    np.testing.assert_allclose(out[..., 5], 5)  # each block by itself
    weight = np.exp([-1 / 0.1, (0.1 / np.sqrt(1.01) - 1) / 0.1])
    np.testing.assert_allclose(out[0, 2, 3:5], weight @ X[0, :2, :2] / weight.sum())


def test_in_place_keeps_the_siblings(lift):
    data = make_data(lift, view_sizes=(3, 2))
    whole = SiblingFeatures(view_sizes=(3, 2)).fit(data.X).transform(data.X)
    scale = lift.PromptCentred(StandardScaler())
    placed = lift.in_place(data, scale).fit(data.X).transform(data.X)
    np.testing.assert_array_equal(placed[..., 5:], whole[..., 5:])
    np.testing.assert_array_equal(placed[..., :5], scale.fit(data.X).transform(data.X))


def test_one_embedding(lift):
    data = make_data(lift, name="humaneval_codegen16b", view_sizes=(3, 2))
    for key, columns in (("emb_pair", slice(0, 3)), ("emb_completion", slice(3, 5))):
        made = lift.IDEAS[key].features(data).fit(data.X)
        alone = SiblingFeatures().fit(data.X[..., columns])
        np.testing.assert_array_equal(
            made.transform(data.X), alone.transform(data.X[..., columns])
        )
    assert lift.fit(lift.IDEAS["emb_pair"], make_data(lift), 6) is None


def test_rewards_by_spread(lift):
    """A prompt's spread says nothing; one of almost equal rewards is not blown up."""
    data = make_data(lift)
    y = np.random.default_rng(0).normal(size=data.y.shape)
    factor = np.linspace(0.5, 2, len(y))[:, None]
    y, wide = (r / y.std(axis=1, keepdims=True) for r in (y, factor * y))
    plain = QProbePolicy(lift.COPG).fit(data.X, y).coef_
    spread = [lift.OnSpread(lift.COPG).fit(data.X, r).coef_ for r in (y, wide)]
    np.testing.assert_allclose(spread, [plain, plain], rtol=1e-3, atol=1e-5)
    y[0] *= 1e-9
    level = lift.OnSpread(lift.COPG).fit(data.X, y).coef_
    y[0] = 0
    flat = lift.OnSpread(lift.COPG).fit(data.X, y).coef_
    np.testing.assert_allclose(level, flat, rtol=1e-5)


def test_lower_bound_is_the_posterior_of_ridge(lift):
    data = make_data(lift)
    n, k, d = data.X.shape
    alpha = 0.3 * k**2 / 2
    model = lift.LowerBound(lift.COPG, alpha=alpha).fit(data.X, data.y)
    rows = lift.centred(data.X.astype(float)).reshape(-1, d)
    rewards = lift.centred(data.y).ravel()
    inverse = np.linalg.inv(rows.T @ rows + alpha * n / k * np.eye(d))
    np.testing.assert_allclose(model.coef_, inverse @ rows.T @ rewards, rtol=1e-3)
    noise = np.sum((rewards - rows @ model.coef_) ** 2) / (n * (k - 1))
    variance = noise * np.einsum("ij,jk,ik->i", rows, inverse, rows)
    value = data.X @ model.coef_ - np.sqrt(variance).reshape(n, k)
    np.testing.assert_allclose(
        model.decision_function(data.X), value, rtol=1e-4, atol=1e-4
    )


def test_tuning_is_inside_the_training_prompts(lift):
    """It is an explicit cross-validation; of equal ones it takes the strongest."""
    data = make_data(lift, n_prompts=30, groups=np.arange(30) // 2)
    idea = lift.IDEAS["no_siblings"]
    seen = []

    class Spy(StandardScaler):
        def fit(self, X, y=None):
            seen.append(len(X))
            return super().fit(X)

    features = lift.PerCandidate(Spy())
    alpha = lift.tune(features, idea.probe, lift.ALPHAS, data, 3)
    assert seen == [20 * 6] * 3
    rewards = np.zeros(3)
    folds = GroupKFold(3, shuffle=True, random_state=1)
    for inside, outside in folds.split(data.X, groups=data.groups):
        scaled = lift.PerCandidate(StandardScaler()).fit(data.X[inside])
        for i, each in enumerate(lift.ALPHAS):
            probe = QProbePolicy("pairwise_logistic", alpha=each)
            probe.fit(scaled.transform(data.X[inside]), data.y[inside])
            values = probe.decision_function(scaled.transform(data.X[outside]))
            rewards[i] += best_of_k_reward(data.y[outside], values, 3)
    assert alpha == lift.ALPHAS[np.argmax(rewards)]

    data.X[:] = 0
    assert lift.tune(features, idea.probe, lift.ALPHAS, data, 3) == max(lift.ALPHAS)


def test_alpha_is_in_the_unit_of_the_loss(lift):
    y = np.zeros((3, 10))
    pairs = lift.with_alpha(lift.OnSpread(lift.COPG), 0.1, y)
    assert pairs.alpha == pytest.approx(5) and pairs.loss == lift.COPG
    for probe in (lift.PAIRWISE, lift.TwoProbes()):
        assert lift.with_alpha(probe, 0.5, y).alpha == 0.5
    data = make_data(lift)
    two = lift.TwoProbes(alpha=0.1).fit(data.X, data.y)
    assert [probe.alpha for probe in two.probes_] == pytest.approx([0.1, 1.8])
    values = [probe.decision_function(data.X) for probe in two.probes_]
    values = [value / lift.centred(value).std() for value in values]
    correlation = np.corrcoef(sum(values).ravel(), two.decision_function(data.X).flat)
    assert correlation[0, 1] == pytest.approx(1, abs=1e-6)


class FirstFeature:
    def decision_function(self, X):
        return X[..., 0]


class Nearest:
    """A value that depends on which candidates there are."""

    def decision_function(self, X):
        return -abs(X[..., 0] - X[..., 0].mean(axis=1, keepdims=True))


def test_choice_is_among_the_drawn_sets(lift, monkeypatch):
    data = make_data(lift, m=9)
    whole = lift.draw_sets(data)
    np.testing.assert_array_equal(whole, np.tile(np.arange(9), (60, 1, 1)))
    exact = best_of_k_reward(data.y, data.X[..., 0], 9, prompt_weight=np.eye(60))
    np.testing.assert_allclose(lift.chosen_rewards(FirstFeature(), data, whole), exact)

    monkeypatch.setattr(lift, "MOST_CANDIDATES", 4)
    sets = lift.draw_sets(data)
    assert sets.shape == (60, lift.N_SETS, 4)
    assert (np.diff(np.sort(sets)) > 0).all()  # no candidate twice
    np.testing.assert_array_equal(sets, lift.draw_sets(data))  # the same for all ideas
    by_hand = np.zeros(60)
    for prompt, of_prompt in enumerate(sets):
        for some in of_prompt:
            X, y = data.X[prompt, some], data.y[prompt, some]
            best = Nearest().decision_function(X[None])[0].argmax()
            by_hand[prompt] += y[best] / lift.N_SETS
    np.testing.assert_allclose(lift.chosen_rewards(Nearest(), data, sets), by_hand)


def test_metrics(lift):
    weight = np.array([[1, 1, 1], [0, 3, 0]])
    columns = np.array([[0.0, 0.5, 1.0], [0.2, 0.2, 0.2], [0.1, 0.8, 0.9]])
    share = lift.recovery(columns, prompt_weight=weight[:1])
    assert share == pytest.approx((1.5 - 0.3) / (2.1 - 0.3))
    np.testing.assert_allclose(lift.mean(columns, prompt_weight=weight), [0.1, 0.2])


def test_command(lift, monkeypatch, tmp_path, capsys):
    data = make_data(lift, n_prompts=40, m=8, groups=np.arange(40) // 2)
    noise = np.random.default_rng(1).random(data.y.shape) < 0.4
    data.y[noise] = 1 - data.y[noise]  # so that other folds mean other choices
    arrays = {"rewards": data.y, "groups": data.groups}
    np.savez(tmp_path / "hh_harmless.npz", embeddings=data.X, **arrays)
    monkeypatch.setattr(lift, "N_RESAMPLES", 99)
    monkeypatch.setattr(lift, "MOST_CANDIDATES", 5)
    splits, chosen, measure_fold = [], np.zeros(40), lift.measure_fold

    def spy(*arguments):
        test, found = measure_fold(*arguments)
        splits.append(test)
        chosen[test] += found["log_loss"][0] / 2
        return test, found

    monkeypatch.setattr(lift, "measure_fold", spy)
    out, ideas = tmp_path / "out.json", ["log_loss", "set_centred", "bagging"]
    only = ["--data", str(tmp_path), "--only", "hh_harmless", "alpacaeval_gpt4"]
    lift.main([*only, "--ideas", *ideas, "--json", str(out)])
    printed = capsys.readouterr().out
    assert "alpacaeval_gpt4: left out" in printed
    assert "- siblings\nset_centred" in printed and "- columns" not in printed

    assert len(splits) == 2 * 5
    for repeat in (splits[:5], splits[5:]):
        np.testing.assert_array_equal(np.sort(np.concatenate(repeat)), np.arange(40))
        for test in repeat:
            others = np.setdiff1d(np.arange(40), test)
            assert not set(data.groups[test]) & set(data.groups[others])
    assert not np.array_equal(splits[0], splits[5])

    (result,) = json.loads(out.read_text())
    found = result["ideas"]
    assert list(found) == ["reference", "set_centred", "log_loss", "bagging"]
    assert result["k"] == 5 and result["n_prompts"] == 40
    reference = found["reference"]["reward"]
    for name, row in found.items():
        gain, reward = row["gain"], row["reward"]
        assert gain["low"] <= gain["value"] <= gain["high"]
        assert gain["value"] == pytest.approx(reward["value"] - reference["value"])
        assert len(row["alphas"]) == 10
        if name != "reference":
            assert f"{gain['value']:+.3f} [{gain['low']:+.3f}" in printed
    assert found["log_loss"]["reward"]["value"] == pytest.approx(chosen.mean())
    assert found["bagging"]["alphas"] == found["reference"]["alphas"]
    assert found["set_centred"]["gain"]["value"] == pytest.approx(0, abs=0.01)
    share = (reference["value"] - result["base"]) / (result["oracle"] - result["base"])
    assert result["recovery"]["value"] == pytest.approx(share)
    assert f"recovery {share:.3f}" in printed


def test_without_torch(lift, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(lift, "find_spec", lambda name: None)
    only = ["--data", str(tmp_path), "--only", "hh_harmless"]
    lift.main([*only, "--ideas", "hidden_layer", "log_loss"])
    printed = capsys.readouterr().out
    assert "pip install torch" in printed and "\nlog_loss:" in printed
    assert "hidden_layer: one" not in printed
