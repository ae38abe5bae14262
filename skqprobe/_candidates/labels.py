"""Group labels of any hashable type, encoded as integers."""

import numpy as np
from sklearn.utils import gen_batches

from skqprobe._arrays.device import to_host

LABELS_AT_ONCE = 2**14
"""Number of labels that are hashed or compared at a time, few enough for the cache."""


def check_groups(groups, shape):
    """Validate group labels for arrays with the leading shape `shape`.

    Returns
    -------
    labels : ndarray of shape (n_rows,) or (n_prompts,)
        Labels if numpy can compare them, otherwise their codes. No label is missing.
    """
    labels = _as_label_array(to_host(groups, "groups"))
    if labels.ndim != 1:
        raise ValueError(f"groups must be 1-dimensional; got shape {labels.shape}.")
    if len(labels) != shape[0]:
        unit = "prompt" if len(shape) == 2 else "row"
        raise ValueError(
            f"groups has {len(labels)} labels, but X has {shape[0]} {unit}s; pass one "
            f"label per {unit}."
        )
    if labels.dtype.kind not in "biufUSmM":
        return encode_labels(labels)
    if labels.dtype.kind in "fmM" and (labels != labels).any():
        raise ValueError("groups contains NaN; every row needs the label of a prompt.")
    return labels


def _as_label_array(groups):
    """Convert array-like labels to an array in which each entry is one label."""
    if isinstance(groups, (str, bytes)) or not hasattr(groups, "__len__"):
        raise ValueError(
            "groups must be array-like, with one label per row; got "
            f"{type(groups).__name__}."
        )
    if hasattr(groups, "shape"):
        return np.asarray(groups)
    # np.asarray would convert mixed types, and unpack tuples.
    return np.fromiter(groups, dtype=object)


def encode_labels(labels):
    """Encode labels as integers, in order of first appearance."""
    kind = labels.dtype.kind
    if kind == "f":
        _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
        return _to_codes(first[inverse])
    if kind in "biumM":
        return _to_codes(_first_rows(labels.astype(np.int64, copy=False)))
    if kind in "US":
        first = _first_rows(_hash_characters(labels))
    else:
        labels = np.fromiter(labels.tolist(), dtype=object)
        try:
            first = _first_rows(np.fromiter(map(hash, labels), np.int64))
        except TypeError as error:
            raise ValueError(f"groups must hold hashable labels: {error}.") from error
        if any(label is None for label in labels):  # others differ from themselves
            return _encode_with_dict(labels)
    # Different labels may have equal hashes.
    return _to_codes(first) if _are_equal(labels, first) else _encode_with_dict(labels)


def _to_codes(first):
    """Convert the first row of each label to integers, in order of first appearance."""
    return (np.cumsum(first == np.arange(len(first))) - 1)[first]


def _first_rows(keys):
    """Find the first row with the same int64 key, for each row, with a hash table."""
    n = len(keys)
    slots = keys & (2 ** n.bit_length() - 1)
    table = np.empty(2 ** n.bit_length(), dtype=np.intp)
    table[slots[::-1]] = np.arange(n)[::-1]  # the last assignment to a slot counts
    first = table[slots]
    # Resolve collisions: keys whose slot has a row with another key.
    rest = np.flatnonzero(keys[first] != keys)
    _, where, inverse = np.unique(keys[rest], return_index=True, return_inverse=True)
    first[rest] = rest[where[inverse]]
    return first


def _hash_characters(labels):
    """Hash an array of numpy strings, in blocks that fit in the cache."""
    unit = np.uint32 if labels.dtype.kind == "U" else np.uint8
    characters = labels.view(unit).reshape(len(labels), -1)
    hashes = np.zeros(len(labels), dtype=np.uint64)
    for block in gen_batches(len(labels), LABELS_AT_ONCE):
        some = hashes[block]
        for column in characters[block].T:
            some *= np.uint64(0x9E3779B97F4A7C15)  # odd: digits of the golden ratio
            some += column
            some ^= some >> np.uint64(32)  # so that the slot depends on high bits, too
    return hashes.view(np.int64)


def _are_equal(labels, first):
    """Check that each label equals the label of its first row."""
    blocks = gen_batches(len(labels), LABELS_AT_ONCE)
    try:
        return all((labels[b] == labels[first[b]]).all() for b in blocks)
    except (TypeError, ValueError):  # pandas.NA cannot be compared
        return False


def _encode_with_dict(labels):
    """Encode labels as `encode_labels` does, with a dictionary, which is slower."""
    codes_by_label: dict = {}
    codes = [
        codes_by_label.setdefault(label, len(codes_by_label))
        for label in labels.tolist()
    ]
    for label in codes_by_label:
        if _is_missing(label):
            raise ValueError(
                f"groups contains {label!r}; every row needs the label of a prompt."
            )
    return np.array(codes)


def _is_missing(label):
    """Check whether a label is None, NaN, NaT or NA."""
    try:
        return label is None or bool(label != label)
    except (TypeError, ValueError):  # pandas.NA cannot be compared
        return True
