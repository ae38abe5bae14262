"""HiddenStateEmbedder, with a tiny model, SmolLM2-135M and rare tokenizers."""

import copy
import os
import pickle
import shutil
import string

import numpy as np
import pytest
from sklearn.base import clone

from skqprobe._backends.causal_lm import load_causal_lm
from skqprobe.embedders import (
    EmbeddingCache,
    HiddenStateEmbedder,
    LikelihoodEmbedder,
)
from skqprobe.embedders._inputs import check_texts

torch = pytest.importorskip("torch")
tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("kept_models")

PAIRS = [
    ("The capital of France is", " Paris, of course."),
    ("The capital of France is", ""),
    ("The capital of France is", " London"),
    ("Once upon a time there was a little girl who lived", " in a wood"),
    ("1 + 1 =", " 2"),
]
CHAT = [{"role": "user", "content": "Name a color."}]


@pytest.fixture(scope="module")
def tiny_states(tiny):
    """Function from letters to states of all layers, of shape (3, n_tokens, 16)."""
    model = transformers.LlamaForCausalLM.from_pretrained(tiny)
    letters = ["<unk>", "<s>", "</s>", "\n", " ", *string.ascii_letters]

    def states(letters_of_text):
        ids = torch.tensor([[1, *map(letters.index, letters_of_text)]])  # after <s>
        with torch.inference_mode():
            out = model(ids, output_hidden_states=True)
        return torch.cat(out.hidden_states).numpy()

    return states


def close(a, b, atol=1e-5, rtol=1e-7):
    np.testing.assert_allclose(a, b, atol=atol, rtol=rtol)


def plain_pass(embedder, prompt, completion):
    """Compute states of one text, without padding or cache, with the whole model."""
    lm = load_causal_lm(embedder)
    prompt_ids = lm.tokenizer(prompt).input_ids
    completion_ids = lm.tokenizer(completion, add_special_tokens=False).input_ids
    ids = torch.tensor([prompt_ids + list(completion_ids)]).long()
    with torch.inference_mode():
        out = lm.network(ids, output_hidden_states=True)
    return torch.cat(out.hidden_states).numpy(), len(prompt_ids)


def test_equals_a_plain_forward_pass(smollm):
    layers = [0, 18, -1]
    for batch_size, pooling in [(8, "last"), (2, "mean"), (1, "completion_mean")]:
        settings = {"layer": layers, "pooling": pooling, "batch_size": batch_size}
        embedder = HiddenStateEmbedder(**smollm, **settings)
        embeddings = embedder.fit_transform(PAIRS)
        assert embeddings.shape == (5, 3 * 576)
        assert embeddings.dtype == np.float32
        for embedding, (prompt, completion) in zip(embeddings, PAIRS, strict=True):
            states, n_prompt = plain_pass(embedder, prompt, completion)
            of_completion = n_prompt if completion else -1
            start = {"last": -1, "mean": 0, "completion_mean": of_completion}[pooling]
            expected = states[layers, start:].mean(1).ravel()
            close(embedding, expected, atol=2e-4, rtol=2e-4)


LONG = " and then she went to the river, where a boat was waiting for her in the rain."
MANY = {
    "layer": [0, 18, -1],
    "pooling": ["last", "mean", "completion_mean", "max", "tail_mean"],
}


@pytest.mark.parametrize("batch_size", [1, 8])
def test_all_poolings_equal_a_computation_by_hand(smollm, batch_size):
    pairs = [*PAIRS, (PAIRS[3][0], LONG)]  # 19 tokens, the last 2 are its last tenth
    embedder = HiddenStateEmbedder(**smollm, **MANY, likelihood=True)
    embedder.set_params(batch_size=batch_size)
    X = embedder.fit_transform(pairs)
    assert X.shape == (6, 3 * 5 * 576 + 5)
    for row, (prompt, completion) in zip(X, pairs, strict=True):
        states, n_prompt = plain_pass(embedder, prompt, completion)
        of_completion = states[:, n_prompt if completion else -1 :]
        n_tail = {LONG: 2}.get(completion, 1)
        expected = [
            states[:, -1],
            states.mean(1),
            of_completion.mean(1),
            of_completion.max(1),
            of_completion[:, -n_tail:].mean(1),
        ]
        expected = np.stack([each[MANY["layer"]] for each in expected], 1).ravel()
        close(row[:-5], expected, atol=2e-4, rtol=2e-4)
    likelihood = LikelihoodEmbedder(**smollm, batch_size=batch_size)
    close(X[:, -5:], likelihood.transform(pairs), atol=2e-4, rtol=1e-4)


def test_each_view_is_that_of_an_embedder_of_its_own(tiny):
    pairs = [("ab", "cdefghijklmnop"), ("ab", "dc"), ("b", ""), ("", "a")]
    settings = {"layer": [1, -1], "pooling": MANY["pooling"]}
    embedder = HiddenStateEmbedder(tiny, **settings, likelihood=True)
    X = embedder.fit_transform(pairs)
    sizes = embedder.view_sizes_
    names = [f"layer{n}_{p}" for n in (1, -1) for p in MANY["pooling"]]
    assert sizes == dict.fromkeys(names, 16) | {"likelihood": 5}
    assert [*sizes] == [*names, "likelihood"]
    columns = embedder.get_feature_names_out()
    assert columns.shape == (165,)
    assert [*columns[[0, 17, -5]]] == [
        "layer1_last__0",
        "layer1_mean__1",
        "likelihood__sum_log_likelihood",
    ]
    start = 0
    for name, size in sizes.items():
        if name == "likelihood":
            alone = LikelihoodEmbedder(tiny)
        else:
            layer, pooling = name.removeprefix("layer").split("_", 1)
            alone = HiddenStateEmbedder(tiny, layer=int(layer), pooling=pooling)
            assert alone.fit(pairs).view_sizes_ == {"hidden": 16}
            assert alone.get_feature_names_out()[0] == "hiddenstateembedder0"
        part = X[:, start : start + size]
        close(part, alone.transform(pairs), atol=1e-5, rtol=1e-5)
        start += size


def test_one_pass_for_all_views(tiny):
    pairs = [(prompt, "xyz"[: 1 + i % 3]) for i, prompt in enumerate("abcdefghij")]
    embedder = HiddenStateEmbedder(
        tiny, layer=[0, 1, 2], pooling=MANY["pooling"], likelihood=True, batch_size=4
    )
    rows = []

    def count(module, args, kwargs):
        rows.append(len(kwargs["input_ids"]))

    network = load_causal_lm(embedder).network
    hook = network.model.register_forward_pre_hook(count, with_kwargs=True)
    with hook:
        embedder.transform(pairs)
    assert rows == [4, 4, 2]


def test_the_final_normalization_of_an_inner_layer(tiny, tiny_states):
    norm = transformers.LlamaForCausalLM.from_pretrained(tiny).model.norm
    X = HiddenStateEmbedder(tiny, layer=[1, 2], final_norm=True).transform(["abc"])
    states = tiny_states("abc")
    with torch.inference_mode():
        expected = norm(torch.tensor(states[1, -1])).numpy()
    close(X[0, :16], expected)
    close(X[0, 16:], states[2, -1])  # normalized once


def test_a_model_without_a_final_normalization(tiny):
    class Bare:
        base_model = torch.nn.Sequential(torch.nn.LayerNorm(2))  # of layer 0

    lm = copy.copy(load_causal_lm(HiddenStateEmbedder(tiny)))
    assert lm.final_norm() is lm.network.model.norm
    lm.network = Bare()
    with pytest.raises(ValueError, match="final_norm=True, but Bare has no normaliz"):
        lm.final_norm()


def test_the_chat_template_is_applied(smollm):
    embedder = HiddenStateEmbedder(**smollm, layer=3)
    by_hand = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by "
        "Hugging Face<|im_end|>\n<|im_start|>user\nName a color.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    X = embedder.fit_transform([(CHAT, "Red"), (by_hand, "Red"), (CHAT, "Blue")])
    close(X[0], X[1], atol=1e-4)
    assert np.abs(X[0] - X[2]).max() > 0.1


def test_clone_and_pickle_hold_no_weights(tiny):
    embedder = HiddenStateEmbedder(tiny, layer=1)
    expected = embedder.fit_transform(["abc"])
    assert len(pickle.dumps(embedder)) < 2000
    for other in (clone(embedder), pickle.loads(pickle.dumps(embedder))):
        np.testing.assert_array_equal(other.fit_transform(["abc"]), expected)


# The tokenizer puts <s> and a space before a text, but not before a completion.
@pytest.mark.parametrize(
    ("settings", "text", "letters", "first"),
    [
        ({}, ("ab", "c"), " abc", -1),
        ({}, ("ab", " c"), " ab c", -1),
        ({}, ("ab", "\nc"), " ab\nc", -1),
        ({"pooling": "mean"}, "cd", "cd", 0),
        ({"pooling": "mean"}, "", "", 0),
        ({"pooling": "completion_mean", "join": "X"}, ("ab", "cd"), " abXcd", -2),
    ],
    ids=["pair", "space", "line break", "text", "empty text", "join"],
)
def test_tokens(tiny, tiny_states, settings, text, letters, first):
    X = HiddenStateEmbedder(tiny, **settings).fit_transform([text])
    close(X[0], tiny_states(letters)[-1, first:].mean(0))


def test_an_empty_text_gets_a_start_token(smollm):
    embedder = HiddenStateEmbedder(**smollm, layer=1)
    close(*embedder.fit_transform(["", "<|im_start|>"]))


def test_long_prompts_are_cut_from_the_left_with_one_warning(tiny, tiny_states):
    long = string.ascii_letters  # 52 tokens, after <s> and a space
    pairs = [(long, "cd"), (long, "dc"), ("ab", "cd"), (long[:30], "abc")]
    embedder = HiddenStateEmbedder(tiny, batch_size=2)
    with pytest.warns(UserWarning, match="3 of 4 prompts") as caught:
        X = embedder.transform(pairs)
    assert len(caught) == 1
    assert f"{2 * (54 + 2 - 24) + (32 + 3 - 24)} tokens" in str(caught[0].message)
    close(X[0], tiny_states(long[-21:] + "cd")[-1, -1])  # <s> stays
    close(X[2], tiny_states(" abcd")[-1, -1])


def test_max_length(tiny, tiny_states):
    embedder = HiddenStateEmbedder(tiny, max_length=5)
    with pytest.warns(UserWarning, match="1 of 1 prompts"):
        X = embedder.transform([("abcdef", "xy")])
    close(X[0], tiny_states("efxy")[-1, -1])
    embedder.transform([("a", "xy")])  # fits: no warning
    # A completion is never cut.
    with pytest.raises(ValueError, match=r"A completion has 5 tokens.*5, with the"):
        embedder.transform([("a", "vwxyz")])
    with pytest.warns(UserWarning, match="1 of 1"):
        embedder.transform([("a", "wxyz")])


def test_layers(tiny):
    def embed(layer):
        return HiddenStateEmbedder(tiny, layer=layer).transform(["a"])

    for layer in (3, -4, [], [1, 3], ["a"]):
        with pytest.raises(ValueError, match=r"layer=.* layers 0 .* to 2"):
            embed(layer)
    for layer, same in [(-3, 0), (-1, 2), ((1, 2), [1, -1])]:
        np.testing.assert_array_equal(embed(layer), embed(same))


def test_chat_without_a_template(tiny):
    with pytest.raises(ValueError, match="no chat template"):
        HiddenStateEmbedder(tiny).transform([(CHAT, "a")])


def test_cache_needs_no_model(tiny, tmp_path, monkeypatch):
    layers = list(np.arange(1, 3))
    embedder = HiddenStateEmbedder(tiny, layer=layers, cache=tmp_path / "cache")
    pairs = [("ab", "c"), ("ab", "d")]
    X = embedder.fit_transform(pairs)

    def fail(settings):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("skqprobe.embedders._causal_lm.load_causal_lm", fail)
    np.testing.assert_array_equal(clone(embedder).fit_transform(pairs), X)
    embedder.set_params(layer=[1, 2], device="cpu")
    np.testing.assert_array_equal(embedder.transform(pairs), X)
    # The keys are those of versions without these settings, and without lists.
    embedder.set_params(pooling=["last"], final_norm=False, likelihood=False)
    np.testing.assert_array_equal(embedder.transform(pairs), X)
    assert not {"final_norm", "likelihood"} & embedder._settings().keys()
    for change in ({"likelihood": True}, {"final_norm": True}, {"layer": 1}):
        with pytest.raises(AssertionError, match="was loaded"):
            clone(embedder).set_params(**change).transform(pairs)


def test_a_model_that_was_moved_keeps_its_cache(tiny, tmp_path):
    folder, cache = tmp_path / "model", EmbeddingCache(tmp_path / "cache.sqlite")
    shutil.copytree(tiny, folder)
    pairs = [("ab", "c"), ("ab", "d")]
    X = HiddenStateEmbedder(folder, cache=cache).transform(pairs)
    for path in folder.iterdir():
        os.utime(path)
    moved = folder.rename(tmp_path / "moved")
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr("skqprobe.embedders._causal_lm.load_causal_lm")
        again = HiddenStateEmbedder(moved, cache=cache).transform(pairs)
    np.testing.assert_array_equal(again, X)
    # Other weights of the same size have other keys.
    model = transformers.LlamaForCausalLM.from_pretrained(moved)
    with torch.no_grad():
        model.model.norm.weight[0] += 1
    model.save_pretrained(moved)
    new = HiddenStateEmbedder(moved, cache=cache).transform(pairs)
    assert np.abs(new - X).max() > 0.01
    assert len(cache) == 4


def test_half_precision_is_pooled_in_single(tiny):
    exact, rough = (
        HiddenStateEmbedder(tiny, pooling="mean", **dtype).transform([("ab", "cdefgh")])
        for dtype in ({}, {"model_dtype": "bfloat16"})
    )
    close(rough, exact, atol=0.05)
    assert np.abs(rough - exact).max() > 0


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("pooling", ["last", "first"], "pooling=.*must be one of completion_mean, "),
        ("pooling", [], "pooling=.*must be one of"),
        ("pooling", ["max", "max"], "pooling=.* has an entry twice"),
        ("layer", [1, 1], "layer=.* has an entry twice"),
    ],
)
def test_lists_that_name_no_views(tiny, name, value, message):
    with pytest.raises(ValueError, match=message):
        HiddenStateEmbedder(tiny, **{name: value}).fit(["a"])


def test_missing_model(tmp_path):
    with pytest.raises(OSError, match=r"model='.*nothing' cannot be loaded"):
        HiddenStateEmbedder(tmp_path / "nothing").transform(["a"])


def test_bad_parameters(tiny):
    for name, value in (
        ("layer", 1.5),
        ("pooling", "first"),
        ("model", 3),
        ("join", " ".join),
        ("max_length", 1),
        ("model_dtype", "int8"),
        ("trust_remote_code", "yes"),
    ):
        embedder = HiddenStateEmbedder(tiny).set_params(**{name: value})
        with pytest.raises(ValueError, match=f"'{name}' parameter"):
            embedder.fit(["a"])


# Of both embedders with causal language models


def with_tokenizer(tiny, folder, template, **special):
    """Copy the tiny model, with a tokenizer that adds other special tokens."""
    shutil.copytree(tiny, folder)
    (folder / "tokenizer_config.json").unlink()
    backend = tokenizers.Tokenizer.from_file(str(tiny / "tokenizer.json"))
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", **special
    ).save_pretrained(folder)
    return folder


def test_an_end_token_of_the_tokenizer_does_not_end_a_prompt(tiny, tmp_path):
    ends = with_tokenizer(
        tiny, tmp_path / "ends", "<s> $A </s>", bos_token="<s>", eos_token="</s>"
    )
    pairs = [("ab", "c"), ("a", "bcd")]
    close(*(LikelihoodEmbedder(m).transform(pairs) for m in (tiny, ends)), 0, 1e-5)


def test_an_empty_text_needs_a_token_to_begin_with(tiny, tmp_path):
    bare = with_tokenizer(tiny, tmp_path / "bare", "$A")
    with pytest.raises(ValueError, match="no token to begin one with"):
        HiddenStateEmbedder(bare).transform([("", "")])


BOTH = pytest.mark.parametrize("Embedder", [HiddenStateEmbedder, LikelihoodEmbedder])


def test_a_text_that_begins_with_bos_gets_no_second_one(tiny):
    for Embedder in (HiddenStateEmbedder, LikelihoodEmbedder):
        embedder = Embedder(tiny)
        close(*embedder.transform([("ab", "cd"), ("<s>ab", "cd")]), atol=1e-6)
        # This tokenizer adds a space after <s>.
        close(*embedder.transform([("", " cd"), ("", "<s>cd")]), atol=1e-6)
        # It stays where the model may have written it.
        lm = load_causal_lm(embedder)
        for prompt in ("a", "<s>"):
            [(before, after)] = lm.encode_pairs([(prompt, "<s>b")])
            assert before.count(1) == after.count(1) == 1


def test_two_bos_tokens_of_a_text_stay(smollm):
    """This tokenizer adds no BOS token."""
    lm = load_causal_lm(HiddenStateEmbedder(**smollm))
    bos = lm.tokenizer.bos_token
    assert lm.encode_pairs([(bos + bos + "a", "")])[0][0][:2] == [1, 1]


TEMPLATE = (
    "{% for m in messages %}{{ m['role'][0] + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}a{% endif %}"
)


@pytest.fixture(scope="module")
def chatty(tiny, tmp_path_factory):
    """The tiny model with a chat template."""
    folder = tmp_path_factory.mktemp("chatty") / "model"
    shutil.copytree(tiny, folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def test_a_last_message_of_the_assistant_is_continued(chatty):
    user = {"role": "user", "content": "xy"}
    embedder = HiddenStateEmbedder(chatty)
    lm = load_causal_lm(embedder)

    def tokens(*messages):
        [(ids, _)] = lm.encode_pairs([(list(messages), "")])
        return "".join(lm.tokenizer.convert_ids_to_tokens(ids)).replace("▁", "")

    assert tokens(user) == "uxy</s>a"
    assert tokens(user, {"role": "assistant", "content": "b"}) == "uxy</s>ab"
    assert tokens({"role": "assistant", "content": "b"}, user) == "ab</s>uxy</s>a"
    parts = [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]
    chats = [[user], [{"role": "user", "content": parts}]]
    close(*embedder.transform([(chat, "c") for chat in chats]))


@BOTH
def test_bad_items_are_named_and_the_others_kept(chatty, tmp_path, Embedder):
    pairs = [("a" * (i % 5), "b" * (1 + i % 7)) for i in range(36)]
    pairs[3:3] = [("a", "c" * 40), ("a\udfff", "c")]  # too long, no Unicode
    pairs += [([{"role": 1, "content": "x"}], "c")]  # the template reads a text
    pairs += [([{"role": "user", "content": "\ud800"}], "c")]
    bad, good = (
        [3, 4, 38, 39],
        [p for i, p in enumerate(pairs) if i not in {3, 4, 38, 39}],
    )
    embedder = Embedder(chatty, batch_size=4, cache=tmp_path / "cache.sqlite")
    with pytest.raises(ValueError, match=r"4 of .* texts cannot be embedded") as caught:
        embedder.transform(pairs)
    for part in (
        f"X[3] ('a{'c' * 39}'): A completion has 40 tokens",
        r"X[4] ('a\udfffc'): it contains '\udfff', one half of a surrogate pair",
        "X[38] ('xc'): The model's chat template cannot be applied to messages of the "
        "roles 1: UndefinedError",
        r"X[39] ('\ud800c'): it contains '\ud800', one half",
    ):
        assert part in str(caught.value)
    with pytest.MonkeyPatch.context() as patch:  # the others are in the cache
        patch.delattr("skqprobe.embedders._causal_lm.load_causal_lm")
        expected = embedder.transform(good)
    skipping = clone(embedder).set_params(on_error="skip", cache=None)
    with pytest.warns(UserWarning, match="4 of .* texts .* rows are NaN"):
        X = skipping.transform(pairs)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(X).all(axis=1)), bad)
    close(np.delete(X, bad, axis=0), expected)


def test_embed_batch_raises_the_error_of_a_text(tiny):
    embedder = HiddenStateEmbedder(tiny)
    texts = embedder.make_texts(check_texts([("a", "b"), ("a", "b" * 40)]))
    with pytest.raises(ValueError, match="A completion has 40 tokens"):
        embedder.embed_batch(texts)


def test_chat_messages_must_be_json(tiny):
    chat = [{"role": "user", "content": "a", "other": object()}]
    with pytest.raises(ValueError, match="must have values that JSON supports"):
        HiddenStateEmbedder(tiny).transform([(chat, "b")])


def test_embed_batch_agrees_with_transform(tiny):
    embedder = HiddenStateEmbedder(tiny)
    pairs = [("ab", "c"), ("a", "bcd")]
    by_hand = embedder.embed_batch(embedder.make_texts(check_texts(pairs)))
    close(by_hand, embedder.transform(pairs), atol=0, rtol=1e-5)
