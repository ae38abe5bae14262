import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import rosen, rosen_der

from skqprobe._solvers import batched_lbfgs
from skqprobe._solvers.batched_lbfgs import minimize_batched_lbfgs


class Functions:
    """Rosenbrock's functions around several centers, with a record of evaluations."""

    def __init__(self, centers):
        self.centers = np.asarray(centers, dtype=float)
        self.evaluated = []

    def __call__(self, points, which):
        self.evaluated.append(which.copy())
        points = points - self.centers[which]
        return (
            np.array([rosen(point) for point in points]),
            np.array([rosen_der(point) for point in points]),
        )


def minimize(functions, start, known=None, **options):
    defaults = {"tol": 1e-8, "ftol": 0.0, "min_recent": 2, "max_iter": 500}
    options = defaults | {"precision": 1e-16} | options
    return minimize_batched_lbfgs(functions, np.asarray(start, float), known, **options)


CENTERS = [[0, 0, 0], [1, -1, 2], [0.3, 0.1, 0]]
START = [[1.0, 1, 1], [0, 3, 0], [-1.2, 1, 1]]


def test_finds_every_minimum():
    ends = minimize(Functions(CENTERS), START)
    assert_allclose(ends.point, np.array(CENTERS) + 1, atol=1e-6)
    assert_allclose(ends.gradient, 0, atol=1e-8)
    assert ends.converged.all()
    assert ends.n_iter[0] == 0  # it starts there
    assert (ends.n_iter[1:] > 5).all()


def test_each_problem_is_solved_as_if_alone():
    together = minimize(Functions(CENTERS), START)
    for number in range(3):
        alone = minimize(Functions(CENTERS[number : number + 1]), [START[number]])
        assert_array_equal(alone.point[0], together.point[number])
        assert alone.n_iter[0] == together.n_iter[number]


def test_a_converged_problem_is_not_evaluated_again():
    functions = Functions(CENTERS)
    ends = minimize(functions, START)
    counts = np.bincount(np.concatenate(functions.evaluated))
    assert counts[0] == 1
    # A step needs a little more than one evaluation.
    assert (counts[1:] <= 2 * ends.n_iter[1:] + 2).all()


def test_known_value_and_gradient_at_the_start():
    functions = Functions(CENTERS)
    expected = minimize(functions, START)
    known = functions(np.array(START), np.arange(3))
    functions.evaluated.clear()
    ends = minimize(functions, START, known)
    assert_array_equal(ends.point, expected.point)
    assert len(functions.evaluated[0]) == 2  # the first has converged


def test_max_iter():
    ends = minimize(Functions(CENTERS), START, max_iter=3)
    assert_array_equal(ends.n_iter, [0, 3, 3])
    assert_array_equal(ends.converged, [True, False, False])


@pytest.mark.parametrize("ftol", [1e-2, 1e-4])
def test_ends_where_the_last_quarter_of_the_iterations_gained_little(ftol):
    """Powers of x have a flat minimum: gains shrink, but none is small in itself."""

    def evaluate(points, which):
        return (points**8).sum(axis=1) - 1, 8 * points**7

    values = []
    end = minimize_batched_lbfgs(
        evaluate,
        np.full((1, 2), [1.0, 0.3]),
        tol=1e-300,
        ftol=ftol,
        min_recent=2,
        at_start=None,
        max_iter=500,
        precision=1e-16,
        on_iteration=lambda _, value: values.append(value[0]),
    )
    gains = [
        values[n - 1 - max(2, -(-n // 4))] - values[n - 1]
        for n in range(4, len(values) + 1)
    ]
    is_small = np.array(gains) <= ftol * -np.array(values[3:])
    assert end.converged.all()
    assert is_small[-1]
    assert not is_small[:-1].any()


def test_callback_gets_falling_values_and_can_stop_the_solver():
    seen = []

    def on_iteration(points, values):
        seen.append(values.copy())
        return len(seen) == 4

    ends = minimize(Functions(CENTERS), START, on_iteration=on_iteration)
    assert len(seen) == 4
    assert (np.diff(seen, axis=0) <= 0).all()
    assert ends.converged.all()  # so there is no warning


def test_kinks():
    # |x - 1| + 2 |y + 2| has no gradient at its minimum.
    def corner(points, which):
        difference = points - [1.0, -2.0]
        return abs(difference) @ [1.0, 2.0], np.sign(difference) * [1.0, 2.0]

    ends = minimize(corner, [[3.3, 4.7]], ftol=1e-12)
    assert_allclose(ends.point, [[1, -2]], atol=1e-4)


def test_a_step_to_an_undefined_value_is_shortened():
    def barrier(points, which):  # x - log(x), a minimum at 1, undefined at x <= 0
        with np.errstate(all="ignore"):
            return (points - np.log(points))[:, 0], 1 - 1 / points

    ends = minimize(barrier, [[30.0]])
    assert_allclose(ends.point, [[1]], atol=1e-6)


@pytest.mark.parametrize("n_failures", [1, 2])
def test_memory_is_dropped_if_no_step_leads_down(n_failures, monkeypatch):
    """Of a function that misleads the line search in some iterations."""
    monkeypatch.setattr(batched_lbfgs, "MAX_TRIALS", 15)
    valley = Functions([[0, 0, 0]])
    accepted, failed = [], []

    def misleading(points, which):
        values, gradients = valley(points, which)
        if len(accepted) >= 3 and len(failed) < 15 * n_failures:
            failed.append(1)
            values = values + 1e6
        return values, gradients

    def on_iteration(points, values):
        accepted.append(1)

    ends = minimize(misleading, [[-1.2, 1, 1]], on_iteration=on_iteration)
    assert ends.converged.all()
    recovers = n_failures == 1  # without memory, nothing can be dropped
    assert (np.linalg.norm(ends.gradient) < 1e-8) == recovers


def test_steady_progress_ends_a_search_earlier(monkeypatch):
    """The remaining gain is estimated from the gains of the last two quarters."""
    curvature, slope = (
        np.geomspace(0.01, 1, 200),
        np.random.default_rng(0).normal(size=200),
    )
    slope *= 1 / np.linalg.norm(slope)

    def parabola(points, which):
        gradient = points * curvature - slope
        return (points * (gradient - slope)).sum(axis=1) / 2, gradient

    best = -(slope**2 / curvature).sum() / 2
    options = {"tol": 1e-3, "ftol": 1e-5}
    early = minimize(parabola, np.zeros((1, 200)), **options)
    monkeypatch.setattr(batched_lbfgs, "NEARLY_FLAT", 0)
    late = minimize(parabola, np.zeros((1, 200)), **options)
    assert early.n_iter[0] < late.n_iter[0]
    assert early.value[0] - best < 1e-4 * abs(best)
