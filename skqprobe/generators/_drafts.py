"""Drafts: completions of one prompt that a causal language model writes in parallel."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from skqprobe._backends.causal_lm import import_backend


class Drafts:
    """Completions in progress, with the cached keys and values of the model.

    Parameters
    ----------
    lm : CausalLM
        The model.
    prompt, prefix : list of int
        Token ids of the prompt, and of the beginning of all completions.
    stops : list of str
        Texts before which a completion ends.
    layers : list of int or None
        Numbers of the layers whose states are captured.
    draw : callable
        Function ``draw(logits, uniforms)`` to tokens and their log-probabilities.

    Attributes
    ----------
    drafts : list of Draft
        The completions; a single empty one at first.
    """

    def __init__(self, lm, prompt, prefix, stops, layers, draw):
        self.lm = lm
        self.draw = draw
        self.layers = layers
        self._cache: Any = None
        self._logits: Any = None
        self._states: list[Any] = []
        self._read(import_backend("torch").tensor([prompt + prefix]))
        self.drafts = [Draft(lm, prefix, stops, states=self._states)]
        self._alive = np.arange(1)  # number of the draft of each row of the cache

    def select(self, numbers):
        """Replace the drafts by some of them, each any number of times.

        Parameters
        ----------
        numbers : sequence of int
            Numbers of drafts that are not finished.
        """
        rows = import_backend("torch").tensor(np.searchsorted(self._alive, numbers))
        self._select_rows(rows.to(self._logits.device))
        self.drafts = [self.drafts[number].copy() for number in numbers]
        self._alive = np.arange(len(numbers))

    def write(self, uniforms):
        """Add tokens; finished drafts leave the batch.

        Parameters
        ----------
        uniforms : ndarray of shape (n_drafts, n_tokens)
            Numbers from [0, 1) that determine the tokens.
        """
        torch = import_backend("torch")
        for column in uniforms.T:
            if len(self._alive) == 0:
                return
            tokens, logp = self.draw(self._logits, column[self._alive])
            drawn = zip(self._alive, tokens.tolist(), logp, strict=True)
            goes_on = np.array([self.drafts[i].add(*values) for i, *values in drawn])
            self._alive = self._alive[goes_on]
            if len(self._alive):
                rows = torch.tensor(goes_on).nonzero()[:, 0].to(tokens.device)
                self._select_rows(rows)
                self._read(tokens[rows, None])
                for i, state in zip(self._alive, self._states, strict=True):
                    self.drafts[i].states.append(state)

    def _select_rows(self, rows):
        # reorder_cache selects rows of the cache, any number of times.
        self._cache.reorder_cache(rows)
        self._logits = self._logits[rows]

    def _read(self, ids):
        """Run the model on tokens; keep cache, logits and states at the last token."""
        torch = import_backend("torch")
        with torch.inference_mode():
            out = self.lm.network(
                ids.to(self.lm.network.device),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
                output_hidden_states=self.layers is not None,
            )
            self._cache, self._logits = out.past_key_values, out.logits[:, -1].float()
            if self.layers is None:
                self._states = [None] * len(ids)
            else:
                states = [out.hidden_states[i][:, -1].float() for i in self.layers]
                self._states = list(torch.cat(states, 1).cpu().numpy())


@dataclass
class Draft:
    """A completion in progress.

    Parameters
    ----------
    lm : CausalLM
        The model.
    before : list of int
        Token ids of the prefix.
    stops : list of str
        Texts before which the completion ends.
    ids : list of int
        Tokens after the prefix.
    logp : list of float
        Log-probabilities of the tokens.
    states : list of (ndarray or None)
        States before the first token and after each token.
    finish_reason : {"stop", "length"}
        "stop" at an end-of-text token or a stop string.
    """

    lm: Any
    before: list[int]
    stops: list[str]
    ids: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    states: list[Any] = field(default_factory=list)
    finish_reason: str = "length"

    def __post_init__(self):
        self._n_before = len(self.lm.decode(self.before))

    def copy(self):
        """Return a copy that can be continued independently."""
        return replace(self, ids=[*self.ids], logp=[*self.logp], states=[*self.states])

    def add(self, token, logp):
        """Add a token; return whether to continue."""
        if token in self.lm.end_ids:
            self.finish_reason = "stop"
            return False
        self.ids.append(token)
        self.logp.append(logp)
        if self.stops and self._end(self._text()) is not None:
            self.finish_reason = "stop"
            return False
        return True

    def finish(self):
        """Return the text before the stop string; remove tokens that exceed it."""
        text = self._text()
        text = text[: self._end(text)]
        while self.ids and len(self._text()) > len(text):
            self.ids.pop()
            self.logp.pop()
        return text

    def _text(self):
        """Return the text of the tokens after the prefix."""
        return self.lm.decode(self.before + self.ids)[self._n_before :]

    def _end(self, text):
        """Return the position of the first stop string; None if there is none."""
        return min(
            (text.find(stop) for stop in self.stops if stop in text), default=None
        )
