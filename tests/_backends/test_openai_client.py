"""The client of OpenAI-compatible servers: retries, errors, the key."""

import logging
import pickle
import sys
import traceback

import pytest

from skqprobe._backends.openai_client import APIClient
from skqprobe._backends.http_client import APIError
from skqprobe.embedders import OpenAIEmbedder
from skqprobe.generators import OpenAIGenerator

BODY = {"model": "model", "input": ["a", "bc"]}


def ask(server, **settings):
    """Ask for embeddings, and return them."""
    settings = {"base_url": server.url, "timeout": 30} | settings
    with APIClient(OpenAIEmbedder("model", **settings)) as client:
        return client.ask("/embeddings", BODY)


def use_embedder(model="model", **settings):
    return OpenAIEmbedder(model, **settings).transform(["a"])


def use_generator(model="model", **settings):
    return OpenAIGenerator(model, **settings).generate(["a"], 1)


both_backends = pytest.mark.parametrize("use", [use_embedder, use_generator])


def said_by(raised):
    """Return everything that a log would show of an error, with its contexts."""
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


def test_transient_faults_are_tried_again(server, slept, transient):
    timeout = 0.3 if transient is server.hang else 30
    server.script = [transient, transient]
    assert ask(server, timeout=timeout) == server.answer("/embeddings", BODY)
    assert server.requests == [("/embeddings", BODY)] * 3
    assert len(slept) == 2
    server.fault = lambda path, body: transient
    with pytest.raises(APIError):
        ask(server, max_retries=2, timeout=timeout)
    assert len(server.requests) == 3 + 3


def test_retry_after_is_honoured(server, slept):
    server.script = [server.status(429, {"retry-after": "7"})]
    ask(server)
    assert slept == [7.0]


def test_permanent_faults_are_not_tried_again(server, slept):
    for number, code in enumerate((400, 401, 403, 404, 413, 422), 1):
        server.script = [server.status(code, message="no such thing")]
        with pytest.raises(RuntimeError, match=f"HTTP {code}: no such thing") as raised:
            ask(server)
        assert raised.value.status == code
        assert len(server.requests) == number
    assert slept == []


def test_a_malformed_answer_is_refused(server):
    for text, message in (
        ("<html>hello</html>", "not JSON"),
        ('{"data": [', "not JSON"),
        ("[1, 2]", "is malformed"),
        ('{"error": {"message": "overloaded"}}', "overloaded"),
    ):
        server.script = [server.say(text)]
        with pytest.raises(RuntimeError, match=message):
            ask(server)


def test_errors_after_the_last_attempt(server, slept):
    for fault, message in (
        (server.hang, r"within timeout=0\.3 seconds"),
        (server.status(429), "check your quota"),
        (server.cut, r"no connection to .*Check base_url"),
    ):
        server.script = [fault]
        with pytest.raises(RuntimeError, match=message):
            ask(server, max_retries=0, timeout=0.3)
    server.close()
    with pytest.raises(RuntimeError, match=r"no connection to .*Check base_url"):
        ask(server, max_retries=1)


@both_backends
def test_without_the_package(server, monkeypatch, use):
    monkeypatch.setitem(sys.modules, "openai", None)
    name = "OpenAIEmbedder" if use is use_embedder else "OpenAIGenerator"
    message = rf'^{name} needs openai: pip install "skqprobe\[openai\]"'
    with pytest.raises(ImportError, match=message):
        use(base_url=server.url)


@both_backends
def test_bad_settings(use):
    pytest.importorskip("openai")
    not_a_url = "base_url must .*must be a URL|must be a URL"
    for name, value, message in (
        ("base_url", "localhost:8080", not_a_url),
        ("base_url", "ftp://localhost", not_a_url),
        ("base_url", "http://user:word@localhost:8080/v1", "user name or password"),
        ("model", 3, "'model' parameter"),
        ("timeout", 0, "'timeout' parameter"),
        ("concurrency", 0, "'concurrency' parameter"),
        ("max_retries", -1, "'max_retries' parameter"),
    ):
        with pytest.raises(ValueError, match=message):
            use(**{name: value})


def test_the_key_goes_to_the_server_and_nowhere_else(server, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    for name in ["openai", "httpx", "httpx2", "httpcore", "httpcore2"]:
        caplog.set_level(logging.DEBUG, logger=name)
    cache = tmp_path / "cache.sqlite"
    embedder = OpenAIEmbedder("model", base_url=server.url, cache=cache)
    embedder.fit_transform(["a"])
    generator = OpenAIGenerator("model", base_url=server.url)
    records = generator.generate(["a"], 2)
    assert server.keys == [f"Bearer {server.key}"] * 2
    assert caplog.records  # the client does log
    places = [str(records), caplog.text]
    for used in (embedder, generator):
        places += [repr(used), str(vars(used)), str(used.get_params())]
        assert server.key.encode() not in pickle.dumps(used)
        assert pickle.loads(pickle.dumps(used)).get_params() == used.get_params()
    assert not any(server.key in place for place in places)
    assert all(server.key.encode() not in f.read_bytes() for f in tmp_path.iterdir())


@both_backends
def test_the_key_is_in_no_error(server, slept, caplog, use):
    caplog.set_level(logging.DEBUG)
    refuse = server.status(401, message=f"bad key: {server.key}")
    server.fault = lambda path, body: refuse
    with pytest.raises(RuntimeError, match="OPENAI_API_KEY") as raised:
        use(base_url=server.url)
    assert r"bad key: [API key]" in str(raised.value)
    assert server.key not in said_by(raised)
    server.fault = lambda path, body: server.cut
    with pytest.raises(RuntimeError, match="no connection") as raised:
        use(base_url=server.url, max_retries=0)
    assert server.key not in said_by(raised)
    assert server.key not in caplog.text


@both_backends
def test_another_variable_holds_the_key(server, monkeypatch, use):
    monkeypatch.delenv("OTHER_KEY", raising=False)
    use(base_url=server.url, api_key_env="OTHER_KEY")  # not needed for this server
    for value in ("first\n", "second"):  # one as read from a file
        monkeypatch.setenv("OTHER_KEY", value)
        use(base_url=server.url, api_key_env="OTHER_KEY")
    assert server.keys == ["Bearer none-needed", "Bearer first", "Bearer second"]


def test_an_invalid_key(server, monkeypatch):
    for key in ("secret\nkey", "secret\u2013key"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(ValueError, match="OPENAI_API_KEY is not an API key") as e:
            ask(server)
        assert "secret" not in str(e.value)
    assert server.requests == []


@both_backends
def test_openai_itself_needs_a_key(monkeypatch, use):
    pytest.importorskip("openai")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OTHER_KEY", raising=False)
    with pytest.raises(ValueError, match="environment variable OTHER_KEY"):
        use(api_key_env="OTHER_KEY")
