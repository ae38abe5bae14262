"""BLAS without the lock of the interpreter, which scipy's wrappers keep.

The functions are those that scipy gives to compiled code, called by ctypes.
"""

import ctypes
from functools import cache

import numpy as np
from scipy.linalg import cython_blas, get_blas_funcs

C_TYPES = {"s": ctypes.c_float, "d": ctypes.c_double}


@cache
def _syrk(char):
    """Find BLAS's syrk for a type, "s" or "d", whose ten arguments are pointers.

    None if a version of scipy has arguments of other types.
    """
    name = f"{char}syrk"
    api, capsule = ctypes.pythonapi, cython_blas.__pyx_capi__[name]
    api.PyCapsule_GetName.restype = ctypes.c_char_p
    api.PyCapsule_GetName.argtypes = [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    signature = api.PyCapsule_GetName(capsule)
    if signature.count(b" int *") != 4:
        return None
    pointer = api.PyCapsule_GetPointer(capsule, signature)
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 10)(pointer)


def add_symmetric_product(gram, X, factor=1.0):
    """Add ``factor * X' X`` to the lower triangle of `gram`, in place.

    Parameters
    ----------
    gram : ndarray of shape (d, d)
        Sum, in Fortran order.
    X : ndarray of shape (n_rows, d)
        Rows, of the dtype of `gram`, float32 or float64.
    factor : float, default=1.0
        Factor of the product.
    """
    char = X.dtype.char.replace("f", "s")
    if (syrk := _syrk(char)) is None:
        (syrk,) = get_blas_funcs(("syrk",), (X,))
        syrk(factor, X.T, beta=1.0, c=gram, overwrite_c=True, lower=True)
        return
    if X.strides[1] != X.itemsize or X.strides[0] < X.shape[1] * X.itemsize:
        X = np.ascontiguousarray(X)
    number, integer = C_TYPES[char], ctypes.c_int
    d, n_rows, row = map(integer, (X.shape[1], len(X), X.strides[0] // X.itemsize))
    syrk(
        b"L",
        b"N",
        ctypes.byref(d),
        ctypes.byref(n_rows),
        ctypes.byref(number(factor)),
        ctypes.c_void_p(X.ctypes.data),
        ctypes.byref(row),
        ctypes.byref(number(1.0)),
        ctypes.c_void_p(gram.ctypes.data),
        ctypes.byref(d),
    )
