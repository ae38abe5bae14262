"""Methods of fitted probes on Dask collections, computed when they are needed."""

import inspect
import warnings
from functools import wraps

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from skqprobe._arrays.blocks import compute_dtype
from skqprobe._arrays.collections import generator_states, import_dask, is_collection
from skqprobe._candidates.partitions import check_partitions
from skqprobe._candidates.sampling import check_size
from skqprobe._candidates.validation import no_groups, warn_if_thinned
from skqprobe._utils.warn import warn_user

AXES = {"y": "ikm", "offset": "ik", "sample_weight": "ik", "groups": "i"}
"""Axes of the arguments with one entry per row of X. Those of X are i and, for sets, k,
and then d."""


def lazily(kind, *, needs_groups=False):
    """Make a method take Dask collections, with a call per partition when computed.

    Parameters
    ----------
    kind : {"candidates", "objectives", "prompts", "score"}
        Result: a number per candidate, several, one or several per prompt, or the
        result of the estimator's `_score_of` for the `_score_terms` of all partitions.
    needs_groups : bool, default=False
        Whether the method warns of rows without groups.
    """

    def decorate(method):
        signature = inspect.signature(method)

        @wraps(method)
        def call(self, X, *args, **kwargs):
            if not is_collection(X):
                return method(self, X, *args, **kwargs)
            arguments = signature.bind(self, X, *args, **kwargs).arguments
            del arguments["self"], arguments["X"]
            name = "_score_terms" if kind == "score" else method.__name__
            return _apply(self, name, kind, needs_groups, X, arguments)

        return call

    return decorate


def _apply(estimator, name, kind, needs_groups, X, arguments):
    """Make the array of the results of a method for all partitions."""
    check_is_fitted(estimator)
    per_row = {key: arguments.pop(key, None) for key in AXES}
    partitions = check_partitions(X, **per_row)
    fitted = estimator._snapshot()
    validate_data(fitted, partitions.frame, skip_check_array=True, reset=False)
    for key in ("feature_names_in_", "_skl_callbacks"):  # a partition is an array
        vars(fitted).pop(key, None)
    X, is_sets = partitions.X, len(partitions.shape) == 2
    has_groups = is_sets or per_row["groups"] is not None
    if needs_groups and not has_groups and partitions.shape[0] > 1:
        warn_user(no_groups())
    axes = "ikd" if is_sets else "id"
    given = {
        key: array for key, array in partitions.others.items() if array is not None
    }
    per_partition = {"starts": partitions.starts}
    sizes, dtype = (
        {"i": X.chunks[0]},
        compute_dtype(X) if X.dtype.kind == "f" else float,
    )
    out = axes[:-1]
    if kind == "objectives":
        out, sizes["o"] = out + "o", _n_objectives(fitted)
    elif kind == "prompts":
        out, dtype, sizes["i"] = "i", np.intp, tuple(partitions.n_prompts)
        if name == "sample":
            size = arguments.get("size")
            per_partition["states"] = _states(fitted, partitions, arguments)
            out, sizes = (out, sizes) if size is None else ("io", sizes | {"o": size})
    elif kind == "score":
        if has_groups and not is_sets:
            mean = partitions.shape[0] / sum(partitions.n_prompts)
            warn_if_thinned(fitted, mean)
        out, dtype, sizes = (
            "io",
            float,
            {"i": (1,) * len(X.chunks[0]), "o": 2 if needs_groups else 4},
        )
    da = import_dask("dask.array")
    operands = [(X, axes)]
    for key, array in given.items():
        of_array = AXES[key] if is_sets else AXES[key].replace("k", "")
        operands.append((array, of_array[: array.ndim]))
    for values in per_partition.values():
        entries = np.empty(len(values), dtype=object)
        entries[:] = values
        operands.append((da.from_array(entries, chunks=1), "i"))
    result = da.blockwise(
        _call,
        out,
        *(part for operand in operands for part in operand),
        fitted=fitted,
        method=name,
        keys=[*given, *per_partition],
        arguments=arguments,
        dtype=dtype,
        meta=np.empty((0,) * len(out), dtype),
        new_axes={axis: sizes[axis] for axis in "o" if axis in out},
        adjust_chunks={"i": sizes["i"]},
        align_arrays=False,
        concatenate=True,
    )
    if kind in ("candidates", "objectives"):
        return result.rechunk({0: tuple(partitions.user_sizes)})
    if kind == "prompts":
        return result
    return result.rechunk(-1).map_blocks(
        _score_of, type(estimator), drop_axis=(0, 1), dtype=float, meta=np.empty(())
    )


def _call(X, *rest, fitted, method, keys, arguments):
    """Call a method for a partition."""
    given = dict(zip(keys, rest, strict=True))
    (start,) = given.pop("starts")
    if "states" in given:
        (given["random_state"],) = given.pop("states")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the client has warned
        result = getattr(fitted, method)(X, **given, **arguments)
    if method == "_score_terms":
        return np.asarray(result)[None]
    has_positions = method in ("predict", "sample") and "groups" in given
    return result + start if has_positions else result


def _score_of(terms, estimator):
    return np.asarray(estimator._score_of(terms))


def _states(fitted, partitions, arguments):
    """Make the generators of the draws of each partition, as in one process."""
    size, given = arguments.get("size"), arguments.pop("random_state", None)
    check_size(size)
    random_state = check_random_state(fitted.random_state if given is None else given)
    n_draws = [n_prompts * (size or 1) for n_prompts in partitions.n_prompts]
    generators = []
    draw = np.random.RandomState.random_sample
    for state in generator_states(random_state, n_draws, draw):
        generators.append(np.random.RandomState())
        generators[-1].set_state(state)
    return generators


def _n_objectives(fitted):
    return (
        (1, *fitted.coef_.shape)[-2]
        if hasattr(fitted, "coef_")
        else fitted.coefs_[-1].shape[1]
    )
