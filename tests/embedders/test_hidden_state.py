"""HiddenStateEmbedder, with a tiny model and SmolLM2-135M."""

import pickle
import shutil
import string
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy
from skqprobe.embedders import HiddenStateEmbedder
from skqprobe.preprocessing import PerCandidate

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("kept_models")

PAIRS = [
    ("The capital of France is", " Paris, of course."),
    ("The capital of France is", ""),
    ("The capital of France is", " London"),
    ("Once upon a time there was a little girl who lived", " in a wood"),
    ("1 + 1 =", " 2"),
]
CHAT = [{"role": "user", "content": "Name a colour."}]


@pytest.fixture(scope="module")
def tiny_states(tiny):
    """Function from letters to states of all layers, of shape (3, n_tokens, 16)."""
    model = transformers.LlamaForCausalLM.from_pretrained(tiny)
    letters = ["<unk>", "<s>", "</s>", "\n", " ", *string.ascii_letters]

    def states(*tokens):
        ids = torch.tensor([[letters.index(token) for token in tokens]])
        with torch.inference_mode():
            out = model(ids, output_hidden_states=True)
        return torch.cat(out.hidden_states).numpy()

    return states


def plain_pass(embedder, prompt, completion):
    """Compute states of one text, without padding or cache, with the whole model."""
    from skqprobe._backends.causal_lm import load_causal_lm

    lm = load_causal_lm(embedder)
    prompt_ids = lm.tokenizer(prompt).input_ids
    completion_ids = lm.tokenizer(completion, add_special_tokens=False).input_ids
    ids = torch.tensor([prompt_ids + list(completion_ids)]).long()
    with torch.inference_mode():
        out = lm.network(ids, output_hidden_states=True)
    return torch.cat(out.hidden_states).numpy(), len(prompt_ids)


def test_equals_a_plain_forward_pass(smollm):
    layers = [0, 18, -1]
    for pooling in ["last", "mean", "completion_mean"]:
        embedder = HiddenStateEmbedder(**smollm, layer=layers, pooling=pooling)
        embeddings = embedder.fit_transform(PAIRS)
        assert embeddings.shape == (5, 3 * 576)
        assert embeddings.dtype == np.float32
        for embedding, (prompt, completion) in zip(embeddings, PAIRS, strict=True):
            states, n_prompt = plain_pass(embedder, prompt, completion)
            start = {
                "last": -1,
                "mean": 0,
                "completion_mean": n_prompt if completion else -1,
            }[pooling]
            expected = states[layers, start:].mean(1).ravel()
            np.testing.assert_allclose(embedding, expected, atol=2e-4, rtol=2e-4)


def test_batch_size_changes_rounding_only(smollm):
    embedder = HiddenStateEmbedder(**smollm, layer=12)
    alone = embedder.set_params(batch_size=1).fit_transform(PAIRS)
    together = embedder.set_params(batch_size=8).transform(PAIRS)
    np.testing.assert_allclose(alone, together, atol=2e-4, rtol=2e-4)


def test_the_chat_template_is_applied(smollm):
    embedder = HiddenStateEmbedder(**smollm, layer=3)
    by_hand = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by "
        "Hugging Face<|im_end|>\n<|im_start|>user\nName a colour.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    X = embedder.fit_transform([(CHAT, "Red"), (by_hand, "Red"), (CHAT, "Blue")])
    np.testing.assert_allclose(X[0], X[1], atol=1e-4)
    assert np.abs(X[0] - X[2]).max() > 0.1


def test_records_through_a_pipeline(smollm):
    records = [
        {"prompt": f"{n} + {n} =", "completions": [f" {2 * n}", f" {3 * n}", " fish"]}
        for n in range(1, 5)
    ]
    y = [[1, 0, 0]] * 4
    pipeline = make_pipeline(
        HiddenStateEmbedder(**smollm, layer=18),
        PerCandidate(StandardScaler()),
        QProbePolicy(loss="log_loss"),
    )
    assert pipeline.fit(records, y).score(records, y) == 1.0
    assert clone(pipeline).get_params()["hiddenstateembedder__layer"] == 18


def test_clone_and_pickle_hold_no_weights(tiny):
    embedder = HiddenStateEmbedder(tiny, layer=1)
    expected = embedder.fit_transform(["abc"])
    assert len(pickle.dumps(embedder)) < 2000
    for other in (clone(embedder), pickle.loads(pickle.dumps(embedder))):
        np.testing.assert_array_equal(other.fit_transform(["abc"]), expected)


def test_a_completion_gets_no_space_of_its_own(tiny, tiny_states):
    # The tokenizer puts <s> and a space before a text, but not before a completion.
    X = HiddenStateEmbedder(tiny).fit_transform([("ab", "c"), ("ab", " c")])
    np.testing.assert_allclose(X[0], tiny_states(*["<s>", *" abc"])[-1, -1], atol=1e-5)
    np.testing.assert_allclose(X[1], tiny_states(*["<s>", *" ab c"])[-1, -1], atol=1e-5)


def test_completion_that_begins_with_a_line_break(tiny, tiny_states):
    X = HiddenStateEmbedder(tiny).fit_transform([("ab", "\nc")])
    np.testing.assert_allclose(
        X[0], tiny_states(*["<s>", *" ab\nc"])[-1, -1], atol=1e-5
    )


def test_plain_texts_are_completions_of_an_empty_prompt(tiny, tiny_states):
    X = HiddenStateEmbedder(tiny, pooling="mean").fit_transform(["cd", ""])
    np.testing.assert_allclose(X[0], tiny_states("<s>", *"cd")[-1].mean(0), atol=1e-5)
    np.testing.assert_allclose(X[1], tiny_states("<s>")[-1].mean(0), atol=1e-5)


def test_an_empty_text_gets_a_start_token(smollm):
    embedder = HiddenStateEmbedder(**smollm, layer=1)
    empty, start = embedder.fit_transform(["", "<|im_start|>"])
    np.testing.assert_allclose(empty, start, atol=1e-5)


def test_join_belongs_to_the_prompt(tiny, tiny_states):
    embedder = HiddenStateEmbedder(tiny, join="X", pooling="completion_mean")
    states = tiny_states("<s>", *" abXcd")
    X = embedder.fit_transform([("ab", "cd")])
    np.testing.assert_allclose(X[0], states[-1, -2:].mean(0), atol=1e-5)


def test_long_prompts_are_cut_from_the_left_with_one_warning(tiny, tiny_states):
    long = string.ascii_letters  # 52 tokens, after <s> and a space
    pairs = [(long, "cd"), (long, "dc"), ("ab", "cd"), (long[:30], "abc")]
    embedder = HiddenStateEmbedder(tiny, batch_size=2)
    with pytest.warns(UserWarning, match="3 of 4 prompts") as caught:
        X = embedder.transform(pairs)
    assert len(caught) == 1
    assert f"{2 * (54 + 2 - 24) + (32 + 3 - 24)} tokens" in str(caught[0].message)
    kept = tiny_states("<s>", *long[-21:], *"cd")  # <s> stays
    np.testing.assert_allclose(X[0], kept[-1, -1], atol=1e-5)
    np.testing.assert_allclose(X[2], tiny_states("<s>", *" abcd")[-1, -1], atol=1e-5)


def test_max_length(tiny, tiny_states):
    embedder = HiddenStateEmbedder(tiny, max_length=5)
    with pytest.warns(UserWarning, match="1 of 1 prompts"):
        X = embedder.transform([("abcdef", "xy")])
    np.testing.assert_allclose(X[0], tiny_states("<s>", *"efxy")[-1, -1], atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embedder.transform([("a", "xy")])


def test_a_completion_is_never_cut(tiny):
    embedder = HiddenStateEmbedder(tiny, max_length=5)
    with pytest.raises(ValueError, match=r"A completion has 5 tokens.*5, with the"):
        embedder.transform([("a", "vwxyz")])
    with pytest.warns(UserWarning, match="1 of 1"):
        embedder.transform([("a", "wxyz")])


def test_layers_out_of_range(tiny):
    embedder = HiddenStateEmbedder(tiny)
    for layer in (3, -4, [], [1, 3], ["a"]):
        with pytest.raises(ValueError, match=r"layer=.* layers 0 .* to 2"):
            embedder.set_params(layer=layer).transform(["a"])
    for layer, same in [(-3, 0), (-1, 2), ((1, 2), [1, -1])]:
        np.testing.assert_array_equal(
            embedder.set_params(layer=layer).transform(["a"]),
            embedder.set_params(layer=same).transform(["a"]),
        )


def test_chat_without_a_template(tiny):
    with pytest.raises(ValueError, match="no chat template"):
        HiddenStateEmbedder(tiny).transform([(CHAT, "a")])


def test_cache_needs_no_model(tiny, tmp_path, monkeypatch):
    layers = np.arange(1, 3)
    embedder = HiddenStateEmbedder(tiny, layer=list(layers), cache=tmp_path / "cache")
    pairs = [("ab", "c"), ("ab", "d")]
    X = embedder.fit_transform(pairs)

    def fail(settings):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("skqprobe.embedders._causal_lm.load_causal_lm", fail)
    np.testing.assert_array_equal(clone(embedder).fit_transform(pairs), X)
    np.testing.assert_array_equal(
        embedder.set_params(layer=[1, 2], device="cpu").transform(pairs), X
    )
    with pytest.raises(AssertionError, match="was loaded"):
        embedder.set_params(layer=1).transform(pairs)


def test_half_precision_is_pooled_in_single(tiny):
    pairs = [("ab", "cdefgh")]
    exact = HiddenStateEmbedder(tiny, pooling="mean").transform(pairs)
    rough = HiddenStateEmbedder(tiny, pooling="mean", model_dtype="bfloat16")
    np.testing.assert_allclose(rough.transform(pairs), exact, atol=0.05)
    assert np.abs(rough.transform(pairs) - exact).max() > 0


def test_changed_files_are_loaded_again(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "model")
    before = HiddenStateEmbedder(folder).transform(["abc"])
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.norm.weight.mul_(2)
    model.save_pretrained(folder)
    after = HiddenStateEmbedder(folder).transform(["abc"])
    np.testing.assert_allclose(after, 2 * before, rtol=1e-5)


def test_missing_model(tmp_path):
    with pytest.raises(OSError, match=r"model='.*nothing' cannot be loaded"):
        HiddenStateEmbedder(tmp_path / "nothing").transform(["a"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layer", 1.5),
        ("pooling", "first"),
        ("model", 3),
        ("join", " ".join),
        ("max_length", 1),
        ("model_dtype", "int8"),
        ("trust_remote_code", "yes"),
    ],
)
def test_bad_parameters(tiny, name, value):
    embedder = HiddenStateEmbedder(tiny).set_params(**{name: value})
    with pytest.raises(ValueError, match=f"'{name}' parameter"):
        embedder.fit(["a"])
