"""QProbeRegressor: a probe that predicts the reward."""

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score

from skqprobe._arrays.device import to_namespace_of
from skqprobe._arrays.magnitude import SMALLEST, check_magnitude
from skqprobe._candidates.choice import check_offset
from skqprobe._candidates.layout import check_layout
from skqprobe._candidates.segments import repeat_per_prompt
from skqprobe._candidates.validation import NO_KNOWN_WEIGHT, check_weights
from skqprobe._estimators._base import BaseQProbe
from skqprobe._estimators._fit import known_rewards
from skqprobe._estimators._lazy import lazily
from skqprobe._utils.sklearn_compat import StrOptions
from skqprobe.losses import get_loss


class QProbeRegressor(RegressorMixin, BaseQProbe):
    """Probe that predicts the reward of a candidate.

    It is the reward model of the paper [1]_, trained with L_Q or L_CE on the candidates
    of all prompts. On rows it is a scikit-learn regressor. It also takes sets, and
    `sample` chooses among the candidates of a prompt by its predictions.

    Read more in :doc:`the user guide </guide/method>`.

    Parameters
    ----------
    loss : {"squared_error", "log_loss"}, default="squared_error"
        Loss. "log_loss" is for rewards in [0, 1], and predicts probabilities.
    alpha : float, default=1e-2
        Strength of the L2 penalty, in [0, inf). The objective is the mean loss over
        prompts plus ``alpha / 2 * |coef|**2``. With hidden layers, the penalty is on
        all weights of a network on standardized features, and for losses with a closed
        form on standardized rewards; biases are not penalized.
    temperature : float, default=0.0
        Temperature of `sample`, in [0, inf], in units of the reward. It may be changed
        after `fit`.
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
        those without two different rewards.
    n_features_in_ : int
        Number of features, the last axis of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if X was a data frame with string column names.
    objective_names_ : ndarray of shape (n_objectives,)
        Names of the objectives, if `y` was a data frame with string column names, or
        has them from :func:`~skqprobe.generators.load_records`.

    See Also
    --------
    QProbePolicy : Probe that is trained to choose.

    References
    ----------
    .. [1] Li, Jelassi, Zhang, Kakade, Wattenberg, Brandfonbrener, "Q-Probe: A
       Lightweight Approach to Reward Maximization for Language Models", ICML 2024,
       arXiv 2402.14688v1, section 5.1.

    Examples
    --------
    >>> import numpy as np
    >>> from skqprobe import QProbeRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 8, 5))  # 200 prompts, 8 candidates, 5 features
    >>> y = (X[..., 0] + rng.normal(size=(200, 8)) > 0).astype(float)
    >>> model = QProbeRegressor(loss="log_loss").fit(X[:100], y[:100])
    >>> model.predict(X[100:]).shape
    (100, 8)
    >>> model.sample(X[100:103])
    array([5, 1, 4])
    """

    __metadata_request__predict = {"offset": True}

    _parameter_constraints: dict = {
        **BaseQProbe._parameter_constraints,
        "loss": [StrOptions({"squared_error", "log_loss"})],
    }

    def __init__(
        self,
        loss="squared_error",
        *,
        alpha=1e-2,
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
    def predict(self, X, *, offset=None):
        """Predict the reward of each candidate, weighted if there are several.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        offset : array-like of shape (n_prompts, k) or (n_rows,), default=None
            Known part of the values, such as minus the price of a candidate. It is
            added to the values of the probe.

        Returns
        -------
        reward : ndarray of shape (n_prompts, k) or (n_rows,)
            Expected rewards; for "log_loss", probabilities. One per candidate, also of
            several objectives.
        """
        values, shape = self._snapshot()._values(X, "predict", offset)
        return to_namespace_of(X, values.reshape(shape))

    def _expected_rewards(self, X, method):
        scores, shape = self._scores(X, method)
        return get_loss(self.loss).inverse_link(scores), shape

    def _weighted(self, X, method):
        # The link is not linear: the mean of probabilities is not that of their logits.
        rewards, shape = self._expected_rewards(X, method)
        return self._weigh(rewards).astype(rewards.dtype, copy=False), shape

    @lazily("score")
    def score(self, X, y, groups=None, *, sample_weight=None, offset=None):
        """Compute R^2 over all candidates.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        y : array-like of shape (n_prompts, k) or (n_rows,)
            Rewards; or several per candidate, one per objective, along a last axis.
        groups : array-like, default=None
            Prompt labels of the rows. They only determine whether `sample_weight`
            counts candidates or prompts.
        sample_weight : array-like, default=None
            Non-negative number of copies of each candidate, of shape (n_prompts, k), or
            (n_rows,) with `groups`; or of each prompt, of shape (n_prompts,), or
            (n_rows,) without `groups`.
        offset : array-like of shape (n_prompts, k) or (n_rows,), default=None
            Known part of the values. It is no part of the rewards, so that R^2 does not
            depend on it.

        Returns
        -------
        score : float
            R^2, at most 1.
        """
        y, predicted, weight = self._scored(X, y, groups, sample_weight, offset)
        return r2_score(y, predicted, sample_weight=weight)

    def _scored(self, X, y, groups, sample_weight, offset, is_part=False):
        """Return rewards, predictions and weights of all candidates."""
        self = self._snapshot()
        predicted, shape = self._values(X, "score")
        if offset is not None:
            check_offset(offset, shape, predicted.dtype)
        layout = check_layout(shape, groups)
        y = self._weighted_rewards(y, shape)
        known = known_rewards(y, layout, sample_weight, self.missing, is_part)
        if known is not None:
            y = np.where(known, y, 0.0)
        check_magnitude(y, "y", 0.0 if is_part else SMALLEST)
        weights = check_weights(sample_weight, layout, is_part)
        prompt_weight, candidate_weight = weights
        weight = layout.to_user_order(repeat_per_prompt(prompt_weight, layout.offsets))
        if candidate_weight is not None:
            weight = weight * candidate_weight
        if known is not None:
            weight = weight * known
        return y.ravel(), predicted, weight.ravel()

    def _score_terms(self, X, y, groups=None, sample_weight=None, offset=None):
        """Count rows; sum weights, squared errors and deviations; average rewards."""
        arguments = X, y, groups, sample_weight, offset
        y, predicted, weight = self._scored(*arguments, is_part=True)
        total = weight.sum()
        some = y[weight.argmax()]  # so that the mean of equal rewards is not rounded
        mean = some + weight @ (y - some) / (total or 1)
        squares = weight @ (y - predicted) ** 2, weight @ (y - mean) ** 2
        return len(y), total, mean, *squares

    _n_score_terms = 5

    @staticmethod
    def _score_of(terms):
        """Compute R^2 from the terms of parts."""
        counts, weights, means, errors, deviations = terms.T
        if counts.sum() < 2:
            return r2_score([0], [0])  # NaN, with a warning
        if not weights.any():
            raise ValueError(NO_KNOWN_WEIGHT)
        some = means[weights.argmax()]
        mean = some + weights @ (means - some) / weights.sum()
        total = deviations.sum() + weights @ (means - mean) ** 2
        if total == 0:  # as in r2_score
            return float(errors.sum() == 0)
        return 1 - errors.sum() / total
