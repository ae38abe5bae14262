"""The paper's recipe trains as it says; the benchmark's figures are what it says."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from skqprobe.metrics import base_reward, best_of_k_reward, oracle_reward

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.exists(), reason="not a checkout")


def import_benchmark(monkeypatch, name):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for each in ("paper", "paper_recipe", "reward"):  # not another module of the name
        monkeypatch.delitem(sys.modules, each, raising=False)
    return importlib.import_module(name)


@pytest.fixture
def recipe(monkeypatch):
    pytest.importorskip("torch")
    return import_benchmark(monkeypatch, "paper_recipe")


@pytest.fixture
def paper(monkeypatch, recipe):
    pytest.importorskip("matplotlib")
    return import_benchmark(monkeypatch, "paper")


def make_sets(seed, n_prompts=40, m=12, d=5):
    """Candidates whose reward, 0 or 1, leans on the first feature."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_prompts, m, d)).astype(np.float32)
    return X, (X[..., 0] + 0.5 * rng.normal(size=(n_prompts, m)) > 0).astype(float)


LOSSES = ("squared_error", "log_loss", "policy_gradient")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("hidden", [(), (16,), (16, 8)])
def test_recipe_learns(recipe, monkeypatch, loss, hidden):
    monkeypatch.setattr(recipe, "LEARNING_RATE", 5e-3)  # so little data need more
    X, y = make_sets(0)
    model = recipe.PaperRecipe(loss, hidden_layer_sizes=hidden, random_state=0)
    model.fit(X[:20], y[:20])
    Q = model.decision_function(X[20:])
    assert Q.shape == (20, 12) and Q.dtype == np.float32
    reward, best = best_of_k_reward(y[20:], Q, 12), oracle_reward(y[20:], 12)
    assert reward > (base_reward(y[20:]) + best) / 2


@pytest.mark.parametrize("loss", LOSSES)
def test_recipe_follows_adamw_by_hand(recipe, monkeypatch, loss):
    """With all candidates in one batch there is no chance but the start."""
    import torch

    monkeypatch.setattr(recipe, "N_EPOCHS", 3)
    X, y = make_sets(0, n_prompts=4, m=10)
    monkeypatch.setattr(recipe, "LEARNING_RATE", 0.0)
    start = recipe.PaperRecipe(loss, random_state=0).fit(X, y).network_[0]
    w = np.append(start.weight.detach().numpy().ravel(), start.bias.item())
    monkeypatch.setattr(recipe, "LEARNING_RATE", 1e-2)
    model = recipe.PaperRecipe(loss, random_state=0).fit(X, y)
    assert model.n_steps_ == 3

    first, second = np.zeros(6), np.zeros(6)
    for step in (1, 2, 3):
        z = X @ w[:5] + w[5]
        if loss == "squared_error":
            slope = 2 * (z - y) / y.size
        elif loss == "log_loss":
            slope = (1 / (1 + np.exp(-z)) - y) / y.size
        else:
            q = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
            slope = -q * (y - (q * y).sum(axis=1, keepdims=True)) / len(y)
        gradient = np.append(np.einsum("ij,ijd->d", slope, X), slope.sum())
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        size = np.sqrt(second / (1 - 0.999**step)) + 1e-8
        w = w - 1e-2 * first / (1 - 0.9**step) / size
    # A softmax sees no intercept: its gradient is rounding, which Adam makes large.
    seen = slice(5) if loss == "policy_gradient" else slice(None)
    linear = model.network_[0]
    trained = torch.cat([linear.weight.ravel(), linear.bias]).detach().numpy()
    np.testing.assert_allclose(trained[seen], w[seen], rtol=1e-4, atol=1e-5)


def test_recipe_batches(recipe):
    import torch

    torch.manual_seed(0)
    make = recipe.PaperRecipe("squared_error")._batches
    batches = [batch.numpy() for batch in make(120, 20)]  # 2400 candidates
    assert [len(batch) for batch in batches] == [1000, 1000]
    assert len(np.unique(np.concatenate(batches))) == 2000
    assert {len(batch) for batch in make(3, 4)} == {12}

    make = recipe.PaperRecipe("policy_gradient")._batches
    batches = [batch.numpy() for batch in make(125, 25)]  # 250 sets, and 5 left over
    assert [batch.shape for batch in batches] == [(100, 10), (100, 10)]
    sets = np.concatenate(batches)
    assert len(np.unique(sets)) == 2000
    assert (sets // 25 == sets[:, :1] // 25).all()  # of one prompt
    # The permutation of the positions is the same for all prompts: two sorts of sets.
    assert len(np.unique(np.sort(sets % 25, axis=1), axis=0)) == 2
    assert [batch.shape for batch in make(7, 3)] == [(7, 3)]


def test_recipe_random_state(recipe):
    import torch

    X, y = make_sets(0, n_prompts=6)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    Q = [
        recipe.PaperRecipe(random_state=seed).fit(X, y).decision_function(X)
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(Q[0], Q[1])
    assert (Q[0] != Q[2]).any()
    assert torch.equal(before, torch.random.get_rng_state())


def test_recipe_bad_input(recipe):
    X, y = make_sets(0, n_prompts=3)
    with pytest.raises(ValueError, match="loss must be one of"):
        recipe.PaperRecipe("hinge").fit(X, y)
    with pytest.raises(ValueError, match=r"\(3, 12, 5\) and \(3, 11\)"):
        recipe.PaperRecipe().fit(X, y[:, :-1])
    with pytest.raises(ValueError, match=r"y must lie in \[0, 1\]"):
        recipe.PaperRecipe("log_loss").fit(X, 2 * y)


def test_recipe_without_torch(monkeypatch):
    recipe = import_benchmark(monkeypatch, "paper_recipe")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="pip install torch"):
        recipe.PaperRecipe().fit(*make_sets(0, n_prompts=3))


SMALL = {
    "alphas": (1.0, 0.01),
    "inner_folds": 2,
    "prompts": (5, 10),
    "temperatures": (1e-6, 1.0, 1e6),
    "n_subsets": 2,
    "n_resamples": 99,
    "max_prompts": 60,
}


def entry(entries, *key):
    (found,) = (e for e in entries if (e["method"], e["loss"], e["figure"]) == key)
    return found


def test_command(paper, monkeypatch, tmp_path, capsys):
    X, y = make_sets(0, n_prompts=60, m=12)
    np.savez(tmp_path / "alpacaeval_gpt4.npz", embeddings=X, rewards=y)
    monkeypatch.setattr(paper, "QUICK", paper.Plan(layers=(1, 2), **SMALL))
    monkeypatch.setattr(sys.modules["paper_recipe"], "N_EPOCHS", 3)
    out, only = tmp_path / "out.json", ["--only", "alpacaeval_gpt4", "hh_harmless"]
    arguments = ["--quick", "--data", str(tmp_path), "--json", str(out), *only]
    paper.main([*arguments, "--out", str(tmp_path / "pictures")])
    assert (tmp_path / "pictures" / "alpacaeval_gpt4.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "hh_harmless: left out" in printed

    (result,) = json.loads(out.read_text())["results"]
    lines, at = result["lines"], {}
    for line in lines:
        at[line["figure"]] = line["at"]
        ends = (np.array(line[name]) for name in ("low", "value", "high"))
        low, value, high = ends
        assert (
            value.shape == (len(line["at"]),)
            and (np.diff([low, value, high], axis=0) >= 0).all()
        )
        # All seeds hold out as many prompts, so that their mean is the figure.
        np.testing.assert_allclose(np.mean(line["by_seed"], axis=1), value)
    assert at == {
        "table": [10, 12],
        "k": [1, 2, 4, 8, 12],
        "prompts": [5, 10, 36],
        "temperature": [1e-6, 1.0, 1e6],
        "layers": [1, 2],
    }
    base = entry(lines, "base", "", "k")["value"][0]
    for loss, short in zip(LOSSES, ("L_Q", "L_CE", "L_PG"), strict=True):
        for name in ("skqprobe", "paper"):
            by_k = entry(lines, name, loss, "k")["value"]
            assert by_k[0] == pytest.approx(base)
            # One figure ends, or begins, where another is.
            of_all = entry(lines, name, loss, "table")["value"][-1]
            assert by_k[-1] == pytest.approx(of_all)
            assert entry(lines, name, loss, "prompts")["value"][-1] == of_all
            assert entry(lines, name, loss, "layers")["value"][0] == of_all
            warm = entry(lines, name, loss, "temperature")["value"]
            assert warm[0] == pytest.approx(of_all, abs=1e-3)
            assert warm[-1] == pytest.approx(base, abs=1e-3)
        ours, theirs = (entry(lines, n, loss, "k") for n in ("skqprobe", "paper"))
        gain = entry(result["differences"], "skqprobe", loss, "k")
        np.testing.assert_allclose(
            gain["value"], np.subtract(ours["value"], theirs["value"])
        )
        assert ours["value"][-1] > base + 0.2  # three epochs teach the recipe nothing
        assert f"{ours['value'][-1]:.3f}" in printed.split("k = 12")[1]
        assert f"{short}, paper" in printed


def test_intervals_are_over_groups(paper):
    """Rewards averaged over the seeds that held a prompt out, prompts over groups."""
    rewards = np.array([[1.0, 0.0, np.nan, np.nan], [0.5, np.nan, 3.0, np.nan]])
    groups = np.array(["a", "b", "a", "c"])
    count, total = paper.totals(rewards[..., None], groups)
    np.testing.assert_array_equal(count[:, 0], [3, 1])  # nobody held out the last
    np.testing.assert_array_equal(total[:, 0], [4.5, 0.0])
    found = paper.summarise(rewards[..., None], groups, 99)
    assert found["value"] == [pytest.approx(4.5 / 4)]
    assert found["by_seed"] == [[pytest.approx(0.5), pytest.approx(1.75)]]
    # Of two groups a resample is one of them twice, or both.
    assert found["low"] == [pytest.approx(0.0)]
    assert found["high"] == [pytest.approx(1.5)]
    zero = paper.summarise(rewards[..., None], groups, 99, rewards[..., None])
    assert zero["value"] == zero["low"] == zero["high"] == [0.0]


def test_split_keeps_groups_together(paper):
    groups = np.repeat(np.arange(20), 2)
    data = make_data(groups)
    tests = []
    for seed in range(3):
        train, test = paper.split(data, seed)
        assert len(train) == 24 and sorted([*train, *test]) == list(range(40))
        assert not set(groups[train]) & set(groups[test])
        assert (np.diff(train) < 0).any()  # the first few are a random few
        tests.append(set(test))
    assert tests[0] != tests[1] != tests[2]


def make_data(groups):
    X, y = make_sets(0, n_prompts=len(groups))
    return sys.modules["reward"].Data("A", X, y, groups, None, None, (5,))


class FirstFeature:
    """A value that depends on its candidate alone."""

    def decision_function(self, X):
        return X[..., 0]


def test_random_sets_agree_with_the_exact_reward(paper):
    data = make_data(np.arange(30))
    exact = paper.rewards_by_k(FirstFeature(), data, [3, 12])
    np.testing.assert_allclose(
        exact.mean(axis=0), best_of_k_reward(data.y, data.X[..., 0], [3, 12])
    )
    plan = paper.Plan(n_subsets=400)
    drawn = paper.rewards_by_context(FirstFeature(), data, [3, 12], plan, seed=0)
    np.testing.assert_array_equal(drawn[:, 1], exact[:, 1])
    # The mean of 400 draws of 0 or 1 has a standard error of at most 0.025.
    np.testing.assert_allclose(drawn[:, 0], exact[:, 0], atol=0.12)


def test_bad_arguments(paper, capsys):
    with pytest.raises(SystemExit):
        paper.main(["--seeds", "0"])
    assert "--seeds must be 1 or more" in capsys.readouterr().err
