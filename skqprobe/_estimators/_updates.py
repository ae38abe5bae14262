"""Updates of a fit in closed form, from the sums of its normal equations."""

import copy
from dataclasses import replace

import numpy as np

from skqprobe._arrays.magnitude import raise_on_overflow
from skqprobe._arrays.threads import threads_for
from skqprobe._solvers.ridge import NormalSums, have_equal_weights
from skqprobe._solvers.symmetric_systems import solve_system


def update(objectives, before, forgetting_factor):
    """Add the prompts of objectives to sums, and minimize over all prompts so far.

    Parameters
    ----------
    objectives : list of LinearObjective
        Objectives of the new prompts, one per reward.
    before : tuple or None
        Sums of earlier prompts: the arrays of `NormalSums`, their weight, and the
        center of the columns, which is the mean of the first prompts if there is an
        intercept.
    forgetting_factor : float
        Weight of the earlier prompts.

    Returns
    -------
    thetas : ndarray of shape (n_objectives, n_parameters)
        Parameters at the minima.
    sums : tuple
        Sums of all prompts.
    """
    first = objectives[0]
    if not have_equal_weights(objectives):
        raise ValueError(
            f"partial_fit to several objectives needs a loss with equal weights "
            f"for all, but those of {first.loss} depend on the rewards; fit one "
            "estimator per objective."
        )
    total = NormalSums(len(objectives), first.n_features, np.float64)
    with raise_on_overflow(), threads_for(first.X):
        if before is not None:
            *sums, center = before
            sums = (forgetting_factor * each for each in sums)
            total.gram, total.sides, total.ends, total.weight = sums
        else:
            center = first.least_squares_means[0] * first.has_intercept
        if center.any():
            near = center.astype(first.dtype)
            objectives = [replace(each, center=near) for each in objectives]
        total.add_objectives(objectives, first.total_weight)
        total.gram = np.asarray(total.gram, order="F")  # which may be on a device
        sums = total.gram, total.sides, total.ends, total.weight, center
        sums = copy.deepcopy(sums)
        gram, moments, x_mean, t_means, _ = total.equations(first.has_intercept)
        coefs = solve_system(gram, moments.T, first.alpha).T
    if not first.has_intercept:
        return coefs, sums
    # The center is rounded to the type of X, as it was subtracted.
    x_mean = x_mean + center.astype(first.dtype)
    return np.column_stack([coefs, t_means - coefs @ x_mean]), sums
