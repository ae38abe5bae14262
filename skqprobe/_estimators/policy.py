"""QProbePolicy: a probe that is trained to choose."""

import numpy as np

from skqprobe._arrays.device import to_namespace_of
from skqprobe._candidates.choice import (
    best_candidates,
    choice_probabilities,
    choice_reward,
)
from skqprobe._candidates.layout import check_layout
from skqprobe._candidates.validation import (
    NO_KNOWN_WEIGHT,
    warn_if_thinned,
    warn_without_groups,
)
from skqprobe._estimators._base import BaseQProbe
from skqprobe._estimators._fit import known_rewards, weighted_layout
from skqprobe._estimators._lazy import lazily
from skqprobe._utils.sklearn_compat import StrOptions
from skqprobe.losses import LOSSES, BaseLoss
from skqprobe.metrics._per_prompt import mean_terms


class QProbePolicy(BaseQProbe):
    """Probe that chooses one of the candidates that a model sampled.

    The probe maps each (prompt, completion) embedding to a value Q. The policy chooses
    a candidate of a prompt with probability ``softmax(Q / temperature)``. As the number
    of candidates grows, this tends to the distribution of the model, tilted by
    ``exp(Q / temperature)`` [1]_.

    Read more in :doc:`the user guide </guide/method>`.

    Parameters
    ----------
    loss : str or BaseLoss, default="pairwise_logistic"
        Loss: "squared_error", "log_loss", "policy_gradient" (the best in the paper),
        "pairwise_logistic" (the best on our data, see :doc:`/guide/choosing`),
        "pairwise_hinge", "softmax_cross_entropy", "contrastive_policy_gradient",
        "conditional_logit" (y holds counts of choices), "quantile_filtered_imitation",
        or an object of :mod:`skqprobe.losses` or of a subclass of `BaseLoss`. A search
        reaches the parameters of an object as ``loss__margin``.
    alpha : float, default=1e-4
        Strength of the L2 penalty, in [0, inf). The objective is the mean loss over
        prompts plus ``alpha / 2 * |coef|**2``. With hidden layers, the penalty is on
        all weights of a network on standardized features, and for losses with a closed
        form on standardized rewards; biases are not penalized.
    temperature : float, default=0.0
        Temperature of the choice, in [0, inf], in units of Q. At 0 the best candidate
        is chosen, and candidates of equal value share the probability. Only
        `predict_proba`, `sample` and `score` use it, so that it may be changed after
        `fit`: in training, a temperature would only rescale `alpha`.
    objective_weights : array-like of shape (n_objectives,), default=None
        Weights of the objectives, of any sign and in units of their rewards, if `y` has
        several per candidate: the value of a candidate is the weighted sum of theirs.
        None weights them equally, as their mean. Like `temperature`, only the choice
        uses them, so that they may be changed after `fit`.
    fit_intercept : bool, default=True
        Whether "squared_error" and "log_loss" have an intercept. Shift-invariant losses
        have none. Hidden layers always have biases.
    n_candidates : int, default=None
        Maximum size of the random sets into which the candidates of each prompt are
        split for training, of about equal size within a prompt. The paper trains on
        sets of 10. None trains on all candidates of a prompt together. Losses of single
        candidates do not depend on it, up to rounding.
    hidden_layer_sizes : tuple of int, default=()
        Widths of the hidden layers, each followed by ReLU; () is a linear probe. The
        paper uses (256,) and (256, 256). Hidden layers are fitted by Adam on
        minibatches of whole prompts. This needs torch, and uses a CUDA device if there
        is one; prediction needs neither. A tenth of the prompts is held out, and the
        weights with the lowest held-out loss are kept. With fewer than ten prompts none
        is held out, and the weights with the lowest objective are kept.
    standardize : bool, default=False
        Whether to train on columns minus their mean and divided by their standard
        deviation over the candidates of `fit`, as from
        ``PerCandidate(StandardScaler())``. The coefficients are those of X as it is,
        which is not copied.
    view_sizes : tuple of int, dict or list of str, default=None
        Views of X, if it has several embeddings side by side: the number of columns of
        each, in order; or by name, this number or the columns, selected as in
        ColumnTransformer; or the name of each column, "view__column". None takes the
        views that X carries from an embedder or a transformer, or one view.
    view_weights : array-like of shape (n_views,) or dict, default=None
        Weights of the views, in (0, inf): the penalty of a view is `alpha` divided by
        its weight. A dict has those of some views, by name; the others are 1. None
        weights all views equally.
    solver : {"auto", "closed_form", "lbfgs"}, default="auto"
        Solver. "closed_form" is available for "squared_error" and
        "contrastive_policy_gradient". "auto" uses it if available, otherwise "lbfgs";
        with hidden layers it uses Adam, and is the only valid choice.
    max_iter : int, default=1000
        Maximum number of iterations of L-BFGS, or of epochs with hidden layers.
    tol : float, default=1e-4
        Tolerance, above 0. L-BFGS has converged when the norm of the gradient, in
        scaled features, is at most `tol` times its norm at zero coefficients, or when
        at most 0.3 `tol` of the total gain is left, by the gains of the last
        iterations. In place of a loss with kinks, smooth losses are minimized that
        approach it up to 5 `tol` of the total gain. With hidden layers, training stops
        after 20 consecutive epochs that do not lower the best held-out loss by more
        than `tol` times its total decrease.
    missing : {"raise", "ignore"}, default="raise"
        Treatment of candidates without a reward, whose y is NaN, None or NA. If
        "raise", they raise an error, unless their `sample_weight` is 0. If "ignore",
        `fit` and `score` leave them out. Of several objectives, all are needed.
    forgetting_factor : float, default=1.0
        Weight, in (0, 1], by which `partial_fit` multiplies all earlier data. Below 1,
        the probe follows rewards that drift.
    warm_start : bool, default=False
        Whether to start from the coefficients of the last fit, if it had as many
        objectives; with hidden layers, if it had layers of the same sizes.
    random_state : int, RandomState instance or None, default=None
        Seed or generator of the sets of `n_candidates` and of the draws of `sample`;
        with hidden layers, also of the initial weights, the held-out prompts and the
        minibatches.
    verbose : int, default=0
        If 1, print the objective at each iteration of L-BFGS or, with hidden layers,
        the held-out loss after each epoch.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,) or (n_objectives, n_features)
        Coefficients of a linear probe; float32 if X was float16 or float32.
    intercept_ : float or ndarray of shape (n_objectives,)
        Intercept of a linear probe; 0.0 for shift-invariant losses without
        `standardize`.
    coefs_ : list of ndarray of shape (fan_in, fan_out)
        Weights of the layers, only with hidden layers; of the dtype of `coef_`.
    intercepts_ : list of ndarray of shape (fan_out,)
        Biases of the layers, only with hidden layers. The last is 0 for
        shift-invariant losses.
    n_iter_ : int
        Number of iterations of the solver: 1 for the closed form, the number of epochs
        with hidden layers. Of several objectives, the largest.
    n_skipped_prompts_ : int or ndarray of shape (n_objectives,)
        Number of training prompts (with `n_candidates`, of sets) that are not
        informative for the loss and do not count in the mean: for a pairwise loss,
        those without two different rewards; for "conditional_logit", without a choice.
    n_features_in_ : int
        Number of features, the last axis of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if X was a data frame with string column names.
    objective_names_ : ndarray of shape (n_objectives,)
        Names of the objectives, if `y` was a data frame with string column names, or
        has them from :func:`~skqprobe.generators.load_records`.

    See Also
    --------
    QProbeRegressor : Probe that predicts the reward.
    sample_candidates : Draw from the choice probabilities of a pipeline.

    References
    ----------
    .. [1] Li, Jelassi, Zhang, Kakade, Wattenberg, Brandfonbrener, "Q-Probe: A
       Lightweight Approach to Reward Maximization for Language Models", ICML 2024,
       arXiv 2402.14688.

    Examples
    --------
    >>> import numpy as np
    >>> from skqprobe import QProbePolicy
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 8, 5))  # 200 prompts, 8 candidates, 5 features
    >>> y = (X[..., 0] + rng.normal(size=(200, 8)) > 0).astype(float)
    >>> policy = QProbePolicy().fit(X[:100], y[:100])
    >>> policy.predict(X[100:103])
    array([5, 1, 4])
    >>> print(f"{y[100:].mean():.2f} -> {policy.score(X[100:], y[100:]):.2f}")
    0.52 -> 0.93
    """

    __metadata_request__decision_function = {"offset": True}
    __metadata_request__predict = {"groups": True, "offset": True}
    __metadata_request__predict_proba = {"groups": True, "offset": True}

    _parameter_constraints: dict = {
        **BaseQProbe._parameter_constraints,
        "loss": [StrOptions(set(LOSSES)), BaseLoss],
    }

    def __init__(
        self,
        loss="pairwise_logistic",
        *,
        alpha=1e-4,
        temperature=0.0,
        objective_weights=None,
        fit_intercept=True,
        n_candidates=None,
        hidden_layer_sizes=(),
        standardize=False,
        view_sizes=None,
        view_weights=None,
        solver="auto",
        max_iter=1000,
        tol=1e-4,
        missing="raise",
        forgetting_factor=1.0,
        warm_start=False,
        random_state=None,
        verbose=0,
    ):
        self.loss = loss
        self.alpha = alpha
        self.temperature = temperature
        self.objective_weights = objective_weights
        self.fit_intercept = fit_intercept
        self.n_candidates = n_candidates
        self.hidden_layer_sizes = hidden_layer_sizes
        self.standardize = standardize
        self.view_sizes = view_sizes
        self.view_weights = view_weights
        self.solver = solver
        self.max_iter = max_iter
        self.tol = tol
        self.missing = missing
        self.forgetting_factor = forgetting_factor
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    @lazily("candidates")
    def decision_function(self, X, *, offset=None):
        """Compute the probe value Q of each candidate.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        offset : array-like of shape (n_prompts, k) or (n_rows,), default=None
            Known part of the values, such as minus the price of a candidate. It is
            added to the values of the probe.

        Returns
        -------
        Q : ndarray of shape (n_prompts, k) or (n_rows,)
            Values of the candidates; of several objectives, weighted.
        """
        values, shape = self._snapshot()._values(X, "decision_function", offset)
        return to_namespace_of(X, values.reshape(shape))

    @lazily("candidates", needs_groups=True)
    def predict_proba(self, X, groups=None, *, offset=None):
        """Compute the choice probability of each candidate at `temperature`.

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
        layout, values = self._valued_layout(X, groups, "predict_proba", offset)
        proba = choice_probabilities(values, layout, self.temperature)
        return to_namespace_of(X, layout.to_user_order(proba))

    @lazily("prompts", needs_groups=True)
    def predict(self, X, groups=None, *, offset=None):
        """Choose the best candidate of each prompt; of equal ones, the first.

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
        chosen : ndarray of int, of shape (n_prompts,)
            For sets, the index along axis 1. For rows, the position in X, with the
            prompts in order of first appearance; without groups, 0 for every row.
        """
        self = self._snapshot()
        layout, values = self._valued_layout(X, groups, "predict", offset)
        return to_namespace_of(X, layout.to_user_index(best_candidates(values, layout)))

    @lazily("score", needs_groups=True)
    def score(self, X, y, groups=None, *, sample_weight=None, offset=None):
        """Compute the expected reward of the chosen candidate at `temperature`.

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
            Mean over prompts; of several objectives, of the weighted ones. NaN, with a
            warning, for rows without groups, which leave nothing to choose.

        Warns
        -----
        UserWarning
            If rows have no groups, or more than twice as many candidates per prompt as
            the rows of `fit`.
        """
        terms = self._score_terms(X, y, groups, sample_weight, offset, is_part=False)
        return self._score_of(terms[None])

    def _score_terms(
        self, X, y, groups=None, sample_weight=None, offset=None, is_part=True
    ):
        """Sum the weighted rewards of the choices, and the weights."""
        self = self._snapshot()
        values, shape = self._values(X, "score", offset)
        layout = check_layout(shape, groups)
        if len(shape) == 1:
            warn_if_thinned(self, layout.sizes.mean())
        rewards = self._weighted_rewards(y, shape)
        known = known_rewards(rewards, layout, sample_weight, self.missing, is_part)
        layout, prompt_weight, candidate_weight = weighted_layout(
            layout, sample_weight, known, is_part
        )
        warn_without_groups(layout)
        if not layout.grouped:
            return np.full(2, np.nan)
        if layout.n_prompts == 0:
            return np.zeros(2)
        chosen = choice_reward(
            layout.to_prompt_order(values),
            layout.to_prompt_order(rewards),
            layout,
            self.temperature,
            layout.to_prompt_order(candidate_weight),
        )
        chosen = mean_terms(chosen)
        return np.array([prompt_weight @ part for part in chosen])

    _n_score_terms = 2

    @staticmethod
    def _score_of(terms):
        """Compute the score from the terms of parts."""
        total, weight = terms.sum(axis=0)
        if weight == 0:
            raise ValueError(NO_KNOWN_WEIGHT)
        return float(total / weight)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    @property
    def classes_(self):
        """Not available: the candidates of a prompt are not classes."""
        raise AttributeError(
            f"{type(self).__name__} has no classes_. If cross_val_predict asked for "
            "them: with method='decision_function' or 'predict_proba' it would train "
            "on the ranks of the rewards, as if they were class labels. Pass the "
            "rewards as a parameter of fit instead: cross_val_predict(policy, X, "
            "params={'y': y}, method='decision_function')."
        )
