"""The estimators inside scikit-learn's tools, in both layouts."""

import numpy as np
import pytest
import sklearn
from sklearn import config_context
from sklearn.decomposition import PCA
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.metrics import check_scoring
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    KFold,
    cross_val_predict,
    cross_validate,
    learning_curve,
)
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.fixes import parse_version

from skqprobe import QProbePolicy, QProbeRegressor, sample_candidates
from skqprobe.losses import PairwiseHinge
from skqprobe.preprocessing import PerCandidate

# Before scikit-learn 1.8 the default scorer of a Pipeline does not know that its last
# step asks for groups.
OLD = parse_version(sklearn.__version__) < parse_version("1.8")
SCORING = check_scoring(QProbePolicy()) if OLD else None

GRID = {
    "probe__loss": ["squared_error", "policy_gradient", "pairwise_logistic"],
    "probe__temperature": [0, 0.3],
    "probe__alpha": [1e-2, 1.0],
}


def on_sets():
    return Pipeline(
        [
            ("scale", PerCandidate(StandardScaler())),
            ("reduce", PerCandidate(PCA(3))),
            ("probe", QProbePolicy()),
        ]
    )


def on_rows():
    return Pipeline(
        [("scale", StandardScaler()), ("reduce", PCA(3)), ("probe", QProbePolicy())]
    )


def as_rows(X, y):
    """The rows of sets, and their groups."""
    n_prompts, k, d = X.shape
    return X.reshape(-1, d), y.ravel(), np.repeat(np.arange(n_prompts), k)


def test_search_on_sets_needs_no_groups(sets):
    X, y = sets
    search = GridSearchCV(on_sets(), GRID).fit(X[:40], y[:40])
    assert search.score(X[40:], y[40:]) > y[40:].mean() + 0.1
    assert search.predict(X[40:]).shape == (20,)
    assert search.predict_proba(X[40:]).shape == (20, 6)
    draws = sample_candidates(search.predict_proba(X[40:]), size=3, random_state=0)
    assert draws.shape == (20, 3)


def test_search_on_rows_needs_routing_alone(rows):
    X, y, groups = rows
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(on_rows(), GRID, cv=GroupKFold(3), scoring=SCORING)
        search.fit(X, y, groups=groups)
        assert search.score(X, y, groups=groups) > y.mean() + 0.1
        chosen = search.best_estimator_.predict(X, groups=groups)
    assert len(set(groups[chosen])) == len(chosen) == len(set(groups))


def test_both_layouts_find_the_same(sets):
    X, y = sets
    R, r, groups = as_rows(X, y)
    folds = list(KFold(4, shuffle=True, random_state=0).split(X))
    row_folds = [tuple(np.flatnonzero(np.isin(groups, f)) for f in ab) for ab in folds]
    of_sets = GridSearchCV(on_sets(), GRID, cv=folds).fit(X, y)
    with config_context(enable_metadata_routing=True):
        of_rows = GridSearchCV(on_rows(), GRID, cv=row_folds, scoring=SCORING)
        of_rows.fit(R, r, groups=groups)
        chosen = of_rows.best_estimator_.predict(R, groups=groups)
    assert of_sets.best_params_ == of_rows.best_params_
    for name in ("mean_test_score", "split0_test_score", "std_test_score"):
        np.testing.assert_allclose(
            of_sets.cv_results_[name], of_rows.cv_results_[name], rtol=1e-6
        )
    np.testing.assert_array_equal(of_sets.predict(X), chosen % 6)


def test_one_pipeline_serves_both_layouts(sets):
    X, y = sets
    R, r, groups = as_rows(X, y)
    with config_context(enable_metadata_routing=True):
        pipe = on_sets().fit(R, r, groups=groups)
        proba = pipe.predict_proba(R, groups=groups)
    expected = on_sets().fit(X, y).predict_proba(X)
    np.testing.assert_allclose(proba, expected.ravel(), atol=1e-6)


def test_settings_of_a_loss_are_searched(sets):
    search = GridSearchCV(
        QProbePolicy(loss=PairwiseHinge()), {"loss__margin": [0.1, 1.0]}, cv=3
    )
    margin = search.fit(*sets).best_params_["loss__margin"]
    assert search.best_estimator_.loss.margin == margin


def test_cross_validate(sets):
    result = cross_validate(on_sets(), *sets, cv=4, return_train_score=True)
    assert result["test_score"].shape == (4,)
    assert result["train_score"].mean() > sets[1].mean()


@pytest.mark.parametrize("method", ["decision_function", "predict_proba", "predict"])
def test_cross_val_predict(method, sets):
    X, y = sets
    cv = KFold(4)
    # Rewards that are no class labels: had they been taken for such, the values that
    # come out would be those of a fit to their ranks.
    y = y + np.random.default_rng(1).random(size=y.shape)
    out = cross_val_predict(on_sets(), X, params={"y": y}, cv=cv, method=method)
    for train, test in cv.split(X):
        policy = on_sets().fit(X[train], y[train])
        np.testing.assert_allclose(out[test], getattr(policy, method)(X[test]))


@pytest.mark.parametrize("routing", [False, True])
def test_cross_val_predict_on_rows(routing, rows):
    X, y, groups = rows
    params = {"y": y, "groups": groups}
    to_splitter = {} if routing else {"groups": groups}
    with config_context(enable_metadata_routing=routing):
        out = cross_val_predict(
            QProbePolicy(),
            X,
            params=params,
            cv=GroupKFold(3),
            method="decision_function",
            **to_splitter,
        )
    for train, test in GroupKFold(3).split(X, y, groups):
        policy = QProbePolicy().fit(X[train], y[train], groups[train])
        np.testing.assert_allclose(out[test], policy.decision_function(X[test]))


def test_cross_val_predict_does_not_train_on_ranks(sets):
    with pytest.raises(AttributeError, match=r"ranks of the rewards.*params="):
        cross_val_predict(QProbePolicy(), *sets, method="decision_function")


def test_cross_val_predict_of_a_regressor(sets):
    X, y = sets
    out = cross_val_predict(QProbeRegressor(), X, y, cv=KFold(3))
    train, test = next(iter(KFold(3).split(X)))
    expected = QProbeRegressor().fit(X[train], y[train]).predict(X[test])
    np.testing.assert_allclose(out[test], expected)


def test_halving_search(sets):
    search = HalvingGridSearchCV(
        on_sets(), GRID, cv=3, min_resources=12, random_state=0
    ).fit(*sets)
    assert search.n_iterations_ > 1
    assert search.score(*sets) > sets[1].mean()


def test_learning_curve(sets):
    sizes, _, test_scores = learning_curve(
        on_sets(), *sets, cv=3, train_sizes=[10, 40], shuffle=True, random_state=0
    )
    assert sizes.tolist() == [10, 40]
    assert test_scores.shape == (2, 3)
    assert np.isfinite(test_scores).all()


def test_feature_union_on_rows(rows):
    X, y, groups = rows
    union = FeatureUnion([("scaled", StandardScaler()), ("pca", PCA(2))])
    with config_context(enable_metadata_routing=True):
        pipe = make_pipeline(union, QProbePolicy()).fit(X, y, groups=groups)
    assert pipe[-1].n_features_in_ == 6


def test_feature_union_on_sets(sets):
    # FeatureUnion joins along axis 1, so that it goes inside of PerCandidate.
    X, y = sets
    union = FeatureUnion([("scaled", StandardScaler()), ("pca", PCA(2))])
    pipe = make_pipeline(PerCandidate(union), QProbePolicy()).fit(X, y)
    assert pipe[-1].n_features_in_ == 6
    names = pipe[0].get_feature_names_out(list("abcd"))
    assert names.tolist() == [
        *(f"scaled__{name}" for name in "abcd"),
        "pca__pca0",
        "pca__pca1",
    ]
