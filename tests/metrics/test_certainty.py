"""risk_coverage and conformal_threshold."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skqprobe import CalibratedPolicyCV, QProbePolicy
from skqprobe.datasets import load_two_words
from skqprobe.metrics import conformal_threshold, risk_coverage


@pytest.fixture
def answers(rng):
    """Rewards, values, and predictions of 200 prompts with 3 candidates."""
    p = rng.random(200)
    y = (rng.random((200, 3)) < p[:, None]).astype(float)
    return y, rng.random((200, 3)), p


def test_curve_by_hand(answers):
    y, values, predicted = answers
    curve = risk_coverage(y, values, predicted)
    chosen = y[np.arange(200), values.argmax(axis=1)]
    order = np.argsort(-predicted)
    for n in (1, 10, 77, 200):
        assert curve.coverage[n - 1] == n / 200
        assert curve.risk[n - 1] == pytest.approx(1 - chosen[order[:n]].mean())
        assert curve.threshold[n - 1] == predicted[order[n - 1]]
    assert curve.area == pytest.approx(curve.risk.mean())
    assert curve.area < curve.risk[-1] - 0.1
    assert risk_coverage(y, values, -predicted).area > curve.risk[-1] + 0.1


def test_equal_predictions_and_values_share_their_risk(answers):
    y, values, _ = answers
    curve = risk_coverage(y, values, np.ones(200))
    assert_allclose(curve.risk, curve.risk[-1])
    equal = risk_coverage(y, np.zeros_like(values), np.ones(200))
    assert_allclose(equal.risk, 1 - y.mean())


def test_ragged_rows(answers):
    y, values, predicted = answers
    groups = np.repeat(np.arange(200), 3)
    kept = np.arange(600) % 3 <= np.repeat(np.arange(200) % 3, 3)
    order = np.random.default_rng(0).permutation(np.flatnonzero(kept))
    labels = list(dict.fromkeys(groups[order]))
    found = risk_coverage(
        y.ravel()[order], values.ravel()[order], predicted[labels], groups[order]
    )
    hidden = np.where(kept.reshape(200, 3), values, -1)
    expected = risk_coverage(y, hidden, predicted)
    assert_allclose(found.risk, expected.risk)


def test_threshold_by_hand():
    predicted = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    rewards = np.array([1, 1, 1, 0, 1, 1, 1, 0])
    # (1 + n_bad) / n_answered is 1/1, 1/2, 1/3, 2/4, 2/5, 2/6, 2/7 and 3/8.
    for risk, expected in ((0.3, 0.3), (0.34, 0.3), (0.4, 0.2), (0.25, np.inf)):
        assert conformal_threshold(predicted, rewards, risk) == expected
    shuffled = np.random.default_rng(0).permutation(8)
    assert conformal_threshold(predicted[shuffled], rewards[shuffled], 0.3) == 0.3
    # Equal predictions are answered together.
    assert conformal_threshold(np.ones(5), [1, 1, 1, 1, 0], 0.4) == 1
    assert conformal_threshold(np.ones(5), [1, 1, 1, 1, 0], 0.39) == np.inf


@pytest.mark.parametrize("risk", [0.1, 0.3])
@pytest.mark.parametrize("n", [30, 200])
@pytest.mark.parametrize(
    "good",
    [lambda p: p, lambda p: p**2, lambda p: 0.88 + 0 * p, lambda p: 1 - p],
    ids=["calibrated", "overrated", "useless", "wrong"],
)
def test_guarantee_over_calibration_sets(good, n, risk):
    rng = np.random.default_rng(0)
    relative, shares = [], []
    for _ in range(1500):
        p = rng.random(n + 100)
        rewards = rng.random(n + 100) < good(p)
        threshold = conformal_threshold(p[:n], rewards[:n], risk)
        answered, bad = p >= threshold, ~rewards
        wrong = (answered & bad)[n:]
        n_answered = answered[:n].sum()
        relative.append(wrong.mean() / max(n_answered / (n + 1), 1e-9))
        shares.append(wrong.sum() / max(answered[n:].sum(), 1))
    error = np.std(relative) / np.sqrt(1500)
    assert np.mean(relative) <= risk + 3 * error  # the guarantee
    assert np.mean(shares) <= risk + 0.01  # among the answered prompts
    if n == 200 and good(0.9) == 0.9:
        assert np.mean(relative) > 0.8 * risk  # and no more careful than that


@pytest.mark.parametrize("percent", range(1, 100))
def test_threshold_at_exactly_the_risk(percent):
    rewards = np.arange(100) >= percent - 1  # (1 + n_bad) / 100 is the risk
    assert conformal_threshold(np.full(100, 0.5), rewards, percent / 100) == 0.5
    with_one_more = np.arange(100) >= percent
    assert conformal_threshold(np.full(100, 0.5), with_one_more, percent / 100) > 1


def test_hand_over_below_one_half():
    X, y = load_two_words(return_X_y=True)
    policy = QProbePolicy("log_loss", alpha=0.01)
    policy = CalibratedPolicyCV(policy).fit(X[:160], y[:160])
    predicted, chosen = policy.predict_reward(X[160:]), policy.predict(X[160:])
    rewards = y[160:][np.arange(80), chosen]
    answered = predicted >= 0.5
    assert 0.5 < answered.mean() < 1
    assert rewards[answered].mean() > rewards.mean() > rewards[~answered].mean()
    # All that are handed over would have been wrong more often than right.
    assert rewards[~answered].mean() < 0.6


def test_errors(answers):
    y, values, predicted = answers
    for args, words in (
        ((2 * y, values, predicted), r"y must be in \[0, 1\].*0 to 2"),
        ((y, values, predicted[:3]), "predicted has shape .* each of the 200 prompts"),
        ((y, values[:3], predicted), "values has shape"),
        ((y[:, 0], values[:, 0], predicted), "y has rows but no groups"),
    ):
        with pytest.raises(ValueError, match=words):
            risk_coverage(*args)
    for args, words in (
        ((predicted, y[:, 0], 0), "risk must be"),
        ((predicted, y[:, 0] / 2), "rewards must be 0 .* pass rewards >="),
        ((predicted, y[:3, 0]), "rewards has shape .* each of the 200 prompts"),
        (([np.nan], [1]), "NaN"),
        ((0.5, 1), "predicted has shape"),
    ):
        with pytest.raises(ValueError, match=words):
            conformal_threshold(*args)
