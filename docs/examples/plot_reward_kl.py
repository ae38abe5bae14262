"""
Reward by distance from the base model
======================================

A choice among the samples of a model moves the policy away from the model. The lower
the temperature, the larger the distance. Changing the temperature moves a policy along
its frontier of reward and distance, from the base model to the best of k.
"""

# %%
# Two policies
# ------------
# One policy is trained to predict the reward, the other to maximize the expected reward
# of its choice. Each uses the penalty that is best in cross-validation on 120 training
# prompts.

import matplotlib.pyplot as plt
import numpy as np
from scipy.special import softmax

from skqprobe import QProbePolicyCV
from skqprobe.datasets import load_two_words
from skqprobe.metrics import (
    best_of_k_kl_bound,
    best_of_k_reward,
    expected_reward,
    kl_upper_estimate,
)
from skqprobe.plotting import RewardKLDisplay

X, y = load_two_words(return_X_y=True)
X_test, y_test = X[120:], y[120:]
policies = {
    loss: QProbePolicyCV([loss]).fit(X[:120], y[:120])
    for loss in ["log_loss", "policy_gradient"]
}

# %%
# Two measures of distance
# ------------------------
# - :math:`\log k - H(q)`, where H is the entropy of the choice probabilities q. It is
#   an upper estimate of the KL divergence from the base model at any temperature, and
#   needs no likelihoods: :func:`~skqprobe.metrics.kl_upper_estimate`.
# - :math:`\log k - (k - 1)/k` for the best of k. This is a tighter bound, which holds
#   at temperature 0 for any scores: :func:`~skqprobe.metrics.best_of_k_kl_bound`.
#
# A policy can therefore stay close to the model in two ways: by a soft choice among all
# candidates, or by a hard choice among fewer candidates.

ks = np.array([1, 2, 4, 8, 16])
hard = {}
print("hard choice among k candidates")
for loss, policy in policies.items():
    hard[loss] = best_of_k_reward(y_test, policy.decision_function(X_test), ks)
    for k, reward in zip(ks, hard[loss], strict=True):
        bound = best_of_k_kl_bound(k)
        print(f"  {loss:16} k = {k:2}   KL below {bound:.2f}   reward {reward:.3f}")

print("\nsoft choice among 16")
for loss, policy in policies.items():
    values = policy.decision_function(X_test)
    for temperature in values.std(axis=1).mean() * np.array([1, 0.3, 0.1]):
        proba = softmax(values / temperature, axis=1)
        kl, reward = kl_upper_estimate(proba), expected_reward(y_test, proba)
        print(f"  {loss:16} T = {temperature:6.3f}   KL below {kl:.2f}", end="")
        print(f"   reward {reward:.3f}")

# %%
# The frontier
# ------------
# The lines are soft choices among all 16 candidates, from the base model on the left to
# the best of 16 on the right, with bands over prompts. The crosses are hard choices
# among 1, 2, 4, 8 and 16 candidates, at their bound. A higher policy earns more at the
# same distance. The oracle chooses by the rewards themselves; no policy lies above it.
#
# The last cross and the end of the line are the same choice, the best of 16. The gap
# between them is the amount by which the estimate from the entropy is too large.
# Therefore compare lines with lines and crosses with crosses, but not a cross with a
# line.

plt.rc("font", size=13)
fig, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
for (loss, policy), color in zip(policies.items(), ["C0", "C1"], strict=True):
    RewardKLDisplay.from_predictions(
        y_test,
        policy.decision_function(X_test),
        name=loss,
        random_state=0,
        ax=ax,
        color=color,
        linestyle="-" if color == "C0" else "--",
        plot_references=color == "C0",
    )
    ax.plot(best_of_k_kl_bound(ks), hard[loss], "x", color=color, markersize=8)
ax.plot([], [], "x", color="0.4", label="best of k = 1, 2, 4, 8, 16")
ax.set(
    xlabel="upper estimate of KL from the base model (nats)", ylabel="expected reward"
)
ax.legend(loc="lower right", fontsize="small")
plt.show()
