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
from skqprobe.metrics._per_prompt import mean_terms, weighted_mean


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
    layout, prompt_weight, candidate_weight = weighted_layout(
        data.layout, sample_weight, data.known
    )
    first_rows = layout.offsets[:-1]
    trains, held_out = [], []
    for train, test in row_splits(data.layout, data.rewards, groups, cv, X):
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
    if not held_out:
        raise ValueError("cv has no splits; give at least one.")
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
            raise ValueError(
                "sample_weight is zero for all prompts that a fold of cv is scored on. "
                "Leave these prompts out of X, or use another cv."
            )
        rewards = choice_reward(
            values[self.rows],
            self.rewards @ weights if self.data.is_vector else self.rewards,
            self.layout,
            temperature,
            self.candidate_weight,
        )
        return weighted_mean(mean_terms(rewards), self.prompt_weight)

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
