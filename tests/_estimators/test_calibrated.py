"""CalibratedPolicyCV."""

import numpy as np
import pytest
from cases import as_rows
from estimators import assert_refused, needs_real_data, real_data
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.special import expit
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import (
    AnswerVote,
    CalibratedPolicyCV,
    QProbePolicy,
    QProbePolicyCV,
    QProbeRegressor,
)
from skqprobe.datasets import load_two_words
from skqprobe.embedders import VectorizerEmbedder
from skqprobe.io import to_json
from skqprobe.metrics import candidate_values
from skqprobe.preprocessing import PerCandidate, SiblingFeatures

METHODS = ("isotonic", "sigmoid", "linear")
every_method = pytest.mark.parametrize("method", METHODS)


class First(BaseEstimator):
    """Policy whose values are the first feature, whatever it is fitted to."""

    def __init__(self, temperature=0.0):
        self.temperature = temperature

    def fit(self, X, y, sample_weight=None):
        self.fitted_ = True
        return self

    def decision_function(self, X):
        return np.asarray(X)[..., 0]

    def predict(self, X):
        return self.decision_function(X).argmax(axis=1)


def choices(n_prompts=400, k=5, seed=0):
    """Sets whose first feature is the log-odds of the reward."""
    X = np.random.default_rng(seed).normal(size=(n_prompts, k, 2))
    y = np.random.default_rng(seed + 1).random((n_prompts, k)) < expit(X[..., 0])
    return X, y.astype(float)


def best_of(X, y):
    """Value and reward of the best candidate of each prompt."""
    best = X[..., 0].argmax(axis=1)[:, None]
    return np.take_along_axis(X[..., 0], best, 1)[:, 0], np.take_along_axis(y, best, 1)[
        :, 0
    ]


@pytest.fixture(scope="module")
def sets():
    return choices()


# The functions by hand


def test_linear_by_hand(sets):
    X, y = sets
    policy = CalibratedPolicyCV(First(), "linear").fit(X, 10 * y - 3)
    slope, start = np.polyfit(*best_of(X, 10 * y - 3), 1)
    values, _ = best_of(*choices(seed=5))
    assert_allclose(policy.predict_reward(choices(seed=5)[0]), start + slope * values)
    slope, start = np.polyfit(X[..., 0].ravel(), 10 * y.ravel() - 3, 1)
    assert_allclose(policy.predict_rewards(X), start + slope * X[..., 0])
    assert_allclose(policy.held_out_rewards_, policy.predict_rewards(X))


def test_sigmoid_by_hand(sets):
    X, y = sets
    y = 0.8 * y + 0.1  # any rewards in [0, 1]
    policy = CalibratedPolicyCV(First(), "sigmoid").fit(X, y)
    values, rewards = best_of(X, y)
    n_ones, n_zeros = rewards.sum(), (1 - rewards).sum()
    low, high = 1 / (n_zeros + 2), (n_ones + 1) / (n_ones + 2)
    shrunk = low + (high - low) * rewards

    def loss(line):
        p = expit(line[0] + line[1] * values)
        return -(shrunk * np.log(p) + (1 - shrunk) * np.log(1 - p)).sum()

    start, slope = minimize(loss, [0, 0], tol=1e-10).x
    assert_allclose(policy.predict_reward(X), expit(start + slope * values), atol=1e-4)


def test_isotonic_by_hand():
    # Steps of reward 0, 1/2 and 1 with means -1, 1 and 3; lines between, and ends.
    x = np.array([-1.0, 0, 2, 2.5, 3.5])
    X = np.stack([x, x - 9], axis=1)[..., None] + [0.0, 0.0]
    y = np.stack([[0.0, 1, 0, 1, 1], np.zeros(5)], axis=1)
    policy = CalibratedPolicyCV(First(), cv=2).fit(X, y)
    new = np.array([-5.0, -1, 0, 1, 2, 3, 9])[:, None, None] + [0.0, 0.0]
    expected = [0, 0, 0.25, 0.5, 0.75, 1, 1]
    assert_allclose(policy.predict_reward(new), expected)


def test_isotonic_has_the_levels_of_the_steps(sets):
    X, y = sets
    policy = CalibratedPolicyCV(First()).fit(X, y)
    values, rewards = best_of(X, y)
    steps = IsotonicRegression().fit_transform(values, rewards)
    fitted = policy.choice_calibrator_
    assert_allclose(np.unique(fitted.y_thresholds_), np.unique(steps))
    order = np.argsort(values)
    assert (np.diff(policy.predict_reward(X)[order]) >= 0).all()


@every_method
def test_useless_values_predict_the_mean(sets, method):
    X, y = sets
    policy = CalibratedPolicyCV(First(), method).fit(-X, y)  # the wrong sign
    predicted = policy.predict_rewards(X)
    assert np.ptp(predicted) < (0.3 if method == "isotonic" else 1e-9)
    assert predicted.mean() == pytest.approx(y.mean(), abs=0.02)


@every_method
def test_equal_rewards(sets, method):
    X = sets[0]
    policy = CalibratedPolicyCV(First(), method).fit(X, np.ones(X.shape[:2]))
    assert policy.predict_reward(X).min() > 0.99


def test_choice_at_a_temperature(sets):
    X, y = sets
    policy = CalibratedPolicyCV(First(temperature=0.5), "linear").fit(X, y)
    proba = np.exp(X[..., 0] / 0.5)
    proba /= proba.sum(axis=1, keepdims=True)
    line = np.polyfit(X[..., 0].ravel(), y.ravel(), 1, w=np.sqrt(proba.ravel()))
    expected = (proba * np.polyval(line, X[..., 0])).sum(axis=1)
    assert_allclose(policy.predict_reward(X), expected)


# Layouts, weights and missing rewards


@every_method
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_sets_and_ragged_rows(sets, method, temperature):
    X, y = sets
    rows, rewards, groups = as_rows(X, y)
    policy = CalibratedPolicyCV(QProbePolicy(temperature=temperature), method)
    expected = clone(policy).fit(X, y)
    found = clone(policy).fit(rows, rewards, groups)
    held_out = expected.held_out_rewards_
    assert_allclose(found.held_out_rewards_.reshape(held_out.shape), held_out)
    kept = np.arange(len(rows)) % 7 != 3
    order = np.random.default_rng(0).permutation(np.flatnonzero(kept))
    ragged = rows[order], groups[order]
    predicted = found.predict_reward(*ragged)
    labels = list(dict.fromkeys(groups[order]))
    assert predicted.shape == (len(labels),)
    for i in (0, 5, 100):
        prompt = X[labels[i]][kept.reshape(y.shape)[labels[i]]]
        assert predicted[i] == pytest.approx(expected.predict_reward(prompt[None])[0])
    one = expected.predict_rewards(X).ravel()[order]
    assert_allclose(found.predict_rewards(*ragged), one)


@every_method
def test_weights_are_copies(sets, method):
    X, y = (array[:60] for array in sets)
    weight = np.random.default_rng(0).integers(0, 3, size=60)
    # Any folds: the policy does not depend on what it is fitted to.
    weighted = CalibratedPolicyCV(First(), method).fit(X, y, sample_weight=weight)
    copies = [np.repeat(array, weight, axis=0) for array in (X, y)]
    copied = CalibratedPolicyCV(First(), method).fit(*copies)
    assert_allclose(weighted.predict_reward(X), copied.predict_reward(X), atol=1e-5)
    assert_allclose(weighted.predict_rewards(X), copied.predict_rewards(X), atol=1e-5)
    other = CalibratedPolicyCV(First(), method).fit(X, y).predict_reward(X)
    assert abs(weighted.predict_reward(X) - other).max() > 1e-3


def test_candidates_without_reward_are_left_out(sets):
    X, y = sets[0].copy(), sets[1].copy()
    y[:, 0] = np.nan
    policy = QProbePolicy(missing="ignore", alpha=0.1)
    found = CalibratedPolicyCV(policy).fit(X, y)
    expected = CalibratedPolicyCV(policy).fit(X[:, 1:], y[:, 1:])
    assert_allclose(found.predict_reward(X), expected.predict_reward(X), rtol=1e-6)
    assert np.isfinite(found.held_out_rewards_).all()
    assert_refused(CalibratedPolicyCV(QProbePolicy()).fit, "NaN", X, y)


def test_prompts_that_no_fold_holds_out(sets):
    X, y = sets
    split = [(np.arange(200), np.arange(200, 400))]
    policy = CalibratedPolicyCV(First(), "linear", cv=split).fit(X, y)
    assert np.isnan(policy.held_out_rewards_[:200]).all()
    expected = CalibratedPolicyCV(First(), "linear").fit(X[200:], y[200:])
    assert_allclose(policy.predict_reward(X), expected.predict_reward(X))
    twice = CalibratedPolicyCV(First(), "linear", cv=split * 2).fit(X, y)
    assert_array_equal(twice.held_out_rewards_, policy.held_out_rewards_)


def test_several_objectives_are_weighted(sets):
    X, y = sets
    several = np.stack([y, 1 - y], axis=2)
    policy = QProbePolicy("squared_error", objective_weights=[2.0, 1.0])
    found = CalibratedPolicyCV(policy, "linear").fit(X, several)
    one = CalibratedPolicyCV(QProbePolicy("squared_error"), "linear").fit(X, y + 1)
    assert_allclose(found.predict_reward(X), one.predict_reward(X), atol=1e-6)


# Held-out prompts


def test_values_are_of_held_out_prompts():
    # More features than candidates: on its training prompts, the choice is perfect.
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 4, 300)), rng.integers(0, 2, size=(40, 4)) * 1.0
    policy = CalibratedPolicyCV(QProbePolicy("squared_error", alpha=1e-6)).fit(X, y)
    assert policy.score(X, y) == y.max(axis=1).mean()
    predicted = policy.predict_reward(rng.normal(size=(200, 4, 300)))
    assert predicted.mean() == pytest.approx(y.mean(), abs=0.15)


@every_method
def test_calibrated_on_new_prompts(method):
    X, y = load_two_words(return_X_y=True)
    policy = QProbePolicy("log_loss", alpha=0.01)
    calibrated = CalibratedPolicyCV(policy, method).fit(X[:160], y[:160])
    reward = calibrated.score(X[160:], y[160:])
    predicted = calibrated.predict_reward(X[160:]).mean()
    assert predicted == pytest.approx(reward, abs=0.06)
    # The chosen ones are far better than the candidates are.
    every = calibrated.predict_rewards(X[160:]).mean()
    assert every == pytest.approx(y[160:].mean(), abs=0.06)


def test_folds_have_the_settings_of_the_searches(sets):
    X, y = sets
    for search in (
        QProbePolicyCV(["pairwise_logistic"], alphas=[100.0, 1e-3], cv=3),
        GridSearchCV(QProbePolicy(), {"alpha": [100.0, 1e-3]}, cv=3),
        make_pipeline(StandardScaler(), QProbePolicyCV(alphas=[100.0, 1e-3])),
    ):
        is_pipeline = hasattr(search, "steps")
        if is_pipeline:
            search = make_pipeline(PerCandidate(StandardScaler()), search[-1])
        found = CalibratedPolicyCV(search, "linear").fit(X[:50], y[:50])
        selected = found.policy_[-1] if is_pipeline else found.policy_
        best = QProbePolicy().set_params(**selected.best_params_)
        if is_pipeline:
            best = make_pipeline(PerCandidate(StandardScaler()), best)
        expected = CalibratedPolicyCV(best, "linear").fit(X[:50], y[:50])
        assert_allclose(found.predict_reward(X), expected.predict_reward(X), rtol=1e-4)
        assert_array_equal(found.predict(X), search.fit(X[:50], y[:50]).predict(X))


class Counted(QProbePolicy):
    """Policy that counts its fits."""

    n_fits = 0

    def fit(self, X, y, groups=None, *, sample_weight=None):
        Counted.n_fits += 1
        return super().fit(X, y, groups, sample_weight=sample_weight)


@pytest.mark.parametrize("in_a_vote", [False, True])
def test_searches_are_not_repeated_in_the_folds(sets, in_a_vote):
    Counted.n_fits = 0
    search = GridSearchCV(Counted(temperature=1.0), {"alpha": [0.1, 1.0]}, cv=3)
    if in_a_vote:
        search = AnswerVote(search, extract=lambda row: row[0] > 1)
    CalibratedPolicyCV(search, cv=4).fit(*sets)
    assert Counted.n_fits == 2 * 3 + 1 + 4


def test_penalties_that_differ_between_folds_do_not_matter():
    # Selected in each fold anew, the penalty of values of pairs sets their scale.
    X, y = load_two_words(return_X_y=True)
    search = QProbePolicyCV(["pairwise_logistic"], alphas=(10.0, 1e-1, 1e-3))
    for seed in range(2):
        train, test = np.array_split(np.random.default_rng(seed).permutation(240), 2)
        policy = CalibratedPolicyCV(search, "sigmoid").fit(X[train], y[train])
        predicted, reward = (
            policy.predict_reward(X[test]),
            policy.score(X[test], y[test]),
        )
        assert predicted.mean() == pytest.approx(reward, abs=0.1)


def calibration_excess(predicted, rewards, n_bins=10):
    """Expected calibration error, minus that of correct predictions."""

    def error(rewards):
        bins = np.array_split(np.argsort(predicted, kind="stable"), n_bins)
        gaps = [abs(predicted[b].mean() - rewards[b].mean()) * len(b) for b in bins]
        return sum(gaps) / len(predicted)

    rng, p = np.random.default_rng(0), np.clip(predicted, 0, 1)
    correct = [error(rng.random(len(p)) < p) for _ in range(100)]
    return error(rewards) - np.mean(correct)


@every_method
def test_calibration_error_of_two_words(method):
    X, y = load_two_words(return_X_y=True)
    excess = []
    for seed in range(2):
        train, test = np.array_split(np.random.default_rng(seed).permutation(240), 2)
        policy = QProbePolicy("log_loss", alpha=0.01)
        policy = CalibratedPolicyCV(policy, method).fit(X[train], y[train])
        earned = y[test, policy.predict(X[test])]
        excess.append(calibration_excess(policy.predict_reward(X[test]), earned))
    assert np.mean(excess) < 0.05


@needs_real_data
@pytest.mark.slow
@every_method
def test_calibration_error_of_hh(method):
    X, y, groups = real_data("hh_harmless")
    train = np.random.default_rng(0).permutation(groups.max() + 1)[groups] % 2 == 0
    scale = PerCandidate(StandardScaler())
    policy = make_pipeline(scale, QProbePolicy("log_loss", alpha=0.1))
    policy = CalibratedPolicyCV(policy, method).fit(X[train], y[train])
    earned = y[~train, policy.predict(X[~train])]
    assert calibration_excess(policy.predict_reward(X[~train]), earned) < 0.05
    plain = expit(policy.decision_function(X[~train]).max(axis=1))
    assert calibration_excess(plain, earned) > 0.05  # without calibration


# The methods of the policy


def test_other_methods_are_those_of_the_policy(sets):
    X, y = sets
    inner = QProbePolicy("log_loss", temperature=0.5, random_state=0).fit(X, y)
    policy = CalibratedPolicyCV(inner).fit(X, y)
    offset = np.random.default_rng(0).normal(size=y.shape)
    for kwargs in ({}, {"offset": offset}):
        for name in ("decision_function", "predict", "predict_proba", "sample"):
            expected = getattr(inner, name)(X, **kwargs)
            assert_array_equal(getattr(policy, name)(X, **kwargs), expected)
        assert policy.score(X, y, **kwargs) == inner.score(X, y, **kwargs)
    weight = np.arange(len(X))
    expected = inner.score(X, y, sample_weight=weight)
    assert policy.score(X, y, sample_weight=weight) == expected
    assert policy.sample(X, size=3, random_state=1).shape == (400, 3)
    assert policy.n_features_in_ == 2
    assert_array_equal(candidate_values(policy, X), inner.decision_function(X))
    regressor = CalibratedPolicyCV(QProbeRegressor())
    assert not hasattr(regressor, "predict_proba")
    assert not hasattr(regressor, "decision_function")
    assert regressor.fit(X, y).predict(X).shape == y.shape


def test_rows_in_a_pipeline(sets):
    X, y = (array[:60] for array in sets)
    rows, rewards, groups = as_rows(X, y)
    pipeline = make_pipeline(StandardScaler(), SiblingFeatures(), QProbePolicy())
    policy = CalibratedPolicyCV(pipeline, "linear")
    with config_context(enable_metadata_routing=True):
        found = clone(policy).fit(rows, rewards, groups).predict_reward(rows, groups)
        search = GridSearchCV(policy, {"method": ["linear"]}, cv=GroupKFold(3))
        search.fit(rows, rewards, groups=groups)
        assert np.isfinite(search.best_score_)
        nested = search.best_estimator_.predict_reward(rows, groups)
    inner = make_pipeline(
        PerCandidate(StandardScaler()), SiblingFeatures(), QProbePolicy()
    )
    expected = CalibratedPolicyCV(inner, "linear").fit(X, y).predict_reward(X)
    assert_allclose(found, expected, rtol=1e-6)
    assert_allclose(nested, expected, rtol=1e-6)
    words = r"fit of Pipeline .*enable_metadata_routing=True"
    with pytest.raises(ValueError, match=words):
        clone(policy).fit(rows, rewards, groups)


def test_texts():
    rng = np.random.default_rng(0)
    records = [
        {"prompt": f"{i}", "completions": ["a" * n for n in rng.integers(1, 9, 4)]}
        for i in range(40)
    ]
    y = [[len(text) / 8 for text in record["completions"]] for record in records]
    embedder = VectorizerEmbedder(
        lambda texts: [[len(text)] for text in texts],
        join=lambda prompt, completion: completion,
    )
    pipeline = make_pipeline(embedder, QProbePolicy("squared_error", alpha=1e-6))
    policy = CalibratedPolicyCV(pipeline).fit(records, y)
    assert_allclose(policy.predict_reward(records), np.max(y, axis=1), atol=0.03)
    rewards = policy.predict_rewards(records)
    assert rewards.shape == (40, 4)
    assert_allclose(rewards, y, atol=1e-6)


def test_groups_of_sets_reach_the_splitter(sets):
    X, y = sets
    groups = np.arange(400) // 50
    policy = CalibratedPolicyCV(QProbePolicy(), cv=GroupKFold(8)).fit(X, y, groups)
    expected = CalibratedPolicyCV(QProbePolicy(), cv=KFold(8)).fit(X, y)
    assert_allclose(policy.predict_reward(X), expected.predict_reward(X))


# Errors


def test_errors_name_the_argument(sets):
    X, y = sets
    rows, rewards, groups = as_rows(X, y)
    for policy, words, data in (
        (CalibratedPolicyCV(First(), "sigmoid"), r"sigmoid.*-3 to 7", (X, 10 * y - 3)),
        (CalibratedPolicyCV(First(), "platt"), "'method' parameter", (X, y)),
        (CalibratedPolicyCV(StandardScaler()), "'estimator' parameter", (X, y)),
        (CalibratedPolicyCV(QProbePolicy()), "X has 400 prompts|shape", (X, y[:9])),
        (
            CalibratedPolicyCV(QProbePolicy(), cv=[(np.arange(7), np.arange(7, 90))]),
            "cv splits the candidates of a prompt",
            (rows, rewards, groups),
        ),
        (CalibratedPolicyCV(Ridge()), "output of estimator|dim", (X, y)),
    ):
        assert_refused(policy.fit, words, *data)
    with pytest.raises(NotFittedError):
        CalibratedPolicyCV(QProbePolicy()).predict_reward(X)


@every_method
@pytest.mark.parametrize("shape", [(400,), (400, 5)])
def test_held_out_prompts_have_weight(sets, method, shape):
    weight = np.ones(shape)
    weight[200:] = 0
    policy = CalibratedPolicyCV(First(), method, cv=[(range(200), range(200, 400))])
    with pytest.raises(ValueError, match="cv holds out no candidate"):
        policy.fit(*sets, sample_weight=weight)


def test_a_failed_fit_keeps_the_last_one(sets):
    X, y = sets
    policy = CalibratedPolicyCV(QProbePolicy(), "sigmoid").fit(X, y)
    assert_refused(policy.fit, "sigmoid", X, 5 * y)


def test_it_is_not_exported(sets):
    policy = CalibratedPolicyCV(QProbePolicy()).fit(*sets)
    with pytest.raises(TypeError, match=r"got CalibratedPolicyCV.*policy_"):
        to_json(policy)
    assert to_json(policy.policy_)


def test_folds_use_the_selected_weights_of_views(rng):
    """Values at other weights would differ in scale."""
    X = rng.normal(size=(60, 6, 7))
    y = (X[..., 4] + rng.normal(size=(60, 6)) > 0).astype(float)
    search = QProbePolicyCV(["log_loss"], view_sizes=(3, 3, 1))
    found = CalibratedPolicyCV(search).fit(X, y)
    best = QProbePolicy(
        view_sizes=(3, 3, 1), view_weights=found.policy_.view_weights_
    ).set_params(**found.policy_.best_params_)
    expected = CalibratedPolicyCV(best).fit(X, y)
    assert_allclose(found.held_out_rewards_, expected.held_out_rewards_)
