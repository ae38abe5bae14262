import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skqprobe.metrics import hypervolume, pareto_front


def dominates(a, b):
    return (a >= b).all() and (a > b).any()


@pytest.mark.parametrize("n_objectives", [1, 2, 3, 5])
@pytest.mark.parametrize("digits", [0, 1, 9])  # 0: many equal points
def test_front_holds_the_points_that_no_other_dominates(n_objectives, digits, rng):
    points = rng.normal(size=(80, n_objectives)).round(digits)
    expected = [not any(dominates(a, b) for a in points) for b in points]
    assert_array_equal(pareto_front(points), expected)


def test_equal_points_on_the_front_are_kept():
    assert pareto_front([[1, 1], [1, 1], [0, 1]]).tolist() == [True, True, False]


def test_front_of_many_points_is_quick(rng):
    angle = np.sort(rng.uniform(0, np.pi / 2, 20_000))
    points = np.column_stack([np.cos(angle), np.sin(angle)])
    assert pareto_front(points[:2000]).all()
    assert pareto_front(rng.uniform(size=(100_000, 2))).sum() < 50


@pytest.mark.parametrize("n_objectives", [1, 2, 3])
def test_hypervolume_equals_monte_carlo(n_objectives, rng):
    points = rng.uniform(-0.3, 1, size=(12, n_objectives))
    draws = rng.uniform(-0.1, 1, size=(200_000, n_objectives))
    covered = (draws[:, None] < points).all(axis=2).any(axis=1).mean()
    found = hypervolume(points, np.full(n_objectives, -0.1))
    error = 4 * np.sqrt(covered * (1 - covered) / len(draws)) * 1.1**n_objectives
    assert found == pytest.approx(covered * 1.1**n_objectives, abs=error)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([[1.0, 2, 3]], 6.0),
        ([[1.0, 2, 3], [1, 2, 3], [1, 1, 1]], 6.0),  # copies and dominated points
        ([[2.0, 2, 1], [1, 1, 3]], 4 + 2.0),
        ([[2.0, 1, 1], [1, 2, 1], [1, 1, 2]], 4.0),
        ([[5.0, 5, 0]], 0.0),  # on the border
        ([[5.0, 5, -1], [1, 1, 1]], 1.0),
    ],
)
def test_hypervolume_by_hand(points, expected):
    assert hypervolume(points, [0, 0, 0]) == expected
    moved = np.add(points, [1, 2, 4])
    assert hypervolume(moved, [1, 2, 4]) == expected


def test_hypervolume_does_not_depend_on_the_order(rng):
    points = rng.uniform(size=(40, 3))
    found = hypervolume(points, [0, 0, 0])
    for axes in ([1, 2, 0], [2, 1, 0]):
        again = hypervolume(rng.permutation(points)[:, axes], [0, 0, 0])
        assert again == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize(
    ("points", "reference", "message"),
    [
        ([[1, 2]], [0], "one number for each; got shapes"),
        ([[1, 2, 3, 4]], [0, 0, 0, 0], "up to 3 objectives"),
        ([[1, np.nan]], [0, 0], "points contains NaN"),
        ([[1, 2]], [0, -np.inf], "reference contains infinity"),
        ([[1e200, 2]], [0, 0], "points has numbers of up to 1e"),
    ],
)
def test_bad_input_of_hypervolume(points, reference, message):
    with pytest.raises(ValueError, match=message):
        hypervolume(points, reference)


def test_bad_input_of_front():
    with pytest.raises(ValueError, match="Expected 2D array"):
        pareto_front([1, 2, 3])
