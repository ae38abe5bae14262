"""Texts in Dask collections are embedded in their partitions."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skqprobe import QProbePolicy
from skqprobe._arrays.views import views_of
from skqprobe.embedders import (
    BaseEmbedder,
    EmbedderUnion,
    TextStatistics,
    VectorizerEmbedder,
)

dask = pytest.importorskip("dask")
bag = pytest.importorskip("dask.bag")
dd = pytest.importorskip("dask.dataframe")
pd = pytest.importorskip("pandas")

TEXTS = [f"{'word ' * (i % 7)}number {i}?" for i in range(23)]
PAIRS = [(f"prompt {i % 5}", text) for i, text in enumerate(TEXTS)]
RECORDS = [
    {"prompt": f"prompt {i}", "completions": TEXTS[i : i + 3]} for i in range(0, 21, 3)
]


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


def count_marks(texts):
    return np.array([[text.count(mark) for mark in "?o"] for text in texts])


class Lengths(BaseEmbedder):
    """An embedder that stores the batches that it was asked for."""

    batches: list = []

    def __init__(self, join="\n", batch_size=4, dtype="float32", cache=None):
        self.join, self.batch_size, self.dtype = join, batch_size, dtype
        self.cache, self.progress = cache, False

    def embed_batch(self, texts):
        self.batches.append(texts)
        return np.array([[len(text), text.count("o")] for text in texts])


@pytest.mark.parametrize("texts", [TEXTS, PAIRS, RECORDS])
@pytest.mark.parametrize(
    "embedder", [TextStatistics(), EmbedderUnion([VectorizerEmbedder(count_marks)])]
)
def test_bags(embedder, texts):
    lazy = bag.from_sequence(texts, npartitions=4).map(lambda each: each)
    expected = embedder.fit_transform(texts)
    found = embedder.fit_transform(lazy)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert sum(found.chunks[0]) == len(texts) and len(found.chunks[0]) > 1
    assert_array_equal(found.compute(), expected)
    np.testing.assert_equal(views_of(found), views_of(expected))


def test_frames():
    frame = pd.DataFrame(PAIRS, columns=["prompt", "completion"])
    lazy = dd.from_pandas(frame, npartitions=3)
    assert_array_equal(
        TextStatistics().transform(lazy), TextStatistics().transform(frame)
    )
    union = EmbedderUnion([TextStatistics(), VectorizerEmbedder(count_marks)])
    found, expected = union.fit_transform(lazy), union.fit_transform(frame)
    assert_array_equal(found, expected)
    assert views_of(found).keys() == views_of(expected).keys()
    groups = frame["prompt"].tolist()
    order = np.argsort(groups, kind="stable")
    policy = QProbePolicy("log_loss").fit(expected[order], expected[order, 0] > 20)
    assert_array_equal(
        policy.decision_function(found), policy.decision_function(expected)
    )


def test_batches_and_cache(tmp_path):
    """A batch has texts of one partition, and a cache on disk is shared."""
    embedder = Lengths(cache=tmp_path / "cache.sqlite")
    lazy = bag.from_sequence(TEXTS, npartitions=3)
    Lengths.batches.clear()
    out = embedder.transform(lazy)
    assert Lengths.batches == [TEXTS[:1]]  # from which the shape is known
    out.compute()
    sizes = [len(batch) for batch in Lengths.batches]
    assert sum(sizes) == len(TEXTS) and max(sizes) <= 4
    (partition,) = [set(TEXTS[:8])]
    assert all(set(b) <= partition or not set(b) & partition for b in Lengths.batches)
    embedder.transform(lazy).compute()
    assert sum(map(len, Lengths.batches)) == len(TEXTS)


def test_what_learns_from_all_texts():
    from sklearn.feature_extraction.text import TfidfVectorizer

    lazy = bag.from_sequence(TEXTS, npartitions=3)
    learns = VectorizerEmbedder(TfidfVectorizer())
    for embedder in (learns, EmbedderUnion([learns])):
        with pytest.raises(ValueError, match="learns from all texts"):
            embedder.fit(lazy)
    learns.fit(TEXTS)
    assert_array_equal(learns.transform(lazy), learns.transform(TEXTS))
    frame = pd.DataFrame({"completion": TEXTS, "prompt": "", "model": "a"})
    lazy = dd.from_pandas(frame.astype({"model": "category"}), npartitions=2)
    with pytest.raises(ValueError, match="Categories are learned"):
        EmbedderUnion([TextStatistics()]).fit(lazy)
    assert EmbedderUnion([TextStatistics()], categories=()).fit(lazy).encoders_ == {}


def test_empty_collection():
    lazy = bag.from_sequence(TEXTS, npartitions=2).filter(lambda text: False)
    with pytest.raises(ValueError, match="X is empty"):
        TextStatistics().fit(lazy)


def test_an_error_names_the_partition():
    lazy = bag.from_sequence([*TEXTS, None], npartitions=4)  # of six texts
    found = TextStatistics().transform(lazy)
    with pytest.raises(ValueError, match=r"X\[5\] must be a text.*begins at X\[18\]"):
        found.compute()
