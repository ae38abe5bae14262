"""What both estimators share: the fit of a probe, and draws from it."""

import copy
import warnings
from abc import ABC, abstractmethod
from numbers import Integral, Real

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skqprobe._arrays.device import to_host, to_namespace_of
from skqprobe._arrays.magnitude import (
    check_scores,
    check_training_magnitudes,
    downcast,
    raise_on_overflow,
)
from skqprobe._candidates.choice import choice_probabilities
from skqprobe._candidates.layout import check_layout
from skqprobe._candidates.sampling import draw_candidates
from skqprobe._candidates.segments import segment_sum
from skqprobe._candidates.validation import (
    NO_GROUPS,
    check_candidates,
    check_values,
    check_weights,
    raise_unless_finite,
    warn_without_groups,
)
from skqprobe._objectives.linear import LinearObjective, linear_scores
from skqprobe._objectives.network import NetworkObjective, network_scores
from skqprobe._solvers import (
    import_torch,
    minimize_adam,
    minimize_lbfgs,
    solve_closed_form,
)
from skqprobe._utils.callbacks import FitMonitor
from skqprobe._utils.estimator import BaseEstimator
from skqprobe._utils.sklearn_compat import (
    ARRAY_API_SUPPORT,
    CallbackSupportMixin,
    Interval,
    StrOptions,
    _fit_context,
    check_same_namespace,
    with_callbacks,
)
from skqprobe.losses import get_loss


class BaseQProbe(CallbackSupportMixin, BaseEstimator, ABC):
    """Base class of QProbeRegressor and QProbePolicy; not for direct use."""

    # Requested by default, so that enable_metadata_routing is all a user has to add.
    # `y` is there for cross_val_predict, see QProbePolicy.classes_.
    __metadata_request__fit = {"groups": True, "sample_weight": True, "y": True}
    __metadata_request__score = {"groups": True, "sample_weight": True}

    _doc_link_module = "skqprobe"
    _doc_link_template = (
        "https://skqprobe.readthedocs.io/en/stable/api/{estimator_module}."
        "{estimator_name}.html"
    )

    _parameter_constraints: dict = {
        "alpha": [Interval(Real, 0, None, closed="left")],
        "temperature": [Interval(Real, 0, None, closed="left")],
        "fit_intercept": ["boolean"],
        "n_candidates": [Interval(Integral, 1, None, closed="left"), None],
        "hidden_layer_sizes": ["array-like"],
        "solver": [StrOptions({"auto", "closed_form", "lbfgs"})],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    @abstractmethod
    def __init__(
        self,
        loss,
        *,
        alpha,
        temperature,
        fit_intercept,
        n_candidates,
        hidden_layer_sizes,
        solver,
        max_iter,
        tol,
        warm_start,
        random_state,
        verbose,
    ):
        self.loss = loss
        self.alpha = alpha
        self.temperature = temperature
        self.fit_intercept = fit_intercept
        self.n_candidates = n_candidates
        self.hidden_layer_sizes = hidden_layer_sizes
        self.solver = solver
        self.max_iter = max_iter
        self.tol = tol
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, groups=None, *, sample_weight=None):
        """Fit the probe to rewards.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs: sets or rows.
        y : array-like of shape (n_prompts, k) or (n_rows,)
            Rewards.
        groups : array-like of shape (n_rows,), default=None
            For rows: labels of the prompts, any hashable values in any order. Without
            them every row is a prompt of its own. Sets need none; what is given is
            only checked for its length, (n_prompts,).
        sample_weight : array-like, default=None
            Non-negative. Of shape (n_prompts, k), or (n_rows,) with groups: the number
            of copies of each candidate in its prompt. Of shape (n_prompts,), or
            (n_rows,) without groups: the number of copies of each prompt.

        Returns
        -------
        self : object
            Fitted estimator.

        Raises
        ------
        ValueError
            If an argument has the wrong shape or values, naming it. The estimator then
            is as it was before.
        ImportError
            If there are hidden layers, and torch is not installed.
        """
        loss, solver = self._check_settings()
        # Nothing is set on self before the fit is done, not even n_features_in_.
        checked, X_rows, layout, rewards = self._check_data(X, y, groups)
        loss.check_rewards(rewards)
        objective = self._make_objective(X_rows, layout, rewards, sample_weight, loss)

        metadata = {"groups": groups, "sample_weight": sample_weight}
        fitted = fitted_state(checked, objective)
        monitor = FitMonitor(self, X, y, metadata, self.max_iter, fitted)
        with raise_on_overflow():
            theta, n_iter = self._minimize(objective, solver, monitor)

        kept = {n: v for n, v in vars(self).items() if n not in NOT_ALWAYS_THERE}
        # At once: an interrupt leaves the last fit or this one, nothing in between.
        self.__dict__ = kept | fitted(theta) | {"n_iter_": n_iter}
        return self

    def _check_data(self, X, y, groups):
        """Validate training data.

        Returns
        -------
        checked : estimator
            A copy that has what the validation sets, such as n_features_in_.
        X : ndarray or DeviceArray of shape (n_rows, d)
        layout : Layout
        rewards : ndarray of float64, in the layout's shape
        """
        checked = copy.copy(self)
        X, shape = check_candidates(checked, X, reset=True)
        layout = check_layout(shape, groups)
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is "
                "None."
            )
        rewards = check_values(y, shape, "y")
        check_training_magnitudes(X, rewards)
        return checked, X, layout, rewards

    def _check_settings(self):
        """Loss object and name of the solver."""
        loss = get_loss(self.loss)
        if len(self.hidden_layer_sizes):
            self._check_hidden_layers()
            import_torch()  # better missed now than after X is read
            return loss, "torch"
        has_closed_form = hasattr(loss, "least_squares")
        if self.solver == "closed_form" and not has_closed_form:
            raise ValueError(
                f"solver='closed_form' cannot minimise loss={self.loss!r}; use "
                "solver='lbfgs' or 'auto'."
            )
        if self.solver == "auto":
            return loss, "closed_form" if has_closed_form else "lbfgs"
        return loss, self.solver

    def _check_hidden_layers(self):
        """Raise unless there can be these hidden layers, with this solver."""
        sizes = self.hidden_layer_sizes
        if not all(isinstance(size, Integral) and int(size) >= 1 for size in sizes):
            raise ValueError(
                "hidden_layer_sizes must hold integers of 1 or more, one for each "
                f"hidden layer, such as (256,) or (256, 256); got {sizes!r}."
            )
        if self.solver != "auto":
            raise ValueError(
                f"solver={self.solver!r} fits linear probes only, but "
                f"hidden_layer_sizes={sizes!r}. Use solver='auto', which trains hidden "
                "layers on torch."
            )

    def _make_objective(self, X, layout, rewards, sample_weight, loss):
        """Objective of the training data, or a warning if there is nothing to learn."""
        grouped, origin = layout.grouped, None
        layout, prompt_weight, candidate_weight = weighted_layout(layout, sample_weight)
        if self.n_candidates is not None:
            random_state = check_random_state(self.random_state)
            layout, n_sets = layout.split(self.n_candidates, random_state)
            copies = (
                layout.sizes
                if candidate_weight is None
                else segment_sum(
                    layout.to_prompt_order(candidate_weight), layout.offsets
                )
            )
            # Sets share their prompt's weight by size, so that a mean stays a mean.
            of_prompt = np.add.reduceat(copies, np.cumsum(n_sets) - n_sets)
            prompt_weight = np.repeat(prompt_weight / of_prompt, n_sets) * copies
            origin = np.repeat(np.arange(len(n_sets)), n_sets)
        rewards = layout.to_prompt_order(rewards)
        informative = loss.informative_prompts(rewards, layout.offsets)
        prompt_weight = np.where(informative, prompt_weight, 0)
        no_choice = loss.shift_invariant and (layout.sizes == 1).all()
        if no_choice or not prompt_weight.any():
            warnings.warn(
                NO_GROUPS if not grouped else NOTHING_TO_LEARN.format(self.loss),
                UserWarning,
                stacklevel=5,
            )
            prompt_weight = np.zeros_like(prompt_weight)
        settings = {
            "alpha": self.alpha,
            "fit_intercept": self.fit_intercept,
            "prompt_weight": prompt_weight,
            "candidate_weight": None
            if candidate_weight is None
            else layout.to_prompt_order(candidate_weight),
            "n_skipped": int((~informative).sum()),
        }
        if not len(self.hidden_layer_sizes):
            return LinearObjective(X, layout, rewards, loss, **settings)
        return NetworkObjective(
            X,
            layout,
            rewards,
            loss,
            hidden_layer_sizes=self.hidden_layer_sizes,
            origin=origin,
            **settings,
        )

    def _minimize(self, objective, solver, monitor):
        """Parameters at the minimum, and the number of iterations."""
        theta = self._start(objective)
        monitor.begin(theta)
        if not objective.prompt_weight.any():
            theta, n_iter = np.zeros_like(theta), 1
        elif solver == "closed_form":
            theta, n_iter = solve_closed_form(objective), 1
            monitor.step(theta)
        else:
            what = "held-out loss" if solver == "torch" else "objective"

            def on_iteration(theta, value):
                if self.verbose:
                    print(f"[{type(self).__name__}] {what} {value:.6g}")
                return monitor.step(theta)

            options = {"tol": self.tol, "max_iter": self.max_iter}
            if self.verbose or monitor.active:
                options["on_iteration"] = on_iteration
            if solver == "torch":
                options["random_state"] = check_random_state(self.random_state)
            minimize = minimize_adam if solver == "torch" else minimize_lbfgs
            theta, n_iter = minimize(objective, theta, **options)
        monitor.end(theta)
        return theta, n_iter

    def _start(self, objective):
        """Parameters to start from: zero, or those of the last fit."""
        theta = np.zeros(objective.n_parameters)
        if not self.warm_start:
            return theta
        if isinstance(objective, LinearObjective) and hasattr(self, "coef_"):
            coef = to_host(self.coef_)
            self._check_warm_start(objective, len(coef))
            theta[: objective.n_features] = coef
            if objective.has_intercept:
                theta[-1] = self.intercept_
        elif isinstance(objective, NetworkObjective) and hasattr(self, "coefs_"):
            self._check_warm_start(objective, len(self.coefs_[0]))
            if [coef.shape for coef in self.coefs_] == objective.layer_shapes:
                theta[:] = objective.join(self.coefs_, self.intercepts_)
        return theta

    def _check_warm_start(self, objective, n_features):
        if n_features != objective.n_features:
            raise ValueError(
                f"warm_start=True: X has {objective.n_features} features, but the last "
                f"fit had {n_features}. Use the same features, or warm_start=False."
            )

    def _scores(self, X, method):
        """Probe values of rows in X's order, for a method, and X's leading shape."""
        check_is_fitted(self)
        if hasattr(self, "coef_"):
            check_same_namespace(X, self, attribute="coef_", method=method)
        X, shape = check_candidates(self, X, reset=False, check_finite=False)
        with np.errstate(over="ignore", invalid="ignore"):
            if hasattr(self, "coefs_"):
                scores = network_scores(X, self.coefs_, self.intercepts_)
                in_sight = False
            else:
                coef = np.asarray(to_host(self.coef_))
                scores = linear_scores(X, coef, self.intercept_)
                in_sight = bool(coef.all())
        # What is not finite in X shows in the scores, which are read faster, unless a
        # coefficient of 0 or a ReLU hides it.
        if not (in_sight and np.isfinite(scores).all()):
            raise_unless_finite(X, shape)
            check_scores(scores, X)
        return scores, shape

    def _scored_layout(self, X, groups, method):
        """Layout of X, and probe values prompt by prompt, for a method."""
        scores, shape = self._scores(X, method)
        layout = check_layout(shape, groups)
        warn_without_groups(layout, stacklevel=4)
        return layout, layout.to_prompt_order(scores)

    def _choice_values(self, scores):
        """Values to choose by, from scores: in whose units `temperature` is."""
        return scores

    def sample(self, X, groups=None, *, size=None, random_state=None):
        """Draw a candidate for each prompt, at `temperature`.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs: sets or rows.
        groups : array-like of shape (n_rows,), default=None
            For rows: labels of the prompts, any hashable values in any order.
        size : int, default=None
            How many draws to make a prompt, with replacement; None makes one and
            leaves out the axis.
        random_state : int, RandomState instance or None, default=None
            Determines the draws; None takes the estimator's `random_state`.

        Returns
        -------
        chosen : ndarray of int, of shape (n_prompts,) or (n_prompts, size)
            For sets the index along axis 1; for rows the position in X, prompts in the
            order of their first appearance.
        """
        layout, scores = self._scored_layout(X, groups, "sample")
        values = self._choice_values(scores)
        proba = choice_probabilities(values, layout, self.temperature)
        random_state = self.random_state if random_state is None else random_state
        chosen = draw_candidates(proba, layout, size, random_state)
        return to_namespace_of(X, layout.to_user_index(chosen))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.target_tags.required = True
        tags.array_api_support = ARRAY_API_SUPPORT
        return tags


NOT_ALWAYS_THERE = ("coef_", "intercept_", "coefs_", "intercepts_", "feature_names_in_")
"""Fitted attributes that the last fit may have left and the next has no use for."""

NOTHING_TO_LEARN = (
    "No prompt has anything to learn from with loss={!r}: it compares the candidates "
    "of a prompt, so that it needs prompts with at least two of them (and a pairwise "
    "loss needs two of different rewards). All coefficients are zero."
)


def weighted_layout(layout, sample_weight):
    """Leave out what has weight 0.

    Returns
    -------
    layout : Layout
        Without the candidates of weight 0, and prompts left without any.
    prompt_weight : ndarray of shape (layout.n_prompts,)
        Weights of prompts.
    candidate_weight : ndarray of the original layout's shape, or None
        Weights of candidates.
    """
    prompt_weight, candidate_weight = check_weights(sample_weight, layout)
    if candidate_weight is not None and not candidate_weight.all():
        layout = layout.keep(layout.to_prompt_order(candidate_weight) > 0)
        prompt_weight = np.ones(layout.n_prompts)
    return layout, prompt_weight, candidate_weight


def fitted_state(checked, objective):
    """Make the function that maps theta to the fitted attributes."""
    state = {
        name: value
        for name, value in vars(checked).items()
        if name in ("n_features_in_", "feature_names_in_")
    }
    state["n_skipped_prompts_"] = objective.n_skipped
    state["n_iter_"] = 0

    def fitted(theta):
        coef, intercept = objective.split(theta)
        if isinstance(objective, NetworkObjective):
            coefs = [downcast(part, objective.dtype) for part in coef]
            intercepts = [downcast(part, objective.dtype) for part in intercept]
            return {**state, "coefs_": coefs, "intercepts_": intercepts}
        coef = downcast(coef, objective.dtype)
        coef = to_namespace_of(objective.X, coef)
        return {**state, "coef_": coef, "intercept_": float(intercept)}

    return fitted
