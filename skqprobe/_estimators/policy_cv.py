"""QProbePolicyCV: a policy that selects its settings by cross-validation."""

from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.model_selection import ParameterGrid

from skqprobe._arrays.magnitude import downcast, raise_on_overflow
from skqprobe._arrays.threads import threads_for
from skqprobe._arrays.views import view_weights_by_name
from skqprobe._candidates.choice import check_objective_weights, check_temperature
from skqprobe._candidates.validation import no_groups
from skqprobe._estimators._fit import (
    TrainingData,
    check_loss,
    check_training_data,
    fitted_attributes,
    make_grid,
    make_objectives,
    max_iterations,
    minimize,
    set_fitted,
    solver_options,
    warn_unless_converged,
)
from skqprobe._estimators._folds import NO_HELD_OUT_WEIGHT, Folds, make_folds
from skqprobe._estimators._view_search import choose_view_weights
from skqprobe._estimators.policy import QProbePolicy
from skqprobe._solvers import minimize_lbfgs, solve_ridge_grid
from skqprobe._utils.callbacks import Iterations, begin_fit
from skqprobe._utils.sklearn_compat import (
    FloatInterval,
    Interval,
    StrOptions,
    _fit_context,
    with_callbacks,
)
from skqprobe._utils.warn import warn_user
from skqprobe.losses import LOSSES, BaseLoss, get_loss

COMPARING_LOSS = "pairwise_logistic"
REGRESSING_LOSS, REGRESSING_LOSS_OF_SHARES = "contrastive_policy_gradient", "log_loss"
"""Losses that are tried by default; the last one for rewards in [0, 1]. On the data of
docs/guide/choosing.md, one of them is near the best."""


class QProbePolicyCV(QProbePolicy):
    """Policy that selects its loss, penalty and temperature by cross-validation.

    It finds the same settings as ``GridSearchCV(QProbePolicy(), {"loss": losses,
    "alpha": alphas, "temperature": temperatures})`` with folds of whole prompts, in a
    small fraction of the time. The probes of all folds and penalties are the columns of
    one matrix and share each read of X; a temperature needs no fit; and least squares
    are solved from sums over prompts that the folds share.

    Parameters
    ----------
    losses : tuple of str or BaseLoss, default=None
        Losses to try, see `QProbePolicy`. None tries "pairwise_logistic", and also
        "log_loss" if all rewards are in [0, 1], else "contrastive_policy_gradient".
    alphas : tuple of float, default=(10.0, 1.0, 0.1, 0.01, 0.001, 0.0001, 0.00001)
        Strengths of the penalty to try, in [0, inf). Of settings with equal scores the
        first is selected, so list the strongest penalty first.
    temperatures : tuple of float, default=(0.0,)
        Temperatures to try in `fit`, in [0, inf], in units of Q. After it,
        ``set_params(temperature=...)`` changes the temperature of the choice.
    cv : int, splitter or iterable, default=None
        Cross-validation splits of the prompts. An int is the number of folds, of
        consecutive prompts; None means 5. A splitter, or an iterable of (train, test)
        indices, splits the first axis of X, and receives `groups`. For rows it must
        keep the candidates of a prompt together, as GroupKFold does.
    scoring : callable, default=None
        Called as ``scoring(policy, X, y)``, with ``groups=groups`` for rows; higher is
        better. The scorers of :mod:`skqprobe.metrics` have this signature. None uses
        the expected reward of the choice at the temperature, as `score` does.
    select_alpha : {"score", "loss"}, default="score"
        Selection of the penalty. "score" selects the loss, the penalty and the
        temperature with the highest mean score, as GridSearchCV does. "loss" first
        selects a penalty for each loss: the largest one whose mean held-out loss is at
        most one standard error, over the folds, above the smallest. The loss and the
        temperature are then selected by the mean score. The score of a choice varies
        more between prompts than the loss, so that "loss" is the better choice with
        few prompts.
    refit : bool, default=True
        Whether to fit a policy with the best setting to all prompts. Without it, the
        estimator cannot predict.
    objective_weights : array-like of shape (n_objectives,), default=None
        Weights of the objectives, of any sign and in units of their rewards, if `y` has
        several per candidate: the value of a candidate is the weighted sum of theirs.
        None weights them equally, as their mean. Like `temperature`, only the choice
        uses them, so that they may be changed after `fit`.
    fit_intercept : bool, default=True
        Whether "squared_error" and "log_loss" have an intercept.
    standardize : bool, default=False
        Whether to train on columns minus their mean and divided by their standard
        deviation over the candidates of `fit`, as from
        ``PerCandidate(StandardScaler())``. The coefficients are those of X as it is,
        which is not copied.
    view_sizes : tuple of int, dict or list of str, default=None
        Views of X, if it has several embeddings side by side: the number of columns of
        each, in order; or by name, this number or the columns, selected as in
        ColumnTransformer; or the name of each column, "view__column". None takes the
        views that X carries from an embedder or a transformer, or one view.
    view_weights : array-like of shape (n_views,) or dict, default=None
        Weights of the views, in (0, inf): the penalty of a view is `alpha` divided by
        its weight. None chooses them, if there are several views, by the error of ridge
        regression with a penalty per view, on the same folds: from at most about 33,000
        candidates, and before the other settings.
    max_iter : int, default=1000
        Maximum number of iterations of a fit.
    tol : float, default=1e-4
        Tolerance of a fit, see `QProbePolicy`.
    missing : {"raise", "ignore"}, default="raise"
        Treatment of candidates without a reward, whose y is NaN, None or NA. If
        "raise", they raise an error, unless their `sample_weight` is 0. If "ignore",
        `fit` and `score` leave them out. Of several objectives, all are needed.
    random_state : int, RandomState instance or None, default=None
        Seed or generator of the draws of `sample`.

    Attributes
    ----------
    loss_ : str or BaseLoss
        Selected loss.
    alpha_ : float
        Selected strength of the penalty.
    alpha_edge_ : {"smallest", "largest"} or None
        Whether the selected penalty is the smallest or the largest of several in
        `alphas`: others beyond it may be better.
    temperature_ : float
        Temperature of `predict_proba`, `sample` and `score`: the selected one, unless
        ``set_params(temperature=...)`` was called after `fit`.
    view_weights_ : dict of float or None
        Weights of the views by name; None if there is one view.
    best_params_ : dict
        The first three, under their names in `QProbePolicy`.
    best_score_ : float
        Mean score of this setting over the folds. As the best of many, it is
        optimistically biased.
    best_index_ : int
        Index of this setting in `cv_results_`.
    cv_results_ : dict of ndarray
        As in GridSearchCV: `params`, `param_loss` and so on, `split0_test_score` and so
        on, `mean_test_score`, `std_test_score`, `rank_test_score`. There are no times,
        since the fits run together. With ``select_alpha="loss"``, also
        `split0_held_out_loss` and so on, and `mean_held_out_loss`.
    n_splits_ : int
        Number of folds.
    coef_, intercept_, n_iter_, n_skipped_prompts_
        Attributes of the refitted policy, see `QProbePolicy`.
    n_features_in_ : int
        Number of features, the last axis of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if X was a data frame with string column names.
    objective_names_ : ndarray of shape (n_objectives,)
        Names of the objectives, if `y` was a data frame with string column names, or
        has them from :func:`~skqprobe.generators.load_records`.

    See Also
    --------
    QProbePolicy : Policy with given settings, also with hidden layers.
    make_probe_pipeline : Pipeline with the recommended steps before it.

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
        "select_alpha": [StrOptions({"score", "loss"})],
        "refit": ["boolean"],
        "objective_weights": ["array-like", None],
        "fit_intercept": ["boolean"],
        "standardize": ["boolean"],
        "view_sizes": ["array-like", dict, None],
        "view_weights": ["array-like", dict, None],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [FloatInterval(Real, 0, None, closed="neither")],
        "missing": [StrOptions({"raise", "ignore"})],
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
        select_alpha="score",
        refit=True,
        objective_weights=None,
        fit_intercept=True,
        standardize=False,
        view_sizes=None,
        view_weights=None,
        max_iter=1000,
        tol=1e-4,
        missing="raise",
        random_state=None,
    ):
        self.losses = losses
        self.alphas = alphas
        self.temperatures = temperatures
        self.cv = cv
        self.scoring = scoring
        self.select_alpha = select_alpha
        self.refit = refit
        self.objective_weights = objective_weights
        self.fit_intercept = fit_intercept
        self.standardize = standardize
        self.view_sizes = view_sizes
        self.view_weights = view_weights
        self.max_iter = max_iter
        self.tol = tol
        self.missing = missing
        self.random_state = random_state

    @property
    def loss(self):
        """Selected loss, under the name in QProbePolicy."""
        return self.loss_

    @property
    def temperature(self):
        """Temperature of the choice, under the name in QProbePolicy."""
        return self.temperature_

    @temperature.setter
    def temperature(self, temperature):
        if not hasattr(self, "temperature_"):
            raise ValueError(
                "temperature is selected by fit, among temperatures: set it after fit, "
                "or set temperatures."
            )
        check_temperature(temperature)
        self.temperature_ = temperature

    def set_params(self, **params):
        """Set parameters, or the temperature of the choice after `fit`.

        Parameters
        ----------
        **params : dict
            Parameters of the constructor, which the next `fit` uses, and `temperature`,
            which holds until then.

        Returns
        -------
        self : object
            Estimator.
        """
        if "temperature" in params:
            self.temperature = params.pop("temperature")
        return super().set_params(**params)

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, groups=None, *, sample_weight=None):
        """Try all settings, and fit the best one to all prompts.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        y : array-like of shape (n_prompts, k) or (n_rows,)
            Rewards; or several per candidate, one per objective, along a last axis.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets, where it may have shape (n_prompts,) and is passed to the splitter.
        sample_weight : array-like, default=None
            Non-negative number of copies of each candidate, of shape (n_prompts, k), or
            (n_rows,) with `groups`; or of each prompt, of shape (n_prompts,), or
            (n_rows,) without `groups`. It weights the scores, too, except those of
            `scoring`.

        Returns
        -------
        self : object
            Fitted estimator.

        Raises
        ------
        ValueError
            If an argument has the wrong shape or values, or a fold splits the
            candidates of a prompt. The estimator is then unchanged.

        Warns
        -----
        ConvergenceWarning
            If some of the fits did not converge.
        """
        self._check_settings()
        data = check_training_data(self, X, y, groups, sample_weight)
        on_host = isinstance(data, TrainingData) and isinstance(data.X, np.ndarray)
        if self.scoring is not None and not on_host:
            raise ValueError(
                "scoring is called with numpy arrays, but X is not one. Use "
                "scoring=None, or convert X to numpy."
            )
        if self.scoring is None and not data.grouped:
            warn_user(no_groups())
        losses = self._losses(data)
        weights = check_objective_weights(
            self.objective_weights, len(data.rewards_by_name)
        )
        if isinstance(data, TrainingData):
            folds = Folds(*make_folds(data, groups, sample_weight, self.cv, X))
        else:
            folds = data.make_folds(self.cv)
        view_weights = self._choose_view_weights(data, sample_weight, folds, weights)
        settings = {"alpha": self.alphas, "loss": losses}
        settings["temperature"] = self.temperatures
        grid = ParameterGrid({name: list(values) for name, values in settings.items()})

        metadata = {"groups": groups, "sample_weight": sample_weight}
        task = begin_fit(self, X, y, len(losses) + 1, **metadata)
        problems, found = [], []
        for loss in losses:
            search = task.subtask("search")
            problems.append(
                make_objectives(
                    data,
                    get_loss(loss),
                    sample_weight,
                    alpha=0.0,
                    fit_intercept=self.fit_intercept,
                    standardize=self.standardize,
                    view_weights=view_weights,
                )
            )
            arguments = problems[-1], data, folds, weights
            found.append(self._cross_validate(loss, *arguments))
            search.end()
        of_losses, of_held_out, ends = zip(*found, strict=True)
        # Settings vary in the order of ParameterGrid: alpha, loss, temperature.
        scores = np.stack(of_losses, axis=1)
        results = _cv_results(list(grid), scores.reshape(len(grid), -1))
        mean = results["mean_test_score"]
        if data.grouped and np.isnan(mean).all():
            raise ValueError(
                "All settings have a mean score of NaN, so none is the best. Check "
                "that scoring returns numbers for every fold of cv."
            )
        ranks = results["rank_test_score"]
        if self.select_alpha == "loss":
            held_out = np.stack(of_held_out, axis=1).repeat(scores.shape[2], axis=1)
            results |= _held_out_results(held_out.reshape(len(grid), -1))
            is_selected = _strongest_within_error(held_out, self.alphas)
            ranks = np.where(is_selected.reshape(-1), ranks, len(grid) + 1)
        best = int(ranks.argmin())
        attributes = {
            "cv_results_": results,
            "best_index_": best,
            "best_params_": grid[best],
            "best_score_": float(mean[best]),
            "n_splits_": folds.n_folds,
            "view_weights_": view_weights,
            "alpha_edge_": _edge(grid[best]["alpha"], self.alphas),
            **{f"{name}_": value for name, value in grid[best].items()},
        }
        if self.refit:
            i, j, _ = np.unravel_index(best, scores.shape[:3])
            for objective in problems[j]:
                objective.alpha = float(grid[best]["alpha"])
            end = None if ends[j] is None else ends[j][i]
            attributes |= self._refit(data, problems[j], attributes, task, end)
        attributes |= data.features
        task.end(attributes if self.refit else None)
        return set_fitted(self, attributes)

    def _choose_view_weights(self, data, sample_weight, folds, objective_weights):
        """Weights of the views by name, given or chosen; None of a single one."""
        if len(data.views) == 1 and self.view_weights is None:
            return None
        if self.view_weights is not None:
            return view_weights_by_name(self.view_weights, data.views)
        scale = data.columns[1] if self.standardize else 1.0
        sample = folds.sample_prompts(data, sample_weight, objective_weights)
        return choose_view_weights(sample, data.views, scale)

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
            if not FloatInterval(Real, 0, np.inf, closed="left").is_satisfied_by(alpha):
                raise ValueError(
                    f"alphas must be finite numbers of 0 or more; got {alpha!r}."
                )
        for temperature in self.temperatures:
            check_temperature(temperature)

    def _losses(self, data):
        """Losses to try with the rewards of the data."""
        if self.losses is None:
            in_range = data.rewards.min() >= 0 and data.rewards.max() <= 1
            regressing = REGRESSING_LOSS_OF_SHARES if in_range else REGRESSING_LOSS
            return [COMPARING_LOSS, regressing]
        for loss in self.losses:
            check_loss(get_loss(loss), data)
        return list(self.losses)

    def _cross_validate(self, loss, objectives, data, folds, weights):
        """Scores of a loss, of shape (n_alphas, n_temperatures, n_folds).

        And its held-out losses, of shape (n_alphas, n_folds), if these select the
        penalty; and its parameters for all prompts per penalty, if it has a closed
        form, whose sums of X'X are those of the folds.
        """
        n_folds, held_out, end = folds.n_folds, None, None
        has_closed_form = hasattr(get_loss(loss), "least_squares")
        with_all = has_closed_form and self.refit
        grid = make_grid(objectives, folds.train_with(with_all), self.alphas)
        with raise_on_overflow(), threads_for(objectives[0].X):
            # Of all folds and penalties, those of the objectives together.
            thetas = self._minimize_grid(grid)
            thetas = thetas.reshape(grid.n_folds, len(weights), len(self.alphas), -1)
            thetas = thetas.swapaxes(1, 2)
            if with_all:
                thetas, end = thetas[:n_folds], thetas[n_folds]
            thetas = thetas.reshape(-1, *thetas.shape[2:])
            if self.select_alpha == "loss":
                held_out = folds.losses(grid, thetas, np.abs(weights))
                if np.isnan(held_out).any():
                    raise ValueError(NO_HELD_OUT_WEIGHT)
            coefs = downcast(grid.split(thetas)[0], grid.objective.dtype)
            coefs = np.einsum("j,njd->nd", weights, coefs)
            if self.scoring is None:
                rewards = folds.rewards(grid, coefs, self.temperatures, weights)
                return rewards, held_out, end
        scores = np.empty((len(self.alphas), len(self.temperatures), n_folds))
        for number, of_objectives in enumerate(thetas):
            fold, i = divmod(number, len(self.alphas))
            for j, temperature in enumerate(self.temperatures):
                policy = QProbePolicy(
                    loss,
                    alpha=self.alphas[i],
                    temperature=temperature,
                    objective_weights=self.objective_weights,
                    fit_intercept=self.fit_intercept,
                    max_iter=self.max_iter,
                    tol=self.tol,
                    missing=self.missing,
                )
                set_fitted(
                    policy, fitted_attributes(data, objectives, of_objectives, 1)
                )
                score = folds.held_out[fold].score(self.scoring, policy)
                scores[i, j, fold] = score
        return scores, held_out, end

    def _minimize_grid(self, grid):
        """Parameters of all fits of a grid, of shape (n_objectives, n_parameters)."""
        if hasattr(grid.objective.loss, "least_squares"):
            return solve_ridge_grid(grid)
        options = solver_options(self.tol, self.max_iter)
        state = minimize_lbfgs(grid, **options)
        warn_unless_converged(
            state.converged,
            grid.objective.loss,
            self.max_iter,
            "remove the smallest alphas",
        )
        return state.thetas

    def _refit(self, data, objectives, attributes, task, end):
        """Fit the best setting to all prompts, and add the fitted attributes.

        `end` are the parameters, if the search has found them.
        """

        def state(thetas, n_iter):
            return attributes | fitted_attributes(data, objectives, thetas, n_iter)

        refit = task.subtask("refit", max_iterations(objectives, self))
        iterations = Iterations(refit, state)
        if end is not None:
            thetas, n_iter = end, 1
            if iterations.callback is not None:
                grid = make_grid(objectives)
                value, _ = grid.value_and_gradient(thetas, range(len(thetas)))
                iterations.callback(thetas, value.sum())
        else:
            thetas, n_iter = minimize(
                objectives,
                "lbfgs",
                np.zeros((len(objectives), objectives[0].n_parameters)),
                tol=self.tol,
                max_iter=self.max_iter,
                on_iteration=iterations.callback,
            )
        attributes = state(thetas, n_iter)
        iterations.end(attributes)
        return attributes

    def __sklearn_is_fitted__(self):
        return hasattr(self, "coef_")


def _edge(alpha, alphas):
    """Name the edge of several penalties at which the selected one is, or None."""
    if min(alphas) == max(alphas):
        return None
    return {min(alphas): "smallest", max(alphas): "largest"}.get(alpha)


def _strongest_within_error(losses, alphas):
    """Find the penalties that `select_alpha="loss"` selects, (n_alphas, n).

    `losses` has shape (n_alphas, n, n_folds).
    """
    best = losses.mean(axis=2).argmin(axis=0)
    excess = losses - losses[best, np.arange(len(best))]
    error, n_folds = 0.0, losses.shape[2]
    if n_folds > 1:
        error = excess.std(axis=2, ddof=1) / np.sqrt(n_folds)
    is_near = excess.mean(axis=2) <= error
    strengths = np.asarray(alphas, dtype=np.float64)[:, None]
    strongest = np.where(is_near, strengths, -1.0).argmax(axis=0)
    return np.arange(len(losses))[:, None] == strongest


def _held_out_results(losses):
    """Make the columns of `cv_results_` from losses of shape (n_settings, n_folds)."""
    results = {f"split{i}_held_out_loss": each for i, each in enumerate(losses.T)}
    return results | {"mean_held_out_loss": losses.mean(axis=1)}


def _cv_results(settings, scores):
    """Make `cv_results_` from scores of shape (n_settings, n_folds)."""
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
