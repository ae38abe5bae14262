"""QProbePolicyCV: a policy that chooses its settings by cross-validation."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import ParameterGrid, check_cv

from skqprobe._arrays.device import DeviceArray
from skqprobe._arrays.magnitude import downcast, raise_on_overflow
from skqprobe._candidates.choice import check_temperature, choice_reward
from skqprobe._candidates.layout import Layout
from skqprobe._candidates.segments import repeat_per_prompt, segment_sum
from skqprobe._estimators._base import NOT_ALWAYS_THERE, fitted_state, weighted_layout
from skqprobe._estimators.policy import QProbePolicy
from skqprobe._objectives.grid import GridObjective
from skqprobe._solvers import (
    minimize_lbfgs,
    minimize_lbfgs_grid,
    solve_closed_form,
    solve_closed_form_grid,
)
from skqprobe._utils.sklearn_compat import Interval, _fit_context
from skqprobe.losses import LOSSES, BaseLoss, get_loss
from skqprobe.metrics._per_prompt import mean_terms, weighted_mean

DEFAULT_LOSSES = ("pairwise_logistic", "log_loss")
"""On the data of docs/guide/choosing.md, one of the two is near the best; the latter
needs rewards in [0, 1]."""


class QProbePolicyCV(QProbePolicy):
    """Policy that chooses its loss, penalty and temperature by cross-validation.

    It finds what ``GridSearchCV(QProbePolicy(), {"loss": losses, "alpha": alphas,
    "temperature": temperatures})`` finds, with folds of whole prompts, in a small part
    of the time: the probes of all folds and penalties are the columns of one matrix,
    and share each read of X; a temperature needs no fit at all; and least squares are
    solved from sums over prompts that the folds have in common.

    Parameters
    ----------
    losses : tuple of str or BaseLoss, default=None
        Losses to try, see `QProbePolicy`. None tries "pairwise_logistic" and, if all
        rewards lie in [0, 1], "log_loss".
    alphas : tuple of float, default=(10.0, 1.0, 0.1, 0.01, 0.001, 0.0001, 0.00001)
        Strengths of the penalty to try, 0 or more. Of settings with the same score the
        first is taken, so that the strongest should come first.
    temperatures : tuple of float, default=(0.0,)
        Temperatures to try, 0 or more, in units of Q.
    cv : int, splitter or iterable, default=None
        How to split the prompts. An int is the number of folds, of consecutive prompts;
        None stands for 5. A splitter, or an iterable of (train, test), splits the first
        axis of X; with rows it must keep the candidates of a prompt together, as
        GroupKFold does. It is handed `groups`.
    scoring : callable, default=None
        Called as ``scoring(policy, X, y)``, with ``groups=groups`` for rows; more is
        better. Those of :mod:`skqprobe.metrics` are of this kind. None takes the
        expected reward of the choice at the temperature, as `score` does.
    refit : bool, default=True
        Whether to fit a policy with the best setting to all prompts. Without it there
        is nothing to predict with.
    fit_intercept : bool, default=True
        See `QProbePolicy`.
    max_iter : int, default=1000
        The most iterations of a fit.
    tol : float, default=1e-4
        When a fit is at its end, see `QProbePolicy`.
    random_state : int, RandomState instance or None, default=None
        Determines the draws of `sample`.

    Attributes
    ----------
    loss_ : str or BaseLoss
        The loss that was chosen.
    alpha_ : float
        The strength of the penalty that was chosen.
    temperature_ : float
        The temperature that was chosen, which `predict_proba`, `sample` and `score`
        read.
    best_params_ : dict
        The three, under their names in `QProbePolicy`.
    best_score_ : float
        Mean score of this setting over the folds. As it is the best of many, less is to
        be expected of other prompts.
    best_index_ : int
        Place of this setting in `cv_results_`.
    cv_results_ : dict of ndarray
        As that of GridSearchCV: `params`, `param_loss` and so on, `split0_test_score`
        and so on, `mean_test_score`, `std_test_score`, `rank_test_score`. There are no
        times, as the fits are made together.
    n_splits_ : int
        Number of folds.
    coef_, intercept_, n_iter_, n_skipped_prompts_
        Of the policy that was fitted in the end, see `QProbePolicy`.
    n_features_in_ : int
        Number of features, the last axis of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if X was a data frame with string column names.

    See Also
    --------
    QProbePolicy : The policy with given settings; with hidden layers, too.
    make_probe_pipeline : What to put before it.

    Examples
    --------
    >>> from skqprobe import QProbePolicyCV
    >>> from skqprobe.datasets import load_two_words
    >>> X, y = load_two_words(return_X_y=True)
    >>> policy = QProbePolicyCV(["log_loss", "policy_gradient"]).fit(X[:160], y[:160])
    >>> policy.loss_, policy.alpha_
    ('log_loss', 0.01)
    >>> print(f"{y[160:].mean():.2f} -> {policy.score(X[160:], y[160:]):.2f}")
    0.36 -> 0.82
    """

    _parameter_constraints: dict = {
        "losses": ["array-like", None],
        "alphas": ["array-like"],
        "temperatures": ["array-like"],
        "cv": ["cv_object"],
        "scoring": [callable, None],
        "refit": ["boolean"],
        "fit_intercept": ["boolean"],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        losses=None,
        *,
        alphas=(10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5),
        temperatures=(0.0,),
        cv=None,
        scoring=None,
        refit=True,
        fit_intercept=True,
        max_iter=1000,
        tol=1e-4,
        random_state=None,
    ):
        self.losses = losses
        self.alphas = alphas
        self.temperatures = temperatures
        self.cv = cv
        self.scoring = scoring
        self.refit = refit
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    @property
    def loss(self):
        """The loss that was chosen, under the name that a policy has for it."""
        return self.loss_

    @property
    def temperature(self):
        """The temperature that was chosen, under the name that a policy has for it."""
        return self.temperature_

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, groups=None, *, sample_weight=None):
        """Try all settings, and fit the best one to all prompts.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs: sets or rows.
        y : array-like of shape (n_prompts, k) or (n_rows,)
            Rewards.
        groups : array-like of shape (n_rows,), default=None
            For rows: labels of the prompts, any hashable values in any order. For sets,
            of shape (n_prompts,): what a splitter may want to keep together.
        sample_weight : array-like, default=None
            Numbers of copies of candidates or prompts, see `QProbePolicy`. They count
            in the scores, too, but not in those of `scoring`.

        Returns
        -------
        self : object
            Fitted estimator.

        Raises
        ------
        ValueError
            If an argument has the wrong shape or values, or a fold parts the candidates
            of a prompt. The estimator then is as it was before.
        """
        self._check_settings()
        checked, X_rows, layout, rewards = self._check_data(X, y, groups)
        if self.scoring is not None and isinstance(X_rows, DeviceArray):
            raise ValueError(
                "scoring is called with numpy arrays, but X is not one. Use "
                "scoring=None, or convert X to numpy."
            )
        losses = self._losses(rewards)
        data = _Data(X_rows, layout, rewards, groups, sample_weight)
        folds = [
            (train, data.held_out(test)) for train, test in data.splits(self.cv, X)
        ]

        grid = ParameterGrid(
            {
                "loss": losses,
                "alpha": list(self.alphas),
                "temperature": list(self.temperatures),
            }
        )
        objectives = [self._objective(data, loss) for loss in losses]
        # (alpha, loss, temperature, fold), as the grid has them
        with raise_on_overflow():
            scores = np.stack(
                [self._scores_of(objective, folds) for objective in objectives], axis=1
            )
        results = _results(list(grid), scores.reshape(len(grid), len(folds)))
        best = int(results["rank_test_score"].argmin())
        chosen = grid[best]
        state = {
            "cv_results_": results,
            "best_index_": best,
            "best_params_": chosen,
            "best_score_": float(results["mean_test_score"][best]),
            "n_splits_": len(folds),
            "n_features_in_": checked.n_features_in_,
            **{f"{name}_": value for name, value in chosen.items()},
        }
        if self.refit:
            number = np.unravel_index(best, scores.shape[:3])[1]
            with raise_on_overflow():
                state |= self._refit(checked, objectives[number], chosen["alpha"])
        of_refit = (*NOT_ALWAYS_THERE, "n_iter_", "n_skipped_prompts_")
        kept = {n: v for n, v in vars(self).items() if n not in of_refit}
        self.__dict__ = kept | state  # at once, as in the policy
        return self

    def _check_settings(self):
        for name in ("losses", "alphas", "temperatures"):
            values = getattr(self, name)
            if values is not None and len(values) == 0:
                raise ValueError(f"{name} is empty; give at least one to try.")
        for loss in [] if self.losses is None else self.losses:
            if not (isinstance(loss, BaseLoss) or loss in LOSSES):
                raise ValueError(
                    f"losses must hold loss objects, or names among "
                    f"{', '.join(LOSSES)}; got {loss!r}."
                )
        for alpha in self.alphas:
            if not (isinstance(alpha, Real) and 0 <= float(alpha) < np.inf):
                raise ValueError(
                    f"alphas must be finite numbers of 0 or more; got {alpha!r}."
                )
        for temperature in self.temperatures:
            check_temperature(temperature)

    def _losses(self, rewards):
        """Losses to try with these rewards."""
        if self.losses is None:
            in_range = rewards.min() >= 0 and rewards.max() <= 1
            return list(DEFAULT_LOSSES if in_range else DEFAULT_LOSSES[:-1])
        for loss in self.losses:
            get_loss(loss).check_rewards(rewards)
        return list(self.losses)

    def _objective(self, data, loss):
        """Objective of all prompts for a loss."""
        policy = QProbePolicy(loss, fit_intercept=self.fit_intercept)
        return policy._make_objective(
            data.X, data.layout, data.rewards, data.sample_weight, get_loss(loss)
        )

    def _scores_of(self, objective, folds):
        """Scores of a loss: (n_alphas, n_temperatures, n_folds)."""
        layout = objective.layout
        in_fold = [
            layout.to_prompt_order(train)[layout.offsets[:-1]] for train, _ in folds
        ]
        grid = GridObjective(objective, np.array(in_fold), self.alphas)
        if hasattr(objective.loss, "least_squares"):
            thetas = solve_closed_form_grid(grid)
        else:
            thetas, converged = minimize_lbfgs_grid(
                grid, tol=self.tol, max_iter=self.max_iter
            )
            if not converged.all():
                warnings.warn(
                    f"{(~converged).sum()} of the {len(converged)} fits by "
                    f"{objective.loss} did not converge in max_iter={self.max_iter} "
                    "iterations. Increase max_iter or tol, or leave out the smallest "
                    "of alphas.",
                    ConvergenceWarning,
                    stacklevel=4,
                )
        coefs, intercepts = grid.split(thetas)
        coefs = downcast(coefs, objective.dtype)
        values = grid.scores(coefs)
        scores = np.empty((len(self.alphas), len(self.temperatures), len(folds)))
        for number in range(grid.n_objectives):
            fold, i = divmod(number, len(self.alphas))
            held_out = folds[fold][1]
            for j, temperature in enumerate(self.temperatures):
                if self.scoring is None:
                    score = held_out.reward(values[number], temperature)
                else:
                    policy = QProbePolicy(objective.loss, temperature=temperature)
                    policy.coef_ = coefs[number]
                    policy.intercept_ = float(intercepts[number])
                    policy.n_features_in_ = objective.n_features
                    score = held_out.call(self.scoring, policy)
                scores[i, j, fold] = score
        return scores

    def _refit(self, checked, objective, alpha):
        """Fitted attributes of the policy that is fitted to all prompts."""
        objective.alpha = alpha
        theta, n_iter = np.zeros(objective.n_parameters), 1
        if hasattr(objective.loss, "least_squares"):
            if objective.prompt_weight.any():
                theta = solve_closed_form(objective)
        else:
            options = {"tol": self.tol, "max_iter": self.max_iter}
            theta, n_iter = minimize_lbfgs(objective, theta, **options)
        return fitted_state(checked, objective)(theta) | {"n_iter_": n_iter}

    def __sklearn_is_fitted__(self):
        return hasattr(self, "coef_")


@dataclass(frozen=True)
class _Data:
    """The training data, checked: X as rows, and `rewards` in their leading shape."""

    X: np.ndarray
    layout: Layout
    rewards: np.ndarray
    groups: Any
    sample_weight: Any

    @cached_property
    def weighted(self):
        """Layout without what has weight 0, weights of prompts and of candidates."""
        return weighted_layout(self.layout, self.sample_weight)

    def splits(self, cv, X):
        """Yield masks of rows, (n_rows,), to train on and to score on."""
        by_prompt = cv is None or isinstance(cv, Integral)
        n = self.layout.n_prompts if by_prompt else self.layout.shape[0]
        arguments = (np.zeros(n),) if by_prompt else (X, self.rewards, self.groups)
        for sides in check_cv(cv).split(*arguments):
            masks = []
            for side in sides:
                mask = np.zeros(n, dtype=bool)
                mask[side] = True
                if by_prompt or len(self.layout.shape) == 2:
                    mask = self.layout.to_user_order(
                        repeat_per_prompt(mask, self.layout.offsets)
                    )
                self._check_whole_prompts(mask)
                masks.append(mask.reshape(-1))
            yield masks

    def _check_whole_prompts(self, mask):
        inside = segment_sum(
            self.layout.to_prompt_order(mask).astype(int), self.layout.offsets
        )
        if (inside % self.layout.sizes).any():
            raise ValueError(
                "cv parts the candidates of a prompt between training and scoring. "
                "Use an int, or a splitter that minds groups, such as GroupKFold."
            )

    def held_out(self, mask):
        """Make the held-out prompts of a fold."""
        layout, prompt_weight, candidate_weight = self.weighted
        of_row = layout.to_prompt_order(mask)
        kept = layout.keep(of_row)
        return _HeldOut(
            self,
            mask,
            np.flatnonzero(of_row),
            kept,
            kept.to_prompt_order(self.rewards),
            prompt_weight[of_row[layout.offsets[:-1]]],
            None
            if candidate_weight is None
            else kept.to_prompt_order(candidate_weight),
        )


@dataclass(frozen=True)
class _HeldOut:
    """The prompts that a fold scores on; arrays lie prompt by prompt."""

    data: _Data
    mask: np.ndarray
    rows: np.ndarray
    layout: Layout
    rewards: np.ndarray
    prompt_weight: np.ndarray
    candidate_weight: np.ndarray | None

    def reward(self, values, temperature):
        """Compute the expected reward of the choice by values of all rows."""
        if not self.layout.grouped:
            return np.nan
        if not self.prompt_weight.any():
            raise ValueError(
                "sample_weight is zero for all prompts that a fold of cv is scored on. "
                "Leave these prompts out of X, or use another cv."
            )
        rewards = choice_reward(
            values[self.rows],
            self.rewards,
            self.layout,
            temperature,
            self.candidate_weight,
        )
        return weighted_mean(mean_terms(rewards), self.prompt_weight)

    def call(self, scoring, policy):
        """Score by a function of the user's own."""
        layout, X, y = self.data.layout, self.data.X[self.mask], self.data.rewards
        if len(layout.shape) == 2:
            k = layout.shape[1]
            return scoring(
                policy,
                X.reshape(-1, k, X.shape[1]),
                y[self.mask.reshape(y.shape)[:, 0]],
            )
        groups = self.data.groups
        if groups is None:
            return scoring(policy, X, y[self.mask])
        groups = [
            label for label, inside in zip(groups, self.mask, strict=True) if inside
        ]
        return scoring(policy, X, y[self.mask], groups=groups)


def _results(settings, scores):
    """Make `cv_results_` of scores, (n_settings, n_folds)."""
    results: dict[str, Any] = {"params": settings}
    for name in settings[0]:
        values = np.empty(len(settings), dtype=object)
        values[:] = [setting[name] for setting in settings]
        results[f"param_{name}"] = values
    for number, fold_scores in enumerate(scores.T):
        results[f"split{number}_test_score"] = fold_scores
    mean = scores.mean(axis=1)
    results["mean_test_score"] = mean
    results["std_test_score"] = scores.std(axis=1)
    worst = np.nan_to_num(mean, nan=-np.inf)
    results["rank_test_score"] = rankdata(-worst, method="min").astype(np.int32)
    return results
