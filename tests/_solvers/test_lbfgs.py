import numpy as np
import pytest
from cases import CONVEX, SMOOTH, WITH_INTERCEPT, make_objective, minimize_lbfgs
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from skqprobe import QProbePolicy
from skqprobe._solvers import lbfgs
from skqprobe.losses import LOSSES

every_loss = pytest.mark.parametrize("loss", LOSSES)
with_and_without_penalty = pytest.mark.parametrize("alpha", [0, 1e-2])
both_dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32])


def objective_of(X, y, loss, *, alpha=0.01, **settings):
    return make_objective(X, y, loss, alpha=alpha, **settings)


def solve(objective, *, tol=1e-4, max_iter=200, **options):
    start = np.zeros(objective.n_parameters)
    return minimize_lbfgs(objective, start, tol=tol, max_iter=max_iter, **options)


def relative_gap(objective, theta, best):
    """Excess of the objective over the best, relative to that of zero coefficients."""
    at_zero, value, lowest = (
        objective.value_and_gradient(point)[0]
        for point in (np.zeros_like(theta), theta, best)
    )
    return (value - lowest) / (at_zero - lowest)


# The optimum


@pytest.mark.parametrize("loss", SMOOTH)
def test_gradient_vanishes(loss, sets, conditioning):
    objective = objective_of(*sets, loss)
    theta, _ = solve(objective, tol=1e-9, max_iter=1000)
    _, gradient = objective.value_and_gradient(theta)
    _, at_zero = objective.value_and_gradient(np.zeros_like(theta))
    assert abs(gradient).max() < 1e-7 * abs(at_zero).max()


def test_stages_of_pairwise_hinge_share_one_model_of_the_moments(rng, monkeypatch):
    X, y, calls = rng.normal(size=(30, 4, 5)), rng.random((30, 4)), []

    def counting(grid, model=lbfgs.model_fold_hessians):
        calls.append(grid)
        return model(grid)

    monkeypatch.setattr(lbfgs, "model_fold_hessians", counting)
    monkeypatch.setattr(lbfgs, "model_hessian", None)  # no other model
    monkeypatch.setattr(lbfgs, "MAX_ROUNDS", 1)
    solve(objective_of(X, y, "pairwise_hinge"))
    assert len(calls) == 1


def test_pairwise_hinge_is_a_support_vector_machine_on_differences(rng):
    # Prompts of a chosen candidate and a rejected one, in this order.
    X = rng.normal(size=(80, 2, 4))
    better = X[:, 0, 0] - X[:, 1, 0] + rng.normal(size=80) > 0
    X = np.where(better[:, None, None], X, X[:, ::-1])
    lead, alpha, margin = X[:, 0] - X[:, 1], 0.01, 0.1
    # In units of the margin: |coef|^2 / 2 + mean hinge / (alpha margin).
    settings = {"C": 1 / (alpha * margin * 160), "fit_intercept": False, "tol": 1e-8}
    machine = LinearSVC(loss="hinge", max_iter=1_000_000, random_state=0, **settings)
    machine.fit(np.concatenate([lead, -lead]), np.repeat([1, 0], 80))
    best = margin * machine.coef_[0]
    y = np.tile([1.0, 0], (80, 1))
    objective = objective_of(X, y, "pairwise_hinge", alpha=alpha)
    for options, allowed in [({}, 1e-3), ({"tol": 1e-8, "max_iter": 2000}, 1e-5)]:
        theta, _ = solve(objective, **options)
        assert abs(relative_gap(objective, theta, best)) < allowed


@pytest.mark.parametrize("shape", [(60, 8, 40), (100, 6, 40), (40, 12, 60)])
def test_kinks_are_smoothed_where_that_costs_little(shape, monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.normal(size=shape)
    scores = X.sum(axis=-1) / np.sqrt(shape[-1]) + rng.normal(size=shape[:2])
    objective = objective_of(X, (scores > 0) * 1.0, "pairwise_hinge", alpha=1e-4)
    tight, _ = solve(objective, tol=1e-7, max_iter=5000)
    theta, n_iter = solve(objective)
    assert relative_gap(objective, theta, tight) < 6e-4
    monkeypatch.setattr(lbfgs, "BIAS", 0)
    _, n_without = solve(objective, max_iter=1000)
    assert n_iter < 0.85 * n_without


# Conditioning


@every_loss
def test_scale_of_columns_without_penalty(loss, noisy, rng, conditioning):
    X, y = noisy
    scale = 10 ** rng.uniform(-3, 3, X.shape[-1])
    objective = objective_of(X, y, loss, alpha=0)
    theta, n_iter = solve(objective)
    scaled, n_iter_scaled = solve(objective_of(X * scale, y, loss, alpha=0))
    scaled[:30] *= scale
    assert n_iter_scaled <= 2 * n_iter
    # Where the solver stops, values are closer than parameters.
    tight, _ = solve(objective, tol=1e-7, max_iter=2000)
    # Policy gradient is not convex: the solver may stop on a plateau.
    allowed = 1e-3 if loss in CONVEX else 2e-2
    for result in (theta, scaled):
        assert relative_gap(objective, result, tight) < allowed
    if loss in ("squared_error", "log_loss", "contrastive_policy_gradient"):
        assert_allclose(scaled, theta, atol=1e-3 * abs(theta).max())


@pytest.mark.parametrize("alpha", [1e-6, 1e-2])
@every_loss
def test_scale_of_columns_with_penalty(loss, alpha, noisy, rng, conditioning):
    """Of 30 features of 6 orders of magnitude, the penalty excludes the small ones."""
    X, y = noisy
    X = X * 10 ** rng.uniform(-3, 3, X.shape[-1])
    objective = objective_of(X, y, loss, alpha=alpha)
    theta, n_iter = solve(objective, max_iter=400)
    assert n_iter < (200 if loss in CONVEX else 400)
    tight, _ = solve(objective, tol=1e-7, max_iter=5000)
    # Policy gradient is not convex: the solver may stop on a plateau.
    allowed = 1e-3 if loss in CONVEX else 5e-2
    assert relative_gap(objective, theta, tight) < allowed


@with_and_without_penalty
@every_loss
def test_columns_far_from_zero(loss, alpha, noisy, rng, conditioning):
    """An intercept, or the choice inside a prompt, absorbs the offset."""
    X, y = noisy
    far = X + 1e3 * rng.normal(size=X.shape[-1])
    theta, n_iter = solve(objective_of(X, y, loss, alpha=alpha))
    far_theta, far_n_iter = solve(objective_of(far, y, loss, alpha=alpha))
    assert far_n_iter <= 1.5 * n_iter
    # The hinge loss has kinks, at which rounding separates the paths.
    relative = 0.05 if loss == "pairwise_hinge" else 1e-4
    atol = relative * abs(theta[:30]).max()
    assert_allclose(far_theta[:30], theta[:30], atol=atol)


@both_dtypes
@pytest.mark.parametrize("loss", WITH_INTERCEPT)
def test_columns_far_from_zero_without_intercept(loss, dtype, noisy, rng, conditioning):
    """Nothing absorbs the offset, so that it is part of the second moments.

    At zero, it is nearly all of the gradient, and must not define its unit.
    """
    X, y = noisy
    far = (X + 1e3 * rng.normal(size=X.shape[-1])).astype(dtype)
    objective = objective_of(far.astype(np.float64), y, loss, fit_intercept=False)
    theta, n_iter = solve(objective_of(far, y, loss, fit_intercept=False))
    tight, _ = solve(objective, tol=1e-9, max_iter=5000)
    assert relative_gap(objective, theta, tight) < 1e-4
    assert n_iter < 30


@with_and_without_penalty
@every_loss
def test_constant_and_duplicated_columns(loss, alpha, sets, conditioning):
    X, y = sets
    constant = np.full((*y.shape, 1), 0.1)  # not a sum of powers of two
    degenerate = np.concatenate([X, X[..., :1], constant, 0 * constant], axis=-1)
    # A duplicated column equals one column times sqrt(2) under the same penalty.
    same = X * [np.sqrt(2), 1, 1, 1]
    found = []
    for data in (degenerate, same):
        objective = objective_of(data, y, loss, alpha=alpha)
        theta, _ = solve(objective, tol=1e-6, max_iter=1000)
        assert np.isfinite(theta).all()
        found.append(objective.value_and_gradient(theta)[0])
    # Kinks separate the paths, and policy gradient has several minima.
    rel = {"pairwise_hinge": 1e-3, "policy_gradient": 0.03}.get(loss, 1e-5)
    assert found[0] == pytest.approx(found[1], rel=rel)


@both_dtypes
@every_loss
def test_constant_column_has_no_coefficient(loss, dtype, sets):
    """A large one would be rounding only, and harm where the column is not constant."""
    X, y = sets
    X = np.concatenate([X, np.full((*y.shape, 1), 0.1)], axis=-1).astype(dtype)
    theta, _ = solve(objective_of(X, y, loss, alpha=1e-10), tol=1e-6, max_iter=1000)
    assert abs(theta[4]) < abs(theta[:4]).max()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@every_loss
def test_low_precision(loss, dtype, noisy):
    X, y = (noisy[0] + 3).astype(dtype), noisy[1]
    exact = objective_of(X.astype(np.float64), y, loss)
    expected, n_iter_expected = solve(exact)
    theta, n_iter = solve(objective_of(X, y, loss))
    assert relative_gap(exact, theta, expected) < 1e-3
    assert n_iter <= 2 * n_iter_expected


def test_a_search_goes_on_where_the_curvature_has_fallen(monkeypatch):
    # Separable rewards and hardly any penalty: the sigmoid saturates.
    X = np.random.default_rng(0).normal(size=(10, 13, 4, 50))
    y = (X[..., 0] > X[..., 1]).astype(float)
    objectives = [
        objective_of(*data, "pairwise_logistic", alpha=1e-7)
        for data in zip(X, y, strict=True)
    ]
    iterations = [solve(objective)[1] for objective in objectives]
    monkeypatch.setattr(lbfgs, "MAX_ROUNDS", 1)
    with pytest.warns(ConvergenceWarning):
        once = [solve(objective)[1] for objective in objectives]
    assert (np.array(iterations) > once).any()


def test_a_long_search_goes_on_with_the_curvature_of_its_prompts(monkeypatch):
    """Where most prompts are saturated, few prompts curve the loss."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 10, 240)) + rng.normal(size=(60, 1, 240))
    scores = X @ rng.normal(size=240)
    y = (rng.random((60, 10)) < 1 / (1 + np.exp(-2 * scores / scores.std()))) * 1.0
    X *= rng.lognormal(size=240)
    objective = objective_of(X, y, "policy_gradient", alpha=1e-4)
    theta, n_iter = solve(objective, tol=1e-6, max_iter=2000)
    monkeypatch.setattr(lbfgs, "MAX_FALL", np.inf)
    expected, n_without = solve(objective, tol=1e-6, max_iter=2000)
    assert abs(relative_gap(objective, theta, expected)) < 1e-3
    assert n_iter < 0.6 * n_without


# Iterations


@both_dtypes
@every_loss
def test_callback_gets_every_iteration(loss, dtype, noisy):
    objective = objective_of(noisy[0].astype(dtype), noisy[1], loss)
    seen = []
    theta, n_iter = solve(objective, on_iteration=lambda *args: seen.append(args))
    assert n_iter == len(seen) > 1
    assert_array_equal(seen[-1][0], theta)
    for point, value in seen:
        assert value == pytest.approx(objective.value_and_gradient(point)[0], rel=1e-6)
    values = [value for _, value in seen]
    if loss == "pairwise_hinge":  # the solver minimizes smooth losses
        values = values[:1] + values[-1:]
    assert (np.diff(values) <= 1e-6 * abs(values[0])).all()


@every_loss
def test_callback_can_stop_the_solver(loss, sets):
    seen = []

    def on_iteration(theta, value):
        seen.append(theta)
        return len(seen) == 2

    objective = objective_of(*sets, loss)
    theta, n_iter = solve(objective, tol=1e-10, on_iteration=on_iteration)
    assert n_iter == len(seen) == 2
    assert_array_equal(theta, seen[-1])


@both_dtypes
@every_loss
def test_convergence_warning(loss, dtype, noisy):
    objective = objective_of(noisy[0].astype(dtype), noisy[1], loss)
    expected, n_needed = solve(objective)  # no warning
    for n in {1, n_needed // 2, n_needed - 1}:
        message = rf"did not converge after {n} iterations \(max_iter={n}\)"
        with pytest.warns(ConvergenceWarning, match=message):
            _, n_iter = solve(objective, max_iter=n)
        assert n_iter == n
    theta, n_iter = solve(objective, max_iter=n_needed + 1)
    assert n_iter == n_needed
    assert_array_equal(theta, expected)


def test_convergence_warning_of_an_estimator(sets):
    with pytest.warns(ConvergenceWarning, match="Increase max_iter, or alpha, or tol"):
        policy = QProbePolicy(max_iter=2).fit(*sets)
    assert policy.n_iter_ == 2
    assert QProbePolicy(max_iter=200).fit(*sets).n_iter_ > 2
