import numpy as np
import pytest
from numpy.testing import assert_allclose

from skqprobe._arrays import blas

LAYOUTS = {
    "rows": lambda X: X,
    "every other row": lambda X: np.repeat(X, 2, axis=0)[::2],
    "some columns": lambda X: np.hstack((X, X))[:, : X.shape[1]],
    "every other column": lambda X: np.repeat(X, 2, axis=1)[:, ::2],
    "reversed": lambda X: X[::-1].copy()[::-1],
    "Fortran order": np.asfortranarray,
}


@pytest.mark.parametrize("has_syrk", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_symmetric_product(rng, monkeypatch, dtype, layout, has_syrk):
    if has_syrk:
        assert blas._syrk("s") is not None
    else:  # as with another version of scipy
        monkeypatch.setattr(blas, "_syrk", lambda char: None)
    X = LAYOUTS[layout](rng.normal(size=(7, 5)).astype(dtype))
    gram = np.asfortranarray(np.eye(5, dtype=dtype))
    blas.add_symmetric_product(gram, X, 2.0)
    expected = np.eye(5) + 2 * X.astype(np.float64).T @ X
    assert_allclose(np.tril(gram), np.tril(expected), rtol=1e-5, atol=1e-5)
    assert (np.triu(gram, 1) == 0).all()
