"""L-BFGS on many functions at the same time, with shared evaluations."""

import numpy as np

MEMORY = 10
"""Number of latest steps in the model of the curvature."""

SUFFICIENT_DECREASE, CURVATURE = 1e-4, 0.9
"""Constants of the Wolfe conditions: minimum decrease of the value, as a share of what
the slope at the start of a step predicts, and maximum share of this slope that may
remain at its end."""

MAX_TRIALS = 30
"""Maximum number of step lengths in a line search."""

RECENT = 4
"""A search ends when the last 1 / RECENT of its iterations gained little."""

NEARLY_FLAT = 5
"""Factor of the tolerance of the gradient, below which a search converges steadily."""

REVIEW = 20
"""Number of iterations after which the caller decides whether a search goes on."""

N_RESTARTS = 2
"""Maximum number of restarts without memory after a failed line search."""


def minimize_batched_lbfgs(
    evaluate,
    start,
    at_start,
    *,
    tol,
    ftol,
    min_recent,
    max_iter,
    precision,
    on_iteration=None,
    must_stop=None,
):
    """Minimize several functions of equally many variables at the same time.

    Each function has its own L-BFGS search [1]_, with a line search for the weak Wolfe
    conditions, which also work at kinks [2]_, and the compact form of the inverse
    Hessian [3]_, which needs few calls of numpy. The functions share evaluations:
    each call evaluates one point of every function that has not converged.

    Parameters
    ----------
    evaluate : callable
        Function ``evaluate(points, which)`` that returns the values, (n,), and the
        gradients, (n, d), at `points`, (n, d), of the functions with the numbers
        `which`, an array of shape (n,).
    start : ndarray of shape (n_functions, d)
        Starting points.
    at_start : tuple of ndarray, or None
        Values and gradients at the starting points, if they are known.
    tol : float
        A function with about unit curvature, which starts at 0, has converged when the
        length of its gradient is at most `tol`, or `tol` times its length at the start
        of a parabola of the same depth, if that is less...
    ftol : float
        ... or when the last quarter of the iterations gained at most `ftol` times the
        magnitude of the value, or all later ones would, by the two last quarters, while
        the gradient is nearly as short; or when no step along minus the gradient
        decreases the value.
    min_recent : int
        Minimum number of iterations for the last quarter, at least 1.
    max_iter : int or ndarray of shape (n_functions,)
        Maximum number of iterations of each function.
    precision : float
        Rounding error of values, relative to their magnitude.
    on_iteration : callable, default=None
        Function called with all points and values after iterations. It returns True to
        stop.
    must_stop : callable, default=None
        Function ``must_stop(points, which)`` called once per function, after REVIEW
        iterations, with the points of some functions. It returns which of them to stop.

    Returns
    -------
    state : object
        Attributes per function: `point`, the best point found; `gradient` at this
        point; `n_iter`; and `converged`, False if `must_stop` or `max_iter` ended the
        search. The attribute `stopped` tells whether `on_iteration` did.

    References
    ----------
    .. [1] Nocedal and Wright, "Numerical Optimization", 2006, algorithm 7.4.
    .. [2] Lewis and Overton, "Nonsmooth optimization via quasi-Newton methods", 2013.
    .. [3] Byrd, Nocedal and Schnabel, "Representations of quasi-Newton matrices and
       their use in limited memory methods", 1994, theorem 2.2.
    """
    everything = np.arange(len(start))
    state = _State(evaluate, start, at_start or evaluate(start, everything), precision)
    state.converged = state.is_flat(everything, tol)
    active = np.flatnonzero(~state.converged & (state.n_iter < max_iter))
    state.new_direction(active)
    while len(active):
        accepted, failed = state.try_step(active)
        ended = np.zeros(len(start), dtype=bool)
        is_slow = state.is_slow(accepted, tol, ftol, min_recent)
        ended[accepted] = state.is_flat(accepted, tol) | is_slow
        if len(failed):
            ended[failed] = ~state.restart(failed)
        if on_iteration is not None and len(accepted):
            state.stopped = bool(on_iteration(state.point, state.value))
            ended |= state.stopped
        state.converged |= ended
        ended |= state.n_iter >= max_iter
        due = accepted[(state.n_iter[accepted] == REVIEW) & ~ended[accepted]]
        if must_stop is not None and len(due):
            ended[due] = must_stop(state.point[due], due)
        state.new_direction(accepted[~ended[accepted]])
        active = active[~ended[active]]
    return state


class _State:
    """State of all searches. An argument `which` has the numbers of functions."""

    def __init__(self, evaluate, start, at_start, precision):
        n, d = start.shape
        self.evaluate = evaluate
        self.precision = precision
        self.point = start.copy()
        self.value, self.gradient = (array.copy() for array in at_start)
        self.n_iter = np.zeros(n, dtype=int)
        self.converged = np.zeros(n, dtype=bool)
        self.stopped = False
        self.n_restarts = np.zeros(n, dtype=int)
        self.values = self.value[:, None].copy()  # after each iteration
        # Latest steps, the last one first, and the changes of the gradient over them.
        self.steps = np.zeros((n, MEMORY, d))
        self.changes = np.zeros((n, MEMORY, d))
        # Products of each step with the changes over itself and over later steps, and
        # of the changes; 0 if there is no step yet.
        self.products = np.zeros((n, MEMORY, MEMORY))
        self.squares = np.zeros((n, MEMORY, MEMORY))
        self.direction = np.zeros((n, d))
        self.slope = np.zeros(n)
        # Line searches: next step length, and the bracket around an acceptable one.
        self.length, self.low, self.high = np.ones(n), np.zeros(n), np.full(n, np.inf)
        self.n_trials = np.zeros(n, dtype=int)

    def _view(self, which):
        """Index all functions by a slice, which copies no array."""
        return slice(None) if len(which) == len(self.value) else which

    def is_flat(self, which, tol):
        """Compare the lengths of the gradients with the tolerance."""
        gain = -self.value[which]
        square = np.where(gain > 0, np.minimum(2 * gain, 1), 1)
        return _dot(self.gradient[which], self.gradient[which]) <= tol**2 * square

    def is_slow(self, which, tol, ftol, min_recent):
        """Compare what is left to gain, by two estimates, with the tolerance.

        One is the gain of the last iterations. If these gained a smaller part of what
        as many iterations gained before, later ones will gain such a part again. Where
        the gradient is far from flat, only the first estimate counts.
        """
        n_iter, now = self.n_iter[which], self.value[which]
        n = np.maximum(-(-n_iter // RECENT), min_recent)
        before = self.values[which, np.maximum(n_iter - n, 0)]
        left = before - now
        steady = (n_iter >= 2 * n) & self.is_flat(which, NEARLY_FLAT * tol)
        if steady.any():
            earlier = self.values[which, np.maximum(n_iter - 2 * n, 0)]
            fall = earlier - before - left
            steady &= fall > left
            left[steady] *= (left / fall)[steady]
        return (n_iter - n >= min_recent) & (left <= ftol * abs(now))

    def new_direction(self, which):
        """Compute a search direction: minus the inverse Hessian times the gradient.

        The inverse Hessian is modeled from the latest steps.
        """
        arrays = self.steps, self.changes, self.products, self.squares, self.gradient
        which = self._view(which)
        steps, changes, products, squares, gradient = (each[which] for each in arrays)
        diagonal = np.einsum("nii->ni", products)
        curved = diagonal[:, 0] > 0
        scale = np.divide(
            diagonal[:, 0], squares[:, 0, 0], where=curved, out=np.ones(len(curved))
        )[:, None]
        products = products + np.where(diagonal == 0, 1, 0)[:, None] * np.eye(MEMORY)
        shares = np.linalg.solve(products, steps @ gradient[..., None])[..., 0]
        along = np.einsum("nij,nj->ni", squares, shares) - _products(changes, gradient)
        along = diagonal * shares + scale * along
        along = np.linalg.solve(products.swapaxes(1, 2), along[..., None])[..., 0]
        q = scale * (gradient - _combine(shares, changes)) + _combine(along, steps)
        self.direction[which] = -q
        self.slope[which] = -_dot(q, gradient)
        self.length[which], self.low[which], self.high[which] = 1, 0, np.inf
        self.n_trials[which] = 0

    def try_step(self, which):
        """Evaluate one point of each line search, and accept it if it is good.

        Returns
        -------
        accepted, failed : ndarray of int
            Numbers of the functions whose line search has succeeded or failed.
        """
        at = self._view(which)
        length, slope, direction = self.length[at], self.slope[at], self.direction[at]
        point = self.point[at] + length[:, None] * direction
        value, gradient = self.evaluate(point, which)
        new_slope = _dot(gradient, direction)
        noise = self.precision * abs(self.value[at])
        predicted = SUFFICIENT_DECREASE * length * slope
        # NaN, after an overflow, fails the first comparison: the step is too long.
        not_too_long = value <= self.value[at] + predicted + noise
        not_too_short = new_slope >= CURVATURE * slope
        good = not_too_long & not_too_short
        self.n_trials[which] += 1
        if not good.all():
            self._bracket(which[~good], not_too_long[~good], value[~good])
        failed = which[~good & (self.n_trials[which] >= MAX_TRIALS)]
        self._accept(which[good], point[good], value[good], gradient[good])
        return which[good], failed

    def _bracket(self, which, not_too_long, value):
        """Choose the next step length, between one too short and one too long."""
        length = self.length[which]
        self.low[which] = np.where(not_too_long, length, self.low[which])
        self.high[which] = np.where(not_too_long, self.high[which], length)
        low, high = self.low[which], self.high[which]
        # Minimum of the parabola through value and slope at the start, and this value.
        bend = value - self.value[which] - length * self.slope[which]
        with np.errstate(all="ignore"):
            lowest = -self.slope[which] * length**2 / (2 * bend)
            middle = np.clip(lowest, low + 0.1 * (high - low), low + 0.5 * (high - low))
            middle = np.where(np.isfinite(middle), middle, (low + high) / 2)
        self.length[which] = np.where(np.isinf(high), 4 * length, middle)

    def _accept(self, which, point, value, gradient):
        """Move to the points, and store the steps in the memory."""
        numbers, which = which, self._view(which)
        step, change = point - self.point[which], gradient - self.gradient[which]
        curved = (_dot(step, change) > 0)[:, None]
        for memory, new in (self.steps, step), (self.changes, change):
            memory[which, 1:] = memory[which, :-1]
            memory[which, 0] = np.where(curved, new, 0)
        change = np.where(curved, change, 0)
        for table, memory in (self.products, self.steps), (self.squares, self.changes):
            table[which, 1:, 1:] = table[which, :-1, :-1]
            table[which, :, 0] = _products(memory[which], change)
        self.squares[which, 0] = self.squares[which, :, 0]
        self.point[which], self.value[which] = point, value
        self.gradient[which] = gradient
        self.n_iter[which] += 1
        if self.n_iter.max() == self.values.shape[1]:
            self.values = np.tile(self.values, 2)
        self.values[numbers, self.n_iter[which]] = value

    def restart(self, which):
        """Clear the memory after failed line searches.

        Returns
        -------
        helps : ndarray of bool, of shape (len(which),)
            Whether a search without memory may succeed.
        """
        had_memory = self.products[which].any(axis=(1, 2))
        helps = had_memory & (self.n_restarts[which] < N_RESTARTS)
        self.n_restarts[which] += 1
        for memory in self.steps, self.changes, self.products, self.squares:
            memory[which] = 0
        self.new_direction(which)
        return helps


def _dot(a, b):
    """Compute the scalar products of rows."""
    return np.einsum("ij,ij->i", a, b)


def _products(vectors, vector):
    """Multiply several vectors, (n, m, d), with one, (n, d), of each function."""
    return (vectors @ vector[..., None])[..., 0]


def _combine(shares, vectors):
    """Sum vectors, (n, m, d), times their shares, (n, m)."""
    return (shares[:, None] @ vectors)[:, 0]
