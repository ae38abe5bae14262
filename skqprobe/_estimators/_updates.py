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
        vector that was subtracted from all rows for precision: the mean of the first
        ones, if the loss does not see it or an intercept absorbs it.
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
            has_center = first.has_intercept or first.loss.shift_invariant
            center = first.sampled_mean * has_center
        if center.any():
            objectives = [replace(each, center=center) for each in objectives]
        total.add_objectives(objectives, first.total_weight)
        total.gram = np.asarray(total.gram, order="F")  # which may be on a device
        sums = total.gram, total.sides, total.ends, total.weight, center
        sums = copy.deepcopy(sums)
        gram, moments, x_mean, t_means, _ = total.equations(first.has_intercept)
        coefs = solve_system(gram, moments.T, first.alpha).T
    raw = coefs / first.scale
    if not first.has_intercept:
        return raw, sums
    intercepts = t_means - coefs @ x_mean - raw @ center
    return np.column_stack([raw, intercepts]), sums
