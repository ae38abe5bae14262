"""Answers to the client: the chosen candidates as one object, or as a stream."""

import json
import math
import re
import time
from uuid import uuid4

import numpy as np


def ask_log_probs(body, as_chat, n_needed):
    """Ask for the log-probabilities that a pipeline needs.

    Parameters
    ----------
    body : dict
        Content of the request.
    as_chat : bool
        Whether it is for the chat endpoint.
    n_needed : int
        Number of alternatives per token.

    Returns
    -------
    body : dict
        Content of the request upstream.
    n_asked : int, inf or None
        Number of alternatives that the client gets; inf for what the upstream returns;
        None if it asked for no log-probabilities.
    """
    n_asked = body.get("top_logprobs") if as_chat else body.get("logprobs")
    if as_chat:
        n_asked = (n_asked or 0) if body.get("logprobs") else None
    if not n_needed or type(n_asked) not in (int, type(None)):
        return body, math.inf
    n = max(n_asked or 0, n_needed)
    asked = {"logprobs": True, "top_logprobs": n} if as_chat else {"logprobs": n}
    return body | asked, n_asked


def pick(candidates, values, probabilities, n, rng):
    """Draw n candidates with different texts, and order them by value.

    Parameters
    ----------
    candidates : list of Candidate
        The candidates.
    values, probabilities : ndarray of shape (k,)
        Values of the candidates, and the probabilities of the draw.
    n : int
        Number of candidates to draw. Candidates with equal texts are drawn only if
        there are no others.
    rng : RandomState
        Generator of the draw.

    Returns
    -------
    picked : list of int
        Indices of the candidates, the best one first.
    """
    with np.errstate(divide="ignore"):
        keys = np.log(probabilities) + rng.gumbel(size=len(values))
    order = np.lexsort((values, keys))[::-1].tolist()
    first: dict[str, int] = {}
    for i in order:
        said = candidates[i].content["text"] or json.dumps(candidates[i].choice)
        first.setdefault(said, i)
    distinct = list(first.values())
    repeated = [i for i in order if i not in distinct]
    return sorted((distinct + repeated)[:n], key=lambda i: -values[i])


def make_answer(candidates, usage, as_chat, model, n_asked, report):
    """Make the answer of candidates, the best one first.

    Parameters
    ----------
    candidates : list of Candidate
        Chosen candidates.
    usage : dict
        Usage of all draws; may be empty.
    as_chat : bool
        Whether it is an answer of the chat endpoint.
    model : str or None
        Name of the model in the request; None for that of the upstream.
    n_asked : int, inf or None
        Number of alternatives per token; see `ask_log_probs`.
    report : dict or None
        Report of the choice.

    Returns
    -------
    answer : dict
        The answer, with an id of its own. The messages are those of the upstream.
    """
    first = candidates[0].answer
    head = {
        "id": ("chatcmpl-" if as_chat else "cmpl-") + uuid4().hex,
        "object": "chat.completion" if as_chat else "text_completion",
        "created": first.get("created", int(time.time())),
        "model": first.get("model") if model is None else model,
    }
    choices = [
        _limit_log_probs(c.choice, n_asked) | {"index": i}
        for i, c in enumerate(candidates)
    ]
    tail: dict = {"usage": usage} if usage else {}
    tail |= {"skqprobe": report} if report else {}
    more = {k: v for k, v in first.items() if k not in head and k != "usage"}
    return {**head, "choices": choices, **more, **tail}


def _limit_log_probs(choice, n_asked):
    """Return a choice with the log-probabilities that the client asked for."""
    found = choice.get("logprobs")
    if not isinstance(found, dict) or n_asked == math.inf:
        return choice
    if n_asked is None:
        return choice | {"logprobs": None}
    limited = dict(found)
    for name in found.keys() & {"content", "refusal", "top_logprobs"}:
        if isinstance(found[name], list):
            limited[name] = [_limit_token(token, n_asked) for token in found[name]]
    return choice | {"logprobs": limited}


def _limit_token(token, n):
    """Return a token with n alternatives, of which one of completions consists."""
    if not isinstance(token, dict):
        return token
    if isinstance(token.get("top_logprobs"), list):
        return {**token, "top_logprobs": token["top_logprobs"][:n]}
    if all(isinstance(value, (int, float)) for value in token.values()):
        return dict(sorted(token.items(), key=lambda each: -each[1])[:n])
    return token


def stream_answer(answer, include_usage):
    """Yield the events of an answer: chunks like those of OpenAI, and the end.

    Parameters
    ----------
    answer : dict
        Result of `make_answer`.
    include_usage : bool
        Whether the last chunk has the usage.

    Yields
    ------
    event : bytes
        Server-sent event.
    """
    head = {
        k: v for k, v in answer.items() if k not in ("choices", "usage", "skqprobe")
    }
    as_chat = answer["object"] == "chat.completion"
    if as_chat:
        head["object"] = "chat.completion.chunk"
    if include_usage:
        head["usage"] = None
    chunks = _chat_chunks if as_chat else _text_chunks
    report = {"skqprobe": answer["skqprobe"]} if "skqprobe" in answer else {}
    for choice in answer["choices"]:
        for chunk in chunks(choice):
            yield event(head | {"choices": [chunk]})
    if include_usage:
        yield event(head | {"choices": [], "usage": answer.get("usage")} | report)
    elif report:
        yield event(head | {"choices": []} | report)
    yield b"data: [DONE]\n\n"


def event(content):
    """Return an object as a server-sent event."""
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def _chat_chunks(choice):
    message = choice.get("message") or {}
    content, calls = message.get("content"), message.get("tool_calls") or []
    is_text = isinstance(content, str)
    role = {
        "role": message.get("role", "assistant"),
        "content": "" if is_text else None,
    }
    deltas = [role]
    known = {"role", "content", "tool_calls"}
    deltas += [{k: v} for k, v in message.items() if k not in known and v is not None]
    n_before = len(deltas)
    if content:
        deltas += [{"content": p} for p in (_split(content) if is_text else [content])]
    for i, call in enumerate(calls):
        deltas += [{"tool_calls": [part]} for part in _split_call(call, i)]
    log_probs = choice.get("logprobs")
    for i, delta in enumerate(deltas):
        has_them = i == min(n_before, len(deltas) - 1)
        yield _chunk(choice["index"], {"delta": delta}, log_probs if has_them else None)
    yield _chunk(choice["index"], {"delta": {}}) | _rest(choice)


def _text_chunks(choice):
    log_probs = choice.get("logprobs")
    for text in _split(choice.get("text") or ""):
        yield _chunk(choice["index"], {"text": text}, log_probs)
        log_probs = None
    yield _chunk(choice["index"], {"text": ""}, log_probs) | _rest(choice)


def _chunk(index, content, log_probs=None):
    return {"index": index, **content, "logprobs": log_probs, "finish_reason": None}


def _rest(choice):
    """Return the reason why a choice ended, and fields that are not of OpenAI."""
    left_out = ("index", "message", "text", "logprobs")
    return {name: value for name, value in choice.items() if name not in left_out}


def _split(text):
    """Split a text into pieces of 32 characters."""
    return re.findall(r".{1,32}", text, re.DOTALL)


def _split_call(call, i):
    """Return a call of a tool as its head and its arguments."""
    function = call.get("function") if isinstance(call, dict) else None
    if not (isinstance(function, dict) and isinstance(function.get("arguments"), str)):
        return [{**call, "index": i} if isinstance(call, dict) else call]
    head = {**call, "index": i, "function": function | {"arguments": ""}}
    rest = {"index": i, "function": {"arguments": function["arguments"]}}
    return [head, rest]
