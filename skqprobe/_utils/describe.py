"""Descriptions of settings in JSON's types."""

import json
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator


def describe(value):
    """Describe a setting in JSON's types, by names instead of addresses.

    Parameters
    ----------
    value : object
        A setting that JSON may not support.

    Returns
    -------
    description : object
        A number or text as it is; the name of a function, class or path; a dict for a
        partial; the text of an estimator; and the class of any other object.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, partial):
        keywords = {name: describe(each) for name, each in value.keywords.items()}
        arguments = [describe(each) for each in value.args]
        return {"partial": describe(value.func), "args": arguments, **keywords}
    if isinstance(value, BaseEstimator):
        return repr(value)
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        named = value if hasattr(value, "__qualname__") else type(value)
        return f"{named.__module__}.{named.__qualname__}"
    return value
