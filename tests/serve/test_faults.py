"""Faults of the upstream, the pipeline and the clients."""

import asyncio
import logging
import time

import httpx
import numpy as np
import pytest
from serving import (
    CHAT,
    connect,
    count_a,
    cut,
    drip,
    fault,
    hang,
    make_pipeline_of_a,
    refusal,
    run_server,
    send_raw,
)
from sklearn.pipeline import make_pipeline

from skqprobe import QProbePolicy
from skqprobe.embedders import VectorizerEmbedder


def text_of(answer):
    return answer.json()["choices"][0]["message"]["content"]


def fail_first(n, make_fault):
    """Return a function of requests: the first n have a fault."""
    faults = iter([make_fault] * n)
    return lambda body: next(faults, None)


def test_some_draws_failed(make_client, upstream):
    upstream.fault = fail_first(3, refusal(500))
    answer = make_client(n_per_request=1).chat()
    assert answer.status_code == 200
    assert answer.headers["x-skqprobe-drawn"] == "5"
    assert answer.headers["x-skqprobe-failed"] == "3"
    assert len(upstream.requests) == 8


TRANSIENT = {
    "500": refusal(500),
    "503": refusal(503),
    "broken": cut,
    "no JSON": fault(b"oops"),
    "no choices": fault({"choices": []}),
    "malformed": fault({"choices": [{"message": 3}]}),
}


@pytest.mark.parametrize("name", TRANSIENT)
def test_if_all_draws_fail_they_are_repeated(client, upstream, name):
    upstream.fault = fail_first(2, TRANSIENT[name])
    answer = client.chat()
    assert answer.status_code == 200 and text_of(answer) == "hi aaaaaaa"
    assert len(upstream.requests) == 3


def test_the_error_of_the_upstream_reaches_the_client(client, upstream):
    for status in (400, 401, 404, 429):
        upstream.fault = lambda body, s=status: refusal(s, retry_after="7")
        upstream.requests.clear()
        answer = client.chat()
        assert answer.status_code == status
        assert answer.json() == {"error": {"message": "scripted", "code": "own"}}
        assert answer.headers["retry-after"] == "7"
        assert len(upstream.requests) == 1
    upstream.fault = lambda body: fault(b"<b>no</b>", 418, content_type="text/html")
    answer = client.chat()
    assert (answer.status_code, answer.text) == (418, "<b>no</b>")
    assert answer.headers["content-type"] == "text/html"
    upstream.fault = lambda body: refusal(
        400, x_request_id="日".encode().decode("latin-1")
    )
    assert client.chat().status_code == 400


def test_an_address_that_is_too_long_upstream(make_client, upstream):
    with run_server(make_client().app) as url:
        head = b"GET /v1/%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert b" 502 " in send_raw(url, head % (b"|" * 30_000))


def test_no_connection():
    pytest.importorskip("starlette")
    from skqprobe.serve import create_app

    app = create_app(make_pipeline_of_a(), "http://127.0.0.1:9/v1", max_retries=0)
    with run_server(app) as url:
        for k in 1, 8:
            body = CHAT | {"skqprobe": {"k": k}}
            answer = httpx.post(f"{url}/chat/completions", json=body)
            assert answer.status_code == 502
            assert "connection to the upstream failed" in answer.text


def test_an_error_in_an_answer_of_http_200(make_client, upstream):
    upstream.fault = lambda body: fault({"error": {"message": "busy", "code": 503}})
    answer = make_client(max_retries=0).chat()
    assert answer.status_code == 503 and "busy" in answer.text


@pytest.mark.parametrize("slow", [hang, drip])
def test_at_the_time_limit_what_is_there_is_chosen_from(make_client, upstream, slow):
    upstream.fault = fail_first(3, slow)
    client = make_client(n_per_request=1, timeout=1.0)
    answer = client.chat()
    assert answer.status_code == 200
    assert answer.headers["x-skqprobe-drawn"] == "5"
    assert answer.elapsed.total_seconds() < 2.5
    assert wait_until(lambda: upstream.n_cancelled == 3)
    upstream.fault = lambda body: slow
    assert client.chat().status_code == 504


def wait_until(condition):
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


class Failing(VectorizerEmbedder):
    """Embedder that fails for texts with the word "bad", or is slow for "slow"."""

    def embed_batch(self, texts):
        if any("bad" in text for text in texts):
            raise RuntimeError("secret prompt")
        if any("slow" in text for text in texts):
            time.sleep(2.0)
        return super().embed_batch(texts)


def make_failing_pipeline():
    records = [{"prompt": "x", "completions": ["a" * i, "b"]} for i in range(1, 6)]
    policy = QProbePolicy("squared_error", alpha=1e-9)
    embedder = Failing(count_a, join=lambda prompt, completion: completion)
    return make_pipeline(embedder, policy).fit(records, [[i, 0] for i in range(1, 6)])


def chat_with(word):
    return {"messages": [{"role": "user", "content": word}]}


def test_if_the_pipeline_fails_the_first_candidate_is_flagged(make_client, caplog):
    client = make_client(make_failing_pipeline())
    answer = client.chat(**chat_with("bad"))
    assert answer.status_code == 200 and text_of(answer) == "bad aa"
    assert answer.headers["x-skqprobe-choice"] == "first"
    assert "x-skqprobe-score" not in answer.headers
    assert "RuntimeError" in caplog.text
    shown = [r for r in caplog.records if r.levelno >= logging.INFO]
    assert not any("secret prompt" in record.getMessage() for record in shown)
    report = client.chat(skqprobe={"return_candidates": True}, **chat_with("bad"))
    assert len(report.json()["skqprobe"]["candidates"]) == 8


def test_if_the_pipeline_fails_the_answer_may_be_an_error(make_client):
    client = make_client(make_failing_pipeline(), on_error="error")
    answer = client.chat(**chat_with("bad"))
    assert answer.status_code == 502
    assert answer.json()["error"]["type"] == "choice_error"
    assert client.chat(**chat_with("good")).status_code == 200


def test_a_request_that_fails_does_not_fail_those_of_its_batch(make_client, upstream):
    upstream.latency = 0.1
    client = make_client(make_failing_pipeline(), batch_wait=0.1)
    words = ["good", "bad", "fine"]
    post = [
        ("POST", "/v1/chat/completions", {"json": CHAT | chat_with(word)})
        for word in words
    ]
    answers = client.send_all(*post)
    rules = [answer.headers["x-skqprobe-choice"] for answer in answers]
    assert rules == ["pipeline", "first", "pipeline"]


def test_a_slow_pipeline_ends_at_the_time_limit(make_client):
    client = make_client(make_failing_pipeline(), timeout=1.0)
    answer = client.chat(**chat_with("slow"))
    assert answer.headers["x-skqprobe-choice"] == "first"
    assert answer.elapsed.total_seconds() < 1.8


def test_values_that_are_not_finite_choose_nothing(make_client, upstream):
    X = np.ones((2, 2, 1))
    policy = QProbePolicy("squared_error").fit(X, X[..., 0])
    upstream.log_probs = lambda text, body: None
    answer = make_client(policy, embeddings="log_likelihoods").chat()
    assert answer.status_code == 200
    assert answer.headers["x-skqprobe-choice"] == "first"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("k", [1, 8])
def test_requests_of_a_client_that_is_gone_are_cancelled(
    make_client, upstream, k, stream
):
    upstream.fault = lambda body: hang
    client = make_client(n_per_request=1, keep_alive=0.05)
    with run_server(client.app) as url:
        body = CHAT | {"stream": stream, "skqprobe": {"k": k}}

        async def leave():
            async with httpx.AsyncClient() as http:
                post = asyncio.create_task(
                    http.post(f"{url}/chat/completions", json=body)
                )
                while len(upstream.requests) < k:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.2 if stream else 0)  # the stream has begun
                post.cancel()

        asyncio.run(asyncio.wait_for(leave(), 10))
        assert wait_until(lambda: upstream.n_cancelled == k)


def test_beyond_the_bound_requests_are_refused(make_client, upstream):
    upstream.latency = 0.3
    client = make_client(max_requests=3)
    post = "POST", "/v1/chat/completions", {"json": CHAT}
    answers = client.send_all(*[post] * 5, ("GET", "/health", {}))
    assert [answer.status_code for answer in answers] == [200] * 3 + [429] * 2 + [200]
    assert answers[3].headers["retry-after"] == "1"
    assert answers[3].json()["error"]["type"] == "rate_limit_error"
    assert client.chat().status_code == 200


def test_bodies_are_bounded(make_client, upstream):
    client = make_client(max_body_bytes=1000, max_answer_bytes=3000, max_retries=0)
    for path in "/v1/chat/completions", "/v1/files":
        answer = client.post(path, content=b"x" * 1001)
        assert answer.status_code == 413
    assert upstream.requests == []
    assert client.chat(skqprobe={"k": 2}).status_code == 200
    answer = client.chat(skqprobe={"k": 32})
    assert answer.status_code == 502 and "more than 3000 bytes" in answer.text


def test_requests_that_do_not_end_are_refused(make_client):
    with run_server(make_client(timeout=0.5).app) as url:
        for path in b"chat/completions", b"files":
            head = b"POST /v1/%s HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"
            assert b" 408 " in send_raw(url, head % path)


def test_a_client_that_does_not_read_is_left(make_client, upstream):
    upstream.fault = lambda body: fault(b"x" * 2**25)
    client = make_client(timeout=0.5)

    def n_under_way():
        return "skqprobe_requests_under_way 1.0" in client.get("/metrics").text

    with run_server(client.app) as url, connect(url) as connection:
        connection.sendall(b"GET /v1/file HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wait_until(n_under_way)
        assert wait_until(lambda: not n_under_way())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(client, content):
    answer = client.post("/v1/chat/completions", content=content)
    assert answer.status_code == 400
    assert "must be a JSON object" in answer.json()["error"]["message"]
