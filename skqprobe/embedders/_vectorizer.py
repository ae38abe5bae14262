"""VectorizerEmbedder: vectorizers of scikit-learn, and functions."""

from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from skqprobe._backends.identity import identify
from skqprobe._utils.sklearn_compat import HasMethods
from skqprobe.embedders._base import BaseEmbedder


class VectorizerEmbedder(BaseEmbedder):
    r"""Embed texts with a vectorizer of scikit-learn, or with a function.

    A vectorizer, such as ``TfidfVectorizer()`` or a pipeline that begins with one, is
    cloned and fitted in `fit`. A function maps a list of texts to an array and needs no
    `fit`. Read more in :doc:`/guide/embedders`.

    X is a list of texts; a list of (prompt, completion) pairs, or a data frame with the
    columns "prompt" and "completion"; or a list of records, ``{"prompt": ...,
    "completions": [...]}``, which give candidate sets.

    Parameters
    ----------
    vectorizer : transformer of texts, or callable
        Transformer whose `fit` and `transform` take a list of texts. Or a function that
        maps a list of texts to an array of shape (len(texts), n_features), always with
        the same row for the same text.
    revision : str, default=None
        Version of the function. Needed for a function with a cache: change it when
        global variables, or functions that the function calls, have changed.
    join : str or callable, default="\n"
        Separator of prompt and completion, or a function ``join(prompt, completion)``
        that returns the text to embed.
    batch_size : int, default=32
        Number of texts per batch.
    dtype : {"float16", "float32", "float64"}, default="float32"
        Data type of the embeddings.
    cache : str, Path or EmbeddingCache, default=None
        File that stores every embedding, so that no text is embedded twice.
    progress : bool or "auto", default="auto"
        Whether to show a progress bar. "auto" shows one in a terminal, for work of more
        than two seconds, and not inside a search or cross-validation.

    Attributes
    ----------
    vectorizer_ : transformer
        Fitted clone of `vectorizer`. A function has none.
    n_features_out_ : int
        Number of features of an embedding.
    view_sizes_ : dict of str to int
        Number of features of each view, by its name, in the order of the features.

    Raises
    ------
    ValueError
        If `cache` is given with a vectorizer, or with a function without `revision`.
    NotFittedError
        If a vectorizer is not fitted.

    Notes
    -----
    The key of the cache contains what can be read of a function: its module, name,
    code, defaults and captured variables; the arguments of a partial; the class and
    state of a callable object. A part that cannot be copied, such as a lock or a
    connection, is represented by its class and attributes: give different ones
    different revisions.
    Bytecode differs between versions of Python, which embed the texts again. A state
    that changes, such as a counter of calls, changes the key: use a global variable. A
    large state, such as a model, is read in every call: load it in a function that the
    given one calls, with ``functools.lru_cache``.

    Sparse output is converted to a dense array, so keep the number of features in the
    thousands: set `max_features`, or append a ``TruncatedSVD()`` to the vectorizer.

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

    A function needs no `fit`:

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
    _source = "vectorizer"

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

    def embed_batch(self, texts):
        """Embed a batch of texts.

        Parameters
        ----------
        texts : list of str
            Texts to embed.

        Returns
        -------
        embeddings : array-like of shape (len(texts), n_features)
            Embeddings of the texts.
        """
        if self._learns():
            values = self.vectorizer_.transform(texts)
        else:
            values = self.vectorizer(texts)
        return values.toarray() if issparse(values) else values

    def get_feature_names_out(self, input_features=None):
        """Return the names of the features: those of the vectorizer, if it has any.

        Parameters
        ----------
        input_features : object, default=None
            Ignored.

        Returns
        -------
        feature_names_out : ndarray of str objects, of shape (`n_features_out_`,)
            Names of the features.
        """
        try:
            return self.vectorizer_.get_feature_names_out()
        except AttributeError:  # a function, a step without names, or not fitted
            return super().get_feature_names_out()

    def _learns(self):
        return hasattr(self.vectorizer, "fit")

    def _learn(self, texts):
        if self._learns():
            self.vectorizer_ = clone(self.vectorizer).fit(texts)

    def _embed_texts(self, texts, describe):
        if self._learns():
            check_is_fitted(self, "vectorizer_")
        return super()._embed_texts(texts, describe)

    def _store(self):
        if self.cache is not None and (self._learns() or self.revision is None):
            raise ValueError(
                "cache can store the embeddings of a function only, and needs a "
                "`revision`: a string that identifies the version of the function. The "
                "output of a vectorizer depends on the texts of fit; set cache=None."
            )
        store = super()._store()
        if self.cache is None:
            # Kept alive, so that no other function gets its address.
            store[id(self.vectorizer)] = self.vectorizer
        return store

    def _settings(self):
        # The address is enough for `_store` in memory, which keeps the function alive.
        find = id if self.cache is None else identify
        return super()._settings() | {"vectorizer": find(self.vectorizer)}
