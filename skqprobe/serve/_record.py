"""Records of candidates, as a pipeline and the log read them."""

import json
import math
from typing import Any

import numpy as np

from skqprobe._backends.answers import join_surrogates
from skqprobe.generators._openai import known_log_probs

OF_LOG_PROBS: dict[str, Any] = {
    "log_likelihoods": math.fsum,
    "mean_log_likelihoods": lambda values: math.fsum(values) / max(len(values), 1),
    "min_log_likelihoods": lambda values: min([*values], default=0.0),
    "n_tokens": len,
}
"""Keys of records that are computed from the log-probabilities of the tokens."""

ENTROPY = "mean_entropies"
"""Key of records that is computed from the alternatives of the tokens."""

NUMBERS = (*OF_LOG_PROBS, ENTROPY)
"""Keys of records that are numbers."""

N_ALTERNATIVES = 20
"""Number of alternatives per token, for entropies: the most that OpenAI returns."""


def alternatives_needed(keys):
    """Return how many alternatives per token the keys of a record need, or 0."""
    if ENTROPY in keys:
        return N_ALTERNATIVES
    return 1 if OF_LOG_PROBS.keys() & set(keys) else 0


def make_record(prompt, candidates, has_log_probs):
    """Make a record of candidates.

    Parameters
    ----------
    prompt : str or list of dict
        Prompt of the request.
    candidates : list of Candidate
        The candidates.
    has_log_probs : bool
        Whether log-probabilities were asked for.

    Returns
    -------
    record : dict
        "prompt", "completions" and "finish_reasons" and, of log-probabilities, the keys
        of `OF_LOG_PROBS` and `ENTROPY`. A number that is unknown is NaN.
    """
    record = {
        "prompt": join_surrogates(prompt)
        if isinstance(prompt, str)
        else _read_messages(prompt),
        "completions": [c.content["text"] for c in candidates],
        "finish_reasons": [c.content["finish_reason"] for c in candidates],
    }
    if has_log_probs:
        known = [known_log_probs(c.content) for c in candidates]
        for key, function in OF_LOG_PROBS.items():
            record[key] = [math.nan if p is None else function(p) for p in known]
        record[ENTROPY] = [_mean_entropy(c.choice.get("logprobs")) for c in candidates]
    return record


def _read_messages(messages):
    """Return chat messages whose contents are texts, with calls of tools as JSON."""
    read = []
    for message in messages:
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        texts = [part.get("text") for part in parts if isinstance(part, dict)]
        if message.get("tool_calls"):
            texts.append(json.dumps(message["tool_calls"], sort_keys=True))
        text = "\n".join(filter(None, texts))
        plain = content if isinstance(content, str) else text
        read.append({**message, "content": join_surrogates(plain)})
    return read


def _mean_entropy(logprobs):
    """Return the mean entropy of the tokens, in nats; NaN if it is unknown.

    All tokens that are not among the alternatives count as one.
    """
    logprobs = logprobs if isinstance(logprobs, dict) else {}
    tokens = logprobs.get("content")
    if isinstance(tokens, list):  # chat, and llama.cpp always
        listed = [token.get("top_logprobs") or [] for token in tokens]
        found = [[each["logprob"] for each in top] for top in listed]
    else:
        tokens = logprobs.get("top_logprobs") or []
        found = [list((top or {}).values()) for top in tokens]
    if not found or not all(found):
        return math.nan
    entropies = []
    for values in found:
        p = np.exp(np.array(values, dtype=float))
        p = np.append(p, max(0.0, 1 - p.sum()))
        p = p[p > 0]
        entropies.append(-(p * np.log(p)).sum())
    return float(np.mean(entropies))
