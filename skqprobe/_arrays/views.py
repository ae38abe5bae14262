"""Views: the columns of each embedding where X has several side by side."""

from collections.abc import Mapping
from numbers import Integral

import numpy as np

from skqprobe._arrays.last_axis import LastAxisArray
from skqprobe._utils.sklearn_compat import column_indices


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
    X : ndarray
        Embeddings.
    views : dict of ndarray of int, or None
        Columns of each view, by name.
    """
    if views is None or len(views) < 2 or not isinstance(X, np.ndarray):
        return X
    X = X.view(ViewArray)
    X.last_axis = views
    return X


def views_of(X):
    """Return the views that X carries, or None."""
    return getattr(X, "views", None) if isinstance(X, ViewArray) else None


def check_views(view_sizes, X, n_features):
    """Find the columns of each view.

    Parameters
    ----------
    view_sizes : dict, array-like or None
        Number of columns of each view, in order, with or without names; or the columns
        of each view by name, as ColumnTransformer takes them; or the name of each
        column, "view__column". None takes the views that X carries.
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
    if view_sizes is None:
        return views_of(X) or {"view0": np.arange(n_features)}
    if not isinstance(view_sizes, Mapping):
        entries = list(view_sizes)
        if entries and all(isinstance(name, str) for name in entries):
            return _views_by_prefix(entries, n_features)
        view_sizes = {f"view{i}": size for i, size in enumerate(entries)}
    views, start = {}, 0
    for name, columns in view_sizes.items():
        if isinstance(columns, Integral):
            views[name] = np.arange(start, start + max(int(columns), 0))
            start += int(columns)
            continue
        try:
            views[name] = np.array(column_indices(X, columns), dtype=int)
        except (TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"The columns of view_sizes[{name!r}] cannot be selected: {error}"
            ) from error
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
    prefixes = np.array([name.split("__")[0] for name in names])
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
    values = np.asarray(view_weights, dtype=np.float64)
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
