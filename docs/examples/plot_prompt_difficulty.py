"""
Gain by prompt difficulty
=========================

The base model succeeds often on easy prompts and rarely on hard ones. A probe can learn
two things from rewards: which prompts are easy, and which candidates of a prompt are
good. Only the second is useful for choosing.
"""

# %%
# Two kinds of losses
# -------------------
# ``squared_error`` fits the rewards themselves, on easy and hard prompts alike.
# ``pairwise_logistic`` depends only on differences inside a prompt.

import warnings

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import spearmanr

from skqprobe import QProbePolicyCV
from skqprobe.datasets import load_two_words
from skqprobe.metrics import best_of_k_reward, prompt_bootstrap
from skqprobe.plotting import PromptDifficultyDisplay

X, y = load_two_words(return_X_y=True)
X_test, y_test = X[120:], y[120:]
values = {
    loss: QProbePolicyCV([loss]).fit(X[:120], y[:120]).decision_function(X_test)
    for loss in ["squared_error", "pairwise_logistic"]
}

# %%
# Correlation of values and difficulty
# ------------------------------------
# Each dot is a held-out prompt. The x axis is the mean reward of its 16 candidates,
# which is the reward of the base model. The y axis is the mean of their values. The
# paper uses such a figure to explain why its policy gradient chose better than its
# regression: the values of the regression were correlated with the difficulty, those of
# the policy gradient were not.

plt.rc("font", size=13)
fig, axes = plt.subplots(
    1, 2, figsize=(8, 4), sharex=True, sharey=True, layout="constrained"
)
for ax, (loss, scores) in zip(axes, values.items(), strict=True):
    display = PromptDifficultyDisplay.from_predictions(y_test, scores, ax=ax)
    ax.get_legend().remove()
    ax.set_title(f"{loss}\nrank correlation {display.correlation:.2f}", fontsize=13)
    ax.set(xlabel="reward of the base model", ylabel="")
    ax.grid(alpha=0.3)
    print(f"{loss:18} rank correlation {display.correlation:.2f}")
axes[0].set_ylabel("mean value (standard\ndeviations inside prompts)")
plt.show()

# %%
# On these data, the explanation does not apply: the values of both losses are equally
# correlated with the difficulty. A prompt is easy here if many of its candidates have
# reward 1. Such candidates have high values under any loss, so the mean value
# increases. To measure the effect of the prompt itself, consider only the candidates
# with reward 0.

base = y_test.mean(axis=1)
print("Rank correlation of base reward and mean value of candidates with reward 0")
for loss, scores in values.items():
    of_wrong = np.average(scores, axis=1, weights=1 - y_test)
    print(f"{loss:18} {spearmanr(base, of_wrong).statistic:.2f}")

# %%
# Reward by number of good candidates
# -----------------------------------
# The last figure groups the same prompts by the number of candidates with reward 1. The
# dashed line is a random choice. If a prompt has at least one such candidate, the best
# choice earns 1. The possible gain is therefore largest on hard prompts, and so is the
# gain of the probe. On prompts without such a candidate, no choice helps.

n_right = y_test.sum(axis=1).astype(int)
bins = {"0": (0, 0), "1-3": (1, 3), "4-6": (4, 6), "7-9": (7, 9), "10-16": (10, 16)}

# Of few prompts, all may have the same reward.
warnings.filterwarnings("ignore", "The interval of .* has no width")
fig, ax = plt.subplots(figsize=(8, 4), layout="constrained")
for shift, (loss, scores) in zip([-0.08, 0.08], values.items(), strict=True):
    print(f"\n{loss}: reward 1 (of 16), prompts, base reward, reward of the best of 16")
    estimates = []
    for name, (low, high) in bins.items():
        these = (n_right >= low) & (n_right <= high)
        estimates.append(
            prompt_bootstrap(
                best_of_k_reward, y_test[these], scores[these], k=16, random_state=0
            )
        )
        random = base[these].mean()
        print(f"{name:>6} {these.sum():4}   {random:.3f}   {estimates[-1]}")
    mean = np.array([estimate.value for estimate in estimates])
    low = np.array([estimate.low for estimate in estimates])
    high = np.array([estimate.high for estimate in estimates])
    ax.errorbar(
        np.arange(len(bins)) + shift,
        mean,
        yerr=[mean - low, high - mean],
        fmt="o" if shift < 0 else "s",
        linewidth=2,
        label=loss,
    )
random = [
    base[(n_right >= low) & (n_right <= high)].mean() for low, high in bins.values()
]
ax.plot(random, "--", color="0.4", label="random choice (base model)")
ax.set_xticks(range(len(bins)), bins)
ax.set(xlabel="candidates with reward 1, of 16", ylabel="reward", ylim=(-0.03, 1.03))
ax.legend(loc="lower right", fontsize="small")
ax.grid(axis="y", alpha=0.3)
plt.show()
