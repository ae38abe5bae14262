"""VectorizerEmbedder: scikit-learn's vectorisers, and functions of your own."""

import copy
from typing import Any

from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from skqprobe._utils.sklearn_compat import HasMethods, _fit_context
from skqprobe.embedders._base import BaseEmbedder, _Transform
from skqprobe.embedders._inputs import check_texts


class _FitTransform(_Transform):
    """Hold `fit_transform`, out of reach of scikit-learn's wrapping, as the base."""

    fit: Any
    _learns: Any

    def fit_transform(self, X, y=None):
        """Fit the vectoriser, if there is one, and embed the texts.

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
        if self._learns():
            return self.fit(X).transform(X)
        return super().fit_transform(X)  # embeds the first text once, not twice


class VectorizerEmbedder(_FitTransform, BaseEmbedder):
    r"""Embed texts with a scikit-learn vectoriser, or with any function.

    A vectoriser, such as ``TfidfVectorizer()`` or a pipeline that begins with one, is
    cloned and fitted in `fit`. A function gets a list of texts and returns a row for
    each; it needs no `fit`. Read more in :doc:`/guide/embedders`.

    X may be a list of texts; of (prompt, completion) pairs, or a data frame with the
    columns "prompt" and "completion"; or records, ``{"prompt": ..., "completions":
    [...]}``, which give candidate sets.

    Parameters
    ----------
    vectorizer : transformer of texts, or callable
        A transformer whose `fit` and `transform` take a list of texts; sparse output is
        made dense, so keep the number of features in the thousands (`max_features`, or
        a ``TruncatedSVD()`` behind). Or a callable that maps a list of texts to an
        array of shape (len(texts), n_features), the same row for the same text always.
    revision : str, default=None
        With a callable and a cache: names the version of the function, whose content
        cannot be seen. Change it whenever the function's results change.
    join : str or callable, default="\n"
        Makes one text of a prompt and a completion: a string is put between them; a
        callable gets the two and returns the text.
    batch_size : int, default=32
        How many texts are embedded at a time.
    dtype : {"float16", "float32", "float64"}, default="float32"
        Of the embeddings.
    cache : str, Path or EmbeddingCache, default=None
        For a callable: a file that keeps every embedding, so that no text is embedded
        twice.
    progress : bool or "auto", default="auto"
        Whether to show a progress bar. "auto" shows one on a terminal, for work of more
        than two seconds, and not inside a search or cross-validation.

    Attributes
    ----------
    vectorizer_ : transformer
        The fitted clone of `vectorizer`; not there for a callable.
    n_features_out_ : int
        Length of an embedding.

    Examples
    --------
    >>> from sklearn.feature_extraction.text import TfidfVectorizer
    >>> from skqprobe.embedders import VectorizerEmbedder
    >>> records = [
    ...     {"prompt": "Name a pet.", "completions": ["A dog.", "A stone."]},
    ...     {"prompt": "Name a fruit.", "completions": ["A pear.", "A dog."]},
    ... ]
    >>> embedder = VectorizerEmbedder(TfidfVectorizer())
    >>> embedder.fit_transform(records).shape
    (2, 2, 6)
    >>> embedder.get_feature_names_out()
    array(['dog', 'fruit', 'name', 'pear', 'pet', 'stone'], dtype=object)

    A function needs no fit:

    >>> def measure(texts):
    ...     return [[len(text), text.count(" ")] for text in texts]
    >>> VectorizerEmbedder(measure).transform([("Name a pet.", "A dog.")])
    array([[18.,  3.]], dtype=float32)
    """

    _parameter_constraints: dict = {
        **BaseEmbedder._parameter_constraints,
        "vectorizer": [HasMethods(["fit", "transform"]), callable],
        "revision": [str, None],
    }

    def __init__(
        self,
        vectorizer,
        *,
        revision=None,
        join="\n",
        batch_size=32,
        dtype="float32",
        cache=None,
        progress="auto",
    ):
        self.vectorizer = vectorizer
        self.revision = revision
        self.join = join
        self.batch_size = batch_size
        self.dtype = dtype
        self.cache = cache
        self.progress = progress

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None):
        """Fit the vectoriser, if there is one, and learn the number of features.

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
        fitted = copy.copy(self)  # nothing is set on self before the fit is done
        if self._learns():
            texts = self.make_texts(check_texts(X))
            fitted.vectorizer_ = clone(self.vectorizer).fit(texts)
        BaseEmbedder.fit(fitted, X)
        self.__dict__ = fitted.__dict__
        return self

    def embed_batch(self, texts):
        """Embed a batch of texts.

        Parameters
        ----------
        texts : list of str
            The texts.

        Returns
        -------
        embeddings : array-like of shape (len(texts), n_features)
        """
        if self._learns():
            values = self.vectorizer_.transform(texts)
        else:
            values = self.vectorizer(texts)
        return values.toarray() if issparse(values) else values

    def get_feature_names_out(self, input_features=None):
        """Get the names of the features: the vectoriser's, where it has them.

        Parameters
        ----------
        input_features : object, default=None
            Ignored.

        Returns
        -------
        feature_names_out : ndarray of str
        """
        try:
            return self.vectorizer_.get_feature_names_out()
        except AttributeError:  # a function, or a step that has no names; or not fitted
            return super().get_feature_names_out()

    def _learns(self):
        return hasattr(self.vectorizer, "fit")

    def _embed_texts(self, texts):
        if self._learns():
            check_is_fitted(self, "vectorizer_")
        if self.cache is not None and (self._learns() or self.revision is None):
            raise ValueError(
                "cache keeps what a function gives, and needs a `revision`, a string "
                "that names the function's version, since its content cannot be seen. "
                "With a vectoriser, whose output depends on the texts of fit, set "
                "cache=None."
            )
        return super()._embed_texts(texts)

    def _settings(self):
        function = self.vectorizer
        name = getattr(function, "__qualname__", type(function).__qualname__)
        # Without a revision nothing outlives the call; the address will do.
        return super()._settings() | {
            "vectorizer": repr(function) if self.revision is None else name
        }

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = self._learns()
        return tags
