"""EmbedderUnion: several embeddings of a candidate side by side."""

from collections.abc import Mapping
from itertools import chain, count
from typing import Any

import numpy as np
from sklearn.base import TransformerMixin, clone
from sklearn.preprocessing import OneHotEncoder
from sklearn.utils.validation import check_is_fitted

from skqprobe._arrays.collections import is_dask
from skqprobe._arrays.views import check_views, with_views
from skqprobe._utils.estimator import BaseEstimator
from skqprobe._utils.sklearn_compat import _fit_context, wrap_output
from skqprobe.embedders._inputs import are_preferences
from skqprobe.embedders._partitions import (
    embed_partitions,
    fit_to_partitions,
    refuse_to_learn,
)


class _Transform:
    """Methods that scikit-learn does not wrap: data frames cannot hold sets."""

    fit: Any
    _join: Any
    view_sizes_: Any

    def fit_transform(self, X, y=None):
        """Fit the embedders, and embed the texts.

        Parameters
        ----------
        X : list of str, of (prompt, completion) pairs or of records, or data frame
            Texts to embed; see the class.
        y : object, default=None
            Ignored.

        Returns
        -------
        embeddings : ndarray of shape (n_rows, n_features), or \
                (n_prompts, k, n_features) for records
            Embeddings, which carry their views. Rows have the container that
            `set_output` sets.
        """
        return self.fit(X).transform(X)

    def transform(self, X):
        """Embed texts.

        Parameters
        ----------
        X : list of str, of (prompt, completion) pairs or of records, or data frame
            Texts to embed; see the class.

        Returns
        -------
        embeddings : ndarray of shape (n_rows, n_features), or \
                (n_prompts, k, n_features) for records
            Embeddings, which carry their views. Rows have the container that
            `set_output` sets.
        """
        check_is_fitted(self)
        if is_dask(X):
            return embed_partitions(self, X)
        embeddings = self._join(X)
        views = check_views(self.view_sizes_, X, embeddings.shape[-1])
        if embeddings.ndim == 2:
            embeddings = wrap_output(embeddings, X, self)
        return with_views(embeddings, views)


class EmbedderUnion(_Transform, TransformerMixin, BaseEstimator):
    """Concatenate several embeddings, and categories of the candidates.

    The result carries its views, so that the following steps of a pipeline can penalize
    each on its own. FeatureUnion concatenates rows only, and forgets the views.

    Parameters
    ----------
    embedders : list of BaseEmbedder
        Embedders, of which clones are fitted.
    categories : list of str, default=None
        Columns of a data frame, or keys of records, with a label of each candidate,
        such as the model that wrote it: they become one 0/1 column per label of `fit`.
        None takes the columns of a data frame that pandas or polars calls categorical,
        except "prompt" and "completion". In a data frame of preferences, a column has
        no label of each candidate.

    Attributes
    ----------
    embedders_ : list of BaseEmbedder
        Fitted embedders.
    encoders_ : dict of OneHotEncoder
        Encoders of the categories, by name. Labels that were not in `fit` have zeros.
    view_sizes_ : dict of str to int
        Number of features of each view, by its name, in the order of the features. "__"
        in the name of a category is replaced by "_".

    See Also
    --------
    skqprobe.make_probe_pipeline : Pipeline that begins with it.

    Examples
    --------
    >>> import numpy as np
    >>> from skqprobe.embedders import EmbedderUnion, TextStatistics, VectorizerEmbedder
    >>> def count_marks(texts):
    ...     return np.array([[text.count(mark) for mark in "?!"] for text in texts])
    >>> records = [
    ...     {"prompt": "Hi", "completions": ["Hello!", "What?"], "model": ["a", "b"]}
    ... ]
    >>> union = EmbedderUnion(
    ...     [VectorizerEmbedder(count_marks), TextStatistics()], categories=["model"]
    ... )
    >>> union.fit_transform(records).shape
    (1, 2, 13)
    >>> union.view_sizes_
    {'text': 2, 'statistics': 9, 'model': 2}
    """

    _parameter_constraints: dict = {
        "embedders": [list, tuple],
        "categories": ["array-like", None],
    }

    def __init__(self, embedders, *, categories=None):
        self.embedders = embedders
        self.categories = categories

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None):
        """Fit the embedders, and learn the categories.

        Parameters
        ----------
        X : list of str, of (prompt, completion) pairs or of records, or data frame
            Texts to embed; see the class.
        y : object, default=None
            Ignored.

        Returns
        -------
        self : object
            Fitted union.

        Raises
        ------
        ValueError
            If `embedders` is empty or X lacks a category.
        TypeError
            If one of `embedders` is not an embedder.
        """
        if len(self.embedders) == 0:
            raise ValueError("embedders is empty; give at least one embedder.")
        for each in self.embedders:
            if not hasattr(type(each), "view_sizes_"):
                raise TypeError(f"embedders must hold embedders; got {each!r}.")
        if is_dask(X):
            self.__dict__ = self._fitted_to_partitions(X).__dict__
            return self
        encoders = {
            name: OneHotEncoder(
                handle_unknown="ignore", sparse_output=False, dtype=np.float32
            ).fit(_labels(X, name).reshape(-1, 1))
            for name in self._category_names(X)
        }
        self.embedders_ = [clone(each).fit(X) for each in self.embedders]
        self.encoders_ = encoders
        return self

    def _fitted_to_partitions(self, X):
        """Return the union that is fitted to a text of a Dask collection."""
        for each in self.embedders:
            if each._learns():
                refuse_to_learn(each)
        if self._category_names(getattr(X, "_meta", X)):
            raise ValueError(
                "Categories are learned from all candidates, but X is a Dask "
                "collection. Fit EmbedderUnion to candidates in memory, or pass "
                "categories=()."
            )
        return fit_to_partitions(self, X)

    def _view_sizes_for(self, n_features):
        """Return `view_sizes_`."""
        return self.view_sizes_

    def _category_names(self, X):
        if self.categories is not None:
            return list(self.categories)
        if not hasattr(X, "dtypes") or are_preferences(X):
            return []
        kinds = ("category", "Categorical", "Enum")  # of pandas and polars
        named = zip(X.columns, X.dtypes, strict=True)
        names = [name for name, dtype in named if str(dtype).startswith(kinds)]
        return [name for name in names if name not in ("prompt", "completion")]

    @property
    def view_sizes_(self):
        """Number of features of each view, by its name."""
        sizes: dict[str, int] = {}
        parts = [each.view_sizes_ for each in self.embedders_]
        parts += [
            {str(name).replace("__", "_"): len(encoder.categories_[0])}
            for name, encoder in self.encoders_.items()
        ]
        for part in parts:
            for name, size in part.items():
                numbered = (f"{name}-{number}" for number in count(2))
                free = (each for each in chain([name], numbered) if each not in sizes)
                sizes[next(free)] = size
        return sizes

    def _join(self, X):
        parts = [np.asarray(each.transform(X)) for each in self.embedders_]
        for name, encoder in self.encoders_.items():
            labels = _labels(X, name)
            columns = encoder.transform(labels.reshape(-1, 1))
            parts.append(columns.reshape(*labels.shape, columns.shape[1]))
        return np.concatenate(parts, axis=-1)

    def get_feature_names_out(self, input_features=None):
        """Get the names of the features, "view__number".

        Parameters
        ----------
        input_features : object, default=None
            Ignored.

        Returns
        -------
        feature_names_out : ndarray of str
            Names of the features.
        """
        check_is_fitted(self)
        sizes = self.view_sizes_.items()
        names = [f"{view}__{i}" for view, size in sizes for i in range(size)]
        return np.array(names, dtype=object)

    def __sklearn_is_fitted__(self):
        return hasattr(self, "embedders_")


def _labels(X, name):
    """Labels of the candidates, (n_rows,), or (n_prompts, k) of records."""
    try:
        if hasattr(X, "columns") and not are_preferences(X):
            labels = np.array([str(label) for label in X[name].to_list()], dtype=object)
        else:
            records = [each if isinstance(each, Mapping) else {} for each in X]
            labels = np.array([list(map(str, each[name])) for each in records], object)
            k = {len(each["completions"]) for each in records}
            is_text = any(isinstance(each[name], str) for each in records)
            if is_text or labels.shape[1:] != tuple(k):
                labels = np.zeros(0)
    except (KeyError, TypeError, ValueError):
        labels = np.zeros(0)
    if labels.size == 0:
        raise ValueError(
            f"categories has {name!r}, but X has no such labels. A data frame with the "
            "column 'completion' needs this column, and records a list with one label "
            "per completion under this key."
        )
    return labels
