import pickle
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.utils.estimator_checks import parametrize_with_checks

from skqprobe import QProbePolicy, QProbeRegressor
from skqprobe._candidates.layout import check_layout
from skqprobe._objectives.network import NetworkObjective, network_scores
from skqprobe._solvers import adam, minimize_adam
from skqprobe._solvers.adam import PATIENCE, Network, Scaling
from skqprobe.losses import LOSSES, BaseLoss, LogLoss, PolicyGradient

torch = pytest.importorskip("torch", reason="torch is not installed")

WITH_INTERCEPT = ["squared_error", "log_loss"]
CHOICE_LOSSES = [name for name in LOSSES if name not in WITH_INTERCEPT]
CASES = [
    *((QProbeRegressor, loss) for loss in WITH_INTERCEPT),
    *((QProbePolicy, loss) for loss in LOSSES),
]
every = pytest.mark.parametrize(("Probe", "loss"), CASES)
both = pytest.mark.parametrize("Probe", [QProbeRegressor, QProbePolicy])


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """These networks are too small for threads, which fight where cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def short(Probe, loss="log_loss", **params):
    """A probe after a few epochs: far from done, and so easily told from others."""
    settings = {"hidden_layer_sizes": (8, 4), "max_iter": 5, "random_state": 1}
    return Probe(loss, **settings | params)


pytestmark = pytest.mark.filterwarnings("ignore:The network did not converge")


def values(probe, X):
    """A number a candidate: Q of a policy, the expected reward of a regressor."""
    return getattr(probe, "decision_function", probe.predict)(X)


def parameters(probe):
    return [*probe.coefs_, *probe.intercepts_]


def assert_same_bits(probe, other):
    assert probe.coefs_[-1].any()  # not the start, where all scores are equal
    for one, two in zip(parameters(probe), parameters(other), strict=True):
        assert one.dtype == two.dtype
        assert_array_equal(one, two)
    assert probe.n_iter_ == other.n_iter_


def differ(probe, other):
    pairs = zip(parameters(probe), parameters(other), strict=True)
    return any(not np.array_equal(one, two) for one, two in pairs)


def make_objective(X, y, groups=None, loss="log_loss", *, hidden=(8, 4), **settings):
    layout = check_layout(y.shape, groups)
    defaults = {
        "alpha": 0.01,
        "fit_intercept": True,
        "prompt_weight": np.ones(layout.n_prompts),
    }
    return NetworkObjective(
        X.reshape(-1, X.shape[-1]),
        layout,
        layout.to_prompt_order(y),
        LOSSES[loss](),
        hidden_layer_sizes=hidden,
        **defaults | settings,
    )


def random_theta(objective, seed=0):
    return np.random.RandomState(seed).normal(size=objective.n_parameters)


# The bridge from torch to the losses


def test_gradient_is_that_of_autograd(rows):
    # The policy gradient once more, in torch and prompt by prompt.
    X, y, groups = rows
    prompt_weight = np.random.default_rng(1).uniform(1, 3, size=40)
    objective = make_objective(
        X, y, groups, "policy_gradient", prompt_weight=prompt_weight
    )
    every = np.arange(40)
    theta = random_theta(objective)
    network = Network(objective, theta, every, np.random.RandomState(0))
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

    network.step(every, 1)
    for mine, expected in zip(network.weights, weights, strict=True):
        assert_allclose(mine.grad, expected.grad, rtol=1e-9, atol=1e-12)
        assert abs(mine.grad).max() > 1e-6
    for mine, expected in zip(network.biases[:-1], biases[:-1], strict=True):
        assert_allclose(mine.grad, expected.grad, rtol=1e-9, atol=1e-12)
    # The score's own bias cannot be seen, and is not touched.
    assert network.biases[-1].grad is None
    assert abs(biases[-1].grad).max() < 1e-12


def test_batches_add_up_to_the_mean_over_prompts(rows):
    # Of prompts of 1 to 9 candidates: a large one counts no more than others.
    X, y, groups = rows
    objective = make_objective(X, y, groups, "squared_error")
    prompts = np.arange(40)

    def gradients(batches):
        total = 0.0
        for batch in batches:
            start = random_theta(objective)
            network = Network(objective, start, prompts, np.random.RandomState(0))
            network.step(batch, len(batches))
            grads = [p.grad.numpy().ravel() for p in network.weights + network.biases]
            total = total + np.concatenate(grads) / len(batches)
        return total

    batches = objective.batches(prompts[::-1], 30)
    assert len(batches) == -(-len(y) // 30)
    assert_array_equal(np.concatenate(batches), prompts[::-1])
    assert_allclose(gradients(batches), gradients([prompts]), rtol=1e-9, atol=1e-12)


def test_prompts_are_never_cut(rows):
    X, y, groups = rows
    objective = make_objective(X, y, groups)
    assert [len(batch) for batch in objective.batches(np.arange(40), 1)] == [1] * 40
    assert len(objective.batches(np.arange(40), 10**6)) == 1
    # At least so many, if there are so many prompts.
    assert 8 <= len(objective.batches(np.arange(40), 10**6, 10)) <= 10
    assert len(objective.batches(np.arange(3), 10**6, 10)) <= 3


@every
def test_every_loss_learns(sets, Probe, loss):
    X, y = sets
    probe = Probe(loss, hidden_layer_sizes=(16,), random_state=0).fit(X, y)
    test_X = np.random.default_rng(2).normal(size=(200, 6, 4))
    signal = test_X[..., 0] - 0.5 * test_X[..., 1]  # what the rewards follow
    chosen = np.take_along_axis(signal, probe.sample(test_X)[:, None], axis=1)
    best, chance = signal.max(axis=1).mean(), signal.mean()
    assert chosen.mean() > chance + 0.8 * (best - chance)


def test_a_loss_of_ones_own(sets):
    class Mine(BaseLoss):
        shift_invariant = True

        def value_and_gradient(self, scores, rewards, offsets, weight=None):
            assert scores.dtype == np.float64
            return PolicyGradient().value_and_gradient(scores, rewards, offsets, weight)

    X, y = sets
    X = X.astype(np.float32)
    mine = short(QProbePolicy, Mine()).fit(X, y)
    assert_same_bits(mine, short(QProbePolicy, "policy_gradient").fit(X, y))


# What hidden layers are for


@pytest.fixture(scope="module")
def in_context():
    """What is good depends on the prompt: half of them want the opposite.

    The first column is the same for all candidates of a prompt.
    """
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 8, 6))
    X[..., 0] = rng.choice([-1, 1], size=(500, 1))
    return X, (X[..., 0] * X[..., 1] > 0).astype(float)


@pytest.mark.parametrize("loss", ["log_loss", "policy_gradient", "pairwise_logistic"])
@pytest.mark.parametrize("sizes", [(256,), (64, 64)])
def test_learns_what_a_linear_probe_cannot(in_context, loss, sizes):
    X, y = in_context
    train, test = slice(250), slice(250, None)
    linear = QProbePolicy(loss).fit(X[train], y[train])
    assert linear.score(X[test], y[test]) < 0.65
    policy = clone(linear).set_params(hidden_layer_sizes=sizes, random_state=0)
    assert policy.fit(X[train], y[train]).score(X[test], y[test]) > 0.95


def test_regression_of_what_a_linear_probe_cannot(in_context):
    X, _ = in_context
    y = X[..., 0] * X[..., 1]
    train, test = slice(250), slice(250, None)
    linear = QProbeRegressor().fit(X[train], y[train])
    assert linear.score(X[test], y[test]) < 0.1
    model = QProbeRegressor(hidden_layer_sizes=(64,), alpha=1e-3, random_state=0)
    assert model.fit(X[train], y[train]).score(X[test], y[test]) > 0.9


# What is fitted


def test_fitted_attributes(sets):
    X, y = sets
    policy = short(QProbePolicy).fit(X, y)
    assert [coef.shape for coef in policy.coefs_] == [(4, 8), (8, 4), (4, 1)]
    assert [bias.shape for bias in policy.intercepts_] == [(8,), (4,), (1,)]
    assert policy.n_iter_ == 5
    assert policy.n_features_in_ == 4
    assert policy.n_skipped_prompts_ == 0
    hidden = np.maximum(X @ policy.coefs_[0] + policy.intercepts_[0], 0)
    hidden = np.maximum(hidden @ policy.coefs_[1] + policy.intercepts_[1], 0)
    q = (hidden @ policy.coefs_[2] + policy.intercepts_[2])[..., 0]
    assert_allclose(policy.decision_function(X), q, rtol=1e-12)
    assert_array_equal(policy.predict(X), q.argmax(axis=1))
    # Nothing of torch is left.
    types = {type(part) for part in parameters(policy)}
    assert types == {np.ndarray}


@both
def test_no_attribute_is_left_of_a_fit_of_the_other_kind(sets, Probe):
    X, y = sets
    linear, network = Probe("log_loss").fit(X, y), short(Probe).fit(X, y)
    probe = Probe("log_loss").fit(X, y)
    probe.set_params(**network.get_params()).fit(X, y)
    assert vars(probe).keys() == vars(network).keys()
    assert_same_bits(probe, network)
    assert not hasattr(probe, "coef_")
    probe.set_params(**linear.get_params()).fit(X, y)
    assert vars(probe).keys() == vars(linear).keys()
    assert_array_equal(values(probe, X), values(linear, X))


@every
def test_intercept_of_the_score(sets, Probe, loss):
    X, y = sets
    probe = short(Probe, loss).fit(X, y)
    assert probe.coefs_[-1].any()
    assert (probe.intercepts_[-1] != 0) == (loss in WITH_INTERCEPT)
    without = short(Probe, loss, fit_intercept=False).fit(X, y)
    assert without.coefs_[-1].any()
    assert without.intercepts_[-1] == 0


@both
@pytest.mark.parametrize("sizes", [[8, 4], np.array([8, 4]), (np.int64(8), 4)])
def test_sizes_in_any_container(sets, Probe, sizes):
    probe = short(Probe, hidden_layer_sizes=sizes).fit(*sets)
    assert_same_bits(probe, short(Probe).fit(*sets))


def test_scores_come_in_blocks(monkeypatch, rng):
    X = rng.normal(size=(50, 3))
    coefs = [rng.normal(size=shape) for shape in [(3, 20), (20, 1)]]
    intercepts = [rng.normal(size=20), rng.normal(size=1)]
    whole = network_scores(X, coefs, intercepts)
    monkeypatch.setattr("skqprobe._objectives.network.BLOCK_BYTES", 7 * 20 * 8)
    assert_allclose(network_scores(X, coefs, intercepts), whole, rtol=1e-12)


def test_nothing_to_learn_from(sets):
    X, y = sets
    with pytest.warns(UserWarning, match="No prompt is informative"):
        policy = short(QProbePolicy, "policy_gradient").fit(X[:, :1], y[:, :1])
    assert not any(part.any() for part in parameters(policy))
    assert_allclose(policy.predict_proba(X), 1 / 6)
    # Zeros are no start for the next fit: it is a cold one.
    policy.set_params(warm_start=True).fit(X, y)
    assert_same_bits(policy, short(QProbePolicy, "policy_gradient").fit(X, y))


# Chance


@every
def test_random_state_determines_the_fit(sets, Probe, loss):
    X, y = sets
    before = torch.get_rng_state()
    probe = short(Probe, loss).fit(X, y)
    assert_same_bits(probe, short(Probe, loss).fit(X, y))
    seeded = np.random.RandomState(1)
    assert_same_bits(probe, short(Probe, loss, random_state=seeded).fit(X, y))
    assert differ(probe, short(Probe, loss, random_state=2).fit(X, y))
    assert torch.equal(torch.get_rng_state(), before)


# Layouts and weights


@every
def test_layouts_agree_to_the_bit(sets, Probe, loss):
    X, y = sets
    probe = short(Probe, loss).fit(X, y)
    groups = np.repeat(np.arange(60), 6)
    by_rows = short(Probe, loss).fit(X.reshape(-1, 4), y.ravel(), groups)
    assert_same_bits(by_rows, probe)
    # Interleaved, with prompts and candidates first seen in the same order.
    mixed = np.arange(360).reshape(60, 6).T.ravel()
    interleaved = short(Probe, loss).fit(
        X.reshape(-1, 4)[mixed], y.ravel()[mixed], groups[mixed]
    )
    assert_same_bits(interleaved, probe)


@every
def test_order_of_candidates_changes_rounding_only(sets, Probe, loss):
    # The order of prompts, though, decides which of them are held out.
    X, y = sets
    inside = np.random.default_rng(1).permuted(np.tile(np.arange(6), (60, 1)), axis=1)
    X_new = np.take_along_axis(X, inside[..., None], axis=1)
    y_new = np.take_along_axis(y, inside, axis=1)
    probe, other = short(Probe, loss).fit(X, y), short(Probe, loss).fit(X_new, y_new)
    assert_allclose(values(probe, X), values(other, X), rtol=1e-7, atol=1e-9)


@every
def test_weight_zero_is_not_there(sets, rows, Probe, loss):
    # Where prompts lie one after another. Elsewhere, taking away the first row of a
    # prompt may change the order of prompts.
    rng = np.random.default_rng(1)
    X, y, groups = rows
    groups = np.sort(groups)
    weight = rng.integers(0, 2, size=len(y))
    left = weight > 0
    one = short(Probe, loss).fit(X, y, groups, sample_weight=weight)
    other = short(Probe, loss).fit(X[left], y[left], groups[left])
    assert_allclose(values(one, X), values(other, X), rtol=1e-9, atol=1e-12)
    X, y = sets
    weight = rng.integers(0, 2, size=60)
    left = weight > 0
    one = short(Probe, loss).fit(X, y, sample_weight=weight)
    other = short(Probe, loss).fit(X[left], y[left])
    assert_allclose(values(one, X), values(other, X), rtol=1e-9, atol=1e-12)
    assert differ(one, short(Probe, loss).fit(X, y))


@every
def test_weights_are_copies_where_all_is_one_batch(sets, Probe, loss, monkeypatch):
    # Of more prompts, copies are dealt into batches, and held out, one by one: then
    # a weight is as many copies on average only.
    X, y = sets
    X, y = X[:4], y[:4]
    monkeypatch.setattr(adam, "N_STEPS", 1)
    probe = short(Probe, loss, max_iter=20)
    weight = [1, 3, 1, 2]
    one = clone(probe).fit(X, y, sample_weight=weight)
    other = clone(probe).fit(np.repeat(X, weight, axis=0), np.repeat(y, weight, axis=0))
    assert_allclose(values(one, X), values(other, X), rtol=1e-6, atol=1e-8)
    plain = clone(probe).fit(X, y)
    assert abs(values(one, X) - values(plain, X)).max() > 1e-4

    weight = np.random.default_rng(1).integers(1, 4, size=y.shape)
    one = clone(probe).fit(X, y, sample_weight=weight)
    rows = X.reshape(-1, 4), y.ravel(), np.repeat(np.arange(4), 6)
    other = clone(probe).fit(
        *(np.repeat(part, weight.ravel(), axis=0) for part in rows)
    )
    assert_allclose(values(one, X), values(other, X), rtol=1e-6, atol=1e-8)
    assert abs(values(one, X) - values(plain, X)).max() > 1e-4


@pytest.mark.parametrize("loss", ["pairwise_logistic", "pairwise_hinge"])
def test_skipped_prompts_are_not_there(sets, loss):
    X, y = sets
    y[:7] = 1
    policy = short(QProbePolicy, loss).fit(X, y)
    assert policy.n_skipped_prompts_ >= 7
    informative = y.min(axis=1) < y.max(axis=1)
    others = short(QProbePolicy, loss).fit(X[informative], y[informative])
    assert_same_bits(policy, others)


def test_rows_without_groups(rows):
    X, y, _ = rows
    model = QProbeRegressor(hidden_layer_sizes=(16,), random_state=0).fit(X, y)
    assert model.predict(X).shape == y.shape
    assert model.score(X, y) > 0.2


# Scales and types


@every
def test_scale_of_features_does_not_matter(sets, Probe, loss):
    X, y = sets
    scale, shift = np.array([1e-3, 1, 1e4, 30]), np.array([0.1, -5, 1e5, 0])
    one = short(Probe, loss).fit(X, y)
    other = short(Probe, loss).fit(X * scale + shift, y)
    assert_allclose(
        values(other, X * scale + shift), values(one, X), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("factor", [1e-6, 1e5])
def test_scale_of_rewards_does_not_matter_to_least_squares(sets, factor):
    X, y = sets
    one, other = (
        short(QProbeRegressor, "squared_error").fit(X, target)
        for target in (y, factor * (y + 7))
    )
    assert_allclose(other.predict(X), factor * (one.predict(X) + 7), rtol=1e-7)
    one, other = (
        short(QProbePolicy, "contrastive_policy_gradient").fit(X, target)
        for target in (y, factor * (y + 7))
    )
    expected = factor * one.decision_function(X)
    assert_allclose(other.decision_function(X), expected, atol=1e-7 * factor)


def test_constant_columns_have_no_weight(sets):
    X, y = sets
    constant = np.full((60, 6, 2), [0.1, 1e6])
    X = np.concatenate([X, constant, np.zeros((60, 6, 1))], axis=2).astype(np.float32)
    policy = short(QProbePolicy, max_iter=3).fit(X, y)
    assert (policy.coefs_[0][4:] == 0).all()
    assert (policy.coefs_[0][:4] != 0).any()
    # Not even in a warm start.
    policy.set_params(warm_start=True).fit(X, y)
    assert (policy.coefs_[0][4:] == 0).all()


@both
def test_float32_stays_float32(sets, Probe):
    X, y = sets
    single, double = short(Probe).fit(X.astype(np.float32), y), short(Probe).fit(X, y)
    assert {part.dtype for part in parameters(single)} == {np.dtype(np.float32)}
    assert {part.dtype for part in parameters(double)} == {np.dtype(np.float64)}
    assert values(single, X.astype(np.float32)).dtype == np.float32
    assert values(double, X).dtype == np.float64
    assert_allclose(values(single, X), values(double, X), rtol=1e-2, atol=1e-3)


@both
def test_float16_and_memory_maps(sets, Probe, tmp_path):
    X, y = sets
    X = X.astype(np.float16)
    single = short(Probe).fit(X.astype(np.float32), y)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    half = short(Probe).fit(mapped, y)
    assert_same_bits(half, single)
    assert values(half, mapped).dtype == np.float32
    assert_allclose(values(half, mapped), values(single, X.astype(np.float32)))


def test_change_of_variables_and_back(sets):
    X, y = sets
    X = X * [1e-2, 1, 30, 1] + [5, 0, 100, 1]
    objective = make_objective(X, 50 * y + 8, loss="squared_error")
    every = np.arange(60)
    scaling = Scaling(objective, every)
    theta = random_theta(objective)
    there = scaling.to_network(*objective.split(theta))
    back = objective.join(*scaling.from_network(*there))
    assert_allclose(back, theta, rtol=1e-9, atol=1e-9)
    # The network gives the scores of these parameters, and their mean loss.
    network = Network(objective, theta, every, np.random.RandomState(0))
    assert_allclose(network.theta(), theta, rtol=1e-9, atol=1e-9)
    scores = network_scores(X.reshape(-1, 4), *objective.split(theta))
    expected = ((scores.reshape(60, 6) - (50 * y + 8)) ** 2).mean()
    assert network.mean_loss(every) == pytest.approx(expected)
    # The penalty is in the same unit: of rewards 50 times as large, 2500 times it.
    squares = sum((weight**2).sum() for weight in there[0])
    assert network.penalty() == pytest.approx(0.01 / 2 * squares * (50 * y).var())


# The end of the training


def held_out_loss(objective, theta, held_out):
    scores = network_scores(objective.X, *objective.split(theta))
    k = objective.layout.sizes[0]
    rows = (held_out[:, None] * k + np.arange(k)).ravel()
    offsets = np.arange(len(held_out) + 1) * k
    loss = objective.loss.value_and_gradient
    return loss(scores[rows], objective.rewards[rows], offsets)[0].mean()


def test_early_stopping_keeps_the_best_of_the_held_out_prompts(rng):
    # Noise, which a network learns by heart: the held-out loss turns up.
    X, y = rng.normal(size=(60, 6, 20)), rng.integers(0, 2, size=(60, 6)) * 1.0
    y[..., 0] = X[..., 0, 0] > 0
    objective = make_objective(X, y, hidden=(64,), alpha=0)
    train, held_out = objective.deal(np.random.RandomState(0))
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
    best = min(history)
    assert np.argmin(history) < n_iter - 1
    assert history[-1] > best
    assert best < np.log(2)  # that of equal scores, at the start
    assert held_out_loss(objective, theta, held_out) == pytest.approx(best)
    # What a callback is told of is the best until then.
    for epoch in (0, 3, n_iter - 1):
        value = held_out_loss(objective, seen[epoch][0], held_out)
        assert value == pytest.approx(min(np.log(2), *history[: epoch + 1]))
    # Without progress for as long as that, but not longer.
    assert min(history[:-PATIENCE]) - min(history) <= 1e-4 * (np.log(2) - best)
    assert np.intersect1d(train, held_out).size == 0


def test_a_tenth_of_the_prompts_is_held_out(sets):
    X, y = sets
    for n, expected in [(1, 0), (9, 0), (10, 1), (19, 1), (20, 2), (60, 6)]:
        objective = make_objective(X[:n], y[:n])
        train, held_out = objective.deal(np.random.RandomState(0))
        assert len(held_out) == expected
        assert_array_equal(np.sort(np.append(train, held_out)), np.arange(n))


def test_sets_of_one_prompt_are_held_out_together(sets):
    X, y = sets
    origin = np.repeat(np.arange(20), 3)
    objective = make_objective(X, y, origin=origin)
    train, held_out = objective.deal(np.random.RandomState(0))
    assert len(held_out) == 6
    assert np.intersect1d(origin[train], origin[held_out]).size == 0


def test_n_candidates(sets, monkeypatch):
    X, y = sets
    dealt = []
    deal = NetworkObjective.deal

    def spy(self, random_state):
        dealt.append((self.origin, self.layout.sizes))
        return deal(self, random_state)

    monkeypatch.setattr(NetworkObjective, "deal", spy)
    policy = short(QProbePolicy, n_candidates=2).fit(X, y)
    ((origin, sizes),) = dealt
    assert_array_equal(origin, np.repeat(np.arange(60), 3))
    assert_array_equal(sizes, 2)
    assert_same_bits(policy, short(QProbePolicy, n_candidates=2).fit(X, y))
    assert differ(policy, short(QProbePolicy).fit(X, y))


def test_few_prompts_are_all_learnt(sets):
    # Random rewards of 9 prompts: were some held out, theirs would not be found.
    X = sets[0][:9]
    y = np.random.default_rng(1).random(size=(9, 6))
    model = QProbeRegressor(hidden_layer_sizes=(256,), alpha=0, random_state=0)
    assert model.fit(X, y).score(X, y) > 0.99


def test_the_penalty_shrinks_the_weights(sets):
    def size(alpha):
        probe = QProbePolicy("log_loss", alpha=alpha, hidden_layer_sizes=(16,))
        probe.set_params(max_iter=200, random_state=0).fit(X[:9], y[:9])
        return sum((coef**2).sum() for coef in probe.coefs_)

    X, y = sets
    assert size(0) > 2 * size(0.1)


@pytest.mark.filterwarnings("default:The network did not converge")
@both
def test_too_few_epochs(sets, Probe):
    with pytest.warns(ConvergenceWarning, match=r"max_iter.*Increase") as caught:
        probe = short(Probe, max_iter=2).fit(*sets)
    assert probe.n_iter_ == 2
    assert caught[0].filename == __file__


def test_warm_start_goes_on_where_the_last_fit_ended(sets, monkeypatch):
    X, y = sets
    X = X * 20 + 3
    policy = short(QProbePolicy, warm_start=True).fit(X, y)
    before = policy.decision_function(X)
    # A step of no length shows where a fit begins.
    monkeypatch.setattr(adam, "LEARNING_RATE", 0.0)
    assert_allclose(policy.fit(X, y).decision_function(X), before, rtol=1e-9)
    cold = clone(policy).set_params(warm_start=False).fit(X, y)
    assert_allclose(cold.decision_function(X), 0, atol=1e-12)
    # Other layers begin anew.
    policy.set_params(hidden_layer_sizes=(8,)).fit(X, y)
    assert [coef.shape for coef in policy.coefs_] == [(4, 8), (8, 1)]
    assert_allclose(policy.decision_function(X), 0, atol=1e-12)
    with pytest.raises(ValueError, match="X has 3 features, but the last fit had 4"):
        policy.fit(X[..., :3], y)


def test_interrupted_fit_changes_nothing(sets, monkeypatch):
    X, y = sets
    policy = short(QProbePolicy).fit(X, y)
    before = dict(vars(policy))
    original, calls = LogLoss.value_and_gradient, []

    def interrupt(self, *args):
        calls.append(args)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(LogLoss, "value_and_gradient", interrupt)
    with pytest.raises(KeyboardInterrupt):
        policy.fit(X[:, :3, :3], y[:, :3])
    assert vars(policy) == before


# In company


def test_predicts_without_torch(sets, tmp_path):
    X, y = sets
    policy = short(QProbePolicy).fit(X, y)
    (tmp_path / "policy.pkl").write_bytes(pickle.dumps(policy))
    np.savez(tmp_path / "data.npz", X=X, Q=policy.decision_function(X))
    code = (
        "import pickle, sys; import numpy as np\n"
        "class NoTorch:\n"
        "    def find_spec(name, path, target=None):\n"
        "        assert name.partition('.')[0] != 'torch'\n"
        "sys.meta_path.insert(0, NoTorch)\n"
        "policy = pickle.load(open('policy.pkl', 'rb')); data = np.load('data.npz');"
        "Q = policy.decision_function(data['X']); policy.sample(data['X'], size=2);"
        "np.testing.assert_allclose(Q, data['Q'], rtol=1e-12)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_importing_and_linear_probes_leave_torch_alone():
    code = (
        "import sys, numpy as np; from skqprobe import QProbePolicy;"
        "rng = np.random.default_rng(0);"
        "X, y = rng.normal(size=(20, 4, 3)), rng.random((20, 4));"
        "QProbePolicy().fit(X, y).predict(X); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_in_a_search(sets, rows):
    X, y = sets
    policy = short(QProbePolicy, max_iter=60)
    grid = {"hidden_layer_sizes": [(), (16,)], "alpha": [1e-2, 1]}
    search = GridSearchCV(policy, grid, cv=3).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_score_ > y.mean() + 0.1
    X, y, groups = rows
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(policy, grid, cv=GroupKFold(3))
        search.fit(X, y, groups=groups)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@both
def test_callbacks(sets, Probe):
    callback = pytest.importorskip("sklearn.callback", reason="scikit-learn < 1.9")
    monitor = callback.ScoringMonitor(scoring={"score": check_scoring(Probe())})
    probe = short(Probe).set_callbacks(monitor).fit(*sets)
    log = monitor.get_logs().data
    whole = [entry["score"] for entry in log if entry["task_name"] == "fit"]
    steps = [entry["score"] for entry in log if entry["task_name"] == "iteration"]
    assert len(steps) == probe.n_iter_
    assert whole == [steps[-1]] == [pytest.approx(probe.score(*sets))]
    assert_same_bits(probe, short(Probe).fit(*sets))


def test_a_callback_can_stop_the_fit(sets):
    pytest.importorskip("sklearn.callback", reason="scikit-learn < 1.9")

    class Stopper:
        def setup(self, estimator, context): ...
        def teardown(self, estimator, context): ...
        def on_fit_task_begin(self, estimator, context): ...
        def on_fit_task_end(self, estimator, context):
            return context.task_name == "iteration" and context.task_id == 1

    assert short(QProbePolicy).set_callbacks(Stopper()).fit(*sets).n_iter_ == 2


def test_verbose(sets, capsys):
    policy = short(QProbePolicy, verbose=1).fit(*sets)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == policy.n_iter_
    assert all(line.startswith("[QProbePolicy] held-out loss 0.") for line in lines)
    assert_same_bits(policy, short(QProbePolicy).fit(*sets))


NOT_EXACT = {
    "check_sample_weight_equivalence_on_dense_data": "weights are copies on average "
    "only: copies are dealt into batches, and held out, one by one"
}


@pytest.mark.filterwarnings("ignore")  # the checks make bad input on purpose
@parametrize_with_checks(
    [
        QProbeRegressor(hidden_layer_sizes=(16,), max_iter=60),
        QProbePolicy(hidden_layer_sizes=(8,), max_iter=20),
    ],
    # Rows without groups leave a policy with no weights to get wrong.
    expected_failed_checks=lambda estimator: (
        NOT_EXACT if isinstance(estimator, QProbeRegressor) else {}
    ),
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@every
def test_cuda_agrees_with_the_cpu(sets, monkeypatch, Probe, loss):
    X, y = sets
    there = short(Probe, loss).fit(X, y)
    assert_same_bits(there, short(Probe, loss).fit(X, y))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    here = short(Probe, loss).fit(X, y)
    assert_allclose(values(there, X), values(here, X), rtol=1e-6, atol=1e-8)


def test_the_start_is_not_kept_where_nothing_beats_it(rng):
    """All scores would be equal, and the choice a random one, without a word of it."""
    X, y = rng.normal(size=(40, 5, 8)), rng.normal(size=(40, 5))  # nothing to learn
    policy = QProbePolicy("squared_error", hidden_layer_sizes=(64,), random_state=0)
    assert np.ptp(policy.fit(X, y).decision_function(X)) > 0.01
