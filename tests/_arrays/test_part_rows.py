"""Rows of X that workers keep, or read again."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from skqprobe import QProbePolicy, QProbePolicyCV
from skqprobe._arrays import part_rows
from skqprobe._arrays.collections import Parts
from skqprobe._arrays.part_rows import PartRows, Recipe, RowParts, fits, recipes_of

da = pytest.importorskip("dask.array")
dask = pytest.importorskip("dask")


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def read_again(monkeypatch):
    """List of the keys of all blocks that are read; no X fits in memory."""
    keys, original = [], Recipe.__call__

    def call(self):
        keys.append(self.key)
        return original(self)

    monkeypatch.setattr(part_rows, "_memory", lambda client: 0)
    monkeypatch.setattr(Recipe, "__call__", call)
    return keys


def lazy(X, chunk):
    """Array whose blocks depend on tasks, and are of another type than X at first."""
    array = da.from_array(X * 2, chunks=(chunk, *X.shape[1:]))
    return array.map_blocks(lambda block: block / 2).rechunk((chunk + 1, -1, -1))


def test_recipes(sets):
    X, _ = sets
    (array,) = dask.optimize(lazy(X, 17))
    blocks = [each() for each in recipes_of(array)]
    assert_array_equal(np.concatenate(blocks), X)
    assert [len(each) for each in blocks] == list(array.chunks[0])


def test_what_fits_is_kept(sets, monkeypatch):
    X = lazy(sets[0], 17)
    assert fits(X)
    monkeypatch.setattr(part_rows, "_memory", lambda client: 1.9 * X.nbytes)
    assert not fits(X)


class Part:
    def __init__(self, X):
        self.X = X


def row_sum(part, first, last):
    return part.X[first:last].sum()


@pytest.mark.parametrize("is_kept", [False, True])
def test_rows_are_at_hand_during_a_call_only(is_kept):
    blocks = [np.arange(6.0).reshape(3, 2), np.ones((3, 2), int)]
    array = da.concatenate([da.from_array(each, chunks=-1) for each in blocks])
    recipes = [None, None] if is_kept else recipes_of(array)
    values = [Part(PartRows((3, 2), np.dtype(float), each)) for each in recipes]
    parts = RowParts(Parts.scatter(values), Parts.scatter(blocks) if is_kept else None)
    assert parts.collect(row_sum, 0, 2) == [6.0, 4.0]
    assert parts.total(row_sum, 0, 2) == 10.0
    assert parts.keep([False, True]).collect(row_sum, 0, 3) == [6.0]
    assert parts.map(row_sum, 0, 1).values() == [1.0, 2.0]
    assert all(each.X._rows is None for each in values)
    again = pickle.loads(pickle.dumps(values[0].X))
    assert (again.shape, again.dtype) == ((3, 2), np.dtype(float))


def test_unaligned_rows_are_copied():
    memory = np.zeros(6 * 8 + 1, np.uint8)
    block = memory[1:].view(np.float64).reshape(3, 2)
    rows = PartRows((3, 2), np.dtype(float), None)
    with rows.at_hand(block):
        assert rows._rows.flags.aligned


@pytest.mark.parametrize("loss", ["log_loss", "squared_error", "pairwise_hinge"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, int])
def test_fit_that_reads_again(loss, dtype, sets, read_again):
    X, y = sets
    X = (4 * X).astype(dtype)
    blocks = da.from_array(X, chunks=(17, -1, -1))
    policy, again = (
        QProbePolicy(loss).fit(blocks, da.from_array(y, chunks=7)) for _ in range(2)
    )
    assert len(read_again) >= 2 * 2 * 4
    assert_array_equal(policy.coef_, again.coef_)
    expected = QProbePolicy(loss).fit(X, y)
    rtol = 1e-6 if policy.coef_.dtype == np.float64 else 1e-3
    np.testing.assert_allclose(policy.coef_, expected.coef_, rtol=rtol)
    assert policy.intercept_ == pytest.approx(expected.intercept_, rel=rtol)


def test_what_is_read_again(sets, read_again):
    """X is read for what depends on it; a search scores all policies in one read."""
    X, y = sets
    blocks, y = da.from_array(X, chunks=(17, -1, -1)), da.from_array(y, chunks=17)
    n = len(blocks.chunks[0])
    reads = {}
    for select in ("score", "loss"):
        read_again.clear()
        settings = {"losses": ["squared_error"], "cv": 3, "alphas": (1.0, 1e-3)}
        QProbePolicyCV(select_alpha=select, refit=False, **settings).fit(blocks, y)
        reads[select] = len(read_again) / n
    assert reads["score"] == reads["loss"]
    read_again.clear()
    with pytest.warns(ConvergenceWarning):
        QProbePolicy("log_loss", max_iter=1).fit(blocks, y)
    # The checks, two values and gradients, the moments, and the curvature at the end.
    assert len(read_again) / n == 5
