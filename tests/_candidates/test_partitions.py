import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skqprobe._candidates import partitions
from skqprobe._candidates.partitions import check_partitions

dask = pytest.importorskip("dask")
db = pytest.importorskip("dask.bag")


def rows(labels, chunked, size):
    labels = np.array(labels)
    X = np.arange(2.0 * len(labels)).reshape(-1, 2)
    return chunked(X, size), chunked(labels, size)


@pytest.mark.parametrize(
    ("labels", "size", "sizes", "n_prompts"),
    [
        ("aabbcc", 2, [2, 2, 2], [1, 1, 1]),
        ("aabbcc", 3, [4, 2], [2, 1]),  # b moves to the first partition
        ("aaaaab", 2, [5, 1], [1, 1]),  # a whole partition moves
        ("aaaaaa", 2, [6], [1]),
        ("abcdef", 4, [4, 2], [4, 2]),
        ("abaccc", 3, [3, 3], [2, 1]),  # not sorted inside a partition
    ],
)
@pytest.mark.parametrize("kind", ["U", "object", "int"])
def test_prompts_are_whole(kind, labels, size, sizes, n_prompts, chunked):
    labels = np.array(list(labels))
    if kind != "U":
        labels = labels.astype(object) if kind == "object" else labels.view(np.uint32)
    X, groups = rows(labels, chunked, size)
    found = check_partitions(X, groups=groups, y=np.arange(len(labels)))
    assert list(found.X.chunks[0]) == sizes == list(found.others["y"].chunks[0])
    assert found.n_prompts == n_prompts
    assert found.starts == [0, *np.cumsum(sizes)[:-1]]
    assert_array_equal(found.X, X)
    assert list(found.as_user(found.X).chunks[0]) == list(X.chunks[0])


@pytest.mark.parametrize("at_once", [1, 2**23])
def test_prompts_in_several_partitions_are_counted(at_once, chunked, monkeypatch):
    monkeypatch.setattr(partitions, "HASHES_AT_ONCE", at_once)
    X, groups = rows(list("abcabdabe"), chunked, 3)
    with pytest.raises(ValueError, match="2 of 5 prompts have rows in several"):
        check_partitions(X, groups=groups)


def test_sets(chunked):
    X = chunked(np.ones((10, 3, 4)), 4).rechunk((4, 2, 2))
    arguments = {"groups": np.arange(10), "sample_weight": 2.0}
    found = check_partitions(X, y=np.ones((10, 3)), **arguments)
    assert found.X.chunks == ((4, 4, 2), (3,), (4,))
    assert found.others["groups"] is None and found.n_prompts == [4, 4, 2]
    assert_array_equal(found.others["sample_weight"], np.full(10, 2.0))


def test_unknown_and_empty_chunks(chunked):
    X = chunked(np.arange(20.0).reshape(10, 2), 3)
    some = X[X[:, 0] > 5]
    found = check_partitions(some)
    assert list(found.X.chunks[0]) == [3, 3, 1] and np.isnan(some.shape[0])
    assert_array_equal(found.X, np.arange(6, 20.0).reshape(7, 2))


def test_labels_in_memory_are_those_of_one_process(chunked):
    X, _ = rows(list("aaabbb"), chunked, 2)
    for labels in ([("a", 1)] * 3 + [("b", 1)] * 3, [1, 1, 1, "b", "b", "b"]):
        assert check_partitions(X, groups=labels).n_prompts == [1, 1]
    with pytest.raises(ValueError, match="groups must be array-like"):
        check_partitions(X, groups="a")


def test_masks_are_not_lost(chunked):
    X, _ = rows(list("aaabbb"), chunked, 2)
    masked = np.ma.masked_array(np.ones(6), mask=[0, 0, 1, 0, 0, 0])
    for name in ("y", "offset", "sample_weight", "groups"):
        with pytest.raises(ValueError, match=f"{name} is a masked array"):
            check_partitions(X, **{name: masked})


def test_other_collections(chunked):
    X, groups = rows(list("aaabbb"), chunked, 2)
    for other in (dask.delayed(np.ones(6)), db.from_sequence(range(6))):
        with pytest.raises(ValueError, match=r"Pass y\.compute\(\)"):
            check_partitions(X, y=other, groups=groups)
