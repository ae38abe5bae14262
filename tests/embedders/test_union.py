import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.preprocessing import StandardScaler

from skqprobe import make_probe_pipeline
from skqprobe._arrays.views import check_views
from skqprobe.embedders import EmbedderUnion, TextStatistics, VectorizerEmbedder


def count_letters(texts):
    return np.array([[text.count(c) for c in "abcdefghijklmnopqr"] for text in texts])


@pytest.fixture
def records(rng):
    words = np.array(["abc", "bad", "face", "deaf", "cab", "hide!"])
    return [
        {
            "prompt": f"question {i}",
            "completions": [" ".join(rng.choice(words, 3 + j)) for j in range(4)],
            "model": list("wxyz"),
        }
        for i in range(30)
    ]


@pytest.fixture
def union():
    embedders = [VectorizerEmbedder(count_letters), TextStatistics()]
    return EmbedderUnion(embedders, categories=["model"])


def as_frame(records):
    pd = pytest.importorskip("pandas")
    rows = [
        {"prompt": r["prompt"], "completion": text, "model": model}
        for r in records
        for text, model in zip(r["completions"], r["model"], strict=True)
    ]
    return pd.DataFrame(rows).astype({"model": "category"})


def test_columns_and_views(union, records):
    X = union.fit_transform(records)
    letters, statistics = (each.transform(records) for each in union.embedders_)
    assert_array_equal(X[..., :18], letters)
    assert_array_equal(X[..., 18:27], statistics)
    assert_array_equal(X[..., 27:], np.tile(np.eye(4), (30, 1, 1)))
    assert union.view_sizes_ == {"text": 18, "statistics": 9, "model": 4}
    assert list(X.views) == ["text", "statistics", "model"]
    names = union.get_feature_names_out()
    assert list(names[[0, 18, 27]]) == ["text__0", "statistics__0", "model__0"]


def test_views_with_equal_names(records):
    union = EmbedderUnion([TextStatistics(), TextStatistics()]).fit(records)
    assert list(union.view_sizes_) == ["statistics", "statistics-2"]
    other = [each | {"statistics-2": list("aabb"), 3: list("aabb")} for each in records]
    union.set_params(categories=["statistics-2", 3]).fit(other)
    names = ["statistics", "statistics-2", "statistics-2-2", "3"]
    assert union.view_sizes_ == dict(zip(names, [9, 9, 2, 2], strict=True))
    assert list(union.transform(other).views) == names


def test_frames_equal_records(union, records):
    frame = as_frame(records)
    expected = union.fit_transform(records).reshape(120, 31)
    found = union.set_params(categories=None).fit_transform(frame)
    assert_array_equal(found, expected)
    assert list(found.views) == ["text", "statistics", "model"]
    named = clone(union).set_output(transform="pandas").fit_transform(frame)
    assert list(named.columns) == list(union.get_feature_names_out())
    assert list(check_views(None, named, 31)) == ["text", "statistics", "model"]


def test_preferences_have_no_label_of_each_candidate(union):
    pd = pytest.importorskip("pandas")
    texts = {"prompt": ["a", "b"], "chosen": ["c d", "e"], "rejected": ["f", "g"]}
    frame = pd.DataFrame(texts | {"model": pd.Categorical(["x", "y"])})
    with pytest.raises(ValueError, match="categories has 'model', but X has no such"):
        union.fit(frame)
    X = union.set_params(categories=None).fit_transform(frame)
    assert X.shape == (2, 2, 27) and list(X.views) == ["text", "statistics"]


def test_names_of_categories_with_two_underscores(records):
    """The names of the columns give the views."""
    several = [each | {"a__b": list("wxyz"), "a__c": list("wwzz")} for each in records]
    union = EmbedderUnion([TextStatistics()], categories=["a__b", "a__c"])
    X = np.asarray(union.fit_transform(several))
    names = union.get_feature_names_out()
    assert union.view_sizes_ == {"statistics": 9, "a_b": 4, "a_c": 2}
    views = check_views(names, X, X.shape[-1])
    assert {view: len(columns) for view, columns in views.items()} == union.view_sizes_


@pytest.mark.parametrize("dtype", ["Categorical", "Enum"])
def test_categories_of_polars(union, records, dtype):
    pl = pytest.importorskip("polars")
    expected = union.fit_transform(records).reshape(120, 31)
    columns = as_frame(records).astype(str).to_dict("list")
    dtype = getattr(pl, dtype)(*[list("wxyz")] * (dtype == "Enum"))
    frame = pl.DataFrame(columns).with_columns(pl.col("model").cast(dtype))
    found = union.set_params(categories=None).fit_transform(frame)
    assert_array_equal(found, expected)


def test_texts_are_no_categories(union, records):
    frame = as_frame(records).astype("category")
    views = union.set_params(categories=None).fit(frame).view_sizes_
    assert list(views) == ["text", "statistics", "model"]


def test_new_labels_are_zeros(union, records):
    union.fit(records)
    other = [records[0] | {"model": ["new", "w", "new", "z"]}]
    assert_array_equal(union.transform(other)[0, :, 27:].sum(axis=1), [0, 1, 0, 1])


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"embedders": []}, ValueError, "embedders is empty"),
        ({"embedders": ["x"]}, TypeError, "must hold embedders; got 'x'"),
        ({"embedders": [StandardScaler()]}, TypeError, "hold embedders; got Standard"),
        ({"categories": ["judge"]}, ValueError, "has 'judge', but X has no such"),
    ],
)
def test_bad_settings(union, records, change, error, words):
    with pytest.raises(error, match=words):
        union.set_params(**change).fit(records)
    assert not hasattr(union, "embedders_")


@pytest.mark.parametrize("labels", ["wxyz", ["w"], [*"vwxyz"]])
def test_labels_that_do_not_fit_the_completions(union, records, labels):
    for wrong in ([records[0] | {"model": labels}], [*records, {**records[0]}]):
        wrong[-1]["model"] = labels
        with pytest.raises(ValueError, match="one label per completion"):
            union.fit(wrong)


def test_pipeline_from_text(records, rng):
    """Records, and a frame with groups, end in the same choice."""
    y = rng.random((30, 4)) + np.arange(4)  # the last model is the best
    pipeline = make_probe_pipeline(embedder=VectorizerEmbedder(count_letters), cv=3)
    pipeline.set_params(embed__categories=["model"]).fit(records, y)
    assert (pipeline.predict(records) == 3).all()
    views = pipeline["probe"].view_weights_
    assert list(views) == ["text", "statistics", "model", "siblings"]
    assert pipeline["siblings"].get_feature_names_out().size == 31 + 9
    groups = np.repeat(np.arange(30), 4)
    frame, of_rows = as_frame(records), clone(pipeline)
    of_rows.set_params(embed__categories=None).fit(frame, y.ravel(), groups=groups)
    assert_array_equal(of_rows.predict(frame, groups) % 4, pipeline.predict(records))
    again = pickle.loads(pickle.dumps(pipeline))
    assert_array_equal(again.predict(records), pipeline.predict(records))


def test_a_list_of_embedders_is_used_as_it_is(records):
    pipeline = make_probe_pipeline(embedder=[TextStatistics()])
    assert len(pipeline["embed"].embedders) == 1
    pipeline = make_probe_pipeline(embedder=TextStatistics())
    assert len(pipeline["embed"].embedders) == 2
