"""expand_prefixes: cuts, groups, weights, and one pass for all prefixes of a text."""

import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.pipeline import make_pipeline

from skqprobe import QProbePolicy, QProbeRegressor
from skqprobe.embedders import (
    HiddenStateEmbedder,
    LikelihoodEmbedder,
    TextStatistics,
    VectorizerEmbedder,
    expand_prefixes,
)

RECORDS = [
    {"prompt": "p", "completions": ["a bb  ccc d", "", "e\nf "], "rewards": [1, 0, 2]},
    {"prompt": "q", "completions": [" x y z"], "rewards": [0.5]},
]


def test_words():
    pairs, groups, y, sample_weight = expand_prefixes(RECORDS, every=2)
    assert pairs == [
        ("p", "a bb"),
        ("p", "a bb  ccc d"),
        ("p", ""),
        ("p", "e\nf "),
        ("q", " x y"),
        ("q", " x y z"),
    ]
    assert groups.tolist() == [(0, 2), (0, 4), (0, 2), (0, 2), (1, 2), (1, 4)]
    np.testing.assert_array_equal(y, [1, 1, 0, 2, 0.5, 0.5])
    np.testing.assert_array_equal(sample_weight, [0.5, 0.5, 1, 1, 0.5, 0.5])


words = st.lists(st.sampled_from(["a", "b!", "\u00e9\u00e9"]), max_size=7)


@given(st.lists(words, min_size=1, max_size=3), st.integers(1, 4))
def test_prefixes_grow_by_words(completions, every):
    record = {"prompt": "p", "completions": [" ".join(each) for each in completions]}
    pairs, groups, y, sample_weight = expand_prefixes([record], every)
    assert y is None
    expected, row = [], 0
    for each in completions:
        start = row
        for n in range(every, len(each) + every, every) or [every]:
            expected.append(("p", " ".join(each[:n])))
            assert groups[row] == (0, n)
            row += 1
        np.testing.assert_allclose(sample_weight[start:row].sum(), 1)
    assert pairs == expected


def test_missing_and_several_rewards():
    rewards = [{"good": 1, "short": 0}, None, {"good": 2, "short": 3}]
    records = [{**RECORDS[0], "rewards": rewards}]
    with pytest.warns(UserWarning, match="1 of 3 rewards failed"):
        pairs, groups, y, _ = expand_prefixes(records, 2)
    assert [text for _, text in pairs] == ["a bb", "a bb  ccc d", "e\nf "]
    assert len(groups) == 3
    np.testing.assert_array_equal(np.asarray(y), [[1, 0], [1, 0], [2, 3]])


@pytest.mark.parametrize("every", [0, -1, 1.5, True, None, "2"])
def test_every_must_be_a_number_of_words(every):
    with pytest.raises(ValueError, match="every must be an integer of 1 or more; got"):
        expand_prefixes(RECORDS, every)


def test_an_embedder_that_reads_no_tokens():
    for bad in (TextStatistics(), "model"):
        with pytest.raises(ValueError, match="embedder must be a HiddenStateEmbedder"):
            expand_prefixes(RECORDS, 2, bad)


def test_values_and_policies_are_fitted_to_the_rows():
    """A weight equals a number of copies."""

    def count(texts):
        return [[text.count("a"), len(text), text.count("b")] for text in texts]

    texts = ["a a b", "b", "b a b a", "a", "b b b b b", "a b"]
    rewards = [text.count("a") for text in texts]
    records = [{"prompt": p, "completions": texts, "rewards": rewards} for p in "pq"]
    pairs, groups, y, sample_weight = expand_prefixes(records, 1)
    embed = VectorizerEmbedder(count)
    X = embed.fit_transform(pairs)
    value = QProbeRegressor(alpha=0.1).fit(X, y, sample_weight=sample_weight)
    copies = (sample_weight * 60).round().astype(int)
    again = np.repeat(np.arange(len(y)), copies)
    copied = QProbeRegressor(alpha=0.1).fit(X[again], y[again])
    np.testing.assert_allclose(value.coef_, copied.coef_, rtol=1e-5)
    policy = QProbePolicy("pairwise_logistic").fit(X, y, groups=groups)
    chosen = policy.predict(X, groups=groups)
    assert len(chosen) == len(set(groups.tolist())) == 10  # one for each prompt and cut
    model = make_pipeline(embed, QProbeRegressor()).fit(pairs, y)
    assert model.predict(pairs[:3]).shape == (3,)


torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


in_tokens = pytest.mark.usefixtures("kept_models")


@in_tokens
def test_tokens(tiny):
    """Each letter and each space is a token."""
    records = [{"prompt": "x", "completions": ["ab c", "defgh", ""]}]
    pairs, groups, _, _ = expand_prefixes(records, 3, HiddenStateEmbedder(tiny))
    texts = ["ab ", "ab c", "def", "defgh", ""]
    assert pairs == [("x", text) for text in texts]
    assert [cut for _, cut in groups] == [3, 6, 3, 6, 3]


@in_tokens
def test_a_cut_inside_a_character_is_moved_to_its_end(smollm):
    text = " no \N{MUSICAL SYMBOL G CLEF} \N{PILE OF POO} yes"
    records = [{"prompt": "x", "completions": [text]}]
    embedder = HiddenStateEmbedder(**smollm)
    prefixes = [pair[1] for pair in expand_prefixes(records, 1, embedder)[0]]
    assert prefixes[0] == " no" and prefixes[-1] == text
    assert all(map(text.startswith, prefixes))
    assert prefixes == sorted(prefixes, key=len)
    assert len(set(prefixes)) > 4


@in_tokens
def test_a_whole_completion_belongs_to_the_first_cut_that_it_does_not_exceed(
    smollm, tiny
):
    """Also if its last character has several tokens, or none."""

    def cuts(text, every, embedder):
        records = [{"prompt": "x", "completions": [text]}]
        pairs, groups, _, _ = expand_prefixes(records, every, embedder)
        return [(prefix, n) for (_, prefix), (_, n) in zip(pairs, groups, strict=True)]

    text = " no \N{PILE OF POO}"  # 4 tokens
    embedder = HiddenStateEmbedder(**smollm)
    assert cuts(text, 1, embedder) == [(" no", 1), *((text, n) for n in (2, 3, 4))]
    assert cuts(text, 3, embedder) == [(text, 3), (text, 6)]
    # The tokenizer has no token for a digit.
    assert cuts("ab1cd", 2, HiddenStateEmbedder(tiny)) == [("ab", 2), ("ab1cd", 6)]


@in_tokens
def test_texts_that_are_not_valid_unicode(tiny):
    records = [{"prompt": "x", "completions": ["a", "b\ud800"]}]
    with pytest.raises(ValueError, match=r"'b\\ud800' is not valid Unicode"):
        expand_prefixes(records, 2, HiddenStateEmbedder(tiny))


@in_tokens
@pytest.mark.parametrize("batch_size", [1, 2, 8])
@pytest.mark.parametrize("likelihood", [False, True])
def test_states_are_those_of_each_prefix_alone(tiny, batch_size, likelihood):
    """Pooled by a plain pass of the model over the letters of one prefix at a time."""
    pooling = ["last", "mean", "completion_mean"]
    completions = ["abcdefg", "ab", "abzzzz", "", "abcd", "q"]
    records = [{"prompt": p, "completions": completions} for p in ("hello", "h")]
    options = {"layer": [1, 2], "likelihood": likelihood, "batch_size": batch_size}
    model = transformers.LlamaForCausalLM.from_pretrained(tiny)
    letters = ["<unk>", "<s>", "</s>", "\n", " ", *string.ascii_letters]
    for poolings in (pooling, ["last"]):  # without and with shared prompts
        embedder = HiddenStateEmbedder(tiny, pooling=poolings, **options)
        pairs, *_ = expand_prefixes(records, 2, embedder)
        X = embedder.fit_transform(pairs)
        for row, (prompt, prefix) in zip(X, pairs, strict=True):
            ids = [1, *map(letters.index, " " + prompt + prefix)]
            with torch.inference_mode():
                out = model(torch.tensor([ids]), output_hidden_states=True)
            states = torch.cat(out.hidden_states)[1:].numpy()
            start = min(len(prompt) + 2, len(ids) - 1)
            parts = [states[:, -1], states.mean(1), states[:, start:].mean(1)]
            expected = np.stack(parts[: len(poolings)], 1).ravel()
            close(row[: len(expected)], expected)
            if likelihood:
                log_p = out.logits[0].double().log_softmax(1)[start - 1 : -1]
                taken = log_p[range(len(prefix)), ids[start:]] if prefix else log_p[:0]
                close(row[-5], taken.sum(), 1e-4)
    features = ["sum_log_likelihood", "reverse_log_likelihood", "n_tokens"]
    one = LikelihoodEmbedder(tiny, features=features, batch_size=batch_size)
    alone = [one.transform([pair])[0] for pair in pairs]
    close(one.transform(pairs), alone, 1e-4)


@in_tokens
def test_one_pass_for_all_prefixes(tiny, monkeypatch):
    """The model reads the same tokens as without prefixes."""
    embedder = HiddenStateEmbedder(tiny, layer=1, batch_size=2)
    records = [
        {"prompt": "hello", "completions": ["abcdefg", "xyz", "abcdezz", "b"]},
        {"prompt": "bye", "completions": ["abcdefghi"]},
    ]
    flat = [(r["prompt"], text) for r in records for text in r["completions"]]
    forward, read = transformers.LlamaModel.forward, []

    def count(self, input_ids=None, **options):
        read.append(tuple(input_ids.shape))
        return forward(self, input_ids, **options)

    monkeypatch.setattr(transformers.LlamaModel, "forward", count)
    embedder.transform(flat)
    expected = read.copy()
    read.clear()
    pairs, *_ = expand_prefixes(records, 1, embedder)
    assert len(pairs) == 7 + 3 + 7 + 1 + 9
    embedder.transform(pairs)
    assert read == expected
