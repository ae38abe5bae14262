import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone

from skqprobe import make_probe_pipeline
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


def test_frames_equal_records(union, records):
    frame = as_frame(records)
    expected = union.fit_transform(records).reshape(120, 31)
    found = union.set_params(categories=None).fit_transform(frame)
    assert_array_equal(found, expected)
    assert list(found.views) == ["text", "statistics", "model"]
    named = clone(union).set_output(transform="pandas").fit_transform(frame)
    assert list(named.columns) == list(union.get_feature_names_out())


def test_new_labels_are_zeros(union, records):
    union.fit(records)
    other = [records[0] | {"model": ["new", "w", "new", "z"]}]
    assert_array_equal(union.transform(other)[0, :, 27:].sum(axis=1), [0, 1, 0, 1])


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"embedders": []}, ValueError, "embedders is empty"),
        ({"embedders": ["x"]}, TypeError, "must hold embedders; got 'x'"),
        ({"categories": ["judge"]}, ValueError, "has 'judge', but X has no such"),
    ],
)
def test_bad_settings(union, records, change, error, words):
    with pytest.raises(error, match=words):
        union.set_params(**change).fit(records)
    assert not hasattr(union, "embedders_")


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
