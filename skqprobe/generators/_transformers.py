"""TransformersGenerator: sample a causal language model of transformers."""

import json
from dataclasses import dataclass, field
from hashlib import blake2b
from numbers import Integral, Real
from typing import Any

import numpy as np

from skqprobe._backends.causal_lm import MODEL_CONSTRAINTS, load_causal_lm
from skqprobe._utils.sklearn_compat import Interval
from skqprobe.embedders._inputs import check_prompt
from skqprobe.generators._base import BaseGenerator


class TransformersGenerator(BaseGenerator):
    r"""Sample completions from a causal language model of transformers.

    The model reads a prompt once, and writes its k completions side by side. While it
    does, it can tell the likelihood of each completion and hidden states at its last
    token, the embedding of the paper, at next to no cost.

    The draws are the model's own: of a model's recommended settings (top-k, repetition
    penalty, ...) none is applied, so that at ``temperature=1.0`` and ``top_p=1.0`` they
    come from p0.

    Parameters
    ----------
    model : str or Path
        A folder with a model of transformers, or its name on the model hub. It is
        loaded when first needed; the process keeps the last two models.
    gguf_file : str, default=None
        The file in the model's folder, for a model in GGUF.
    revision : str, default=None
        Commit, branch or tag of a model on the hub.
    device : str, default=None
        Where the model runs: "cpu", "cuda", ... None takes a CUDA device if there is
        one.
    model_dtype : {"float32", "auto", "bfloat16", "float16"}, default="float32"
        What the model computes in. "auto" is what it was saved in.
    trust_remote_code : bool, default=False
        Whether to run code that comes with the model.
    temperature : float, default=1.0
        The model's logits are divided by it. At 0 the most likely token is taken each
        time; there is one such completion, so that k must be 1.
    top_p : float, default=1.0
        Above 0 and at most 1. Tokens are drawn from the smallest set of the likeliest
        that has this much probability.
    max_tokens : int, default=256
        The most tokens of a completion. A prompt that leaves no room for them in the
        model's context loses tokens at its beginning, with a warning.
    stop : str or list of str, default=None
        A completion ends before the first of these that appears in it. It always ends
        at the model's end-of-text token.
    seed : int, default=None
        Makes draws repeatable. Each prompt has random numbers of its own, made of the
        seed and the prompt's text: the completions of a prompt do not depend on the
        prompts before it, equal prompts get equal completions, and a larger k adds to
        them. None draws anew each time. The random state of torch is not used.
    hidden_states : int or list of int, default=None
        Layers whose states at the completion's last token are kept, as `layer` of
        :class:`~skqprobe.embedders.HiddenStateEmbedder`.
    log_likelihoods : bool, default=False
        Whether to keep log-likelihoods of the completions.
    progress : bool or "auto", default="auto"
        Whether to show a progress bar. "auto" shows one on a terminal, for work of more
        than two seconds.

    See Also
    --------
    skqprobe.embedders.HiddenStateEmbedder : The same states, of texts that are there.
    skqprobe.embedders.LikelihoodEmbedder : More features of the likelihood.

    Notes
    -----
    A record has, besides "prompt" and "completions", for each completion:

    - "n_tokens": ndarray of int, its tokens without the end-of-text token;
    - "finish_reasons": list of str, "stop" at an end-of-text token or a stop string,
      "length" at `max_tokens`;
    - "log_likelihoods", if asked for: ndarray of float64, the sum over these tokens, in
      nats, at temperature 1 whatever the temperature of the draws;
    - "hidden_states", if asked for: ndarray of float32 of shape (k, n_features).

    A stop string may begin inside of a token. Such a token is part of the text as far
    as the stop string, but it does not count in the other three. Of this, and of texts
    that the tokenizer would split in another way than the model wrote them, an
    embedder gives slightly different states.

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

    # A device rounds in its own way; that is all it changes.
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

    def sample(self, prompt, k):
        """Draw candidates for one prompt.

        Parameters
        ----------
        prompt : str or list of dict
            A text, or chat messages with the keys "role" and "content".
        k : int
            How many completions to draw.

        Returns
        -------
        record : dict
            See the notes of the class.

        Raises
        ------
        ValueError
            If `k` is more than 1 at temperature 0, if `max_tokens` leaves no room for a
            prompt, or if there are no such hidden states.
        """
        self._validate_params()
        prompt = check_prompt(prompt, "prompt")
        if self.temperature == 0 and k > 1:
            raise ValueError(
                f"temperature=0 gives the same completion every time, but k={k}. "
                "Set k=1, or a temperature above 0."
            )
        stops = self._stops()
        lm = load_causal_lm(self)
        layers = None
        if self.hidden_states is not None:
            layers = lm.layer_numbers(self.hidden_states, "hidden_states")
        prompt_ids, uniforms = self._prompt_ids(lm, prompt), self._uniforms(prompt, k)
        drafts = self._write(lm, prompt_ids, uniforms, stops, layers)
        record: dict[str, Any] = {
            "prompt": prompt,
            "completions": [draft.finish() for draft in drafts],
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

    def _prompt_ids(self, lm, prompt):
        room = lm.context() - self.max_tokens
        if room < 1:
            raise ValueError(
                f"max_tokens={self.max_tokens} leaves no room for a prompt in the "
                f"model's context of {lm.context()} tokens; set a smaller one."
            )
        pair = lm.encode_pair(prompt, "")
        [(ids, _)] = lm.fit_context([pair], room)
        return ids

    def _uniforms(self, prompt, k):
        """Draw a number from [0, 1) for each token of each completion."""
        if self.seed is None:
            rng = np.random.default_rng()
        else:
            digest = blake2b(json.dumps(prompt).encode(), digest_size=8).digest()
            rng = np.random.default_rng([self.seed, int.from_bytes(digest)])
        return rng.random((k, self.max_tokens), dtype=np.float32)

    def _write(self, lm, prompt_ids, uniforms, stops, layers):
        """Write completions side by side; those that end leave the batch."""
        import torch

        drafts = [_Draft(lm, stops) for _ in uniforms]
        alive = np.arange(len(drafts))  # the drafts in the batch
        with torch.inference_mode():
            cache, logits, states = _read(lm, torch.tensor([prompt_ids]), layers)
            # reorder_cache takes rows of the cache, any number of times.
            cache.reorder_cache(torch.zeros(len(drafts), dtype=torch.long))
            logits, states = logits.repeat(len(drafts), 1), states * len(drafts)
            for column in uniforms.T:
                tokens, logp = self._draw(logits, column[alive])
                drawn = zip(alive, states, tokens.tolist(), logp, strict=True)
                goes_on = np.array([drafts[i].add(*values) for i, *values in drawn])
                alive = alive[goes_on]
                if len(alive) == 0:
                    break
                kept = torch.tensor(goes_on).nonzero()[:, 0].to(tokens.device)
                cache.reorder_cache(kept)
                cache, logits, states = _read(lm, tokens[kept, None], layers, cache)
            else:
                for i, state in zip(alive, states, strict=True):
                    drafts[i].states.append(state)
        return drafts

    def _draw(self, logits, uniforms):
        """Draw a token for each row of logits; give the tokens and their log p."""
        import torch
        from transformers import TopPLogitsWarper

        if self.temperature == 0:
            tokens = logits.argmax(1)
        else:
            # Without the subtraction a small temperature would give infinities.
            scores = (logits - logits.amax(1, keepdim=True)) / self.temperature
            if self.top_p < 1:
                scores = TopPLogitsWarper(self.top_p)(None, scores)
            cumulative = scores.softmax(1).cumsum(1)
            uniforms = torch.tensor(uniforms, device=logits.device)[:, None]
            tokens = torch.searchsorted(
                cumulative, uniforms * cumulative[:, -1:], right=True
            )[:, 0]
        if not self.log_likelihoods:
            return tokens, [0.0] * len(tokens)
        logp = logits.log_softmax(1).gather(1, tokens[:, None])[:, 0]
        return tokens, logp.tolist()


@dataclass
class _Draft:
    """A completion being written."""

    lm: Any
    stops: list[str]
    ids: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    states: list[Any] = field(default_factory=list)  # before each token, and at the end
    finish_reason: str = "length"

    def add(self, state, token, logp):
        """Take a token and the state before it; tell whether the completion goes on."""
        self.states.append(state)
        if token in self.lm.end_ids:
            self.finish_reason = "stop"
            return False
        self.ids.append(token)
        self.logp.append(logp)
        if self.stops and self._end(self.lm.decode(self.ids)) is not None:
            self.finish_reason = "stop"
            return False
        return True

    def finish(self):
        """Give the text before the stop string; drop the tokens that pass its end."""
        text = self.lm.decode(self.ids)
        text = text[: self._end(text)]
        while self.ids and len(self.lm.decode(self.ids)) > len(text):
            self.ids.pop()
            self.logp.pop()
        return text

    def _end(self, text):
        """Find where the first stop string begins; None where there is none."""
        return min(
            (text.find(stop) for stop in self.stops if stop in text), default=None
        )


def _read(lm, ids, layers, cache=None):
    """Let the model read tokens; give its cache, logits and states at the last one."""
    import torch

    out = lm.network(
        ids.to(lm.network.device),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
        output_hidden_states=layers is not None,
    )
    if layers is None:
        states = [None] * len(ids)
    else:
        states = [out.hidden_states[layer][:, -1].float() for layer in layers]
        states = list(torch.cat(states, 1).cpu().numpy())
    return out.past_key_values, out.logits[:, -1].float(), states
