"""Values and temperatures of fitted estimators of any kind."""

import numpy as np
from sklearn.pipeline import Pipeline


def candidate_values(estimator, X):
    """Compute one value per candidate with any fitted estimator.

    Parameters
    ----------
    estimator : estimator
        Fitted probe, or any classifier, regressor or ranker with the API of
        scikit-learn, or a pipeline that ends in one.
    X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
        Input of the estimator.

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
    has_classes = hasattr(estimator, "classes_")
    if hasattr(estimator, "decision_function"):
        values = np.asarray(estimator.decision_function(X))
        if not has_classes or values.ndim == 1:  # otherwise one value per class
            return values
    if has_classes and hasattr(estimator, "predict_proba"):
        return np.asarray(estimator.predict_proba(X)) @ estimator.classes_
    return np.asarray(estimator.predict(X))


def policy_temperature(policy):
    """Find the temperature of a policy, or of the last step of a search or pipeline.

    Parameters
    ----------
    policy : estimator
        Fitted estimator.

    Returns
    -------
    temperature : float
        0 for an estimator without a temperature.
    """
    if hasattr(policy, "best_estimator_"):
        return policy_temperature(policy.best_estimator_)
    if isinstance(policy, Pipeline):
        return policy_temperature(policy.steps[-1][1])
    return getattr(policy, "temperature", 0.0)
