"""
Is the chosen candidate good enough?
====================================

A policy chooses the best candidate, however bad all of them are. This example predicts
the reward of the choice, hands over prompts whose prediction is low, and selects the
threshold with a guarantee.
"""

# %%
# The value of the chosen candidate overrates it
# ----------------------------------------------
# A probe with ``log_loss`` estimates the probability that a candidate has the reward 1.
# The *chosen* one has the highest of 16 estimates, which is too high on average.
# :class:`~skqprobe.CalibratedPolicyCV` learns on held-out prompts what the chosen ones
# earn.

import matplotlib.pyplot as plt
import numpy as np
from scipy.special import expit

from skqprobe import CalibratedPolicyCV, QProbePolicy
from skqprobe.datasets import load_two_words
from skqprobe.metrics import conformal_threshold
from skqprobe.plotting import RiskCoverageDisplay

X, y = load_two_words(return_X_y=True)
rng = np.random.default_rng(0)
train, held_out = np.split(rng.permutation(240), [100])
policy = CalibratedPolicyCV(QProbePolicy("log_loss", alpha=0.01), "sigmoid")
policy.fit(X[train], y[train])


chosen = policy.predict(X[held_out])
earned = y[held_out, chosen]
plain = expit(policy.decision_function(X[held_out]).max(axis=1))
predicted = policy.predict_reward(X[held_out])
print(f"mean reward of the chosen candidates: {earned.mean():.2f}")
print(f"mean probability of the probe:        {plain.mean():.2f}")
print(f"mean predicted reward:                {predicted.mean():.2f}")

fig, ax = plt.subplots(figsize=(5, 5), layout="constrained")
ax.plot([0, 1], [0, 1], color="0.6", linewidth=1)
for name, p in [("probability of the probe", plain), ("predicted reward", predicted)]:
    bins = np.array_split(np.argsort(p), 5)
    means = [[p[b].mean(), earned[b].mean()] for b in bins]
    ax.plot(*np.transpose(means), "o-", label=name)
ax.set(xlabel="Prediction for the chosen candidate", ylabel="Mean reward")
ax.set_aspect("equal")
ax.legend()
plt.show()

# %%
# Risk and coverage
# -----------------
# Answer the prompts with the highest predictions first. The risk of these answers, one
# minus their reward, grows with the share of prompts that are answered.

RiskCoverageDisplay.from_estimator(policy, X[held_out], y[held_out])
plt.show()
answered = predicted >= 0.5
print(f"prediction of 0.5 or more: {answered.mean():.0%} of the prompts")
print(f"reward of their answers:   {earned[answered].mean():.2f}")

# %%
# A threshold with a guarantee
# ----------------------------
# The threshold is selected on prompts that the policy was not fitted to. In
# expectation, the bad answers are at most the given share of the answered prompts. The
# result varies between sets of calibration prompts. Therefore, the held-out prompts are
# split at random 500 times, into 100 for the calibration and 40 for the test.

shares = {0.05: [], 0.1: [], 0.15: []}
for risk, found in shares.items():
    for _ in range(500):
        calibration, test = np.split(rng.permutation(140), [100])
        threshold = conformal_threshold(
            predicted[calibration], earned[calibration], risk=risk
        )
        answered = predicted[test] >= threshold
        bad = answered & (earned[test] == 0)
        found.append([answered.mean(), bad.sum() / max(answered.sum(), 1)])
    answered, bad = np.mean(found, axis=0)
    print(f"risk {risk:.0%}: {answered:.0%} of the prompts answered, {bad:.1%} bad")
