"""HiddenStateEmbedder: hidden states of a causal language model."""

from numbers import Integral

import numpy as np

from skqprobe._backends.causal_lm import import_backend
from skqprobe._backends.token_features import tail_length
from skqprobe._utils.sklearn_compat import StrOptions
from skqprobe.embedders._causal_lm import CausalLMEmbedder, lay_out
from skqprobe.embedders._likelihood import DEFAULT, count_logits, describe_completions

POOLINGS = {"last", "mean", "completion_mean", "max", "tail_mean"}


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
    pooling : str or list of str, default="last"
        "last", the state at the last token; "mean", the mean over all tokens; or, over
        the tokens of the completion, "completion_mean", "max" or "tail_mean", the mean
        over their last tenth. For an empty completion, the latter three are the state
        at the last token of the prompt. Of a list, each pooling of each layer is a
        view.
    final_norm : bool, default=False
        Whether to apply the final normalization of the model to the states of all
        layers, instead of the last only.
    likelihood : bool, default=False
        Whether to append the default features of :class:`LikelihoodEmbedder`, as a view
        of their own. They need no other pass.
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
        numbers of layers and poolings, and 5 with `likelihood`.
    view_sizes_ : dict of str to int
        Number of features of each view, by its name, in the order of the features:
        "hidden", or for several layers or poolings "layer9_last", "layer9_mean", ...;
        and "likelihood".

    Raises
    ------
    ImportError
        If torch or transformers is not installed.
    OSError
        If the model cannot be loaded.
    ValueError
        If the model has no such layer, or no final normalization; if `pooling` is
        unknown; or if texts cannot be embedded, because a completion is longer than the
        context, or the model's chat template cannot be applied to a prompt.

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
    for the mean over all tokens. A text and its prefixes, as :func:`expand_prefixes`
    makes them, are read once. A prompt that is cut keeps its BOS token. Models without
    a key-value cache, such as Mamba, are not supported.

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
        "pooling": [StrOptions(POOLINGS), list, tuple],
        "final_norm": ["boolean"],
        "likelihood": ["boolean"],
    }

    def __init__(
        self,
        model,
        *,
        layer=-1,
        pooling="last",
        final_norm=False,
        likelihood=False,
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
        self.final_norm = final_norm
        self.likelihood = likelihood

    def forward(self, lm, shared, pairs):
        """Run the model once, and pool its states.

        Parameters
        ----------
        lm : CausalLM
            The model.
        shared : sequence of int
            Token ids with which all prompts begin.
        pairs : list of (list of int, list of int)
            Token ids of the remaining prompts, and of the completions.

        Returns
        -------
        states : ndarray of shape (len(pairs), n_features)
            Pooled states of the pairs, and features of their likelihood.
        """
        torch = import_backend("torch")
        numbers = lm.layer_numbers(self.layer, "layer")
        inputs, places = lay_out(lm, shared, pairs)
        inputs["output_hidden_states"] = True
        if self.likelihood:
            out = lm.network(**inputs, logits_to_keep=count_logits(pairs))
        else:
            out = lm.network.base_model(**inputs)  # without its head
        states = [out.hidden_states[number] for number in numbers]
        if self.final_norm:
            norm, last = lm.final_norm(), len(out.hidden_states) - 1
            states = [
                state if number == last else norm(state)
                for number, state in zip(numbers, states, strict=True)
            ]
        rows = [
            torch.cat([part for s in states for part in self._pool(s[place], *pair)])
            for place, pair in zip(places, pairs, strict=True)
        ]
        pooled = torch.stack(rows).cpu().numpy()
        if not self.likelihood:
            return pooled
        described = describe_completions([out.logits[i] for i in places], pairs)
        return np.hstack(
            [pooled, [[row[name] for name in DEFAULT] for row in described]]
        )

    def get_feature_names_out(self, input_features=None):
        """Return the names of the features: of several views, "layer9_last__0", ...

        Parameters
        ----------
        input_features : object, default=None
            Ignored.

        Returns
        -------
        feature_names_out : ndarray of str objects, of shape (`n_features_out_`,)
            Names of the features.
        """
        sizes = self.view_sizes_
        if len(sizes) == 1:
            return super().get_feature_names_out(input_features)
        ends = {"likelihood": DEFAULT}
        names = [f"{v}__{end}" for v in sizes for end in ends.get(v, range(sizes[v]))]
        return np.array(names, dtype=object)

    @property
    def view_sizes_(self):
        """Number of features of each view, by its name."""
        names = [
            f"layer{n}_{pool}" for n in self._layers() for pool in self._poolings()
        ]
        names = names if len(names) > 1 else ["hidden"]
        more = {"likelihood": len(DEFAULT)} if self.likelihood else {}
        size = (self.n_features_out_ - sum(more.values())) // len(names)
        return dict.fromkeys(names, size) | more

    def _layers(self):
        layers = [self.layer] if isinstance(self.layer, Integral) else self.layer
        return np.array(layers).tolist()

    def _poolings(self):
        return [self.pooling] if isinstance(self.pooling, str) else list(self.pooling)

    def _may_share(self):
        return "mean" not in self._poolings()  # it needs the states of the whole prompt

    def _pool(self, states, prompt, completion):
        """Yield the poolings of the states of one text, which padding may follow."""
        n_tokens = len(prompt) + len(completion)
        states = states[:n_tokens].float()
        of_completion = states[min(len(prompt), n_tokens - 1) :]
        for pooling in self._poolings():
            if pooling == "last":
                yield states[-1]
            elif pooling == "mean":
                yield states.mean(0)
            elif pooling == "completion_mean":
                yield of_completion.mean(0)
            elif pooling == "max":
                yield of_completion.amax(0)
            else:
                yield of_completion[-tail_length(len(completion)) :].mean(0)

    def _settings(self):
        layers, poolings = self._layers(), self._poolings()
        for name, given in ("layer", layers), ("pooling", poolings):
            if len(set(map(str, given))) < len(given):
                raise ValueError(f"{name}={given!r} has an entry twice; leave one out.")
        if not poolings or not set(poolings) <= POOLINGS:
            raise ValueError(
                f"pooling={self.pooling!r}, but must be one of "
                f"{', '.join(sorted(POOLINGS))}, or a list of these."
            )
        settings = super()._settings() | {
            "layer": layers,
            "pooling": poolings if len(poolings) > 1 else poolings[0],
        }
        # Left out if they are off, so that caches of earlier versions stay valid.
        off = {name for name in ("final_norm", "likelihood") if not settings[name]}
        return {name: value for name, value in settings.items() if name not in off}
