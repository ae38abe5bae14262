"""LikelihoodEmbedder: how likely a language model finds a completion."""

import numpy as np

from skqprobe.embedders._hidden_state import CausalLMEmbedder

FEATURES = [
    "sum_log_likelihood",
    "mean_log_likelihood",
    "min_log_likelihood",
    "mean_entropy",
    "n_tokens",
]


class LikelihoodEmbedder(CausalLMEmbedder):
    """Describe a completion by its likelihood under a causal language model.

    There are five features, read at temperature 1 for every token of the completion,
    given the prompt and the tokens before it:

    - ``sum_log_likelihood``: log p(completion | prompt), in nats;
    - ``mean_log_likelihood``: the same per token;
    - ``min_log_likelihood``: of the least likely token;
    - ``mean_entropy``: mean entropy of the distribution that a token is drawn from, in
      nats;
    - ``n_tokens``: how many tokens there are.

    The end-of-text token does not count. An empty completion has zeros. Where a prompt
    has no tokens and the tokenizer puts none, as for plain texts with many models, the
    first token of the completion has nothing to be conditioned on, and is left out of
    all five.

    `sum_log_likelihood` or `mean_log_likelihood` alone is the usual score of
    plausibility: a baseline for a probe, and a column to give it.

    X is what :class:`HiddenStateEmbedder` takes, and prompts are tokenized in the same
    way.

    Parameters
    ----------
    model : str or Path
        A folder with a model of transformers, or its name on the model hub. It is
        loaded when first needed; the process keeps the last two models.
    gguf_file : str, default=None
        The file in the model's folder, for a model in GGUF.
    revision : str, default=None
        Commit, branch or tag of a model on the hub. Name a commit if features are
        kept in a cache: the cache cannot see that a branch has moved.
    device : str, default=None
        Where the model runs: "cpu", "cuda", ... None takes a CUDA device if there is
        one.
    model_dtype : {"float32", "auto", "bfloat16", "float16"}, default="float32"
        What the model computes in; likelihoods are computed from its logits in
        float32. "auto" is what it was saved in.
    max_length : int, default=None
        The most tokens of a prompt and its completion; None is the model's context. A
        longer prompt loses tokens at its beginning (a BOS token stays), with a warning
        for the whole call. A completion is never cut.
    trust_remote_code : bool, default=False
        Whether to run code that comes with the model.
    join : str, default=""
        Put between a text prompt and its completion; it belongs to the prompt.
    batch_size : int, default=8
        How many texts go through the model at a time. The logits take `batch_size`
        times the vocabulary times the tokens from the batch's first completion on.
    dtype : {"float16", "float32", "float64"}, default="float32"
        Of the features.
    cache : str, Path or EmbeddingCache, default=None
        A file that keeps the features, so that no text is read twice.
    progress : bool or "auto", default="auto"
        Whether to show a progress bar. "auto" shows one on a terminal, for work of more
        than two seconds, and not inside a search or cross-validation.

    Attributes
    ----------
    n_features_out_ : int
        5.

    See Also
    --------
    HiddenStateEmbedder : Hidden states of the model.

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

    def __init__(
        self,
        model,
        *,
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

    def get_feature_names_out(self, input_features=None):
        """Name the features.

        Parameters
        ----------
        input_features : object, default=None
            Ignored.

        Returns
        -------
        names : ndarray of str objects of shape (5,)
        """
        return np.array(FEATURES, dtype=object)

    def forward(self, lm, pairs, inputs):
        """Run the model, and describe each completion.

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
        features : ndarray of shape (len(pairs), 5)
        """
        # The logits of a token stand one place before it. Those before the first
        # completion of the batch are not made: they would take the most memory.
        first = max(min(len(prompt) for prompt, _ in pairs) - 1, 0)
        n_kept = inputs["input_ids"].shape[1] - first
        logits = lm.network(**inputs, logits_to_keep=n_kept).logits
        features = []
        for row, (prompt, completion) in zip(logits, pairs, strict=True):
            if prompt:
                features.append(_describe(row[len(prompt) - 1 - first :], completion))
            else:
                features.append(_describe(row, completion[1:]))
        return np.array(features)


def _describe(logits, ids):
    """Compute the features of the tokens `ids`, whose logits come first."""
    import torch

    if not ids:
        return [0.0] * len(FEATURES)
    logp = logits[: len(ids)].float().log_softmax(-1)
    taken = logp.gather(1, torch.tensor(ids, device=logp.device)[:, None])[:, 0]
    entropy = torch.special.entr(logp.exp()).sum(-1)
    values = [taken.sum(), taken.mean(), taken.min(), entropy.mean()]
    return [*map(float, values), len(ids)]
