"""The recommended pipeline, and a pipeline that passes groups to its steps."""

from sklearn import config_context
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe._estimators.policy_cv import QProbePolicyCV
from skqprobe._utils.estimator import BaseEstimator
from skqprobe.preprocessing import PerCandidate, SiblingFeatures


class ProbePipeline(BaseEstimator, Pipeline):
    """Pipeline whose steps get `groups`, also without metadata routing.

    It is the Pipeline of scikit-learn. With `groups`, its methods switch metadata
    routing on for the call.

    Parameters
    ----------
    steps : list of tuple
        Pairs (name, estimator), in order.
    transform_input : list of str, default=None
        Metadata that the steps before the last transform, as X.
    memory : str or object with the joblib.Memory interface, default=None
        Cache of the fitted transformers.
    verbose : bool, default=False
        Whether to print the time of each step in `fit`.

    See Also
    --------
    make_probe_pipeline : Make one with the recommended steps.

    Examples
    --------
    >>> import numpy as np
    >>> from skqprobe import ProbePipeline, QProbePolicy
    >>> from skqprobe.preprocessing import SiblingFeatures
    >>> steps = [("siblings", SiblingFeatures()), ("probe", QProbePolicy())]
    >>> X, y = np.eye(4), np.array([1.0, 0.0, 0.0, 1.0])
    >>> ProbePipeline(steps).fit(X, y, groups=list("aabb")).predict(X, list("aabb"))
    array([0, 3])
    """

    def fit(self, X, y, groups=None, **params):
        """Fit all steps; see Pipeline.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        y : array-like of shape (n_prompts, k) or (n_rows,)
            Rewards; or several per candidate, one per objective, along a last axis.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets, where it may have shape (n_prompts,) and is passed to the splitter.
        **params : dict
            Other metadata.

        Returns
        -------
        self : object
            Fitted pipeline.
        """
        return _routed(super().fit, X, y, groups=groups, **params)

    def decision_function(self, X, groups=None, **params):
        """Compute the values of the candidates; see Pipeline.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets.
        **params : dict
            Other metadata.

        Returns
        -------
        Q : ndarray of shape (n_prompts, k) or (n_rows,)
            Values of the candidates.
        """
        return _routed(super().decision_function, X, groups=groups, **params)

    def predict(self, X, groups=None, **params):
        """Choose the best candidate of each prompt; see Pipeline.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets.
        **params : dict
            Other metadata.

        Returns
        -------
        chosen : ndarray of int, of shape (n_prompts,)
            Index of the choice of each prompt.
        """
        return _routed(super().predict, X, groups=groups, **params)

    def predict_proba(self, X, groups=None, **params):
        """Compute the choice probabilities; see Pipeline.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets.
        **params : dict
            Other metadata.

        Returns
        -------
        proba : ndarray of shape (n_prompts, k) or (n_rows,)
            Probabilities that sum to 1 inside each prompt.
        """
        return _routed(super().predict_proba, X, groups=groups, **params)

    def score(self, X, y, groups=None, **params):
        """Compute the expected reward of the choice; see Pipeline.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        y : array-like of shape (n_prompts, k) or (n_rows,)
            Rewards; or several per candidate, one per objective, along a last axis.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets.
        **params : dict
            Other metadata.

        Returns
        -------
        score : float
            Mean over prompts.
        """
        return _routed(super().score, X, y, groups=groups, **params)


def _routed(method, *arguments, groups=None, **params):
    """Call a method, with groups as routed metadata if there are any."""
    if groups is None:
        return method(*arguments, **params)
    with config_context(enable_metadata_routing=True):
        return method(*arguments, groups=groups, **params)


def make_probe_pipeline(
    losses=None,
    *,
    embedder=None,
    alphas=(100.0, 10.0, 1.0, 0.1, 0.01, 0.001),
    temperatures=(0.0,),
    cv=None,
    scoring=None,
    view_sizes=None,
    sibling_views=None,
):
    """Make the recommended pipeline: scaled columns, sibling features, tuned policy.

    It is near the best on all data that it was measured on, see :doc:`/guide/choosing`.
    The scales and the sibling features are learned once from all training prompts,
    including those that the policy holds out in its folds. They do not use rewards.

    Parameters
    ----------
    losses : tuple of str or BaseLoss, default=None
        Losses to try, see `QProbePolicyCV`.
    embedder : BaseEmbedder or list of BaseEmbedder, default=None
        Embedder of texts, so that the pipeline takes records, or a data frame with
        `groups`. `TextStatistics` are added to a single embedder; a list is used as it
        is. Categorical columns of a data frame, such as the name of the model, are
        added as 0/1 columns. None takes embeddings.
    alphas : tuple of float, default=(100.0, 10.0, 1.0, 0.1, 0.01, 0.001)
        Strengths of the penalty to try, for columns of variance 1.
    temperatures : tuple of float, default=(0.0,)
        Temperatures to try.
    cv : int, splitter or iterable, default=None
        Cross-validation splits, see `QProbePolicyCV`.
    scoring : callable, default=None
        Function to maximize, see `QProbePolicyCV`. None maximizes the reward of the
        choice, after a penalty was selected for each loss by its held-out loss.
    view_sizes : tuple of int, dict or list of str, default=None
        Views of X, if it has several embeddings side by side: the number of columns of
        each, in order; or by name, this number or the columns, selected as in
        ColumnTransformer; or the name of each column, "view__column". None takes the
        views that X carries from an embedder or a transformer, or one view.
    sibling_views : list of int or str, default=None
        Views for which sibling features are computed, by name or number. None takes
        those of at least 16 columns, or all if there are none.

    Returns
    -------
    pipeline : ProbePipeline
        Pipeline with the steps "embed" (`EmbedderUnion`, only for texts), "scale"
        (StandardScaler for each candidate), "siblings" (`SiblingFeatures`) and "probe"
        (`QProbePolicyCV`, which also chooses the weight of each view, and of the
        sibling features). It takes sets, and rows with `groups`.

    Examples
    --------
    >>> from skqprobe import make_probe_pipeline
    >>> from skqprobe.datasets import load_two_words
    >>> X, y = load_two_words(return_X_y=True)
    >>> pipeline = make_probe_pipeline().fit(X[:160], y[:160])
    >>> print(f"{y[160:].mean():.2f} -> {pipeline.score(X[160:], y[160:]):.2f}")
    0.36 -> 0.86
    """
    policy = QProbePolicyCV(
        losses,
        alphas=alphas,
        temperatures=temperatures,
        cv=cv,
        scoring=scoring,
        select_alpha="loss" if scoring is None else "score",
    )
    siblings = SiblingFeatures(view_sizes=view_sizes, sibling_views=sibling_views)
    steps = [
        ("scale", PerCandidate(StandardScaler(), view_sizes=view_sizes)),
        ("siblings", siblings),
        ("probe", policy),
    ]
    if embedder is not None:
        from skqprobe.embedders import EmbedderUnion, TextStatistics

        if not isinstance(embedder, list | tuple):
            embedder = [embedder, TextStatistics()]
        steps.insert(0, ("embed", EmbedderUnion(list(embedder))))
    return ProbePipeline(steps)
