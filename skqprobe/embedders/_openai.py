"""OpenAIEmbedder: embeddings from OpenAI or a compatible server."""

import threading
from functools import partial
from numbers import Integral

from skqprobe._backends.answers import read_embeddings
from skqprobe._backends.concurrent_requests import ask_each
from skqprobe._backends.http_client import APIError
from skqprobe._backends.openai_client import (
    CONSTRAINTS,
    INERT,
    ServerModel,
    is_about_item,
)
from skqprobe._utils.sklearn_compat import Interval
from skqprobe.embedders._base import ON_ERROR, BaseEmbedder


class OpenAIEmbedder(ServerModel, BaseEmbedder):
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
        the environment variable OPENAI_BASE_URL or, if it is not set, OpenAI. A query,
        such as "?api-version=1", is part of each request. Redirects to another host or
        port are refused.
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
        Seconds after which a request without a complete answer has failed. Each retry
        has as much time. An answer that has begun by then is not requested again.
    max_answer_bytes : int, default=33554432
        Maximum size of an answer, in bytes after decompression. A larger one is an
        error. The default is 32 MiB.
    concurrency : int, default=4
        Number of concurrent requests.
    extra_body : dict, default=None
        Further fields of each request, which replace those of the same name.
    extra_query : dict, default=None
        Parameters to add to the query of the URL.
    default_headers : dict of str to str, default=None
        Headers to add to each request. They are not part of the settings that `collect`
        and a cache compare. A pickle, and the text of a pipeline, contain them.
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
    on_error : {"raise", "skip"}, default="raise"
        Treatment of texts that cannot be embedded, such as those that are too long. If
        "raise", one error lists them after the others are embedded and kept. If "skip",
        their rows are NaN, and a warning lists them.

    Attributes
    ----------
    n_features_out_ : int
        Number of features of an embedding.
    view_sizes_ : dict of str to int
        Number of features of each view, by its name, in the order of the features.

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
        embeddings of different lengths, or of tokens instead of texts. Such an answer
        is not requested again. Finished texts are kept. Also if the server refuses
        texts, or returns NaN for them, and ``on_error="raise"``; then the others are
        embedded before.

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
        **ON_ERROR,
        **CONSTRAINTS,
        "dimensions": [Interval(Integral, 1, None, closed="left"), None],
    }

    inert_parameters = BaseEmbedder.inert_parameters | INERT

    _view = "openai"

    def __init__(
        self,
        model,
        *,
        base_url=None,
        dimensions=None,
        api_key_env="OPENAI_API_KEY",
        max_retries=5,
        timeout=60.0,
        max_answer_bytes=2**25,
        concurrency=4,
        extra_body=None,
        extra_query=None,
        default_headers=None,
        join="\n",
        batch_size=32,
        dtype="float32",
        cache=None,
        progress="auto",
        on_error="raise",
    ):
        self.model = model
        self.base_url = base_url
        self.dimensions = dimensions
        self.api_key_env = api_key_env
        self.max_retries = max_retries
        self.timeout = timeout
        self.max_answer_bytes = max_answer_bytes
        self.concurrency = concurrency
        self.extra_body = extra_body
        self.extra_query = extra_query
        self.default_headers = default_headers
        self.join = join
        self.batch_size = batch_size
        self.dtype = dtype
        self.cache = cache
        self.progress = progress
        self.on_error = on_error

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
        embeddings : list of (ndarray of shape (n_features,), or Exception)
            Embeddings of the texts of the batch. An error in place of one says why
            there is none.
        """

        def describe(done):
            n_done = sum(len(batches[number]) for number in done)
            n_texts = sum(map(len, batches))
            kept = f"{n_done} of {n_texts} texts are done and kept"
            if self.cache is None:
                kept += ", in this object only (with cache=, on disk)"
            return f"{kept}. Call again to embed the others."

        answered = threading.Event()

        def ask(client, batch):
            return self._ask(client, batch, answered)

        yield from ask_each(self, ask, batches, describe)

    def embed_batch(self, texts):
        """Embed a batch of texts.

        Parameters
        ----------
        texts : list of str
            Texts to embed.

        Returns
        -------
        embeddings : list of (ndarray of shape (n_features,), or Exception)
            Embeddings of the texts. An error in place of one says why there is none.
        """
        [(_, embeddings)] = self.embed_batches([texts])
        return embeddings

    def _ask(self, client, texts, answered):
        """Return an embedding, or an error, per text; `answered` is set by the first.

        The texts that the server refuses, or that break it, are found by halving the
        batch.
        """
        try:
            rows = self._request(client, texts)
        except APIError as error:
            n, is_broken = len(texts), error.status == 500
            if not (is_broken or is_about_item(error)):
                raise
            # Is a text the cause, or a setting or the server?
            if is_broken or (n == 1 and not answered.is_set()):
                self._check_server(client)
            if n > 1:
                halves = texts[: n // 2], texts[n // 2 :]
                return [row for h in halves for row in self._ask(client, h, answered)]
            rows = [error]
        answered.set()
        return rows

    def _check_server(self, client):
        """Raise an error if the server refuses a text that all models accept."""
        try:
            self._request(client, ["a"])
        except APIError as error:
            raise APIError(f"the server refuses all texts, also 'a': {error}") from None

    def _request(self, client, texts):
        body = {"model": self.model, "input": texts, "encoding_format": "float"}
        if self.dimensions is not None:
            body["dimensions"] = int(self.dimensions)
        read = partial(read_embeddings, n_texts=len(texts), dimensions=self.dimensions)
        return client.ask("/embeddings", body, read)
