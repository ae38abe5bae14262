"""SiblingFeatures: what a candidate looks like among the others of its prompt."""

import copy
from numbers import Real
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted

from skqprobe._arrays.blocks import row_blocks, take_rows
from skqprobe._arrays.magnitude import LARGEST, SMALLEST, check_magnitude
from skqprobe._candidates.layout import check_layout
from skqprobe._candidates.segments import repeat_per_prompt, segment_mean
from skqprobe._candidates.validation import check_candidates, warn_without_groups
from skqprobe._utils.estimator import BaseEstimator
from skqprobe._utils.sklearn_compat import (
    Interval,
    StrOptions,
    _fit_context,
    feature_names_in,
)

PAIRS_AT_ONCE = 2**21
"""How many distances between candidates are made at a time, from as many numbers."""

SAMPLED_PAIRS = 2**20
"""From how many distances of the training prompts scales are learned, at most."""

DENSITY_FLOOR = 0.01
"""Added to a kernel density before the logarithm, which would else tend to -inf."""

DUPLICATE = 0.01
"""Candidates nearer than this, in median distances, count as duplicates."""

SINGLE_MAGNITUDES = 1e-15, 1e15
"""How large the largest number of an X may be whose squares stay inside of float32."""

NAMES = ("mean", "nearest", "share", "density", "duplicates", "rank")


# There is no data frame for sets to come in.
class SiblingFeatures(
    TransformerMixin,
    BaseEstimator,
    auto_wrap_output_keys=None,  # type: ignore[call-arg]
):
    """Append to each candidate what it looks like among the others of its prompt.

    A probe sees one candidate at a time. How much a candidate agrees with its siblings
    often says more of its reward than its own embedding: right answers tend to be
    alike, wrong ones are each wrong in their own way [1]_ [2]_. The probe learns from
    rewards which way it is, and how much it matters.

    Everything is read from the candidates at hand. All features are set up not to be
    thrown by another number of candidates k than in training: they are means over
    siblings, or shares of them, never sums, counts or extremes; and the mean of each
    feature over the set is taken off, which takes with it what k changes for all
    candidates alike. A candidate that is alone has zeros.

    Parameters
    ----------
    features : tuple of str, default=("mean", "nearest", "share", "density")
        Which features to make, of each view:

        - "mean": minus the mean distance to the siblings. Inside a set this is also the
          (squared) distance to the set's mean, but for its sign and a constant.
        - "nearest": minus the mean distance to the nearest siblings, for each share of
          them in `nearest`.
        - "share": which share of the siblings is near, for each of `quantiles`.
        - "density": logarithm of a kernel density, for each of `bandwidths`.
        - "duplicates": which share of the siblings is all but the same.
        - "rank": rank in the set, from -0.5 to 0.5, by "mean".
    embedding : {"keep", "center", "drop"}, default="keep"
        What to give before the features: the embedding, the embedding less its mean
        over the set, or nothing.
    metric : {"cosine", "sqeuclidean"}, default="cosine"
        The distance: 1 - cosine, or the squared Euclidean distance.
    nearest : tuple of float, default=(0.03, 0.1, 0.3)
        Shares of the siblings, in (0, 1]; of at least one sibling.
    quantiles : tuple of float, default=(0.03, 0.1, 0.3)
        What is near: the distance that this share of all distances between siblings is
        below, in the training prompts; in (0, 1).
    bandwidths : tuple of float, default=(0.1, 0.3)
        Of the kernel, ``exp(-distance / bandwidth)``, in units of the median distance
        between siblings in the training prompts.
    variance_share : float, default=0.1
        The total variance of the features in units of the embedding's; a penalty bears
        the less on them, the more they have. With ``embedding="drop"`` every feature
        has the variance `variance_share`.
    view_sizes : tuple of int, default=None
        Where several embeddings stand side by side: the number of columns of each, in
        order. Each gives features of its own. None takes all columns for one.

    Attributes
    ----------
    scales_ : ndarray of shape (n_views,)
        Median distance between siblings in the training prompts.
    thresholds_ : ndarray of shape (n_views, n_quantiles)
        Distances of `quantiles`, in units of `scales_`.
    feature_scales_ : ndarray of shape (n_sibling_features,)
        What the features are multiplied by.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, if X was a data frame with string column names.

    See Also
    --------
    PerCandidate : Transformers of single candidates; scale the columns with it first.

    Notes
    -----
    Distances cost O(k^2 d) for a prompt, in blocked matrix products. For rows, `groups`
    go to `fit` and `transform`, in a pipeline by metadata routing.

    References
    ----------
    .. [1] Wang et al., "Self-Consistency Improves Chain of Thought Reasoning in
       Language Models", 2023, arXiv 2203.11171.
    .. [2] Kumar and Byrne, "Minimum Bayes-Risk Decoding for Statistical Machine
       Translation", 2004.

    Examples
    --------
    >>> import numpy as np
    >>> from skqprobe.preprocessing import SiblingFeatures
    >>> X = np.array([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]])  # the third stands alone
    >>> siblings = SiblingFeatures(
    ...     ["mean", "rank"], embedding="drop", variance_share=1.0
    ... )
    >>> siblings.fit_transform(X).round(1)
    array([[[ 0.6,  0. ],
            [ 0.8,  1.2],
            [-1.4, -1.2]]])
    >>> siblings.get_feature_names_out()
    array(['sibling_mean', 'sibling_rank'], dtype=object)
    """

    __metadata_request__fit = {"groups": True}
    __metadata_request__transform = {"groups": True}
    __metadata_request__fit_transform = {"groups": True}

    _parameter_constraints: dict = {
        "features": ["array-like"],
        "embedding": [StrOptions({"keep", "center", "drop"})],
        "metric": [StrOptions({"cosine", "sqeuclidean"})],
        "nearest": ["array-like"],
        "quantiles": ["array-like"],
        "bandwidths": ["array-like"],
        "variance_share": [Interval(Real, 0, None, closed="neither")],
        "view_sizes": ["array-like", None],
    }

    def __init__(
        self,
        features=("mean", "nearest", "share", "density"),
        *,
        embedding="keep",
        metric="cosine",
        nearest=(0.03, 0.1, 0.3),
        quantiles=(0.03, 0.1, 0.3),
        bandwidths=(0.1, 0.3),
        variance_share=0.1,
        view_sizes=None,
    ):
        self.features = features
        self.embedding = embedding
        self.metric = metric
        self.nearest = nearest
        self.quantiles = quantiles
        self.bandwidths = bandwidths
        self.variance_share = variance_share
        self.view_sizes = view_sizes

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, groups=None):
        """Learn the scale of distances, and of the features.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings: sets or rows.
        y : object, default=None
            Ignored.
        groups : array-like of shape (n_rows,), default=None
            For rows: labels of the prompts, any hashable values in any order.

        Returns
        -------
        self : object
            Fitted transformer.
        """
        self._fit(X, groups)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X, y=None, groups=None):
        """Learn the scales and append the features.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings: sets or rows.
        y : object, default=None
            Ignored.
        groups : array-like of shape (n_rows,), default=None
            For rows: labels of the prompts, any hashable values in any order.

        Returns
        -------
        X_new : ndarray of shape (n_prompts, k, n_features_out) or \
                (n_rows, n_features_out)
        """
        return self._append(*self._fit(X, groups))

    def transform(self, X, groups=None):
        """Append the features.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings: sets or rows.
        groups : array-like of shape (n_rows,), default=None
            For rows: labels of the prompts, any hashable values in any order.

        Returns
        -------
        X_new : ndarray of shape (n_prompts, k, n_features_out) or \
                (n_rows, n_features_out)
            float32 if X was float16 or float32.
        """
        check_is_fitted(self, "feature_scales_")
        X, layout = self._check_input(X, groups, reset=False)
        features = self._features(X, layout)
        features *= self.feature_scales_
        return self._append(X, layout, features)

    def get_feature_names_out(self, input_features=None):
        """Get the names of the output features.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Names of the columns of X; None takes those of `fit`, or x0, x1, ...

        Returns
        -------
        feature_names_out : ndarray of str
        """
        check_is_fitted(self, "feature_scales_")
        kept = feature_names_in(self, input_features)
        if self.embedding == "drop":
            kept = kept[:0]
        settings = {
            "nearest": self.nearest,
            "share": self.quantiles,
            "density": self.bandwidths,
        }
        names = [
            f"sibling_{name}" + ("" if setting is None else f"_{setting:g}")
            for name in self.features
            for setting in settings.get(name, [None])
        ]
        n_views = len(self.scales_)
        if n_views > 1:
            names = [f"view{i}_{name}" for i in range(n_views) for name in names]
        return np.concatenate([kept, np.array(names, dtype=object)])

    def _fit(self, X, groups):
        """Learn all scales; give X, its layout and its scaled features."""
        self._check_settings()
        fitted = copy.copy(self)  # nothing is set on self before the fit is done
        X, layout = fitted._check_input(X, groups, reset=True)
        views = self._views(X.shape[1])
        learned = [_learn_scale(self._sampled(X, layout, view)) for view in views]
        fitted.scales_ = np.array([scale for scale, _ in learned])
        fitted.thresholds_ = np.array(
            [np.quantile(d, np.asarray(self.quantiles)) for _, d in learned]
        )
        features = fitted._features(X, layout)
        variance = self.variance_share
        if self.embedding != "drop":
            variance *= _total_variance(X) / features.shape[1]
        deviation = features.std(axis=0)
        fitted.feature_scales_ = np.sqrt(variance) / np.where(deviation, deviation, 1)
        features *= fitted.feature_scales_
        self.__dict__ = fitted.__dict__
        return X, layout, features

    def _check_settings(self):
        unknown = [name for name in self.features if name not in NAMES]
        if unknown or len(self.features) == 0:
            raise ValueError(
                f"features must be some of {', '.join(NAMES)}; got {self.features!r}."
            )
        for name, limit in [("nearest", 1), ("quantiles", 1), ("bandwidths", np.inf)]:
            values = np.asarray(getattr(self, name), dtype=float)
            if not ((values > 0) & (values <= limit)).all():
                raise ValueError(
                    f"{name} must be numbers above 0"
                    + (" and at most 1" if limit == 1 else "")
                    + f"; got {getattr(self, name)!r}."
                )

    def _check_input(self, X, groups, reset):
        X, shape = check_candidates(self, X, reset=reset)
        X = np.asarray(X)  # from a device, if it is there
        is_double = X.dtype == np.float64
        low, high = (SMALLEST, LARGEST) if is_double else SINGLE_MAGNITUDES
        check_magnitude(X, "X", low, high, ", as StandardScaler does")
        layout = check_layout(shape, groups)
        warn_without_groups(layout)
        return X, layout

    def _views(self, n_features):
        """Columns of each embedding."""
        if self.view_sizes is None:
            return [slice(0, n_features)]
        ends = np.cumsum(self.view_sizes)
        if min(self.view_sizes) < 1 or ends[-1] != n_features:
            raise ValueError(
                f"view_sizes must be numbers of columns that add up to those of X, "
                f"{n_features}; got {self.view_sizes!r}."
            )
        return [
            slice(end - size, end)
            for size, end in zip(self.view_sizes, ends, strict=True)
        ]

    def _sets(self, X, layout, view):
        """Yield rows (n_such_prompts, k) in X's order, and their distances, by size."""
        for _, rows in layout.by_size():
            k = rows.shape[1]
            if layout.order is not None:
                rows = layout.order[rows]
            step = max(1, PAIRS_AT_ONCE // (k * max(k, X.shape[1])))
            for start in range(0, len(rows), step):
                some = rows[start : start + step]
                embeddings = take_rows(X, some)[..., view]
                yield some, _distances(embeddings, self.metric)

    def _sampled(self, X, layout, view):
        """Distances between siblings, of as many prompts as it takes."""
        n_pairs = (layout.sizes * (layout.sizes - 1)).sum()
        kept = np.zeros(layout.n_prompts, dtype=bool)
        kept[:: -(-max(n_pairs, 1) // SAMPLED_PAIRS)] = True
        layout = layout.keep(np.repeat(kept, layout.sizes))
        return [_siblings(distances) for _, distances in self._sets(X, layout, view)]

    def _features(self, X, layout):
        """Features in the order of X's rows, not scaled: (n_rows, n_features)."""
        made = []
        for view, scale, near in zip(
            self._views(X.shape[1]), self.scales_, self.thresholds_, strict=True
        ):
            values: Any = None
            for rows, distances in self._sets(X, layout, view):
                features = self._describe(_siblings(distances) / scale, near)
                if values is None:
                    values = np.empty((len(X), features.shape[2]), features.dtype)
                values[rows] = features
            made.append(values)
        return np.concatenate(made, axis=1)

    def _describe(self, siblings, near):
        """Features of sets: (n_prompts, k, n_features), of mean 0 in each."""
        n_prompts, k, n_siblings = siblings.shape
        make = {
            "mean": lambda: [-siblings.mean(axis=2)],
            "nearest": lambda: [
                -siblings[..., : max(1, round(share * n_siblings))].mean(axis=2)
                for share in self.nearest
            ],
            "share": lambda: [(siblings <= limit).mean(axis=2) for limit in near],
            "density": lambda: [
                np.log(np.exp(-siblings / width).mean(axis=2) + DENSITY_FLOOR)
                for width in self.bandwidths
            ],
            "duplicates": lambda: [(siblings <= DUPLICATE).mean(axis=2)],
            "rank": lambda: [rankdata(-siblings.mean(axis=2), axis=1) / k],
        }
        if n_siblings == 0:
            siblings = np.zeros((n_prompts, k, 1), siblings.dtype)
        columns = [column for name in self.features for column in make[name]()]
        features = np.stack(columns, axis=2).astype(siblings.dtype)
        return features - features.mean(axis=1, keepdims=True)

    def _append(self, X, layout, features):
        """Put the features behind the embedding, in the layout of X."""
        parts = [features]
        if self.embedding == "keep":
            parts = [X, features]
        elif self.embedding == "center":
            rows = X if layout.order is None else take_rows(X, layout.order)
            means = segment_mean(rows.astype(features.dtype), layout.offsets)
            centred = np.empty(X.shape, features.dtype)
            order = slice(None) if layout.order is None else layout.order
            centred[order] = rows - repeat_per_prompt(means, layout.offsets)
            parts = [centred, features]
        out = np.concatenate(parts, axis=1, dtype=np.result_type(X, np.float32))
        return out.reshape(*layout.shape, out.shape[1])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _distances(E, metric):
    """Distances inside sets: (n_prompts, k, k), from (n_prompts, k, d)."""
    E = E.astype(np.result_type(E, np.float32), copy=False)
    if metric == "cosine":
        # Squares in float64: of float32 they would vanish for norms below 1e-22.
        length = np.sqrt(np.einsum("ijk,ijk->ij", E, E, dtype=np.float64))[..., None]
        E = E / np.where(length, length, 1).astype(E.dtype)
        distances = 1 - E @ E.transpose(0, 2, 1)
    else:
        squares = (E**2).sum(axis=2)
        products = E @ E.transpose(0, 2, 1)
        distances = squares[:, :, None] + squares[:, None] - 2 * products
    return np.maximum(distances, 0)


def _siblings(distances):
    """Distances to the siblings, the nearest first: (n_prompts, k, k - 1)."""
    k = distances.shape[1]
    distances[:, np.arange(k), np.arange(k)] = -1  # itself comes first, and is left out
    return np.sort(distances, axis=2)[:, :, 1:]


def _total_variance(X):
    """Sum of the variances of the columns, in float64; np.var would copy X."""
    mean = X.mean(axis=0, dtype=np.float64)
    return sum(((X[rows] - mean) ** 2).sum() for rows in row_blocks(X)) / len(X)


def _learn_scale(sampled):
    """Median distance, and the distances in units of it."""
    distances = np.concatenate([some.ravel() for some in sampled])
    scale = np.median(distances) if len(distances) else 1.0
    scale = float(scale) or 1.0
    return scale, distances / scale if len(distances) else np.zeros(1)
