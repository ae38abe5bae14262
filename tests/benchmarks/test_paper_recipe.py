"""The training of the paper is carried out as published."""

import sys
from functools import partial

import numpy as np
import pytest

from skqprobe.metrics import base_reward, best_of_k_reward, oracle_reward

LOSSES = ("squared_error", "log_loss", "policy_gradient")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("hidden", [(), (16,), (16, 8)])
def test_learns(recipe, make_sets, monkeypatch, loss, hidden):
    monkeypatch.setattr(recipe, "LEARNING_RATE", 5e-3)  # for so few steps
    X, y = make_sets(0)
    model = recipe.PaperRecipe(loss, hidden_layer_sizes=hidden, random_state=0)
    model.fit(X[:20], y[:20])
    Q = model.decision_function(X[20:])
    assert Q.shape == (20, 12) and Q.dtype == np.float32
    reward, best = best_of_k_reward(y[20:], Q, 12), oracle_reward(y[20:], 12)
    assert reward > (base_reward(y[20:]) + best) / 2


@pytest.mark.parametrize("loss", LOSSES)
def test_follows_adamw_by_hand(recipe, make_sets, monkeypatch, loss):
    """With all candidates in one batch, only the start is random."""
    import torch

    make = partial(recipe.PaperRecipe, loss, n_epochs=3, random_state=0)
    X, y = make_sets(0, n_prompts=4, m=10)
    monkeypatch.setattr(recipe, "LEARNING_RATE", 0.0)
    start = make().fit(X, y).network_[0]
    w = np.append(start.weight.detach().numpy().ravel(), start.bias.item())
    monkeypatch.setattr(recipe, "LEARNING_RATE", 1e-2)
    model = make().fit(X, y)
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
    # A softmax does not depend on the intercept: its gradient is rounding.
    seen = slice(5) if loss == "policy_gradient" else slice(None)
    linear = model.network_[0]
    trained = torch.cat([linear.weight.ravel(), linear.bias]).detach().numpy()
    np.testing.assert_allclose(trained[seen], w[seen], rtol=1e-4, atol=1e-5)


def test_batches(recipe):
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
    # All prompts share the permutation of the positions: there are two kinds of sets.
    assert len(np.unique(np.sort(sets % 25, axis=1), axis=0)) == 2
    assert [batch.shape for batch in make(7, 3)] == [(7, 3)]


def test_random_state(recipe, make_sets):
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


def test_bad_input(recipe, make_sets):
    X, y = make_sets(0, n_prompts=3)
    with pytest.raises(ValueError, match="loss must be one of"):
        recipe.PaperRecipe("hinge").fit(X, y)
    with pytest.raises(ValueError, match=r"\(3, 12, 5\) and \(3, 11\)"):
        recipe.PaperRecipe().fit(X, y[:, :-1])
    with pytest.raises(ValueError, match=r"y must lie in \[0, 1\]"):
        recipe.PaperRecipe("log_loss").fit(X, 2 * y)


def test_without_torch(load, make_sets, monkeypatch):
    recipe = load("_paper_recipe")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="pip install torch"):
        recipe.PaperRecipe().fit(*make_sets(0, n_prompts=3))
