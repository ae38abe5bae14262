import numpy as np
import pytest
from numpy.testing import assert_allclose

from skqprobe import CalibratedPolicyCV, QProbePolicy
from skqprobe.generators import ExpectedGain, Threshold
from skqprobe.metrics import best_of_k_reward, reward_at_cost
from skqprobe.plotting import RewardCostDisplay


@pytest.fixture
def calibrated(sets):
    return CalibratedPolicyCV(QProbePolicy(), "linear").fit(*sets)


@pytest.fixture
def rules(calibrated):
    prior = calibrated.held_out_rewards_
    return [ExpectedGain(cost).fit(prior) for cost in (0.01, 0.2, 0.05)]


def test_lines_are_the_metrics(sets, calibrated, rules):
    X, y = sets
    few = {"n_resamples": 50, "random_state": 0}
    shown = RewardCostDisplay.from_estimator(calibrated, X, y, stopping=rules, **few)
    values = calibrated.predict_rewards(X)
    assert_allclose(
        shown.fixed_.get_ydata(), best_of_k_reward(y, values, np.arange(1, 7))
    )
    found = [reward_at_cost(y, values, r, random_state=0) for r in rules]
    n_drawn = [each.n_drawn for each in found]
    assert_allclose(shown.line_.get_xdata(), np.sort(n_drawn))
    expected = [found[i].reward for i in np.argsort(n_drawn)]
    assert_allclose(shown.line_.get_ydata(), expected)
    assert (shown.low <= shown.reward).all() and (shown.reward <= shown.high).all()
    assert shown.ax_.get_xlabel() == "Mean number of candidates"


def test_rows_and_settings(sets, calibrated, rules):
    X, y = sets
    values, groups = calibrated.predict_rewards(X).ravel(), np.repeat(np.arange(60), 6)
    few = {"n_resamples": 50, "random_state": 0}
    shown = RewardCostDisplay.from_predictions(
        y.ravel(), values, groups, stopping=rules[:1], ks=[2, 4], batch_size=3, **few
    )
    assert shown.ks.tolist() == [2, 4]
    assert 3 <= shown.n_drawn[0] <= 6
    again = shown.plot(plot_references=False, name="rule", color="red")
    assert again.fixed_ is None and again.line_.get_color() == "red"


@pytest.mark.parametrize("stopping", [(), [], None, Threshold(0.5)])
def test_rules_are_needed(scored, stopping):
    with pytest.raises(ValueError, match="stopping must be a list of at least one"):
        RewardCostDisplay.from_predictions(*scored, stopping=stopping)
