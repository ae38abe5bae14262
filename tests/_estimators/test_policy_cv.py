import tracemalloc

import numpy as np
import pytest
from cases import LEAST_SQUARES, as_rows
from estimators import assert_refused
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    PredefinedSplit,
    ShuffleSplit,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy, QProbePolicyCV
from skqprobe.losses import LOSSES, PairwiseHinge, get_loss
from skqprobe.metrics import best_of_k_scorer
from skqprobe.preprocessing import PerCandidate

ALPHAS, TEMPERATURES = (1.0, 0.1, 1e-3), (0.0, 0.3)
SEVERAL = ["squared_error", "policy_gradient", PairwiseHinge(0.5), "log_loss"]


def grid_search(losses, **options):
    grid = {"loss": losses, "alpha": ALPHAS, "temperature": TEMPERATURES}
    return GridSearchCV(QProbePolicy(tol=1e-6), grid, **options)


def policy_cv(losses, **options):
    settings = {"alphas": ALPHAS, "temperatures": TEMPERATURES, "tol": 1e-6}
    return QProbePolicyCV(losses, **settings | options)


def assert_same_search(policy, search):
    found, expected = policy.cv_results_, search.cv_results_
    assert found["params"] == expected["params"]
    assert set(found) == {name for name in expected if not name.endswith("_time")}
    for name in found:
        if name.startswith("param_"):
            assert found[name].tolist() == expected[name].tolist()
        elif name.endswith("test_score") and not name.startswith("rank"):
            assert_allclose(found[name], expected[name], atol=2e-3)
    for name in ("best_params_", "best_index_", "n_splits_"):
        assert getattr(policy, name) == getattr(search, name)
    assert policy.best_score_ == pytest.approx(search.best_score_, abs=1e-3)
    best = search.best_estimator_
    assert_allclose(policy.coef_, best.coef_, rtol=1e-6)
    assert policy.intercept_ == pytest.approx(best.intercept_)
    assert policy.n_iter_ == best.n_iter_


# The result is that of a grid search


@pytest.mark.parametrize(
    ("losses", "options"),
    [
        *(([loss], {"cv": 5}) for loss in LOSSES),
        (SEVERAL, {"cv": KFold(3, shuffle=True, random_state=0)}),
        (SEVERAL, {"cv": ShuffleSplit(4, random_state=0)}),
        (["log_loss"], {"cv": 5, "scoring": best_of_k_scorer(3)}),
    ],
)
def test_sets(losses, options, sets):
    policy = policy_cv(losses, **options).fit(*sets)
    assert_same_search(policy, grid_search(losses, **options).fit(*sets))
    assert policy.loss_ is policy.best_params_["loss"]
    assert policy.alpha_ == policy.best_params_["alpha"]
    assert policy.temperature_ == policy.best_params_["temperature"]


@pytest.mark.parametrize("loss", ["contrastive_policy_gradient", "log_loss"])
def test_rows_with_a_splitter_of_groups(loss, rows):
    X, y, groups = rows
    cv = GroupKFold(4, shuffle=True, random_state=0)
    with config_context(enable_metadata_routing=True):
        expected = grid_search([loss], cv=cv).fit(X, y, groups=groups)
    assert_same_search(policy_cv([loss], cv=cv).fit(X, y, groups), expected)


@pytest.mark.parametrize("value", [0.0, 3.3, 1e30])
@pytest.mark.parametrize("loss", LEAST_SQUARES)
def test_constant_column(loss, value, sets):
    X, y = sets
    X[..., 1] = value
    alphas = (0.0, 1e-12, 0.1)
    search = policy_cv([loss], cv=4, alphas=alphas).fit(X, y)
    grid = {"alpha": alphas, "temperature": TEMPERATURES}
    expected = GridSearchCV(QProbePolicy(loss), grid, cv=4).fit(X, y)
    found, expected = (s.cv_results_["mean_test_score"] for s in (search, expected))
    assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("loss", LEAST_SQUARES)
@pytest.mark.parametrize(("dtype", "atol"), [("f8", 1e-6), ("f4", 1e-3)])
@pytest.mark.parametrize("d", [50, 75, 300])  # at 75, all rows are 80
def test_folds_with_fewer_rows_than_features(loss, dtype, atol, d, rng):
    X = rng.normal(loc=5, size=(20, 4, d)) * rng.lognormal(sigma=3, size=d)
    X, y = X.astype(dtype), rng.normal(size=(20, 4))
    alphas = [1e3, 1.0, 1e-3, 1e-8, 0.0] if dtype == "f8" else [1e3, 1.0, 1e-3]
    policy = QProbePolicyCV([loss], alphas=alphas, cv=4, temperatures=[0.5]).fit(X, y)
    for i, alpha in enumerate(alphas):
        single = QProbePolicy(loss, alpha=alpha, temperature=0.5)
        scores = cross_val_score(single, X, y, cv=4)
        found = [policy.cv_results_[f"split{fold}_test_score"][i] for fold in range(4)]
        assert_allclose(found, scores, atol=atol)
    best = QProbePolicy(loss, alpha=policy.alpha_).fit(X, y)
    rtol = 1e-9 if dtype == "f8" else 1e-5
    assert_allclose(policy.coef_, best.coef_, rtol=rtol, atol=rtol)


def test_few_rows_need_no_square_matrix_of_features(rng):
    """At d = 20,000 it would need 3 GiB."""
    X, y = rng.normal(size=(20, 4, 20_000)).astype("f4"), rng.normal(size=(20, 4))
    tracemalloc.start()
    QProbePolicyCV(["squared_error"], alphas=[1.0, 0.1], cv=3).fit(X, y)
    assert tracemalloc.get_traced_memory()[1] < 20 * X.nbytes
    tracemalloc.stop()


# Layouts, weights and dtypes


@pytest.mark.parametrize("loss", LOSSES)
def test_sets_and_rows_agree(loss, sets, rng):
    X, y, groups = as_rows(*sets)
    of_sets = policy_cv([loss]).fit(*sets)
    of_rows = policy_cv([loss]).fit(X, y, groups)
    for name in ("mean_test_score", "rank_test_score"):
        assert_allclose(of_rows.cv_results_[name], of_sets.cv_results_[name])
    assert_allclose(of_rows.coef_, of_sets.coef_)
    # Folds are of prompts in order of first appearance, in any order of the rows.
    order = np.lexsort((rng.random(len(groups)), groups % 2 == 0, groups))
    shuffled = policy_cv([loss]).fit(X[order], y[order], groups[order])
    name = "mean_test_score"
    assert_allclose(shuffled.cv_results_[name], of_sets.cv_results_[name], atol=1e-3)


@pytest.mark.parametrize("loss", ["squared_error", "pairwise_logistic"])
def test_weights_are_copies(loss, sets, rng):
    X, y = sets
    weight, fold = rng.integers(0, 3, len(X)), np.arange(60) % 3
    folds = fold, np.repeat(fold, weight)
    weighted, expected = (policy_cv([loss], cv=PredefinedSplit(f)) for f in folds)
    weighted.fit(X, y, sample_weight=weight)
    expected.fit(np.repeat(X, weight, axis=0), np.repeat(y, weight, axis=0))
    for name in ("split0_test_score", "mean_test_score"):
        found = weighted.cv_results_[name]
        assert_allclose(found, expected.cv_results_[name], atol=1e-3)
    assert_allclose(weighted.coef_, expected.coef_, rtol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("loss", ["squared_error", "pairwise_logistic"])
def test_low_precision(loss, dtype, sets):
    X, y = sets[0].astype(dtype), sets[1]
    policy, expected = (policy_cv([loss]).fit(a, y) for a in (X, X.astype(float)))
    assert policy.coef_.dtype == np.float32
    assert_allclose(policy.coef_, expected.coef_, rtol=1e-2, atol=1e-4)


# Selection of the penalty by the held-out loss


def held_out_loss(probe, loss, X, y, groups):
    """Mean loss per prompt, prompt by prompt."""
    scores, values = probe.decision_function(X), []
    for group in np.unique(groups):
        of_prompt = groups == group
        offsets = np.array([0, of_prompt.sum()])
        data = scores[of_prompt].astype(float), y[of_prompt], offsets, None
        values.extend(get_loss(loss).value_and_gradient(*data)[0])
    return np.mean(values)


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("loss", ["log_loss", "pairwise_logistic", "policy_gradient"])
def test_held_out_losses(loss, standardize, fit_intercept, rows):
    X, y, groups = rows
    X, cv = X + 3, GroupKFold(3)
    settings = {"standardize": standardize, "fit_intercept": fit_intercept}
    search = policy_cv([loss], cv=cv, select_alpha="loss", **settings)
    results = search.fit(X, y, groups).cv_results_
    mean, scale = (X.mean(axis=0), X.std(axis=0)) if standardize else (0, 1)
    Z = (X - mean) / scale
    for i, (train, test) in enumerate(cv.split(X, y, groups)):
        for j, params in enumerate(results["params"]):
            probe = QProbePolicy(**params, tol=1e-6, fit_intercept=fit_intercept)
            probe.fit(Z[train], y[train], groups[train])
            expected = held_out_loss(probe, loss, Z[test], y[test], groups[test])
            found = results[f"split{i}_held_out_loss"][j]
            assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)
    every = [results[f"split{i}_held_out_loss"] for i in range(3)]
    assert_allclose(results["mean_held_out_loss"], np.mean(every, axis=0))


def test_largest_penalty_within_a_standard_error(sets):
    X, y = sets
    losses = ["log_loss", "policy_gradient"]
    search = policy_cv(losses, select_alpha="loss", alphas=(1e-3, 0.1, 1.0)).fit(X, y)
    results, selected = search.cv_results_, []
    for loss in losses:
        of_loss = [
            i
            for i, params in enumerate(results["params"])
            if params["loss"] == loss and params["temperature"] == 0
        ]
        split = [
            [results[f"split{j}_held_out_loss"][i] for j in range(5)] for i in of_loss
        ]
        best = split[np.argmin(np.mean(split, axis=1))]
        allowed = [
            results["params"][i]["alpha"]
            for i, each in zip(of_loss, split, strict=True)
            if np.mean(np.subtract(each, best))
            <= np.std(np.subtract(each, best), ddof=1) / np.sqrt(5)
        ]
        selected.append({"loss": loss, "alpha": max(allowed)})
    scores = {
        i: results["mean_test_score"][i]
        for i, params in enumerate(results["params"])
        if {"loss": params["loss"], "alpha": params["alpha"]} in selected
    }
    assert len(scores) == 4  # two temperatures each
    assert search.best_index_ == max(scores, key=scores.get)
    assert search.best_score_ == scores[search.best_index_]
    assert {**search.best_params_} == results["params"][search.best_index_]
    plain = policy_cv(losses, alphas=(1e-3, 0.1, 1.0)).fit(X, y)
    assert_array_equal(plain.cv_results_["mean_test_score"], results["mean_test_score"])
    assert "mean_held_out_loss" not in plain.cv_results_


def test_one_fold_has_no_standard_error(sets):
    X, y = sets
    cv = ShuffleSplit(1, random_state=0)
    search = policy_cv(["log_loss"], cv=cv, select_alpha="loss").fit(X, y)
    best = search.cv_results_["mean_held_out_loss"].argmin()
    assert search.alpha_ == search.cv_results_["params"][best]["alpha"]


# The fitted policy


def test_is_the_policy_of_the_best_settings(sets):
    X, y = sets
    policy = policy_cv(["log_loss", "policy_gradient"], random_state=0).fit(X, y)
    assert policy.n_splits_ == 5  # the default
    plain = QProbePolicy(**policy.best_params_, tol=1e-6, random_state=0).fit(X, y)
    for method in ("decision_function", "predict", "predict_proba", "sample"):
        assert_array_equal(getattr(policy, method)(X), getattr(plain, method)(X))
    assert_array_equal(policy.sample(X, size=3), plain.sample(X, size=3))
    assert policy.score(X, y) == plain.score(X, y)
    assert policy.n_skipped_prompts_ == plain.n_skipped_prompts_
    assert_array_equal(clone(policy).fit(X, y).coef_, policy.coef_)


def test_first_of_equal_settings_is_best(sets):
    X, y = sets
    # Every choice has the same reward.
    with pytest.warns(UserWarning, match="No prompt is informative"):
        policy = policy_cv(["policy_gradient", "pairwise_hinge"]).fit(X, 0 * y)
    expected = {"alpha": 1.0, "loss": "policy_gradient", "temperature": 0.0}
    assert policy.best_params_ == expected
    # Rows without groups have no score.
    with pytest.warns(UserWarning, match="no groups were given"):
        policy = policy_cv(["policy_gradient"]).fit(X[:, 0], y[:, 0])
    assert np.isnan(policy.best_score_)
    assert_array_equal(policy.coef_, 0)


@pytest.mark.parametrize(
    ("low", "expected"),
    [
        (0, {"pairwise_logistic", "log_loss"}),
        (-1, {"pairwise_logistic", "contrastive_policy_gradient"}),
    ],
)
def test_default_losses_depend_on_the_range_of_rewards(sets, low, expected):
    X, y = sets
    policy = QProbePolicyCV(alphas=[0.1, 0.01]).fit(X, np.where(y > 0, y, low))
    assert {params["loss"] for params in policy.cv_results_["params"]} == expected


def test_without_refit(sets):
    X, y = sets
    policy = policy_cv(["squared_error"], refit=False).fit(X, y)
    assert policy.best_params_["loss"] == "squared_error"
    assert policy.n_features_in_ == 4
    with pytest.raises(ValueError, match="not fitted yet"):
        policy.predict(X)
    policy.set_params(refit=True).fit(X, y).predict(X)
    policy.set_params(refit=False).fit(X, y)
    assert not hasattr(policy, "coef_")


# Warnings and errors


def test_convergence_warning(sets):
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        QProbePolicyCV(["log_loss"], max_iter=2).fit(*sets)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("losses", [], "losses is empty"),
        ("alphas", (), "alphas is empty"),
        ("losses", ["hinge"], "losses must hold.*got 'hinge'"),
        ("losses", "log_loss", "losses"),
        ("alphas", [1, -1], "alphas must be finite numbers of 0 or more; got -1"),
        ("alphas", [np.nan], "alphas must be finite"),
        ("temperatures", [-0.5], "temperature must be a number of 0 or more"),
        ("cv", 100, "n_splits=100"),
    ],
)
def test_bad_settings_leave_the_last_fit_unchanged(name, value, message, sets):
    policy = policy_cv(["squared_error"]).fit(*sets).set_params(**{name: value})
    assert_refused(policy.fit, message, *sets)


def test_bad_rewards(sets):
    X, y = sets
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        policy_cv(["squared_error", "log_loss"]).fit(X, 2 * y)
    with pytest.raises(ValueError, match="requires y to be passed"):
        policy_cv(["squared_error"]).fit(X, None)


@pytest.mark.parametrize(
    ("loss", "n_features"),
    [("squared_error", 6), ("squared_error", 200), ("pairwise_logistic", 6)],
)
def test_repeated_indices_count_as_often(loss, n_features, rng):
    X, y = rng.normal(size=(30, 4, n_features)), rng.normal(size=(30, 4))
    cv = [
        (rng.integers(0, 20, 25), np.r_[20:30, 20:25]),
        (rng.integers(10, 30, 25), np.arange(10)),
    ]
    options = {"temperatures": [0.5], "tol": 1e-8, "cv": cv}
    search = QProbePolicyCV([loss], alphas=ALPHAS, **options).fit(X, y)
    for i, alpha in enumerate(ALPHAS):
        policy = QProbePolicy(loss, alpha=alpha, temperature=0.5, tol=1e-8)
        expected = cross_val_score(policy, X, y, cv=cv)
        found = [search.cv_results_[f"split{fold}_test_score"][i] for fold in (0, 1)]
        assert_allclose(found, expected, rtol=1e-6)


def test_repeated_indices_reach_the_scoring(sets):
    X, y = sets
    sizes = []

    def scoring(policy, X, y, groups=None):
        sizes.append(len(y))
        return y.mean()

    cv = [(np.arange(30), np.array([40, 41, 40]))]
    options = {"alphas": [1.0], "cv": cv, "scoring": scoring}
    search = QProbePolicyCV(["log_loss"], **options).fit(X, y)
    assert sizes == [3]
    assert search.best_score_ == pytest.approx(y[[40, 41, 40]].mean())


def test_scores_of_nan(sets):
    search = QProbePolicyCV(["log_loss"], scoring=lambda *arguments: np.nan)
    with pytest.raises(ValueError, match="All settings have a mean score of NaN"):
        search.fit(*sets)


@pytest.mark.parametrize("scale", [1, 1000])
@pytest.mark.parametrize("shape", [(60, 2, 64), (24, 4, 70)])
def test_rank_of_rows_that_are_centered_inside_prompts(shape, scale):
    """Folds have more rows than features, and fewer dimensions."""
    rng = np.random.default_rng(0)
    X, y = scale * rng.normal(size=shape), rng.normal(size=shape[:2])
    loss, cv = "contrastive_policy_gradient", KFold(4)
    search = QProbePolicyCV([loss], cv=cv).fit(X, y)
    for i, alpha in enumerate(search.alphas):
        scores = cross_val_score(QProbePolicy(loss, alpha=alpha), X, y, cv=cv)
        found = [search.cv_results_[f"split{fold}_test_score"][i] for fold in range(4)]
        assert_allclose(found, scores, rtol=1e-6)


def test_a_column_that_is_constant_inside_prompts(rng):
    X, y = rng.normal(size=(40, 3, 2)), rng.normal(size=(40, 3))
    X[..., 1] = 0.1
    for policy in (
        QProbePolicy("contrastive_policy_gradient", alpha=0),
        QProbePolicyCV(["contrastive_policy_gradient"], alphas=[0.0, 1.0]),
    ):
        assert policy.fit(X, y).coef_[1] == 0


@pytest.mark.parametrize(
    ("cv", "message"),
    [
        ([], "cv has no splits"),
        ([([0, 1], [])], "cv has a split without training or without test data"),
        ([([], [1])], "cv has a split without training or without test data"),
    ],
)
def test_splits_without_prompts(sets, cv, message):
    with pytest.raises(ValueError, match=message):
        QProbePolicyCV(cv=cv).fit(*sets)


def test_policies_that_are_scored_have_the_settings(sets):
    policies = []

    def scoring(policy, X, y):
        policies.append(policy)
        return policy.score(X, y)

    options = {"fit_intercept": False, "tol": 1e-3, "max_iter": 50}
    search = QProbePolicyCV(["log_loss"], alphas=[0.1], scoring=scoring, **options)
    search.fit(*sets)
    params = policies[0].get_params()
    assert params["loss"] == "log_loss" and params["alpha"] == 0.1
    assert {name: params[name] for name in options} == options


def test_rows_without_groups_warn(sets):
    X, y = sets
    search = QProbePolicyCV(["squared_error"], alphas=[1.0], cv=3)
    with pytest.warns(UserWarning, match="X has rows but no groups"):
        search.fit(X.reshape(-1, 4), y.ravel())
    assert np.isnan(search.best_score_)


def test_temperature_of_a_fitted_search_can_be_changed(sets):
    X, y = sets
    search = QProbePolicyCV(["log_loss"], alphas=[0.1], cv=3).fit(X, y)
    policy = QProbePolicy("log_loss", alpha=0.1, temperature=0.7).fit(X, y)
    assert search.set_params(temperature=0.7) is search
    assert search.temperature == search.temperature_ == 0.7
    assert_allclose(search.predict_proba(X), policy.predict_proba(X))
    assert search.score(X, y) == pytest.approx(policy.score(X, y))
    draws = [each.sample(X, size=9, random_state=0) for each in (search, policy)]
    assert_array_equal(*draws)
    search.temperature = 0
    assert set(np.unique(search.predict_proba(X))) == {0, 1}
    assert search.best_params_["temperature"] == 0.0
    pipeline = make_pipeline(PerCandidate(StandardScaler()), search).fit(X, y)
    pipeline.set_params(qprobepolicycv__temperature=2, qprobepolicycv__alphas=[1])
    assert pipeline[-1].temperature == 2
    # A parameter of the constructor is for the next fit, which selects again.
    assert "temperature" not in search.get_params()
    assert search.set_params(temperatures=[5.0]).temperature == 2
    assert search.fit(X, y).temperature == 5.0


def test_temperature_before_fit_and_bad_temperature(sets):
    search = QProbePolicyCV(["log_loss"], alphas=[0.1], cv=3)
    with pytest.raises(ValueError, match="temperature is selected by fit"):
        search.set_params(temperature=1)
    search.fit(*sets)
    with pytest.raises(ValueError, match="temperature must be a number of 0 or more"):
        search.set_params(temperature=-1)
    assert search.temperature == 0
    with pytest.raises(ValueError, match="Invalid parameter"):
        search.set_params(no_such=1)
