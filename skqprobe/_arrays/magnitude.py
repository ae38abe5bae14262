"""Errors for numbers that are too large or too small to compute with."""

from contextlib import contextmanager

import numpy as np

from skqprobe._arrays.blocks import BlockReader, row_blocks

SMALLEST, LARGEST = 1e-150, 1e150
"""Minimum and maximum magnitude of which squares, and sums of squares, fit in
float64."""

SMALLEST_SINGLE, LARGEST_SINGLE = 1e-32, 1e32
"""Minimum and maximum magnitude of rewards if coefficients are float32, of which the
largest number is near 1e38."""


def check_magnitude(values, name, low=0.0, high=LARGEST, hint=""):
    """Raise if numbers are too large or too small to compute with.

    Parameters
    ----------
    values : ndarray
        Finite numbers. They are valid if all are 0.
    name : str
        Name of the numbers in errors.
    low, high : float, default=0.0, 1e150
        Minimum and maximum of the largest magnitude.
    hint : str, default=""
        Alternative to a rescaling of the numbers.

    Raises
    ------
    ValueError
        If the largest magnitude is not 0 and not between `low` and `high`.
    """
    magnitude = largest_magnitude(values)
    if magnitude == 0 or low <= magnitude <= high:
        return
    raise ValueError(
        f"{name} has numbers of up to {magnitude:.3g} in magnitude, too "
        f"{'small' if magnitude < low else 'large'} to compute with: the largest must "
        f"be between {low:g} and {high:g}. Rescale {name}{hint}."
    )


TOO_DIFFERENT = (
    "The coefficients cannot be computed, or not be stored in the type of X: the "
    "magnitudes of the columns of X, of y and of alpha differ too much. Scale X, as "
    "StandardScaler does; rescale y if it is far from 1; or pass X in float64."
)


@contextmanager
def raise_on_overflow():
    """Raise an error with advice if numpy overflows in training.

    Raises
    ------
    ValueError
        If an operation overflows, which is a warning in numpy by default.
    """
    try:
        with np.errstate(over="raise"):
            yield
    except FloatingPointError as error:
        raise ValueError(TOO_DIFFERENT) from error


def downcast(values, dtype):
    """Convert parameters, computed in float64, to the type in which they are stored.

    Parameters
    ----------
    values : ndarray of float64
        Coefficients, weights or biases.
    dtype : dtype
        Type float32 or float64.

    Returns
    -------
    values : ndarray
        The same values in `dtype`.

    Raises
    ------
    ValueError
        If values are not finite in `dtype`, or all of them become 0.
    """
    with np.errstate(over="ignore"):
        narrowed = values.astype(dtype)
    if np.isfinite(narrowed).all() and narrowed.any() == values.any():
        return narrowed
    raise ValueError(TOO_DIFFERENT)


def check_scores(scores, X):
    """Raise if the values that a probe assigns to a finite X are not finite.

    Parameters
    ----------
    scores : ndarray of shape (n_rows,)
        Values of the probe.
    X : ndarray of shape (n_rows, d)
        Finite embeddings.

    Raises
    ------
    ValueError
        If a value is not finite. The message has the largest magnitude in X.
    """
    if not np.isfinite(scores).all():
        raise ValueError(
            f"X has numbers of up to {largest_magnitude(X):.3g} in magnitude, for "
            f"which the probe's values overflow {scores.dtype}. Scale X as in training."
        )


def largest_magnitude(values):
    """Find the largest magnitude, or NaN; a matrix is read in blocks."""
    if len(values.shape) != 2 or 0 in values.shape:
        return float(np.max(abs(values), initial=0))
    read = BlockReader(values)
    blocks = (np.asarray(read.raw(rows)) for rows in row_blocks(values))
    return float(np.max([np.maximum(block.max(), -block.min()) for block in blocks]))
