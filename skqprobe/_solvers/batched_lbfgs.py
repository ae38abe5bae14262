"""L-BFGS on many functions in lockstep, so that they can share their evaluations."""

import numpy as np

MEMORY = 10
"""How many of the last steps make up the model of the curvature."""

SUFFICIENT, FLAT = 1e-4, 0.9
"""The Wolfe conditions: a step must gain this part of what the slope at its start
promises, and leave at most this part of the slope."""

MAX_TRIALS = 30
"""How many step lengths to try before a line search has failed."""

N_RESTARTS = 2
"""How often a failed line search may begin anew without memory."""


def minimize_batched_lbfgs(
    evaluate, start, at_start, *, tol, ftol, max_iter, precision, on_iteration=None
):
    """Minimise many functions of as many variables each, all at the same time.

    Every function is minimised by itself, by L-BFGS with a line search for the weak
    Wolfe conditions, which kinks do not trouble [1]_ [2]_. What they share is the
    evaluation: each call asks for one point of every function that is not at its end.

    Parameters
    ----------
    evaluate : callable
        ``evaluate(points, which)`` gives the values (n,) and the gradients (n, d) of
        the functions numbered `which`, an array of shape (n,), at `points`, (n, d).
    start : ndarray of shape (n_functions, d)
        Where to start.
    at_start : tuple of ndarray, or None
        The values and gradients there, if they are known.
    tol : float
        A function is at its end where its gradient is no longer than `tol`...
    ftol : float
        ... or when an iteration gains at most `ftol` times the size of the value; or
        when no step along minus the gradient leads down.
    max_iter : int or ndarray of shape (n_functions,)
        The most iterations for each.
    precision : float
        The rounding error of values, relative to themselves or to 1.
    on_iteration : callable, default=None
        Called with all points and values after iterations; returns True to stop.

    Returns
    -------
    ends : object
        With arrays over the functions: `point`, the best found; `gradient`, there;
        `n_iter`; and `converged`, False where the iterations did not suffice.

    References
    ----------
    .. [1] Nocedal and Wright, "Numerical Optimization", 2006, algorithm 7.4.
    .. [2] Lewis and Overton, "Nonsmooth optimization via quasi-Newton methods", 2013.
    """
    everything = np.arange(len(start))
    state = _State(evaluate, start, at_start or evaluate(start, everything), precision)
    state.converged = state.gradient_length(everything) <= tol
    active = np.flatnonzero(~state.converged & (state.n_iter < max_iter))
    state.new_direction(active)
    while len(active):
        accepted, failed, gain = state.try_step(active)
        ended = np.zeros(len(start), dtype=bool)
        limit = ftol * abs(state.value[accepted])
        ended[accepted] = (state.gradient_length(accepted) <= tol) | (gain <= limit)
        ended[failed] = ~state.restart(failed)
        if on_iteration is not None and len(accepted):
            ended |= bool(on_iteration(state.point, state.value))
        state.converged |= ended
        ended |= state.n_iter >= max_iter
        state.new_direction(accepted[~ended[accepted]])
        active = active[~ended[active]]
    return state


class _State:
    """Where every minimisation stands. `which` are always numbers of functions."""

    def __init__(self, evaluate, start, at_start, precision):
        n, d = start.shape
        self.evaluate = evaluate
        self.precision = precision
        self.point = start.copy()
        self.value, self.gradient = (array.copy() for array in at_start)
        self.n_iter = np.zeros(n, dtype=int)
        self.converged = np.zeros(n, dtype=bool)
        self.n_restarts = np.zeros(n, dtype=int)
        # The last steps, the latest first, and the changes of the gradient over them.
        self.steps = np.zeros((n, MEMORY, d))
        self.changes = np.zeros((n, MEMORY, d))
        self.inverse_products = np.zeros((n, MEMORY))  # 0 where there is no step yet
        self.direction = np.zeros((n, d))
        self.slope = np.zeros(n)
        # A line search: the step to try next, and the bracket around a good one.
        self.length, self.low, self.high = np.ones(n), np.zeros(n), np.full(n, np.inf)
        self.n_trials = np.zeros(n, dtype=int)

    def gradient_length(self, which):
        """Compute the lengths of the gradients."""
        return np.linalg.norm(self.gradient[which], axis=1)

    def new_direction(self, which):
        """Set out anew, along minus the gradient times the modelled inverse Hessian."""
        steps, changes = self.steps[which], self.changes[which]
        inverse = self.inverse_products[which]
        q, shares = self.gradient[which], []
        for i in range(MEMORY):
            shares.append(inverse[:, i] * _dot(steps[:, i], q))
            q = q - shares[i][:, None] * changes[:, i]
        squares = _dot(changes[:, 0], changes[:, 0])
        known = inverse[:, 0] > 0
        q[known] /= (inverse[known, 0] * squares[known])[:, None]
        for i in reversed(range(MEMORY)):
            back = shares[i] - inverse[:, i] * _dot(changes[:, i], q)
            q += back[:, None] * steps[:, i]
        self.direction[which] = -q
        self.slope[which] = -_dot(q, self.gradient[which])
        self.length[which], self.low[which], self.high[which] = 1, 0, np.inf
        self.n_trials[which] = 0

    def try_step(self, which):
        """Evaluate one point of each line search, and go there where it is good.

        Returns
        -------
        accepted, failed : ndarray of int
            Which searches have ended, well or not.
        gain : ndarray of shape (len(accepted),)
            By how much the value fell.
        """
        length, slope = self.length[which], self.slope[which]
        point = self.point[which] + length[:, None] * self.direction[which]
        value, gradient = self.evaluate(point, which)
        new_slope = _dot(gradient, self.direction[which])
        noise = self.precision * np.maximum(1, abs(self.value[which]))
        promised = SUFFICIENT * length * slope
        # "not more" rather than "less": an overflow to NaN is too far as well.
        near = value <= self.value[which] + promised + noise
        far = new_slope >= FLAT * slope
        good = near & far
        self.n_trials[which] += 1
        self._bracket(which[~good], near[~good], value[~good])
        failed = which[~good & (self.n_trials[which] >= MAX_TRIALS)]
        gain = self.value[which[good]] - value[good]
        self._accept(which[good], point[good], value[good], gradient[good])
        return which[good], failed, gain

    def _bracket(self, which, near, value):
        """Choose the next step length: between what was too near and what too far."""
        length = self.length[which]
        self.low[which] = np.where(near, length, self.low[which])
        self.high[which] = np.where(near, self.high[which], length)
        low, high = self.low[which], self.high[which]
        # Where the parabola through the start has its lowest point.
        bend = value - self.value[which] - length * self.slope[which]
        with np.errstate(all="ignore"):
            lowest = -self.slope[which] * length**2 / (2 * bend)
            middle = np.clip(lowest, low + 0.1 * (high - low), low + 0.5 * (high - low))
            middle = np.where(np.isfinite(middle), middle, (low + high) / 2)
        self.length[which] = np.where(np.isinf(high), 4 * length, middle)

    def _accept(self, which, point, value, gradient):
        """Go to the points, and remember the steps."""
        step, change = point - self.point[which], gradient - self.gradient[which]
        product = _dot(step, change)
        for memory, new in [(self.steps, step), (self.changes, change)]:
            memory[which, 1:] = memory[which, :-1]
            memory[which, 0] = new
        self.inverse_products[which, 1:] = self.inverse_products[which, :-1]
        self.inverse_products[which, 0] = np.divide(
            1, product, where=product > 0, out=np.zeros(len(which))
        )
        self.point[which], self.value[which] = point, value
        self.gradient[which] = gradient
        self.n_iter[which] += 1

    def restart(self, which):
        """Forget the memory after a failed line search; tell where that may help."""
        had_memory = self.inverse_products[which].any(axis=1)
        helps = had_memory & (self.n_restarts[which] < N_RESTARTS)
        self.n_restarts[which] += 1
        self.inverse_products[which] = 0
        self.new_direction(which)
        return helps


def _dot(a, b):
    """Scalar products of rows."""
    return np.einsum("ij,ij->i", a, b)
