"""Folds of whole prompts for the cross-validation of policies."""

from dataclasses import dataclass, replace
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

    def score(self, grid, policies):
        """Compute rewards and held-out losses of policies; see `Policies.means`."""
        coefs, center = policies.coefs, grid.objective.center
        if policies.intercepts is not None and center is not None:
            # The scores of the grid are those of centered columns.
            intercepts = policies.intercepts + coefs @ center
            policies = replace(policies, intercepts=intercepts)
        scores = grid.scores(coefs.reshape(-1, coefs.shape[-1]))
        terms = policies.terms(self.held_out, scores)
        return policies.means(terms, self.held_out[0].layout.grouped)

    def sample_prompts(self, data, sample_weight, objective_weights):
        """Sample prompts from which to choose the weights of views."""
        weighted = weighted_layout(data.layout, sample_weight, data.known)
        return sample_prompts(
            data, weighted, (self.train, self.held_out), objective_weights
        )


@dataclass(frozen=True)
class Policies:
    """Policies of all folds and penalties, to be scored on prompts held out.

    Parameters
    ----------
    coefs : ndarray of shape (n_values, n_folds * n_alphas, d)
        Coefficients of the values whose weighted sum the policies choose by: those of
        the objectives, or their weighted sum.
    value_weights : ndarray of shape (n_values,)
        Weights of the values.
    weights : ndarray of shape (n_objectives,)
        Weights of the objectives.
    temperatures : sequence of float
        Temperatures of the choice.
    intercepts : ndarray of shape (n_objectives, n_folds * n_alphas), or None
        Intercepts of the objectives; None if losses are not needed.
    loss : BaseLoss
        Loss of the objectives.
    """

    coefs: np.ndarray
    value_weights: np.ndarray
    weights: np.ndarray
    temperatures: Any
    intercepts: Any
    loss: Any

    def terms(self, held_out, scores):
        """Sum weighted rewards and losses, and the weights, per penalty and fold.

        Parameters
        ----------
        held_out : list of HeldOut
            Prompts of the folds.
        scores : ndarray of shape (n_values * n_folds * n_alphas, n_rows)
            Products of the rows, in prompt order, and `coefs`.

        Returns
        -------
        rewards : ndarray of shape (2, n_alphas, n_temperatures, n_folds)
        losses : ndarray of shape (2, n_objectives, n_alphas, n_folds)
            No objectives if losses are not needed.
        """
        n_folds, n_losses = len(held_out), 0
        scores = scores.reshape(len(self.coefs), n_folds, -1, scores.shape[-1])
        if self.intercepts is not None:
            n_losses = len(scores)
            intercepts = self.intercepts.reshape(n_losses, n_folds, -1)
        n_alphas = scores.shape[2]
        rewards = np.zeros((2, n_alphas, len(self.temperatures), n_folds))
        losses = np.zeros((2, n_losses, n_alphas, n_folds))
        value_weights = self.value_weights.astype(scores.dtype)
        for fold, i in np.ndindex(n_folds, n_alphas):
            prompts, of_policy = held_out[fold], scores[:, fold, i]
            if prompts.layout.n_prompts == 0:
                continue
            values = value_weights @ of_policy
            for j, temperature in enumerate(self.temperatures):
                rewards[:, i, j, fold] = prompts.reward_terms(
                    values, temperature, self.weights
                )
            for j in range(n_losses):
                losses[:, j, i, fold] = prompts.loss_terms(
                    self.loss, of_policy[j] + intercepts[j, fold, i], j
                )
        return rewards, losses

    def means(self, terms, grouped):
        """Divide `terms`, of all prompts.

        Returns
        -------
        rewards : ndarray of shape (n_alphas, n_temperatures, n_folds)
            NaN if rows do not share prompts.
        losses : ndarray of shape (n_alphas, n_folds), or None
            Weighted sums over the objectives.
        """
        rewards, losses = terms
        if not grouped:
            rewards = np.full_like(rewards, np.nan)
        elif not rewards[1].all():
            raise ValueError(NO_HELD_OUT_WEIGHT)
        losses = divide(*losses)
        if self.intercepts is not None:
            return rewards[0] / rewards[1], np.tensordot(abs(self.weights), losses, 1)
        return rewards[0] / rewards[1], None


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

    def reward_terms(self, values, temperature, weights):
        """Sum the weighted rewards of the choices, and the weights.

        Choices are by the values of all rows. Rewards of several objectives are
        weighted.
        """
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
