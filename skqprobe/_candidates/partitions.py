"""Dask collections of candidates: partitions of whole prompts."""

import copy
import warnings
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from skqprobe._arrays.collections import (
    Parts,
    as_array,
    import_dask,
    is_collection,
    row_chunks,
)
from skqprobe._arrays.device import to_host
from skqprobe._arrays.part_rows import RowParts, fits, recipes_of
from skqprobe._candidates.labels import check_groups, encode_labels
from skqprobe._candidates.validation import (
    names_of_objectives,
    unpack_rewards,
    wrong_shape,
)

HASHES_AT_ONCE = 2**23
"""Number of prompts whose labels are compared in one task."""


AXES = {"y": "ikm", "offset": "ik", "sample_weight": "ik", "groups": "i"}
"""Axes of the arguments with one entry per row of X. Those of X are i and, for sets, k,
and then d."""


@dataclass(frozen=True)
class Partitions:
    """Arguments of a method as Dask arrays with the same partitions of whole prompts.

    Parameters
    ----------
    X : dask array of shape (n_prompts, k, d) or (n_rows, d)
        Embeddings.
    named : data frame or dask array
        X with the names or views of its columns; a data frame is empty.
    others : dict of dask array or None
        Arguments with one entry per row of X, such as "y" and "groups".
    n_prompts : list of int
        Number of prompts of each partition.
    user_sizes : list of int
        Numbers of rows of the partitions of the user, which may divide prompts.
    """

    X: Any
    named: Any
    others: dict
    n_prompts: list
    user_sizes: list

    @property
    def shape(self):
        """Leading shape of X."""
        return self.X.shape[:-1]

    @property
    def n_features(self):
        """Number of columns of X."""
        return self.X.shape[-1]

    @property
    def starts(self):
        """Index of the first row of each partition."""
        return np.cumsum((0, *self.X.chunks[0]))[:-1].tolist()

    @property
    def frame(self):
        """Empty two-dimensional X, with the names of the columns."""
        if is_collection(self.named):
            return np.empty((0, self.n_features))
        return self.named

    def map(self, function, *names, arguments=()):
        """Call ``function(block, start, *arguments)`` for each partition.

        Parameters
        ----------
        function : callable
            Function of a tuple of X and other arguments, and of the index of its first
            row.
        *names : str
            Names of the other arguments.
        arguments : tuple
            Further arguments for all partitions.

        Returns
        -------
        parts : Parts
        """
        delayed = import_dask().delayed
        call = delayed(_call, pure=False)
        shared = delayed((function, arguments), traverse=False, pure=False)
        arrays = [self.X, *(self.others[name] for name in names)]
        blocks = zip(*map(self._blocks, arrays), strict=True)
        return Parts(
            [
                call(shared, list(block), start)
                for block, start in zip(blocks, self.starts, strict=True)
            ]
        )

    def check(self, function, *names, arguments=()):
        """Call ``function(recipe, block, start, *arguments)`` for each partition.

        Parameters
        ----------
        function : callable
            Function of the `Recipe` to read X again, or None if the workers keep it; of
            a tuple of X, which is None if it is read again, and other arguments; and of
            the index of its first row. It makes an object with an attribute `X`.
        *names : str
            Names of the other arguments.
        arguments : tuple
            Further arguments for all partitions.

        Returns
        -------
        parts : RowParts
        """
        others = [self.others[name] for name in names]
        given = [array for array in others if array is not None]
        X, *given = import_dask().optimize(self.X, *given)
        is_kept, n = fits(X), len(self.starts)
        recipes = [None] * n if is_kept else recipes_of(X)
        # In one computation, as arguments may have a source in common.
        arrays = [X, *given] if is_kept else given
        together = Parts([task for array in arrays for task in self._blocks(array)])
        blocks = [
            together.keep([i // n == j for i in range(len(together))])
            for j in range(len(arrays))
        ]
        own = list(zip(recipes, self.starts, strict=True))
        is_given = [is_kept, *(array is not None for array in others)]
        first, *rest = blocks
        parts = first.map(_check, function, is_given, arguments, each=rest, own=own)
        return RowParts(parts, first if is_kept else None)

    def lazily(self, function, name, out, sizes, dtype, values=None, **arguments):
        """Make the array of the results of a function for each partition.

        Parameters
        ----------
        function : callable
            Function ``function(X, keys, *others, **arguments)`` of a partition, with
            the names of the other arguments that are given.
        name : str
            Name of the array.
        out : str
            Axes of the result, out of "i", "k" (those of X) and "o" (another one).
        sizes : dict
            Sizes along "i" for each partition, if they are not those of X; size of "o".
        dtype : dtype
            Type of the result.
        values : dict of list, default=None
            Further arguments, with an object per partition.
        **arguments : objects
            Arguments for all partitions.

        Returns
        -------
        result : dask array
        """
        da = import_dask("dask.array")
        is_sets = len(self.shape) == 2
        operands, keys = [self.X, "ikd" if is_sets else "id"], []
        for key, array in self.others.items():
            if array is not None:
                axes = AXES[key] if is_sets else AXES[key].replace("k", "")
                operands += [array, axes[: array.ndim]]
                keys.append(key)
        for key, objects in (values or {}).items():
            entries = np.empty(len(objects), dtype=object)
            entries[:] = objects
            operands += [da.from_array(entries, chunks=1), "i"]
            keys.append(key)
        return da.blockwise(
            function,
            out,
            *operands,
            keys=keys,
            dtype=dtype,
            meta=np.empty((0,) * len(out), dtype),
            new_axes={"o": sizes["o"]} if "o" in out else None,
            adjust_chunks={"i": sizes.get("i", self.X.chunks[0])},
            align_arrays=False,
            concatenate=True,
            token=name,
            **arguments,
        )

    def as_user(self, result):
        """Give a result with the rows of X the partitions of the user."""
        return result.rechunk({0: tuple(self.user_sizes)})

    def _blocks(self, array):
        if array is None:
            return [None] * len(self.X.chunks[0])
        return array.to_delayed().ravel().tolist()


def _call(shared, block, start):
    function, arguments = shared
    return function(block, start, *arguments)


def _check(*call):
    *blocks, (recipe, start), function, is_given, arguments = call
    found = iter(blocks)
    block = tuple(next(found) if given else None for given in is_given)
    return function(recipe, block, start, *arguments)


def check_partitions(X, **others):
    """Bring X and other arguments to partitions with the same rows, of whole prompts.

    A prompt whose rows are contiguous in two partitions moves to the first of them.

    Parameters
    ----------
    X : dask array or data frame
        Embeddings, as sets or rows.
    **others : array-like
        Arguments with one entry per row of X, or None. The labels of "groups" are
        read, those of sets are left out.

    Returns
    -------
    partitions : Partitions

    Raises
    ------
    ValueError
        If arguments differ in length, or prompts have rows in several partitions.
    """
    array, frame = _whole_rows(X, "X")
    if array.ndim not in (2, 3):
        raise ValueError(
            f"X has {array.ndim} dimensions; candidate sets have 3, (n_prompts, k, "
            "n_features), and rows have 2, (n_rows, n_features)."
        )
    if 0 in array.shape[:-1]:
        raise ValueError(
            f"X has no candidates: its shape is {array.shape}; pass at least one."
        )
    named = X if frame is None else frame
    user_sizes = list(array.chunks[0])
    sizes = [size for size in user_sizes if size]
    array = row_chunks(array, sizes)
    aligned: dict = {}
    shape = array.shape[:-1]
    for name, values in others.items():
        if values is None:
            aligned[name] = None
            continue
        if is_collection(values):
            values, _ = _whole_rows(values, name)
        else:
            values = _in_memory(values, name, shape)
        if values.shape[:1] != shape[:1] or (
            name == "offset" and values.ndim < len(shape)
        ):
            if name == "groups":
                unit = "row" if array.ndim == 2 else "prompt"
                raise ValueError(
                    f"groups has {len(values)} labels, but X has {shape[0]} {unit}s; "
                    f"pass one label per {unit}."
                )
            or_prompts = ""
            if name == "sample_weight" and len(shape) == 2:
                or_prompts = f" or {shape[:1]}"
            raise ValueError(f"{wrong_shape(name, values.shape, shape)}{or_prompts}.")
        aligned[name] = as_array(values, sizes)
    groups = aligned.get("groups")
    if array.ndim == 3 or groups is None:
        aligned |= {"groups": None} if "groups" in aligned else {}
        return Partitions(array, named, aligned, sizes, user_sizes)
    sizes, n_prompts = _whole_prompts(groups)
    array = row_chunks(array, sizes)
    aligned = {
        name: None if values is None else row_chunks(values, sizes)
        for name, values in aligned.items()
    }
    return Partitions(array, named, aligned, n_prompts, user_sizes)


def names_of_rewards(y, shape):
    """Find the names of the objectives of rewards, for X of this leading shape."""
    y = y._meta if is_collection(y) else unpack_rewards(y)
    names = names_of_objectives(y) if len(y.shape) > len(shape) else None
    return None if names is None else np.asarray(names, dtype=object)


def _in_memory(values, name, shape):
    """Convert an argument in memory to an array, for X of this leading shape."""
    if name == "groups":
        return check_groups(values, shape)
    if name == "sample_weight" and isinstance(values, Real):
        return np.full(shape[:1], values)
    return np.asarray(unpack_rewards(values) if name == "y" else to_host(values, name))


def _whole_rows(values, name):
    """Convert a collection to an array of known chunks along the first axis only.

    Returns
    -------
    array : dask array
    frame : data frame or None
        Empty frame with the names of the columns, if there are any.
    """
    da = import_dask("dask.array")
    frame = values._meta if hasattr(values, "to_dask_array") else None
    if frame is not None:
        modules = {type(each).__module__ for each in values.expr.walk()}
        if any(module.endswith("_shuffle") for module in modules):
            raise ValueError(
                f"{name} is a shuffled data frame, whose order may differ each time it "
                "is computed. Compute the frame of X, y and groups once: frame = "
                "frame.shuffle('group').persist()."
            )
        if name == "X" and frame.ndim == 2:
            values = _without_missing_types(values)
        with warnings.catch_warnings():  # of texts, which become objects
            warnings.filterwarnings("ignore", "Dask currently has limited support")
            values = values.to_dask_array(lengths=True)
    elif not isinstance(values, da.Array):
        raise ValueError(
            f"{name} is a Dask {type(values).__name__}; pass an array or a data frame."
        )
    if values.ndim == 0:
        raise ValueError(f"{name} is a Dask array without axes; pass one per row of X.")
    if any(size != size for sizes in values.chunks for size in sizes):
        values = copy.copy(values)  # whose sizes of chunks are set in place
        values.compute_chunk_sizes()
    return row_chunks(values, values.chunks[0]), frame


def _without_missing_types(frame):
    """Convert columns of numbers that may be NA, which arrays cannot hold, to float."""
    types = {
        name: np.float64
        for name, dtype in frame.dtypes.items()
        if getattr(dtype, "numpy_dtype", np.dtype(object)).kind in "biuf"
    }
    return frame.astype(types) if types else frame


def _whole_prompts(groups):
    """Find sizes of partitions that contain whole prompts.

    Returns
    -------
    sizes : list of int
        Numbers of rows of the partitions.
    n_prompts : list of int
        Numbers of their prompts.
    """
    runs = Parts(groups.to_delayed().ravel().tolist()).collect(_runs)
    sizes: list[int] = []
    open_label = None
    for first, last, length, size in runs:
        head = length if sizes and _same(first, open_label) else 0
        if head:  # the rest of the prompt at the end of the partition before
            sizes[-1] += head
        if size > head:
            sizes.append(size - head)
        open_label = last
    parts = Parts(row_chunks(groups, sizes).to_delayed().ravel().tolist())
    hashes = parts.map(_label_hashes)
    n_prompts = hashes.collect(len)
    n_slices = -(-sum(n_prompts) // HASHES_AT_ONCE)
    merged = [hashes.total(_slice_of, i, n_slices, add=_merge) for i in range(n_slices)]
    n_spanning = sum(len(spanning) for _, spanning in merged)
    if n_spanning:
        n_distinct = sum(len(distinct) for distinct, _ in merged)
        raise ValueError(
            f"groups: {n_spanning} of {n_distinct} prompts have rows in several "
            "partitions, but a prompt must be in one. Sort the rows by prompt, or "
            "shuffle a data frame of X, y and groups by the labels: frame = "
            "frame.shuffle('group').persist()."
        )
    return sizes, n_prompts


def _runs(groups):
    """Return the first and last label, the length of the first run, and the size."""
    labels = _labels(groups)
    differs = np.flatnonzero(labels != labels[0])
    length = int(differs[0]) if len(differs) else len(labels)
    return labels[0], labels[-1], length, len(labels)


def _labels(groups):
    """Validate labels, and return them without a conversion to codes."""
    groups = np.asarray(groups)
    check_groups(groups, groups.shape)
    return groups if groups.dtype.kind in "biufUSmM" else np.fromiter(groups, object)


def _same(label, other):
    return type(label) is type(other) and label == other


def _label_hashes(groups):
    """Hash the distinct labels, in ascending order, alike in all processes."""
    labels = _labels(groups)
    codes = encode_labels(labels)
    first = np.flatnonzero(
        np.concatenate(([True], np.diff(np.maximum.accumulate(codes)) > 0))
    )
    labels = labels[first]
    if labels.dtype.kind not in "biufmM":
        labels = np.array([repr(each) for each in labels.tolist()], dtype=object)
    hash_array = import_dask("pandas.util").hash_array
    return np.sort(hash_array(labels, categorize=False))


def _slice_of(hashes, number, n_slices):
    return hashes[hashes % np.uint64(n_slices) == number], hashes[:0]


def _merge(first, second):
    """Merge hashes of distinct labels of parts, and those that are in several."""
    (one, of_one), (other, of_other) = first, second
    both = np.intersect1d(one, other, assume_unique=True)
    return np.union1d(one, other), np.union1d(np.union1d(of_one, of_other), both)
