"""Ideas of `lift.py`: changes of one thing in the recommended pipeline."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
from _data import keys_of
from scipy.linalg import cholesky, solve_triangular
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.covariance import ShrunkCovariance
from sklearn.decomposition import PCA
from sklearn.kernel_approximation import Nystroem
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skqprobe import QProbePolicy
from skqprobe.preprocessing import PerCandidate, SiblingFeatures

ALPHAS = (1.0, 0.1, 0.01)
BANDWIDTH = 0.1
COPG = "contrastive_policy_gradient"
PAIRWISE = QProbePolicy("pairwise_logistic")
ALL_FEATURES = ("mean", "nearest", "share", "density", "duplicates", "rank")


def centered(values):
    """Subtract the mean of each prompt from sets (n_prompts, k, d) or rewards."""
    return values - values.mean(axis=1, keepdims=True)


# %% Features: transformers of scaled candidate sets.


class PromptCentered(TransformerMixin, BaseEstimator):
    """Transformer of rows, applied to candidates minus the mean of their prompt."""

    def __init__(self, transformer):
        self.transformer = transformer

    def fit(self, X, y=None):
        self.transformer_ = PerCandidate(self.transformer).fit(centered(X))
        return self

    def transform(self, X):
        return self.transformer_.transform(centered(X))


class Whitening(TransformerMixin, BaseEstimator):
    """Whitening of rows along their principal axes, by a covariance shrunk by half."""

    def fit(self, X, y=None):
        shrunk = ShrunkCovariance(shrinkage=0.5, assume_centered=True)
        variances, axes = np.linalg.eigh(shrunk.fit(X).covariance_)
        self.matrix_ = (axes / np.sqrt(variances)).astype(X.dtype)
        return self

    def transform(self, X):
        return X @ self.matrix_


class NeighborMean(TransformerMixin, BaseEstimator):
    """Mean of the siblings, appended by view, weighted by a kernel of cosine distance.

    The weights are ``exp(-distance / BANDWIDTH)``.
    """

    def __init__(self, view_sizes):
        self.view_sizes = view_sizes

    def fit(self, X, y=None):
        self.n_features_in_ = X.shape[2]
        return self

    def transform(self, X):
        columns = [X]
        for start, stop in pairwise(np.cumsum([0, *self.view_sizes])):
            view = X[..., start:stop]
            length = np.linalg.norm(view, axis=2, keepdims=True)
            unit = view / np.where(length, length, 1)
            kernel = np.exp((unit @ unit.transpose(0, 2, 1) - 1) / BANDWIDTH)
            kernel *= ~np.identity(X.shape[1], dtype=bool)  # without the candidate
            columns.append(kernel / kernel.sum(axis=2, keepdims=True) @ view)
        return np.concatenate(columns, axis=2)


class InPlace(TransformerMixin, BaseEstimator):
    """Transformer that replaces the embedding and keeps the sibling features."""

    def __init__(self, transformer, view_sizes):
        self.transformer = transformer
        self.view_sizes = view_sizes

    def fit(self, X, y=None):
        self.siblings_ = SiblingFeatures(view_sizes=self.view_sizes).fit(X)
        self.transformer_ = clone(self.transformer).fit(X)
        return self

    def transform(self, X):
        siblings = self.siblings_.transform(X)[..., X.shape[2] :]
        return np.concatenate([self.transformer_.transform(X), siblings], axis=2)


def siblings(data, **settings):
    return SiblingFeatures(view_sizes=data.view_sizes, **settings)


def in_place(data, transformer):
    return InPlace(transformer, data.view_sizes)


def neighbor_mean(data):
    return in_place(data, NeighborMean(data.view_sizes))


def kernel_features(data):
    """Make 500 columns, with the variance of as many scaled columns as X has."""
    d = data.X.shape[2]
    nystroem = Nystroem(gamma=1 / (2 * d), n_components=500, random_state=0)
    larger = FunctionTransformer(lambda rows: rows * float(np.sqrt(d)))
    return in_place(data, PerCandidate(make_pipeline(nystroem, larger)))


def one_embedding(data, key):
    """Select one of several embeddings; None if the data set has no such choice."""
    keys = keys_of(data.name)
    if key not in keys or len(keys) == 1:
        return None
    start, stop = np.cumsum([0, *data.view_sizes])[keys.index(key) :][:2]
    keep = ColumnTransformer([("keep", "passthrough", slice(start, stop))])
    return make_pipeline(PerCandidate(keep), SiblingFeatures())


# %% Probes


class OnSpread(QProbePolicy):
    """Probe of rewards over their standard deviation in the prompt.

    The standard deviation is raised to a tenth of its mean, if it is below.
    """

    def fit(self, X, y):
        spread = y.std(axis=1, keepdims=True)
        return super().fit(X, y / np.maximum(spread, 0.1 * spread.mean()))


class LowerBound(QProbePolicy):
    """Value minus its posterior standard deviation, that of ridge on centered rows."""

    def fit(self, X, y):
        super().fit(X, y)
        n_prompts, k, d = X.shape
        rows = centered(X.astype(np.float64)).reshape(-1, d)
        error = centered(y - super().decision_function(X))
        # The objective is |error|**2 / (2 n k) + alpha / 2 |coef|**2.
        precision = rows.T @ rows
        precision[np.diag_indices(d)] += self.alpha * n_prompts * k
        self.factor_ = cholesky(precision, lower=True)
        self.noise_ = np.sqrt((error**2).sum() / (n_prompts * (k - 1)))
        return self

    def decision_function(self, X):
        rows = centered(X.astype(np.float64)).reshape(-1, X.shape[2])
        solved = solve_triangular(self.factor_, rows.T, lower=True)
        deviation = self.noise_ * np.linalg.norm(solved, axis=0)
        return super().decision_function(X) - deviation.reshape(X.shape[:2])


class Bagging(BaseEstimator):
    """Mean value of ten probes on bootstrap resamples of the prompts."""

    def __init__(self, alpha=0.1):
        self.alpha = alpha

    def fit(self, X, y):
        draws = np.random.default_rng(0).integers(len(X), size=(10, len(X)))
        probe = clone(PAIRWISE).set_params(alpha=self.alpha)
        self.probes_ = [clone(probe).fit(X[draw], y[draw]) for draw in draws]
        return self

    def decision_function(self, X):
        return np.mean([probe.decision_function(X) for probe in self.probes_], axis=0)


class TwoProbes(BaseEstimator):
    """Mean of the standardized values of two probes of different losses."""

    def __init__(self, alpha=0.1):
        self.alpha = alpha

    def fit(self, X, y):
        probes = PAIRWISE, OnSpread(COPG)
        probes = [clone(probe).set_params(alpha=self.alpha) for probe in probes]
        self.probes_ = [probe.fit(X, y) for probe in probes]
        spreads = [centered(probe.decision_function(X)).std() for probe in self.probes_]
        self.scales_ = [1 / spread if spread else 1 for spread in spreads]
        return self

    def decision_function(self, X):
        values = [probe.decision_function(X) for probe in self.probes_]
        return np.average(values, axis=0, weights=self.scales_)


# %% Ideas


@dataclass(frozen=True)
class Idea:
    """Change of the reference.

    Parameters
    ----------
    text : str
        Description and source.
    features : callable
        Function that makes the step between scaler and probe for a data set, or returns
        None if the idea does not apply.
    probe : estimator
        Last step, with a parameter `alpha`.
    alphas : tuple of float
        Values of alpha to choose from. () takes the choice of the reference.
    """

    text: str
    features: Callable = siblings
    probe: BaseEstimator = PAIRWISE
    alphas: tuple = ALPHAS


REFERENCE = Idea("the recommended pipeline")

LOSSES = {
    "policy_gradient": "the paper's best loss, arXiv 2402.14688",
    "log_loss": "the paper's cross-entropy, not shift-invariant",
    "squared_error": "the paper's regression, not shift-invariant",
    "pairwise_hinge": "the paper's clipped preferences",
    "softmax_cross_entropy": "listwise, InfoNCA, arXiv 2402.05369",
    "quantile_filtered_imitation": "imitates the best tenth, QFIL, arXiv 2112.00950",
    COPG: "ridge on centered rows and rewards, CoPG, arXiv 2406.19185",
}
GROUPS = {
    "siblings": {
        "no_siblings": Idea("the embedding alone", lambda data: "passthrough"),
        "siblings_alone": Idea(
            "sibling features alone, each of variance 1",
            partial(siblings, embedding="drop", variance_share=1.0),
        ),
        "all_six": Idea(
            "also the share of duplicates and the rank",
            partial(siblings, features=ALL_FEATURES),
        ),
        "set_centered": Idea(
            "the embedding minus its set's mean; a check: the loss is shift-invariant",
            partial(siblings, embedding="center"),
        ),
        "neighbor_mean": Idea(
            "also the mean of near siblings, a graph convolution, arXiv 1902.07153",
            neighbor_mean,
        ),
    },
    "loss": {n: Idea(text, probe=QProbePolicy(n)) for n, text in LOSSES.items()},
    "training": {
        "sets_of_10": Idea(
            "trained on random sets of 10, as in the paper",
            probe=clone(PAIRWISE).set_params(n_candidates=10, random_state=0),
        ),
        "rewards_by_spread": Idea(
            f"{COPG}, rewards over their spread in the prompt, GRPO, arXiv 2402.03300",
            probe=OnSpread(COPG),
        ),
    },
    "columns": {
        "prompt_scale": Idea(
            "scaled by their spread inside prompts",
            partial(in_place, transformer=PromptCentered(StandardScaler())),
        ),
        "prompt_whitening": Idea(
            "whitened inside prompts, covariance shrunk by half, arXiv 2103.15316",
            partial(in_place, transformer=PromptCentered(Whitening())),
        ),
        "prompt_pca": Idea(
            "64 principal components inside prompts",
            partial(in_place, transformer=PromptCentered(PCA(64, random_state=0))),
        ),
        "nystroem": Idea(
            "500 of a radial kernel instead of the embedding, Williams and Seeger 2001",
            kernel_features,
        ),
        **{
            key: Idea("this embedding alone, of two", partial(one_embedding, key=key))
            for key in ("emb_pair", "emb_completion")
        },
    },
    "models": {
        "bagging": Idea(
            "ten probes on resampled prompts, Breiman 1996; the reference's alpha",
            probe=Bagging(),
            alphas=(),
        ),
        "lower_bound": Idea(
            f"{COPG} minus a posterior standard deviation, arXiv 2012.15085",
            probe=LowerBound(COPG),
        ),
        "two_probes": Idea(
            f"mean of pairwise_logistic and {COPG} on rewards_by_spread",
            probe=TwoProbes(),
        ),
        "hidden_layer": Idea(
            "one of 256 units, as in the paper; early stopping, alpha is 0.01",
            probe=clone(PAIRWISE).set_params(hidden_layer_sizes=(256,), random_state=0),
            alphas=(0.01,),
        ),
    },
}
IDEAS = {name: idea for group in GROUPS.values() for name, idea in group.items()}
