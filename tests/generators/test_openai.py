"""OpenAIGenerator, with a server that makes errors and with llama.cpp."""

import json
import threading

import numpy as np
import pytest
from openai_server import Faults
from sklearn.base import clone

from skqprobe import QProbePolicy
from skqprobe._backends.http_client import APIError
from skqprobe._backends.refusal import PromptRefused
from skqprobe.embedders import LikelihoodEmbedder
from skqprobe.generators import (
    BestOfK,
    OpenAIGenerator,
    collect,
    load_records,
    stack_embeddings,
)

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


def test_a_prefix_is_sent_with_the_prompt(server):
    record = generator(server, seed=0).sample("text ", 2, prefix="be")
    seed = server.requests[0][1]["seed"]
    assert server.requests[0][1]["prompt"] == "text be"
    assert record == {
        "prompt": "text ",
        "completions": [f"betext be/{seed}/{i}" for i in range(2)],
        "finish_reasons": ["length", "length"],
    }
    generator(server, seed=0).sample("text ", 2, prefix="a")
    assert server.requests[1][1]["seed"] != seed


def test_a_chat_has_no_prefix(server):
    for settings, prompt in ({}, CHAT), ({"chat": True}, "text"):
        with pytest.raises(ValueError, match="prefix needs texts as prompts"):
            generator(server, **settings).sample(prompt, 1, prefix="a")
    assert server.requests == []


def test_openai_itself_has_another_name_for_max_tokens(server, monkeypatch):
    import openai

    def post(client, path, *, body, cast_to):
        sent.append(body)
        return cast_to(200, json=server.answer(path, body))

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


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (400, "Only one completion choice is allowed"),
        (422, "n: must be at most 4"),
        (400, "n_cmpl cannot be greater than the number of slots"),
        (400, "Invalid n value (currently only n = 1 is supported)"),
    ],
)
def test_a_server_that_limits_n(server, code, said):
    server.fault = lambda path, body: (
        server.status(code, message=said) if body.get("n", 1) > 4 else None
    )
    records = generator(server, seed=3, concurrency=1).generate(["a", "b"], 10)
    n_asked = [body.get("n", 1) for _, body in server.requests]
    # The limit is known from the first prompt.
    assert n_asked == [10, 5, 2, 2, 2, 2, 2] + [2] * 5
    for record in records:
        assert len(set(record["completions"])) == 10


@pytest.mark.parametrize(
    "said", ["temperature and top_p cannot both be specified", "content filter"]
)
def test_n_is_reduced_only_if_it_is_refused(server, said):
    server.fault = lambda path, body: server.status(400, message=said)
    hint = "top_p=None" if "top_p" in said else "content filter"
    with pytest.raises(RuntimeError, match=hint):
        generator(server).generate(["a"], 16)
    assert [body["prompt"] for _, body in server.requests] == ["a", "Hi"]


def test_temperature_and_top_p_can_be_left_out(server):
    generator(server, temperature=None, top_p=None).sample("text", 1)
    body = {"model": "model", "prompt": "text", "max_tokens": 256}
    assert server.requests == [("/completions", body)]
    generator(server, top_p=None).sample(CHAT, 1)
    assert server.requests[1][1]["temperature"] == 1.0
    assert "top_p" not in server.requests[1][1]


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


def test_likelihoods_of_a_part_of_a_character(server):
    """llama.cpp returns nothing for its tokens: unknown, but not refused."""
    part = server.change(
        lambda data: [c.update(text="\ufffd", logprobs=None) for c in data]
    )
    asked = generator(server, log_likelihoods=True, top_logprobs=3)
    server.script = [part]
    with pytest.warns(RuntimeWarning) as warned:
        record = asked.sample("text", 2)
    assert [str(each.message)[:26] for each in warned] == [
        "2 log-likelihoods are None",
        "2 rows of likelihood_featu",
    ]
    assert record["log_likelihoods"] == [None, None]
    assert np.isnan(record["likelihood_features"]).all()


@pytest.mark.parametrize("prompt", ["text", CHAT], ids=["text", "chat"])
def test_log_likelihoods(server, prompt):
    record = generator(server, log_likelihoods=True).sample(prompt, 2)
    assert record["log_likelihoods"] == [-1.75, -1.75]
    assert record["n_tokens"] == [3, 3]
    server.script = [
        server.change(lambda data: [choice.update(logprobs=None) for choice in data])
    ]
    message = "the server returned no log-probabilities"
    with pytest.raises(PromptRefused, match=message):
        generator(server, log_likelihoods=True).sample(prompt, 2)


def test_log_likelihoods_that_are_unknown(server):
    likely = generator(server, log_likelihoods=True)
    for values in (None, [], [None, -1.0], [-1.0, float("-inf")], [-(10**400)]):
        logprobs = None if values is None else {"token_logprobs": values}
        server.script = [server.put("logprobs", logprobs, 1)]
        with pytest.warns(RuntimeWarning, match="^1 log-likelihoods are None"):
            record = likely.sample("text", 2)
        assert record["log_likelihoods"] == [-1.75, None]
        assert record["n_tokens"] == [3, None]


LIKELIEST = [[0.7, 0.2], [0.05, 0.5, 0.25], [0.5, 0.5]]  # of 3 tokens; any order
TAKEN = [0.2, 0.5, 0.01]
REST = [0.1, 0.2, 0.0]


def log_probs_of(as_chat):
    """Return the log-probabilities above in the form of an endpoint."""
    tops = [dict(zip("abc", np.log(row).tolist(), strict=False)) for row in LIKELIEST]
    taken = np.log(TAKEN).tolist()
    if not as_chat:
        return {"token_logprobs": taken, "top_logprobs": tops}
    rows = [[{"token": t, "logprob": v} for t, v in row.items()] for row in tops]
    return {
        "content": [
            {"logprob": value, "top_logprobs": row}
            for value, row in zip(taken, rows, strict=True)
        ]
    }


@pytest.mark.parametrize("prompt", ["text", CHAT], ids=["text", "chat"])
def test_likelihood_features(server, prompt):
    server.script = [
        server.change(
            lambda choices: [
                c.update(logprobs=log_probs_of("message" in c)) for c in choices
            ]
        )
    ]
    record = generator(server, top_logprobs=np.int64(3)).sample(prompt, 2)
    asked = server.requests[0][1]
    if prompt == CHAT:
        assert (asked["logprobs"], asked["top_logprobs"]) == (True, 3)
    else:
        assert asked["logprobs"] == 3
    p = [np.array([*row, rest]) for row, rest in zip(LIKELIEST, REST, strict=True)]
    entropy = [-(row[row > 0] * np.log(row[row > 0])).sum() for row in p]
    taken = np.log(TAKEN)
    expected = [taken.sum(), taken.mean(), taken.min(), np.mean(entropy), 3]
    expected += [max(entropy), entropy[-1], np.mean([0.5, 0.25, 0.0])]
    found = record["likelihood_features"]
    np.testing.assert_allclose(found, [expected] * 2, rtol=1e-12, atol=1e-12)
    assert "log_likelihoods" not in record


def test_likelihood_features_that_are_unknown(server):
    asked = generator(server, top_logprobs=3, log_likelihoods=True)
    known, tops = log_probs_of(False), log_probs_of(False)["top_logprobs"]
    for change in (
        {"top_logprobs": None},
        {"top_logprobs": tops[:2]},
        {"top_logprobs": [None, *tops[1:]]},
        {"top_logprobs": [{"a": -1.0}, *tops[1:]]},
        {"top_logprobs": [{"a": -1.0, "b": None}, *tops[1:]]},
        {"top_logprobs": ["ab", *tops[1:]]},
        {"top_logprobs": 3},
        {"content": [{"logprob": -1.0, "top_logprobs": [-1.0, -2.0]}]},
    ):
        parts = known, known | change
        server.script = [
            server.change(
                lambda choices, parts=parts: [
                    c.update(logprobs=part)
                    for c, part in zip(choices, parts, strict=True)
                ]
            )
        ]
        with pytest.warns(RuntimeWarning, match="^1 rows of likelihood_features are N"):
            record = asked.sample("text", 2)
        unknown = np.isnan(record["likelihood_features"])
        assert unknown.sum(1).tolist() == [0, 8]
    message = "top_logprobs=3, but the server returned no list"
    with pytest.raises(RuntimeError, match=message):  # as this server
        asked.sample("text", 2)
    server.script = [
        server.change(lambda choices: choices[0].update(text="", logprobs=None))
    ]
    record = asked.sample("text", 1)
    np.testing.assert_array_equal(record["likelihood_features"], np.zeros((1, 8)))


def test_likelihood_features_are_collected_and_chosen_by(server, tmp_path):
    server.fault = lambda path, body: server.change(
        lambda choices: [c.update(logprobs=log_probs_of(False)) for c in choices]
    )
    asked = generator(server, top_logprobs=3)
    path = tmp_path / "records.jsonl"
    with pytest.warns(RuntimeWarning, match="were cut off"):
        collect(["a", "b"], asked, lambda item, text: len(text), 2, path=path)
    records = load_records(path).records
    X = stack_embeddings(records, "likelihood_features")
    assert X.shape == (2, 2, 8)
    np.testing.assert_allclose(X[..., 4], 3)
    policy = QProbePolicy("squared_error").fit(X, [[0, 1], [0, 1]])
    best = BestOfK(asked, policy, 2, embeddings="likelihood_features")
    assert len(best.generate(["c"])) == 1


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
    server.script = [server.put("message", {"role": "assistant", "content": ""})]
    assert generator(server).sample(CHAT, 1)["completions"] == [""]
    server.script = [
        server.change(lambda choices: choices[0].update(text="", logprobs=None))
    ]
    record = with_likelihoods.sample("text", 1)
    assert (record["log_likelihoods"], record["n_tokens"]) == ([0.0], [0])


NO_TEXT = {
    "reasoning_content": ({"content": None, "reasoning_content": "Hm"}, None),
    "refusal": ({"content": None, "refusal": "No."}, None),
    "reasoning": ({"content": "", "reasoning": "Hm"}, None),
    "no field": ({"content": None}, None),
    "refusal ": (
        {"content": [{"type": "refusal", "refusal": "No."}], "refusal": None},
        None,
    ),
    "content": ({"content": [{"type": "thinking", "thinking": "Hm"}]}, None),
}


@pytest.mark.parametrize(("message", "_"), NO_TEXT.values(), ids=NO_TEXT)
def test_completions_without_text_are_counted(server, message, _, request):
    field = request.node.callspec.id.strip()
    server.fault = lambda path, body: server.change(
        lambda choices: choices[1].update(message=message, logprobs=None)
    )
    warned = rf"^4 completions have no text, .* instead: {field} \(4\)"
    drawn = generator(server, log_likelihoods=True)
    with (
        pytest.warns(RuntimeWarning, match=warned),
        pytest.warns(RuntimeWarning, match="None"),
    ):
        records = drawn.generate([CHAT] * 4, 3)
    for record in records:
        assert record["completions"][1] == ""
        unknown = [p is None for p in record["log_likelihoods"]]
        assert unknown == [False, True, False]


def test_refusals_are_kept(server):
    parts = [{"type": "text", "text": "3"}, {"type": "refusal", "refusal": "No."}]
    messages = [{"content": parts}, {"content": None, "refusal": "\ud800"}]
    server.script = [
        server.change(
            lambda choices: [
                choice.update(message=message)
                for choice, message in zip(choices, messages, strict=False)
            ]
        )
    ]
    with pytest.warns(RuntimeWarning, match=r"1 completions .* refusal \(1\)"):
        record = generator(server).sample(CHAT, 3)
    assert record["completions"] == ["3", "", "Hi/None/2"]
    assert record["refusals"] == ["No.", "\ufffd", None]
    assert "refusals" not in generator(server).sample(CHAT, 1)


def test_parts_of_a_content_are_joined(server):
    parts = [{"type": "text", "text": "39"}, {"type": "image"}, "1", {"text": "\ud800"}]
    server.script = [server.put("message", {"content": parts})]
    assert generator(server).sample(CHAT, 1)["completions"] == ["391\ufffd"]
    server.script = [server.put("message", {"content": [3]})]
    with pytest.raises(
        ValueError, match=r"choices\[0\]\.message\.content\[0\] must be"
    ):
        generator(server).sample(CHAT, 1)


def test_calls_of_tools(server):
    def calls(number, arguments):
        function = {"name": "add", "arguments": arguments}
        return [{"id": f"call_{number}", "type": "function", "function": function}]

    asked = generator(server)
    one, other = calls(1, '{"b": 2,\n "a": 1}'), calls(2, '{"a": 1, "b": 2}')
    server.script = [
        server.change(
            lambda choices: [
                choices[0].update(message={"content": None, "tool_calls": one}),
                choices[1].update(message={"content": "So:", "tool_calls": other}),
            ]
        )
    ]
    record = asked.sample(CHAT, 3)
    text = '[{"arguments": {"a": 1, "b": 2}, "name": "add"}]'
    assert record["completions"] == [text, f"So:\n{text}", "Hi/None/2"]
    assert record["tool_calls"] == [one, other, None]
    server.script = [server.put("message", {"tool_calls": calls(1, "no JSON")})]
    assert "no JSON" in asked.sample(CHAT, 1)["completions"][0]
    assert "tool_calls" not in asked.sample(CHAT, 1)


def test_a_choice_with_an_error_is_no_completion(server):
    half = server.put("error", {"code": 502, "message": "upstream failed"})
    for fault in (half, server.put("finish_reason", "error")):
        server.requests.clear()
        server.script = [fault]  # of the first choice
        record = generator(server, seed=0).sample(CHAT, 3)
        assert [body.get("n", 1) for _, body in server.requests] == [3, 1]
        assert len(set(record["completions"])) == 3
    server.fault = lambda path, body: half
    with pytest.raises(RuntimeError, match="reports an error: upstream failed"):
        generator(server).sample(CHAT, 1)


@pytest.mark.parametrize("text", ['{"choices": []}', "{}", '{"choices": null}'])
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
    asked = generator(server, concurrency=1)
    with pytest.raises(
        PromptRefused, match=r"prompts\[2\] \('c'\).* HTTP 400"
    ) as raised:
        asked.generate(list("abcde"), 1)
    assert "HTTP 400: scripted" in str(raised.value)
    # The others go on.
    results = dict(asked.sample_each(list("abcde"), 1))
    assert sorted(results) == list(range(5))
    assert isinstance(results.pop(2), PromptRefused)
    assert [record["prompt"] for record in results.values()] == list("abde")


@pytest.mark.parametrize(
    ("code", "said", "param"),
    [
        (403, "Your input was flagged", None),
        (400, "The response was filtered", "prompt"),
        (400, "Invalid content", "messages[0].content"),
        (413, "Too large", None),
    ],
)
def test_refusals_of_a_prompt(server, code, said, param):
    content = json.dumps({"error": {"message": said, "param": param}})
    server.fault = lambda path, body: (
        server.send(content, status=code) if body["prompt"] == "a" else None
    )
    results = list(generator(server).sample_each(["a"], 2))
    assert [type(result) for _, result in results] == [PromptRefused]
    assert said in results[0][1].reason


def test_a_prompt_that_breaks_the_server(server, slept):
    server.fault = lambda path, body: (
        server.status(500) if body["prompt"] == "c" else None
    )
    asked = generator(server, concurrency=1, max_retries=1)
    results = dict(asked.sample_each(list("abcde"), 1))
    assert "HTTP 500" in str(results.pop(2))
    assert [record["prompt"] for record in results.values()] == list("abde")
    with pytest.raises(RuntimeError, match="HTTP 500") as raised:
        asked.generate(list("abcde"), 1)
    assert "prompts[2] ('c')" in raised.value.__notes__[0]
    server.requests.clear()
    server.fault = lambda path, body: server.status(500)
    with pytest.raises(RuntimeError, match=r"^OpenAIGenerator: .* HTTP 500.* 0 of 5"):
        asked.generate(list("abcde"), 1)
    assert len(server.requests) == 2 * 5
    # 20 failures in a row end the call, also after a success.
    server.requests.clear()
    server.fault = lambda path, body: (
        server.status(503) if body["prompt"] != "0" else None
    )
    with pytest.raises(RuntimeError, match=r"^OpenAIGenerator: .*503.* 1 of 50 prompt"):
        list(asked.sample_each([f"{i}" for i in range(50)], 1))
    assert 1 + 2 * 20 <= len(server.requests) <= 1 + 2 * 21


FAILURES = {
    "empty": Faults.say('{"choices": []}'),
    "choice": Faults.put("error", {"code": 502, "message": "upstream failed"}),
    "403": Faults.status(403, message="blocked by guardrail"),
    "500": Faults.status(500),
    "503": Faults.status(503),
    "504": Faults.status(504),
    "timeout": Faults.hang,
    "malformed": Faults.say("<html>"),
}


@pytest.mark.filterwarnings("ignore:.* were cut off")
@pytest.mark.parametrize("fault", FAILURES.values(), ids=FAILURES)
def test_collect_leaves_out_a_prompt_that_always_fails(server, slept, tmp_path, fault):
    def resume(prompts="abcd"):
        drawn = generator(server, concurrency=1, max_retries=0, timeout=timeout)
        options = {"path": tmp_path / "records.jsonl", "on_error": "skip"}
        return collect(list(prompts), drawn, lambda item, text: 0, 1, **options)

    timeout = 0.3 if fault is Faults.hang else 30
    server.fault = lambda path, body: fault if body["prompt"] == "a" else None
    for n_asked in (4, 1):  # then it is the only one left
        server.requests.clear()
        with pytest.warns(
            RuntimeWarning, match=r"1 of 4 .*prompts\[0\] \('a'\) failed"
        ):
            assert [record["prompt"] for record in resume()] == list("bcd")
        assert len(server.requests) == n_asked
    server.fault = lambda path, body: server.status(401)
    with pytest.raises(RuntimeError, match="HTTP 401"):
        resume()
    server.fault = lambda path, body: None
    assert [record["prompt"] for record in resume()] == list("abcd")


@pytest.mark.parametrize(
    ("said", "n_prompts"),
    [("Your credit balance is too low", 50), ("scripted", 50), ("scripted", 12)],
)
def test_collect_files_no_refusal_of_the_account(server, tmp_path, said, n_prompts):
    prompts, path = [f"{i}" for i in range(n_prompts)], tmp_path / "records.jsonl"
    answered = prompts[:10]
    server.fault = lambda path, body: (
        None if body["prompt"] in answered else server.status(400, message=said)
    )
    with pytest.raises(RuntimeError, match=f"'Hi' .* {said}.* 10 of") as raised:
        collect(
            prompts,
            generator(server, concurrency=1),
            lambda item, text: 0,
            1,
            path=path,
            on_error="skip",
        )
    assert not isinstance(raised.value, PromptRefused)
    assert "refused" not in path.read_text()
    assert len(load_records(path).records) == 10
    if said != "scripted":  # never, also if others succeed
        server.script = [None, server.status(400, message=said)]
        server.fault = lambda path, body: None
        results = dict(generator(server, concurrency=1).sample_each(list("abc"), 1))
        assert type(results[1]) is APIError


@pytest.mark.filterwarnings("ignore:.* were cut off")
def test_many_prompts_that_are_refused_for_good(server, tmp_path):
    """More than 20 in a row, as of a set of prompts that a filter stops."""
    prompts, path = [f"{i}" for i in range(50)], tmp_path / "records.jsonl"
    server.fault = lambda path, body: (
        server.status(400) if body["prompt"] in prompts[3:48] else None
    )

    def resume():
        drawn = generator(server, concurrency=1)
        options = {"path": path, "on_error": "skip"}
        return collect(prompts, drawn, lambda item, text: 0, 1, **options)

    for n_asked in (52, 0):  # two checks, of 20 each
        server.requests.clear()
        with pytest.warns(RuntimeWarning, match="45 of 50 prompts failed"):
            records = resume()
        assert [record["prompt"] for record in records] == [*"012", "48", "49"]
        assert len(server.requests) == n_asked
    assert sorted(load_records(path).refused) == list(range(3, 48))


@pytest.mark.parametrize("code", [401, 404, 429])
def test_faults_of_the_server_end_the_call(server, slept, code):
    server.fault = lambda path, body: (
        server.status(code) if body["prompt"] == "c" else None
    )
    message = rf"OpenAIGenerator: .* HTTP {code}: .* 2 of 5 prompts were done"
    with pytest.raises(RuntimeError, match=message):
        generator(server, concurrency=1, max_retries=0).generate(list("abcde"), 1)
    assert [body["prompt"] for _, body in server.requests] == ["a", "b", "c"]


def test_a_setting_that_is_refused_is_no_prompt_that_is_refused(server):
    prompts = [f"{i}" for i in range(100)]
    server.fault = lambda path, body: server.status(400, message="no such setting")
    asked = generator(server, concurrency=2)
    with pytest.raises(RuntimeError, match=r"no such setting.* 0 of 100") as raised:
        list(asked.sample_each(prompts, 1))
    assert not isinstance(raised.value, PromptRefused)
    assert len(server.requests) <= 22
    named = {"error": {"message": "bad", "param": "temperature"}}
    server.fault = lambda path, body: server.send(json.dumps(named), status=400)
    with pytest.raises(RuntimeError, match=r"HTTP 400: bad.* 0 of 1") as raised:
        list(asked.sample_each(["a"], 1))
    assert not isinstance(raised.value, PromptRefused)
    # Refusals before the first answer are reported after it.
    server.fault = lambda path, body: (
        server.status(400) if int(body["prompt"]) < 9 else None
    )
    results = dict(asked.sample_each(prompts, 1))
    refused = [i for i, r in results.items() if isinstance(r, PromptRefused)]
    assert sorted(refused) == list(range(9))
    assert len(results) == 100


def test_lone_surrogates_in_prompts(server):
    for bad in ("\ud800", [{"role": "user", "content": "a\udfff"}]):
        with pytest.raises(ValueError, match=r"prompts\[1\].* surrogate"):
            generator(server).generate(["a", bad], 1)
    assert server.requests == []


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
    with pytest.warns(RuntimeWarning, match="8 of 8 completions were cut off"):
        records = resume(concurrency=2, timeout=5, api_key_env="OTHER")
    assert [body["prompt"] for _, body in server.requests] == ["d"]
    assert [record["prompt"] for record in records] == list("abcd")
    assert server.key not in path.read_text()


@pytest.mark.filterwarnings("ignore:.* were cut off")
def test_collect_leaves_out_what_is_refused(server, tmp_path):
    def resume(on_error="raise"):
        drawn = generator(server, concurrency=2, log_likelihoods=True)
        return collect([*"abcde", CHAT], drawn, len_of, 2, path=path, on_error=on_error)

    def len_of(item, text):
        return len(text)

    path = tmp_path / "records.jsonl"
    tools = [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]
    no_text = {"content": None, "tool_calls": tools}
    server.fault = lambda path, body: (
        server.status(400, message="filtered")
        if body.get("prompt") in ("b", "d")
        else server.put("message", no_text)
        if "messages" in body
        else None
    )
    with pytest.raises(PromptRefused, match=r"2 of 6 .*prompts\[1\] \('b'\).*filtered"):
        resume()
    assert len(server.requests) == 6
    with pytest.warns(RuntimeWarning, match=r"2 of 6 prompts failed. prompts\[1\]"):
        records = resume("skip")
    assert [record["prompt"] for record in records] == ["a", "c", "e", CHAT]
    assert records[3]["tool_calls"] == [tools, None]
    assert records[0]["finish_reasons"] == ["length", "length"]
    server.fault = lambda path, body: None
    records = resume()
    assert [record["prompt"] for record in records] == [*"abcde", CHAT]
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


@pytest.mark.parametrize("prompt", ["Once upon a", CHAT], ids=["text", "chat"])
def test_llama_likelihood_features(llama, smollm, prompt):
    """Those of the model in this process, which rounds differently, or less."""
    pytest.importorskip("torch")
    drawn = OpenAIGenerator(
        "m", base_url=llama, max_tokens=6, seed=1, top_logprobs=50, concurrency=1
    )
    record = drawn.sample(prompt, 4)
    names = ["mean_entropy", "max_entropy", "mean_margin"]
    embedder = LikelihoodEmbedder(**smollm, features=names)
    [expected] = embedder.transform([record])
    found = record["likelihood_features"][:, [3, 5, 7]]
    assert np.abs(found - expected)[:, 2].max() < 0.06
    assert (found[:, :2] < expected[:, :2] + 0.1).all()  # lower bounds
    assert (found[:, :2] > 0.3 * expected[:, :2]).all()


def test_llama_many_prompts(llama):
    drawn = OpenAIGenerator("m", base_url=llama, max_tokens=3, temperature=0.0)
    prompts = ["The capital of France is", "One, two, three,", "A, B, C,"]
    records = drawn.generate(prompts, 1)
    assert [record["prompt"] for record in records] == prompts
    assert "Paris" in records[0]["completions"][0]
    assert all(record["n_tokens"] == [3] for record in records)
