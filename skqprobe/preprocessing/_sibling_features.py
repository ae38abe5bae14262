"""SiblingFeatures: features that compare each candidate with its siblings."""

import copy
from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted

from skqprobe._arrays.blocks import BlockReader, compute_dtype, row_blocks
from skqprobe._arrays.collections import is_collection
from skqprobe._arrays.magnitude import LARGEST, SMALLEST
from skqprobe._arrays.views import EMBEDDING_COLUMNS, check_views, with_views
from skqprobe._candidates.layout import check_layout
from skqprobe._candidates.validation import (
    check_candidates,
    check_limits,
    warn_without_groups,
)
from skqprobe._utils.estimator import BaseEstimator
from skqprobe._utils.sklearn_compat import (
    FloatInterval,
    StrOptions,
    _fit_context,
    feature_names_in,
    wrap_output,
)
from skqprobe._utils.warn import warn_user
from skqprobe.preprocessing._sibling_geometry import (
    FEATURES,
    Siblings,
    compare_with_siblings,
    learn_scale,
    sibling_features,
)
from skqprobe.preprocessing._sibling_partitions import (
    fit_to_partitions,
    transform_partitions,
)
from skqprobe.preprocessing._sibling_sampling import (
    count_pairs,
    keep_sampled,
    sampled_candidates,
    sampling_step,
)

ENTRIES_AT_ONCE = 2**19
"""Number of embedding entries, or of distances, of several prompts that are computed
at a time: few enough for the cache."""

DISTANCES_AT_ONCE = 2**21
"""Largest number of distances of one prompt that are computed at a time."""

SINGLE_MAGNITUDES = 1e-15, 1e15
"""Magnitudes between which squares stay in the range of float32."""


class _Transform:
    """The methods that return candidates: only rows have the container of set_output.

    scikit-learn would put the output of methods that a transformer itself defines in
    the container, of sets, too, which data frames cannot hold.
    """

    _fit: Any
    _transform: Any
    _append: Any
    fit: Any

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X, y=None, groups=None):
        """Learn the scales and append the features.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        y : object, default=None
            Ignored.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets.

        Returns
        -------
        X_new : ndarray of shape (n_prompts, k, n_features_out) or \
                (n_rows, n_features_out)
            Embeddings and features, in float64 for a float64 X, otherwise in float32.
            Rows have the container that `set_output` sets.
        """
        if is_collection(X):
            return self.fit(X, y, groups).transform(X, groups)
        return self._append(X, *self._fit(X, groups))

    def transform(self, X, groups=None):
        """Append the features.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets.

        Returns
        -------
        X_new : ndarray of shape (n_prompts, k, n_features_out) or \
                (n_rows, n_features_out)
            Embeddings and features, in float64 for a float64 X, otherwise in float32.
            Rows have the container that `set_output` sets.
        """
        if is_collection(X):
            return transform_partitions(self, X, groups)
        return self._append(X, *self._transform(X, groups))


class SiblingFeatures(_Transform, TransformerMixin, BaseEstimator):
    """Append features that compare each candidate with its siblings.

    The siblings of a candidate are the other candidates of its prompt. A probe reads
    one candidate at a time. Agreement with the siblings often predicts the reward
    better than the embedding of the candidate: correct answers tend to be alike, and
    wrong answers differ from each other [1]_ [2]_. The probe learns the sign and the
    size of this effect from the rewards.

    The features are computed from the embeddings of the prompt's candidates. They
    remain valid for a number of candidates k that differs from training: each feature
    is a mean over siblings or a share of them, not a sum, count or extreme. The mean of
    each feature over the prompt is subtracted, which also removes any effect of k that
    is the same for all candidates. All features of a candidate without siblings are 0.

    Parameters
    ----------
    features : tuple of str, default=("mean", "nearest", "share", "density")
        Features to compute for each view:

        - "mean": minus the mean distance to the siblings. Up to sign, scale and a
          constant per prompt, this is the squared distance to the mean embedding of the
          prompt.
        - "nearest": minus the mean distance to the nearest siblings, for each share in
          `nearest`.
        - "share": share of the siblings that are near, for each of `quantiles`.
        - "density": logarithm of a kernel density, for each of `bandwidths`.
        - "duplicates": share of the siblings that are almost equal to the candidate.
        - "rank": rank within the prompt by "mean", from -0.5 to 0.5.
    embedding : {"keep", "center", "drop"}, default="keep"
        Columns before the features: the embedding, the embedding minus its mean over
        the prompt, or none.
    metric : {"cosine", "sqeuclidean"}, default="cosine"
        Distance between embeddings: 1 - cosine, or the squared Euclidean distance,
        which a view of one column always has.
    nearest : tuple of float, default=(0.03, 0.1, 0.3)
        Shares of the siblings that count as nearest, in (0, 1], but at least one
        sibling.
    quantiles : tuple of float, default=(0.03, 0.1, 0.3)
        Quantiles of the distances between siblings that are not duplicates in the
        training prompts, in (0, 1]. Each is a distance up to which a sibling counts as
        near.
    bandwidths : tuple of float, default=(0.1, 0.3)
        Bandwidths of the kernel ``exp(-distance / bandwidth)``, in (0, inf), in units
        of the median distance between siblings in the training prompts.
    variance_share : float, default=0.1
        Total variance of the features, in (0, inf), in units of the total variance of
        the views that they are made from. A penalty affects features with a larger
        variance less. With
        ``embedding="drop"``, each feature has the variance `variance_share`.
    view_sizes : tuple of int, dict or list of str, default=None
        Views of X, if it has several embeddings side by side: the number of columns of
        each, in order; or by name, this number or the columns, selected as in
        ColumnTransformer; or the name of each column, "view__column". None takes the
        views that X carries from an embedder or a transformer, or one view.
    sibling_views : list of int or str, default=None
        Views for which the features are computed, by name or number. None takes those
        of at least 16 columns, or all if there are none. The other views are kept as
        they are.

    Attributes
    ----------
    views_ : dict of ndarray of int
        Columns of each view of X, by name.
    scales_ : ndarray of shape (n_sibling_views,)
        Median distance between siblings in the training prompts that are not
        duplicates.
    thresholds_ : ndarray of shape (n_sibling_views, n_quantiles)
        Distances that correspond to `quantiles`, in units of `scales_`.
    feature_scales_ : ndarray of shape (n_sibling_features,)
        Factors by which the features are multiplied.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns of X. Defined only if X was a data frame with string column
        names.

    See Also
    --------
    PerCandidate : Apply a transformer to single candidates. Scale the columns with it
        first.

    Notes
    -----
    Distances cost O(k^2 d) per prompt, in blocked matrix products. For rows, pass
    `groups` to `fit` and `transform`. A pipeline passes them by metadata routing.

    References
    ----------
    .. [1] Wang et al., "Self-Consistency Improves Chain of Thought Reasoning in
       Language Models", 2023, arXiv 2203.11171.
    .. [2] Kumar and Byrne, "Minimum Bayes-Risk Decoding for Statistical Machine
       Translation", 2004.

    Examples
    --------
    The first two candidates agree, and the third differs:

    >>> import numpy as np
    >>> from skqprobe.preprocessing import SiblingFeatures
    >>> X = np.array([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]])
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
        "variance_share": [FloatInterval(Real, 0, None, closed="neither")],
        "view_sizes": ["array-like", dict, None],
        "sibling_views": ["array-like", None],
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
        sibling_views=None,
    ):
        self.features = features
        self.embedding = embedding
        self.metric = metric
        self.nearest = nearest
        self.quantiles = quantiles
        self.bandwidths = bandwidths
        self.variance_share = variance_share
        self.view_sizes = view_sizes
        self.sibling_views = sibling_views

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, groups=None):
        """Learn the scale of the distances and of the features.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        y : object, default=None
            Ignored.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets.

        Returns
        -------
        self : object
            Fitted transformer.
        """
        if is_collection(X):
            self._check_settings()
            self.__dict__ = fit_to_partitions(self, X, groups).__dict__
        else:
            self._fit(X, groups)
        return self

    def get_feature_names_out(self, input_features=None):
        """Get the names of the output features.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Names of the columns of X. If None, use the names from `fit`, or x0, x1, ...

        Returns
        -------
        feature_names_out : ndarray of str
            Names of the columns of the output.
        """
        check_is_fitted(self, "feature_scales_")
        kept = feature_names_in(self, input_features)
        if self.embedding == "drop":
            kept = kept[:0]
        names = [
            f"sibling_{name}" + ("" if setting is None else f"_{setting:g}")
            for name, setting in self._columns()
        ]
        if len(self._sibling_names) > 1:
            names = [f"{view}_{name}" for view in self._sibling_names for name in names]
        return np.concatenate([kept, np.array(names, dtype=object)])

    def _fit(self, X, groups):
        """Learn all scales. Return X, its layout and its scaled features."""
        self._check_settings()
        fitted = copy.copy(self)  # leaves self unchanged if the fit fails
        X_in = X
        X, layout = fitted._check_input(X, groups, reset=True)
        fitted.views_ = check_views(self.view_sizes, X_in, X.shape[1])
        step = sampling_step(count_pairs(layout))
        views = fitted._sibling_views()
        sampled = keep_sampled(layout, step)
        some = sampled_candidates(count_pairs(sampled))
        fitted._learn_scales(
            fitted._sample_distances(X, sampled, view, some) for view in views
        )
        features = fitted._compute_features(X, layout)
        variance = 0.0
        if self.embedding != "drop":
            variance = sum(_total_variance(X, view) for view, _ in views)
        fitted._set_feature_scales(features.std(axis=0), variance)
        features *= fitted.feature_scales_
        self.__dict__ = fitted.__dict__
        return X, layout, features

    def _set_feature_scales(self, deviation, view_variance):
        """Set the factors of the features from their deviations, and variances of X."""
        variance = float(self.variance_share)
        if self.embedding != "drop":
            variance *= view_variance / len(deviation)
        self.feature_scales_ = np.sqrt(variance) / np.where(deviation, deviation, 1)

    def _transform(self, X, groups):
        """Return X as rows, its layout and its scaled features."""
        self = self._snapshot()
        check_is_fitted(self, "feature_scales_")
        rows, layout = self._check_input(X, groups, reset=False)
        features = self._compute_features(rows, layout)
        features *= self.feature_scales_
        return rows, layout, features

    def _check_settings(self):
        unknown = [name for name in self.features if name not in FEATURES]
        if unknown or len(self.features) == 0:
            raise ValueError(
                f"features must be one or more of {', '.join(FEATURES)}; got "
                f"{self.features!r}."
            )
        for name, limit in [("nearest", 1), ("quantiles", 1), ("bandwidths", np.inf)]:
            try:
                values = np.asarray(getattr(self, name), dtype=float)
            except OverflowError:
                values = np.array(np.nan)
            if not ((values > 0) & (values <= limit)).all():
                raise ValueError(
                    f"{name} must be numbers above 0"
                    + (" and at most 1" if limit == 1 else "")
                    + f"; got {getattr(self, name)!r}."
                )

    def _check_input(self, X, groups, reset, is_part=False):
        X, shape = check_candidates(self, X, reset=reset)
        X = np.asarray(X)  # copies X from a device
        is_double = X.dtype == np.float64
        low, high = (SMALLEST, LARGEST) if is_double else SINGLE_MAGNITUDES
        low = 0.0 if is_part else low
        check_limits(X, shape, low, high, ", as StandardScaler does")
        layout = check_layout(shape, groups)
        if not is_part:
            warn_without_groups(layout)
        return X, layout

    def _columns(self):
        """List the feature and the setting, or None, of each column of a view."""
        settings = {
            "nearest": self.nearest,
            "share": self.quantiles,
            "density": self.bandwidths,
        }
        return [
            (name, setting)
            for name in self.features
            for setting in settings.get(name, [None])
        ]

    def _select_views(self, views):
        """Names of the views for which features are computed."""
        names = list(views)
        if self.sibling_views is None:
            wide = [name for name in names if len(views[name]) >= EMBEDDING_COLUMNS]
            return wide or names
        try:
            selected = [
                each if isinstance(each, str) else names[each]
                for each in self.sibling_views
            ]
            is_valid = 0 < len(set(selected)) == len(selected)
        except (IndexError, TypeError):
            is_valid = False
        if not is_valid or not set(selected) <= set(names):
            raise ValueError(
                f"sibling_views must name views of X, each once, out of {names}, or "
                f"give their numbers; got {self.sibling_views!r}."
            )
        return selected

    @property
    def _sibling_names(self):
        return self._select_views(self._fitted_views)

    @property
    def _fitted_views(self):
        if hasattr(self, "views_"):
            return self.views_
        # An older version saved this transformer.
        return check_views(self.view_sizes, None, self.n_features_in_)

    def _sibling_views(self):
        """List the columns, and the metric, of views for which features are computed.

        The columns are a slice where possible, which needs no copy.
        """
        views = []
        for name in self._sibling_names:
            columns = self._fitted_views[name]
            metric = self.metric if len(columns) > 1 else "sqeuclidean"
            if np.array_equal(columns, np.arange(columns[0], columns[-1] + 1)):
                columns = slice(columns[0], columns[-1] + 1)
            views.append((columns, metric))
        return views

    def _learn_scales(self, distances):
        """Learn the scales of all views, from sampled distances of each."""
        views = zip(self._sibling_names, self._sibling_views(), distances, strict=True)
        learned = [self._learn_scale(*each) for each in views]
        self.scales_ = np.array([scale for scale, _ in learned])
        self.thresholds_ = np.array([thresholds for _, thresholds in learned])

    def _learn_scale(self, name, view, sampled):
        """Learn the median distance and the quantiles of a view."""
        learned = learn_scale(sampled, self.quantiles, view[1])
        if learned is not None:
            return learned
        if any(map(np.size, sampled)):
            warn_user(
                "All candidates of each prompt are equal, up to rounding, in the view "
                f"{name!r}: they cannot be compared. If the embedding model cuts long "
                "texts, embed the completion alone, or first."
            )
        return 1.0, np.zeros(len(self.quantiles))

    def _siblings(self, X, layout, view):
        """Yield row positions (n_prompts, k) and siblings, for prompts of one size."""
        columns, metric = view
        for rows, E in _prompts(X, layout):
            yield rows, Siblings(E[..., columns], metric)

    def _sample_distances(self, X, layout, view, some):
        """Compute distances of some candidates of each prompt."""
        return [
            siblings.sorted_distances(some)[..., 1:]
            for _, siblings in self._siblings(X, layout, view)
        ]

    def _compute_features(self, X, layout):
        """Compute features of shape (n_rows, n_features) in user order, unscaled."""
        views = self._sibling_views()
        columns = self._columns()
        features = np.empty((len(X), len(views), len(columns)))
        ranked = np.array([name == "rank" for name, _ in columns])
        for i, view in enumerate(views):
            for rows, siblings in self._siblings(X, layout, view):
                of_prompts = self._features_of(siblings, i)
                compare_with_siblings(of_prompts, ranked)
                features[rows, i] = of_prompts
        return features.reshape(len(X), -1)

    def _features_of(self, siblings, view):
        """Compute the features of prompts of one size, block by block."""
        n_prompts, k = siblings.squares.shape
        blocks = []
        step = max(1, DISTANCES_AT_ONCE // (n_prompts * k))
        for start in range(0, k, step):
            distances = siblings.sorted_distances(slice(start, start + step))
            distances /= float(self.scales_[view])
            features = sibling_features(
                distances.reshape(-1, k),
                self.features,
                nearest=self.nearest,
                thresholds=self.thresholds_[view],
                bandwidths=self.bandwidths,
            )
            blocks.append(features.reshape(n_prompts, -1, features.shape[1]))
        return np.concatenate(blocks, axis=1, dtype=np.float64)

    def _append(self, X, rows, layout, features):
        """Append the features to the embedding, in the layout of X."""
        out = self._joined(rows, layout, features)
        views = self._views_out(out.shape[-1] - features.shape[1], out.shape[-1])
        out = wrap_output(out, X, self) if len(layout.shape) == 1 else out
        return with_views(out, views)

    def _joined(self, rows, layout, features):
        """Join the embedding and the features, in the layout of X."""
        parts = [features]
        if self.embedding == "keep":
            parts = [rows, features]
        elif self.embedding == "center":
            parts = [_center(rows, layout), features]
        out = np.concatenate(parts, axis=1, dtype=np.result_type(rows, np.float32))
        return out.reshape(*layout.shape, out.shape[1])

    def _views_out(self, n_kept, n_features):
        """Return the views of the output, of which some columns are those of X."""
        views = self._fitted_views if n_kept else {}
        name = "siblings" + "_" * ("siblings" in views)
        return views | {name: np.arange(n_kept, n_features)}

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _total_variance(X, view):
    """Sum the variances of columns in float64, without the copy of np.var."""
    mean = X[:, view].mean(axis=0, dtype=np.float64)
    return sum(((X[rows, view] - mean) ** 2).sum() for rows in row_blocks(X)) / len(X)


def _prompts(X, layout):
    """Yield row positions (n_prompts, k) and embeddings of some prompts of one size.

    The next ones may overwrite the embeddings.
    """
    read = BlockReader(X)
    for _, rows in layout.by_size():
        k = rows.shape[1]
        if layout.order is not None:
            rows = layout.order[rows]
        step = max(1, ENTRIES_AT_ONCE // (k * max(k, X.shape[1])))
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            yield some, read(some.ravel()).reshape(*some.shape, -1)


def _center(X, layout):
    """Subtract the mean embedding of each prompt, in user order."""
    centered = np.empty(X.shape, compute_dtype(X))
    for rows, E in _prompts(X, layout):
        centered[rows] = E - E.mean(axis=1, keepdims=True, dtype=np.float64)
    return centered
