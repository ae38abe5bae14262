"""
Quick start
===========

The data set has 240 prompts, each of which asks for one sentence with two given words.
A small language model, SmolLM2-135M-Instruct, was sampled 16 times per prompt. A
completion has reward 1 if it does what the prompt asks, and 0 otherwise. This example
trains a probe on the hidden states of the language model, on half of the prompts. On
the other half, the probe chooses among the 16 completions.

The script prints a table and writes ``quickstart.png`` to the current folder.
"""

# %%
# The data
# --------
# The data are sets: 240 prompts with 16 candidates each and 576 features. Splitting
# along the first axis keeps the candidates of a prompt together.

import numpy as np
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, KFold, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy
from skqprobe.datasets import load_two_words
from skqprobe.metrics import (
    base_reward,
    best_of_k_reward,
    expected_reward,
    oracle_reward,
    prompt_bootstrap,
    soft_best_of_k_reward,
)
from skqprobe.preprocessing import PerCandidate

data = load_two_words()
train, test = train_test_split(np.arange(240), test_size=0.5, random_state=0)
X_train, y_train = data.data[train].astype(np.float32), data.target[train]
X_test, y_test = data.data[test].astype(np.float32), data.target[test]

# %%
# The search
# ----------
# A grid search over the pipeline tunes the loss, the strength of the penalty and the
# temperature, by cross-validation on the training prompts. The score is the expected
# reward of the choice.

LOSSES = [
    "squared_error",
    "log_loss",
    "policy_gradient",
    "pairwise_logistic",
    "softmax_cross_entropy",
]
pipeline = Pipeline(
    [
        ("scale", PerCandidate(StandardScaler())),
        ("reduce", PerCandidate(PCA(128, random_state=0))),
        ("probe", QProbePolicy()),
    ]
)
search = GridSearchCV(
    pipeline,
    {
        "probe__loss": LOSSES,
        "probe__alpha": [1e-3, 1e-2, 1e-1],
        "probe__temperature": [0, 0.03, 0.1, 0.3],
    },
    cv=KFold(5, shuffle=True, random_state=0),
    n_jobs=2,
).fit(X_train, y_train)

# %%
# Results
# -------
# The table gives the reward of each selection rule on the held-out prompts, with a
# bootstrap interval over prompts.


def best_policy(loss):
    """Fit the pipeline on all training prompts, with the best settings of a loss."""
    results = search.cv_results_
    mine = np.flatnonzero(results["param_probe__loss"] == loss)
    params = results["params"][mine[results["mean_test_score"][mine].argmax()]]
    return pipeline.set_params(**params).fit(X_train, y_train), params


def estimate(metric, *arrays, **options):
    """Compute a metric and its interval on the held-out prompts."""
    return prompt_bootstrap(metric, y_test, *arrays, random_state=0, **options)


likelihood = data.log_likelihood[test]
table = {"base (any of the 16)": (estimate(base_reward), "")}
table["most likely of the 16"] = estimate(best_of_k_reward, likelihood, k=16), ""
for loss in LOSSES:
    policy, params = best_policy(loss)
    note = "alpha {probe__alpha:g}, temperature {probe__temperature:g}".format(**params)
    note += "  <- best in cross-validation" if params == search.best_params_ else ""
    table[loss] = estimate(expected_reward, policy.predict_proba(X_test)), note
table["oracle (the best of the 16)"] = estimate(oracle_reward, k=16), ""

print(f"Reward of the chosen completion, mean over {len(test)} held-out prompts\n")
for name, (reward, note) in table.items():
    print(f"{name:28}  {reward}  {note}".rstrip())

chosen = search.predict_proba(X_test)
gain = estimate(expected_reward, chosen, versus=np.full_like(chosen, 1 / 16))
after = expected_reward(y_test, chosen)
print(
    f"\nBefore {after - gain.value:.3f}, after {after:.3f}: a gain of {gain} per prompt"
)

# %%
# Figure
# ------
# Left: the rewards of the table. Right: the reward by number of candidates, averaged
# over all subsets of k of the 16 candidates of each held-out prompt.

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
except ImportError:
    raise SystemExit("\nNo figure: pip install matplotlib") from None

fig, (left, right) = plt.subplots(
    1, 2, figsize=(11, 4.2), width_ratios=[1.15, 1], layout="constrained"
)
names = list(table)[::-1]
mean, low, high = np.array(
    [(table[name][0].value, table[name][0].low, table[name][0].high) for name in names]
).T
colors = ["C0" if name in LOSSES else "0.45" for name in names]
left.hlines(range(len(names)), low, high, colors, linewidth=2)
left.scatter(mean, range(len(names)), c=colors, zorder=3)
left.set_yticks(range(len(names)), names)
left.set(xlim=(0, 1), xlabel="reward (95% interval over prompts)")
left.set_title("Reward by selection rule")
left.grid(axis="x", alpha=0.3)

ks = np.arange(1, 17)
values = search.decision_function(X_test)
temperature = search.best_params_["probe__temperature"]
for label, reward, style in [
    ("oracle", oracle_reward(y_test, ks), {"color": "0.35", "linestyle": ":"}),
    (
        "Q-probe",
        soft_best_of_k_reward(y_test, values, ks, temperature, random_state=0),
        {"color": "C0", "linewidth": 2},
    ),
    (
        "most likely",
        best_of_k_reward(y_test, likelihood, ks),
        {"color": "0.35", "linestyle": "--"},
    ),
    ("base", np.full(16, base_reward(y_test)), {"color": "0.35", "linewidth": 1}),
]:
    right.plot(ks, reward, **style)
    right.annotate(
        label,
        (16, reward[-1]),
        (6, 0),
        textcoords="offset points",
        va="center",
        color=style["color"],
    )
right.set(
    xlim=(1, 16), ylim=(0, 1), xlabel="number of candidates k", xticks=[1, 4, 8, 12, 16]
)
right.set_title("Reward by number of candidates")
right.grid(alpha=0.3)

fig.savefig("quickstart.png", dpi=130)
print("\nThe figure is in quickstart.png")
