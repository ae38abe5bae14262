"""Streams: chunks as those of OpenAI, comments while drawing, errors in the stream."""

import json

import pytest
from serving import CHAT, fault, hang, refusal


def events_of(answer):
    """Return the objects of a stream, and check its end."""
    assert answer.headers["content-type"] == "text/event-stream"
    lines = [line for line in answer.text.split("\n\n") if line]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_a_chat_is_streamed_like_one_of_openai(client, upstream):
    answer = client.chat(stream=True)
    assert answer.headers["x-skqprobe-choice"] == "pipeline"
    chunks = events_of(answer)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["model"] for chunk in chunks} == {"tiny"}
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert choices[1]["delta"] == {"content": "hi aaaaaaa"}
    assert choices[2]["delta"] == {} and len(choices) == 3
    assert [choice["finish_reason"] for choice in choices] == [None, None, "stop"]
    assert {choice["index"] for choice in choices} == {0}
    assert not any("usage" in chunk for chunk in chunks)
    assert "stream" not in upstream.requests[0]


def test_long_texts_come_in_pieces(client, upstream):
    text = "a\n\U0001f600 " * 50
    upstream.make_message = lambda _: {"role": "assistant", "content": text}
    chunks = events_of(client.chat(stream=True))
    pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "".join(pieces) == text and len(pieces) > 5


def test_calls_of_tools_and_other_fields_are_streamed(client, upstream):
    function = {"name": "f", "arguments": '{"x": 1}'}
    call = {"id": "call_1", "type": "function", "function": function}
    custom = {"id": "call_2", "type": "custom", "custom": {"name": "g", "input": "x"}}
    # Some servers number all of them 0, and the official client would join them.
    call, custom = call | {"index": 0}, custom | {"index": 0}
    upstream.make_message = lambda _: {
        "role": "assistant",
        "content": None,
        "reasoning_content": "hm",
        "refusal": None,
        "tool_calls": [call, custom],
    }
    chunks = events_of(client.chat(stream=True))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    head = {**call, "function": {"name": "f", "arguments": ""}}
    assert deltas == [
        {"role": "assistant", "content": None},
        {"reasoning_content": "hm"},
        {"tool_calls": [head]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"x": 1}'}}]},
        {"tool_calls": [custom | {"index": 1}]},
        {},
    ]


def test_usage_and_report_come_in_the_last_chunk(client):
    asked = {"stream_options": {"include_usage": True}, "skqprobe": {"k": 4}}
    *chunks, last = events_of(client.chat(stream=True, **asked))
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 12
    assert last["skqprobe"]["drawn"] == 4
    *_, last = events_of(client.chat(stream=True, skqprobe={}))
    assert last["choices"] == [] and "usage" not in last and "skqprobe" in last


def test_several_choices_and_log_probs(client):
    chunks = events_of(client.chat(stream=True, n=2, logprobs=True, top_logprobs=1))
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    for index, n_letters in (0, 7), (1, 6):
        own = [choice for choice in choices if choice["index"] == index]
        text = "".join(choice["delta"].get("content", "") for choice in own)
        assert text == "hi " + "a" * n_letters
        tokens = [choice["logprobs"]["content"] for choice in own if choice["logprobs"]]
        assert [len(each) for each in tokens] == [n_letters + 1]


def test_texts_are_streamed(client):
    body = {"model": "tiny", "prompt": "once", "stream": True}
    chunks = events_of(client.post("/v1/completions", body))
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["text"] for choice in choices] == ["once aaaaaaa", ""]
    assert [choice["finish_reason"] for choice in choices] == [None, "stop"]


def test_comments_keep_a_stream_alive(make_client, upstream):
    upstream.latency = 0.5
    answer = make_client(keep_alive=0.1).chat(stream=True)
    comments, first, _ = answer.text.partition("data: ")
    assert comments == ": keep-alive\n\n" * comments.count("k") and first
    assert comments.count("keep-alive") >= 2
    assert answer.text.endswith("data: [DONE]\n\n")
    assert "x-skqprobe-score" not in answer.headers  # they had gone out


def test_an_error_before_the_stream_has_its_status(client, upstream):
    upstream.fault = lambda body: refusal(401)
    answer = client.chat(stream=True)
    assert answer.status_code == 401
    assert answer.json()["error"]["message"] == "scripted"


@pytest.mark.parametrize("kind", ["refused", "not JSON", "too late"])
def test_an_error_after_the_status_is_in_the_stream(make_client, upstream, kind):
    upstream.latency = 0.3
    faults = {
        "refused": refusal(401),
        "not JSON": fault(b"no", 403, content_type="text/plain"),
        "too late": hang,
    }
    upstream.fault = lambda body: faults[kind]
    client = make_client(keep_alive=0.1, max_retries=0, timeout=1.0)
    answer = client.chat(stream=True)
    assert answer.status_code == 200
    *comments, last = [part for part in answer.text.split("\n\n") if part]
    assert set(comments) == {": keep-alive"}
    assert json.loads(last.removeprefix("data: "))["error"]["message"]


def test_a_stream_of_one_candidate_is_that_of_the_upstream(make_client, upstream):
    upstream.fault = lambda body: fault(b"data: [DONE]\n\n", content_type="text/own")
    answer = make_client(k=1).chat(stream=True)
    assert answer.text == "data: [DONE]\n\n"
    assert answer.headers["content-type"] == "text/own"
    assert upstream.requests == [CHAT | {"stream": True}]
