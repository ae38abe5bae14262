"""The served answers: the choice, untouched messages, usage, n, models, settings."""

import json

import numpy as np
import pytest
from serving import make_pipeline_of_a
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline

from skqprobe import QProbePolicy, QProbeRegressor
from skqprobe.embedders import VectorizerEmbedder
from skqprobe.serve import create_app


def texts_of(answer):
    return [choice["message"]["content"] for choice in answer.json()["choices"]]


def test_the_best_candidate_is_answered(client, upstream):
    answer = client.chat()
    assert answer.status_code == 200
    assert texts_of(answer) == ["hi aaaaaaa"]
    assert [request["n"] for request in upstream.requests] == [8]
    assert answer.headers["x-skqprobe-choice"] == "pipeline"
    assert answer.headers["x-skqprobe-drawn"] == "8"
    assert answer.headers["x-skqprobe-failed"] == "0"
    assert float(answer.headers["x-skqprobe-score"]) == pytest.approx(7, abs=0.1)
    assert "x-skqprobe-predicted-reward" not in answer.headers  # of a policy


def test_the_answer_has_an_id_a_model_and_a_type_of_its_own(client):
    first, second = client.chat().json(), client.chat().json()
    assert first["id"].startswith("chatcmpl-") and first["id"] != second["id"]
    assert first["model"] == "tiny"
    assert first["object"] == "chat.completion"
    assert first["created"] == 1
    assert "skqprobe" not in first


def test_texts_are_completed(client, upstream):
    body = {"model": "tiny", "prompt": "once", "best_of": 3, "max_tokens": 5}
    answer = client.post("/v1/completions", body).json()
    assert answer["choices"][0]["text"] == "once aaaaaaa"
    assert answer["object"] == "text_completion" and answer["id"].startswith("cmpl-")
    (sent,) = upstream.requests
    assert "best_of" not in sent and sent["max_tokens"] == 5


def test_prompts_that_are_not_one_text_are_passed_on(client, upstream):
    for prompt in (["a", "b"], [1, 2, 3]):
        answer = client.post("/v1/completions", {"model": "tiny", "prompt": prompt})
        assert answer.headers["x-skqprobe-choice"] == "none"
        assert upstream.requests[-1] == {"model": "tiny", "prompt": prompt}


def test_usage_is_that_of_all_draws(make_client, upstream):
    upstream.n_allowed = 3
    usage = make_client().chat().json()["usage"]
    assert [request.get("n") for request in upstream.requests][:2] == [8, 4]
    n_answers = sum(request.get("n", 1) <= 3 for request in upstream.requests)
    assert usage["completion_tokens"] == 8 * 3
    assert usage["prompt_tokens"] == 10 * n_answers
    assert usage["total_tokens"] == 24 + 10 * n_answers
    assert usage["prompt_tokens_details"] == {"cached_tokens": 4 * n_answers}


MESSAGES = {
    "tool calls": {
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "f", "arguments": '{"x": "aaaa"}'},
            }
        ],
    },
    "refusal": {"content": None, "refusal": "no aaa"},
    "reasoning": {"content": "aaa", "reasoning_content": "hm", "annotations": []},
    "parts": {"content": [{"type": "text", "text": "aaa \ud83d\ude00"}]},
    "half a surrogate pair": {"content": "aaa \ud83d"},
}


@pytest.mark.parametrize("name", MESSAGES)
def test_the_message_is_untouched(client, upstream, name):
    message = {"role": "assistant", **MESSAGES[name]}
    upstream.make_message = lambda text: message
    (choice,) = client.chat().json()["choices"]
    assert json.dumps(choice["message"]) == json.dumps(message)
    assert choice["finish_reason"] == "stop"


def test_n_of_the_client_is_that_many_distinct_candidates(client, upstream):
    upstream.counts = iter([2, 5, 5, 1, 5, 2, 2, 2])
    answer = client.chat(n=3)
    assert texts_of(answer) == ["hi aaaaa", "hi aa", "hi a"]
    assert [choice["index"] for choice in answer.json()["choices"]] == [0, 1, 2]
    upstream.counts = iter([5, 5, 5, 1, 5, 5, 5, 5])
    assert texts_of(client.chat(n=3)) == ["hi aaaaa", "hi aaaaa", "hi a"]
    upstream.counts = iter(range(10))
    answer = client.chat(n=10)  # more than k
    assert texts_of(answer) == [f"hi {'a' * i}" for i in range(9, -1, -1)]
    assert upstream.requests[-1]["n"] == 10


def test_the_report_is_returned_if_asked_for(client):
    report = client.chat(skqprobe={"return_candidates": True}).json()["skqprobe"]
    assert report["k"] == report["drawn"] == 8 and report["failed"] == 0
    candidates = report["candidates"]
    found = [each["message"]["content"].count("a") for each in candidates]
    assert found == [2, 0, 5, 1, 3, 4, 7, 6]
    scores = [each["score"] for each in candidates]
    np.testing.assert_allclose(scores, found, atol=0.1)
    assert report["chosen"] == 6 and report["score"] == scores[6]
    assert sum(each["probability"] for each in candidates) == pytest.approx(1)
    small = client.chat(skqprobe={}).json()["skqprobe"]
    assert small.keys() == report.keys() - {"candidates", "chosen"}


def test_a_regressor_predicts_the_reward(make_client):
    texts = ["a" * i for i in range(6)]
    final = {"probe": QProbeRegressor(alpha=1e-9), "other": Ridge(1e-9)}
    for model in final.values():
        embedder = VectorizerEmbedder(
            lambda texts: [[text.count("a")] for text in texts]
        )
        pipeline = make_pipeline(embedder, model).fit(texts, range(6))
        answer = make_client(pipeline).chat()
        reward = float(answer.headers["x-skqprobe-predicted-reward"])
        assert reward == pytest.approx(7, abs=0.1)


def test_a_temperature_draws_by_the_probabilities(make_client, upstream):
    upstream.counts = iter([0, 1, 0, 1] * 200)
    client = make_client(random_state=0, k=2)
    answers = [client.chat(skqprobe={"temperature": 1.0}) for _ in range(60)]
    share = np.mean([texts_of(each)[0].endswith("a") for each in answers])
    assert share == pytest.approx(1 / (1 + np.exp(-1)), abs=0.2)
    upstream.counts = iter([0, 1] * 20)
    assert all(texts_of(client.chat()) == ["hi a"] for _ in range(10))


def test_a_pipeline_of_a_search_or_of_numbers(make_client, upstream):
    X = [[[1.0], [2.0]], [[3.0], [1.0]]]
    policy = QProbePolicy("squared_error", alpha=1e-9).fit(X, [[1, 2], [3, 1]])
    client = make_client(policy, embeddings="n_tokens")
    answer = client.chat()
    assert texts_of(answer) == ["hi aaaaaaa"]
    assert upstream.requests[0]["logprobs"] is True
    assert upstream.requests[0]["top_logprobs"] == 1
    assert answer.json()["choices"][0]["logprobs"] is None  # not asked for


def test_models_and_all_else_are_passed_on(client, upstream):
    answer = client.get("/v1/models?limit=3", headers={"authorization": "Bearer own"})
    assert answer.json() == {"object": "list", "data": [{"id": "tiny"}]}
    assert upstream.paths == ["/v1/models?limit=3"]
    assert upstream.headers[0]["authorization"] == "Bearer own"
    answer = client.post("/v1/embeddings", {"input": "a"})
    assert answer.json() == {"path": "/v1/embeddings", "body": {"input": "a"}}
    assert client.send_all(("DELETE", "/v1/files/1", {}))[0].status_code == 200
    assert len(upstream.paths) == 3


OUTSIDE = ["/props", "/v1/%2e%2e/x", "/v1/a%2f..%2fx", "/v1/..%5cx", "/v1/..;a=b/x"]


@pytest.mark.parametrize("path", OUTSIDE)
def test_paths_outside_are_not_passed_on(client, upstream, path):
    assert client.get(path).status_code == 404
    assert client.get("/v1/a..b/.c/..d").status_code == 200
    assert upstream.paths == ["/v1/a..b/.c/..d?"]


def test_other_models_are_not_chosen_for(make_client, upstream):
    client = make_client(model="tiny")
    for model, choice in (
        ("tiny", "pipeline"),
        ("other", "none"),
        ("best-of-2/other", "pipeline"),
    ):
        answer = client.chat(model=model)
        assert answer.headers["x-skqprobe-choice"] == choice
    body = {"messages": [{"role": "user", "content": "hi"}]}
    assert client.post("/v1/chat/completions", body).json()["model"] == "tiny-2026"
    assert upstream.requests[-1]["model"] == "tiny"  # where there is none


def test_one_candidate_is_passed_on(make_client, upstream):
    answer = make_client(k=1).chat(temperature=0.5)
    assert answer.json()["id"] == "of-upstream"
    assert "n" not in upstream.requests[0]
    assert upstream.requests[0]["temperature"] == 0.5


def test_health_and_metrics(client):
    client.chat()
    assert client.get("/health").json() == {"status": "ok"}
    metrics = client.get("/metrics").text
    assert 'skqprobe_requests_total{endpoint="chat",status="200"} 1.0' in metrics
    assert 'skqprobe_candidates_total{result="drawn"} 8.0' in metrics
    assert 'skqprobe_choices_total{rule="pipeline"} 1.0' in metrics
    assert "skqprobe_requests_under_way 0.0" in metrics


BAD_SETTINGS = {
    "k": ({"k": 0}, "'k' parameter"),
    "k and max_k": ({"k": 40}, "k=40 is more than max_k=32"),
    "upstream": ({"upstream": "localhost"}, "upstream must be a URL"),
    "password": ({"upstream": "http://a:b@localhost/v1"}, "user name or password"),
    "key without token": ({"api_key_env": "NO_SUCH"}, "needs client_token_env"),
    "token": ({"client_token_env": "NO_SUCH"}, "NO_SUCH.*not set"),
    "on_error": ({"on_error": "skip"}, "'on_error' parameter"),
    "embeddings": ({"embeddings": ["n_tokens", "x"]}, "embeddings must be some of"),
    "no embeddings": ({"embeddings": []}, "embeddings must be some of"),
    "log_content": (
        {"log": "x.jsonl", "log_content": "embeddings"},
        "needs a pipeline that begins with an embedder",
    ),
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_bad_settings_are_named(name, extra, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings, message = BAD_SETTINGS[name]
    X = np.ones((2, 2, 1))
    policy = QProbePolicy("squared_error").fit(X, X[..., 0])
    with pytest.raises(ValueError, match=message):
        create_app(policy, **{"upstream": "http://localhost:1/v1", **settings})
    assert not [*tmp_path.iterdir()]


def test_an_unfitted_pipeline_is_refused(extra):
    with pytest.raises(NotFittedError, match="pipeline"):
        create_app(clone(make_pipeline_of_a()), "http://localhost:1/v1")
