"""make_probe_pipeline: the recommended pipeline."""

from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe._estimators.policy_cv import QProbePolicyCV
from skqprobe.preprocessing import PerCandidate, SiblingFeatures


def make_probe_pipeline(
    losses=None,
    *,
    alphas=(10.0, 1.0, 0.1, 0.01, 0.001),
    temperatures=(0.0,),
    cv=None,
    scoring=None,
    view_sizes=None,
):
    """Make the recommended pipeline: scaled columns, sibling features, tuned policy.

    It is near the best on all data that it was measured on, see :doc:`/guide/choosing`.
    The scales and the sibling features are learned once from all training prompts,
    including those that the policy holds out in its folds. They do not use rewards.

    Parameters
    ----------
    losses : tuple of str or BaseLoss, default=None
        Losses to try, see `QProbePolicyCV`.
    alphas : tuple of float, default=(10.0, 1.0, 0.1, 0.01, 0.001)
        Strengths of the penalty to try, for columns of variance 1.
    temperatures : tuple of float, default=(0.0,)
        Temperatures to try.
    cv : int, splitter or iterable, default=None
        Cross-validation splits, see `QProbePolicyCV`.
    scoring : callable, default=None
        Function to maximize, see `QProbePolicyCV`.
    view_sizes : tuple of int, default=None
        Number of columns of each embedding, if X holds several side by side.

    Returns
    -------
    pipeline : Pipeline
        Pipeline with the steps "scale" (StandardScaler for each candidate), "siblings"
        (`SiblingFeatures`) and "probe" (`QProbePolicyCV`). It takes sets, and rows if
        metadata routing passes the groups.

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
        losses, alphas=alphas, temperatures=temperatures, cv=cv, scoring=scoring
    )
    return Pipeline(
        [
            ("scale", PerCandidate(StandardScaler())),
            ("siblings", SiblingFeatures(view_sizes=view_sizes)),
            ("probe", policy),
        ]
    )
