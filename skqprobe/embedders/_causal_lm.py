"""CausalLMEmbedder: texts through a causal language model, in batches."""

import itertools
import json
from numbers import Integral
from typing import Any

import numpy as np

from skqprobe._backends.causal_lm import (
    MODEL_CONSTRAINTS,
    import_backend,
    load_causal_lm,
)
from skqprobe._utils.sklearn_compat import Interval
from skqprobe.embedders._base import ON_ERROR, BaseEmbedder


class CausalLMEmbedder(BaseEmbedder):
    """Base class of embedders by a causal language model.

    A subclass has the method ``forward(lm, shared, pairs)``. It maps token ids of
    prompts and completions, as `lay_out` takes them, to an array with one row per pair.
    """

    _parameter_constraints: dict = {
        **BaseEmbedder._parameter_constraints,
        **ON_ERROR,
        **MODEL_CONSTRAINTS,
        "max_length": [Interval(Integral, 2, None, closed="left"), None],
        "join": [str],
    }

    # Devices differ in rounding only.
    inert_parameters = BaseEmbedder.inert_parameters | {"device"}

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
        on_error="raise",
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
        self.on_error = on_error

    def make_texts(self, X):
        """Make the texts to embed: (form of the prompt, prompt, completion).

        Parameters
        ----------
        X : TextInput
            Prompts and completions, one per row.

        Returns
        -------
        texts : list of (str, str, str)
            Texts, one per row. A text prompt is followed by `join`. Chat messages are
            JSON, so the model is not needed if all texts are in the cache.
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
        try:
            return "chat", json.dumps(prompt, ensure_ascii=False)
        except TypeError as error:
            raise ValueError(
                f"Chat messages must have values that JSON supports: {error}."
            ) from error

    def embed_batches(self, batches):
        """Embed batches. All are tokenized first, to warn once and to share prompts.

        Parameters
        ----------
        batches : list of list of (str, str, str)
            Batches of texts, as `make_texts` returns them.

        Yields
        ------
        number : int
            Index of the batch in `batches`.
        embeddings : list of (ndarray of shape (n_features,) or ValueError)
            Embeddings of the texts of the batch, or why a text cannot be embedded.
        """
        if not batches:
            return  # all texts are known, so the model is not loaded
        lm = load_causal_lm(self)
        torch = import_backend("torch")
        pairs = lm.encode_pairs(
            [_parse(text) for batch in batches for text in batch], self.max_length
        )
        places = [(n, i) for n, batch in enumerate(batches) for i in range(len(batch))]
        rows: dict[int, list[Any]] = {
            n: [None] * len(batch) for n, batch in enumerate(batches)
        }

        def finish(items, values):
            for item, value in zip(items, values, strict=True):
                number, place = places[item]
                rows[number][place] = value
                if all(row is not None for row in rows[number]):
                    yield number, rows.pop(number)

        bad = [i for i, pair in enumerate(pairs) if isinstance(pair, ValueError)]
        yield from finish(bad, [pairs[i] for i in bad])
        for shared, items in self._jobs(pairs):
            rest = [(pairs[i][0][len(shared) :], pairs[i][1]) for i in items]
            with torch.inference_mode():
                values = self.forward(lm, shared, rest)
            yield from finish(items, values)

    def embed_batch(self, texts):
        """Embed a batch of texts.

        Parameters
        ----------
        texts : list of (str, str, str)
            Texts, as `make_texts` returns them.

        Returns
        -------
        embeddings : ndarray of shape (len(texts), n_features)
            Embeddings of the texts.
        """
        [(_, embeddings)] = self.embed_batches([texts])
        for embedding in embeddings:
            if isinstance(embedding, ValueError):
                raise embedding
        return np.stack(embeddings)

    def _jobs(self, pairs):
        """Yield the passes through the model: shared tokens, and numbers of pairs.

        Candidates of one prompt share all of its tokens except the last, whose state
        and logits they need. The only candidate of a prompt shares nothing. A candidate
        and its prefixes are one text of a batch.
        """
        good = [i for i, pair in enumerate(pairs) if not isinstance(pair, ValueError)]
        groups: dict[tuple, dict[int, list[int]]] = {}
        for item, longest in zip(good, nest([pairs[i] for i in good]), strict=True):
            texts = groups.setdefault(tuple(pairs[item][0]), {})
            texts.setdefault(longest, []).append(item)
        alone: list[list[int]] = []
        jobs: list[tuple[tuple, list[list[int]]]] = []
        for prompt, texts in groups.items():
            if len(texts) > 1 and self._may_share():
                jobs.append((prompt[:-1], [*texts.values()]))
            else:
                alone += texts.values()
        for shared, job in [*jobs, ((), alone)]:
            for start in range(0, len(job), self.batch_size):
                batch = job[start : start + self.batch_size]
                yield shared, [item for text in batch for item in text]

    def _may_share(self):
        return True


def _parse(text):
    """Return prompt and completion of a text that `make_texts` made."""
    form, prompt, completion = text
    return prompt if form == "text" else json.loads(prompt), completion


def nest(pairs):
    """Find, for each pair of token ids, the longest pair that begins with it.

    Parameters
    ----------
    pairs : list of (list of int, list of int)
        Token ids of prompts and completions.

    Returns
    -------
    longest : list of int
        Number of a pair with the same prompt and a completion that begins with the
        completion of the pair.
    """
    # In lexicographic order, a text comes directly before those that begin with it.
    order = sorted(range(len(pairs)), key=pairs.__getitem__, reverse=True)
    longest = list(range(len(pairs)))
    for after, item in itertools.pairwise(order):
        prompt, completion = pairs[item]
        if pairs[after][0] == prompt and (
            pairs[after][1][: len(completion)] == completion
        ):
            longest[item] = longest[after]
    return longest


def lay_out(lm, shared, pairs):
    """Make the inputs of a model for a batch of texts that begin with the same tokens.

    The model reads these tokens here, once for all texts. It reads a text and its
    prefixes once, too. Padding is on the right: no token of a causal model depends on
    it, and it does not change any position.

    Parameters
    ----------
    lm : CausalLM
        The model.
    shared : sequence of int
        Token ids with which all texts begin.
    pairs : list of (list of int, list of int)
        Token ids of the remaining prompts, and of the completions.

    Returns
    -------
    inputs : dict
        "input_ids" of shape (n_texts, n_tokens), "attention_mask" of shape (n_texts,
        len(shared) + n_tokens), and "past_key_values".
    places : list of int
        Row of each pair in the inputs.
    """
    torch = import_backend("torch")
    longest = nest(pairs)
    texts = sorted(set(longest))
    rows = [torch.tensor(pairs[i][0] + pairs[i][1]) for i in texts]
    seen = [torch.ones(len(shared) + len(row), dtype=torch.long) for row in rows]
    pad, device = torch.nn.utils.rnn.pad_sequence, lm.network.device
    cache = None
    if shared:
        ids = torch.tensor([shared], device=device)
        cache = lm.network.base_model(ids, use_cache=True).past_key_values
        # Repeat the only row of the cache for each of the texts.
        cache.reorder_cache(torch.zeros(len(rows), dtype=torch.long))
    inputs = {
        "input_ids": pad(rows, batch_first=True).to(device),
        "attention_mask": pad(seen, batch_first=True).to(device),
        "past_key_values": cache,
        "use_cache": cache is not None,
    }
    return inputs, [texts.index(i) for i in longest]
