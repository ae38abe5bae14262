"""OpenAIEmbedder: embeddings from OpenAI or any server that speaks its language."""

from functools import partial
from numbers import Integral

import numpy as np

from skqprobe._backends.openai_client import (
    CONSTRAINTS,
    INERT,
    APIClient,
    APIError,
    find_base_url,
    run_concurrently,
)
from skqprobe._utils.sklearn_compat import Interval
from skqprobe.embedders._base import BaseEmbedder


class OpenAIEmbedder(BaseEmbedder):
    r"""Embed texts with OpenAI, or with any server that has the same interface.

    Such are llama.cpp, vLLM, Ollama, text-embeddings-inference and most paid services.
    Read more in :doc:`/guide/embedders`.

    X may be a list of texts; of (prompt, completion) pairs, or a data frame with the
    columns "prompt" and "completion"; or records, ``{"prompt": ..., "completions":
    [...]}``, which give candidate sets.

    Parameters
    ----------
    model : str
        Name of the model, as the server has it.
    base_url : str, default=None
        Where the server is, such as "http://localhost:8080/v1". None reads the
        environment variable OPENAI_BASE_URL and, without it, asks OpenAI.
    dimensions : int, default=None
        Length of the embeddings, for models that can shorten theirs. None takes them as
        they are.
    api_key_env : str, default="OPENAI_API_KEY"
        Name of the environment variable that holds the API key. It is read whenever
        texts are embedded, and kept nowhere. It is sent to `base_url`: name another
        variable for a server that must not see your key. A server of your own may need
        none; the variable need not be set then.
    max_retries : int, default=5
        How often a request is tried again after HTTP 408, 409, 429 and 5xx, a time-out
        or a broken connection. The time between is what the server asks for, up to two
        minutes, or else grows up to 8 seconds.
    timeout : float, default=60.0
        After how many seconds without an answer a request has failed.
    concurrency : int, default=4
        How many requests are under way at a time.
    join : str or callable, default="\n"
        Makes one text of a prompt and a completion: a string is put between them; a
        callable gets the two and returns the text.
    batch_size : int, default=32
        How many texts there are in a request.
    dtype : {"float16", "float32", "float64"}, default="float32"
        Of the embeddings.
    cache : str, Path or EmbeddingCache, default=None
        A file that keeps every embedding, so that no text is embedded twice. A model
        that was changed under its name is not noticed: clear the cache then.
    progress : bool or "auto", default="auto"
        Whether to show a progress bar. "auto" shows one on a terminal, for work of more
        than two seconds, and not inside a search or cross-validation.

    Attributes
    ----------
    n_features_out_ : int
        Length of an embedding.

    Raises
    ------
    RuntimeError
        If a request fails for good. Requests under way are finished, and no others
        made. What is done is kept, in the cache or, without one, in this object until
        the next call: to go on, call again.
    ValueError
        If the server gives another number of embeddings than there are texts, or
        embeddings of different lengths, of tokens instead of texts, or with NaN. Such
        an answer is refused at once and not asked for again; what is done is kept all
        the same.

    See Also
    --------
    skqprobe.generators.OpenAIGenerator : Completions from the same servers.

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
        """Embed batches, `concurrency` at a time.

        Parameters
        ----------
        batches : list of list of str
            The texts.

        Yields
        ------
        number : int
            Which of the batches it is. They come as they are done.
        embeddings : ndarray of shape (len(batches[number]), n_features)
        """
        if not batches:  # all is known: no key is needed
            return
        self._validate_params()
        n_done = 0
        with APIClient(self) as client:
            try:
                for number, embeddings in run_concurrently(
                    partial(self._ask, client), batches, self.concurrency
                ):
                    yield number, embeddings
                    n_done += len(batches[number])
            except (APIError, ValueError) as error:
                kept = f" {n_done} of {sum(map(len, batches))} texts are done and kept"
                if self.cache is None:
                    kept += ", in this object alone (with cache=, in a file)"
                error.args = (f"{error}{kept}. Call again to embed the others.",)
                raise

    def embed_batch(self, texts):
        """Embed a batch of texts.

        Parameters
        ----------
        texts : list of str
            The texts.

        Returns
        -------
        embeddings : ndarray of shape (len(texts), n_features)
        """
        with APIClient(self) as client:
            return self._ask(client, texts)

    def _ask(self, client, texts):
        # Left out, the format would be base64, which not all servers know.
        body = {"model": self.model, "input": texts, "encoding_format": "float"}
        if self.dimensions is not None:
            body["dimensions"] = int(self.dimensions)
        name = type(self).__name__
        try:
            answer = client.ask("/embeddings", body)
        except APIError as error:
            raise APIError(f"{name}: {error}", error.status) from None
        try:
            return _read_embeddings(answer, len(texts), self.dimensions)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    def _settings(self):
        # A file that happens to have the model's name is not the model.
        return super()._settings() | {
            "base_url": find_base_url(self.base_url),
            "model_files": None,
        }


def _read_embeddings(answer, n_texts, dimensions):
    """Bring an answer into an array, in the order of the texts.

    Raises
    ------
    ValueError
        If it does not have one embedding, of numbers and of one length, for each text.
    """
    data = answer.get("data")
    data = [item for item in data if isinstance(item, dict)] if data else []
    if len(data) != n_texts:
        raise ValueError(
            f"the server gave {len(data)} embeddings for {n_texts} texts. If it cannot "
            "take many at a time, make batch_size smaller."
        )
    indices = [item.get("index") for item in data]
    order = {index: i for i, index in enumerate(indices) if isinstance(index, int)}
    if order.keys() != set(range(n_texts)):
        raise ValueError(
            "the server does not say which embedding is of which text: the indices of "
            f"{n_texts} embeddings are {str(indices)[:100]}."
        )
    rows = [data[order[i]].get("embedding") for i in range(n_texts)]
    _check_form(rows)
    lengths = {len(row) for row in rows}
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(
            f"the server gave embeddings of different lengths, or none: "
            f"{sorted(lengths)}. Does more than one model answer?"
        )
    if dimensions is not None and lengths != {dimensions}:
        raise ValueError(
            f"dimensions={dimensions}, but the server gave embeddings of length "
            f"{lengths.pop()}. If the model cannot shorten them, leave dimensions out."
        )
    return _to_array(rows)


def _check_form(rows):
    """Refuse what is no list of numbers, and say what it is."""
    for row in rows:
        if isinstance(row, str):
            raise ValueError(
                "the server gave embeddings in base64, where numbers were asked for "
                "(encoding_format='float'). It is not compatible."
            )
        if not isinstance(row, list):
            raise ValueError(f"the server gave {row!r} in place of an embedding.")
        if row and isinstance(row[0], list):
            raise ValueError(
                "the server gave an embedding for each token, not for the text. Start "
                "it with pooling, such as --pooling mean or --pooling last."
            )


def _to_array(rows):
    try:
        values = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError("the server gave embeddings that are not numbers.") from None
    n_bad = len(values) - np.isfinite(values).all(axis=1).sum()
    if n_bad:
        raise ValueError(
            f"the server gave NaN, null or infinity in the embeddings of {n_bad} of "
            f"{len(values)} texts. Are they too long for the model?"
        )
    return values
