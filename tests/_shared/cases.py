"""Cases and helpers that test modules share: losses by kind, probes, objectives.

estimators.py has those that compare states of estimators.

pyproject.toml puts this folder on the path, so that tests can import it.
"""

import numpy as np
import pytest

from skqprobe import QProbePolicy, QProbeRegressor
from skqprobe._candidates.layout import check_layout
from skqprobe._estimators._fit import minimize
from skqprobe._objectives.grid import WholeGrid
from skqprobe._objectives.linear import LinearObjective
from skqprobe._objectives.network import NetworkObjective
from skqprobe._solvers import solve_ridge_grid
from skqprobe.losses import LOSSES

PAIRWISE = [name for name in LOSSES if name.startswith("pairwise")]
SHIFT_INVARIANT = [name for name in LOSSES if LOSSES[name].shift_invariant]
WITH_INTERCEPT = [name for name in LOSSES if not LOSSES[name].shift_invariant]
LEAST_SQUARES = [name for name in LOSSES if hasattr(LOSSES[name], "least_squares")]
SMOOTH = [name for name in LOSSES if name != "pairwise_hinge"]
CONVEX = [name for name in LOSSES if name != "policy_gradient"]

PROBES = [QProbeRegressor, QProbePolicy]
PROBES_AND_LOSSES = [
    (Probe, loss)
    for Probe, losses in zip(PROBES, (WITH_INTERCEPT, LOSSES), strict=True)
    for loss in losses
]
every_probe = pytest.mark.parametrize("Probe", PROBES)
every_loss = pytest.mark.parametrize("loss", LOSSES)
every_probe_and_loss = pytest.mark.parametrize("Probe, loss", PROBES_AND_LOSSES)


def values_of(probe, X):
    """Values of the candidates: Q of a policy, the expected reward of a regressor."""
    return getattr(probe, "decision_function", probe.predict)(X)


def as_rows(X, y):
    """Rows, rewards and group labels of candidate sets."""
    n_prompts, k = y.shape
    return X.reshape(n_prompts * k, -1), y.ravel(), np.repeat(np.arange(n_prompts), k)


def make_objective(X, y, loss, groups=None, *, layout=None, **settings):
    """Make an objective: of a network if there are hidden_layer_sizes, else linear."""
    layout = layout or check_layout(y.shape, groups)
    sizes = ("hidden_layer_sizes", "origin")
    network = {name: settings.pop(name) for name in sizes if name in settings}
    defaults = {
        "alpha": 0.1,
        "fit_intercept": True,
        "prompt_weight": np.ones(layout.n_prompts),
    }
    objective = LinearObjective(
        X.reshape(-1, X.shape[-1]),
        layout,
        layout.to_prompt_order(y),
        LOSSES[loss](),
        **defaults | settings,
    )
    return NetworkObjective([objective], **network) if network else objective


def solve_ridge(objective):
    """Minimize one objective by its closed form."""
    return solve_ridge_grid(WholeGrid([objective]))[0]


def minimize_lbfgs(objective, theta, *, on_iteration=None, **options):
    """Minimize one objective by L-BFGS, as a fit does."""

    def callback(thetas, value):
        return on_iteration(thetas[0], value)

    options["on_iteration"] = None if on_iteration is None else callback
    thetas, n_iter = minimize([objective], "lbfgs", theta[None], **options)
    return thetas[0], n_iter


def centered_in_prompts(values, groups, weight=None):
    """Subtract the (weighted) mean of each prompt from values in rows."""
    centered = np.empty_like(values)
    for label in set(groups):
        rows = groups == label
        of_prompt = None if weight is None else weight[rows]
        mean = np.average(values[rows], axis=0, weights=of_prompt)
        centered[rows] = values[rows] - mean
    return centered


def positions_of(labels):
    """Positions of each label, labels in order of first appearance."""
    positions = {}
    for i, label in enumerate(labels):
        positions.setdefault(label, []).append(i)
    return list(positions.values())


def prompts_of(layout):
    """Positions of each prompt's candidates in user order, from a layout."""
    n = int(np.prod(layout.shape))
    order = np.arange(n) if layout.order is None else layout.order
    return [rows.tolist() for rows in np.split(order, layout.offsets[1:-1])]


class ConstantState(np.random.RandomState):
    """A RandomState that draws the same number in [0, 1) always."""

    def __new__(cls, value):
        return super().__new__(cls)

    def __init__(self, value):
        super().__init__(0)
        self.value = value

    def random_sample(self, size=None):
        return np.full(size, self.value)
