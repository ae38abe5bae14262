"""PerCandidate: apply a row transformer to candidate sets."""

import copy

import numpy as np
from sklearn import get_config
from sklearn.base import MetaEstimatorMixin, TransformerMixin, clone
from sklearn.utils import get_tags
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    process_routing,
)
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from skqprobe._arrays.blocks import memory_map
from skqprobe._arrays.collections import is_collection
from skqprobe._arrays.columns import (
    FIT_IN_BLOCKS,
    fit_scaler,
    pool_scaler,
    summarize_columns,
)
from skqprobe._arrays.device import check_container, to_host
from skqprobe._arrays.views import check_views, views_of, with_views
from skqprobe._candidates.partitions import check_partitions
from skqprobe._candidates.validation import check_rewards, explain_texts, list_to_array
from skqprobe._utils.estimator import BaseEstimator
from skqprobe._utils.sklearn_compat import HasMethods, _fit_context
from skqprobe._utils.warn import warn_user


def _transformer_has(method):
    """Return a check that the transformer has a method."""

    def check(self):
        getattr(getattr(self, "transformer_", self.transformer), method)
        return True

    return check


# Data frames cannot hold sets, so set_output is only forwarded to the transformer.
class PerCandidate(
    MetaEstimatorMixin,
    TransformerMixin,
    BaseEstimator,
    auto_wrap_output_keys=None,  # type: ignore[call-arg]
):
    """Apply a row transformer to each candidate of candidate sets.

    Sets of shape (n_prompts, k, n_features) are passed to the transformer as
    ``n_prompts * k`` rows, and the output is reshaped to sets. Rows of shape (n_rows,
    n_features) are passed unchanged, so that one pipeline supports both layouts.

    Parameters
    ----------
    transformer : transformer
        Transformer that returns one row per input row, such as ``StandardScaler()`` or
        ``PCA()``.
    view_sizes : tuple of int, dict or list of str, default=None
        Views of X, if it has several embeddings side by side: the number of columns of
        each, in order; or by name, this number or the columns, selected as in
        ColumnTransformer; or the name of each column, "view__column". None takes the
        views that X carries from an embedder or a transformer, or one view.

    Attributes
    ----------
    transformer_ : transformer
        Fitted clone of `transformer`.
    n_features_in_ : int
        Number of features, the size of the last axis of X. Defined only if
        `transformer_` has this attribute.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features. Defined only if `transformer_` has this attribute.

    See Also
    --------
    SiblingFeatures : Append features that compare each candidate with its siblings.

    Notes
    -----
    The result is a new array in memory. A memory-mapped X gives a warning, because the
    result may not fit. `StandardScaler`, `MinMaxScaler` and `MaxAbsScaler` are fitted
    to it block by block, other transformers as a whole.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skqprobe import QProbePolicy
    >>> from skqprobe.preprocessing import PerCandidate
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(50, 4, 3)) * [1, 10, 1000]
    >>> y = rng.random(size=(50, 4))
    >>> PerCandidate(StandardScaler()).fit_transform(X).std(axis=(0, 1))
    array([1., 1., 1.])
    >>> policy = make_pipeline(PerCandidate(StandardScaler()), QProbePolicy())
    >>> policy.fit(X, y).predict(X[:5]).shape
    (5,)
    """

    _views = None  # of a transformer that an older version saved

    _parameter_constraints: dict = {
        "transformer": [HasMethods(["fit", "transform"])],
        "view_sizes": ["array-like", dict, None],
    }

    def __init__(self, transformer, *, view_sizes=None):
        self.transformer = transformer
        self.view_sizes = view_sizes

    @_fit_context(prefer_skip_nested_validation=False)
    @explain_texts()
    def fit(self, X, y=None, **params):
        """Fit the transformer.

        For sets, the transformer gets rewards and metadata with one value per row.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        y : array-like of shape (n_prompts, k) or (n_rows,), default=None
            Rewards; or several per candidate, one per objective, along a last axis.
        **params : dict
            Metadata for `fit` of the transformer, such as `sample_weight`, with one
            value per prompt or per candidate.

        Returns
        -------
        self : object
            Fitted transformer.
        """
        if is_collection(X):
            transformer = _fit_to_partitions(clone(self.transformer), X, params)
            self.transformer_, self._views = transformer, self._check_views(X)
            return self
        rows, y, params, _ = self._training_rows(X, y, params)
        transformer, views = clone(self.transformer), self._check_views(X)
        if not _fit_in_blocks(transformer, rows, params):
            transformer.fit(_in_memory(rows), y, **params)
        self.transformer_, self._views = transformer, views
        return self

    @_fit_context(prefer_skip_nested_validation=False)
    @explain_texts()
    def fit_transform(self, X, y=None, **params):
        """Fit the transformer and transform each candidate.

        For sets, the transformer gets rewards and metadata with one value per row.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.
        y : array-like of shape (n_prompts, k) or (n_rows,), default=None
            Rewards; or several per candidate, one per objective, along a last axis.
        **params : dict
            Metadata for `fit` of the transformer, such as `sample_weight`, with one
            value per prompt or per candidate.

        Returns
        -------
        X_new : ndarray of shape (n_prompts, k, n_features_out), or output of the \
                transformer for rows
            Transformed embeddings.
        """
        if is_collection(X):
            return self.fit(X, y, **params).transform(X)
        rows, y, params, shape = self._training_rows(X, y, params)
        transformer, views = clone(self.transformer), self._check_views(X)
        is_fitted = _fit_in_blocks(transformer, rows, params)
        rows = _in_memory(rows)
        if is_fitted:
            rows = transformer.transform(rows)
        elif hasattr(transformer, "fit_transform"):
            rows = transformer.fit_transform(rows, y, **params)
        else:
            rows = transformer.fit(rows, y, **params).transform(rows)
        self.transformer_, self._views = transformer, views
        return self._like(X, _restore_sets(rows, shape))

    def _training_rows(self, X, y, params):
        """Return X, y and metadata per row, and the leading shape of the sets."""
        rows, shape = _flatten_sets(X)
        if get_config()["enable_metadata_routing"]:
            params = process_routing(self, "fit", **params).transformer.fit
        if shape is not None:
            if y is not None:
                y = check_rewards(y, shape, allow_nan=True)[0]
                y = y.reshape(-1, *y.shape[2:])
            params = {
                name: _repeat_per_row(check_container(value, name), shape)
                for name, value in params.items()
            }
        return rows, y, params, shape

    def _check_views(self, X):
        """Find the views that `view_sizes` describes; None without it."""
        if self.view_sizes is None:
            return None
        return check_views(self.view_sizes, X, np.shape(X)[-1])

    def transform(self, X):
        """Transform each candidate.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Embeddings of (prompt, completion) pairs, as sets or rows.

        Returns
        -------
        X_new : ndarray of shape (n_prompts, k, n_features_out), or output of the \
                transformer for rows
            Transformed embeddings.
        """
        return self._apply("transform", X)

    @available_if(_transformer_has("inverse_transform"))
    def inverse_transform(self, X):
        """Undo the transformation of each candidate.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features_out) or \
                (n_rows, n_features_out)
            Transformed embeddings, as sets or rows.

        Returns
        -------
        X_original : ndarray of shape (n_prompts, k, n_features), or output of the \
                transformer for rows
            Embeddings before the transformation.
        """
        return self._apply("inverse_transform", X)

    def _apply(self, method, X):
        check_is_fitted(self)
        if is_collection(X):
            return self._like(X, _apply_to_partitions(self, method, X))
        rows, shape = _flatten_sets(X)
        rows = getattr(self.transformer_, method)(_in_memory(rows))
        return self._like(X, _restore_sets(rows, shape))

    def _like(self, X, out):
        """Give the output the views of X, if it has the columns of X."""
        views = self._views or views_of(X) or {}
        same = sum(map(len, views.values())) == np.shape(out)[-1]
        return with_views(out, views) if same else out

    @available_if(_transformer_has("get_feature_names_out"))
    def get_feature_names_out(self, input_features=None):
        """Get the names of the output features of the transformer.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Names of the input features. If None, use the names from `fit`.

        Returns
        -------
        feature_names_out : ndarray of str
            Names of the columns of the output.
        """
        check_is_fitted(self)
        return self.transformer_.get_feature_names_out(input_features)

    @available_if(_transformer_has("set_output"))
    def set_output(self, *, transform=None):
        """Set the output container of the transformer for rows.

        The output for sets is always an array.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"}, default=None
            Container of the output. If None, keep the present one.

        Returns
        -------
        self : object
            Transformer.
        """
        self.transformer.set_output(transform=transform)
        if hasattr(self, "transformer_"):
            self.transformer_.set_output(transform=transform)
        return self

    @property
    def n_features_in_(self):
        """Number of features."""
        return self.transformer_.n_features_in_

    @property
    def feature_names_in_(self):
        """Names of the features."""
        return self.transformer_.feature_names_in_

    def get_metadata_routing(self):
        """Get the metadata routing of this object.

        Returns
        -------
        routing : MetadataRouter
            Router that passes all metadata to `fit` of the transformer.
        """
        return MetadataRouter(owner=type(self).__name__).add(
            transformer=self.transformer,
            method_mapping=MethodMapping()
            .add(caller="fit", callee="fit")
            .add(caller="fit_transform", callee="fit"),
        )

    def __sklearn_is_fitted__(self):
        return hasattr(self, "transformer_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        inner = get_tags(self.transformer)
        tags.input_tags = inner.input_tags
        tags.input_tags.three_d_array = True
        tags.target_tags = inner.target_tags
        tags.transformer_tags = inner.transformer_tags
        tags.requires_fit = inner.requires_fit
        tags.non_deterministic = inner.non_deterministic
        return tags


def _flatten_sets(X):
    """Return the rows and the leading shape of sets, or rows unchanged and None."""
    X = check_container(X, "X")
    sets = X if hasattr(X, "shape") else list_to_array(X)
    if len(sets.shape) == 3:
        n_prompts, k, d = sets.shape
        rows = np.asarray(to_host(sets, "X")).reshape(n_prompts * k, d)
        return rows, (n_prompts, k)
    return X, None


def _fit_in_blocks(transformer, rows, params):
    """Fit a scaler to a memory map block by block. Return whether this was done."""
    if type(transformer) not in FIT_IN_BLOCKS or memory_map(rows) is None or params:
        return False
    fit_scaler(transformer, rows)
    return True


def _fit_to_partitions(transformer, X, params):
    """Fit a scaler to a Dask collection, by sums over its partitions."""
    if type(transformer) not in FIT_IN_BLOCKS or params:
        raise ValueError(
            f"{type(transformer).__name__} cannot be fitted to a Dask collection, "
            "except StandardScaler, MinMaxScaler and MaxAbsScaler without metadata. "
            "Fit it to a sample that is computed first, X[:1000].compute()."
        )
    partitions = check_partitions(X)
    parts = partitions.map(_summarize, arguments=(type(transformer),))
    scaler = pool_scaler(transformer, parts.values())
    validate_data(scaler, partitions.frame, skip_check_array=True)  # sets the names
    return scaler


def _summarize(block, start, kind):
    rows, _ = _flatten_sets(block[0])
    return summarize_columns(rows, kind)


def _apply_to_partitions(transformer, method, X):
    """Make the array of a method's results for all partitions."""
    partitions = check_partitions(X)
    # A later change or fit has no effect on the array.
    transformer, frame = copy.deepcopy(transformer), partitions.frame
    some = _with_names(np.zeros((1, partitions.n_features), partitions.X.dtype), frame)
    out = np.asarray(getattr(transformer, method)(some))
    result = partitions.lazily(
        _apply_to_block,
        method,
        "iko" if len(partitions.shape) == 2 else "io",
        {"o": out.shape[1]},
        out.dtype,
        transformer=transformer,
        method=method,
        frame=frame,
    )
    return partitions.as_user(result)


def _apply_to_block(X, *, keys, transformer, method, frame):
    return np.asarray(getattr(transformer, method)(_with_names(X, frame)))


def _with_names(X, frame):
    """Make a data frame of rows, if `frame`, which has their names, is one."""
    return type(frame)(X, columns=frame.columns) if hasattr(frame, "columns") else X


def _in_memory(rows):
    """Return rows that a transformer may copy: float32 for float16.

    Transformers that compute in float16 would lose digits, and its smallest scales
    become 0. A memory map gives a warning.
    """
    if memory_map(rows) is not None:
        warn_user(
            f"X is a memory map of {rows.nbytes / 2**20:.0f} MiB, and PerCandidate "
            "copies it to memory as a whole. Instead of PerCandidate with a "
            "StandardScaler, set standardize=True of QProbePolicy, QProbeRegressor or "
            "QProbePolicyCV, which read X in blocks. For other transformers, transform "
            "X in parts, and save the results to a file."
        )
    is_half = isinstance(rows, np.ndarray) and rows.dtype == np.float16
    return rows.astype(np.float32) if is_half else rows


def _restore_sets(rows, shape):
    """Reshape rows to sets of the leading shape, if there is one."""
    if shape is None:
        return rows
    rows = rows.toarray() if hasattr(rows, "toarray") else np.asarray(rows)
    n_prompts, k = shape
    if len(rows) != n_prompts * k:
        raise ValueError(
            f"The transformer returned {len(rows)} rows for {n_prompts * k} "
            "candidates; use one that returns one row per candidate."
        )
    return rows.reshape(n_prompts, k, rows.shape[1])


def _repeat_per_row(value, shape):
    """Convert metadata per prompt or per candidate to one value per row."""
    size = np.shape(value)
    if size[:2] == shape:
        return np.reshape(value, (-1, *size[2:]))
    if size[:1] == shape[:1]:
        return np.repeat(np.asarray(value), shape[1], axis=0)
    return value
