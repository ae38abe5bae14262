"""BayesianQProbePolicy: a policy with a posterior over the probe."""

from numbers import Integral, Real

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from skqprobe._arrays.blocks import compute_dtype
from skqprobe._arrays.collections import add_each, is_collection
from skqprobe._arrays.device import to_namespace_of
from skqprobe._arrays.magnitude import downcast, raise_on_overflow
from skqprobe._arrays.threads import threads_for
from skqprobe._candidates.layout import check_layout
from skqprobe._candidates.segments import repeat_per_prompt, segment_max, segment_sum
from skqprobe._candidates.validation import (
    check_candidates,
    no_groups,
    warn_without_groups,
)
from skqprobe._estimators._fit import (
    check_training_data,
    set_fitted,
    weighted_layout,
)
from skqprobe._estimators._posterior import (
    Information,
    best_probabilities,
    centered_rows,
    from_choices,
    from_rows,
    standard_rows,
)
from skqprobe._estimators.policy import QProbePolicy
from skqprobe._utils.callbacks import begin_fit
from skqprobe._utils.sklearn_compat import (
    FloatInterval,
    Interval,
    StrOptions,
    _fit_context,
    with_callbacks,
)
from skqprobe._utils.warn import warn_user

NOTHING_TO_LEARN = (
    "No prompt is informative: the posterior needs prompts with at least two "
    "candidates that differ, and two different rewards of one prompt, or a choice if "
    "likelihood='choice'. No coefficient was learned."
)

LOSS_OF_LIKELIHOOD = {
    "gaussian": "contrastive_policy_gradient",
    "choice": "conditional_logit",
}
"""Loss that is minus the logarithm of a likelihood, up to its scale."""


def _learn_part(partition, estimator, nothing):
    """Return the information of a partition, and the counts of `_informative`."""
    informative = estimator._informative(partition.data, partition.weighted)
    layout, y, weight, n_free, *counts = informative
    if layout.n_prompts == 0:
        return nothing, *counts
    rows = centered_rows(partition.data.X, layout, y, weight)
    return from_rows(rows, nothing, n_free), *counts


def _check_copies(n_several, n_free):
    """Raise if weights leave less than two rewards of every prompt."""
    if n_several and not n_free:
        raise ValueError(
            "sample_weight is the number of copies of each candidate, but sums to at "
            "most 1 in every prompt: less than two rewards. Multiply it by a constant, "
            "or pass one weight per prompt."
        )


class BayesianQProbePolicy(QProbePolicy):
    """Policy with a posterior over its probe, updated without a new fit.

    The prior of the coefficients is normal. Rewards have normal noise around the value
    of the candidate plus a constant of its prompt; or, of the candidates of a prompt,
    one was chosen with probability ``softmax(Q)``. The penalty maximizes the evidence,
    without cross-validation.

    Read more in :doc:`the user guide </guide/choices>`.

    Parameters
    ----------
    likelihood : {"gaussian", "choice"}, default="gaussian"
        Meaning of `y`. For "gaussian", rewards; the posterior is exact. For "choice",
        the number of times that each candidate was chosen; the posterior is Laplace's
        approximation, which is too narrow for few choices.
    alpha : float, default=None
        Precision of the prior of each coefficient, above 0: for "gaussian", in units of
        that of the noise. The mode of the posterior minimizes the sum over candidates
        of ``(Q - y)**2 / 2`` centered inside prompts, or the sum over choices of ``-log
        softmax(Q)``, plus ``alpha / 2 * |coef|**2``. None maximizes the evidence, see
        the notes.
    n_draws : int, default=1000
        Number of draws from the posterior by `predict_best_proba`.
    temperature : float, default=0.0
        Temperature of the choice, in [0, inf], in units of Q. At 0 the best candidate
        is chosen, and candidates of equal value share the probability. Only
        `predict_proba`, `sample` and `score` use it, so that it may be changed after
        `fit`: in training, a temperature would only rescale `alpha`.
    forgetting_factor : float, default=1.0
        Weight, in (0, 1], by which `partial_fit` multiplies all earlier data. Below 1,
        the probe follows rewards that drift.
    max_iter : int, default=100
        Maximum number of Newton steps, only for "choice".
    tol : float, default=1e-6
        Length of the last Newton step, above 0, in standard deviations of the
        posterior.
    missing : {"raise", "ignore"}, default="raise"
        Treatment of candidates without a reward, whose y is NaN, None or NA. If
        "raise", they raise an error, unless their `sample_weight` is 0. If "ignore",
        `fit`, `partial_fit` and `score` leave them out.
    random_state : int, RandomState instance or None, default=None
        Seed or generator of the draws of `sample` and `predict_best_proba`.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,)
        Mean of the posterior; float32 if X was float16 or float32.
    intercept_ : float
        0.0: a constant does not change a choice.
    alpha_ : float
        Precision of the prior.
    noise_variance_ : float
        Variance of the noise of a reward, which maximizes the evidence; 1.0 for
        "choice".
    log_evidence_ : float
        Logarithm of the evidence: for "gaussian", that of the rewards up to a constant
        per prompt.
    factor_ : ndarray of shape (rank, n_features)
        Matrix R of orthogonal rows. The covariance of the posterior is
        ``noise_variance_ * inv(R.T @ R + alpha_ * I)``.
    n_iter_ : int
        Number of Newton steps; 1 for "gaussian".
    n_skipped_prompts_ : int
        Number of prompts of the last data without a choice, or without candidates to
        compare.
    n_features_in_ : int
        Number of features, the last axis of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if X was a data frame with string column names.

    See Also
    --------
    QProbePolicy : Policy with any loss, and a given penalty.
    QProbePolicyCV : Policy that selects its settings by cross-validation.

    Notes
    -----
    For "gaussian" and prompts of k candidates, the coefficients are those of
    ``QProbePolicy("contrastive_policy_gradient", alpha=alpha_ / (n_prompts * k))``. A
    candidate of weight w counts as w copies.

    If there are so few rewards that some coefficients fit them exactly, the evidence is
    maximized among the precisions for which the values explain at most half of the
    variance a priori. For "choice", `alpha` is a fixed point of MacKay [1]_: the
    evidence of the quadratic approximation at the mode is maximal.

    References
    ----------
    .. [1] MacKay, "Bayesian Interpolation", Neural Computation 4, 1992.

    Examples
    --------
    >>> from skqprobe import BayesianQProbePolicy
    >>> from skqprobe.datasets import load_two_words
    >>> X, y = load_two_words(return_X_y=True)
    >>> policy = BayesianQProbePolicy(random_state=0).fit(X[:20], y[:20])
    >>> Q, std = policy.decision_function(X[160:], return_std=True)
    >>> Q.shape == std.shape == policy.predict_best_proba(X[160:]).shape
    True
    >>> policy = policy.partial_fit(X[20:160], y[20:160])
    >>> print(f"{y[160:].mean():.2f} -> {policy.score(X[160:], y[160:]):.2f}")
    0.36 -> 0.81
    """

    __metadata_request__partial_fit = {"groups": True, "sample_weight": True}
    __metadata_request__decision_function = {
        "groups": True,
        "return_std": True,
        "offset": True,
    }

    _parameter_constraints: dict = {
        "likelihood": [StrOptions({"gaussian", "choice"})],
        "alpha": [FloatInterval(Real, 0, None, closed="neither"), None],
        "n_draws": [Interval(Integral, 1, None, closed="left")],
        "temperature": [FloatInterval(Real, 0, np.inf, closed="both")],
        "forgetting_factor": [FloatInterval(Real, 0, 1, closed="right")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [FloatInterval(Real, 0, None, closed="neither")],
        "missing": [StrOptions({"raise", "ignore"})],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        likelihood="gaussian",
        *,
        alpha=None,
        n_draws=1000,
        temperature=0.0,
        forgetting_factor=1.0,
        max_iter=100,
        tol=1e-6,
        missing="raise",
        random_state=None,
    ):
        self.likelihood = likelihood
        self.alpha = alpha
        self.n_draws = n_draws
        self.temperature = temperature
        self.forgetting_factor = forgetting_factor
        self.max_iter = max_iter
        self.tol = tol
        self.missing = missing
        self.random_state = random_state

    @property
    def loss(self):
        """Loss of which the mode is the minimum, under the name in QProbePolicy."""
        return LOSS_OF_LIKELIHOOD[self.likelihood]

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, groups=None, *, sample_weight=None):
        """Compute the posterior from rewards or choices.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        y : array-like of shape (n_prompts, k) or (n_rows,)
            Rewards; for "choice", numbers of choices, 0 or more.
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

        Warns
        -----
        UserWarning
            If no prompt is informative, for example because rows have no groups.
        ConvergenceWarning
            If the Newton steps did not converge.
        """
        data = check_training_data(self, X, y, groups, sample_weight)
        metadata = {"groups": groups, "sample_weight": sample_weight}
        task = begin_fit(self, X, y, 0, **metadata)
        nothing = Information(np.empty((0, data.n_features)), np.empty(0))
        if is_collection(X):
            attributes = self._posterior_of_parts(data, nothing)
        else:
            attributes = self._posterior(data, sample_weight, nothing)
        task.end(attributes)
        return set_fitted(self, attributes)

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, groups=None, sample_weight=None):
        """Update the posterior by more prompts: it is the prior of these.

        For "gaussian", the result is that of one fit to all data. A prompt whose
        candidates are in two calls counts as two prompts.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        y : array-like of shape (n_prompts, k) or (n_rows,)
            Rewards; for "choice", numbers of choices, 0 or more.
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
            If an argument has the wrong shape or values. The estimator is then
            unchanged.
        """
        if not hasattr(self, "coef_"):
            return self.fit(X, y, groups, sample_weight=sample_weight)
        if self.likelihood != self._likelihood_:
            raise ValueError(
                f"likelihood={self.likelihood!r}, but the posterior is that of "
                f"likelihood={self._likelihood_!r}; call fit to begin again."
            )
        self._validate_params()  # which may have changed: scikit-learn checks once
        if is_collection(X):
            raise ValueError(
                "partial_fit takes data in memory, but X is a Dask collection. Call "
                "fit, or call partial_fit with X.compute()."
            )
        data = check_training_data(self, X, y, groups, sample_weight, reset=False)
        before = self._information().scaled(float(self.forgetting_factor))
        return set_fitted(self, self._posterior(data, sample_weight, before))

    def _information(self):
        """Information of the data so far."""
        rows = np.asarray(self.factor_, dtype=np.float64)
        return Information(rows, self._targets_, self._rest_, self._n_free_)

    def _posterior(self, data, sample_weight, before):
        """Fitted attributes of the posterior, of which `before` is the prior."""
        weighted = weighted_layout(data.layout, sample_weight, data.known)
        informative = self._informative(data, weighted)
        layout, y, weight, n_free, n_skipped, n_several = informative
        if self.likelihood == "gaussian":
            _check_copies(n_several, n_free)
        fitted = data.features | {
            "n_skipped_prompts_": n_skipped,
            "_likelihood_": self.likelihood,
        }
        if layout.n_prompts == 0:
            warn_user(NOTHING_TO_LEARN if layout.grouped else no_groups())
            return fitted | self._attributes(data.X, before, self.alpha, 1)
        rows = centered_rows(data.X, layout, y, weight)
        with raise_on_overflow(), threads_for(data.X):
            if self.likelihood == "choice":
                found = self._learn_choices(rows, y, weight, before)
            else:
                found = from_rows(rows, before, n_free), self.alpha, 1
            if not found[0].has_signal:
                warn_user(NOTHING_TO_LEARN)
            return fitted | self._attributes(data.X, *found)

    def _posterior_of_parts(self, data, nothing):
        """Fitted attributes of the posterior of data in partitions."""
        if self.likelihood == "choice":
            raise ValueError(
                "likelihood='choice' needs all data in one process, but X is a Dask "
                "collection. Pass X.compute(), or fit a QProbePolicy with "
                "loss='conditional_logit'."
            )
        bare = type(self)(**self.get_params(deep=False))
        with raise_on_overflow(), threads_for(None):
            learned = data.parts.total(_learn_part, bare, nothing, add=add_each)
        information, n_skipped, n_several = learned
        _check_copies(n_several, information.n_free)
        if not information.has_signal:
            warn_user(NOTHING_TO_LEARN if data.grouped else no_groups())
        stored = np.empty((0, 0), compute_dtype(data))
        found = self._attributes(stored, information, self.alpha, 1)
        names = {"n_skipped_prompts_": n_skipped, "_likelihood_": self.likelihood}
        return data.features | names | found

    def _informative(self, data, weighted):
        """Keep the informative prompts, and candidates of positive weight.

        Returns
        -------
        layout : Layout
            Layout of these candidates.
        y, weight : ndarray of shape (layout.n_rows,)
            Rewards or numbers of choices, and numbers of copies, in prompt order.
        n_free : float
            Number of rewards that are free to vary: all copies but one per prompt.
        n_skipped : int
            Number of other prompts.
        n_several : int
            Number of prompts with several candidates.
        """
        if data.is_vector:
            raise ValueError(
                f"y has several objectives, but {type(self).__name__} takes one number "
                "per candidate; pass y[..., 0], or a weighted sum, y @ weights."
            )
        layout, prompt_weight, weight = weighted
        y, offsets = layout.to_prompt_order(data.rewards), layout.offsets
        if weight is None:
            n_free = prompt_weight * (layout.sizes - 1)
            weight = repeat_per_prompt(prompt_weight, offsets)
        else:
            weight = layout.to_prompt_order(weight)
            n_free = np.maximum(segment_sum(weight, offsets) - 1, 0)
        several = (layout.sizes > 1) & (segment_max(weight, offsets) > 0)
        if self.likelihood == "choice":
            if (y < 0).any():
                raise ValueError(
                    "y has negative numbers; with likelihood='choice' it must hold the "
                    "number of times that each candidate was chosen."
                )
            informative = (several | (n_free > 0)) & (
                segment_sum(y * weight, offsets) > 0
            )
        else:
            informative = n_free > 0
            # Equal rewards become 0, without rounding.
            y = y - repeat_per_prompt(segment_max(y, offsets), offsets)
        kept = repeat_per_prompt(informative, offsets) & (weight > 0)
        n_skipped = (~informative & (segment_max(weight, offsets) > 0)).sum()
        n_free = n_free[informative].sum()
        counts = int(n_skipped), int(several.sum())
        return layout.keep(kept), y[kept], weight[kept], n_free, *counts

    def _learn_choices(self, rows, y, weight, before):
        """Information, precision of the prior, and number of Newton steps."""
        alpha = None if self.alpha is None else float(self.alpha)
        options = {"tol": float(self.tol), "max_iter": self.max_iter}
        *found, converged = from_choices(rows, y, weight, before, alpha, **options)
        if not converged:
            warn_user(
                f"The Newton steps did not converge in max_iter={self.max_iter} "
                "iterations. Increase max_iter or tol, scale X, or set alpha.",
                ConvergenceWarning,
            )
        return found

    def _attributes(self, X, information, alpha, n_iter):
        """Fitted attributes of a posterior; alpha may be None."""
        noise = None if self.likelihood == "gaussian" else 1.0
        if not information.has_signal:
            alpha, noise = 1.0 if alpha is None else float(alpha), 1.0
            evidence = 0.0
        else:
            alpha = information.best_alpha(noise) if alpha is None else float(alpha)
            evidence = float(information.log_evidence(alpha, noise)[0])
            noise = float(information.noise(alpha)) if noise is None else noise
        dtype = compute_dtype(X)
        return {
            "coef_": to_namespace_of(X, downcast(information.coef(alpha), dtype)),
            "intercept_": 0.0,
            "alpha_": alpha,
            "noise_variance_": noise,
            "log_evidence_": evidence,
            "factor_": downcast(information.rows, dtype),
            "n_iter_": n_iter,
            "_targets_": information.targets,
            "_rest_": float(information.rest),
            "_n_free_": float(information.n_free),
        }

    def decision_function(self, X, groups=None, return_std=False, *, offset=None):
        """Compute the mean of the value Q of each candidate, and its spread.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets.
        return_std : bool, default=False
            Whether to return the standard deviation, too.
        offset : array-like of shape (n_prompts, k) or (n_rows,), default=None
            Known part of the values, such as minus the price of a candidate. It is
            added to the values of the probe.

        Returns
        -------
        Q : ndarray of shape (n_prompts, k) or (n_rows,)
            Values of the candidates.
        std : ndarray of shape (n_prompts, k) or (n_rows,)
            Standard deviation of the posterior of Q minus its mean over the candidates
            of the prompt, since a constant does not change a choice. Only with
            `return_std`, which needs groups for rows.
        """
        self = self._snapshot()
        Q = super().decision_function(X, offset=offset)
        if not return_std:
            return Q
        rows, layout = self._checked(X, groups)
        parts = standard_rows(self._information(), self.alpha_, rows, layout)
        variances = np.concatenate([np.einsum("ij,ij->i", C, C) for C in parts])
        std = np.sqrt(self.noise_variance_ * variances)
        std = std.astype(compute_dtype(rows), copy=False)
        return Q, to_namespace_of(X, layout.to_user_order(std))

    def predict_best_proba(self, X, groups=None, *, offset=None):
        """Compute the probability that each candidate has the highest value.

        It is the share of `n_draws` joint draws of the values of a prompt from the
        posterior.

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
        self = self._snapshot()
        values, _ = self._values(X, "predict_best_proba", offset)
        rows, layout = self._checked(X, groups)
        proba = best_probabilities(
            standard_rows(self._information(), self.alpha_, rows, layout),
            layout.to_prompt_order(values.astype(np.float64)),
            self.noise_variance_,
            layout,
            self.n_draws,
            check_random_state(self.random_state),
        )
        proba = proba.astype(compute_dtype(rows), copy=False)
        return to_namespace_of(X, layout.to_user_order(proba))

    def _checked(self, X, groups):
        """Rows of an X whose values were computed, so that it is finite, and layout."""
        rows, shape = check_candidates(self, X, reset=False)
        layout = check_layout(shape, groups)
        warn_without_groups(layout)
        return rows, layout

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = False
        return tags
