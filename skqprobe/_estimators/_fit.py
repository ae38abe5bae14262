"""The fit that all estimators share: check data, make objectives, minimize them."""

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from sklearn.base import is_regressor
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state

from skqprobe._arrays.collections import is_collection
from skqprobe._arrays.columns import fit_scaler
from skqprobe._arrays.device import to_namespace_of
from skqprobe._arrays.magnitude import (
    LARGEST,
    LARGEST_SINGLE,
    SMALLEST,
    SMALLEST_SINGLE,
    check_magnitude,
    downcast,
    raise_on_overflow,
)
from skqprobe._arrays.threads import threads_for
from skqprobe._arrays.views import check_views, column_weights
from skqprobe._candidates.layout import Layout, check_layout
from skqprobe._candidates.segments import (
    repeat_per_prompt,
    segment_max,
    segment_sum,
)
from skqprobe._candidates.validation import (
    NO_KNOWN_WEIGHT,
    check_candidates,
    check_limits,
    check_numbers,
    check_rewards,
    check_weights,
    no_groups,
    order_as_fitted,
    raise_unless_finite,
)
from skqprobe._objectives.base import Objective
from skqprobe._objectives.distributed import DistributedGrid, DistributedObjective
from skqprobe._objectives.grid import GridObjective, WholeGrid
from skqprobe._objectives.linear import LinearObjective
from skqprobe._objectives.network import NetworkObjective
from skqprobe._solvers import (
    minimize_adam,
    minimize_lbfgs,
    solve_ridge_grid,
)
from skqprobe._utils.warn import warn_user

NOTHING_TO_LEARN = (
    "No prompt is informative for loss={!r}: it compares the candidates of a prompt, "
    "and needs prompts with at least two candidates (a pairwise loss, with two "
    "different rewards; conditional_logit, with a choice). All coefficients are zero."
)


NO_REWARDS = "y is NaN everywhere: no candidate has a reward."


@dataclass(frozen=True)
class TrainingData:
    """Checked training data.

    Parameters
    ----------
    X : ndarray or DeviceArray of shape (n_rows, d)
        Embeddings in user order.
    layout : Layout
        Layout of the candidates.
    rewards : ndarray of float64, in the layout's shape, or with a last axis
        Rewards in user order, of one objective or several. For a candidate without a
        reward, that of another one.
    known : ndarray of bool, in the layout's shape, or None
        Whether each candidate has a reward; None if all have.
    features : dict
        Attributes `n_features_in_`, `feature_names_in_` if X has names,
        `objective_names_` if y has names, and `_mean_group_size_`, of rows whose
        prompts differ in size.
    views : dict of ndarray of int
        Columns of each view of X, by name.
    """

    X: Any
    layout: Layout
    rewards: np.ndarray
    known: np.ndarray | None
    features: dict
    views: dict

    @property
    def n_features(self):
        """Number of columns of X."""
        return self.X.shape[1]

    @property
    def grouped(self):
        """Whether rows share prompts."""
        return self.layout.grouped

    @property
    def is_vector(self):
        """Whether the rewards have an axis of objectives."""
        return self.rewards.ndim > len(self.layout.shape)

    @cached_property
    def rewards_by_name(self):
        """Rewards of each objective, in the layout's shape, by the name in messages."""
        if not self.is_vector:
            return {"y": self.rewards}
        columns = np.ascontiguousarray(np.moveaxis(self.rewards, -1, 0))
        return {f"y[..., {j}]": column for j, column in enumerate(columns)}

    @cached_property
    def columns(self):
        """Mean and scale of the columns of X, those of StandardScaler."""
        scaler = fit_scaler(StandardScaler(), self.X)
        return scaler.mean_, scaler.scale_


def check_training_data(
    estimator, X, y, groups, sample_weight=None, *, reset=True, is_part=False
):
    """Validate training data, without a change to the estimator.

    Parameters
    ----------
    estimator : estimator
        Estimator to be fitted, for error messages.
    X, y, groups, sample_weight : array-like
        Arguments of `fit`.
    reset : bool, default=True
        Whether X and y may have other features and objectives than in the last fit.
    is_part : bool, default=False
        Whether the data are a part, for which fewer conditions hold than for all.

    Returns
    -------
    data : TrainingData, or PartitionedData for a Dask collection
    """
    if y is None:
        raise ValueError(
            f"{type(estimator).__name__} requires y to be passed, but the target y is "
            "None. Pass one reward per candidate: for pairs (chosen, rejected), y is "
            "np.tile([1.0, 0.0], (n_pairs, 1))."
        )
    if is_collection(X):
        from skqprobe._estimators._partitions import check_partitioned_data

        return check_partitioned_data(estimator, X, y, groups, sample_weight, reset)
    checked, X_in = copy.copy(estimator), X
    X, shape = check_candidates(checked, X, reset=reset)
    view_sizes = getattr(estimator, "view_sizes", None)
    views = check_views(view_sizes, X_in, X.shape[1])
    if X.dtype == np.float64 and isinstance(X, np.ndarray):
        check_limits(X, shape, 0.0 if is_part else SMALLEST, LARGEST)
    else:  # squares of smaller types fit in float64
        raise_unless_finite(X, shape)
    layout = check_layout(shape, groups)
    rewards, objective_names = check_rewards(y, shape, allow_nan=True)
    if not reset:
        rewards = order_as_fitted(rewards, objective_names, estimator)
        objective_names = getattr(estimator, "objective_names_", None)
    known = known_rewards(rewards, layout, sample_weight, estimator.missing, is_part)
    if known is not None:  # of the candidates left out, the numbers must be valid only
        filled = known.reshape(*shape, *[1] * (rewards.ndim - len(shape)))
        rewards = np.where(filled, rewards, rewards[known][0] if known.any() else 0)
    names = ("n_features_in_", "feature_names_in_")
    features = {name: vars(checked)[name] for name in names if name in vars(checked)}
    if objective_names is not None:
        features["objective_names_"] = objective_names
    if len(shape) == 1 and layout.grouped and np.ptp(layout.sizes):
        features["_mean_group_size_"] = float(layout.sizes.mean())
    data = TrainingData(X, layout, rewards, known, features, views)
    if not is_part:
        warn_of_column(estimator, shape, rewards.shape)
        check_reward_magnitudes(data.rewards_by_name, X.dtype)
    return data


def warn_of_column(estimator, shape, y_shape):
    """Warn of rewards in a column, which scikit-learn's regressors flatten."""
    if is_regressor(estimator) and len(shape) == 1 and y_shape[1:] == (1,):
        warn_user(
            "A column-vector y was passed when a 1d array was expected. It is fitted "
            "as rewards with one objective; for a coef_ of one dimension, pass "
            "y.ravel().",
            DataConversionWarning,
        )


def check_reward_magnitudes(rewards_by_name, dtype):
    """Raise unless rewards are in the range of the type of X."""
    for name, values in rewards_by_name.items():
        if dtype == np.float64:
            check_magnitude(values, name, SMALLEST)
        else:
            hint = f", or pass X in float64 instead of {dtype}"
            check_magnitude(values, name, SMALLEST_SINGLE, LARGEST_SINGLE, hint)


def check_loss(loss, data):
    """Raise unless a loss is defined for the rewards of all objectives."""
    if not isinstance(data, TrainingData):
        return data.check_loss(loss)
    for name, rewards in data.rewards_by_name.items():
        try:
            loss.check_rewards(rewards)
        except ValueError as error:
            if not data.is_vector:
                raise
            raise ValueError(
                f"{name}, an objective of y, is invalid: {error}"
            ) from None


def known_rewards(rewards, layout, sample_weight, missing, is_part=False):
    """Find the candidates with a reward, of all objectives.

    Parameters
    ----------
    rewards : ndarray in user order, with or without a last axis of objectives
        Rewards, with NaN for those that are missing.
    layout : Layout
        Layout of the candidates.
    sample_weight : array-like or None
        Weights: a candidate of weight 0 needs no reward.
    missing : {"raise", "ignore"}
        Parameter of the estimators.
    is_part : bool, default=False
        Whether no candidate needs a reward, since others may have one.

    Returns
    -------
    known : ndarray of bool, in the layout's shape, or None if all have a reward
    """
    known = ~np.isnan(rewards.reshape(*layout.shape, -1)).any(axis=-1)
    if known.all():
        return None
    if missing == "raise":
        of_prompt, weight = check_weights(sample_weight, layout, is_part)
        if weight is None:
            weight = repeat_per_prompt(of_prompt, layout.offsets)
            weight = layout.to_user_order(weight)
        needed = np.where((weight.T == 0) & ~known.T, 0, rewards.T).T
        is_rows = len(layout.shape) == 1
        what = "row out" if is_rows else "candidate out, as rows with groups"
        check_numbers(needed, "y", f"Leave the {what}, or set missing='ignore'.")
    if not (known.any() or is_part):
        raise ValueError(NO_REWARDS)
    return known


def weighted_layout(layout, sample_weight, known=None, is_part=False):
    """Leave out candidates of weight 0, and prompts without other candidates.

    Candidates without a reward, where `known` is False, have weight 0.

    Returns
    -------
    layout : Layout
        Layout of the remaining candidates.
    prompt_weight : ndarray of shape (layout.n_prompts,)
        Weights of the prompts; some may be 0.
    candidate_weight : ndarray in user order, or None
        Weights of all candidates.
    """
    prompt_weight, candidate_weight = check_weights(sample_weight, layout, is_part)
    used = True if candidate_weight is None else candidate_weight > 0
    used = used if known is None else used & known
    if not np.all(used):
        used = layout.to_prompt_order(used)
        prompt_weight = prompt_weight[segment_max(used, layout.offsets)]
        layout = layout.keep(used)
    return layout, prompt_weight, candidate_weight


def make_objectives(
    data,
    loss,
    sample_weight=None,
    *,
    alpha,
    fit_intercept,
    n_candidates=None,
    hidden_layer_sizes=(),
    standardize=False,
    view_weights=None,
    random_state=None,
):
    """Make the objectives of training data.

    Parameters
    ----------
    data : TrainingData
        Training data.
    loss : BaseLoss
        Loss.
    sample_weight : array-like, default=None
        Weights of candidates or prompts.
    alpha, fit_intercept, n_candidates, hidden_layer_sizes, standardize, view_weights,
    random_state
        Parameters of the estimators.

    Returns
    -------
    objectives : list of LinearObjective, or of one NetworkObjective
        Objectives of linear probes, one per reward of a candidate; or that of the
        network for all of them. If no prompt is informative for a reward, all prompts
        have weight 0, with a warning.
    """
    settings = {"alpha": float(alpha), "fit_intercept": fit_intercept}
    if len(hidden_layer_sizes) and not isinstance(data, TrainingData):
        raise ValueError(
            "Hidden layers are trained in one process, but X is a Dask collection. "
            "Pass X.compute(), or use hidden_layer_sizes=()."
        )
    settings["columns"] = _columns(data, standardize, view_weights)
    if n_candidates is not None:
        random_state = check_random_state(random_state)
    if not isinstance(data, TrainingData):
        objectives = data.make_objectives(loss, n_candidates, random_state, settings)
        size = min(n_candidates or data.max_size, data.max_size)
        has_choice = not loss.shift_invariant or size > 1
    else:
        weighted = weighted_layout(data.layout, sample_weight, data.known)
        if not weighted[1].any():
            raise ValueError(NO_KNOWN_WEIGHT)
        layout, arguments, origin = split_candidates(
            weighted, n_candidates, random_state
        )
        make = Objective if len(hidden_layer_sizes) else LinearObjective
        objectives = [
            make(data.X, layout, rewards, loss, **each, **settings)
            for rewards, each in informative_rewards(data, loss, layout, arguments)
        ]
        has_choice = not loss.shift_invariant or (layout.sizes > 1).any()
    for name, objective in zip(data.rewards_by_name, objectives, strict=True):
        if not (has_choice and objective.total_weight):
            message = NOTHING_TO_LEARN.format(loss) if data.grouped else no_groups()
            warn_user(f"{name}: {message}" if data.is_vector else message)
            objective.leave_out_all()
    if not len(hidden_layer_sizes):
        return objectives
    sizes = {"hidden_layer_sizes": hidden_layer_sizes, "origin": origin}
    return [NetworkObjective(objectives, **sizes)]


def split_candidates(weighted, n_candidates, random_state):
    """Split the prompts of a weighted layout into sets, if there is an `n_candidates`.

    Returns
    -------
    layout : Layout
        Layout of the sets.
    weights : dict
        Weights of the sets and of their candidates in prompt order, as arguments of
        `Objective`.
    origin : ndarray or None
        Prompt of each set.
    """
    layout, prompt_weight, candidate_weight = weighted
    origin = None
    if n_candidates is not None:
        layout, n_sets = layout.split(n_candidates, random_state)
        origin = np.repeat(np.arange(len(n_sets)), n_sets)
    candidate_weight = layout.to_prompt_order(candidate_weight)
    if n_candidates is not None:
        prompt_weight = _set_weights(prompt_weight, candidate_weight, layout, n_sets)
    weights = {"prompt_weight": prompt_weight, "candidate_weight": candidate_weight}
    return layout, weights, origin


def informative_rewards(data, loss, layout, arguments):
    """Yield the rewards of each objective, and arguments with prompts left out."""
    for values in data.rewards_by_name.values():
        rewards = layout.to_prompt_order(values)
        informative = loss.informative_prompts(rewards, layout.offsets)
        weight = np.where(informative, arguments["prompt_weight"], 0)
        n_skipped = int((~informative).sum())
        yield rewards, arguments | {"prompt_weight": weight, "n_skipped": n_skipped}


def _columns(data, standardize, view_weights):
    """Means and scales of the columns to which the penalty applies, or None.

    A weight w of a view divides its penalty by w: it multiplies the columns by its
    root.
    """
    columns = data.columns if standardize else None
    if view_weights is None:
        return columns
    n_features = data.n_features
    weights = column_weights(view_weights, data.views, n_features)
    mean, scale = (np.zeros(n_features), 1.0) if columns is None else columns
    return mean, scale / np.sqrt(weights)


def _set_weights(prompt_weight, candidate_weight, sets, n_sets):
    """Divide the weights of prompts among their sets, in proportion to the sizes.

    So the mean over sets is a mean over prompts.
    """
    copies = sets.sizes
    if candidate_weight is not None:
        copies = segment_sum(candidate_weight, sets.offsets)
    copies_of_prompt = np.add.reduceat(copies, np.cumsum(n_sets) - n_sets)
    return np.repeat(prompt_weight / copies_of_prompt, n_sets) * copies


def solver_options(tol, max_iter):
    """Convert settings, which may be any numbers, to those that solvers compute with.

    From a tolerance of 1 on, every start has converged.
    """
    return {"tol": min(float(tol), 1.0), "max_iter": int(min(max_iter, 2**31))}


def minimize(
    objectives, solver, thetas, *, tol, max_iter, random_state=None, on_iteration=None
):
    """Minimize objectives.

    Parameters
    ----------
    objectives : list of LinearObjective, or of one NetworkObjective
        Objectives from `make_objectives`.
    solver : {"closed_form", "lbfgs", "adam"}
        Solver.
    thetas : ndarray of shape (n_objectives, n_parameters)
        Starting points.
    tol, max_iter, random_state
        Parameters of the estimators.
    on_iteration : callable, default=None
        Called with (thetas, value) after each iteration of L-BFGS or epoch of Adam;
        returns True to stop. The value is the sum over objectives.

    Returns
    -------
    thetas : ndarray of shape (n_objectives, n_parameters)
        Parameters at the minima.
    n_iter : int
        Number of iterations, at least 1; of several objectives, the largest.
    """
    first = objectives[0]
    if not any(objective.total_weight for objective in objectives):
        return np.zeros_like(thetas), 1
    options = solver_options(tol, max_iter)
    with raise_on_overflow(), threads_for(first.X):
        if solver == "closed_form":
            grid = make_grid(objectives)
            thetas = solve_ridge_grid(grid)
            if on_iteration is not None:
                values, _ = grid.value_and_gradient(thetas, range(len(thetas)))
                on_iteration(thetas, values.sum())
            return thetas, 1
        if solver == "lbfgs":
            grid = make_grid(objectives)
            state = minimize_lbfgs(grid, thetas, on_iteration=on_iteration, **options)
            n_iter = max(int(state.n_iter.max()), 1)
            if len(objectives) > 1:
                warn_unless_converged(state.converged, first.loss, max_iter)
            elif not state.converged[0]:
                warn_user(
                    f"L-BFGS did not converge after {n_iter} iterations (max_iter="
                    f"{max_iter}): the gradient is {state.length[0]:.1e} times as long "
                    f"as at zero, tol={tol:g}. Increase max_iter, or alpha, or tol.",
                    ConvergenceWarning,
                )
            return state.thetas, n_iter

        def callback(theta, value):
            return on_iteration(theta[None], value)

        options["on_iteration"] = None if on_iteration is None else callback
        options["random_state"] = check_random_state(random_state)
        theta, n_iter = minimize_adam(first, thetas[0], **options)
        return theta[None], n_iter


def make_grid(objectives, *folds):
    """Make the grid of objectives, with folds and penalties or of all prompts once."""
    if isinstance(objectives[0], DistributedObjective):
        return DistributedGrid(objectives, *folds)
    return GridObjective(objectives, *folds) if folds else WholeGrid(objectives)


def max_iterations(objectives, estimator):
    """Maximum number of iterations that a fit reports, plus 1; None if unknown.

    Several objectives take their iterations at the same time, but not in step.
    """
    return estimator.max_iter + 1 if len(objectives) == 1 else None


def warn_unless_converged(converged, loss, max_iter, remedy="alpha"):
    """Warn of the fits of a grid that did not converge."""
    if not converged.all():
        warn_user(
            f"{(~converged).sum()} of the {len(converged)} fits by {loss} did not "
            f"converge in max_iter={max_iter} iterations. Increase max_iter or tol, or "
            f"{remedy}.",
            ConvergenceWarning,
        )


def fitted_attributes(data, objectives, thetas, n_iter):
    """Make the fitted attributes of a probe from the parameters of its objectives."""
    first, fitted = objectives[0], data.features | {"n_iter_": n_iter}
    if isinstance(first, NetworkObjective):
        parts = first.split_raw(thetas[0])
        for name, layers in zip(("coefs_", "intercepts_"), parts, strict=True):
            fitted[name] = [downcast(part, first.dtype) for part in layers]
        objectives = first.objectives
    else:
        coefs, intercepts = map(
            np.array, zip(*map(_stored, objectives, thetas), strict=True)
        )
        coef = coefs if data.is_vector else coefs[0]
        fitted["coef_"] = to_namespace_of(first.X, coef)
        fitted["intercept_"] = intercepts if data.is_vector else float(intercepts[0])
    n_skipped = np.array([objective.n_skipped for objective in objectives])
    fitted["n_skipped_prompts_"] = n_skipped if data.is_vector else int(n_skipped[0])
    return fitted


def _stored(objective, theta):
    """Coefficients in the dtype in which they are stored, and their intercept."""
    coef, intercept = objective.split_raw(theta)
    rounded = downcast(coef, objective.dtype)
    if objective.has_intercept and rounded.dtype != coef.dtype:
        # The intercept is that of the coefficients as they are stored.
        intercept += (coef - rounded) @ objective.sampled_mean
    return rounded, intercept


def set_fitted(estimator, attributes):
    """Replace all fitted attributes of an estimator at once, and return it.

    An interrupt leaves the attributes of the last fit or those of this one, never
    partial state.
    """
    kept = {n: v for n, v in vars(estimator).items() if not n.endswith("_")}
    estimator.__dict__ = kept | attributes
    return estimator
