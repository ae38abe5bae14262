"""
A grid search, three ways
=========================

The same search over loss, penalty and temperature: with candidate sets, with rows and
groups, and by :class:`~skqprobe.QProbePolicyCV`, which shares the work. With the same
folds all three find the same.
"""

# %%
# Sets
# ----
# The first axis of X counts prompts. To scikit-learn a prompt is a sample, so that any
# splitter keeps its candidates together, and a search needs nothing special.

from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import sklearn
from sklearn.model_selection import GridSearchCV, KFold, PredefinedSplit

from skqprobe import QProbePolicy, QProbePolicyCV
from skqprobe.datasets import load_two_words
from skqprobe.metrics import base_reward, expected_reward, prompt_bootstrap

X, y = load_two_words(return_X_y=True)
X = X.astype(np.float32)
n_train = 120
X_train, y_train, X_test, y_test = X[:120], y[:120], X[120:], y[120:]

losses = ["log_loss", "pairwise_logistic"]
alphas = [0.1, 0.01, 0.001]
temperatures = [0.0, 0.3]
grid = {"loss": losses, "alpha": alphas, "temperature": temperatures}

cv = KFold(3)
seconds = {}


def timed(name, fit, *args, **kwargs):
    start = perf_counter()
    fitted = fit(*args, **kwargs)
    seconds[name] = perf_counter() - start
    return fitted


of_sets = timed("sets", GridSearchCV(QProbePolicy(), grid, cv=cv).fit, X_train, y_train)

# %%
# Rows with groups
# ----------------
# Prompts with different numbers of candidates are rows, with a label a row. Metadata
# routing takes the labels to ``fit`` and ``score``; the policy asks for them by itself.
# A splitter must keep a prompt together: GroupKFold does, and here, so that the folds
# are those of above, the fold of each row is given.

rows, rewards = X_train.reshape(-1, X.shape[2]), y_train.ravel()
groups = np.repeat(np.arange(n_train), y.shape[1])
fold_of_prompt = np.empty(n_train, dtype=int)
for fold, (_, held_out) in enumerate(cv.split(X_train)):
    fold_of_prompt[held_out] = fold
same_folds = PredefinedSplit(np.repeat(fold_of_prompt, y.shape[1]))

with sklearn.config_context(enable_metadata_routing=True):
    of_rows = timed(
        "rows with groups",
        GridSearchCV(QProbePolicy(), grid, cv=same_folds).fit,
        rows,
        rewards,
        groups=groups,
    )

# %%
# All at once
# -----------
# QProbePolicyCV fits all folds and penalties in lockstep, each read of X serving them
# all, and needs no fit for a temperature. What it finds may differ in the last digits:
# now and then rounding turns the choice in a prompt with two near best candidates.

at_once = timed(
    "QProbePolicyCV",
    QProbePolicyCV(losses, alphas=alphas, temperatures=temperatures, cv=cv).fit,
    X_train,
    y_train,
)

searches = {"sets": of_sets, "rows with groups": of_rows, "QProbePolicyCV": at_once}
scores = {}
for name, search in searches.items():
    results = search.cv_results_
    by_params = {
        (p["loss"], p["alpha"], p["temperature"]): score
        for p, score in zip(results["params"], results["mean_test_score"], strict=True)
    }
    scores[name] = by_params
    best = {setting: search.best_params_[setting] for setting in grid}
    print(f"{name:18} {best}")

apart = max(
    abs(scores[name][params] - score)
    for params, score in scores["sets"].items()
    for name in scores
)
print(f"largest difference between two ways in a setting's score: {apart:.3f}")

# %%
# The score of the best setting is the best of many, and flatters. What the policy earns
# shows on prompts that took no part.

proba = at_once.predict_proba(X_test)
reward = prompt_bootstrap(expected_reward, y_test, proba, random_state=0)
print(f"best score in cross-validation {at_once.best_score_:.3f}")
print(f"reward on held-out prompts     {reward}")
print(f"base model there               {base_reward(y_test):.3f}")

# %%
# Same scores, other times
# ------------------------
# Left: the scores at temperature 0, one marker inside the other. Right: the time of
# each on the machine that built this page; ``benchmarks/speed.py`` measures with care.

plt.rc("font", size=13)
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
markers = {
    "sets": {"marker": "o", "markersize": 15, "color": "0.75"},
    "rows with groups": {"marker": "s", "markersize": 8, "color": "C0"},
    "QProbePolicyCV": {"marker": "x", "markersize": 5, "color": "black"},
}
for name, marker in markers.items():
    for loss, line in zip(losses, ["-", "--"], strict=True):
        of_loss = [scores[name][loss, alpha, 0.0] for alpha in alphas]
        label = name if line == "-" else None
        left.plot(alphas, of_loss, **marker, linestyle="", label=label)
for loss, line in zip(losses, ["-", "--"], strict=True):
    of_loss = [scores["sets"][loss, alpha, 0.0] for alpha in alphas]
    left.plot(alphas, of_loss, line, color="0.4", linewidth=1, label=loss, zorder=0)
left.set(xscale="log", xlabel="alpha", ylabel="reward in cross-validation")
left.margins(x=0.12, y=0.15)
left.legend(fontsize="x-small")

right.barh(list(seconds), list(seconds.values()), color="C0", height=0.5)
right.invert_yaxis()
right.set_xlabel("seconds")
plt.show()
