import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skqprobe._solvers import symmetric_systems

ALPHAS = np.logspace(3, -6, 20)


def solve_systems(grams, moments, alphas):
    """Solve the systems of all penalties, with the same right-hand side per fold."""
    moments = np.repeat(moments[:, None], len(alphas), axis=1)
    return symmetric_systems.solve_systems(grams, moments, alphas)


def normal_equations(rng, n_rows, d):
    """Equations of three folds, of columns whose scales differ by orders of magnitude.

    Each fold has its own two thirds of the rows.
    """
    X = rng.normal(size=(n_rows, d)) * rng.lognormal(sigma=2, size=d)
    X += rng.normal(size=(n_rows, 1))
    y = X @ rng.normal(size=d) + rng.normal(size=n_rows)
    part = np.arange(n_rows) % 3
    folds = [(X[part != i], y[part != i]) for i in range(3)]
    grams = [np.asfortranarray(X.T @ X / len(X)) for X, _ in folds]
    return grams, np.array([X.T @ y / len(X) for X, y in folds])


@pytest.fixture(params=[1, 2, 30, 200])
def equations(request, rng):
    return normal_equations(rng, 9 * request.param, request.param)


def assert_solves(coefs, grams, moments, alphas, tolerance=1e-6):
    half = np.eye(len(grams[0])) / 2
    expected = [
        [np.linalg.solve(gram + alpha * half, moment) for alpha in alphas]
        for gram, moment in zip(grams, moments, strict=True)
    ]
    error = np.linalg.norm(coefs - np.array(expected), axis=-1)
    assert (error / np.linalg.norm(expected, axis=-1)).max() < tolerance


@pytest.fixture
def factored(monkeypatch):
    """Numbers of factorizations: for all folds together, and for one system alone."""
    counts = {"_factor": 0, "solve_system": 0}
    for name in counts:
        original = getattr(symmetric_systems, name)

        def count(*args, name=name, original=original):
            counts[name] += 1
            return original(*args)

        monkeypatch.setattr(symmetric_systems, name, count)
    return counts


@pytest.mark.parametrize(
    "alphas",
    [ALPHAS, ALPHAS[::-1], ALPHAS[np.arange(20) * 7 % 20], [0.1, 0.0, 0.1, 0.0], [0.0]],
    ids=["falling", "rising", "mixed", "repeated, with 0", "0"],
)
def test_systems_equal_single_solutions(alphas, equations):
    coefs = solve_systems(*equations, np.array(alphas))
    assert_solves(coefs, *equations, alphas)
    if len(alphas) == 4:
        assert_allclose(coefs[:, :2], coefs[:, 2:])


def test_own_right_hand_side_of_each_penalty(equations, rng, factored):
    grams, _ = equations
    d, alphas = len(grams[0]), np.array([1.0, 0.1, 1.0, 0.0, 0.0])
    moments = rng.normal(size=(3, 5, d))
    coefs = symmetric_systems.solve_systems(grams, moments, alphas)
    for i in range(5):
        assert_solves(coefs[:, [i]], grams, moments[:, i], alphas[[i]])
    assert factored["solve_system"] == 3  # without a penalty: one per fold


def test_only_lower_triangles_are_read_and_nothing_is_changed(equations):
    grams, moments = equations
    lower = [np.asfortranarray(np.tril(gram)) for gram in grams]
    before = moments.copy()
    coefs = solve_systems(lower, moments, ALPHAS)
    for gram, triangle in zip(grams, lower, strict=True):
        assert_array_equal(triangle, np.tril(gram))
    assert_array_equal(moments, before)
    assert_solves(coefs, grams, moments, ALPHAS)


def test_one_factorization_per_decade(rng, factored):
    solve_systems(*normal_equations(rng, 1800, 200), ALPHAS)
    assert factored == {"_factor": 10, "solve_system": 0}


def test_systems_of_more_features_than_rows(rng, factored):
    equations = normal_equations(rng, 60, 90)
    alphas = np.logspace(2, -4, 13)
    coefs = solve_systems(*equations, alphas)
    assert factored["_factor"] > 7  # not only those of the mean over folds
    assert_solves(coefs, *equations, alphas, tolerance=1e-4)


@pytest.mark.parametrize("max_steps", [0, 1])
def test_a_system_that_does_not_converge_is_solved_alone(
    max_steps, equations, factored, monkeypatch
):
    monkeypatch.setattr(symmetric_systems, "MAX_STEPS", max_steps)
    alphas = ALPHAS[::4] * 1.1
    assert_solves(solve_systems(*equations, alphas), *equations, alphas)
    if max_steps == 0:
        assert factored["solve_system"] == 3 * len(alphas)


def test_factors_are_in_float32_if_possible():
    gram = np.array([[1.0, 0.0], [1 - 1e-9, 1.0]], order="F")
    assert symmetric_systems._factor(gram, 1e-2).dtype == np.float32
    assert symmetric_systems._factor(gram, 1e-10).dtype == np.float64
    assert_allclose(symmetric_systems._factor(gram, -1.0), np.eye(2))


def test_mean_over_folds_that_float32_cannot_factor(rng):
    grams, moments = normal_equations(rng, 900, 30)
    mixed = np.eye(30)
    mixed[:, 1] += (1 - 1e-5) / 1e-5 * mixed[:, 0]  # two columns that are nearly one
    grams = [np.asfortranarray(mixed.T @ gram @ mixed) for gram in grams]
    equations, alphas = (grams, moments @ mixed), np.array([1e-3, 1e-4])
    assert_solves(solve_systems(*equations, alphas), *equations, alphas)


def test_singular_system_with_a_tiny_penalty(rng):
    X = rng.normal(size=(20, 5)) @ rng.normal(size=(5, 8))
    y = X @ rng.normal(size=8)
    gram = np.asfortranarray(X.T @ X)
    coefs = solve_systems([gram, gram], np.tile(X.T @ y, (2, 1)), np.array([1e-30]))
    assert_allclose(coefs[:, 0] @ X.T, [y, y], rtol=1e-6, atol=1e-6)


def test_singular_system_without_penalty(rng):
    """The solution is the shortest for columns divided by their root mean square."""
    X, y = rng.normal(size=(5, 8)), rng.normal(size=5)
    equations = [np.asfortranarray(X.T @ X)], (X.T @ y)[None]
    coefs = solve_systems(*equations, np.array([1.0, 0.0, 1e-3]))
    scale = np.sqrt((X**2).sum(axis=0))
    assert_allclose(coefs[0, 1] * scale, np.linalg.pinv(X / scale) @ y, rtol=1e-6)
    assert_allclose(X @ coefs[0, 1], y)
    assert_solves(coefs[:, [0, 2]], *equations, [1.0, 1e-3])


@pytest.mark.parametrize("unit", [1e-140, 1e-45, 1e45, 1e140])
def test_unit_of_the_rewards_does_not_matter(unit, equations):
    grams, moments = equations
    coefs = solve_systems(grams, moments * unit, ALPHAS)
    assert_solves(coefs / unit, *equations, ALPHAS)


def test_moments_of_zero_have_the_solution_zero(equations):
    grams, moments = equations
    coefs = solve_systems(grams, moments * np.array([0, 1, 1])[:, None], ALPHAS)
    assert not coefs[0].any()
    assert_solves(coefs[1:], grams[1:], moments[1:], ALPHAS)


def test_column_of_zeros_and_penalties_of_many_magnitudes(rng):
    grams, moments = normal_equations(rng, 90, 5)
    for gram in grams:
        gram[2], gram[:, 2] = 0, 0
    moments[:, 2] = 0
    alphas, others = np.array([1e-30, 1e12]), [0, 1, 3, 4]
    coefs = solve_systems(grams, moments, alphas)
    assert not coefs[..., 2].any()
    grams = [gram[np.ix_(others, others)] for gram in grams]
    assert_solves(coefs[..., others], grams, moments[:, others], alphas)
