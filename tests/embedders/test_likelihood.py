"""LikelihoodEmbedder, with SmolLM2-135M and a tiny model."""

import numpy as np
import pytest
from sklearn.base import clone

from skqprobe._backends.causal_lm import load_causal_lm
from skqprobe.embedders import LikelihoodEmbedder

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("kept_models")

NAMES = [
    "sum_log_likelihood",
    "mean_log_likelihood",
    "min_log_likelihood",
    "mean_entropy",
    "n_tokens",
]
PAIRS = [
    ("The capital of France is", " Paris, of course."),
    ("The capital of France is", ""),
    ("The capital of France is", " London"),
    ("Once upon a time there was a little girl who lived", " in a wood"),
    ("", "No prompt is before this"),
    ("1 + 1 =", " 2"),
]


ALL = [*NAMES, "max_entropy", "tail_entropy", "mean_margin"]
ALL += ["reverse_log_likelihood", "pointwise_mutual_information"]
LONG = " and then she went to the river, where a boat was waiting for her in the rain."


@pytest.fixture
def embedder(smollm):
    return LikelihoodEmbedder(**smollm)


def token_by_token(lm, before, after):
    """Yield, for each token, log p of all tokens in float64, from a pass of its own."""
    for n, token in enumerate(after):
        ids = [*before, *after[:n]]
        with torch.inference_mode():
            logits = lm.network(torch.tensor([ids])).logits[0, -1].double()
        yield token, (logits - logits.exp().sum().log()).numpy()


def log_likelihood(lm, before, after):
    return sum(log_p[token] for token, log_p in token_by_token(lm, before, after))


def by_hand(embedder, prompt, completion):
    """Compute the features of one text in float64, without padding or cache."""
    lm = load_causal_lm(embedder)
    before, after = (lm.tokenizer(text).input_ids for text in (prompt, completion))
    start, line_break = [lm.tokenizer.bos_token_id], lm.tokenizer("\n").input_ids
    reverse = [*start, *after, *line_break], before
    expected = dict.fromkeys(ALL, 0.0)
    expected["reverse_log_likelihood"] = log_likelihood(lm, *reverse)
    if not before:  # this tokenizer adds no BOS token
        before, after = after[:1], after[1:]
    else:
        alone = log_likelihood(lm, start, after)
    tokens = list(token_by_token(lm, before, after))
    if tokens:
        taken = np.array([log_p[token] for token, log_p in tokens])
        p = np.exp([log_p for _, log_p in tokens])
        entropy = -(p * np.log(p)).sum(1)
        p.sort(axis=1)
        n_tail = int(np.ceil(len(tokens) / 10))
        values = [taken.sum(), taken.mean(), taken.min(), entropy.mean(), len(tokens)]
        values += [
            entropy.max(),
            entropy[-n_tail:].mean(),
            (p[:, -1] - p[:, -2]).mean(),
        ]
        expected |= zip(ALL, values, strict=False)
        if prompt:
            expected["pointwise_mutual_information"] = taken.sum() - alone
    return list(expected.values())


@pytest.fixture(scope="module")
def expected(smollm):
    """Features of `PAIRS` and of a completion of 19 tokens, whose tail is 2 of them."""
    pairs = [*PAIRS, (PAIRS[3][0], LONG)]
    embedder = LikelihoodEmbedder(**smollm)
    return pairs, [by_hand(embedder, *pair) for pair in pairs]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_equals_a_computation_by_hand(embedder, expected, batch_size):
    pairs, expected = expected
    settings = {"batch_size": batch_size, "features": ALL}
    X = clone(embedder).set_params(**settings).fit_transform(pairs)
    np.testing.assert_allclose(X, expected, atol=2e-4, rtol=1e-4)
    default = clone(embedder).set_params(batch_size=batch_size).fit_transform(pairs)
    np.testing.assert_array_equal(default, X[:, :5])


def test_features_are_in_the_order_of_their_names(tiny):
    """Each subset is computed by itself, also without the pass over the completion."""
    pairs = [("ab", "cd"), ("ab", "dcba"), ("c", ""), ("", "ab")]
    every = LikelihoodEmbedder(tiny, features=ALL).transform(pairs)
    assert np.isfinite(every).all()
    for names in (ALL[::-1], *([name] for name in ALL)):
        embedder = LikelihoodEmbedder(tiny, features=names)
        X = embedder.fit_transform(pairs)
        columns = [ALL.index(name) for name in names]
        np.testing.assert_allclose(X, every[:, columns], rtol=1e-5, atol=1e-6)
        assert embedder.get_feature_names_out().tolist() == names
        assert embedder.view_sizes_ == {"likelihood": len(names)}


def test_reverse_of_the_tokens(tiny):
    """BOS comes first and once; the space that the tokenizer puts first stays."""
    embedder = LikelihoodEmbedder(tiny, features=["reverse_log_likelihood"])
    lm = load_causal_lm(embedder)
    a, b, c, d = (lm.tokenizer.convert_tokens_to_ids(letter) for letter in "abcd")
    space, line_break = lm.tokenizer.convert_tokens_to_ids("▁"), 3
    found = embedder.transform([("ab", "cd"), ("", "cd"), ("ab", "")])
    before = [1, c, d, line_break]
    expected = [
        log_likelihood(lm, before, [space, a, b]),
        0.0,  # without a prompt
        log_likelihood(lm, [1, line_break], [space, a, b]),
    ]
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5)
    # A text that leaves no space in the context of 24 is cut at its beginning.
    [[cut]] = embedder.transform([("abcda", "c" * 17)])
    expected = log_likelihood(lm, [1, *17 * [c], line_break], [a, b, c, d, a])
    np.testing.assert_allclose(cut, expected, rtol=1e-5)
    with pytest.warns(UserWarning, match="1 of 1 prompts"):
        [[cut]] = embedder.transform([("ab", "c" * 23)])
    assert cut == 0


def test_keys_of_the_cache_are_those_before_features(tiny):
    assert "features" not in LikelihoodEmbedder(tiny)._settings()
    assert "features" not in LikelihoodEmbedder(tiny, features=NAMES)._settings()
    other = LikelihoodEmbedder(tiny, features=tuple(NAMES[::-1]))._settings()
    assert other["features"] == NAMES[::-1]


def test_features_twice(tiny):
    embedder = LikelihoodEmbedder(tiny, features=["n_tokens", "n_tokens"])
    with pytest.raises(ValueError, match="has an entry twice; leave one out"):
        embedder.fit_transform([("a", "b")])


@pytest.mark.parametrize("features", [[], ["n_tokens", "entropy"], [1]])
def test_unknown_features(tiny, features):
    embedder = LikelihoodEmbedder(tiny, features=features)
    with pytest.raises(ValueError, match=r"features=.*names among sum_log_likelihood"):
        embedder.fit([("a", "b")])


def test_features_of_some_texts(embedder):
    texts = [(PAIRS[0][0], text) for text in (" Paris.", " fish.", "")]
    good, bad, empty = embedder.transform(texts)
    assert good[0] > bad[0]
    assert good[3] <= np.log(49152)
    np.testing.assert_array_equal(empty, 0)
    X = embedder.transform([("1 +", " 2"), ("Here are many words, and then", " 2")])
    np.testing.assert_array_equal(X[:, 4], 2)  # " " and "2"


def test_records_and_data_frames(embedder):
    records = [
        {"prompt": "1 + 1 =", "completions": [" 2", " a fish"]},
        {"prompt": [{"role": "user", "content": "Hi"}], "completions": ["Hello", "Q"]},
    ]
    X = embedder.fit_transform(records)
    assert X.shape == (2, 2, 5)
    assert X.dtype == np.float32
    assert (X[:, 0, 1] > X[:, 1, 1]).all()
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(PAIRS, columns=["prompt", "completion"], index=range(3, 9))
    out = clone(embedder).set_output(transform="pandas").fit_transform(frame)
    assert list(out.columns) == NAMES
    assert list(out.index) == list(range(3, 9))


def test_cut_prompts(embedder):
    cut = clone(embedder).set_params(max_length=6)
    with pytest.warns(UserWarning, match="1 of 1 prompts"):
        X = cut.transform([("One two three four five six", " seven eight")])
    expected = embedder.transform([(" three four five six", " seven eight")])
    np.testing.assert_allclose(X, expected, atol=1e-4)
    with pytest.raises(ValueError, match="A completion has 6 tokens"):
        cut.transform([("One", " two three four five six seven")])
