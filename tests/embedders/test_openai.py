"""OpenAIEmbedder, with a server that makes errors and with llama.cpp."""

import json
import threading
from functools import partial

import numpy as np
import pytest
from openai_server import Faults
from sklearn.base import clone

from skqprobe.embedders import EmbeddingCache, OpenAIEmbedder

TEXTS = ["five5", "four", "iii", "ii", "i"]  # embedders embed the longest first
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


def embedder(server, **settings):
    return OpenAIEmbedder("model", base_url=server.url, **settings)


def test_embeddings_are_the_servers(server):
    texts = [f"text {i}" * (i % 7) for i in range(1, 60)]
    X = embedder(server, batch_size=4).fit_transform(texts)
    np.testing.assert_array_equal(
        X, np.float32([server.vector(text) for text in texts])
    )
    assert sorted(server.asked_texts) == sorted(set(texts))  # each once
    assert all(len(body["input"]) <= 4 for _, body in server.requests)
    _, body = server.requests[0]
    assert body["model"] == "model"
    assert body["encoding_format"] == "float"
    assert "dimensions" not in body


def test_dimensions(server):
    asked = embedder(server, dimensions=np.int64(3))
    values = asked.embed_batch(["a", "bc"])
    np.testing.assert_array_equal(values, [server.vector("a"), server.vector("bc")])
    assert server.requests[0][1]["dimensions"] == 3
    with pytest.raises(ValueError, match=r"dimensions=2, but .* of length 3"):
        embedder(server, dimensions=2).transform(["a"])


def test_embeddings_in_another_order(server):
    server.script = [server.change(lambda data: data.reverse())]
    values = embedder(server).transform(TEXTS)
    np.testing.assert_array_equal(values, [server.vector(text) for text in TEXTS])


NOT_MATCHED = "which embedding belongs to which text"
put = partial(Faults.put, "embedding")

REFUSED = {
    "too few": (Faults.change(lambda data: data.pop()), "4 embeddings for 5 texts"),
    "too many": (
        Faults.change(lambda data: data.append(data[0])),
        "6 embeddings for 5",
    ),
    "none": (Faults.say('{"data": []}'), "0 embeddings for 5"),
    "no data": (Faults.say('{"object": "list"}'), "0 embeddings for 5"),
    "duplicate index": (
        Faults.put("index", 1),
        r"indices of 5 embeddings are \[1, 1,",
    ),
    "gap": (Faults.put("index", 7), NOT_MATCHED),
    "two without an index, and the others in another order": (
        Faults.change(
            lambda data: [data.reverse(), data[4].pop("index"), data[2].pop("index")]
        ),
        NOT_MATCHED,
    ),
    "no index, and another one twice": (
        Faults.change(lambda data: [data[1].pop("index"), data[2].update(index=3)]),
        NOT_MATCHED,
    ),
    "index a list": (Faults.put("index", [0]), NOT_MATCHED),
    "index true": (Faults.put("index", True, 1), NOT_MATCHED),
    "no numbers": (
        put(["a", "b", "c"]),
        r"data\[0\].embedding has values that are not",
    ),
    "numbers as texts": (put(["1", "2", "3"]), "that are not numbers"),
    "true": (put([True, 2, 3]), "that are not numbers"),
    "lists later": (put([1, [2], 3]), "that are not numbers"),
    "an object": (put({"0": 1}), r"data\[0\].embedding must be a list or null"),
    "a number": (Faults.say('{"data": 5}'), "data must be a list; got 5"),
    "numbers": (Faults.say('{"data": [1, 2, 3, 4, 5]}'), r"data\[0\] must be an obj"),
    "mixed dimensions": (put([1.0, 2.0], 3), r"lengths.*\[2, 3\]"),
    "per token": (put([[1.0, 2.0, 3.0]] * 4), "for each token"),
    "base64": (put("AACAPwAAgD8AAIA/"), "base64"),
    "a long number": (Faults.say("1" * 5000), "not JSON"),
    "nested": (Faults.say("[" * 200_000 + "]" * 200_000), "not JSON"),
    "nested in a field": (
        Faults.say('{"data": ' + "[" * 900 + "]" * 900 + "}"),
        "not JSON|1 embeddings for 5",
    ),
}


@pytest.mark.parametrize(("fault", "message"), REFUSED.values(), ids=REFUSED)
def test_wrong_answers_are_refused(server, slept, fault, message):
    server.script = [fault]
    asked = embedder(server)
    with pytest.raises(ValueError, match=message) as raised:
        asked.transform(TEXTS)
    assert str(raised.value).startswith("OpenAIEmbedder: ")
    assert len(server.requests) == 1
    assert asked.transform(TEXTS).shape == (5, 3)


UNUSABLE = {
    "NaN": [float("nan"), 1, 2],
    "infinity": [float("inf"), 1, 2],
    "a number beyond all floats": [10**400, 1, 2],
    "null number": [None, 1, 2],
    "null": None,
    "empty": [],
}


@pytest.mark.parametrize("value", UNUSABLE.values(), ids=UNUSABLE)
def test_a_text_without_a_usable_embedding(server, slept, value):
    server.fault = lambda path, body: put(value, 1) if len(body["input"]) > 1 else None
    asked = embedder(server)
    message = (
        r"^1 of 5 texts cannot be embedded. X\[1\] \('four'\): the server returned"
    )
    with pytest.raises(ValueError, match=message):
        asked.transform(TEXTS)
    assert asked.transform(TEXTS).shape == (5, 3)
    assert server.asked_texts == [*TEXTS, "four"]
    with pytest.warns(UserWarning, match=r"1 of 5 texts .*, and their rows are NaN"):
        values = clone(asked).set_params(on_error="skip").transform(TEXTS)
    assert np.isnan(values).all(axis=1).tolist() == [False, True, False, False, False]


def refuse(*texts, code=400, **settings):
    """Refuse all requests with one of the texts."""

    def fault(path, body):
        bad = not set(texts).isdisjoint(body["input"])
        return Faults.status(code, **settings) if bad else None

    return fault


@pytest.mark.parametrize("code", [400, 413, 422])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_texts_that_the_server_refuses(server, tmp_path, code, concurrency):
    texts = [f"text {i}" + "x" * (40 - i) for i in range(40)]
    bad = texts[0], texts[7], texts[39]
    server.fault = refuse(*bad, code=code)
    asked = embedder(
        server, batch_size=8, concurrency=concurrency, cache=tmp_path / "cache.sqlite"
    )
    with pytest.raises(ValueError, match=r"3 of 40 texts cannot be embedded") as raised:
        asked.transform(texts)
    for number in (0, 7, 39):
        named = (
            rf"X[{number}] ({texts[number][:40]!r}): the server answered HTTP {code}"
        )
        assert named in str(raised.value)
    assert len(server.requests) < 25  # the batches are halved
    server.requests.clear()
    others = [text for text in texts if text not in bad]
    values = asked.transform(others)
    assert server.requests == []
    np.testing.assert_array_equal(
        values, np.float32([server.vector(text) for text in others])
    )
    with pytest.warns(UserWarning, match="3 of 40"):
        values = asked.set_params(on_error="skip").transform(texts)
    assert np.flatnonzero(np.isnan(values).all(axis=1)).tolist() == [0, 7, 39]
    assert set(server.asked_texts) <= {*bad, "a"}


def test_a_long_text_that_a_server_calls_its_own_error(server, slept):
    said = "input (601 tokens) is too large to process"  # of llama.cpp
    server.fault = refuse("four", code=500, message=said)
    with pytest.raises(ValueError, match=r"X\[1\] \('four'\): .* HTTP 500: input"):
        embedder(server).transform(TEXTS)
    assert slept == []


def test_a_text_that_breaks_the_server(server, slept):
    server.fault = refuse("four", code=500)
    with pytest.raises(ValueError, match=r"^1 of 5 .* X\[1\] \('four'\): .* HTTP 500"):
        embedder(server, max_retries=1).transform(TEXTS)
    server.requests.clear()
    server.fault = lambda path, body: server.status(500)
    with pytest.raises(
        RuntimeError, match=r"all texts, also 'a': .* HTTP 500.* 0 of 5"
    ):
        embedder(server, max_retries=1).transform(TEXTS)
    assert [body["input"] for _, body in server.requests] == [TEXTS] * 2 + [["a"]] * 2


def test_a_setting_that_is_refused_is_no_text_that_is_refused(server):
    server.fault = lambda path, body: server.status(400, message="no dimensions")
    texts = [f"{i:099}" for i in range(100)]
    with pytest.raises(RuntimeError, match=r"HTTP 400: no dimensions.* 0 of 100"):
        embedder(server, concurrency=1).transform(texts)
    assert len(server.requests) < 9
    named = {"error": {"message": "bad", "param": "dimensions"}}
    server.requests.clear()
    server.fault = lambda path, body: server.send(json.dumps(named), status=400)
    with pytest.raises(RuntimeError, match=r"HTTP 400: bad.* 0 of 100"):
        embedder(server, concurrency=1).transform(texts)
    assert len(server.requests) == 1


def test_lone_surrogates_in_texts(server):
    with pytest.raises(ValueError, match=r"X\[1\] .*surrogate"):
        embedder(server).transform(["a", "\ud800"])
    assert server.asked_texts == ["a"]


def test_an_index_that_is_left_out(server):
    # 0 is left out by protobuf, and all are by some servers.
    for numbers in ([0], [3], range(5)):
        server.script = [
            server.change(
                lambda data, numbers=numbers: [data[i].pop("index") for i in numbers]
            )
        ]
        values = embedder(server).transform(TEXTS)
        np.testing.assert_array_equal(values, [server.vector(text) for text in TEXTS])
    # Of one that is left out, the others tell the index, in any order.
    for i, put in ((4, {}), (1, {"index": None})):
        server.script = [
            server.change(
                lambda data, i=i, put=put: [
                    data.reverse(),
                    data[i].pop("index"),
                    data[i].update(put),
                ]
            )
        ]
        values = embedder(server).transform(TEXTS)
        np.testing.assert_array_equal(values, [server.vector(text) for text in TEXTS])


@pytest.mark.parametrize("concurrency", [1, 4])
def test_an_error_of_the_client(server, concurrency):
    server.fault = lambda path, body: server.status(401)
    asked = embedder(server, concurrency=concurrency)
    message = r"^OpenAIEmbedder: .* 0 of 5 texts are done"
    with pytest.raises(RuntimeError, match=message):
        asked.transform(TEXTS)
    assert len(server.requests) == 1


@pytest.mark.parametrize("with_cache", [True, False])
def test_finished_texts_are_kept(server, tmp_path, with_cache):
    cache = EmbeddingCache(tmp_path / "cache.sqlite") if with_cache else None
    server.fault = refuse("iii", code=401)
    asked = embedder(server, batch_size=1, concurrency=1, cache=cache)
    with pytest.raises(RuntimeError) as raised:
        asked.transform(TEXTS)
    assert "2 of 5 texts are done and kept" in str(raised.value)
    assert "Call again" in str(raised.value)
    assert ("in this object only" in str(raised.value)) == (not with_cache)
    assert server.asked_texts == ["five5", "four", "iii"]
    server.fault = lambda path, body: None
    server.requests.clear()
    values = (clone(asked) if with_cache else asked).transform(TEXTS)
    assert server.asked_texts == ["iii", "ii", "i"]
    np.testing.assert_array_equal(values, [server.vector(text) for text in TEXTS])


def test_running_requests_are_finished_and_kept(server, tmp_path):
    cache = EmbeddingCache(tmp_path / "cache.sqlite")
    refused = threading.Event()

    def refuse(handler, answer):
        server.status(401)(handler, answer)
        refused.set()

    def after_that(handler, answer):
        refused.wait(30)
        handler.server.closing.wait(0.5)  # the client reads the refusal first
        handler.reply(200, json.dumps(answer))

    server.fault = lambda path, body: refuse if body["input"] == ["iii"] else after_that
    asked = embedder(server, batch_size=1, concurrency=3, cache=cache)
    with pytest.raises(RuntimeError, match="2 of 5 texts are done"):
        asked.transform(TEXTS)
    assert sorted(server.asked_texts) == ["five5", "four", "iii"]
    assert len(cache) == 2


def test_known_texts_need_no_server_and_no_key(server, tmp_path, monkeypatch):
    asked = embedder(server, cache=tmp_path / "cache.sqlite")
    values = asked.transform(TEXTS)
    server.close()
    monkeypatch.delenv("OPENAI_API_KEY")
    np.testing.assert_array_equal(asked.transform(TEXTS), values)


def test_settings_in_the_key_of_the_cache(server, tmp_path):
    def n_requests(**settings):
        settings = {"model": "model", "base_url": server.url} | settings
        server.requests.clear()
        OpenAIEmbedder(**settings, cache=tmp_path / "cache.sqlite").transform(["a"])
        return len(server.requests)

    assert n_requests() == 1
    inert = {"timeout": 5, "max_retries": 0, "concurrency": 1, "batch_size": 1}
    assert n_requests(**inert, api_key_env="OTHER") == 0
    assert n_requests(base_url=server.url + "/") == 0
    assert n_requests(model="other") == 1
    assert n_requests(dimensions=3) == 1
    assert n_requests(base_url=server.url.replace("127.0.0.1", "localhost")) == 1


def test_base_url_of_the_environment(server, tmp_path, monkeypatch):
    asked = OpenAIEmbedder("model", cache=tmp_path / "cache.sqlite")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    assert asked.transform(["a"]).shape == (1, 3)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url.replace("127.0.0.1", "localhost"))
    asked.transform(["a"])  # another server, so another key of the cache
    assert len(server.requests) == 2


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
    long = "word " * 600
    with pytest.raises(
        ValueError, match=r"X\[1\] .* the server answered HTTP .* large"
    ):
        asked.transform(["a word", long])
    with pytest.warns(UserWarning, match=r"1 of 2 texts"):
        values = asked.set_params(on_error="skip").transform([long, "a word"])
    assert np.isnan(values).all(axis=1).tolist() == [True, False]
