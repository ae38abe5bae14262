"""Answers of the upstream that may hold anything, and requests that may, too."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import CHAT, fault, refusal

from skqprobe import QProbePolicy

VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
VALUES |= st.floats(allow_nan=False, allow_infinity=False)
NAMES = [
    "content",
    "tool_calls",
    "logprobs",
    "top_logprobs",
    "logprob",
    "message",
    "text",
    "role",
    "refusal",
    "function",
    "arguments",
    "finish_reason",
    "index",
    "usage",
    "model",
    "id",
    "error",
]
FIELDS = [
    "n",
    "model",
    "stream",
    "stream_options",
    "logprobs",
    "skqprobe",
    "messages",
    "prompt",
    "seed",
    "best_of",
    "temperature",
]


def extend(inner):
    """Return lists and objects of values."""
    names = st.sampled_from(NAMES)
    return st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4)


JSON = st.recursive(VALUES, extend, max_leaves=12)


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("columns", [None, "mean_entropies"])
def test_any_answer_of_the_upstream(make_client, upstream, columns, stream):
    pipeline = None if columns is None else make_policy()
    client = make_client(pipeline, embeddings=columns, max_retries=0)

    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(
        message=JSON, log_probs=JSON, rest=st.dictionaries(st.text(max_size=3), JSON)
    )
    def check(message, log_probs, rest):
        choice = {"message": message, "logprobs": log_probs}
        answer = {"choices": [rest | choice] * 3, "usage": message, **rest}
        upstream.fault = lambda body: fault(answer)
        for options in {}, {"logprobs": True, "top_logprobs": 1, "n": 2}:
            found = client.chat(stream=stream, skqprobe={"k": 3}, **options)
            assert found.status_code in (200, 502) or "error" in answer

    check()


def make_policy():
    X = np.random.default_rng(0).normal(size=(4, 3, 1))
    return QProbePolicy("squared_error").fit(X, X[..., 0])


@pytest.mark.slow
def test_any_request(client, upstream):
    upstream.fault = lambda body: refusal(400)

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(st.dictionaries(st.sampled_from(FIELDS), JSON))
    def check(body):
        for path in "/v1/chat/completions", "/v1/completions", "/v1/feedback":
            assert client.post(path, CHAT | body).status_code in (400, 404)

    check()
