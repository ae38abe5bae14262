import numpy as np
from numpy.testing import assert_allclose

from skqprobe import CalibratedPolicyCV
from skqprobe.metrics import risk_coverage
from skqprobe.plotting import RiskCoverageDisplay


def test_line_is_the_metric(sets, policy):
    X, y = sets
    calibrated = CalibratedPolicyCV(policy, "linear").fit(X, y)
    shown = RiskCoverageDisplay.from_estimator(calibrated, X, y)
    values = calibrated.decision_function(X)
    expected = risk_coverage(y, values, calibrated.predict_reward(X))
    assert_allclose(shown.line_.get_xdata(), expected.coverage)
    assert_allclose(shown.line_.get_ydata(), expected.risk)
    assert shown.area == expected.area
    assert_allclose(shown.all_.get_ydata(), expected.risk[-1])
    rows, groups = X.reshape(360, -1), np.repeat(np.arange(60), 6)
    again = RiskCoverageDisplay.from_estimator(calibrated, rows, y.ravel(), groups)
    assert_allclose(again.risk, expected.risk)


def test_best_score_is_the_prediction_of_a_policy(sets, policy):
    X, y = sets
    shown = RiskCoverageDisplay.from_estimator(
        policy, X, y, name="Q", plot_references=False, color="red"
    )
    values = policy.decision_function(X)
    expected = risk_coverage(y, values, values.max(axis=1))
    assert_allclose(shown.line_.get_ydata(), expected.risk)
    assert shown.all_ is None and shown.line_.get_color() == "red"
    assert shown.line_.get_label() == f"Q (area {expected.area:.3f})"
