"""Solvers for the objectives of probes, which are the only data that they use."""

from skqprobe._solvers.adam import import_torch, minimize_adam
from skqprobe._solvers.lbfgs import minimize_lbfgs
from skqprobe._solvers.ridge import solve_ridge_grid

__all__ = [
    "import_torch",
    "minimize_adam",
    "minimize_lbfgs",
    "solve_ridge_grid",
]
