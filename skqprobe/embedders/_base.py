"""BaseEmbedder: everything that an embedder does but the embedding itself."""

from abc import ABC, abstractmethod
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin

from skqprobe._backends.file_state import file_state
from skqprobe._utils.estimator import BaseEstimator
from skqprobe._utils.progress import progress_bar
from skqprobe._utils.sklearn_compat import (
    Interval,
    StrOptions,
    _fit_context,
    wrap_output,
)
from skqprobe.embedders._cache import EmbeddingCache, text_keys
from skqprobe.embedders._inputs import check_texts


class _Transform:
    """Hold `transform` and `fit_transform`, out of reach of scikit-learn's wrapping.

    It wraps what a transformer class defines itself, and would make a data frame of
    sets too, which have three dimensions.
    """

    _embed: Any
    _validate_params: Any

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X, y=None):
        """Embed texts, each once, and learn the number of features.

        Parameters
        ----------
        X : list of str, of (prompt, completion) pairs or of records, or data frame
            What to embed; see the class.
        y : object, default=None
            Ignored.

        Returns
        -------
        embeddings : ndarray of shape (n_rows, n_features), or \
                (n_prompts, k, n_features) for records
        """
        embeddings = self._embed(check_texts(X))
        self.n_features_out_ = embeddings.shape[-1]
        return embeddings if embeddings.ndim == 3 else wrap_output(embeddings, X, self)

    def transform(self, X):
        """Embed texts; `fit` is not needed before.

        Parameters
        ----------
        X : list of str, of (prompt, completion) pairs or of records, or data frame
            What to embed; see the class.

        Returns
        -------
        embeddings : ndarray of shape (n_rows, n_features), or \
                (n_prompts, k, n_features) for records
            Of dtype `dtype`. Rows come in the container that `set_output` asks for.

        Raises
        ------
        ValueError
            If X has none of these forms, or the backend gives no embedding, one that is
            not finite, or one of another length than in `fit`.
        """
        self._validate_params()
        embeddings = self._embed(check_texts(X))
        expected = getattr(self, "n_features_out_", embeddings.shape[-1])
        if embeddings.shape[-1] != expected:
            raise ValueError(
                f"The embeddings have {embeddings.shape[-1]} features, but had "
                f"{expected} in fit: the model or a setting has changed. Fit again."
            )
        return embeddings if embeddings.ndim == 3 else wrap_output(embeddings, X, self)


class BaseEmbedder(
    _Transform, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator, ABC
):
    r"""Base class of embedders: text in, arrays out.

    A backend is a subclass with one method, `embed_batch`, and an ``__init__`` that
    has the parameters below among its own; :doc:`/extend/embedder` shows one. An
    embedder holds names and settings, never a model or a secret, so that it can be
    cloned, searched over and pickled.

    X may be a list of texts; of (prompt, completion) pairs, or a data frame with the
    columns "prompt" and "completion"; or records, ``{"prompt": ..., "completions":
    [...]}``, which give candidate sets. A prompt is a text or a list of chat messages.

    Parameters
    ----------
    join : str or callable, default="\n"
        Makes one text of a prompt and a completion: a string is put between them; a
        callable gets the two and returns the text.
    batch_size : int, default=32
        How many texts `embed_batch` gets at a time.
    dtype : {"float16", "float32", "float64"}, default="float32"
        Of the embeddings.
    cache : str, Path or EmbeddingCache, default=None
        A file that keeps every embedding, so that no text is embedded twice.
    progress : bool or "auto", default="auto"
        Whether to show a progress bar. "auto" shows one on a terminal, for work of more
        than two seconds, and not inside a search or cross-validation.
    """

    _parameter_constraints: dict = {
        "join": [str, callable],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "dtype": [StrOptions({"float16", "float32", "float64"})],
        "cache": [str, Path, EmbeddingCache, None],
        "progress": ["boolean", StrOptions({"auto"})],
    }

    # Parameters that change no embedding of a given text, and so no key of the cache.
    inert_parameters: frozenset[str] = frozenset(
        {"join", "batch_size", "cache", "progress"}
    )

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Learn the number of features, from the first text.

        Parameters
        ----------
        X : list of str, of (prompt, completion) pairs or of records, or data frame
            Texts; see the class.
        y : object, default=None
            Ignored.

        Returns
        -------
        self : object
        """
        texts = self.make_texts(check_texts(X))
        self.n_features_out_ = self._embed_texts(texts[:1]).shape[1]
        return self

    @abstractmethod
    def embed_batch(self, texts):
        """Embed a batch of texts.

        Parameters
        ----------
        texts : list of str
            Distinct, at most `batch_size`, of about equal length.

        Returns
        -------
        embeddings : array-like of shape (len(texts), n_features)
        """

    def embed_batches(self, batches):
        """Embed batches, one after the other; to be overridden for many at once.

        Parameters
        ----------
        batches : list of list of str
            The texts.

        Yields
        ------
        number : int
            Which of the batches it is. They may come in any order.
        embeddings : array-like of shape (len(batches[number]), n_features)
        """
        for number, batch in enumerate(batches):
            yield number, self.embed_batch(batch)

    def make_texts(self, X):
        """Make what is embedded of prompts and completions.

        Parameters
        ----------
        X : TextInput
            Prompts and completions by row.

        Returns
        -------
        texts : list of str
            One a row. A backend may make tuples of strings instead.
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

    def _embed(self, X):
        embeddings = self._embed_texts(self.make_texts(X))
        return embeddings.reshape(*X.shape, embeddings.shape[1])

    def _embed_texts(self, texts):
        """Embed texts: those known are read, each of the others is embedded once."""
        distinct = list(dict.fromkeys(texts))
        keys = text_keys(self._settings(), distinct)
        store = self._store()
        table = _Table(len(distinct), self.dtype)
        for number, value in store.read(keys):
            table.set(number, np.frombuffer(value, self.dtype))
        missing = table.missing()
        # The longest first: batches need little padding, and memory fails at once.
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
                values = self._check_embeddings(values, len(batch))
                for i, value in zip(batch, values, strict=True):
                    table.set(i, value)
                store.write([keys[i] for i in batch], [v.tobytes() for v in values])
                bar.update(len(batch))
        self._finished = None  # all went well: nothing to keep for another try
        if len(distinct) == len(texts):
            return table.values
        position = {text: number for number, text in enumerate(distinct)}
        return table.values[[position[text] for text in texts]]

    def _settings(self):
        """Collect what an embedding depends on, besides the text."""
        settings = {
            name: value
            for name, value in self.get_params(deep=False).items()
            if name not in self.inert_parameters
        }
        if isinstance(settings.get("model"), (str, Path)):
            settings["model_files"] = file_state(settings["model"])
        return {"backend": f"{type(self).__module__}.{type(self).__qualname__}"} | {
            name: str(value) if isinstance(value, Path) else value
            for name, value in settings.items()
        }

    def _store(self):
        """Open the cache; without one, what was finished before the last failure."""
        if self.cache is None:
            finished = getattr(self, "_finished", None)
            if finished is None:
                self._finished = finished = _Memory()
            return finished  # not from self: another thread may be done and drop it
        if isinstance(self.cache, EmbeddingCache):
            return self.cache
        return EmbeddingCache(self.cache)

    def _check_embeddings(self, values, n_texts):
        """Validate what a backend gave for a batch."""
        values = np.ascontiguousarray(values)
        name = f"{type(self).__name__}.embed_batch"
        if values.ndim != 2 or len(values) != n_texts or values.shape[1] == 0:
            raise ValueError(
                f"{name} must give an array of shape ({n_texts}, n_features), a row "
                f"for each text; got shape {values.shape}."
            )
        with np.errstate(over="ignore"):
            values = values.astype(self.dtype, copy=False)
        if not np.isfinite(values).all():
            n_bad = (~np.isfinite(values)).any(axis=1).sum()
            raise ValueError(
                f"{name} gave NaN or infinity for {n_bad} of {n_texts} texts (as "
                f"{self.dtype}). Nothing of this batch is kept; earlier batches are."
            )
        return values

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
        tags.requires_fit = False
        return tags


def render_prompt(prompt):
    """Make a text of a prompt: chat messages become lines, "role: content"."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


class _Memory(dict):
    """A cache that lasts until all texts of a call are embedded."""

    def read(self, keys):
        """Yield (number, value) of the keys that are known."""
        return [(i, self[key]) for i, key in enumerate(keys) if key in self]

    def write(self, keys, values):
        """Keep values."""
        self.update(zip(keys, values, strict=True))


class _Table:
    """Embeddings by number, of a length that the first one tells."""

    def __init__(self, n_rows, dtype):
        self._known = np.zeros(n_rows, dtype=bool)
        self._dtype = dtype
        self.values: Any = None

    def set(self, number, value):
        """Put an embedding in its row."""
        if self.values is None:
            self.values = np.empty((len(self._known), len(value)), dtype=self._dtype)
        if len(value) != self.values.shape[1]:
            raise ValueError(
                f"One text has an embedding of {len(value)} features, others have "
                f"{self.values.shape[1]}. If the model behind this name was changed, "
                "clear the cache."
            )
        self.values[number] = value
        self._known[number] = True

    def missing(self):
        """Numbers of the rows that have no embedding yet."""
        return np.flatnonzero(~self._known).tolist()
