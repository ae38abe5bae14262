"""Views with penalties of their own."""

import numpy as np
import pytest
from cases import as_rows
from estimators import assert_refused
from numpy.testing import assert_allclose
from sklearn.base import clone

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


def test_few_rows_are_read(three_views, monkeypatch):
    X, y = three_views
    X = np.tile(X, (4, 1, 1))
    monkeypatch.setattr(_view_search, "MAX_ROWS", 300)
    search = QProbePolicyCV(["pairwise_logistic"], view_sizes=SIZES)
    weights = search.fit(X, np.tile(y, (4, 1))).view_weights_
    assert weights["view1"] > 5 * max(weights["view0"], weights["view2"])


def test_several_objectives(three_views):
    X, y = three_views
    both = np.stack([y, X[..., 0]], axis=2)
    search = QProbePolicyCV(["pairwise_logistic"], view_sizes=SIZES)
    first = search.set_params(objective_weights=[1, 0]).fit(X, both).view_weights_
    second = search.set_params(objective_weights=[0, 1]).fit(X, both).view_weights_
    assert first["view1"] > first["view0"] and second["view0"] > second["view1"]


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
