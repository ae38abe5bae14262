"""HiddenStateEmbedder: hidden states of a causal language model."""

from numbers import Integral

import numpy as np

from skqprobe._backends.causal_lm import import_backend
from skqprobe._utils.sklearn_compat import StrOptions
from skqprobe.embedders._causal_lm import CausalLMEmbedder


class HiddenStateEmbedder(CausalLMEmbedder):
    """Embed prompt and completion by hidden states of a causal language model.

    This is the embedding of the paper [1]_: the model that wrote a completion reads
    it, and the state at its last token represents prompt and completion. Read more in
    :doc:`/guide/embedders`.

    X is a list of (prompt, completion) pairs, or a data frame with the columns "prompt"
    and "completion"; a list of records, ``{"prompt": ..., "completions": [...]}``,
    which give candidate sets; or a list of texts, which are completions of an empty
    prompt. A prompt is a text or a list of chat messages, to which the model's chat
    template is applied.

    Parameters
    ----------
    model : str or Path
        Folder of a model, or its name on the model hub. It is loaded on first use, and
        the process keeps the last two models.
    layer : int or list of int, default=-1
        Layer or layers whose hidden states are used: 0 is the token embeddings, 1 the
        first layer, and -1 the last layer, after the final normalization. The states of
        several layers are concatenated.
    pooling : {"last", "mean", "completion_mean"}, default="last"
        State at the last token, mean over all tokens, or mean over the tokens of the
        completion. For an empty completion, the latter is the state at the last token
        of the prompt.
    gguf_file : str, default=None
        File in the folder of the model, for a model in GGUF.
    revision : str, default=None
        Commit, branch or tag of the model on the hub. Only a commit is permanent:
        neither a cache nor `collect` detects that a branch or tag has moved.
    device : str, default=None
        Device that the model runs on, such as "cpu" or "cuda". If None, a CUDA device
        is used if one is available.
    model_dtype : {"float32", "auto", "bfloat16", "float16"}, default="float32"
        Data type in which the model computes. "auto" is that of the saved model.
    max_length : int, default=None
        Maximum number of tokens of a prompt and its completion, at least 2. If None,
        the context of the model. Longer prompts are cut on the left, completions never.
    trust_remote_code : bool, default=False
        Whether to run Python code that comes with the model. Set it only for models
        whose code you have read.
    join : str, default=""
        Text between a text prompt and its completion. It is tokenized with the prompt.
    batch_size : int, default=8
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
        Number of features of an embedding: the hidden size of the model times the
        number of layers.
    view_sizes_ : dict of str to int
        Number of features of each view, by its name, in the order of the features.

    Raises
    ------
    ImportError
        If torch or transformers is not installed.
    OSError
        If the model cannot be loaded.
    ValueError
        If the model has no such layer; or if texts cannot be embedded, because a
        completion is longer than the context, or the model's chat template cannot be
        applied to a prompt.

    Warns
    -----
    UserWarning
        If prompts were cut, once per call.

    See Also
    --------
    LikelihoodEmbedder : Likelihood of a completion under the model.
    skqprobe.generators.TransformersGenerator : Samples completions, and captures hidden
        states at the same time, at no cost.

    Notes
    -----
    A prompt and a completion are tokenized separately and their tokens are
    concatenated. Special tokens in texts are read as such. A prompt that begins with
    the BOS token gets no second one. If the last chat message of a prompt has the role
    "assistant", the completion continues it.

    If a prompt has several candidates, it is read once for each batch of them, except
    for the mean over all tokens. A prompt that is cut keeps its BOS token. Models
    without a key-value cache, such as Mamba, are not supported.

    References
    ----------
    .. [1] Li, Jelassi, Zhang, Kakade, Wattenberg, Brandfonbrener, "Q-Probe: A
       Lightweight Approach to Reward Maximization for Language Models", ICML 2024,
       arXiv 2402.14688.

    Examples
    --------
    >>> from skqprobe.embedders import HiddenStateEmbedder
    >>> embedder = HiddenStateEmbedder(
    ...     "HuggingFaceTB/SmolLM2-135M-Instruct", layer=[18, -1]
    ... )
    >>> records = [{"prompt": "1 + 1 =", "completions": [" 2", " 3"]}]
    >>> embedder.fit_transform(records).shape  # doctest: +SKIP
    (1, 2, 1152)
    """

    _parameter_constraints: dict = {
        **CausalLMEmbedder._parameter_constraints,
        "layer": [Integral, list, tuple],
        "pooling": [StrOptions({"last", "mean", "completion_mean"})],
    }

    _view = "hidden"

    def __init__(
        self,
        model,
        *,
        layer=-1,
        pooling="last",
        gguf_file=None,
        revision=None,
        device=None,
        model_dtype="float32",
        max_length=None,
        trust_remote_code=False,
        join="",
        batch_size=8,
        dtype="float32",
        cache=None,
        progress="auto",
        on_error="raise",
    ):
        super().__init__(
            model,
            gguf_file=gguf_file,
            revision=revision,
            device=device,
            model_dtype=model_dtype,
            max_length=max_length,
            trust_remote_code=trust_remote_code,
            join=join,
            batch_size=batch_size,
            dtype=dtype,
            cache=cache,
            progress=progress,
            on_error=on_error,
        )
        self.layer = layer
        self.pooling = pooling

    def forward(self, lm, pairs, inputs):
        """Run the model without its head, and pool its states.

        Parameters
        ----------
        lm : CausalLM
            The model.
        pairs : list of (list of int, list of int)
            Token ids of prompts and completions.
        inputs : dict
            Inputs of the model.

        Returns
        -------
        states : ndarray of shape (len(pairs), n_layers * hidden_size)
            Pooled states of the pairs.
        """
        torch = import_backend("torch")
        layers = lm.layer_numbers(self.layer, "layer")
        every = lm.network.base_model(**inputs, output_hidden_states=True).hidden_states
        states = [every[number] for number in layers]
        pooled = [
            torch.cat([state[row, tokens].float().mean(0) for state in states])
            for row, tokens in enumerate(self._pooled(*pair) for pair in pairs)
        ]
        return torch.stack(pooled).cpu().numpy()

    def _may_share(self):
        return self.pooling != "mean"  # it needs the states of the whole prompt

    def _pooled(self, prompt, completion):
        """Return the tokens whose states are averaged."""
        n_tokens = len(prompt) + len(completion)
        start = {
            "last": n_tokens - 1,
            "mean": 0,
            "completion_mean": min(len(prompt), n_tokens - 1),
        }
        return slice(start[self.pooling], n_tokens)

    def _settings(self):
        layers = [self.layer] if isinstance(self.layer, Integral) else self.layer
        return super()._settings() | {"layer": np.array(layers).tolist()}
