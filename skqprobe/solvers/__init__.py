"""Who minimises the objective of a probe. Solvers know nothing of prompts."""

from skqprobe.solvers._closed_form import solve_closed_form
from skqprobe.solvers._closed_form_grid import solve_closed_form_grid
from skqprobe.solvers._lbfgs import minimize_grid, minimize_lbfgs
from skqprobe.solvers._torch import import_torch, minimize_torch

__all__ = [
    "import_torch",
    "minimize_grid",
    "minimize_lbfgs",
    "minimize_torch",
    "solve_closed_form",
    "solve_closed_form_grid",
]
