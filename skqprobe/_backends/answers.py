"""Readers of the answers of OpenAI-compatible servers, which may hold anything."""

import json
import re
from contextlib import suppress
from types import NoneType
from typing import Any

import numpy as np

from skqprobe._backends.http_client import AnswerError, APIError


def read_json(content):
    """Return the JSON object that an answer holds.

    Parameters
    ----------
    content : bytes
        Content of the answer, whatever its declared type.

    Returns
    -------
    answer : dict
        The object.

    Raises
    ------
    AnswerError
        If the content is not a JSON object.
    APIError
        If it is the report of an error.
    """
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):  # too long a number, or nested too deeply
        answer = None
        problem = "is not JSON"
    else:
        problem = f"is malformed: {shorten(answer)}"
    if not isinstance(answer, dict):
        raise AnswerError(
            f"the answer {problem}. Check base_url, which often ends with /v1."
        )
    if answer.get("error"):
        raise reported_error(answer["error"])
    return answer


def read_embeddings(answer, n_texts, dimensions):
    """Return the embeddings of an answer, in the order of the texts.

    Parameters
    ----------
    answer : dict
        The answer.
    n_texts : int
        Number of texts in the request.
    dimensions : int or None
        Length of the embeddings that was requested.

    Returns
    -------
    rows : list of (ndarray of shape (n_features,), or AnswerError)
        An embedding per text. An error in place of one that is missing or not finite.

    Raises
    ------
    AnswerError
        If there is not one embedding for each text, or if embeddings are not lists of
        numbers, or have different lengths.
    """
    data = _get(answer, "data", list, "") or []
    if len(data) != n_texts:
        raise AnswerError(
            f"the server returned {len(data)} embeddings for {n_texts} texts. If it "
            "cannot take many texts at a time, reduce batch_size."
        )
    rows: list = [None] * n_texts
    for i, entry in enumerate(data):
        _check(entry, dict, f"data[{i}]")
    indices = [entry.get("index") for entry in data]
    if indices.count(None) == 1:  # some servers leave out an index of 0
        given = {index for index in indices if type(index) is int}
        indices[indices.index(None)] = min(set(range(n_texts)) - given)
    indices = [i if index is None else index for i, index in enumerate(indices)]
    if any(type(index) is not int for index in indices) or (
        sorted(indices) != list(range(n_texts))
    ):
        raise AnswerError(
            "the answer does not show which embedding belongs to which text: the "
            f"indices of {n_texts} embeddings are {shorten(indices)}."
        )
    for i, index in enumerate(indices):
        rows[index] = _read_vector(data[i].get("embedding"), f"data[{i}].embedding")
    lengths = {len(row) for row in rows if isinstance(row, np.ndarray)}
    if len(lengths) > 1:
        raise AnswerError(
            f"the server returned embeddings of different lengths: {sorted(lengths)}. "
            "Check that one model answers all requests."
        )
    if dimensions is not None and lengths and lengths != {dimensions}:
        raise AnswerError(
            f"dimensions={dimensions}, but the server returned embeddings of length "
            f"{lengths.pop()}. If the model cannot shorten them, leave dimensions out."
        )
    return rows


def _read_vector(row, name):
    """Return an embedding, or the reason why there is none."""
    if isinstance(row, str):
        raise AnswerError(
            "the server returned embeddings in base64, but numbers were requested "
            "(encoding_format='float'). The server is not compatible."
        )
    _check(row, (list, NoneType), name)
    if not row:
        return AnswerError(f"the server returned {row} in place of its embedding")
    if isinstance(row[0], list):
        raise AnswerError(
            "the server returned an embedding for each token, not for the text. "
            "Start it with pooling, such as --pooling mean or --pooling last."
        )
    if not {type(value) for value in row} <= {int, float, NoneType}:
        raise AnswerError(f"{name} has values that are not numbers.")
    try:
        values = np.array(row, dtype=np.float64)
    except OverflowError:
        values = np.array([np.inf])
    if not np.isfinite(values).all():
        return AnswerError(
            "the server returned NaN, null or infinity in its embedding. Check that "
            "the text is not too long for the model"
        )
    return values


def read_completions(answer, as_chat):
    """Return the completions of an answer.

    Parameters
    ----------
    answer : dict
        The answer.
    as_chat : bool
        Whether it comes from the chat endpoint.

    Returns
    -------
    completions : list of dict
        At least one completion. The keys are "text"; "instead", the name of the field
        that the model filled if it returned no text; "tool_calls", a list or None;
        "refusal", a text or None; "finish_reason"; "log_probs", a list of floats or
        None; "likeliest", an array per token of the log-probabilities of two or more of
        the likeliest tokens, or None; and "n_tokens", the number of tokens that the
        server reports for all of them, or None.

    Raises
    ------
    AnswerError
        If the answer has no completions, or a field of another type.
    APIError
        If all completions are errors.
    """
    choices = _get(answer, "choices", list, "") or []
    completions, errors = [], []
    for i, choice in enumerate(choices):
        _check(choice, dict, f"choices[{i}]")
        reason = _get(choice, "finish_reason", str, f"choices[{i}].")
        if choice.get("error") or reason == "error":
            errors.append(choice.get("error") or "no message")
        else:
            completions.append(_read_completion(choice, f"choices[{i}].", as_chat))
    if errors and not completions:
        raise reported_error(errors[0])
    if not completions:
        raise AnswerError("the server returned an answer without completions.")
    n_tokens = _count_tokens(answer)
    return [completion | {"n_tokens": n_tokens} for completion in completions]


def reported_error(error):
    """Convert an error that a server reports inside an answer of HTTP status 200."""
    code = error.get("code") if isinstance(error, dict) else None
    said = message_of(error)
    return APIError(
        f"the server reports an error: {shorten(said)}.",
        code if type(code) is int else None,
        said,
    )


def message_of(error):
    """Return the text of an error of a server."""
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        error = error["message"]
    return " ".join(shorten(error, 10_000).split()).rstrip(".")


def _count_tokens(answer):
    usage = answer.get("usage")
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return count if type(count) is int and count >= 0 else None


def _read_completion(choice, path, as_chat):
    fields, key, place = choice, "text", path
    if as_chat:
        fields = _get(choice, "message", dict, path) or {}
        key, place = "content", f"{path}message."
    text, instead = _read_text(fields.get(key), place + key), None
    refusal = _read_refusal(fields)
    tool_calls = _get(fields, "tool_calls", list, place) or None
    if tool_calls is not None:
        text = "\n".join(filter(None, [text, _canonical(tool_calls)]))
    if not text:
        filled = (name for name in fields if fields[name] and name not in _PLAIN)
        instead = next(filled, "no field" if fields.get(key) is None else None)
        if instead == key and refusal:
            instead = "refusal"
        if instead is not None and not re.fullmatch(r"[\w ]{1,40}", instead):
            instead = "another field"
    return {
        "text": text,
        "instead": instead,
        "tool_calls": tool_calls,
        "refusal": refusal,
        "finish_reason": choice.get("finish_reason"),
        "log_probs": _read_log_probs(choice, path),
        "likeliest": _read_likeliest(choice.get("logprobs")),
    }


_PLAIN = {"role", "index", "finish_reason", "stop_reason", "logprobs", "name"}
"""Fields that hold nothing that a model said."""


def _read_text(content, name):
    """Return the text of a completion, which may be a list of parts."""
    _check(content, (str, list, NoneType), name)
    if isinstance(content, list):
        parts = [
            part.get("text") or "" if isinstance(part, dict) else part
            for part in content
        ]
        for i, part in enumerate(parts):
            _check(part, str, f"the text of {name}[{i}]")
        content = "".join(parts)
    return join_surrogates(content or "")


def _read_refusal(fields):
    """Return the text of a refusal, in its own field or in parts of the content."""
    content = fields.get("content")
    parts = content if isinstance(content, list) else []
    said = (part.get("refusal") for part in [fields, *parts] if isinstance(part, dict))
    texts = [text for text in said if isinstance(text, str) and text]
    return join_surrogates("\n".join(texts)) or None


def join_surrogates(text):
    """Join the halves of surrogate pairs, and replace single ones.

    Escapes in JSON may be such halves, which no file can hold.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _canonical(tool_calls):
    """Return calls of tools as a text that does not depend on their ids and layout."""
    calls = []
    for call in tool_calls:
        function = call.get("function") if isinstance(call, dict) else None
        function = function if isinstance(function, dict) else {"call": call}
        arguments: Any = function.get("arguments")
        with suppress(TypeError, ValueError, RecursionError):
            arguments = json.loads(arguments)
        calls.append({**function, "arguments": arguments})
    try:
        return json.dumps(calls, sort_keys=True)
    except RecursionError:
        raise AnswerError("tool_calls are nested too deeply.") from None


def _read_log_probs(choice, path):
    """Return the log-probabilities of the tokens; None if one is unknown."""
    name = f"{path}logprobs"
    logprobs = _get(choice, "logprobs", dict, path) or {}
    tokens = _get(logprobs, "content", list, f"{name}.")
    if tokens is not None:  # chat, and llama.cpp always
        for i, token in enumerate(tokens):
            _check(token, dict, f"{name}.content[{i}]")
        values = [token.get("logprob") for token in tokens]
    else:
        values = _get(logprobs, "token_logprobs", list, f"{name}.")
        if values is None:
            return None
    for i, value in enumerate(values):
        _check(value, (int, float, NoneType), f"log-probability {i} in {name}")
    known = all(value is not None and abs(value) < _BOUND for value in values)
    return [float(value) for value in values] if known else None


def _read_likeliest(logprobs):
    """Return log-probabilities of the likeliest tokens; None if some are unknown."""
    try:
        if logprobs.get("content") is not None:
            tokens = [token["top_logprobs"] for token in logprobs["content"]]
            values = [[entry["logprob"] for entry in row] for row in tokens]
        else:
            values = [[*row.values()] for row in logprobs["top_logprobs"]]
        rows = [np.array(row, dtype=np.float64) for row in values]
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return None
    known = all(row.ndim == 1 < row.size and not np.isnan(row).any() for row in rows)
    return rows if known else None


_BOUND = 1e12
"""Bound of log-probabilities; their sum is finite."""


def _get(fields, key, kind, path):
    """Return a field of a given type; None if it is missing or null."""
    value = fields.get(key)
    return None if value is None else _check(value, kind, path + key)


def _check(value, kind, name):
    """Return a value if it has one of the types, and raise an error otherwise."""
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join(dict.fromkeys(_NAMES[kind] for kind in kinds))
        raise AnswerError(
            f"the answer is malformed: {name} must be {names}; got {shorten(value)}."
        )
    return value


_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a number",
    float: "a number",
    NoneType: "null",
}


def shorten(value, n_chars=300):
    """Return the beginning of a value as text."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or too long a number
        text = f"a {type(value).__name__}"
    return text if len(text) <= n_chars else text[: n_chars - 3] + "..."
