"""Reads of X in blocks, in the dtype of the computation."""

import mmap
import sys
from types import SimpleNamespace

import numpy as np
from sklearn.utils import gen_batches

from skqprobe._arrays.device import DeviceArray
from skqprobe._utils.optional import import_optional

BLOCK_BYTES = 4 * 2**20
"""Number of bytes of X in a block: few enough to stay in the cache between the two
products of an evaluation, enough to keep BLAS busy."""

PRODUCT_ROWS = 2048
"""Minimum number of rows per product X' X: enough to hide the time to read the sum that
the product is added to."""

DEVICE_BLOCK_BYTES = 2**26
"""Number of bytes in a block of an X on a device, where the host waits for each block:
few compared with the memory of the device."""

TORCH_SIZE = 2**26
"""Number of float16 numbers whose conversion repays an import of torch."""

KEPT_BYTES = 2**26
"""Number of bytes of a memory-mapped X to read before its pages are released."""


def compute_dtype(X):
    """Select the dtype to compute in: that of X, or float32 for float16."""
    return np.result_type(X.dtype, np.float32)


def rows_at_once(X, itemsize):
    """Compute the number of rows in a block of X, at least 1, from bytes per number."""
    n_bytes = DEVICE_BLOCK_BYTES if isinstance(X, DeviceArray) else BLOCK_BYTES
    return max(1, n_bytes // max(1, X.shape[1] * itemsize))


def row_blocks(X):
    """List slices of rows that cover X, of about BLOCK_BYTES or DEVICE_BLOCK_BYTES."""
    return list(gen_batches(len(X), rows_at_once(X, X.itemsize)))


class BlockReader:
    """Reader of rows of X, in the dtype to compute in.

    The pages of a memory-mapped X that were read count as memory of this process until
    the system reclaims them. The reader releases them as it goes, so that a file larger
    than the memory does not displace other data.

    Parameters
    ----------
    X : ndarray or DeviceArray of shape (n_rows, d)
        Array of dtype float16, float32 or float64.
    """

    def __init__(self, X):
        self.X = X
        self.dtype = compute_dtype(X)
        self._map = _file_mapping(X)
        self._n_bytes = 0
        self._buffer = np.empty(0, np.float32)
        self._torch = None
        if X.dtype == np.float16:
            self._torch = _find_torch(X.shape[0] * X.shape[1])

    @property
    def is_plain(self):
        """Whether X is in memory and needs no conversion, hence no reader."""
        is_in_memory = isinstance(self.X, np.ndarray) and self._map is None
        return is_in_memory and self.X.dtype == self.dtype

    def raw(self, rows):
        """Read rows without a conversion: a view if `rows` is a slice."""
        block = take_rows(self.X, rows)
        if self._map is not None:
            self._n_bytes += block.nbytes
            if self._n_bytes > KEPT_BYTES:
                self._n_bytes = 0
                # Views of released pages read them from the file again.
                self._map.madvise(mmap.MADV_DONTNEED)
        return block

    def __call__(self, rows):
        """Read rows of finite numbers: a view where possible.

        The next call overwrites converted rows of float16: to allocate new memory each
        time would take longer than the conversion.
        """
        block = self.raw(rows)
        return self._converted(block) if block.dtype == np.float16 else block

    def unchecked(self, rows):
        """Read rows that may hold non-finite numbers, and keep these."""
        block = self.raw(rows)
        if block.dtype != np.float16:
            return block
        if (self._torch and block.flags.forc) or is_finite(block):
            return self._converted(block)
        return block.astype(np.float32)

    def _converted(self, block):
        if self._buffer.size < block.size:
            self._buffer = np.empty(block.size, np.float32)
        out = self._buffer[: block.size].reshape(block.shape)
        return float16_to_float32(block, out, self._torch)


SUBNORMAL = np.float32(1e-40)
"""Number that becomes 0 where subnormal numbers are flushed, as torch can request."""


def take_rows(X, rows):
    """Index the first axis. `X[rows]` takes four times as long for scattered rows.

    Consecutive rows are a view. `take` is for arrays in C order only: it would copy all
    of any other array.
    """
    scattered = isinstance(X, np.ndarray) and isinstance(rows, np.ndarray)
    if scattered and len(rows) and (np.diff(rows) == 1).all():
        return X[rows[0] : rows[-1] + 1]
    return X.take(rows, axis=0) if scattered and X.flags.c_contiguous else X[rows]


def memory_map(X):
    """Find the memory map of which X is a view, or None."""
    while X is not None and not isinstance(X, np.memmap):
        X = getattr(X, "base", None)
    return X


def _file_mapping(X):
    """Find the memory map behind X, or None if its pages cannot be released safely."""
    X = memory_map(X)
    # The pages of a copy-on-write map are the only place of its changes.
    if X is None or X.mode == "c" or not hasattr(mmap, "MADV_DONTNEED"):
        return None
    base = X.base
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def float16_to_float32(X, out, torch=None):
    """Convert finite float16 numbers: the result of astype, in a fraction of its time.

    torch uses an instruction of the processor, also for numbers that are not finite.
    Without torch, a shift moves the bits of exponent and fraction to their places in
    float32, and the sign with them; a product corrects for the different biases of the
    exponents.
    """
    if torch is not None and X.flags.forc:  # no strides that torch lacks
        torch.from_numpy(out).copy_(torch.from_numpy(_as_writable(X)))
        return out
    if np.multiply(SUBNORMAL, np.float32(1)) == 0:  # the processor flushes to zero
        out[...] = X
        return out
    bits = out.view(np.int32)
    bits[...] = X.view(np.int16)
    bits <<= 13
    # The sign fills all bits above the exponent; keep only the topmost.
    bits &= np.int32(-0x70002000)
    out *= np.float32(2.0**112)
    return out


def _find_torch(size):
    """Return torch if it is imported, or if converting `size` numbers repays that."""
    if size < TORCH_SIZE:
        torch = sys.modules.get("torch")
        return torch if hasattr(torch, "from_numpy") else None
    try:
        return import_optional("torch", needed_by="The conversion of float16")
    except ImportError:
        return None


def _as_writable(X):
    """View a read-only array, of which torch would warn, as a writable one."""
    if X.flags.writeable:
        return X
    memory = X.__array_interface__
    memory["data"] = memory["data"][0], False
    return np.asarray(SimpleNamespace(__array_interface__=memory, base=X))


def is_finite(block):
    """Check that all numbers of a block are finite; False if that is uncertain."""
    if isinstance(block, DeviceArray):
        return block.is_finite()
    if block.dtype == np.float16:
        if block.size == 0:
            return True
        # Infinity, and NaN above it, have the largest bit patterns of either sign.
        signed, unsigned = block.view(np.int16), block.view(np.uint16)
        return bool(signed.max() < 0x7C00 and unsigned.max() < 0xFC00)
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.sum(block)))
