"""Limits of the HTTP client: time, size, encodings and redirects."""

import gzip
import json
import time
import tracemalloc
import zlib

import pytest
from openai_server import Faults, ScriptedServer

from skqprobe.embedders import OpenAIEmbedder
from skqprobe.generators import OpenAIGenerator

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def embed(server, texts=("a", "bc"), **settings):
    settings = {"base_url": server.url, "max_retries": 0} | settings
    return OpenAIEmbedder("model", **settings).transform(list(texts))


@pytest.fixture
def other():
    server = ScriptedServer()
    yield server
    server.close()


# Each byte arrives long before the timeout of a read.
SLOW = {
    "headers": Faults.stream(b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.05),
    "body": Faults.stream(HEAD + b"Content-Length: 9999\r\n\r\n", b"[", 0.05),
    "chunks": Faults.stream(CHUNKED, b"1\r\n[\r\n", 0.05),
    "size of a chunk": Faults.stream(CHUNKED + b"1;", b"x", 0.05),
    "gzip without content": Faults.stream(
        HEAD + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08\0\0\0\0\0\0\3",
        b"\0\0\0\xff\xff",
        0.05,
    ),
}


@pytest.mark.parametrize("fault", SLOW.values(), ids=SLOW)
def test_an_answer_that_never_ends_is_left_at_the_timeout(server, fault):
    server.script = [fault]
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=r"no complete answer within timeout=0\.5"):
        embed(server, timeout=0.5, max_retries=5)
    assert 0.4 < time.monotonic() - start < 2
    assert len(server.requests) == 1


def test_the_deadline_is_that_of_each_request(server):
    # The second request uses the connection of the first.
    slow = server.stream(HEAD + b"Content-Length: 999\r\n\r\n", b"[", 0.05)
    server.fault = lambda path, body: slow if body["input"] == ["a"] else None
    with pytest.raises(RuntimeError, match=r"1 of 2 texts are done"):
        embed(server, timeout=0.5, batch_size=1, concurrency=1)
    server.fault = lambda path, body: (
        lambda handler, answer: (
            time.sleep(0.3),
            handler.reply(200, json.dumps(answer)),
        )
    )
    texts = "abcd"
    assert len(embed(server, texts, timeout=0.6, batch_size=1, concurrency=1)) == 4


def test_each_retry_has_a_deadline_of_its_own(server, slept):
    server.script = [server.hang, server.hang]
    assert embed(server, timeout=0.3, max_retries=2).shape == (2, 3)
    assert len(server.requests) == 3


LARGE = {
    "body": Faults.stream(HEAD + b"\r\n", b"[" * 2**16),
    "chunks": Faults.stream(CHUNKED, b"10000\r\n" + b"[" * 2**16 + b"\r\n"),
    "gzip": Faults.send(gzip.compress(b"[" * 2**26), {"Content-Encoding": "gzip"}),
    "an error": Faults.stream(HEAD.replace(b"200", b"400") + b"\r\n", b"[" * 2**16),
}


@pytest.mark.parametrize("fault", LARGE.values(), ids=LARGE)
def test_a_large_answer_is_not_read_to_its_end(server, slept, fault):
    server.script = [fault]
    tracemalloc.start()
    with pytest.raises(RuntimeError, match="more than max_answer_bytes=1000000 bytes"):
        embed(server, max_answer_bytes=10**6, max_retries=3)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert len(server.requests) == 1
    assert server.n_sent < 50e6


def test_the_default_limit(server):
    server.script = [LARGE["body"]]
    with pytest.raises(RuntimeError, match=r"OpenAIGenerator: .*=33554432 bytes"):
        OpenAIGenerator("m", base_url=server.url, max_retries=0).generate(["a"], 1)


def test_the_limit_is_exact(server):
    content = json.dumps(server.answer("/embeddings", {"input": ["a", "bc"]})).encode()
    for encode, headers in (
        (bytes, {}),
        (gzip.compress, {"Content-Encoding": "gzip"}),
    ):
        server.script = [server.send(encode(content), headers)] * 2
        assert embed(server, max_answer_bytes=len(content)).shape == (2, 3)
        with pytest.raises(RuntimeError, match="more than max_answer_bytes"):
            embed(server, max_answer_bytes=len(content) - 1)


def test_encodings(server):
    content = json.dumps(server.answer("/embeddings", {"input": ["a", "bc"]})).encode()
    zipped = gzip.compress(content)
    assert server.headers == []
    for sent, encoding, message in (
        (zipped, "gzip", None),
        (zipped, "GZIP", None),
        (content, "identity", None),
        (zipped[:-9], "gzip", "not valid gzip: incomplete"),
        (zipped + zipped, "gzip", "not valid gzip"),
        (content, "gzip", "not valid gzip"),
        (zlib.compress(content), "deflate", "content encoding 'deflate'"),
        (gzip.compress(zipped), "gzip, gzip", "content encoding 'gzip, gzip'"),
        (content, "br", "content encoding 'br'"),
    ):
        server.script = [server.send(sent, {"Content-Encoding": encoding})]
        if message is None:
            assert embed(server).shape == (2, 3)
        else:
            with pytest.raises(RuntimeError, match=message):
                embed(server)
    assert {headers["Accept-Encoding"] for headers in server.headers} == {"gzip"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_to_another_server_are_refused(server, other, slept, status):
    for url in (other.url, "http://localhost:1/v1", "https://127.0.0.1/v1", "//h.x/a"):
        server.script = [server.redirect(f"{url}/embeddings", status)]
        host = url.removeprefix("//").partition("/v1")[0]
        with pytest.raises(RuntimeError, match=rf"HTTP {status}.*redirects to.*{host}"):
            embed(server)
    assert other.requests == []


def test_redirects_on_the_same_server(server, slept):
    target = f"{server.url}/embeddings"
    server.script = [server.redirect(target, 307), server.redirect("embeddings", 308)]
    assert embed(server).shape == (2, 3)
    assert [body["input"] for _, body in server.requests] == [["bc", "a"]] * 3
    server.fault = lambda path, body: server.redirect(target)
    with pytest.raises(RuntimeError, match="HTTP 307"):
        embed(server)
    assert len(server.requests) < 12
    server.fault = lambda path, body: server.redirect(target, 302)  # would become GET
    with pytest.raises(RuntimeError, match="HTTP 302"):
        embed(server)
