"""The chooser: the same choice as BestOfK, several requests in one batch."""

import asyncio
from itertools import pairwise

import numpy as np
import pytest
import serving
from serving import CHAT, count_a, make_pipeline_of_a
from sklearn import config_context
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import CalibratedPolicyCV, QProbePolicy, make_probe_pipeline
from skqprobe._backends.http_client import APIError
from skqprobe.embedders import EmbedderUnion, VectorizerEmbedder
from skqprobe.generators import BestOfK
from skqprobe.preprocessing import PerCandidate, SiblingFeatures
from skqprobe.serve._choose import Chooser

RECORDS = [
    {"prompt": "x", "completions": ["a" * i, "b" * i, "ab", "ba" * i]}
    for i in range(1, 8)
]
Y = np.array([[t.count("a") for t in r["completions"]] for r in RECORDS], dtype=float)


def letters():
    return VectorizerEmbedder(count_a)


def fit(model):
    return model.fit(RECORDS, Y)


class Drawn:
    def generate(self, prompts, k):
        return RECORDS


@pytest.mark.parametrize(
    "pipeline",
    [
        make_pipeline(letters(), QProbePolicy("squared_error", temperature=0.5)),
        make_pipeline(
            letters(), PerCandidate(StandardScaler()), SiblingFeatures(), QProbePolicy()
        ),
        GridSearchCV(
            make_pipeline(letters(), QProbePolicy("squared_error")),
            {"qprobepolicy__alpha": [1e-3]},
            cv=2,
        ),
        make_pipeline(
            letters(), make_pipeline(PerCandidate(StandardScaler()), QProbePolicy())
        ),
    ],
    ids=["policy", "siblings", "search", "nested"],
)
def test_values_are_those_of_best_of_k(pipeline):
    fit(pipeline)
    chooser = Chooser(pipeline, None, 0.0, lambda n: None)
    best = BestOfK(Drawn(), pipeline, 4)
    _, expected = best.generate([""] * len(RECORDS), return_candidates=True)
    for found, record in zip(chooser.compute(RECORDS), expected, strict=True):
        np.testing.assert_allclose(found.values, record["values"], rtol=1e-6)
        np.testing.assert_allclose(found.probabilities, record["probabilities"], 1e-5)
        assert found.embeddings.shape == (4, 2)


def test_rows_get_groups_with_the_configuration_of_the_thread_that_made_it():
    rows = [(r["prompt"], text) for r in RECORDS for text in r["completions"]]
    groups = np.repeat(np.arange(len(RECORDS)), 4)
    with config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(
            letters(), StandardScaler(), SiblingFeatures(), Ridge()
        )
        pipeline.fit(rows, Y.ravel(), groups=groups)
        chooser = Chooser(pipeline, None, 0.0, lambda n: None)
        expected = pipeline.predict(rows, groups=groups)

    async def run():
        return await asyncio.gather(*map(chooser.values, RECORDS))

    found = asyncio.run(run())
    np.testing.assert_allclose(np.concatenate([v.values for v in found]), expected)
    np.testing.assert_array_equal(found[0].rewards, found[0].values)


@pytest.mark.parametrize("union", [False, True])
def test_sets_of_different_sizes_are_embedded_in_one_call(union):
    calls = []

    def embed(texts):
        calls.append(len(texts))
        return count_a(texts)

    embedder = VectorizerEmbedder(embed)
    if union:
        pipeline = fit(make_probe_pipeline(embedder=embedder, cv=2))
    else:
        pipeline = fit(make_pipeline(embedder, QProbePolicy()))
    chooser = Chooser(pipeline, None, 0.0, lambda n: None)
    sizes = [1, 4, 2, 4]
    cut = [
        r | {"completions": r["completions"][:n]}
        for r, n in zip(RECORDS[2:], sizes, strict=False)
    ]
    calls.clear()
    found = chooser.compute(cut)
    assert len(calls) == 1
    assert [len(values.values) for values in found] == sizes
    expected = pipeline.decision_function(cut[1:2])[0]
    np.testing.assert_allclose(found[1].values, expected, rtol=1e-5)


def test_categories_come_with_the_record():
    union = EmbedderUnion([letters()], categories=["model"])
    records = [r | {"model": list("aabb")} for r in RECORDS]
    pipeline = make_pipeline(union, QProbePolicy()).fit(records, Y)
    (found,) = Chooser(pipeline, None, 0.0, lambda n: None).compute(records[:1])
    expected = pipeline.decision_function(records[:1])[0]
    np.testing.assert_allclose(found.values, expected, rtol=1e-6)


def test_a_server_that_embeds_and_is_down_is_asked_once():
    calls = []

    class Down(VectorizerEmbedder):
        def embed_batch(self, texts):
            calls.append(1)
            raise APIError("no connection")

    pipeline = fit(make_pipeline(letters(), QProbePolicy()))
    pipeline.steps[0] = ("down", Down(count_a))
    found = Chooser(pipeline, None, 0.0, lambda n: None).compute(RECORDS)
    assert [type(error) for error in found] == [APIError] * len(RECORDS)
    assert len(calls) == 1


def test_a_temperature_changes_the_probabilities():
    chooser = Chooser(fit(make_pipeline_of_a()), None, 0.0, lambda n: None)
    (found,) = chooser.compute(RECORDS[:1])
    thirds = np.array([1, 0, 1, 1]) / 3  # three have one a
    np.testing.assert_allclose(found.at(None), thirds, rtol=1e-6)
    np.testing.assert_allclose(found.at(0), thirds)
    q = np.exp(found.values / 2)
    np.testing.assert_allclose(found.at(2.0), q / q.sum())


def test_several_requests_are_one_batch(make_client, upstream):
    calls = []

    def embed(texts):
        calls.append(len(texts))
        return count_a(texts)

    pipeline = fit(make_pipeline(VectorizerEmbedder(embed, batch_size=1000), POLICY))
    client = make_client(pipeline, batch_wait=1.0)
    calls.clear()
    words = [f"word {i}" for i in range(6)]
    post = [
        (
            "POST",
            "/v1/chat/completions",
            {"json": CHAT | {"messages": [{"role": "user", "content": word}]}},
        )
        for word in words
    ]
    delays = iter([0.0] + [0.2] * 5)

    def answer_late(body):
        delay = next(delays)

        async def answer(send):
            await asyncio.sleep(delay)
            await serving.reply(send, upstream.answer(body, 8))

        return answer

    upstream.fault = answer_late
    answers = client.send_all(*post)
    for word, answer in zip(words, answers, strict=True):
        assert answer.json()["choices"][0]["message"]["content"].startswith(word)
    assert calls == [48]
    count = client.get("/metrics").text.partition("skqprobe_batch_requests_count ")[2]
    assert float(count.split()[0]) == 1


POLICY = QProbePolicy("squared_error", alpha=1e-9)


def test_a_request_that_is_alone_does_not_wait(make_client):
    client = make_client(batch_wait=5.0)
    assert client.chat().elapsed.total_seconds() < 2


def test_a_slow_answer_upstream_holds_up_nobody_else(make_client, upstream):
    slow = iter([serving.hang])
    upstream.fault = lambda body: next(slow, None)
    client = make_client(timeout=3.0)

    async def run(http):
        loop, first = asyncio.get_running_loop(), None
        first = asyncio.create_task(http.post("/v1/chat/completions", json=CHAT))
        await asyncio.sleep(0.1)
        times = [loop.time()]
        for _ in range(5):
            answer = await http.post("/v1/chat/completions", json=CHAT)
            assert answer.status_code == 200
            times.append(loop.time())
        assert not first.done()
        assert (await first).status_code == 504
        return max(b - a for a, b in pairwise(times))

    assert client.run(run) < 1.0


def test_the_choice_among_16_takes_less_than_3_ms():
    """16 candidates of 384 features, as of a sentence transformer."""
    from time import perf_counter

    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 16, 384)).astype("float32")
    policy = QProbePolicy("squared_error").fit(X, X[..., 0])
    chooser = Chooser(policy, "embeddings", 0.0, lambda n: None)
    record = {"prompt": "", "completions": ["x"] * 16, "embeddings": X[0]}
    times = []
    for _ in range(50):
        start = perf_counter()
        (found,) = chooser.compute([record])
        times.append(perf_counter() - start)
    assert len(found.values) == 16
    assert np.median(times) < 0.003


@pytest.mark.parametrize("is_last", [False, True])
def test_calibrated_rewards(is_last):
    """Of the best candidate, the reward of the choice; of others, their own."""
    if is_last:
        policy = CalibratedPolicyCV(QProbePolicy("squared_error"), "linear", cv=2)
        model = make_pipeline(letters(), policy)
    else:
        policy = make_pipeline(letters(), QProbePolicy("squared_error"))
        model = CalibratedPolicyCV(policy, "linear", cv=2)
    fit(model)
    chooser = Chooser(model, None, 0.0, lambda n: None)
    for record, found in zip(RECORDS, chooser.compute(RECORDS), strict=True):
        X = [record]
        last = model[-1] if is_last else model
        X = model[:-1].transform(X) if is_last else X
        others = found.values < found.values.max() - 1e-6
        best = found.rewards[~others]  # one of equal values is chosen
        assert np.isclose(best, last.predict_reward(X)[0]).any()
        expected = last.predict_rewards(X)[0][others]
        np.testing.assert_allclose(found.rewards[others], expected)
