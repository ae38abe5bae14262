import warnings
from itertools import combinations_with_replacement

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax
from scipy.stats import multinomial
from sklearn import config_context
from sklearn.model_selection import GroupKFold, learning_curve

from skqprobe import QProbePolicy, sample_candidates


def policy_of(coef, **params):
    """Make a policy with these coefficients, so that a test can choose its values Q."""
    coef = np.asarray(coef, dtype=float)
    X = np.vstack([np.eye(len(coef)), np.zeros(len(coef))])
    policy = QProbePolicy("squared_error", alpha=0, fit_intercept=False, **params)
    return policy.fit(X[:, None], np.append(coef, 0)[:, None])


def sets_of_values(*prompts):
    """Sets of one feature, which is the value Q of policy_of([1.0])."""
    return np.array(prompts, dtype=float)[..., None]


# Probabilities


@pytest.mark.parametrize("temperature", [0.1, 1, 3.5, np.float32(0.5)])
def test_probabilities_and_score_are_those_of_softmax(data, temperature):
    """In the shape of X; the score is the mean over prompts, of any size."""
    X, y, groups = data
    policy = QProbePolicy(temperature=temperature).fit(X, y, groups)
    proba, q = policy.predict_proba(X, groups), policy.decision_function(X)
    assert proba.shape == y.shape
    labels = np.arange(len(y)) if groups is None else groups
    rewards = []
    for label in np.unique(labels):
        of_prompt = labels == label
        expected = softmax(q[of_prompt].ravel() / temperature)
        assert_allclose(proba[of_prompt].ravel(), expected, rtol=1e-10)
        rewards.append(expected @ y[of_prompt].ravel())
    assert policy.score(X, y, groups) == pytest.approx(np.mean(rewards))


def test_first_of_equal_best_candidates_is_predicted():
    policy = policy_of([1.0])
    X = sets_of_values([0, 2, 2, 1], [3, 3, 3, 3], [5, 1, 5, 5], [0, 1, 2, 3])
    assert policy.predict(X).tolist() == [1, 0, 0, 3]
    # In rows, the first in X, and the probability is shared.
    groups = np.array(["z", "a", "z", "a", "z"])
    rows = np.array([[1.0], [2.0], [1.0], [2.0], [0.0]])
    assert policy.predict(rows, groups).tolist() == [0, 1]
    assert policy.predict_proba(rows, groups).tolist() == [0.5, 0.5, 0.5, 0.5, 0]


def test_temperature_does_not_change_fit_and_prediction(sets):
    X, y = sets
    cold, hot = (QProbePolicy(temperature=t).fit(X, y) for t in (0, 2.0))
    assert_array_equal(cold.coef_, hot.coef_)
    assert_array_equal(cold.predict(X), hot.predict(X))
    # A temperature set after fit is used as one set before.
    assert cold.score(X, y) != hot.score(X, y)
    cold.set_params(temperature=2.0)
    assert_array_equal(cold.predict_proba(X), hot.predict_proba(X))
    assert cold.score(X, y) == hot.score(X, y)
    draws = [policy.sample(X, size=5, random_state=0) for policy in (cold, hot)]
    assert_array_equal(*draws)


# Score


def test_score_does_not_depend_on_the_order_of_equal_candidates(sets):
    y = -np.sort(-sets[1], axis=1)  # the first candidate is the best
    assert y.mean() < y[:, 0].mean()
    X, policy = np.ones((*y.shape, 2)), policy_of([1.0, 1.0])
    for rewards in (y, y[:, ::-1]):
        assert policy.score(X, rewards) == pytest.approx(y.mean())
    # Two of three are equal best.
    X = sets_of_values([1, 0, 1])
    assert policy_of([1.0]).score(X, [[0.0, 5.0, 1.0]]) == pytest.approx(0.5)


# Choices


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [None, 1, np.int64(3)])
def test_sample_is_sample_candidates_of_the_probabilities(data, size, dtype):
    X, y, groups = data
    X, options = X.astype(dtype), {"size": size, "random_state": 3}
    policy = QProbePolicy(temperature=0.5).fit(X, y, groups)
    draws = policy.sample(X, groups, **options)
    proba = policy.predict_proba(X, groups)
    assert_array_equal(sample_candidates(proba, groups, **options), draws)
    n_prompts = len(y) if groups is None else len(set(groups))
    assert draws.shape == ((n_prompts,) if size is None else (n_prompts, size))
    assert np.issubdtype(draws.dtype, np.integer)


def test_prompts_of_one_candidate_leave_no_choice(rows):
    X, y, groups = rows
    labels, sizes = np.unique(groups, return_counts=True)
    alone = np.isin(groups, labels[sizes == 1])
    assert 0 < alone.sum() < len(groups), "the fixture should have both kinds"
    policy = QProbePolicy("policy_gradient", alpha=0.01, temperature=1.0, tol=1e-8)
    policy.fit(X, y, groups)
    assert_array_equal(policy.predict_proba(X, groups)[alone], 1.0)
    for chosen in (policy.predict(X, groups), policy.sample(X, groups)):
        assert set(np.flatnonzero(alone)) <= set(chosen)
    # Their constant loss counts in the mean: without them, the fit is the same at an
    # alpha that is larger in proportion.
    alpha = policy.alpha * len(labels) / (sizes > 1).sum()
    without = QProbePolicy("policy_gradient", alpha=alpha, tol=1e-8)
    without.fit(X[~alone], y[~alone], groups[~alone])
    assert_allclose(policy.coef_, without.coef_, rtol=1e-5)


def test_rows_without_groups_warn_and_leave_no_choice(rows):
    X, y, groups = rows
    policy = QProbePolicy(temperature=1.0).fit(X, y, groups)
    for method, arguments, expected in [
        ("predict", (X,), 0),
        ("sample", (X,), 0),
        ("predict_proba", (X,), 1),
        ("score", (X, y), np.nan),
    ]:
        warns = pytest.warns(UserWarning, match="enable_metadata_routing=True")
        with warns as caught:
            assert_array_equal(getattr(policy, method)(*arguments), expected)
        assert [warning.filename for warning in caught] == [__file__]
    # A single row is the choice, without a warning.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert policy.predict(X[:1]).tolist() == [0]


def test_choice_tends_to_the_tilted_base_model_as_k_grows():
    """The theorem of the paper: the limit is p0 exp(Q / temperature), normalized.

    The sets of k of three completions are taken with their probabilities under p0.
    """
    p0, q, temperature = np.array([0.2, 0.5, 0.3]), np.array([1.0, 0.0, 0.3]), 0.5
    policy = policy_of(q, temperature=temperature)
    tilted = p0 * np.exp(q / temperature)
    tilted /= tilted.sum()
    sizes, distances = np.array([8, 16, 32, 64]), []
    for k in sizes:
        drawn = np.array(list(combinations_with_replacement(range(3), k)))
        counts = (drawn[:, :, None] == range(3)).sum(axis=1)
        weight = multinomial(k, p0).pmf(counts)
        assert weight.sum() == pytest.approx(1)
        proba = policy.predict_proba(np.eye(3)[drawn])
        chosen = np.bincount(drawn.ravel(), (weight[:, None] * proba).ravel())
        distances.append(abs(chosen - tilted).sum())
    slopes = np.diff(np.log(distances)) / np.diff(np.log(sizes))
    # 1/k with a correction of 1/k**2: closer to -1 at each doubling.
    assert_allclose(slopes, -1, atol=0.15)
    assert (np.diff(abs(slopes + 1)) < 0).all()


def test_rows_that_were_thinned_for_fit_warn_in_score(rng):
    """Tools that sample rows, not prompts, leave few candidates of each prompt."""
    X, groups = rng.normal(size=(360, 4)), np.repeat(np.arange(40), 9)
    y = (X[:, 0] + rng.normal(size=360) > 0).astype(float)
    some = np.sort(rng.permutation(360)[:90])
    thinned = QProbePolicy("log_loss").fit(X[some], y[some], groups[some])
    with pytest.warns(UserWarning, match=r"on 2\.\d candidates .* scored on 9\.0\. "):
        thinned.score(X, y, groups)
    message = "candidates per prompt, and is scored"
    options = {"train_sizes": [80], "shuffle": True, "random_state": 0}
    with (
        config_context(enable_metadata_routing=True),
        pytest.warns(UserWarning, match=message),
    ):
        options |= {"cv": GroupKFold(3), "params": {"groups": groups}}
        learning_curve(QProbePolicy("log_loss"), X, y, **options)
    # Whole prompts, or other data that are meant: pairs, sets, fewer to choose from.
    thinned.score(X[some], y[some], groups[some])
    thinned.fit(X, y, groups).score(X[some], y[some], groups[some])
    pairs = np.flatnonzero(np.arange(360) % 9 < 2)
    thinned.fit(X[pairs], y[pairs], groups[pairs]).score(X, y, groups)
    thinned.fit(X[:, None].reshape(180, 2, 4), y.reshape(180, 2)).score(X, y, groups)
