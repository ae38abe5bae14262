"""The same seed gives the same choices, and the number of threads next to the same."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info, threadpool_limits

from skqprobe import (
    QProbePolicy,
    QProbePolicyCV,
    QProbeRegressor,
    sample_candidates,
)
from skqprobe.losses import LOSSES
from skqprobe.metrics import best_of_k_reward, prompt_bootstrap, soft_best_of_k_reward
from skqprobe.preprocessing import PerCandidate, SiblingFeatures

DATA = Path(__file__).parents[2] / "shared" / "data"

PROBES = [(QProbePolicy, loss) for loss in LOSSES]
PROBES += [(QProbeRegressor, loss) for loss in ("squared_error", "log_loss")]

NETWORK = {"hidden_layer_sizes": (8,), "max_iter": 3}
SETTINGS = {
    "linear": {},
    "sets of 3": {"n_candidates": 3},
    "network": NETWORK,
    "network on sets of 3": {**NETWORK, "n_candidates": 3},
}

pytestmark = pytest.mark.filterwarnings(
    "ignore:The network did not converge:sklearn.exceptions.ConvergenceWarning"
)


def need(settings):
    if "hidden_layer_sizes" in settings:
        pytest.importorskip("torch", reason="torch is not installed")


def parameters(probe):
    """All fitted numbers, side by side."""
    if hasattr(probe, "coefs_"):
        return np.concatenate([a.ravel() for a in (*probe.coefs_, *probe.intercepts_)])
    return np.append(probe.coef_, probe.intercept_)


def values_of(probe, X):
    is_regressor = isinstance(probe, QProbeRegressor)
    return probe.predict(X) if is_regressor else probe.decision_function(X)


# --- seeds


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("Probe, loss", PROBES)
def test_the_same_seed_gives_the_same_to_the_bit(sets, Probe, loss, settings):
    need(settings)
    X, y = sets

    def fit(random_state):
        probe = Probe(loss, temperature=0.3, random_state=random_state, **settings)
        return probe.fit(X, y)

    first, again = fit(7), fit(7)
    np.testing.assert_array_equal(parameters(again), parameters(first))
    np.testing.assert_array_equal(again.sample(X, size=3), first.sample(X, size=3))
    if not {"hidden_layer_sizes", "n_candidates"} <= set(settings):
        # With both, the second of the two draws would go on where the first ended.
        of_state = fit(np.random.RandomState(7))
        np.testing.assert_array_equal(parameters(of_state), parameters(first))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("loss", LOSSES)
def test_none_is_numpys_global_state(sets, loss, settings):
    need(settings)
    X, y = sets
    before = np.random.get_state()  # noqa: NPY002
    try:
        fits = []
        for _ in range(2):
            np.random.seed(3)  # noqa: NPY002
            fits.append(QProbePolicy(loss, **settings).fit(X, y))
        np.testing.assert_array_equal(*map(parameters, fits))
    finally:
        np.random.set_state(before)  # noqa: NPY002


@pytest.mark.parametrize("settings", [SETTINGS["sets of 3"], SETTINGS["network"]])
def test_other_seeds_give_something_else(sets, settings):
    need(settings)
    first, other = (
        QProbePolicy("policy_gradient", random_state=seed, **settings).fit(*sets)
        for seed in (0, 1)
    )
    assert np.abs(parameters(first) - parameters(other)).max() > 1e-6


@pytest.mark.parametrize("loss", LOSSES)
def test_a_linear_fit_draws_no_random_numbers(sets, loss):
    state = np.random.RandomState(0)
    before = state.get_state()[2]
    QProbePolicy(loss, random_state=state).fit(*sets)
    assert state.get_state()[2] == before


def test_a_random_state_goes_on_and_a_seed_starts_anew(sets):
    X, y = sets
    policy = QProbePolicy("log_loss", temperature=1.0).fit(X, y)
    state = np.random.RandomState(0)
    draws = [policy.sample(X, size=5, random_state=state) for _ in range(2)]
    assert (draws[0] != draws[1]).any()
    np.testing.assert_array_equal(policy.sample(X, size=5, random_state=0), draws[0])
    proba = policy.predict_proba(X)
    again = sample_candidates(proba, size=5, random_state=np.random.RandomState(0))
    np.testing.assert_array_equal(again, draws[0])


def test_a_generator_is_refused_as_by_scikit_learn(sets):
    X, y = sets
    generator = np.random.default_rng(0)
    for Probe in (QProbePolicy, QProbeRegressor, QProbePolicyCV):
        with pytest.raises(ValueError, match="'random_state' parameter of"):
            Probe(random_state=generator).fit(X, y)
    policy = QProbePolicy().fit(X, y)
    with pytest.raises(ValueError, match="cannot be used to seed"):
        policy.sample(X, random_state=generator)
    with pytest.raises(ValueError, match="cannot be used to seed"):
        sample_candidates(policy.predict_proba(X), random_state=generator)


def test_the_search_repeats_to_the_bit(sets):
    X, y = sets
    make = [QProbePolicyCV(list(LOSSES), cv=3, random_state=0) for _ in range(2)]
    first, again = (search.fit(X, y) for search in make)
    assert again.best_params_ == first.best_params_
    np.testing.assert_array_equal(
        again.cv_results_["mean_test_score"], first.cv_results_["mean_test_score"]
    )
    np.testing.assert_array_equal(parameters(again), parameters(first))


def test_metrics_and_features_repeat_to_the_bit(rng):
    X = rng.normal(size=(30, 8, 5))
    y, scores = X[..., 0], X[..., 0] + X[..., 1]
    for compute in (
        lambda: soft_best_of_k_reward(y, scores, [2, 5], 0.5, random_state=0),
        lambda: (
            prompt_bootstrap(
                best_of_k_reward, y, scores, k=4, n_resamples=99, random_state=0
            ).low
        ),
        lambda: SiblingFeatures().fit_transform(X),
    ):
        np.testing.assert_array_equal(compute(), compute())


# --- threads


@pytest.fixture(scope="module")
def with_threads():
    """Call a function with 1 and with 2 threads in BLAS, and OpenMP for torch."""
    with threadpool_limits(2, user_api="blas"):
        blas = [lib for lib in threadpool_info() if lib["user_api"] == "blas"]
        if not any(lib["num_threads"] == 2 for lib in blas):
            pytest.skip("BLAS has one thread here")

    def call(function):
        results = []
        for n_threads in (1, 2):
            with threadpool_limits(n_threads):
                results.append(function())
        return results

    return call


def rounding(loss):
    """By how much scores may differ, in units of their spread.

    The paths of these two losses, of which one has kinks and the other is not convex,
    may end an iteration earlier or later by rounding: then they differ by what `tol`
    left to gain.
    """
    return 2e-2 if loss in ("policy_gradient", "pairwise_hinge") else 1e-5


def assert_same(one, two, tolerance):
    """The same scores, and choices wherever the best is ahead by more than rounding."""
    one, two = one.astype(np.float64), two.astype(np.float64)
    assert np.abs(one - two).max() <= tolerance * one.std()
    best = np.sort(one, axis=1)
    sure = best[:, -1] - best[:, -2] > 2 * tolerance * one.std()
    assert sure.mean() > 0.5  # or little would be said
    np.testing.assert_array_equal(one.argmax(axis=1)[sure], two.argmax(axis=1)[sure])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("Probe, loss", PROBES)
def test_threads(rng, with_threads, Probe, loss, dtype):
    # Large enough that BLAS cuts its products among threads.
    X = rng.normal(size=(100, 8, 200)).astype(dtype)
    y = (X[..., 0] + rng.normal(size=(100, 8)) > 0).astype(float)
    one, two = with_threads(lambda: values_of(Probe(loss, alpha=0.1).fit(X, y), X))
    assert_same(one, two, rounding(loss))


@pytest.mark.parametrize("loss", LOSSES)
def test_threads_in_a_network(rng, with_threads, loss):
    pytest.importorskip("torch", reason="torch is not installed")
    X = rng.normal(size=(100, 8, 100))
    y = (X[..., 0] + rng.normal(size=(100, 8)) > 0).astype(float)
    policy = QProbePolicy(loss, random_state=0, hidden_layer_sizes=(64,), max_iter=5)
    one, two = with_threads(lambda: policy.fit(X, y).decision_function(X))
    assert_same(one, two, 1e-5)


def test_threads_in_a_search(rng, with_threads):
    X = rng.normal(size=(60, 8, 100)).astype(np.float32)
    y = (X[..., 0] + rng.normal(size=(60, 8)) > 0).astype(float)
    search = QProbePolicyCV(["log_loss", "squared_error"], alphas=[1.0, 0.1], cv=3)
    one, two = with_threads(lambda: search.fit(X, y).decision_function(X))
    assert_same(one, two, 1e-5)


@pytest.mark.skipif(not DATA.exists(), reason="the data are not here")
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "name", ["alpacaeval_gpt4", "hh_harmless", "humaneval_codegen16b"]
)
def test_threads_on_real_completions(with_threads, name, loss):
    with np.load(DATA / f"{name}.npz") as file:
        X = file["embeddings" if "embeddings" in file else "emb_pair"]
        y = file["rewards"].astype(float)
    X, y = X[:400, :16].astype(np.float32), y[:400, :16]
    X = PerCandidate(StandardScaler()).fit_transform(X)
    half = min(60, len(X) // 2)
    policy = QProbePolicy(loss, alpha=0.1, random_state=0)
    one, two = with_threads(
        lambda: policy.fit(X[:half], y[:half]).decision_function(X[half:])
    )
    # Correlated columns in float32 magnify rounding, here and there above 1e-5.
    assert_same(one, two, max(rounding(loss), 1e-4))
