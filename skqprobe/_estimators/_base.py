"""BaseQProbe: what QProbePolicy and QProbeRegressor share."""

from numbers import Integral, Real

import numpy as np
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skqprobe._arrays.collections import is_collection
from skqprobe._arrays.device import to_host, to_namespace_of
from skqprobe._arrays.magnitude import check_magnitude, check_scores
from skqprobe._candidates.choice import (
    check_objective_weights,
    check_offset,
    choice_probabilities,
)
from skqprobe._candidates.layout import check_layout
from skqprobe._candidates.sampling import draw_candidates
from skqprobe._candidates.validation import (
    check_candidates,
    check_rewards,
    order_as_fitted,
    raise_unless_finite,
    warn_without_groups,
)
from skqprobe._estimators._fit import (
    check_loss,
    check_training_data,
    fitted_attributes,
    make_objectives,
    max_iterations,
    minimize,
    set_fitted,
)
from skqprobe._estimators._lazy import lazily
from skqprobe._estimators._updates import update
from skqprobe._objectives.linear import linear_scores
from skqprobe._objectives.network import NetworkObjective, network_scores
from skqprobe._objectives.parameters import LinearParameters
from skqprobe._solvers import import_torch
from skqprobe._utils.callbacks import Iterations, begin_fit
from skqprobe._utils.estimator import BaseEstimator
from skqprobe._utils.sklearn_compat import (
    ARRAY_API_SUPPORT,
    CallbackSupportMixin,
    FloatInterval,
    Interval,
    StrOptions,
    _fit_context,
    check_same_namespace,
    with_callbacks,
)
from skqprobe.losses import LOSSES, BaseLoss, get_loss


def _can_update(estimator):
    """Whether a probe has a closed form, and sums of all its prompts.

    scikit-learn's checks call `partial_fit` after `fit` if the estimator has it.
    """
    if hasattr(estimator, "coef_") and not hasattr(estimator, "_sums_"):
        raise AttributeError(
            "fit keeps no sums of its prompts that partial_fit could add to; call "
            "partial_fit of a clone, with all prompts first."
        )
    loss = estimator.get_params(deep=False).get("loss")  # QProbePolicyCV has none
    known = isinstance(loss, BaseLoss) or loss in LOSSES
    is_linear = known and not len(estimator.hidden_layer_sizes)
    if is_linear and estimator.solver != "lbfgs":
        return hasattr(get_loss(loss), "least_squares")
    return False


class BaseQProbe(CallbackSupportMixin, BaseEstimator):
    """Base class of QProbeRegressor and QProbePolicy."""

    # Requested by default, so that users need only switch on metadata routing. `y` is
    # requested for cross_val_predict, see QProbePolicy.classes_.
    __metadata_request__fit = {"groups": True, "sample_weight": True, "y": True}
    __metadata_request__partial_fit = {"groups": True, "sample_weight": True}
    __metadata_request__score = {"groups": True, "sample_weight": True, "offset": True}

    # Of an estimator without these parameters.
    objective_weights = None
    view_sizes = None
    view_weights = None
    forgetting_factor = 1.0

    _parameter_constraints: dict = {
        "alpha": [FloatInterval(Real, 0, None, closed="left")],
        "temperature": [FloatInterval(Real, 0, np.inf, closed="both")],
        "objective_weights": ["array-like", None],
        "fit_intercept": ["boolean"],
        "n_candidates": [Interval(Integral, 1, None, closed="left"), None],
        "hidden_layer_sizes": ["array-like"],
        "standardize": ["boolean"],
        "view_sizes": ["array-like", dict, None],
        "view_weights": ["array-like", dict, None],
        "solver": [StrOptions({"auto", "closed_form", "lbfgs"})],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [FloatInterval(Real, 0, None, closed="neither")],
        "missing": [StrOptions({"raise", "ignore"})],
        "forgetting_factor": [FloatInterval(Real, 0, 1, closed="right")],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, groups=None, *, sample_weight=None):
        """Fit the probe to rewards.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        y : array-like of shape (n_prompts, k) or (n_rows,)
            Rewards; or several per candidate, one per objective, along a last axis.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets.
        sample_weight : array-like, default=None
            Non-negative number of copies of each candidate, of shape (n_prompts, k), or
            (n_rows,) with `groups`; or of each prompt, of shape (n_prompts,), or
            (n_rows,) without `groups`.

        Returns
        -------
        self : object
            Fitted estimator.

        Raises
        ------
        ValueError
            If an argument has the wrong shape or values. The estimator is then
            unchanged.
        ImportError
            If there are hidden layers and torch is not installed.

        Warns
        -----
        UserWarning
            If no prompt is informative for the loss, for example because rows have no
            groups.
        ConvergenceWarning
            If the solver did not converge.
        """
        loss, solver = self._check_settings()
        data = check_training_data(self, X, y, groups, sample_weight)
        check_loss(loss, data)
        check_objective_weights(self.objective_weights, len(data.rewards_by_name))
        objectives = make_objectives(
            data,
            loss,
            sample_weight,
            alpha=self.alpha,
            fit_intercept=self.fit_intercept,
            n_candidates=self.n_candidates,
            hidden_layer_sizes=self.hidden_layer_sizes,
            standardize=self.standardize,
            view_weights=self.view_weights,
            random_state=self.random_state,
        )
        start = self._starting_points(objectives)

        def state(thetas, n_iter):
            return fitted_attributes(data, objectives, thetas, n_iter)

        metadata = {"groups": groups, "sample_weight": sample_weight}
        task = begin_fit(self, X, y, max_iterations(objectives, self), **metadata)
        value = "held-out loss" if solver == "adam" else "objective"
        verbose = f"[{type(self).__name__}] {value}" if self.verbose else None
        iterations = Iterations(task, state, verbose)
        thetas, n_iter = minimize(
            objectives,
            solver,
            start,
            tol=self.tol,
            max_iter=self.max_iter,
            random_state=self.random_state,
            on_iteration=iterations.callback,
        )
        attributes = state(thetas, n_iter)
        iterations.end(attributes)
        return set_fitted(self, attributes)

    @available_if(_can_update)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, groups=None, sample_weight=None):
        """Update the probe by more prompts; only for losses with a closed form.

        The result is that of one fit to all prompts so far: the sums of the normal
        equations are kept, a matrix of n_features squared. `fit` does not keep them, so
        updates begin with `partial_fit`. A prompt whose candidates are in two calls
        counts as two prompts. With ``alpha=0``, the minimum is unique only if there are
        more candidates than features.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        y : array-like of shape (n_prompts, k) or (n_rows,)
            Rewards; or several per candidate, one per objective, along a last axis.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets.
        sample_weight : array-like, default=None
            Non-negative number of copies of each candidate, of shape (n_prompts, k), or
            (n_rows,) with `groups`; or of each prompt, of shape (n_prompts,), or
            (n_rows,) without `groups`.

        Returns
        -------
        self : object
            Updated estimator.

        Raises
        ------
        ValueError
            If an argument has the wrong shape or values, or the estimator was fitted by
            `fit` or with another loss. The estimator is then unchanged.
        """
        if is_collection(X):
            raise ValueError(
                "partial_fit takes data in memory, but X is a Dask collection. Call "
                "fit, or call partial_fit with X.compute()."
            )
        self._validate_params()  # which may have changed: scikit-learn checks once
        loss, is_fitted = get_loss(self.loss), hasattr(self, "coef_")
        if self.standardize:
            raise ValueError(
                "standardize=True needs all data at once. Use standardize=False, and "
                "scale X by fixed means and scales before partial_fit."
            )
        settings = f"{loss} with fit_intercept={self.fit_intercept}"
        if self.view_weights is not None:
            settings += f" and view_weights={self.view_weights!r}"
        kept, sums = getattr(self, "_sums_", (settings, None))
        if kept != settings:
            raise ValueError(
                f"partial_fit by {settings} cannot update a probe that was fitted by "
                f"{kept}; call partial_fit of a clone, with all prompts."
            )
        data = check_training_data(
            self, X, y, groups, sample_weight, reset=not is_fitted
        )
        check_loss(loss, data)
        check_objective_weights(self.objective_weights, len(data.rewards_by_name))
        if sums is not None and len(sums[1]) != len(data.rewards_by_name) + 1:
            raise ValueError(
                f"y has {len(data.rewards_by_name)} objectives, but those so far had "
                f"{len(sums[1]) - 1}."
            )
        objectives = make_objectives(
            data,
            loss,
            sample_weight,
            alpha=self.alpha,
            fit_intercept=self.fit_intercept,
            n_candidates=self.n_candidates,
            view_weights=self.view_weights,
            random_state=self.random_state,
        )
        thetas, sums = update(objectives, sums, float(self.forgetting_factor))
        attributes = fitted_attributes(data, objectives, thetas, 1)
        return set_fitted(self, attributes | {"_sums_": (settings, sums)})

    def _check_settings(self):
        """Loss object and name of the solver."""
        loss = get_loss(self.loss)
        if len(self.hidden_layer_sizes):
            self._check_hidden_layers()
            import_torch()  # before X is read
            return loss, "adam"
        has_closed_form = hasattr(loss, "least_squares")
        if self.solver == "closed_form" and not has_closed_form:
            raise ValueError(
                f"solver='closed_form' cannot minimize loss={self.loss!r}; use "
                "solver='lbfgs' or 'auto'."
            )
        if self.solver == "auto":
            return loss, "closed_form" if has_closed_form else "lbfgs"
        return loss, self.solver

    def _check_hidden_layers(self):
        """Raise unless hidden layers and solver are valid."""
        sizes = self.hidden_layer_sizes
        if not all(isinstance(size, Integral) and int(size) >= 1 for size in sizes):
            raise ValueError(
                "hidden_layer_sizes must hold integers of 1 or more, one per "
                f"hidden layer, such as (256,) or (256, 256); got {sizes!r}."
            )
        if self.solver != "auto":
            raise ValueError(
                f"solver={self.solver!r} fits linear probes only, but "
                f"hidden_layer_sizes={sizes!r}. Use solver='auto', which trains hidden "
                "layers on torch."
            )

    def _starting_points(self, objectives):
        """Zeros, or the parameters of the last fit."""
        first = objectives[0]
        thetas = np.zeros((len(objectives), first.n_parameters))
        if not self.warm_start:
            return thetas
        if isinstance(first, LinearParameters) and hasattr(self, "coef_"):
            coefs = np.atleast_2d(to_host(self.coef_))
            self._check_warm_start(first, coefs.shape[1])
            if len(coefs) == len(thetas):
                thetas[:, : first.n_features] = coefs
                if first.has_intercept:
                    thetas[:, -1] = self.intercept_
        elif isinstance(first, NetworkObjective) and hasattr(self, "coefs_"):
            self._check_warm_start(first, len(self.coefs_[0]))
            if [coef.shape for coef in self.coefs_] == first.layer_shapes:
                thetas[0] = first.join_raw(self.coefs_, self.intercepts_)
        return thetas

    def _check_warm_start(self, objective, n_features):
        if n_features != objective.n_features:
            raise ValueError(
                f"warm_start=True: X has {objective.n_features} features, but the last "
                f"fit had {n_features}. Use the same features, or warm_start=False."
            )

    def _weigh(self, values):
        """Sum the objectives, the last axis of values, by their weights."""
        n_objectives = values.shape[-1]
        if n_objectives == 1 and self.objective_weights is None:
            return values[..., 0]
        return values @ check_objective_weights(self.objective_weights, n_objectives)

    def _scores(self, X, method, weigh=None):
        """Scores of the candidates in user order, and the leading shape of X.

        They have a last axis of objectives, unless `_weigh` is given.
        """
        check_is_fitted(self)
        is_linear = hasattr(self, "coef_")
        if is_linear:
            check_same_namespace(X, self, attribute="coef_", method=method)
            coef, intercept = np.atleast_2d(to_host(self.coef_)).T, self.intercept_
        else:
            coef, intercept = self.coefs_[-1], self.intercepts_[-1]
        if weigh is not None:
            coef, intercept = weigh(coef), weigh(np.atleast_1d(intercept))
        X, shape = check_candidates(self, X, reset=False)
        with np.errstate(over="ignore", invalid="ignore"):
            if is_linear:
                scores = linear_scores(X, coef, intercept)
            else:
                layers = [*self.coefs_[:-1], coef], [*self.intercepts_[:-1], intercept]
                scores = network_scores(X, *layers)
        shows_all = is_linear and bool(coef.all())
        # Non-finite numbers in X make the scores non-finite, which are faster to check,
        # unless a coefficient of 0 or a ReLU hides them.
        if not (shows_all and np.isfinite(scores).all()):
            raise_unless_finite(X, shape)
            check_scores(scores, X)
        return scores if weigh is not None else scores.reshape(len(X), -1), shape

    def _expected_rewards(self, X, method):
        """Compute `predict_objectives`, (n_rows, n_objectives), and the shape of X."""
        return self._scores(X, method)

    def _weighted(self, X, method):
        """Values of the candidates in user order, without the offset, and the shape."""
        return self._scores(X, method, self._weigh)

    def _values(self, X, method, offset=None):
        """Values of the candidates in user order, and the leading shape of X."""
        values, shape = self._weighted(X, method)
        if offset is not None:
            values = values + check_offset(offset, shape, values.dtype)
        return values, shape

    def _valued_layout(self, X, groups, method, offset):
        """Layout of X, and values of the candidates in prompt order."""
        values, shape = self._values(X, method, offset)
        layout = check_layout(shape, groups)
        warn_without_groups(layout)
        return layout, layout.to_prompt_order(values)

    def _weighted_rewards(self, y, shape):
        """Validate rewards, and weight those of several objectives."""
        rewards, names = check_rewards(y, shape, allow_nan=True)
        check_magnitude(np.nan_to_num(rewards), "y")
        if rewards.ndim == len(shape):
            return rewards
        last = self.coefs_[-1].T if hasattr(self, "coefs_") else self.coef_
        n_objectives = (1, *last.shape)[-2]
        if rewards.shape[-1] != n_objectives:
            raise ValueError(
                f"y has {rewards.shape[-1]} objectives, but {type(self).__name__} was "
                f"fitted to {n_objectives}."
            )
        return self._weigh(order_as_fitted(rewards, names, self))

    @lazily("objectives")
    def predict_objectives(self, X):
        """Compute the value of each objective, before they are weighted.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.

        Returns
        -------
        values : ndarray of shape (n_prompts, k, n_objectives) or \
                (n_rows, n_objectives)
            Values of the candidates; of a QProbeRegressor, expected rewards.
        """
        values, shape = self._snapshot()._expected_rewards(X, "predict_objectives")
        return to_namespace_of(X, values.reshape(*shape, -1))

    @lazily("prompts", needs_groups=True)
    def sample(self, X, groups=None, *, offset=None, size=None, random_state=None):
        """Draw one candidate per prompt at `temperature`.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets.
        offset : array-like of shape (n_prompts, k) or (n_rows,), default=None
            Known part of the values, such as minus the price of a candidate. It is
            added to the values of the probe.
        size : int, default=None
            Number of draws per prompt, with replacement. None makes one draw and drops
            the axis.
        random_state : int, RandomState instance or None, default=None
            Seed or generator of the draws. None uses the estimator's `random_state`.

        Returns
        -------
        chosen : ndarray of int, of shape (n_prompts,) or (n_prompts, size)
            For sets, the index along axis 1. For rows, the position in X, with the
            prompts in order of first appearance.
        """
        self = self._snapshot()
        layout, values = self._valued_layout(X, groups, "sample", offset)
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
