"""
Sibling features
================

A probe scores each candidate separately. Correct answers to a prompt are often similar,
while wrong answers differ from each other. Agreement with the other candidates of the
prompt (the siblings) can therefore carry information about the reward.
:class:`~skqprobe.preprocessing.SiblingFeatures` measures this agreement. This example
tests whether it helps on the two-words data.
"""

# %%
# Agreement as a score
# --------------------
# The feature "mean" is minus the mean distance to the siblings, centered per prompt. It
# is high for a candidate in the middle of its siblings.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicyCV
from skqprobe.datasets import load_two_words
from skqprobe.metrics import best_of_k_reward, prompt_bootstrap
from skqprobe.preprocessing import PerCandidate, SiblingFeatures

embeddings = {
    "hidden state": load_two_words().data.astype(np.float32),
    "sentence embedding": load_two_words(embedding="minilm").data.astype(np.float32),
}
y = load_two_words().target
train, test = np.arange(120), np.arange(120, 240)


def estimate(values, versus=None):
    return prompt_bootstrap(
        best_of_k_reward, y[test], values, k=16, versus=versus, random_state=0
    )


agreement = {}
print("Reward of the candidate with the highest agreement, without training")
for name, X in embeddings.items():
    siblings = make_pipeline(
        PerCandidate(StandardScaler()),
        SiblingFeatures(["mean"], embedding="drop", variance_share=1.0),
    )
    agreement[name] = siblings.fit(X[train]).transform(X[test])[..., 0]
    print(f"{name:20} {estimate(agreement[name])}")
print(f"{'random candidate':20} {y[test].mean():.3f}")

# %%
# Agreement as additional features
# --------------------------------
# For each embedding, the example fits three pipelines: the embedding alone, the
# embedding with sibling features, and the sibling features alone. All use the penalty
# that is best in cross-validation on the training prompts.

steps = {
    "embedding": [],
    "with siblings": [SiblingFeatures()],
    "siblings alone": [SiblingFeatures(embedding="drop", variance_share=1.0)],
}
values = {
    (name, what): make_pipeline(
        PerCandidate(StandardScaler()),
        *more,
        QProbePolicyCV(["pairwise_logistic"], cv=3),
    )
    .fit(X[train], y[train])
    .decision_function(X[test])
    for name, X in embeddings.items()
    for what, more in steps.items()
}
print("\nReward, and paired gain over the embedding alone")
for (name, what), scores in values.items():
    gain = estimate(scores, versus=values[name, "embedding"])
    print(f"{name:20} {what:16} {estimate(scores)}   {gain}")

# %%
# Results
# -------
# Left: agreement carries information. Candidates with reward 1 are closer to their
# siblings than candidates with reward 0, and the candidate with the highest agreement
# is far better than a random one.
#
# Right: sibling features give the probe no measurable gain here. The embedding of a
# completion already contains the information of the agreement. Added to the hidden
# state, the features tend to reduce the reward. Added to the sentence embedding, the
# interval of the gain contains 0. Alone, they reduce the reward in both cases. The
# result differs if single candidates are hard to judge: on programs, agreement carries
# more information than the embedding, see :doc:`/guide/siblings`.

plt.rc("font", size=13)
fig, (left, right) = plt.subplots(
    1, 2, figsize=(8, 4), width_ratios=[1, 1.1], layout="constrained"
)
shown = agreement["sentence embedding"]
bins = np.linspace(-3, 3, 25)
for reward, style in [
    (0, {"color": "C0", "alpha": 0.5}),
    (1, {"color": "C1", "histtype": "step", "linewidth": 2}),
]:
    left.hist(
        np.clip(shown[y[test] == reward], -3, 3),
        bins,
        density=True,
        label=f"reward {reward}",
        **style,
    )
left.set(xlabel="agreement with siblings\n(standard deviations)", ylabel="density")
left.legend(loc="upper left", fontsize="small")

for name, fmt, shift in [("hidden state", "o", -0.1), ("sentence embedding", "s", 0.1)]:
    mean, low, high = np.array(
        [(e.value, e.low, e.high) for e in (estimate(values[name, w]) for w in steps)]
    ).T
    right.errorbar(
        mean,
        np.arange(len(steps)) + shift,
        xerr=[mean - low, high - mean],
        fmt=fmt,
        linewidth=2,
        label=name,
    )
right.axvline(y[test].mean(), color="0.4", linestyle="--", linewidth=1)
right.set_yticks(range(len(steps)), steps)
right.set(xlabel="reward (95% interval)", xlim=(0.3, 1), ylim=(3.1, -0.4))
right.legend(loc="lower left", fontsize="small")
plt.show()
