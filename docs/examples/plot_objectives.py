"""
Correctness and brevity
=======================

A completion should be right, and it should be short. A probe learns both rewards in one
fit. The weights of the two set the trade-off when a candidate is chosen, without
another fit.
"""

# %%
# Two rewards per candidate
# -------------------------
# The rewards have a last axis of objectives. Larger is better, so the second objective
# is minus the number of tokens. The squared error has a closed form: one fit learns
# both objectives, and weighting them afterwards is the same as fitting their weighted
# sum.

import matplotlib.pyplot as plt
import numpy as np
from scipy.special import logit
from sklearn.model_selection import GridSearchCV

from skqprobe import QProbePolicyCV, QProbeRegressor
from skqprobe.datasets import load_two_words
from skqprobe.metrics import (
    expected_reward_scorer,
    hypervolume,
    objective_rewards,
    weights_at_cost,
)
from skqprobe.plotting import ParetoDisplay

data = load_two_words()
X, y = data.data, np.stack([data.target, -data.n_tokens], axis=2)
X_train, y_train, X_test, y_test = X[:120], y[:120], X[120:], y[120:]

policy = QProbePolicyCV(
    ["squared_error"], standardize=True, objective_weights=[1, 0.05]
).fit(X_train, y_train)

print("weights     right  tokens")
print(f"base        {y_test[..., 0].mean():.3f}  {-y_test[..., 1].mean():6.2f}")
for weights in [1, 0], [1, 0.02], [1, 0.05], [1, 0.1], [0, 1]:
    policy.set_params(objective_weights=weights)
    right, brevity = objective_rewards(y_test, policy.decision_function(X_test))
    print(f"{weights!s:10}  {right:.3f}  {-brevity:6.2f}")

# %%
# The first weight is a share of right answers. The second is the price of a token in
# this unit: at 0.05, twenty tokens are worth one right answer.
#
# A known objective
# -----------------
# The probe need not learn the length: it is known before the choice. Such a part of the
# value is an `offset`. It is in the unit of the values, so a probability of the right
# answer suits it better than the logit of a policy.

regressor = GridSearchCV(
    QProbeRegressor("log_loss", standardize=True),
    {"alpha": [1, 0.1, 0.01]},
    scoring=expected_reward_scorer(),
    cv=5,
).fit(X_train, y_train[..., 0])
regressor = regressor.best_estimator_
offset = 0.05 * y_test[..., 1]
values = regressor.predict(X_test, offset=offset)
right, brevity = objective_rewards(y_test, values)
print(f"price 0.05, length known: right {right:.3f}, tokens {-brevity:.2f}")

# %%
# The front
# ---------
# :class:`~skqprobe.plotting.ParetoDisplay` draws the choices by many weights. Of two
# policies, the one whose line is farther to the upper right has the better trade-off.
# The hypervolume is the area to the lower left of a line, above a reference point, here
# a policy that is never right and takes 12 tokens.

plt.rc("font", size=13)
fig, ax = plt.subplots(figsize=(8, 5), layout="constrained")
names = "right", "minus tokens"
learned = ParetoDisplay.from_estimator(
    policy, X_test, y_test, name="length learned", objective_names=names, ax=ax
)
both = np.stack([regressor.predict(X_test), y_test[..., 1]], axis=2)
known = ParetoDisplay.from_predictions(
    y_test,
    both,
    name="length known",
    objective_names=names,
    plot_references=False,
    ax=ax,
)
plt.show()
points = {"length learned": learned.rewards, "length known": known.rewards}
areas = {name: hypervolume(each, [0, -12]) for name, each in points.items()}
print({name: round(area, 2) for name, area in areas.items()})

# %%
# The choices by the right answer alone are not on the front: a small price of tokens
# costs no right answers.
#
# A budget
# --------
# :func:`~skqprobe.metrics.weights_at_cost` finds the weights of the highest reward at a
# mean cost. The first 60 test prompts select them, and the others measure them. Where
# the front has a gap, it mixes two weights: draw one of them for each prompt.

first, second = slice(60), slice(60, None)
mixture = weights_at_cost(y_test[first], both[first], max_cost=8, random_state=0)
print("weights", mixture.weights.round(4).tolist())
print("probabilities", mixture.probabilities.round(2).tolist())
print("selected on 60 prompts: right", mixture.reward, "tokens", mixture.cost)
right, brevity = mixture.probabilities @ [
    objective_rewards(y_test[second], both[second] @ weights)
    for weights in mixture.weights
]
print(f"on 60 others: right {right:.3f}, tokens {-brevity:.2f}")

# %%
# What did not work
# -----------------
# - Learning the length when it is known: its line is below the other one.
# - The logit of the right answer instead of its probability: the hypervolume is
#   smaller. A logit exaggerates differences between candidates that are almost
#   certainly wrong.
# - The squared error, as the loss that weights can be changed for exactly. Two pairwise
#   probes of the same objectives, weighted afterwards, have the larger hypervolume,
#   although a pairwise loss learns orders, and its values have no unit in which a price
#   could be set.
#
# With 120 test prompts, none of these differences is certain.

logits = np.stack([logit(both[..., 0]), both[..., 1]], axis=2)
pairwise = QProbePolicyCV(["pairwise_logistic"], standardize=True)
pairwise.fit(X_train, y_train)
for name, values in [
    ("length known, logit", logits),
    ("length learned, pairwise", pairwise.predict_objectives(X_test)),
]:
    weights = np.column_stack([np.linspace(1, 0, 21), np.linspace(0, 1, 21)])
    weights /= (values - values.mean(axis=1, keepdims=True)).std(axis=(0, 1))
    chosen = [objective_rewards(y_test, values @ pair) for pair in weights]
    areas[name] = hypervolume(chosen, [0, -12])
print({name: round(area, 2) for name, area in areas.items()})
