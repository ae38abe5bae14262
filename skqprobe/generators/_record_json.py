"""JSON of records: arrays, numbers that are not finite, and keys of any type."""

import base64
import json
import math
from collections.abc import Mapping

import numpy as np

_ARRAY = {"base64", "dtype", "shape"}
_TYPE = "$type"
_KEYS = (str, int, float, type(None), np.generic)


def encode(value):
    """Convert a value to types of JSON, from which `decode` restores it.

    Tuples, and arrays of numbers or texts with less than two dimensions, become lists.

    Raises
    ------
    TypeError
        If a part of the value has another type.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return {_TYPE: "float", "value": str(float(value))}
    if isinstance(value, (list, tuple)):
        return [encode(entry) for entry in value]
    if isinstance(value, Mapping):
        if not all(isinstance(key, _KEYS) for key in value):
            raise TypeError("a key of a dict must be a text or a number")
        reserved = _TYPE in value or value.keys() == _ARRAY
        if all(isinstance(key, str) for key in value) and not reserved:
            return {key: encode(entry) for key, entry in value.items()}
        items = [[encode(key), encode(entry)] for key, entry in value.items()]
        return {_TYPE: "dict", "items": items}
    if isinstance(value, np.ndarray) and not np.ma.isMaskedArray(value):
        if value.ndim < 2 and value.dtype.kind in "biufUO":
            return encode(value.tolist())
        name = value.dtype.str
        if value.dtype.kind in "biufcmMSU" and np.dtype(name) == value.dtype:
            content = base64.b64encode(value.tobytes()).decode()
            return {"base64": content, "dtype": name, "shape": list(value.shape)}
        raise TypeError(f"an array of dtype {name!r} is not supported")
    raise TypeError(f"JSON does not support the type {type(value).__name__}")


def decode(found):
    """Restore a value: the `object_hook` of ``json.loads``."""
    if found.keys() == _ARRAY:
        values = np.frombuffer(base64.b64decode(found["base64"]), found["dtype"])
        return values.reshape(found["shape"]).copy()  # may be written
    match found.get(_TYPE):
        case None:
            return found
        case "float":
            return float(found["value"])
        case "dict":
            return dict(found["items"])
    raise ValueError


def to_json(value, sort_keys=False):
    """Return the JSON of a value; with `sort_keys`, the same for equal values.

    Raises
    ------
    ValueError
        If a part of the value has no JSON type, or contains itself.
    """
    try:
        return json.dumps(encode(value), allow_nan=False, sort_keys=sort_keys)
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
