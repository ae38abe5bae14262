import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import GroupKFold, KFold

from skqprobe import QProbePolicy, QProbePolicyCV
from skqprobe.metrics import best_of_k_reward


def policy_cv(loss, **options):
    settings = {"alphas": (1.0, 1e-3), "temperatures": (0.0, 0.3), "tol": 1e-6}
    return QProbePolicyCV([loss], **settings, **options)


@pytest.mark.filterwarnings("ignore:The groups parameter is ignored")
def test_a_splitter_that_splits_a_prompt(rows):
    with pytest.raises(ValueError, match="cv splits the candidates of a prompt"):
        policy_cv("squared_error", cv=KFold(3)).fit(*rows)


def test_groups_of_sets_are_passed_to_the_splitter(sets):
    families, seen = np.arange(60) % 4, []

    class Spy(GroupKFold):
        def split(self, X, y=None, groups=None):
            seen.append(groups)
            return super().split(X, y, groups)

    policy = policy_cv("squared_error", cv=Spy(4)).fit(*sets, families)
    assert_array_equal(seen[0], families)
    assert policy.n_splits_ == 4


def test_scoring_of_rows_gets_their_groups(rows):
    X, y, groups = rows
    cv, seen = GroupKFold(3), []

    def scoring(policy, X, y, groups=None):
        seen.append(len(y))
        values = policy.decision_function(X)
        return best_of_k_reward(y, values, groups=groups, k=2, too_few="skip")

    policy = policy_cv("log_loss", scoring=scoring, cv=cv).fit(X, y, groups.tolist())
    assert set(seen) == {len(test) for _, test in cv.split(X, y, groups)}
    train, test = next(cv.split(X, y, groups))
    one = QProbePolicy(**policy.cv_results_["params"][0], tol=1e-6)
    one.fit(X[train], y[train], groups[train])
    expected = scoring(one, X[test], y[test], groups[test])
    assert policy.cv_results_["split0_test_score"][0] == pytest.approx(expected)


def test_weights_of_candidates_count_in_scores(sets, rng):
    X, y = sets
    weight = rng.integers(0, 3, y.shape)
    weight[:, 0] = 1
    cv = KFold(3)
    policy = policy_cv("log_loss", cv=cv).fit(X, y, sample_weight=weight)
    for number, (train, test) in enumerate(cv.split(X)):
        one = QProbePolicy(**policy.cv_results_["params"][1], tol=1e-6)
        one.fit(X[train], y[train], sample_weight=weight[train])
        score = one.score(X[test], y[test], sample_weight=weight[test])
        found = policy.cv_results_[f"split{number}_test_score"][1]
        assert found == pytest.approx(score, abs=1e-4)


def test_a_fold_without_informative_prompts(sets):
    X, y = sets
    y[10:] = 0.5  # no pairs outside the first ten prompts
    first, rest = np.arange(10), np.arange(10, 60)
    policy = policy_cv("pairwise_logistic", cv=[(rest, first), (first, rest)])
    policy.fit(X, y)
    # All Q are 0 in the first fold, so that the choice is random.
    assert_allclose(policy.cv_results_["split0_test_score"], y[:10].mean())
    assert policy.n_skipped_prompts_ >= 50
