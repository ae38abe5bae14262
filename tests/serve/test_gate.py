"""Keys, tokens, origins and redirects: what goes where."""

import logging

import pytest
from serving import CHAT, fault, refusal, reply, run_server, send_raw

KEY, TOKEN = "sk-of-the-server-123456", "token-of-clients-123456"


@pytest.fixture
def secrets(monkeypatch):
    monkeypatch.setenv("UPSTREAM_KEY", KEY)
    monkeypatch.setenv("CLIENT_TOKEN", TOKEN)
    return {"api_key_env": "UPSTREAM_KEY", "client_token_env": "CLIENT_TOKEN"}


def bearer(secret):
    return {"authorization": f"Bearer {secret}"}


@pytest.mark.parametrize("k", [1, 4])
def test_the_key_of_a_client_goes_upstream_only(make_client, upstream, caplog, k):
    caplog.set_level(logging.DEBUG)
    client = make_client()
    headers = bearer("sk-of-the-client") | {"cookie": "a=b", "openai-project": "p"}
    answer = client.chat(headers, skqprobe={"k": k})
    (sent,) = upstream.headers
    assert sent["authorization"] == "Bearer sk-of-the-client"
    assert sent["openai-project"] == "p" and "cookie" not in sent
    assert "sk-of-the-client" not in caplog.text + answer.text


@pytest.mark.parametrize("k", [1, 4])
def test_a_server_with_a_key_needs_a_token(make_client, upstream, secrets, caplog, k):
    caplog.set_level(logging.DEBUG)
    client = make_client(**secrets)
    for headers in {}, bearer("wrong"), bearer(KEY), {"authorization": TOKEN[:-1]}:
        answer = client.chat(headers, skqprobe={"k": k})
        assert answer.status_code == 401
        assert client.get("/v1/models", headers=headers).status_code == 401
        assert client.get("/metrics", headers=headers).status_code == 401
    assert client.get("/health").status_code == 200
    assert upstream.requests == []
    headers = bearer(TOKEN) | {"api-key": TOKEN}
    assert client.chat(headers, skqprobe={"k": k}).status_code == 200
    (sent,) = upstream.headers
    assert sent["authorization"] == f"Bearer {KEY}"
    assert TOKEN not in str(sent)
    assert KEY not in caplog.text and TOKEN not in caplog.text


def test_a_token_without_a_key_is_not_passed_on(make_client, upstream, secrets):
    client = make_client(client_token_env="CLIENT_TOKEN")
    assert client.chat(bearer(TOKEN)).status_code == 200
    assert "authorization" not in upstream.headers[0]


@pytest.mark.parametrize("k", [1, 4])
def test_the_key_is_removed_from_errors(make_client, upstream, secrets, k):
    upstream.fault = lambda body: refusal(401, f"Incorrect API key provided: {KEY}.")
    answer = make_client(**secrets).chat(bearer(TOKEN), skqprobe={"k": k})
    assert answer.status_code == 401
    assert KEY not in answer.text and "[API key]" in answer.text


@pytest.mark.parametrize("k", [1, 4])
def test_cookies_of_the_upstream_are_dropped(make_client, upstream, k):
    cookie = {"set_cookie": "session=of-one-client; Path=/"}
    answer = {"choices": [{"message": {"content": "a"}}] * k}
    upstream.fault = lambda body: fault(answer, **cookie)
    client = make_client()
    for _ in range(2):
        assert "set-cookie" not in client.chat(skqprobe={"k": k}).headers
    assert not [sent for sent in upstream.headers if "cookie" in sent]


@pytest.mark.parametrize("k", [1, 4])
def test_redirects_to_other_hosts_are_not_followed(make_client, upstream, k):
    target = "http://127.0.0.2:9/v1/chat/completions"
    upstream.fault = lambda body: fault({}, 307, location=target)
    answer = make_client(max_retries=0).chat(skqprobe={"k": k})
    assert answer.status_code == 502
    assert "redirects" in answer.text and "127.0.0.2" not in answer.text
    assert "location" not in answer.headers


@pytest.mark.parametrize("k", [1, 4])
def test_redirects_on_the_same_host_are_followed(make_client, upstream, k):
    url = upstream.url.removesuffix("/v1") + "/v1/chat/completions?moved"
    faults = iter([fault({}, 307, location=url)])
    upstream.fault = lambda body: next(faults, None)
    assert make_client().chat(skqprobe={"k": k}).status_code == 200
    assert upstream.paths[-1].endswith("?moved")


def test_web_pages_of_other_servers_are_refused(client, upstream):
    evil = {"origin": "http://evil.example", "content-type": "text/plain"}
    for path in "/v1/chat/completions", "/v1/feedback", "/v1/files":
        assert client.post(path, CHAT, headers=evil).status_code == 403
    assert client.chat({"origin": "http://server"}).status_code == 200
    assert len(upstream.requests) == 1


def test_compressed_answers_are_passed_on_and_not_chosen_from(make_client, upstream):
    packed = {"content_encoding": "gzip"}
    upstream.fault = lambda body: fault(b"\x1f\x8b packed", **packed)
    answer = make_client(max_retries=0).chat({"accept-encoding": "gzip"})
    assert answer.status_code == 502
    assert upstream.headers[0]["accept-encoding"] == "identity"


@pytest.mark.parametrize("k", [1, 4])
def test_headers_of_one_connection_are_not_passed_on(make_client, upstream, k):
    both = {"connection": "close, X-Hop", "x-hop": "1", "proxy-connection": "x"}
    own = {"x-skqprobe-choice": "forged", "x-other": "é"}
    upstream.fault = lambda body: (
        lambda send: reply(send, upstream.answer(body, 4), headers=both | own)
    )
    names = [(n, v.encode()) for n, v in {**both, "x-other": "Jörg"}.items()]
    answer = make_client().chat(names, skqprobe={"k": k})
    assert answer.headers["x-skqprobe-choice"] == ("none" if k == 1 else "pipeline")
    assert answer.headers.get("x-other") == ("é" if k == 1 else None)
    sent = upstream.headers[0]
    assert sent["x-other"].encode("latin-1") == "Jörg".encode()
    for headers in sent, answer.headers:
        assert "x-hop" not in headers and "proxy-connection" not in headers


def test_answers_are_compressed_only_if_the_client_asks(make_client, upstream):
    with run_server(make_client().app) as url:
        for asked in b"", b"Accept-Encoding: br\r\n":
            head = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            assert b" 200 OK" in send_raw(url, head + asked + b"\r\n")
    found = [headers["accept-encoding"] for headers in upstream.headers]
    assert found == ["identity", "br"]


def test_a_request_to_return_its_headers_is_refused(make_client, upstream, secrets):
    client = make_client(**secrets)
    requests = [(m, "/v1/x", {"headers": bearer(TOKEN)}) for m in ("TRACE", "TRACK")]
    assert [answer.status_code for answer in client.send_all(*requests)] == [405, 405]
    assert upstream.headers == []


def test_a_query_of_the_upstream_is_kept(upstream, make_client):
    upstream.url += "?api-version=1"
    client = make_client()
    client.chat()
    client.get("/v1/models?a=b")
    assert upstream.paths[0].endswith("/chat/completions?api-version=1")
    assert upstream.paths[1] == "/v1/models?api-version=1&a=b"
