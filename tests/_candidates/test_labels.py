import datetime

import numpy as np
import pytest
from cases import positions_of, prompts_of
from hypothesis import given, settings
from hypothesis import strategies as st

from skqprobe._candidates.layout import check_layout

# Labels of many types that == and hash distinguish, as in a dictionary: 1, 1.0 and True
# are one label, 1 and "1" are two.
LABELS = st.one_of(
    st.integers(-2, 2),
    st.sampled_from(["", "1", "2", "a", "b", "ab"]),
    st.booleans(),
    st.floats(allow_nan=False, width=16),
    st.dates(datetime.date(2024, 2, 28), datetime.date(2024, 3, 2)),
    st.tuples(st.integers(0, 1), st.sampled_from("ab")),
    st.binary(max_size=1),
    st.frozensets(st.integers(0, 1)),
)


def prompts(groups):
    return prompts_of(check_layout((len(groups),), groups))


@settings(deadline=None, max_examples=60)
@given(st.lists(LABELS, min_size=1, max_size=25))
def test_any_labels_are_distinguished_as_in_a_dictionary(labels):
    assert prompts(labels) == positions_of(labels)


class EqualHash:
    """Labels that only == distinguishes."""

    def __init__(self, name):
        self.name = name

    def __hash__(self):
        return 0

    def __eq__(self, other):
        return self.name == other.name


@pytest.mark.parametrize(
    "name",
    [
        lambda i: -i,  # in Python, -1 and -2 have the same hash
        lambda i: i << 40,  # equal in their low bits
        lambda i: 2**63 + i,
        lambda i: f"{i}" * 20_000,
        lambda i: f"{i}".encode(),
        lambda i: "\U0001f600" * i,
        lambda i: EqualHash(i),
        lambda i: np.datetime64("2020-01-01") + np.timedelta64(i, "D"),
        lambda i: complex(0, i),
    ],
)
@pytest.mark.parametrize("as_array", [True, False])
def test_labels_with_similar_hashes(rng, name, as_array):
    numbers = rng.integers(0, 7, size=60)
    labels = [name(int(number)) for number in numbers]
    labels = np.array(labels) if as_array else labels
    assert prompts(labels) == positions_of(numbers.tolist())


@pytest.mark.parametrize("kind", ["U3", "S3", object])
def test_a_collision_of_hashes_is_detected(rng, monkeypatch, kind):
    numbers = rng.integers(0, 7, size=60)
    hash_ = "skqprobe._candidates.labels._hash_characters"
    monkeypatch.setattr(hash_, lambda labels: np.zeros(len(labels), dtype=np.int64))
    labels = numbers.astype("U3").astype(kind)
    assert prompts(labels) == positions_of(numbers.tolist())


@pytest.mark.parametrize("kind", [str, object])
def test_labels_in_many_blocks(rng, monkeypatch, kind):
    monkeypatch.setattr("skqprobe._candidates.labels.LABELS_AT_ONCE", 16)
    numbers = rng.integers(0, 30, size=100)
    assert prompts(numbers.astype(str).astype(kind)) == positions_of(numbers.tolist())


DAY = datetime.date(2024, 1, 2)


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param([2**70, 1, 2**70, -1], id="big int"),
        pytest.param([2**53, 2**53 + 1, 2**53, 0], id="int that float64 confuses"),
        pytest.param([0.5, -0.0, 0.5, 1e300], id="float"),
        pytest.param([(1, "x"), (1, "y"), (1, "x"), (2, "x")], id="tuple"),
        pytest.param([1, "1", 1, (1,)], id="1 and '1' differ"),
        pytest.param([b"1", "1", b"1", 1], id="bytes and str differ"),
        pytest.param([DAY, 0, DAY, datetime.datetime(2024, 1, 2)], id="dates"),
        pytest.param([np.str_("b"), "a", "b", np.str_("c")], id="numpy str"),
        pytest.param([np.int64(3), 1, 3.0, np.float32(2)], id="numpy numbers"),
    ],
)
def test_types_of_labels(labels):
    as_objects = np.fromiter(labels, dtype=object, count=4)
    for container in (labels, tuple(labels), as_objects):
        assert prompts(container) == [[0, 2], [1], [3]]


@pytest.mark.parametrize(
    "dtype",
    ["int8", "uint64", "float32", "float16", "U3", "S3", "O", "M8[D]", "m8[s]", "c16"],
)
def test_dtypes_of_numpy_arrays(dtype):
    groups = np.array([7, 3, 7, 5]).astype(dtype)
    assert prompts(groups) == [[0, 2], [1], [3]]


@pytest.mark.parametrize("labels", [[True, False, True], [2**53, 2**53 + 1, 2**53]])
def test_arrays_of_booleans_and_large_integers(labels):
    assert prompts(np.array(labels)) == [[0, 2], [1]]


LETTERS, NUMBERS = ["b", "a", "b", "c"], [3, 1, 3, 2]
DATES = ["2024-01-02", "2024-01-01", "2024-01-02", "2024-05-05"]


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [
        *((LETTERS, dtype) for dtype in (None, "object", "string", "category")),
        *((NUMBERS, dtype) for dtype in ("int64", "Int64", "category")),
        *((DATES, dtype) for dtype in ("datetime64[ns]", "datetime64[ns, UTC]")),
        (NUMBERS, "timedelta64[ns]"),
        (DATES, "period[D]"),
        ([0.5, 0.25, 0.5, 0.0], "Float64"),
        ([1, "1", 1, (1,)], "object"),
    ],
)
@pytest.mark.parametrize("container", ["Series", "Index", "array"])
def test_pandas_containers(labels, dtype, container):
    pd = pytest.importorskip("pandas")
    if container == "Index":
        groups = pd.Index(labels, dtype=dtype)
    else:
        # An index that is not the position, which is ignored.
        groups = pd.Series(labels, dtype=dtype, index=[9, 9, 0, 2])
        groups = groups.array if container == "array" else groups
    assert prompts(groups) == [[0, 2], [1], [3]]


def test_pandas_booleans_multi_index_and_categories():
    pd = pytest.importorskip("pandas")
    for groups in (
        pd.Series([True, False, True], dtype="boolean"),
        pd.MultiIndex.from_tuples([(1, "x"), (1, "y"), (1, "x")]),
        pd.Categorical(["b", "a", "b"], categories=["z", "a", "b"]),
    ):
        assert prompts(groups) == [[0, 2], [1]]


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [
        *((LETTERS, dtype) for dtype in ("String", "Categorical")),
        *((NUMBERS, dtype) for dtype in ("Int32", "Float64")),
        ([datetime.date.fromisoformat(date) for date in DATES], "Date"),
    ],
)
def test_polars_series(labels, dtype):
    pl = pytest.importorskip("polars")
    groups = pl.Series(labels, dtype=getattr(pl, dtype))
    assert prompts(groups) == [[0, 2], [1], [3]]
