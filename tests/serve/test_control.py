"""Control of a request by its body, headers and the name of the model."""

from types import SimpleNamespace

import pytest

from skqprobe.serve._control import read_control
from skqprobe.serve._errors import RequestError

SETTINGS = SimpleNamespace(model=None, k=8, max_k=16, temperature=None)


def read(headers=None, settings=SETTINGS, **body):
    return read_control(body, headers or {}, settings), body


def test_the_server_decides_what_a_request_leaves_open():
    control, body = read(model="a/b")
    assert (control.k, control.temperature, control.model) == (8, None, "a/b")
    assert not control.is_explicit and not control.has_report
    assert body == {"model": "a/b"}


def test_the_body_precedes_headers_and_these_the_name():
    name, header = "best-of-2/org/m", {"x-skqprobe-k": "3"}
    control, body = read(model=name)
    assert (control.k, control.model, control.name) == (2, "org/m", name)
    assert body == {"model": "org/m"} and control.is_explicit
    assert read(header, model=name)[0].k == 3
    control, body = read(header, model=name, skqprobe={"k": 4})
    assert control.k == 4 and "skqprobe" not in body
    header = {"x-skqprobe-temperature": "0.5", "x-skqprobe-return-candidates": "true"}
    control, _ = read(header, model=name, skqprobe={"temperature": 0})
    assert (control.k, control.temperature, control.return_candidates) == (2, 0.0, True)


def test_n_raises_k():
    assert read(n=3)[0].k == 8
    assert read(n=12)[0].k == 12
    assert read(n=None)[0].k == 8


BAD = {
    "above the bound": ({"skqprobe": {"k": 17}}, "k=17 is more than this server"),
    "above, by name": ({"model": "best-of-99/m"}, "k=99 is more"),
    "n above": ({"n": 17}, "n=17 is more"),
    "n of no number": ({"n": "2"}, "n must be an integer"),
    "no integer": ({"skqprobe": {"k": 2.5}}, "k must be an integer"),
    "a boolean": ({"skqprobe": {"k": True}}, "k must be an integer"),
    "zero": ({"model": "best-of-0/m"}, "k must be an integer"),
    "negative": ({"skqprobe": {"temperature": -1}}, "temperature .* 0 or more"),
    "not a number": ({"skqprobe": {"temperature": float("nan")}}, "0 or more"),
    "huge": ({"skqprobe": {"temperature": 10**400}}, "0 or more"),
    "a text": ({"skqprobe": {"return_candidates": "yes"}}, "true or false"),
    "unknown": ({"skqprobe": {"kk": 2}}, "unknown field 'kk'"),
    "no object": ({"skqprobe": 3}, "must be an object"),
    "no name": ({"model": 3}, "model must be a text"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_values_are_named(name):
    body, message = BAD[name]
    with pytest.raises(RequestError, match=message) as caught:
        read(**body)
    assert caught.value.status == 400


@pytest.mark.parametrize("text", ["x", "nan", "-1", "9" * 5000, "true"])
def test_bad_headers_are_named(text):
    with pytest.raises(RequestError, match="temperature"):
        read({"x-skqprobe-temperature": text})


def test_a_bad_value_is_a_json_error_of_http_400(client, upstream):
    answer = client.chat(skqprobe={"k": 1000})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error" and error["param"] == "k"
    assert upstream.requests == []


def test_control_does_not_go_upstream(client, upstream):
    client.chat(headers={"x-skqprobe-k": "3"}, model="best-of-4/tiny", skqprobe={})
    assert upstream.requests[0]["n"] == 3
    assert upstream.requests[0].keys() == {"model", "messages", "n"}
    assert not [name for name in upstream.headers[0] if "skqprobe" in name]
