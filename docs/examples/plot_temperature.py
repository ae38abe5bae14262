"""
Effect of the temperature
=========================

A policy chooses a candidate with probability softmax(Q / temperature). At temperature
0, it always chooses the best candidate. At high temperatures, it approaches the base
model. The temperature is used only for choosing, not in training, so one fit is enough
for all temperatures.
"""

# %%
# One fit, many temperatures
# --------------------------
# The temperature has the unit of the values of the probe, which depends on the loss and
# the penalty. To compare two policies on one axis, this example expresses it in units
# of the spread of the values: their mean standard deviation inside the training
# prompts.

import matplotlib.pyplot as plt
import numpy as np

from skqprobe import QProbePolicy, sample_candidates
from skqprobe.datasets import load_two_words
from skqprobe.metrics import (
    base_reward,
    effective_candidates,
    expected_reward,
    prompt_bootstrap,
)

X, y = load_two_words(return_X_y=True)
X_train, y_train, X_test, y_test = X[:120], y[:120], X[120:], y[120:]

temperatures = np.logspace(-2, 2, 17)
rewards, effective = {}, {}
for loss, alpha in [("log_loss", 0.01), ("policy_gradient", 0.01)]:
    policy = QProbePolicy(loss, alpha=alpha).fit(X_train, y_train)
    spread = policy.decision_function(X_train).std(axis=1).mean()
    probas = [
        policy.set_params(temperature=t * spread).predict_proba(X_test)
        for t in temperatures
    ]
    rewards[loss] = [
        prompt_bootstrap(
            expected_reward, y_test, proba, n_resamples=2000, random_state=0
        )
        for proba in probas
    ]
    effective[loss] = [effective_candidates(proba) for proba in probas]

# %%
# Reward and diversity
# --------------------
# A low temperature changes little. In an intermediate range, the policy chooses among
# several candidates, and these prompts do not show a decrease in reward. At higher
# temperatures, the reward decreases to that of the base model.

print("temperature / spread, reward, effective candidates")
for loss in rewards:
    print(loss)
    for i in range(0, len(temperatures), 4):
        print(
            f"{temperatures[i]:8.2f}   {rewards[loss][i]}   {effective[loss][i]:5.2f}"
        )

plt.rc("font", size=13)
fig, (left, right) = plt.subplots(
    1, 2, figsize=(8, 4), sharex=True, layout="constrained"
)
for loss, style in [("log_loss", "-"), ("policy_gradient", "--")]:
    mean, low, high = np.array([(e.value, e.low, e.high) for e in rewards[loss]]).T
    (line,) = left.plot(temperatures, mean, style, linewidth=2, label=loss)
    left.fill_between(temperatures, low, high, alpha=0.2, linewidth=0)
    right.plot(temperatures, effective[loss], style, linewidth=2)
left.axhline(base_reward(y_test), color="0.4", linestyle=":", label="base model")
right.axhline(16, color="0.4", linestyle=":")
left.set(xscale="log", ylabel="expected reward", ylim=(0.3, 1))
left.legend(loc="lower left", fontsize="small")
right.set(ylabel="effective candidates (of 16)", ylim=(0, 17))
fig.supxlabel("temperature / spread of the values", fontsize=13)
plt.show()

# %%
# Several answers per prompt
# --------------------------
# A positive temperature gives different answers to one prompt, most of which are
# correct.

data = load_two_words()
policy = QProbePolicy("log_loss", alpha=0.01).fit(X_train, y_train)
spread = policy.decision_function(X_train).std(axis=1).mean()

print("Six draws per prompt: temperature, distinct candidates, mean reward")
for t in [0, 0.1, 0.3, 1]:
    proba = policy.set_params(temperature=t * spread).predict_proba(X_test)
    draws = sample_candidates(proba, size=6, random_state=0)
    different = np.mean([len(set(some)) for some in draws])
    reward = np.take_along_axis(y_test, draws, axis=1).mean()
    print(f"{t:4} {different:5.2f} {reward:6.3f}")

proba = policy.set_params(temperature=0.3 * spread).predict_proba(X_test)
print("\nReward and text of the draws at 0.3 for: " + " and ".join(data.words[120]))
for i in sample_candidates(proba, size=6, random_state=0)[0]:
    print(f"  {y_test[0, i]:g} {data.completions[120, i].strip()}")
