"""The client of OpenAI-compatible servers: retries, errors, the key."""

import json
import logging
import pickle
import sys
import traceback

import pytest

from skqprobe._backends.http_client import APIError
from skqprobe._backends.openai_client import APIClient
from skqprobe.embedders import OpenAIEmbedder
from skqprobe.generators import OpenAIGenerator

BODY = {"model": "model", "input": ["a", "bc"]}


def ask(server, **settings):
    """Ask for embeddings, and return them."""
    settings = {"base_url": server.url, "timeout": 30} | settings
    with APIClient(OpenAIEmbedder("model", **settings)) as client:
        return client.ask("/embeddings", BODY, lambda answer: answer)


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


def test_secrets_are_in_no_text(server, slept, use=use_embedder):
    secret, longer = "s3cr3t-header", "x" * 290
    settings = {
        "base_url": f"{server.url}?api-key=s3cr3t-query&v=1",
        "default_headers": {"X-Api-Key": secret, "X-Title": "title"},
        "extra_query": {"token": "s3cr3t-token", "deployment": "d"},
        "extra_body": {"api_key": "s3cr3t-body", "top": {"key": "s3cr3t"}},
    }
    secrets = [server.key, secret, "s3cr3t-query", "s3cr3t-token", "s3cr3t-body"]
    for echoed in secrets:
        # Also if the end of the message is cut off, in its middle.
        for said in (f"wrong: {echoed}", longer + echoed):
            server.script = [server.status(401, message=said)]
            with pytest.raises(RuntimeError, match=r"HTTP 401") as raised:
                use(**settings)
            assert echoed[:8] not in said_by(raised)
        # In an answer, and in the error of one choice.
        server.script = [server.put("index", f"no number, {echoed}")]
        with pytest.raises(ValueError, match="belongs to which text") as raised:
            use(**settings)
        assert echoed not in said_by(raised)
        server.script = [server.put("error", {"message": f"no {echoed}"})]
        with pytest.raises(RuntimeError, match="reports an error: no ") as raised:
            use_generator(**settings)
        assert echoed not in said_by(raised)
    for cls in OpenAIEmbedder, OpenAIGenerator:
        used = cls("model", **settings)
        places = [repr(used), str(used), str(used._settings()), used._repr_html_()]
        assert not any("s3cr3t" in place for place in places)
        assert "deployment" in places[0] and "'v=1'" not in places[0]
        assert used.get_params()["default_headers"] == settings["default_headers"]


def test_a_password_in_base_url_is_in_no_text(monkeypatch):
    url = "http://me:s3cr3t@127.0.0.1:1/v1"
    for cls in OpenAIEmbedder, OpenAIGenerator:
        assert "s3cr3t" not in repr(cls("model", base_url=url))
    for bad in (url, "ftp" + url[4:], url.replace(":1/", ":x/")):
        with pytest.raises(ValueError, match="base_url must") as raised:
            use_generator(base_url=bad)
        assert "s3cr3t" not in said_by(raised)
        monkeypatch.setenv("OPENAI_BASE_URL", bad)
        with pytest.raises(ValueError, match="base_url must") as raised:
            use_embedder()
        assert "s3cr3t" not in said_by(raised)


def test_short_keys_do_not_change_messages(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a")
    server.script = [server.status(401, message="a bad day")]
    with pytest.raises(RuntimeError, match="a bad day"):
        ask(server)


def test_extra_parts_of_requests(server):
    settings = {
        "base_url": f"{server.url}/?api-version=1&both=url",
        "extra_query": {"both": "query", "number": 2},
        "extra_body": {"user": "me", "encoding_format": None, "top_p": 0.5},
        "default_headers": {"X-Title": "a title"},
    }
    use_embedder(**settings)
    use_generator(**settings)
    assert [path for path, _ in server.requests] == ["/embeddings", "/completions"]
    assert server.queries == ["api-version=1&both=query&number=2"] * 2
    assert [h["X-Title"] for h in server.headers] == ["a title"] * 2
    for _, body in server.requests:
        assert (body["user"], body["top_p"]) == ("me", 0.5)
    assert server.requests[0][1]["encoding_format"] is None


@both_backends
def test_invalid_extra_parts(server, use):
    for settings, message in (
        ({"extra_body": {"n": 2, "prompt": "a"}}, r"replace \['n', 'prompt'\]"),
        ({"extra_body": {"a": {1, 2}}}, "extra_body is not valid JSON"),
        ({"extra_body": {"a": float("nan")}}, "extra_body is not valid JSON"),
        ({"extra_body": [1]}, "'extra_body' parameter"),
        ({"default_headers": {"a": 1}}, "the header 'a' is not"),
        ({"default_headers": {"a": "b\nc"}}, "the header 'a' is not"),
        ({"max_answer_bytes": 0}, "'max_answer_bytes' parameter"),
    ):
        with pytest.raises(ValueError, match=message):
            use(base_url=server.url, **settings)
    assert server.requests == []


def test_json_of_any_type_is_read(server):
    content = json.dumps(server.answer("/embeddings", BODY))
    for kind in ("text/plain", "text/html; charset=latin-1", ""):
        for encoding in ("utf-8", "utf-8-sig", "utf-16"):
            sent = server.send(content.encode(encoding), {"Content-Type": kind})
            server.script = [sent]
            assert ask(server) == json.loads(content)


@pytest.mark.parametrize("use_new_first", [False, True])
def test_the_name_of_the_limit_of_tokens(server, use_new_first):
    refused, wanted = "max_tokens", "max_completion_tokens"
    said = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."

    def fault(path, body):
        is_bad = path == "/chat/completions" and refused in body
        return server.status(400, message=said) if is_bad else None

    server.fault = fault
    for _ in range(2):  # the second call starts with the known name
        use_generator(base_url=server.url, chat=True, max_tokens=7)
    sent = [{refused, wanted} & body.keys() for _, body in server.requests]
    assert sent == [{refused}, {wanted}, {wanted}]
    assert all(body.get(refused, body.get(wanted)) == 7 for _, body in server.requests)
    use_generator(base_url=server.url, model="other", max_tokens=7)  # a text
    assert server.requests[-1][1]["max_tokens"] == 7
    if use_new_first:  # and the server is replaced by one of the other kind
        refused, wanted = wanted, refused
        said = "Unknown parameter: max_completion_tokens"
        server.requests.clear()
        use_generator(base_url=server.url, chat=True)
        sent = [{refused, wanted} & body.keys() for _, body in server.requests]
        assert sent == [{refused}, {wanted}]


def test_a_server_that_refuses_both_names(server):
    said = "unknown max_tokens or max_completion_tokens"
    server.fault = lambda path, body: server.status(400, message=said)
    with pytest.raises(RuntimeError, match=r"HTTP 400: unknown"):
        use_generator(base_url=server.url, chat=True)
    assert len(server.requests) <= 2 * 4  # also for the prompt "Hi"


def test_a_server_that_refuses_the_format(server):
    said = "encoding_format: extra fields not permitted"
    server.fault = lambda path, body: (
        server.status(422, message=said) if "encoding_format" in body else None
    )
    for _ in range(2):
        assert use_embedder(base_url=server.url).shape == (1, 3)
    assert ["encoding_format" in body for _, body in server.requests] == [
        True,
        False,
        False,
    ]


@both_backends
def test_proxies(server, monkeypatch, use):
    monkeypatch.setitem(sys.modules, "socksio", None)
    for proxy, error, message in (
        ("socks5://me:s3cr3t@127.0.0.1:1", ImportError, "pip install socksio"),
        ("socks://me:s3cr3t@127.0.0.1:1", ValueError, "socks5://, and .* socksio"),
    ):
        monkeypatch.setenv("ALL_PROXY", proxy)
        with pytest.raises(error, match=message) as raised:
            use(base_url=server.url)
        assert "s3cr3t" not in said_by(raised)
        assert raised.value.__context__ is None


def test_errors_with_status_200(server):
    for said, message in (
        ('{"error": {"message": "overloaded", "code": 503}}', "error: overloaded"),
        ('{"error": "overloaded"}', "error: overloaded"),
        ('{"error": {"code": 1e999}}', "error: {'code': inf}"),
    ):
        server.script = [server.say(said)]
        with pytest.raises(RuntimeError, match=message):
            ask(server)
