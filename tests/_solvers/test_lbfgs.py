import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from skqprobe import QProbePolicy, QProbeRegressor
from skqprobe._candidates.layout import check_layout
from skqprobe._objectives.linear import LinearObjective
from skqprobe._solvers import lbfgs, minimize_lbfgs, preconditioner
from skqprobe._solvers.preconditioner import Preconditioner, model_hessian
from skqprobe.losses import LOSSES

SMOOTH = [name for name in LOSSES if name != "pairwise_hinge"]
CONVEX = [name for name in LOSSES if name != "policy_gradient"]
WITH_INTERCEPT = ["squared_error", "log_loss"]


@pytest.fixture(params=["full", "diagonal"])
def conditioning(request, monkeypatch):
    """Runs a test with both kinds of preconditioner."""
    if request.param == "diagonal":
        monkeypatch.setattr(preconditioner, "FULL_COST", 0)
    return request.param


@pytest.fixture(scope="module")
def noisy():
    """300 prompts of 8, 30 features; too noisy to be separable."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 8, 30))
    signal = X @ rng.normal(size=30) / np.sqrt(30)
    return X, (signal + 1.5 * rng.normal(size=(300, 8)) > 0).astype(float)


@pytest.fixture
def pairs(rng):
    """Prompts of a chosen candidate and a rejected one, in this order."""
    X = rng.normal(size=(80, 2, 4))
    better = X[:, 0, 0] - X[:, 1, 0] + rng.normal(size=80) > 0
    X = np.where(better[:, None, None], X, X[:, ::-1])
    return X, np.tile([1.0, 0], (80, 1))


def make_objective(X, y, loss, *, alpha=0.01, fit_intercept=True):
    layout = check_layout(y.shape)
    return LinearObjective(
        X.reshape(-1, X.shape[-1]),
        layout,
        y.ravel(),
        LOSSES[loss](),
        alpha=alpha,
        fit_intercept=fit_intercept,
        prompt_weight=np.ones(layout.n_prompts),
    )


def solve(objective, *, tol=1e-4, max_iter=200, **options):
    start = np.zeros(objective.n_parameters)
    return minimize_lbfgs(objective, start, tol=tol, max_iter=max_iter, **options)


def relative_gap(objective, theta, best):
    """How far theta is from the best, where zero coefficients are 1 away."""
    at_zero, value, lowest = (
        objective.value_and_gradient(place)[0]
        for place in (np.zeros_like(theta), theta, best)
    )
    return (value - lowest) / (at_zero - lowest)


# The optimum.


@pytest.mark.parametrize("loss", SMOOTH)
def test_the_gradient_vanishes(loss, sets, conditioning):
    objective = make_objective(*sets, loss)
    theta, _ = solve(objective, tol=1e-9, max_iter=1000)
    _, gradient = objective.value_and_gradient(theta)
    _, at_zero = objective.value_and_gradient(np.zeros_like(theta))
    assert abs(gradient).max() < 1e-7 * abs(at_zero).max()


@pytest.mark.parametrize("loss", CONVEX)
def test_no_place_nearby_is_better(loss, sets, rng):
    objective = make_objective(*sets, loss)
    theta, _ = solve(objective, tol=1e-8, max_iter=2000)
    value, _ = objective.value_and_gradient(theta)
    for scale in (1e-3, 1e-2, 0.1, 1):
        for step in rng.normal(scale=scale, size=(5, len(theta))):
            assert objective.value_and_gradient(theta + step)[0] > value


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("alpha", [1e-3, 0.1])
def test_log_loss_is_logistic_regression(alpha, fit_intercept, sets):
    X, y = sets
    X, y = X.reshape(-1, 4), y.ravel()
    X = X + np.array([0.5, 0, -1, 2])
    expected = LogisticRegression(
        C=1 / (alpha * len(y)),
        fit_intercept=fit_intercept,
        solver="newton-cholesky",
        tol=1e-10,
    ).fit(X, y)
    model = QProbeRegressor(
        loss="log_loss", alpha=alpha, fit_intercept=fit_intercept, tol=1e-8
    ).fit(X, y)
    assert_allclose(model.coef_, expected.coef_[0], rtol=1e-5)
    assert_allclose(model.intercept_, expected.intercept_, rtol=1e-5)
    assert_allclose(model.predict(X), expected.predict_proba(X)[:, 1], rtol=1e-5)


@pytest.mark.parametrize("fit_intercept", [False, True])
def test_log_loss_of_fractional_rewards(fit_intercept, rows, rng):
    # A reward of r is a success of weight r and a failure of weight 1 - r.
    X, _, groups = rows
    y = rng.uniform(size=len(X))
    weight = rng.uniform(0.5, 2, size=len(X))
    prompt_total = {label: weight[groups == label].sum() for label in set(groups)}
    share = weight / [prompt_total[label] for label in groups] / len(prompt_total)
    alpha = 0.01
    expected = LogisticRegression(
        C=1 / alpha, fit_intercept=fit_intercept, solver="newton-cholesky", tol=1e-10
    ).fit(
        np.concatenate([X, X]),
        np.repeat([1, 0], len(X)),
        sample_weight=np.concatenate([share * y, share * (1 - y)]),
    )
    model = QProbeRegressor(
        loss="log_loss", alpha=alpha, fit_intercept=fit_intercept, tol=1e-8
    ).fit(X, y, groups, sample_weight=weight)
    assert_allclose(model.coef_, expected.coef_[0], rtol=1e-5, atol=1e-7)
    assert_allclose(model.intercept_, expected.intercept_, rtol=1e-5)


def test_pairwise_logistic_is_logistic_regression_on_differences(pairs):
    X, y = pairs
    lead = X[:, 0] - X[:, 1]
    alpha = 0.05
    expected = LogisticRegression(
        C=1 / (alpha * 2 * len(lead)),  # each pair comes in both directions
        fit_intercept=False,
        solver="newton-cholesky",
        tol=1e-10,
    ).fit(np.concatenate([lead, -lead]), np.repeat([1, 0], len(lead)))
    policy = QProbePolicy("pairwise_logistic", alpha=alpha, tol=1e-8).fit(X, y)
    assert_allclose(policy.coef_, expected.coef_[0], rtol=1e-5)


def test_pairwise_hinge_is_a_support_vector_machine_on_differences(pairs):
    X, y = pairs
    lead = X[:, 0] - X[:, 1]
    alpha, margin = 0.01, 0.1
    machine = LinearSVC(
        loss="hinge",
        # In units of the margin: |coef|^2 / 2 + mean hinge / (alpha margin).
        C=1 / (alpha * margin * 2 * len(lead)),
        fit_intercept=False,
        tol=1e-8,
        max_iter=1_000_000,
        random_state=0,
    ).fit(np.concatenate([lead, -lead]), np.repeat([1, 0], len(lead)))
    objective = make_objective(X, y, "pairwise_hinge", alpha=alpha)
    best = margin * machine.coef_[0]
    theta, _ = solve(objective)
    assert abs(relative_gap(objective, theta, best)) < 1e-3
    theta, _ = solve(objective, tol=1e-8, max_iter=2000)
    assert abs(relative_gap(objective, theta, best)) < 1e-5


def test_policy_gradient_tilts_towards_rewards(noisy):
    X, y = noisy
    objective = make_objective(X, y, "policy_gradient", alpha=1e-3)
    theta, _ = solve(objective)
    value, _ = objective.value_and_gradient(theta)
    # Minus the expected reward of a softmax choice, and that of no choice.
    assert value < -y.mean() - 0.1


# Conditioning.


@pytest.mark.parametrize("loss", LOSSES)
def test_scale_of_columns_without_penalty(loss, noisy, rng, conditioning):
    X, y = noisy
    scale = 10 ** rng.uniform(-3, 3, X.shape[-1])
    objective = make_objective(X, y, loss, alpha=0)
    theta, n_iter = solve(objective)
    scaled, n_iter_scaled = solve(make_objective(X * scale, y, loss, alpha=0))
    scaled[:30] *= scale
    assert n_iter_scaled <= 2 * n_iter
    # At the end of a solver's path: equal in value rather than in parameters.
    tight, _ = solve(objective, tol=1e-7, max_iter=2000)
    for result in (theta, scaled):
        assert relative_gap(objective, result, tight) < 1e-3
    if loss in ("squared_error", "log_loss", "contrastive_policy_gradient"):
        assert_allclose(scaled, theta, atol=1e-3 * abs(theta).max())


# Prompts with 30 features of 6 orders of magnitude, and a penalty that forbids using
# the small ones.
@pytest.mark.parametrize("alpha", [1e-6, 1e-2])
@pytest.mark.parametrize("loss", LOSSES)
def test_scale_of_columns_with_penalty(loss, alpha, noisy, rng, conditioning):
    X, y = noisy
    X = X * 10 ** rng.uniform(-3, 3, X.shape[-1])
    objective = make_objective(X, y, loss, alpha=alpha)
    theta, n_iter = solve(objective)
    assert n_iter < 190
    tight, _ = solve(objective, tol=1e-7, max_iter=5000)
    # Policy gradient is not convex: a path may end on a plateau.
    allowed = 1e-3 if loss in CONVEX else 5e-2
    assert relative_gap(objective, theta, tight) < allowed


@pytest.mark.parametrize("alpha", [0, 1e-2])
@pytest.mark.parametrize("loss", LOSSES)
def test_columns_far_from_zero(loss, alpha, noisy, rng, conditioning):
    # An intercept, or the choice inside a prompt, takes the offset up.
    X, y = noisy
    far = X + 1e3 * rng.normal(size=X.shape[-1])
    theta, n_iter = solve(make_objective(X, y, loss, alpha=alpha))
    far_theta, far_n_iter = solve(make_objective(far, y, loss, alpha=alpha))
    assert far_n_iter <= 1.5 * n_iter
    size = abs(theta[:30]).max()
    # The hinge loss has kinks, at which rounding parts the paths.
    atol = 0.05 * size if loss == "pairwise_hinge" else 1e-4 * size
    assert_allclose(far_theta[:30], theta[:30], atol=atol)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("loss", WITH_INTERCEPT)
def test_columns_far_from_zero_without_intercept(loss, dtype, noisy, rng, conditioning):
    # Nothing takes the offset up, so that it belongs to the second moments. At zero
    # it makes up nearly all of the gradient, and must not define its unit.
    X, y = noisy
    far = (X + 1e3 * rng.normal(size=X.shape[-1])).astype(dtype)
    options = {"fit_intercept": False, "alpha": 1e-2}
    objective = make_objective(far.astype(np.float64), y, loss, **options)
    theta, n_iter = solve(make_objective(far, y, loss, **options))
    tight, _ = solve(objective, tol=1e-9, max_iter=5000)
    assert relative_gap(objective, theta, tight) < 1e-4
    assert n_iter < 30


@pytest.mark.parametrize("alpha", [0, 1e-2])
@pytest.mark.parametrize("loss", LOSSES)
def test_constant_and_duplicated_columns(loss, alpha, sets, conditioning):
    X, y = sets
    constant = np.full((*y.shape, 1), 0.1)  # not a sum of powers of two
    degenerate = np.concatenate([X, X[..., :1], constant, 0 * constant], axis=-1)
    objective = make_objective(degenerate, y, loss, alpha=alpha)
    theta, _ = solve(objective, tol=1e-6, max_iter=1000)
    assert np.isfinite(theta).all()
    # Twice a column is sqrt(2) times the column under the same penalty.
    same = X * [np.sqrt(2), 1, 1, 1]
    plain = make_objective(same, y, loss, alpha=alpha)
    expected, _ = solve(plain, tol=1e-6, max_iter=1000)
    assert objective.value_and_gradient(theta)[0] == pytest.approx(
        plain.value_and_gradient(expected)[0],
        rel=1e-3 if loss == "pairwise_hinge" else 1e-5,  # its kinks part the paths
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("loss", LOSSES)
def test_constant_column_gets_no_coefficient(loss, dtype, sets):
    # It tells nothing that the intercept does not, so that a large coefficient would
    # be rounding alone, and ruin predictions where the column is not quite constant.
    X, y = sets
    X = np.concatenate([X, np.full((*y.shape, 1), 0.1)], axis=-1).astype(dtype)
    theta, _ = solve(make_objective(X, y, loss, alpha=1e-10), tol=1e-6, max_iter=1000)
    assert abs(theta[4]) < abs(theta[:4]).max()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("loss", LOSSES)
def test_low_precision(loss, dtype, noisy):
    X, y = noisy
    X = (X + 3).astype(dtype)
    exact = make_objective(X.astype(np.float64), y, loss)
    expected, n_iter_expected = solve(exact)
    theta, n_iter = solve(make_objective(X, y, loss))
    assert relative_gap(exact, theta, expected) < 1e-3
    assert n_iter <= 2 * n_iter_expected


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("alpha", [0, 1e-2])
@pytest.mark.parametrize("loss", ["log_loss", "policy_gradient"])
class TestConditioner:
    @pytest.fixture
    def preconditioner(self, loss, alpha, fit_intercept, sets, rng, conditioning):
        X, y = sets
        X = (X @ rng.normal(size=(4, 4)) + [5, 0, -3, 100]) * [1, 1e3, 1e-3, 1]
        objective = make_objective(X, y, loss, alpha=alpha, fit_intercept=fit_intercept)
        result = Preconditioner(objective, objective.alpha, model_hessian(objective))
        assert (result.factor is None) == (conditioning == "diagonal")
        assert (result.center is None) != objective.has_intercept
        result.n_parameters = objective.n_parameters
        return result

    def test_ways_there_and_back(self, preconditioner, rng):
        v = rng.normal(size=preconditioner.n_parameters)
        theta = preconditioner.to_theta(v)
        assert theta.shape == v.shape
        assert_allclose(preconditioner.to_v(theta), v, rtol=1e-8)
        assert_allclose(preconditioner.to_theta(preconditioner.to_v(theta)), theta)

    def test_linear(self, preconditioner, rng):
        n = preconditioner.n_parameters
        one, other = rng.normal(size=(2, n))
        assert_array_equal(preconditioner.to_theta(np.zeros(n)), 0)
        assert_allclose(
            preconditioner.to_theta(2 * one - other),
            2 * preconditioner.to_theta(one) - preconditioner.to_theta(other),
        )

    def test_gradient_is_the_transpose(self, preconditioner, rng):
        # d f(theta(v)) / dv, where f is any linear function.
        slope = rng.normal(size=preconditioner.n_parameters)
        expected = [slope @ preconditioner.to_theta(e) for e in np.eye(len(slope))]
        gradient = preconditioner.gradient_in_v(slope)
        assert_allclose(gradient, expected, atol=1e-12 * abs(gradient).max())


@pytest.mark.parametrize("alpha", [0, 0.3])
@pytest.mark.parametrize("loss", LOSSES)
def test_curvature_becomes_about_the_same_everywhere(loss, alpha, noisy, rng):
    X, y = noisy
    d = 5
    X = X[..., :d] @ rng.normal(size=(d, d)) * 10 ** rng.uniform(-3, 3, d) + 10
    objective = make_objective(X, y, loss, alpha=alpha)
    preconditioner = Preconditioner(
        objective, objective.alpha, model_hessian(objective)
    )
    n = objective.n_parameters
    # Second differences over a finite distance, which sees a mean of the hinge's kinks.
    step = 0.1 if loss == "pairwise_hinge" else 1e-3

    def gradient(v):
        return preconditioner.gradient_in_v(
            objective.value_and_gradient(preconditioner.to_theta(v))[1]
        )

    hessian = np.array(
        [(gradient(step * e) - gradient(-step * e)) / (2 * step) for e in np.eye(n)]
    )
    hessian = (hessian + hessian.T) / 2
    if loss == "policy_gradient":  # not convex
        hessian = hessian + 2 * np.eye(n)
    eigenvalues = np.linalg.eigvalsh(hessian)
    assert 0 < eigenvalues[-1] < 10 * eigenvalues[0]


# Iterations.


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("loss", LOSSES)
def test_callback_sees_every_iteration(loss, dtype, noisy):
    X, y = noisy
    objective = make_objective(X.astype(dtype), y, loss)
    seen = []
    theta, n_iter = solve(
        objective, on_iteration=lambda theta, value: seen.append((theta, value))
    )
    assert n_iter == len(seen) > 1
    assert_array_equal(seen[-1][0], theta)
    values = [value for _, value in seen]
    for place, value in seen:
        assert value == pytest.approx(objective.value_and_gradient(place)[0], rel=1e-6)
    assert (np.diff(values) <= 1e-6 * abs(values[0])).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_callback_may_stop(loss, sets):
    objective = make_objective(*sets, loss)
    seen = []

    def on_iteration(theta, value):
        seen.append(theta)
        return len(seen) == 2

    theta, n_iter = solve(objective, tol=1e-10, on_iteration=on_iteration)
    assert n_iter == len(seen) == 2
    assert_array_equal(theta, seen[-1])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("loss", LOSSES)
def test_convergence_warning(loss, dtype, noisy):
    X, y = noisy
    objective = make_objective(X.astype(dtype), y, loss)
    seen = []
    expected, n_needed = solve(objective)  # no warning
    for max_iter in {1, n_needed // 2, n_needed - 1}:
        seen.clear()
        message = (
            rf"did not converge after {max_iter} iterations \(max_iter={max_iter}\)"
        )
        with pytest.warns(ConvergenceWarning, match=message):
            _, n_iter = solve(
                objective,
                max_iter=max_iter,
                on_iteration=lambda theta, value: seen.append(theta),
            )
        assert n_iter == len(seen) == max_iter
    theta, n_iter = solve(objective, max_iter=n_needed + 1)
    assert n_iter == n_needed
    assert_array_equal(theta, expected)


def test_convergence_warning_of_an_estimator(sets):
    with pytest.warns(ConvergenceWarning, match="Increase max_iter, or alpha, or tol"):
        policy = QProbePolicy(max_iter=2).fit(*sets)
    assert policy.n_iter_ == 2
    assert QProbePolicy(max_iter=200).fit(*sets).n_iter_ > 2


def test_curvature_is_measured_anew_near_the_minimum(rng, monkeypatch):
    # Easy to choose well by two of the features: the softmax saturates.
    X = rng.normal(size=(300, 8, 40)) * np.logspace(0, 2, 40)
    y = (X[..., 0] + X[..., 1] > 0).astype(float)
    objective = make_objective(X, y, "policy_gradient", alpha=1e-5)
    theta, n_iter = solve(objective)
    monkeypatch.setattr(lbfgs, "NEAR", 0)
    once, n_iter_once = solve(objective)
    assert n_iter < 0.8 * n_iter_once
    value, value_once = (objective.value_and_gradient(t)[0] for t in (theta, once))
    assert value == pytest.approx(value_once, abs=1e-4)


@pytest.mark.parametrize("loss", ["log_loss", "pairwise_logistic"])
def test_principal_directions_stand_in_for_all_moments(loss, rng, monkeypatch):
    monkeypatch.setattr(preconditioner, "FULL_COST", 0)
    n, k, d, n_strong = 100, 8, 60, 5
    strong = np.linalg.qr(rng.normal(size=(d, n_strong)))[0]
    X = rng.normal(size=(n, k, d))
    noise = model_hessian(make_objective(X, np.ones((n, k)), loss))
    assert noise.directions.shape[1] <= 3  # some may lie at the edge
    X += 30 * rng.normal(size=(n, k, n_strong)) @ strong.T
    y = (X @ strong[:, 0] / 30 + X[..., 0] + rng.normal(size=(n, k)) > 0).astype(float)
    objective = make_objective(X, y, loss)
    model = model_hessian(objective)
    assert model.directions.shape[1] >= n_strong
    # In standardised columns, they span what was planted.
    standardised = strong / np.sqrt(model.moment)[:, None]
    basis = np.linalg.qr(model.directions)[0]
    left = standardised - basis @ (basis.T @ standardised)
    assert np.linalg.norm(left) < 0.2 * np.linalg.norm(standardised)
    # And they save iterations.
    _, n_iter = solve(objective)
    monkeypatch.setattr(preconditioner, "N_DIRECTIONS", 0)
    _, n_iter_without = solve(objective)
    assert n_iter < 0.7 * n_iter_without
