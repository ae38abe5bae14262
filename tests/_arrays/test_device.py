"""X as a tensor of torch, on all available devices, and of array-api-strict.

The latter has only the functions of the standard, and a device that numpy cannot read.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from cases import LEAST_SQUARES, WITH_INTERCEPT
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from skqprobe import (
    BayesianQProbePolicy,
    QProbePolicy,
    QProbePolicyCV,
    QProbeRegressor,
    sample_candidates,
)
from skqprobe._arrays import blocks, device
from skqprobe._objectives import linear
from skqprobe._solvers import preconditioner
from skqprobe._utils.sklearn_compat import ARRAY_API_SUPPORT
from skqprobe.io import to_json
from skqprobe.losses import LOSSES
from skqprobe.metrics import best_of_k_reward, expected_reward, prompt_bootstrap
from skqprobe.preprocessing import PerCandidate, SiblingFeatures

if not ARRAY_API_SUPPORT:
    pytest.skip("array API input needs scikit-learn 1.9", allow_module_level=True)

PLACES = ["array_api_strict", "torch cpu", "torch cuda"]


class Place:
    """A library of arrays, and one of its devices."""

    def __init__(self, name):
        library, _, device = name.partition(" ")
        self.xp = pytest.importorskip(library)
        if device == "cuda" and not self.xp.cuda.is_available():
            pytest.skip("torch has no CUDA device")
        self.device = device if device else self.xp.Device("device1")

    def put(self, array):
        return self.xp.asarray(array, device=self.device)

    def get(self, array):
        """Check that an array is on the device, and convert it to numpy."""
        assert type(array) is type(self.put(np.zeros(1)))
        assert array.device == self.put(np.zeros(1)).device
        return np.asarray(device.to_host(array))


@pytest.fixture
def dispatch(monkeypatch):
    # scikit-learn requires the variable; nothing here passes such arrays to scipy.
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    with config_context(array_api_dispatch=True):
        yield


@pytest.fixture(params=PLACES)
def place(request, dispatch):
    return Place(request.param)


@pytest.fixture
def torch_cpu(dispatch):
    return Place("torch cpu")


def fit_both(place, probe, data, *, rtol=1e-7, atol=0, **weights):
    """Fit clones of a probe to X in numpy and on the device; compare coefficients."""
    X, *rest = data
    here, there = (
        clone(probe).fit(array, *rest, **weights) for array in (X, place.put(X))
    )
    assert_allclose(place.get(there.coef_), here.coef_, rtol=rtol, atol=atol)
    return here, there


# The results are those of numpy, on the device of X


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_policy(place, data, loss, dtype):
    X, y, groups = data
    X = X.astype(dtype)
    policy = QProbePolicy(loss, alpha=0.01, temperature=0.5, random_state=0)
    expected = clone(policy).fit(X, y, groups)
    X_there, y_there = place.put(X), place.put(y)
    policy.fit(X_there, y_there, groups)
    close = {"rtol": 1e-3, "atol": 1e-3} if dtype == "float32" else {"rtol": 1e-7}
    assert place.get(policy.coef_).dtype == dtype
    assert_allclose(place.get(policy.coef_), expected.coef_, **close)
    assert policy.intercept_ == pytest.approx(expected.intercept_, rel=1e-3)
    for method in ("decision_function", "predict_proba", "predict", "sample"):
        arguments = () if method == "decision_function" else (groups,)
        result = getattr(expected, method)(X, *arguments)
        found = place.get(getattr(policy, method)(X_there, *arguments))
        assert found.dtype == result.dtype
        assert_allclose(found, result, **close)
    score = expected.score(X, y, groups)
    assert policy.score(X_there, y_there, groups) == pytest.approx(score, rel=1e-3)


@pytest.mark.parametrize("likelihood", ["gaussian", "choice"])
def test_posterior(place, data, likelihood):
    X, y, groups = data
    probe = BayesianQProbePolicy(likelihood, alpha=1.0, random_state=0)
    close = {"rtol": 1e-6, "atol": 1e-9}
    expected, policy = fit_both(place, probe, data, **close)
    X_there = place.put(X)
    expected.partial_fit(X, y, groups)
    policy.partial_fit(X_there, place.put(y), groups)
    both = policy.decision_function(X_there, groups, return_std=True)
    wanted = expected.decision_function(X, groups, return_std=True)
    for found, values in zip(both, wanted, strict=True):
        assert_allclose(place.get(found), values, **close)
    proba = place.get(policy.predict_best_proba(X_there, groups))
    assert_allclose(proba, expected.predict_best_proba(X, groups), atol=0.01)


@pytest.mark.parametrize("loss", WITH_INTERCEPT)
def test_regressor(place, data, loss):
    X, y, groups = data
    expected, model = fit_both(place, QProbeRegressor(loss), data)
    X_there, y_there = place.put(X), place.put(y)
    assert_allclose(place.get(model.predict(X_there)), expected.predict(X))
    score = expected.score(X, y, groups)
    assert model.score(X_there, y_there, groups) == pytest.approx(score)


@pytest.mark.parametrize("Probe", [QProbePolicy, QProbeRegressor, QProbePolicyCV])
def test_several_objectives_and_an_offset(place, data, Probe, rng):
    X, y, groups = data
    X, y = X.astype("float32"), np.stack([y, 1 - y, rng.random(y.shape)], axis=-1)
    offset, weights = rng.normal(size=y.shape[:-1]), np.array([1.0, 0.5, -1.0])
    expected, probe = Probe(), Probe()
    expected.fit(X, y, groups).set_params(objective_weights=weights)
    there = place.put(X), place.put(y)
    probe.fit(*there, groups).set_params(objective_weights=place.put(weights))
    close = {"rtol": 1e-3, "atol": 1e-3}
    assert_allclose(place.get(probe.coef_), expected.coef_, **close)
    single = place.get(probe.predict_objectives(there[0]))
    assert_allclose(single, expected.predict_objectives(X), **close)
    method = "predict" if Probe is QProbeRegressor else "decision_function"
    found = getattr(probe, method)(there[0], offset=place.put(offset))
    wanted = getattr(expected, method)(X, offset=offset)
    assert_allclose(place.get(found), wanted, **close)
    score = expected.score(X, y, groups, offset=offset)
    found = probe.score(*there, groups, offset=place.put(offset))
    assert found == pytest.approx(score, rel=1e-3)


def test_weights_groups_and_n_candidates(place, rows, rng):
    X, y, groups = rows
    groups = np.unique(groups, return_inverse=True)[1]
    weight = rng.integers(0, 3, size=len(y)).astype(float)
    expected, policy = (QProbePolicy(n_candidates=4, random_state=0) for _ in range(2))
    expected.fit(X, y, groups, sample_weight=weight)
    *there, weight_there = (place.put(array) for array in (X, y, groups, weight))
    policy.fit(*there, sample_weight=weight_there)
    assert_allclose(place.get(policy.coef_), expected.coef_)
    score = expected.score(X, y, groups, sample_weight=weight)
    found = policy.score(*there, sample_weight=weight_there)
    assert found == pytest.approx(score)


@pytest.mark.parametrize("loss", LEAST_SQUARES)
def test_weights_in_closed_form(place, data, loss, rng):
    weight = rng.integers(0, 3, size=data[1].shape)
    fit_both(place, QProbePolicy(loss, alpha=0.01), data, sample_weight=weight)


@pytest.mark.parametrize("alpha", [0, 0.1])
@pytest.mark.parametrize("loss", LEAST_SQUARES)
def test_more_features_than_rows(place, loss, alpha, rng):
    data = rng.normal(size=(10, 4, 60)), rng.normal(size=(10, 4)), None
    fit_both(place, QProbePolicy(loss, alpha=alpha), data, atol=1e-10)


@pytest.mark.parametrize("loss", ["log_loss", "pairwise_logistic", "squared_error"])
def test_many_blocks(place, data, loss, monkeypatch):
    X = data[0]
    monkeypatch.setattr(blocks, "DEVICE_BLOCK_BYTES", 20 * X.shape[-1] * X.itemsize)
    expected, policy = fit_both(place, QProbePolicy(loss, alpha=0.01), data, rtol=1e-6)
    found = place.get(policy.decision_function(place.put(X)))
    assert_allclose(found, expected.decision_function(X), rtol=1e-6)
    monkeypatch.setattr(linear, "PRODUCT_ROWS", 1)
    there = clone(policy).fit(place.put(X), *data[1:])
    assert_allclose(place.get(there.coef_), expected.coef_, rtol=1e-6)


@pytest.mark.parametrize("loss", ["log_loss", "policy_gradient"])
def test_sampled_moments(place, loss, data, monkeypatch):
    monkeypatch.setattr(preconditioner, "FULL_FEATURES", 0)
    fit_both(place, QProbePolicy(loss, alpha=0.01, tol=1e-6), data, rtol=1e-5)


def test_warm_start(place, sets):
    X, y = (place.put(array) for array in sets)
    policy = QProbePolicy(warm_start=True).fit(X, y)
    cold = policy.n_iter_
    assert policy.fit(X, y).n_iter_ < cold


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("loss", ["log_loss", "squared_error"])
def test_half_precision(torch_cpu, sets, dtype, loss):
    X, y = sets
    X = torch_cpu.put(X).to(getattr(torch_cpu.xp, dtype))
    single = X.float().numpy()
    expected, policy = (QProbePolicy(loss).fit(array, y) for array in (single, X))
    assert_allclose(torch_cpu.get(policy.coef_), expected.coef_, rtol=1e-4)
    found = torch_cpu.get(policy.decision_function(X))
    assert found.dtype == np.float32
    assert_allclose(found, expected.decision_function(single), rtol=1e-4, atol=1e-5)


def test_policy_cv(place, data):
    X, y, groups = data
    losses = ["log_loss", "policy_gradient", "squared_error"]
    grid = {"alphas": (0.1, 0.01), "temperatures": (0, 0.5)}
    expected, policy = fit_both(place, QProbePolicyCV(losses, **grid, cv=3), data)
    name = "mean_test_score"
    assert_allclose(policy.cv_results_[name], expected.cv_results_[name])
    policy.set_params(scoring=lambda policy, X, y: 0.0)
    with pytest.raises(ValueError, match="scoring=None, or convert X to numpy"):
        policy.fit(place.put(X), place.put(y), groups)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_hidden_layers(torch_cpu, sets):
    X, y = sets
    settings = {"hidden_layer_sizes": (3,), "max_iter": 5, "random_state": 0}
    expected = QProbePolicy("log_loss", **settings).fit(X, y)
    policy = QProbePolicy("log_loss", **settings).fit(torch_cpu.put(X), y)
    assert isinstance(policy.coefs_[0], np.ndarray)
    assert_array_equal(policy.coefs_[0], expected.coefs_[0])
    found = torch_cpu.get(policy.decision_function(torch_cpu.put(X)))
    assert_allclose(found, expected.decision_function(X))


def test_search(torch_cpu, sets):
    # Not with array-api-strict, whose arrays do not accept numpy's indices.
    X, y = sets
    search = GridSearchCV(QProbePolicy("log_loss"), {"alpha": [0.1, 10]}, cv=3)
    scores = search.fit(X, y).cv_results_["mean_test_score"]
    search.fit(torch_cpu.put(X), torch_cpu.put(y))
    assert_allclose(search.cv_results_["mean_test_score"], scores)
    torch_cpu.get(search.predict(torch_cpu.put(X)))


# X is not copied to the host


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    "loss, shape",
    [
        *((loss, (60, 6, 50)) for loss in LOSSES),
        *((loss, (10, 5, 200)) for loss in LEAST_SQUARES),
    ],
)
def test_only_small_arrays_are_copied_to_the_host(
    torch_cpu, loss, shape, dtype, rng, monkeypatch
):
    X = rng.normal(size=shape)
    y = (X[..., 0] > 0).astype(float)
    X = torch_cpu.put(X.astype(dtype))
    sizes = []
    for name in ("__array__", "__dlpack__", "cpu", "numpy", "tolist"):
        method = getattr(torch_cpu.xp.Tensor, name)

        def watched(self, *args, method=method, **kwargs):
            sizes.append(self.numel())
            return method(self, *args, **kwargs)

        monkeypatch.setattr(torch_cpu.xp.Tensor, name, watched)

    policy = QProbePolicy(loss, alpha=0.1).fit(X, y)
    policy.predict(X)
    policy.sample(X)
    policy.score(X, y)
    assert 0 < max(sizes) <= X.numel() / 4


# Errors


def test_not_finite(place, sets):
    X, y = sets
    policy = QProbePolicy().fit(place.put(X), y)
    X[3, 1, 2] = np.nan
    for call in (lambda X: QProbePolicy().fit(X, y), policy.predict):
        with pytest.raises(ValueError, match=r"The first is X\[3, 1, 2\]"):
            call(place.put(X))


@pytest.mark.parametrize("method", ["decision_function", "predict", "sample"])
def test_another_device_than_in_fit(place, sets, method):
    X, y = sets
    there, here = (QProbePolicy().fit(array, y) for array in (place.put(X), X))
    words = rf"QProbePolicy.{method}\(\) must use the same"
    with pytest.raises(ValueError, match=words):
        getattr(there, method)(X)
    with pytest.raises(ValueError, match="move_estimator_to"):
        getattr(here, method)(place.put(X))


def test_moved_to_numpy(place, sets):
    from sklearn.utils._array_api import move_estimator_to

    X, y = sets
    policy = QProbePolicy().fit(place.put(X), y)
    moved = move_estimator_to(policy, np, "cpu")
    assert_array_equal(moved.predict(X), place.get(policy.predict(place.put(X))))


def test_older_scikit_learn(torch_cpu, sets, monkeypatch):
    monkeypatch.setattr(device, "ARRAY_API_SUPPORT", False)
    X, y = sets
    with pytest.raises(ImportError, match=r"scikit-learn 1\.9 or later"):
        QProbePolicy().fit(torch_cpu.put(X), y)
    assert isinstance(QProbePolicy().fit(X, y).coef_, np.ndarray)


def test_dispatch_is_off(sets):
    torch = pytest.importorskip("torch")
    X, y = (torch.asarray(array) for array in sets)
    policy = QProbePolicy().fit(X, y)
    assert isinstance(policy.coef_, np.ndarray)
    assert_array_equal(policy.predict(X), policy.predict(sets[0]))
    assert isinstance(policy.predict(X), np.ndarray)


# Other functions


def test_metrics(place, sets):
    X, y = sets
    Q = X[..., 0]
    expected = prompt_bootstrap(best_of_k_reward, y, Q, k=[2, 4], random_state=0)
    arrays = place.put(y), place.put(Q)
    found = prompt_bootstrap(best_of_k_reward, *arrays, k=[2, 4], random_state=0)
    assert_array_equal(found.value, expected.value)
    assert_array_equal(found.low, expected.low)
    proba = np.full(y.shape, 1 / 6)
    reward = expected_reward(place.put(y), place.put(proba))
    assert isinstance(reward, float)
    assert reward == expected_reward(y, proba)


def test_sample_candidates(place, sets):
    proba = QProbePolicy(temperature=0.5).fit(*sets).predict_proba(sets[0])
    expected = sample_candidates(proba, size=3, random_state=0)
    found = sample_candidates(place.put(proba), size=3, random_state=0)
    assert_array_equal(place.get(found), expected)


def test_export_of_a_probe_on_a_device(place, sets):
    X, y = sets
    policy = QProbePolicy().fit(place.put(X), y)
    written = json.loads(to_json(policy))
    assert_array_equal(written["coef"], place.get(policy.coef_))


TRANSFORMERS = [SiblingFeatures(embedding="drop"), PerCandidate(StandardScaler())]
every_transformer = pytest.mark.parametrize(
    "transformer", TRANSFORMERS, ids=["SiblingFeatures", "PerCandidate"]
)


@every_transformer
def test_transformed_sets_are_on_the_host(transformer, place, sets):
    expected = transformer.fit_transform(sets[0])
    X = place.put(sets[0])
    for found in (transformer.fit_transform(X), transformer.fit(X).transform(X)):
        assert_allclose(found, expected)


@every_transformer
def test_transformers_convert_bfloat16_to_float32(transformer, torch_cpu, sets):
    X = torch_cpu.put(sets[0]).to(torch_cpu.xp.bfloat16)
    found = transformer.fit_transform(X)
    assert found.dtype == np.float32
    assert_array_equal(found, transformer.fit_transform(X.float().numpy()))


def scikit_learn_checks():
    for estimator in (
        QProbeRegressor(),
        QProbeRegressor(solver="lbfgs"),
        *(QProbePolicy(loss) for loss in LOSSES if loss != "log_loss"),
        QProbePolicyCV(["squared_error", "policy_gradient"], cv=2),
    ):
        for _, check in estimator_checks_generator(estimator):
            name = check.func.__name__
            if "array_api" in name:
                words = [repr(estimator), name, *map(str, check.keywords.values())]
                yield pytest.param(estimator, check, id=" ".join(words))


@pytest.mark.filterwarnings("ignore")  # rows without groups
@pytest.mark.parametrize("estimator, check", list(scikit_learn_checks()))
def test_scikit_learn_checks(estimator, check, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    check(estimator)


def test_code_of_the_guide(torch_cpu, sets):
    text = (Path(__file__).parents[2] / "docs/guide/array_api.md").read_text()
    X, y = sets
    names = {"embeddings": X.astype(np.float32), "rewards": y}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)
    assert isinstance(names["chosen"], torch_cpu.xp.Tensor)
    assert isinstance(names["policy"].coef_, np.ndarray)
