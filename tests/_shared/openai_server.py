"""A server with the interface of OpenAI, on loopback, that makes errors on demand.

The fixture `server` of tests/conftest.py starts it.
"""

import json
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-secret-0123456789"


def vector(text):
    return [float(len(text)), float(sum(map(ord, text))), 0.5]


def embeddings(body):
    return {
        "data": [
            {"object": "embedding", "index": i, "embedding": vector(text)}
            for i, text in enumerate(body["input"])
        ]
    }


def completions(body):
    """Answer with texts of the prompt, the seed and a number, of 3 tokens each."""
    logprobs = {"token_logprobs": [-0.5, -1.0, -0.25]} if "logprobs" in body else None
    choices = [
        {
            "index": i,
            "text": f"{body['prompt']}/{body.get('seed')}/{i}",
            "finish_reason": "length",
            "logprobs": logprobs,
        }
        for i in range(body.get("n", 1))
    ]
    return {"choices": choices, "usage": {"completion_tokens": 3}}


def chat_completions(body):
    answer = completions(body | {"prompt": body["messages"][-1]["content"]})
    for choice in answer["choices"]:
        choice["message"] = {"role": "assistant", "content": choice.pop("text")}
        if choice["logprobs"]:
            values = choice["logprobs"]["token_logprobs"]
            choice["logprobs"] = {"content": [{"logprob": v} for v in values]}
    return answer


ANSWERS = {
    "/embeddings": embeddings,
    "/completions": completions,
    "/chat/completions": chat_completions,
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path, _, query = self.path.removeprefix("/v1").partition("?")
        with self.server.lock:
            self.server.requests.append((path, body))
            self.server.keys.append(self.headers["Authorization"])
            self.server.queries.append(query)
            self.server.headers.append(self.headers)
            fault = self.server.script.pop(0) if self.server.script else None
        fault = fault or self.server.fault(path, body)
        answer = ANSWERS[path](body)
        if fault is not None:
            fault(self, answer)
        else:
            self.reply(200, json.dumps(answer))

    def reply(self, status, text, headers=(), length=None):
        headers = {"Content-Type": "application/json", **dict(headers)}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        content = text if isinstance(text, bytes) else text.encode()
        self.send_header("Content-Length", str(length or len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


class Faults:
    """Faults: functions of the handler and the usual answer."""

    @staticmethod
    def status(code, headers=(), message="scripted"):
        text = json.dumps({"error": {"message": message, "code": code}})
        return lambda handler, answer: handler.reply(code, text, headers)

    @staticmethod
    def cut(handler, answer):
        handler.close_connection = True

    @staticmethod
    def cut_midway(handler, answer):
        handler.reply(200, '{"data": [', length=1000)
        handler.close_connection = True

    @staticmethod
    def hang(handler, answer):
        handler.server.closing.wait(30)
        handler.close_connection = True

    @staticmethod
    def say(text):
        return lambda handler, answer: handler.reply(200, text)

    @staticmethod
    def send(content, headers=(), status=200):
        """Answer with bytes."""

        def fault(handler, answer):
            handler.reply(status, content, headers)

        return fault

    @staticmethod
    def redirect(url, status=307):
        return lambda handler, answer: handler.reply(status, "", {"Location": url})

    @staticmethod
    def stream(start, block, pause=0.0):
        """Answer with the bytes of a start, and then repeat a block without an end."""

        def fault(handler, answer):
            handler.close_connection = True
            with suppress(OSError):  # the client closes the connection
                handler.wfile.write(start)
                while not handler.server.closing.wait(pause):
                    handler.wfile.write(block)
                    handler.server.n_sent += len(block)

        return fault

    @staticmethod
    def change(function):
        """Change the list of embeddings or completions in place."""

        def fault(handler, answer):
            function(answer.get("data") or answer["choices"])
            handler.reply(200, json.dumps(answer))

        return fault

    @staticmethod
    def put(key, value, i=0):
        """Change a value of embedding or completion i."""
        return Faults.change(lambda data: data[i].update({key: value}))


TRANSIENT = {
    "429": Faults.status(429, {"retry-after": "1"}),
    "408": Faults.status(408),
    "500": Faults.status(500),
    "503": Faults.status(503),
    "cut": Faults.cut,
    "cut midway": Faults.cut_midway,
    "time-out": Faults.hang,
}
"""Faults after which the client tries again."""


class ScriptedServer(Faults, ThreadingHTTPServer):
    """Answer like an OpenAI-compatible server, except for scripted faults.

    `script` has a fault, or None, for each of the next requests. `fault` is a function
    of the path and body of a request, and returns a fault or None.
    """

    daemon_threads = True
    key = KEY
    vector = staticmethod(vector)

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.requests, self.keys = [], [], []
        self.queries, self.headers = [], []
        self.fault = lambda path, body: None
        self.n_sent = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.closing.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        pass  # the client closed the connection

    @staticmethod
    def answer(path, body):
        return ANSWERS[path](body)

    @property
    def asked_texts(self):
        return [text for _, body in self.requests for text in body["input"]]
