"""The same seed gives the same results, and the number of threads changes rounding."""

import numpy as np
import pytest
from cases import PROBES, every_loss, every_probe_and_loss, values_of
from estimators import needs_real_data, real_data
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info, threadpool_limits

from skqprobe import QProbePolicy, QProbePolicyCV, sample_candidates
from skqprobe.losses import LOSSES
from skqprobe.metrics import best_of_k_reward, prompt_bootstrap, soft_best_of_k_reward
from skqprobe.preprocessing import PerCandidate, SiblingFeatures

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


@pytest.fixture(params=SETTINGS)
def settings(request):
    if "network" in request.param:
        pytest.importorskip("torch", reason="torch is not installed")
    return SETTINGS[request.param]


def parameters(probe):
    """Return all fitted numbers in one array."""
    if hasattr(probe, "coefs_"):
        return np.concatenate([a.ravel() for a in (*probe.coefs_, *probe.intercepts_)])
    return np.append(probe.coef_, probe.intercept_)


# --- seeds


@every_probe_and_loss
def test_same_seed_gives_equal_results(sets, Probe, loss, settings):
    X, y = sets

    def fit(random_state):
        probe = Probe(loss, temperature=0.3, random_state=random_state, **settings)
        return probe.fit(X, y)

    first, again = fit(7), fit(7)
    np.testing.assert_array_equal(parameters(again), parameters(first))
    np.testing.assert_array_equal(again.sample(X, size=3), first.sample(X, size=3))
    if not {"hidden_layer_sizes", "n_candidates"} <= set(settings):
        # With both, the second draw continues the state of the first.
        of_state = fit(np.random.RandomState(7))
        np.testing.assert_array_equal(parameters(of_state), parameters(first))


@every_loss
def test_none_is_the_global_state_of_numpy(sets, loss, settings):
    before = np.random.get_state()  # noqa: NPY002
    try:
        fits = []
        for _ in range(2):
            np.random.seed(3)  # noqa: NPY002
            fits.append(QProbePolicy(loss, **settings).fit(*sets))
        np.testing.assert_array_equal(*map(parameters, fits))
    finally:
        np.random.set_state(before)  # noqa: NPY002


def test_other_seeds_give_other_results(sets, settings):
    first, other = (
        QProbePolicy("policy_gradient", random_state=seed, **settings).fit(*sets)
        for seed in (0, 1)
    )
    gap = np.abs(parameters(first) - parameters(other)).max()
    assert gap > 1e-6 if settings else gap == 0


@every_loss
def test_linear_fit_draws_no_random_numbers(sets, loss):
    state = np.random.RandomState(0)
    before = state.get_state()[2]
    QProbePolicy(loss, random_state=state).fit(*sets)
    assert state.get_state()[2] == before


@pytest.mark.parametrize("Probe", [*PROBES, QProbePolicyCV])
def test_generators_are_refused_as_by_scikit_learn(sets, Probe):
    X, y = sets
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match="'random_state' parameter of"):
        Probe(random_state=generator).fit(X, y)
    probe = Probe().fit(X, y)
    with pytest.raises(ValueError, match="cannot be used to seed"):
        probe.sample(X, random_state=generator)
    with pytest.raises(ValueError, match="cannot be used to seed"):
        sample_candidates(np.full(y.shape, 1 / 6), random_state=generator)


def test_search_gives_equal_results(sets):
    first, again = (
        QProbePolicyCV(list(LOSSES), cv=3, random_state=0).fit(*sets) for _ in range(2)
    )
    assert again.best_params_ == first.best_params_
    np.testing.assert_array_equal(
        again.cv_results_["mean_test_score"], first.cv_results_["mean_test_score"]
    )
    np.testing.assert_array_equal(parameters(again), parameters(first))


def test_metrics_and_features_give_equal_results(rng):
    X = rng.normal(size=(30, 8, 5))
    y, scores, seed = X[..., 0], X[..., 0] + X[..., 1], {"random_state": 0}
    few = {"k": 4, "n_resamples": 99, **seed}
    for compute in (
        lambda: soft_best_of_k_reward(y, scores, [2, 5], 0.5, **seed),
        lambda: prompt_bootstrap(best_of_k_reward, y, scores, **few).low,
        lambda: SiblingFeatures().fit_transform(X),
    ):
        np.testing.assert_array_equal(compute(), compute())


# --- threads


@pytest.fixture(scope="module")
def with_threads():
    """Call a function with 1 and with 2 threads in BLAS, and in OpenMP for torch."""
    with threadpool_limits(2, user_api="blas"):
        blas = [lib for lib in threadpool_info() if lib["user_api"] == "blas"]
        if not any(lib["num_threads"] == 2 for lib in blas):
            pytest.skip("BLAS has only one thread")

    def call(function):
        results = []
        for n_threads in (1, 2):
            with threadpool_limits(n_threads):
                results.append(function())
        return results

    return call


def rounding(loss):
    """Tolerance of scores in units of their standard deviation.

    One of these two losses has kinks, and the other is not convex: rounding changes in
    which iteration they end, so they differ by as much as `tol` allows.
    """
    return {"policy_gradient": 2e-2, "pairwise_hinge": 5e-2}.get(loss, 1e-5)


def alpha_of(loss):
    """Penalty. That of the hinge decides among the many probes of about equal loss."""
    return 10.0 if loss == "pairwise_hinge" else 0.1


def assert_same_choices(one, two, tolerance):
    """The same scores, and choices if the best leads by more than rounding."""
    one, two = one.astype(np.float64), two.astype(np.float64)
    assert np.abs(one - two).max() <= tolerance * one.std()
    best = np.sort(one, axis=1)
    sure = best[:, -1] - best[:, -2] > 2 * tolerance * one.std()
    assert sure.mean() > 0.5  # or the test would check little
    np.testing.assert_array_equal(one.argmax(axis=1)[sure], two.argmax(axis=1)[sure])


def noisy(rng, shape, dtype=np.float64):
    """Embeddings large enough that BLAS splits its products among threads."""
    X = rng.normal(size=shape).astype(dtype)
    return X, (X[..., 0] + rng.normal(size=shape[:2]) > 0).astype(float)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_probe_and_loss
def test_threads(rng, with_threads, Probe, loss, dtype):
    X, y = noisy(rng, (100, 8, 200), dtype)
    one, two = with_threads(
        lambda: values_of(Probe(loss, alpha=alpha_of(loss)).fit(X, y), X)
    )
    assert_same_choices(one, two, rounding(loss))


@pytest.mark.parametrize("loss", [*LOSSES, "search"])
def test_threads_in_a_network_and_a_search(rng, with_threads, loss):
    X, y = noisy(rng, (100, 8, 100), np.float32 if loss == "search" else np.float64)
    if loss == "search":
        policy = QProbePolicyCV(["log_loss", "squared_error"], alphas=[1.0, 0.1], cv=3)
    else:
        pytest.importorskip("torch", reason="torch is not installed")
        settings = {"hidden_layer_sizes": (64,), "max_iter": 5}
        policy = QProbePolicy(loss, random_state=0, **settings)
    one, two = with_threads(lambda: policy.fit(X, y).decision_function(X))
    assert_same_choices(one, two, 1e-5)


@pytest.mark.slow
@needs_real_data
@every_loss
@pytest.mark.parametrize(
    "name", ["alpacaeval_gpt4", "hh_harmless", "humaneval_codegen16b"]
)
def test_threads_on_real_completions(with_threads, name, loss):
    X, y, _ = real_data(name)
    X, y = X[:400, :16], y[:400, :16]
    X = PerCandidate(StandardScaler()).fit_transform(X)
    half = min(60, len(X) // 2)
    policy = QProbePolicy(loss, alpha=alpha_of(loss), random_state=0)
    one, two = with_threads(
        lambda: policy.fit(X[:half], y[:half]).decision_function(X[half:])
    )
    # Correlated columns in float32 magnify rounding, sometimes above 1e-5.
    assert_same_choices(one, two, max(rounding(loss), 1e-4))
