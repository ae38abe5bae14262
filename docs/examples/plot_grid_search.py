"""
Grid search with sets, rows and QProbePolicyCV
==============================================

This example runs the same search over loss, penalty and temperature in three ways: on
candidate sets, on rows with groups, and with :class:`~skqprobe.QProbePolicyCV`, which
shares computations between the settings. With the same folds, all three find the same
settings.
"""

# %%
# Sets
# ----
# The first axis of X indexes the prompts. In scikit-learn's terms a prompt is a sample,
# so any splitter keeps its candidates together and a search needs no further arguments.

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
# Rows with one prompt label per row support prompts with different numbers of
# candidates. Metadata routing passes the labels to ``fit`` and ``score``; the policy
# requests them by default. The splitter must keep the candidates of a prompt together,
# as GroupKFold does. Here the fold of each row is given, so that the folds are the same
# as above.

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
# QProbePolicyCV
# --------------
# QProbePolicyCV fits all folds and penalties together, with shared passes over X, and
# evaluates temperatures without a new fit. Its scores may differ in the last digits,
# because rounding can change the choice for a prompt with two nearly equal candidates.

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
print(f"largest difference in the score of a setting: {apart:.3f}")

# %%
# The score of the best setting is optimistically biased, because it is the maximum over
# many settings. Held-out prompts give an unbiased estimate of the reward.

proba = at_once.predict_proba(X_test)
reward = prompt_bootstrap(expected_reward, y_test, proba, random_state=0)
print(f"best score in cross-validation {at_once.best_score_:.3f}")
print(f"reward on held-out prompts     {reward}")
print(f"base reward on these prompts   {base_reward(y_test):.3f}")

# %%
# Scores and times
# ----------------
# Left: the scores at temperature 0, with nested markers. Right: the time of each search
# on the machine that built this page. ``benchmarks/speed.py`` measures times more
# carefully.

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
left.set(xscale="log", xlabel="alpha", ylabel="cross-validated reward")
left.margins(x=0.12, y=0.15)
left.legend(fontsize="x-small")

right.barh(list(seconds), list(seconds.values()), color="C0", height=0.5)
right.invert_yaxis()
right.set_xlabel("time (s)")
plt.show()
