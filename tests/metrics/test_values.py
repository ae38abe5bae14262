"""Values of candidates by any estimator, and groups for steps that need them."""

import numpy as np
import pytest
from cases import as_rows
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import BaseEstimator
from sklearn.ensemble import VotingRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy, QProbePolicyCV, QProbeRegressor, make_probe_pipeline
from skqprobe.metrics import (
    best_of_k_reward,
    best_of_k_scorer,
    candidate_values,
    expected_reward_scorer,
    policy_report,
    recovery,
    recovery_scorer,
    softmax_reward,
)
from skqprobe.plotting import QValueDisplay, RewardCurveDisplay
from skqprobe.preprocessing import SiblingFeatures


@pytest.fixture
def flat(sets):
    return as_rows(*sets)


@pytest.fixture
def routing():
    with config_context(enable_metadata_routing=True):
        yield


ENDS = [QProbePolicy("log_loss"), QProbeRegressor(), GaussianNB(), Ridge()]


@pytest.mark.parametrize("end", ENDS, ids=lambda e: type(e).__name__)
def test_steps_that_transform_with_siblings_get_the_groups(flat, routing, end):
    X, y, groups = flat
    pipeline = make_pipeline(SiblingFeatures(), end).fit(X, y, groups=groups)
    siblings = pipeline[0].transform(X, groups)
    expected = candidate_values(pipeline[-1], siblings)
    assert_allclose(candidate_values(pipeline, X, groups), expected)
    # Routing is on: the warning does not advise to switch it on.
    with pytest.warns(UserWarning, match=r"^((?!enable_met).)*params=\{'groups': g"):
        alone = candidate_values(pipeline, X)
    assert abs(alone - expected).max() > 1e-3


def test_a_search_passes_the_groups_to_its_best_estimator(flat, routing):
    X, y, groups = flat
    pipeline = make_pipeline(SiblingFeatures(), QProbePolicy("log_loss"))
    grid = {"qprobepolicy__alpha": [0.01, 0.1]}
    search = GridSearchCV(
        pipeline, grid, cv=GroupKFold(3), scoring=best_of_k_scorer(3)
    ).fit(X, y, groups=groups)
    found = candidate_values(search, X, groups)
    assert_array_equal(found, candidate_values(search.best_estimator_, X, groups))
    expected = best_of_k_reward(y, found, 3, groups)
    assert search.score(X, y, groups=groups) == expected


class Ranker(BaseEstimator):
    """A ranker whose `predict` takes groups without metadata routing."""

    def predict(self, X, groups=None):
        return X[:, 0] + (0 if groups is None else groups)


def test_groups_reach_methods_that_take_them_and_no_others(flat):
    X, y, groups = flat
    assert_array_equal(candidate_values(Ranker(), X, groups), X[:, 0] + groups)
    for estimator in (
        Ridge(),
        QProbePolicy(),
        QProbePolicyCV(cv=2),
        make_pipeline(StandardScaler(), QProbePolicy()),
    ):
        keywords = {"groups": groups} if isinstance(estimator, QProbePolicy) else {}
        if keywords or isinstance(estimator, Ridge):
            estimator.fit(X, y, **keywords)
        else:
            estimator.fit(X, y, qprobepolicy__groups=groups)
        expected = candidate_values(estimator, X)
        assert_array_equal(candidate_values(estimator, X, groups), expected)


def test_an_estimator_that_needs_groups_and_cannot_get_them_raises(flat):
    X, y, groups = flat
    pipeline = make_pipeline(SiblingFeatures(), Ridge())
    with config_context(enable_metadata_routing=True):
        pipeline.fit(X, y, groups=groups)
        vote = VotingRegressor([("one", pipeline)])
        vote.estimators_ = [pipeline]  # its fit cannot pass groups, either
        with pytest.raises(ValueError, match="predict of VotingRegressor does not"):
            candidate_values(vote, X, groups)
    message = (
        r"Pipeline does .* to SiblingFeatures.*routing=True.* pipeline, or sets\.$"
    )
    for call in (
        lambda: candidate_values(pipeline, X, groups),
        lambda: policy_report(pipeline, X, y, groups),
        lambda: best_of_k_scorer(3)(pipeline, X, y, groups=groups),
        lambda: QValueDisplay.from_estimator(pipeline, X, y, groups),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_sets_need_no_groups_even_if_they_have_them_for_a_splitter(sets):
    X, y = sets
    pipeline = make_probe_pipeline(cv=2).fit(X, y)
    problems = np.arange(len(y)) // 2
    found = best_of_k_scorer(3)(pipeline, X, y, groups=problems)
    assert found == best_of_k_scorer(3)(pipeline, X, y)
    few = {"n_resamples": 20, "random_state": 0, "ks": [3]}
    with_groups = policy_report(pipeline, X, y, problems, **few)
    assert with_groups.equals(policy_report(pipeline, X, y, **few))


@pytest.fixture
def fitted(sets, routing):
    """The recommended pipeline, fitted to sets, and the same data as sets and rows."""
    X, y = sets
    return make_probe_pipeline(temperatures=(0.5,), cv=2).fit(X, y), X, y


def test_report_scorers_scores_and_displays_agree_with_sets(fitted):
    pipeline, *sets = fitted
    rows = as_rows(*sets)
    X, y, groups = rows
    few = {"n_resamples": 50, "random_state": 0, "ks": [1, 3, 6]}
    of_rows = policy_report(pipeline, X, y, groups, **few)
    assert_allclose(of_rows, policy_report(pipeline, *sets, **few))
    for scorer in (best_of_k_scorer(3), recovery_scorer(6), expected_reward_scorer()):
        expected = scorer(pipeline, *sets)
        assert scorer(pipeline, X, y, groups=groups) == pytest.approx(expected)
    score = pipeline.score(X, y, groups=groups)
    assert score == pytest.approx(pipeline.score(*sets))
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    curves = [
        RewardCurveDisplay.from_estimator(pipeline, *data, n_resamples=50)
        for data in (sets, rows)
    ]
    assert_allclose(curves[1].reward, curves[0].reward)
    pyplot.close("all")


@pytest.mark.parametrize("scorer", [best_of_k_scorer(3), recovery_scorer(3)])
def test_cross_validation_of_siblings_agrees_with_sets(sets, flat, routing, scorer):
    """The report of the issue: .645 on rows where the truth was .721."""
    X, y, groups = flat
    estimator = make_pipeline(SiblingFeatures(), QProbePolicy("log_loss"))
    folds = [(np.arange(40), np.arange(40, 60)), (np.arange(20, 60), np.arange(20))]
    of_rows = [[np.flatnonzero(np.isin(groups, part)) for part in f] for f in folds]
    found, expected = (
        cross_validate(estimator, *data, cv=cv, scoring=scorer, params=params)
        for data, cv, params in [
            ((X, y), of_rows, {"groups": groups}),
            (sets, folds, {}),
        ]
    )
    assert_allclose(found["test_score"], expected["test_score"], atol=1e-6)


def test_scores_without_routing_of_a_policy_alone(flat):
    X, y, groups = flat
    policy = QProbePolicyCV(scoring=recovery_scorer(3), cv=3).fit(X, y, groups)
    Q = policy.decision_function(X)
    assert recovery_scorer(3)(policy, X, y, groups=groups) == recovery(y, Q, 3, groups)
    assert policy.score(X, y, groups) == softmax_reward(y, Q, 0, groups)
