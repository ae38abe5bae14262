"""
A posterior, updated every night
================================

Rewards of ten prompts arrive every night. This example updates a
:class:`~skqprobe.BayesianQProbePolicy` with each batch, and shows how certain its
values are. Then the rewards change, and a forgetting factor lets the policy follow.
"""

# %%
# Updates
# -------
# The posterior of one night is the prior of the next. The result is that of one fit to
# all rewards so far, but no earlier data are kept.

import matplotlib.pyplot as plt
import numpy as np

from skqprobe import BayesianQProbePolicy
from skqprobe.datasets import load_two_words

data = load_two_words()
X, y = data.data.astype(np.float32), data.target
test = np.arange(160, 240)
nights = np.split(np.random.default_rng(0).permutation(160), 16)

policy = BayesianQProbePolicy(random_state=0)
prompt, states = 165, {}
for number, night in enumerate(nights, start=1):
    policy.partial_fit(X[night], y[night])
    if number in (1, 4, 16):
        Q, std = policy.decision_function(X[[prompt]], return_std=True)
        proba = policy.predict_best_proba(X[[prompt]])
        states[number] = Q[0] - Q.mean(), std[0], proba[0]
    if number in (1, 2, 4, 8, 16):
        print(f"night {number:2}: reward {policy.score(X[test], y[test]):.3f}")

whole = BayesianQProbePolicy().fit(X[:160], y[:160])
print(f"one fit : reward {whole.score(X[test], y[test]):.3f}")

# %%
# Certainty
# ---------
# The figure shows one new prompt after 1, 4 and 16 nights: above, the value of each
# candidate minus their mean, with two standard deviations; below, the probability that
# the candidate is the best. The candidates are in order of their last value. Those with
# reward 1 are filled. With more nights, the intervals narrow, and the probability
# concentrates on few candidates.

order = states[16][0].argsort()[::-1]
rank = np.arange(len(order))
good = y[prompt][order] == 1
fig, axes = plt.subplots(
    2, 3, figsize=(9, 4.5), sharex=True, sharey="row", layout="constrained"
)
for (number, (value, std, proba)), (above, below) in zip(
    states.items(), axes.T, strict=True
):
    value, std = value[order], std[order]
    above.errorbar(rank, value, 2 * std, fmt="none", color="C0", alpha=0.5)
    above.plot(rank[good], value[good], "o", color="C0", label="reward 1")
    above.plot(rank[~good], value[~good], "o", color="C0", mfc="w", label="reward 0")
    above.axhline(0, color="0.8", zorder=0)
    above.set_title(f"after {number} night{'s' * (number > 1)}")
    below.bar(rank, proba[order], color="C1")
    below.set_xticks([])
fig.supxlabel("Candidate")
axes[0, 0].set_ylabel("Value")
axes[1, 0].set_ylabel("Probability\nof being best")
axes[0, -1].legend()

# %%
# Rewards that drift
# ------------------
# From the ninth night on, another reward is measured: whether a completion is shorter
# than most others of its prompt. With ``forgetting_factor=0.7``, data of n nights ago
# have the weight 0.7**n. While nothing changes, this policy earns about the same as one
# that forgets nothing. It follows the change in the first night, and the other policy
# in the sixth.

length = np.array([[len(text) for text in texts] for texts in data.completions])
is_short = (length < np.median(length, axis=1, keepdims=True)).astype(float)
rewards = {}
for factor in (1.0, 0.7):
    policy = BayesianQProbePolicy(forgetting_factor=factor)
    rewards[factor] = []
    for number, night in enumerate(nights, start=1):
        current = y if number <= 8 else is_short
        policy.partial_fit(X[night], current[night])
        rewards[factor].append(policy.score(X[test], current[test]))

fig, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
numbers = np.arange(1, 17)
for factor, values in rewards.items():
    ax.plot(numbers, values, "o-", label=f"forgetting factor {factor}")
ax.axvline(8.5, color="0.6", linestyle=":")
ax.set(xlabel="Night", ylabel="Reward of the choice", xticks=numbers)
ax.legend(loc="lower right")
plt.show()
