"""QProbeRegressor: a probe that predicts the reward."""

from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score

from skqprobe._arrays.device import to_namespace_of
from skqprobe._arrays.magnitude import SMALLEST, check_magnitude
from skqprobe._candidates.layout import check_layout
from skqprobe._candidates.segments import repeat_per_prompt
from skqprobe._candidates.validation import check_values, check_weights
from skqprobe._estimators._base import BaseQProbe
from skqprobe._utils.sklearn_compat import StrOptions
from skqprobe.losses import get_loss


class QProbeRegressor(RegressorMixin, BaseQProbe):
    """Probe that predicts the reward of a candidate.

    The reward model of the paper [1]_, trained by L_Q or L_CE on the rows of all
    prompts. On rows it is a plain scikit-learn regressor; it takes candidate sets too,
    and chooses among candidates by its predictions with `sample`.

    Read more in :doc:`the user guide </guide/method>`.

    Parameters
    ----------
    loss : {"squared_error", "log_loss"}, default="squared_error"
        What to minimise. "log_loss" is for rewards in [0, 1], and predicts
        probabilities.
    alpha : float, default=1e-2
        Strength of the L2 penalty, 0 or more: the objective is the mean over prompts
        of their mean loss, plus ``alpha / 2 * |coef|**2``. With hidden layers, these
        are all weights of a network on standardised features, and for "squared_error"
        standardised rewards; biases are free.
    temperature : float, default=0.0
        Temperature of `sample`, 0 or more, in units of the reward. It may be changed
        after `fit`.
    fit_intercept : bool, default=True
        Whether to have an intercept. Hidden layers have biases in any case.
    n_candidates : int, default=None
        Deal each prompt's candidates at random into sets of at most this many. Changes
        nothing but rounding here (with hidden layers, and the minibatches); it is there
        for symmetry with QProbePolicy.
    hidden_layer_sizes : tuple of int, default=()
        Widths of the hidden layers, with ReLU after each; () is a linear probe. The
        paper's are (256,) and (256, 256). They are fitted by Adam on minibatches of
        whole prompts, which needs torch, and takes a CUDA device if there is one;
        predicting needs neither. A tenth of the prompts is held out, and the weights
        with the least loss there are kept. Of fewer than ten prompts none is held out,
        and the weights with the least objective are kept.
    solver : {"auto", "closed_form", "lbfgs"}, default="auto"
        "closed_form" is there for "squared_error"; "auto" uses it where it is, else
        "lbfgs". With hidden layers it must be "auto", which then stands for Adam.
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
        Intercept of a linear probe.
    coefs_ : list of ndarray of shape (fan_in, fan_out)
        Weights of the layers, only with hidden ones; of the type of `coef_`.
    intercepts_ : list of ndarray of shape (fan_out,)
        Biases of the layers, only with hidden ones.
    n_iter_ : int
        Number of iterations that the solver made; 1 for the closed form; epochs with
        hidden layers.
    n_skipped_prompts_ : int
        Always 0: both losses are defined for every prompt.
    n_features_in_ : int
        Number of features, the last axis of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if X was a data frame with string column names.

    See Also
    --------
    QProbePolicy : Probe trained to choose.

    References
    ----------
    .. [1] Li, Jelassi, Zhang, Kakade, Wattenberg, Brandfonbrener, "Q-Probe: A
       Lightweight Approach to Reward Maximization for Language Models", ICML 2024,
       arXiv 2402.14688, section 3.

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

    def predict(self, X):
        """Predict the reward of each candidate.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs: sets or rows.

        Returns
        -------
        reward : ndarray of shape (n_prompts, k) or (n_rows,)
            Expected rewards; probabilities for "log_loss".
        """
        return to_namespace_of(X, self._predict(X, "predict"))

    def _predict(self, X, method):
        """Compute what `predict` gives as numpy, for a method."""
        scores, shape = self._scores(X, method)
        return self._choice_values(scores).reshape(shape)

    def _choice_values(self, scores):
        return get_loss(self.loss).inverse_link(scores)

    def score(self, X, y, groups=None, *, sample_weight=None):
        """Compute R^2 over all candidates.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs: sets or rows.
        y : array-like of shape (n_prompts, k) or (n_rows,)
            Rewards.
        groups : array-like, default=None
            Not used, but for telling which sample weights are possible.
        sample_weight : array-like, default=None
            Numbers of copies of candidates or prompts, as in `fit`.

        Returns
        -------
        score : float
            At most 1.
        """
        predicted = self._predict(X, "score")
        layout = check_layout(predicted.shape, groups)
        y = check_values(y, predicted.shape, "y")
        check_magnitude(y, "y", SMALLEST)
        prompt_weight, candidate_weight = check_weights(sample_weight, layout)
        weight = layout.to_user_order(repeat_per_prompt(prompt_weight, layout.offsets))
        if candidate_weight is not None:
            weight = weight * candidate_weight
        return r2_score(y.ravel(), predicted.ravel(), sample_weight=weight.ravel())
