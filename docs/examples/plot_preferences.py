"""
Preferences instead of rewards
==============================

People are better at comparing two answers than at giving marks. A pair of a chosen and
a rejected completion is a candidate set of two with the rewards 1 and 0, and a pairwise
loss learns from it. How much is lost if all one has is comparisons?
"""

# %%
# A judge who only compares
# -------------------------
# The candidates of a training prompt are shown two by two, each once. Where their
# rewards differ, the judge says which is better; where they do not, nothing is learned.
# The scalar alternative gets the reward of each of the same candidates.

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
    """Make (chosen, rejected) pairs of neighbouring candidates; and their prompts."""
    prompt, first = np.nonzero(y[:, ::2] != y[:, 1::2])
    first *= 2
    first_wins = y[prompt, first] > y[prompt, first + 1]
    chosen = np.where(first_wins, first, first + 1)
    rejected = np.where(first_wins, first + 1, first)
    return np.stack([X[prompt, chosen], X[prompt, rejected]], axis=1), prompt


# %%
# Three ways to learn from the same candidates
# --------------------------------------------
# The rewards one by one; all comparisons inside a prompt; and the judge's, which are
# few. Pairs have the shape (n_pairs, 2, n_features). Several come from one prompt, so
# that cross-validation must keep them together: with sets, ``groups`` go to the
# splitter.

shown = [2, 4, 8, 16]
alphas = [1.0, 0.1, 0.01, 0.001]
by_rewards = QProbePolicyCV(["log_loss"], alphas=alphas, cv=3)
by_pairs = QProbePolicyCV(["pairwise_logistic"], alphas=alphas, cv=3)
by_judge = QProbePolicyCV(["pairwise_logistic"], alphas=alphas, cv=GroupKFold(3))
values = {"rewards": [], "all comparisons": [], "the judge's pairs": []}
print("candidates shown a prompt, pairs shown, pairs that differ")
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
# Two measures
# ------------
# All choose among the same 16 candidates of the 120 held-out prompts. And all are asked
# what the judge was asked, which of two is better, about all pairs that differ: inside
# a prompt this share is the area under the ROC curve.

mixed = (y_test.min(axis=1) == 0) & (y_test.max(axis=1) == 1)


def pairs_right(scores):
    """Share of the pairs that the scores order as the rewards do, by prompt."""
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
    print(f"\n{name}: shown, reward of the best of 16, share of pairs right")
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
print(f"\nrewards less the judge's pairs, 16 shown, paired: {lost}")

# %%
# What comparisons cost
# ---------------------
# The judge's pairs go a long way: far fewer labels than rewards, and most of the gain.
# They do cost some reward, since a judge who sees each candidate once leaves most
# comparisons unmade. Where all are made, a loss that reads nothing but order comes near
# to one that reads the rewards.
#
# With two shown, the last two have the very same pairs to learn from. Whatever lies
# between them is the choice of the penalty, by cross-validation with different folds on
# few pairs: a warning not to read much into a single split.

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
    ax.set_xlabel("candidates shown a prompt")
axes[0].axhline(oracle_reward(y_test, 16), color="0.4", linestyle=":", linewidth=1)
axes[0].text(0, oracle_reward(y_test, 16) + 0.005, "oracle", color="0.4")
axes[0].set(ylabel="reward of the best of 16", ylim=(None, 0.99))
axes[1].set_ylabel("share of pairs in the right order")
axes[1].legend(loc="lower right", fontsize="small")
plt.show()
