"""
Learning from clicks
====================

Users who pick one of four answers tell which answer they prefer, and also which place
they prefer. This example simulates clicks with such a position bias, and fits the
conditional logit model with and without columns of the place.
"""

# %%
# Simulated clicks
# ----------------
# Four candidates of each training prompt are shown, sorted by an old ranking: the
# length of the completion, with some noise. A user picks by the sum of a utility (3 for
# a reward of 1), a preference for the first places, and a random term. The rewards are
# used for nothing else.

import matplotlib.pyplot as plt
import numpy as np

from skqprobe import QProbePolicyCV
from skqprobe.datasets import load_two_words
from skqprobe.metrics import (
    base_reward,
    best_of_k_reward,
    oracle_reward,
    prompt_bootstrap,
)

data = load_two_words()
X, y = data.data.astype(np.float32), data.target
length = np.array([[len(text) for text in texts] for texts in data.completions])
rng = np.random.default_rng(0)
train, test = np.arange(160), np.arange(160, 240)

shown = rng.permuted(np.tile(np.arange(16), (160, 1)), axis=1)[:, :4]
noisy_length = length / length.std() + rng.gumbel(size=length.shape) / 2
order = np.take_along_axis(noisy_length[train], shown, axis=1).argsort(axis=1)
shown = np.take_along_axis(shown, order, axis=1)  # short answers come first
place_utility = np.array([3.0, 1.5, 0.5, 0.0])
utility = 3 * np.take_along_axis(y[train], shown, axis=1) + place_utility
clicks = np.eye(4)[(utility + rng.gumbel(size=shown.shape)).argmax(axis=1)]
print("clicks by place:", clicks.sum(axis=0).astype(int))

# %%
# Three policies
# --------------
# One policy is fitted to the clicks alone. Another also has four columns of the place,
# which are 0 for all candidates when it chooses. They are scaled up, so that the
# penalty affects them less. The third policy is fitted to the rewards of the shown
# candidates, which the first two do not need.

places = np.broadcast_to(5 * np.eye(4, dtype=np.float32), (160, 4, 4))
nowhere = np.zeros((80, 16, 4), dtype=np.float32)
X_shown = np.take_along_axis(X[train], shown[..., None], axis=1)
X_shown, X_test = X_shown / X.std(), X[test] / X.std()
with_places = np.concatenate([X_shown, places], axis=2)
test_with_places = np.concatenate([X_test, nowhere], axis=2)
y_shown, y_test = np.take_along_axis(y[train], shown, axis=1), y[test]


def fit(loss, X, y):
    return QProbePolicyCV([loss], alphas=[10.0, 1.0, 0.1, 0.01]).fit(X, y)


values = {
    "clicks": fit("conditional_logit", X_shown, clicks).decision_function(X_test),
    "clicks, with places": fit(
        "conditional_logit", with_places, clicks
    ).decision_function(test_with_places),
    "rewards": fit("log_loss", X_shown, y_shown).decision_function(X_test),
}

# %%
# Results
# -------
# Without the places, the policy learns that short answers are good, because they were
# shown first. With the places, its values do not depend on the length. The reward of
# its choice is higher, and below that of a policy that was fitted to rewards: a click
# tells less than four rewards, and most clicks are on the first place.

rewards = {
    name: prompt_bootstrap(best_of_k_reward, y_test, Q, k=16, random_state=0)
    for name, Q in values.items()
}
by_length = {
    name: np.corrcoef(Q.ravel(), length[test].ravel())[0, 1]
    for name, Q in values.items()
}
base, oracle = base_reward(y_test), oracle_reward(y_test, 16)
print(f"base {base:.3f}, oracle {oracle:.3f}")
for name, reward in rewards.items():
    print(f"{name:20} reward {reward}, correlation with length {by_length[name]:+.2f}")

figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), sharey=True, layout="constrained")
at = np.arange(len(values))
for i, reward in enumerate(rewards.values()):
    axes[0].plot([reward.low, reward.high], [i, i], color="C0")
    axes[0].plot(reward.value, i, "o", color="C0")
axes[0].axvline(base, color="0.6", linestyle=":", label="base")
axes[0].set(yticks=at, yticklabels=values, xlabel="Reward of the choice")
axes[0].margins(y=0.25)
axes[0].legend(loc="lower right")
axes[1].barh(at, list(by_length.values()), height=0.4, color="C1")
axes[1].axvline(0, color="0.6")
axes[1].set(xlim=(-1, 1), xticks=[-1, -0.5, 0, 0.5, 1])
axes[1].set_xlabel("Correlation of value and length")
plt.show()
