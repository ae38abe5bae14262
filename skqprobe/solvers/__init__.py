"""Who minimises the objective of a probe. Solvers know nothing of prompts."""

from skqprobe.solvers._closed_form import solve_closed_form
from skqprobe.solvers._lbfgs import minimize_lbfgs

__all__ = ["minimize_lbfgs", "solve_closed_form"]
