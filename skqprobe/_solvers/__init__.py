"""Who minimises the objective of a probe. Solvers know nothing of prompts."""

from skqprobe._solvers.adam import import_torch, minimize_adam
from skqprobe._solvers.closed_form import solve_closed_form
from skqprobe._solvers.closed_form_grid import solve_closed_form_grid
from skqprobe._solvers.lbfgs import minimize_lbfgs, minimize_lbfgs_grid

__all__ = [
    "import_torch",
    "minimize_adam",
    "minimize_lbfgs",
    "minimize_lbfgs_grid",
    "solve_closed_form",
    "solve_closed_form_grid",
]
