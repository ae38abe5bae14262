"""SentenceTransformerEmbedder: models of the sentence-transformers library."""

import warnings
from functools import lru_cache
from numbers import Integral
from pathlib import Path

from skqprobe._backends.file_state import file_state
from skqprobe._utils.sklearn_compat import Interval
from skqprobe.embedders._base import BaseEmbedder


class SentenceTransformerEmbedder(BaseEmbedder):
    r"""Embed texts with a model of sentence-transformers.

    The model is loaded on first use and shared by all embedders of one process that
    name it; an embedder itself never holds weights.
    Read more in :doc:`/guide/embedders`.

    X may be a list of texts; of (prompt, completion) pairs, or a data frame with the
    columns "prompt" and "completion"; or records, ``{"prompt": ..., "completions":
    [...]}``, which give candidate sets.

    Parameters
    ----------
    model : str or Path
        Name of a model on the Hugging Face hub, or the folder of one.
    prompt : str, default=None
        An instruction to the model, put before each text, for models trained with one.
        Not the prompt that a completion answers.
    prompt_name : str, default=None
        Name of a prompt that the model comes with, such as "query"; read where `prompt`
        is None.
    truncate_dim : int, default=None
        Keep the first `truncate_dim` features, for models trained to allow it
        (Matryoshka embeddings). None keeps all.
    normalize_embeddings : bool, default=False
        Whether to scale each embedding to length 1, after it was truncated.
    device : str, default=None
        Where to compute, such as "cpu" or "cuda"; None takes the fastest there is.
    revision : str, default=None
        Branch, tag or commit of the model on the hub. A commit makes sure that neither
        the model nor what a cache holds of it can change unseen.
    trust_remote_code : bool, default=False
        Whether Python code that comes with the model may run. Only for models whose
        code you have read.
    join : str or callable, default="\n"
        Makes one text of a prompt and a completion: a string is put between them; a
        callable gets the two and returns the text.
    batch_size : int, default=32
        How many texts the model gets at a time.
    dtype : {"float16", "float32", "float64"}, default="float32"
        Of the embeddings.
    cache : str, Path or EmbeddingCache, default=None
        A file that keeps every embedding, so that no text is embedded twice.
    progress : bool or "auto", default="auto"
        Whether to show a progress bar. "auto" shows one on a terminal, for work of more
        than two seconds, and not inside a search or cross-validation.

    Attributes
    ----------
    n_features_out_ : int
        Length of an embedding.

    Warns
    -----
    UserWarning
        If texts have more tokens than the model reads; the rest of each is ignored.

    Examples
    --------
    >>> from skqprobe.embedders import SentenceTransformerEmbedder
    >>> embedder = SentenceTransformerEmbedder(
    ...     "sentence-transformers/all-MiniLM-L6-v2", cache="embeddings.sqlite"
    ... )
    >>> records = [{"prompt": "1 + 1 =", "completions": [" 2", " 3"]}]
    >>> embedder.fit_transform(records).shape  # doctest: +SKIP
    (1, 2, 384)
    """

    _parameter_constraints: dict = {
        **BaseEmbedder._parameter_constraints,
        "model": [str, Path],
        "prompt": [str, None],
        "prompt_name": [str, None],
        "truncate_dim": [Interval(Integral, 1, None, closed="left"), None],
        "normalize_embeddings": ["boolean"],
        "device": [str, None],
        "revision": [str, None],
        "trust_remote_code": ["boolean"],
    }

    inert_parameters = BaseEmbedder.inert_parameters | {"device", "trust_remote_code"}

    def __init__(
        self,
        model,
        *,
        prompt=None,
        prompt_name=None,
        truncate_dim=None,
        normalize_embeddings=False,
        device=None,
        revision=None,
        trust_remote_code=False,
        join="\n",
        batch_size=32,
        dtype="float32",
        cache=None,
        progress="auto",
    ):
        self.model = model
        self.prompt = prompt
        self.prompt_name = prompt_name
        self.truncate_dim = truncate_dim
        self.normalize_embeddings = normalize_embeddings
        self.device = device
        self.revision = revision
        self.trust_remote_code = trust_remote_code
        self.join = join
        self.batch_size = batch_size
        self.dtype = dtype
        self.cache = cache
        self.progress = progress

    def embed_batches(self, batches):
        """Embed batches, and warn first of texts that the model cuts.

        Parameters
        ----------
        batches : list of list of str
            The texts.

        Yields
        ------
        number : int
            Which of the batches it is.
        embeddings : ndarray of shape (len(batches[number]), n_features)
        """
        if batches:
            self._warn_of_cut_texts([text for batch in batches for text in batch])
        yield from super().embed_batches(batches)

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
        return self._load().encode(
            texts,
            prompt=self.prompt,
            prompt_name=self.prompt_name,
            batch_size=len(texts),
            truncate_dim=self.truncate_dim,
            normalize_embeddings=self.normalize_embeddings,
            show_progress_bar=False,
        )

    def _load(self):
        # The state of a folder's files is part of the loader's key, as of the cache's:
        # the embeddings of a changed model must not be the old model's.
        files = file_state(self.model)
        return _load_model(
            str(self.model),
            self.revision,
            self.device,
            self.trust_remote_code,
            None if files is None else tuple(files),
        )

    def _warn_of_cut_texts(self, texts):
        """Say how many texts are longer than the model reads."""
        model = self._load()
        limit, tokenizer = model.max_seq_length, model.tokenizer
        if limit is None or not callable(tokenizer):
            return  # a model without limit, such as one of word vectors
        name = self.prompt_name or model.default_prompt_name
        prompt = self.prompt if self.prompt is not None else model.prompts.get(name, "")
        # A token takes a byte at least, and a model adds a few: shorter texts fit, and
        # need not be made into tokens once more than the model does it.
        suspects = [text for text in texts if len((prompt + text).encode()) > limit - 8]
        n_cut = sum(
            len(tokenizer(prompt + text, verbose=False)["input_ids"]) > limit
            for text in suspects
        )
        if n_cut:
            warnings.warn(
                f"{n_cut} of {len(texts)} texts are longer than the {limit} tokens "
                f"that {self.model} reads (its max_seq_length); what is beyond is "
                "ignored. A completion stands at the end of its text: shorten the "
                "prompts, with `join`, or take a model that reads more.",
                UserWarning,
                stacklevel=2,
            )


@lru_cache(maxsize=2)
def _load_model(model, revision, device, trust_remote_code, files):
    """Load a model; `files` tells the states of a local folder apart."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError(
            "SentenceTransformerEmbedder needs sentence-transformers: "
            'pip install "skqprobe[sentence-transformers]"'
        ) from error
    try:
        return SentenceTransformer(
            model,
            revision=revision,
            device=device,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise OSError(
            f"SentenceTransformerEmbedder cannot load model={model!r}. A folder must "
            "hold a model that sentence-transformers or transformers saved; a name "
            "must be one on the Hugging Face hub, and needs a connection, or an "
            f"earlier download, the first time. The cause: {error}"
        ) from error
