"""Folds of whole prompts for the cross-validation of policies."""

from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.model_selection import check_cv

from skqprobe._candidates.choice import choice_reward
from skqprobe._candidates.layout import Layout
from skqprobe._candidates.segments import repeat_per_prompt
from skqprobe._estimators._fit import TrainingData, weighted_layout
from skqprobe._estimators._view_search import sample_prompts
from skqprobe.metrics._per_prompt import divide, mean_terms

NO_HELD_OUT_WEIGHT = (
    "sample_weight is zero for all prompts that a fold of cv is scored on. Leave these "
    "prompts out of X, or use another cv."
)


def make_folds(data, groups, sample_weight, cv, X):
    """Split the prompts of training data.

    Parameters
    ----------
    data : TrainingData
        Training data.
    groups, sample_weight, X : array-like
        Arguments of `fit`.
    cv : int, splitter, iterable or None
        Number of folds, or how to split the first axis of X.

    Returns
    -------
    train : ndarray of int, of shape (n_folds, n_prompts)
        Number of times to train on each prompt, among those of positive weight.
    held_out : list of HeldOut
        Prompts to score on.
    """
    weighted = weighted_layout(data.layout, sample_weight, data.known)
    splits = row_splits(data.layout, data.rewards, groups, cv, X)
    train, held_out = split_data(data, weighted, splits, groups)
    if not held_out:
        raise ValueError("cv has no splits; give at least one.")
    return train, held_out


@dataclass(frozen=True)
class Folds:
    """Folds of training data in one process, see `make_folds`."""

    train: np.ndarray
    held_out: list

    @property
    def n_folds(self):
        """Number of folds."""
        return len(self.held_out)

    def train_with(self, with_all):
        """Return the prompts to train on, with a fold of all prompts or without."""
        if not with_all:
            return self.train
        return np.vstack([self.train, np.ones_like(self.train[:1])])

    def rewards(self, grid, coefs, temperatures, weights):
        """Compute the rewards of policies, (n_alphas, n_temperatures, n_folds).

        Parameters
        ----------
        grid : GridObjective
            Grid of the folds.
        coefs : ndarray of shape (n_folds * n_alphas, d)
            Coefficients of the policies.
        temperatures : sequence of float
            Temperatures of the choice.
        weights : ndarray of shape (n_objectives,)
            Weights of the objectives.
        """
        values = grid.scores(coefs).reshape(self.n_folds, len(grid.alphas), -1)
        rewards = [
            [
                [each.reward(row, temperature, weights) for temperature in temperatures]
                for row in rows
            ]
            for each, rows in zip(self.held_out, values, strict=True)
        ]
        return np.moveaxis(np.array(rewards), 0, -1)

    def losses(self, grid, thetas, weights):
        """Compute the mean losses of held-out prompts, (n_alphas, n_folds).

        Parameters
        ----------
        grid : GridObjective
            Grid of the folds.
        thetas : ndarray of shape (n_folds * n_alphas, n_objectives, n_parameters)
            Parameters.
        weights : ndarray of shape (n_objectives,)
            Weights of the losses of the objectives.
        """
        loss = grid.objective.loss
        # The scores of a grid without an intercept are those of centered columns.
        coefs, intercepts = grid.split(thetas.swapaxes(0, 1))
        losses = np.zeros((len(grid.alphas), self.n_folds))
        for j, weight in enumerate(weights):
            scores = grid.scores(coefs[j]) + intercepts[j][:, None]
            losses += weight * divide(*sum_losses(self.held_out, scores, loss, j))
        return losses

    def sample_prompts(self, data, sample_weight, objective_weights):
        """Sample prompts from which to choose the weights of views."""
        weighted = weighted_layout(data.layout, sample_weight, data.known)
        return sample_prompts(
            data, weighted, (self.train, self.held_out), objective_weights
        )


def sum_losses(held_out, scores, loss, number):
    """Sum held-out losses of an objective and weights, (2, n_alphas, n_folds).

    `scores` has shape (n_folds * n_alphas, n_rows), in prompt order.
    """
    scores = scores.reshape(len(held_out), -1, scores.shape[1])
    terms = np.zeros((2, scores.shape[1], len(held_out)))
    for fold, (each, rows) in enumerate(zip(held_out, scores, strict=True)):
        if each.layout.n_prompts:
            of_fold = [each.loss_terms(loss, row, number) for row in rows]
            terms[:, :, fold] = np.transpose(of_fold)
    return terms


def split_data(data, weighted, splits, groups=None):
    """Make the arrays of `make_folds` from the copies of rows in each split."""
    layout, prompt_weight, candidate_weight = weighted
    first_rows = layout.offsets[:-1]
    trains, held_out = [], []
    for train, test in splits:
        trains.append(layout.to_prompt_order(train)[first_rows])
        copies = layout.to_prompt_order(test)
        rows = copies > 0
        kept = layout.keep(rows)
        weights = (
            (prompt_weight * copies[first_rows])[rows[first_rows]],
            kept.to_prompt_order(candidate_weight),
        )
        held_out.append(
            HeldOut(data, groups, test, np.flatnonzero(rows), kept, *weights)
        )
    return np.array(trains), held_out


def row_splits(layout, rewards, groups, cv, X):
    """Yield how often to train and to score on each row, in user order, (n_rows,).

    An int splits the prompts, anything else the first axis of X.
    """
    by_prompt = cv is None or isinstance(cv, Integral)
    n = layout.n_prompts if by_prompt else layout.shape[0]
    arguments = (np.zeros(n),) if by_prompt else (X, rewards, groups)
    for split in check_cv(cv).split(*arguments):
        sides = []
        for indices in split:
            copies = np.zeros(n, dtype=int)
            np.add.at(copies, indices, 1)
            if not copies.any():
                raise ValueError(
                    "cv has a split without training or without test data."
                )
            if by_prompt or len(layout.shape) == 2:
                copies = layout.to_user_order(repeat_per_prompt(copies, layout.offsets))
            _check_whole_prompts(copies, layout)
            sides.append(copies.reshape(-1))
        yield sides


def _check_whole_prompts(copies, layout):
    copies, offsets = layout.to_prompt_order(copies), layout.offsets
    if (copies != repeat_per_prompt(copies[offsets[:-1]], offsets)).any():
        raise ValueError(
            "cv splits the candidates of a prompt between training and scoring. Use an "
            "int, or a splitter that respects groups, such as GroupKFold."
        )


@dataclass(frozen=True)
class HeldOut:
    """Prompts on which a fold is scored.

    Parameters
    ----------
    data : TrainingData
        All training data.
    groups : array-like or None
        Prompt labels of all rows.
    copies : ndarray of int, of shape (n_rows,)
        Number of times to score on each row, in user order.
    rows : ndarray of int
        Rows to score on, in prompt order and without rows of weight 0.
    layout : Layout
        Layout of `rows`.
    prompt_weight : ndarray of shape (layout.n_prompts,)
        Weights of the prompts.
    candidate_weight : ndarray of shape (layout.n_rows,) or None
        Weights of the candidates.
    """

    data: TrainingData
    groups: Any
    copies: np.ndarray
    rows: np.ndarray
    layout: Layout
    prompt_weight: np.ndarray
    candidate_weight: np.ndarray | None

    @cached_property
    def rewards(self):
        """Rewards of the held-out candidates, in prompt order."""
        return self.layout.to_prompt_order(self.data.rewards)

    def reward(self, values, temperature, weights):
        """Compute the expected reward of the choice from the values of all rows.

        Rewards of several objectives are weighted.
        """
        if not self.layout.grouped:
            return np.nan
        if not self.prompt_weight.any():
            raise ValueError(NO_HELD_OUT_WEIGHT)
        return divide(*self.reward_terms(values, temperature, weights))

    def reward_terms(self, values, temperature, weights):
        """Sum the weighted rewards of the choices, and the weights."""
        rewards = choice_reward(
            values[self.rows],
            self.rewards @ weights if self.data.is_vector else self.rewards,
            self.layout,
            temperature,
            self.candidate_weight,
        )
        return [self.prompt_weight @ part for part in mean_terms(rewards)]

    def loss_terms(self, loss, scores, number):
        """Sum the weighted losses of the scores of an objective, and the weights."""
        rewards = self.rewards[:, number] if self.data.is_vector else self.rewards
        losses, _ = loss.value_and_gradient(
            scores[self.rows].astype(np.float64),
            rewards,
            self.layout.offsets,
            self.candidate_weight,
        )
        return self.prompt_weight @ losses, self.prompt_weight.sum()

    def score(self, scoring, policy):
        """Score a policy by a function of the user, in the layout of the user."""
        X, y, shape = self.data.X, self.data.rewards, self.data.layout.shape
        if self.data.known is not None:
            y = np.where(self.data.known.T, y.T, np.nan).T
        copies = self.copies.reshape(shape)
        if len(shape) == 2:
            prompts = np.repeat(np.arange(len(y)), copies[:, 0])
            return scoring(policy, X.reshape(*shape, -1)[prompts], y[prompts])
        rows = np.repeat(np.arange(len(y)), copies)
        if self.groups is None:
            return scoring(policy, X[rows], y[rows])
        labels = list(self.groups)
        return scoring(policy, X[rows], y[rows], groups=[labels[i] for i in rows])
