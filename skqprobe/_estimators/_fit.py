"""The fit that all estimators share: check data, make the objective, minimize it."""

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state

from skqprobe._arrays.blocks import BlockReader, row_blocks
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
from skqprobe._candidates.layout import Layout, check_layout
from skqprobe._candidates.segments import segment_sum
from skqprobe._candidates.validation import (
    check_candidates,
    check_limits,
    check_values,
    check_weights,
    no_groups,
    raise_unless_finite,
)
from skqprobe._objectives.linear import LinearObjective
from skqprobe._objectives.network import NetworkObjective
from skqprobe._solvers import minimize_adam, minimize_lbfgs, solve_ridge
from skqprobe._utils.warn import warn_user

NOTHING_TO_LEARN = (
    "No prompt is informative for loss={!r}: it compares the candidates of a prompt, "
    "and needs prompts with at least two candidates (a pairwise loss, with two "
    "different rewards). All coefficients are zero."
)


@dataclass(frozen=True)
class TrainingData:
    """Checked training data.

    Parameters
    ----------
    X : ndarray or DeviceArray of shape (n_rows, d)
        Embeddings in user order.
    layout : Layout
        Layout of the candidates.
    rewards : ndarray of float64, in the layout's shape
        Rewards in user order.
    features : dict
        Attributes `n_features_in_`, `feature_names_in_` if X has names, and
        `_mean_group_size_`, of rows whose prompts differ in size.
    """

    X: Any
    layout: Layout
    rewards: np.ndarray
    features: dict

    @cached_property
    def columns(self):
        """Mean and scale of the columns of X, those of StandardScaler."""
        read, scaler = BlockReader(self.X), StandardScaler()
        for rows in row_blocks(self.X):
            scaler.partial_fit(np.asarray(read(rows)))
        return scaler.mean_, scaler.scale_


def check_training_data(estimator, X, y, groups):
    """Validate training data, without a change to the estimator.

    Parameters
    ----------
    estimator : estimator
        Estimator to be fitted, for error messages.
    X, y, groups : array-like
        Arguments of `fit`.

    Returns
    -------
    data : TrainingData
    """
    checked = copy.copy(estimator)
    X, shape = check_candidates(checked, X, reset=True)
    if X.dtype == np.float64 and isinstance(X, np.ndarray):
        check_limits(X, shape, SMALLEST, LARGEST)
    else:  # squares of smaller types fit in float64
        raise_unless_finite(X, shape)
    layout = check_layout(shape, groups)
    if y is None:
        raise ValueError(
            f"{type(estimator).__name__} requires y to be passed, but the target y is "
            "None. Pass one reward per candidate: for pairs (chosen, rejected), y is "
            "np.tile([1.0, 0.0], (n_pairs, 1))."
        )
    rewards = check_values(y, shape, "y")
    if X.dtype == np.float64:
        check_magnitude(rewards, "y", SMALLEST)
    else:
        hint = f", or pass X in float64 instead of {X.dtype}"
        check_magnitude(rewards, "y", SMALLEST_SINGLE, LARGEST_SINGLE, hint)
    names = ("n_features_in_", "feature_names_in_")
    features = {name: vars(checked)[name] for name in names if name in vars(checked)}
    if len(shape) == 1 and layout.grouped and np.ptp(layout.sizes):
        features["_mean_group_size_"] = float(layout.sizes.mean())
    return TrainingData(X, layout, rewards, features)


def weighted_layout(layout, sample_weight):
    """Leave out candidates of weight 0, and prompts without other candidates.

    Returns
    -------
    layout : Layout
        Layout of the remaining candidates.
    prompt_weight : ndarray of shape (layout.n_prompts,)
        Weights of the prompts; some may be 0.
    candidate_weight : ndarray in user order, or None
        Weights of all candidates.
    """
    prompt_weight, candidate_weight = check_weights(sample_weight, layout)
    if candidate_weight is not None and not candidate_weight.all():
        layout = layout.keep(layout.to_prompt_order(candidate_weight) > 0)
        prompt_weight = np.ones(layout.n_prompts)
    return layout, prompt_weight, candidate_weight


def make_objective(
    data,
    loss,
    sample_weight=None,
    *,
    alpha,
    fit_intercept,
    n_candidates=None,
    hidden_layer_sizes=(),
    standardize=False,
    random_state=None,
):
    """Make the objective of training data.

    Parameters
    ----------
    data : TrainingData
        Training data.
    loss : BaseLoss
        Loss.
    sample_weight : array-like, default=None
        Weights of candidates or prompts.
    alpha, fit_intercept, n_candidates, hidden_layer_sizes, standardize, random_state
        Parameters of the estimators.

    Returns
    -------
    objective : LinearObjective or NetworkObjective
        If no prompt is informative, all prompts have weight 0, with a warning.
    """
    layout, prompt_weight, candidate_weight = weighted_layout(
        data.layout, sample_weight
    )
    origin = None
    if n_candidates is not None:
        random_state = check_random_state(random_state)
        layout, n_sets = layout.split(n_candidates, random_state)
        origin = np.repeat(np.arange(len(n_sets)), n_sets)
    candidate_weight = layout.to_prompt_order(candidate_weight)
    if n_candidates is not None:
        prompt_weight = _set_weights(prompt_weight, candidate_weight, layout, n_sets)
    rewards = layout.to_prompt_order(data.rewards)
    informative = loss.informative_prompts(rewards, layout.offsets)
    prompt_weight = np.where(informative, prompt_weight, 0)
    no_choice = loss.shift_invariant and (layout.sizes == 1).all()
    if no_choice or not prompt_weight.any():
        has_groups = data.layout.grouped
        warn_user(NOTHING_TO_LEARN.format(loss) if has_groups else no_groups())
        prompt_weight = np.zeros_like(prompt_weight)
    arguments = {
        "alpha": float(alpha),
        "fit_intercept": fit_intercept,
        "prompt_weight": prompt_weight,
        "candidate_weight": candidate_weight,
        "n_skipped": int((~informative).sum()),
        "columns": data.columns if standardize else None,
    }
    if not len(hidden_layer_sizes):
        return LinearObjective(data.X, layout, rewards, loss, **arguments)
    return NetworkObjective(
        data.X,
        layout,
        rewards,
        loss,
        hidden_layer_sizes=hidden_layer_sizes,
        origin=origin,
        **arguments,
    )


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
    objective, solver, theta, *, tol, max_iter, random_state=None, on_iteration=None
):
    """Minimize an objective.

    Parameters
    ----------
    objective : LinearObjective or NetworkObjective
        Objective.
    solver : {"closed_form", "lbfgs", "adam"}
        Solver.
    theta : ndarray of shape (n_parameters,)
        Starting point.
    tol, max_iter, random_state
        Parameters of the estimators.
    on_iteration : callable, default=None
        Called with (theta, value) after each iteration of L-BFGS or epoch of Adam;
        returns True to stop.

    Returns
    -------
    theta : ndarray of shape (n_parameters,)
        Parameters at the minimum.
    n_iter : int
        Number of iterations, at least 1.
    """
    if not objective.prompt_weight.any():
        return np.zeros_like(theta), 1
    options = solver_options(tol, max_iter) | {"on_iteration": on_iteration}
    with raise_on_overflow(), threads_for(objective.X):
        if solver == "closed_form":
            theta = solve_ridge(objective)
            if on_iteration is not None:
                on_iteration(theta, objective.value_and_gradient(theta)[0])
            return theta, 1
        if solver == "adam":
            random_state = check_random_state(random_state)
            return minimize_adam(objective, theta, random_state=random_state, **options)
        return minimize_lbfgs(objective, theta, **options)


def fitted_attributes(objective, theta, n_iter):
    """Make the fitted attributes of a probe from the parameters of its objective."""
    attributes = {"n_skipped_prompts_": objective.n_skipped, "n_iter_": n_iter}
    coef, intercept = objective.split_raw(theta)
    if isinstance(objective, NetworkObjective):
        attributes["coefs_"] = [downcast(part, objective.dtype) for part in coef]
        biases = [downcast(part, objective.dtype) for part in intercept]
        return {**attributes, "intercepts_": biases}
    rounded = downcast(coef, objective.dtype)
    if objective.has_intercept and rounded.dtype != coef.dtype:
        # The intercept is that of the coefficients as they are stored.
        intercept += (coef - rounded) @ objective.sampled_mean
    coef = to_namespace_of(objective.X, rounded)
    return {**attributes, "coef_": coef, "intercept_": float(intercept)}


def set_fitted(estimator, attributes):
    """Replace all fitted attributes of an estimator at once, and return it.

    An interrupt leaves the attributes of the last fit or those of this one, never
    partial state.
    """
    kept = {n: v for n, v in vars(estimator).items() if not n.endswith("_")}
    estimator.__dict__ = kept | attributes
    return estimator
