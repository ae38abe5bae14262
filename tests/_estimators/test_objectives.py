"""Several rewards per candidate, their weights, and the offset."""

import copy

import numpy as np
import pytest
from cases import (
    LEAST_SQUARES,
    WITH_INTERCEPT,
    as_rows,
    every_probe,
    every_probe_and_loss,
    values_of,
)
from estimators import assert_refused, assert_same_state, state_of
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy, QProbePolicyCV, QProbeRegressor, make_probe_pipeline
from skqprobe._arrays import blocks
from skqprobe._arrays.blocks import BlockReader
from skqprobe._arrays.named_rewards import stack_rewards
from skqprobe.losses import LOSSES, BaseLoss, SquaredError
from skqprobe.metrics import (
    best_of_k_scorer,
    expected_reward_scorer,
    objective_rewards,
)
from skqprobe.preprocessing import PerCandidate, SiblingFeatures

WEIGHTS = np.array([0.5, -1.0, 2.0])


def vector(X, y):
    """Rewards in [0, 1] of three objectives, of which `y` is the first."""
    noise = np.random.default_rng(3).normal(size=(2, *y.shape))
    second = (X[..., 1] + 0.3 * noise[0] > 0.5).astype(float)
    return np.stack([y, second, 1 / (1 + np.exp(-X[..., 2] - noise[1]))], axis=-1)


@pytest.fixture
def vector_sets(sets):
    return sets[0], vector(*sets)


@pytest.fixture
def vector_rows(rows):
    """Rows of prompts of at least two candidates."""
    X, y, groups = rows
    labels, sizes = np.unique(groups, return_counts=True)
    several = np.isin(groups, labels[sizes > 1])
    X, y, groups = X[several], y[several], groups[several]
    return X, vector(X, y), groups


@pytest.fixture(params=["sets", "rows"])
def vectors(request):
    X, y, *groups = request.getfixturevalue(f"vector_{request.param}")
    return X, y, groups[0] if groups else None


def make(Probe, loss, **params):
    return Probe(loss, **{"alpha": 0.05, "tol": 1e-8} | params)


def tolerance(loss):
    """The minimization of the hinge ends early, see test_common.py."""
    return {"atol": 1e-2} if loss == "pairwise_hinge" else {"rtol": 1e-5, "atol": 1e-6}


# The fit


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("standardize", [False, True])
@every_probe_and_loss
def test_coefficients_are_those_of_single_fits(
    vectors, Probe, loss, standardize, dtype
):
    X, y, groups = vectors
    X, tol = X.astype(dtype), 1e-8 if dtype == np.float64 else 1e-5
    tol = max(tol, 1e-6) if loss == "pairwise_hinge" else tol
    settings = {"standardize": standardize, "tol": tol}
    probe = make(Probe, loss, **settings).fit(X, y, groups)
    assert probe.coef_.shape == (3, 4)
    assert probe.coef_.dtype == (np.float64 if dtype == np.float64 else np.float32)
    assert probe.intercept_.shape == (3,)
    assert not hasattr(probe, "objective_names_")
    for j in range(3):
        single = make(Probe, loss, **settings).fit(X, y[..., j], groups)
        close = {"atol": 5e-3} if dtype != np.float64 else tolerance(loss)
        assert_allclose(probe.coef_[j], single.coef_, **close)
        assert_allclose(probe.intercept_[j], single.intercept_, **close)
        assert probe.n_skipped_prompts_[j] == single.n_skipped_prompts_


@pytest.mark.parametrize("shape", [(60, 6, 4), (9, 5, 80)], ids=["primal", "dual"])
@pytest.mark.parametrize("alpha", [1e-3, 1.0])
@pytest.mark.parametrize("loss", LEAST_SQUARES)
def test_weighted_coefficients_are_the_fit_to_weighted_rewards(shape, loss, alpha, rng):
    X, y = rng.normal(size=shape), rng.normal(size=(*shape[:2], 3)) * [1, 100, 1e-3]
    weight = rng.uniform(1, 2, size=shape[:2])
    probe = QProbePolicy(loss, alpha=alpha).fit(X, y, sample_weight=weight)
    mixture = QProbePolicy(loss, alpha=alpha).fit(X, y @ WEIGHTS, sample_weight=weight)
    difference = WEIGHTS @ probe.coef_ - mixture.coef_
    assert abs(difference).max() < 1e-10 * abs(mixture.coef_).max()
    assert WEIGHTS @ probe.intercept_ == pytest.approx(mixture.intercept_, rel=1e-10)
    values = probe.set_params(objective_weights=WEIGHTS).decision_function(X)
    assert_allclose(values, mixture.decision_function(X), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("sizes", [(), (8,)], ids=["linear", "network"])
@every_probe_and_loss
def test_one_objective_equals_a_scalar_reward(sets, Probe, loss, sizes):
    X, y = sets
    if sizes:
        pytest.importorskip("torch", reason="torch is not installed")
    settings = {"hidden_layer_sizes": sizes, "random_state": 0, "temperature": 0.3}
    scalar = Probe(loss, **settings).fit(X, y)
    probe = Probe(loss, **settings).fit(X, y[..., None])
    if not sizes:
        assert probe.coef_.shape == (1, 4)
        assert_array_equal(probe.coef_[0], scalar.coef_)
        assert_array_equal(probe.intercept_, [scalar.intercept_])
    assert_array_equal(values_of(probe, X), values_of(scalar, X))
    assert_array_equal(probe.predict_objectives(X)[..., 0], values_of(scalar, X))
    assert_array_equal(scalar.predict_objectives(X)[..., 0], values_of(scalar, X))
    assert probe.score(X, y[..., None]) == scalar.score(X, y) == probe.score(X, y)
    assert_array_equal(probe.sample(X), scalar.sample(X))
    assert probe.n_iter_ == scalar.n_iter_
    assert_array_equal(probe.n_skipped_prompts_, [scalar.n_skipped_prompts_])


def test_column_of_rewards_of_rows(rows):
    X, y, groups = rows
    policy = QProbePolicy().fit(X, y[:, None], groups)
    assert_array_equal(policy.coef_, [QProbePolicy().fit(X, y, groups).coef_])
    with pytest.warns(DataConversionWarning, match="column-vector y"):
        model = QProbeRegressor().fit(X, y[:, None], groups)
    assert_array_equal(model.predict(X), QProbeRegressor().fit(X, y, groups).predict(X))


def test_prompts_are_informative_per_objective(vector_sets):
    X, y = vector_sets
    y[:10, :, 1] = 1
    y[..., 2] = 0.5
    with pytest.warns(UserWarning, match=r"y\[..., 2\]: No prompt is informative"):
        policy = QProbePolicy().fit(X, y)
    expected = [(np.ptp(y[..., j], axis=1) == 0).sum() for j in range(3)]
    assert policy.n_skipped_prompts_.tolist() == expected
    assert policy.n_skipped_prompts_[2] == 60
    assert not policy.coef_[2].any()
    assert_allclose(policy.coef_[1], QProbePolicy().fit(X, y[..., 1]).coef_, rtol=1e-4)


def test_least_squares_whose_weights_depend_on_the_rewards(vector_sets):
    class ByReward(LOSSES["squared_error"]):
        def least_squares(self, rewards, offsets, weight=None):
            v, t = super().least_squares(rewards, offsets, weight)
            return v * (1 + rewards), t

    X, y = vector_sets
    policy = QProbePolicy(ByReward()).fit(X, y)
    for j in range(3):
        assert_array_equal(
            policy.coef_[j], QProbePolicy(ByReward()).fit(X, y[..., j]).coef_
        )


def test_custom_loss(vector_sets):
    class Squared(BaseLoss):
        def value_and_gradient(self, scores, rewards, offsets, weight=None):
            assert scores.shape == rewards.shape == (offsets[-1],)
            return SquaredError().value_and_gradient(scores, rewards, offsets, weight)

    found = QProbePolicy(Squared(), tol=1e-8).fit(*vector_sets)
    expected = QProbePolicy("squared_error").fit(*vector_sets)
    assert_allclose(found.coef_, expected.coef_, rtol=1e-5)


@pytest.mark.parametrize("loss", ["squared_error", "pairwise_logistic"])
def test_reads_are_shared(vector_sets, loss, monkeypatch):
    n_rows, read = [0], BlockReader.raw

    def count(self, rows):
        block = read(self, rows)
        n_rows[0] += len(block)
        return block

    monkeypatch.setattr(BlockReader, "raw", count)
    X, y = vector_sets
    reads = []
    for rewards in (y[..., :1], np.repeat(y[..., :1], 5, axis=-1)):
        n_rows[0] = 0
        QProbePolicy(loss).fit(X, rewards)
        reads.append(n_rows[0] / 360)
    assert reads[1] <= reads[0] + 1


def test_log_loss_checks_every_objective(vector_sets):
    X, y = vector_sets
    y[3, 2, 1] = 1.5
    words = r"y\[..., 1\], an objective of y.* must lie in \[0, 1\]"
    assert_refused(QProbePolicy("log_loss").fit, words, X, y)
    assert_refused(QProbePolicyCV(["log_loss"]).fit, words, X, y)
    found = QProbePolicyCV(alphas=[1.0], cv=2).fit(X, y)
    assert {each["loss"] for each in found.cv_results_["params"]} == {
        "pairwise_logistic",
        "contrastive_policy_gradient",
    }


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_magnitude_of_every_objective_is_checked(vector_sets, scale):
    X, y = vector_sets
    y = y * [1, scale, 1]
    words = r"y\[..., 1\] has numbers of up to"
    assert_refused(QProbePolicy("squared_error").fit, words, X, y)


@every_probe
def test_warm_start(vector_sets, Probe):
    X, y = vector_sets
    probe = Probe("log_loss", warm_start=True).fit(X + 3, y)
    n_iter, coef = probe.n_iter_, probe.coef_.copy()
    assert probe.fit(X + 3, y).n_iter_ < n_iter / 2
    assert_allclose(probe.coef_, coef, rtol=0.1, atol=1e-3)
    assert probe.fit(X, y[..., :2]).coef_.shape == (2, 4)  # not of as many objectives
    assert probe.fit(X, y[..., 0]).coef_.shape == (4,)


@pytest.mark.parametrize("loss", ["pairwise_logistic", "pairwise_hinge"])
def test_progress_of_a_fit(vector_sets, loss, capsys):
    policy = QProbePolicy(loss, verbose=1).fit(*vector_sets)
    values = [float(x.split()[-1]) for x in capsys.readouterr().out.splitlines()]
    assert len(values) >= policy.n_iter_ > 1
    assert values[-1] < values[0]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_values_of_a_memory_map(vector_sets, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1000)
    X, y = vector_sets
    np.save(tmp_path / "X.npy", X.astype(dtype))
    X = np.load(tmp_path / "X.npy", mmap_mode="r")
    policy = QProbePolicy("log_loss").fit(X, y)
    double = QProbePolicy("log_loss", tol=1e-6).fit(X.astype(np.float64), y)
    assert_allclose(policy.coef_, double.coef_, rtol=1e-2, atol=1e-3)
    values = policy.predict_objectives(X)
    assert values.dtype == (np.float64 if dtype == np.float64 else np.float32)
    expected = X.astype(np.float64) @ policy.coef_.T + policy.intercept_
    assert_allclose(values, expected, rtol=1e-4, atol=1e-5)


def test_scorers_weight_rewards_of_several_objectives(vector_sets):
    X, y = vector_sets
    policy = QProbePolicy(objective_weights=WEIGHTS).fit(X, y)
    expected = best_of_k_scorer(2)(policy, X, y @ WEIGHTS)
    assert best_of_k_scorer(2)(policy, X, y) == pytest.approx(expected)


# Weights


@every_probe
def test_weights_are_read_at_choice(vectors, Probe):
    X, y, groups = vectors
    probe = Probe("log_loss", temperature=0.2).fit(X, y, groups)
    single = probe.predict_objectives(X)
    assert single.shape == y.shape
    for weights, expected in (
        (None, single.mean(axis=-1)),
        (WEIGHTS, single @ WEIGHTS),
        ([0, 1, 0], single[..., 1]),
        ((3, 0, 0), 3 * single[..., 0]),
    ):
        before = state_of(probe)
        probe.set_params(objective_weights=weights)
        values = values_of(probe, X)
        assert_allclose(values, expected, rtol=1e-10, atol=1e-12)
        chosen = probe.set_params(temperature=0).sample(X, groups)
        if groups is None:
            assert_array_equal(chosen, expected.argmax(axis=1))
        probe.set_params(temperature=0.2)
        assert_array_equal(probe.coef_, before["coef_"])


def test_probability_of_a_regressor_is_not_that_of_the_mean_logit(vector_sets):
    X, y = vector_sets
    model = QProbeRegressor("log_loss").fit(X, y)
    logits = X @ model.coef_.T + model.intercept_
    assert_allclose(model.predict_objectives(X), 1 / (1 + np.exp(-logits)))
    assert_allclose(model.predict(X), (1 / (1 + np.exp(-logits))).mean(axis=-1))


def test_score_is_the_expected_weighted_reward(vectors):
    X, y, groups = vectors
    policy = QProbePolicy(temperature=0.3, objective_weights=WEIGHTS).fit(X, y, groups)
    score = policy.score(X, y, groups)
    proba = policy.predict_proba(X, groups)
    reward = proba * (y @ WEIGHTS)
    n_prompts = len(X) if groups is None else len(set(groups))
    assert score == pytest.approx(reward.sum() / n_prompts)
    # One number per candidate is the reward, whatever the weights are.
    one = (proba * y[..., 1]).sum() / n_prompts
    assert policy.score(X, y[..., 1], groups) == pytest.approx(one)


def test_score_of_a_regressor(vector_sets):
    X, y = vector_sets
    model = QProbeRegressor(objective_weights=WEIGHTS).fit(X, y)
    mixture = QProbeRegressor().fit(X, y @ WEIGHTS)
    assert model.score(X, y) == pytest.approx(mixture.score(X, y @ WEIGHTS))


BAD_WEIGHTS = {
    "too few": (
        [1, 2],
        r"objective_weights has shape \(2,\); pass one number .*\(3,\)",
    ),
    "scalar": (0.5, r"objective_weights has shape \(\)"),
    "NaN": ([1, np.nan, 0], "objective_weights contains NaN"),
    "text": (["a", "b", "c"], "objective_weights must hold real numbers"),
    "large": ([1e200, 1, 1], "objective_weights has numbers of up to"),
}


@pytest.mark.parametrize("weights, words", BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
@every_probe
def test_bad_weights(vector_sets, Probe, weights, words):
    X, y = vector_sets
    if np.ndim(weights):
        assert_refused(Probe(objective_weights=weights).fit, words, X, y)
    probe = Probe().fit(X, y).set_params(objective_weights=weights)
    assert_refused(getattr(probe, "decision_function", probe.predict), words, X)
    assert_refused(probe.score, words, X, y)
    assert_refused(probe.sample, words, X)


@every_probe
def test_other_number_of_objectives_in_score(vector_sets, Probe):
    X, y = vector_sets
    words = "y has 2 objectives, but QProbe.* was fitted to 3"
    assert_refused(Probe().fit(X, y).score, words, X, y[..., :2])
    words = "y has 3 objectives, but QProbe.* was fitted to 1"
    assert_refused(Probe().fit(X, y[..., 0]).score, words, X, y)


# Names


def test_names_of_a_data_frame(vector_rows):
    pd = pytest.importorskip("pandas")
    X, y, groups = vector_rows
    frame = pd.DataFrame(y, columns=["right", "short", "kind"])
    for Probe in (QProbePolicy, QProbeRegressor, QProbePolicyCV):
        probe = Probe().fit(X, frame, groups)
        assert probe.objective_names_.tolist() == ["right", "short", "kind"]
        assert_array_equal(probe.coef_, Probe().fit(X, y, groups).coef_)
        assert not hasattr(probe.fit(X, y, groups), "objective_names_")
    # The columns of scalar rewards of sets are candidates.
    sets = pd.DataFrame(y[:60].reshape(10, 18)[:, :6], columns=list("abcdef"))
    policy = QProbePolicy().fit(X[:60].reshape(10, 6, 4), sets)
    assert policy.coef_.shape == (4,)
    assert not hasattr(policy, "objective_names_")
    mixed = frame.set_axis(["right", 1, 2], axis=1)
    words = r"column names of y must all be strings.*'int', 'str'"
    assert_refused(QProbePolicy().fit, words, X, mixed, groups, error=TypeError)
    numbered = QProbePolicy().fit(X, pd.DataFrame(y), groups)
    assert not hasattr(numbered, "objective_names_")


def test_rewards_as_dicts(vector_sets):
    X, y = vector_sets
    names = ["right", "short", "kind"]
    dicts = [
        [dict(zip(names, r, strict=True)) for r in prompt] for prompt in y.tolist()
    ]
    dicts[0][1] = dict(reversed(dicts[0][1].items()))
    policy = QProbePolicy().fit(X, dicts)
    assert policy.objective_names_.tolist() == names
    assert_array_equal(policy.coef_, QProbePolicy().fit(X, y).coef_)
    rows = [reward for prompt in dicts for reward in prompt]
    by_rows = QProbePolicy().fit(X.reshape(-1, 4), rows, np.repeat(np.arange(60), 6))
    assert_array_equal(by_rows.coef_, policy.coef_)
    dicts[2][3] = {"right": 1.0}
    words = r"y holds dicts.*objectives \['right', 'short', 'kind'\]"
    assert_refused(QProbePolicy().fit, words, X, dicts)
    rows[0] = None
    words = r"y contains NaN.*y\[0, 0\]"
    assert_refused(QProbePolicy().fit, words, X.reshape(-1, 4), rows)


def test_names_of_named_rewards(vector_sets):
    X, y = vector_sets
    names = ["right", "short", "kind"]
    rows = [dict(zip(names, row, strict=True)) for row in y.reshape(-1, 3)]
    named = stack_rewards(rows).reshape(60, 6, 3)
    policy = QProbePolicy().fit(X[:40], named[:40])
    assert policy.objective_names_.tolist() == names
    search = GridSearchCV(QProbePolicy(), {"alpha": [0.1, 1.0]}, cv=2).fit(X, named)
    assert search.best_estimator_.objective_names_.tolist() == names
    assert not hasattr(QProbePolicy().fit(X, named[..., ::-1]), "objective_names_")


def test_missing_rewards_of_a_data_frame(vector_rows):
    pd = pytest.importorskip("pandas")
    X, y, groups = vector_rows
    frame = pd.DataFrame(y, columns=["right", "short", "kind"]).astype("Float64")
    policy = QProbePolicy().fit(X, frame, groups)
    assert_array_equal(policy.coef_, QProbePolicy().fit(X, y, groups).coef_)
    frame.iloc[3, 1] = pd.NA
    words = r"y contains NaN.*y\[3"
    assert_refused(QProbePolicy().fit, words, X, frame, groups)
    assert_refused(policy.score, words, X, frame, groups)
    with pytest.raises(ValueError, match=words):
        expected_reward_scorer(0)(policy, X, frame, groups=groups)
    with pytest.raises(ValueError, match=words):
        objective_rewards(frame, y[:, 0], groups=groups)


def test_names_order_the_rewards_of_score(vector_rows):
    pd = pytest.importorskip("pandas")
    X, y, groups = vector_rows
    names = ["right", "short", "kind"]
    frame = pd.DataFrame(y, columns=names)
    dicts = frame[names[::-1]].to_dict("records")
    for Probe in (QProbePolicy, QProbeRegressor, QProbePolicyCV):
        probe = Probe(objective_weights=[1, -0.5, 0]).fit(X, frame, groups)
        expected = probe.score(X, y, groups)
        for other in (frame[names[::-1]], dicts, stack_rewards(dicts)):
            assert probe.score(X, other, groups) == expected
            scorer = expected_reward_scorer(0)
            assert scorer(probe, X, other, groups=groups) == pytest.approx(
                scorer(probe, X, y, groups=groups)
            )
        renamed = frame.rename(columns={"kind": "price"})
        words = r"y has the objectives \['right', 'short', 'price'\], but QProbe.* was"
        assert_refused(probe.score, words, X, renamed, groups)
        unnamed = probe.fit(X, y, groups)
        assert unnamed.score(X, renamed, groups) == expected


# Cross-validation


@pytest.mark.parametrize("loss", LOSSES)
def test_cv_selects_as_a_search_does(vectors, loss):
    X, y, groups = vectors
    settings = {"objective_weights": [1.0, 0.5, -0.5], "tol": 1e-7}
    alphas, temperatures = [1.0, 0.05], [0, 0.3]
    labels = (
        np.arange(len(X))
        if groups is None
        else np.unique(groups, return_inverse=True)[1]
    )
    folds = [
        (np.flatnonzero(labels % 3 != i), np.flatnonzero(labels % 3 == i))
        for i in range(3)
    ]
    search = QProbePolicyCV(
        [loss], alphas=alphas, temperatures=temperatures, cv=folds, **settings
    ).fit(X, y, groups)
    expected = []
    for alpha in alphas:
        for temperature in temperatures:
            policy = QProbePolicy(
                loss, alpha=alpha, temperature=temperature, **settings
            )
            scores = []
            for train, test in folds:
                both = [None if groups is None else groups[i] for i in (train, test)]
                policy.fit(X[train], y[train], both[0])
                scores.append(policy.score(X[test], y[test], both[1]))
            expected.append(np.mean(scores))
    close = {"rtol": 0.05} if loss == "pairwise_hinge" else {"rtol": 1e-6}
    assert_allclose(search.cv_results_["mean_test_score"], expected, **close)
    best = QProbePolicy(loss, alpha=search.alpha_, **settings).fit(X, y, groups)
    assert_allclose(search.coef_, best.coef_, **tolerance(loss))
    # New weights need no new fit.
    search.set_params(objective_weights=[0, 0, 1])
    one = search.predict_objectives(X)[..., 2]
    assert_allclose(search.decision_function(X), one, rtol=1e-6, atol=1e-12)


def test_cv_of_one_objective_equals_a_scalar_reward(sets):
    X, y = sets
    scalar, one = (QProbePolicyCV(cv=3).fit(X, r) for r in (y, y[..., None]))
    for name in ("mean_test_score", "split1_test_score"):
        assert_array_equal(one.cv_results_[name], scalar.cv_results_[name])
    assert_array_equal(one.coef_, [scalar.coef_])


def test_cv_with_scoring_gets_rewards_of_all_objectives(vectors):
    X, y, groups = vectors
    shapes = set()

    def scoring(policy, X, y, groups=None):
        shapes.add((X.shape[1:], y.shape[1:]))
        return policy.score(X, y, groups)

    settings = {"losses": ["squared_error"], "cv": 3, "alphas": [1.0, 0.01]}
    settings["objective_weights"] = WEIGHTS
    found = QProbePolicyCV(**settings, scoring=scoring).fit(X, y, groups)
    expected = QProbePolicyCV(**settings).fit(X, y, groups)
    assert_allclose(
        found.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
    )
    assert shapes == {(X.shape[1:], y.shape[1:])}


def test_search_over_weights_and_temperatures(vector_sets):
    X, y = vector_sets
    grid = {"objective_weights": [None, [1, 0, 0], [0, 1, 0]], "temperature": [0, 1.0]}

    def reward_of_first(policy, X, y):
        return policy.score(X, y[..., 0])

    search = GridSearchCV(QProbePolicy(), grid, scoring=reward_of_first, cv=3).fit(X, y)
    assert search.best_params_ == {"objective_weights": [1, 0, 0], "temperature": 0}
    assert GridSearchCV(QProbePolicy(), grid, cv=3).fit(X, y).best_score_ > 0


# Networks


def test_objectives_of_a_network_share_its_layers(vector_sets):
    pytest.importorskip("torch", reason="torch is not installed")
    X, y = vector_sets
    settings = {"hidden_layer_sizes": (8, 4), "random_state": 0}
    for Probe in (QProbePolicy, QProbeRegressor):
        probe = Probe(**settings).fit(X, y)
        assert [coef.shape for coef in probe.coefs_] == [(4, 8), (8, 4), (4, 3)]
        assert [bias.shape for bias in probe.intercepts_] == [(8,), (4,), (3,)]
        assert_array_equal(probe.intercepts_[-1] == 0, Probe is QProbePolicy)
        single = probe.predict_objectives(X)
        assert single.shape == (60, 6, 3)
        probe.set_params(objective_weights=WEIGHTS)
        assert_allclose(values_of(probe, X), single @ WEIGHTS, rtol=1e-9, atol=1e-12)
        again = clone(probe).fit(X, y)
        assert_array_equal(values_of(again, X), values_of(probe, X))
        for j in range(3):
            assert np.corrcoef(single[..., j].ravel(), y[..., j].ravel())[0, 1] > 0.2
        warm = probe.set_params(warm_start=True, max_iter=1)
        with pytest.warns(UserWarning, match="did not converge"):
            warm.fit(X, y)
        later = warm.predict_objectives(X)
        assert np.corrcoef(later[..., 0].ravel(), single[..., 0].ravel())[0, 1] > 0.9


def test_scales_of_the_objectives_of_a_network(vector_sets):
    """Least squares on standardized rewards: units of an objective do not matter."""
    pytest.importorskip("torch", reason="torch is not installed")
    X, y = vector_sets
    settings = {"hidden_layer_sizes": (8,), "random_state": 0, "alpha": 1e-3}
    plain = QProbeRegressor(**settings).fit(X, y).predict_objectives(X)
    scale, shift = np.array([1, 100, 0.01]), np.array([0, 7, 3])
    other = QProbeRegressor(**settings).fit(X, y * scale + shift)
    assert_allclose(other.predict_objectives(X), plain * scale + shift, rtol=1e-4)


def test_network_with_an_objective_that_is_not_informative(vector_sets):
    pytest.importorskip("torch", reason="torch is not installed")
    X, y = vector_sets
    y[..., 1] = 1
    settings = {"hidden_layer_sizes": (8,), "random_state": 0}
    with pytest.warns(UserWarning, match=r"y\[..., 1\]: No prompt is informative"):
        policy = QProbePolicy(**settings).fit(X, y)
    values = policy.predict_objectives(X)
    assert np.isfinite(values).all()
    assert values[..., 0].std() > 0.1


# Offset


@every_probe
def test_offset_is_added_to_the_values(vectors, Probe, rng):
    X, y, groups = vectors
    offset = rng.normal(size=y.shape[:-1])
    probe = Probe("log_loss", temperature=0.4, random_state=0).fit(X, y[..., 0], groups)
    method = probe.predict if Probe is QProbeRegressor else probe.decision_function
    values = method(X) + offset
    assert_allclose(method(X, offset=offset), values)
    assert method(X.astype(np.float32), offset=offset).dtype == np.float32
    draws = probe.sample(X, groups, offset=1000 * offset, size=5)
    if groups is None:
        assert_array_equal(draws, offset.argmax(axis=1)[:, None].repeat(5, axis=1))
    if Probe is QProbeRegressor:
        assert probe.score(X, y[..., 0], groups, offset=offset) == probe.score(
            X, y[..., 0], groups
        )
        return
    proba = probe.predict_proba(X, groups, offset=offset)
    if groups is None:
        assert_allclose(proba, softmax(values / 0.4, axis=1))
        assert_array_equal(probe.predict(X, offset=offset), values.argmax(axis=1))
    n_prompts = len(X) if groups is None else len(set(groups))
    score = probe.score(X, y[..., 0], groups, offset=offset)
    assert score == pytest.approx((proba * y[..., 0]).sum() / n_prompts)


@every_probe
def test_offset_of_sets_and_rows_agree(sets, Probe, rng):
    X, y = sets
    offset = rng.normal(size=y.shape)
    rows, rewards, groups = as_rows(X, y)
    one, other = (
        Probe("log_loss").fit(X, y),
        Probe("log_loss").fit(rows, rewards, groups),
    )
    for method in ("decision_function", "predict_proba", "predict"):
        if hasattr(one, method):
            labels = () if method == "decision_function" else (groups,)
            labels = () if Probe is QProbeRegressor else labels
            found = getattr(other, method)(rows, *labels, offset=offset.ravel())
            expected = getattr(one, method)(X, offset=offset)
            found = found % 6 if found.shape == (60,) else found
            assert_allclose(found, expected.ravel())


BAD_OFFSETS = {
    "shape": (np.zeros(60), r"offset has shape \(60,\), but X holds 60 sets of 6"),
    "number": (3.0, r"offset has shape \(\), but X holds 60 sets of 6"),
    "NaN": (np.full((60, 6), np.nan), "offset contains NaN"),
    "text": (np.full((60, 6), "a"), "offset must hold real numbers"),
    "large": (np.full((60, 6), 1e200), "offset has numbers of up to 1e"),
}


@pytest.mark.parametrize("offset, words", BAD_OFFSETS.values(), ids=BAD_OFFSETS)
@every_probe
def test_bad_offset(sets, Probe, offset, words):
    X, y = sets
    probe = Probe().fit(X, y)
    for name in ("decision_function", "predict_proba", "predict", "sample"):
        if hasattr(probe, name):
            assert_refused(getattr(probe, name), words, X, offset=offset)
    assert_refused(probe.score, words, X, y, offset=offset)
    words = r"offset has shape \(360, 2\), but X holds 360 rows"
    assert_refused(probe.sample, words, X.reshape(360, -1), offset=np.ones((360, 2)))


def test_offset_in_a_pipeline(rows, rng):
    X, y, groups = rows
    offset = rng.normal(size=len(y))
    for probe in (QProbePolicy(), QProbePolicyCV(cv=3)):
        with config_context(enable_metadata_routing=True):
            pipe = make_pipeline(StandardScaler(), SiblingFeatures(), probe)
            pipe.fit(X, y, groups=groups)
            both = {"groups": groups, "offset": offset}
            proba = pipe.predict_proba(X, **both)
            assert abs(proba - pipe.predict_proba(X, groups=groups)).max() > 0.1
            assert pipe.score(X, y, **both) == pytest.approx(
                (proba * y).sum() / len(set(groups))
            )
            assert len(pipe.predict(X, **both)) == len(set(groups))
    with config_context(enable_metadata_routing=True):
        pipe = make_pipeline(StandardScaler(), QProbeRegressor()).fit(X, y)
        assert_allclose(pipe.predict(X, offset=offset), pipe.predict(X) + offset)
        policy = make_pipeline(StandardScaler(), QProbePolicy())
        policy.fit(X, y, groups=groups)
        assert_allclose(
            policy.decision_function(X, offset=offset),
            policy.decision_function(X) + offset,
        )


def test_offset_in_a_search(rows, rng):
    X, y, groups = rows
    offset = 100 * rng.normal(size=len(y))  # which decides alone
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(QProbePolicy(), {"alpha": [1e-2, 1.0]}, cv=3)
        search.fit(X, y, groups=groups, offset=offset)
    scores = search.cv_results_["mean_test_score"]
    assert scores[0] == scores[1]


# Pipelines


@pytest.mark.parametrize("loss", WITH_INTERCEPT)
def test_pipelines_of_sets(vector_sets, loss):
    X, y = vector_sets
    scaled = make_pipeline(PerCandidate(StandardScaler()), QProbePolicy(loss)).fit(X, y)
    by_hand = QProbePolicy(loss).fit((X - X.mean((0, 1))) / X.std((0, 1)), y)
    assert_allclose(scaled[-1].coef_, by_hand.coef_, rtol=1e-5)
    assert scaled.score(X, y) == pytest.approx(
        by_hand.score((X - X.mean((0, 1))) / X.std((0, 1)), y)
    )
    pipeline = make_probe_pipeline([loss], alphas=[0.1, 0.01], cv=3).fit(X, y)
    assert pipeline[-1].coef_.shape[0] == 3
    pipeline.set_params(probe__objective_weights=[0, 1, 0])
    assert pipeline.score(X, y) > y[..., 1].mean() + 0.1


def test_supervised_transformer_gets_rewards_of_all_objectives(vector_sets):
    class Scaler(StandardScaler):
        def fit(self, X, y=None):
            assert_array_equal(y, vector_sets[1].reshape(-1, 3))
            return super().fit(X)

    PerCandidate(Scaler()).fit(*vector_sets)
    make_pipeline(PerCandidate(Scaler()), QProbePolicy()).fit(*vector_sets)


def test_copies_and_states(vector_sets):
    policy = QProbePolicy(objective_weights=WEIGHTS).fit(*vector_sets)
    assert_same_state(state_of(copy.deepcopy(policy)), state_of(policy))
    assert not hasattr(clone(policy), "coef_")
    assert_array_equal(clone(policy).objective_weights, WEIGHTS)
