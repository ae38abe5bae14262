import operator

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skqprobe._arrays.collections import (
    FAN_IN,
    Parts,
    generator_states,
    is_collection,
    is_dask,
)

dask = pytest.importorskip("dask")


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


def name(value, *others):
    return f"{value}{''.join(map(str, others))}"


@pytest.mark.parametrize("n", [1, 2, FAN_IN, FAN_IN + 1, FAN_IN**2 + 3])
def test_sums_are_in_the_order_of_the_parts(n):
    parts = Parts.scatter(list(range(n)))
    assert len(parts) == n
    assert parts.total(name) == "".join(map(str, range(n)))
    others = Parts.scatter(["a"] * n)
    expected = [f"{i}ab" for i in range(n)]
    assert parts.collect(name, "b", each=[others]) == expected
    assert list(parts.map(name, "b", each=[others]).values()) == expected


def even(value):
    return value if value % 2 == 0 else None


def test_none_is_not_added():
    parts = Parts.scatter(list(range(40)))
    assert parts.total(even, add=operator.add) == sum(range(0, 40, 2))
    assert Parts.scatter([1, 3]).total(even) is None


def test_some_of_the_parts():
    parts = Parts.scatter(list(range(5))).keep([True, False, True, False, False])
    assert list(parts.values()) == [0, 2]


def fail(value):
    raise {0: MemoryError, 1: ValueError}[value]("of this function")


def test_only_faults_of_the_cluster_are_explained():
    with pytest.raises(RuntimeError, match="MemoryError: of this function"):
        Parts.scatter([0]).collect(fail)
    with pytest.raises(ValueError, match=r"^of this function$"):
        Parts.scatter([1]).collect(fail)


def test_an_error_forgets_all_parts():
    parts = Parts.scatter([1])
    with pytest.raises(ValueError):
        parts.collect(fail)
    assert parts.tasks == []


def test_generator_states():
    sizes = [3, 0, 5, 2**20 + 1]
    draw = np.random.RandomState.standard_normal
    whole, parts = np.random.RandomState(0), np.random.RandomState(0)
    expected = np.split(whole.standard_normal(sum(sizes)), np.cumsum(sizes)[:-1])
    for state, size, values in zip(
        generator_states(parts, sizes, draw), sizes, expected, strict=True
    ):
        generator = np.random.RandomState()
        generator.set_state(state)
        assert_array_equal(generator.standard_normal(size), values)
    assert parts.random_sample() == whole.random_sample()


def test_kinds_of_collections():
    da, bag = pytest.importorskip("dask.array"), pytest.importorskip("dask.bag")
    assert is_collection(da.ones(3)) and is_dask(da.ones(3))
    texts = bag.from_sequence(["a"])
    assert is_dask(texts) and not is_collection(texts)
    assert not any(map(is_dask, (np.ones(3), [da.ones(3)], None, "dask")))
