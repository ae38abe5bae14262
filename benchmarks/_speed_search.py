"""Sections `closed-form`, `objectives` and `search` of `speed.py`: joint fits."""

from functools import partial

import numpy as np
from _synthetic import PAPER, make_data, times
from _timing import Row, compare, fit_quietly
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV

from skqprobe import QProbePolicy, QProbePolicyCV

N_OBJECTIVES = 5


def measure_closed_form(plan, shape=PAPER):
    """Make the rows of the section `closed-form`."""
    X, y = make_data(plan.smaller(shape), 0)
    rows = X.reshape(-1, X.shape[2])
    ridge = partial(fit_quietly, Ridge(), rows, y.reshape(-1))
    peer = f"one Ridge().fit, {times(X.shape)}"
    table, alphas = [], np.logspace(3, -6, 20)
    for loss in ("squared_error", "contrastive_policy_gradient"):
        ours = partial(QProbePolicy(loss).fit, X, y)
        table.append(compare(f"fit of {loss}", ours, peer, ridge, 1.0, plan))
        path = QProbePolicyCV([loss], alphas=alphas, cv=5, refit=False)
        ours = partial(path.fit, X, y)
        table.append(compare(f"path of {loss}", ours, peer, ridge, 2.0, plan))
    products = partial(np.matmul, rows.T, rows)
    table.append(compare("X.T @ X alone", products, peer, ridge, None, plan))
    return table


def measure_objectives(plan, shape=PAPER):
    """Make the rows of the section `objectives`."""
    X, y = make_data(plan.smaller(shape, 1 / 64), 0)
    noise = np.random.default_rng(0).random((*y.shape, N_OBJECTIVES)) < 0.2
    y = np.where(noise, 1 - y[..., None], y[..., None])
    table = []
    for loss in ("squared_error", "pairwise_logistic", "policy_gradient", "log_loss"):
        policy = QProbePolicy(loss)
        together = partial(fit_quietly, policy, X, y)

        def alone(policy=policy):
            return [fit_quietly(policy, X, column) for column in np.moveaxis(y, -1, 0)]

        what, peer = f"{N_OBJECTIVES} rewards by {loss}", f"{N_OBJECTIVES} fits"
        peer = f"{peer}, {times(X.shape)}"
        table.append(compare(what, together, peer, alone, None, plan))
    return table


def measure_search(plan, shape=PAPER):
    """Make the rows of the section `search`."""
    X, y = make_data(plan.smaller(shape, 1 / 64), 0)
    losses = ["squared_error", "log_loss", "policy_gradient"]
    alphas = [1e1, 1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
    temperatures = [0.0, 0.03, 0.1, 0.3, 1.0]
    grid = {"loss": losses, "alpha": alphas, "temperature": temperatures}
    ours = QProbePolicyCV(losses, alphas=alphas, temperatures=temperatures, cv=5)
    theirs = GridSearchCV(QProbePolicy(), grid, cv=5)
    fits = [partial(fit_quietly, search, X, y) for search in (ours, theirs)]
    what = f"120 settings x 5 folds, {times(X.shape)}"
    row = compare(what, fits[0], "GridSearchCV", fits[1], 1 / 20, plan)
    # Both search the same ParameterGrid, in the same order.
    mine, other = (s.cv_results_["mean_test_score"] for s in (ours, theirs))
    params, differences = theirs.cv_results_["params"], abs(mine - other)
    error = theirs.cv_results_["std_test_score"][theirs.best_index_] / 5**0.5
    loss = float(theirs.best_score_ - other[ours.best_index_])
    found = f"{ours.best_params_}; GridSearchCV {theirs.best_params_}"
    largest, where = float(differences.max()), str(params[differences.argmax()])
    return [
        row,
        Row("score lost by its choice", loss, "", target=float(error), note=found),
        Row("largest difference of a score", largest, "", target=1e-3, note=where),
    ]
