import sys

import numpy as np
import pytest
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
)
from skqprobe.preprocessing import PerCandidate

pd = pytest.importorskip("pandas")
FIGURES = ["base", "greedy", "sampled", "oracle", "recovery", "kl"]
FIGURES += ["effective candidates"]


def test_figures_are_those_of_the_metrics(sets):
    X, y = sets
    policy = QProbePolicy("log_loss", temperature=0.5).fit(X, y)
    table = policy_report(policy, X, y, ks=[3, 6], random_state=0)
    assert table.index.names == ["k", "figure"]
    assert table.index.to_list() == [(k, figure) for k in (3, 6) for figure in FIGURES]
    Q, proba = policy.decision_function(X), policy.predict_proba(X)
    of_all = [
        base_reward(y),
        best_of_k_reward(y, Q, 6),
        expected_reward(y, proba),
        oracle_reward(y, 6),
        recovery(y, Q, 6),
        kl_upper_estimate(proba),
        effective_candidates(proba),
    ]
    np.testing.assert_allclose(table.loc[6, "value"], of_all)
    of_three = table.loc[3, "value"]
    np.testing.assert_allclose(
        of_three.iloc[:5],
        [
            base_reward(y),
            best_of_k_reward(y, Q, 3),
            soft_best_of_k_reward(y, Q, [3, 6], 0.5, random_state=0)[0],
            oracle_reward(y, 3),
            recovery(y, Q, 3),
        ],
    )
    assert 0 < of_three["kl"] < np.log(3)
    assert 1 < of_three["effective candidates"] < 3
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()
    interval = prompt_bootstrap(recovery, y, Q, k=6, random_state=0)
    np.testing.assert_allclose(
        table.loc[(6, "recovery"), ["low", "high"]].tolist(),
        [interval.low, interval.high],
        atol=0.01,
    )


def test_rows_agree_with_sets(sets):
    X, y = sets
    policy = QProbePolicy(temperature=0.1).fit(X, y)
    groups = np.repeat(np.arange(60), 6)
    kwargs = {"ks": [1, 6], "random_state": 0, "n_resamples": 200}
    pd.testing.assert_frame_equal(
        policy_report(policy, X, y, **kwargs),
        policy_report(policy, X.reshape(-1, 4), y.ravel(), groups, **kwargs),
    )


def test_ragged_prompts_with_too_few_are_left_out(rows):
    X, y, groups = rows
    policy = QProbePolicy("log_loss").fit(X, y, groups)
    table = policy_report(
        policy, X, y, groups, ks=(1, 5), n_resamples=200, random_state=0
    )
    labels, sizes = np.unique(groups, return_counts=True)
    kept = np.isin(groups, labels[sizes >= 5])
    assert table.loc[(5, "base"), "value"] == pytest.approx(
        base_reward(y[kept], groups[kept])
    )


def test_ks_above_the_prompts_are_cut_down(sets):
    X, y = sets
    table = policy_report(QProbePolicy().fit(X, y), X, y, n_resamples=100)
    assert table.index.unique("k").tolist() == [1, 6]
    assert np.isnan(table.loc[(1, "recovery"), "value"])


@pytest.mark.parametrize(
    "policy",
    [
        make_pipeline(PerCandidate(StandardScaler()), QProbePolicy(temperature=0.7)),
        GridSearchCV(QProbePolicy(), {"temperature": [0.7]}, cv=2),
        QProbeRegressor(temperature=0.7),
    ],
    ids=lambda e: type(e).__name__,
)
def test_the_temperature_is_found(sets, policy):
    X, y = sets
    policy.fit(X, y)
    table = policy_report(policy, X, y, ks=[6], n_resamples=100, random_state=0)
    assert table.loc[(6, "effective candidates"), "value"] > 1.05


def test_any_regressor_chooses_greedily(sets):
    X, y = sets
    rows, groups = X.reshape(-1, 4), np.repeat(np.arange(60), 6)
    ridge = Ridge().fit(rows, y.ravel())
    table = policy_report(ridge, rows, y.ravel(), groups, ks=[6], n_resamples=100)
    assert table.loc[(6, "sampled"), "value"] == table.loc[(6, "greedy"), "value"]
    assert table.loc[(6, "effective candidates"), "value"] == 1


def test_says_how_to_install_pandas(sets, monkeypatch):
    X, y = sets
    policy = QProbePolicy().fit(X, y)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r'pip install "skqprobe\[frame\]"'):
        policy_report(policy, X, y)


def test_bad_input_is_named(sets):
    X, y = sets
    policy = QProbePolicy().fit(X, y)
    with pytest.raises(ValueError, match="no groups"):
        policy_report(policy, X.reshape(-1, 4), y.ravel())
    with pytest.raises(ValueError, match="k must be an integer"):
        policy_report(policy, X, y, ks=[0])


def test_nothing_is_to_gain_from_one_candidate():
    """Not even what rounding leaves between two ways to take a mean."""
    rng = np.random.default_rng(11)  # here the oracle's is 1e-16 above the base's
    X, y = rng.normal(size=(30, 7, 3)), rng.random((30, 7))
    table = policy_report(QProbePolicy().fit(X, y), X, y, ks=[1], n_resamples=100)
    assert table.loc[(1, "recovery")].isna().all()
