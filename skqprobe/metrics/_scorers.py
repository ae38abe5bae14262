"""Scorers: metrics with the signature that scikit-learn's searches call."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.utils.metadata_routing import MetadataRequest

from skqprobe._candidates.layout import check_layout
from skqprobe._candidates.validation import no_groups, warn_if_thinned
from skqprobe._utils.warn import warn_user
from skqprobe.metrics._rewards import best_of_k_reward, recovery, softmax_reward
from skqprobe.metrics._values import (
    candidate_values,
    last_step,
    policy_temperature,
    weighted_rewards,
)


@dataclass(frozen=True)
class CandidateScorer:
    """Scorer of the values of candidates by a metric.

    It requests `groups`, so that they reach it in a search or cross-validation after
    ``sklearn.set_config(enable_metadata_routing=True)``.

    Parameters
    ----------
    metric : callable
        Called as ``metric(y, values, groups=groups, **options)``; higher is better.
    options : dict
        Other arguments of the metric. A `temperature` of None is that of the estimator.
    """

    metric: Callable
    options: dict

    def __call__(self, estimator, X, y, groups=None):
        """Score a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            Fitted probe, or any classifier, regressor or ranker; see
            `candidate_values`.
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Input of the estimator.
        y : array-like of shape (n_prompts, k) or (n_rows,)
            Rewards; or several per candidate, along a last axis, which the
            `objective_weights` of the estimator weight.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets.

        Returns
        -------
        score : float
            NaN, with a warning, for rows without groups.
        """
        y = weighted_rewards(estimator, X, y, groups)
        if np.ndim(y) == 1 and groups is None:
            warn_user(no_groups())
            return float("nan")
        if np.ndim(y) == 1:
            sizes = check_layout(np.shape(y), groups).sizes
            warn_if_thinned(last_step(estimator), sizes.mean())
        values = candidate_values(estimator, X, groups if np.ndim(y) == 1 else None)
        options = self.options
        if "temperature" in options and options["temperature"] is None:
            options = options | {"temperature": policy_temperature(estimator)}
        return self.metric(y, values, groups=groups, **options)

    def get_metadata_routing(self):
        """Get the metadata request: `groups`, for scoring.

        Returns
        -------
        request : MetadataRequest
        """
        request = MetadataRequest(owner=self)
        request.score.add_request(param="groups", alias=True)
        return request


def best_of_k_scorer(k, *, too_few="raise"):
    """Make a scorer for the reward of the best of k candidates by value.

    Parameters
    ----------
    k : int
        Number of candidates from which the best is chosen; see `best_of_k_reward`.
    too_few : {"raise", "skip"}, default="raise"
        Whether to raise an error if a prompt has fewer than k candidates, or to leave
        out such prompts for that k.

    Returns
    -------
    scorer : CandidateScorer
        For the parameter `scoring` of ``GridSearchCV``, ``cross_validate`` and so on,
        alone or in a dict. It takes both layouts, and scores scikit-learn's classifiers
        and regressors, too: see `candidate_values`.

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
    >>> bool(scores["test_best of 4"].mean() > y[:120].mean() + 0.2)
    True

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
    return CandidateScorer(best_of_k_reward, {"k": k, "too_few": too_few})


def recovery_scorer(k, *, too_few="raise"):
    """Make a scorer for the share of the possible gain that the best of k attains.

    Parameters
    ----------
    k : int
        Number of candidates from which the best is chosen; see `recovery`.
    too_few : {"raise", "skip"}, default="raise"
        Whether to raise an error if a prompt has fewer than k candidates, or to leave
        out such prompts for that k.

    Returns
    -------
    scorer : CandidateScorer
        See `best_of_k_scorer`.
    """
    return CandidateScorer(recovery, {"k": k, "too_few": too_few})


def expected_reward_scorer(temperature=None):
    """Make a scorer for the reward of a choice by softmax among all candidates.

    With ``temperature=None`` it can tune the temperature in a search. The other scorers
    rank candidates: all temperatures have equal scores.

    Parameters
    ----------
    temperature : float, default=None
        Temperature of the choice, in [0, inf], in units of the values. At 0 the best
        candidate is chosen, and candidates of equal value share the probability. None
        uses the `temperature` of the estimator (for a pipeline, that of the last step),
        or 0 if it has none.

    Returns
    -------
    scorer : CandidateScorer
        See `best_of_k_scorer`.
    """
    return CandidateScorer(softmax_reward, {"temperature": temperature})
