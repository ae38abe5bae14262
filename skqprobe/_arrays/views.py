"""Views: the columns of each embedding where X has several side by side."""

import copy
from collections.abc import Mapping
from numbers import Integral

import numpy as np

from skqprobe._arrays.collections import is_collection
from skqprobe._arrays.last_axis import LastAxisArray
from skqprobe._utils.sklearn_compat import column_indices

EMBEDDING_COLUMNS = 16
"""Fewest columns of a view that is an embedding: it is compared and penalized as a
whole."""

VIEWS = "skqprobe_views"
"""Key of the views in the `attrs` of a data frame, and attribute of a Dask array."""


class ViewArray(LastAxisArray):
    """Embeddings whose columns belong to views.

    Embedders return it, and transformers and estimators of this package read the views
    from it. Rows, copies and other dtypes have the views, too; other results have none.

    Attributes
    ----------
    views : dict of ndarray of int, or None
        Columns of each view, by name.
    """

    @property
    def views(self):
        """Columns of each view, by name."""
        return self.last_axis


def with_views(X, views):
    """Return X as an array that carries its views, or as it is if there is only one.

    Parameters
    ----------
    X : ndarray or data frame
        Embeddings. A pandas frame carries the names of the columns of each view in
        `attrs`; other frames carry nothing.
    views : dict of ndarray of int, or None
        Columns of each view, by name.
    """
    if views is None or len(views) < 2:
        return X
    if hasattr(X, "attrs") and hasattr(X, "columns"):
        names = {view: X.columns[each].tolist() for view, each in views.items()}
        X = X.copy(deep=False)  # which may be that of the user
        X.attrs[VIEWS] = names
    if is_collection(X):
        X = copy.copy(X)
        setattr(X, VIEWS, views)
    if not isinstance(X, np.ndarray):
        return X
    X = X.view(ViewArray)
    X.last_axis = views
    return X


def views_of(X):
    """Return the views that X carries, or None."""
    if isinstance(X, ViewArray):
        return X.views
    if is_collection(X) and hasattr(X, "chunks"):
        return getattr(X, VIEWS, None)
    names = getattr(X, "attrs", {}).get(VIEWS)
    if names is None or not X.columns.is_unique:
        return None
    found = {
        view: np.flatnonzero(X.columns.isin(columns)) for view, columns in names.items()
    }
    found = {view: columns for view, columns in found.items() if len(columns)}
    return found if sum(map(len, found.values())) == X.shape[1] else None


def check_views(view_sizes, X, n_features):
    """Find the columns of each view.

    Parameters
    ----------
    view_sizes : dict, array-like or None
        Number of columns of each view, in order, with or without names; or the columns
        of each view by name, as ColumnTransformer takes them; or the name of each
        column, "view__column". None takes the views that X carries. Of columns that X
        has no names for, the view of this name that X carries is taken.
    X : array-like
        Embeddings as the user passed them: a data frame if columns are selected by
        name.
    n_features : int
        Number of columns of X.

    Returns
    -------
    views : dict of ndarray of int
        Columns of each view, by name. Views without a name are called "view0" and so
        on.

    Raises
    ------
    ValueError
        If the views do not have each column exactly once.
    """
    carried = views_of(X) or {}
    if view_sizes is None:
        return carried or {"view0": np.arange(n_features)}
    if not isinstance(view_sizes, Mapping):
        entries = list(view_sizes)
        if entries and all(isinstance(name, str) for name in entries):
            return _views_by_prefix(entries, n_features)
        view_sizes = {f"view{i}": size for i, size in enumerate(entries)}
    if not hasattr(X, "columns"):  # scikit-learn would take the second axis of sets
        X = np.empty((0, n_features))
    views, start = {}, 0
    for name, columns in view_sizes.items():
        if isinstance(columns, Integral):
            views[name] = np.arange(start, start + max(int(columns), 0))
            start += int(columns)
            continue
        try:
            views[name] = np.array(column_indices(X, columns), dtype=int)
        except (TypeError, ValueError, IndexError) as error:
            if name not in carried:
                raise ValueError(
                    f"The columns of view_sizes[{name!r}] cannot be selected: {error}"
                ) from error
            views[name] = carried[name]
    numbers = np.concatenate([*views.values(), []])
    is_partition = np.array_equal(np.sort(numbers), np.arange(n_features))
    if not (is_partition and all(map(len, views.values()))):
        raise ValueError(
            "view_sizes must be positive and add up to the number of columns of X, "
            f"{n_features}, or have each column once; got {view_sizes!r}."
        )
    return views


def _views_by_prefix(names, n_features):
    """Group columns by the part of their names before "__"."""
    if len(names) != n_features:
        raise ValueError(
            f"view_sizes has {len(names)} names of columns, but X has {n_features} "
            "columns; pass get_feature_names_out() of the transformer that made X."
        )
    prefixes = np.array([str(name).split("__")[0] for name in names], dtype=object)
    return {name: np.flatnonzero(prefixes == name) for name in dict.fromkeys(prefixes)}


def view_weights_by_name(view_weights, views):
    """Check the weights of views, and return them as a dict.

    Parameters
    ----------
    view_weights : dict or array-like
        Positive weight of each view, in order; or of some by name, the others 1.
    views : dict of ndarray of int
        Columns of each view.
    """
    names = list(views)
    if isinstance(view_weights, Mapping):
        if unknown := [name for name in view_weights if name not in views]:
            raise ValueError(
                f"view_weights has {unknown}, but the views of X are {names}."
            )
        view_weights = [view_weights.get(name, 1.0) for name in names]
    try:
        values = np.asarray(view_weights, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        values = np.array(np.nan)
    if values.shape != (len(names),) or not ((values > 0) & (values < np.inf)).all():
        raise ValueError(
            "view_weights must be positive and finite, one for each view of X, "
            f"{names}; got {view_weights!r}. Set view_sizes if X has other views."
        )
    return dict(zip(names, values.tolist(), strict=True))


def column_weights(view_weights, views, n_features):
    """Return the weight of the view of each column, (n_features,)."""
    weights = np.empty(n_features)
    for name, weight in view_weights_by_name(view_weights, views).items():
        weights[views[name]] = weight
    return weights
