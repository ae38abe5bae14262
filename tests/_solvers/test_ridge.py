import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import Ridge

from skqprobe import QProbePolicy, QProbeRegressor
from skqprobe._candidates.layout import check_layout
from skqprobe._objectives.linear import LinearObjective
from skqprobe._solvers import minimize_lbfgs, solve_ridge
from skqprobe.losses import LOSSES, ContrastivePolicyGradient

WITH_CLOSED_FORM = ["squared_error", "contrastive_policy_gradient"]


@pytest.fixture(params=["few_features", "many_features"])
def data(request, rng):
    """30 prompts of 4, with 7 features (fewer than rows) or with 150 (more)."""
    d = 7 if request.param == "few_features" else 150
    X = rng.normal(size=(30, 4, d)) + rng.normal(size=d)
    return X, X[..., 0] - X[..., 1] + rng.normal(size=(30, 4))


def make_objective(X, y, loss, *, alpha=0.1, fit_intercept=True):
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


def centred_in_prompts(values, groups, weight):
    """Values less their weighted mean in each prompt, one prompt after the other."""
    centred = np.empty_like(values)
    for label in set(groups):
        rows = groups == label
        mean = np.average(values[rows], axis=0, weights=weight[rows])
        centred[rows] = values[rows] - mean
    return centred


@pytest.mark.parametrize("alpha", [1e-4, 0.1, 100])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("loss", WITH_CLOSED_FORM)
def test_is_a_stationary_point(loss, fit_intercept, alpha, data):
    objective = make_objective(*data, loss, alpha=alpha, fit_intercept=fit_intercept)
    theta = solve_ridge(objective)
    assert theta.shape == (objective.n_parameters,)
    _, at_zero = objective.value_and_gradient(np.zeros_like(theta))
    _, gradient = objective.value_and_gradient(theta)
    assert abs(gradient).max() < 1e-10 * abs(at_zero).max()


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("loss", WITH_CLOSED_FORM)
def test_equals_lbfgs(loss, fit_intercept, data):
    objective = make_objective(*data, loss, fit_intercept=fit_intercept)
    start = np.zeros(objective.n_parameters)
    expected, _ = minimize_lbfgs(objective, start, tol=1e-10, max_iter=1000)
    assert_allclose(solve_ridge(objective), expected, atol=1e-7)


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 10])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("layout", ["sets", "rows"])
def test_squared_error_is_ridge(layout, fit_intercept, alpha, data):
    X, y = data
    ridge = Ridge(alpha * y.size / 2, fit_intercept=fit_intercept)
    ridge.fit(X.reshape(y.size, -1), y.ravel())
    if layout == "rows":
        X, y = X.reshape(y.size, -1), y.ravel()
    model = QProbeRegressor(
        alpha=alpha, fit_intercept=fit_intercept, solver="closed_form"
    ).fit(X, y)
    assert model.n_iter_ == 1
    assert_allclose(model.coef_, ridge.coef_, rtol=1e-8, atol=1e-10)
    assert model.intercept_ == pytest.approx(ridge.intercept_, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("fit_intercept", [False, True])
def test_weights_of_prompts_as_in_ridge(fit_intercept, data, rng):
    X, y = data
    weight = rng.integers(0, 4, len(X)).astype(float)
    model = QProbeRegressor(alpha=0.1, fit_intercept=fit_intercept)
    model.fit(X, y, sample_weight=weight)
    # The mean over prompts of the mean over their 4 rows.
    share = np.repeat(weight / weight.sum() / 4, 4)
    ridge = Ridge(0.1 / 2, fit_intercept=fit_intercept)
    ridge.fit(X.reshape(y.size, -1), y.ravel(), sample_weight=share)
    assert_allclose(model.coef_, ridge.coef_, rtol=1e-8, atol=1e-10)
    assert model.intercept_ == pytest.approx(ridge.intercept_, rel=1e-8, abs=1e-10)


def test_weights_of_rows_as_in_ridge(rows, rng):
    X, y, groups = rows
    weight = rng.uniform(0.2, 4, len(X))
    model = QProbeRegressor(alpha=0.1).fit(X, y, groups, sample_weight=weight)
    # In each prompt the shares sum to one.
    total = {label: weight[groups == label].sum() for label in set(groups)}
    share = weight / [total[label] for label in groups] / len(total)
    ridge = Ridge(0.1 / 2).fit(X, y, sample_weight=share)
    assert_allclose(model.coef_, ridge.coef_, rtol=1e-8)
    assert model.intercept_ == pytest.approx(ridge.intercept_, rel=1e-8)


@pytest.mark.parametrize("b", [1.0, 2.5])
def test_contrastive_policy_gradient_is_ridge_on_centred_rows(b, data):
    X, y = data
    policy = QProbePolicy(
        loss=ContrastivePolicyGradient(b), alpha=0.1, solver="closed_form"
    ).fit(X, y)
    # 30 prompts, each k / 2 b^2 sum_i (z_i - r_i / b)^2 with k = 4, all centred.
    centred = X - X.mean(axis=1, keepdims=True)
    ridge = Ridge(30 * 0.1 / (4 * b**2), fit_intercept=False)
    ridge.fit(
        centred.reshape(y.size, -1), (y - y.mean(axis=1, keepdims=True)).ravel() / b
    )
    assert_allclose(policy.coef_, ridge.coef_, rtol=1e-8, atol=1e-10)
    assert policy.intercept_ == 0
    assert policy.n_iter_ == 1


@pytest.mark.parametrize("weighted", [False, True])
def test_contrastive_policy_gradient_on_ragged_prompts(weighted, rows, rng):
    X, y, groups = rows
    weight = rng.uniform(0.2, 4, len(X)) if weighted else np.ones(len(X))
    policy = QProbePolicy("contrastive_policy_gradient", alpha=0.1)
    policy.fit(X, y, groups, sample_weight=weight if weighted else None)
    copies = {label: weight[groups == label].sum() for label in set(groups)}
    ridge = Ridge(0.1, fit_intercept=False).fit(
        centred_in_prompts(X, groups, weight),
        centred_in_prompts(y, groups, weight),
        sample_weight=weight * [copies[label] for label in groups] / len(copies),
    )
    assert_allclose(policy.coef_, ridge.coef_, rtol=1e-8)


@pytest.mark.parametrize("loss", WITH_CLOSED_FORM)
def test_without_penalty(loss, data):
    X, y = data
    theta = solve_ridge(make_objective(X, y, loss, alpha=0))
    if loss == "squared_error":
        design = np.column_stack([X.reshape(y.size, -1), np.ones(y.size)])
        target = y.ravel()
    else:
        design = (X - X.mean(axis=1, keepdims=True)).reshape(y.size, -1)
        target = (y - y.mean(axis=1, keepdims=True)).ravel()
    expected = np.linalg.lstsq(design, target, rcond=None)[0]
    assert_allclose(design @ theta, design @ expected, atol=1e-8)
    if design.shape[1] < y.size:  # the only solution
        assert_allclose(theta, expected, rtol=1e-8)


@pytest.mark.parametrize("alpha", [0, 1e-7, 1e-3])
@pytest.mark.parametrize("loss", WITH_CLOSED_FORM)
def test_constant_and_duplicated_columns(loss, alpha, data):
    X, y = data
    constant = np.full((*y.shape, 1), 0.1)  # not a sum of powers of two
    degenerate = np.concatenate([X, X[..., :2], constant, 0 * constant], axis=-1)
    theta = solve_ridge(make_objective(degenerate, y, loss, alpha=alpha))
    assert np.isfinite(theta).all()
    d = X.shape[-1]
    if alpha > 0:
        assert_allclose(theta[:2], theta[d : d + 2], rtol=1e-3, atol=1e-6)
        assert abs(theta[d + 2]) < 1e-6
    assert theta[d + 3] == 0

    # The scores are those of twice the first two columns under sqrt(2) of the norm.
    same = X.copy()
    same[..., :2] *= np.sqrt(2)
    expected = solve_ridge(make_objective(same, y, loss, alpha=alpha))
    scores, expected_scores = degenerate @ theta[: d + 4], same @ expected[:d]
    if loss == "squared_error":
        scores, expected_scores = scores + theta[-1], expected_scores + expected[-1]
    else:
        scores = scores - scores.mean(axis=1, keepdims=True)
        expected_scores -= expected_scores.mean(axis=1, keepdims=True)
    assert_allclose(scores, expected_scores, atol=1e-6)


@pytest.mark.parametrize("loss", WITH_CLOSED_FORM)
def test_many_scales_without_penalty(loss, rng):
    X = rng.normal(size=(30, 4, 7))
    y = X[..., 0] + rng.normal(size=(30, 4))
    scale = 10.0 ** np.linspace(-6, 6, 7)
    theta = solve_ridge(make_objective(X, y, loss, alpha=0))
    scaled = solve_ridge(make_objective(X * scale, y, loss, alpha=0))
    assert_allclose(scaled[:7] * scale, theta[:7], rtol=1e-9)


@pytest.mark.parametrize("loss", WITH_CLOSED_FORM)
def test_columns_far_from_zero(loss, rng):
    X = rng.normal(size=(30, 4, 7))
    y = X[..., 0] + rng.normal(size=(30, 4))
    theta = solve_ridge(make_objective(X, y, loss))
    shifted = solve_ridge(make_objective(X + 1e3, y, loss))
    assert_allclose(shifted[:7], theta[:7], rtol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("loss", WITH_CLOSED_FORM)
def test_low_precision(loss, dtype, data):
    X, y = data
    X = X.astype(dtype)
    theta = solve_ridge(make_objective(X, y, loss))
    expected = solve_ridge(make_objective(X.astype(np.float64), y, loss))
    assert_allclose(theta, expected, atol=1e-4 * abs(expected).max())


@pytest.mark.parametrize("alpha", [0, 1e-8])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("loss", WITH_CLOSED_FORM)
def test_dependent_columns_in_low_precision(loss, dtype, alpha, rng):
    # Up to the rounding of X, half of the columns are combinations of the others: the
    # normal equations must not add the rounding of products in float32.
    X = rng.normal(size=(100, 6, 20))
    X[..., 10:] = X[..., :10] @ rng.normal(size=(10, 10))
    y = X[..., 0] + rng.normal(size=(100, 6))
    X = X.astype(dtype)
    exact = make_objective(X.astype(np.float64), y, loss, alpha=alpha)
    best, _ = exact.value_and_gradient(solve_ridge(exact))
    theta = solve_ridge(make_objective(X, y, loss, alpha=alpha))
    assert exact.value_and_gradient(theta)[0] == pytest.approx(best, rel=1e-4)


def test_there_is_a_closed_form_for_these_alone(sets):
    assert [
        name for name in LOSSES if hasattr(LOSSES[name], "least_squares")
    ] == WITH_CLOSED_FORM
    for loss in LOSSES:
        policy = QProbePolicy(loss, solver="closed_form")
        if loss in WITH_CLOSED_FORM:
            closed = policy.fit(*sets)
            auto = QProbePolicy(loss).fit(*sets)
            assert_array_equal(closed.coef_, auto.coef_)
        else:
            message = f"solver='closed_form' cannot minimise loss='{loss}'"
            with pytest.raises(ValueError, match=message):
                policy.fit(*sets)
            assert not hasattr(policy, "coef_")


@pytest.mark.parametrize("loss", WITH_CLOSED_FORM)
def test_lbfgs_may_be_asked_for(loss, sets):
    closed = QProbePolicy(loss).fit(*sets)
    policy = QProbePolicy(loss, solver="lbfgs", tol=1e-8).fit(*sets)
    assert policy.n_iter_ > 1
    assert_allclose(policy.coef_, closed.coef_, atol=1e-7)
    assert policy.intercept_ == pytest.approx(closed.intercept_, abs=1e-7)
