"""TransformersGenerator, with a tiny model and SmolLM2-135M."""

import json
import pickle
import re
import shutil
import string

import numpy as np
import pytest
from sklearn.base import clone

from skqprobe._backends.causal_lm import load_causal_lm
from skqprobe._backends.refusal import PromptRefused
from skqprobe.embedders import HiddenStateEmbedder, LikelihoodEmbedder
from skqprobe.generators import OpenAIGenerator, TransformersGenerator

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("kept_models")

PROMPTS = ["The capital of France is", "Once upon a time there was a little"]
CHAT = [{"role": "user", "content": "Name a color."}]


def close(a, b, atol=0.0, rtol=1e-7):
    np.testing.assert_allclose(a, b, atol=atol, rtol=rtol)


@pytest.fixture(scope="module")
def generator(smollm):
    return TransformersGenerator(
        **smollm, max_tokens=8, seed=0, hidden_states=[18, -1], log_likelihoods=True
    )


@pytest.fixture(scope="module")
def records(generator):
    return generator.generate(PROMPTS, k=6)


def same_tokens(generator, record):
    """Return which texts are tokenized into as many tokens as the model wrote."""
    names = {"model": generator.model, "gguf_file": generator.gguf_file}
    features = LikelihoodEmbedder(**names).transform([record])[0]
    same = features[:, 4] == record["n_tokens"]
    assert same.sum() > len(same) / 2
    return same, features


def test_records(records):
    for prompt, record in zip(PROMPTS, records, strict=True):
        assert record["prompt"] == prompt
        assert len(record["completions"]) == 6
        assert len(set(record["completions"])) > 1
        assert record["n_tokens"].shape == record["log_likelihoods"].shape == (6,)
        assert record["hidden_states"].shape == (6, 2 * 576)
        assert record["hidden_states"].dtype == np.float32
        assert set(record["finish_reasons"]) <= {"stop", "length"}
        assert (record["log_likelihoods"] < 0).all()
        long = np.array(record["finish_reasons"]) == "length"
        np.testing.assert_array_equal(record["n_tokens"][long], 8)


def test_hidden_states_and_likelihoods_agree_with_the_embedders(
    smollm, generator, records
):
    embedder = HiddenStateEmbedder(**smollm, layer=[18, -1])
    for record in records:
        same, features = same_tokens(generator, record)
        states = embedder.fit_transform([record])[0][same]
        close(record["hidden_states"][same], states, atol=5e-4, rtol=5e-4)
        close(record["log_likelihoods"][same], features[same, 0], rtol=1e-4)


def test_log_likelihoods_are_at_temperature_1(smollm):
    hot = TransformersGenerator(
        **smollm, max_tokens=3, seed=3, temperature=2.0, top_p=0.9, log_likelihoods=True
    )
    record = hot.sample(PROMPTS[0], 6)
    same, features = same_tokens(hot, record)
    close(record["log_likelihoods"][same], features[same, 0], rtol=1e-4)


def test_completions_depend_on_seed_and_prompt_alone(generator, records):
    shorter = clone(generator).set_params(hidden_states=None, log_likelihoods=False)
    again = shorter.generate(PROMPTS[::-1], k=6)[::-1]
    for record, other in zip(records, again, strict=True):
        assert record["completions"] == other["completions"]
        assert set(other) == {"prompt", "completions", "n_tokens", "finish_reasons"}
    completions = records[0]["completions"]
    other = shorter.set_params(seed=1).sample(PROMPTS[0], 6)
    assert other["completions"] != completions
    # The first of 6 are the first 2.
    assert generator.sample(PROMPTS[0], 2)["completions"] == completions[:2]


def test_without_a_seed_each_call_samples_new_completions(tiny):
    generator = TransformersGenerator(tiny, max_tokens=8)
    first, second = (generator.sample("ab", 6)["completions"] for _ in range(2))
    assert first != second


def test_random_states_of_torch_and_numpy_do_not_change(tiny):
    def states():
        legacy = np.random.get_state()[1].copy()  # noqa: NPY002 (its state is the point)
        return legacy, torch.get_rng_state().numpy()

    before = states()
    for seed in (0, None):
        TransformersGenerator(tiny, max_tokens=4, seed=seed).sample("ab", 6)
    np.testing.assert_equal(states(), before)


def test_draws_follow_the_model(tiny):
    """Frequencies of 4000 tokens agree with the probabilities of the model."""
    probability = first_token_probabilities(tiny, "ab")
    order = np.argsort(-probability)
    n_kept = np.searchsorted(probability[order].cumsum(), 0.5) + 1
    top = np.zeros_like(probability)
    top[order[:n_kept]] = probability[order[:n_kept]]
    for settings, weight in (
        ({}, probability),
        ({"temperature": 0.5}, probability**2),
        ({"top_p": 0.5}, top),
    ):
        generator = TransformersGenerator(
            tiny, max_tokens=1, seed=0, hidden_states=-1, **settings
        )
        counts = count_letters(generator.sample("ab", 4000))
        assert counts[weight == 0].sum() == 0
        close(counts / 4000, weight / weight.sum(), atol=0.03)


LETTERS = ["\n", " ", *string.ascii_letters]


def first_token_probabilities(folder, prompt):
    """Probabilities of the 54 tokens from the line break on, and of all others."""
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    ids = [1, 4, *(LETTERS.index(letter) + 3 for letter in prompt)]
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, -1].double()
    probability = logits.softmax(0).numpy()
    return np.append(probability[3:], probability[:3].sum())


def count_letters(record):
    counts = np.zeros(len(LETTERS) + 1)
    for text in record["completions"]:
        counts[LETTERS.index(text) if text in LETTERS else -1] += 1
    return counts


def test_spaces_at_the_beginning_are_kept(tiny):
    """The tokenizer drops the first space of a text, not that of a completion."""
    generator = TransformersGenerator(tiny, max_tokens=2, temperature=100.0, seed=0)
    texts = generator.sample("ab", 500)["completions"]
    assert any(text[:1] == " " and text[1:].isalpha() for text in texts)


def test_greedy(smollm):
    greedy = TransformersGenerator(**smollm, temperature=0, max_tokens=4)
    (completion,) = greedy.sample(PROMPTS[0], 1)["completions"]
    assert completion.startswith(" Paris")
    with pytest.raises(ValueError, match=r"temperature=0 .* k=2"):
        greedy.sample(PROMPTS[0], 2)
    cold = clone(greedy).set_params(temperature=1e-30)
    assert cold.sample(PROMPTS[0], 2)["completions"] == [completion] * 2


def test_stop_strings(generator, records):
    """A text ends before the first one; the rest agrees with the longer text."""
    stopping = clone(generator).set_params(stop=[" a", "e ", "\n", "th"])
    for record, prompt in zip(records, PROMPTS, strict=True):
        stopped = stopping.sample(prompt, 6)
        same = []
        for row, text in enumerate(record["completions"]):
            ends = [text.find(stop) for stop in stopping.stop if stop in text]
            end = min(ends, default=len(text))
            assert stopped["completions"][row] == text[:end]
            reason = "stop" if ends else record["finish_reasons"][row]
            assert stopped["finish_reasons"][row] == reason
            assert stopped["n_tokens"][row] <= record["n_tokens"][row]
            same += [] if ends else [row]
        states, whole = (r["hidden_states"][same] for r in (stopped, record))
        close(states, whole, atol=5e-4, rtol=5e-4)
        assert len(same) < 6


def test_states_at_a_stop_string_of_several_tokens(tiny):
    """Each letter is a token, so no stop string begins inside a token."""
    generator = TransformersGenerator(
        tiny, max_tokens=12, seed=0, hidden_states=[1, 2], log_likelihoods=True
    )
    texts = generator.sample("ab", 30)["completions"]
    stop = next(text for text in texts if re.match(r"[^<]{9}", text))[4:7]
    record = generator.set_params(stop=stop).sample("ab", 30)
    stopped = [i for i, text in enumerate(texts) if stop in text]
    assert stopped
    for i in stopped:
        assert record["completions"][i] == texts[i][: texts[i].find(stop)]
    # The tokenizer of this model adds a space after special tokens.
    n_letters = [len(text) if "<" not in text else -1 for text in record["completions"]]
    same = np.array(n_letters) == record["n_tokens"]
    assert same[stopped].all()
    X = HiddenStateEmbedder(tiny, layer=[1, 2]).transform([record])[0]
    close(record["hidden_states"][same], X[same], atol=1e-4)
    expected = LikelihoodEmbedder(tiny).transform([record])[0, :, 0]
    close(record["log_likelihoods"][same], expected[same], atol=1e-4)


def test_special_tokens_belong_to_text_states_and_likelihoods(tiny, tmp_path):
    """Every text is tokenized into the tokens that the model drew."""
    folder = shutil.copytree(tiny, tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"]["prepend_scheme"] = "first"  # none after a special token
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    generator = TransformersGenerator(
        folder,
        max_tokens=5,
        temperature=100.0,  # all tokens are about equally likely
        seed=0,
        hidden_states=[1, 2],
        log_likelihoods=True,
    )
    record = generator.sample("ab", 100)
    special = [i for i, text in enumerate(record["completions"]) if "<s>" in text]
    assert len(special) > 3
    assert not any("</s>" in text for text in record["completions"])
    X = HiddenStateEmbedder(folder, layer=[1, 2]).transform([record])[0]
    close(record["hidden_states"], X, atol=1e-4)
    features = LikelihoodEmbedder(folder).transform([record])[0]
    close(record["log_likelihoods"], features[:, 0], atol=1e-3)
    close(record["n_tokens"], features[:, 4])
    # A stop string may be one special token.
    stopped = generator.set_params(stop="<s>").sample("ab", 100)
    for i, text in enumerate(record["completions"]):
        assert stopped["completions"][i] == text.partition("<s>")[0]
    assert {stopped["finish_reasons"][i] for i in special} == {"stop"}
    X = HiddenStateEmbedder(folder, layer=[1, 2]).transform([stopped])[0]
    close(stopped["hidden_states"], X, atol=1e-4)


def test_states_of_half_precision_are_single(tiny):
    for model_dtype in ("bfloat16", "float16"):
        record = TransformersGenerator(
            tiny,
            model_dtype=model_dtype,
            max_tokens=3,
            seed=0,
            hidden_states=[0, 2],
            log_likelihoods=True,
        ).sample("ab", 2)
        assert record["hidden_states"].dtype == np.float32
        assert record["log_likelihoods"].dtype == np.float64
        assert np.isfinite(record["log_likelihoods"]).all()


def test_empty_completions(tiny):
    """With a stop string at once, the state is that of the prompt."""
    generator = TransformersGenerator(
        tiny, max_tokens=3, stop=LETTERS, seed=0, hidden_states=2, log_likelihoods=True
    )
    record = generator.sample("ab", 5)
    assert record["completions"] == [""] * 5
    np.testing.assert_array_equal(record["n_tokens"], 0)
    np.testing.assert_array_equal(record["log_likelihoods"], 0)
    X = HiddenStateEmbedder(tiny).transform([record])[0]
    close(record["hidden_states"], X, atol=1e-5)
    assert generator.set_params(stop=None).sample("", 3)["n_tokens"].max() > 0


def test_a_prefix_is_continued(tiny):
    """With the frequencies of the model after prompt and prefix, and as its text."""
    generator = TransformersGenerator(tiny, max_tokens=1, seed=0)
    record = generator.sample("ab", 4000, prefix="cd")
    assert record["prompt"] == "ab"
    assert all(text.startswith("cd") for text in record["completions"])
    record["completions"] = [text[2:] for text in record["completions"]]
    weight = first_token_probabilities(tiny, "abcd")
    close(count_letters(record) / 4000, weight, atol=0.03)
    other = generator.sample("ab", 40, prefix="cc")["completions"]
    assert [text[2:] for text in other] != record["completions"][:40]
    none = generator.sample("ab", 9, prefix="")["completions"]
    assert none == generator.generate(["ab"], 9)[0]["completions"]


def test_values_of_a_prefix(tiny):
    """States are those of the whole text; tokens and likelihoods of what is drawn."""
    generator = TransformersGenerator(
        tiny,
        max_tokens=5,
        stop="ab",
        seed=1,
        hidden_states=[1, 2],
        log_likelihoods=True,
    )
    record = generator.sample("xy", 60, prefix="ab q")  # in it, nothing stops
    texts = record["completions"]
    assert all(text.startswith("ab q") for text in texts) and len(set(texts)) > 9
    assert not any("ab" in text[4:] for text in texts)
    n_drawn = np.array([len(text) - 4 if "<" not in text else -1 for text in texts])
    same = n_drawn == record["n_tokens"]
    assert same.sum() > 30 and n_drawn[same].max() == 5
    X = HiddenStateEmbedder(tiny, layer=[1, 2]).transform([record])[0]
    close(record["hidden_states"][same], X[same], atol=1e-4)
    whole, before = (
        LikelihoodEmbedder(tiny).transform([("xy", text) for text in each])[:, 0]
        for each in (texts, ["ab q"])
    )
    close(record["log_likelihoods"][same], (whole - before)[same], atol=1e-4)


def test_a_prefix_without_a_prompt(smollm):
    """The model reads the start token before it, as when it wrote it."""
    generator = TransformersGenerator(
        **smollm, temperature=0, max_tokens=8, hidden_states=3, log_likelihoods=True
    )
    record = generator.sample("", 1)
    lm = load_causal_lm(generator)
    prefix = lm.decode(lm.encode_completion(record["completions"][0])[:3])
    again = generator.set_params(max_tokens=5).sample("", 1, prefix=prefix)
    assert again["completions"] == record["completions"]
    close(again["hidden_states"], record["hidden_states"], atol=1e-3, rtol=1e-3)


def test_a_prefix_with_chat_messages(smollm):
    generator = TransformersGenerator(**smollm, max_tokens=3, hidden_states=3, seed=0)
    record = generator.sample(CHAT, 3, prefix="The color")
    assert all(text.startswith("The color") for text in record["completions"])
    X = HiddenStateEmbedder(**smollm, layer=3).transform([record])[0]
    close(record["hidden_states"], X, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("make", [TransformersGenerator, OpenAIGenerator])
def test_bad_prefixes(tiny, make):
    generator = make(str(tiny), max_tokens=2)
    for bad, message in (
        (None, "prefix must be a text; got NoneType"),
        (["a"], "prefix must be a text; got list"),
        ("a\ud800", r"prefix is not valid Unicode: it contains '\\ud800'"),
    ):
        with pytest.raises(ValueError, match=message):
            generator.sample("ab", 2, prefix=bad)


def test_a_prefix_that_is_too_long(tiny):
    generator = TransformersGenerator(tiny, max_tokens=4)
    with pytest.raises(ValueError, match=r"prompts\[0\].*completion has 20 tokens"):
        generator.sample("ab", 2, prefix="q" * 20)
    with pytest.warns(UserWarning, match="1 of 1 prompts do not fit"):
        generator.sample("ab", 2, prefix="q" * 18)


def test_chat(smollm):
    generator = TransformersGenerator(**smollm, max_tokens=4, seed=0, hidden_states=18)
    record = generator.sample(CHAT, 3)
    assert record["prompt"] == CHAT
    X = HiddenStateEmbedder(**smollm, layer=18).transform([record])[0]
    same, _ = same_tokens(generator, record)
    close(record["hidden_states"][same], X[same], atol=1e-3, rtol=1e-3)


def test_long_prompts_are_cut_on_the_left(tiny):
    generator = TransformersGenerator(tiny, max_tokens=4, seed=0)
    with pytest.warns(UserWarning, match="1 of 1 prompts.* 34 tokens"):
        record = generator.sample(string.ascii_letters, 3)  # 54 tokens, space for 20
    assert record["prompt"] == string.ascii_letters
    with pytest.raises(ValueError, match=r"max_tokens=24 leaves no space .* 24 tokens"):
        generator.set_params(max_tokens=24).sample("ab", 1)


def test_pickle_and_clone_hold_no_weights(tiny):
    generator = TransformersGenerator(tiny, max_tokens=4, seed=0)
    expected = generator.sample("ab", 3)["completions"]
    assert len(pickle.dumps(generator)) < 2000
    for other in (clone(generator), pickle.loads(pickle.dumps(generator))):
        assert other.sample("ab", 3)["completions"] == expected


def test_bad_parameters(tiny):
    for name, value, message in (
        ("temperature", -1, "'temperature' parameter"),
        ("top_p", 0.0, "'top_p' parameter"),
        ("max_tokens", 0, "'max_tokens' parameter"),
        ("seed", -1, "'seed' parameter"),
        ("stop", 3, "'stop' parameter"),
        ("stop", "", "stop must be a text, or a list of texts"),
        ("stop", ["a", 3], "stop must be a text, or a list of texts"),
        ("hidden_states", 3, "hidden_states=3: the model has layers 0"),
        ("hidden_states", "last", "'hidden_states' parameter"),
    ):
        generator = TransformersGenerator(tiny, **{"max_tokens": 2, name: value})
        with pytest.raises(ValueError, match=message):
            generator.sample("ab", 2)


def test_bad_prompts(tiny, monkeypatch):
    generator = TransformersGenerator(tiny, max_tokens=2)
    with pytest.raises(ValueError, match="must be a text or a list of chat messages"):
        generator.sample(3, 2)
    (first, error), (second, record) = generator.sample_each(["ab", CHAT], 2)
    assert (first, second) == (1, 0)
    assert isinstance(error, PromptRefused) and "no chat template" in error.reason
    assert len(record["completions"]) == 2
    monkeypatch.setattr(
        generator, "_uniforms", None, raising=False
    )  # nothing is sampled
    message = r"prompts\[1\] \('Name a color.'\) was refused: .*no chat template"
    with pytest.raises(ValueError, match=message):
        generator.generate(["ab", CHAT], 2)
    for bad in ("a\ud800", [{"role": "user", "content": "\ud800"}]):
        message = (
            r"prompts\[1\] is not valid .* contains '\\ud800', one half of a surrogate"
        )
        with pytest.raises(ValueError, match=message):
            generator.generate(["ab", bad], 2)
