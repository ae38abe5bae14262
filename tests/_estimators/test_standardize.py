"""standardize=True: the result of scaled columns, for X as it is."""

import numpy as np
import pytest
from cases import LEAST_SQUARES
from numpy.testing import assert_allclose
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy, QProbePolicyCV, QProbeRegressor
from skqprobe.losses import LOSSES
from skqprobe.preprocessing import PerCandidate


def unequal_columns(shape):
    """Columns of several magnitudes with an offset, one of them constant."""
    rng = np.random.default_rng(0)
    d = shape[-1]
    X = rng.normal(size=shape) * 10 ** rng.uniform(-2, 2, d) + 3 * rng.normal(size=d)
    X[..., 1] = 7
    first = (X[..., 0] - X[..., 0].mean()) / X[..., 0].std()
    return X, (first + rng.normal(size=shape[:2]) > 0).astype(float)


def assert_same_as_pipeline(probe, settings, X, y, rtol):
    """Equal decision functions, up to `rtol` of their standard deviation."""
    scaled = make_pipeline(PerCandidate(StandardScaler()), probe(**settings)).fit(X, y)
    found = probe(standardize=True, **settings).fit(X, y)
    method = "predict" if probe is QProbeRegressor else "decision_function"
    expected, values = (getattr(each, method)(X) for each in (scaled, found))
    assert_allclose(values, expected, atol=rtol * expected.std())
    return found


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("shape", [(40, 6, 12), (10, 4, 90)])
@pytest.mark.parametrize("loss", LOSSES)
def test_linear_probes(loss, shape, fit_intercept):
    X, y = unequal_columns(shape)
    settings = {"loss": loss, "alpha": 0.1, "fit_intercept": fit_intercept, "tol": 1e-7}
    rtol = 1e-4
    if loss == "pairwise_hinge":  # kinks separate the paths to probes of equal loss
        settings |= {"alpha": 10.0, "tol": 1e-4}
        rtol = 0.1
    assert_same_as_pipeline(QProbePolicy, settings, X, y, rtol)
    single = X.astype(np.float32)
    assert_same_as_pipeline(QProbePolicy, settings, single, y, max(rtol, 1e-3))


@pytest.mark.filterwarnings("ignore:The network did not converge")
@pytest.mark.parametrize("loss", ["log_loss", *LEAST_SQUARES])
@pytest.mark.parametrize("probe", [QProbePolicy, QProbeRegressor])
def test_hidden_layers(probe, loss):
    pytest.importorskip("torch", reason="torch is not installed")
    if probe is QProbeRegressor and loss not in ("log_loss", "squared_error"):
        pytest.skip("the regressor has no such loss")
    settings = {"loss": loss, "hidden_layer_sizes": (8,), "random_state": 0}
    X, y = unequal_columns((40, 6, 12))
    found = assert_same_as_pipeline(probe, settings | {"max_iter": 5}, X, y, 1e-8)
    # A warm start converts the weights back.
    before = found.predict(X)
    found.set_params(warm_start=True, max_iter=1, tol=1e6).fit(X, y)
    assert np.mean(found.predict(X) == before) > 0.5 or probe is QProbeRegressor


@pytest.mark.parametrize("losses", [["squared_error"], ["log_loss"]])
def test_search(losses):
    """The columns are scaled once, as in a pipeline around the search."""
    X, y = unequal_columns((40, 6, 12))
    settings = {"losses": losses, "alphas": (1.0, 0.01)}
    found = assert_same_as_pipeline(QProbePolicyCV, settings, X, y, 1e-6)
    raw = QProbePolicyCV(**settings).fit(X, y)
    assert not np.allclose(found.coef_, raw.coef_, rtol=0.01)


def test_rows_of_a_memory_map_are_not_copied(tmp_path):
    X, y = unequal_columns((40, 6, 12))
    np.save(tmp_path / "X.npy", X.astype(np.float16).reshape(240, 12))
    rows, groups = np.load(tmp_path / "X.npy", mmap_mode="r"), np.repeat(range(40), 6)
    policy = QProbePolicy(standardize=True).fit(rows, y.reshape(-1), groups)
    expected = QProbePolicy(standardize=True).fit(X.astype(np.float16), y)
    assert_allclose(policy.coef_, expected.coef_)
