"""Section `shapes` of `speed.py`: time and accuracy of fits at many shapes."""

import warnings
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from _synthetic import times
from _timing import Row, fit_quietly, take_turns
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

from skqprobe import QProbePolicy
from skqprobe._candidates.layout import check_layout
from skqprobe._objectives.linear import LinearObjective
from skqprobe.losses import LOSSES, get_loss

SHAPES = (
    (100, 10, 384),
    (500, 10, 768),
    (2000, 8, 1024),
    (1000, 2, 1536),
    (240, 16, 576),
    (116, 200, 2048),
    (60, 40, 4096),
    (3000, 20, 512),
    (400, 40, 1280),
    (20, 4, 4096),
    (4000, 2, 64),
    (40, 400, 128),
)
"""Prompts, candidates and features; the last one again as ragged rows."""

ALPHA = 1e-4
SHORT = 0.05
"""Time of LogisticRegression in seconds, under which its target is the same time."""

LEAST_SQUARES = ("squared_error", "contrastive_policy_gradient")
GAP = 1e-3
LARGEST = 4 * 10**6
"""Number of numbers in X up to which the optimum is computed. More take minutes."""

LONG_RUN = {"maxiter": 1500, "maxfun": 3000, "maxcor": 30, "ftol": 1e-14, "gtol": 1e-9}


@dataclass(frozen=True)
class Case:
    """Training data: sets, or rows with one label per row."""

    name: str
    X: np.ndarray
    y: np.ndarray
    groups: np.ndarray | None = None

    @property
    def rows(self):
        return self.X.reshape(-1, self.X.shape[-1])


def make_case(shape, seed=0):
    """Make data with a common offset, prompt means and columns of unequal scale.

    A reward is 1 with a probability that is logistic in the embedding.
    """
    n_prompts, k, d = shape
    rng = np.random.default_rng(seed)
    X = rng.standard_normal(shape, np.float32)
    X += rng.standard_normal((n_prompts, 1, d), np.float32)
    logit = X @ rng.standard_normal(d, np.float32)
    logit *= 2 / logit.std()
    y = (rng.random((n_prompts, k)) < 1 / (1 + np.exp(-logit))).astype(float)
    X += 3 * rng.standard_normal(d, np.float32)
    X *= rng.lognormal(size=d).astype(np.float32)
    return Case(times(shape), X, y)


def make_ragged(case, seed=0):
    """Keep between a tenth and all candidates of each prompt, as shuffled rows."""
    rng = np.random.default_rng(seed)
    n_prompts, k, _ = case.X.shape
    kept = rng.random((n_prompts, k)) < rng.uniform(0.1, 1, (n_prompts, 1))
    kept[:, :2] = True
    order = rng.permutation(np.flatnonzero(kept))
    labels = np.array([f"prompt {number // k}" for number in order])
    name = f"{case.name}, ragged rows with text labels"
    return Case(name, case.rows[order], case.y.reshape(-1)[order], labels)


def measure_shapes(plan, shapes=SHAPES, losses=tuple(LOSSES)):
    """Make the rows of the section: a fit per shape, type and loss, and summaries."""
    table = []
    scaled = [(max(4, round(n * plan.scale)), k, d) for n, k, d in shapes]
    cases = [make_case(shape) for shape in scaled]
    for case in [*cases, make_ragged(cases[-1])]:
        optima = {}
        for dtype in np.float32, np.float64:
            typed = replace(case, X=case.X.astype(dtype))
            table += measure_case(typed, losses, plan, optima)
    ratios = {loss: [] for loss in losses}
    for row in table:
        ratios[row.what.split(":")[0]].append(row.ratio)
    everything = [row.ratio for row in table]
    for loss, found in [*ratios.items(), ("all", everything)]:
        table.append(Row(f"{loss}: worst ratio", max(found), ""))
        table.append(Row(f"{loss}: geometric mean", geometric_mean(found), ""))
    return [*table[:-1], replace(table[-1], target=0.3)]


def measure_case(case, losses, plan, optima):
    """Compare all losses on one case with the peers, in turn.

    `optima` keeps the optimum of each loss for the other dtype.
    """
    rows, labels = case.rows, case.y.reshape(-1)
    logistic = LogisticRegression(C=1 / (ALPHA * len(rows)), max_iter=100)
    ridge = Ridge(alpha=ALPHA * len(rows) / 2)
    calls = {
        "LogisticRegression": partial(fit_quietly, logistic, rows, labels),
        "Ridge": partial(fit_quietly, ridge, rows, labels),
    }
    for loss in losses:
        policy = QProbePolicy(loss, alpha=ALPHA)
        calls[loss] = partial(fit_with_warning, policy, case)
    seconds, _, results = take_turns(calls, plan)
    table = []
    for loss in losses:
        peer = "Ridge" if loss in LEAST_SQUARES else "LogisticRegression"
        policy, warned = results[loss]
        note = ""
        if case.X.size <= LARGEST:
            missed = excess(case, loss, policy, optima)
            note = f"misses {missed:.1e} of the gain"
            note += "" if missed <= GAP else " (warned)" if warned else " SILENTLY"
        table.append(
            Row(
                f"{loss}: {case.name}, {case.X.dtype}",
                seconds[loss],
                "s",
                peer,
                seconds[peer],
                target_of(loss, seconds[peer]),
                note,
            )
        )
    return table


def target_of(loss, peer_seconds):
    """Largest ratio to the time of the peer that is aimed at."""
    if loss in LEAST_SQUARES:
        return 1.0
    if peer_seconds < SHORT:
        return 1.0
    return 0.8 if loss == "policy_gradient" else 0.5


def fit_with_warning(policy, case):
    """Fit, and return whether the fit warned that it has not converged."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", ConvergenceWarning)
        policy.fit(case.X, case.y, case.groups)
    return policy, bool(caught)


def excess(case, loss, policy, optima):
    """Part of the possible gain over zero that a fit misses.

    The peer is a long run of scipy's L-BFGS-B in float64, in columns of unit variance.
    For policy_gradient, which is not convex, it starts at the fit.
    """
    layout = check_layout(case.y.shape, case.groups)
    rows = case.rows.astype(np.float64)
    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    rewards = layout.to_prompt_order(case.y)
    informative = get_loss(loss).informative_prompts(rewards, layout.offsets)
    objective = LinearObjective(
        rows - mean,
        layout,
        rewards,
        get_loss(loss),
        alpha=ALPHA,
        fit_intercept=True,
        prompt_weight=informative.astype(float),
    )
    d, unit = rows.shape[1], np.ones(objective.n_parameters)
    unit[:d] = 1 / scale

    def scaled(v):
        value, gradient = objective.value_and_gradient(unit * v)
        return value, unit * gradient

    theta = np.zeros(objective.n_parameters)
    zero = objective.value_and_gradient(theta)[0]
    theta[:d] = policy.coef_
    if objective.has_intercept:
        theta[-1] = policy.intercept_ + mean @ policy.coef_
    found = objective.value_and_gradient(theta)[0]
    is_local = loss == "policy_gradient"
    if is_local or loss not in optima:
        start = theta / unit if is_local else np.zeros_like(theta)
        end = minimize(scaled, start, jac=True, method="L-BFGS-B", options=LONG_RUN)
        optima[loss] = end.fun
    return float((found - optima[loss]) / (zero - optima[loss]))


def geometric_mean(values):
    return float(np.exp(np.mean(np.log(values))))
