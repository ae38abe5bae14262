import numpy as np
import pytest

from skqprobe.metrics import (
    base_reward,
    best_of_k_reward,
    expected_reward,
    kl_upper_estimate,
)
from skqprobe.plotting import RewardKLDisplay


def test_line_from_the_base_model_to_the_best_candidate(sets, policy):
    X, y = sets
    shown = RewardKLDisplay.from_estimator(policy, X, y, n_resamples=200)
    Q, proba = policy.decision_function(X), policy.predict_proba(X)
    assert shown.kl[0] < 1e-12 and shown.reward[0] == pytest.approx(base_reward(y))
    assert shown.reward[-1] == pytest.approx(best_of_k_reward(y, Q, 6))
    assert (np.diff(shown.kl) > -1e-12).all()
    assert (np.diff(shown.temperatures) < 0).all()
    assert shown.point == (
        0.5,
        pytest.approx(kl_upper_estimate(proba)),
        pytest.approx(expected_reward(y, proba)),
    )
    # No policy has a higher reward than the oracle at its divergence.
    bound = np.interp(shown.kl, shown.oracle_kl, shown.oracle_reward)
    assert (shown.reward <= bound + 1e-3).all()


def test_given_temperatures(scored):
    shown = RewardKLDisplay.from_predictions(
        *scored, temperatures=[1, 2], n_resamples=50
    )
    assert shown.temperatures.tolist() == [np.inf, 2, 1, 0]
    assert shown.point is None and shown.point_ is None


def test_without_references(scored):
    options = {"plot_references": False, "n_resamples": 99}
    shown = RewardKLDisplay.from_predictions(*scored, **options)
    assert shown.oracle_ is None
    labels = [line.get_label() for line in shown.ax_.get_lines()]
    assert not {"oracle", "base model"} & set(labels)
