"""Methods of fitted probes give lazy Dask arrays, with the values in memory."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import UndefinedMetricWarning

from skqprobe import CalibratedPolicyCV, QProbePolicy, QProbeRegressor
from skqprobe.metrics import candidate_values, expected_reward_scorer

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(params=["sets", "rows"])
def both(request, rng):
    """X, y and groups in memory, and as Dask arrays."""
    sizes = np.full(40, 4) if request.param == "sets" else rng.integers(1, 9, 40)
    X = rng.normal(size=(sizes.sum(), 3))
    y = X[:, 0] + rng.normal(size=len(X))
    groups = np.repeat([f"prompt {i}" for i in range(40)], sizes)
    if request.param == "sets":
        X, y, groups = X.reshape(40, 4, 3), y.reshape(40, 4), None
    n = -(-len(X) // 3)
    lazy = [
        None if each is None else da.from_array(each, chunks=(n, *each.shape[1:]))
        for each in (X, y, groups)
    ]
    return (X, y, groups), lazy


def assert_lazy(found, expected, exact=False):
    assert isinstance(found, da.Array)
    assert found.dtype == np.asarray(expected).dtype and found.shape == np.shape(
        expected
    )
    (assert_array_equal if exact else assert_allclose)(found.compute(), expected)
    return found


def test_policy(both):
    (X, y, groups), (lazy_X, _, lazy_groups) = both
    policy = QProbePolicy("log_loss", temperature=0.5).fit(X, y > 0, groups)
    offset = y / 3
    found = assert_lazy(policy.decision_function(lazy_X), policy.decision_function(X))
    if X.ndim == 3:
        assert found.chunks == lazy_X.chunks[:2]
    assert_lazy(
        policy.decision_function(lazy_X, offset=offset),
        policy.decision_function(X, offset=offset),
    )
    for name in ("predict_proba", "predict"):
        expected = getattr(policy, name)(X, groups, offset=offset)
        found = getattr(policy, name)(lazy_X, lazy_groups, offset=offset)
        assert_lazy(found, expected)
        assert found.numblocks[0] == 3
    for size in (None, 5):
        settings = {"size": size, "random_state": 3}
        expected = policy.sample(X, groups, **settings)
        assert_lazy(
            policy.sample(lazy_X, lazy_groups, **settings), expected, exact=True
        )
    weight = np.abs(y)
    policy.missing = "ignore"
    for rewards in (y, np.where(y > 1, np.nan, y)):
        lazy_y = da.from_array(rewards, chunks=7)
        score = policy.score(lazy_X, lazy_y, lazy_groups, sample_weight=weight)
        assert_lazy(score, policy.score(X, rewards, groups, sample_weight=weight))
        assert float(score) == score.compute()


def test_regressor(both):
    (X, y, groups), (lazy_X, lazy_y, lazy_groups) = both
    model = QProbeRegressor(temperature=0.5).fit(X, y, groups)
    assert_lazy(model.predict(lazy_X), model.predict(X))
    assert_lazy(model.score(lazy_X, lazy_y), model.score(X, y))
    weight = np.abs(y)
    expected = model.score(X, y, groups, sample_weight=weight)
    assert_lazy(
        model.score(lazy_X, lazy_y, lazy_groups, sample_weight=weight), expected
    )
    expected = model.sample(X, groups, random_state=0)
    assert_lazy(model.sample(lazy_X, lazy_groups, random_state=0), expected, exact=True)


def test_r2_of_constant_rewards(both):
    (X, y, _), (lazy_X, _, lazy_groups) = both
    ones = np.ones_like(y)
    for model in (QProbeRegressor().fit(X, ones), QProbeRegressor().fit(X, y)):
        assert float(model.score(lazy_X, ones)) == model.score(X, ones)
        weight = np.abs(y)
        for rewards in (ones, 0.1 * ones):
            found = model.score(lazy_X, rewards, lazy_groups, sample_weight=weight)
            assert float(found) in (0, 1)


def test_r2_of_one_candidate(both):
    (X, y, _), (lazy_X, lazy_y, _) = both
    model = QProbeRegressor().fit(X, y)
    if X.ndim == 3:
        X, y, lazy_X, lazy_y = X[:, :1], y[:, :1], lazy_X[:, :1], lazy_y[:, :1]
    for each in ((X[:1], y[:1]), (lazy_X[:1], lazy_y[:1])):
        with pytest.warns(UndefinedMetricWarning, match="less than two samples"):
            assert np.isnan(float(model.score(*each)))


def test_several_rewards(both):
    (X, y, groups), (lazy_X, lazy_y, lazy_groups) = both
    several = np.stack([y, -y, 1 + y], axis=-1)
    policy = QProbePolicy("squared_error", objective_weights=(1, 0.5, 2)).fit(
        X, several, groups
    )
    assert_lazy(policy.predict_objectives(lazy_X), policy.predict_objectives(X))
    assert_lazy(policy.decision_function(lazy_X), policy.decision_function(X))
    lazy = da.stack([lazy_y, -lazy_y, 1 + lazy_y], axis=-1)
    expected = policy.score(X, several, groups)
    assert_lazy(policy.score(lazy_X, lazy, lazy_groups), expected)


def test_named_rewards(both):
    pd = pytest.importorskip("pandas")
    dd = pytest.importorskip("dask.dataframe")
    (X, y, groups), (lazy_X, _, lazy_groups) = both
    if groups is None:
        X, lazy_X = X.reshape(-1, 3), lazy_X.reshape(-1, 3)
        groups = lazy_groups = np.repeat(range(40), 4)
    rewards = pd.DataFrame({"right": y.ravel(), "short": X[:, 1]})
    policy = QProbePolicy(objective_weights=(1, 5)).fit(X, rewards, groups)
    expected = policy.score(X, rewards, groups)
    swapped = rewards[["short", "right"]]
    for each in (swapped, dd.from_pandas(swapped, npartitions=4)):
        assert_lazy(policy.score(lazy_X, each, lazy_groups), expected)
    other = dd.from_pandas(rewards.rename(columns={"short": "long"}), npartitions=4)
    with pytest.raises(ValueError, match="y has the objectives"):
        policy.score(lazy_X, other, lazy_groups)


def test_later_changes(both):
    (X, y, groups), (lazy_X, _, lazy_groups) = both
    several, state = np.stack([y, -y], axis=-1), np.random.RandomState(0)
    policy = QProbePolicy("squared_error", temperature=0.5, random_state=state)
    policy.set_params(objective_weights=[1.0, 3.0]).fit(X, several, groups)
    lazy = [
        policy.predict_proba(lazy_X, lazy_groups),
        policy.score(lazy_X, several, lazy_groups),
        policy.sample(lazy_X, lazy_groups),
        policy.sample(lazy_X, lazy_groups),
    ]
    state.seed(0)
    expected = [
        policy.predict_proba(X, groups),
        policy.score(X, several, groups),
        policy.sample(X, groups),
        policy.sample(X, groups),
    ]
    policy.coef_ *= -1
    policy.objective_weights[0] = 7.0
    policy.set_params(temperature=2.0).fit(X, -several, groups)
    for found, each in zip(lazy, expected, strict=True):
        assert_lazy(found, each)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64])
def test_dtypes(dtype, both):
    (X, y, groups), (lazy_X, _, _) = both
    policy = QProbePolicy("squared_error").fit(X.astype(dtype), y, groups)
    expected = policy.decision_function(X.astype(dtype))
    found = policy.decision_function(lazy_X.astype(dtype))
    assert found.dtype == expected.dtype == found.compute().dtype
    assert_allclose(found, expected, rtol=1e-5)


def test_frames(rng):
    pd = pytest.importorskip("pandas")
    dd = pytest.importorskip("dask.dataframe")
    X = pd.DataFrame(rng.normal(size=(40, 2)), columns=["a", "b"])
    groups = np.repeat(np.arange(10), 4)
    policy = QProbePolicy().fit(X, X["a"] > 0, groups)
    frame = dd.from_pandas(X.assign(group=groups), npartitions=3)
    expected = policy.predict(X, groups)
    assert_lazy(policy.predict(frame[["a", "b"]], frame["group"]), expected)
    with pytest.raises(ValueError, match="feature names"):
        policy.predict(frame[["b", "a"]], frame["group"])


def test_nothing_is_computed_before_it_is_needed():
    def fail(block):
        raise AssertionError("computed")

    X = np.random.default_rng(0).normal(size=(20, 3, 2))
    policy = QProbePolicy().fit(X, X[..., 0])
    lazy = da.zeros((20, 3, 2), chunks=(5, 3, 2)).map_blocks(
        fail, meta=np.empty((0, 0, 0))
    )
    results = [
        getattr(policy, name)(lazy)
        for name in ("decision_function", "predict", "predict_proba", "sample")
    ]
    results.append(policy.score(lazy, X[..., 0]))
    for result in results:
        with pytest.raises(AssertionError, match="computed"):
            result.compute()


def test_what_needs_data_in_memory(both):
    (X, y, groups), (lazy_X, _, _) = both
    policy = QProbePolicy().fit(X, y, groups)
    calibrated = CalibratedPolicyCV(policy).fit(X, y, groups)
    for function in (
        lambda: calibrated.fit(lazy_X, y, groups),
        lambda: calibrated.predict_rewards(lazy_X),
        lambda: candidate_values(policy, lazy_X),
        lambda: expected_reward_scorer()(policy, lazy_X, y, groups=groups),
    ):
        with pytest.raises(ValueError, match=r"X is a Dask.*Pass X\.compute\(\)"):
            function()


def test_errors(both):
    (X, y, groups), (lazy_X, lazy_y, lazy_groups) = both
    policy, model = (
        each.fit(X, y, groups) for each in (QProbePolicy(), QProbeRegressor())
    )
    bad = X.copy()
    bad[-1] = np.nan
    start = sum(lazy_X.chunks[0][:-1])
    with pytest.raises(ValueError, match=rf"The first is X.*begins at X\[{start}\]"):
        policy.decision_function(da.from_array(bad, chunks=lazy_X.chunks)).compute()
    with pytest.raises(ValueError, match="y is None"):
        policy.score(lazy_X, None, lazy_groups)
    if X.ndim == 3:
        with pytest.raises(ValueError, match=r"offset has shape \(40,\)"):
            policy.predict(lazy_X, offset=np.ones(40))
    for probe in (policy, model):
        weight = np.where(np.isnan(y), 1.0, 0.0)
        score = probe.score(lazy_X, lazy_y, lazy_groups, sample_weight=weight)
        with pytest.raises(ValueError, match="No candidate has a reward and a sample_"):
            score.compute()


def test_rows_without_groups(both):
    (X, y, _), _ = both
    rows, y = X.reshape(-1, 3), y.ravel()
    policy = QProbePolicy("log_loss").fit(rows, y > 0)
    lazy = da.from_array(rows, chunks=(50, 3))
    for name in ("predict", "predict_proba", "sample"):
        with pytest.warns(UserWarning, match="X has rows but no groups"):
            assert not np.any(getattr(policy, name)(lazy) != (name == "predict_proba"))
    with pytest.warns(UserWarning, match="X has rows but no groups"):
        assert np.isnan(float(policy.score(lazy, y)))


def test_prompts_that_span_partitions(both):
    (X, _, groups), (lazy_X, _, _) = both
    if groups is None:
        pytest.skip("sets are whole prompts")
    policy = QProbePolicy().fit(X, X[:, 0], groups)
    with pytest.raises(ValueError, match="prompts have rows in several partitions"):
        policy.predict(lazy_X, groups[::-1][np.argsort(X[:, 1])])


def test_bad_input(both):
    (X, y, groups), (lazy_X, _, lazy_groups) = both
    policy = QProbePolicy().fit(X, y, groups)
    with pytest.raises(ValueError, match="expecting 3 features"):
        policy.decision_function(lazy_X[..., :2])
    with pytest.raises(ValueError, match="size must be None or an integer"):
        policy.sample(lazy_X, lazy_groups, size=0)
    with pytest.raises(ValueError, match="offset has shape"):
        policy.predict(lazy_X, lazy_groups, offset=np.ones(3))
    broken = policy.predict(da.where(lazy_X > 1, np.nan, lazy_X), lazy_groups)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        broken.compute()
