import mmap

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skqprobe import QProbePolicy
from skqprobe._arrays import blocks
from skqprobe._arrays.blocks import (
    BlockReader,
    float16_to_float32,
    is_finite,
    row_blocks,
    take_rows,
)


def test_half_to_single_is_exact():
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)]  # subnormal ones and both zeros among them
    values = float16_to_float32(every, np.empty(len(every), np.float32))
    assert_array_equal(values.view(np.int32), every.astype(np.float32).view(np.int32))


def test_half_to_single_of_a_view(rng):
    X = rng.normal(size=(6, 8)).astype(np.float16)
    for view in (X[::2], X[:, 1::3], X.T, X[:0]):
        out = float16_to_float32(view, np.empty(view.shape, np.float32))
        assert_array_equal(out, view.astype(np.float32))


@pytest.mark.parametrize("order", ["C", "F"])
def test_reading_half_precision(order, rng):
    X = np.asarray(rng.normal(size=(40, 6)).astype(np.float16), order=order)
    read = BlockReader(X)
    for rows in (slice(3, 9), slice(20, 40), np.array([7, 2]), slice(0, 1)):
        assert_array_equal(read(rows), X[rows].astype(np.float32))
        assert_array_equal(read.unchecked(rows), X[rows].astype(np.float32))
    X[5, 1], X[30, 2], X[31, 0] = np.nan, np.inf, -np.inf
    for rows in (slice(3, 9), slice(20, 40), slice(0, 1)):
        assert_array_equal(read.unchecked(rows), X[rows].astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_is_finite(dtype, rng):
    X = rng.normal(size=(20, 5)).astype(dtype)
    assert is_finite(X)
    assert is_finite(0 * X)
    for bad in (np.nan, np.inf, -np.inf):
        X[7, 3] = bad
        assert not is_finite(X)
    if dtype == np.float16:
        assert is_finite(np.full((9, 9), np.finfo(dtype).max, dtype))


def test_blocks_cover_all_rows(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 100)
    X = np.arange(35.0).reshape(7, 5)
    assert [len(X[rows]) for rows in row_blocks(X)] == [2, 2, 2, 1]


@pytest.fixture
def mapped(tmp_path, rng):
    """An array, and the same in a file that is mapped into memory."""

    def make(dtype, mode="r"):
        X = rng.normal(size=(30, 6, 50)).astype(dtype)
        np.save(tmp_path / "X.npy", X)
        return X, np.load(tmp_path / "X.npy", mmap_mode=mode)

    return make


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="the system has none")
def test_pages_are_given_back(dtype, mapped, rng, monkeypatch):
    monkeypatch.setattr(blocks, "KEPT_BYTES", 3000)
    X, on_disk = mapped(dtype)
    y = (X[..., 0] > 0).astype(float)
    in_memory = QProbePolicy(alpha=0.1).fit(X, y)
    policy = QProbePolicy(alpha=0.1).fit(on_disk, y)
    assert_array_equal(policy.coef_, in_memory.coef_)
    given_back = []

    class Spy:
        def madvise(self, option):
            given_back.append(option)

    monkeypatch.setattr(blocks, "_file_mapping", lambda X: Spy())
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1000)
    np.testing.assert_allclose(
        policy.decision_function(on_disk), in_memory.decision_function(X), rtol=1e-5
    )
    assert len(given_back) >= X.nbytes // 5000
    assert set(given_back) == {mmap.MADV_DONTNEED}


def test_only_pages_that_the_file_has_are_given_back(mapped):
    for mode, safe in [("r", True), ("r+", True), ("c", False)]:
        X, on_disk = mapped(np.float32, mode)
        mapping = BlockReader(on_disk.reshape(-1, 50)[3:])._map
        assert isinstance(mapping, mmap.mmap) == (
            safe and hasattr(mmap, "MADV_DONTNEED")
        )
        on_disk.flush()
    assert BlockReader(X)._map is None
    # A change that is nowhere but in memory stays.
    on_disk[0, 0, 0] = 42
    reader = BlockReader(on_disk.reshape(-1, 50))
    for _ in range(3):
        reader(slice(0, 180))
    assert on_disk[0, 0, 0] == 42


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("coefficient", [0.0, 1.0])
def test_predict_finds_what_is_not_finite(dtype, coefficient, sets):
    X, y = sets
    policy = QProbePolicy().fit(X.astype(dtype), y)
    policy.coef_[2] = coefficient  # where it is 0, the scores may not show it
    X = X.astype(dtype)
    for bad in (np.nan, np.inf):
        X[3, 1, 2] = bad
        with pytest.raises(ValueError, match=r"The first is X\[3, 1, 2\]"):
            policy.predict(X)


@pytest.mark.parametrize("order", ["C", "F"])
def test_scattered_rows_are_those_of_an_index(order, rng):
    X = np.asarray(rng.normal(size=(50, 3)), order=order)
    for rows in (rng.permutation(50)[:20], rng.integers(0, 50, (4, 2)), slice(3, 9)):
        assert_array_equal(take_rows(X, rows), X[rows])
