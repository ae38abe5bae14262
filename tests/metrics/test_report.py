import sys

import numpy as np
import pytest
from cases import as_rows
from numpy.testing import assert_allclose
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy, QProbeRegressor
from skqprobe.metrics import (
    base_reward,
    best_of_k_reward,
    effective_candidates,
    expected_reward,
    kl_upper_estimate,
    oracle_reward,
    policy_report,
    prompt_bootstrap,
    recovery,
    soft_best_of_k_reward,
    softmax_reward,
)
from skqprobe.preprocessing import PerCandidate

pd = pytest.importorskip("pandas")
FIGURES = ["base", "greedy", "sampled", "oracle", "recovery", "kl"]
FIGURES += ["effective candidates"]


def test_values_are_those_of_the_metrics(sets):
    X, y = sets
    policy = QProbePolicy("log_loss", temperature=0.5).fit(X, y)
    table = policy_report(policy, X, y, ks=[3, 6], random_state=0)
    defaults = {"n_resamples": 9999, "confidence_level": 0.95}
    again = policy_report(policy, X, y, ks=[3, 6], random_state=0, **defaults)
    pd.testing.assert_frame_equal(table, again)
    assert table.index.names == ["k", "figure"]
    assert table.index.to_list() == [(k, figure) for k in (3, 6) for figure in FIGURES]
    Q, proba = policy.decision_function(X), policy.predict_proba(X)
    soft, _ = soft_best_of_k_reward(y, Q, [3, 6], 0.5, random_state=0)
    entropy = [kl_upper_estimate(proba), effective_candidates(proba)]
    for k, sampled in [(3, soft), (6, expected_reward(y, proba))]:
        expected = [base_reward(y), best_of_k_reward(y, Q, k), sampled]
        expected += [oracle_reward(y, k), recovery(y, Q, k)]
        assert_allclose(table.loc[k, "value"][:5], expected)
    assert_allclose(table.loc[6, "value"][5:], entropy)
    kl, effective = table.loc[3, "value"][5:]
    assert 0 < kl < np.log(3)
    assert 1 < effective < 3
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()
    interval = prompt_bootstrap(recovery, y, Q, k=6, random_state=0)
    found = table.loc[(6, "recovery"), ["low", "high"]].tolist()
    assert_allclose(found, [interval.low, interval.high], atol=0.01)


def test_rows_agree_with_sets(sets):
    X, y, groups = as_rows(*sets)
    policy = QProbePolicy(temperature=0.1).fit(*sets)
    options = {"ks": [1, 6], "random_state": 0, "n_resamples": 200}
    pd.testing.assert_frame_equal(
        policy_report(policy, *sets, **options),
        policy_report(policy, X, y, groups, **options),
    )


def test_ragged_prompts_with_fewer_than_k_are_left_out(rows):
    X, y, groups = rows
    policy = QProbePolicy("log_loss").fit(X, y, groups)
    options = {"ks": (1, 5), "random_state": 0, "n_resamples": 200}
    table = policy_report(policy, X, y, groups, **options)
    labels, sizes = np.unique(groups, return_counts=True)
    kept = np.isin(groups, labels[sizes >= 5])
    expected = base_reward(y[kept], groups[kept])
    assert table.loc[(5, "base"), "value"] == pytest.approx(expected)
    n_prompts = table["n_prompts"].drop("recovery", level="figure")
    assert (n_prompts.loc[5] == (sizes >= 5).sum()).all()
    assert (n_prompts.loc[1] == len(sizes)).all()


def test_line_of_all_candidates_of_ragged_prompts(rows):
    X, y, groups = rows
    policy = QProbePolicy("log_loss", temperature=0.5).fit(X, y, groups)
    options = {"random_state": 0, "n_resamples": 200}
    table = policy_report(policy, X, y, groups, **options)
    assert table.index.unique("k").tolist() == [1, "all"]  # the smallest prompt has 1
    Q, proba = policy.decision_function(X), policy.predict_proba(X, groups)
    oracle = softmax_reward(y, y, 0, groups)
    greedy, base = softmax_reward(y, Q, 0, groups), base_reward(y, groups)
    expected = [
        base,
        greedy,
        expected_reward(y, proba, groups),
        oracle,
        (greedy - base) / (oracle - base),
        kl_upper_estimate(proba, groups),
        effective_candidates(proba, groups),
    ]
    assert_allclose(table.loc["all", "value"], expected)
    possible = [np.ptp(y[groups == label]) > 0 for label in np.unique(groups)]
    assert table.loc[("all", "recovery"), "n_prompts"] == np.sum(possible)
    assert table.loc[("all", "base"), "n_prompts"] == len(possible)
    message = "of 'base' at k=9 is unreliable: only 3 of 40 prompts"
    with pytest.warns(UndefinedMetricWarning, match=message):
        asked = policy_report(policy, X, y, groups, ks=[3, 50], **options)
    assert asked.index.unique("k").tolist() == [3, 9, "all"]


@pytest.mark.parametrize(
    ("sizes", "ks"), [([5] * 11 + [12], [1, 5, "all"]), ([49] * 12, [1, 10, 48])]
)
def test_default_ks_are_reduced_to_the_smallest_prompt(rng, sizes, ks):
    groups = np.repeat(np.arange(12), sizes)
    X = rng.normal(size=(len(groups), 2))
    y = (X[:, 0] + rng.normal(size=len(X)) > 0).astype(float)
    policy = QProbePolicy("log_loss", temperature=0.5).fit(X, y, groups)
    table = policy_report(policy, X, y, groups, n_resamples=100, random_state=0)
    assert table.index.unique("k").tolist() == ks
    ks, Q = [k for k in ks if k != "all"], policy.decision_function(X)
    sampled = soft_best_of_k_reward(
        y, Q, ks, 0.5, groups, too_few="skip", random_state=0
    )
    assert_allclose(table.loc[(ks, "sampled"), "value"], sampled)
    assert np.isfinite(table.drop((1, "recovery"))).all(axis=None)


def test_ks_above_the_number_of_candidates_are_reduced(sets):
    table = policy_report(QProbePolicy().fit(*sets), *sets, n_resamples=100)
    assert table.index.unique("k").tolist() == [1, 6]
    assert np.isnan(table.loc[(1, "recovery"), "value"])


def test_ks_may_be_one_number(sets):
    policy = QProbePolicy("log_loss").fit(*sets)
    options = {"n_resamples": 100, "random_state": 0}
    pd.testing.assert_frame_equal(
        policy_report(policy, *sets, ks=3, **options),
        policy_report(policy, *sets, ks=[3, 3], **options),
    )


def test_no_recovery_among_one_candidate():
    """Not even if two ways to compute a mean differ by rounding."""
    rng = np.random.default_rng(11)  # the oracle's mean is 1e-16 above the base's
    X, y = rng.normal(size=(30, 7, 3)), rng.random((30, 7))
    table = policy_report(QProbePolicy().fit(X, y), X, y, ks=[1], n_resamples=100)
    assert table.loc[(1, "recovery"), "value":"high"].isna().all()
    assert table.loc[(1, "recovery"), "n_prompts"] == 0


@pytest.mark.parametrize(
    "policy",
    [
        make_pipeline(PerCandidate(StandardScaler()), QProbePolicy(temperature=0.7)),
        GridSearchCV(QProbePolicy(), {"temperature": [0.7]}, cv=2),
        QProbeRegressor(temperature=0.7),
    ],
    ids=lambda e: type(e).__name__,
)
def test_temperature_of_pipelines_and_searches(sets, policy):
    policy.fit(*sets)
    table = policy_report(policy, *sets, ks=[6], n_resamples=100, random_state=0)
    assert table.loc[(6, "effective candidates"), "value"] > 1.05


def test_any_regressor_is_a_greedy_policy(sets):
    X, y, groups = as_rows(*sets)
    table = policy_report(Ridge().fit(X, y), X, y, groups, ks=[6], n_resamples=100)
    assert table.loc[(6, "sampled"), "value"] == table.loc[(6, "greedy"), "value"]
    assert table.loc[(6, "effective candidates"), "value"] == 1


def test_message_without_pandas(sets, monkeypatch):
    policy = QProbePolicy().fit(*sets)
    monkeypatch.setitem(sys.modules, "pandas", None)
    message = r'^policy_report needs pandas: pip install "skqprobe\[frame\]"'
    with pytest.raises(ImportError, match=message):
        policy_report(policy, *sets)


class Constant:
    """A ranker that returns the same values for any X."""

    def predict(self, X):
        return np.eye(2)


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        ([0.0, 1.0], {}, "^y has rows but no groups"),
        ([[0, 1e200], [1e200, 0]], {}, "^y has numbers of up to 1e"),
        (np.eye(3), {}, "^the output of policy has shape"),
        (np.eye(2), {"ks": [0]}, "^ks must be an integer of 1 or more, or a list"),
        (np.eye(2), {"ks": ["all"]}, r"^ks must be .* got \['all'\]"),
        (np.eye(2), {"ks": []}, "^ks must be an integer"),
        (np.eye(2), {"ks": 2.0}, "^ks must be an integer"),
    ],
)
def test_bad_input(y, options, message):
    with pytest.raises(ValueError, match=message):
        policy_report(Constant(), None, y, **options)


def test_several_objectives_are_weighted(rng):
    pytest.importorskip("pandas")
    X = rng.normal(size=(40, 6, 3))
    y = X[..., :2] + rng.normal(size=(40, 6, 2))
    policy = QProbePolicy("squared_error", objective_weights=[1, 3]).fit(X, y)
    settings = {"ks": [2, 6], "n_resamples": 99, "random_state": 0}
    found = policy_report(policy, X, y, **settings)
    expected = policy_report(policy, X, y @ [1, 3], **settings)
    assert found.equals(expected)


class First:
    """A ranker whose values are the first feature."""

    def predict(self, X):
        return X[..., 0]


def test_warning_if_all_prompts_agree(rng):
    """The oracle and the distance often agree, and do not warn."""
    X, y = rng.normal(size=(30, 4, 1)), np.tile([1.0, 0.0, 0.0, 0.0], (30, 1))
    y[:15, 1] = 1.0
    few = {"ks": 4, "n_resamples": 99, "random_state": 0}
    table = policy_report(First(), X, y, **few)
    assert table.loc[(4, "oracle"), ["low", "high"]].tolist() == [1, 1]
    message = "of 'greedy' at k=4 has no width: all 30 prompts have the same value"
    with pytest.warns(UndefinedMetricWarning, match=message):
        policy_report(First(), -y[..., None], y, **few)
