"""
Preferences instead of rewards
==============================

Comparing two answers is easier for people than grading each answer. A pair of a chosen
and a rejected completion is a candidate set of two with rewards 1 and 0, and a pairwise
loss learns from it. This example measures the decrease in reward if only comparisons
are available.
"""

# %%
# A simulated judge
# -----------------
# The candidates of a training prompt are shown in pairs, each candidate once. If the
# rewards of a pair differ, the judge names the better candidate. Otherwise the pair is
# not used. The scalar alternative uses the reward of each of the same candidates.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold

from skqprobe import QProbePolicyCV
from skqprobe.datasets import load_two_words
from skqprobe.metrics import (
    base_reward,
    best_of_k_reward,
    oracle_reward,
    prompt_bootstrap,
)

X, y = load_two_words(return_X_y=True)
X = X.astype(np.float32)
X_train, y_train, X_test, y_test = X[:120], y[:120], X[120:], y[120:]


def compare(X, y):
    """Return (chosen, rejected) pairs of adjacent candidates, and their prompts."""
    prompt, first = np.nonzero(y[:, ::2] != y[:, 1::2])
    first *= 2
    first_wins = y[prompt, first] > y[prompt, first + 1]
    chosen = np.where(first_wins, first, first + 1)
    rejected = np.where(first_wins, first + 1, first)
    return np.stack([X[prompt, chosen], X[prompt, rejected]], axis=1), prompt


# %%
# Three kinds of training data
# ----------------------------
# Three policies learn from the same candidates: from their rewards, from all
# comparisons inside a prompt, and from the few comparisons of the judge. Pairs have the
# shape (n_pairs, 2, n_features). Several pairs come from one prompt, so
# cross-validation must keep them together. With sets, ``groups`` is passed to the
# splitter.

shown = [2, 4, 8, 16]
alphas = [1.0, 0.1, 0.01, 0.001]
by_rewards = QProbePolicyCV(["log_loss"], alphas=alphas, cv=3)
by_pairs = QProbePolicyCV(["pairwise_logistic"], alphas=alphas, cv=3)
by_judge = QProbePolicyCV(["pairwise_logistic"], alphas=alphas, cv=GroupKFold(3))
values = {"rewards": [], "all comparisons": [], "the judge's pairs": []}
print("candidates shown per prompt, pairs shown, pairs that differ")
for k in shown:
    X_shown, y_shown = X_train[:, :k], y_train[:, :k]
    pairs, prompt = compare(X_shown, y_shown)
    print(f"{k:3} {y_shown.size // 2:6} {len(pairs):6}")
    by_rewards.fit(X_shown, y_shown)
    by_pairs.fit(X_shown, y_shown)
    by_judge.fit(pairs, np.tile([1.0, 0.0], (len(pairs), 1)), groups=prompt)
    for name, policy in zip(values, [by_rewards, by_pairs, by_judge], strict=True):
        values[name].append(policy.decision_function(X_test))

# %%
# Two metrics
# -----------
# The first metric is the reward of the choice among all 16 candidates of the 120
# held-out prompts. The second metric is the accuracy on the task of the judge: the
# share of pairs with different rewards that are ordered correctly. Inside a prompt,
# this share is the area under the ROC curve.

mixed = (y_test.min(axis=1) == 0) & (y_test.max(axis=1) == 1)


def pairs_right(scores):
    """Return the share of pairs ordered correctly by the scores, per prompt."""
    areas = map(roc_auc_score, y_test[mixed], scores[mixed])
    return np.array(list(areas))[:, None]


rewards, shares = {}, {}
for name, by_k in values.items():
    rewards[name] = [
        prompt_bootstrap(best_of_k_reward, y_test, scores, k=16, random_state=0)
        for scores in by_k
    ]
    shares[name] = [
        prompt_bootstrap(base_reward, pairs_right(scores), random_state=0)
        for scores in by_k
    ]
    print(f"\n{name}: shown, reward of the best of 16, share of pairs correct")
    for k, reward, share in zip(shown, rewards[name], shares[name], strict=True):
        print(f"{k:3}   {reward}   {share}")

lost = prompt_bootstrap(
    best_of_k_reward,
    y_test,
    values["rewards"][-1],
    versus=values["the judge's pairs"][-1],
    k=16,
    random_state=0,
)
print(f"\npaired difference, rewards - the judge's pairs, 16 shown: {lost}")

# %%
# Cost of comparisons
# -------------------
# The pairs of the judge give most of the gain with far fewer labels. They cost some
# reward, because a judge who sees each candidate only once makes few of the possible
# comparisons. With all comparisons, a loss that depends only on the order of the
# rewards comes close to a loss that uses their values.
#
# With two candidates per prompt, the last two policies are trained on the same pairs.
# The difference between them comes only from the penalty, which is tuned with different
# folds on few pairs. This shows how little a single split can tell.

plt.rc("font", size=13)
fig, axes = plt.subplots(1, 2, figsize=(8, 4), sharex=True, layout="constrained")
for ax, table in zip(axes, [rewards, shares], strict=True):
    for i, (name, by_k) in enumerate(table.items()):
        mean, low, high = np.array([(e.value, e.low, e.high) for e in by_k]).T
        ax.errorbar(
            np.arange(len(shown)) + 0.1 * (i - 1),
            mean,
            yerr=[mean - low, high - mean],
            fmt=["o-", "s--", "D:"][i],
            color=["C0", "0.45", "C1"][i],
            label=name,
        )
    ax.set_xticks(range(len(shown)), shown)
    ax.set_xlabel("candidates shown per prompt")
axes[0].axhline(oracle_reward(y_test, 16), color="0.4", linestyle=":", linewidth=1)
axes[0].text(0, oracle_reward(y_test, 16) + 0.005, "oracle", color="0.4")
axes[0].set(ylabel="reward of the best of 16", ylim=(None, 0.99))
axes[1].set_ylabel("share of pairs ordered correctly")
axes[1].legend(loc="lower right", fontsize="small")
plt.show()
