import numpy as np
import pytest
from cases import every_probe_and_loss, make_objective, values_of
from numpy.testing import assert_allclose, assert_array_equal

from skqprobe import QProbePolicy
from skqprobe._objectives.network import network_scores
from skqprobe._solvers import minimize_adam
from skqprobe._solvers.adam import PATIENCE, Network, Scaling

torch = pytest.importorskip("torch", reason="torch is not installed")

ALL = np.arange(60)


def network_objective(X, y, loss, groups=None, **settings):
    defaults = {"hidden_layer_sizes": (8, 4), "alpha": 0.01}
    return make_objective(X, y, loss, groups, **defaults | settings)


def random_theta(objective):
    return np.random.RandomState(0).normal(size=objective.n_parameters)


def random_network(objective):
    theta, prompts = random_theta(objective), np.arange(objective.layout.n_prompts)
    return Network(objective, theta, prompts, np.random.RandomState(0))


def test_gradient_is_that_of_autograd(rows):
    """Of the policy gradient in torch, prompt by prompt."""
    X, y, groups = rows
    prompt_weight = np.random.default_rng(1).uniform(1, 3, size=40)
    objective = network_objective(
        X, y, "policy_gradient", groups, prompt_weight=prompt_weight
    )
    network = random_network(objective)
    weights = [w.detach().clone().requires_grad_() for w in network.weights]
    biases = [b.detach().clone().requires_grad_() for b in network.biases]

    copies = np.repeat(prompt_weight, objective.layout.sizes)
    ordered = X[objective.layout.order]
    mean = np.average(ordered, axis=0, weights=copies)
    scale = np.sqrt(np.average((ordered - mean) ** 2, axis=0, weights=copies))
    loss = 0
    for p, label in enumerate(dict.fromkeys(groups)):
        z = torch.tensor((X[groups == label] - mean) / scale)
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            z = torch.relu(z @ weight + bias)
        q = torch.softmax((z @ weights[-1] + biases[-1])[:, 0], dim=0)
        loss = loss - prompt_weight[p] * (q @ torch.tensor(y[groups == label]))
    (loss / prompt_weight.sum()).backward()

    network.step(np.arange(40), 1)
    found, expected = network.weights + network.biases, weights + biases
    for mine, theirs in zip(found[:-1], expected[:-1], strict=True):
        assert_allclose(mine.grad, theirs.grad, rtol=1e-9, atol=1e-12)
        assert abs(mine.grad).max() > 1e-6
    # The bias of the score does not change a shift-invariant loss, and has no gradient.
    assert network.biases[-1].grad is None
    assert abs(biases[-1].grad).max() < 1e-12


def test_batches_sum_to_the_mean_over_prompts(rows):
    """A prompt of 9 candidates has the weight of one with 1."""
    X, y, groups = rows
    objective = network_objective(X, y, "squared_error", groups)

    def gradients(batches):
        total = 0.0
        for batch in batches:
            network = random_network(objective)
            network.step(batch, len(batches))
            grads = [p.grad.numpy().ravel() for p in network.weights + network.biases]
            total = total + np.concatenate(grads) / len(batches)
        return total

    batches = objective.batches(np.arange(40)[::-1], 30)
    assert len(batches) == -(-len(y) // 30)
    whole = gradients([np.arange(40)])
    assert_allclose(gradients(batches), whole, rtol=1e-9, atol=1e-12)


def test_change_of_variables_and_its_inverse(sets):
    X, y = sets[0] * [1e-2, 1, 30, 1] + [5, 0, 100, 1], 50 * sets[1] + 8
    objective = network_objective(X, y, "squared_error")
    scaling, theta = Scaling(objective, ALL), random_theta(objective)
    there = scaling.to_network(*objective.split(theta))
    back = objective.join(*scaling.from_network(*there))
    assert_allclose(back, theta, rtol=1e-9, atol=1e-9)
    # The network has the scores of these parameters, and their mean loss.
    network = random_network(objective)
    assert_allclose(network.theta(), theta, rtol=1e-9, atol=1e-9)
    scores = network_scores(X.reshape(-1, 4), *objective.split(theta))
    expected = ((scores.reshape(60, 6) - y) ** 2).mean()
    assert network.mean_loss(ALL) == pytest.approx(expected)
    # The penalty is in the same unit, the variance of the rewards.
    squares = sum((weight**2).sum() for weight in there[0])
    assert network.penalty() == pytest.approx(0.01 / 2 * squares * y.var())


def test_early_stopping_keeps_the_best_parameters_on_held_out_prompts(rng):
    # The network fits noise, so that the held-out loss rises at last.
    X, y = rng.normal(size=(60, 6, 20)), rng.integers(0, 2, size=(60, 6)) * 1.0
    y[..., 0] = X[..., 0, 0] > 0
    objective = network_objective(X, y, "log_loss", hidden_layer_sizes=(64,), alpha=0)
    train, held_out = objective.hold_out(np.random.RandomState(0))
    assert np.intersect1d(train, held_out).size == 0

    def held_out_loss(theta):
        z = network_scores(objective.X, *objective.split(theta)).reshape(60, 6)
        z, offsets = z[held_out].ravel(), np.arange(len(held_out) + 1) * 6
        loss = objective.loss.value_and_gradient(z, y[held_out].ravel(), offsets)
        return loss[0].mean()

    seen = []
    theta, n_iter = minimize_adam(
        objective,
        np.zeros(objective.n_parameters),
        tol=1e-4,
        max_iter=1000,
        random_state=np.random.RandomState(0),
        on_iteration=lambda theta, value: seen.append((theta, value)),
    )
    history = [value for _, value in seen]
    assert len(history) == n_iter < 1000
    best, start = min(history), np.log(2)  # the loss of equal scores
    assert np.argmin(history) < n_iter - 1
    assert best < min(history[-1], start)
    assert held_out_loss(theta) == pytest.approx(best)
    # The callback gets the best parameters so far.
    for epoch in (0, 3, n_iter - 1):
        expected = min(start, *history[: epoch + 1])
        assert held_out_loss(seen[epoch][0]) == pytest.approx(expected)
    # The last PATIENCE epochs made no progress, which is not true of one more.
    assert min(history[:-PATIENCE]) - best <= 1e-4 * (start - best)


def test_starting_point_is_not_kept_even_if_no_epoch_is_better(rng):
    """All its scores are equal, so that the choice would be random."""
    X, y = rng.normal(size=(40, 5, 8)), rng.normal(size=(40, 5))  # nothing to learn
    policy = QProbePolicy("squared_error", hidden_layer_sizes=(64,), random_state=0)
    assert np.ptp(policy.fit(X, y).decision_function(X)) > 0.01


@pytest.mark.filterwarnings("ignore:The network did not converge")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@every_probe_and_loss
def test_cuda_agrees_with_the_cpu(sets, monkeypatch, Probe, loss):
    X, y = sets
    settings = {"hidden_layer_sizes": (8, 4), "max_iter": 5, "random_state": 1}
    there, again = (Probe(loss, **settings).fit(X, y) for _ in range(2))
    assert_array_equal(values_of(there, X), values_of(again, X))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    here = Probe(loss, **settings).fit(X, y)
    assert_allclose(values_of(there, X), values_of(here, X), rtol=1e-6, atol=1e-8)
