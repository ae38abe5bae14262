import numpy as np
import pytest
from cases import (
    LEAST_SQUARES,
    WITH_INTERCEPT,
    as_rows,
    centered_in_prompts,
    make_objective,
    solve_ridge,
)
from numpy.testing import assert_allclose, assert_array_equal

from skqprobe._arrays import blocks
from skqprobe._arrays.blocks import compute_dtype
from skqprobe._candidates.layout import check_layout
from skqprobe._objectives import linear
from skqprobe._objectives.linear import linear_scores
from skqprobe.losses import LOSSES

every_loss = pytest.mark.parametrize("loss", LOSSES)
two_kinds_of_loss = pytest.mark.parametrize("loss", ["log_loss", "policy_gradient"])
with_and_without_weights = pytest.mark.parametrize("weighted", [False, True])
with_and_without_intercept = pytest.mark.parametrize("fit_intercept", [False, True])


def objective_of(data, loss, *, weighted=False, alpha=0.3, **settings):
    """Objective of data (X, y, groups), with weights of prompts and candidates."""
    X, y, groups = data
    if weighted:
        layout = check_layout(y.shape, groups)
        settings["prompt_weight"], settings["candidate_weight"] = weights_of(layout)
    return make_objective(X, y, loss, groups, alpha=alpha, **settings)


def weights_of(layout):
    rng = np.random.default_rng(1)
    prompt_weight = rng.integers(0, 3, layout.n_prompts).astype(float)
    return prompt_weight, rng.uniform(0.5, 2, layout.n_rows)


def with_dtype(data, dtype):
    return data[0].astype(dtype), *data[1:]


@with_and_without_weights
@with_and_without_intercept
@every_loss
def test_value_is_that_of_a_loop_over_prompts(loss, fit_intercept, weighted, data, rng):
    settings = {"weighted": weighted, "fit_intercept": fit_intercept}
    objective = objective_of(data, loss, **settings)
    theta = rng.normal(scale=0.3, size=objective.n_parameters)
    coef, intercept = theta[:4], theta[4] if objective.has_intercept else 0
    X, y, groups = as_rows(*data[:2]) if data[2] is None else data
    prompt_weight, candidate_weight = np.ones(len(set(groups))), np.ones(len(y))
    if weighted:
        prompt_weight, candidate_weight = weights_of(objective.layout)
    total, n = 0.0, 0
    for w, label in zip(prompt_weight, dict.fromkeys(groups), strict=True):
        phi, r = X[groups == label], y[groups == label]
        z = [sum(p * c for p, c in zip(row, coef, strict=True)) for row in phi]
        of_prompt = candidate_weight[n : n + len(r)]
        value, _ = LOSSES[loss]().value_and_gradient(
            np.array(z) + intercept, r, np.array([0, len(r)]), of_prompt
        )
        total += w * value[0]
        n += len(r)
    expected = total / prompt_weight.sum() + 0.3 / 2 * sum(c**2 for c in coef)
    assert objective.value_and_gradient(theta)[0] == pytest.approx(expected, rel=1e-12)


@with_and_without_weights
@with_and_without_intercept
@every_loss
def test_gradient_is_that_of_finite_differences(
    loss, fit_intercept, weighted, data, rng
):
    settings = {"weighted": weighted, "fit_intercept": fit_intercept}
    evaluate = objective_of(data, loss, **settings).value_and_gradient
    theta = rng.normal(scale=0.3, size=4 + (fit_intercept and loss in WITH_INTERCEPT))
    _, gradient = evaluate(theta)
    steps = 1e-6 * np.eye(len(theta))
    slopes = [(evaluate(theta + e)[0] - evaluate(theta - e)[0]) / 2e-6 for e in steps]
    assert_allclose(gradient, slopes, rtol=1e-6, atol=1e-7)
    assert abs(gradient).min() > 1e-5


@with_and_without_intercept
@every_loss
def test_intercept_only_if_it_changes_the_loss(loss, fit_intercept, sets):
    objective = objective_of((*sets, None), loss, fit_intercept=fit_intercept)
    assert objective.has_intercept == (fit_intercept and loss in WITH_INTERCEPT)
    assert objective.n_parameters == 4 + objective.has_intercept
    coef, intercept = objective.split(np.arange(1.0, objective.n_parameters + 1))
    assert_array_equal(coef, [1, 2, 3, 4])
    assert intercept == (5 if objective.has_intercept else 0)


@every_loss
def test_only_the_penalty_if_all_weights_are_zero(loss, sets):
    settings = {"alpha": 2.0, "fit_intercept": False, "prompt_weight": np.zeros(60)}
    objective = make_objective(*sets, loss, **settings)
    value, gradient = objective.value_and_gradient(np.ones(4))
    assert value == 4
    assert_array_equal(gradient, 2)


# Blocks of 1 byte are single prompts; 300 bytes are 9 rows of 4 features.
@pytest.mark.parametrize("block_bytes", [1, 300, 1000])
@every_loss
def test_blocks_change_nothing(loss, block_bytes, data, rng, monkeypatch):
    whole = objective_of(data, loss, weighted=True)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block_bytes)
    blocked = objective_of(data, loss, weighted=True)
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
    weight = rng.uniform(1, 2, whole.layout.n_rows)
    for arguments in ((False,), (True,), (False, weight), (True, weight)):
        found, expected = blocked.moments(*arguments), whole.moments(*arguments)
        for one, other in zip(found, expected, strict=True):
            assert_allclose(one, other, atol=1e-13)
    assert_allclose(blocked.score_curvature(), whole.score_curvature())
    if loss in LEAST_SQUARES:
        monkeypatch.setattr(linear, "PRODUCT_ROWS", 1)
        assert len(list(whole.least_squares_rows())) == 1
        assert len(list(blocked.least_squares_rows())) > 1
        assert_allclose(solve_ridge(blocked), solve_ridge(whole), atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@every_loss
def test_low_precision(loss, dtype, data, rng):
    data = with_dtype(data, dtype)
    objective = objective_of(data, loss)
    assert objective.dtype == np.float32
    theta = rng.normal(scale=0.3, size=objective.n_parameters)
    value, gradient = objective.value_and_gradient(theta)
    exact = objective_of(with_dtype(data, np.float64), loss)
    expected_value, expected = exact.value_and_gradient(theta)
    assert gradient.dtype == np.float64
    assert value == pytest.approx(expected_value, rel=1e-5)
    assert_allclose(gradient, expected, atol=1e-5 * abs(expected).max())


def test_rows_outside_the_layout_are_not_read(rows):
    X, y, groups = rows
    out = np.arange(len(X)) % 3 == 0
    layout = check_layout(y.shape, groups)
    layout = layout.keep(~layout.to_prompt_order(out))
    found, expected = (
        make_objective(array, y, "squared_error", layout=layout).value_and_gradient(
            np.ones(5)
        )[1]
        for array in (np.where(out[:, None], np.nan, X), X)
    )
    assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("loss", ["squared_error", "policy_gradient"])
def test_moments(loss, dtype, data):
    X, _, groups = as_rows(*data[:2]) if data[2] is None else data
    centered = X - X.mean(axis=0)
    if loss == "policy_gradient":  # shift-invariant
        centered = centered_in_prompts(X, groups)
    objective = objective_of(with_dtype(data, dtype), loss)
    mean, moment = objective.moments(full=True)
    _, variance = objective.moments(full=False)
    rtol = 1e-12 if dtype == np.float64 else 1e-5
    if loss == "squared_error":
        assert_allclose(mean, X.mean(axis=0), rtol=rtol)
    expected = np.tril(centered.T @ centered) / len(X)
    assert_allclose(np.tril(moment), expected, rtol=rtol, atol=rtol)
    assert_allclose(variance, (centered**2).mean(axis=0), rtol=rtol)


@pytest.mark.parametrize("loss", ["squared_error", "policy_gradient"])
def test_weights_in_moments_are_copies(loss, sets, rng):
    X, y, groups = as_rows(*sets)
    copies = rng.integers(1, 4, len(X))
    whole = objective_of((*sets, None), loss)
    copied = objective_of(
        [each.repeat(copies, axis=0) for each in (X, y, groups)], loss
    )
    for full in (False, True):
        (mean, found), (expected_mean, expected) = (
            whole.moments(full, weight=copies),
            copied.moments(full),
        )
        if loss == "squared_error":
            assert_allclose(mean, expected_mean, atol=1e-12)
        lower = np.tril if full else np.asarray
        assert_allclose(lower(found), lower(expected), atol=1e-12)
    basis = rng.normal(size=(X.shape[1], 2))
    mean, moment = copied.moments(full=True)
    moment = np.tril(moment) + np.tril(moment, -1).T
    product = whole.moment_product(mean, basis, copies)
    assert_allclose(product, moment @ basis, atol=1e-12)


def test_sampled_blocks_have_the_largest_weights(sets, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)
    objective = objective_of((*sets, None), "log_loss")
    k, weight = sets[1].shape[1], np.arange(sets[1].size)
    sample, same = objective.sample(2 * k, weight)
    assert same is weight and sample.n_rows >= 2 * k
    last = len(sets[1]) - 1
    assert [prompts.start for prompts, _, _ in sample._blocks[:2]] == [last, last - 1]
    expected = np.concatenate([sets[0][-1], sets[0][-2]]).mean(axis=0)
    assert_allclose(objective.sample(k + 1, weight)[0].column_mean(), expected)


# Curvature of the loss in the scores


def test_score_curvature_of_squared_errors(sets):
    """The second derivative is 2; a standard normal step has length sqrt(2 / pi)."""
    X, y = sets
    objective = objective_of((X, np.zeros_like(y), None), "squared_error")
    expected = 2 * np.sqrt(2 / np.pi)
    curvature = objective.score_curvature()
    assert curvature.shape == (y.size,)
    assert curvature.sum() == pytest.approx(expected, rel=0.1)


@two_kinds_of_loss
def test_score_curvature_falls_where_scores_saturate(loss, sets, rng):
    objective = objective_of((*sets, None), loss)
    theta = rng.normal(size=objective.n_parameters)
    coef, intercept = objective.split(theta)
    expected = sets[0].reshape(-1, 4) @ coef + intercept
    assert_allclose(objective.scores(theta), expected)
    at_zero, saturated = (
        objective.score_curvature(objective.scores(scale * theta)) for scale in (0, 30)
    )
    assert_array_equal(at_zero, objective.score_curvature())
    assert saturated.sum() < 0.7 * at_zero.sum()


@every_loss
def test_score_curvature_is_proportional_to_the_loss(loss, sets, monkeypatch):
    objective = objective_of((*sets, None), loss)
    before, original = objective.score_curvature(), objective.loss.value_and_gradient
    assert before.sum() > 0

    def scaled(*args):
        return tuple(1e6 * part for part in original(*args))

    monkeypatch.setattr(objective.loss, "value_and_gradient", scaled)
    assert_allclose(objective.score_curvature(), 1e6 * before)


@with_and_without_weights
@with_and_without_intercept
@pytest.mark.parametrize("loss", LEAST_SQUARES)
def test_least_squares_rows_are_the_objective(
    loss, fit_intercept, weighted, data, rng, monkeypatch
):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 300)
    monkeypatch.setattr(linear, "PRODUCT_ROWS", 1)
    settings = {"weighted": weighted, "fit_intercept": fit_intercept}
    objective = objective_of(data, loss, **settings)
    theta = rng.normal(size=objective.n_parameters)
    coef, intercept = objective.split(theta)
    problem = list(objective.least_squares_rows())
    assert len(problem) > 1
    if objective.has_intercept:
        v = np.concatenate([v for *_, v in problem])
        errors = np.concatenate([t[0] - X @ coef for X, t, _ in problem])
        theta[-1] = intercept = v @ errors / v.sum()
    squares = sum(v @ (X @ coef + intercept - t) ** 2 for X, (t,), v in problem)
    value, gradient = objective.value_and_gradient(theta)
    assert squares + 0.3 / 2 * coef @ coef == pytest.approx(value, rel=1e-12)
    if objective.has_intercept:
        assert gradient[-1] == pytest.approx(0, abs=1e-13)


@with_and_without_weights
def test_pairs_can_be_rows_of_differences(weighted, rng, monkeypatch):
    monkeypatch.setattr(linear, "PRODUCT_ROWS", 1)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 300)
    X, y = rng.normal(size=(20, 2, 5)), rng.random((20, 2))
    data = X, y, None
    objective = objective_of(data, "contrastive_policy_gradient", weighted=weighted)
    coef = rng.normal(size=5)
    rows = objective.least_squares_rows(merge_pairs=True)
    blocks_, targets, weights = zip(*rows, strict=True)
    assert len(blocks_) > 1
    merged = np.concatenate(blocks_)
    assert_allclose(merged, X[:, 0] - X[:, 1])
    errors = merged @ coef - np.concatenate(targets, axis=1)[0]
    value = np.concatenate(weights) @ errors**2 + 0.3 / 2 * coef @ coef
    assert value == pytest.approx(objective.value_and_gradient(coef)[0], rel=1e-12)


def test_centered_rows_are_kept_until_others_are_read(rng):
    X, y = rng.normal(size=(6, 3, 2)), rng.random((6, 3))
    objective = objective_of((X, y, None), "squared_error", center=np.array([1.0, 2]))
    expected = X.reshape(-1, 2) - [1, 2]
    for rows in (slice(0, 9), slice(0, 9), slice(9, 18), np.arange(5), slice(0, 9)):
        assert_array_equal(objective._read(rows), expected[rows])


def test_a_sample_does_not_share_the_memory_of_rows(rng):
    X, y = rng.normal(size=(6, 3, 2)), rng.random((6, 3))
    objective = objective_of((X, y, None), "squared_error", center=np.array([1.0, 2]))
    expected = X.reshape(-1, 2) - [1, 2]
    assert_array_equal(objective._read(slice(0, 9)), expected[:9])
    sample = objective.with_blocks(objective._blocks)
    assert_array_equal(sample._read(slice(9, 18)), expected[9:])
    assert_array_equal(objective._read(slice(0, 9)), expected[:9])


@pytest.mark.parametrize("block_bytes", [1, 64, 2**20])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_linear_scores(dtype, block_bytes, rng, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block_bytes)
    X, coef = rng.normal(size=(50, 7)).astype(dtype), rng.normal(size=7)
    scores = linear_scores(X, coef, 2.5)
    assert scores.dtype == compute_dtype(X)
    assert scores.dtype == (np.float64 if dtype == np.float64 else np.float32)
    rtol = 1e-12 if dtype == np.float64 else 1e-5
    assert_allclose(scores, X.astype(np.float64) @ coef + 2.5, rtol=rtol, atol=rtol)
