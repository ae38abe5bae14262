"""make_probe_pipeline: what to begin with."""

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
    """Make the recommended pipeline: scaled columns, siblings, and a tuned policy.

    It is near the best on all the data that it was measured on, see
    :doc:`/guide/choosing`.
    Scales and sibling features are learned from all training prompts, the held-out ones
    of a fold among them, before the policy tries its settings: they see no rewards.

    Parameters
    ----------
    losses : tuple of str or BaseLoss, default=None
        The losses to try, see `QProbePolicyCV`.
    alphas : tuple of float, default=(10.0, 1.0, 0.1, 0.01, 0.001)
        The penalties to try, for columns of variance 1.
    temperatures : tuple of float, default=(0.0,)
        The temperatures to try.
    cv : int, splitter or iterable, default=None
        The folds, see `QProbePolicyCV`.
    scoring : callable, default=None
        What is better, see `QProbePolicyCV`.
    view_sizes : tuple of int, default=None
        Where several embeddings stand side by side, the number of columns of each.

    Returns
    -------
    pipeline : Pipeline
        With the steps "scale" (StandardScaler by candidate), "siblings"
        (`SiblingFeatures`) and "probe" (`QProbePolicyCV`). It takes sets; and rows,
        with metadata routing for the groups.

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
