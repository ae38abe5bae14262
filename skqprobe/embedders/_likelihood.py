"""LikelihoodEmbedder: the likelihood of a completion under a language model."""

import numpy as np

from skqprobe._backends.causal_lm import import_backend
from skqprobe.embedders._causal_lm import CausalLMEmbedder

FEATURES = [
    "sum_log_likelihood",
    "mean_log_likelihood",
    "min_log_likelihood",
    "mean_entropy",
    "n_tokens",
]


class LikelihoodEmbedder(CausalLMEmbedder):
    """Describe a completion by its likelihood under a causal language model.

    The five features are computed at temperature 1 from the tokens of the completion,
    each given the prompt and the tokens before it:

    - ``sum_log_likelihood``: log p(completion | prompt), in nats;
    - ``mean_log_likelihood``: the same per token;
    - ``min_log_likelihood``: the minimum over the tokens;
    - ``mean_entropy``: mean entropy of the distributions of the tokens, in nats;
    - ``n_tokens``: the number of tokens.

    `sum_log_likelihood` or `mean_log_likelihood` alone is the usual score of
    plausibility. It is a baseline for a probe, and a feature to add to its input.

    X has the forms that :class:`HiddenStateEmbedder` takes, and prompts are tokenized
    in the same way. Read more in :doc:`/guide/embedders`.

    Parameters
    ----------
    model : str or Path
        Folder of a model, or its name on the model hub. It is loaded on first use, and
        the process keeps the last two models.
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
        Number of features, 5.
    view_sizes_ : dict of str to int
        Number of features of each view, by its name, in the order of the features.

    Raises
    ------
    ImportError
        If torch or transformers is not installed.
    OSError
        If the model cannot be loaded.
    ValueError
        If texts cannot be embedded, because a completion is longer than the context, or
        the model's chat template cannot be applied to a prompt.

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
    zeros. If a prompt has no tokens and the tokenizer adds none, as for plain texts
    with many models, the first token of the completion is not conditioned on anything.
    It is left out of all five features.

    Likelihoods are computed from the logits in float32. The logits take `batch_size`
    times the vocabulary times the tokens from the first completion of the batch on.

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

    _view = "likelihood"

    def get_feature_names_out(self, input_features=None):
        """Return the names of the features.

        Parameters
        ----------
        input_features : object, default=None
            Ignored.

        Returns
        -------
        feature_names_out : ndarray of str objects, of shape (5,)
            Names of the features.
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
            Inputs of the model.

        Returns
        -------
        features : ndarray of shape (len(pairs), 5)
            Features of the pairs.
        """
        # The logits of a token are at the position before it. Those before the first
        # completion of the batch are not computed: they would take most of the memory.
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
    torch = import_backend("torch")
    if not ids:
        return [0.0] * len(FEATURES)
    logp = logits[: len(ids)].float().log_softmax(-1)
    taken = logp.gather(1, torch.tensor(ids, device=logp.device)[:, None])[:, 0]
    entropy = torch.special.entr(logp.exp()).sum(-1)
    values = [taken.sum(), taken.mean(), taken.min(), entropy.mean()]
    return [*map(float, values), len(ids)]
