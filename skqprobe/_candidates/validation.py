"""Validation of X, and of values and weights of candidates, in either layout."""

from numbers import Real

import numpy as np
from sklearn.utils import assert_all_finite, check_array, column_or_1d
from sklearn.utils.validation import validate_data

from skqprobe._arrays.blocks import BlockReader, is_finite, row_blocks
from skqprobe._arrays.device import DeviceArray, float_dtypes, namespace, to_host
from skqprobe._arrays.magnitude import SMALLEST, check_magnitude
from skqprobe._candidates.layout import check_layout
from skqprobe._candidates.segments import segment_sum
from skqprobe._utils.warn import warn_user

NO_GROUPS = (
    "X has rows but no groups were given, so every row is a prompt of its own and "
    "there is nothing to choose from. Pass groups, one label a row that says which "
    "prompt it answers. Inside a Pipeline, a search or cross-validation, groups reach "
    "this estimator only after sklearn.set_config(enable_metadata_routing=True); and "
    "a search over a Pipeline, before scikit-learn 1.8, scores with them only given "
    "scoring=sklearn.metrics.check_scoring(QProbePolicy())."
)


def check_candidates(estimator, X, *, reset, check_finite=True):
    """Validate X in either layout.

    Parameters
    ----------
    estimator : estimator
        Gets (`reset=True`) or is asked for `n_features_in_` and `feature_names_in_`.
    X : array-like of shape (n_prompts, k, d) or (n_rows, d)
        The embeddings.
    reset : bool
        Whether X defines the number of features or must agree with it.
    check_finite : bool, default=True
        Whether to raise where X is not finite, which reads all of it. Who reads it
        anyway may look at the results instead, and call `raise_unless_finite`.

    Returns
    -------
    X : ndarray of shape (n_rows, d), of dtype float16, float32 or float64
        Never a copy when X was such an array in C order. A DeviceArray if X is of
        another library and ``array_api_dispatch`` is on.
    shape : tuple of int
        The leading shape of X.
    """
    shape = None
    if not hasattr(X, "shape"):
        X = list_to_array(X)
    if len(X.shape) == 3:
        shape = tuple(X.shape[:2])
        if 0 in shape:
            raise ValueError(
                f"X has {shape[0]} prompts with {shape[1]} candidates each; at least "
                "one of both is needed."
            )
        xp = namespace(X)
        X = xp.reshape(xp.asarray(X), (shape[0] * shape[1], X.shape[2]))
    elif len(X.shape) > 3:
        raise ValueError(
            f"X has {len(X.shape)} dimensions; candidate sets have 3, (n_prompts, k, "
            "n_features), and rows have 2, (n_rows, n_features)."
        )
    X = validate_data(
        estimator,
        X,
        reset=reset,
        dtype=float_dtypes(X),
        ensure_all_finite=False,
    )
    shape = shape or (X.shape[0],)
    if not isinstance(X, np.ndarray):
        X = DeviceArray(X)
    if check_finite:
        raise_unless_finite(X, shape)
    return X, shape


def raise_unless_finite(X, shape):
    """Raise unless X is finite; in blocks, since the check may make arrays as large."""
    reader = BlockReader(X)
    for rows in row_blocks(X):
        block = reader.raw(rows)
        if is_finite(block):
            continue
        block = np.asarray(block)
        try:
            with np.errstate(invalid="ignore"):  # sums of very large numbers
                assert_all_finite(block, input_name="X")
        except ValueError as error:
            row, column = np.argwhere(~np.isfinite(block))[0]
            place = (*np.unravel_index(rows.start + row, shape), column)
            where = ", ".join(str(i) for i in place)
            raise ValueError(
                f"{error} The first is X[{where}]. An embedding that failed, or passed "
                f"65504 in float16, looks like this: embed it again, or leave that "
                f"candidate out."
            ) from None


def list_to_array(X, name="X", rows="(n_rows, n_features)"):
    """Make an array of a list, or say what to do with a ragged one."""
    try:
        return np.asarray(X)
    except ValueError as error:
        raise ValueError(
            f"{name} could not be made an array. Candidate sets need the same number "
            f"of candidates for every prompt; where it differs, give rows, {name} of "
            f"shape {rows}, with groups, one label a row."
        ) from error


def check_values(values, shape, name):
    """Validate rewards or other values that have one number a candidate.

    Parameters
    ----------
    values : array-like of shape (n_prompts, k) or (n_rows,)
        The values.
    shape : tuple of int
        The leading shape of X.
    name : str
        How to call the values in errors.

    Returns
    -------
    values : ndarray of float64, of that shape
    """
    values = to_host(values)
    if len(shape) == 1:
        values = column_or_1d(values, warn=True)
    with np.errstate(invalid="ignore"):  # sums of very large numbers
        values = check_array(
            values, ensure_2d=False, allow_nd=True, dtype=np.float64, input_name=name
        )
    if values.shape != shape:
        if len(shape) == 1:
            raise ValueError(
                f"{name} has {len(values)} values, but there are {shape[0]} rows; give "
                "one for each."
            )
        raise ValueError(
            f"{name} has shape {values.shape}, but X holds {shape[0]} sets of "
            f"{shape[1]} candidates; {name} must have shape {shape}."
        )
    return values


def check_scored(values, groups, name):
    """Validate values that come without X, and make their layout.

    Parameters
    ----------
    values : array-like of shape (n_prompts, k) or (n_rows,)
        One number a candidate.
    groups : array-like of shape (n_rows,) or None
        For rows: labels of the prompts.
    name : str
        How to call the values in errors.

    Returns
    -------
    values : ndarray of shape (n_rows,), of float64
        Prompt by prompt.
    layout : Layout
    """
    if not hasattr(values, "shape"):
        values = list_to_array(values, name, "(n_rows,)")
    if len(values.shape) not in (1, 2):
        raise ValueError(
            f"{name} must have shape (n_prompts, k) or (n_rows,); got {values.shape}."
        )
    layout = check_layout(tuple(values.shape), groups)
    return layout.to_prompt_order(check_values(values, layout.shape, name)), layout


def check_weights(sample_weight, layout):
    """Validate sample weights, and tell weights of prompts from those of candidates.

    Parameters
    ----------
    sample_weight : None, float or array-like
        For sets, of shape (n_prompts,) or (n_prompts, k); for rows, of shape (n_rows,).
    layout : Layout
        The layout of X.

    Returns
    -------
    prompt_weight : ndarray of shape (n_prompts,)
        How many copies of each prompt there are.
    candidate_weight : ndarray of the layout's shape, or None
        How many copies of each candidate there are in its prompt; None for one.
    """
    ones = np.ones(layout.n_prompts)
    if sample_weight is None:
        return ones, None
    by_prompt = not layout.grouped
    if isinstance(sample_weight, Real):
        sample_weight, by_prompt = np.full(layout.n_prompts, sample_weight), True
    weight = check_array(
        to_host(sample_weight),
        ensure_2d=False,
        allow_nd=True,
        dtype=np.float64,
        input_name="sample_weight",
    )
    by_prompt = by_prompt or weight.ndim < len(layout.shape)
    expected = layout.shape[:1] if by_prompt else layout.shape
    if weight.shape != expected:
        allowed = {layout.shape[:1], layout.shape}
        raise ValueError(
            f"sample_weight has shape {weight.shape}; it must have shape "
            f"{' or '.join(str(shape) for shape in sorted(allowed, key=len))}."
        )
    if (weight < 0).any():
        raise ValueError(
            "sample_weight has negative values; a weight counts copies and must be 0 "
            "or more."
        )
    if not weight.any():
        raise ValueError("sample_weight is zero everywhere; nothing is left to use.")
    check_magnitude(weight, "sample_weight", SMALLEST)
    return (weight, None) if by_prompt else (ones, weight)


def check_proba(proba, groups):
    """Validate choice probabilities.

    Returns
    -------
    proba : ndarray of shape (n_rows,), of float64
        Prompt by prompt.
    layout : Layout
    """
    rows, layout = check_scored(proba, groups, "proba")
    check_sums_to_one(rows, layout)
    return rows, layout


def check_sums_to_one(proba, layout):
    """Raise unless these are choice probabilities, prompt by prompt."""
    total = segment_sum(proba, layout.offsets)
    if (proba < 0).any() or (abs(total - 1) > 1e-3).any():
        raise ValueError(
            "proba must be non-negative and sum to 1 inside each prompt; the lowest is "
            f"{proba.min():.3g}, and the sums go from {total.min():.3g} to "
            f"{total.max():.3g}."
        )


def warn_without_groups(layout):
    """Warn that rows without groups leave nothing to choose."""
    if not layout.grouped and layout.n_rows > 1:
        warn_user(NO_GROUPS)
