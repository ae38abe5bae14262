"""AnswerVote: the answer with the most probability summed over its candidates."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import MetaEstimatorMixin, clone
from sklearn.utils import get_tags
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping
from sklearn.utils.validation import check_is_fitted

from skqprobe._arrays.device import to_host
from skqprobe._candidates.choice import (
    best_candidates,
    choice_probabilities,
    expected_rewards,
)
from skqprobe._candidates.layout import check_layout
from skqprobe._candidates.segments import repeat_per_prompt, segment_max, segment_sum
from skqprobe._candidates.validation import (
    check_rewards,
    check_weights,
    warn_without_groups,
    wrong_shape,
)
from skqprobe._utils.estimator import BaseEstimator
from skqprobe._utils.sklearn_compat import HasMethods, StrOptions, _fit_context
from skqprobe._utils.warn import warn_user
from skqprobe.embedders._inputs import check_texts
from skqprobe.metrics._values import (
    call,
    candidate_values,
    policy_temperature,
    weighted_rewards,
)


class AnswerVote(MetaEstimatorMixin, BaseEstimator):
    """Choose the answer with the most probability, summed over its candidates.

    For completions whose answers can be compared for equality: a number, a choice, the
    outcome of tests, or a tool call. A candidate votes for its answer with the
    probability with which the policy chooses it [2]_, or with 1, as in self-consistency
    [1]_. The choice is the best candidate by value among those of the winning answer.

    Read more in :doc:`the user guide </guide/cost>`.

    Parameters
    ----------
    estimator : estimator, default=None
        Policy, reward model, or pipeline or search that ends in one. Its temperature
        must be above 0, or the vote of a single candidate counts, with a warning. None
        needs ``weight="count"``.
    extract : callable, default=None
        Function from a completion, or from a row of X if it holds no texts, to its
        answer, which is hashable; None or NaN for no answer. If None, equal texts or
        rows are equal answers.
    weight : {"softmax", "count"}, default="softmax"
        Weight of the vote of a candidate: its probability, or 1.

    Attributes
    ----------
    policy_ : estimator or None
        Fitted clone of `estimator`.
    n_features_in_ : int
        Number of features, the last axis of X. Defined only if `policy_` has it.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features. Defined only if `policy_` has it.

    See Also
    --------
    CalibratedPolicyCV : Around a vote, it predicts the reward by the share of votes.

    References
    ----------
    .. [1] Wang, Wei, Schuurmans, Le, Chi, Narang, Chowdhery, Zhou, "Self-consistency
       improves chain of thought reasoning in language models", ICLR 2023,
       arXiv 2203.11171.
    .. [2] Taubenfeld, Sheffer, Ofek, Feder, Goldstein, Gekhman, Yona, "Confidence
       improves self-consistency in LLMs", 2025, arXiv 2502.06233.

    Examples
    --------
    >>> from skqprobe import AnswerVote
    >>> records = [{"prompt": "6 * 7 = ", "completions": ["It is 42", "67", "= 42"]}]
    >>> vote = AnswerVote(extract=lambda text: int(text.split()[-1]), weight="count")
    >>> vote.fit(records, [[1, 0, 1]]).predict_proba(records)
    array([[0.5, 0. , 0.5]])
    """

    __metadata_request__fit = {"groups": True, "sample_weight": True}
    __metadata_request__decision_function = {"groups": True, "answers": True}
    __metadata_request__predict = {"groups": True, "answers": True}
    __metadata_request__predict_proba = {"groups": True, "answers": True}
    __metadata_request__score = {
        "groups": True,
        "answers": True,
        "sample_weight": True,
    }

    _parameter_constraints: dict = {
        "estimator": [HasMethods(["fit", "predict"]), None],
        "extract": [callable, None],
        "weight": [StrOptions({"softmax", "count"})],
    }

    def __init__(self, estimator=None, *, extract=None, weight="softmax"):
        self.estimator = estimator
        self.extract = extract
        self.weight = weight

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, groups=None, *, sample_weight=None):
        """Fit the policy.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        y : array-like of shape (n_prompts, k) or (n_rows,)
            Rewards.
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
            If there is no estimator, but its probabilities are needed.
        """
        if self.estimator is None:
            if self.weight != "count":
                raise ValueError(
                    "estimator=None has no probabilities; pass a policy, or "
                    "weight='count'."
                )
            self.policy_: Any = None
            return self
        params = {} if sample_weight is None else {"sample_weight": sample_weight}
        self.policy_ = call(clone(self.estimator), "fit", X, y, groups=groups, **params)
        return self

    def extract_answers(self, X):
        """Extract the answer of each candidate.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.

        Returns
        -------
        answers : ndarray of object, of shape (n_prompts, k) or (n_rows,)
            Answers, with None for those that have none.
        """
        if _holds_texts(X):
            texts = check_texts(X)
            parts, shape = texts.completions, texts.shape
        else:
            X = np.asarray(to_host(X, "X"))
            X = X.astype(np.float64) if X.dtype == object else X
            if X.ndim not in (2, 3):
                raise ValueError(
                    f"X has shape {X.shape}; pass texts, records, sets of shape "
                    "(n_prompts, k, n_features), or rows, (n_rows, n_features)."
                )
            rows, shape = X.reshape(-1, X.shape[-1]), X.shape[:-1]
            parts = rows if self.extract else map(bytes, rows)
        answers = np.empty(np.prod(shape), dtype=object)
        answers[:] = [self.extract(part) if self.extract else part for part in parts]
        return answers.reshape(shape)

    def decision_function(self, X, groups=None, *, answers=None):
        """Compute the share of the votes for the answer of each candidate.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets.
        answers : array-like of shape (n_prompts, k) or (n_rows,), default=None
            Answers of the candidates, hashable values, with None or NaN for no
            answer. If None, `extract` finds them in X.

        Returns
        -------
        share : ndarray of shape (n_prompts, k) or (n_rows,)
            Sum of the probabilities of the candidates with the same answer; 0 without
            an answer.
        """
        layout, _, share, _ = self._votes(X, groups, answers)
        return layout.to_user_order(np.maximum(share, 0))

    def predict_proba(self, X, groups=None, *, answers=None):
        """Compute the choice probability of each candidate.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets.
        answers : array-like of shape (n_prompts, k) or (n_rows,), default=None
            Answers of the candidates, hashable values, with None or NaN for no
            answer. If None, `extract` finds them in X.

        Returns
        -------
        proba : ndarray of shape (n_prompts, k) or (n_rows,)
            1 for the choice of each prompt; candidates that are equally good share it.
        """
        layout, score, _ = self._scores(X, groups, answers)
        return layout.to_user_order(choice_probabilities(score, layout, 0))

    def predict(self, X, groups=None, *, answers=None):
        """Choose the best candidate of the answer with the most votes.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets.
        answers : array-like of shape (n_prompts, k) or (n_rows,), default=None
            Answers of the candidates, hashable values, with None or NaN for no
            answer. If None, `extract` finds them in X.

        Returns
        -------
        chosen : ndarray of int, of shape (n_prompts,)
            For sets, the index along axis 1. For rows, the position in X, with the
            prompts in order of first appearance; without groups, 0 for every row.
        """
        layout, score, _ = self._scores(X, groups, answers)
        return layout.to_user_index(best_candidates(score, layout))

    def score(self, X, y, groups=None, *, sample_weight=None, answers=None):
        """Compute the expected reward of the choice.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        y : array-like of shape (n_prompts, k) or (n_rows,)
            Rewards.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets.
        sample_weight : array-like, default=None
            Non-negative number of copies of each candidate, of shape (n_prompts, k), or
            (n_rows,) with `groups`; or of each prompt, of shape (n_prompts,), or
            (n_rows,) without `groups`.
        answers : array-like of shape (n_prompts, k) or (n_rows,), default=None
            Answers of the candidates, hashable values, with None or NaN for no
            answer. If None, `extract` finds them in X.

        Returns
        -------
        score : float
            Mean over prompts.
        """
        layout, score, weight = self._scores(X, groups, answers, sample_weight)
        of_prompt, of_candidate = weight
        rewards, _ = check_rewards(weighted_rewards(self, X, y, groups), layout.shape)
        proba = choice_probabilities(score, layout, 0, of_candidate)
        chosen = expected_rewards(proba, layout.to_prompt_order(rewards), layout)
        return float(np.average(chosen, weights=of_prompt))

    def _votes(self, X, groups, answers, sample_weight=None):
        """Layout, value and share of each candidate in prompt order, and weights.

        The share is -1 without an answer. Candidates of weight 0 are left out.
        """
        check_is_fitted(self)
        self._validate_params()
        values, temperature = None, np.inf
        if self.policy_ is not None:
            values = candidate_values(self.policy_, X, groups).astype(np.float64)
            temperature = policy_temperature(self.policy_)
        found = self.extract_answers(X) if answers is None else _to_array(answers)
        if values is None:
            values = np.zeros(found.shape)
        if found.shape != values.shape:
            raise ValueError(f"{wrong_shape('answers', found.shape, values.shape)}.")
        layout = check_layout(values.shape, groups)
        warn_without_groups(layout)
        of_prompt, weight = check_weights(sample_weight, layout)
        if weight is not None:
            layout = layout.keep(layout.to_prompt_order(weight) > 0)
            of_prompt = np.ones(layout.n_prompts)
        values, found, weight = map(layout.to_prompt_order, (values, found, weight))
        votes = np.ones(len(values)) if weight is None else weight
        if self.weight == "softmax":
            if temperature == 0:
                warn_user(
                    "The temperature of the policy is 0, so only its best candidate "
                    "votes. Pass a policy at a temperature above 0, or weight='count'."
                )
            votes = choice_probabilities(values, layout, temperature, weight)
        prompt = repeat_per_prompt(np.arange(layout.n_prompts), layout.offsets)
        numbers: dict = defaultdict(lambda: len(numbers))
        try:
            number = [numbers[key] for key in zip(prompt.tolist(), found, strict=True)]
        except TypeError as error:
            raise TypeError(
                f"answers must be hashable, but there is an {error}. Convert lists to "
                "tuples, and dicts to texts."
            ) from None
        is_answer = np.array([_is_answer(answer) for answer in found])
        share = np.bincount(number, votes * is_answer)[number]
        if self.weight == "count":
            total = segment_sum(votes, layout.offsets)
            share = share / repeat_per_prompt(total, layout.offsets)
        # Below all shares, also those of answers of no probability.
        return layout, values, np.where(is_answer, share, -1.0), (of_prompt, weight)

    def _scores(self, X, groups, answers, sample_weight=None):
        """Layout, a score by which the choice is the best candidate, and weights."""
        layout, values, share, weight = self._votes(X, groups, answers, sample_weight)
        best = repeat_per_prompt(segment_max(share, layout.offsets), layout.offsets)
        return layout, np.where(share == best, values, -np.inf), weight

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
            Router that passes groups and weights to `fit` of the policy.
        """
        router = MetadataRouter(owner=type(self).__name__).add_self_request(self)
        if self.estimator is None:
            return router
        mapping = MethodMapping().add(caller="fit", callee="fit")
        return router.add(estimator=self.estimator, method_mapping=mapping)

    def __sklearn_is_fitted__(self):
        return hasattr(self, "policy_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        if self.estimator is not None:
            inner = get_tags(self.estimator)
            tags.input_tags, tags.target_tags = inner.input_tags, inner.target_tags
        tags.target_tags.required = self.estimator is not None
        return tags


def _holds_texts(X):
    """Return whether X holds texts, pairs or records, and not numbers."""
    try:
        array = np.asarray(to_host(X, "X"))
    except ValueError:  # pairs of a list of messages and a text
        return True
    if array.dtype.kind == "O":
        return isinstance(next(iter(array.flat), None), (str, Mapping, list, tuple))
    return array.dtype.kind in "UT"


def _is_answer(answer):
    """Return whether an answer is not missing: None, or NaN, NaT or NA of pandas."""
    return not (answer is None or type(answer).__name__ == "NAType" or answer != answer)


def _to_array(answers):
    """Convert answers of any type, also tuples, to an array of object."""
    answers = to_host(answers, "answers")
    if hasattr(answers, "shape"):
        array = np.asarray(answers, dtype=object)
    else:
        rows = list(answers)
        is_sets = all(isinstance(row, (list, np.ndarray)) for row in rows)
        if is_sets and len({len(row) for row in rows}) == 1:
            array = np.empty((len(rows), len(rows[0])), dtype=object)
            for i, row in enumerate(rows):
                array[i, :] = np.fromiter(row, dtype=object)
        else:
            array = np.fromiter(rows, dtype=object)
    return array
