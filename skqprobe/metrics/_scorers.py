"""Scorers: the metrics, as scikit-learn's searches and cross-validation call them."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import MetadataRequest

from skqprobe._candidates.choice import choice_probabilities
from skqprobe._candidates.validation import NO_GROUPS, check_scored
from skqprobe.metrics._rewards import best_of_k_reward, expected_reward, recovery


def candidate_values(estimator, X):
    """Compute one value a candidate, with any fitted estimator.

    Parameters
    ----------
    estimator : estimator
        A probe; or any classifier, regressor or ranker of scikit-learn's kind, or a
        pipeline that ends in one.
    X : array-like
        What the estimator takes.

    Returns
    -------
    values : ndarray of shape (n_prompts, k) or (n_rows,)
        `decision_function`, where there is one with one value a candidate; else, of a
        classifier, the expected label by `predict_proba`; else `predict`.

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
        if not has_classes or values.ndim == 1:  # else one a class
            return values
    if has_classes and hasattr(estimator, "predict_proba"):
        return np.asarray(estimator.predict_proba(X)) @ estimator.classes_
    return np.asarray(estimator.predict(X))


def policy_temperature(policy):
    """Find the temperature of a policy, or of the last step of a search or pipeline.

    Parameters
    ----------
    policy : estimator
        A fitted estimator.

    Returns
    -------
    temperature : float
        0 where there is none.
    """
    if hasattr(policy, "best_estimator_"):
        return policy_temperature(policy.best_estimator_)
    if isinstance(policy, Pipeline):
        return policy_temperature(policy.steps[-1][1])
    return getattr(policy, "temperature", 0.0)


@dataclass(frozen=True)
class CandidateScorer:
    """Scorer of one value a candidate, by a metric; made by the functions below.

    It asks for `groups` by itself, so that they reach it in a search or
    cross-validation given ``sklearn.set_config(enable_metadata_routing=True)`` alone.

    Parameters
    ----------
    metric : callable
        Called as ``metric(y, values, groups=groups, **options)``; higher is better.
    options : dict
        What else the metric takes.
    """

    metric: Callable
    options: dict

    def __call__(self, estimator, X, y, groups=None):
        """Score a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            A probe, or any classifier, regressor or ranker; see `candidate_values`.
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            What the estimator takes.
        y : array-like of shape (n_prompts, k) or (n_rows,)
            Rewards.
        groups : array-like of shape (n_rows,), default=None
            For rows: labels of the prompts.

        Returns
        -------
        score : float
            NaN, with a warning, for rows without groups.
        """
        if np.ndim(y) == 1 and groups is None:
            warnings.warn(NO_GROUPS, UserWarning, stacklevel=2)
            return float("nan")
        values = candidate_values(estimator, X)
        return self.metric(y, values, groups=groups, **self.options)

    def get_metadata_routing(self):
        """Get the metadata request: `groups`, for scoring.

        Returns
        -------
        request : MetadataRequest
        """
        request = MetadataRequest(owner=self)
        request.score.add_request(param="groups", alias=True)
        return request


def best_of_k_scorer(k):
    """Make a scorer: the reward of the best of k candidates, by their values.

    Parameters
    ----------
    k : int
        From how many candidates the best is taken; see `best_of_k_reward`.

    Returns
    -------
    scorer : CandidateScorer
        For `scoring` of ``GridSearchCV``, ``cross_validate`` and the like, alone or in
        a dict of several. It serves both layouts, and probes as well as scikit-learn's
        own classifiers and regressors: the value of a candidate is its
        `decision_function` where there is one, else, of a classifier, the expected
        label by `predict_proba`, else `predict`.

    Examples
    --------
    >>> from sklearn.model_selection import cross_validate
    >>> from skqprobe import QProbePolicy
    >>> from skqprobe.datasets import load_two_words
    >>> from skqprobe.metrics import best_of_k_scorer, recovery_scorer
    >>> X, y = load_two_words(return_X_y=True)
    >>> scores = cross_validate(
    ...     QProbePolicy("log_loss"),
    ...     X[:120],
    ...     y[:120],
    ...     scoring={"best of 4": best_of_k_scorer(4), "share": recovery_scorer(16)},
    ...     cv=3,
    ... )
    >>> best, share = scores["test_best of 4"], scores["test_share"]
    >>> print(f"{best.mean():.1f} {share.mean():.1f}")
    0.7 0.8

    For rows, groups travel by metadata routing, and any regressor can be compared:

    >>> from sklearn import config_context
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.model_selection import GroupKFold
    >>> frame, rewards = load_two_words(return_X_y=True, as_frame=True)
    >>> with config_context(enable_metadata_routing=True):
    ...     scores = cross_validate(
    ...         Ridge(),
    ...         frame,
    ...         rewards,
    ...         scoring=best_of_k_scorer(4),
    ...         cv=GroupKFold(3),
    ...         params={"groups": frame.index},
    ...     )
    >>> bool(scores["test_score"].mean() > rewards.mean() + 0.1)
    True
    """
    return CandidateScorer(best_of_k_reward, {"k": k})


def recovery_scorer(k):
    """Make a scorer: the share of the possible gain that the best of k takes.

    Parameters
    ----------
    k : int
        From how many candidates the best is taken; see `recovery`.

    Returns
    -------
    scorer : CandidateScorer
        Used as that of `best_of_k_scorer`.
    """
    return CandidateScorer(recovery, {"k": k})


def expected_reward_scorer(temperature=0.0):
    """Make a scorer: the reward of a choice by softmax among all candidates.

    Parameters
    ----------
    temperature : float, default=0.0
        Temperature of the choice, 0 or more, in units of the candidates' values; at 0
        the best is chosen, and equal best ones share. The estimator's own temperature
        is not read.

    Returns
    -------
    scorer : CandidateScorer
        Used as that of `best_of_k_scorer`.
    """
    return CandidateScorer(softmax_reward, {"temperature": temperature})


def softmax_reward(y, scores, temperature, groups=None, *, prompt_weight=None):
    """Compute the reward of a choice among all candidates by softmax of the scores.

    Parameters
    ----------
    y, scores : array-like of shape (n_prompts, k) or (n_rows,)
        Rewards, and values of the candidates.
    temperature : float
        0 or more.
    groups, prompt_weight
        See `expected_reward`.

    Returns
    -------
    reward : float or ndarray
    """
    scores, layout = check_scored(scores, groups, "scores")
    proba = layout.to_user_order(choice_probabilities(scores, layout, temperature))
    return expected_reward(y, proba, groups, prompt_weight=prompt_weight)
