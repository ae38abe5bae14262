import pickle

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy, QProbeRegressor
from skqprobe.metrics import (
    best_of_k_reward,
    best_of_k_scorer,
    expected_reward,
    expected_reward_scorer,
    recovery,
    recovery_scorer,
)
from skqprobe.preprocessing import PerCandidate

SCORING = {
    "best": best_of_k_scorer(3),
    "soft": expected_reward_scorer(temperature=0.5),
    "share": recovery_scorer(6),
}


@pytest.fixture
def flat(sets):
    X, y = sets
    return X.reshape(-1, 4), y.ravel(), np.repeat(np.arange(60), 6)


def test_values_are_those_of_the_metrics(sets):
    X, y = sets
    policy = QProbePolicy("log_loss").fit(X, y)
    Q = policy.decision_function(X)
    proba = policy.set_params(temperature=0.5).predict_proba(X)
    expected = [best_of_k_reward(y, Q, 3), expected_reward(y, proba), recovery(y, Q, 6)]
    got = [scorer(policy, X, y) for scorer in SCORING.values()]
    np.testing.assert_allclose(got, expected)


@pytest.mark.parametrize(
    "estimator",
    [
        QProbePolicy("pairwise_logistic"),
        QProbeRegressor(),
        make_pipeline(PerCandidate(StandardScaler()), QProbePolicy()),
    ],
    ids=lambda e: type(e).__name__,
)
def test_both_layouts_agree_in_cross_validation(sets, flat, estimator):
    X, y = sets
    X_rows, y_rows, groups = flat
    folds = list(GroupKFold(3).split(X, groups=np.arange(60)))
    row_folds = [
        tuple(np.flatnonzero(np.isin(groups, side)) for side in fold) for fold in folds
    ]
    sets_scores = cross_validate(estimator, X, y, scoring=SCORING, cv=folds)
    with config_context(enable_metadata_routing=True):
        rows_scores = cross_validate(
            estimator,
            X_rows,
            y_rows,
            scoring=SCORING,
            cv=row_folds,
            params={"groups": groups},
        )
    for name in SCORING:
        np.testing.assert_allclose(
            sets_scores[f"test_{name}"], rows_scores[f"test_{name}"], atol=1e-3
        )
        assert np.isfinite(sets_scores[f"test_{name}"]).all()


@pytest.mark.parametrize("scoring", [SCORING["best"], SCORING], ids=["one", "many"])
@pytest.mark.parametrize(
    ("estimator", "grid"),
    [
        (Ridge(), {"alpha": [1, 10]}),
        (LogisticRegression(), {"C": [0.1, 1]}),
        (HistGradientBoostingRegressor(max_iter=5), {"max_depth": [2, 3]}),
        (make_pipeline(StandardScaler(), Ridge()), {"ridge__alpha": [1, 10]}),
        (QProbePolicy("log_loss"), {"alpha": [0.01, 0.1]}),
    ],
    ids=["Ridge", "LogisticRegression", "boosting", "pipeline", "QProbePolicy"],
)
def test_any_estimator_in_a_search_on_rows(flat, estimator, grid, scoring):
    X, y, groups = flat
    refit = "best" if isinstance(scoring, dict) else True
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(
            estimator, grid, scoring=scoring, cv=GroupKFold(3), refit=refit
        )
        search.fit(X, y, groups=groups)
        assert search.best_score_ > y.mean() + 0.1
        if refit is True:
            assert search.score(X, y, groups=groups) > y.mean() + 0.1


def test_in_a_search_on_sets(sets):
    X, y = sets
    search = GridSearchCV(
        QProbePolicy(), {"loss": ["log_loss"]}, scoring=SCORING, refit="share", cv=3
    ).fit(X, y)
    assert set(search.cv_results_) >= {f"mean_test_{name}" for name in SCORING}
    assert search.best_score_ > 0.3


class Rank:
    """A ranker: `predict` gives a score, not a reward, and there is nothing else."""

    def predict(self, X):
        return 100 * X[:, 0]


def test_rankers_and_graded_classifiers(flat):
    X, y, groups = flat
    expected = best_of_k_reward(y, X[:, 0], 3, groups)
    assert best_of_k_scorer(3)(Rank(), X, y, groups=groups) == expected
    grades = y + (X[:, 1] > 0)  # 0, 1, 2: decision_function has three columns
    classifier = LogisticRegression().fit(X, grades)
    values = classifier.predict_proba(X) @ [0, 1, 2]
    expected = best_of_k_reward(grades, values, 3, groups)
    assert best_of_k_scorer(3)(classifier, X, grades, groups=groups) == expected


def test_rows_without_groups_are_nan_and_say_why(flat):
    X, y, _ = flat
    with pytest.warns(UserWarning, match="enable_metadata_routing"):
        assert np.isnan(best_of_k_scorer(3)(Ridge().fit(X, y), X, y))


def test_can_be_cloned_and_pickled(sets):
    X, y = sets
    policy = QProbePolicy().fit(X, y)
    for scorer in SCORING.values():
        again = pickle.loads(pickle.dumps(scorer))
        assert again(policy, X, y) == scorer(policy, X, y)
        search = clone(GridSearchCV(QProbePolicy(), {}, scoring=scorer))
        assert search.scoring == scorer
