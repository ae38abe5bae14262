"""Values and temperatures of fitted estimators of any kind."""

from inspect import signature

import numpy as np
from sklearn import get_config
from sklearn.pipeline import Pipeline

from skqprobe._arrays.device import check_container, to_host
from skqprobe._candidates.choice import check_objective_weights
from skqprobe._candidates.validation import (
    check_numbers,
    names_of_objectives,
    order_as_fitted,
    unpack_rewards,
)


def candidate_values(estimator, X, groups=None):
    """Compute one value per candidate with any fitted estimator.

    An estimator that takes groups gets them; a pipeline gets them by metadata routing,
    for steps such as `SiblingFeatures`.

    Parameters
    ----------
    estimator : estimator
        Fitted probe, or any classifier, regressor or ranker with the API of
        scikit-learn, or a pipeline that ends in one.
    X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
        Input of the estimator.
    groups : array-like of shape (n_rows,), default=None
        Prompt labels of the rows: hashable values in any order. Not needed for sets.

    Returns
    -------
    values : ndarray of shape (n_prompts, k) or (n_rows,)
        Result of `decision_function`, if it returns one value per candidate. Otherwise,
        for a classifier, the expected label by `predict_proba`; else the result of
        `predict`.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skqprobe.metrics import candidate_values
    >>> X, y = [[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1]
    >>> candidate_values(LogisticRegression().fit(X, y), X).round(1)
    array([-1.4, -0.5,  0.5,  1.4])
    """
    check_container(X, "X")
    estimator = getattr(estimator, "best_estimator_", estimator)  # takes groups
    has_classes = hasattr(estimator, "classes_")
    if hasattr(estimator, "decision_function"):
        values = _call(estimator, "decision_function", X, groups)
        if not has_classes or values.ndim == 1:  # otherwise one value per class
            return values
    if has_classes and hasattr(estimator, "predict_proba"):
        return _call(estimator, "predict_proba", X, groups) @ estimator.classes_
    return _call(estimator, "predict", X, groups)


def predicted_rewards(estimator, X, groups=None):
    """Compute `predict_rewards`, of a CalibratedPolicyCV; else `candidate_values`."""
    estimator = getattr(estimator, "best_estimator_", estimator)
    if hasattr(estimator, "predict_rewards"):
        return _call(estimator, "predict_rewards", X, groups)
    return candidate_values(estimator, X, groups)


def candidate_objectives(estimator, X, groups=None):
    """Compute the values of the candidates in each objective; see `candidate_values`.

    Returns
    -------
    values : ndarray of shape (n_prompts, k, n_objectives) or (n_rows, n_objectives)
    """
    estimator = getattr(estimator, "best_estimator_", estimator)
    if isinstance(estimator, Pipeline) and len(estimator) > 1:
        X = _call(estimator[:-1], "transform", X, groups)
        estimator = estimator[-1]
    if not hasattr(estimator, "predict_objectives"):
        raise ValueError(
            f"{type(estimator).__name__} has no method predict_objectives: pass a "
            "probe, a search over it, or a pipeline that ends in it; or pass the "
            "values of all objectives to from_predictions."
        )
    return _call(estimator, "predict_objectives", X, groups)


def weighted_rewards(estimator, X, y, groups):
    """Weight rewards of several objectives as a fitted estimator weights its values.

    Other rewards, of shape (n_prompts, k) or (n_rows,), are returned unchanged.
    """
    y = unpack_rewards(y)
    probe, shape = last_step(estimator), tuple(y.shape)
    # An array of two axes holds rows if X does, or if there are groups and X is a list.
    n_axes = len(getattr(X, "shape", ()))
    may_be_rows = n_axes == 2 or (groups is not None and n_axes != 3)
    is_rows = may_be_rows and len(shape) == 2 and shape[1] == _n_objectives(probe)
    if len(shape) != 3 and not is_rows:
        return y
    if not hasattr(probe, "objective_weights"):
        raise ValueError(
            f"y has several objectives, but {type(probe).__name__} has no "
            "objective_weights: pass y @ weights, or y[..., 0]."
        )
    names = names_of_objectives(y)
    y = check_numbers(y, "y", "Leave the candidate out, as rows.")
    y = order_as_fitted(y, names, probe)
    return y @ check_objective_weights(probe.objective_weights, shape[-1])


def _n_objectives(probe):
    """Count the objectives of a fitted probe; None for rewards without this axis."""
    if not hasattr(probe, "predict_objectives"):
        return None
    if hasattr(probe, "coefs_"):
        return probe.coefs_[-1].shape[1]
    return len(probe.coef_) if len(probe.coef_.shape) == 2 else None


def _call(estimator, name, X, groups):
    """Call a method of candidates, with the groups if it takes them."""
    return np.asarray(to_host(call(estimator, name, X, groups=groups)))


def call(estimator, name, X, *args, groups=None, **params):
    """Call any method, with the groups if it takes them."""
    method = getattr(estimator, name)
    if groups is None:
        return method(X, *args, **params)
    takes_groups = "groups" in signature(method).parameters
    if not takes_groups and get_config()["enable_metadata_routing"]:
        takes_groups = _requests_groups(estimator, name)
    if takes_groups:
        return method(X, *args, groups=groups, **params)
    parts = estimator.get_params() if hasattr(estimator, "get_params") else {}
    needy = [
        part
        for part in parts.values()
        if _requests_groups(part, "transform") or _requests_groups(part, name)
    ]
    if needy:
        raise ValueError(
            f"{name} of {type(estimator).__name__} does not pass groups to "
            f"{type(needy[-1]).__name__}, which needs them for rows. Call "
            "sklearn.set_config(enable_metadata_routing=True). If it is on, pass the "
            "inner pipeline, or sets."
        )
    return method(X, *args, **params)


def _requests_groups(part, method):
    """Check whether an estimator, or one inside it, requests groups for a method."""
    if isinstance(part, type) or not hasattr(part, "get_metadata_routing"):
        return False
    return bool(part.get_metadata_routing().consumes(method, {"groups"}))


def last_step(estimator):
    """Return the last step of fitted searches, pipelines and calibrated policies."""
    if hasattr(estimator, "best_estimator_"):
        return last_step(estimator.best_estimator_)
    if hasattr(estimator, "choice_calibrator_"):
        return last_step(estimator.policy_)
    if isinstance(estimator, Pipeline):
        return last_step(estimator.steps[-1][1])
    return estimator


def policy_temperature(policy):
    """Find the temperature of a policy, of its last step; 0 if it has none."""
    return getattr(last_step(policy), "temperature", 0.0)
