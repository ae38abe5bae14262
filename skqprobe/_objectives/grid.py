"""Many objectives on one X: every pair of a fold of prompts and a penalty."""

import numpy as np

from skqprobe._candidates.segments import repeat_per_prompt
from skqprobe._objectives.linear import LinearObjective


class GridObjective:
    """Objectives of one loss for all folds and penalties, evaluated together.

    What costs time is reading X: with the parameters of all objectives as the columns
    of a matrix, two matrix products serve all of them.

    The objectives are numbered fold by fold, with the penalties inside a fold.

    Parameters
    ----------
    objective : LinearObjective
        The objective of all prompts; its penalty is not read.
    in_fold : ndarray of bool, of shape (n_folds, n_prompts)
        Which prompts each fold trains on.
    alphas : ndarray of shape (n_alphas,)
        The penalties.
    """

    def __init__(self, objective, in_fold, alphas):
        self.objective = objective
        self.in_fold = in_fold
        self.alphas = np.asarray(alphas, dtype=np.float64)
        self.n_objectives = len(in_fold) * len(self.alphas)
        # What each fold trains on: its rows, as the objective counts them, and its own
        # objective, of the same penalty as that of all prompts.
        offsets = objective.layout.offsets
        self.fold_rows = [
            np.flatnonzero(repeat_per_prompt(mask, offsets)) for mask in in_fold
        ]
        self.fold_objectives = [restrict(objective, mask) for mask in in_fold]

    def parts(self):
        """Cut the prompts into parts, each in all of some folds and in no other.

        What is a sum over prompts need be summed once a part, not once a fold.

        Yields
        ------
        folds : ndarray of int
            Numbers of the folds that train on the part; at least one.
        objective : LinearObjective
            The objective of the part.
        share : float
            The weight of its prompts in the objective of all.
        """
        patterns, number = np.unique(self.in_fold, axis=1, return_inverse=True)
        for i, pattern in enumerate(patterns.T):
            if pattern.any():
                mask = number.reshape(-1) == i
                share = self.objective.prompt_weight[mask].sum()
                yield np.flatnonzero(pattern), restrict(self.objective, mask), share

    def value_and_gradient(self, thetas, which):
        """Evaluate some of the objectives, reading X twice.

        Parameters
        ----------
        thetas : ndarray of shape (n, n_parameters)
            Where to evaluate each.
        which : ndarray of shape (n,)
            Numbers of the objectives.

        Returns
        -------
        values : ndarray of shape (n,)
        gradients : ndarray of shape (n, n_parameters)
        """
        objective = self.objective
        coefs, intercepts = self.split(thetas)
        alphas = self.alphas[which % len(self.alphas)]
        values = alphas / 2 * np.einsum("ij,ij->i", coefs, coefs)
        gradients = np.zeros_like(thetas)
        scores = self.scores(coefs)
        slopes = np.zeros_like(scores)
        for i, number in enumerate(which // len(self.alphas)):
            rows, fold = self.fold_rows[number], self.fold_objectives[number]
            losses, slope = fold.loss.value_and_gradient(
                scores[i, rows].astype(np.float64) + intercepts[i],
                fold.rewards,
                fold.layout.offsets,
                fold.candidate_weight,
            )
            values[i] += fold.prompt_weight @ losses
            slope = slope * repeat_per_prompt(fold.prompt_weight, fold.layout.offsets)
            slopes[i, rows] = slope
            if objective.has_intercept:
                gradients[i, -1] = slope.sum()
        d = objective.n_features
        for _, rows, _ in objective._blocks:
            gradients[:, :d] += slopes[:, rows] @ objective._read(rows)
        gradients[:, :d] += alphas[:, None] * coefs
        return values, gradients

    def split(self, thetas):
        """Coefficients and intercepts of parameters, (n, n_parameters)."""
        if self.objective.has_intercept:
            return thetas[:, :-1], thetas[:, -1]
        return thetas, np.zeros(len(thetas))

    def scores(self, coefs):
        """Compute scores without intercept: (n, n_rows), prompt by prompt."""
        objective = self.objective
        coefs = coefs.astype(objective.dtype)
        scores = np.empty((len(coefs), objective.layout.n_rows), objective.dtype)
        for _, rows, _ in objective._blocks:
            scores[:, rows] = coefs @ objective._read(rows).T
        return scores

    def score_curvatures(self, thetas):
        """Curvatures of all objectives where they give the scores of their thetas.

        See `LinearObjective.score_curvature`; thetas are of shape
        (n_objectives, n_parameters).
        """
        coefs, intercepts = self.split(thetas)
        scores, curvatures = self.scores(coefs), []
        for number in range(self.n_objectives):
            fold = number // len(self.alphas)
            here = scores[number, self.fold_rows[fold]].astype(np.float64)
            objective = self.fold_objectives[fold]
            curvatures.append(objective.score_curvature(here + intercepts[number]))
        return curvatures


def restrict(objective, mask):
    """Make the objective of the prompts where `mask` is True.

    Parameters
    ----------
    objective : LinearObjective
        The objective of all prompts.
    mask : ndarray of bool, of shape (n_prompts,)
        Which to keep.

    Returns
    -------
    objective : LinearObjective
        The mean is over these prompts alone.
    """
    rows = repeat_per_prompt(mask, objective.layout.offsets)
    weight = objective.candidate_weight
    return LinearObjective(
        objective.X,
        objective.layout.keep(rows),
        objective.rewards[rows],
        objective.loss,
        alpha=objective.alpha,
        fit_intercept=objective.has_intercept,
        prompt_weight=objective.prompt_weight[mask],
        candidate_weight=None if weight is None else weight[rows],
    )
