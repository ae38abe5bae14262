"""
As many candidates as a prompt needs
====================================

The first candidate of an easy prompt may be good enough, and a hard prompt may be worth
many. A stopping rule draws candidates until another one is not expected to be worth its
cost. This example judges rules on recorded candidates.
"""

# %%
# Predicted rewards
# -----------------
# A rule compares predicted rewards. :class:`~skqprobe.CalibratedPolicyCV` predicts them
# from the values of any policy, and keeps the predictions for the training candidates,
# of policies that were not fitted to their prompts. They are the prior of the rule.

import matplotlib.pyplot as plt
import numpy as np

from skqprobe import CalibratedPolicyCV, QProbePolicy
from skqprobe.datasets import load_two_words
from skqprobe.generators import ExpectedGain, Threshold
from skqprobe.metrics import reward_at_cost
from skqprobe.plotting import RewardCostDisplay

X, y = load_two_words(return_X_y=True)
X_train, y_train, X_test, y_test = X[:120], y[:120], X[120:], y[120:]
policy = CalibratedPolicyCV(QProbePolicy("log_loss", alpha=0.01), "sigmoid")
policy.fit(X_train, y_train)
prior = policy.held_out_rewards_

# %%
# Reward against the number of candidates
# ---------------------------------------
# Each point is a cost of a candidate, in units of the reward. At the same mean number
# of candidates, the rule earns more than a fixed number.

costs = np.geomspace(0.003, 0.2, 12)
display = RewardCostDisplay.from_estimator(
    policy,
    X_test,
    y_test,
    stopping=[ExpectedGain(cost).fit(prior) for cost in costs],
    random_state=0,
    name="ExpectedGain",
)
display.ax_.grid(alpha=0.3)
plt.show()
for n_drawn, reward in zip(display.n_drawn, display.reward, strict=True):
    print(f"{n_drawn:5.1f} candidates: {reward:.3f}")

# %%
# Number of candidates by prompt
# ------------------------------
# With a cost of 0.02, most prompts need few candidates. The more candidates of a prompt
# were bad, the less the rule expects of the next one, so that it stops. A threshold
# draws all candidates of such a prompt.

values = policy.predict_rewards(X_test)
rules = {"ExpectedGain(0.02)": ExpectedGain(0.02).fit(prior)}
rules["Threshold(0.8)"] = Threshold(0.8)
fig, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for name, rule in rules.items():
    found = reward_at_cost(y_test, values, rule, random_state=0, average=None)
    share = np.arange(1, len(y_test) + 1) / len(y_test)
    ax.step(share, np.sort(found.n_drawn), label=name)
    print(f"{name}: {found.n_drawn.mean():.1f} candidates, {found.reward.mean():.3f}")
ax.set(xlabel="Share of prompts", ylabel="Mean number of candidates")
ax.legend()
ax.grid(alpha=0.3)
plt.show()
