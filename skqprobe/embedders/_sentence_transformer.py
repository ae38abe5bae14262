"""SentenceTransformerEmbedder: models of the sentence-transformers library."""

from numbers import Integral
from pathlib import Path

from skqprobe._backends.model_cache import load_model
from skqprobe._utils.optional import import_optional
from skqprobe._utils.sklearn_compat import Interval
from skqprobe._utils.warn import warn_user
from skqprobe.embedders._base import ON_ERROR, BaseEmbedder


class SentenceTransformerEmbedder(BaseEmbedder):
    r"""Embed texts with a model of sentence-transformers.

    Loaded models are shared by all embedders of a process, and an embedder never holds
    weights. Read more in :doc:`/guide/embedders`.

    X is a list of texts; a list of (prompt, completion) pairs, or a data frame with the
    columns "prompt" and "completion"; or a list of records, ``{"prompt": ...,
    "completions": [...]}``, which give candidate sets.

    Parameters
    ----------
    model : str or Path
        Folder of a model, or its name on the model hub. It is loaded on first use, and
        the process keeps the last two models.
    prompt : str, default=None
        Instruction to the model, put before each text, for models trained with one. It
        is not the prompt that a completion answers.
    prompt_name : str, default=None
        Name of a prompt that the model comes with, such as "query". Used if `prompt` is
        None.
    truncate_dim : int, default=None
        Number of features to keep, the first ones, for models trained to allow it
        (Matryoshka embeddings). If None, all features.
    normalize_embeddings : bool, default=False
        Whether to scale each embedding to length 1, after truncation.
    device : str, default=None
        Device that the model runs on, such as "cpu" or "cuda". If None, a CUDA device
        is used if one is available.
    revision : str, default=None
        Commit, branch or tag of the model on the hub. Only a commit is permanent:
        neither a cache nor `collect` detects that a branch or tag has moved.
    trust_remote_code : bool, default=False
        Whether to run Python code that comes with the model. Set it only for models
        whose code you have read.
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
        If sentence-transformers is not installed.
    OSError
        If the model cannot be loaded.
    ValueError
        If the model has no prompt of the name `prompt_name`.

    Warns
    -----
    UserWarning
        If texts have more tokens than the model reads. The rest of each is ignored.

    See Also
    --------
    HiddenStateEmbedder : Hidden states of a causal language model.

    Notes
    -----
    If `device` is None, sentence-transformers selects the fastest device available,
    which may be another accelerator than CUDA.

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
        **ON_ERROR,
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

    _view = "sentence"

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
        on_error="raise",
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
        self.on_error = on_error

    def embed_batches(self, batches):
        """Embed batches, and first warn of texts that the model cuts.

        Parameters
        ----------
        batches : list of list of str
            Batches of texts.

        Yields
        ------
        number : int
            Index of the batch in `batches`.
        embeddings : ndarray of shape (len(batches[number]), n_features)
            Embeddings of the texts of the batch.
        """
        if batches:
            self._warn_of_cut_texts([text for batch in batches for text in batch])
        yield from super().embed_batches(batches)

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
        return load_model(
            _load,
            model=self.model,
            revision=self.revision,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
        )

    def _warn_of_cut_texts(self, texts):
        """Warn of texts that are longer than the model reads."""
        model = self._load()
        limit, tokenizer = model.max_seq_length, model.tokenizer
        if limit is None or not callable(tokenizer):
            return  # a model without a limit, such as word vectors
        name = self.prompt_name or model.default_prompt_name
        prompt = self.prompt if self.prompt is not None else model.prompts.get(name, "")
        # A token takes at least one byte, and a model adds a few tokens. So shorter
        # texts fit and need not be tokenized here.
        suspects = [text for text in texts if len((prompt + text).encode()) > limit - 8]
        n_cut = sum(
            len(tokenizer(prompt + text, verbose=False)["input_ids"]) > limit
            for text in suspects
        )
        if n_cut:
            warn_user(
                f"{n_cut} of {len(texts)} texts are longer than the {limit} tokens "
                f"that {self.model} reads (its max_seq_length). The rest of each text "
                "is ignored. A completion is at the end of its text: shorten the "
                "prompts, with `join`, or use a model that reads more.",
            )


def _load(*, model, **options):
    sentence_transformers = import_optional(
        "sentence_transformers",
        needed_by="SentenceTransformerEmbedder",
        extra="sentence-transformers",
    )
    try:
        return sentence_transformers.SentenceTransformer(model, **options)
    except (OSError, ValueError) as error:
        raise OSError(
            f"SentenceTransformerEmbedder cannot load model={model!r}. A folder must "
            "hold a model saved by sentence-transformers or transformers. A name must "
            "exist on the model hub, and its first use needs a connection. Original "
            f"error: {error}"
        ) from error
