"""Numbers too large or too small to compute with: errors that name them."""

from contextlib import contextmanager

import numpy as np

from skqprobe._arrays.blocks import BlockReader, row_blocks

SMALLEST, LARGEST = 1e-150, 1e150
"""Sizes between which squares, and sums of them, stay inside of float64."""

SMALLEST_SINGLE, LARGEST_SINGLE = 1e-32, 1e32
"""The same for rewards where coefficients are float32, which ends near 1e38."""


def check_magnitude(values, name, low=0.0, high=LARGEST, hint=""):
    """Raise if numbers are so large or so small that computing with them fails.

    Parameters
    ----------
    values : ndarray
        Finite numbers. All may be 0; else the largest in size counts.
    name : str
        How to call them in errors.
    low, high : float, default=0.0, 1e150
        The sizes between which the largest must lie.
    hint : str, default=""
        What to do, other than to rescale them.

    Raises
    ------
    ValueError
        Naming the numbers, their size and the limits.
    """
    size = _size(values)
    if size == 0 or low <= size <= high:
        return
    raise ValueError(
        f"{name} has numbers of up to {size:.3g} in size, too "
        f"{'small' if size < low else 'large'} to compute with: the largest must be "
        f"between {low:g} and {high:g}. Rescale {name}{hint}."
    )


def check_training_magnitudes(X, rewards):
    """Raise if X or the rewards are too large or too small to train with.

    Parameters
    ----------
    X : ndarray or DeviceArray of shape (n_rows, d)
        Finite. Only a float64 array of numpy is read: squares of smaller types cannot
        leave float64.
    rewards : ndarray of float64
        Finite.
    """
    if X.dtype == np.float64:
        if isinstance(X, np.ndarray):
            check_magnitude(X, "X", SMALLEST)
        check_magnitude(rewards, "y", SMALLEST)
    else:
        hint = f", or give X in float64: it is {X.dtype}"
        check_magnitude(rewards, "y", SMALLEST_SINGLE, LARGEST_SINGLE, hint)


TOO_DIFFERENT = (
    "The coefficients cannot be computed, or not be held in the type of X: the columns "
    "of X, y and alpha are of too different sizes. Scale X, as StandardScaler does; "
    "rescale y, if it is far from 1; or give X in float64."
)


@contextmanager
def raise_on_overflow():
    """Turn an overflow while training into an error that says what to do.

    Raises
    ------
    ValueError
        Instead of a warning of numpy's.
    """
    try:
        with np.errstate(over="raise"):
            yield
    except FloatingPointError as error:
        raise ValueError(TOO_DIFFERENT) from error


def downcast(values, dtype):
    """Convert parameters that were computed in float64 to the type they are kept in.

    Parameters
    ----------
    values : ndarray of float64
        Coefficients, weights or biases.
    dtype : dtype
        float32 or float64.

    Returns
    -------
    values : ndarray

    Raises
    ------
    ValueError
        If they are not finite, or all of them vanish.
    """
    with np.errstate(over="ignore"):
        narrowed = values.astype(dtype)
    if np.isfinite(narrowed).all() and narrowed.any() == values.any():
        return narrowed
    raise ValueError(TOO_DIFFERENT)


def check_scores(scores, X):
    """Raise unless the scores of a finite X are finite.

    Parameters
    ----------
    scores : ndarray of shape (n_rows,)
        Probe values.
    X : ndarray of shape (n_rows, d)
        Finite.

    Raises
    ------
    ValueError
        With the size of X.
    """
    if not np.isfinite(scores).all():
        raise ValueError(
            f"X has numbers of up to {_size(X):.3g} in size, with which the probe's "
            f"values overflow {scores.dtype}. Scale X as in training."
        )


def _size(values):
    """Size of the largest number; of a matrix, read block by block."""
    if len(values.shape) != 2 or 0 in values.shape:
        return float(abs(values).max(initial=0))
    read = BlockReader(values)
    blocks = (np.asarray(read.raw(rows)) for rows in row_blocks(values))
    return float(max(max(block.max(), -block.min()) for block in blocks))
