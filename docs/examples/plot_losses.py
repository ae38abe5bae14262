"""
Comparison of the nine losses
=============================

A probe can learn from rewards in several ways. It can predict the rewards
(``squared_error``, ``log_loss``), maximize the expected reward of its choice
(``policy_gradient``), order pairs (``pairwise_logistic``, ``pairwise_hinge``), or match
a distribution over the candidates (``softmax_cross_entropy``,
``contrastive_policy_gradient``), or imitate the best ones
(``quantile_filtered_imitation``). For ``conditional_logit``, which learns from choices,
a reward of 1 is taken as a choice. This example trains one policy per loss on the same
120 prompts and evaluates all of them on 120 other prompts.
"""

# %%
# One policy per loss
# -------------------
# The strength of the penalty matters more than the loss. It is tuned separately for
# each loss, by cross-validation on the training prompts.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicyCV
from skqprobe.datasets import load_two_words
from skqprobe.losses import LOSSES
from skqprobe.metrics import (
    base_reward,
    best_of_k_reward,
    oracle_reward,
    prompt_bootstrap,
)
from skqprobe.preprocessing import PerCandidate

X, y = load_two_words(return_X_y=True)
X_train, y_train, X_test, y_test = X[:120], y[:120], X[120:], y[120:]
k = y.shape[1]

values = {}
for loss in LOSSES:
    policy = make_pipeline(
        PerCandidate(StandardScaler()), QProbePolicyCV([loss], alphas=[1.0, 0.1, 0.01])
    )
    values[loss] = policy.fit(X_train, y_train).decision_function(X_test)

# %%
# Rewards and paired differences
# ------------------------------
# The interval of a reward estimates its variation over prompts. Most of this variation
# comes from the prompts, which are the same for all losses. A paired difference uses
# the same prompts in every resample, so its interval is more informative about the
# losses.

REFERENCE = "pairwise_logistic"  # the default of QProbePolicy


def estimate(loss, **versus):
    return prompt_bootstrap(
        best_of_k_reward, y_test, values[loss], k=k, random_state=0, **versus
    )


base, oracle = base_reward(y_test), oracle_reward(y_test, k)
rewards = {loss: estimate(loss) for loss in values}
gains = {loss: estimate(loss, versus=values[REFERENCE]) for loss in values}

print(f"{'':28} reward of the best of {k}  difference from {REFERENCE}")
print(f"{'base (random candidate)':28} {base:.3f}")
for loss in values:
    print(f"{loss:28} {rewards[loss]}    {gains[loss]}")
print(f"{'oracle':28} {oracle:.3f}")

# %%
# All losses reach most of the possible gain. If an interval on the right contains 0,
# 120 prompts do not show a difference. ``policy_gradient``, the best loss of the paper,
# has the lowest reward; the difference is close to the smallest that 120 prompts can
# show. :doc:`/guide/choosing` compares the losses on more data sets: no loss is best on
# all of them.

plt.rc("font", size=13)
fig, (left, right) = plt.subplots(
    1, 2, figsize=(8, 5), sharey=True, layout="constrained"
)
for ax, estimates in [(left, rewards), (right, gains)]:
    names = list(estimates)[::-1]
    mean = np.array([estimates[name].value for name in names])
    low = np.array([estimates[name].low for name in names])
    high = np.array([estimates[name].high for name in names])
    ax.errorbar(mean, names, xerr=[mean - low, high - mean], fmt="o", linewidth=2)
    ax.grid(axis="x", alpha=0.3)
left.set(xlabel="reward", xlim=(0.3, 1))
for x, label in [(base, "base"), (oracle, "oracle")]:
    left.axvline(x, color="0.4", linestyle="--", linewidth=1)
    left.text(x, 8.4, label, color="0.4", ha="center", va="bottom")
left.set_ylim(-0.4, 8.35)
right.axvline(0, color="0.4", linestyle="--", linewidth=1)
right.set_xlabel("paired difference from\npairwise_logistic")
plt.show()
