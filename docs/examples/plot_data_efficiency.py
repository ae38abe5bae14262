"""
Reward by number of training prompts
====================================

Rewards are expensive: someone has to run the tests or read the completions. This
example measures the reward of the chosen completion on new prompts as a function of the
number of training prompts.
"""

# %%
# Repeated splits
# ---------------
# With few training prompts, the result depends strongly on which prompts they are. The
# 240 prompts are therefore split into three folds, twice. In each split, a subset of
# two folds is used for training and the third fold for evaluation. Every prompt is held
# out twice, from probes that were trained on different prompts. Its reward is the mean
# over these probes.
#
# The example compares two policies: the default policy without tuning, and a regression
# with a penalty that is tuned by cross-validation on the training prompts.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import RepeatedKFold

from skqprobe import QProbePolicy, QProbePolicyCV
from skqprobe.datasets import load_two_words
from skqprobe.metrics import base_reward, oracle_reward, prompt_bootstrap

X, y = load_two_words(return_X_y=True)
X = X.astype(np.float32)
sizes = [5, 10, 20, 40, 80, 160]
policies = {
    "QProbePolicy(), pairwise": QProbePolicy(),
    "squared_error, tuned": QProbePolicyCV(["squared_error"], cv=3),
}
N_REPEATS = 2

reward = {name: np.zeros((len(sizes), len(y))) for name in policies}
by_split = {name: [] for name in policies}
splits = RepeatedKFold(n_splits=3, n_repeats=N_REPEATS, random_state=0)
for seed, (train, test) in enumerate(splits.split(X)):
    train = np.random.default_rng(seed).permutation(train)
    for name, policy in policies.items():
        best = [policy.fit(X[train[:n]], y[train[:n]]).predict(X[test]) for n in sizes]
        rewards = y[test, best]  # (n_sizes, n_test)
        reward[name][:, test] += rewards / N_REPEATS
        by_split[name].append(rewards.mean(axis=1))

# %%
# Two kinds of uncertainty
# ------------------------
# The interval is a bootstrap over the 240 prompts, with fixed probes. Single splits
# vary much more. They show the result of training only once, and include the variation
# of the training prompts and of the 80 test prompts.

estimates = {}
for name in policies:
    print(f"{name}\nprompts   mean [interval over prompts]   single splits")
    estimates[name] = []
    for i, n in enumerate(sizes):
        estimate = prompt_bootstrap(
            base_reward, reward[name][i][:, None], random_state=0
        )
        estimates[name].append(estimate)
        single = np.array(by_split[name])[:, i]
        print(f"{n:7}   {estimate}           {single.min():.2f} to {single.max():.2f}")

# %%
# The learning curve
# ------------------
# A handful of prompts with 16 rewards each gives a large part of the possible gain.
# From a few dozen prompts on, each doubling adds little. At every number of prompts,
# each policy lies within the interval of the other. The reward of this data set depends
# mostly on the completion alone, which makes it easy to learn. Other data sets need
# more prompts, see :doc:`/guide/choosing`.

plt.rc("font", size=13)
fig, ax = plt.subplots(figsize=(8, 4.2), layout="constrained")
for (name, of_sizes), style in zip(estimates.items(), ["o-", "s--"], strict=True):
    mean, low, high = np.array([(e.value, e.low, e.high) for e in of_sizes]).T
    (line,) = ax.plot(sizes, mean, style, linewidth=2, label=name)
    ax.fill_between(sizes, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    shift = 0.97 if style == "o-" else 1.03
    singles = np.array(by_split[name]).T
    ax.plot(np.array(sizes) * shift, singles, ".", color=line.get_color(), alpha=0.5)
ax.plot([], [], ".", color="0.5", label="single splits")
ax.axhline(oracle_reward(y, 16), color="0.4", linestyle=":", label="oracle")
ax.axhline(base_reward(y), color="0.4", linestyle="--", label="base model")
ax.set_xscale("log")
ax.set_xticks(sizes, sizes)
ax.minorticks_off()
ax.set(xlabel="training prompts", ylabel="reward", ylim=(0.3, 1))
ax.legend(loc="center right", fontsize="small", bbox_to_anchor=(1, 0.33))
plt.show()
