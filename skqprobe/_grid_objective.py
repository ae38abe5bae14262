"""Many objectives on one X: every pair of a fold of prompts and a penalty."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from skqprobe._objective import LinearObjective
from skqprobe._segments import spread


@dataclass(frozen=True)
class Fold:
    """The prompts of an objective that one fold trains on.

    Parameters
    ----------
    rows : ndarray of int
        Their rows, prompt by prompt, as the objective counts them.
    offsets : ndarray of shape (n + 1,)
        Where each of these prompts begins among `rows`.
    prompt_weight : ndarray of shape (n,)
        Their weights, of sum 1 unless all are 0.
    """

    rows: np.ndarray
    offsets: np.ndarray
    prompt_weight: np.ndarray


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
        self.folds = [make_fold(objective, mask) for mask in in_fold]
        self.n_objectives = len(in_fold) * len(self.alphas)

    @cached_property
    def fold_objectives(self):
        """The objective of each fold, of the same penalty as that of all prompts."""
        return [restrict(self.objective, mask) for mask in self.in_fold]

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
            fold = self.folds[number]
            losses, slope = objective.loss.value_and_gradient(
                scores[i, fold.rows].astype(np.float64) + intercepts[i],
                objective.rewards[fold.rows],
                fold.offsets,
                objective._weight(fold.rows),
            )
            values[i] += fold.prompt_weight @ losses
            slope = slope * spread(fold.prompt_weight, fold.offsets)
            slopes[i, fold.rows] = slope
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


def make_fold(objective, mask):
    """Make the fold of the prompts where `mask` is True."""
    layout = objective.layout
    sizes = layout.sizes[mask]
    weight = objective.prompt_weight[mask]
    return Fold(
        np.flatnonzero(spread(mask, layout.offsets)),
        np.concatenate(([0], np.cumsum(sizes))),
        weight / (weight.sum() or 1),
    )


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
    layout = objective.layout
    rows = np.flatnonzero(spread(mask, layout.offsets))
    order = rows if layout.order is None else layout.order[rows]
    sizes = np.concatenate(([0], np.cumsum(layout.sizes[mask])))
    weight = objective.row_weight
    return LinearObjective(
        objective.X,
        replace(layout, order=order, offsets=sizes),
        objective.rewards[rows],
        objective.loss,
        alpha=objective.alpha,
        fit_intercept=objective.has_intercept,
        prompt_weight=objective.prompt_weight[mask],
        row_weight=None if weight is None else weight[rows],
    )
