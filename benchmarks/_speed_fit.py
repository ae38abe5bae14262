"""Section `fit` of `speed.py`: time of a fit and of the paper's training."""

import time
from functools import partial
from importlib.util import find_spec

import numpy as np
from _paper_recipe import SET_SIZE, PaperRecipe
from _synthetic import PAPER, make_data, times
from _timing import Row, fit_counting, fit_quietly, take_turns
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from skqprobe import QProbePolicy
from skqprobe.metrics import best_of_k_reward, prompt_bootstrap

ALPHAS = (1e-3, 1e-4)
TOLS = tuple(10.0 ** np.arange(-1, -7, -1))
PAPER_STEPS = 13_800
PAPER_EPOCHS = 150


def measure_fit(plan, shape=PAPER, paper_steps=PAPER_STEPS):
    """Make the rows of the section."""
    X, y = make_data(plan.fewer_prompts(shape), 0)
    epoch = time_epoch(X, y)
    table = [row for alpha in ALPHAS for row in measure_alpha(X, y, alpha, epoch, plan)]
    if epoch is None:
        print("left out: the paper's training, which needs torch: pip install torch")
        return table
    return table + measure_paper(plan.fewer_prompts(shape), paper_steps)


def measure_alpha(X, y, alpha, epoch, plan):
    """Make the rows of one penalty.

    Parameters
    ----------
    X, y : ndarray
        Training data.
    alpha : float
        Strength of the penalty.
    epoch : float or None
        Time of an epoch of the paper's training, in seconds.
    plan : Plan
        Amount of work.
    """
    rows, labels = X.reshape(-1, X.shape[2]), y.reshape(-1)
    w, g = np.ones(rows.shape[1], np.float32), np.ones(len(rows), np.float32)
    objective = partial(log_loss_objective, rows, labels, alpha)
    logistic = LogisticRegression(C=1 / (alpha * len(rows)))
    reached = objective(fit_quietly(logistic, rows, labels))
    same = QProbePolicy("log_loss", alpha=alpha)
    for tol in TOLS:
        if objective(fit_quietly(same.set_params(tol=tol), X, y)) <= reached:
            break
    policy = QProbePolicy("policy_gradient", alpha=alpha)
    loose = QProbePolicy("policy_gradient", alpha=alpha, tol=1e-3)
    calls = {
        "fit": partial(fit_counting, policy, X, y),
        "loose": partial(fit_counting, loose, X, y),
        "products": lambda: (rows @ w, rows.T @ g),
        "logistic": partial(fit_quietly, logistic, rows, labels),
        "same": partial(fit_quietly, same, X, y),
    }
    seconds, rounds, results = take_turns(calls, plan)
    fit, evaluations = seconds["fit"], results["fit"]
    each, rest = float(np.median(evaluations)), fit - sum(evaluations)
    products = seconds["products"]
    reads = "s", "X @ w and X.T @ g", products
    theirs = "s", "LogisticRegression", seconds["logistic"]
    ends = f"{objective(same):.6f}, peer {reached:.6f}, with tol={same.tol:.0e}"
    name, n_iter = f"alpha {alpha:g}: ", f"iterations: {logistic.n_iter_[0]}"
    table = [
        Row(name + "evaluations", len(evaluations), "", target=40, note=rounds),
        Row(name + "one evaluation", each, *reads, 1.3),
        Row(name + "rest of the fit", rest, *reads),
        Row(name + "bare products", products * len(evaluations), "s", "the fit", fit),
        Row(name + "fit", fit, *theirs, 0.4, n_iter),
        Row(name + "evaluations, tol=1e-3", len(results["loose"]), "", target=40),
        Row(name + "fit, tol=1e-3", seconds["loose"], *theirs, 0.4),
        Row(name + "log_loss, same objective", seconds["same"], *theirs, 0.6, ends),
    ]
    if epoch is not None:
        recipe = "s", f"{PAPER_EPOCHS} epochs of the paper's", PAPER_EPOCHS * epoch
        table.append(Row(name + "fit", fit, *recipe, 1 / 300))
        table.append(Row(name + "one evaluation", each, *recipe))
    return table


def log_loss_objective(rows, labels, alpha, model):
    """Compute the objective of log_loss and of LogisticRegression."""
    coef = np.ravel(model.coef_).astype(rows.dtype)
    logit = (rows @ coef).astype(np.float64) + model.intercept_
    return np.mean(np.logaddexp(0, logit) - labels * logit) + alpha / 2 * (coef @ coef)


def train_paper(X, y, n_epochs):
    return PaperRecipe(n_epochs=n_epochs, random_state=0).fit(X, y)


def time_epoch(X, y):
    """Time an epoch of the paper's training; None without torch."""
    if find_spec("torch") is None:
        return None
    train_paper(X[:10], y[:10], 1)  # torch warms up
    start = time.perf_counter()
    train_paper(X, y, 2)
    return (time.perf_counter() - start) / 2


def measure_paper(shape, n_steps):
    """Compare the rewards of a fit and of the paper's training of `n_steps`."""
    train, test = make_data(shape, 0), make_data(shape, 1)
    n_epochs = -(-n_steps // train_paper(*train, 1).n_steps_)
    start, table = time.perf_counter(), []
    recipe = train_paper(*train, n_epochs)
    note = f"{recipe.n_steps_} steps in {time.perf_counter() - start:.1f} s"
    theirs, versus = missing_rewards(recipe, *train, *test), recipe.decision_function
    for alpha in ALPHAS:
        policy = fit_quietly(QProbePolicy("policy_gradient", alpha=alpha), *train)
        for what, value in missing_rewards(policy, *train, *test).items():
            name = f"alpha {alpha:g}, {times(shape)}: {what}"
            peer = "the paper's training", theirs[what]
            table.append(Row(name, value, "", *peer, 1.0, note))
        gain = prompt_bootstrap(
            best_of_k_reward,
            test[1],
            policy.decision_function(test[0]),
            versus=versus(test[0]),
            k=shape[1],
            random_state=0,
        )
        name = f"alpha {alpha:g}: held-out reward gained on the paper's"
        table.append(Row(name, gain.value, "", note=str(gain)))
    return table


def missing_rewards(model, X, y, X_test, y_test):
    """Compute the differences of mean rewards from 1."""
    Q, k = model.decision_function(X), y.shape[1]
    kept = slice(k // SET_SIZE * SET_SIZE or k)  # candidates that fill sets
    Q_sets, y_sets = (v[:, kept].reshape(-1, min(SET_SIZE, k)) for v in (Q, y))
    test = best_of_k_reward(y_test, model.decision_function(X_test), k)
    return {
        "training": 1 - float((softmax(Q, axis=1) * y).sum(axis=1).mean()),
        "in tens": 1 - float((softmax(Q_sets, axis=1) * y_sets).sum(axis=1).mean()),
        "held out": 1 - test,
    }
