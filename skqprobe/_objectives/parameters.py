"""Parameters of a linear probe, and what follows from sums over its prompts."""

from dataclasses import replace
from typing import Any

import numpy as np

LARGEST_OFFSET = 200
"""Norm of the column means, in standard deviations, above which columns are centered in
float32. That slows an evaluation down."""

MAX_SECANTS = 20
"""Maximum number of steps to the best constant score."""

SAMPLED_ROWS = 2**9
"""Number of rows from which the offset of the columns is estimated."""


class LinearParameters:
    """Parameters of a linear probe, and what follows from sums over its prompts.

    The parameters theta are the d coefficients, followed by the intercept if there is
    one. Subclasses have the attributes of `Objective`, and compute the sums.
    """

    n_features: int
    n_rows: Any
    dtype: Any
    loss: Any
    has_intercept: bool
    center: Any
    columns: Any
    span: Any
    # Sums over the prompts.
    sample: Any
    at_constant: Any
    curvature_at_zero: Any
    square_sums: Any

    def _set_parameters(self):
        self.n_parameters = self.n_features + self.has_intercept
        self.scale = 1.0 if self.columns is None else self.columns[1]
        absorbs_mean = self.has_intercept or self.loss.shift_invariant
        if self.columns is not None and not absorbs_mean:
            self.center = self.columns[0]

    def split(self, theta):
        """Split parameters, (..., n_parameters), into coefficients and intercepts."""
        if self.has_intercept:
            return theta[..., :-1], theta[..., -1]
        return theta, np.zeros(theta.shape[:-1])

    def split_raw(self, theta):
        """Split parameters into coefficients and intercept for X as it is."""
        coef, intercept = self.split(theta)
        if self.columns is not None and not self.has_intercept:
            intercept = -(coef @ self.columns[0])
        return coef, intercept

    def penalty(self, thetas, alphas):
        """Compute the penalty of parameters, (n, n_parameters), and its gradients."""
        coefs, _ = self.split(thetas)
        penalized = alphas * self.scale**2 * coefs
        gradients = np.zeros_like(thetas)
        gradients[:, : self.n_features] = penalized
        return np.einsum("ij,ij->i", penalized, coefs) / 2, gradients

    def centered(self):
        """Return the objective with centered columns, if it needs them for precision.

        Products with X in float32 lose the digits that a large common offset of the
        columns takes. Only columns that an intercept or a shift-invariant loss can
        center are changed.
        """
        can_center = self.has_intercept or self.loss.shift_invariant
        if self.dtype != np.float32 or not can_center:
            return self
        with np.errstate(over="ignore"):  # an infinite variance exceeds any offset
            mean, variance = self.sample(SAMPLED_ROWS)[0].moments(False)
        # The variance of a constant column is rounding.
        varies = variance > (8 * np.finfo(np.float32).eps * mean) ** 2
        offset = np.linalg.norm(mean[varies] / np.sqrt(variance[varies]))
        if offset < LARGEST_OFFSET:
            return self
        center = mean.astype(np.float32)
        return replace(self, center=center)  # type: ignore[type-var]

    def to_raw(self, theta):
        """Convert parameters, (..., n_parameters), to those of columns as they are."""
        if self.span is not None:
            theta, self = self.span.to_raw(theta), self.span.objective
        return self._shift_intercept(theta, -1)

    def from_raw(self, theta):
        """Convert parameters of columns as they are; the inverse of `to_raw`."""
        if self.span is not None:
            return self.span.from_raw(self.span.objective.from_raw(theta))
        return self._shift_intercept(theta, 1)

    def _shift_intercept(self, theta, sign):
        if self.center is None or not self.has_intercept:
            return theta
        coef, intercept = self.split(theta)
        intercept = intercept + sign * (coef @ self.center)
        return np.concatenate([coef, intercept[..., None]], axis=-1)

    def best_constant(self):
        """Find the parameters of the best probe whose scores are all equal.

        Only the loss is evaluated, not X. If the loss has no minimum, as for rewards
        that are all 1, the intercept is large.
        """
        theta = np.zeros(self.n_parameters)
        if not self.has_intercept:
            return theta
        loss, slope = self.at_constant(0.0)
        enough, curvature = 1e-6 * loss, self.curvature_at_zero
        for _ in range(MAX_SECANTS):  # of the slope
            if slope == 0 or curvature <= 0 or loss < enough:
                break
            intercept = theta[-1] - slope / curvature
            new_loss, new_slope = self.at_constant(intercept)
            if not new_loss < loss:
                break
            curvature = (new_slope - slope) / (intercept - theta[-1])
            theta[-1], loss, slope = intercept, new_loss, new_slope
        return theta

    def rounding_noise(self):
        """Bound the variance that rounding leaves in a constant column, per column."""
        squares = self.square_sums() / (self.n_rows * self.scale**2)
        return (8 * np.finfo(self.dtype).eps) ** 2 * squares
