"""BlockwiseBestOfK, with scripted generators, a tiny model and servers."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

from skqprobe import QProbePolicy, QProbeRegressor
from skqprobe.embedders import HiddenStateEmbedder, VectorizerEmbedder, expand_prefixes
from skqprobe.generators import (
    BaseGenerator,
    BestOfK,
    BlockwiseBestOfK,
    OpenAIGenerator,
    TransformersGenerator,
)


class Script(BaseGenerator):
    """Writes a script by prefix. Each letter is a token, and "." ends a text."""

    def __init__(self, script, max_tokens=6, stop=None, seed=None, progress=False):
        self.script = script
        self.max_tokens = max_tokens
        self.stop = stop
        self.seed = seed
        self.progress = progress

    def sample(self, prompt, k, prefix=""):
        texts = self.script[prefix][:k]
        assert len(texts) == k and {len(text) for text in texts} <= {
            self.max_tokens,
            *(len(text) for text in texts if text.endswith(".")),
        }
        return {
            "prompt": prompt,
            "completions": [prefix + text.rstrip(".") for text in texts],
            "finish_reasons": ["stop" if "." in text else "length" for text in texts],
            "n_tokens": [len(text.rstrip(".")) for text in texts],
        }


def count(texts):
    """Letters a count 1, letters b count -1, and c counts 3."""
    return [[t.count("a") - t.count("b") + 3 * t.count("c")] for t in texts]


@pytest.fixture(scope="module")
def value():
    rows = [("", text) for text in ("", "a", "b", "c", "aa", "cc")]
    model = make_pipeline(VectorizerEmbedder(count), QProbeRegressor(alpha=1e-6))
    return model.fit(rows, np.ravel(count([text for _, text in rows])))


def run(script, value, keep=1, k=3, **options):
    best = BlockwiseBestOfK(Script(script, **options), value, k, 2, keep)
    [text], [record] = best.generate(["x"], return_candidates=True)
    assert record["prompt"] == "x" and text == record["completions"][record["chosen"]]
    return text, record


def steps_of(record):
    return [
        (step["completions"], step["kept"].tolist(), step["n_tokens"])
        for step in record["steps"]
    ]


def test_the_best_block_stays(value):
    script = {
        "": ["ab", "aa", "bb"],
        "aa": ["ba", "aa", "ab"],
        "aaaa": ["bb", "bb", "ba"],
    }
    text, record = run(script, value)
    assert text == "aaaaba"
    assert steps_of(record) == [
        (["ab", "aa", "bb"], [1], 6),
        (["aaba", "aaaa", "aaab"], [1], 6),
        (["aaaabb", "aaaabb", "aaaaba"], [2], 6),
    ]
    expected = [[0, 2, -2], [2, 4, 2], [2, 2, 4]]
    values = [step["values"] for step in record["steps"]]
    np.testing.assert_allclose(values, expected, atol=1e-3)
    np.testing.assert_array_equal(record["values"], values[-1])
    assert record["completions"] == record["steps"][-1]["completions"]
    assert record["chosen"] == 2


def test_a_candidate_that_ended_competes_as_it_is(value):
    script = {"": ["a.", "bb", "."], "bb": None}
    text, record = run(script, value)
    assert text == "a" and steps_of(record) == [(["a", "bb", ""], [0], 3)]
    # It stays, among the best two, while the other one goes on, and wins in the end.
    script = {"": ["a.", "bb", "ba"], "ba": ["bb", "b."], "babb": None}
    text, record = run(script, value, keep=2)
    assert text == "a"
    assert steps_of(record) == [
        (["a", "bb", "ba"], [0, 2], 5),
        (["a", "babb", "bab"], [0, 2], 3),
    ]
    assert record["finish_reasons"] == ["stop", "length", "stop"]


def test_kept_candidates_share_the_next_block(value):
    script = {
        "": ["aa", "aa", "ab", "bb", "bb"],
        "aa": ["a.", "bb", "bb"],
        "ab": ["cc", "bb"],
        "aabb": None,
        "abcc": ["aa", "bb", "bb", "bb"],
    }
    text, record = run(script, value, keep=2, k=5)
    assert text == "abccaa"
    assert steps_of(record) == [
        # The second "aa" equals the first, so "ab" stays.
        (["aa", "aa", "ab", "bb", "bb"], [0, 2], 10),
        (["aaa", "aabb", "aabb", "abcc", "abbb"], [3, 0], 9),
        (["aaa", "abccaa", "abccbb", "abccbb", "abccbb"], [1, 2], 8),
    ]


def test_max_tokens_end_a_completion_inside_a_block(value):
    script = {"": ["aa"] * 3, "aa": ["aa"] * 3, "aaaa": ["a", "c", "b"]}
    text, record = run(script, value, max_tokens=5)
    assert text == "aaaac" and record["finish_reasons"] == ["length"] * 3
    assert [step["n_tokens"] for step in record["steps"]] == [6, 6, 3]
    script = {"": ["a", "c", "b"]}
    assert run(script, value, max_tokens=1)[0] == "c"


def test_a_stop_string_over_two_blocks(value):
    script = {"": ["ax", "bb", "bb"], "ax": ["yc", "aa", "bb"]}
    script |= {"axaa": ["cx", "bb", "bb"]}
    for stop in "xy", ["q", "xy"]:
        text, record = run(script, value, stop=stop)
        assert text == "axaacx"
        assert record["steps"][1]["completions"] == ["a", "axaa", "axbb"]


class Bytes(BaseGenerator):
    """Writes a text of which each byte is a token, as a server returns it."""

    def __init__(self, text, max_tokens, progress=False):
        self.text = text
        self.max_tokens = max_tokens
        self.progress = progress

    def sample(self, prompt, k, prefix=""):
        rest = self.text.encode()[len(prefix.encode()) :]
        drawn = rest[: self.max_tokens]
        return {
            "prompt": prompt,
            "completions": [prefix + drawn.decode(errors="replace")] * k,
            "finish_reasons": ["stop" if drawn == rest else "length"] * k,
            "n_tokens": [len(drawn)] * k,
        }


@pytest.mark.parametrize("block_tokens", [1, 2, 3, 4])
def test_a_part_of_a_character_is_written_again(value, block_tokens):
    text = "a\N{PILE OF POO}\N{PILE OF POO}\N{SNOWMAN}a"
    best = BlockwiseBestOfK(Bytes(text, 40), value, 2, block_tokens)
    assert best.generate(["x"]) == [text]
    for max_tokens in range(1, 13):
        best.set_params(generator=Bytes(text, max_tokens))
        [found] = best.generate(["x"])
        assert text.startswith(found.rstrip("\ufffd"))
        assert len(found.rstrip("\ufffd").encode()) <= max_tokens


def test_policies_and_captured_embeddings(value):
    script = {"": ["ab", "aa", "bb"], "aa": ["ba", "aa", "ab"]}

    class Captured(Script):
        def sample(self, prompt, k, prefix=""):
            record = super().sample(prompt, k, prefix)
            record["hidden_states"] = np.array(count(record["completions"]))
            return record

    X, y = [[[0.0], [1.0]], [[2.0], [1.0]]], [[0, 1], [1, 0]]
    policy = QProbePolicy(temperature=5.0).fit(X, y)
    best = BlockwiseBestOfK(
        Captured(script, max_tokens=4), policy, 3, 2, embeddings="hidden_states"
    )
    assert best.generate(["x", "y"]) == ["aaaa", "aaaa"]  # not random


def test_bad_arguments(value):
    class Plain(BaseGenerator):
        def __init__(self, progress=False):
            self.progress = progress

        def sample(self, prompt, k):
            raise AssertionError

    script = Script({})
    for generator, arguments, message in (
        (Plain(), (3, 2), "generator=Plain cannot continue a completion"),
        (script, (0, 2), "'k' parameter"),
        (script, (3, 0), "'block_tokens' parameter"),
        (script, (3, 2, 0), "'keep' parameter"),
        (script, (3, 2, "all"), "'keep' parameter"),
        (script, (3, 2, 4), "keep=4, but there are only k=3 candidates"),
    ):
        with pytest.raises(ValueError, match=message):
            BlockwiseBestOfK(generator, value, *arguments).generate(["x"])
    with pytest.raises(NotFittedError, match="pipeline"):
        BlockwiseBestOfK(script, clone(value), 3, 2).generate(["x"])
    with pytest.raises(ValueError, match="prompts must be a list"):
        BlockwiseBestOfK(script, value, 3, 2).generate("x")


def test_errors_name_the_prompt_once(server, value):
    generator = OpenAIGenerator("model", base_url=server.url, max_tokens=2)
    generator.set_params(max_retries=0)
    best = BlockwiseBestOfK(generator, value, 2, 2)
    for fault in server.status(400), server.status(500):
        server.fault = lambda path, body, fault=fault: (
            fault if body["prompt"] == "bad" else None
        )
        with pytest.raises(Exception, match="prompts") as raised:
            best.generate(["a", "bad"])
        notes = getattr(raised.value, "__notes__", [])
        said = "\n".join([str(raised.value), *notes])
        assert said.count("prompts[1] ('bad')") == 1 and "prompts[0]" not in said


def test_one_progress_bar(server, value, capsys):
    generator = OpenAIGenerator(
        "model", base_url=server.url, max_tokens=4, progress=True
    )
    BlockwiseBestOfK(generator, value, 2, 2).generate(["a", "b"])
    shown = capsys.readouterr().err
    assert "BlockwiseBestOfK: 100%" in shown and "OpenAIGenerator" not in shown
    assert (generator.max_tokens, generator.progress) == (4, True)


def test_clone_and_pickle(value):
    best = BlockwiseBestOfK(Script({"": ["cc"]}, max_tokens=2), value, 1, 2)
    for other in (best, pickle.loads(pickle.dumps(best))):
        assert other.generate(["x"]) == ["cc"]
    assert set(best.get_params(deep=False)) == {
        *("generator", "pipeline", "k", "block_tokens", "keep", "embeddings")
    }
    assert not hasattr(clone(best), "pipeline_")


def test_a_server_continues_texts(server, value):
    """It answers with prompt/seed/number: the last one has most letters a."""
    generator = OpenAIGenerator("model", base_url=server.url, max_tokens=5, seed=0)
    best = BlockwiseBestOfK(generator, value, k=2, block_tokens=2)
    [text], [record] = best.generate(["a"], return_candidates=True)
    bodies = [body for _, body in server.requests]
    assert [body["max_tokens"] for body in bodies] == [2, 2, 1]
    kept = [step["completions"][step["kept"][0]] for step in record["steps"]]
    assert [body["prompt"] for body in bodies] == ["a", *("a" + k for k in kept[:2])]
    assert text == kept[-1] and text.startswith(kept[0])
    server.requests.clear()
    for chat, prompt in (None, [{"role": "user", "content": "a"}]), (True, "a"):
        generator.set_params(chat=chat)
        with pytest.raises(ValueError, match="prefix needs texts as prompts"):
            best.generate(["b", prompt])
    assert not server.requests  # nothing was drawn


@pytest.mark.parametrize("k, keep", [(2, 1), (3, 2), (3, 3)])
def test_sums_over_the_tokens_of_a_server(server, value, k, keep):
    """Each block of the server has 3 tokens of a log-likelihood of -1.75.

    Without log-likelihoods, it tells their number for a single completion only.
    """
    generator = OpenAIGenerator("model", base_url=server.url, max_tokens=5)
    best = BlockwiseBestOfK(generator, value, k, 2, keep)
    [_], [record] = best.generate(["a"], return_candidates=True)
    assert len(record["completions"]) == k and len(record["steps"]) == 3
    assert "n_tokens" not in record and "n_tokens" not in record["steps"][1]
    generator.set_params(log_likelihoods=True)
    [_], [record] = best.generate(["a"], return_candidates=True)
    assert record["n_tokens"] == [9] * k and record["log_likelihoods"] == [-5.25] * k
    assert [step["n_tokens"] for step in record["steps"]] == [3 * k] * 3


def test_unknown_sums_over_tokens(value):
    """A sum is unknown if it is unknown for one block. Others stay as they are."""

    class Unknown(Script):
        def sample(self, prompt, k, prefix=""):
            record = super().sample(prompt, k, prefix)
            record["log_likelihoods"] = [
                None if text.endswith("b") else -1.0 for text in record["completions"]
            ]
            record["likelihood_features"] = np.ones((k, 8))
            return record

    script = {"": ["ab", "ba", "bb"], "ab": ["aa", "bb"], "ba": ["aa"]}
    best = BlockwiseBestOfK(Unknown(script, max_tokens=4), value, 3, 2, keep=2)
    [_], [record] = best.generate(["x"], return_candidates=True)
    assert "log_likelihoods" not in record and record["n_tokens"] == [4, 4, 4]
    assert "likelihood_features" not in record  # they would be of the last block
    script = {"": ["ba", "ca", "bb"], "ca": ["aa", "bb"], "ba": ["aa"]}
    best.set_params(generator=Unknown(script, max_tokens=4))
    [_], [record] = best.generate(["x"], return_candidates=True)
    assert record["log_likelihoods"] == [-2.0, -2.0, None]


def test_generators_that_do_not_continue_as_they_should(value):
    """Nothing is lost or made up: an error names what the method has to return."""

    class Broken(Script):
        def sample(self, prompt, k, prefix=""):
            record = super().sample(prompt, k, prefix)
            changed = {k: change(record[k]) for k, change in self.script["change"]}
            return {"prompt": prompt} | changed

    def same(values):
        return values

    def other(values):
        return values[:-1]

    def without_prefix(texts):
        return [text[-2:] for text in texts]

    script = {"": ["aa", "bb"], "aa": ["bb", "aa"]}
    for change in (
        [("completions", same)],
        [("completions", other), ("finish_reasons", same)],
        [("completions", same), ("finish_reasons", other)],
        [("completions", without_prefix), ("finish_reasons", same)],
    ):
        broken = Broken(script | {"change": change}, max_tokens=4)
        best = BlockwiseBestOfK(broken, value, 2, 2)
        with pytest.raises(ValueError, match="must return 2 completions, all with the"):
            best.generate(["x"])


def test_lists_of_the_generator_are_not_changed(value):
    class Tuples(Script):
        def sample(self, prompt, k, prefix=""):
            record = super().sample(prompt, k, prefix)
            lists = {key: tuple(record[key]) for key in record.keys() - {"prompt"}}
            return {"prompt": prompt} | lists

    script = {"": ["aa", "ax"], "aa": ["aa", "bb"], "ax": ["yc", "cc"]}
    tuples = Tuples(script, max_tokens=4, stop="xy")
    best = BlockwiseBestOfK(tuples, value, 4, 2, 2)
    script[""] *= 2
    assert best.generate(["x"]) == ["axcc"]


# With models


@pytest.fixture
def model_generator(tiny, kept_models):
    pytest.importorskip("transformers")
    return TransformersGenerator(
        tiny,
        max_tokens=9,
        stop="ab",
        seed=0,
        hidden_states=[1, 2],
        log_likelihoods=True,
    )


@pytest.fixture
def state_value(rng):
    X = rng.normal(size=(40, 32))
    return QProbeRegressor().fit(X, X[:, 3] - X[:, 20])


def test_with_one_candidate_it_is_the_generator(model_generator, state_value):
    best = BlockwiseBestOfK(
        model_generator, state_value, 1, 2, embeddings="hidden_states"
    )
    prompts = ["x", "hello", "gg"]
    texts, records = best.generate(prompts, return_candidates=True)
    expected = model_generator.generate(prompts, 1)
    assert texts == [record["completions"][0] for record in expected]
    for record, other in zip(records, expected, strict=True):
        assert record["finish_reasons"] == other["finish_reasons"]
        for key in ("hidden_states", "log_likelihoods", "n_tokens"):
            np.testing.assert_allclose(record[key], other[key], rtol=1e-4, atol=1e-4)
        n_drawn = sum(step["n_tokens"] for step in record["steps"])
        assert n_drawn >= record["n_tokens"][0]


def test_numbers_of_tokens_of_a_stop_string_over_blocks(model_generator, state_value):
    """Those of earlier blocks were drawn, and are drawn no less when they go."""
    model_generator.set_params(stop=None)
    text = model_generator.generate(["x"], 1)[0]["completions"][0]
    model_generator.set_params(stop=text[1:4])
    best = BlockwiseBestOfK(
        model_generator, state_value, 1, 2, embeddings="hidden_states"
    )
    [_], [record] = best.generate(["x"], return_candidates=True)
    assert record["completions"] == [text[:1]] and record["n_tokens"] == [1]
    assert [step["n_tokens"] for step in record["steps"]] == [2, 0]


@pytest.mark.parametrize("keep", [1, 3])
def test_cached_keys_and_values_equal_recomputation(
    tiny, model_generator, state_value, keep
):
    """The states of every block are those of a pass over the texts; so are the values.

    The best of each block by these values stay, and the others are not continued.
    """
    best = BlockwiseBestOfK(
        model_generator, state_value, 6, 2, keep, embeddings="hidden_states"
    )
    embedder = HiddenStateEmbedder(tiny, layer=[1, 2])
    first = model_generator.set_params(seed=5).generate(["x"], 6)[0]["completions"]
    for prompt in ("x", "yz"):
        [text], [record] = best.generate([prompt], return_candidates=True)
        kept = {""}
        for step in record["steps"]:
            texts = step["completions"]
            letters = [i for i, each in enumerate(texts) if "<" not in each]
            X = embedder.transform([(prompt, texts[i]) for i in letters])
            values = state_value.predict(X)
            np.testing.assert_allclose(step["values"][letters], values, atol=1e-4)
            assert all(any(each.startswith(k) for k in kept) for each in texts)
            order = np.argsort(-step["values"], kind="stable")
            distinct = list(dict.fromkeys(texts[i] for i in order))
            kept = [texts[i] for i in step["kept"]]
            assert kept[0] == distinct[0] and set(kept) <= set(distinct[: keep + 1])
        assert text == kept[0]
    begin = [each[:2] for each in first if "<" not in each]
    [_], [record] = best.generate(["x"], return_candidates=True)
    assert set(begin) <= {each[:2] for each in record["steps"][0]["completions"]}


def test_temperature_0_and_prompts_that_cannot_be_read(model_generator, state_value):
    best = BlockwiseBestOfK(
        model_generator, state_value, 2, 2, embeddings="hidden_states"
    )
    with pytest.raises(
        ValueError, match=r"prompts\[0\] \('a'\) was .*no chat template"
    ):
        best.generate([[{"role": "user", "content": "a"}]])
    model_generator.set_params(temperature=0)
    with pytest.raises(ValueError, match="temperature=0 gives the same"):
        best.generate(["x"])


def test_it_raises_the_reward_of_a_model(tiny, model_generator):
    """Of texts with many letters "a", at equal numbers of tokens."""
    model_generator.set_params(stop=None, max_tokens=8)
    prompts = ["x", "y", "z", "hello", "gg", "mn", "op", "qr"]
    records = model_generator.generate(prompts, 40)
    reward = {"q": 1, "z": 1, "e": 1}

    def score(text):
        return sum(map(reward.get, text, [0] * len(text)))

    for record in records:
        record["rewards"] = [score(text) for text in record["completions"]]
    embedder = HiddenStateEmbedder(tiny, layer=[1, 2])
    pairs, _, y, sample_weight = expand_prefixes(records, 2, embedder)
    value = QProbeRegressor().fit(
        embedder.fit_transform(pairs), y, sample_weight=sample_weight
    )
    value = make_pipeline(embedder, value)
    blockwise = BlockwiseBestOfK(model_generator, value, 4, 2).generate(prompts)
    whole = BestOfK(model_generator, value, 4).generate(prompts)
    assert sum(map(score, blockwise)) > sum(map(score, whole))
