"""BaseEmbedder: batching, caching and validation for all embedders."""

import copy
from abc import ABC, abstractmethod
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin

from skqprobe._arrays.collections import is_dask
from skqprobe._arrays.device import detach
from skqprobe._arrays.views import check_views, with_views
from skqprobe._backends.identity import identify
from skqprobe._backends.settings import output_settings
from skqprobe._utils.estimator import BaseEstimator
from skqprobe._utils.progress import progress_bar
from skqprobe._utils.sklearn_compat import (
    Interval,
    StrOptions,
    _fit_context,
    wrap_output,
)
from skqprobe._utils.warn import warn_user
from skqprobe.embedders._cache import EmbeddingCache, text_keys
from skqprobe.embedders._inputs import check_texts, find_surrogate
from skqprobe.embedders._partitions import (
    embed_partitions,
    fit_to_partitions,
    refuse_to_learn,
)

ON_ERROR: dict = {"on_error": [StrOptions({"raise", "skip"})]}
"""Constraint of the parameter `on_error`, of the backends that have it."""


class _Transform:
    """Define `transform` and `fit_transform` where scikit-learn does not wrap them.

    scikit-learn wraps methods that a transformer class defines itself. It would try to
    make a data frame of sets, which have three dimensions.
    """

    _view_sizes_for: Any
    fit: Any
    _embed: Any
    _learns: Any
    _validate_params: Any

    # Not skipped: parameters of a vectorizer, for example.
    @_fit_context(prefer_skip_nested_validation=False)
    def fit_transform(self, X, y=None):
        """Fit, and embed the texts, each of them once.

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
            Embeddings of dtype `dtype`. Rows have the container that `set_output` sets.
        """
        if self._learns() or is_dask(X):
            return self.fit(X).transform(X)
        embeddings = self._embed(check_texts(X))
        self.n_features_out_ = embeddings.shape[-1]
        return self._wrap(embeddings, X)

    def transform(self, X):
        """Embed texts. Embedders that do not learn need no `fit`.

        Parameters
        ----------
        X : list of str, of (prompt, completion) pairs or of records, or data frame
            Texts to embed; see the class.

        Returns
        -------
        embeddings : ndarray of shape (n_rows, n_features), or \
                (n_prompts, k, n_features) for records
            Embeddings of dtype `dtype`. Rows have the container that `set_output` sets.

        Raises
        ------
        ValueError
            If X has none of these forms; if the embeddings of the backend have the
            wrong shape, or another length than in `fit`; or if texts cannot be
            embedded. The others are embedded and kept first.
        """
        self._validate_params()
        if is_dask(X):
            return embed_partitions(self, X)
        embeddings = self._embed(check_texts(X))
        expected = getattr(self, "n_features_out_", embeddings.shape[-1])
        if embeddings.shape[-1] != expected:
            raise ValueError(
                f"The embeddings have {embeddings.shape[-1]} features, but had "
                f"{expected} in fit: the model or a setting has changed. Fit again."
            )
        return self._wrap(embeddings, X)

    def _wrap(self, embeddings, X):
        n_features = embeddings.shape[-1]
        views = check_views(self._view_sizes_for(n_features), X, n_features)
        if embeddings.ndim == 2:
            embeddings = wrap_output(embeddings, X, self)
        return with_views(embeddings, views)


class BaseEmbedder(
    _Transform, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator, ABC
):
    r"""Base class of embedders: transformers from texts to arrays.

    A backend is a subclass with the method `embed_batch` and an ``__init__`` that has
    the parameters below among its own; :doc:`/extend/embedder` shows one. An embedder
    stores names and settings, never a model or a secret. So it can be cloned, searched
    over and pickled.

    X is a list of texts; a list of (prompt, completion) pairs, or a data frame with the
    columns "prompt" and "completion"; or a list of records, ``{"prompt": ...,
    "completions": [...]}``, which give candidate sets. A prompt is a text or a list of
    chat messages.

    Parameters
    ----------
    join : str or callable, default="\n"
        Separator of prompt and completion, or a function ``join(prompt, completion)``
        that returns the text to embed.
    batch_size : int, default=32
        Number of texts per batch.
    dtype : {"float16", "float32", "float64"}, default="float32"
        Data type of the embeddings.
    cache : str, Path or EmbeddingCache, default=None
        File that stores every embedding, so that no text is embedded twice. If it
        cannot be written, a warning says why, and the embeddings are only returned.
    progress : bool or "auto", default="auto"
        Whether to show a progress bar. "auto" shows one in a terminal, for work of more
        than two seconds, and not inside a search or cross-validation.
    on_error : {"raise", "skip"}, default="raise"
        Treatment of texts that cannot be embedded, such as those that are too long. If
        "raise", one error lists them after the others are embedded and kept. If "skip",
        their rows are NaN, and a warning lists them. Optional: a backend without it
        raises.

    Attributes
    ----------
    inert_parameters : frozenset of str
        Names of the parameters that do not change the embedding of a given text. The
        keys of the cache depend on all other parameters. A class attribute: a subclass
        extends that of its base, ``BaseEmbedder.inert_parameters | {"device"}``.
    n_features_out_ : int
        Number of features of an embedding.
    view_sizes_ : dict of str to int
        Number of features of each view, by its name, in the order of the features.
    """

    _parameter_constraints: dict = {
        "join": [str, callable],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "dtype": [StrOptions({"float16", "float32", "float64"})],
        "cache": [str, Path, EmbeddingCache, None],
        "progress": ["boolean", StrOptions({"auto"})],
    }
    on_error = "raise"  # of a backend without this parameter
    _source = "embed_batch"  # of the embeddings, in errors
    _view = "text"  # name of the only view

    # `join` changes the text, not the embedding of a text.
    inert_parameters: frozenset[str] = frozenset(
        {"join", "batch_size", "cache", "progress", "on_error"}
    )

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None):
        """Determine the number of features, and learn from the texts if needed.

        Parameters
        ----------
        X : list of str, of (prompt, completion) pairs or of records, or data frame
            Texts to embed; see the class.
        y : object, default=None
            Ignored.

        Returns
        -------
        self : object
            This embedder.
        """
        if is_dask(X):
            if self._learns():
                refuse_to_learn(self)
            self.__dict__ = fit_to_partitions(self, X).__dict__
            return self
        X = check_texts(X)
        fitted = copy.copy(self)  # if an error occurs, self does not change
        texts = fitted.make_texts(X)
        fitted._learn(texts)
        fitted.n_features_out_ = fitted._count_features(X, texts)
        self.__dict__ = fitted.__dict__
        return self

    @abstractmethod
    def embed_batch(self, texts):
        """Embed a batch of texts.

        Parameters
        ----------
        texts : list of str
            Distinct texts of similar length, at most `batch_size`.

        Returns
        -------
        embeddings : array-like of shape (len(texts), n_features)
            Embeddings of the texts. In a list, an Exception in place of a row says why
            this text cannot be embedded.
        """

    def embed_batches(self, batches):
        """Embed batches one by one. Override it to embed several at a time.

        Parameters
        ----------
        batches : list of list of str
            Batches of texts.

        Yields
        ------
        number : int
            Index of the batch in `batches`. The batches may come in any order.
        embeddings : array-like of shape (len(batches[number]), n_features)
            Embeddings of the texts of the batch.
        """
        for number, batch in enumerate(batches):
            yield number, self.embed_batch(batch)

    def make_texts(self, X):
        """Make the texts to embed from prompts and completions.

        Parameters
        ----------
        X : TextInput
            Prompts and completions, one per row.

        Returns
        -------
        texts : list of str
            Texts, one per row. A backend may return tuples of strings instead.
        """
        if callable(self.join):
            join = self.join
        else:

            def join(prompt, completion):
                return render_prompt(prompt) + self.join + completion

        return [
            completion if prompt is None else join(prompt, completion)
            for prompt, completion in zip(X.prompts, X.completions, strict=True)
        ]

    @property
    def view_sizes_(self):
        """Number of features of each view, by its name."""
        return {self._view: self.n_features_out_}

    def _view_sizes_for(self, n_features):
        """Return `view_sizes_` of embeddings with this number of features."""
        fitted = self._snapshot()
        fitted.n_features_out_ = n_features
        return fitted.view_sizes_

    def _learns(self):
        """Return whether `fit` learns from the texts."""
        return False

    def _learn(self, texts):
        """Set the attributes that are learned from the texts."""

    def _count_features(self, X, texts):
        """Embed one text: the first or, with on_error="skip", the first possible."""
        for i, text in enumerate(texts):
            try:
                return self._embed_texts([text], lambda _, i=i: X.describe(i)).shape[1]
            except BadTextsError:
                if self.on_error == "raise" or i == len(texts) - 1:
                    raise

    def _embed(self, X):
        embeddings = self._embed_texts(self.make_texts(X), X.describe)
        return embeddings.reshape(*X.shape, embeddings.shape[1])

    def _embed_texts(self, texts, describe):
        """Embed texts: read the known ones, and embed each of the others once."""
        distinct = list(dict.fromkeys(texts))
        settings = self._settings()
        if "model_files" in settings:
            del settings["model"]  # the folder may be moved
        keys = text_keys(settings, distinct)
        store = self._store()
        table = _Table(len(distinct), self.dtype)
        for number, value in [*store.read(keys), *self._memory().read(keys)]:
            table.set(number, np.frombuffer(value, self.dtype))
        failures = {i: e for i, t in enumerate(distinct) if (e := find_surrogate(t))}
        missing = [number for number in table.missing() if number not in failures]
        # The longest texts come first: batches need little padding, and if memory is
        # too small, it fails at once.
        missing.sort(key=lambda number: -sum(map(len, distinct[number])))
        batches = [
            missing[start : start + self.batch_size]
            for start in range(0, len(missing), self.batch_size)
        ]
        bar = progress_bar(self.progress, len(missing), type(self).__name__, "text")
        with bar:
            for number, values in self.embed_batches(
                [[distinct[i] for i in batch] for batch in batches]
            ):
                batch = batches[number]
                values, errors = self._check_embeddings(values, len(batch))
                failures |= {batch[place]: error for place, error in errors.items()}
                kept = [i for place, i in enumerate(batch) if place not in errors]
                for i, value in zip(kept, values, strict=True):
                    table.set(i, value)
                store = self._write(
                    store, [keys[i] for i in kept], [v.tobytes() for v in values]
                )
                bar.update(len(batch))
        if failures:
            self._report(failures, distinct, texts, describe)
            table.values[list(failures)] = np.nan
        self._finished = None  # no error: nothing has to be kept for another call
        if len(distinct) == len(texts):
            return table.values
        position = {text: number for number, text in enumerate(distinct)}
        return table.values[[position[text] for text in texts]]

    def _report(self, failures, distinct, texts, describe):
        """Name the texts that cannot be embedded, in an error or a warning."""
        failures = dict(sorted(failures.items()))
        named = " ".join(
            f"{describe(texts.index(distinct[number]))}: {str(error).rstrip('.')}."
            for number, error in [*failures.items()][:5]
        ) + " ..." * (len(failures) > 5)
        counted = f"{len(failures)} of {len(distinct)} texts cannot be embedded"
        if self.on_error == "skip" and len(failures) < len(distinct):
            warn_user(f"{counted}, and their rows are NaN. {named}")
            return
        where = "the cache" if self.cache is not None else "this object until next call"
        message = f"{counted}. {named} The others are embedded and kept in {where}."
        raise BadTextsError(message) from next(iter(failures.values()))

    def _settings(self):
        """Return the settings that determine an embedding, besides the text."""
        settings = output_settings(self)
        if not settings["class"].startswith("skqprobe."):
            settings["class"] = identify(type(self))
        return settings

    def _store(self):
        """Open the cache, or else the memory of batches finished before an error."""
        if self.cache is None:
            return self._memory()
        if isinstance(self.cache, EmbeddingCache):
            return self.cache
        return EmbeddingCache(self.cache)

    def _memory(self):
        finished = getattr(self, "_finished", None)
        if finished is None:
            self._finished = finished = _Memory()
        return finished  # not self._finished: another thread may have reset it

    def _write(self, store, keys, values):
        """Store embeddings; return the store of the next ones."""
        try:
            store.write(keys, values)
        except OSError as error:
            warn_user(
                f"{error} The embeddings of this call are returned, but from here on "
                "they are not stored.",
                RuntimeWarning,
            )
            store = self._memory()
            store.write(keys, values)
        return store

    def _check_embeddings(self, values, n_texts):
        """Validate a batch; return its embeddings, and errors by place in the batch."""
        errors = {}
        if isinstance(values, list):
            errors = {i: v for i, v in enumerate(values) if isinstance(v, Exception)}
            values = [value for value in values if not isinstance(value, Exception)]
            n_texts -= len(errors)
        if n_texts == 0:
            return [], errors
        expected = (
            f"{type(self).__name__}.{self._source} must return an array of shape "
            f"({n_texts}, n_features), one row for each text"
        )
        values = detach(values)
        try:
            with np.errstate(over="ignore"):
                values = np.ascontiguousarray(values).astype(self.dtype, copy=False)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{expected}: {error}") from error
        if values.ndim != 2 or len(values) != n_texts or values.shape[1] == 0:
            raise ValueError(f"{expected}; got shape {values.shape}.")
        finite = np.isfinite(values).all(axis=1)
        places = [i for i in range(n_texts + len(errors)) if i not in errors]
        for place in np.compress(~finite, places).tolist():
            errors[place] = ValueError(
                f"its embedding has NaN or infinity (as {self.dtype})"
            )
        return values[finite], errors

    def __getstate__(self):
        state = super().__getstate__()
        state.pop("_finished", None)
        return state

    @property
    def _n_features_out(self):
        return self.n_features_out_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.requires_fit = self._learns()
        return tags


class BadTextsError(ValueError):
    """Texts cannot be embedded; all others are."""


def render_prompt(prompt):
    """Return a prompt as text: chat messages become lines, "role: content"."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


class _Memory(dict):
    """A cache in memory, kept until all texts of a call are embedded."""

    def read(self, keys):
        """Return (number, value) of the keys that are stored."""
        return [(i, self[key]) for i, key in enumerate(keys) if key in self]

    def write(self, keys, values):
        """Store values."""
        self.update(zip(keys, values, strict=True))


class _Table:
    """Embeddings by number. The first one determines the number of features."""

    def __init__(self, n_rows, dtype):
        self._known = np.zeros(n_rows, dtype=bool)
        self._dtype = dtype
        self.values: Any = None

    def set(self, number, value):
        """Store an embedding in its row."""
        if self.values is None:
            self.values = np.empty((len(self._known), len(value)), dtype=self._dtype)
        if len(value) != self.values.shape[1]:
            raise ValueError(
                f"The embedding of a text has {len(value)} features, others have "
                f"{self.values.shape[1]}. If the model with this name was changed, "
                "clear the cache."
            )
        self.values[number] = value
        self._known[number] = True

    def missing(self):
        """Return the numbers of the rows without an embedding."""
        return np.flatnonzero(~self._known).tolist()
