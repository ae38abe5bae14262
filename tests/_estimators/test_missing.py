"""Rewards that are missing: weight 0, or missing="ignore"."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from cases import PROBES_AND_LOSSES, as_rows, every_probe
from numpy.testing import assert_allclose
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy, QProbePolicyCV, QProbeRegressor, make_probe_pipeline
from skqprobe.losses import BaseLoss
from skqprobe.preprocessing import PerCandidate

MESSAGE = r"Input y contains NaN.*The first is y\[.*missing='ignore'"


@pytest.fixture
def known(sets, rng):
    """Which candidates have a reward: some, none in one prompt, all in another."""
    known = rng.random(sets[1].shape) < 0.6
    known[0], known[1] = False, True
    return known


def coefficients(Probe, loss, X, y, groups=None, **params):
    weight = params.pop("sample_weight", None)
    probe = Probe(loss, alpha=0.1, tol=1e-10, **params)
    return probe.fit(X, y, groups, sample_weight=weight).coef_


@pytest.mark.parametrize("Probe, loss", PROBES_AND_LOSSES)
def test_fit_equals_that_of_the_known_rows(Probe, loss, sets, known):
    X, y = sets
    rows, rewards, groups = as_rows(X, y)
    kept = known.ravel()
    expected = coefficients(Probe, loss, rows[kept], rewards[kept], groups[kept])
    unknown = np.where(known, y, np.nan)
    given = {"rtol": 1e-4, "atol": 1e-6}
    found = coefficients(Probe, loss, X, unknown, missing="ignore")
    assert_allclose(found, expected, **given)
    found = coefficients(Probe, loss, X, unknown, sample_weight=known.astype(float))
    assert_allclose(found, expected, **given)
    found = coefficients(Probe, loss, rows, unknown.ravel(), groups, missing="ignore")
    assert_allclose(found, expected, **given)


def test_weights_of_prompts(sets, known, rng):
    X, y = sets
    weight = rng.integers(0, 3, len(X)).astype(float)
    copies = np.repeat(np.arange(len(X)), weight.astype(int))
    unknown = np.where(known, y, np.nan)
    found = coefficients(
        QProbePolicy,
        "pairwise_logistic",
        X,
        unknown,
        missing="ignore",
        sample_weight=weight,
    )
    expected = coefficients(
        QProbePolicy, "pairwise_logistic", X[copies], unknown[copies], missing="ignore"
    )
    assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_prompt_of_weight_0_needs_no_reward(sets):
    X, y = sets
    unknown, weight = y.copy(), np.ones(len(X))
    unknown[3, 2], weight[3] = np.nan, 0
    policy = QProbePolicy(tol=1e-10)
    found = policy.fit(X, unknown, sample_weight=weight).coef_
    expected = policy.fit(X, y, sample_weight=weight).coef_
    assert_allclose(found, expected, rtol=1e-5)


@every_probe
def test_missing_rewards_raise_by_default(Probe, sets, known):
    X, y = sets
    unknown = np.where(known, y, np.nan)
    probe = Probe()
    with pytest.raises(ValueError, match=MESSAGE):
        probe.fit(X, unknown)
    weight = np.ones(y.shape)
    weight[0] = 0  # not all that are missing
    with pytest.raises(ValueError, match=MESSAGE):
        probe.fit(X, unknown, sample_weight=weight)
    assert not hasattr(probe, "coef_")
    with pytest.raises(ValueError, match=MESSAGE):
        probe.fit(X, y).score(X, unknown)


@pytest.mark.parametrize("Probe", [QProbePolicy, QProbeRegressor, QProbePolicyCV])
def test_values_of_missing(Probe, sets):
    with pytest.raises(ValueError, match="'missing' parameter of"):
        Probe(missing="drop").fit(*sets)
    with pytest.raises(ValueError, match="NaN everywhere: no candidate has a reward"):
        Probe(missing="ignore").fit(sets[0], np.full(sets[1].shape, np.nan))
    with pytest.raises(ValueError, match="y contains infinity"):
        Probe(missing="ignore").fit(sets[0], np.full(sets[1].shape, np.inf))


@every_probe
def test_score_leaves_them_out(Probe, sets, known):
    X, y = sets
    rows, rewards, groups = as_rows(X, y)
    kept = known.ravel()
    probe = Probe(missing="ignore").fit(X, y)
    score = probe.score(X, np.where(known, y, np.nan))
    expected = probe.score(rows[kept], rewards[kept], groups[kept])
    assert score == pytest.approx(expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda y: pd.Series(y),
        lambda y: pd.Series(y, dtype="Float64"),
        lambda y: pd.Series([pd.NA if each != each else each for each in y]),
        lambda y: pl.Series([None if each != each else each for each in y]),
        lambda y: [None if each != each else each for each in y],
    ],
    ids=["nan", "Float64", "NA", "polars", "None"],
)
def test_kinds_of_missing_rewards(make, sets, known):
    X, y = sets
    rows, rewards, groups = as_rows(X, np.where(known, y, np.nan))
    policy = QProbePolicy(missing="ignore")
    expected = policy.fit(rows, rewards, groups).coef_
    found = policy.fit(rows, make(rewards.tolist()), groups).coef_
    assert_allclose(found, expected)


def test_several_objectives(sets, known):
    """A candidate needs all of them."""
    X, y = sets
    both = np.stack([y, 1 - y], axis=2)
    rows, _, groups = as_rows(X, y)
    unknown = both.copy()
    unknown[~known, 1] = np.nan
    kept = known.ravel()
    expected = QProbePolicy().fit(rows[kept], both.reshape(-1, 2)[kept], groups[kept])
    policy = QProbePolicy(missing="ignore")
    assert_allclose(policy.fit(X, unknown).coef_, expected.coef_, 1e-4, 1e-6)
    named = [
        [{"a": a, "b": b} if b == b else None for a, b in prompt] for prompt in unknown
    ]
    policy.fit(X, named)
    assert_allclose(policy.coef_, expected.coef_, 1e-4, 1e-6)
    assert policy.objective_names_.tolist() == ["a", "b"]


def test_a_loss_receives_no_missing_reward(sets, known):
    class Positive(BaseLoss):
        def check_rewards(self, rewards):
            assert rewards.min() >= 3

        def value_and_gradient(self, scores, rewards, offsets, weight=None):
            assert rewards.min() >= 3
            error = scores - rewards
            return np.add.reduceat(error**2, offsets[:-1]), 2 * error

    policy = QProbePolicy(Positive(), missing="ignore")
    policy.fit(sets[0], np.where(known, sets[1] + 3, np.nan))


@pytest.mark.parametrize("loss", ["squared_error", "pairwise_logistic"])
def test_cross_validation_equals_that_of_the_known_rows(loss, sets, known):
    X, y = sets
    known[0, :2] = True  # all prompts remain
    rows, rewards, groups = as_rows(X, y)
    kept = known.ravel()
    unknown = np.where(known, y, np.nan)
    settings = {"losses": [loss], "alphas": [1.0, 0.1], "cv": 3, "missing": "ignore"}
    found = QProbePolicyCV(**settings).fit(X, unknown)
    expected = QProbePolicyCV(**settings).fit(rows[kept], rewards[kept], groups[kept])
    name = "mean_test_score"
    assert_allclose(found.cv_results_[name], expected.cv_results_[name])
    assert_allclose(found.coef_, expected.coef_, rtol=1e-3)

    def scoring(policy, X, y):
        assert np.isnan(y).any()
        return policy.score(X, y)

    scored = QProbePolicyCV(**settings, scoring=scoring).fit(X, unknown)
    assert_allclose(scored.cv_results_[name], found.cv_results_[name])
    search = GridSearchCV(
        QProbePolicy(loss, missing="ignore"), {"alpha": [1.0, 0.1]}, cv=3
    ).fit(X, unknown)
    assert_allclose(search.cv_results_[name], found.cv_results_[name])


def test_pipelines(sets, known):
    X, y = sets
    unknown = np.where(known, y, np.nan)
    scaled = make_pipeline(
        PerCandidate(StandardScaler()), QProbePolicy(missing="ignore")
    ).fit(X, unknown)
    expected = QProbePolicy(missing="ignore").fit(scaled[0].transform(X), unknown)
    assert_allclose(scaled[-1].coef_, expected.coef_)
    recommended = make_probe_pipeline(cv=3).set_params(probe__missing="ignore")
    assert recommended.fit(X, unknown).score(X, unknown) > np.nanmean(unknown)
