"""CalibratedPolicyCV: the reward that the chosen candidate earns."""

from numbers import Real

import numpy as np
from scipy.special import logit
from sklearn.base import MetaEstimatorMixin, clone
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skqprobe._arrays.device import check_container
from skqprobe._candidates.choice import choice_probabilities, expected_rewards
from skqprobe._candidates.layout import check_layout
from skqprobe._candidates.segments import repeat_per_prompt
from skqprobe._candidates.validation import (
    check_rewards,
    check_values,
    unpack_rewards,
    warn_without_groups,
)
from skqprobe._estimators._fit import known_rewards, set_fitted, weighted_layout
from skqprobe._estimators._folds import row_splits
from skqprobe._estimators.policy import QProbePolicy
from skqprobe._estimators.policy_cv import QProbePolicyCV
from skqprobe._utils.estimator import BaseEstimator
from skqprobe._utils.sklearn_compat import (
    HasMethods,
    StrOptions,
    _fit_context,
    safe_indexing,
)
from skqprobe.metrics._values import (
    call,
    candidate_values,
    last_step,
    policy_temperature,
    weighted_rewards,
)


def _policy_has(method):
    """Return a check that the policy has a method."""

    def check(self):
        getattr(getattr(self, "policy_", self.estimator), method)
        return True

    return check


class CalibratedPolicyCV(MetaEstimatorMixin, BaseEstimator):
    """Policy that predicts the reward of its choice.

    The value of the chosen candidate overrates it: it is the best of many values, of
    which each has an error. In cross-validation with folds of whole prompts, the
    estimator values the held-out candidates, and learns how much the chosen ones earn
    by their values. The policy itself is fitted to all prompts; `predict`, `sample`,
    `predict_proba`, `decision_function` and `score` are its methods, and any others are
    available as those of `policy_`. A search inside selects its settings on all
    prompts, and the folds use these settings: values at another penalty would differ in
    scale.

    Read more in :doc:`the user guide </guide/cost>`.

    Parameters
    ----------
    estimator : estimator
        Policy, reward model, or pipeline or search that ends in one. The methods take
        the X that it takes, such as records of texts.
    method : {"isotonic", "sigmoid", "linear"}, default="isotonic"
        Shape of the reward as a function of the value. "isotonic" is any increasing
        function, for rewards of any scale: with the means of its steps joined by lines.
        "linear" is a straight line, for rewards of any scale and few prompts. "sigmoid"
        is logistic, for rewards in [0, 1] and few prompts.
    cv : int, splitter or iterable, default=None
        Cross-validation splits of the prompts. An int is the number of folds, of
        consecutive prompts; None means 5. A splitter, or an iterable of (train, test)
        indices, splits the first axis of X, and receives `groups`. For rows it must
        keep the candidates of a prompt together, as GroupKFold does.

    Attributes
    ----------
    policy_ : estimator
        Clone of `estimator`, fitted to all prompts.
    choice_calibrator_ : IsotonicRegression, LogisticRegression or LinearRegression
        Function from the value of the chosen candidate to its reward.
    candidate_calibrator_ : IsotonicRegression, LogisticRegression or LinearRegression
        Function from the value of any candidate to its reward.
    held_out_rewards_ : ndarray of shape (n_prompts, k) or (n_rows,)
        Result of `predict_rewards` for the training candidates, from the policies that
        were not fitted to their prompts; NaN for prompts that no fold holds out.
        Stopping rules such as :class:`~skqprobe.generators.ExpectedGain` are fitted to
        it.
    n_features_in_ : int
        Number of features, the last axis of X. Defined only if `policy_` has it.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features. Defined only if `policy_` has it.

    See Also
    --------
    QProbeRegressor : Probe that predicts the reward of any candidate.
    skqprobe.metrics.risk_coverage : Rewards of the highest predictions.

    Notes
    -----
    The reward of a choice depends on the number of candidates from which it was made:
    the more there are, the more the best value overrates. The function is learned for
    as many candidates as the training prompts have. With more, the predictions are too
    high; with fewer, they are too low.

    Examples
    --------
    >>> from skqprobe import CalibratedPolicyCV, QProbePolicy
    >>> from skqprobe.datasets import load_two_words
    >>> X, y = load_two_words(return_X_y=True)
    >>> policy = CalibratedPolicyCV(QProbePolicy(alpha=0.1)).fit(X[:160], y[:160])
    >>> predicted = policy.predict_reward(X[160:])
    >>> print(f"{predicted.mean():.2f}, {policy.score(X[160:], y[160:]):.2f}")
    0.85, 0.82
    """

    __metadata_request__fit = {"groups": True, "sample_weight": True}
    __metadata_request__score = {"groups": True, "sample_weight": True, "offset": True}
    __metadata_request__decision_function = {"groups": True, "offset": True}
    __metadata_request__predict = {"groups": True, "offset": True}
    __metadata_request__predict_proba = {"groups": True, "offset": True}

    _parameter_constraints: dict = {
        "estimator": [HasMethods(["fit", "predict"])],
        "method": [StrOptions({"isotonic", "sigmoid", "linear"})],
        "cv": ["cv_object"],
    }

    def __init__(self, estimator, method="isotonic", cv=None):
        self.estimator = estimator
        self.method = method
        self.cv = cv

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, groups=None, *, sample_weight=None):
        """Fit the policy, and learn the rewards of its choices.

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
            (n_rows,) without `groups`.

        Returns
        -------
        self : object
            Fitted estimator.

        Raises
        ------
        ValueError
            If an argument has the wrong shape or values, or a fold splits the
            candidates of a prompt. The estimator is then unchanged.
        """
        check_container(X, "X")
        if y is not None:  # which the policy refuses
            y = unpack_rewards(y)
        policy = _fit(self.estimator, X, y, groups, sample_weight)
        rewards = weighted_rewards(policy, X, y, groups)
        layout = check_layout(np.shape(rewards), groups)
        rewards, _ = check_rewards(rewards, layout.shape, allow_nan=True)
        missing = getattr(last_step(policy), "missing", "raise")
        known = known_rewards(rewards, layout, sample_weight, missing)
        values = self._held_out_values(
            _settled(policy), layout, rewards, (X, y, groups, sample_weight)
        )
        tested = ~np.isnan(values)
        known = tested if known is None else tested & known
        layout, prompt_weight, weight = weighted_layout(layout, sample_weight, known)
        if not prompt_weight.any():
            raise ValueError(
                "cv holds out no candidate that has a reward and a weight above 0; "
                "pass splits that test such prompts, or cv=None."
            )
        used, rewards, weight = map(layout.to_prompt_order, (values, rewards, weight))
        chosen = choice_probabilities(used, layout, policy_temperature(policy), weight)
        drawn = choice_probabilities(used, layout, np.inf, weight)
        of_prompt = repeat_per_prompt(prompt_weight, layout.offsets)
        choice, candidate = (
            _fit_calibrator(self.method, used, rewards, of_prompt * each)
            for each in (chosen, drawn)
        )
        held_out = np.full(values.shape, np.nan)
        held_out[tested] = _reward_at(candidate, values[tested])
        attributes = {"policy_": policy, "choice_calibrator_": choice}
        attributes |= {"candidate_calibrator_": candidate}
        return set_fitted(self, attributes | {"held_out_rewards_": held_out})

    def _held_out_values(self, policy, layout, rewards, data):
        """Value candidates by policies that were not fitted to their prompts.

        Values of prompts that no fold holds out are NaN, those of several folds a mean.
        """
        total, n_times = np.zeros(layout.shape), np.zeros(layout.shape, dtype=int)
        first = np.arange(layout.shape[0])
        X, _, groups, _ = data
        labels = groups if len(layout.shape) == 1 else None
        for sides in row_splits(layout, rewards, groups, self.cv, X):
            train, test = (each.reshape(layout.shape) for each in sides)
            if len(layout.shape) == 2:
                train, test = train[:, 0], test[:, 0]
            train, test = np.repeat(first, train), np.flatnonzero(test)
            fold = _fit(policy, *(_take(each, train) for each in data))
            values = candidate_values(fold, _take(X, test), _take(labels, test))
            shape = total[test].shape
            total[test] += check_values(values, shape, "the output of estimator")
            n_times[test] += 1
        total[n_times == 0] = np.nan
        return total / np.maximum(n_times, 1)

    def predict_reward(self, X, groups=None):
        """Predict the reward of the choice at the temperature of the policy.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets.

        Returns
        -------
        reward : ndarray of shape (n_prompts,)
            Expected reward of the candidate that is chosen for each prompt, in order of
            first appearance.
        """
        values = self._values(X, groups)
        layout = check_layout(values.shape, groups)
        warn_without_groups(layout)
        values = layout.to_prompt_order(values)
        chosen = choice_probabilities(values, layout, policy_temperature(self.policy_))
        rewards = _reward_at(self.choice_calibrator_, values)
        return expected_rewards(chosen, rewards, layout)

    def predict_rewards(self, X, groups=None):
        """Predict the reward of each candidate, whether it is chosen or not.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets.

        Returns
        -------
        rewards : ndarray of shape (n_prompts, k) or (n_rows,)
            Expected rewards of the candidates.
        """
        return _reward_at(self.candidate_calibrator_, self._values(X, groups))

    def _values(self, X, groups):
        check_is_fitted(self)
        return candidate_values(self.policy_, X, groups).astype(np.float64)

    @available_if(_policy_has("decision_function"))
    def decision_function(self, X, groups=None, *, offset=None):
        """Compute the value of each candidate by the policy.

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

        Returns
        -------
        Q : ndarray of shape (n_prompts, k) or (n_rows,)
            Values of the candidates.
        """
        return self._call("decision_function", X, groups=groups, offset=offset)

    @available_if(_policy_has("predict_proba"))
    def predict_proba(self, X, groups=None, *, offset=None):
        """Compute the choice probability of each candidate by the policy.

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

        Returns
        -------
        proba : ndarray of shape (n_prompts, k) or (n_rows,)
            Probabilities that sum to 1 inside each prompt.
        """
        return self._call("predict_proba", X, groups=groups, offset=offset)

    def predict(self, X, groups=None, *, offset=None):
        """Choose the best candidate of each prompt, or do what the policy predicts.

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

        Returns
        -------
        chosen : ndarray
            Result of `predict` of the policy.
        """
        return self._call("predict", X, groups=groups, offset=offset)

    @available_if(_policy_has("sample"))
    def sample(self, X, groups=None, *, offset=None, size=None, random_state=None):
        """Draw one candidate per prompt by the policy.

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
        params = {"size": size, "random_state": random_state}
        return self._call("sample", X, groups=groups, offset=offset, **params)

    @available_if(_policy_has("score"))
    def score(self, X, y, groups=None, *, sample_weight=None, offset=None):
        """Compute the score of the policy, such as the expected reward of its choice.

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
        offset : array-like of shape (n_prompts, k) or (n_rows,), default=None
            Known part of the values, such as minus the price of a candidate. It is
            added to the values of the probe, but it is no part of the rewards.

        Returns
        -------
        score : float
            Result of `score` of the policy.
        """
        params = {"sample_weight": sample_weight, "offset": offset}
        return self._call("score", X, y, groups=groups, **params)

    def _call(self, name, X, *args, **params):
        """Call a method of the policy with the parameters that are not None."""
        check_is_fitted(self)
        given = {key: value for key, value in params.items() if value is not None}
        return call(self.policy_, name, X, *args, **given)

    @property
    def n_features_in_(self):
        """Number of features."""
        return self.policy_.n_features_in_

    @property
    def feature_names_in_(self):
        """Names of the features."""
        return self.policy_.feature_names_in_

    def get_metadata_routing(self):
        """Get the metadata routing of this object.

        Returns
        -------
        routing : MetadataRouter
            Router that passes groups, weights and offsets to the methods of the policy.
        """
        mapping = MethodMapping()
        for method in ("fit", "decision_function", "predict", "predict_proba", "score"):
            mapping.add(caller=method, callee=method)
        router = MetadataRouter(owner=type(self).__name__).add_self_request(self)
        return router.add(estimator=self.estimator, method_mapping=mapping)

    def __sklearn_is_fitted__(self):
        return hasattr(self, "policy_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        inner = get_tags(self.estimator)
        tags.input_tags, tags.target_tags = inner.input_tags, inner.target_tags
        tags.target_tags.required = True
        return tags


def _fit(estimator, X, y, groups, sample_weight):
    """Fit a clone, with the groups and weights if there are any."""
    params = {} if sample_weight is None else {"sample_weight": sample_weight}
    return call(clone(estimator), "fit", X, y, groups=groups, **params)


def _settled(policy):
    """Return a clone of a fitted policy with the settings that its searches selected.

    Values of policies with different penalties or losses differ in scale.
    """
    if hasattr(policy, "best_estimator_"):
        return _settled(policy.best_estimator_)
    if isinstance(policy, Pipeline):
        last, step = policy.steps[-1]
        return clone(policy).set_params(**{last: _settled(step)})
    if not isinstance(policy, QProbePolicyCV):
        settled, inner = clone(policy), getattr(policy, "policy_", None)
        if inner is not None and hasattr(policy, "extract_answers"):  # an AnswerVote
            settled.set_params(estimator=_settled(inner))
        return settled
    shared = QProbePolicy().get_params().keys() & policy.get_params().keys()
    params = {name: getattr(policy, name) for name in shared}
    params["view_weights"] = policy.view_weights_
    return QProbePolicy(**params | policy.best_params_)


def _take(values, indices):
    """Select along the first axis of arrays, frames or lists; None and numbers stay."""
    if values is None or isinstance(values, Real):
        return values
    if hasattr(values, "__array__") and not hasattr(values, "shape"):
        values = np.asarray(values)
    return safe_indexing(values, indices)


def _fit_calibrator(method, values, rewards, weight):
    """Fit the increasing function from values to rewards."""
    used = weight > 0
    x, y, weight = values[used], rewards[used], weight[used]
    if method == "linear":
        return LinearRegression(positive=True).fit(x[:, None], y, weight)
    if method == "isotonic":
        steps = IsotonicRegression(out_of_bounds="clip").fit(x, y, weight)
        heights, step = np.unique(steps.predict(x), return_inverse=True)
        total = np.bincount(step, weight)
        # The mean of each step, between which the prediction is a line.
        centers = np.bincount(step, weight * x) / total
        return steps.fit(centers, heights, total)
    if y.min() < 0 or y.max() > 1:
        raise ValueError(
            "method='sigmoid' needs rewards in [0, 1], but y ranges from "
            f"{y.min():.3g} to {y.max():.3g}; use method='isotonic' or 'linear'."
        )
    # Rewards are shrunk as by one prompt more of each kind (Platt 1999), so that the
    # minimum is finite if all are 1. Each candidate is a 1 and a 0, by weight.
    n_ones, n_zeros = weight @ y, weight @ (1 - y)
    low, high = 1 / (n_zeros + 2), (n_ones + 1) / (n_ones + 2)
    y = low + y * (high - low)
    mean, scale = np.average(x, weights=weight), x.std() or 1.0
    x_twice = np.concatenate([x, x])[:, None]
    is_one = np.repeat([1, 0], len(x))
    weight = np.concatenate([weight * y, weight * (1 - y)])
    curve = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    curve.fit((x_twice - mean) / scale, is_one, weight)
    if curve.coef_[0, 0] < 0:  # the values are of no use
        curve.coef_[:] = 0.0
        curve.intercept_[:] = logit(np.average(is_one, weights=weight))
    curve.coef_ /= scale
    curve.intercept_ -= curve.coef_[:, 0] * mean
    return curve


def _reward_at(calibrator, values):
    """Evaluate the function from values to rewards, in any shape."""
    flat = values.reshape(-1)
    if isinstance(calibrator, IsotonicRegression):
        rewards = calibrator.predict(flat)
    elif isinstance(calibrator, LogisticRegression):
        rewards = calibrator.predict_proba(flat[:, None])[:, 1]
    else:
        rewards = calibrator.predict(flat[:, None])
    return rewards.reshape(values.shape)
