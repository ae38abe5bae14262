import numpy as np
import pytest
from cases import as_rows
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import make_column_selector
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut

from skqprobe import make_probe_pipeline


def test_settings_are_passed_to_the_steps():
    settings = {"alphas": [2.0], "temperatures": [0.5], "cv": 3, "scoring": np.mean}
    pipeline = make_probe_pipeline(["log_loss"], view_sizes=(1, 3), **settings)
    probe = pipeline["probe"].get_params()
    assert probe.items() >= {"losses": ["log_loss"], **settings}.items()
    assert pipeline["siblings"].view_sizes == (1, 3)


def test_sets_and_rows_agree(sets):
    X, y, groups = as_rows(*sets)
    of_sets = make_probe_pipeline().fit(*sets)
    with config_context(enable_metadata_routing=True):
        of_rows = clone(of_sets).fit(X, y, groups=groups)
        score = of_rows.score(X, y, groups=groups)
        chosen = of_rows.predict(X, groups=groups)
    assert score == pytest.approx(of_sets.score(*sets))
    assert_array_equal(chosen - 6 * np.arange(60), of_sets.predict(sets[0]))
    assert score > y.mean() + 0.2


def test_groups_reach_all_steps_without_routing(sets):
    X, y, groups = as_rows(*sets)
    with config_context(enable_metadata_routing=True):
        expected = make_probe_pipeline().fit(X, y, groups=groups)
    found = make_probe_pipeline().fit(X, y, groups=groups)
    for method in ("predict", "predict_proba", "decision_function"):
        one, two = (getattr(each, method)(X, groups) for each in (found, expected))
        assert_array_equal(one, two)
    assert found.score(X, y, groups) == expected.score(X, y, groups)
    with pytest.warns(UserWarning, match="no groups were given"):
        found.decision_function(X)


def test_groups_of_sets_reach_the_splitter(sets):
    """Prompts that repeat a question stay in one fold."""
    X, y = sets
    questions = np.arange(len(y)) // 2
    for cv in (GroupKFold(3), LeaveOneGroupOut()):
        found = make_probe_pipeline(cv=cv).fit(X, y, groups=questions)
        n_splits = 3 if isinstance(cv, GroupKFold) else len(y) // 2
        assert found["probe"].n_splits_ == n_splits
    with pytest.raises(ValueError, match="groups"):
        make_probe_pipeline(cv=GroupKFold(3)).fit(X, y)


def test_float16_as_it_is_stored(sets):
    """A column of the smallest numbers of float16 has a scale of its own."""
    X, y = sets
    X = X.astype(np.float16)
    X[..., 0] = 6e-8
    X[0, 0, 0] = 1.2e-7
    pipeline = make_probe_pipeline(alphas=[1.0]).fit(X, y)
    expected = make_probe_pipeline(alphas=[1.0]).fit(X.astype(np.float32), y)
    assert_array_equal(pipeline.decision_function(X), expected.decision_function(X))


def test_a_useless_view_is_left_out_and_a_strong_one_is_not(rng):
    """Columns of noise beside one that holds the reward."""
    y = rng.random((80, 6))
    noise = rng.normal(size=(80, 6, 40))
    X = np.concatenate([noise, y[..., None] + 0.1 * rng.normal(size=(80, 6, 1))], 2)
    pipeline = make_probe_pipeline(view_sizes={"noise": 40, "judge": 1})
    pipeline.fit(X[:60], y[:60])
    weights = pipeline["probe"].view_weights_
    assert weights["noise"] < 1e-3 * weights["judge"]
    alone = make_probe_pipeline().fit(X[:60, :, 40:], y[:60])
    found = pipeline.score(X[60:], y[60:])
    assert found == pytest.approx(alone.score(X[60:, :, 40:], y[60:]), abs=0.01)


@pytest.mark.parametrize("output", ["default", "pandas"])
def test_views_of_a_frame_by_name(rng, output):
    """The columns may be in any order, and the containers change nothing."""
    pd = pytest.importorskip("pandas")
    X, y = rng.normal(size=(40, 4, 19)), rng.random((40, 4))
    expected = make_probe_pipeline(view_sizes={"text": 17, "known": 2}).fit(X, y)
    names = [f"emb{i}" for i in range(17)] + ["length", "judge"]
    frame = pd.DataFrame(X.reshape(-1, 19), columns=names)
    frame = frame[["length", *names[:17], "judge"]]
    columns = {"text": make_column_selector("^emb"), "known": ["length", "judge"]}
    pipeline = make_probe_pipeline(view_sizes=columns).set_output(transform=output)
    groups = np.repeat(np.arange(40), 4)
    pipeline.fit(frame, y.ravel(), groups=groups)
    weights = pipeline["probe"].view_weights_
    assert list(weights) == ["text", "known", "siblings"]
    assert weights == pytest.approx(expected["probe"].view_weights_, rel=1e-5)
    values = pipeline.decision_function(frame, groups=groups)
    assert_allclose(values, expected.decision_function(X).ravel(), rtol=1e-4)
    for step in ("scale", "siblings"):
        pipeline.set_params(**{step: "passthrough"})
        pipeline.fit(frame, y.ravel(), groups=groups)
        weights = pipeline["probe"].view_weights_
        assert list(weights)[:2] == ["text", "known"]
        pipeline.set_params(**{step: clone(expected[step])})
        pipeline.set_params(**{f"{step}__view_sizes": columns})


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_dask_collections(dtype, data, chunked):
    """The recommended pipeline learns and chooses as in one process."""
    X, y, groups = data
    if groups is not None:
        order = np.argsort(groups, kind="stable")
        X, y, groups = X[order], y[order], groups[order]
    X = X.astype(dtype)
    expected = make_probe_pipeline(cv=3).fit(X, y, groups)
    lazy_X, lazy_y, lazy_groups = (chunked(each, 27) for each in (X, y, groups))
    found = make_probe_pipeline(cv=3).fit(lazy_X, lazy_y, lazy_groups)
    policy, other = expected[-1], found[-1]
    assert policy.best_params_ == other.best_params_
    assert policy.view_weights_ == pytest.approx(other.view_weights_, rel=1e-3)
    rtol = 1e-6 if dtype == np.float64 else 1e-3
    assert_allclose(policy.coef_, other.coef_, atol=rtol * abs(policy.coef_).max())
    chosen = found.predict(lazy_X, lazy_groups)
    assert_array_equal(chosen.compute(), expected.predict(X, groups))
    score = found.score(lazy_X, lazy_y, lazy_groups)
    assert float(score) == pytest.approx(expected.score(X, y, groups))
