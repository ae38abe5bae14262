"""An upstream that makes errors on demand, and servers on loopback.

The fixtures of tests/serve/conftest.py start them.
"""

import asyncio
import contextlib
import itertools
import json
import socket
import threading
import time

import numpy as np
from sklearn.pipeline import make_pipeline

from skqprobe import QProbePolicy
from skqprobe.embedders import VectorizerEmbedder

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


def count_a(texts):
    """Embed texts by their number of the letter a, and their length."""
    return [[text.count("a"), len(text)] for text in texts]


def completion_only(prompt, completion):
    return completion


def make_pipeline_of_a(**parameters):
    """Fit a pipeline that prefers completions with many a."""
    records = [{"prompt": "x", "completions": ["a" * i, "b" * i]} for i in range(1, 6)]
    policy = QProbePolicy("squared_error", alpha=1e-9, **parameters)
    pipeline = make_pipeline(VectorizerEmbedder(count_a, join=completion_only), policy)
    return pipeline.fit(records, [[i, 0] for i in range(1, 6)])


class ScriptedUpstream:
    """ASGI application with the interface of OpenAI.

    The i-th completion of a prompt is the prompt and some letters a. All that it
    received is in `requests` and `headers`.

    Parameters
    ----------
    n_allowed : int, default=100
        Largest `n`. More are refused or, with ``ignores_n=True``, not returned.
    """

    def __init__(self, n_allowed=100, ignores_n=False):
        self.n_allowed, self.ignores_n = n_allowed, ignores_n
        self.requests, self.headers, self.paths = [], [], []
        self.n_cancelled = 0
        self.counts = itertools.cycle([2, 0, 5, 1, 3, 4, 7, 6])
        self.fault = lambda body: None
        self.latency = 0.0
        self.make_message = lambda text: {"role": "assistant", "content": text}

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            return await self._live(receive, send)
        content = b""
        while True:
            message = await receive()
            content += message.get("body", b"")
            if not message.get("more_body"):
                break
        body = json.loads(content) if content[:1] == b"{" else None
        self.paths.append(scope["path"] + "?" + scope["query_string"].decode())
        self.requests.append(body)
        headers = {k.decode(): v.decode("latin-1") for k, v in scope["headers"]}
        self.headers.append(headers)
        work = asyncio.create_task(self._respond(scope, body, send))
        gone = asyncio.create_task(receive())
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            self.n_cancelled += 1
        for task in (work, gone):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work

    async def _live(self, receive, send):
        for kind in "startup", "shutdown":
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})

    async def _respond(self, scope, body, send):
        await asyncio.sleep(self.latency)
        path = scope["path"]
        fault = self.fault(body)
        if fault is not None:
            return await fault(send)
        if path == "/v1/models":
            return await reply(send, {"object": "list", "data": [{"id": "tiny"}]})
        if not path.endswith("/completions"):
            return await reply(send, {"path": path, "body": body})
        n = body.get("n", 1)
        if n > self.n_allowed and not self.ignores_n:
            said = {"message": f"n must be at most {self.n_allowed}", "param": "n"}
            return await reply(send, {"error": said}, 400)
        await reply(send, self.answer(body, min(n, self.n_allowed)))

    def answer(self, body, n):
        """Return n completions."""
        as_chat = "messages" in body
        prompt = body["messages"][-1]["content"] if as_chat else body["prompt"]
        choices = []
        for i in range(n):
            text = f"{prompt} {'a' * next(self.counts)}"
            choice = {"index": i, "finish_reason": "stop"}
            if as_chat:
                choice["message"] = self.make_message(text)
            else:
                choice["text"] = text
            asked = body.get("logprobs")
            choice["logprobs"] = self.log_probs(text, body) if asked else None
            choices.append(choice)
        return {
            "id": "of-upstream",
            "object": "chat.completion" if as_chat else "text_completion",
            "created": 1,
            "model": f"{body.get('model')}-2026",
            "choices": choices,
            "usage": {
                "prompt_tokens": 10,
                "completion_tokens": 3 * n,
                "total_tokens": 10 + 3 * n,
                "prompt_tokens_details": {"cached_tokens": 4},
            },
        }

    @staticmethod
    def log_probs(text, body):
        """Return a token per letter a, of probability 1/2, and one alternative."""
        n = body.get("top_logprobs", 0)
        top = [{"token": t, "logprob": float(np.log(0.5))} for t in "ab"][:n]
        token = {"token": "a", "logprob": float(np.log(0.5)), "top_logprobs": top}
        return {"content": [token] * (1 + text.count("a")), "refusal": None}


async def reply(send, content, status=200, headers=()):
    """Send a complete answer of JSON or bytes."""
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    headers = {"content-type": "application/json", **dict(headers)}
    encoded = [(k.encode(), v.encode("latin-1")) for k, v in headers.items()]
    start = {"type": "http.response.start", "status": status, "headers": encoded}
    await send(start)
    await send({"type": "http.response.body", "body": content})


def fault(content, status=200, **headers):
    """Return a fault: a complete answer."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda send: reply(send, content, status, headers)


def refusal(status, message="scripted", **headers):
    return fault({"error": {"message": message, "code": "own"}}, status, **headers)


async def hang(send):
    await asyncio.sleep(60)


async def drip(send):
    """Send an answer byte by byte, without an end."""
    start = {"type": "http.response.start", "status": 200}
    await send(start | {"headers": [(b"content-type", b"application/json")]})
    while True:
        await send({"type": "http.response.body", "body": b" ", "more_body": True})
        await asyncio.sleep(0.1)


async def cut(send):
    """Break the connection in the answer."""
    headers = [(b"content-length", b"1000")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{", "more_body": True})
    raise ConnectionResetError


@contextlib.contextmanager
def run_server(app):
    """Run an application in a thread, and give its address."""
    import uvicorn

    config = uvicorn.Config(
        app, port=0, log_level="critical", timeout_graceful_shutdown=1, ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join(10)


@contextlib.contextmanager
def connect(url):
    """Give a connection to a server, for requests that no client sends."""
    host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        yield connection


def send_raw(url, content):
    """Send bytes to a server, and return all that it answers."""
    with connect(url) as connection:
        connection.sendall(content)
        return b"".join(iter(lambda: connection.recv(65536), b""))
