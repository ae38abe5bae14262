"""Objectives on one X for all folds of prompts, rewards and penalties."""

from dataclasses import replace
from typing import Any

import numpy as np

from skqprobe._arrays.threads import map_parts
from skqprobe._candidates.segments import repeat_per_prompt
from skqprobe._objectives.linear import evaluate_losses, evaluate_together


class GridObjective:
    """Objectives of one loss for all folds, rewards and penalties, evaluated together.

    Most of the time is spent on reading X. The parameters of all objectives are the
    columns of one matrix, so that two matrix products serve all of them.

    The number of an objective is ``(fold * n_rewards + index of the reward) * n_alphas
    + index of the penalty``.

    Parameters
    ----------
    objectives : list of LinearObjective
        Objectives of all prompts, one per reward. They differ only in rewards and
        weights of the prompts. Their penalty is not used.
    in_fold : ndarray of int, of shape (n_folds, n_prompts)
        Number of times that each fold trains on each prompt.
    alphas : ndarray of shape (n_alphas,)
        Strengths of the L2 penalty, in [0, inf).

    Attributes
    ----------
    is_whole : bool
        Whether the grid is a `WholeGrid`.
    shares_sums : bool
        Whether threads share the sums of matrices over the prompts.
    """

    is_whole = False
    shares_sums: Any = False

    def __init__(self, objectives, in_fold, alphas):
        self.objectives, self.objective = objectives, objectives[0]
        self.in_fold, self.n_folds = in_fold, len(in_fold)
        self.alphas = np.asarray(alphas, dtype=np.float64)
        self.n_objectives = self.n_folds * len(objectives) * len(self.alphas)
        self._prepare()

    def _prepare(self):
        """Set the rows of each fold in prompt order, and its objectives."""
        offsets = self.objective.layout.offsets
        self.fold_rows: Any = [
            np.flatnonzero(repeat_per_prompt(copies, offsets))
            for copies in self.in_fold
        ]
        self.fold_objectives = [
            restrict(each, copies)
            for copies in self.in_fold
            for each in self.objectives
        ]

    def with_objectives(self, objectives):
        """Return the grid of other objectives."""
        return type(self)(objectives, self.in_fold, self.alphas)

    def replace(self, **changes):
        """Return the grid with other settings of its objectives."""
        return self.with_objectives(
            [replace(each, **changes) for each in self.objectives]
        )

    def centered(self):
        """Return the grid with centered columns, if it needs them for precision."""
        return self._with_columns(self.objective.centered())

    def in_span(self):
        """Return the grid in the span of its rows, if these are few."""
        return self._with_columns(self.objective.in_span(self.alphas.min()))

    def _with_columns(self, objective):
        """Return the grid with the columns of an objective."""
        names = ("X", "layout", "center", "columns", "span")
        columns = {name: getattr(objective, name) for name in names}
        return self if objective is self.objective else self.replace(**columns)

    def with_loss(self, loss):
        """Return the grid of another loss."""
        return self.replace(loss=loss)

    def total(self, function, *arguments, add=None):
        """Compute a sum over prompts, ``function(grid, *arguments)``.

        The data of a subclass may have parts. The results for the grid of each part are
        then added, by `add` or the operator +.
        """
        return function(self, *arguments)

    def gathered(self):
        """Return the grid with the data in this process."""
        return self

    def best_constants(self):
        """Find the best constant scores, as parameters of shape (n_objectives, n)."""
        constants = [fold.best_constant() for fold in self.fold_objectives]
        return np.repeat(constants, len(self.alphas), axis=0)

    def parts(self):
        """Partition the prompts by the set of folds that train on them.

        A sum over prompts is then computed once per part, not once per fold.

        Yields
        ------
        folds : ndarray of int
            Folds that train on the part, at least one, each as often as it does.
        objectives : list of LinearObjective
            Objectives of the part, one per reward.
        share : float
            Sum of the weights of its prompts in the first objective of all prompts.
        """
        patterns, number = np.unique(self.in_fold, axis=1, return_inverse=True)
        for i, pattern in enumerate(patterns.T):
            if pattern.any():
                mask = number.reshape(-1) == i
                share = self.objective.prompt_weight[mask].sum()
                folds = np.repeat(np.arange(len(pattern)), pattern)
                yield folds, [restrict(each, mask) for each in self.objectives], share

    def value_and_gradient(self, thetas, which):
        """Evaluate some of the objectives.

        Parameters
        ----------
        thetas : ndarray of shape (n, n_parameters)
            Parameters of each of these objectives.
        which : ndarray of int, of shape (n,)
            Numbers of the objectives.

        Returns
        -------
        values : ndarray of shape (n,)
            Mean losses plus penalties.
        gradients : ndarray of shape (n, n_parameters)
            Gradients with respect to `thetas`.
        """
        alphas = self.alphas[which % len(self.alphas), None]
        values, gradients = self.objective.penalty(thetas, alphas)
        losses, slopes = self.losses(thetas, which)
        return values + losses, gradients + slopes

    def losses(self, thetas, which):
        """Evaluate some of the objectives without penalty, in two reads of X."""
        objective = self.objective
        coefs, intercepts = self.split(thetas)
        values, gradients = np.zeros(len(thetas)), np.zeros_like(thetas)
        slopes = self.scores(coefs)  # slopes replace the scores of a problem
        for i, number in enumerate(which // len(self.alphas)):
            rows = self.fold_rows[number // len(self.objectives)]
            fold = self.fold_objectives[number]
            scores = slopes[i, rows].astype(np.float64) + intercepts[i]
            slopes[i] = 0
            every, offsets = slice(None), fold.layout.offsets
            if fold.layout.n_prompts == 0:
                continue
            loss, slope = fold._weighted_loss(scores, every, every, offsets)
            values[i] = loss
            slopes[i, rows] = slope
            if objective.has_intercept:
                gradients[i, -1] = slope.sum()
        d = objective.n_features

        def multiply(part):
            blocks = part._blocks
            return sum(slopes[:, rows] @ part._read(rows) for _, rows, _ in blocks)

        gradients[:, :d] = sum(map_parts(multiply, objective.parts))
        return values, gradients

    def split(self, thetas):
        """Split parameters, (n, n_parameters), into coefficients and intercepts."""
        return self.objective.split(thetas)

    def scores(self, coefs):
        """Compute scores without intercept, (n, n_rows), in prompt order."""
        objective = self.objective
        coefs = coefs.astype(objective.dtype)
        scores = np.empty((len(coefs), objective.layout.n_rows), objective.dtype)

        def multiply(part):
            for _, rows, _ in part._blocks:
                scores[:, rows] = coefs @ part._read(rows).T

        map_parts(multiply, objective.parts)
        return scores

    def score_curvatures(self, thetas, which):
        """Measure the curvature of some objectives at the scores of their parameters.

        Parameters
        ----------
        thetas : ndarray of shape (n, n_parameters)
            Parameters of each of these objectives.
        which : ndarray of int, of shape (n,)
            Numbers of the objectives.

        Returns
        -------
        curvatures : list of ndarray
            Curvatures per row, see `LinearObjective.score_curvature`.
        """
        coefs, intercepts = self.split(thetas)
        scores, curvatures = self.scores(coefs), []
        for i, fold in enumerate(which // len(self.alphas)):
            rows = self.fold_rows[fold // len(self.objectives)]
            here = scores[i, rows].astype(np.float64) + intercepts[i]
            curvatures.append(self.fold_objectives[fold].score_curvature(here))
        return curvatures


class WholeGrid(GridObjective):
    """Grid of one fold, of all prompts once, and one penalty: an objective per reward.

    Parameters
    ----------
    objectives : list of LinearObjective
        Objectives with the same penalty, see `GridObjective`.
    """

    is_whole = True

    @property
    def shares_sums(self):
        """Whether threads share the sums of matrices over the prompts."""
        return len(self.objective.matrix_parts()) > 1

    def __init__(self, objectives):
        everything = np.ones((1, objectives[0].layout.n_prompts), dtype=int)
        super().__init__(objectives, everything, [objectives[0].alpha])

    def _prepare(self):
        self.fold_rows: Any = [slice(None)]
        self.fold_objectives = self.objectives

    def with_objectives(self, objectives):
        """Return the grid of other objectives."""
        return WholeGrid(objectives)

    def parts(self):
        """Return the only part, see `GridObjective`."""
        if self.objective.whole_weight is None:
            return [([0], self.objectives, 1.0)]
        share = self.objective.prompt_weight.sum()
        own = [replace(each, whole_weight=None) for each in self.objectives]
        return [([0], own, share)]

    def losses(self, thetas, which):
        """Evaluate some of the objectives without penalty, in one read of X."""
        terms = evaluate_losses([self.objectives[i] for i in which], thetas)
        return [sum(each) for each in zip(*terms, strict=True)]

    def value_and_gradient(self, thetas, which):
        """Evaluate some of the objectives in one read of X; see `GridObjective`."""
        return evaluate_together([self.objectives[i] for i in which], thetas)


def restrict(objective, copies, whole_weight=None, noise=None):
    """Make the objective of some of the prompts, with the mean over these alone.

    Parameters
    ----------
    objective : LinearObjective
        Objective of all prompts.
    copies : ndarray of int or bool, of shape (n_prompts,)
        Number of copies of each prompt; 0 leaves it out.
    whole_weight, noise
        Settings of the result, see `Objective`.

    Returns
    -------
    objective : LinearObjective
        Objective of these prompts, with the same penalty.
    """
    kept = copies > 0
    rows = repeat_per_prompt(kept, objective.layout.offsets)
    return replace(
        objective,
        layout=objective.layout.keep(rows),
        rewards=objective.rewards[rows],
        prompt_weight=(objective.prompt_weight * copies)[kept],
        candidate_weight=objective._weight(rows),
        whole_weight=whole_weight,
        noise=noise,
    )
