"""
Easy prompts, hard prompts: where the gain comes from
=====================================================

Some prompts the model does well on without help, others it almost never gets right. A
probe can learn two different things from rewards: which prompts are easy, and which
candidate of a prompt is good. Only the second is of use in choosing.
"""

# %%
# Two kinds of loss
# -----------------
# ``squared_error`` fits the reward itself, of easy and hard prompts alike.
# ``pairwise_logistic`` sees nothing but differences inside a prompt.

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
# Does the probe's value follow the difficulty?
# ---------------------------------------------
# A dot is a held-out prompt: the mean reward of its 16 candidates, which is how the
# base model does, against the mean of their values. The paper explains with such a
# picture why its policy gradient, whose values did not follow the difficulty, chose
# better than its regression, whose values did.

plt.rc("font", size=13)
fig, axes = plt.subplots(
    1, 2, figsize=(8, 4), sharex=True, sharey=True, layout="constrained"
)
for ax, (loss, scores) in zip(axes, values.items(), strict=True):
    display = PromptDifficultyDisplay.from_predictions(y_test, scores, ax=ax)
    ax.get_legend().remove()
    ax.set_title(f"{loss}\nrank correlation {display.correlation:.2f}", fontsize=13)
    ax.set(xlabel="base model's reward", ylabel="")
    ax.grid(alpha=0.3)
    print(f"{loss:18} rank correlation {display.correlation:.2f}")
axes[0].set_ylabel("mean value (units of its\nspread inside prompts)")
plt.show()

# %%
# On these data the explanation has nothing to explain: both follow the difficulty, one
# as much as the other. A prompt is easy here if many of its candidates are right, right
# candidates have high values under any loss, and so the mean value rises. What a probe
# knows about the prompt as such shows in the values of the *wrong* candidates alone.

base = y_test.mean(axis=1)
print("Rank correlation of base reward and mean value of the wrong candidates")
for loss, scores in values.items():
    of_wrong = np.average(scores, axis=1, weights=1 - y_test)
    print(f"{loss:18} {spearmanr(base, of_wrong).statistic:.2f}")

# %%
# Where the gain comes from
# -------------------------
# The same prompts by how many of the 16 candidates are right. A random choice lies on
# the dashed line. Where there is any right candidate the best choice earns 1: the gain
# that is there to take is largest on the hard prompts, and so is the gain that the
# probe takes. On the prompts without any right candidate no choice helps.

n_right = y_test.sum(axis=1).astype(int)
bins = {"0": (0, 0), "1-3": (1, 3), "4-6": (4, 6), "7-9": (7, 9), "10-16": (10, 16)}

fig, ax = plt.subplots(figsize=(8, 4), layout="constrained")
for shift, (loss, scores) in zip([-0.08, 0.08], values.items(), strict=True):
    print(f"\n{loss}: right of 16, prompts, base reward, reward of the best by value")
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
ax.plot(random, "--", color="0.4", label="a random choice (base model)")
ax.set_xticks(range(len(bins)), bins)
ax.set(xlabel="right candidates of 16", ylabel="reward", ylim=(-0.03, 1.03))
ax.legend(loc="lower right", fontsize="small")
ax.grid(axis="y", alpha=0.3)
plt.show()
