"""TransformersGenerator: completions from a causal language model of transformers."""

import json
from hashlib import blake2b
from numbers import Integral, Real
from typing import Any

import numpy as np

from skqprobe._backends.causal_lm import (
    MODEL_CONSTRAINTS,
    import_backend,
    load_causal_lm,
)
from skqprobe._backends.refusal import PromptRefused
from skqprobe._utils.sklearn_compat import Interval
from skqprobe.generators._base import BaseGenerator, check_prefix
from skqprobe.generators._drafts import Drafts


class BadPromptError(PromptRefused, ValueError):
    """The model cannot read a prompt."""


class TransformersGenerator(BaseGenerator):
    r"""Sample completions from a causal language model of transformers.

    The model reads a prompt once, and writes its k completions in parallel. At almost
    no cost, it also returns the likelihood of each completion and hidden states at its
    last token, which are the embedding of the paper. Read more in
    :doc:`/guide/generators`.

    The recommended sampling settings of a model (top-k, repetition penalty, ...) are
    not applied. So with ``temperature=1.0`` and ``top_p=1.0``, completions are samples
    from p0.

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
    trust_remote_code : bool, default=False
        Whether to run Python code that comes with the model. Set it only for models
        whose code you have read.
    temperature : float, default=1.0
        Temperature of the model's sampling, in [0, inf): its logits are divided by it.
        At 0, the most likely token is taken each time, so all completions of a prompt
        are equal. It is not the temperature of a policy.
    top_p : float, default=1.0
        Probability of the set of tokens to sample from, in (0, 1]: each token is drawn
        from the smallest set of most likely tokens that has this probability. 1 samples
        from all tokens.
    max_tokens : int, default=256
        Maximum number of tokens of a completion.
    stop : str or list of str, default=None
        Text or texts before which a completion ends.
    seed : int, default=None
        Seed of the sampling. Completions depend on the seed and the prompt, and not on
        the other prompts. If None, each call samples new completions.
    hidden_states : int or list of int, default=None
        Layer or layers whose states at the last token of the completion are returned,
        like `layer` of :class:`~skqprobe.embedders.HiddenStateEmbedder`. If None, no
        states are returned.
    log_likelihoods : bool, default=False
        Whether to return the log-likelihood of each completion.
    progress : bool or "auto", default="auto"
        Whether to show a progress bar. "auto" shows one in a terminal, for work of more
        than two seconds, and not inside a search or cross-validation.

    See Also
    --------
    skqprobe.embedders.HiddenStateEmbedder : The same states for existing texts.
    skqprobe.embedders.LikelihoodEmbedder : More features of the likelihood.

    Notes
    -----
    In addition to "prompt" and "completions", a record has for each completion:

    - "n_tokens": ndarray of int, the number of tokens without the end-of-text token;
    - "finish_reasons": list of str, "stop" at an end-of-text token or a stop string,
      "length" at `max_tokens`;
    - "log_likelihoods", with ``log_likelihoods=True``: ndarray of float64, the sum over
      these tokens, in nats, at temperature 1 whatever `temperature` is;
    - "hidden_states", if set: ndarray of float32, of shape (k, n_features).

    All values cover the same tokens: those before the end-of-text token of the model or
    before a stop string. Other special tokens, such as ``<|im_start|>``, belong to the
    text, and a stop string may be one. An embedder reads them as the same tokens. A
    stop string may begin inside a token. The part of such a token before the stop
    string belongs to the text, but the token does not count in the other three values.
    For such texts, and for texts that the tokenizer splits differently than the model
    wrote them, an embedder returns slightly different states.

    With a `prefix` of `sample`, "completions" begin with it. The numbers of tokens, the
    log-likelihoods, `max_tokens` and `stop` are of the text after it.

    To chat messages, the model's chat template is applied. If the last message has the
    role "assistant", the model continues it. A prompt that begins with the BOS token
    gets no second one. A prompt without tokens is replaced by the BOS token or, if the
    model has none, EOS; an embedder reads its completions without this token.

    A prompt that leaves no space for `max_tokens` in the context of the model is cut on
    the left, with a warning.

    Each prompt has its own random numbers, computed from `seed` and its text. So equal
    prompts get equal completions, and a larger k adds completions to the same ones. The
    random state of torch is not used.

    Models without a key-value cache, such as Mamba, are not supported.

    Examples
    --------
    >>> from skqprobe.generators import TransformersGenerator
    >>> generator = TransformersGenerator(
    ...     "HuggingFaceTB/SmolLM2-135M-Instruct", max_tokens=20, stop="\n", seed=0
    ... )
    >>> records = generator.generate(["The sea is", "1 + 1 ="], k=4)  # doctest: +SKIP
    >>> len(records[0]["completions"])  # doctest: +SKIP
    4
    """

    _parameter_constraints: dict = {
        **BaseGenerator._parameter_constraints,
        **MODEL_CONSTRAINTS,
        "temperature": [Interval(Real, 0, None, closed="left")],
        "top_p": [Interval(Real, 0, 1, closed="right")],
        "max_tokens": [Interval(Integral, 1, None, closed="left")],
        "stop": [str, list, None],
        "seed": [Interval(Integral, 0, None, closed="left"), None],
        "hidden_states": [Integral, list, tuple, None],
        "log_likelihoods": ["boolean"],
    }

    # Devices differ in rounding only.
    inert_parameters = BaseGenerator.inert_parameters | {"device"}

    def __init__(
        self,
        model,
        *,
        gguf_file=None,
        revision=None,
        device=None,
        model_dtype="float32",
        trust_remote_code=False,
        temperature=1.0,
        top_p=1.0,
        max_tokens=256,
        stop=None,
        seed=None,
        hidden_states=None,
        log_likelihoods=False,
        progress="auto",
    ):
        self.model = model
        self.gguf_file = gguf_file
        self.revision = revision
        self.device = device
        self.model_dtype = model_dtype
        self.trust_remote_code = trust_remote_code
        self.temperature = temperature
        self.top_p = top_p
        self.max_tokens = max_tokens
        self.stop = stop
        self.seed = seed
        self.hidden_states = hidden_states
        self.log_likelihoods = log_likelihoods
        self.progress = progress

    def sample(self, prompt, k, prefix=""):
        """Sample candidates for one prompt.

        Parameters
        ----------
        prompt : str or list of dict
            A text, or chat messages with the keys "role" and "content".
        k : int
            Number of completions per prompt.
        prefix : str, default=""
            Beginning of all completions, which the model continues.

        Returns
        -------
        record : dict
            Record of the prompt; see the notes of the class.

        Raises
        ------
        ValueError
            If `k` is more than 1 at temperature 0, if `max_tokens` leaves no space for
            a prompt, if the model has no such hidden states, or if the model cannot
            read the prompt.
        """
        return self._generate([prompt], k, prefix=prefix)[0]

    def sample_each(self, prompts, k, prefix=""):
        """Sample candidates for prompts one by one.

        Parameters
        ----------
        prompts : list of (str or list of dict)
            Texts, or chat messages with the keys "role" and "content".
        k : int
            Number of completions per prompt.
        prefix : str, default=""
            Beginning of all completions, which the model continues.

        Yields
        ------
        number : int
            Index of the prompt in `prompts`.
        record : dict or PromptRefused
            Record of the prompt; see the notes of the class. Or the reason why the
            model cannot read the prompt; these come first.

        Raises
        ------
        ValueError
            If `k` is more than 1 at temperature 0, if `max_tokens` leaves no space for
            a prompt, or if the model has no such hidden states.
        """
        check_prefix(prefix)
        if not prompts:
            return  # the model is not loaded
        start, encoded = self._starter(prompts, prefix, k)
        for number, pair in enumerate(encoded):
            if isinstance(pair, ValueError):  # before any prompt is answered
                yield number, BadPromptError(str(pair))
        for number, (prompt, pair) in enumerate(zip(prompts, encoded, strict=True)):
            if not isinstance(pair, ValueError):
                drafts = start(pair)
                drafts.select([0] * k)
                drafts.write(self._uniforms([prompt, prefix] if prefix else prompt, k))
                yield number, self._record(prompt, prefix, drafts.drafts)

    def write_blocks(self, prompt, k):
        """Read a prompt, to write its candidates block by block.

        Parameters
        ----------
        prompt : str or list of dict
            A text, or chat messages with the keys "role" and "content".
        k : int
            Number of completions per prompt.

        Returns
        -------
        blocks : object
            Has the method ``extend(numbers, n_tokens)``; see `BlockwiseBestOfK`.
        """
        start, [pair] = self._starter([prompt], "", k)
        if isinstance(pair, ValueError):
            raise BadPromptError(str(pair))
        return _Blocks(self, prompt, start(pair), self._uniforms(prompt, k))

    def _starter(self, prompts, prefix, k):
        """Load the model; return a function that reads a prompt, and token ids."""
        if self.temperature == 0 and k > 1:
            raise ValueError(
                f"temperature=0 gives the same completion every time, but k={k}. "
                "Set k=1, or a temperature above 0."
            )
        stops, lm, layers = self._stops(), load_causal_lm(self), None
        if self.hidden_states is not None:
            layers = lm.layer_numbers(self.hidden_states, "hidden_states")

        def start(pair):
            before, after = pair
            return Drafts(lm, before, after, stops, layers, self._draw)

        return start, self._encode(lm, prompts, prefix)

    def _record(self, prompt, prefix, drafts):
        record: dict[str, Any] = {
            "prompt": prompt,
            "completions": [prefix + draft.finish() for draft in drafts],
            "n_tokens": np.array([len(draft.ids) for draft in drafts]),
            "finish_reasons": [draft.finish_reason for draft in drafts],
        }
        if self.log_likelihoods:
            record["log_likelihoods"] = np.array([sum(d.logp, 0.0) for d in drafts])
        if self.hidden_states is not None:
            record["hidden_states"] = np.stack([d.states[len(d.ids)] for d in drafts])
        return record

    def _stops(self):
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if not all(isinstance(stop, str) and stop for stop in stops):
            raise ValueError(
                f"stop must be a text, or a list of texts, none of them empty; got "
                f"{self.stop!r}."
            )
        return stops

    def _encode(self, lm, prompts, prefix):
        """Tokenize all prompts and the prefix, with space for `max_tokens`."""
        space = lm.context() - self.max_tokens
        if space < 1:
            raise ValueError(
                f"max_tokens={self.max_tokens} leaves no space for a prompt in the "
                f"context of the model, {lm.context()} tokens; set a smaller one."
            )
        pairs = [(prompt, prefix) for prompt in prompts]
        return lm.encode_pairs(pairs, space, begin=True)

    def _uniforms(self, text, k):
        """Draw a number from [0, 1) for each token of each completion."""
        if self.seed is None:
            rng = np.random.default_rng()
        else:
            digest = blake2b(json.dumps(text).encode(), digest_size=8).digest()
            rng = np.random.default_rng([self.seed, int.from_bytes(digest)])
        return rng.random((k, self.max_tokens), dtype=np.float32)

    def _draw(self, logits, uniforms):
        """Draw a token for each row of logits; return the tokens and their log p."""
        torch = import_backend("torch")
        if self.temperature == 0:
            tokens = logits.argmax(1)
        else:
            # Without the subtraction, a small temperature would give infinities.
            scores = (logits - logits.amax(1, keepdim=True)) / self.temperature
            if self.top_p < 1:
                warper = import_backend("transformers").TopPLogitsWarper(self.top_p)
                scores = warper(None, scores)
            cumulative = scores.softmax(1).cumsum(1)
            uniforms = torch.tensor(uniforms, device=logits.device)[:, None]
            tokens = torch.searchsorted(
                cumulative, uniforms * cumulative[:, -1:], right=True
            )[:, 0]
        if not self.log_likelihoods:
            return tokens, [0.0] * len(tokens)
        logp = logits.log_softmax(1).gather(1, tokens[:, None])[:, 0]
        return tokens, logp.tolist()


class _Blocks:
    """Candidates of one prompt that are continued with the cached keys and values."""

    def __init__(self, generator, prompt, drafts, uniforms):
        self.generator = generator
        self.prompt = prompt
        self.drafts = drafts
        self.uniforms = uniforms

    def extend(self, numbers, n_tokens):
        """Continue candidates of the last record by a number of tokens."""
        self.drafts.select(numbers)
        self.drafts.write(self.uniforms[: len(numbers), :n_tokens])
        self.uniforms = self.uniforms[:, n_tokens:]
        return self.generator._record(self.prompt, "", self.drafts.drafts)
