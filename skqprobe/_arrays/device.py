"""Array API input: X may be a tensor on a device, such as a GPU.

Only X is large. It stays where it is, and so do the blocks that are cut from it. What a
product with it gives, a number a row or a number a feature, comes to the host, where
layouts, losses and solvers are numpy. This is the one module that knows other arrays.
"""

import numpy as np
from sklearn import get_config

from skqprobe._utils.sklearn_compat import (
    ARRAY_API_SUPPORT,
    get_namespace_and_device,
    max_precision_float_dtype,
    move_to,
)


def is_device_array(values):
    """Tell whether this is an array of another library, and the switch is on.

    The switch is scikit-learn's, ``array_api_dispatch``. Where it is off, such arrays
    are converted to numpy like anything array-like.
    """
    if not get_config()["array_api_dispatch"] or isinstance(values, np.ndarray):
        return False
    if not hasattr(values, "__dlpack__") or np.isscalar(values):
        return False
    if not ARRAY_API_SUPPORT:
        raise ImportError(
            f"Input of type {type(values).__name__} with array_api_dispatch=True needs "
            "scikit-learn 1.9 or later: upgrade it, or convert the input to numpy."
        )
    return True


def namespace(X):
    """Find the module of functions for an array, named as the standard names them."""
    return get_namespace_and_device(X)[0] if is_device_array(X) else np


def float_dtypes(X):
    """Types of floating point that X may have without being converted."""
    xp = namespace(X)
    names = ("float64", "float32", "float16", "bfloat16")
    return [getattr(xp, name) for name in names if hasattr(xp, name)]


def to_host(values):
    """Bring an array to numpy if it is another library's; else leave it as it is."""
    if not is_device_array(values):
        return values
    values = move_to(values, xp=np, device="cpu")
    return values if values.flags.writeable else values.copy()


def to_namespace_of(X, values):
    """Bring numpy values to the library and device of X, as given or as checked."""
    X = X.array if isinstance(X, DeviceArray) else X
    if not is_device_array(X):
        return values
    xp, _, device = get_namespace_and_device(X)
    return move_to(values, xp=xp, device=device)


class DeviceArray:
    """An array of two dimensions on a device, as far as an ndarray's part is played.

    A product with a numpy array gives a numpy array; all other operations, a product of
    two such arrays among them, stay on the device, until `np.asarray`.

    Parameters
    ----------
    array : array of shape (n, m)
        Of a library that follows the array API standard, and of a real floating type.

    Attributes
    ----------
    dtype : numpy.dtype
        float64, or float32 for that and all smaller types; what is read from the array
        has this type.
    """

    __array_ufunc__ = None  # so that ndarray leaves operators to this class

    def __init__(self, array):
        self.array = array
        self.shape = tuple(array.shape)
        self.xp, _, self.device = get_namespace_and_device(array)
        is_double = array.dtype == self.xp.float64
        self.dtype = np.dtype(np.float64 if is_double else np.float32)
        self.itemsize = self.dtype.itemsize

    def __len__(self):
        return self.shape[0]

    def __array__(self, dtype=None, copy=None):
        return np.asarray(to_host(self.array), dtype=dtype)

    def _type(self, dtype):
        """Find the device's name for float64 or float32; it may lack the former."""
        if dtype == np.float64:
            return max_precision_float_dtype(self.xp, self.device)
        return self.xp.float32

    def astype(self, dtype):
        """Convert, without a copy where nothing changes."""
        return DeviceArray(self.xp.astype(self.array, self._type(dtype), copy=False))

    def __getitem__(self, rows):
        if isinstance(rows, slice):
            block = self.array[slice(*rows.indices(len(self))), :]
        else:
            rows = self.xp.asarray(rows, device=self.device)
            block = self.xp.take(self.array, rows, axis=0)
        return DeviceArray(block).astype(self.dtype)

    @property
    def T(self):  # noqa: N802
        """The transposed array."""
        return DeviceArray(self.array.T)

    def _operands(self, other):
        """Bring this array and another, or a number, to the device and one type."""
        on_device = isinstance(other, DeviceArray)
        dtype = self._type(np.result_type(self.dtype, other.dtype))
        array = other.array if on_device else self.xp.asarray(other, device=self.device)
        return (self.xp.astype(a, dtype, copy=False) for a in (self.array, array))

    def __matmul__(self, other):
        left, right = self._operands(other)
        product = left @ right
        return (
            DeviceArray(product) if isinstance(other, DeviceArray) else to_host(product)
        )

    def __rmatmul__(self, other):
        right, left = self._operands(other)
        return to_host(left @ right)

    def __add__(self, other):
        left, right = self._operands(other)
        return DeviceArray(left + right)

    __radd__ = __add__

    def __sub__(self, other):
        left, right = self._operands(other)
        return DeviceArray(left - right)

    def __mul__(self, other):
        left, right = self._operands(other)
        return DeviceArray(left * right)

    def sum(self, axis, dtype):
        """Sum along an axis, as numpy."""
        total = self.xp.sum(self.array, axis=axis, dtype=self._type(dtype))
        return to_host(total).astype(dtype, copy=False)

    def is_finite(self):
        """Tell whether all numbers are finite."""
        return bool(self.xp.all(self.xp.isfinite(self.array)))

    def centered(self, offsets, weight):
        """Subtract the (weighted) mean inside each segment."""
        sizes = np.diff(offsets)
        weight = np.ones(offsets[-1]) if weight is None else weight
        rows, parts = [], []
        for size in np.unique(sizes):  # segments of one size are one array
            of_size = offsets[:-1][sizes == size][:, None] + np.arange(size)
            shape = (*of_size.shape, self.shape[1])
            part = self.xp.reshape(self[of_size.reshape(-1)].array, shape)
            share = weight[of_size] / weight[of_size].sum(axis=1, keepdims=True)
            share = self.xp.asarray(
                share[:, None].astype(self.dtype), device=self.device
            )
            parts.append(self.xp.reshape(part - share @ part, (-1, self.shape[1])))
            rows.append(of_size.reshape(-1))
        back = np.argsort(np.concatenate(rows))
        return DeviceArray(self.xp.concat(parts))[back]


def concatenate(arrays):
    """Join arrays along their first axis, all of numpy or all on a device."""
    if isinstance(arrays[0], np.ndarray):
        return np.concatenate(arrays)
    return DeviceArray(arrays[0].xp.concat([array.array for array in arrays]))
