import numpy as np
import pytest
from numpy.testing import assert_allclose

from skqprobe.solvers import _ridge_path
from skqprobe.solvers._ridge_path import solve_ridge_path

ALPHAS = np.logspace(3, -6, 20)


@pytest.fixture(params=[1, 2, 30, 200])
def equations(request, rng):
    """Normal equations of columns whose scales differ by orders of magnitude."""
    d = request.param
    X = rng.normal(size=(5 * d, d)) * rng.lognormal(sigma=2, size=d) + rng.normal(
        size=(5 * d, 1)
    )
    return X.T @ X / len(X), X.T @ rng.normal(size=len(X)) / len(X)


def each(gram, moment, alphas):
    penalty = np.eye(len(gram)) / 2
    return np.array([np.linalg.solve(gram + a * penalty, moment) for a in alphas])


def relative_error(coefs, expected):
    error = np.linalg.norm(coefs - expected, axis=1)
    return error / np.linalg.norm(expected, axis=1)


@pytest.mark.parametrize("order", ["falling", "rising", "mixed"])
def test_equals_solving_each(order, equations, rng):
    alphas = {"falling": ALPHAS, "rising": ALPHAS[::-1]}.get(
        order, rng.permutation(ALPHAS)
    )
    coefs = solve_ridge_path(*equations, alphas)
    assert relative_error(coefs, each(*equations, alphas)).max() < 2e-8


def test_reads_the_lower_triangle_and_changes_nothing(equations):
    gram, moment = equations
    lower = np.tril(gram)
    coefs = solve_ridge_path(lower, moment, ALPHAS)
    assert_allclose(lower, np.tril(gram), rtol=0)
    assert relative_error(coefs, each(gram, moment, ALPHAS)).max() < 2e-8


def test_takes_fewer_factorisations_than_penalties(rng, monkeypatch):
    X = rng.normal(size=(600, 200)) * rng.lognormal(size=200)
    factored = []

    def count(gram, alpha):
        factored.append(alpha)
        return factor(gram, alpha)

    factor = _ridge_path.factor_normal_equations
    monkeypatch.setattr(_ridge_path, "factor_normal_equations", count)
    solve_ridge_path(X.T @ X / 600, X.T @ rng.normal(size=600) / 600, ALPHAS)
    assert len(factored) <= 5


def test_equal_penalties_and_none(equations):
    gram, moment = equations
    alphas = np.array([0.1, 0.0, 0.1, 0.0])
    coefs = solve_ridge_path(gram, moment, alphas)
    assert_allclose(coefs[[0, 1]], coefs[[2, 3]])
    assert relative_error(coefs, each(gram, moment, alphas)).max() < 2e-8


def test_no_penalty_on_a_singular_matrix_gives_the_shortest_solution(rng):
    X = rng.normal(size=(5, 8))
    y = rng.normal(size=5)
    coefs = solve_ridge_path(X.T @ X, X.T @ y, np.array([1.0, 0.0, 1e-3]))
    assert_allclose(X @ coefs[1], y)
    expected = each(X.T @ X, X.T @ y, [1.0, 1e-3])
    assert relative_error(coefs[[0, 2]], expected).max() < 2e-8


def test_nothing_to_explain():
    coefs = solve_ridge_path(np.eye(3), np.zeros(3), np.array([1.0, 0.1]))
    assert not coefs.any()
