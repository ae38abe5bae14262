"""Array API input: X may be a tensor on a device, such as a GPU.

Only X is large. X and its blocks stay on the device. Products with X, which have one
number per row or per feature, are moved to the host, where layouts, losses and solvers
use numpy. Only this module calls other array libraries.
"""

import numpy as np
from sklearn import get_config

from skqprobe._arrays.blas import add_symmetric_product
from skqprobe._utils.sklearn_compat import (
    ARRAY_API_SUPPORT,
    get_namespace_and_device,
    max_precision_float_dtype,
    move_to,
)


def is_device_array(values):
    """Check for an array of another library, with ``array_api_dispatch`` switched on.

    With this switch of scikit-learn off, such arrays are converted to numpy like any
    array-like.
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
    """Find the module of array functions for X, with the names of the standard."""
    return get_namespace_and_device(X)[0] if is_device_array(X) else np


def float_dtypes(X):
    """List the floating-point types that X may have without a conversion."""
    xp = namespace(X)
    names = ("float64", "float32", "float16", "bfloat16")
    return [getattr(xp, name) for name in names if hasattr(xp, name)]


def check_container(values, name):
    """Raise for containers that a conversion to numpy reads by accident.

    Returns
    -------
    values : array-like
        The same values, without gradients. With ``array_api_dispatch`` off, a tensor
        becomes a numpy array of its type, or of float32 for bfloat16, which numpy
        lacks. Tensors in a list always do.
    """
    if isinstance(values, (list, tuple)):
        if not _holds_arrays(values):
            return values
        return [to_host(value, f"{name}[{i}]") for i, value in enumerate(values)]
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise ValueError(
            f"{name} is a masked array, whose mask would be lost. Leave out the masked "
            "candidates, as rows with groups, and pass an array without a mask."
        )
    if hasattr(values, "__dask_graph__"):
        raise ValueError(
            f"{name} is a Dask collection, which would be loaded as a whole. Pass "
            f"{name}.compute(), or a memory-mapped array, which is read in blocks."
        )
    if hasattr(values, "detach"):
        values = values.detach()
    is_foreign = hasattr(values, "__dlpack__") and not isinstance(values, np.ndarray)
    if not is_foreign or np.isscalar(values) or is_device_array(values):
        return values
    return np.asarray(_widen(values))


def _holds_arrays(values):
    """Check for arrays in a list, which may be nested."""
    return any(
        _holds_arrays(value)
        if isinstance(value, (list, tuple))
        else hasattr(value, "__dlpack__") or hasattr(value, "__dask_graph__")
        for value in values
    )


def _widen(values):
    """Convert a tensor of bfloat16 to float32."""
    return values.float() if str(values.dtype) == "torch.bfloat16" else values


def to_host(values, name="an argument"):
    """Convert an array of another library to numpy; return other values unchanged."""
    values = check_container(values, name)
    if not is_device_array(values):
        return values
    values = _widen(values)
    values = move_to(values, xp=np, device="cpu")
    return values if values.flags.writeable else values.copy()


def detach(values):
    """Convert a tensor of torch, of any device and type, to numpy; bfloat16 to float32.

    Other values are returned unchanged.
    """
    if not hasattr(values, "detach"):
        return values
    return _widen(values.detach().cpu()).numpy()


def to_namespace_of(X, values):
    """Move numpy values to the library and device of X, an array or a DeviceArray."""
    X = X.array if isinstance(X, DeviceArray) else X
    if not is_device_array(X):
        return values
    xp, _, device = get_namespace_and_device(X)
    return move_to(values, xp=xp, device=device)


class DeviceArray:
    """Two-dimensional array on a device, with a minimal ndarray interface.

    A matrix product with a numpy array is a numpy array. All other results, such as the
    product of two arrays of this class, stay on the device until `np.asarray`.

    Parameters
    ----------
    array : array of shape (n, m)
        Array of a real floating-point type, of a library that follows the array API
        standard.

    Attributes
    ----------
    dtype : numpy.dtype
        Type of blocks and products: float64 for that, float32 for all smaller types.
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
        """Find the type of the device for float64, which it may lack, or float32."""
        if dtype == np.float64:
            return max_precision_float_dtype(self.xp, self.device)
        return self.xp.float32

    def astype(self, dtype, copy=False):
        """Convert to float64 or float32, with a copy only if the type changes."""
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
        """Bring this array and another to the device and to their common type."""
        on_device = isinstance(other, DeviceArray)
        dtype = self._type(np.result_type(self.dtype, other.dtype))
        array = other.array if on_device else self.xp.asarray(other, device=self.device)
        return (self.xp.astype(a, dtype, copy=False) for a in (self.array, array))

    def __matmul__(self, other):
        left, right = self._operands(other)
        product = left @ right
        stays = isinstance(other, DeviceArray)
        return DeviceArray(product) if stays else to_host(product)

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
        """Sum along an axis into a numpy array of `dtype`."""
        total = self.xp.sum(self.array, axis=axis, dtype=self._type(dtype))
        return to_host(total).astype(dtype, copy=False)

    def is_finite(self):
        """Check that all numbers are finite."""
        return bool(self.xp.all(self.xp.isfinite(self.array)))

    def centered(self, offsets, weight):
        """Subtract the (weighted) mean inside each segment."""
        sizes = np.diff(offsets)
        weight = np.ones(offsets[-1]) if weight is None else weight
        rows, parts = [], []
        for size in np.unique(sizes):  # segments of equal size are one array
            of_size = offsets[:-1][sizes == size][:, None] + np.arange(size)
            shape = (*of_size.shape, self.shape[1])
            part = self.xp.reshape(self[of_size.reshape(-1)].array, shape)
            share = weight[of_size] / weight[of_size].sum(axis=1, keepdims=True)
            share = share[:, None].astype(self.dtype)
            mean = self.xp.asarray(share, device=self.device) @ part
            parts.append(self.xp.reshape(part - mean, (-1, self.shape[1])))
            rows.append(of_size.reshape(-1))
        back = np.argsort(np.concatenate(rows))
        return DeviceArray(self.xp.concat(parts))[back]


def concatenate(arrays):
    """Join arrays along the first axis, all of numpy or all on a device."""
    if len(arrays) == 1:
        return arrays[0]
    if isinstance(arrays[0], np.ndarray):
        return np.concatenate(arrays)
    return DeviceArray(arrays[0].xp.concat([array.array for array in arrays]))


def add_gram(gram, X, weight=None):
    """Add X' diag(weight) X to the lower triangle of `gram`, in Fortran order.

    In place and with half the operations of a full product. For X on a device, the sum
    moves to the device. Both have the dtype of X.
    """
    is_equal = weight is None or (isinstance(X, np.ndarray) and np.ptp(weight) == 0)
    if not is_equal:
        X = X * np.sqrt(weight).astype(X.dtype)[:, None]
    if isinstance(X, DeviceArray):
        return gram + X.T @ X
    if len(X):
        factor = weight[0] if is_equal and weight is not None else 1.0
        add_symmetric_product(gram, X, factor)
    return gram
