"""Validation of X, and of numbers and weights of candidates, in either layout."""

from collections.abc import Mapping
from contextlib import contextmanager
from numbers import Real

import numpy as np
from sklearn import get_config
from sklearn.utils import assert_all_finite, check_array, column_or_1d
from sklearn.utils.validation import validate_data

from skqprobe._arrays.blocks import BlockReader, is_finite, row_blocks
from skqprobe._arrays.device import (
    DeviceArray,
    check_container,
    float_dtypes,
    namespace,
    to_host,
)
from skqprobe._arrays.magnitude import SMALLEST, check_magnitude, largest_magnitude
from skqprobe._arrays.named_rewards import NamedRewards, stack_rewards
from skqprobe._candidates.layout import check_layout
from skqprobe._candidates.segments import segment_sum
from skqprobe._utils.sklearn_compat import check_n_features, column_names
from skqprobe._utils.warn import warn_user

SEVERAL = (
    " If the last axis has several objectives, pass one of them, {name}[..., 0], or a "
    "weighted sum, {name} @ weights."
)

NO_WEIGHT = "sample_weight is zero everywhere; nothing is left to use."

NO_KNOWN_WEIGHT = (
    "No candidate has a reward and a sample_weight above 0; nothing is left to use."
)


def no_groups(name="X"):
    """Make the message about rows without groups, in an argument of this name."""
    how = (
        "In a Pipeline, a search or cross-validation, groups reach this estimator only "
        "after sklearn.set_config(enable_metadata_routing=True)."
    )
    if get_config()["enable_metadata_routing"]:
        how = "cross_validate takes them as params={'groups': groups}."
    return (
        f"{name} has rows but no groups were given, so every row is a prompt of its "
        "own and there is nothing to choose from. Pass groups, one prompt label per "
        f"row. {how} The predict of a search takes none: call "
        "search.best_estimator_.predict(X, groups=groups). Before scikit-learn 1.8, a "
        "search over a Pipeline scores with groups only if "
        "scoring=sklearn.metrics.check_scoring(QProbePolicy())."
    )


@contextmanager
def explain_texts():
    """Name the embedders in an error about texts that are not numbers."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if not str(error).startswith(("could not convert string", "float() argument")):
            raise
        raise type(error)(
            f"{error}. If X holds texts, embed them first, with an embedder of "
            "skqprobe.embedders as the first step of a Pipeline."
        ) from error


def check_candidates(estimator, X, *, reset):
    """Validate X in either layout, except that it is finite.

    A caller checks this as it reads X, with `raise_unless_finite` or `check_limits`.

    Parameters
    ----------
    estimator : estimator
        Estimator that has, or gets, `n_features_in_` and `feature_names_in_`.
    X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
        Embeddings of (prompt, completion) pairs, as sets or rows.
    reset : bool
        Whether to set these attributes from X. Otherwise, X must agree with them.

    Returns
    -------
    X : ndarray of shape (n_rows, n_features), of dtype float16, float32 or float64
        Embeddings in user order: not a copy if X was such an array in C order. A
        DeviceArray if X is of another library and ``array_api_dispatch`` is on.
    shape : tuple of int
        Leading shape of X.

    Raises
    ------
    ValueError
        If X is malformed.
    """
    X = check_container(X, "X")
    if not hasattr(X, "shape"):
        X = list_to_array(X)
    shape = tuple(X.shape[:-1])
    if len(X.shape) == 3:
        if 0 in shape:
            raise ValueError(
                f"X has {shape[0]} prompts with {shape[1]} candidates each; pass at "
                "least one prompt, with at least one candidate."
            )
        xp = namespace(X)
        X = xp.reshape(xp.asarray(X), (shape[0] * shape[1], X.shape[2]))
    elif len(X.shape) > 3:
        raise ValueError(
            f"X has {len(X.shape)} dimensions; candidate sets have 3, (n_prompts, k, "
            "n_features), and rows have 2, (n_rows, n_features)."
        )
    if not reset and _is_ready(X) and not hasattr(estimator, "feature_names_in_"):
        check_n_features(estimator, X, reset=False)
        return X, shape
    with explain_texts():
        X = validate_data(
            estimator, X, reset=reset, dtype=float_dtypes(X), ensure_all_finite=False
        )
    return X if isinstance(X, np.ndarray) else DeviceArray(X), shape


def _is_ready(X):
    """Whether `validate_data`, half of the time of a small `predict`, has no effect."""
    is_rows = type(X) is np.ndarray and X.ndim == 2 and X.size > 0
    return is_rows and X.dtype in (np.float64, np.float32, np.float16)


def raise_unless_finite(X, shape):
    """Raise unless X, of this leading shape, is finite.

    Blocks bound the size of the temporary arrays of the check.
    """
    reader = BlockReader(X)
    for rows in row_blocks(X):
        block = reader.raw(rows)
        if is_finite(block):
            continue
        block = np.asarray(block)
        if not np.isfinite(block).all():
            row, column = np.argwhere(~np.isfinite(block))[0]
            index = (*np.unravel_index(rows.start + row, shape), column)
            _raise_not_finite(
                block,
                "X",
                index,
                "Typical causes are an embedding that failed, or exceeded 65504 in "
                "float16. Embed the candidate again, or leave it out.",
            )


def _raise_not_finite(values, name, index, hint):
    """Raise scikit-learn's error for numbers of which some are NaN or infinite."""
    try:
        with np.errstate(invalid="ignore"):  # in sums of very large numbers
            assert_all_finite(values, input_name=name)
    except ValueError as error:
        position = f"{name}[{', '.join(map(str, index))}]"
        raise ValueError(f"{error} The first is {position}. {hint}") from None


def check_limits(X, shape, low, high, hint=""):
    """Raise unless X is finite and its largest magnitude is within limits.

    X is read once. See `raise_unless_finite` and `check_magnitude`.
    """
    magnitude = largest_magnitude(X)
    if not np.isfinite(magnitude):
        raise_unless_finite(X, shape)
    check_magnitude(np.float64(magnitude), "X", low, high, hint)


def list_to_array(X, name="X", rows="(n_rows, n_features)"):
    """Convert a list to an array.

    Parameters
    ----------
    X : array-like
        List of numbers for candidates.
    name : str, default="X"
        Name of the list in errors.
    rows : str, default="(n_rows, n_features)"
        Shape of the rows layout in errors.

    Returns
    -------
    X : ndarray

    Raises
    ------
    ValueError
        If the list is ragged.
    """
    X = check_container(X, name)
    try:
        return np.asarray(X)
    except ValueError as error:
        raise ValueError(
            f"{name} could not be made an array. Candidate sets need the same number "
            f"of candidates for every prompt. If it differs, pass rows, {name} of "
            f"shape {rows}, with groups, one label per row."
        ) from error


def check_values(values, shape, name, allow_nan=False):
    """Validate rewards or other numbers, one per candidate.

    Parameters
    ----------
    values : array-like of shape (n_prompts, k) or (n_rows,)
        Numbers in user order.
    shape : tuple of int
        Leading shape of X.
    name : str
        Name of the numbers in errors.
    allow_nan : bool, default=False
        Whether numbers may be missing: NaN, None or NA, which become NaN.

    Returns
    -------
    values : ndarray of float64, of this shape

    Raises
    ------
    ValueError
        If the numbers are not finite, or of another shape.
    """
    values = to_host(values, name)
    if len(shape) == 1 and np.shape(values)[1:] == (1,):
        values = column_or_1d(values, warn=True)
    if np.ndim(values) != len(shape):
        _raise_unless_real(np.asarray(values), name)
        raise ValueError(f"{wrong_shape(name, np.shape(values), shape)}.")
    values = check_numbers(
        values,
        name,
        "Leave the row out."
        if len(shape) == 1
        else "Leave the candidate out, as rows with groups.",
        allow_nan,
    )
    if values.shape != shape:
        raise ValueError(f"{wrong_shape(name, values.shape, shape)}.")
    return values


def wrong_shape(name, found, shape):
    """Make the message about an argument that does not fit the candidates of X."""
    counted = "{} rows" if len(shape) == 1 else "{} sets of {} candidates"
    return (
        f"{name} has shape {found}, but X holds {counted.format(*shape)}; it must have "
        f"shape {shape}"
    )


def check_rewards(y, shape, allow_nan=False):
    """Validate rewards.

    Parameters
    ----------
    y : array-like of shape (n_prompts, k) or (n_rows,), or with a last axis of \
            objectives
        Rewards in user order. Each may also be a dict of named rewards.
    shape : tuple of int
        Leading shape of X.
    allow_nan : bool, default=False
        Whether rewards may be missing: NaN, None or NA, which become NaN.

    Returns
    -------
    rewards : ndarray of float64, of this shape, or (*shape, n_objectives)
    names : ndarray of str, of shape (n_objectives,), or None
        Names of the objectives, if `y` has them.

    Raises
    ------
    ValueError
        If the rewards are not finite, or of another shape.
    """
    y = unpack_rewards(y)
    if len(y.shape) <= len(shape):
        return check_values(y, shape, "y", allow_nan), None
    names = names_of_objectives(y)
    if tuple(y.shape[:-1]) != shape or y.shape[-1] == 0:
        expected = ", ".join(map(str, shape))
        raise ValueError(
            f"{wrong_shape('y', tuple(y.shape), shape)}, or ({expected}, n_objectives) "
            "with at least one objective."
        )
    hint = "Leave the candidate out, as rows."
    y = check_numbers(y, "y", hint, allow_nan)
    return y, None if names is None else np.asarray(names, dtype=object)


def unpack_rewards(y):
    """Convert rewards to an array or a data frame, with an axis for those of dicts."""
    y = to_host(y, "y")
    if not hasattr(y, "shape"):
        y = list_to_array(y, "y", "(n_rows,) or (n_rows, n_objectives)")
    if not _holds_dicts(y):
        return y
    try:
        return stack_rewards(np.ravel(y).tolist()).reshape(*np.shape(y), -1)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "y holds dicts, of which each must have a number for every objective: "
            f"{error}."
        ) from None


def order_as_fitted(rewards, names, probe):
    """Bring the last axis of named rewards into the order of `objective_names_`.

    Without names of the rewards, or of the rewards of fit, they are in this order.

    Raises
    ------
    ValueError
        If the names are not those of fit.
    """
    fitted = getattr(probe, "objective_names_", None)
    if names is None or fitted is None or list(names) == list(fitted):
        return rewards
    if sorted(names) != sorted(fitted):
        raise ValueError(
            f"y has the objectives {list(names)}, but {type(probe).__name__} was "
            f"fitted to {list(fitted)}."
        )
    return rewards[..., [list(names).index(name) for name in fitted]]


def names_of_objectives(y):
    """Find the names of named rewards, or of the columns of a data frame."""
    if isinstance(y, NamedRewards):
        return y.objective_names
    try:
        return column_names(y)
    except TypeError:
        types = sorted({type(name).__name__ for name in y.columns})
        raise TypeError(
            "The column names of y must all be strings, as names of the objectives, or "
            f"none of them; their types are {types}."
        ) from None


def _holds_dicts(y):
    """Check for an array of named rewards."""
    if getattr(getattr(y, "dtype", None), "kind", "") != "O":
        return False
    first = next((reward for reward in np.ravel(y) if reward is not None), None)
    return isinstance(first, Mapping)


def check_numbers(values, name, hint, allow_nan=False):
    """Convert finite numbers of any shape to float64; with `allow_nan`, also NaN."""
    _raise_unless_real(np.asarray(values), name)
    if np.asarray(values).dtype.kind == "O":  # numpy does not convert NA of pandas
        values = np.array(values)
        for i, each in enumerate(values.flat):
            if type(each).__name__ == "NAType":
                values.flat[i] = np.nan
    values = check_array(
        values,
        ensure_2d=False,
        allow_nd=True,
        dtype=np.float64,
        ensure_all_finite=False,
        input_name=name,
    )
    finite = np.isfinite(values)
    if allow_nan:
        finite |= np.isnan(values)
    if not finite.all():
        _raise_not_finite(values, name, np.argwhere(~finite)[0], hint)
    return values


def _raise_unless_real(values, name):
    """Raise for texts and times, which numpy would convert, and complex numbers."""
    if values.dtype.kind in "mM":
        raise ValueError(f"{name} must hold real numbers; got {values.dtype}.")
    for entry in values.ravel().tolist() if values.dtype.kind in "OSU" else ():
        if isinstance(entry, (str, bytes, complex, np.complexfloating)):
            raise ValueError(f"{name} must hold real numbers; got {entry!r}.")


def check_scored(values, groups, name, allow_nan=False):
    """Validate numbers of candidates without X, and make their layout.

    Parameters
    ----------
    values : array-like of shape (n_prompts, k) or (n_rows,)
        One number per candidate.
    groups : array-like of shape (n_rows,) or None
        Prompt labels of the rows: hashable values in any order. Not needed for sets.
    name : str
        Name of the numbers in errors.
    allow_nan : bool, default=False
        Whether numbers may be missing: NaN, None or NA, which become NaN.

    Returns
    -------
    values : ndarray of float64, of shape (n_rows,)
        Numbers in prompt order.
    layout : Layout
        Layout of the candidates.

    Raises
    ------
    ValueError
        If `values` or `groups` are malformed.
    """
    if not hasattr(values, "shape"):
        values = list_to_array(values, name, "(n_rows,)")
    if len(values.shape) not in (1, 2):
        several = len(values.shape) == 3
        raise ValueError(
            f"{name} must have shape (n_prompts, k) or (n_rows,); got {values.shape}."
            f"{SEVERAL.format(name=name) if several else ''}"
        )
    layout = check_layout(tuple(values.shape), groups)
    values = check_values(values, layout.shape, name, allow_nan)
    return layout.to_prompt_order(values), layout


def check_weights(sample_weight, layout, is_part=False):
    """Validate sample weights, and separate weights of prompts and of candidates.

    Parameters
    ----------
    sample_weight : float, array-like or None
        Non-negative number of copies of each candidate, of shape (n_prompts, k), or
        (n_rows,) with groups; or of each prompt, of shape (n_prompts,), or (n_rows,)
        without groups. A number is the weight of every prompt or row.
    layout : Layout
        Layout of the candidates.
    is_part : bool, default=False
        Whether all weights may be 0, since others may not be.

    Returns
    -------
    prompt_weight : ndarray of shape (n_prompts,)
        Number of copies of each prompt.
    candidate_weight : ndarray in user order, or None
        Number of copies of each candidate; None if the weights are of prompts.

    Raises
    ------
    ValueError
        If weights are of another shape, negative, not finite, of extreme magnitude, or
        all 0.
    """
    ones = np.ones(layout.n_prompts)
    if sample_weight is None:
        return ones, None
    if isinstance(sample_weight, Real):
        sample_weight = np.full(layout.shape[:1], sample_weight)
    weight = to_host(sample_weight, "sample_weight")
    hint = "A weight of 0 leaves a prompt or candidate out."
    weight = check_numbers(weight, "sample_weight", hint)
    by_prompt = not layout.grouped or weight.ndim < len(layout.shape)
    expected = layout.shape[:1] if by_prompt else layout.shape
    if weight.shape != expected:
        allowed = sorted({layout.shape[:1], layout.shape})
        raise ValueError(
            f"sample_weight has shape {weight.shape}; it must have shape "
            f"{' or '.join(map(str, allowed))}."
        )
    if (weight < 0).any():
        raise ValueError(
            "sample_weight has negative values; a weight is a number of copies, and "
            "must be 0 or more."
        )
    if not (weight.any() or is_part):
        raise ValueError(NO_WEIGHT)
    check_magnitude(weight, "sample_weight", 0.0 if is_part else SMALLEST)
    return (weight, None) if by_prompt else (ones, weight)


def check_proba(proba, groups):
    """Validate choice probabilities.

    Parameters
    ----------
    proba : array-like of shape (n_prompts, k) or (n_rows,)
        Choice probabilities.
    groups : array-like of shape (n_rows,) or None
        Prompt labels of the rows: hashable values in any order. Not needed for sets.

    Returns
    -------
    proba : ndarray of float64, of shape (n_rows,)
        Probabilities in prompt order.
    layout : Layout
        Layout of the candidates.

    Raises
    ------
    ValueError
        If probabilities are negative, not finite, or do not sum to 1 inside a prompt.
    """
    proba, layout = check_scored(proba, groups, "proba")
    check_sums_to_one(proba, layout)
    return proba, layout


def check_sums_to_one(proba, layout):
    """Raise unless probabilities in prompt order sum to 1 per prompt, up to 1e-3."""
    total = segment_sum(proba, layout.offsets)
    if (proba < 0).any() or (abs(total - 1) > 1e-3).any():
        raise ValueError(
            "proba must be non-negative and sum to 1 inside each prompt; the lowest is "
            f"{proba.min():.3g}, and the sums range from {total.min():.3g} to "
            f"{total.max():.3g}."
        )


def warn_without_groups(layout):
    """Warn if all prompts have one candidate because rows have no groups."""
    if not layout.grouped and layout.n_rows > 1:
        warn_user(no_groups())


def warn_if_thinned(policy, now):
    """Warn if a tool sampled rows for the fit of a policy, instead of prompts.

    `now` is the mean number of candidates of the prompts that it is scored on.
    """
    before = getattr(policy, "_mean_group_size_", np.inf)
    if 2 * before < now:
        warn_user(
            f"The policy was trained on {before:.1f} candidates per prompt, and is "
            f"scored on {now:.1f}. learning_curve and other tools that sample rows "
            "leave few candidates of each prompt. Pass sets, of which they sample "
            "prompts."
        )
