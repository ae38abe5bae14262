"""Views with penalties of their own."""

import itertools

import numpy as np
import pytest
from cases import as_rows
from estimators import assert_refused
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.linear_model import Ridge

from skqprobe import QProbePolicy, QProbePolicyCV, QProbeRegressor
from skqprobe._arrays.views import check_views, with_views
from skqprobe._estimators import _view_search

WEIGHTS = np.array([1.0, 100.0, 0.01])
SIZES = (3, 3, 1)


@pytest.fixture
def three_views(rng):
    """Three views, the second of which holds the reward."""
    X = rng.normal(size=(60, 6, 7))
    return X, (X[..., 4] + rng.normal(size=(60, 6)) > 0).astype(float)


@pytest.fixture
def clear_views(rng):
    """Views of 40, 3 and 1 columns; equal weights are clearly worse than others."""
    X = rng.normal(size=(60, 6, 44))
    return X, (X[..., 41] + rng.normal(size=(60, 6)) > 0).astype(float)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "probe",
    [
        QProbePolicy("pairwise_logistic"),
        QProbePolicy("log_loss"),
        QProbePolicy("contrastive_policy_gradient"),
        QProbeRegressor("squared_error"),
        QProbeRegressor("squared_error", fit_intercept=False),
    ],
)
def test_weights_scale_the_columns(three_views, probe, dtype, standardize):
    X, y = three_views
    X = X.astype(dtype)
    probe.set_params(alpha=0.1, tol=1e-8)
    views = {"view_sizes": SIZES, "view_weights": WEIGHTS, "standardize": standardize}
    found = clone(probe).set_params(**views).fit(X, y)
    root = np.sqrt(np.repeat(WEIGHTS, SIZES))
    mean, scale = 0, 1
    if standardize:
        mean, scale = X.mean(axis=(0, 1)), X.std(axis=(0, 1))
    expected = probe.fit((X - mean) / scale * root, y)
    tol = 1e-8 if dtype == np.float64 else 1e-4
    assert_allclose(found.coef_, expected.coef_ * root / scale, rtol=tol, atol=tol)
    rows, rewards, groups = as_rows(X, y)
    of_rows = clone(found).fit(rows, rewards, groups)
    assert_allclose(of_rows.coef_, found.coef_, rtol=tol, atol=tol)


def test_network_scales_the_columns(three_views):
    pytest.importorskip("torch")
    X, y = three_views
    views = {"view_sizes": SIZES, "view_weights": WEIGHTS}
    probe = QProbePolicy(hidden_layer_sizes=(4,), tol=0.5, random_state=0)
    found = clone(probe).set_params(**views).fit(X, y)
    root = np.sqrt(np.repeat(WEIGHTS, SIZES))
    expected = probe.fit(X * root, y).decision_function(X * root)
    assert_allclose(found.decision_function(X), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"view_sizes": (3, 3)}, "view_sizes must be positive and add up"),
        ({"view_weights": (1, 2)}, "view_weights must be positive .* one for each"),
        ({"view_weights": {"d": 2.0}}, r"has \['d'\]"),
    ],
)
@pytest.mark.parametrize("probe", [QProbePolicy(), QProbePolicyCV(), QProbeRegressor()])
def test_bad_views(three_views, probe, change, words):
    probe.set_params(view_sizes=SIZES).set_params(**change)
    assert_refused(probe.fit, words, *three_views)


def test_search_chooses_the_weights(three_views):
    X, y = three_views
    search = QProbePolicyCV(["pairwise_logistic"], view_sizes=SIZES).fit(X, y)
    weights = search.view_weights_
    assert list(weights) == ["view0", "view1", "view2"]
    assert weights["view1"] > 1e3 * max(weights["view0"], weights["view2"])
    same = QProbePolicy("pairwise_logistic", view_sizes=SIZES, view_weights=weights)
    same.set_params(**search.best_params_).fit(X, y)
    assert_allclose(search.coef_, same.coef_, rtol=1e-2, atol=1e-3)
    # Weighted columns have the same total variance.
    inside = (X - X.mean(axis=1, keepdims=True)).var(axis=(0, 1))
    weighted = np.repeat(list(weights.values()), SIZES) * inside
    assert weighted.sum() == pytest.approx(inside.sum(), rel=1e-5)
    assert QProbePolicyCV().fit(X, y).view_weights_ is None


def test_views_of_the_input(three_views):
    X, y = three_views
    carried = with_views(X, check_views({"a": 3, "b": 3, "c": 1}, X, 7))
    found = QProbePolicyCV().fit(carried, y)
    expected = QProbePolicyCV(view_sizes=SIZES).fit(X, y)
    assert list(found.view_weights_) == ["a", "b", "c"]
    assert_allclose(found.coef_, expected.coef_)
    # Without weights, a single fit does not depend on views.
    assert_allclose(
        QProbePolicy().fit(carried, y).coef_, QProbePolicy().fit(X, y).coef_
    )


def test_choice_of_weights_in_any_layout(three_views):
    """Rows, weights as copies, and missing rewards agree with sets."""
    X, y = three_views
    search = QProbePolicyCV(["contrastive_policy_gradient"], view_sizes=SIZES)
    expected = search.fit(X, y).view_weights_
    rows, rewards, groups = as_rows(X, y)
    order = np.random.default_rng(0).permutation(len(rewards))
    order = order[np.argsort(groups[order], kind="stable")]
    found = search.fit(rows[order], rewards[order], groups[order]).view_weights_
    assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)
    more = np.concatenate([X, np.zeros((60, 1, 7))], axis=1)
    missing = np.concatenate([y, np.full((60, 1), np.nan)], axis=1)
    search.set_params(missing="ignore")
    found = search.fit(more, missing).view_weights_
    assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)
    weight = np.ones_like(y)
    weight[:, 0] = 2
    twice = search.fit(X, y, sample_weight=weight).view_weights_
    copies = (
        np.concatenate([X, X[:, :1]], axis=1),
        np.concatenate([y, y[:, :1]], axis=1),
    )
    assert_allclose(
        list(search.fit(*copies).view_weights_.values()),
        list(twice.values()),
        rtol=1e-4,
    )


def test_constant_and_useless_views(three_views, rng):
    X, y = three_views
    X = X.copy()
    X[..., 6] = 5.0  # constant
    search = QProbePolicyCV(["pairwise_logistic"], view_sizes=SIZES).fit(X, y)
    assert search.view_weights_["view2"] == 1 and np.isfinite(search.coef_).all()
    y = np.full_like(y, 0.5)
    with pytest.warns(UserWarning, match="No prompt is informative"):
        nothing = clone(search).fit(X, y)
    assert not nothing.coef_.any()


def test_few_rows_are_read(rng, monkeypatch):
    X = rng.normal(size=(240, 6, 44))
    y = (X[..., 41] + rng.normal(size=(240, 6)) > 0).astype(float)
    monkeypatch.setattr(_view_search, "MAX_ROWS", 300)
    search = QProbePolicyCV(["pairwise_logistic"], view_sizes=(40, 3, 1))
    weights = search.fit(X, y).view_weights_
    assert weights["view1"] > 5 * max(weights["view0"], weights["view2"])


def test_several_objectives(clear_views):
    X, y = clear_views
    both = np.stack([y, X[..., 43]], axis=2)
    search = QProbePolicyCV(["pairwise_logistic"], view_sizes=(40, 3, 1))
    first = search.set_params(objective_weights=[1, 0]).fit(X, both).view_weights_
    second = search.set_params(objective_weights=[0, 1]).fit(X, both).view_weights_
    assert first["view1"] > 10 * first["view2"]
    assert second["view2"] > 10 * second["view1"]


@pytest.mark.parametrize("loss", ["squared_error", "contrastive_policy_gradient"])
def test_updates_with_weights(three_views, loss):
    X, y = three_views
    X = X + 1e3
    probe = QProbePolicy(loss, alpha=0.1, view_sizes=SIZES, view_weights=WEIGHTS)
    expected = clone(probe).fit(X, y)
    probe.partial_fit(X[:20], y[:20]).partial_fit(X[20:], y[20:])
    assert_allclose(probe.coef_, expected.coef_, rtol=1e-6, atol=1e-9)
    assert probe.intercept_ == pytest.approx(expected.intercept_, rel=1e-6)
    probe.set_params(view_weights=(1, 1, 1))
    assert_refused(probe.partial_fit, "cannot update a probe that was", X, y)


def test_a_constant_view_changes_nothing(three_views, rng):
    X, _ = three_views
    y = rng.random((60, 6))  # all views are useless
    views = {"view_sizes": (3, 3, 1)}
    expected = QProbePolicyCV(["contrastive_policy_gradient"], **views).fit(X, y)
    constant = np.concatenate([X, np.ones((60, 6, 2))], axis=2)
    views["view_sizes"] = (3, 3, 1, 2)
    found = QProbePolicyCV(["contrastive_policy_gradient"], **views).fit(constant, y)
    assert found.view_weights_ == expected.view_weights_ | {"view3": 1.0}


@pytest.mark.parametrize(
    "factor, dtype",
    [(1e100, np.float64), (1e-60, np.float64), (1e25, np.float32), (1e-25, np.float32)],
)
@pytest.mark.parametrize("standardize", [False, True])
def test_choice_of_weights_at_any_magnitude(clear_views, standardize, factor, dtype):
    X, y = clear_views
    settings = {"view_sizes": (40, 4), "standardize": standardize}
    search = QProbePolicyCV(["contrastive_policy_gradient"], **settings)
    expected = search.fit(X, y).view_weights_
    scale = np.array([1.0] * 40 + [factor] * 4, dtype)
    assert expected["view1"] > 10 * expected["view0"]
    found = search.fit(X.astype(dtype) * scale, y).view_weights_
    ratio = found["view1"] / found["view0"]
    if not standardize:
        ratio *= float(factor) ** 2
    same = pytest.approx(expected["view1"] / expected["view0"], rel=1e-4)
    assert ratio == same


def test_weights_stay_equal_unless_others_are_clearly_better(clear_views, rng):
    X, y = clear_views
    search = QProbePolicyCV(["contrastive_policy_gradient"], view_sizes=(40, 3, 1))
    assert search.fit(X, y).view_weights_["view1"] > 10
    noise = rng.permutation(y.ravel()).reshape(y.shape)
    equal = dict.fromkeys(["view0", "view1", "view2"], 1.0)
    assert search.fit(X, noise).view_weights_ == equal
    # The views are as informative per column, so nothing is gained.
    linear = X @ rng.normal(size=44) + rng.normal(size=y.shape)
    assert search.fit(X, linear).view_weights_ == equal


def test_choice_of_weights_far_from_zero(three_views):
    X, y = three_views
    settings = {"view_sizes": SIZES, "standardize": True}
    search = QProbePolicyCV(["contrastive_policy_gradient"], **settings)
    expected = search.fit(X, y).view_weights_
    found = search.fit(X + 1e9, y).view_weights_
    assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)


def test_prompts_without_weight_are_not_read(three_views, monkeypatch):
    """Only every second prompt has a weight, and one of two is read."""
    X, y = three_views
    monkeypatch.setattr(_view_search, "MAX_ROWS", 180)
    weight = np.tile([0.0, 1.0], 30)
    search = QProbePolicyCV(["contrastive_policy_gradient"], view_sizes=SIZES, cv=3)
    found = search.fit(X, y, sample_weight=weight).view_weights_
    assert found["view1"] > 1e3 * max(found["view0"], found["view2"])


def test_choice_of_penalties_is_that_of_brute_force(three_views, monkeypatch):
    """Errors are those of Ridge, and no other penalties are clearly better."""
    X, y = three_views
    tried = {}
    errors = _view_search.BandedRidge.errors

    def keep(ridge, penalties):
        found = errors(ridge, penalties)
        tried[tuple(penalties)] = found @ ridge.prompt_weight
        return found

    monkeypatch.setattr(_view_search.BandedRidge, "errors", keep)
    prompts = np.arange(60)
    cv = [(prompts[prompts % 3 != i], prompts[prompts % 3 == i]) for i in range(3)]
    search = QProbePolicyCV(["contrastive_policy_gradient"], view_sizes=SIZES, cv=cv)
    search.fit(X, y)
    X, y = (each - each.mean(axis=1, keepdims=True) for each in (X, y))
    views = np.split(X, np.cumsum(SIZES)[:-1], axis=2)
    views = [view / np.sqrt((view**2).sum(axis=2).mean()) for view in views]

    def error(penalties):
        pairs = zip(views, penalties, strict=True)
        Z, total = np.concatenate([v / np.sqrt(p) for v, p in pairs], axis=2), 0.0
        for train, test in cv:
            ridge = Ridge(alpha=y[train].size, fit_intercept=False)
            ridge.fit(Z[train].reshape(-1, 7), y[train].ravel())
            residual = ridge.predict(Z[test].reshape(-1, 7)) - y[test].ravel()
            total += (residual**2).sum() / y.size
        return total

    some = list(tried)[::6]
    assert_allclose([tried[each] for each in some], [error(each) for each in some])
    grid = itertools.product([1e6, 1.0, 1e-2, 1e-4], repeat=3)
    assert min(tried.values()) < 1.005 * min(map(error, grid))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("standardize", [False, True])
def test_a_view_of_the_prompt_has_weight_one(three_views, rng, standardize, dtype):
    """Its candidates differ by the rounding of their mean."""
    X, y = three_views
    search = QProbePolicyCV(view_sizes=(7, 3), standardize=standardize)
    of_prompt = np.repeat(1e3 + rng.normal(size=(60, 1, 3)), 6, axis=1)
    X = np.concatenate([X, of_prompt], axis=2).astype(dtype)
    assert search.fit(X, y).view_weights_ == {"view0": 1.0, "view1": 1.0}
    rows, rewards, groups = as_rows(X, y)
    ragged = search.fit(rows[1:], rewards[1:], groups[1:]).view_weights_
    assert ragged == {"view0": 1.0, "view1": 1.0}
