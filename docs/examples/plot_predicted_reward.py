"""
Abstention based on predicted rewards
=====================================

If all k candidates are bad, the best one is bad, too. A probe that predicts the reward
detects this case. If the predicted reward of the best candidate is low, an application
can draw more samples, use a larger model, or return no answer.
"""

# %%
# A reward model
# --------------
# :class:`~skqprobe.QProbeRegressor` with ``log_loss`` predicts the probability of a
# reward of 1. A policy trained on comparisons inside a prompt chooses equally well, but
# the level of its values is arbitrary: its training does not compare candidates of
# different prompts.

import warnings

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
# Calibration
# -----------
# Left: distribution of the predicted rewards of candidates with reward 0 and 1 on
# held-out prompts. Right: calibration curve, the mean reward as a function of the
# predicted reward.

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
print("predicted reward, mean reward, in eight bins of equal size")
for p, r in zip(mean, right_ones, strict=True):
    print(f"{p:.2f}  {r:.2f}")

# %%
# Selective answers
# -----------------
# Sort the held-out prompts by the value of their best candidate, answer only the first
# prompts of this order, and compute the mean reward of these answers.


def answered_first(values):
    """Return the rewards of the best candidates, in descending order of value."""
    best = values.argmax(axis=1)
    order = np.argsort(-values.max(axis=1), kind="stable")
    return y_test[np.arange(len(y_test)), best][order]


earned = {
    "predicted reward": answered_first(predicted),
    "pairwise policy": answered_first(policy.decision_function(X_test)),
}
# Of few prompts, all may have the same reward.
warnings.filterwarnings("ignore", "The interval of .* has no width")
print("share of prompts answered, reward of the answers")
for name, rewards in earned.items():
    print(name)
    for share in [0.25, 0.5, 0.75, 1]:
        first = rewards[: int(share * len(rewards)), None]
        print(f"{share:6.2f}  {prompt_bootstrap(base_reward, first, random_state=0)}")

# %%
# With both kinds of values, the answers get better as fewer prompts are answered. The
# values of the policy rank the prompts at least as well as the predicted reward does,
# which may be unexpected. The reward of this data set depends mostly on the completion
# alone, so features that separate the candidates of one prompt also separate prompts.
# The training of the policy does not guarantee this, and its values are not
# probabilities, on which a threshold could be set.

fig, ax = plt.subplots(figsize=(8, 4), layout="constrained")
counts = np.arange(1, len(y_test) + 1)
for (name, rewards), line in zip(earned.items(), ["-", "--"], strict=True):
    ax.plot(
        counts[9:] / len(counts),
        (np.cumsum(rewards) / counts)[9:],
        line,
        linewidth=2,
        label=name,
    )
ax.axhline(
    base_reward(y_test), color="0.4", linestyle=":", label="base model, all prompts"
)
ax.set(xlabel="share of prompts answered", ylabel="reward of the answers")
ax.set(xlim=(0, 1), ylim=(0.3, 1.02))
ax.legend(loc="center left", fontsize="small")
ax.grid(alpha=0.3)
plt.show()
