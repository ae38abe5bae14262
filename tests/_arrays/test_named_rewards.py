import copy
import pickle

import joblib
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skqprobe._arrays.named_rewards import NamedRewards, stack_rewards

NAMES = ["right", "short", "kind"]


@pytest.fixture
def named():
    return stack_rewards([{"right": i, "short": -i, "kind": 1} for i in range(12)])


def test_rows_keep_the_names(named):
    for kept in (
        named,
        named[3:9],
        named[[1, 2]],
        named[np.arange(12) > 4],
        named[[1, 2], ...],
        named[0],
        named.reshape(3, 4, 3),
        named.reshape((3, 4, -1))[::-1],
        named.reshape(3, 4, 3)[1],
        named.reshape(3, 4, 3)[np.eye(3, 4) > 0],
    ):
        assert isinstance(kept, NamedRewards)
        assert kept.objective_names == NAMES


def test_copies_keep_the_names(named, tmp_path):
    joblib.dump(named, tmp_path / "named")
    for kept in (
        named.copy(),
        copy.copy(named),
        copy.deepcopy([named])[0],
        pickle.loads(pickle.dumps(named)),
        pickle.loads(pickle.dumps(named[:, ::-1].T[:, :4].T, protocol=2)),
        joblib.load(tmp_path / "named"),
    ):
        assert isinstance(kept, NamedRewards)
        if len(kept) == 12:
            assert_array_equal(kept, named)
            assert kept.objective_names == NAMES
        else:
            assert kept.objective_names is None
    assert named.astype(np.float32).objective_names == NAMES
    assert named.astype(np.float32, copy=False).dtype == np.float32


def test_other_results_have_no_names(named):
    for lost in (
        named[:, ::-1],
        named[:, [2, 1, 0]],
        named[..., 0],
        named[0][::-1],
        named.T,
        named + 1,
        named.reshape(9, 4),
        named.reshape(3, 4, 3)[:, :, ::-1],
        named[:3, :3].T,
    ):
        assert getattr(lost, "objective_names", None) is None
    assert isinstance(named[0][0], float)


@pytest.mark.parametrize(
    ("rewards", "expected", "names"),
    [
        ([1, True, None], [1, 1, np.nan], None),
        ([], [], None),
        ([None], [np.nan], None),
        ([None, [1, 2], (3, 4)], [[np.nan] * 2, [1, 2], [3, 4]], None),
        ([np.array([1.0]), None], [[1], [np.nan]], None),
        ([{"b": 1, "a": 2}, {"a": 3, "b": 4}], [[1, 2], [4, 3]], ["b", "a"]),
        ([None, {"a": 3}], [[np.nan], [3]], ["a"]),
    ],
)
def test_stack_rewards(rewards, expected, names):
    found = stack_rewards(rewards)
    assert_array_equal(found, expected)
    assert found.dtype == np.float64 and found.shape == np.shape(expected)
    assert getattr(found, "objective_names", None) == names


@pytest.mark.parametrize(
    "rewards",
    [
        [1.0, [1.0, 2.0]],
        [[1.0], [1.0, 2.0]],
        [{"a": 1.0}, {"b": 1.0}],
        [{"a": 1.0}, {"a": 1.0, "b": 1.0}],
        [{"a": 1.0}, 1.0],
        [1.0, {"a": 1.0}],
        [{"a": [1.0, 2.0]}, {"a": 1.0}],
        ["one"],
    ],
)
def test_rewards_that_differ(rewards):
    with pytest.raises((TypeError, ValueError)):
        stack_rewards(rewards)
