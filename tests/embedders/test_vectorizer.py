"""VectorizerEmbedder: vectorizers of scikit-learn, and functions."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import TruncatedSVD
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import (
    CountVectorizer,
    HashingVectorizer,
    TfidfVectorizer,
)
from sklearn.pipeline import make_pipeline

from skqprobe.embedders import VectorizerEmbedder

RECORDS = [
    {"prompt": "Name a pet.", "completions": ["A dog.", "A stone.", "A cat."]},
    {"prompt": "Name a fruit.", "completions": ["A pear.", "A dog.", "A plum."]},
]
JOINED = [f"{r['prompt']}\n{c}" for r in RECORDS for c in r["completions"]]

VECTORIZERS = [
    CountVectorizer(),
    TfidfVectorizer(ngram_range=(1, 2)),
    HashingVectorizer(n_features=16),
    make_pipeline(TfidfVectorizer(), TruncatedSVD(3, random_state=0)),
    make_pipeline(HashingVectorizer(n_features=16), TruncatedSVD(3, random_state=0)),
]


def measure(texts):
    return np.array([[len(text), text.count(" ")] for text in texts], dtype=float)


def dense(values):
    return values.toarray() if hasattr(values, "toarray") else values


@pytest.mark.parametrize("vectorizer", VECTORIZERS, ids=str)
def test_agrees_with_the_vectorizer(vectorizer):
    by_hand = clone(vectorizer).fit(JOINED)
    embedder = VectorizerEmbedder(vectorizer, batch_size=2, dtype="float64")
    sets = embedder.fit_transform(RECORDS)
    expected = dense(by_hand.transform(JOINED))
    assert type(sets) is np.ndarray
    np.testing.assert_allclose(sets.reshape(6, -1), expected, atol=1e-15)
    np.testing.assert_array_equal(embedder.transform(RECORDS), sets)
    assert embedder.n_features_out_ == expected.shape[1]
    new = ["A dog and a plum.", "nothing known"]
    np.testing.assert_allclose(
        embedder.transform(new), dense(by_hand.transform(new)), atol=1e-15
    )


def test_fit_counts_repeated_texts():
    texts = ["dog", "dog", "dog", "cat"]
    embedder = VectorizerEmbedder(TfidfVectorizer()).fit(texts)
    expected = TfidfVectorizer().fit(texts)
    np.testing.assert_array_equal(embedder.vectorizer_.idf_, expected.idf_)


def test_the_vectorizer_is_cloned():
    vectorizer = TfidfVectorizer()
    embedder = VectorizerEmbedder(vectorizer).fit(JOINED)
    assert not hasattr(vectorizer, "vocabulary_")
    assert embedder.vectorizer is vectorizer
    assert embedder.fit(["other words"]).n_features_out_ == 2


def test_not_fitted():
    embedder = VectorizerEmbedder(TfidfVectorizer())
    for use in (lambda: embedder.transform(JOINED), embedder.get_feature_names_out):
        with pytest.raises(NotFittedError):
            use()


def test_feature_names():
    def names(vectorizer):
        fitted = VectorizerEmbedder(vectorizer).fit(JOINED)
        return list(fitted.get_feature_names_out()[:2])

    assert names(TfidfVectorizer()) == ["cat", "dog"]
    assert names(VECTORIZERS[3]) == ["truncatedsvd0", "truncatedsvd1"]
    for nameless in (VECTORIZERS[2], VECTORIZERS[4], measure):
        assert names(nameless) == ["vectorizerembedder0", "vectorizerembedder1"]


def test_fit_drops_texts_finished_before_an_error():
    class Fails(VectorizerEmbedder):
        fails = False

        def embed_batch(self, texts):
            if self.fails and texts == ["dog"]:
                raise RuntimeError("the backend fails")
            return super().embed_batch(texts)

    embedder = Fails(CountVectorizer(), batch_size=1).fit(["cat", "dog"])
    embedder.fails = True
    with pytest.raises(RuntimeError):
        embedder.transform(["dog dog cat", "dog"])
    embedder.fails = False
    embedder.fit(["dog dog cat", "eel"])
    embeddings = embedder.transform(["dog dog cat", "dog"])
    np.testing.assert_array_equal(embeddings, [[1, 2, 0], [0, 1, 0]])


class Callable:
    def __call__(self, texts):
        return measure(texts)


@pytest.mark.parametrize(
    "function",
    [
        measure,
        lambda texts: measure(texts).tolist(),
        lambda texts: csr_array(measure(texts)),
        lambda texts: pytest.importorskip("torch").tensor(measure(texts)),
        Callable(),
    ],
    ids=["array", "lists", "sparse", "tensor", "object"],
)
def test_function(function):
    embedder = VectorizerEmbedder(function)
    sets = embedder.transform(RECORDS)
    assert type(sets) is np.ndarray
    assert sets.dtype == np.float32
    np.testing.assert_array_equal(sets.reshape(6, 2), measure(JOINED))
    np.testing.assert_array_equal(embedder.fit_transform(RECORDS), sets)
    assert not hasattr(embedder, "vectorizer_")


def test_cache_of_a_function(tmp_path):
    calls = []

    def counted(texts):
        calls.extend(texts)
        return measure(texts)

    def another(texts):
        return counted(texts)

    for function, revision, n_calls in (
        (counted, "1", 6),
        (counted, "1", 0),
        (counted, "2", 6),
        (another, "1", 6),
        (another, "1", 0),
    ):
        calls.clear()
        cache = tmp_path / "cache.sqlite"
        embedder = VectorizerEmbedder(function, cache=cache, revision=revision)
        np.testing.assert_array_equal(embedder.transform(JOINED), measure(JOINED))
        assert len(calls) == n_calls


def test_cache_needs_a_revision(tmp_path):
    cache = tmp_path / "cache.sqlite"
    message = "cache can store the embeddings of a function only"
    for embedder in (
        VectorizerEmbedder(measure, cache=cache),
        VectorizerEmbedder(TfidfVectorizer(), cache=cache, revision="1"),
    ):
        with pytest.raises(ValueError, match=message):
            embedder.fit(JOINED)
    assert not cache.exists()


def test_functions_of_one_name_are_distinguished_after_an_error():
    def make(value, fails):
        def embed(texts):
            if fails and len(texts[0]) < 3:
                raise RuntimeError("the backend fails")
            return [[value]] * len(texts)

        return embed

    embedder = VectorizerEmbedder(make(1.0, fails=True), batch_size=1)
    with pytest.raises(RuntimeError):
        embedder.transform(["aaaa", "b"])
    embedder.set_params(vectorizer=make(2.0, fails=False))
    np.testing.assert_array_equal(embedder.transform(["aaaa", "b"]), [[2.0], [2.0]])


@pytest.mark.parametrize("method", ["fit", "fit_transform"])
def test_bad_vectorizer(method):
    with pytest.raises(ValueError, match=r"'vectorizer' parameter .* or a callable"):
        getattr(VectorizerEmbedder("tfidf"), method)(JOINED)
    with pytest.raises(TypeError, match=r"instance .* instead of a class"):
        getattr(VectorizerEmbedder(TfidfVectorizer), method)(JOINED)


def test_the_output_of_a_vectorizer_is_checked():
    class Constant(BaseEstimator):
        def fit(self, X, y=None):
            return self

        def transform(self, X):
            return [1.0] * len(X)

    with pytest.raises(ValueError, match=r"array of shape \(1, n_features\)"):
        VectorizerEmbedder(Constant()).fit(JOINED)
