"""
Quick start: choose better completions than the model does
==========================================================

A small language model, SmolLM2-135M-Instruct, was asked 240 times for one sentence with
two given words, and sampled 16 times for each prompt. A completion has reward 1 if it
does what it was asked. Half of the prompts train a probe on the model's own hidden
states; on the other half the probe chooses among the 16.

Run it from anywhere: it prints a table and writes ``quickstart.png``.
"""

# %%
# The data
# --------
# Sets: 240 prompts, 16 candidates each, 576 features. Splitting along the first axis
# keeps the candidates of a prompt together.

import numpy as np
from scipy.stats import bootstrap
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, KFold, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy
from skqprobe.datasets import load_two_words
from skqprobe.preprocessing import PerCandidate

data = load_two_words()
train, test = train_test_split(np.arange(240), test_size=0.5, random_state=0)
X_train, y_train = data.data[train].astype(np.float32), data.target[train]
X_test, y_test = data.data[test].astype(np.float32), data.target[test]

# %%
# The search
# ----------
# Loss, strength of the penalty, temperature and a step of the pipeline are searched
# together, by cross-validation over the training prompts alone. The score is the reward
# that the policy's choice earns.

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
# The result
# ----------
# The reward of each held-out prompt, for each way to choose. The interval is a
# bootstrap over prompts.


def chosen_rewards(policy, X, y):
    """Compute the expected reward of the policy's choice, for each prompt."""
    return (policy.predict_proba(X) * y).sum(axis=1)


def interval(reward):
    """95% bootstrap interval of the mean over prompts."""
    return bootstrap((reward,), np.mean, random_state=0).confidence_interval


def most_likely(y, k=16):
    """Reward of the completion that the model finds likeliest among the first k."""
    likelihood = data.log_likelihood[test, :k]
    return np.take_along_axis(y[:, :k], likelihood.argmax(axis=1)[:, None], 1)[:, 0]


def best_policy(loss):
    """Pipeline with the settings that were best for a loss, on all training prompts."""
    results = search.cv_results_
    mine = np.flatnonzero(results["param_probe__loss"] == loss)
    params = results["params"][mine[results["mean_test_score"][mine].argmax()]]
    return pipeline.set_params(**params).fit(X_train, y_train), params


rows = {"base (any of the 16)": (y_test.mean(axis=1), "")}
rows["most likely of the 16"] = (most_likely(y_test), "")
for loss in LOSSES:
    policy, params = best_policy(loss)
    note = "alpha {probe__alpha:g}, temperature {probe__temperature:g}".format(**params)
    note += "  <- best in cross-validation" if params == search.best_params_ else ""
    rows[loss] = (chosen_rewards(policy, X_test, y_test), note)
rows["oracle (the best of the 16)"] = (y_test.max(axis=1), "")

print(f"Reward of the chosen completion, mean over {len(test)} held-out prompts\n")
table = {}
for name, (reward, note) in rows.items():
    low, high = interval(reward)
    table[name] = reward.mean(), low, high
    print(f"{name:28}  {reward.mean():.3f}  [{low:.3f}, {high:.3f}]  {note}".rstrip())

gain = rows[search.best_params_["probe__loss"]][0] - y_test.mean(axis=1)
low, high = interval(gain)
print(
    f"\nBefore {y_test.mean():.3f}, after {y_test.mean() + gain.mean():.3f}:", end=" "
)
print(f"a gain of {gain.mean():.3f} [{low:.3f}, {high:.3f}] a prompt")

# %%
# The picture
# -----------
# Left, the table. Right, what more candidates are worth: the policy chooses among the
# first k of each held-out prompt.

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
except ImportError:
    raise SystemExit("\nNo picture: pip install 'skqprobe[plot]'") from None

fig, (left, right) = plt.subplots(
    1, 2, figsize=(11, 4.2), width_ratios=[1.15, 1], layout="constrained"
)
names = list(table)[::-1]
mean, low, high = np.array([table[name] for name in names]).T
colors = ["C0" if name in LOSSES else "0.45" for name in names]
left.hlines(range(len(names)), low, high, colors, linewidth=2)
left.scatter(mean, range(len(names)), c=colors, zorder=3)
left.set_yticks(range(len(names)), names)
left.set(xlim=(0, 1), xlabel="reward (95% interval over prompts)")
left.set_title("Who chooses")
left.grid(axis="x", alpha=0.3)

ks = np.arange(1, 17)
policy = search.best_estimator_
right.plot(ks, [y_test[:, :k].max(axis=1).mean() for k in ks], "0.45", ls=":")
right.plot(ks, [policy.score(X_test[:, :k], y_test[:, :k]) for k in ks], "C0", lw=2)
right.plot(ks, [most_likely(y_test, k).mean() for k in ks], "0.45", ls="--")
right.axhline(y_test.mean(), color="0.45", lw=1)
for label, height, color in [
    ("oracle", table["oracle (the best of the 16)"][0], "0.35"),
    ("Q-probe", policy.score(X_test, y_test), "C0"),
    ("most likely", table["most likely of the 16"][0], "0.35"),
    ("base", y_test.mean(), "0.35"),
]:
    right.annotate(
        label,
        (16, height),
        (6, 0),
        textcoords="offset points",
        va="center",
        color=color,
    )
right.set(xlim=(1, 16), ylim=(0, 1), xlabel="candidates k", xticks=[1, 4, 8, 12, 16])
right.set_title("Reward of the choice among k")
right.grid(alpha=0.3)

fig.savefig("quickstart.png", dpi=130)
print("\nThe picture is in quickstart.png")
