"""Feedback on the chosen candidate only: importance weights remove the bias."""

import numpy as np
import pytest

from skqprobe import QProbePolicy, QProbeRegressor, sample_candidates
from skqprobe.generators import BaseGenerator, BestOfK


@pytest.fixture
def world(rng):
    """Candidates, rewards that are not linear, and probabilities of the choice."""
    X = rng.normal(size=(1500, 4, 2))
    y = X[..., 0] + X[..., 1] ** 2 + 0.5 * X[..., 1]
    logging = QProbePolicy("squared_error", temperature=1).fit(X, X[..., 1])
    return X, y, logging.predict_proba(X)


def test_weighted_regression_is_unbiased(world):
    X, y, proba = world
    expected = QProbeRegressor(alpha=0.0).fit(X, y).coef_
    weighted, unweighted = [], []
    for seed in range(300):
        chosen = sample_candidates(proba, random_state=seed)
        rows = np.arange(len(X)), chosen
        model = QProbeRegressor(alpha=0.0)
        unweighted.append(model.fit(X[rows], y[rows]).coef_)
        weight = 1 / proba[rows]
        weighted.append(model.fit(X[rows], y[rows], sample_weight=weight).coef_)
    error = np.std(weighted, axis=0) / 300**0.5
    assert (abs(np.mean(weighted, axis=0) - expected) < 4 * error + 0.02).all()
    assert error.max() < 0.02
    assert abs(np.mean(unweighted, axis=0) - expected).max() > 0.5


def test_policy_gradient_of_weighted_rewards_is_unbiased(world):
    """Its objective is linear in the rewards: it is equal in expectation."""
    X, y, proba = world
    theta = np.array([0.5, -1.0])
    q = np.exp(X @ theta) / np.exp(X @ theta).sum(axis=1, keepdims=True)
    expected = (q * y).sum(axis=1).mean()
    found, naive = [], []
    for seed in range(300):
        chosen = sample_candidates(proba, random_state=seed)
        rows = np.arange(len(X)), chosen
        estimate = np.zeros_like(y)
        estimate[rows] = y[rows] / proba[rows]
        found.append((q * estimate).sum(axis=1).mean())
        naive.append((q[rows] * y[rows]).mean() * 4)
    error = np.std(found) / 300**0.5
    assert np.mean(found) == pytest.approx(expected, abs=4 * error)
    assert abs(np.mean(naive) - expected) > 5 * error


def test_records_have_the_probability_of_the_choice(rng):
    class States(BaseGenerator):
        def __init__(self, progress="auto"):
            self.progress = progress

        def sample(self, prompt, k):
            states = np.random.default_rng(int(prompt)).normal(size=(k, 2))
            completions = list("abcdef"[:k])
            return {"prompt": prompt, "completions": completions, "states": states}

    X = rng.normal(size=(30, 4, 2))
    policy = QProbePolicy("squared_error", temperature=1).fit(X, X[..., 0])
    best = BestOfK(States(), policy, k=4, embeddings="states", random_state=0)
    prompts = [str(i) for i in range(200)]
    completions, records = best.generate(prompts, return_candidates=True)
    for completion, record in zip(completions, records, strict=True):
        chosen = record["chosen"]
        assert record["completions"][chosen] == completion
        assert record["chosen_probability"] == record["probabilities"][chosen]
    # The mean of 1 / p is the number of candidates: the weights are calibrated.
    weights = [1 / record["chosen_probability"] for record in records]
    assert np.mean(weights) == pytest.approx(4, abs=1)
