"""Fits on Dask collections are those of the same data in one process."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.model_selection import GroupKFold, KFold

from skqprobe import (
    BayesianQProbePolicy,
    QProbePolicy,
    QProbePolicyCV,
    QProbeRegressor,
)
from skqprobe._arrays import blocks
from skqprobe._estimators import _view_search
from skqprobe._objectives import distributed
from skqprobe._solvers import preconditioner
from skqprobe.losses import LOSSES

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")

CLOSED_FORM = [name for name in LOSSES if hasattr(LOSSES[name], "least_squares")]


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


def in_chunks(array, size):
    """Dask array with chunks along the first axis; None stays None."""
    if array is None:
        return None
    return da.from_array(array, chunks=(size, *array.shape[1:]))


def assert_same_fit(estimator, X, y, groups=None, chunks=(17, 23, 11), **params):
    """Check that a fit to Dask arrays, in different chunks, is that to the arrays."""
    expected = fit_quietly(estimator(**params), X, y, groups)
    arguments = (in_chunks(*each) for each in zip((X, y, groups), chunks, strict=True))
    found = fit_quietly(estimator(**params), *arguments)
    return assert_same(found, expected)


def fit_quietly(estimator, X, y, groups=None, **weights):
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "L-BFGS did not converge|No prompt|X has rows"
        )
        return estimator.fit(X, y, groups, **weights)


def assert_same(found, expected):
    assert found.coef_.dtype == expected.coef_.dtype
    rtol = 1e-6 if expected.coef_.dtype == np.float64 else 1e-3
    for name in ("coef_", "intercept_"):
        value = getattr(expected, name)
        atol = rtol * np.max(np.abs(value), initial=1e-9)
        assert_allclose(getattr(found, name), value, atol=atol, err_msg=name)
    for name in ("n_iter_", "n_skipped_prompts_", "n_features_in_"):
        assert_allclose(getattr(found, name), getattr(expected, name), err_msg=name)
    fitted = {name for name in vars(expected) if name.endswith("_")}
    assert fitted == {name for name in vars(found) if name.endswith("_")}
    return found


def ragged(rng, n_prompts=60, d=5):
    """Sorted rows of prompts of 1 to 8 candidates, with labels that are strings."""
    sizes = rng.integers(1, 9, n_prompts)
    X = rng.normal(size=(sizes.sum(), d)) * np.geomspace(0.1, 10, d)
    y = (3 * X[:, 0] + rng.normal(size=len(X)) > 0).astype(float)
    return X, y, np.repeat([f"prompt {i}" for i in range(n_prompts)], sizes)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("loss", LOSSES)
def test_sets(loss, dtype, sets):
    X, y = sets
    assert_same_fit(QProbePolicy, X.astype(dtype), y, loss=loss)


@pytest.mark.parametrize("loss", CLOSED_FORM)
@pytest.mark.parametrize("solver", ["closed_form", "lbfgs"])
@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_least_squares(loss, solver, alpha, sets):
    settings = {"loss": loss, "solver": solver, "alpha": alpha}
    assert_same_fit(QProbePolicy, *sets, **settings)
    assert_same_fit(QProbePolicy, *sets, fit_intercept=False, **settings)


@pytest.mark.parametrize("chunks", [(7, 50, 11), (1000, 1000, 1000), (1, 2, 3)])
@pytest.mark.parametrize("loss", ["log_loss", "pairwise_hinge"])
def test_rows_whose_prompts_span_chunks(loss, chunks, rng):
    """Prompts at the ends of chunks move to the chunk before."""
    assert_same_fit(QProbePolicy, *ragged(rng, 20), chunks, loss=loss)


@pytest.mark.parametrize(
    "settings",
    [
        {"n_candidates": 3, "random_state": 0},
        {"standardize": True},
        {"standardize": True, "fit_intercept": False},
        {"view_sizes": (2, 3), "view_weights": (1.0, 25.0)},
        {"missing": "ignore"},
    ],
)
@pytest.mark.parametrize("loss", ["log_loss", "policy_gradient", "squared_error"])
def test_settings_and_weights(loss, settings, rng):
    X, y, groups = ragged(rng)
    weight = rng.integers(0, 3, len(X)).astype(float)
    weight[:40] = 0  # a chunk without any weight
    if "missing" in settings:
        y[rng.random(len(y)) < 0.2] = np.nan
    arguments = X, y, groups, weight
    *data, chunked = (in_chunks(each, 25) for each in arguments)
    expected = QProbePolicy(loss, **settings).fit(X, y, groups, sample_weight=weight)
    found = QProbePolicy(loss, **settings).fit(*data, sample_weight=chunked)
    assert_same(found, expected)


@pytest.mark.parametrize("loss", ["squared_error", "log_loss", "pairwise_logistic"])
def test_vector_rewards(loss, sets):
    X, y = sets
    assert_same_fit(QProbePolicy, X, np.stack([y, 1 - y / 2], axis=-1), loss=loss)


@pytest.mark.parametrize("loss", ["squared_error", "log_loss"])
def test_rows_without_groups(loss, rows):
    X, y, _ = rows
    found = assert_same_fit(QProbeRegressor, X, y, loss=loss)
    assert found.coef_.any()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("loss", ["pairwise_logistic", "squared_error"])
def test_fewer_rows_than_features(loss, dtype, rng):
    """They are copied to the client."""
    X, y = rng.normal(size=(20, 3, 80)).astype(dtype), rng.random((20, 3))
    assert_same_fit(QProbePolicy, X, y, loss=loss)


@pytest.mark.parametrize("loss", ["log_loss", "policy_gradient", "squared_error"])
def test_offset_of_the_columns_in_float32(loss, sets):
    X, y = sets
    X = (X + 1e4).astype(np.float32)
    assert_same_fit(QProbePolicy, X, y, loss=loss)


@pytest.mark.parametrize("loss", ["log_loss", "pairwise_logistic"])
@pytest.mark.parametrize("layout", ["sets", "rows"])
def test_sampled_moments(loss, layout, rng, monkeypatch):
    """With many features, the sample of rows is that of one process."""
    monkeypatch.setattr(preconditioner, "FULL_FEATURES", 0)
    monkeypatch.setattr(preconditioner, "N_SAMPLED", 40)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 300)
    X, y, groups = ragged(rng)
    if layout == "sets":
        X, y, groups = X[:100].reshape(25, 4, 5), y[:100].reshape(25, 4), None
    assert_same_fit(QProbePolicy, X, y, groups, (9, 9, 9), loss=loss)


def test_repeated_fits_are_equal_to_the_bit(sets):
    X, y = (in_chunks(each, 13) for each in sets)
    first, second = (QProbePolicy("policy_gradient").fit(X, y) for _ in range(2))
    np.testing.assert_array_equal(first.coef_, second.coef_)
    with dask.config.set(scheduler="threads", num_workers=3):
        third = QProbePolicy("policy_gradient").fit(X, y)
    np.testing.assert_array_equal(first.coef_, third.coef_)


def test_warm_start_and_verbose(sets, capsys):
    X, y = (in_chunks(each, 20) for each in sets)
    policy = QProbePolicy(warm_start=True, verbose=1).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == policy.n_iter_ and "[QProbePolicy] objective" in lines[0]
    assert policy.fit(X, y).n_iter_ <= policy.n_iter_


def test_warm_start_begins_at_the_last_fit(sets):
    X, y = sets
    fitted = [QProbePolicy("log_loss", warm_start=True, max_iter=2) for _ in range(2)]
    for _ in range(2):
        found, expected = (
            fit_quietly(each, data, y)
            for each, data in zip(fitted, (in_chunks(X, 20), X), strict=True)
        )
        assert_same(found, expected)
    with pytest.raises(ValueError, match="warm_start=True: X has 3 features"):
        found.fit(in_chunks(X[..., :3], 20), y)


# Cross-validation


def assert_same_search(X, y, groups=None, weight=None, **params):
    """Check that a search on Dask arrays is that on the arrays."""
    arguments = [in_chunks(each, 23) for each in (X, y, groups, weight)]
    expected = QProbePolicyCV(**params).fit(X, y, groups, sample_weight=weight)
    *arguments, chunked = arguments
    found = QProbePolicyCV(**params).fit(*arguments, sample_weight=chunked)
    assert_same(found, expected)
    assert found.best_params_ == expected.best_params_
    atol = 1e-8 if X.dtype == np.float64 else 1e-3
    for name, values in expected.cv_results_.items():
        if "score" in name or "held_out" in name:
            assert_allclose(found.cv_results_[name], values, atol=atol, err_msg=name)
    return found, expected


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "losses",
    [None, ["log_loss"], ["pairwise_hinge"], ["squared_error", "policy_gradient"]],
)
def test_search(losses, dtype, sets):
    X, y = sets
    settings = {"alphas": (1.0, 0.1, 1e-3), "temperatures": (0.0, 0.3)}
    assert_same_search(X.astype(dtype), y, losses=losses, **settings)


@pytest.mark.parametrize("missing", ["raise", "ignore"])
def test_search_of_rows_with_weights(missing, rng):
    X, y, groups = ragged(rng)
    weight = rng.random(len(y)) * (rng.random(len(y)) < 0.8)
    weight[:30] = 0
    if missing == "ignore":
        y[rng.random(len(y)) < 0.2] = np.nan
    losses = ["log_loss", "contrastive_policy_gradient"]
    settings = {"losses": losses, "missing": missing, "alphas": (1.0, 0.1, 0.01)}
    assert_same_search(X, y, groups, weight, select_alpha="loss", **settings)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("loss", ["log_loss", "pairwise_hinge"])
def test_fold_that_trains_on_weights_of_0(loss, dtype, sets):
    X, y = sets
    weight = np.ones_like(y)
    weight[:20] = 0
    cv = [(np.arange(20), np.arange(20, 60)), (np.arange(30, 60), np.arange(30))]
    cv.append((np.arange(40), np.arange(40, 60)))
    settings = {"losses": [loss], "alphas": (1.0, 0.1), "select_alpha": "loss"}
    assert_same_search(X.astype(dtype), y, None, weight, cv=cv, **settings)


@pytest.mark.parametrize("max_rows", [40, 2**15])
def test_search_chooses_weights_of_views(max_rows, rng, monkeypatch):
    monkeypatch.setattr(_view_search, "MAX_ROWS", max_rows)
    X, y, groups = ragged(rng)
    weight = np.where(groups == "prompt 3", 0.0, 1.0)
    settings = {"view_sizes": (2, 3), "standardize": True, "losses": ["log_loss"]}
    found, expected = assert_same_search(X, y, groups, weight, **settings)
    assert found.view_weights_ == pytest.approx(expected.view_weights_)


@pytest.mark.parametrize("n_candidates", [None, 3])
def test_weights_of_0_where_rewards_are_known(n_candidates, sets):
    X, y = sets
    weight = np.where(np.arange(60) < 20, 0.0, 1.0)
    y[20:] = np.nan
    settings = {"missing": "ignore", "n_candidates": n_candidates}
    for each in (X, in_chunks(X, 25)):
        for weights in (weight, np.repeat(weight[:, None], y.shape[1], axis=1)):
            with pytest.raises(ValueError, match="No candidate has a reward and a "):
                QProbePolicy(**settings).fit(each, y, sample_weight=weights)


def test_sets_of_one_candidate(sets):
    X, y = sets
    for each in (X, in_chunks(X, 25)):
        with pytest.warns(UserWarning, match="No prompt is informative"):
            found = QProbePolicy("policy_gradient", n_candidates=1).fit(each, y)
        assert not found.coef_.any()


@pytest.mark.parametrize("cv", [3, KFold(4, shuffle=True, random_state=0), "indices"])
def test_search_of_several_rewards(cv, sets):
    X, y = sets
    if cv == "indices":
        cv = [(np.arange(40), np.arange(30, 60)), (np.arange(20, 60), np.arange(20))]
    several = np.stack([y, 1 - y / 2], axis=-1)
    settings = {"losses": ["squared_error", "log_loss"], "objective_weights": [2, -1]}
    assert_same_search(X, several, cv=cv, select_alpha="loss", **settings)


@pytest.mark.parametrize("d", [60, 400])
def test_search_with_few_rows(d, rng):
    X, y = rng.normal(size=(20, 4, d)), rng.random((20, 4))
    assert_same_search(X, y, losses=["squared_error", "pairwise_logistic"])


def test_what_a_search_refuses(sets, rows):
    X, y = (in_chunks(each, 23) for each in sets)
    with pytest.raises(ValueError, match="scoring is called with numpy arrays"):
        QProbePolicyCV(scoring=lambda *_: 0.0).fit(X, y)
    with pytest.raises(ValueError, match="cv cannot split prompts"):
        QProbePolicyCV(cv=GroupKFold(3)).fit(X, y)
    with pytest.raises(ValueError, match="no splits"):
        QProbePolicyCV(cv=[]).fit(X, y)
    weight = np.ones(60)
    weight[:12] = 0
    with pytest.raises(ValueError, match="zero for all prompts that a fold"):
        QProbePolicyCV().fit(X, y, sample_weight=weight)
    X, y, groups = ragged(np.random.default_rng(0))
    with pytest.raises(ValueError, match="cv must be the number of folds for rows"):
        QProbePolicyCV(cv=KFold(3)).fit(in_chunks(X, 50), y, groups)


# Posterior


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("d", [4, 90])
def test_posterior_of_rewards(d, dtype, rng):
    """Also of parts with fewer rows than features, or without an informative prompt."""
    X, y = rng.normal(size=(40, 4, d)).astype(dtype), rng.random((40, 4))
    y[:7] = y[:7, :1]
    expected = BayesianQProbePolicy().fit(X, y)
    found = BayesianQProbePolicy().fit(in_chunks(X, 7), in_chunks(y, 9))
    rtol = 1e-6 if dtype == np.float64 else 1e-3
    for name in ("alpha_", "noise_variance_", "log_evidence_", "n_skipped_prompts_"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=rtol)
    atol = rtol * abs(expected.coef_).max()
    assert_allclose(found.coef_, expected.coef_, atol=atol)
    assert found.coef_.dtype == dtype
    std = [each.decision_function(X, return_std=True)[1] for each in (found, expected)]
    assert_allclose(*std, rtol=rtol)
    lazy = found.decision_function(in_chunks(X, 7))
    assert_allclose(lazy, found.decision_function(X), atol=atol)


def test_posterior_of_small_weights(rng):
    """Less than two copies in all prompts of a part are no error of all."""
    X, y, weight = rng.normal(size=(10, 4, 3)), rng.random((10, 4)), np.ones((10, 4))
    weight[:5] = 0.25
    expected = BayesianQProbePolicy().fit(X, y, sample_weight=weight)
    found = BayesianQProbePolicy().fit(in_chunks(X, 5), y, sample_weight=weight)
    assert found.n_skipped_prompts_ == expected.n_skipped_prompts_ == 5
    assert_allclose(found.coef_, expected.coef_)
    with pytest.raises(ValueError, match="sums to at most 1 in every prompt"):
        BayesianQProbePolicy().fit(in_chunks(X, 5), y, sample_weight=weight / 4)


def test_what_a_posterior_refuses(sets):
    X, y = (in_chunks(each, 23) for each in sets)
    with pytest.raises(ValueError, match=r"likelihood='choice' needs.*X\.compute"):
        BayesianQProbePolicy("choice").fit(X, y)
    for estimator in (BayesianQProbePolicy(), QProbePolicy("squared_error")):
        estimator.partial_fit(*sets)
        with pytest.raises(ValueError, match=r"partial_fit takes data in memory"):
            estimator.partial_fit(X, y)
    policy = BayesianQProbePolicy().fit(X, y)
    with pytest.raises(ValueError, match="X is a Dask collection"):
        policy.decision_function(X, return_std=True)


# Data frames


def test_frames(rng):
    import pandas as pd

    X, y, groups = ragged(rng)
    names = [f"x{i}" for i in range(5)]
    frame = pd.DataFrame(X, columns=names)
    expected = QProbePolicy().fit(frame, y, groups)
    data = dd.from_pandas(frame.assign(y=y, group=groups), npartitions=4)
    found = QProbePolicy().fit(data[names], data["y"], data["group"])
    assert_same(found, expected)
    assert found.feature_names_in_.tolist() == names
    unknown = data[names].to_dask_array()
    assert np.isnan(unknown.shape[0])
    assert_same_fit(QProbePolicy, X, y, groups)
    assert_allclose(QProbePolicy().fit(unknown, y, groups).coef_, expected.coef_)
    assert np.isnan(unknown.shape[0])  # the array of the user is as it was


def test_named_rewards(rng):
    import pandas as pd

    X, y, groups = ragged(rng)
    rewards = pd.DataFrame({"right": y, "short": 1 - y / 3})
    expected = QProbePolicy().fit(X, rewards, groups)
    lazy, dicts = dd.from_pandas(rewards, npartitions=3), rewards.to_dict("records")
    for each in (lazy, rewards, dicts, np.array(dicts)):
        found = QProbePolicy().fit(in_chunks(X, 50), each, groups)
        assert_same(found, expected)
        assert found.objective_names_.tolist() == ["right", "short"]
    with pytest.raises(ValueError, match=r"y is a Dask array of dicts.*data frame"):
        QProbePolicy().fit(in_chunks(X, 50), in_chunks(np.array(dicts), 50), groups)


@pytest.mark.parametrize("dtype", ["Float64", "Int64", "boolean", "float64[pyarrow]"])
def test_frames_with_missing_values(dtype, rng):
    import pandas as pd

    pytest.importorskip("pyarrow")
    X, y, groups = ragged(rng)
    frame = pd.DataFrame(X.round()).rename(columns=str)
    if dtype == "boolean":
        frame = frame > 0
    frame["0"] = frame["0"].astype(dtype)
    found = QProbePolicy().fit(dd.from_pandas(frame, npartitions=3), y, groups)
    assert_same(found, QProbePolicy().fit(frame, y, groups))
    frame.loc[30, "0"] = None
    for each in (frame, dd.from_pandas(frame, npartitions=3)):
        with pytest.raises(ValueError, match="Input X contains NaN"):
            QProbePolicy().fit(each, y, groups)


def test_named_columns_of_candidates(sets):
    """A data frame of rewards has a column per candidate, not per objective."""
    import pandas as pd

    X, y = sets
    frame = pd.DataFrame(y).rename(columns=str)
    for rewards in (frame, dd.from_pandas(frame, npartitions=2)):
        found = QProbePolicy().fit(in_chunks(X, 17), rewards)
        assert_same(found, QProbePolicy().fit(X, frame))


def test_shuffled_frames(rng):
    import pandas as pd

    X, y, groups = ragged(rng)
    order = rng.permutation(len(X))
    frame = pd.DataFrame(X[order]).assign(y=y[order], group=groups[order])
    data = dd.from_pandas(frame, npartitions=4)
    with pytest.raises(
        ValueError, match=r"\d+ of 60 prompts have rows in several.*shuffle"
    ):
        QProbePolicy().fit(data[list(range(5))], data["y"], data["group"])
    shuffled = data.shuffle("group")
    with pytest.raises(ValueError, match=r"order may differ.*persist"):
        QProbePolicy().fit(shuffled[list(range(5))], data["y"], data["group"])
    kept = shuffled.persist()
    found = QProbePolicy().fit(kept[list(range(5))], kept["y"], kept["group"])
    same = kept.compute()
    X, y, groups = same[list(range(5))].to_numpy(), same["y"], same["group"]
    assert_same(found, QProbePolicy().fit(X, y, groups))


# Refusals


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda X, y: (X, None), "requires y to be passed"),
        (lambda X, y: (X, y[:-1]), r"y has shape \(59, 6\), but X holds 60 sets"),
        (lambda X, y: (X[..., 0, 0], y), "X has 1 dimensions"),
        (lambda X, y: (X[:0], y[:0]), "X has no candidates"),
        (lambda X, y: (X, y * np.nan), "Input y contains NaN"),
        (lambda X, y: (da.where(X > 2, np.nan, X), y), "Input X contains NaN"),
        (lambda X, y: (X * 1e200, y), "X has numbers of up to"),
        (lambda X, y: (X * 1e-200, y), "X has numbers of up to"),
        (lambda X, y: (X, y * 1e-200), "y has numbers of up to"),
        (lambda X, y: (X, -y), "log_loss"),
        (
            lambda X, y: (da.full(X.shape, "word", dtype="U4"), y),
            "could not convert string",
        ),
    ],
)
def test_bad_input(change, words, sets):
    X, y = (in_chunks(each, 23) for each in sets)
    policy = QProbePolicy("log_loss").fit(X, y)
    before = policy.coef_.copy()
    with pytest.raises((ValueError, TypeError), match=words):
        policy.fit(*change(X, y))
    np.testing.assert_array_equal(policy.coef_, before)


def test_errors_name_the_partition(sets):
    X, y = sets
    y[30, 2] = np.nan
    with pytest.raises(ValueError, match=r"partition that begins at X\[20\]"):
        QProbePolicy().fit(in_chunks(X, 20), in_chunks(y, 60))


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (np.zeros(60), "zero everywhere"),
        (-np.ones(60), "negative"),
        (np.ones(3), "shape"),
    ],
)
def test_bad_weights(weight, words, sets):
    X, y = (in_chunks(each, 23) for each in sets)
    with pytest.raises(ValueError, match=words):
        QProbePolicy().fit(X, y, sample_weight=weight)


def test_missing_rewards_everywhere(sets):
    X, y = (in_chunks(each, 23) for each in sets)
    with pytest.raises(ValueError, match="NaN everywhere"):
        QProbePolicy(missing="ignore").fit(X, y * np.nan)


def test_what_needs_one_process(sets):
    X, y = (in_chunks(each, 23) for each in sets)
    pytest.importorskip("torch")
    with pytest.raises(ValueError, match=r"Hidden layers.*X\.compute\(\)"):
        QProbePolicy(hidden_layer_sizes=(4,)).fit(X, y)
    with pytest.raises(ValueError, match=r"y is a Dask collection.*y\.compute\(\)"):
        QProbePolicy().fit(sets[0], y)


def test_nothing_to_learn(sets):
    X, y = (in_chunks(each, 23) for each in sets)
    with pytest.warns(UserWarning, match="No prompt is informative"):
        policy = QProbePolicy().fit(X, da.zeros_like(y))
    assert not policy.coef_.any()


def test_large_folds_of_few_rows_are_not_gathered(rng, monkeypatch):
    monkeypatch.setattr(distributed, "GATHERED_BYTES", 100)
    X, y = rng.normal(size=(20, 3, 80)), rng.random((20, 3))
    with pytest.raises(ValueError, match="too large"):
        QProbePolicy("squared_error").fit(in_chunks(X, 7), in_chunks(y, 7))


def test_nothing_of_dask_is_imported_before_a_collection_comes_in():
    code = (
        "import sys, numpy as np, skqprobe; X = np.ones((4, 2, 3)); X[:, 0] = 0;"
        "y = X[..., 0]; policy = skqprobe.QProbePolicy().fit(X, y); policy.score(X, y);"
        "assert not {'dask', 'distributed'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
