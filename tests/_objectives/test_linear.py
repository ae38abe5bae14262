import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skqprobe._arrays import blocks
from skqprobe._arrays.blocks import compute_dtype
from skqprobe._candidates.layout import check_layout
from skqprobe._objectives import linear
from skqprobe._objectives.linear import LinearObjective, linear_scores
from skqprobe._solvers import solve_ridge
from skqprobe.losses import LOSSES

LEAST_SQUARES = [name for name in LOSSES if hasattr(LOSSES[name], "least_squares")]


@pytest.fixture(params=["sets", "rows"])
def data(request):
    """Candidates in one of the layouts; prompts of `rows` lie in pieces."""
    X, y, *groups = request.getfixturevalue(request.param)
    return X, y, groups[0] if groups else None


def make_objective(data, loss, *, weighted=False, alpha=0.3, **options):
    """Objective of data (X, y, groups); with weights of prompts and of rows."""
    X, y, groups = data
    layout = check_layout(y.shape, groups)
    rng = np.random.default_rng(1)
    prompt_weight, candidate_weight = np.ones(layout.n_prompts), None
    if weighted:
        prompt_weight = rng.integers(0, 3, layout.n_prompts).astype(float)
        candidate_weight = rng.uniform(0.5, 2, layout.n_rows)
    return LinearObjective(
        X.reshape(-1, X.shape[-1]),
        layout,
        layout.to_prompt_order(y),
        LOSSES[loss](),
        alpha=alpha,
        prompt_weight=prompt_weight,
        candidate_weight=candidate_weight,
        **{"fit_intercept": True, **options},
    )


def with_x(data, change):
    X, *rest = data
    return change(X), *rest


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_value_prompt_by_prompt(loss, fit_intercept, weighted, data, rng):
    objective = make_objective(
        data, loss, weighted=weighted, fit_intercept=fit_intercept
    )
    theta = rng.normal(scale=0.3, size=objective.n_parameters)
    coef, intercept = theta[:4], theta[4] if objective.has_intercept else 0

    # Straight from the user's arrays, one prompt after the other.
    X, y, groups = data
    labels = np.arange(len(y)) if groups is None else groups
    total, n = 0.0, 0
    rng = np.random.default_rng(1)
    first_seen = list(dict.fromkeys(labels.tolist()))
    w = rng.integers(0, 3, len(first_seen)) if weighted else np.ones(len(first_seen))
    v = rng.uniform(0.5, 2, y.size) if weighted else np.ones(y.size)
    for prompt, label in enumerate(first_seen):
        phi = X[labels == label].reshape(-1, 4)
        r = y[labels == label].ravel()
        z = [sum(p * c for p, c in zip(row, coef, strict=True)) for row in phi]
        value, _ = LOSSES[loss]().value_and_gradient(
            np.array(z) + intercept, r, np.array([0, len(r)]), v[n : n + len(r)]
        )
        total += w[prompt] * value[0]
        n += len(r)
    expected = total / w.sum() + 0.3 / 2 * sum(c**2 for c in coef)
    assert objective.value_and_gradient(theta)[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_by_finite_differences(loss, fit_intercept, weighted, data, rng):
    objective = make_objective(
        data, loss, weighted=weighted, fit_intercept=fit_intercept
    )
    theta = rng.normal(scale=0.3, size=objective.n_parameters)
    _, gradient = objective.value_and_gradient(theta)
    step = 1e-6
    differences = [
        (
            objective.value_and_gradient(theta + along)[0]
            - objective.value_and_gradient(theta - along)[0]
        )
        / (2 * step)
        for along in step * np.eye(len(theta))
    ]
    assert_allclose(gradient, differences, rtol=1e-6, atol=1e-7)
    assert abs(gradient).min() > 1e-5


@pytest.mark.parametrize("loss", LOSSES)
def test_intercept_only_where_the_loss_sees_it(loss, sets):
    objective = make_objective((*sets, None), loss)
    sees = loss in ("squared_error", "log_loss")
    assert objective.has_intercept == sees
    assert objective.n_parameters == 4 + sees
    without = make_objective((*sets, None), loss, fit_intercept=False)
    assert not without.has_intercept
    coef, intercept = without.split(np.arange(4.0))
    assert_array_equal(coef, np.arange(4))
    assert intercept == 0
    if sees:
        coef, intercept = objective.split(np.arange(5.0))
        assert_array_equal(coef, np.arange(4))
        assert intercept == 4


def test_penalty_spares_the_intercept(sets):
    strong, weak = (
        make_objective((*sets, None), "squared_error", alpha=alpha) for alpha in (7, 2)
    )
    theta = np.array([1.0, -2, 0, 3, 10])
    value, gradient = (
        one - other
        for one, other in zip(
            strong.value_and_gradient(theta),
            weak.value_and_gradient(theta),
            strict=True,
        )
    )
    assert value == pytest.approx(5 / 2 * (1 + 4 + 9))
    assert_allclose(gradient, 5 * np.array([1.0, -2, 0, 3, 0]), atol=1e-14)


def test_scale_of_prompt_weights_changes_nothing(sets, rng):
    X, y = sets
    weight = rng.uniform(size=len(X))
    theta = rng.normal(size=5)
    values = [
        LinearObjective(
            X.reshape(-1, 4),
            check_layout(y.shape),
            y.ravel(),
            LOSSES["log_loss"](),
            alpha=0.1,
            fit_intercept=True,
            prompt_weight=scale * weight,
        ).value_and_gradient(theta)[0]
        for scale in (1, 1000)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-14)


@pytest.mark.parametrize("loss", LOSSES)
def test_without_any_weight_the_penalty_is_left(loss, sets):
    X, y = sets
    objective = LinearObjective(
        X.reshape(-1, 4),
        check_layout(y.shape),
        y.ravel(),
        LOSSES[loss](),
        alpha=2.0,
        fit_intercept=False,
        prompt_weight=np.zeros(len(X)),
    )
    value, gradient = objective.value_and_gradient(np.ones(4))
    assert value == 4
    assert_array_equal(gradient, 2)


# 1 byte makes a block of each prompt; 300 bytes are 9 rows of 4 features.
@pytest.mark.parametrize("block_bytes", [1, 300, 1000])
@pytest.mark.parametrize("loss", LOSSES)
def test_blocks_change_nothing(loss, block_bytes, data, rng, monkeypatch):
    whole = make_objective(data, loss, weighted=True)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block_bytes)
    blocked = make_objective(data, loss, weighted=True)
    theta = rng.normal(size=whole.n_parameters)

    read = []
    original = blocked._read
    blocked._read = lambda rows: read.append(rows) or original(rows)
    value, gradient = blocked.value_and_gradient(theta)
    assert len(read) > 1
    if block_bytes == 1:
        assert len(read) == whole.layout.n_prompts

    expected_value, expected_gradient = whole.value_and_gradient(theta)
    assert value == pytest.approx(expected_value, rel=1e-13)
    assert_allclose(gradient, expected_gradient, atol=1e-13)
    for full in (False, True):
        for one, other in zip(blocked.moments(full), whole.moments(full), strict=True):
            assert_allclose(one, other, atol=1e-13)
    assert blocked.score_curvature() == pytest.approx(whole.score_curvature())
    if loss in LEAST_SQUARES:
        monkeypatch.setattr(linear, "PRODUCT_ROWS", 1)
        assert len(list(whole.least_squares_rows())) == 1
        assert len(list(blocked.least_squares_rows())) > 1
        assert_allclose(solve_ridge(blocked), solve_ridge(whole), atol=1e-13)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype, rtol", [(np.float32, 1e-5), (np.float16, 1e-5)])
def test_low_precision_is_close(loss, dtype, rtol, data, rng):
    data = with_x(data, lambda X: X.astype(dtype))
    exact = make_objective(with_x(data, lambda X: X.astype(np.float64)), loss)
    objective = make_objective(data, loss)
    assert objective.dtype == np.float32
    theta = rng.normal(scale=0.3, size=objective.n_parameters)
    value, gradient = objective.value_and_gradient(theta)
    expected_value, expected_gradient = exact.value_and_gradient(theta)
    assert gradient.dtype == np.float64
    assert value == pytest.approx(expected_value, rel=rtol)
    assert_allclose(
        gradient, expected_gradient, atol=rtol * abs(expected_gradient).max()
    )


def test_memory_mapped_x(tmp_path, data, rng):
    X, y, groups = data
    np.save(tmp_path / "X.npy", X.astype(np.float16))
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    one = make_objective((mapped, y, groups), "policy_gradient")
    other = make_objective((X.astype(np.float16), y, groups), "policy_gradient")
    assert isinstance(one.X, np.memmap)
    theta = rng.normal(size=4)
    assert_array_equal(
        one.value_and_gradient(theta)[1], other.value_and_gradient(theta)[1]
    )


def test_rows_that_the_layout_leaves_out_are_not_read(rows):
    X, y, groups = rows
    out = np.arange(len(X)) % 3 == 0
    spoilt = np.where(out[:, None], np.nan, X)
    layout = check_layout(y.shape, groups)
    layout = layout.keep(~layout.to_prompt_order(out))
    results = []
    for these in (spoilt, X):
        objective = LinearObjective(
            these,
            layout,
            layout.to_prompt_order(y),
            LOSSES["squared_error"](),
            alpha=0.1,
            fit_intercept=True,
            prompt_weight=np.ones(layout.n_prompts),
        )
        results.append(objective.value_and_gradient(np.ones(5))[1])
    assert_array_equal(*results)


def centred_in_prompts(data):
    X, _, groups = data
    if groups is None:
        return (X - X.mean(axis=1, keepdims=True)).reshape(-1, X.shape[-1])
    centred = X.copy()
    for label in set(groups):
        centred[groups == label] -= X[groups == label].mean(axis=0)
    return centred


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("loss", ["squared_error", "policy_gradient"])
def test_moments(loss, dtype, data):
    X = data[0].reshape(-1, 4)
    shift_invariant = LOSSES[loss].shift_invariant
    centred = centred_in_prompts(data) if shift_invariant else X - X.mean(axis=0)
    objective = make_objective(with_x(data, lambda X: X.astype(dtype)), loss)
    mean, moment = objective.moments(full=True)
    _, variance = objective.moments(full=False)
    rtol = 1e-12 if dtype == np.float64 else 1e-5
    assert_allclose(mean, X.mean(axis=0), rtol=rtol)
    assert_allclose(moment, centred.T @ centred / len(X), rtol=rtol, atol=rtol)
    assert_allclose(variance, (centred**2).mean(axis=0), rtol=rtol)


def test_score_curvature_of_squared_errors(sets):
    # The second derivative is 2 everywhere, and the mean size of a standard normal step
    # sqrt(2 / pi).
    X, y = sets
    objective = make_objective((X, np.zeros_like(y), None), "squared_error")
    expected = 2 * np.sqrt(2 / np.pi)
    assert objective.score_curvature() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("loss", ["log_loss", "policy_gradient"])
def test_score_curvature_falls_where_scores_saturate(loss, sets, rng):
    X, y = sets
    objective = make_objective((X, y, None), loss)
    theta = rng.normal(size=objective.n_parameters)
    curvature = [
        objective.score_curvature(objective.scores(scale * theta)) for scale in (0, 30)
    ]
    assert curvature[0] == objective.score_curvature()
    assert curvature[1] < 0.7 * curvature[0]


@pytest.mark.parametrize("loss", ["log_loss", "policy_gradient"])
def test_scores(loss, sets, rng):
    X, y = sets
    objective = make_objective((X, y, None), loss)
    theta = rng.normal(size=objective.n_parameters)
    coef, intercept = objective.split(theta)
    expected = X.reshape(-1, X.shape[-1]) @ coef + intercept
    assert_allclose(objective.scores(theta), expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_score_curvature_grows_with_a_loss(loss, sets):
    X, y = sets
    objective = make_objective((X, y, None), loss)
    before = objective.score_curvature()
    assert before > 0
    original = objective.loss.value_and_gradient
    objective.loss.value_and_gradient = lambda *args: tuple(
        1e6 * part for part in original(*args)
    )
    assert objective.score_curvature() == pytest.approx(1e6 * before)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("loss", LEAST_SQUARES)
def test_least_squares_rows_are_the_objective(
    loss, fit_intercept, weighted, data, rng, monkeypatch
):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 300)
    monkeypatch.setattr(linear, "PRODUCT_ROWS", 1)
    objective = make_objective(
        data, loss, weighted=weighted, fit_intercept=fit_intercept
    )
    theta = rng.normal(size=objective.n_parameters)
    coef, _ = objective.split(theta)
    if objective.has_intercept:
        x_mean, t_mean = objective.least_squares_means
        theta[-1] = t_mean - x_mean @ coef
    _, intercept = objective.split(theta)
    problem = list(objective.least_squares_rows())
    assert len(problem) > 1
    squares = sum(v @ (X @ coef + intercept - t) ** 2 for X, t, v in problem)
    expected = objective.value_and_gradient(theta)[0]
    assert squares + 0.3 / 2 * coef @ coef == pytest.approx(expected, rel=1e-12)
    if objective.has_intercept:
        assert objective.value_and_gradient(theta)[1][-1] == pytest.approx(0, abs=1e-13)


@pytest.mark.parametrize("block_bytes", [1, 64, 2**20])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_linear_scores(dtype, block_bytes, rng, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block_bytes)
    X = rng.normal(size=(50, 7)).astype(dtype)
    coef = rng.normal(size=7)
    scores = linear_scores(X, coef, 2.5)
    assert scores.dtype == compute_dtype(X)
    assert scores.dtype == (np.float64 if dtype == np.float64 else np.float32)
    rtol = 1e-12 if dtype == np.float64 else 1e-5
    assert_allclose(scores, X.astype(np.float64) @ coef + 2.5, rtol=rtol, atol=rtol)
