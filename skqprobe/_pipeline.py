"""make_probe_pipeline: what to begin with."""

from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe._policy import QProbePolicy
from skqprobe.preprocessing import PerCandidate, SiblingFeatures


def make_probe_pipeline(
    loss="pairwise_logistic", *, alpha=0.1, temperature=0.0, block_sizes=None
):
    """Make the recommended pipeline: scaled columns, siblings, and a policy.

    The defaults were not the best on any data set that they were measured on, and near
    the best on all of them; see docs/choosing.md. What a search is most worth over is
    ``probe__alpha``, then ``probe__loss``.

    Parameters
    ----------
    loss : str or BaseLoss, default="pairwise_logistic"
        Loss of the policy.
    alpha : float, default=0.1
        Strength of the policy's penalty, for scaled columns.
    temperature : float, default=0.0
        Temperature of the choice.
    block_sizes : tuple of int, default=None
        Where several embeddings stand side by side, the number of columns of each.

    Returns
    -------
    pipeline : Pipeline
        With the steps "scale" (StandardScaler by candidate), "siblings"
        (`SiblingFeatures`) and "probe" (`QProbePolicy`). It takes sets; and rows, with
        metadata routing for the groups.

    Examples
    --------
    >>> from skqprobe import make_probe_pipeline
    >>> from skqprobe.datasets import load_two_words
    >>> X, y = load_two_words(return_X_y=True)
    >>> pipeline = make_probe_pipeline().fit(X[:160], y[:160])
    >>> print(f"{y[160:].mean():.2f} -> {pipeline.score(X[160:], y[160:]):.2f}")
    0.36 -> 0.82
    """
    return Pipeline(
        [
            ("scale", PerCandidate(StandardScaler())),
            ("siblings", SiblingFeatures(block_sizes=block_sizes)),
            ("probe", QProbePolicy(loss, alpha=alpha, temperature=temperature)),
        ]
    )
