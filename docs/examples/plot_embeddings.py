"""
Which embedding?
================

A probe is no better than the numbers it reads. The shipped completions come with two
embeddings: the hidden state of the language model that wrote them, and a sentence
embedding by another model. One can also put embeddings side by side, and add single
numbers such as the likelihood.
"""

# %%
# Columns side by side
# --------------------
# In candidate sets the last axis holds the features; joining embeddings is a
# concatenation along it. Scaled columns are a must then: two embeddings have different
# units.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicyCV
from skqprobe.datasets import load_two_words
from skqprobe.metrics import (
    base_reward,
    best_of_k_reward,
    oracle_reward,
    prompt_bootstrap,
)
from skqprobe.preprocessing import PerCandidate

data = load_two_words()
y = data.target
states = data.data.astype(np.float32)
sentences = load_two_words(embedding="minilm").data.astype(np.float32)
numbers = np.stack(
    [data.log_likelihood, data.log_likelihood / data.n_tokens, data.n_tokens], axis=2
)
inputs = {
    "likelihood and length (3)": numbers,
    "sentence embedding (384)": sentences,
    "hidden state (576)": states,
    "both (960)": np.concatenate([states, sentences], axis=2),
    "both, likelihood, length (963)": np.concatenate(
        [states, sentences, numbers], axis=2
    ),
}

# %%
# One probe for each
# ------------------
# The same 120 prompts train each, and choose its penalty; the others are chosen for.

values = {}
for name, X in inputs.items():
    policy = make_pipeline(
        PerCandidate(StandardScaler()),
        QProbePolicyCV(["log_loss"], alphas=[1.0, 0.1, 0.01, 0.001], cv=3),
    )
    values[name] = policy.fit(X[:120], y[:120]).decision_function(X[120:])

REFERENCE = "hidden state (576)"


def estimate(name, **versus):
    return prompt_bootstrap(
        best_of_k_reward, y[120:], values[name], k=16, random_state=0, **versus
    )


rewards = {name: estimate(name) for name in values}
print(f"{'features (number)':32} reward                 less that of the hidden state")
for name, reward in rewards.items():
    gain = estimate(name, versus=values[REFERENCE])
    print(f"{name:32} {reward}   {gain}")

# %%
# What one sees
# -------------
# The model's own state is ahead of the sentence embedding, which was made for what a
# text is about, and far ahead of the likelihood. Both together are ahead of either in
# the mean; the paired interval of that gain holds 0, so that these prompts do not prove
# it.

plt.rc("font", size=13)
fig, ax = plt.subplots(figsize=(8, 3.8), layout="constrained")
names = list(rewards)[::-1]
mean, low, high = np.array([(e.value, e.low, e.high) for e in rewards.values()])[::-1].T
ax.errorbar(mean, names, xerr=[mean - low, high - mean], fmt="o", linewidth=2.5)
for x, label in [
    (base_reward(y[120:]), "base"),
    (oracle_reward(y[120:], 16), "oracle"),
]:
    ax.axvline(x, color="0.4", linestyle="--", linewidth=1)
    ax.text(x + 0.005, 0.35, label, color="0.4")
ax.set(xlabel="reward of the chosen one (95% interval)", xlim=(0.3, 1.05))
ax.grid(axis="x", alpha=0.3)
plt.show()
