from functools import partial

import numpy as np
import pytest
from cases import as_rows
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    PredefinedSplit,
    cross_validate,
    learning_curve,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy, QProbeRegressor
from skqprobe.metrics import (
    best_of_k_reward,
    best_of_k_scorer,
    candidate_values,
    expected_reward,
    expected_reward_scorer,
    recovery,
    recovery_scorer,
    softmax_reward,
)
from skqprobe.preprocessing import PerCandidate

SCORING = {
    "best": best_of_k_scorer(3),
    "soft": expected_reward_scorer(temperature=0.5),
    "share": recovery_scorer(6),
}


@pytest.fixture
def flat(sets):
    return as_rows(*sets)


def test_scores_are_those_of_the_metrics(sets):
    X, y = sets
    policy = QProbePolicy("log_loss").fit(X, y)
    Q = policy.decision_function(X)
    proba = policy.set_params(temperature=0.5).predict_proba(X)
    # Scorers are made here, too, so that mutation testing covers their factories.
    made_here = best_of_k_scorer(3), expected_reward_scorer(0.5), recovery_scorer(6)
    for scorers in (SCORING.values(), made_here):
        found = [scorer(policy, X, y) for scorer in scorers]
        best, share = best_of_k_reward(y, Q, 3), recovery(y, Q, 6)
        assert_allclose(found, [best, expected_reward(y, proba), share])
    greedy = softmax_reward(y, Q, 0)
    assert expected_reward_scorer(0)(policy, X, y) == pytest.approx(greedy)


def test_expected_reward_is_at_the_temperature_of_the_estimator(sets, flat):
    X, y = sets
    grid = {"temperature": [5.0, 0.1, 1.0]}
    for Probe in (QProbePolicy, QProbeRegressor):
        fitted = Probe(temperature=0.5).fit(X, y)
        values = candidate_values(fitted, X)
        expected = softmax_reward(y, values, 0.5)
        assert expected_reward_scorer()(fitted, X, y) == pytest.approx(expected)
        pipeline = make_pipeline(PerCandidate(StandardScaler()), Probe(temperature=0.5))
        values = candidate_values(pipeline.fit(X, y), X)
        expected = softmax_reward(y, values, 0.5)
        assert expected_reward_scorer()(pipeline, X, y) == pytest.approx(expected)
    search = GridSearchCV(QProbePolicy("log_loss"), grid, cv=3)
    by_score = search.fit(X, y).cv_results_["mean_test_score"]
    search.set_params(scoring=expected_reward_scorer()).fit(X, y)
    assert_allclose(search.cv_results_["mean_test_score"], by_score)
    assert search.best_params_ == {"temperature": 0.1}
    search.set_params(scoring=best_of_k_scorer(6)).fit(X, y)  # the first of equals
    assert search.best_params_ == {"temperature": 5.0}
    # An estimator without a temperature chooses the best.
    *rows, groups = flat
    ridge = Ridge().fit(*rows)
    greedy = softmax_reward(rows[1], ridge.predict(rows[0]), 0, groups)
    assert expected_reward_scorer()(ridge, *rows, groups=groups) == greedy


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
    *rows, groups = flat
    part = np.arange(60) % 3
    of_sets, of_rows = (
        partial(cross_validate, estimator, scoring=SCORING, cv=PredefinedSplit(fold))
        for fold in (part, part[groups])
    )
    of_sets = of_sets(*sets)
    with config_context(enable_metadata_routing=True):
        of_rows = of_rows(*rows, params={"groups": groups})
    for name in SCORING:
        expected = of_sets[f"test_{name}"]
        assert np.isfinite(expected).all()
        assert_allclose(of_rows[f"test_{name}"], expected, atol=1e-3)


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
def test_search_of_any_estimator_on_rows(flat, estimator, grid, scoring):
    X, y, groups = flat
    options = {"cv": GroupKFold(3), "refit": "best" if scoring is SCORING else True}
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(estimator, grid, scoring=scoring, **options)
        search.fit(X, y, groups=groups)
        assert search.best_score_ > y.mean() + 0.1
        if scoring is not SCORING:
            assert search.score(X, y, groups=groups) > y.mean() + 0.1


class Rank:
    """A ranker: `predict` returns a score, not a reward, and is the only method."""

    def predict(self, X):
        return 100 * X[:, 0]


def test_rankers_and_classifiers_of_grades(flat):
    X, y, groups = flat
    expected = best_of_k_reward(y, X[:, 0], 3, groups)
    assert best_of_k_scorer(3)(Rank(), X, y, groups=groups) == expected
    grades = y + (X[:, 1] > 0)  # 0, 1, 2: decision_function has three columns
    classifier = LogisticRegression().fit(X, grades)
    values = classifier.predict_proba(X) @ [0, 1, 2]
    expected = best_of_k_reward(grades, values, 3, groups)
    assert best_of_k_scorer(3)(classifier, X, grades, groups=groups) == expected
    # Without probabilities, the values are the predicted labels.
    classifier = RidgeClassifier().fit(X, grades)
    assert_array_equal(candidate_values(classifier, X), classifier.predict(X))


def test_rows_without_groups_warn_and_score_nan(flat):
    X, y, _ = flat
    with pytest.warns(UserWarning, match="enable_metadata_routing"):
        assert np.isnan(best_of_k_scorer(3)(Ridge().fit(X, y), X, y))


@pytest.mark.parametrize(
    ("make", "metric"),
    [(best_of_k_scorer, best_of_k_reward), (recovery_scorer, recovery)],
)
def test_prompts_with_too_few_candidates(flat, make, metric):
    X, y, groups = (part[2:] for part in flat)  # the first prompt has four of six
    policy = QProbePolicy("log_loss").fit(X, y, groups)
    with pytest.raises(ValueError, match="too_few='skip'"):
        make(6)(policy, X, y, groups)
    full = np.flatnonzero(groups != groups[0])
    Q = policy.decision_function(X)
    score = make(6, too_few="skip")(policy, X, y, groups)
    assert score == pytest.approx(metric(y[full], Q[full], 6, groups[full]))


# Several objectives, which the estimator weights


@pytest.fixture
def objectives(rng):
    """Candidate sets with two rewards, the second of another unit."""
    X = rng.normal(size=(40, 6, 3))
    y = X[..., :2] + rng.normal(size=(40, 6, 2))
    return X, y * [1, 20]


@pytest.mark.parametrize("weights", [None, [1, 0.2], [0, -1]])
@pytest.mark.parametrize(
    "scorer", [best_of_k_scorer(4), recovery_scorer(6), expected_reward_scorer()]
)
def test_several_objectives_are_weighted(scorer, weights, objectives):
    X, y = objectives
    policy = QProbePolicy("squared_error", objective_weights=weights).fit(X, y)
    weighted = y @ ([0.5, 0.5] if weights is None else weights)
    expected = scorer(policy, X, weighted)
    assert scorer(policy, X, y) == pytest.approx(expected)
    pipe = make_pipeline(PerCandidate(StandardScaler()), policy).fit(X, y)
    assert scorer(pipe, X, y) == pytest.approx(scorer(pipe, X, weighted))
    groups = np.repeat(np.arange(40), 6)
    rows = X.reshape(240, 3), y.reshape(240, 2), groups
    assert scorer(policy, *rows) == pytest.approx(expected)


def test_search_by_a_scorer_over_weights(objectives):
    X, y = objectives
    search = GridSearchCV(
        QProbePolicy("squared_error"),
        {"objective_weights": [[1, 0], [0, 1]]},
        scoring=best_of_k_scorer(6),
        cv=3,
    ).fit(X, y)
    assert search.best_params_ == {"objective_weights": [0, 1]}  # of the larger unit
    assert best_of_k_scorer(6)(search, X, y) == pytest.approx(search.score(X, y))


def test_several_objectives_without_weights(objectives):
    X, y = objectives
    ridge = Ridge().fit(X.reshape(240, 3), y.reshape(240, 2)[:, 0])
    with pytest.raises(ValueError, match=r"Ridge has no objective_weights: pass y @"):
        best_of_k_scorer(4)(ridge, X, y)


@pytest.mark.parametrize("scale", [False, True], ids=["policy", "pipeline"])
def test_scorer_warns_of_rows_that_were_thinned_for_fit(flat, scale):
    """As the policy's `score` does, see tests/_estimators/test_policy.py."""
    X, y, groups = flat
    policy = QProbePolicy("log_loss")
    model = make_pipeline(StandardScaler(), policy) if scale else policy
    options = {"train_sizes": [40], "shuffle": True, "random_state": 0}
    options |= {"cv": GroupKFold(3), "scoring": expected_reward_scorer()}
    message = r"on 1\.\d candidates per prompt, and is scored on 6\.0"
    with (
        config_context(enable_metadata_routing=True),
        pytest.warns(UserWarning, match=message),
    ):
        learning_curve(model, X, y, params={"groups": groups}, **options)
    expected_reward_scorer()(policy.fit(X, y, groups), X, y, groups)
