"""JSON of records."""

import json
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skqprobe.generators._record_json import decode, to_json


def round_trip(value):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = to_json({"value": value})
    json.loads(text, parse_constant=refuse)
    return json.loads(text, object_hook=decode)["value"]


KEYS = st.text(st.characters(), max_size=3) | st.sampled_from(
    ["$type", "base64", "dtype", "shape", "value", "position", "check", "1"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.dictionaries(KEYS | st.integers(0, 1) | st.none(), inner, max_size=4)
        | st.fixed_dictionaries({"base64": inner, "dtype": inner, "shape": inner})
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(value=VALUES)
def test_any_value_comes_back(value):
    assert repr(round_trip(value)) == repr(value)  # repr, for NaN and types of keys


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([1.5, np.nan]), [1.5, float("nan")]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([1, "a", None], dtype=object), [1, "a", None]),
        (np.array(3), 3),
        (np.float32(0.5), 0.5),
        (("a", np.int64(2)), ["a", 2]),
    ],
)
def test_arrays_of_one_dimension_become_lists(array, expected):
    assert repr(round_trip(array)) == repr(expected)


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<i8", "|b1", "<c8", "<U3", "<M8[D]"])
def test_arrays_of_more_dimensions_stay_arrays(dtype):
    array = np.zeros((2, 3)).astype(dtype)
    found = round_trip(array)
    assert found.dtype == array.dtype and found.flags.writeable
    np.testing.assert_array_equal(found, array)


def itself():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([[1, "a"]], dtype=object), "dtype '|O'"),
        (np.ma.array([1.0, 2.0], mask=[0, 1]), "MaskedArray"),
        (np.zeros((2, 2), dtype="i4,f8"), "dtype"),
        (Decimal(1), "Decimal"),
        (b"a", "bytes"),
        ({("a", 1): 2}, "key of a dict"),
        ({1, 2}, "set"),
        (1j, "complex"),
        (np.longdouble(1), "longdouble"),
        (itself(), "recursion"),
    ],
)
def test_other_types_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        to_json({"value": [value]})


def test_keys_in_order():
    assert to_json({"b": 1, "a": 2}, sort_keys=True) == '{"a": 2, "b": 1}'
    assert to_json({"b": 1, "a": 2}) == '{"b": 1, "a": 2}'
