"""OpenAIEmbedder: embeddings from OpenAI or a compatible server."""

from numbers import Integral

import numpy as np

from skqprobe._backends.openai_client import (
    CONSTRAINTS,
    INERT,
    ask_each,
    server_settings,
)
from skqprobe._utils.sklearn_compat import Interval
from skqprobe.embedders._base import BaseEmbedder


class OpenAIEmbedder(BaseEmbedder):
    r"""Embed texts with OpenAI, or with a server that has the same interface.

    Compatible servers are llama.cpp, vLLM, Ollama, text-embeddings-inference and most
    paid services. Each batch is one request. Read more in :doc:`/guide/embedders`.

    X is a list of texts; a list of (prompt, completion) pairs, or a data frame with the
    columns "prompt" and "completion"; or a list of records, ``{"prompt": ...,
    "completions": [...]}``, which give candidate sets.

    Parameters
    ----------
    model : str
        Name of the model on the server.
    base_url : str, default=None
        Address of the server, such as "http://localhost:8080/v1". If None, the value of
        the environment variable OPENAI_BASE_URL or, if it is not set, OpenAI.
    dimensions : int, default=None
        Length of the embeddings, for models that can shorten them. If None, the length
        that the model has.
    api_key_env : str, default="OPENAI_API_KEY"
        Name of the environment variable with the API key. The key is read at every call
        and never stored. It is sent to `base_url`: name another variable for a server
        that must not receive your key. For a server that needs no key, the variable
        need not be set.
    max_retries : int, default=5
        Maximum number of retries of a request after HTTP 408, 409, 429 or 5xx, a
        timeout or a broken connection. The delay is the one that the server asks for,
        up to two minutes, or else grows up to 8 seconds.
    timeout : float, default=60.0
        Seconds after which a request without an answer has failed.
    concurrency : int, default=4
        Number of concurrent requests.
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
    n_features_out_ : int
        Number of features of an embedding.

    Raises
    ------
    ImportError
        If the package openai is not installed.
    RuntimeError
        If a request fails after all retries. Running requests are finished, and no
        other is sent. Finished texts are kept in the cache or, without one, in this
        object until the next call. Call again to continue.
    ValueError
        If an answer has another number of embeddings than there are texts, or
        embeddings of different lengths, of tokens instead of texts, or with NaN. Such
        an answer is not requested again. Finished texts are kept.

    See Also
    --------
    skqprobe.generators.OpenAIGenerator : Completions from the same servers.

    Notes
    -----
    A cache cannot detect that the server has changed a model under the same name. Clear
    the cache in that case.

    Examples
    --------
    >>> from skqprobe.embedders import OpenAIEmbedder
    >>> embedder = OpenAIEmbedder("text-embedding-3-small", cache="embeddings.sqlite")
    >>> records = [{"prompt": "1 + 1 =", "completions": [" 2", " 3"]}]
    >>> embedder.fit_transform(records).shape  # doctest: +SKIP
    (1, 2, 1536)
    """

    _parameter_constraints: dict = {
        **BaseEmbedder._parameter_constraints,
        **CONSTRAINTS,
        "dimensions": [Interval(Integral, 1, None, closed="left"), None],
    }

    inert_parameters = BaseEmbedder.inert_parameters | INERT

    def __init__(
        self,
        model,
        *,
        base_url=None,
        dimensions=None,
        api_key_env="OPENAI_API_KEY",
        max_retries=5,
        timeout=60.0,
        concurrency=4,
        join="\n",
        batch_size=32,
        dtype="float32",
        cache=None,
        progress="auto",
    ):
        self.model = model
        self.base_url = base_url
        self.dimensions = dimensions
        self.api_key_env = api_key_env
        self.max_retries = max_retries
        self.timeout = timeout
        self.concurrency = concurrency
        self.join = join
        self.batch_size = batch_size
        self.dtype = dtype
        self.cache = cache
        self.progress = progress

    def embed_batches(self, batches):
        """Embed batches, `concurrency` of them at a time.

        Parameters
        ----------
        batches : list of list of str
            Batches of texts.

        Yields
        ------
        number : int
            Index of the batch in `batches`. The batches are yielded as they finish.
        embeddings : ndarray of shape (len(batches[number]), n_features)
            Embeddings of the texts of the batch.
        """

        def describe(done):
            n_done = sum(len(batches[number]) for number in done)
            n_texts = sum(map(len, batches))
            kept = f"{n_done} of {n_texts} texts are done and kept"
            if self.cache is None:
                kept += ", in this object only (with cache=, on disk)"
            return f"{kept}. Call again to embed the others."

        yield from ask_each(self, self._ask, batches, describe)

    def embed_batch(self, texts):
        """Embed a batch of texts.

        Parameters
        ----------
        texts : list of str
            Texts to embed.

        Returns
        -------
        embeddings : ndarray of shape (len(texts), n_features)
            Embeddings of the texts.
        """
        [(_, embeddings)] = self.embed_batches([texts])
        return embeddings

    def _ask(self, client, texts):
        # The default format is base64, which not all servers support.
        body = {"model": self.model, "input": texts, "encoding_format": "float"}
        if self.dimensions is not None:
            body["dimensions"] = int(self.dimensions)
        answer = client.ask("/embeddings", body)
        return _read_embeddings(answer, len(texts), self.dimensions)

    def _settings(self):
        return server_settings(super()._settings())


def _read_embeddings(answer, n_texts, dimensions):
    """Convert an answer to an array, in the order of the texts.

    Raises
    ------
    ValueError
        If there is not one embedding, of numbers and of one length, for each text.
    """
    data = answer.get("data")
    data = [item for item in data if isinstance(item, dict)] if data else []
    if len(data) != n_texts:
        raise ValueError(
            f"the server returned {len(data)} embeddings for {n_texts} texts. If it "
            "cannot take many texts at a time, reduce batch_size."
        )
    indices = [item.get("index") for item in data]
    order = {index: i for i, index in enumerate(indices) if isinstance(index, int)}
    if order.keys() != set(range(n_texts)):
        raise ValueError(
            "the answer does not show which embedding belongs to which text: the "
            f"indices of {n_texts} embeddings are {str(indices)[:100]}."
        )
    rows = [data[order[i]].get("embedding") for i in range(n_texts)]
    _check_form(rows)
    lengths = {len(row) for row in rows}
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(
            f"the server returned embeddings of different lengths, or empty ones: "
            f"{sorted(lengths)}. Check that one model answers all requests."
        )
    if dimensions is not None and lengths != {dimensions}:
        raise ValueError(
            f"dimensions={dimensions}, but the server returned embeddings of length "
            f"{lengths.pop()}. If the model cannot shorten them, leave dimensions out."
        )
    return _to_array(rows)


def _check_form(rows):
    """Raise an error if an embedding is not a list of numbers."""
    for row in rows:
        if isinstance(row, str):
            raise ValueError(
                "the server returned embeddings in base64, but numbers were requested "
                "(encoding_format='float'). The server is not compatible."
            )
        if not isinstance(row, list):
            raise ValueError(f"the server returned {row!r} in place of an embedding.")
        if row and isinstance(row[0], list):
            raise ValueError(
                "the server returned an embedding for each token, not for the text. "
                "Start it with pooling, such as --pooling mean or --pooling last."
            )


def _to_array(rows):
    try:
        values = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            "the server returned embeddings that are not numbers."
        ) from None
    n_bad = len(values) - np.isfinite(values).all(axis=1).sum()
    if n_bad:
        raise ValueError(
            f"the server returned NaN, null or infinity in the embeddings of {n_bad} "
            f"of {len(values)} texts. Check that they are not too long for the model."
        )
    return values
