"""LikelihoodEmbedder: the likelihood of a completion under a language model."""

import numpy as np
from sklearn.utils import gen_batches

from skqprobe._backends.causal_lm import import_backend
from skqprobe._backends.token_features import TOKEN_FEATURES, describe_tokens
from skqprobe.embedders._causal_lm import CausalLMEmbedder, lay_out

REVERSE, INFORMATION = "reverse_log_likelihood", "pointwise_mutual_information"
FEATURES = [*TOKEN_FEATURES, REVERSE, INFORMATION]
DEFAULT = FEATURES[:5]


class LikelihoodEmbedder(CausalLMEmbedder):
    """Describe a completion by its likelihood under a causal language model.

    The features are computed at temperature 1 from the tokens of the completion, each
    given the prompt and the tokens before it. The first five are the default:

    - ``sum_log_likelihood``: log p(completion | prompt), in nats;
    - ``mean_log_likelihood``: the same per token;
    - ``min_log_likelihood``: the minimum over the tokens;
    - ``mean_entropy``: mean entropy of the distributions of the tokens, in nats;
    - ``n_tokens``: the number of tokens;
    - ``max_entropy``, ``tail_entropy``: maximum of the entropies, and their mean over
      the last tenth of the tokens;
    - ``mean_margin``: mean difference of the probabilities of the two likeliest tokens.

    Two further features need another pass through the model each:

    - ``reverse_log_likelihood``: log p(prompt | completion), where the model reads the
      completion, a line break and the prompt, an idea of [1]_;
    - ``pointwise_mutual_information``: log p(completion | prompt) - log p(completion),
      the latter without any prompt.

    `sum_log_likelihood` or `mean_log_likelihood` alone is the usual score of
    plausibility. It is a baseline for a probe, and a feature to add to its input.

    X has the forms that :class:`HiddenStateEmbedder` takes, and prompts are tokenized
    in the same way. Read more in :doc:`/guide/embedders`.

    Parameters
    ----------
    model : str or Path
        Folder of a model, or its name on the model hub. It is loaded on first use, and
        the process keeps the last two models.
    features : list of str, default=None
        Names of the features, in the order of the columns. If None, the first five.
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
        Number of features.
    view_sizes_ : dict of str to int
        Number of features of each view, by its name, in the order of the features.

    Raises
    ------
    ImportError
        If torch or transformers is not installed.
    OSError
        If the model cannot be loaded.
    ValueError
        If `features` has unknown names, or one twice; or if texts cannot be embedded,
        because a completion is longer than the context, the model's chat template
        cannot be applied to a prompt, or the model has no token to begin a text with.

    Warns
    -----
    UserWarning
        If prompts were cut, once per call.

    See Also
    --------
    HiddenStateEmbedder : Hidden states of the model.

    Notes
    -----
    The end-of-text token does not count. The features of an empty completion are
    zeros, except for `reverse_log_likelihood`. The latter sums over the tokens of the
    prompt, so it is comparable between the candidates of one prompt only: pass prompts
    without the instructions and examples that all of them share. It is zero without a
    prompt, as is `pointwise_mutual_information`. A completion without a prompt is read
    after the BOS token of the model or, if it has none, EOS.

    If a prompt has no tokens and the tokenizer adds none, as for plain texts with many
    models, the first token of the completion is not conditioned on anything. It is left
    out.

    Likelihoods are computed from the logits in float32. The logits take `batch_size`
    times the vocabulary times the tokens from the first completion of the batch on; for
    the reverse likelihood, times all tokens of the prompt.

    References
    ----------
    .. [1] Tamborrino, Pellicano, Pannier, Voitot, Naudin, "Pre-training Is (Almost) All
       You Need: An Application to Commonsense Reasoning", ACL 2020, arXiv 2004.14074.

    Examples
    --------
    >>> from skqprobe.embedders import LikelihoodEmbedder
    >>> embedder = LikelihoodEmbedder("HuggingFaceTB/SmolLM2-135M-Instruct")
    >>> embedder.get_feature_names_out()
    array(['sum_log_likelihood', 'mean_log_likelihood', 'min_log_likelihood',
           'mean_entropy', 'n_tokens'], dtype=object)
    >>> pairs = [("The capital of France is", " Paris"), ("1 + 1 =", " fish")]
    >>> embedder.fit_transform(pairs).shape  # doctest: +SKIP
    (2, 5)
    """

    _parameter_constraints: dict = {
        **CausalLMEmbedder._parameter_constraints,
        "features": [list, tuple, None],
    }
    _view = "likelihood"

    def __init__(
        self,
        model,
        *,
        features=None,
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
        self.features = features

    def get_feature_names_out(self, input_features=None):
        """Return the names of the features.

        Parameters
        ----------
        input_features : object, default=None
            Ignored.

        Returns
        -------
        feature_names_out : ndarray of str objects, of shape (n_features,)
            Names of the features.
        """
        return np.array(self._names(), dtype=object)

    def forward(self, lm, shared, pairs):
        """Run the model, and describe each completion.

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
        features : ndarray of shape (len(pairs), n_features)
            Features of the pairs.
        """
        names = self._names()
        rows: list[dict[str, float]] = [{} for _ in pairs]
        if set(names) != {REVERSE}:
            rows = _read(lm, shared, pairs)
        if INFORMATION in names:
            # Without a prompt, there is nothing to compare.
            texts = [(lm.start(), after if before else []) for before, after in pairs]
            for row, alone, (before, _) in zip(
                rows, _read(lm, (), texts), pairs, strict=True
            ):
                gain = row["sum_log_likelihood"] - alone["sum_log_likelihood"]
                row[INFORMATION] = gain if before else 0.0
        if REVERSE in names:
            limit = lm.context(self.max_length)
            texts = [_reverse(lm, [*shared, *b], after, limit) for b, after in pairs]
            # Prefixes share no pass here, so there may be more texts than in a batch.
            for batch in gen_batches(len(texts), self.batch_size):
                read = _read(lm, (), texts[batch])
                for row, reverse in zip(rows[batch], read, strict=True):
                    row[REVERSE] = reverse["sum_log_likelihood"]
        return np.array([[row[name] for name in names] for row in rows])

    def _names(self):
        names = DEFAULT if self.features is None else list(self.features)
        if not names or not all(name in FEATURES for name in names):
            raise ValueError(
                f"features={self.features!r}, but must be a list of names among "
                f"{', '.join(FEATURES)}."
            )
        if len(set(names)) < len(names):
            raise ValueError(f"features={names!r} has an entry twice; leave one out.")
        return names

    def _settings(self):
        names, settings = self._names(), super()._settings()
        del settings["features"]
        return settings if names == DEFAULT else settings | {"features": names}


def _read(lm, shared, pairs):
    """Run the model; return the features of the tokens of each completion."""
    inputs, places = lay_out(lm, shared, pairs)
    logits = lm.network(**inputs, logits_to_keep=count_logits(pairs)).logits
    return describe_completions([logits[i] for i in places], pairs)


def _reverse(lm, prompt, completion, limit):
    """Exchange prompt and completion; the beginning is cut if they do not fit."""
    if prompt[:1] == [lm.tokenizer.bos_token_id]:
        prompt = prompt[1:]
    before = [*lm.start(), *completion, *lm.encode_completion("\n")]
    n_before = min(len(before), limit)
    n_after = min(len(prompt), limit - n_before)
    return before[len(before) - n_before :], prompt[len(prompt) - n_after :]


def count_logits(pairs):
    """Return the number of positions, at the end, whose logits are needed.

    The logits of a token are at the position before it. Those before the first
    completion of the batch are not computed: they would take most of the memory.
    """
    n_tokens = max(len(prompt) + len(completion) for prompt, completion in pairs)
    return n_tokens - _first(pairs)


def _first(pairs):
    return max(min(len(prompt) for prompt, _ in pairs) - 1, 0)


def describe_completions(logits, pairs):
    """Compute the features of the tokens of each completion.

    Parameters
    ----------
    logits : list of tensor of shape (count_logits(pairs), n_tokens)
        Logits of the model for each pair.
    pairs : list of (list of int, list of int)
        Token ids of prompts and completions.

    Returns
    -------
    rows : list of dict of str to float
        Values of `TOKEN_FEATURES`.
    """
    torch = import_backend("torch")
    rows = []
    for row, (prompt, completion) in zip(logits, pairs, strict=True):
        # The first token of a text without a prompt is not conditioned on anything.
        ids = completion if prompt else completion[1:]
        start = max(len(prompt) - 1, 0) - _first(pairs)
        log_p = row[start : start + len(ids)].float().log_softmax(-1)
        taken = log_p.gather(1, torch.tensor(ids, device=log_p.device).long()[:, None])
        p = log_p.exp()
        top = p.topk(2).values
        values = taken[:, 0], torch.special.entr(p).sum(-1), top[:, 0] - top[:, 1]
        rows.append(describe_tokens(*torch.stack(values).double().cpu().numpy()))
    return rows
