import mmap
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skqprobe import QProbePolicy
from skqprobe._arrays import blocks
from skqprobe._arrays.blocks import (
    BlockReader,
    float16_to_float32,
    is_finite,
    row_blocks,
)

HAS_ADVICE = hasattr(mmap, "MADV_DONTNEED")
both_orders = pytest.mark.parametrize("order", ["C", "F"])


@pytest.fixture(params=["numpy", "torch"])
def torch(request):
    return pytest.importorskip("torch") if request.param == "torch" else None


def test_float16_to_float32_is_exact(torch):
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)]  # with subnormal numbers and both zeros
    found = float16_to_float32(every, np.empty(len(every), np.float32), torch)
    assert_array_equal(found.view(np.int32), every.astype(np.float32).view(np.int32))


@pytest.mark.parametrize("layout", ["C", "strided"])
def test_unchecked_reads_keep_numbers_that_are_not_finite(layout, torch, monkeypatch):
    X = np.array([[1, np.inf, np.nan], [-np.inf, 2, 6e-8]], dtype=np.float16)
    X = X if layout == "C" else X.repeat(2, axis=1)[:, ::2]
    read = BlockReader(X)
    monkeypatch.setattr(read, "_torch", torch)
    assert_array_equal(read.unchecked(slice(0, 2)), X.astype(np.float32))


@pytest.mark.parametrize("is_writable", [True, False])
def test_float16_to_float32_of_a_view(is_writable, torch, rng):
    X = rng.normal(size=(6, 8)).astype(np.float16)
    X.flags.writeable = is_writable
    for view in (X, X[::2], X[::-1], X[:, 1::3], X.T, X[:0]):
        out = float16_to_float32(view, np.empty(view.shape, np.float32), torch)
        assert_array_equal(out, view.astype(np.float32))
    assert X.flags.writeable == is_writable


@pytest.mark.parametrize("imported", [True, False])
def test_torch_is_imported_for_large_arrays_only(imported, monkeypatch, rng):
    torch = pytest.importorskip("torch")
    if not imported:
        monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(blocks, "import_optional", lambda *_, **__: torch)
    X = np.zeros((2, 3), dtype=np.float16)
    assert BlockReader(X)._torch is (torch if imported else None)
    monkeypatch.setattr(blocks, "TORCH_SIZE", 6)
    assert BlockReader(X)._torch is torch


def test_float16_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # an import fails
    monkeypatch.setattr(blocks, "TORCH_SIZE", 1)
    X = np.ones((2, 3), dtype=np.float16)
    assert_array_equal(BlockReader(X)(slice(0, 2)), X.astype(np.float32))


@both_orders
def test_reader_of_float16(order, rng):
    X = np.asarray(rng.normal(size=(40, 6)).astype(np.float16), order=order)
    read = BlockReader(X)
    slices = [slice(3, 9), slice(20, 40), slice(0, 1)]
    for rows in (*slices, np.array([7, 2])):
        assert_array_equal(read(rows), X[rows].astype(np.float32))
        assert_array_equal(read.unchecked(rows), X[rows].astype(np.float32))
    X[5, 1], X[30, 2], X[31, 0] = np.nan, np.inf, -np.inf
    for rows in slices:
        assert_array_equal(read.unchecked(rows), X[rows].astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_is_finite(dtype, rng):
    X = rng.normal(size=(20, 5)).astype(dtype)
    assert is_finite(X)
    assert is_finite(0 * X)
    for value in (np.nan, np.inf, -np.inf):
        X[7, 3] = value
        assert not is_finite(X)
    if dtype == np.float16:
        assert is_finite(np.full((9, 9), np.finfo(dtype).max, dtype))


def test_blocks_cover_all_rows(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 100)
    X = np.arange(35.0).reshape(7, 5)
    assert [len(X[rows]) for rows in row_blocks(X)] == [2, 2, 2, 1]


@pytest.fixture
def mapped(tmp_path, rng):
    """Return a function that makes an array, and its copy as a memory-mapped file."""

    def make(dtype, mode="r"):
        X = rng.normal(size=(30, 6, 50)).astype(dtype)
        np.save(tmp_path / "X.npy", X)
        return X, np.load(tmp_path / "X.npy", mmap_mode=mode)

    return make


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.skipif(not HAS_ADVICE, reason="the system has no MADV_DONTNEED")
def test_pages_of_a_file_are_released(dtype, mapped, monkeypatch):
    monkeypatch.setattr(blocks, "KEPT_BYTES", 3000)
    X, on_disk = mapped(dtype)
    y = (X[..., 0] > 0).astype(float)
    in_memory = QProbePolicy(alpha=0.1).fit(X, y)
    policy = QProbePolicy(alpha=0.1).fit(on_disk, y)
    assert_array_equal(policy.coef_, in_memory.coef_)
    released = []

    class Spy:
        def madvise(self, option):
            released.append(option)

    monkeypatch.setattr(blocks, "_file_mapping", lambda X: Spy())
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1000)
    expected = in_memory.decision_function(X)
    assert_allclose(policy.decision_function(on_disk), expected, rtol=1e-5)
    assert len(released) >= X.nbytes // 5000
    assert set(released) == {mmap.MADV_DONTNEED}


def test_only_pages_equal_to_the_file_are_released(mapped):
    for mode, safe in [("r", True), ("r+", True), ("c", False)]:
        X, on_disk = mapped(np.float32, mode)
        mapping = BlockReader(on_disk.reshape(-1, 50)[3:])._map
        assert isinstance(mapping, mmap.mmap) == (safe and HAS_ADVICE)
        on_disk.flush()
    assert BlockReader(X)._map is None
    # A change that is only in memory is kept.
    on_disk[0, 0, 0] = 42
    reader = BlockReader(on_disk.reshape(-1, 50))
    for _ in range(3):
        reader(slice(0, 180))
    assert on_disk[0, 0, 0] == 42


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_predict_raises_unless_x_is_finite(dtype, value, sets):
    X, y = sets[0].astype(dtype), sets[1]
    policy = QProbePolicy().fit(X, y)
    policy.coef_[2] = 0  # so that the scores may be finite
    X[3, 1, 2] = value
    with pytest.raises(ValueError, match=r"The first is X\[3, 1, 2\]"):
        policy.predict(X)


@pytest.mark.parametrize("by_torch", [True, False])
def test_float16_while_subnormal_numbers_are_flushed(by_torch):
    torch = pytest.importorskip("torch")
    X = np.array([6e-8, 1e-7, -3e-6, 6e-5, 1.5, 65504], dtype=np.float16)
    expected = X.astype(np.float32)
    if not torch.set_flush_denormal(True):
        pytest.skip("the processor cannot flush subnormal numbers")
    try:
        out = np.empty(X.shape, np.float32)
        found = float16_to_float32(X, out, torch if by_torch else None)
    finally:
        torch.set_flush_denormal(False)
    np.testing.assert_array_equal(found, expected)
