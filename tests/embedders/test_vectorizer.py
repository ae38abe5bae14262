"""VectorizerEmbedder: vectorizers of scikit-learn, and functions."""

import copy
import os
import re
import subprocess
import sys
import textwrap
from functools import partial
from threading import Lock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import TruncatedSVD
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import (
    CountVectorizer,
    HashingVectorizer,
    TfidfVectorizer,
)
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline

from skqprobe import QProbePolicy
from skqprobe._backends.identity import identify
from skqprobe.embedders import BaseEmbedder, EmbeddingCache, VectorizerEmbedder

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


def test_tensors_of_any_type():
    torch = pytest.importorskip("torch")
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):

        def function(texts, dtype=dtype):
            return torch.tensor(measure(texts), dtype=dtype, requires_grad=True)

        embeddings = VectorizerEmbedder(function).transform(JOINED)
        assert embeddings.dtype == np.float32
        np.testing.assert_array_equal(embeddings, measure(JOINED))


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


def scaled(texts, scale=1):
    return scale * measure(texts)


def capture(scale):
    return lambda texts: scale * measure(texts)


def with_default(scale):
    def function(texts, scale=scale):
        return scale * measure(texts)

    return function


def with_attribute(scale):
    def function(texts):
        return function.scale * measure(texts)

    function.scale = scale
    return function


def same_name(scale, module="one"):
    """Make a function of another module, from a text without a file."""
    space = {"__name__": module}
    exec(f"def f(texts): return [[{scale} * len(t), {scale}] for t in texts]", space)
    return space["f"]


class Scaled:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, texts):
        return self.scale * measure(texts)

    embed = __call__

    @classmethod
    def of_class(cls, texts):
        return measure(texts)


class Locked(Scaled):
    """It cannot be copied as a whole."""

    def __init__(self, scale):
        super().__init__(scale)
        self.lock = Lock()


class NotCopied(Locked):
    def __reduce_ex__(self, protocol):
        raise TypeError("cannot be copied")


def local_class(scale):
    class Local:
        factor = scale

        def __call__(self, texts):
            return self.factor * measure(texts)

    return Local()


class Slots:
    __slots__ = ("scale",)

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, texts):
        return self.scale * measure(texts)


class Moody:
    def __reduce_ex__(self, protocol):
        raise OSError("not now")


class Recursive(Scaled):
    """It contains itself, and a method of its own."""

    def __init__(self, scale):
        super().__init__(scale)
        self.itself, self.method = self, self.embed


# Functions of a number that return a function that embeds with this factor.
MAKERS = {
    "partial": lambda scale: partial(scaled, scale=scale),
    "nested partial": lambda scale: partial(partial(scaled), scale=np.float64(scale)),
    "partial of an array": lambda scale: partial(scaled, scale=np.full((1, 2), scale)),
    "closure": capture,
    "partial of a closure": lambda scale: partial(capture(scale)),
    "default": with_default,
    "attribute": with_attribute,
    "code": same_name,
    "object": Scaled,
    "bound method": lambda scale: Scaled(scale).embed,
    "object with a lock": Locked,
    "object without a copy": NotCopied,
    "class attribute": local_class,
    "slots": Slots,
    "recursive": Recursive,
    "closure of an object": lambda scale: capture(Scaled(scale).scale),
    "object in a list": lambda scale: partial(
        lambda made, texts: made[0]["a"](texts), [{"a": Scaled(scale)}]
    ),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_another_function_has_another_key(tmp_path, maker):
    """Three functions from one maker; each is used with two objects."""
    cache = EmbeddingCache(tmp_path / "cache.sqlite")
    for n_stored, scale in [(1, 1), (2, 5), (3, 7)]:
        for _ in range(2):
            embedder = VectorizerEmbedder(
                MAKERS[maker](scale), cache=cache, revision="1"
            )
            embeddings = embedder.transform(["ab c"])
            wanted = MAKERS[maker](scale)(["ab c"])
            np.testing.assert_array_equal(embeddings, wanted)
            assert len(cache) == n_stored
    assert len(set(map(str, (MAKERS[maker](scale)(["ab"]) for scale in (1, 5))))) == 2


def test_a_search_over_partials_with_a_cache(tmp_path, rng):
    def embed(texts, column):
        counts = [[len(text), text.count("1"), text.count("2")] for text in texts]
        return np.array(counts)[:, [column]]

    X = [
        {"prompt": str(i), "completions": ["1" * a + "2" * b for a, b in numbers]}
        for i, numbers in enumerate(rng.integers(0, 5, size=(20, 4, 2)))
    ]
    y = [[text.count("1") for text in record["completions"]] for record in X]
    grid = {"embed__vectorizer": [partial(embed, column=column) for column in range(3)]}
    scores = []
    for cache in (None, tmp_path / "cache.sqlite"):
        embedder = VectorizerEmbedder(len, cache=cache, revision="1")
        steps = [("embed", embedder), ("probe", QProbePolicy())]
        search = GridSearchCV(Pipeline(steps), grid, cv=3).fit(X, y)
        scores.append(search.cv_results_["mean_test_score"])
    np.testing.assert_array_equal(*scores)
    assert len(set(scores[0])) == 3


def custom_embedder(value):
    """Make a class whose embeddings depend on a captured variable."""

    class Custom(BaseEmbedder):
        def __init__(self, pool=sum, *, batch_size=32, cache=None):
            self.pool = pool
            self.join, self.dtype, self.progress = "", "float32", False
            self.batch_size = batch_size
            self.cache = cache

        def embed_batch(self, texts):
            return [[value * self.pool([len(text), 1])] for text in texts]

    return Custom


def test_keys_of_custom_embedders(tmp_path):
    """The code of the class, and functions among the settings, count."""
    cache = EmbeddingCache(tmp_path / "cache.sqlite")
    for n_stored, value, pool in [
        (1, 1, sum),
        (1, 1, sum),
        (2, 2, sum),
        (3, 2, max),
        (4, 2, lambda numbers: numbers[0] * 3),
        (5, 2, lambda numbers: numbers[0] * 4),
        (5, 2, max),
    ]:
        embedder = custom_embedder(value)(pool, cache=cache)
        assert embedder.transform(["abc"]) == value * pool([3, 1])
        assert len(cache) == n_stored


@given(st.lists(st.tuples(st.sampled_from([*MAKERS]), st.integers(0, 3)), min_size=2))
def test_equal_identities_have_equal_embeddings(choices):
    known = {}
    for maker, scale in choices:
        function = MAKERS[maker](scale)
        values = np.asarray(function(["ab c"]), dtype=float).tolist()
        assert known.setdefault(identify(function), values) == values
        assert identify(MAKERS[maker](scale)) == identify(function)


def test_a_name_is_not_an_identity():
    one, two = (lambda texts: [[1.0]], lambda texts: [[2.0]])
    different = [
        one,
        two,
        same_name(1, "one"),
        same_name(1, "two"),
        same_name(2, "one"),
        Scaled.of_class,
        Locked.of_class,
        Scaled(1),
        Scaled(1).embed,
        Locked(1),
        measure,
        len,
        str.upper,
        "a".count,
        "b".count,
        np.log,
        np.exp,
        np.random.default_rng(0).normal,
        np.random.default_rng(1).normal,
        re.compile("a").search,
        re.compile("b").search,
        {1, 2},
        {1, 3},
        [1, 2],
        (1, 2),
        {"a": 1},
        {"a": True},
        np.array([1, 2]),
        np.array([1.0, 2.0]),
        np.array([[1, 2]]),
        np.array([1, "2"], dtype=object),
        np.array([1, "3"], dtype=object),
        Lock(),
        Moody(),
        "\ud800",
        b"a",
    ]
    assert len({identify(value) for value in different}) == len(different)


def test_identities_are_equal_in_another_process():
    code = """
        import re
        from functools import partial
        import numpy as np
        from skqprobe._backends.identity import identify

        class A:
            words = ("a", "b")
            def __call__(self, texts, known=frozenset("abcdef")):
                return {t in {"x", "y", "z"} for t in texts}

        a = A()
        a.names = {"one", "two", "three"}
        a.kinds = {str: np.arange(3), "pattern": re.compile("a")}
        print(identify(partial(a, known={"k": lambda t: t})))
    """
    printed = {
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "01"
    }
    assert len(printed) == 1


def test_tensors_are_identified_by_content():
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight[:] = 1.0
    first = identify(layer)
    again = copy.deepcopy(layer)
    assert identify(again) == first
    with torch.no_grad():
        again.weight[0, 1] = 2.0
    assert identify(again) != first
    half = torch.ones(2, dtype=torch.bfloat16)
    assert identify(half) not in (identify(half.float()), identify(half + 1))


def test_a_function_that_took_the_address_of_another_one():
    """Texts finished before an error are not used for another function."""

    class Opaque:  # its generator cannot be identified
        def __init__(self, value):
            self.values = (value for _ in range(99))

        def __call__(self, texts):
            if texts == ["b"]:
                raise RuntimeError("the backend fails")
            return [[next(self.values)] for _ in texts]

    embedder = VectorizerEmbedder(Opaque(1.0), batch_size=1, revision="1")
    for value in range(50):
        # The function before is freed, unless the memory of texts refers to it.
        embedder.set_params(vectorizer=Opaque(value))
        with pytest.raises(RuntimeError):
            embedder.transform(["aa", "b"])
        np.testing.assert_array_equal(embedder.transform(["aa"]), [[value]])
        with pytest.raises(RuntimeError):
            embedder.transform(["aa", "b"])


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

    message = r"^VectorizerEmbedder\.vectorizer must return an array of shape \(1, n_f"
    with pytest.raises(ValueError, match=message):
        VectorizerEmbedder(Constant()).fit(JOINED)
    ragged = VectorizerEmbedder(lambda texts: [[1.0] * len(text) for text in texts])
    message = r"^VectorizerEmbedder\.vectorizer must .* \(2, n_features\).*inhomogen"
    with pytest.raises(ValueError, match=message):
        ragged.transform(["a", "bc"])
