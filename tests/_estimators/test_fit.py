"""Fits with hidden layers; tests/test_common.py tests those of linear probes."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from cases import (
    PAIRWISE,
    WITH_INTERCEPT,
    as_rows,
    every_probe,
    every_probe_and_loss,
    values_of,
)
from estimators import assert_refused
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

from skqprobe import QProbePolicy, QProbeRegressor
from skqprobe._objectives.network import NetworkObjective
from skqprobe._solvers import adam
from skqprobe.losses import BaseLoss, LogLoss, PolicyGradient

torch = pytest.importorskip("torch", reason="torch is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:The network did not converge")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """These networks are too small for threads, which wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def short(Probe, loss="log_loss", **params):
    """Make a probe of a few epochs: far from converged, so that fits differ clearly."""
    settings = {"hidden_layer_sizes": (8, 4), "max_iter": 5, "random_state": 1}
    return Probe(loss, **settings | params)


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


# Learning


@pytest.mark.slow
@pytest.mark.parametrize(
    ("probe", "low", "high"),
    [
        (QProbePolicy("log_loss"), 0.65, 0.95),
        (QProbePolicy("policy_gradient"), 0.65, 0.95),
        (QProbePolicy("pairwise_logistic"), 0.65, 0.95),
        (QProbeRegressor(alpha=1e-3), 0.1, 0.9),
    ],
    ids=str,
)
@pytest.mark.parametrize("sizes", [(256,), (64, 64)])
def test_learns_more_than_a_linear_probe_can(probe, low, high, sizes):
    """The first column is constant in a prompt, and changes the sign of the reward."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 8, 6))
    X[..., 0] = rng.choice([-1, 1], size=(500, 1))
    y = X[..., 0] * X[..., 1]
    y = y if isinstance(probe, QProbeRegressor) else (y > 0).astype(float)
    train, test = slice(250), slice(250, None)
    linear = clone(probe).fit(X[train], y[train])
    assert linear.score(X[test], y[test]) < low
    network = clone(probe).set_params(hidden_layer_sizes=sizes, random_state=0)
    assert network.fit(X[train], y[train]).score(X[test], y[test]) > high


@pytest.mark.slow
def test_the_penalty_shrinks_the_weights(sets):
    X, y = (array[:9] for array in sets)
    settings = {"hidden_layer_sizes": (16,), "max_iter": 200, "random_state": 0}
    free, shrunk = (
        QProbePolicy("log_loss", alpha=alpha, **settings).fit(X, y).coefs_
        for alpha in (0, 0.1)
    )
    assert sum((c**2).sum() for c in free) > 2 * sum((c**2).sum() for c in shrunk)


def test_loss_of_the_user(sets):
    class Mine(BaseLoss):
        shift_invariant = True

        def value_and_gradient(self, scores, rewards, offsets, weight=None):
            assert scores.dtype == np.float64
            return PolicyGradient().value_and_gradient(scores, rewards, offsets, weight)

    X, y = sets[0].astype(np.float32), sets[1]
    mine = short(QProbePolicy, Mine()).fit(X, y)
    assert_same_bits(mine, short(QProbePolicy, "policy_gradient").fit(X, y))


def test_nothing_to_learn(sets):
    X, y = sets
    with pytest.warns(UserWarning, match="No prompt is informative"):
        policy = short(QProbePolicy, "policy_gradient").fit(X[:, :1], y[:, :1])
    assert not any(part.any() for part in parameters(policy))
    assert_allclose(policy.predict_proba(X), 1 / 6)
    # A warm start from zeros is a cold start.
    policy.set_params(warm_start=True).fit(X, y)
    assert_same_bits(policy, short(QProbePolicy, "policy_gradient").fit(X, y))


# Fitted attributes


def test_fitted_attributes(sets):
    X, y = sets
    policy = short(QProbePolicy).fit(X, y)
    assert [coef.shape for coef in policy.coefs_] == [(4, 8), (8, 4), (4, 1)]
    assert [bias.shape for bias in policy.intercepts_] == [(8,), (4,), (1,)]
    assert {type(part) for part in parameters(policy)} == {np.ndarray}  # no tensors
    found = policy.n_iter_, policy.n_features_in_, policy.n_skipped_prompts_
    assert found == (5, 4, 0)
    hidden = np.maximum(X @ policy.coefs_[0] + policy.intercepts_[0], 0)
    hidden = np.maximum(hidden @ policy.coefs_[1] + policy.intercepts_[1], 0)
    q = (hidden @ policy.coefs_[2] + policy.intercepts_[2])[..., 0]
    assert_allclose(policy.decision_function(X), q, rtol=1e-12)
    assert_array_equal(policy.predict(X), q.argmax(axis=1))


@every_probe
def test_attributes_of_a_fit_of_the_other_kind_are_removed(sets, Probe):
    X, y = sets
    linear, network = Probe("log_loss").fit(X, y), short(Probe).fit(X, y)
    probe = clone(linear).fit(X, y)
    for other in (network, linear):
        probe.set_params(**other.get_params()).fit(X, y)
        assert vars(probe).keys() == vars(other).keys()
        assert_array_equal(values_of(probe, X), values_of(other, X))


@every_probe_and_loss
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_intercept_of_the_score(sets, Probe, loss, fit_intercept):
    probe = short(Probe, loss, fit_intercept=fit_intercept).fit(*sets)
    assert probe.coefs_[-1].any()
    has_intercept = fit_intercept and loss in WITH_INTERCEPT
    assert (probe.intercepts_[-1] != 0) == has_intercept


@every_probe
@pytest.mark.parametrize("sizes", [[8, 4], np.array([8, 4]), (np.int64(8), 4)])
def test_containers_of_hidden_layer_sizes(sets, Probe, sizes):
    probe = short(Probe, hidden_layer_sizes=sizes).fit(*sets)
    assert_same_bits(probe, short(Probe).fit(*sets))


# Random numbers, layouts and weights


def test_random_state_of_torch_is_not_used(sets):
    before = torch.get_rng_state()
    policy = short(QProbePolicy).fit(*sets)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(0)
    assert_same_bits(policy, short(QProbePolicy).fit(*sets))


@every_probe_and_loss
def test_layouts_agree_to_the_bit(sets, Probe, loss):
    probe, rows = short(Probe, loss).fit(*sets), as_rows(*sets)
    assert_same_bits(short(Probe, loss).fit(*rows), probe)
    # Interleaved, with the prompts and candidates in the same order.
    mixed = np.arange(360).reshape(60, 6).T.ravel()
    interleaved = short(Probe, loss).fit(*(array[mixed] for array in rows))
    assert_same_bits(interleaved, probe)


@every_probe_and_loss
def test_order_of_candidates_changes_rounding_only(sets, Probe, loss):
    """The order of prompts, in contrast, determines which ones are held out."""
    X, y = sets
    order = np.random.default_rng(1).permuted(np.tile(np.arange(6), (60, 1)), axis=1)
    X_new = np.take_along_axis(X, order[..., None], axis=1)
    y_new = np.take_along_axis(y, order, axis=1)
    probe, other = short(Probe, loss).fit(X, y), short(Probe, loss).fit(X_new, y_new)
    assert_allclose(values_of(probe, X), values_of(other, X), rtol=1e-7, atol=1e-9)


@every_probe_and_loss
def test_weight_zero_leaves_out(data, Probe, loss):
    """A candidate of contiguous rows, or a prompt of sets."""
    X, y, groups = data
    # Elsewhere, leaving out the first row of a prompt may change the order of prompts.
    groups = None if groups is None else np.sort(groups)
    weight = np.random.default_rng(1).integers(0, 2, size=len(y))
    kept = weight > 0
    one = short(Probe, loss).fit(X, y, groups, sample_weight=weight)
    kept_groups = None if groups is None else groups[kept]
    other = short(Probe, loss).fit(X[kept], y[kept], kept_groups)
    assert_allclose(values_of(one, X), values_of(other, X), rtol=1e-9, atol=1e-12)
    assert differ(one, short(Probe, loss).fit(X, y, groups))


@every_probe_and_loss
def test_weights_are_copies_in_a_single_batch(sets, Probe, loss, monkeypatch):
    """With more batches, only in expectation: batches and held-out prompts differ."""
    X, y = sets[0][:4], sets[1][:4]
    monkeypatch.setattr(adam, "N_STEPS", 1)
    probe = short(Probe, loss, max_iter=20)
    plain = clone(probe).fit(X, y)
    of_prompts = np.array([1, 3, 1, 2])
    of_candidates = np.random.default_rng(1).integers(1, 4, size=y.shape)
    for weight, arrays in [(of_prompts, (X, y)), (of_candidates, as_rows(X, y))]:
        copies = (np.repeat(array, weight.ravel(), axis=0) for array in arrays)
        one = clone(probe).fit(X, y, sample_weight=weight)
        other = clone(probe).fit(*copies)
        assert_allclose(values_of(one, X), values_of(other, X), rtol=1e-6, atol=1e-8)
        assert abs(values_of(one, X) - values_of(plain, X)).max() > 1e-4


@pytest.mark.parametrize("loss", PAIRWISE)
def test_skipped_prompts_change_nothing(sets, loss):
    X, y = sets
    y[:7] = 1
    policy = short(QProbePolicy, loss).fit(X, y)
    assert policy.n_skipped_prompts_ >= 7
    informative = y.min(axis=1) < y.max(axis=1)
    others = short(QProbePolicy, loss).fit(X[informative], y[informative])
    assert_same_bits(policy, others)


def test_n_candidates(sets, monkeypatch):
    objectives = []
    deal = NetworkObjective.hold_out

    def spy(self, random_state):
        objectives.append(self)
        return deal(self, random_state)

    monkeypatch.setattr(NetworkObjective, "hold_out", spy)
    policy = short(QProbePolicy, n_candidates=2).fit(*sets)
    (objective,) = objectives
    assert_array_equal(objective.origin, np.repeat(np.arange(60), 3))
    assert_array_equal(objective.layout.sizes, 2)
    assert differ(policy, short(QProbePolicy).fit(*sets))


# Scales and dtypes


@every_probe_and_loss
def test_scale_of_features_does_not_matter(sets, Probe, loss):
    X, y = sets
    scaled = X * [1e-3, 1, 1e4, 30] + [0.1, -5, 1e5, 0]
    one, other = short(Probe, loss).fit(X, y), short(Probe, loss).fit(scaled, y)
    assert_allclose(values_of(other, scaled), values_of(one, X), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("factor", [1e-6, 1e5])
def test_scale_of_rewards_does_not_matter_to_least_squares(sets, factor):
    X, y = sets
    both = y, factor * (y + 7)
    one, other = (short(QProbeRegressor, "squared_error").fit(X, r) for r in both)
    assert_allclose(other.predict(X), factor * (one.predict(X) + 7), rtol=1e-7)
    loss = "contrastive_policy_gradient"
    one, other = (short(QProbePolicy, loss).fit(X, r) for r in both)
    expected = factor * one.decision_function(X)
    assert_allclose(other.decision_function(X), expected, atol=1e-7 * factor)


@pytest.mark.parametrize("warm_start", [False, True])
def test_constant_columns_have_no_weight(sets, warm_start):
    X, y = sets
    constant = np.full((60, 6, 2), [0.1, 1e6])
    X = np.concatenate([X, constant, np.zeros((60, 6, 1))], axis=2).astype(np.float32)
    policy = short(QProbePolicy, max_iter=3, warm_start=warm_start).fit(X, y)
    policy = policy.fit(X, y) if warm_start else policy
    assert (policy.coefs_[0][4:] == 0).all()
    assert (policy.coefs_[0][:4] != 0).any()


@every_probe
def test_float32_and_float64(sets, Probe):
    X, y = sets
    values = []
    for dtype in (np.float32, np.float64):
        probe = short(Probe).fit(X.astype(dtype), y)
        values.append(values_of(probe, X.astype(dtype)))
        found = {part.dtype for part in (*parameters(probe), values[-1])}
        assert found == {np.dtype(dtype)}
    assert_allclose(*values, rtol=1e-2, atol=1e-3)


@every_probe
def test_float16_and_memory_maps(sets, Probe, tmp_path):
    X, y = sets[0].astype(np.float16), sets[1]
    single = short(Probe).fit(X.astype(np.float32), y)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    half = short(Probe).fit(mapped, y)
    assert_same_bits(half, single)
    values = values_of(half, mapped)
    assert values.dtype == np.float32
    assert_allclose(values, values_of(single, X.astype(np.float32)))


# Interruptions, and the end of training


@pytest.mark.filterwarnings("default:The network did not converge")
@every_probe
def test_too_few_epochs(sets, Probe):
    with pytest.warns(ConvergenceWarning, match=r"max_iter.*Increase") as caught:
        probe = short(Probe, max_iter=2).fit(*sets)
    assert probe.n_iter_ == 2
    assert caught[0].filename == __file__


def test_warm_start_continues_the_last_fit(sets, monkeypatch):
    X, y = sets
    X = X * 20 + 3
    policy = short(QProbePolicy, warm_start=True).fit(X, y)
    before = policy.decision_function(X)
    # With steps of length 0, a fit returns its starting point.
    monkeypatch.setattr(adam, "LEARNING_RATE", 0.0)
    assert_allclose(policy.fit(X, y).decision_function(X), before, rtol=1e-9)
    cold = clone(policy).set_params(warm_start=False).fit(X, y)
    assert_allclose(cold.decision_function(X), 0, atol=1e-12)
    # Layers of other sizes start cold.
    policy.set_params(hidden_layer_sizes=(8,)).fit(X, y)
    assert [coef.shape for coef in policy.coefs_] == [(4, 8), (8, 1)]
    assert_allclose(policy.decision_function(X), 0, atol=1e-12)
    with pytest.raises(ValueError, match="X has 3 features, but the last fit had 4"):
        policy.fit(X[..., :3], y)


def test_interrupted_fit_changes_nothing(sets, monkeypatch):
    X, y = sets
    policy = short(QProbePolicy).fit(X, y)
    original, calls = LogLoss.value_and_gradient, []

    def interrupt(self, *args):
        calls.append(args)
        if len(calls) > 4:
            raise KeyboardInterrupt("stop")
        return original(self, *args)

    monkeypatch.setattr(LogLoss, "value_and_gradient", interrupt)
    other = X[:, :3, :3], y[:, :3]
    assert_refused(policy.fit, "stop", *other, error=KeyboardInterrupt)


# Other tools


@pytest.mark.slow
def test_only_the_fit_of_hidden_layers_needs_torch(sets, tmp_path):
    X, y = sets
    policy = short(QProbePolicy).fit(X, y)
    (tmp_path / "policy.pkl").write_bytes(pickle.dumps(policy))
    np.savez(tmp_path / "data.npz", X=X, y=y, Q=policy.decision_function(X))
    code = (
        "import pickle, sys; import numpy as np; from skqprobe import QProbePolicy\n"
        "class NoTorch:\n"
        "    def find_spec(name, path, target=None):\n"
        "        assert name.partition('.')[0] != 'torch'\n"
        "sys.meta_path.insert(0, NoTorch); assert 'torch' not in sys.modules\n"
        "data = np.load('data.npz'); X = data['X']\n"
        "QProbePolicy().fit(X, data['y']).predict(X)\n"
        "policy = pickle.load(open('policy.pkl', 'rb')); policy.sample(X, size=2)\n"
        "Q = policy.decision_function(X)\n"
        "np.testing.assert_allclose(Q, data['Q'], rtol=1e-12)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_verbose(sets, capsys):
    policy = short(QProbePolicy, verbose=1).fit(*sets)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == policy.n_iter_
    assert all(line.startswith("[QProbePolicy] held-out loss 0.") for line in lines)
    assert_same_bits(policy, short(QProbePolicy).fit(*sets))


NOT_EXACT = {
    "check_sample_weight_equivalence_on_dense_data": "weights are copies only in "
    "expectation: copies are split into batches and held out one by one"
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the checks use bad input
@parametrize_with_checks(
    [
        QProbeRegressor(hidden_layer_sizes=(16,), max_iter=60),
        QProbePolicy(hidden_layer_sizes=(8,), max_iter=20),
    ],
    # Without groups, all weights of a policy are 0 and cannot be wrong.
    expected_failed_checks=lambda estimator: (
        NOT_EXACT if isinstance(estimator, QProbeRegressor) else {}
    ),
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)
