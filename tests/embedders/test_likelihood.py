"""LikelihoodEmbedder, with SmolLM2-135M."""

import numpy as np
import pytest
from sklearn.base import clone

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


@pytest.fixture
def embedder(smollm):
    return LikelihoodEmbedder(**smollm)


def by_hand(embedder, prompt, completion):
    """Compute the features of one text in float64, without padding or cache."""
    from skqprobe._backends.causal_lm import load_causal_lm

    lm = load_causal_lm(embedder)
    before, after = (lm.tokenizer(text).input_ids for text in (prompt, completion))
    ids = [*before, *after]
    first = max(len(before), 1)  # this tokenizer adds no BOS token
    with torch.inference_mode():
        logits = lm.network(torch.tensor([ids])).logits[0].double().numpy()
    logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    taken = np.array([logp[i - 1, ids[i]] for i in range(first, len(ids))])
    entropy = -(np.exp(logp) * logp).sum(1)[first - 1 : len(ids) - 1]
    if len(taken) == 0:
        return np.zeros(5)
    return [taken.sum(), taken.mean(), taken.min(), entropy.mean(), len(taken)]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_equals_a_computation_by_hand(embedder, batch_size):
    X = clone(embedder).set_params(batch_size=batch_size).fit_transform(PAIRS)
    expected = [by_hand(embedder, *pair) for pair in PAIRS]
    np.testing.assert_allclose(X, expected, atol=2e-4, rtol=1e-4)


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
