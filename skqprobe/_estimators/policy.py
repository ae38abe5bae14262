"""QProbePolicy: a probe trained to choose."""

from skqprobe._arrays.device import to_namespace_of
from skqprobe._arrays.magnitude import check_magnitude
from skqprobe._candidates.choice import (
    best_candidates,
    choice_probabilities,
    choice_reward,
)
from skqprobe._candidates.layout import check_layout
from skqprobe._candidates.validation import check_values, warn_without_groups
from skqprobe._estimators._base import BaseQProbe
from skqprobe._estimators._fit import weighted_layout
from skqprobe._utils.sklearn_compat import StrOptions
from skqprobe.losses import LOSSES, BaseLoss
from skqprobe.metrics._per_prompt import mean_terms, weighted_mean


class QProbePolicy(BaseQProbe):
    """Probe that chooses one of the candidates that a model sampled.

    The probe gives each (prompt, completion) embedding a value Q, and the policy
    chooses a candidate of a prompt with probability ``softmax(Q / temperature)``. As
    the number of candidates grows, this tends to the model's own distribution tilted by
    ``exp(Q / temperature)`` [1]_.

    Read more in :doc:`the user guide </guide/method>`.

    Parameters
    ----------
    loss : str or BaseLoss, default="pairwise_logistic"
        What to minimise: "squared_error", "log_loss", "policy_gradient" (the paper's
        best), "pairwise_logistic" (the best of all on our data, see
        :doc:`/guide/choosing`), "pairwise_hinge", "softmax_cross_entropy" or
        "contrastive_policy_gradient", or a loss object of :mod:`skqprobe.losses` or
        your own. With an object, a search reaches its settings as ``loss__margin``.
    alpha : float, default=1e-4
        Strength of the L2 penalty, 0 or more: the objective is the mean loss of the
        prompts plus ``alpha / 2 * |coef|**2``. With hidden layers, these are all
        weights of a network on standardised features, and for "squared_error" and
        "contrastive_policy_gradient" standardised rewards; biases are free.
    temperature : float, default=0.0
        Temperature of the choice, 0 or more, in units of Q. At 0 the best candidate is
        chosen, and equal best ones share the probability. Read by `predict_proba`,
        `sample` and `score` only: with a penalty, a temperature in training would do no
        more than rescale `alpha`. It may be changed after `fit`.
    fit_intercept : bool, default=True
        Whether "squared_error" and "log_loss" have an intercept. The other losses
        cannot see one. Hidden layers have biases in any case.
    n_candidates : int, default=None
        Deal each prompt's candidates at random into sets of at most this many, of equal
        size within one, and train on these. The paper trains on sets of 10. None trains
        on all candidates of a prompt at once.
    hidden_layer_sizes : tuple of int, default=()
        Widths of the hidden layers, with ReLU after each; () is a linear probe. The
        paper's are (256,) and (256, 256). They are fitted by Adam on minibatches of
        whole prompts, which needs torch, and takes a CUDA device if there is one;
        predicting needs neither. A tenth of the prompts is held out, and the weights
        with the least loss there are kept. Of fewer than ten prompts none is held out,
        and the weights with the least objective are kept.
    solver : {"auto", "closed_form", "lbfgs"}, default="auto"
        "closed_form" is there for "squared_error" and "contrastive_policy_gradient";
        "auto" uses it where it is, else "lbfgs". With hidden layers it must be "auto",
        which then stands for Adam.
    max_iter : int, default=1000
        The most iterations of L-BFGS; with hidden layers, epochs.
    tol : float, default=1e-4
        L-BFGS stops when the gradient, in scaled features, is `tol` times as long as at
        zero coefficients, or when an iteration gains less than ``tol**1.5`` of what was
        gained in all. With hidden layers, the fit stops after 20 epochs in a row that
        did not beat the least held-out loss before by more than `tol` times what that
        had gained since the start.
    warm_start : bool, default=False
        Whether to start from the coefficients of the last fit; with hidden layers, if
        that had layers of the same sizes.
    random_state : int, RandomState instance or None, default=None
        Determines the sets of `n_candidates` and the draws of `sample`; with hidden
        layers, also the weights at the start, the prompts held out and the minibatches.
    verbose : int, default=0
        1 prints the objective at each iteration of L-BFGS; with hidden layers, the
        held-out loss after each epoch.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,)
        Coefficients of a linear probe; float32 if X was float16 or float32.
    intercept_ : float
        Intercept of a linear probe; 0.0 for losses that cannot see one.
    coefs_ : list of ndarray of shape (fan_in, fan_out)
        Weights of the layers, only with hidden ones; of the type of `coef_`.
    intercepts_ : list of ndarray of shape (fan_out,)
        Biases of the layers, only with hidden ones; 0 for the score where the
        loss cannot see it.
    n_iter_ : int
        Number of iterations that the solver made; 1 for the closed form; epochs with
        hidden layers.
    n_skipped_prompts_ : int
        Number of training prompts (with `n_candidates`, of sets) that the loss is not
        defined for: for a pairwise loss, those without two different rewards. They do
        not count in the mean.
    n_features_in_ : int
        Number of features, the last axis of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if X was a data frame with string column names.

    See Also
    --------
    QProbeRegressor : Probe that predicts the reward itself.
    sample_candidates : Draw from the probabilities that a pipeline gives.

    References
    ----------
    .. [1] Li, Jelassi, Zhang, Kakade, Wattenberg, Brandfonbrener, "Q-Probe: A
       Lightweight Approach to Reward Maximization for Language Models", ICML 2024,
       arXiv 2402.14688, sections 3 and 4.

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

    __metadata_request__predict = {"groups": True}
    __metadata_request__predict_proba = {"groups": True}

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
        fit_intercept=True,
        n_candidates=None,
        hidden_layer_sizes=(),
        solver="auto",
        max_iter=1000,
        tol=1e-4,
        warm_start=False,
        random_state=None,
        verbose=0,
    ):
        super().__init__(
            loss,
            alpha=alpha,
            temperature=temperature,
            fit_intercept=fit_intercept,
            n_candidates=n_candidates,
            hidden_layer_sizes=hidden_layer_sizes,
            solver=solver,
            max_iter=max_iter,
            tol=tol,
            warm_start=warm_start,
            random_state=random_state,
            verbose=verbose,
        )

    def decision_function(self, X):
        """Compute the probe value Q of each candidate.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs: sets or rows.

        Returns
        -------
        Q : ndarray of shape (n_prompts, k) or (n_rows,)
        """
        scores, shape = self._scores(X, "decision_function")
        return to_namespace_of(X, scores.reshape(shape))

    def predict_proba(self, X, groups=None):
        """Compute the probability that each candidate is chosen, at `temperature`.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs: sets or rows.
        groups : array-like of shape (n_rows,), default=None
            For rows: labels of the prompts, any hashable values in any order.

        Returns
        -------
        proba : ndarray of shape (n_prompts, k) or (n_rows,)
            Sums to 1 inside each prompt.
        """
        layout, scores = self._scored_layout(X, groups, "predict_proba")
        proba = choice_probabilities(scores, layout, self.temperature)
        return to_namespace_of(X, layout.to_user_order(proba))

    def predict(self, X, groups=None):
        """Choose the best candidate of each prompt, the first among equals.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs: sets or rows.
        groups : array-like of shape (n_rows,), default=None
            For rows: labels of the prompts, any hashable values in any order.

        Returns
        -------
        chosen : ndarray of int, of shape (n_prompts,)
            For sets the index along axis 1; for rows the position in X, prompts in the
            order of their first appearance. For rows without groups 0 throughout, as
            for sets of one candidate.
        """
        layout, scores = self._scored_layout(X, groups, "predict")
        return to_namespace_of(X, layout.to_user_index(best_candidates(scores, layout)))

    def score(self, X, y, groups=None, *, sample_weight=None):
        """Compute the expected reward of the chosen candidate, at `temperature`.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs: sets or rows.
        y : array-like of shape (n_prompts, k) or (n_rows,)
            Rewards.
        groups : array-like of shape (n_rows,), default=None
            For rows: labels of the prompts, any hashable values in any order.
        sample_weight : array-like, default=None
            Numbers of copies of candidates or prompts, as in `fit`.

        Returns
        -------
        score : float
            The mean over prompts. NaN, with a warning, for rows without groups: they
            leave no choice, so that the mean reward would say nothing of the policy.
        """
        scores, shape = self._scores(X, "score")
        layout = check_layout(shape, groups)
        rewards = check_values(y, shape, "y")
        check_magnitude(rewards, "y")
        layout, prompt_weight, candidate_weight = weighted_layout(layout, sample_weight)
        warn_without_groups(layout)
        if not layout.grouped:
            return float("nan")
        values = choice_reward(
            layout.to_prompt_order(scores),
            layout.to_prompt_order(rewards),
            layout,
            self.temperature,
            layout.to_prompt_order(candidate_weight),
        )
        return weighted_mean(mean_terms(values), prompt_weight)

    @property
    def classes_(self):
        """Not there: the candidates of a prompt are not classes."""
        raise AttributeError(
            f"{type(self).__name__} has no classes_. If cross_val_predict asked for "
            "them: with method='decision_function' or 'predict_proba' it would train "
            "on the ranks of the rewards, as if they were class labels. Hand the "
            "rewards over as a parameter of fit instead: cross_val_predict(policy, X, "
            "params={'y': y}, method='decision_function')."
        )
