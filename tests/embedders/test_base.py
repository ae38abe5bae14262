"""BaseEmbedder, with a minimal backend."""

import pickle
import zlib
from itertools import product
from numbers import Real
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks, get_tags

from skqprobe import QProbePolicy
from skqprobe.embedders import (
    BaseEmbedder,
    HiddenStateEmbedder,
    LikelihoodEmbedder,
    OpenAIEmbedder,
    SentenceTransformerEmbedder,
    VectorizerEmbedder,
)
from skqprobe.preprocessing import PerCandidate

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]


class Toy(BaseEmbedder):
    """Embed a text as its length and a checksum; store every batch."""

    _parameter_constraints: ClassVar[dict] = {
        **BaseEmbedder._parameter_constraints,
        "scale": [Real],
    }
    batches: ClassVar[list] = []
    failure: ClassVar[dict] = {}  # a constant would be a part of the class, and its key

    def __init__(
        self,
        scale=1.0,
        *,
        join="\n",
        batch_size=4,
        dtype="float32",
        cache=None,
        progress="auto",
    ):
        self.scale = scale
        self.join = join
        self.batch_size = batch_size
        self.dtype = dtype
        self.cache = cache
        self.progress = progress

    def embed_batch(self, texts):
        if len(self.batches) == self.failure.get("at"):
            raise RuntimeError("the backend fails")
        self.batches.append(list(texts))
        return self.scale * expected(texts)


def expected(texts):
    """Return the embeddings of a Toy."""
    return np.array([[len(text), zlib.crc32(str(text).encode())] for text in texts])


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(Toy, "batches", [])
    monkeypatch.setattr(Toy, "failure", {})


def embedded():
    return [text for batch in Toy.batches for text in batch]


def records(n_prompts=6, k=3):
    return [
        {"prompt": f"p{i}", "completions": [f"{i} {j}" for j in range(k)]}
        for i in range(n_prompts)
    ]


TEXTS = ["a", "bbb", "cc", "a", "dddd", "bbb", "eeeee", "f" * 9]


@given(st.lists(st.text(max_size=8), min_size=1), st.integers(1, 7))
def test_each_text_once_in_order(texts, batch_size):
    Toy.batches.clear()
    embeddings = Toy(batch_size=batch_size, dtype="float64").transform(texts)
    np.testing.assert_array_equal(embeddings, expected(texts))
    assert sorted(embedded()) == sorted(set(texts))
    assert all(len(batch) == batch_size for batch in Toy.batches[:-1])
    assert 0 < len(Toy.batches[-1]) <= batch_size


def test_the_longest_come_first():
    Toy(batch_size=2).transform(TEXTS)
    assert Toy.batches == [["f" * 9, "eeeee"], ["dddd", "bbb"], ["cc", "a"]]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dtype(dtype):
    embeddings = Toy(scale=1e-7, dtype=dtype).fit_transform(TEXTS)
    assert embeddings.dtype == dtype
    np.testing.assert_array_equal(embeddings, (1e-7 * expected(TEXTS)).astype(dtype))


def test_fit_is_not_needed_and_embeds_one_text():
    unfitted = Toy().transform(TEXTS)
    Toy.batches.clear()
    embedder = Toy().fit(TEXTS)
    assert embedded() == TEXTS[:1]
    assert embedder.n_features_out_ == 2
    np.testing.assert_array_equal(embedder.transform(TEXTS), unfitted)
    np.testing.assert_array_equal(Toy().fit_transform(TEXTS), unfitted)


def test_the_only_view():
    embedder = Toy()
    assert not hasattr(embedder, "view_sizes_")
    assert embedder.fit(TEXTS).view_sizes_ == {"text": 2}
    for embedder, name in (
        (VectorizerEmbedder(expected), "text"),
        (SentenceTransformerEmbedder("model"), "sentence"),
        (OpenAIEmbedder("model"), "openai"),
        (HiddenStateEmbedder("model"), "hidden"),
        (LikelihoodEmbedder("model"), "likelihood"),
    ):
        embedder.n_features_out_ = 3
        assert embedder.view_sizes_ == {name: 3}


def test_pairs_and_records():
    embedder = Toy(dtype="float64")
    pairs = [(f"p{i}", f"{i} {j}") for i in range(6) for j in range(3)]
    values = expected([f"{prompt}\n{completion}" for prompt, completion in pairs])
    np.testing.assert_array_equal(embedder.transform(pairs), values)
    sets = embedder.fit_transform(records())
    np.testing.assert_array_equal(sets, values.reshape(6, 3, 2))


@pytest.mark.parametrize(
    ("join", "texts"),
    [
        ("", ["Hi!", "user: Hi\nassistant: Ho!"]),
        (" => ", ["Hi => !", "user: Hi\nassistant: Ho => !"]),
        (lambda prompt, completion: f"{len(prompt)}{completion}", ["2!", "2!"]),
    ],
    ids=["empty", "arrow", "callable"],
)
def test_join(join, texts):
    embedder = Toy(join=join)
    embedder.transform([("Hi", "!"), (CHAT, "!")])
    embedder.transform(["a"])  # nothing to join
    assert set(embedded()) == {*texts, "a"}


def test_batches_in_any_order_and_texts_that_are_tuples():
    class Pairs(Toy):
        def make_texts(self, X):
            return list(zip(X.prompts, X.completions, strict=True))

        def embed_batches(self, batches):
            yield from reversed(list(super().embed_batches(batches)))

    pairs = [("p", "a"), ("p", "a"), ("", "pa"), ("pppp", "a")]
    embeddings = Pairs(batch_size=1, dtype="float64").transform(pairs)
    np.testing.assert_array_equal(embeddings, expected(pairs))
    assert embedded() == [("pppp", "a"), ("p", "a"), ("", "pa")]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_set_output(library):
    frames = pytest.importorskip(library)
    by_method = Toy(dtype="float64").set_output(transform=library)
    by_configuration = Toy(dtype="float64")
    with config_context(transform_output=library):
        for embedder, method in product(
            (by_method, by_configuration), ("fit_transform", "transform")
        ):
            rows = getattr(embedder, method)(TEXTS)
            assert isinstance(rows, frames.DataFrame)
            assert list(rows.columns) == ["toy0", "toy1"]
            np.testing.assert_array_equal(rows.to_numpy(), expected(TEXTS))
            sets = getattr(embedder, method)(records())
            assert isinstance(sets, np.ndarray)
            assert sets.shape == (6, 3, 2)
    assert isinstance(by_method.transform(TEXTS), frames.DataFrame)
    if library == "pandas":
        frame = frames.DataFrame({"text": TEXTS}, index=range(10, 10 + len(TEXTS)))
        assert list(by_method.fit_transform(frame).index) == list(frame.index)


def test_feature_names_need_fit():
    with pytest.raises(NotFittedError):
        Toy().get_feature_names_out()


def test_in_a_column_transformer():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"prompt": ["p", "q"], "completion": ["a", "bb"]})
    embedder, of_texts = Toy(dtype="float64"), expected(["a", "bb"])
    columns = ColumnTransformer(
        [
            ("pairs", embedder, ["prompt", "completion"]),
            ("texts", embedder, "completion"),
            ("column", embedder, ["completion"]),
        ]
    )
    np.testing.assert_array_equal(
        columns.fit_transform(frame),
        np.hstack([expected(["p\na", "q\nbb"]), of_texts, of_texts]),
    )
    assert columns.get_feature_names_out()[0] == "pairs__toy0"


def test_search_in_two_processes(tmp_path, rng):
    # Functions defined here are pickled by value. All texts are embedded before the
    # search, so that no process embeds one while it runs.
    log, cache = tmp_path / "log", tmp_path / "cache.sqlite"

    def embed(texts):
        with open(log, "a") as file:
            file.writelines(f"{text!r}\n" for text in texts)
        return [[len(text), text.count("1"), text.count("2")] for text in texts]

    X, y = records(20, 4), rng.random((20, 4))
    embedder = VectorizerEmbedder(embed, cache=cache, revision="1")
    steps = [("embed", embedder), ("scale", PerCandidate(StandardScaler()))]
    pipeline = Pipeline([*steps, ("probe", QProbePolicy())])
    grid = {"probe__alpha": [0.01, 1.0], "embed__batch_size": [3, 30]}
    embedder.transform(X)
    search, alone = (
        GridSearchCV(pipeline, grid, cv=3, n_jobs=n).fit(X, y) for n in (2, None)
    )
    assert search.predict(X).shape == (20,)
    lines = log.read_text().splitlines()
    assert len(lines) == len(set(lines)) == 80
    np.testing.assert_array_equal(
        alone.cv_results_["mean_test_score"], search.cv_results_["mean_test_score"]
    )


EMBEDDERS = [
    Toy(),
    VectorizerEmbedder(TfidfVectorizer()),
    VectorizerEmbedder(len),
    SentenceTransformerEmbedder("any"),
]

# scikit-learn does not check estimators that take no numbers. These checks do not read
# X, or expect an error of a parameter before X is read.
CHECKS = [
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_valid_tag_types",
    "check_no_attributes_set_in_init",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_mixin_order",
    "check_get_params_invariance",
    "check_set_params",
    "check_param_validation",
    "check_set_output_transform",
]


every_embedder = pytest.mark.parametrize(
    "embedder", EMBEDDERS, ids=lambda e: type(e).__name__
)


@pytest.mark.parametrize("check", CHECKS)
@every_embedder
def test_scikit_learn_checks(embedder, check):
    if not hasattr(estimator_checks, check):
        pytest.skip(f"this scikit-learn has no {check}")
    getattr(estimator_checks, check)(type(embedder).__name__, clone(embedder))


@every_embedder
def test_tags(embedder):
    tags = get_tags(embedder)
    assert tags.input_tags.string
    assert not tags.input_tags.two_d_array
    learns = hasattr(getattr(embedder, "vectorizer", None), "fit")
    assert tags.requires_fit == learns


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 2], r"Wrong.embed_batch must return .* shape \(2, n_features\).*\(2,\)"),
        ([[1.0], [2.0], [3.0]], r"one row for each text; got shape \(3, 1\)"),
        ([[[1.0]], [[2.0]]], r"got shape \(2, 1, 1\)"),
        ([[1.0], [2.0, 3.0]], r"Wrong.embed_batch must return .*text: .*inhomogeneous"),
        ([["a"], ["b"]], r"Wrong.embed_batch must return .*text: could not convert"),
        ([[], []], r"got shape \(2, 0\)"),
        ([[1, np.nan], [1, 2]], r"1 of 2 texts .*X\[0\] .*infinity \(as float16\)"),
        ([[np.inf], [-np.inf]], r"2 of 2 texts .* X\[1\] \('b'\): its embedding"),
        ([[1.0], [1e6]], r"1 of 2 texts .*X\[1\] .*infinity \(as float16\)"),
    ],
)
def test_wrong_embeddings(values, message):
    class Wrong(Toy):
        def embed_batch(self, texts):
            return values

    for method in ("transform", "fit_transform"):
        with pytest.raises(ValueError, match=message):
            getattr(Wrong(dtype="float16"), method)(["a", "b"])


def test_another_dimension_than_in_fit():
    class Wider(Toy):
        def embed_batch(self, texts):
            return np.ones((len(texts), int(self.scale)))

    embedder = Wider(2.0).fit(TEXTS).set_params(scale=3.0)
    message = r"have 3 features, but had 2 in fit.* Fit again"
    with pytest.raises(ValueError, match=message):
        embedder.transform(TEXTS)
    assert embedder.fit(TEXTS).transform(TEXTS).shape == (len(TEXTS), 3)


@pytest.mark.parametrize("method", ["fit", "fit_transform", "transform"])
def test_bad_parameters_and_input(method):
    for name, value in (
        ("batch_size", 0),
        ("batch_size", 1.5),
        ("dtype", "int8"),
        ("cache", 3),
        ("progress", "yes"),
        ("join", None),
    ):
        with pytest.raises(ValueError, match=f"The '{name}' parameter of Toy must be"):
            getattr(Toy(**{name: value}), method)([("p", "c")])
    with pytest.raises(ValueError, match="Put it into a list"):
        getattr(Toy(), method)("one text")
    assert not Toy.batches


def fail_after_two_batches(embedder, texts=TEXTS):
    Toy.failure["at"] = 2
    with pytest.raises(RuntimeError, match="the backend fails"):
        embedder.transform(texts)
    Toy.failure.clear()


@pytest.mark.parametrize("with_cache", [False, True])
def test_finished_texts_are_not_embedded_again(tmp_path, with_cache):
    cache = tmp_path / "cache.sqlite" if with_cache else None
    embedder = Toy(batch_size=2, cache=cache)
    fail_after_two_batches(embedder)
    if with_cache:
        embedder = Toy(cache=cache)  # another object, other batches
    embeddings = embedder.transform(TEXTS)
    np.testing.assert_array_equal(embeddings, expected(TEXTS).astype("float32"))
    assert len(embedded()) == len(set(embedded())) == len(set(TEXTS))
    embedder.transform(TEXTS)  # without a cache, nothing is kept after success
    assert len(embedded()) == (1 if with_cache else 2) * len(set(TEXTS))


def test_texts_finished_with_another_setting_are_not_used():
    embedder = Toy(batch_size=2, dtype="float64")
    fail_after_two_batches(embedder)
    embeddings = embedder.set_params(scale=2.0).transform(TEXTS)
    np.testing.assert_array_equal(embeddings, 2 * expected(TEXTS))


def test_pickle_has_no_finished_texts():
    embedder = Toy(3.0, dtype="float64", batch_size=2).fit(TEXTS)
    before = len(pickle.dumps(embedder))
    fail_after_two_batches(embedder, [text * 1000 for text in TEXTS])
    assert len(pickle.dumps(embedder)) == before
    assert repr(embedder) == "Toy(batch_size=2, dtype='float64', scale=3.0)"
    again = pickle.loads(pickle.dumps(embedder))
    assert again.n_features_out_ == 2
    np.testing.assert_array_equal(again.transform(TEXTS), 3 * expected(TEXTS))


class Picky(Toy):
    """Refuse texts with an x in two ways."""

    def __init__(self, scale=1.0, *, batch_size=4, cache=None, on_error="raise"):
        super().__init__(scale, batch_size=batch_size, dtype="float64", cache=cache)
        self.on_error = on_error

    def embed_batch(self, texts):
        values = super().embed_batch(texts).astype(float).tolist()
        for i, text in enumerate(texts):
            if "x" in text:
                values[i] = ValueError("it has an x.")
            elif "y" in text:
                values[i][1] = np.nan
        return values


BAD = ["a", "xxxx", "cc", "y" * 50, "xxxx", "eeeee", "\ud83d!", "xxx", "xxxxx"]
GOOD = [0, 2, 5]


@pytest.mark.parametrize("with_cache", [False, True])
def test_bad_texts_are_named_after_the_others_are_kept(tmp_path, with_cache):
    cache = tmp_path / "cache.sqlite" if with_cache else None
    embedder = Picky(batch_size=2, cache=cache)
    with pytest.raises(ValueError, match="5 of 8 texts cannot be embedded") as caught:
        embedder.transform(BAD)
    message = str(caught.value)
    for part in (
        "X[1] ('xxxx'): it has an x. X[3]",
        f"X[3] ('{'y' * 40}'): its embedding has NaN or infinity (as float64).",
        r"X[6] ('\ud83d!'): it contains '\ud83d', one half of a surrogate pair",
        "X[7] ('xxx'): it has an x.",
        "embedded and kept in the cache"
        if with_cache
        else "embedded and kept in this object until next call",
    ):
        assert part in message
    good = [BAD[i] for i in GOOD]
    assert set(good) < set(embedded())
    assert "\ud83d!" not in embedded()
    Toy.batches.clear()
    np.testing.assert_array_equal(embedder.transform(good), expected(good))
    assert embedded() == []


def test_bad_texts_are_skipped_with_a_warning(tmp_path):
    embedder = Picky(on_error="skip", cache=tmp_path / "cache.sqlite")
    for _ in range(2):  # nothing of the bad texts is stored
        with pytest.warns(
            UserWarning, match=r"5 of 8 texts .*, and their rows are NaN"
        ):
            embeddings = embedder.transform(BAD)
        wanted = np.full((len(BAD), 2), np.nan)
        wanted[GOOD] = expected([BAD[i] for i in GOOD])
        np.testing.assert_array_equal(embeddings, wanted)
    assert len(embedder._store()) == 3
    assert clone(embedder).set_params(on_error="raise").transform(["a"]).shape == (1, 2)


def test_more_than_five_bad_texts_are_counted():
    with pytest.raises(ValueError, match=r"7 of 8 texts .* X\[4\][^X]* \.\.\. The oth"):
        Picky().transform(["x" * n for n in range(1, 8)] + ["a"])


def test_a_bad_text_in_sets_and_in_fit():
    records = [{"prompt": "p", "completions": ["a", "b"]}]
    records += [{"prompt": "q", "completions": ["x", "b"]}]
    with pytest.raises(
        ValueError, match=r"X\[1\]\['completions'\]\[0\] \('qx'\): it has"
    ):
        Picky().fit_transform(records)
    with pytest.warns(UserWarning, match="1 of 4"):
        sets = Picky(on_error="skip").fit_transform(records)
    assert np.isnan(sets[1, 0]).all() and np.isnan(sets).sum() == 2
    with pytest.raises(ValueError, match=r"X\[0\] \('x'\)"):
        Picky().fit(["x", "a"])
    assert Picky(on_error="skip").fit(["x", "xx", "a"]).n_features_out_ == 2
    for use in ("fit", "transform", "fit_transform"):
        with pytest.raises(ValueError, match=r"it has an x"):
            getattr(Picky(on_error="skip"), use)(["x", "xx"])
