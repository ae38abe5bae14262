"""
Reward by number of candidates
==============================

More completions per prompt cost more, and each additional completion adds less reward.
With m scored completions per prompt, the expected reward of the best of k can be
computed exactly for every k up to m. This helps to choose the number of completions.
"""

# %%
# Probe and likelihood
# --------------------
# The example compares two rules for choosing among the same candidates: a probe trained
# on 120 prompts, and the log-likelihood under the language model itself, which needs no
# training.

import matplotlib.pyplot as plt
import numpy as np

from skqprobe import QProbePolicyCV
from skqprobe.datasets import load_two_words
from skqprobe.metrics import best_of_k_reward, recovery
from skqprobe.plotting import RewardCurveDisplay

data = load_two_words()
X, y = data.data, data.target
policy = QProbePolicyCV(["log_loss"]).fit(X[:120], y[:120])

y_test, likelihood = y[120:], data.log_likelihood[120:]
values = policy.decision_function(X[120:])

# %%
# Exact computation
# -----------------
# Sort the m candidates of a prompt by score. The candidate of rank i, counted from the
# lowest score, is the best in :math:`\binom{i-1}{k-1}` of the :math:`\binom{m}{k}` sets
# of k candidates. :func:`~skqprobe.metrics.best_of_k_reward` weights the rewards by
# these shares, which gives the mean over *all* sets. The alternative is to draw one set
# of k candidates per prompt. It has the same mean, but adds unnecessary variance.

rng = np.random.default_rng(0)


def draw_best(k):
    """Return the reward of the best of one random set of k candidates per prompt."""
    some = rng.permuted(np.tile(np.arange(16), (len(y_test), 1)), axis=1)[:, :k]
    some_values = np.take_along_axis(values, some, axis=1)
    best = np.take_along_axis(some, some_values.argmax(axis=1)[:, None], axis=1)
    return np.take_along_axis(y_test, best, axis=1).mean()


ks = [1, 2, 4, 8, 16]
exact = best_of_k_reward(y_test, values, ks)
drawn = np.array([[draw_best(k) for _ in range(300)] for k in ks])

print(" k   exact   mean of 300 draws   standard deviation of draws")
for k, reward, draws in zip(ks, exact, drawn, strict=True):
    print(f"{k:2}   {reward:.3f}   {draws.mean():.3f} {draws.std():25.3f}")
print("\nRecovery (share of the possible gain) at k = 2, 4, 8, 16:")
for name, scores in [("probe", values), ("most likely", likelihood)]:
    print(f"{name:12}", recovery(y_test, scores, ks[1:]).round(2))

# %%
# The curve
# ---------
# Left: at every k, the probe reaches most of the possible gain, given by the oracle,
# and the likelihood less than half of it. Each doubling of k adds less than the
# previous one. The bands are intervals over prompts. Right: the exact values and 300
# single draws per k.

plt.rc("font", size=13)
fig, (left, right) = plt.subplots(
    1, 2, figsize=(8, 4), sharey=True, width_ratios=[1.3, 1], layout="constrained"
)
for name, scores, first in [
    ("Q-probe", values, True),
    ("most likely", likelihood, False),
]:
    RewardCurveDisplay.from_predictions(
        y_test, scores, name=name, random_state=0, ax=left, plot_references=first
    )
left.set(xlabel="number of candidates k", ylabel="reward", ylim=(0.2, 1))
left.legend(loc="upper left", fontsize="small")

jitter = rng.uniform(-0.15, 0.15, size=drawn.shape)
right.plot(np.arange(len(ks))[:, None] + jitter, drawn, ".", color="C0", alpha=0.15)
right.plot(np.arange(len(ks)), exact, "o-", color="black", label="exact")
right.plot([], [], ".", color="C0", label="one draw per prompt")
right.set_xticks(np.arange(len(ks)), ks)
right.set_xlabel("number of candidates k")
right.legend(loc="lower right", fontsize="small")
plt.show()
