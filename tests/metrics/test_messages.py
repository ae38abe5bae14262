"""Errors call an argument by its name, as the user wrote it."""

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier

from skqprobe.metrics import (
    best_of_k_reward,
    candidate_values,
    expected_reward,
    expected_reward_scorer,
    policy_report,
    prompt_bootstrap,
    recovery_scorer,
    softmax_reward,
)

Y = np.array([[0.0, 1.0], [1.0, 0.0]])


class Constant:
    """A ranker that gives what it was made with."""

    def __init__(self, values):
        self.values = values

    def predict(self, X):
        return self.values


CASES = [
    (lambda: best_of_k_reward(Y, Y, 3), r"^k=3 .* Give a k of at most 2\.$"),
    (lambda: expected_reward(Y, [[1.0], [1.0]]), "^proba has shape"),
    (lambda: softmax_reward(Y, [[[1.0]]], 1.0), "^scores has shape"),
    (lambda: policy_report(Constant(Y), Y, Y.ravel()), "^y has rows but no groups"),
    (lambda: policy_report(Constant(Y), Y, 1e200 * Y), "^y has numbers of up to 1e"),
    (
        lambda: policy_report(Constant(Y[:, :1]), Y, Y),
        "^the output of policy has shape",
    ),
    (
        lambda: best_of_k_reward(Y, Y, 1, prompt_weight=[1.0, np.nan]),
        "^Input prompt_weight contains NaN",
    ),
    (
        lambda: best_of_k_reward(Y, Y, 1, prompt_weight=[0.0, 1e-200]),
        "^prompt_weight has numbers .* too small",
    ),
    (
        lambda: best_of_k_reward(Y, Y, 1, prompt_weight=[0.0, 1e200]),
        "^prompt_weight has numbers .* too large",
    ),
    (
        lambda: prompt_bootstrap(best_of_k_reward, Y[:1], Y[:1], k=1),
        r"^An interval over prompts needs at least two prompts\.$",
    ),
    (
        lambda: prompt_bootstrap(softmax_reward, [[1.0], [1.0, 2.0]]),
        "^the first array could not be made an array",
    ),
]


@pytest.mark.parametrize(("call", "message"), CASES)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_prompt_weights_may_be_texts_of_numbers_no_more_than_in_scikit_learn():
    with pytest.raises(ValueError, match="could not convert string"):
        best_of_k_reward(Y, Y, 1, prompt_weight=["one", "two"])


def test_a_classifier_without_probabilities_is_taken_by_its_labels():
    X, grades = np.eye(6), [0, 1, 2, 0, 1, 2]
    classifier = RidgeClassifier().fit(X, grades)
    np.testing.assert_array_equal(
        candidate_values(classifier, X), classifier.predict(X)
    )


def test_scorers_are_made_of_their_metric_and_its_options():
    """Made here, not where tests are collected, so that a mutant of them is seen."""
    policy = Constant(np.array([[1.0, 0.0], [1.0, 0.0]]))
    assert recovery_scorer(2)(policy, None, Y) == 0
    assert expected_reward_scorer()(policy, None, Y) == 0.5
    expected = softmax_reward(Y, policy.values, 0.7)
    assert expected_reward_scorer(0.7)(policy, None, Y) == expected
