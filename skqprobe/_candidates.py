"""The layouts: how prompts and their candidates lie in X, y, groups and weights.

This is the one module that knows them. *Sets* are an X of shape (n_prompts, k, d);
*rows* are an X of shape (n_rows, d) with a group label a row. Behind this module there
are only rows that lie prompt by prompt, and the offsets where each prompt begins.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real

import numpy as np
from sklearn.utils import assert_all_finite, check_array, column_or_1d
from sklearn.utils.validation import validate_data

from skqprobe._array_api import DeviceArray, float_dtypes, namespace, to_host
from skqprobe._blocks import BlockReader, is_finite, row_blocks
from skqprobe._segments import stable_order
from skqprobe._sizes import SMALLEST, check_size

NO_GROUPS = (
    "X has rows but no groups were given, so every row is a prompt of its own and "
    "there is nothing to choose from. Pass groups, one label a row that says which "
    "prompt it answers. Inside a Pipeline, a search or cross-validation, groups reach "
    "this estimator only after sklearn.set_config(enable_metadata_routing=True); and "
    "a search over a Pipeline, before scikit-learn 1.8, scores with them only given "
    "scoring=sklearn.metrics.check_scoring(QProbePolicy())."
)

LABELS_AT_ONCE = 2**14
"""How many labels are hashed or compared at a time: few enough to stay in cache."""


@dataclass(frozen=True)
class Layout:
    """Which rows belong to which prompt.

    Parameters
    ----------
    shape : tuple of int
        The leading shape of what the user gave: (n_prompts, k) for sets, (n_rows,) for
        rows.
    offsets : ndarray of shape (n_prompts + 1,)
        Prompt p has the rows ``offsets[p]`` to ``offsets[p + 1] - 1``, counted prompt
        by prompt.
    order : ndarray of shape (n_rows,) or None
        Where those rows lie in the user's (flattened) arrays; None when they lie there
        prompt by prompt already.
    grouped : bool
        False for rows without groups, where every row is a prompt of its own.
    """

    shape: tuple[int, ...]
    offsets: np.ndarray
    order: np.ndarray | None = None
    grouped: bool = True

    @cached_property
    def sizes(self):
        """Number of candidates by prompt."""
        return np.diff(self.offsets)

    @property
    def n_prompts(self):
        """Number of prompts."""
        return len(self.offsets) - 1

    @property
    def n_rows(self):
        """Number of candidates, over all prompts."""
        return self.offsets[-1]

    def to_rows(self, values):
        """Bring the user's values (in the leading shape) prompt by prompt."""
        values = values.reshape(-1)
        return values if self.order is None else values[self.order]

    def from_rows(self, values):
        """Bring values that lie prompt by prompt into the user's leading shape."""
        if self.order is not None:
            ordered, values = values, np.empty_like(values)
            values[self.order] = ordered
        return values.reshape(self.shape)

    def answer(self, rows):
        """Name chosen rows as the user counts: along axis 1 in sets, else in X.

        `rows` has prompts on axis 0.
        """
        if len(self.shape) == 2 or not self.grouped:
            starts = self.offsets[:-1]
            return rows - starts.reshape((-1,) + (1,) * (rows.ndim - 1))
        return rows if self.order is None else self.order[rows]

    def keep(self, mask):
        """Leave out the rows where mask is False, and prompts left without any."""
        order = np.arange(len(mask)) if self.order is None else self.order
        sizes = np.add.reduceat(mask, self.offsets[:-1], dtype=np.intp)
        return replace(self, order=order[mask], offsets=_offsets(sizes[sizes > 0]))

    def by_size(self):
        """Yield the prompts of each size, and their rows: (n_such_prompts, size)."""
        sizes, counts = np.unique(self.sizes, return_counts=True)
        of_size = np.split(stable_order(self.sizes), np.cumsum(counts)[:-1])
        for size, prompts in zip(sizes, of_size, strict=True):
            yield prompts, self.offsets[prompts][:, None] + np.arange(size)

    def split(self, n_candidates, random_state):
        """Deal each prompt's candidates into random sets of about equal size.

        Returns
        -------
        layout : Layout
            With one prompt a set, of at most `n_candidates` candidates each.
        n_sets : ndarray of shape (n_prompts,)
            In how many sets each prompt was dealt.
        """
        n_sets = -(-self.sizes // n_candidates)
        prompt = np.repeat(np.arange(self.n_prompts), self.sizes)
        shuffled = np.argsort(random_state.random_sample(self.n_rows), kind="stable")
        shuffled = shuffled[stable_order(prompt[shuffled])]
        rank = np.arange(self.n_rows) - np.repeat(self.offsets[:-1], self.sizes)
        first_set = np.concatenate(([0], np.cumsum(n_sets[:-1])))
        label = first_set[prompt] + rank % n_sets[prompt]
        dealt = shuffled[stable_order(label)]
        order = dealt if self.order is None else self.order[dealt]
        return (
            replace(self, order=order, offsets=_offsets(np.bincount(label))),
            n_sets,
        )


def _offsets(sizes):
    return np.concatenate(([0], np.cumsum(sizes))).astype(np.intp)


def check_layout(shape, groups=None):
    """Make the layout of arrays with this leading shape.

    Parameters
    ----------
    shape : tuple of int
        (n_prompts, k) or (n_rows,).
    groups : array-like of shape (n_rows,), or (n_prompts,) with sets, default=None
        Labels of the prompts, any hashable values, in any order. Sets know their
        prompts; groups are then only checked, so that a splitter may have them.

    Returns
    -------
    layout : Layout
        Prompts stand in the order of their first appearance.
    """
    if 0 in shape:
        raise ValueError(f"There are no candidates: the shape is {shape}.")
    if groups is not None:
        groups = _check_groups(groups, shape)
    if len(shape) == 2:
        n_prompts, k = shape
        return Layout(shape, np.arange(n_prompts + 1, dtype=np.intp) * k)
    if groups is None:
        return Layout(shape, np.arange(shape[0] + 1, dtype=np.intp), grouped=False)
    # Labels are compared once a run of equal ones: in most data a prompt is one run.
    starts = np.flatnonzero(np.concatenate(([True], groups[1:] != groups[:-1])))
    prompts = _encode(groups[starts])
    if prompts[-1] == len(prompts) - 1:
        return Layout(shape, np.append(starts, shape[0]))
    codes = np.repeat(prompts, np.diff(np.append(starts, shape[0])))
    return Layout(shape, _offsets(np.bincount(codes)), stable_order(codes))


def _check_groups(groups, shape):
    """Make a 1-D array of group labels that has the right length and no gaps."""
    groups = to_host(groups)
    if isinstance(groups, (str, bytes)) or not hasattr(groups, "__len__"):
        raise ValueError(
            f"groups must be array-like, one label a row; got {type(groups).__name__}."
        )
    if hasattr(groups, "shape"):
        labels = np.asarray(groups)
    else:  # a list may mix types, or hold tuples, which np.asarray would spoil
        labels = np.fromiter(groups, dtype=object, count=len(groups))
    if labels.ndim != 1:
        raise ValueError(f"groups must be 1-dimensional; got shape {labels.shape}.")
    if len(labels) != shape[0]:
        what = "prompts" if len(shape) == 2 else "rows"
        raise ValueError(
            f"groups has {len(labels)} labels, but X has {shape[0]} {what}; give one "
            f"label for each."
        )
    if labels.dtype.kind not in "biufUSmM":
        # Labels of any type: from here on, the number of their first equal stands
        # for each.
        labels = _encode(labels)
    elif labels.dtype.kind in "fmM" and (labels != labels).any():
        raise ValueError("groups contains NaN; every row needs the label of a prompt.")
    return labels


def _encode(labels):
    """Give each label the number of its first appearance."""
    kind = labels.dtype.kind
    if kind == "f":
        _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
        return _number(first[inverse])
    if kind in "biumM":
        return _number(_first_rows(labels.astype(np.int64, copy=False)))
    if kind in "US":
        first = _first_rows(_hash_characters(labels))
    else:
        labels = np.fromiter(labels.tolist(), dtype=object, count=len(labels))
        try:
            first = _first_rows(np.fromiter(map(hash, labels), np.int64, len(labels)))
        except TypeError as error:
            raise ValueError(f"groups must hold hashable labels: {error}.") from error
    # Equal labels have equal hashes; whether different ones have different hashes is
    # to be seen. A missing label is None, or not equal to itself.
    has_none = kind not in "US" and any(label is None for label in labels)
    if has_none or not _are_equal(labels, first):
        return _encode_one_by_one(labels)
    return _number(first)


def _number(first):
    """Give each row the rank of the row where its label is first, among such rows."""
    return (np.cumsum(first == np.arange(len(first))) - 1)[first]


def _first_rows(keys):
    """Find the first row with the same key, for keys of int64: in a hash table."""
    n = len(keys)
    slots = keys & (2 ** n.bit_length() - 1)
    table = np.empty(2 ** n.bit_length(), dtype=np.intp)
    table[slots[::-1]] = np.arange(n)[::-1]  # of all that are put in a slot, the last
    first = table[slots]
    # Some keys find their slot taken by another.
    rest = np.flatnonzero(keys[first] != keys)
    _, where, inverse = np.unique(keys[rest], return_index=True, return_inverse=True)
    first[rest] = rest[where[inverse]]
    return first


def _hash_characters(labels):
    """Hash strings of numpy, block by block, in which they stay in cache."""
    unit = np.uint32 if labels.dtype.kind == "U" else np.uint8
    characters = labels.view(unit).reshape(len(labels), -1)
    hashes = np.zeros(len(labels), dtype=np.uint64)
    for start in range(0, len(labels), LABELS_AT_ONCE):
        some = hashes[start : start + LABELS_AT_ONCE]
        for column in characters[start : start + LABELS_AT_ONCE].T:
            some *= np.uint64(0x9E3779B97F4A7C15)  # odd: the golden ratio's digits
            some += column
            some ^= some >> np.uint64(32)  # so that high bits count in low ones
    return hashes.view(np.int64)


def _are_equal(labels, first):
    """Tell whether each label equals that of the row it is given, by blocks."""
    blocks = (
        slice(start, start + LABELS_AT_ONCE)
        for start in range(0, len(labels), LABELS_AT_ONCE)
    )
    try:
        return all((labels[b] == labels[first[b]]).all() for b in blocks)
    except (TypeError, ValueError):  # pandas.NA will not be compared
        return False


def _encode_one_by_one(labels):
    """Do what `_encode` does, in the slow way that needs nothing but a dictionary."""
    numbers: dict = {}
    codes = [numbers.setdefault(label, len(numbers)) for label in labels.tolist()]
    for label in numbers:
        if _is_missing(label):
            raise ValueError(
                f"groups contains {label!r}; every row needs the label of a prompt."
            )
    return np.array(codes, dtype=np.intp)


def _is_missing(label):
    """Whether a label is None, NaN, NaT or NA."""
    try:
        return label is None or bool(label != label)
    except (TypeError, ValueError):  # pandas.NA will not be compared
        return True


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
    return layout.to_rows(check_values(values, layout.shape, name)), layout


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
    row_weight : ndarray of the layout's shape, or None
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
    check_size(weight, "sample_weight", SMALLEST)
    return (weight, None) if by_prompt else (ones, weight)
