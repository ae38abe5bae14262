"""Posterior of the coefficients of a linear probe, from rewards or from choices.

The likelihood of the coefficients is stored as that of orthogonal pseudo-rows with
pseudo-rewards: exactly if rewards are Gaussian, and as its quadratic approximation at
the mode if choices are logit. More data add rows, so that the posterior of some data is
the prior of the next.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from scipy.linalg import eigh
from scipy.optimize import brentq

from skqprobe._candidates.segments import (
    repeat_per_prompt,
    segment_log_softmax,
    segment_sum,
)
from skqprobe._objectives.linear import LinearObjective
from skqprobe._solvers.ridge import add_products
from skqprobe.losses import BaseLoss

ALPHAS = np.linspace(np.log(1e-10), np.log(1e4), 57)
"""Logarithms of the precisions of the prior to start from, relative to the largest
eigenvalue of the likelihood."""

FITTED = 1e-6
"""Share of the variance of the rewards below which coefficients fit them exactly."""

LARGE = 2048
"""Rank above which matrices are decomposed in the type of X: in float32, that takes a
third of the time, and has the effect of errors of about 1e-6 in X."""

FORGOTTEN = 1e-30
"""Number of rewards or choices below which earlier data are left out."""

MAX_UNDAMPED = 10
"""Number of steps after which a change of `alpha` that reverses the last one is at most
half as large in the logarithm, so that the steps do not cycle."""

MAX_HALVINGS = 30
"""Maximum number of times that a step is halved."""


@dataclass(frozen=True)
class Information:
    """Likelihood of coefficients: ``-2 log p = (rest + |R theta - u|**2) / noise``.

    Parameters
    ----------
    rows : ndarray of shape (rank, d)
        Matrix R of orthogonal rows.
    targets : ndarray of shape (rank,)
        Vector u.
    rest : float
        Value at the maximum, times the noise.
    n_free : float
        Number of rewards that are free to vary, which is less by one per prompt; or
        number of choices.
    """

    rows: np.ndarray
    targets: np.ndarray
    rest: float = 0.0
    n_free: float = 0.0

    @cached_property
    def eigenvalues(self):
        """Eigenvalues of R'R."""
        return np.einsum("ij,ij->i", self.rows, self.rows)

    def __add__(self, other):
        """Return the information of the data of both."""
        X = np.vstack([self.rows, other.rows])
        t = np.concatenate([self.targets, other.targets])
        noise = (8 * np.finfo(float).eps) ** 2 * np.einsum("ij,ij->", X, X)
        if 0 in X.shape:
            rows, targets = X, t
        elif len(X) < X.shape[1]:
            _, vectors = _positive_eigenpairs(X @ X.T, noise)
            rows, targets = vectors.T @ X, vectors.T @ t
        else:
            values, vectors = _positive_eigenpairs(np.asfortranarray(X.T @ X), noise)
            rows = (vectors * np.sqrt(values)).T
            targets = (t @ X @ vectors) / np.sqrt(values)
        lost = max(t @ t - targets @ targets, 0.0)
        n_free = self.n_free + other.n_free
        return Information(rows, targets, self.rest + other.rest + lost, n_free)

    @property
    def has_signal(self):
        """Whether values or rewards differ inside prompts."""
        return len(self.rows) > 0 and (self.rest != 0 or self.targets.any())

    def scaled(self, factor):
        """Weight all observations by a factor."""
        root = np.sqrt(factor)
        if self.n_free * factor < FORGOTTEN:
            return Information(self.rows[:0], self.targets[:0])
        return Information(
            self.rows * root,
            self.targets * root,
            self.rest * factor,
            self.n_free * factor,
        )

    def _interpolates(self):
        """Whether rewards, fewer than features or copies of so few, fit exactly."""
        rank, d = self.rows.shape
        is_few = self.n_free <= rank or (rank < d and self.n_free <= 2 * rank)
        return is_few and self.rest < FITTED * (self.targets @ self.targets)

    def residual(self, coef):
        """Compute ``rest + |R theta - u|**2``."""
        errors = self.rows @ coef - self.targets
        return self.rest + errors @ errors

    def coef(self, alpha):
        """Compute the mean of the posterior, for the precision `alpha` of the prior."""
        return (self.targets / (self.eigenvalues + alpha)) @ self.rows

    def noise(self, alpha):
        """Compute the variance of the noise that maximizes the evidence."""
        shrunk = alpha / (self.eigenvalues + alpha)
        return (self.rest + shrunk @ self.targets**2) / self.n_free

    def log_evidence(self, alpha, noise):
        """Compute the logarithm of the evidence, and its derivative by log(alpha).

        Parameters
        ----------
        alpha : float
            Precision of the prior, in units of that of the noise.
        noise : float or None
            Variance of the noise; None maximizes over it.
        """
        shrunk, squares = alpha / (self.eigenvalues + alpha), self.targets**2
        error, slope = self.rest + shrunk @ squares, (shrunk * (1 - shrunk)) @ squares
        value, by_log = np.log(shrunk).sum() / 2, (1 - shrunk).sum() / 2
        if noise is not None:
            return value - error / noise / 2, by_log - slope / noise / 2
        n = self.n_free
        value -= n / 2 * (np.log(2 * np.pi * error / n) + 1)
        return value, by_log - n / 2 * slope / error

    def best_alpha(self, noise):
        """Maximize the evidence over `alpha`; 1 if it does not depend on it.

        If coefficients fit all rewards exactly because these are few, the evidence may
        be largest without noise. The values then explain at most half of the variance,
        a priori.
        """
        if len(self.rows) == 0:
            return 1.0
        largest, log_alphas = self.eigenvalues.max(), ALPHAS
        if noise is None and self._interpolates():
            explains_half = self.eigenvalues.sum() / self.n_free
            log_alphas = np.maximum(ALPHAS, np.log(explains_half / largest))
        alphas = largest * np.exp(log_alphas)
        best = int(np.argmax([self.log_evidence(each, noise)[0] for each in alphas]))

        def slope(log_alpha):
            return self.log_evidence(largest * np.exp(log_alpha), noise)[1]

        low, high = (
            log_alphas[max(best - 1, 0)],
            log_alphas[min(best + 1, len(ALPHAS) - 1)],
        )
        if slope(low) <= 0 or slope(high) >= 0:
            return float(alphas[best])
        return float(largest * np.exp(brentq(slope, low, high, xtol=1e-14)))


class RowSquares(BaseLoss):
    """Sum of squared errors inside prompts, weighted by row."""

    shift_invariant = True

    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        """Not available: only rows are read."""
        raise NotImplementedError

    def least_squares(self, rewards, offsets, weight=None):
        """Return weights and targets of the rows."""
        return weight, rewards


def centered_rows(X, layout, targets=None, weight=None):
    """Make the objective that yields rows centered inside prompts, with weights."""
    weight = np.ones(layout.n_rows) if weight is None else weight
    return LinearObjective(
        X,
        layout,
        np.zeros(layout.n_rows) if targets is None else targets,
        RowSquares(),
        alpha=0.0,
        fit_intercept=False,
        prompt_weight=np.ones(layout.n_prompts),
        candidate_weight=weight * layout.n_prompts,  # of which prompts take the mean
    )


def from_rows(objective, before, n_free):
    """Add rows of an objective to the information before.

    Parameters
    ----------
    objective : LinearObjective
        Objective from `centered_rows`.
    before : Information
        Information of earlier data.
    n_free : float
        Number of rewards that are free to vary, or of choices.

    Returns
    -------
    information : Information
        In the span of the rows, if these are fewer than the features.
    """
    d, n_rows = objective.n_features, len(before.rows) + objective.layout.n_rows
    is_large = min(d, n_rows) > LARGE
    dtype = objective.dtype if is_large else np.dtype(np.float64)
    rows, targets = before.rows.astype(dtype, copy=False), before.targets
    total, n_free = targets @ targets, before.n_free + n_free
    noise = objective.layout.n_rows * objective.rounding_noise().sum()
    noise *= objective.least_squares_weights().max()
    parts = (
        (np.asarray(X, dtype) * np.sqrt(v).astype(dtype)[:, None], t[0] * np.sqrt(v))
        for X, t, v in objective.least_squares_rows()
    )
    if n_rows < d:
        blocks, ends = zip((rows, targets), *parts, strict=True)
        X, t = np.concatenate(blocks), np.concatenate(ends)
        _, vectors = _positive_eigenpairs(X @ X.T, noise)
        rows, targets, total = vectors.T @ X, vectors.T @ t, t @ t
    else:
        gram = np.asfortranarray(rows.T @ rows)
        moment = targets @ rows
        for X, t in parts:
            gram, product = add_products(gram, X, t[None])
            moment, total = moment + product[0], total + t @ t
        values, vectors = _positive_eigenpairs(gram, noise)
        rows = (vectors * np.sqrt(values)).T
        targets = (moment @ vectors) / np.sqrt(values)
    rest = before.rest + max(total - targets @ targets, 0.0)
    return Information(rows, targets, rest, n_free)


def _positive_eigenpairs(gram, noise):
    """Decompose a matrix of which the lower triangle is valid, in its memory.

    Eigenvalues that rounding explains, in the decomposition or in rows that are equal
    inside prompts, are left out.
    """
    values, vectors = eigh(gram, overwrite_a=True, check_finite=False, driver="evd")
    rounding = values[-1] * np.finfo(gram.dtype).eps * 4 * np.sqrt(len(gram))
    first = np.searchsorted(values, max(rounding, noise), side="right")
    return values[first:], vectors[:, first:]


def from_choices(objective, counts, weight, before, alpha, *, tol, max_iter):
    """Add choices to the information before, by Laplace's approximation.

    Each Newton step is a least-squares problem of reweighted rows. Its evidence selects
    the next `alpha`, and one decomposition serves both.

    Parameters
    ----------
    objective : LinearObjective
        Objective from `centered_rows`, of any weights.
    counts, weight : ndarray of shape (n_rows,)
        Number of times that each candidate was chosen, and number of its copies, in
        prompt order.
    before : Information
        Information of earlier data.
    alpha : float or None
        Precision of the prior; None maximizes the evidence.
    tol : float
        Length of the last step, in standard deviations of the posterior.
    max_iter : int
        Maximum number of Newton steps.

    Returns
    -------
    information : Information
        Quadratic approximation at the mode of the posterior.
    alpha : float
        Precision of the prior.
    n_iter : int
        Number of steps.
    converged : bool
        Whether the last step was short enough.
    """
    X, layout, chosen = objective.X, objective.layout, counts * weight
    offsets = layout.offsets
    n_choices = repeat_per_prompt(segment_sum(chosen, offsets), offsets)

    def loss(coef, scores, alpha):
        likelihood = chosen @ segment_log_softmax(scores, offsets, weight)
        return (before.residual(coef) + alpha * (coef @ coef)) / 2 - likelihood

    coef, scores = np.zeros(objective.n_features), np.zeros(layout.n_rows)
    given, alpha = alpha, 1.0 if alpha is None else alpha
    last, limit, converged, n_iter = 0.0, np.inf, False, 0
    while not converged and n_iter < max_iter:
        n_iter += 1
        proba = np.exp(segment_log_softmax(scores, offsets, weight)) * weight
        mass = n_choices * np.maximum(proba, 1e-100)
        working = centered_rows(X, layout, scores + chosen / mass - 1, mass)
        information = from_rows(working, before, chosen.sum())
        if given is None:
            change = np.log(information.best_alpha(1.0) / alpha)
            if n_iter > MAX_UNDAMPED:
                limit = abs(last) / 2 if change * last < 0 else 1.5 * limit
            last = np.clip(change, -limit, limit)
            alpha *= np.exp(last)
        step = information.coef(alpha) - coef
        ahead = objective.scores(step)
        move = information.rows @ step
        decrement = move @ move + alpha * (step @ step)
        share, start = 1.0, loss(coef, scores, alpha)
        rounding = np.finfo(np.float64).eps * abs(start)
        converged = decrement <= max(tol**2, rounding)
        for _ in range(0 if converged else MAX_HALVINGS):
            new = loss(coef + share * step, scores + share * ahead, alpha)
            if new <= start - 1e-4 * share * decrement:
                break
            share /= 2
        coef, scores = coef + share * step, scores + share * ahead
    information = replace(information, rest=0.0)
    rest = 2 * loss(coef, scores, 0.0) - information.residual(coef)
    return replace(information, rest=rest), alpha, n_iter, converged


def standard_rows(information, alpha, X, layout):
    """Yield rows C for which C C' is the covariance of centered values, per noise.

    Parameters
    ----------
    information : Information
        Information of the data.
    alpha : float
        Precision of the prior.
    X : ndarray or DeviceArray of shape (n_rows, d)
        Embeddings in user order.
    layout : Layout
        Layout of the candidates.

    Yields
    ------
    C : ndarray of shape (n, rank) or (n, rank + d)
        Rows of whole prompts, in prompt order. The last d columns are the parts outside
        the span of `information`, of which only the prior is known.
    """
    units = information.rows / np.sqrt(information.eigenvalues)[:, None]
    scale = np.sqrt(information.eigenvalues + alpha)
    for Xc, _, _ in centered_rows(X, layout).least_squares_rows():
        Xc = np.asarray(Xc, dtype=np.float64)
        inside = Xc @ units.T
        if len(units) < X.shape[1]:
            outside = (Xc - inside @ units) / np.sqrt(alpha)
            yield np.concatenate([inside / scale, outside], axis=1)
        else:
            yield inside / scale


def best_probabilities(rows, values, noise, layout, n_draws, rng):
    """Compute the probability that each candidate is the best, in prompt order.

    Parameters
    ----------
    rows : iterable of ndarray
        Rows from `standard_rows`.
    values : ndarray of shape (n_rows,)
        Values in prompt order.
    noise : float
        Variance of the noise.
    layout : Layout
        Layout of the candidates.
    n_draws : int
        Number of draws of the values of a prompt.
    rng : RandomState instance
        Generator of the draws.

    Returns
    -------
    proba : ndarray of shape (n_rows,)
        Shares of the draws; candidates that are equal in a draw share it.
    """
    proba, first = [], 0
    for C in rows:
        start = layout.offsets[first]
        last = np.searchsorted(layout.offsets, start + len(C))
        for a, b in pairwise(layout.offsets[first : last + 1]):
            part = C[a - start : b - start]
            draws = _draw(values[a:b], noise * (part @ part.T), n_draws, rng)
            proba.append(_best_shares(draws))
        first = last
    return np.concatenate(proba)


def _draw(mean, covariance, n_draws, rng):
    """Draw vectors of a normal distribution, (n, n_draws)."""
    variances, vectors = eigh(covariance)
    # The symmetric root does not depend on the signs of the vectors.
    factor = (vectors * np.sqrt(np.maximum(variances, 0))) @ vectors.T
    return mean[:, None] + factor @ rng.standard_normal((len(mean), n_draws))


def _best_shares(draws):
    """Share each draw among its largest values; equal ones differ by rounding."""
    close = np.sqrt(np.finfo(draws.dtype).eps) * np.ptp(draws, axis=0)
    is_best = draws >= draws.max(axis=0) - close
    return (is_best / is_best.sum(axis=0)).mean(axis=1)
