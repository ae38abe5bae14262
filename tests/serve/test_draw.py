"""Draws: several completions per request upstream, or one, whatever it allows."""

import numpy as np
import pytest
import serving

from skqprobe import QProbePolicy


def sizes(upstream):
    return [request.get("n", 1) for request in upstream.requests]


def n_letters(answer):
    return answer.json()["choices"][0]["message"]["content"].count("a")


def test_a_server_with_a_limit_is_learned_once(client, upstream):
    upstream.n_allowed = 4
    answer = client.chat()
    assert sizes(upstream) == [8, 4, 4] and n_letters(answer) == 7
    assert answer.headers["x-skqprobe-failed"] == "0"
    client.chat()
    assert sizes(upstream) == [8, 4, 4, 4, 4]


def test_a_server_that_ignores_n_is_learned_once(client, upstream):
    upstream.n_allowed, upstream.ignores_n = 1, True
    answer = client.chat()
    assert sizes(upstream) == [8] + [1] * 7 and n_letters(answer) == 7
    client.chat()
    assert sizes(upstream) == [8] + [1] * 15


def test_a_refusal_of_one_request_is_not_a_limit_of_all(client, upstream):
    upstream.fault = lambda body: serving.refusal(400, "n or something else is wrong")
    assert client.chat().status_code == 400
    upstream.fault, upstream.requests = lambda body: None, []
    assert client.chat().status_code == 200
    assert sizes(upstream) == [8]
    upstream.fault = lambda body: serving.refusal(400, "unknown tool_choice")
    assert client.chat().status_code == 400
    assert sizes(upstream) == [8, 8]


def test_a_limit_at_temperature_0_is_not_one_of_others(client, upstream):
    greedy = serving.refusal(400, "n must be 1 when using greedy sampling")
    upstream.fault = lambda body: (
        greedy if not body.get("temperature", 1) and body.get("n", 1) > 1 else None
    )
    assert n_letters(client.chat(temperature=0)) == 7
    upstream.requests.clear()
    assert n_letters(client.chat(temperature=0)) == 7
    assert client.chat(temperature=0.5).status_code == 200
    assert sizes(upstream) == [1] * 8 + [8]


HUGE = {"float": 1e308, "nan": float("nan"), "int": 10**400, "sum": 9 * 10**4298}


@pytest.mark.parametrize("usage", HUGE.values(), ids=HUGE)
def test_numbers_that_cannot_be_added_are_no_usage(make_client, upstream, usage):
    def count(body):
        more = {"usage": {"total_tokens": usage, "cost": 0.5}}
        return serving.fault(upstream.answer(body, 1) | more)

    upstream.fault = count
    answer = make_client(n_per_request=1, k=2).chat()
    assert answer.json()["usage"] == {"cost": 1.0}


def test_n_per_request(make_client, upstream):
    assert n_letters(make_client(n_per_request=3).chat()) == 7
    assert sorted(sizes(upstream)) == [2, 3, 3]


def test_each_request_has_a_seed_of_its_own(make_client, upstream):
    make_client(n_per_request=3).chat(seed=5)
    assert sorted(request["seed"] for request in upstream.requests) == [5, 8, 11]


def test_several_requests_run_at_once(make_client, upstream):
    upstream.latency = 0.4
    answer = make_client(n_per_request=1).chat()
    assert answer.elapsed.total_seconds() < 2.5  # one after the other: 3.2
    assert n_letters(answer) == 7


def test_a_completion_that_failed_is_left_out(client, upstream):
    def fail(body):
        async def reply(send):
            answer = upstream.answer(body, 8)
            answer["choices"][6] = {"index": 6, "error": {"message": "no"}}
            await serving.reply(send, answer)

        return reply

    upstream.fault = fail
    answer = client.chat()
    assert n_letters(answer) == 6
    assert answer.headers["x-skqprobe-drawn"] == "7"
    assert answer.headers["x-skqprobe-failed"] == "1"


def test_log_probs_that_nobody_changed_are_untouched(client, upstream):
    top = [{"token": "a", "logprob": -0.5}]  # not asked for
    token = {"token": "a", "logprob": -0.5, "top_logprobs": top}
    upstream.log_probs = lambda text, body: {"content": [token], "own": 1}
    for asked in {"logprobs": True}, {"logprobs": True, "top_logprobs": 0}:
        (choice,) = client.chat(**asked).json()["choices"]
        assert choice["logprobs"] == {"content": [token], "own": 1}


@pytest.mark.parametrize("needed", ["n_tokens", "mean_entropies"])
def test_log_probs_that_the_client_asked_for(make_client, upstream, needed):
    X = np.array([[[1.0], [2.0]], [[3.0], [1.0]]])
    policy = QProbePolicy("squared_error", alpha=1e-9).fit(X, X[..., 0])
    client = make_client(policy, embeddings=[needed])
    answer = client.chat(logprobs=True, top_logprobs=0)
    assert answer.headers["x-skqprobe-choice"] == "pipeline"
    n_asked = upstream.requests[0]["top_logprobs"]
    assert n_asked == {"n_tokens": 1, "mean_entropies": 20}[needed]
    (choice,) = answer.json()["choices"]
    tokens = choice["logprobs"]["content"]
    assert {len(token["top_logprobs"]) for token in tokens} == {0}
    answer = client.chat(logprobs=True, top_logprobs=2)
    tokens = answer.json()["choices"][0]["logprobs"]["content"]
    assert {len(token["top_logprobs"]) for token in tokens} == {2}
    assert client.chat().json()["choices"][0]["logprobs"] is None
