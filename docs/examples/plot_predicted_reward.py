"""
When none of the candidates is good
===================================

The best of k bad answers is a bad answer. A probe that predicts the reward can say so:
a low predicted reward of the best candidate is a reason to sample more, to ask a larger
model, or to say nothing.
"""

# %%
# A reward model
# --------------
# :class:`~skqprobe.QProbeRegressor` with ``log_loss`` predicts the probability of a
# reward of 1. A policy trained on comparisons inside a prompt chooses as well, but the
# level of its values is free: nothing told it how good the best candidate of a prompt
# is compared with that of another.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.model_selection import GridSearchCV

from skqprobe import QProbePolicyCV, QProbeRegressor
from skqprobe.datasets import load_two_words
from skqprobe.metrics import base_reward, prompt_bootstrap
from skqprobe.plotting import QValueDisplay

X, y = load_two_words(return_X_y=True)
X_train, y_train, X_test, y_test = X[:120], y[:120], X[120:], y[120:]

regressor = GridSearchCV(
    QProbeRegressor("log_loss"), {"alpha": [0.1, 0.01, 0.001]}, cv=3
).fit(X_train, y_train)
policy = QProbePolicyCV(["pairwise_logistic"], cv=3).fit(X_train, y_train)
predicted = regressor.predict(X_test)

# %%
# Are the predictions right?
# --------------------------
# Left: the predicted rewards of right and of wrong candidates of held-out prompts.
# Right: of the candidates that were given a certain probability, how many are right?

plt.rc("font", size=13)
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
QValueDisplay.from_predictions(y_test, predicted, ax=left)
left.set(xlabel="predicted reward", ylabel="density")
left.legend(fontsize="small")

right_ones, mean = calibration_curve(
    y_test.ravel(), predicted.ravel(), n_bins=8, strategy="quantile"
)
right.plot([0, 1], [0, 1], color="0.6", linewidth=1)
right.plot(mean, right_ones, "o-")
right.set(xlabel="predicted reward", ylabel="mean reward", aspect="equal")
plt.show()
print("predicted, mean reward, by eighths of the candidates")
for p, r in zip(mean, right_ones, strict=True):
    print(f"{p:.2f}  {r:.2f}")

# %%
# Answering only when sure
# ------------------------
# Sort the held-out prompts by the value of their best candidate, and answer the first
# ones alone: which reward do the answers earn?


def answered_first(values):
    """Reward of the best candidate, prompts with the highest values first."""
    best = values.argmax(axis=1)
    order = np.argsort(-values.max(axis=1), kind="stable")
    return y_test[np.arange(len(y_test)), best][order]


earned = {
    "predicted reward": answered_first(predicted),
    "pairwise policy": answered_first(policy.decision_function(X_test)),
}
print("share of the prompts answered, reward of the answers")
for name, rewards in earned.items():
    print(name)
    for share in [0.25, 0.5, 0.75, 1]:
        first = rewards[: int(share * len(rewards)), None]
        print(f"{share:6.2f}  {prompt_bootstrap(base_reward, first, random_state=0)}")

# %%
# The less is answered, the better the answers, by either value. That the policy's
# values do at least as well as the predicted reward is not what one would expect: as
# the reward of these data is about the completion alone, what tells two candidates of a
# prompt apart tells prompts apart as well. Nothing in its training promises that, and
# it gives no probability to set a threshold by.

fig, ax = plt.subplots(figsize=(8, 4), layout="constrained")
counts = np.arange(1, len(y_test) + 1)
for (name, rewards), line in zip(earned.items(), ["-", "--"], strict=True):
    ax.plot(
        counts[9:] / len(counts),
        (np.cumsum(rewards) / counts)[9:],
        line,
        linewidth=2,
        label=f"by {name}",
    )
ax.axhline(base_reward(y_test), color="0.4", linestyle=":", label="base, all prompts")
ax.set(xlabel="share of the prompts answered", ylabel="reward of the answers")
ax.set(xlim=(0, 1), ylim=(0.3, 1.02))
ax.legend(loc="center left", fontsize="small")
ax.grid(alpha=0.3)
plt.show()
