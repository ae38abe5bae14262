"""Readers of answers: one class of errors, which name the field."""

import json

import numpy as np
import pytest

from skqprobe._backends.answers import read_completions, read_embeddings, read_json
from skqprobe._backends.http_client import AnswerError, APIError

CHOICE = {"text": "a", "finish_reason": "stop", "logprobs": None}
CHAT = {"message": {"content": "a"}, "finish_reason": "stop", "logprobs": None}

MALFORMED = {
    "choices": [5, "a", {"0": CHAT}, True],
    "choices[0]": [3, "a", [CHAT]],
    "choices[0].message": ["a", 5, ["a"], True],
    "choices[0].message.content": [5, {"text": "a"}, True],
    "choices[0].message.content[0]": [[5], [None], [{"text": 5}], [["a"]]],
    "choices[0].message.tool_calls": [5, "a", {"id": 1}],
    "choices[0].finish_reason": [5, ["stop"], {}, True],
    "choices[0].logprobs": [5, "a", [1], True],
    "choices[0].logprobs.content": [5, "a", {"logprob": 1}],
    "choices[0].logprobs.content[0]": [[5], ["a"], [None]],
    "choices[0].logprobs.token_logprobs": [5, "a", {}],
    "log-probability 0 in choices[0].logprobs": [["a"], [[1]], [True], [{}]],
}
CASES = [(field, value) for field, values in MALFORMED.items() for value in values]


def answer_with(field, value):
    """Return an answer with a value in a field."""
    if field == "choices":
        return {"choices": value}
    choice, name = dict(CHAT), field.rpartition(".")[2]
    if field == "choices[0]":
        choice = value
    elif name in ("message", "finish_reason") or field == "choices[0].logprobs":
        choice[name] = value
    elif field.startswith("choices[0].message"):
        choice["message"] = {name.removesuffix("[0]"): value}
    elif field.startswith("log-probability"):
        choice["logprobs"] = {"token_logprobs": value}
    else:
        choice["logprobs"] = {name.removesuffix("[0]"): value}
    return {"choices": [choice]}


@pytest.mark.parametrize(("field", "value"), CASES)
def test_a_malformed_field_is_named(field, value):
    with pytest.raises(AnswerError, match="the answer is malformed: ") as raised:
        read_completions(answer_with(field, value), as_chat=True)
    assert field in str(raised.value)


@pytest.mark.parametrize("logprob", ["a", [1], {}, True])
def test_a_malformed_log_probability_of_a_chat(logprob):
    answer = answer_with("choices[0].logprobs.content", [{"logprob": logprob}])
    with pytest.raises(AnswerError, match=r"log-probability 0 in choices\[0\]\.logpr"):
        read_completions(answer, as_chat=True)


@pytest.mark.parametrize(
    "logprobs",
    [
        {"content": [{"top_logprobs": [{"logprob": value}, {"logprob": value}]}]}
        for value in ("a", None, [-1], {}, 10**400, float("nan"))
    ]
    + [{"content": [{"top_logprobs": value}]} for value in (None, 3, [], [3], "ab")]
    + [{"content": [{}]}, {"top_logprobs": [3]}, {"top_logprobs": [{}]}],
)
def test_likeliest_tokens_that_are_unknown(logprobs):
    answer = {"choices": [CHAT | {"logprobs": logprobs}]}
    for token in logprobs.get("content", []):
        token["logprob"] = -1.0
    [completion] = read_completions(answer, as_chat=True)
    assert completion["likeliest"] is None


def test_likeliest_tokens():
    tops = [{"logprob": -(10**300)}, {"logprob": -1}]
    for logprobs in (
        {"content": [{"logprob": -1, "top_logprobs": tops}]},
        {"content": None, "top_logprobs": [{"a": -1e300, "b": -1.0}]},
    ):
        answer = {"choices": [CHAT | {"logprobs": logprobs}]}
        [completion] = read_completions(answer, as_chat=True)
        np.testing.assert_array_equal(completion["likeliest"], [[-1e300, -1]])


def test_what_may_be_missing():
    for choice in ({"message": {"content": "a"}}, CHAT | {"index": "x"}):
        for usage in ({}, {"usage": None}, {"usage": 5}, {"usage": {}}):
            answer = {"choices": [choice]} | usage
            [completion] = read_completions(answer, as_chat=True)
            assert completion["text"] == "a"
            assert completion["n_tokens"] is completion["log_probs"] is None
    for n_tokens in ("a", 1.5, True, None, [1]):
        answer = {"choices": [CHOICE], "usage": {"completion_tokens": n_tokens}}
        [completion] = read_completions(answer, as_chat=False)
        assert completion["n_tokens"] is None


def test_numbers_of_any_size():
    for value, expected in (
        (10**400, None),
        (-(10**400), None),
        (float("nan"), None),
        (float("-inf"), None),
        (None, None),
        (-3, [-3.0]),
    ):
        answer = answer_with("choices[0].logprobs.token_logprobs", [value])
        [completion] = read_completions(answer, as_chat=True)
        assert completion["log_probs"] == expected
    rows = read_embeddings({"data": [{"embedding": [1, -(10**300)]}]}, 1, None)
    np.testing.assert_array_equal(rows, [[1, -1e300]])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b"null",
        b'"a"',
        b"\xff\xfe\xfd",
        b"[" * 200_000 + b"]" * 200_000,
        b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
        b'{"data": ' + b"9" * 5000 + b"}",
    ],
    ids=range(10),
)
def test_what_is_no_json_object(content):
    with pytest.raises(AnswerError, match="Check base_url, which often ends with /v1"):
        read_json(content)


def test_arguments_of_tools_that_are_nested_deeply():
    function = {"name": "f", "arguments": "[" * 200_000}
    message = {"content": None, "tool_calls": [{"function": function}, 5, {"a": 1}]}
    [completion] = read_completions({"choices": [{"message": message}]}, as_chat=True)
    assert len(json.loads(completion["text"])) == 3
    nested: list = []
    for _ in range(5000):
        nested = [nested]
    message = {"tool_calls": [{"function": {"arguments": nested}}]}
    with pytest.raises(AnswerError, match="nested too deeply"):
        read_completions({"choices": [{"message": message}]}, as_chat=True)


def test_errors_of_all_choices():
    failed = {"error": {"message": "too long", "code": 400}}
    with pytest.raises(APIError, match="reports an error: too long") as raised:
        read_completions({"choices": [failed, failed]}, as_chat=True)
    assert raised.value.status == 400
    with pytest.raises(APIError, match="reports an error: no message"):
        read_completions({"choices": [{"finish_reason": "error"}]}, as_chat=True)
    texts = read_completions({"choices": [failed, CHOICE]}, as_chat=False)
    assert [completion["text"] for completion in texts] == ["a"]
