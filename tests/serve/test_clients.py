"""The official client, and that of LiteLLM, in front of scripted and real servers."""

import asyncio
import json

import numpy as np
import pytest
from serving import cut, hang, make_pipeline_of_a, refusal, run_server
from sklearn.pipeline import make_pipeline

from skqprobe import QProbePolicy
from skqprobe.embedders import OpenAIEmbedder
from skqprobe.generators import load_records
from skqprobe.serve import create_app

MESSAGES = [{"role": "user", "content": "hi"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "count",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}},
    },
}


@pytest.fixture
def openai():
    return pytest.importorskip("openai")


@pytest.fixture
def serve():
    """Function that runs an application, and returns its address."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def run(upstream, pipeline=None, **settings):
            pipeline = make_pipeline_of_a() if pipeline is None else pipeline
            settings = {"k": 8, "timeout": 20.0, **settings}
            app = create_app(pipeline, upstream, **settings)
            return stack.enter_context(run_server(app))

        yield run


@pytest.fixture
def client(openai, serve, upstream):
    with openai.OpenAI(
        base_url=serve(upstream.url, max_retries=0), api_key="sk-own", max_retries=0
    ) as client:
        yield client


def test_a_chat(client):
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES)
    assert answer.choices[0].message.content == "hi aaaaaaa"
    assert answer.usage.completion_tokens == 24
    raw = client.chat.completions.with_raw_response.create(
        model="best-of-2/tiny", messages=MESSAGES, extra_body={"skqprobe": {}}
    )
    assert raw.headers["x-skqprobe-drawn"] == "2"
    assert raw.parse().skqprobe["drawn"] == 2


def test_a_chat_that_is_streamed(client):
    stream = client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "hi aaaaaaa"
    assert chunks[-1].usage.completion_tokens == 24
    with client.chat.completions.stream(model="tiny", messages=MESSAGES) as stream:
        (choice,) = stream.get_final_completion().choices
    assert choice.message.content == "hi aaaaaaa" and choice.finish_reason == "stop"


def test_tools(client, upstream):
    function = {"name": "count", "arguments": json.dumps({"text": "aaa"})}
    call = {"id": "call_1", "type": "function", "function": function}
    upstream.make_message = lambda text: {
        "role": "assistant",
        "content": None,
        "tool_calls": [call],
    }
    options = {"model": "tiny", "messages": MESSAGES, "tools": [TOOL]}
    (choice,) = client.chat.completions.create(**options).choices
    assert choice.message.tool_calls[0].function.arguments == '{"text": "aaa"}'
    assert upstream.requests[0]["tools"] == [TOOL]
    with client.chat.completions.stream(**options) as stream:
        (choice,) = stream.get_final_completion().choices
    assert choice.message.tool_calls[0].id == "call_1"
    assert choice.message.tool_calls[0].function.arguments == '{"text": "aaa"}'
    answer = [{"role": "tool", "tool_call_id": "call_1", "content": "3"}]
    upstream.make_message = lambda text: {"role": "assistant", "content": text}
    history = [*MESSAGES, choice.message.to_dict(), *answer]
    (choice,) = client.chat.completions.create(model="tiny", messages=history).choices
    assert choice.message.content == "3 aaaaaaa"


def test_texts_models_and_embeddings(client, upstream):
    answer = client.completions.create(model="tiny", prompt="once")
    assert answer.choices[0].text == "once aaaaaaa"
    stream = client.completions.create(model="tiny", prompt="once", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "once aaaaaaa"
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_the_asynchronous_client(openai, serve, upstream):
    upstream.latency = 0.05
    url = serve(upstream.url)

    async def run():
        async with openai.AsyncOpenAI(base_url=url, api_key="x") as client:

            async def ask(word):
                answer = await client.chat.completions.create(
                    model="tiny", messages=[{"role": "user", "content": word}]
                )
                stream = await client.chat.completions.create(
                    model="tiny",
                    messages=[{"role": "user", "content": word}],
                    stream=True,
                )
                parts = [c.choices[0].delta.content or "" async for c in stream]
                return answer.choices[0].message.content, "".join(parts)

            words = [f"word{i}" for i in range(10)]
            for word, texts in zip(
                words, await asyncio.gather(*map(ask, words)), strict=True
            ):
                assert all(text.startswith(f"{word} ") for text in texts)

    asyncio.run(run())


FAULTS = {
    "refused": (refusal(400), "BadRequestError"),
    "no key": (refusal(401), "AuthenticationError"),
    "no model": (refusal(404), "NotFoundError"),
    "too many": (refusal(429), "RateLimitError"),
    "broken": (cut, "InternalServerError"),
    "error": (refusal(500), "InternalServerError"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", FAULTS)
def test_errors_are_those_of_the_upstream(openai, client, upstream, name, stream):
    fault, error = FAULTS[name]
    upstream.fault = lambda body: fault
    with pytest.raises(getattr(openai, error)):
        client.chat.completions.create(model="tiny", messages=MESSAGES, stream=stream)


def test_some_faults_do_not_reach_the_client(openai, serve, upstream):
    faults = iter([refusal(500), cut, hang, refusal(429)])
    upstream.fault = lambda body: next(faults, None)
    url = serve(upstream.url, n_per_request=1, timeout=1.0)
    with openai.OpenAI(base_url=url, api_key="x", max_retries=0) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="tiny", messages=MESSAGES
        )
    assert raw.headers["x-skqprobe-drawn"] == "4"
    assert raw.parse().choices[0].message.content.startswith("hi a")


def test_an_error_in_the_stream_is_raised(openai, serve, upstream):
    upstream.latency, upstream.fault = 0.2, lambda body: refusal(400)
    url = serve(upstream.url, keep_alive=0.05)
    with openai.OpenAI(base_url=url, api_key="x", max_retries=0) as client:
        stream = client.chat.completions.create(
            model="tiny", messages=MESSAGES, stream=True
        )
        with pytest.raises(openai.APIError, match="scripted"):
            list(stream)


def test_litellm(serve, upstream):
    litellm = pytest.importorskip("litellm")
    url = serve(upstream.url)
    options = {"model": "openai/tiny", "api_base": url, "api_key": "x"}
    answer = litellm.completion(messages=MESSAGES, **options)
    assert answer.choices[0].message.content == "hi aaaaaaa"
    stream = litellm.completion(messages=MESSAGES, stream=True, **options)
    parts = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(parts) == "hi aaaaaaa"


@pytest.mark.parametrize("needed", ["embeddings", "entropies"])
def test_a_real_server(openai, serve, llama, tmp_path, needed):
    """llama.cpp draws and embeds; the probe is that of its own log."""
    log = tmp_path / "log.jsonl"
    columns = ["n_tokens", "mean_entropies"] if needed == "entropies" else None
    if columns is None:
        embedder = OpenAIEmbedder("smol", base_url=llama, progress=False)
        pipeline = make_pipeline(embedder, QProbePolicy("squared_error"))
        records = [{"prompt": "The sea", "completions": [" is", " was"]}] * 2
        pipeline.fit(records, [[1, 0]] * 2)
    else:
        X = np.random.default_rng(0).normal(size=(4, 3, 2))
        pipeline = QProbePolicy("squared_error").fit(X, X[..., 0])
    url = serve(llama, pipeline, k=6, embeddings=columns, log=log, timeout=60.0)
    with openai.OpenAI(base_url=url, api_key="x", max_retries=0) as client:
        assert len(list(client.models.list())) == 1
        raw = client.completions.with_raw_response.create(
            model="smol", prompt="The sea", max_tokens=8, temperature=1.0
        )
        assert raw.headers["x-skqprobe-choice"] == "pipeline"
        assert raw.headers["x-skqprobe-drawn"] == "6"  # of 4 slots
        answer = raw.parse()
        stream = client.chat.completions.create(
            model="smol", messages=MESSAGES, max_tokens=8, stream=True
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        report = client.post(
            "/feedback", body={"id": answer.id, "reward": 1}, cast_to=object
        )
    assert report["id"] == answer.id
    data = load_records(log)
    first = data.records[0]
    assert first["completions"][first["chosen"]] == answer.choices[0].text
    assert data.y[data.asked].tolist()[0] == 1
