"""Group labels of any hashable type, encoded as integers."""

import numpy as np

from skqprobe._arrays.device import to_host

LABELS_AT_ONCE = 2**14
"""How many labels are hashed or compared at a time: few enough to stay in cache."""


def check_groups(groups, shape):
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
        labels = encode_labels(labels)
    elif labels.dtype.kind in "fmM" and (labels != labels).any():
        raise ValueError("groups contains NaN; every row needs the label of a prompt.")
    return labels


def encode_labels(labels):
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
        return _encode_with_dict(labels)
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


def _encode_with_dict(labels):
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
