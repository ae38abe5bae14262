"""
Comparison of embeddings
========================

The quality of a probe is limited by its features. The shipped data set has two
embeddings: the hidden state of the language model that wrote the completions, and a
sentence embedding by another model. Embeddings can also be concatenated, with each
other and with single features such as the likelihood.
"""

# %%
# Concatenated features
# ---------------------
# In candidate sets, the last axis holds the features, so embeddings are concatenated
# along it. The columns must then be scaled, because embeddings have different units.

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
# One probe per embedding
# -----------------------
# All probes are trained and tuned on the same 120 prompts, and evaluated on the others.

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
print(
    f"{'features (number)':32} reward                 difference from the hidden state"
)
for name, reward in rewards.items():
    gain = estimate(name, versus=values[REFERENCE])
    print(f"{name:32} {reward}   {gain}")

# %%
# Interpretation
# --------------
# The hidden state gives a higher reward than the sentence embedding, which represents
# the topic of a text, and a much higher reward than the likelihood. The concatenation
# of both embeddings has a higher mean than each of them. The paired interval of its
# gain over the hidden state contains 0, so these prompts do not show a difference.

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
ax.set(xlabel="reward (95% interval)", xlim=(0.3, 1.05))
ax.grid(axis="x", alpha=0.3)
plt.show()
