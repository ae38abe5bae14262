"""
Which completions to have rewarded
==================================

Embeddings are cheap, and rewards may be expensive. This example spends a number of
labels, the rewards of single completions, in three ways, and compares the reward of the
choice on new prompts.
"""

# %%
# Three ways to spend labels
# --------------------------
# All 16 completions of a few prompts, or four completions of each of four times as many
# prompts: drawn at random, or selected to differ by
# :func:`~skqprobe.generators.select_candidates`. The other rewards are NaN, and
# ``missing="ignore"`` leaves these candidates out of the fit.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import ShuffleSplit

from skqprobe import QProbePolicy
from skqprobe.datasets import load_two_words
from skqprobe.generators import select_candidates

X, y = load_two_words(return_X_y=True)
X = X.astype(np.float32)
k, n_labels = y.shape[1], [16, 32, 64, 128, 256]
rules = ["four that differ", "four at random", "all of few prompts"]
policy = QProbePolicy(
    "contrastive_policy_gradient", alpha=100.0, standardize=True, missing="ignore"
)


def select(rule, X, n, rng):
    """Return the indices of the candidates to be rewarded, (n_prompts, n_select)."""
    if rule == "all of few prompts":
        return np.tile(np.arange(k), (n // k, 1))
    if rule == "four that differ":
        return select_candidates(X[: n // 4], 4, random_state=0)
    return rng.permuted(np.tile(np.arange(k), (n // 4, 1)), axis=1)[:, :4]


N_SPLITS = 24
rewards = {rule: np.empty((N_SPLITS, len(n_labels))) for rule in rules}
splits = ShuffleSplit(N_SPLITS, test_size=120, random_state=0)
for i, (train, test) in enumerate(splits.split(X)):
    rng = np.random.default_rng(i)
    for rule in rules:
        for j, n in enumerate(n_labels):
            asked = select(rule, X[train], n, rng)
            prompts = train[: len(asked)]
            known = np.full((len(asked), k), np.nan)
            labels = np.take_along_axis(y[prompts], asked, axis=1)
            np.put_along_axis(known, asked, labels, axis=1)
            chosen = policy.fit(X[prompts], known).predict(X[test])
            rewards[rule][i, j] = y[test, chosen].mean()

# %%
# Results
# -------
# The bars are standard errors over splits. On these data, the three ways earn about the
# same: 64 labels give most of the gain of 256, and it matters little which. It is not
# so everywhere. On AlpacaEval, with 48 candidates per prompt, 96 labels of candidates
# that differ earn more than 384 labels of all candidates of a few prompts, see
# :doc:`/guide/choices`.

mean = {rule: each.mean(axis=0) for rule, each in rewards.items()}
error = {rule: each.std(axis=0) / N_SPLITS**0.5 for rule, each in rewards.items()}
print(f"{'labels':20}" + "".join(f"{n:>14}" for n in n_labels))
for rule in rules:
    cells = zip(mean[rule], error[rule], strict=True)
    print(f"{rule:20}" + "".join(f"{m:8.2f} ({e:.2f})" for m, e in cells))

fig, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
for rule in rules:
    ax.errorbar(n_labels, mean[rule], error[rule], marker="o", label=rule)
ax.axhline(y.mean(), color="0.5", linestyle=":", label="base")
ax.set(xscale="log", xlabel="Number of labels", ylabel="Reward of the choice")
ax.set_xticks(n_labels, n_labels)
ax.minorticks_off()
ax.legend()
plt.show()
