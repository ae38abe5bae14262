"""Reading X block by block, in the type to compute in."""

import mmap

import numpy as np

from skqprobe._arrays.device import DeviceArray

BLOCK_BYTES = 4 * 2**20
"""How much of X is read at a time: small enough to stay in cache between the two
products that an evaluation makes with it, large enough to keep BLAS busy."""

PRODUCT_ROWS = 2048
"""Of how many rows X' X is made at a time, at least: enough to hide the reading of the
sum that it is added to."""

DEVICE_BLOCK_BYTES = 2**26
"""How much of an X on a device is read at a time, where each block waits for the host:
small beside the device's memory."""

KEPT_BYTES = 2**26
"""How much of a memory-mapped X is read before its pages are given back."""


def compute_dtype(X):
    """Dtype to compute in: X's own, float32 for float16."""
    return np.result_type(X.dtype, np.float32)


def rows_at_once(X, itemsize):
    """How many rows of so many bytes a number make up a block of X; at least 1."""
    n_bytes = DEVICE_BLOCK_BYTES if isinstance(X, DeviceArray) else BLOCK_BYTES
    return max(1, n_bytes // max(1, X.shape[1] * itemsize))


def row_blocks(X):
    """Slices of rows that cover X, each of about BLOCK_BYTES or DEVICE_BLOCK_BYTES."""
    step = rows_at_once(X, X.itemsize)
    return [slice(start, start + step) for start in range(0, len(X), step)]


class BlockReader:
    """Reads rows of X, in the dtype to compute in.

    The pages of a memory-mapped X count as memory of this process until the system
    wants them back. They are given back as X is read, so that a file larger than the
    memory does not push anything else out of it.

    Parameters
    ----------
    X : ndarray or DeviceArray of shape (n_rows, d)
        Of dtype float16, float32 or float64.
    """

    def __init__(self, X):
        self.X = X
        self.dtype = compute_dtype(X)
        self._map = _file_mapping(X)
        self._n_bytes = 0
        self._buffer = np.empty(0, np.float32)

    @property
    def is_plain(self):
        """Whether X can as well be used without the reader."""
        is_plain = isinstance(self.X, np.ndarray) and self._map is None
        return is_plain and self.X.dtype == self.dtype

    def raw(self, rows):
        """Read rows as they are: a view where `rows` is a slice."""
        block = take_rows(self.X, rows)
        if self._map is not None:
            self._n_bytes += block.nbytes
            if self._n_bytes > KEPT_BYTES:
                self._n_bytes = 0
                # What still looks at these pages gets them back from the file.
                self._map.madvise(mmap.MADV_DONTNEED)
        return block

    def __call__(self, rows):
        """Read rows that are finite: a view where that is possible.

        Rows of float16 are overwritten by the next that are read: memory that is new
        each time would take longer than the conversion.
        """
        block = self.raw(rows)
        return self._converted(block) if block.dtype == np.float16 else block

    def unchecked(self, rows):
        """Read rows that may not be finite; what is not stays so."""
        block = self.raw(rows)
        if block.dtype != np.float16:
            return block
        return self._converted(block) if is_finite(block) else block.astype(np.float32)

    def _converted(self, block):
        if self._buffer.size < block.size:
            self._buffer = np.empty(block.size, np.float32)
        return float16_to_float32(
            block, self._buffer[: block.size].reshape(block.shape)
        )


def take_rows(X, rows):
    """Index the first axis: ``X[rows]``, which for scattered rows is four times slower.

    Only for arrays in C order: `take` would copy all of another.
    """
    scattered = isinstance(X, np.ndarray) and isinstance(rows, np.ndarray)
    return X.take(rows, axis=0) if scattered and X.flags.c_contiguous else X[rows]


def _file_mapping(X):
    """Find the memory map behind X, if its pages can be given back without a loss."""
    while X is not None and not isinstance(X, np.memmap):
        X = getattr(X, "base", None)
    # Changes to a copy-on-write map are nowhere but in its pages.
    if X is None or X.mode == "c" or not hasattr(mmap, "MADV_DONTNEED"):
        return None
    base = X.base
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def float16_to_float32(X, out):
    """Convert finite float16 to float32; the same as astype, in a sixth of its time.

    The bits of exponent and fraction are moved to where float32 has them, with the sign
    carried along, and the product makes up for the different offsets of the exponents.
    """
    bits = out.view(np.int32)
    bits[...] = X.view(np.int16)
    bits <<= 13
    # The sign fills the bits above; only the topmost is to stay.
    bits &= np.int32(-0x70002000)
    out *= np.float32(2.0**112)
    return out


def is_finite(block):
    """Tell whether all numbers of a block are finite; False if that is not sure."""
    if isinstance(block, DeviceArray):
        return block.is_finite()
    if block.dtype == np.float16:
        if block.size == 0:
            return True
        # Infinity, and NaN beyond it, are the largest bits with either sign.
        signed, unsigned = block.view(np.int16), block.view(np.uint16)
        return bool(signed.max() < 0x7C00 and unsigned.max() < 0xFC00)
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.sum(block)))
