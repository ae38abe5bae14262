"""Methods of fitted probes on Dask collections, computed when they are needed."""

import copy
import inspect
import warnings
from functools import wraps

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from skqprobe._arrays.blocks import compute_dtype
from skqprobe._arrays.collections import (
    generator_states,
    in_partition,
    is_collection,
)
from skqprobe._candidates.partitions import AXES, check_partitions, names_of_rewards
from skqprobe._candidates.sampling import check_size
from skqprobe._candidates.validation import (
    no_groups,
    order_as_fitted,
    warn_if_thinned,
)
from skqprobe._utils.warn import warn_user


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
    if name == "_score_terms" and arguments["y"] is None:
        raise ValueError("score requires y to be passed, but y is None.")
    per_row = {key: arguments.pop(key, None) for key in AXES}
    partitions = check_partitions(X, **per_row)
    fitted = estimator._snapshot()
    validate_data(fitted, partitions.frame, skip_check_array=True, reset=False)
    for key in ("feature_names_in_", "_skl_callbacks"):  # a partition is an array
        vars(fitted).pop(key, None)
    if (y := per_row["y"]) is not None:
        names, others = names_of_rewards(y, partitions.shape), partitions.others
        others["y"] = order_as_fitted(others["y"], names, fitted)
    X, out = partitions.X, "ik"[: len(partitions.shape)]
    has_groups = len(out) == 2 or per_row["groups"] is not None
    if needs_groups and not has_groups and partitions.shape[0] > 1:
        warn_user(no_groups())
    sizes, values = {}, {"starts": partitions.starts}
    dtype = compute_dtype(X) if X.dtype.kind == "f" else np.dtype(float)
    if kind == "objectives":
        out, sizes = out + "o", {"o": _n_objectives(fitted)}
    elif kind == "prompts":
        out, dtype, sizes = "i", np.dtype(int), {"i": tuple(partitions.n_prompts)}
        if name == "sample":
            values["states"] = _states(fitted, partitions, arguments)
        if arguments.get("size") is not None:
            out, sizes["o"] = "io", arguments["size"]
    elif kind == "score":
        if per_row["groups"] is not None:
            mean = partitions.shape[0] / sum(partitions.n_prompts)
            warn_if_thinned(fitted, mean)
        out, dtype = "io", np.dtype(float)
        sizes = {"i": (1,) * len(X.chunks[0]), "o": estimator._n_score_terms}
    # A later change or fit has no effect on the array.
    fitted = copy.deepcopy(fitted)
    call = {"fitted": fitted, "method": name, "arguments": arguments}
    result = partitions.lazily(_call, name, out, sizes, dtype, values, **call)
    if kind in ("candidates", "objectives"):
        return partitions.as_user(result)
    if kind == "prompts":
        return result
    return result.rechunk(-1).map_blocks(
        _score_of, type(estimator), drop_axis=(0, 1), dtype=float, meta=np.empty(())
    )


def _call(X, *rest, keys, fitted, method, arguments):
    """Call a method for a partition."""
    given = dict(zip(keys, rest, strict=True))
    (start,) = given.pop("starts")
    if "states" in given:
        (given["random_state"],) = given.pop("states")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the client has warned
            result = getattr(fitted, method)(X, **given, **arguments)
    except (TypeError, ValueError) as error:
        raise in_partition(error, start) from error
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
