import copy
import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.compose import make_column_selector

from skqprobe._arrays.views import (
    ViewArray,
    check_views,
    column_weights,
    view_weights_by_name,
    views_of,
    with_views,
)

X = np.zeros((4, 5))


def as_lists(views):
    return {name: columns.tolist() for name, columns in views.items()}


def test_forms():
    pd = pytest.importorskip("pandas")
    expected = {"a": [0, 1], "b": [2], "c": [3, 4]}
    names = ["a__0", "a__1", "b__x", "c__0", "c__1"]
    frame = pd.DataFrame(X, columns=names)
    for view_sizes in (
        {"a": 2, "b": 1, "c": 2},
        {"a": ["a__0", "a__1"], "b": "b__x", "c": slice(3, 5)},
        {"a": make_column_selector("^a"), "b": [2], "c": ["c__0", "c__1"]},
        names,
        np.array(names, dtype=object),
    ):
        assert as_lists(check_views(view_sizes, frame, 5)) == expected
    for sizes in ((2, 1, 2), [2, 1, 2], np.array([2, 1, 2])):
        found = as_lists(check_views(sizes, X, 5))
        assert found == {"view0": [0, 1], "view1": [2], "view2": [3, 4]}
    assert as_lists(check_views(None, X, 5)) == {"view0": [0, 1, 2, 3, 4]}
    carried = with_views(X, check_views((3, 2), X, 5))
    assert check_views(None, carried, 5) is carried.views
    apart = check_views({"a": [0, 4], "b": [1, 2, 3]}, X, 5)
    assert as_lists(apart) == {"a": [0, 4], "b": [1, 2, 3]}


@pytest.mark.parametrize(
    "view_sizes",
    [(2, 2), (0, 5), (-1, 6), (), {}, {"a": [0, 1], "b": [1, 2, 3, 4]}, {"a": []}],
)
def test_views_without_each_column_once(view_sizes):
    with pytest.raises(ValueError, match=r"view_sizes must be positive .* 5"):
        check_views(view_sizes, X, 5)


@pytest.mark.parametrize(
    "view_sizes, words",
    [
        (["a__0"], "1 names of columns, but X has 5"),
        ({"a": ["x"]}, r"columns of view_sizes\['a'\] cannot be"),
    ],
)
def test_names_that_do_not_fit(view_sizes, words):
    with pytest.raises(ValueError, match=words):
        check_views(view_sizes, X, 5)


def test_weights():
    views = check_views({"a": 2, "b": 3}, X, 5)
    assert view_weights_by_name({"b": 4}, views) == {"a": 1.0, "b": 4.0}
    assert_array_equal(column_weights((2, 3), views, 5), [2, 2, 3, 3, 3])
    infinite = [(np.inf, 1), (np.nan, 1)]
    for bad in ((1,), (1, 2, 3), (0, 1), (-1, 1), *infinite, (1, "a"), {"a": "b"}):
        with pytest.raises(ValueError, match="view_weights must be positive"):
            view_weights_by_name(bad, views)
    with pytest.raises(ValueError, match=r"has \['c'\], but the views of X are"):
        view_weights_by_name({"c": 1}, views)


def test_rows_and_copies_carry_the_views():
    views = check_views((3, 2), X, 5)
    carried = with_views(X, views)
    for kept in (
        carried[1:],
        carried[[0, 2]],
        carried[np.arange(4) > 1],
        carried.copy(),
        copy.deepcopy(carried),
        pickle.loads(pickle.dumps(carried)),
        carried.astype(np.float32),
        carried.reshape(2, 2, 5),
        np.take(carried, [0, 2], axis=0),
        carried.reshape(2, 2, 5).take([1], axis=-2),
    ):
        assert isinstance(kept, ViewArray) and as_lists(kept.views) == as_lists(views)
    others = carried.take([1, 2], axis=1), carried.take([1, 2, 3, 4, 5])
    for lost in (carried[:, :3], carried.T, carried + 1, carried.mean(axis=0), *others):
        assert views_of(lost) is None
    one = check_views((5,), X, 5)
    assert with_views(X, one) is X and with_views("frame", views) == "frame"


def test_columns_of_sets_are_those_of_the_last_axis():
    sets = np.zeros((3, 2, 5))
    for view_sizes in (
        {"a": slice(0, 3), "b": [3, 4]},
        {"a": np.arange(5) < 3, "b": slice(3, None)},
    ):
        found = as_lists(check_views(view_sizes, sets, 5))
        assert found == {"a": [0, 1, 2], "b": [3, 4]}


def test_names_of_views_are_plain_text():
    views = check_views(np.array(["a__0", "b__0"]), X[:, :2], 2)
    assert [type(name) for name in views] == [str, str]


def test_frames_carry_the_views():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=list("pqrst"))
    views = check_views({"a": [0, 4], "b": [1, 2, 3]}, X, 5)
    frame = with_views(frame, views)
    assert as_lists(views_of(frame[1:])) == as_lists(views)
    # Of some columns, the views are those that remain.
    some = as_lists(views_of(frame[["q", "t"]]))
    assert list(some.items()) == [("a", [1]), ("b", [0])]
    assert views_of(frame.assign(u=1.0)) is None
    assert views_of(frame[["p", "p"]]) is None
    assert views_of(frame.rename(columns={"p": "z"})) is None


def test_results_of_arithmetic_are_plain():
    views = check_views((3, 2), X, 5)
    carried = with_views(X.copy(), views)
    for result in (carried + 1, np.exp(carried), carried.sum(axis=1)):
        assert type(result) is np.ndarray
    assert isinstance(carried.mean(), float) and isinstance(carried.max(), float)
    same = carried
    same += 1
    assert same is carried and as_lists(same.views) == as_lists(views)
