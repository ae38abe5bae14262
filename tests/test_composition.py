"""The estimators in the tools of scikit-learn, in both layouts."""

import numpy as np
import pytest
import sklearn
from cases import as_rows
from sklearn import config_context
from sklearn.decomposition import PCA
from sklearn.metrics import check_scoring
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    cross_val_predict,
    learning_curve,
)
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.fixes import parse_version

from skqprobe import QProbePolicy, QProbePolicyCV, QProbeRegressor
from skqprobe.preprocessing import PerCandidate

# Before scikit-learn 1.8, the default scorer of a Pipeline does not request the groups
# that its last step requests.
OLD = parse_version(sklearn.__version__) < parse_version("1.8")
SCORING = check_scoring(QProbePolicy()) if OLD else None

GRID = {
    "probe__loss": ["squared_error", "policy_gradient", "pairwise_logistic"],
    "probe__temperature": [0, 0.3],
    "probe__alpha": [1e-2, 1.0],
}


def on_sets():
    scale, reduce = PerCandidate(StandardScaler()), PerCandidate(PCA(3))
    return Pipeline([("scale", scale), ("reduce", reduce), ("probe", QProbePolicy())])


def on_rows():
    return on_sets().set_params(scale=StandardScaler(), reduce=PCA(3))


def test_searches_on_sets_and_rows_agree(sets):
    """On sets without groups and routing, on rows with them."""
    X, y = sets
    rows, rewards, groups = as_rows(X, y)
    folds = list(KFold(4, shuffle=True, random_state=0).split(X))
    row_folds = [tuple(np.flatnonzero(np.isin(groups, f)) for f in ab) for ab in folds]
    of_sets = GridSearchCV(on_sets(), GRID, cv=folds).fit(X, y)
    with config_context(enable_metadata_routing=True):
        of_rows = GridSearchCV(on_rows(), GRID, cv=row_folds, scoring=SCORING)
        of_rows.fit(rows, rewards, groups=groups)
        chosen = of_rows.best_estimator_.predict(rows, groups=groups)
        score = of_rows.score(rows, rewards, groups=groups)
    assert of_sets.best_params_ == of_rows.best_params_
    for name in ("mean_test_score", "split0_test_score", "std_test_score"):
        found, expected = (each.cv_results_[name] for each in (of_sets, of_rows))
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(of_sets.predict(X), chosen % 6)
    assert of_sets.score(X, y) == pytest.approx(score)
    assert score > y.mean() + 0.1


@pytest.mark.parametrize("method", ["decision_function", "predict_proba", "predict"])
def test_cross_val_predict(method, sets):
    X, y = sets
    cv = KFold(4)
    # With rewards that are no class labels, a fit to their ranks differs.
    y = y + np.random.default_rng(1).random(size=y.shape)
    out = cross_val_predict(on_sets(), X, params={"y": y}, cv=cv, method=method)
    for train, test in cv.split(X):
        policy = on_sets().fit(X[train], y[train])
        np.testing.assert_allclose(out[test], getattr(policy, method)(X[test]))


@pytest.mark.parametrize("routing", [False, True])
def test_cross_val_predict_on_rows(routing, rows):
    X, y, groups = rows
    options = {"cv": GroupKFold(3), "method": "decision_function"}
    if not routing:
        options["groups"] = groups  # for the splitter
    with config_context(enable_metadata_routing=routing):
        params = {"y": y, "groups": groups}
        out = cross_val_predict(QProbePolicy(), X, params=params, **options)
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


def test_learning_curve(sets):
    sizes, train_scores, test_scores = learning_curve(
        on_sets(), *sets, cv=3, train_sizes=[10, 40], shuffle=True, random_state=0
    )
    assert sizes.tolist() == [10, 40]
    assert test_scores.shape == (2, 3)
    assert np.isfinite(test_scores).all()
    assert train_scores.mean() > sets[1].mean()


def test_feature_union(rows, sets):
    X, y, groups = rows
    union = FeatureUnion([("scaled", StandardScaler()), ("pca", PCA(2))])
    with config_context(enable_metadata_routing=True):
        pipe = make_pipeline(union, QProbePolicy()).fit(X, y, groups=groups)
    assert pipe[-1].n_features_in_ == 6
    # FeatureUnion concatenates along axis 1, so sets need PerCandidate around it.
    pipe = make_pipeline(PerCandidate(union), QProbePolicy()).fit(*sets)
    assert pipe[-1].n_features_in_ == 6
    scaled = [f"scaled__{name}" for name in "abcd"]
    names = pipe[0].get_feature_names_out(list("abcd"))
    assert names.tolist() == [*scaled, "pca__pca0", "pca__pca1"]


def test_own_scoring_of_rows_without_groups(rng):
    X, y = rng.normal(size=(30, 2)), rng.normal(size=30)
    shapes = []

    def scoring(policy, X, y):
        shapes.append((X.shape, y.shape))
        return -np.mean((policy.decision_function(X) - y) ** 2)

    search = QProbePolicyCV(["squared_error"], alphas=[1.0], scoring=scoring, cv=3)
    search.fit(X, y)
    assert shapes == [((10, 2), (10,))] * 3
    expected = []
    for train, test in KFold(3).split(X):
        probe = QProbeRegressor(alpha=1.0).fit(X[train], y[train])
        expected.append(-np.mean((probe.predict(X[test]) - y[test]) ** 2))
    np.testing.assert_allclose(search.best_score_, np.mean(expected))
