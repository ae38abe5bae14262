"""HiddenStateEmbedder: what a causal language model holds of prompt and completion."""

import json
from numbers import Integral
from typing import Any

import numpy as np

from skqprobe._backends.causal_lm import MODEL_CONSTRAINTS, load_causal_lm
from skqprobe._utils.sklearn_compat import Interval, StrOptions
from skqprobe.embedders._base import BaseEmbedder


class CausalLMEmbedder(BaseEmbedder):
    """Base class of embedders by a causal language model.

    A subclass has one method, ``forward(lm, pairs, inputs)``: from token ids of prompts
    and completions, and the inputs to the model that `lay_out` makes of them, to an
    array with a row for each pair.
    """

    _parameter_constraints: dict = {
        **BaseEmbedder._parameter_constraints,
        **MODEL_CONSTRAINTS,
        "max_length": [Interval(Integral, 2, None, closed="left"), None],
        "join": [str],
    }

    # A device rounds in its own way; that is all it changes.
    inert_parameters = BaseEmbedder.inert_parameters | {"device"}

    def make_texts(self, X):
        """Make what is embedded: (form of the prompt, prompt, completion).

        Parameters
        ----------
        X : TextInput
            Prompts and completions by row.

        Returns
        -------
        texts : list of (str, str, str)
            A text prompt with `join` behind it; chat messages as JSON, so that the
            model is not needed where all is in the cache.
        """
        return [
            (*self._prompt(prompt), completion)
            for prompt, completion in zip(X.prompts, X.completions, strict=True)
        ]

    def _prompt(self, prompt):
        if prompt is None:
            return "text", ""
        if isinstance(prompt, str):
            return "text", prompt + self.join
        return "chat", json.dumps(prompt)

    def embed_batches(self, batches):
        """Embed batches; all are tokenized first, to warn once and to share prompts.

        Parameters
        ----------
        batches : list of list of (str, str, str)
            What `make_texts` gives.

        Yields
        ------
        number : int
            Which of the batches it is.
        embeddings : ndarray of shape (len(batches[number]), n_features)
        """
        if not batches:
            return  # all known: the model need not be loaded
        lm = load_causal_lm(self)  # says what to install, where torch is not
        import torch

        pairs = [lm.encode_pair(*_parse(text)) for batch in batches for text in batch]
        pairs = lm.fit_context(pairs, self.max_length)
        places = [(n, i) for n, batch in enumerate(batches) for i in range(len(batch))]
        rows: dict[int, list[Any]] = {
            n: [None] * len(batch) for n, batch in enumerate(batches)
        }
        for shared, items in self._jobs(pairs):
            rest = [(pairs[i][0][len(shared) :], pairs[i][1]) for i in items]
            with torch.inference_mode():
                values = self.forward(lm, rest, lay_out(lm, shared, rest))
            for item, value in zip(items, values, strict=True):
                number, place = places[item]
                rows[number][place] = value
                if all(row is not None for row in rows[number]):
                    yield number, np.stack(rows.pop(number))

    def embed_batch(self, texts):
        """Embed a batch of texts.

        Parameters
        ----------
        texts : list of (str, str, str)
            What `make_texts` gives.

        Returns
        -------
        embeddings : ndarray of shape (len(texts), n_features)
        """
        [(_, embeddings)] = self.embed_batches([texts])
        return embeddings

    def _jobs(self, pairs):
        """Yield what goes through the model at a time: tokens shared, and which pairs.

        Candidates of one prompt share all of its tokens but the last, whose state and
        logits they need. Pairs that are alone with their prompt share nothing.
        """
        groups: dict[tuple, list[int]] = {}
        for item, (prompt, _) in enumerate(pairs):
            groups.setdefault(tuple(prompt), []).append(item)
        alone = []
        jobs: list[tuple[tuple, list[int]]] = []
        for prompt, items in groups.items():
            if len(items) > 1 and self._may_share():
                jobs.append((prompt[:-1], items))
            else:
                alone += items
        for shared, items in [*jobs, ((), alone)]:
            for start in range(0, len(items), self.batch_size):
                yield shared, items[start : start + self.batch_size]

    def _may_share(self):
        return True


def _parse(text):
    """Prompt and completion of what `make_texts` makes."""
    form, prompt, completion = text
    return prompt if form == "text" else json.loads(prompt), completion


def lay_out(lm, shared, pairs):
    """Make inputs for a model: a batch of texts that begin with the same tokens.

    The model reads these tokens here, once for all. Padding stands on the right, where
    no token of a causal model sees it, and where it moves no token's position.

    Parameters
    ----------
    lm : CausalLM
        The model.
    shared : sequence of int
        Token ids that all texts begin with.
    pairs : list of (list of int, list of int)
        Token ids of the rest of the prompts, and of the completions.

    Returns
    -------
    inputs : dict
        "input_ids" of shape (len(pairs), n_tokens), "attention_mask" of shape
        (len(pairs), len(shared) + n_tokens), and "past_key_values".
    """
    import torch

    rows = [torch.tensor(prompt + completion) for prompt, completion in pairs]
    seen = [torch.ones(len(shared) + len(row), dtype=torch.long) for row in rows]
    pad, device = torch.nn.utils.rnn.pad_sequence, lm.network.device
    cache = None
    if shared:
        ids = torch.tensor([shared], device=device)
        cache = lm.network.base_model(ids, use_cache=True).past_key_values
        # Take the one row there is for each of the texts.
        cache.reorder_cache(torch.zeros(len(rows), dtype=torch.long))
    return {
        "input_ids": pad(rows, batch_first=True).to(device),
        "attention_mask": pad(seen, batch_first=True).to(device),
        "past_key_values": cache,
        "use_cache": cache is not None,
    }


class HiddenStateEmbedder(CausalLMEmbedder):
    """Embed a completion and its prompt by hidden states of a causal language model.

    This is the embedding of the paper [1]_: the model that wrote a completion reads
    it, and its state at the last token stands for both. A prompt and a completion are
    tokenized apart and their tokens joined. Where a prompt has several candidates, it
    is read once for each batch of them (but not for the mean over all tokens); models
    without a key-value cache, such as Mamba, are not supported.

    X may be a list of (prompt, completion) pairs, or a data frame with these columns;
    records, ``{"prompt": ..., "completions": [...]}``, which give candidate sets; or a
    list of texts, which are completions of an empty prompt. A prompt is a text or a
    list of chat messages, which go through the model's chat template.

    Parameters
    ----------
    model : str or Path
        A folder with a model of transformers, or its name on the model hub. It is
        loaded when first needed; the process keeps the last two models.
    layer : int or list of int, default=-1
        Which hidden states: 0 are the token embeddings, 1 is the first layer, -1 the
        last, behind the final normalisation. Those of several layers are joined.
    pooling : {"last", "mean", "completion_mean"}, default="last"
        The state at the last token, the mean over all tokens, or the mean over the
        completion's tokens. An empty completion has the state at the last token of the
        prompt for its mean.
    gguf_file : str, default=None
        The file in the model's folder, for a model in GGUF.
    revision : str, default=None
        Commit, branch or tag of a model on the hub. Name a commit if embeddings are
        kept in a cache: the cache cannot see that a branch has moved.
    device : str, default=None
        Where the model runs: "cpu", "cuda", ... None takes a CUDA device if there is
        one.
    model_dtype : {"float32", "auto", "bfloat16", "float16"}, default="float32"
        What the model computes in. "auto" is what it was saved in.
    max_length : int, default=None
        The most tokens of a prompt and its completion; None is the model's context. A
        longer prompt loses tokens at its beginning (a BOS token stays), with a warning
        for the whole call. A completion is never cut.
    trust_remote_code : bool, default=False
        Whether to run code that comes with the model.
    join : str, default=""
        Put between a text prompt and its completion; it belongs to the prompt.
    batch_size : int, default=8
        How many texts go through the model at a time.
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
        The model's hidden size times the number of layers.

    See Also
    --------
    LikelihoodEmbedder : How likely the model finds a completion.
    skqprobe.generators.TransformersGenerator : Samples, and captures hidden states
        while it does, at no cost.

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
    ):
        self.model = model
        self.layer = layer
        self.pooling = pooling
        self.gguf_file = gguf_file
        self.revision = revision
        self.device = device
        self.model_dtype = model_dtype
        self.max_length = max_length
        self.trust_remote_code = trust_remote_code
        self.join = join
        self.batch_size = batch_size
        self.dtype = dtype
        self.cache = cache
        self.progress = progress

    def forward(self, lm, pairs, inputs):
        """Run the model without its head, and pool its states.

        Parameters
        ----------
        lm : CausalLM
            The model.
        pairs : list of (list of int, list of int)
            Token ids of prompts and completions.
        inputs : dict
            What the model gets.

        Returns
        -------
        states : ndarray of shape (len(pairs), n_layers * hidden_size)
        """
        import torch

        layers = lm.layer_numbers(self.layer, "layer")
        every = lm.network.base_model(**inputs, output_hidden_states=True).hidden_states
        states = [every[number] for number in layers]
        pooled = [
            torch.cat([state[row, tokens].float().mean(0) for state in states])
            for row, tokens in enumerate(self._pooled(*pair) for pair in pairs)
        ]
        return torch.stack(pooled).cpu().numpy()

    def _may_share(self):
        return self.pooling != "mean"  # which needs the states of the whole prompt

    def _pooled(self, prompt, completion):
        """Give the tokens whose states are averaged."""
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
