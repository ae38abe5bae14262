"""OpenAIGenerator, with a server that makes errors and with llama.cpp."""

import json
import threading

import numpy as np
import pytest
from sklearn.base import clone

from skqprobe.generators import OpenAIGenerator, collect

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


def generator(server, **settings):
    return OpenAIGenerator("model", base_url=server.url, **settings)


def test_endpoints_of_texts_and_messages(server):
    records = generator(server, concurrency=1).generate(["text", CHAT], 2)
    paths = [path for path, _ in server.requests]
    assert paths == ["/completions", "/chat/completions"]
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
    sent = {"temperature": 0.5, "top_p": 0.25, "max_tokens": 7, "stop": ["\n"]}
    settings = {
        "temperature": np.float32(0.5),
        "top_p": np.float64(0.25),
        "max_tokens": np.int64(7),
        "stop": ["\n"],
    }
    generator(server, **settings).sample("text", 3)
    body = {"model": "model", "prompt": "text", "n": 3, **sent}
    assert server.requests == [("/completions", body)]
    generator(server, max_tokens=7).sample(CHAT, 1)
    assert server.requests[1][1]["max_tokens"] == 7


def test_openai_itself_has_another_name_for_max_tokens(server, monkeypatch):
    import openai

    def post(client, path, *, body, cast_to):
        sent.append(body)
        return server.answer(path, body)

    sent = []
    monkeypatch.setattr(openai.OpenAI, "post", post)
    OpenAIGenerator("model", max_tokens=7).generate(["text", CHAT], 1)
    by_form = sorted(sent, key=lambda body: "messages" in body)
    assert "max_completion_tokens" not in by_form[0]
    assert by_form[0]["max_tokens"] == by_form[1]["max_completion_tokens"] == 7
    assert "max_tokens" not in by_form[1]


def test_a_server_that_ignores_n(server):
    server.fault = lambda path, body: server.change(
        lambda choices: choices.__delitem__(slice(1, None))
    )
    record = generator(server, seed=3).sample("text", 4)
    assert [body.get("n", 1) for _, body in server.requests] == [4, 3, 2, 1]
    assert len(set(record["completions"])) == 4  # as every request has its own seed


@pytest.mark.parametrize("code", [400, 422])
def test_a_server_that_limits_n(server, code):
    server.fault = lambda path, body: (
        server.status(code) if body.get("n", 1) > 4 else None
    )
    records = generator(server, seed=3, concurrency=1).generate(["a", "b"], 10)
    n_asked = [body.get("n", 1) for _, body in server.requests]
    # The limit is known from the first prompt.
    assert n_asked == [10, 5, 2, 2, 2, 2, 2] + [2] * 5
    for record in records:
        assert len(set(record["completions"])) == 10


def test_a_server_that_gives_more(server):
    server.script = [server.change(lambda choices: choices.extend(choices))]
    assert len(generator(server).sample("text", 2)["completions"]) == 2


def test_seeds_depend_on_the_prompt_not_on_its_position(server):
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
    server.script = [server.put("logprobs", None, 1)]
    with pytest.raises(ValueError, match="the server returned no log-probabilities"):
        generator(server, log_likelihoods=True).sample(prompt, 2)


def test_n_tokens_if_known(server):
    assert "n_tokens" not in generator(server).sample("text", 2)
    assert generator(server).sample("text", 1)["n_tokens"] == [3]
    answer = server.answer("/completions", {"prompt": "text"})
    del answer["usage"]
    server.script = [server.say(json.dumps(answer))]
    assert "n_tokens" not in generator(server).sample("text", 1)


def test_an_empty_completion_is_one(server):
    with_likelihoods = generator(server, log_likelihoods=True)
    server.script = [server.put("text", "")]
    assert with_likelihoods.sample("text", 2)["completions"] == ["", "text/None/1"]
    server.script = [server.put("message", {"role": "assistant", "content": None})]
    assert generator(server).sample(CHAT, 1)["completions"] == [""]
    server.script = [
        server.change(lambda choices: choices[0].update(text="", logprobs=None))
    ]
    record = with_likelihoods.sample("text", 1)
    assert (record["log_likelihoods"], record["n_tokens"]) == ([0.0], [0])


@pytest.mark.parametrize("text", ['{"choices": []}', "{}", '{"choices": [3]}'])
def test_an_answer_without_completions(server, text):
    server.script = [server.say(text)]
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


def test_permanent_faults_of_completions(server, slept):
    server.fault = lambda path, body: (
        server.status(400) if body["prompt"] == "c" else None
    )
    message = r"OpenAIGenerator: .* HTTP 400: .* 2 of 5 prompts were done"
    with pytest.raises(RuntimeError, match=message):
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


def test_collect_resumes_after_a_fault(server, tmp_path):
    def resume(**settings):
        drawn = generator(server, **settings)
        return collect(list("abcd"), drawn, lambda item, text: 0, 2, path=path)

    path = tmp_path / "records.jsonl"
    server.fault = lambda path, body: (
        server.status(401) if body["prompt"] == "d" else None
    )
    with pytest.raises(RuntimeError, match="HTTP 401"):
        resume(concurrency=1)
    server.fault = lambda path, body: None
    server.requests.clear()
    records = resume(concurrency=2, timeout=5, api_key_env="OTHER")
    assert [body["prompt"] for _, body in server.requests] == ["d"]
    assert [record["prompt"] for record in records] == list("abcd")
    assert server.key not in path.read_text()


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
