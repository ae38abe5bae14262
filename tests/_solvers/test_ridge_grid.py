import numpy as np
import pytest
from numpy.testing import assert_allclose

from skqprobe._solvers import ridge
from skqprobe._solvers.ridge import solve_systems

ALPHAS = np.logspace(3, -6, 20)


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


def each(grams, moments, alphas):
    half = np.eye(len(grams[0])) / 2
    return np.array(
        [
            [np.linalg.solve(gram + alpha * half, moment) for alpha in alphas]
            for gram, moment in zip(grams, moments, strict=True)
        ]
    )


def relative_error(coefs, expected):
    error = np.linalg.norm(coefs - expected, axis=-1)
    return (error / np.linalg.norm(expected, axis=-1)).max()


@pytest.fixture
def factored(monkeypatch):
    """What is factored: with all folds, and each by itself at last."""
    counts = {"_factor": 0, "solve_system": 0}
    for name in counts:
        original = getattr(ridge, name)

        def count(*args, name=name, original=original):
            counts[name] += 1
            return original(*args)

        monkeypatch.setattr(ridge, name, count)
    return counts


@pytest.mark.parametrize("order", ["falling", "rising", "mixed"])
def test_equals_solving_each(order, equations, rng):
    alphas = {"falling": ALPHAS, "rising": ALPHAS[::-1]}.get(
        order, rng.permutation(ALPHAS)
    )
    coefs = solve_systems(*equations, alphas)
    assert relative_error(coefs, each(*equations, alphas)) < 1e-6


def test_reads_the_lower_triangles_and_changes_nothing(equations):
    grams, moments = equations
    lower = [np.asfortranarray(np.tril(gram)) for gram in grams]
    before = moments.copy()
    coefs = solve_systems(lower, moments, ALPHAS)
    for gram, triangle in zip(grams, lower, strict=True):
        assert_allclose(triangle, np.tril(gram), rtol=0)
    assert_allclose(moments, before, rtol=0)
    assert relative_error(coefs, each(grams, moments, ALPHAS)) < 1e-6


def test_takes_one_factorisation_a_decade(rng, factored):
    solve_systems(*normal_equations(rng, 1800, 200), ALPHAS)
    assert factored == {"_factor": 10, "solve_system": 0}


def test_more_features_than_rows(rng, factored):
    equations = normal_equations(rng, 60, 90)
    alphas = np.logspace(2, -4, 13)
    coefs = solve_systems(*equations, alphas)
    assert factored["_factor"] > 7  # not with the factors of the mean alone
    assert relative_error(coefs, each(*equations, alphas)) < 1e-4


@pytest.mark.parametrize("max_steps", [0, 1])
def test_what_does_not_get_there_is_solved_for_by_itself(
    max_steps, equations, factored, monkeypatch
):
    monkeypatch.setattr(ridge, "MAX_STEPS", max_steps)
    alphas = ALPHAS[::4] * 1.1
    coefs = solve_systems(*equations, alphas)
    assert relative_error(coefs, each(*equations, alphas)) < 1e-6
    if max_steps == 0:
        assert factored["solve_system"] == 3 * len(alphas)


def test_factors_in_float32_where_that_can_be():
    gram = np.array([[1.0, 0.0], [1 - 1e-9, 1.0]], order="F")
    assert ridge._factor(gram, 1e-2).dtype == np.float32
    assert ridge._factor(gram, 1e-10).dtype == np.float64
    assert_allclose(ridge._factor(gram, -1.0), np.eye(2))


def test_mean_that_float32_cannot_factor(rng):
    grams, moments = normal_equations(rng, 900, 30)
    mixed = np.eye(30)
    mixed[:, 1] += (1 - 1e-5) / 1e-5 * mixed[:, 0]  # two columns that are nearly one
    grams = [np.asfortranarray(mixed.T @ gram @ mixed) for gram in grams]
    moments = moments @ mixed
    coefs = solve_systems(grams, moments, np.array([1e-3, 1e-4]))
    assert relative_error(coefs, each(grams, moments, [1e-3, 1e-4])) < 1e-6


def test_singular_matrix_with_next_to_no_penalty(rng):
    X = rng.normal(size=(20, 5)) @ rng.normal(size=(5, 8))
    y = X @ rng.normal(size=8)
    gram = np.asfortranarray(X.T @ X)
    coefs = solve_systems([gram, gram], np.tile(X.T @ y, (2, 1)), np.array([1e-30]))
    assert_allclose(coefs[:, 0] @ X.T, [y, y], rtol=1e-6, atol=1e-6)


def test_equal_penalties_and_none(equations):
    alphas = np.array([0.1, 0.0, 0.1, 0.0])
    coefs = solve_systems(*equations, alphas)
    assert_allclose(coefs[:, [0, 1]], coefs[:, [2, 3]])
    assert relative_error(coefs, each(*equations, alphas)) < 1e-6


def test_no_penalty_alone(equations):
    coefs = solve_systems(*equations, np.zeros(1))
    assert relative_error(coefs, each(*equations, [0])) < 1e-6


def test_no_penalty_on_a_singular_matrix_gives_the_shortest_solution(rng):
    X = rng.normal(size=(5, 8))
    y = rng.normal(size=5)
    gram, moments = np.asfortranarray(X.T @ X), (X.T @ y)[None]
    coefs = solve_systems([gram], moments, np.array([1.0, 0.0, 1e-3]))
    assert_allclose(X @ coefs[0, 1], y)
    expected = each([gram], moments, [1.0, 1e-3])
    assert relative_error(coefs[:, [0, 2]], expected) < 1e-6


@pytest.mark.parametrize("unit", [1e-140, 1e-45, 1e45, 1e140])
def test_size_of_the_rewards_does_not_matter(unit, equations):
    grams, moments = equations
    coefs = solve_systems(grams, moments * unit, ALPHAS)
    assert relative_error(coefs / unit, each(grams, moments, ALPHAS)) < 1e-6


def test_nothing_to_explain(equations):
    grams, moments = equations
    moments = moments * np.array([0, 1, 1])[:, None]
    coefs = solve_systems(grams, moments, ALPHAS)
    assert not coefs[0].any()
    expected = each(grams[1:], moments[1:], ALPHAS)
    assert relative_error(coefs[1:], expected) < 1e-6


def test_column_of_zeros_and_penalties_worlds_apart(rng):
    grams, moments = normal_equations(rng, 90, 5)
    for gram in grams:
        gram[2], gram[:, 2] = 0, 0
    moments[:, 2] = 0
    alphas = np.array([1e-30, 1e12])
    coefs = solve_systems(grams, moments, alphas)
    assert not coefs[..., 2].any()
    others = [0, 1, 3, 4]
    grams = [gram[np.ix_(others, others)] for gram in grams]
    expected = each(grams, moments[:, others], alphas)
    assert relative_error(coefs[..., others], expected) < 1e-6
