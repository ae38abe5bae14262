"""
A candidate among its siblings
==============================

A probe sees one candidate at a time. Often the right answers to a prompt are alike,
while each wrong one is wrong in its own way, so that agreement with the other
candidates says something of a candidate's reward.
:class:`~skqprobe.preprocessing.SiblingFeatures` measures the agreement. Does it help
here?
"""

# %%
# Is there a signal?
# ------------------
# "mean" is minus the mean distance to the siblings, centred in each prompt: high for a
# candidate in the middle of the crowd.

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
print("Reward of the candidate that agrees most with its siblings; no training")
for name, X in embeddings.items():
    siblings = make_pipeline(
        PerCandidate(StandardScaler()),
        SiblingFeatures(["mean"], embedding="drop", variance_share=1.0),
    )
    agreement[name] = siblings.fit(X[train]).transform(X[test])[..., 0]
    print(f"{name:20} {estimate(agreement[name])}")
print(f"{'a random one':20} {y[test].mean():.3f}")

# %%
# Does the probe gain by it?
# --------------------------
# Three pipelines for each embedding, all with the penalty that was best in
# cross-validation over the training prompts: the embedding alone, the sibling features
# beside it, the sibling features alone.

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
print("\nReward of the chosen one, and the gain over the embedding alone")
for (name, what), scores in values.items():
    gain = estimate(scores, versus=values[name, "embedding"])
    print(f"{name:20} {what:16} {estimate(scores)}   {gain}")

# %%
# On these data, no
# -----------------
# Left: there is a signal. Right candidates stand nearer to their siblings than wrong
# ones, and the one in the middle of the crowd is far better than a random one.
#
# Right: a probe gains nothing by it that these prompts could show. What agreement
# tells, the embedding of a completion already holds: beside the hidden state the
# features cost reward rather than gain it, beside the sentence embedding the interval
# of the gain holds 0, and alone they lose in both cases. Where single candidates are
# hard to judge it is the other way round: on programs agreement says more than the
# embedding, see :doc:`/guide/siblings`.

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
left.set(xlabel="agreement with the siblings\n(standard deviations)", ylabel="density")
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
right.set(xlabel="reward of the chosen one", xlim=(0.3, 1), ylim=(3.1, -0.4))
right.legend(loc="lower left", fontsize="small")
plt.show()
