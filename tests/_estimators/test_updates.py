"""Updates of QProbePolicy and QProbeRegressor in closed form: equal to one fit."""

import pickle

import numpy as np
import pandas as pd
import pytest
from cases import LEAST_SQUARES, PROBES_AND_LOSSES, as_rows
from estimators import assert_refused, assert_same_state, state_of
from numpy.testing import assert_allclose
from sklearn.base import clone

from skqprobe import QProbePolicy, QProbePolicyCV, QProbeRegressor
from skqprobe.losses import ContrastivePolicyGradient

CLOSED = [(Probe, loss) for Probe, loss in PROBES_AND_LOSSES if loss in LEAST_SQUARES]
every_closed_form = pytest.mark.parametrize("Probe, loss", CLOSED)
PARTS = np.split(np.arange(60), [1, 4, 30])


def assert_close(probe, whole):
    for name in ("coef_", "intercept_"):
        found, expected = getattr(probe, name), getattr(whole, name)
        assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


@every_closed_form
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_updates_are_one_fit(sets, Probe, loss, order, fit_intercept):
    X, y = sets
    weight = np.random.default_rng(1).integers(1, 4, size=60)
    probe = Probe(loss, alpha=0.05, fit_intercept=fit_intercept)
    whole = clone(probe).fit(X, y, sample_weight=weight)
    for part in (PARTS[i] for i in order):
        probe.partial_fit(X[part], y[part], sample_weight=weight[part])
    assert_close(probe, whole)
    assert probe.score(X, y) == pytest.approx(whole.score(X, y))
    assert probe.n_iter_ == 1


@every_closed_form
def test_updates_in_rows_with_weights_of_candidates(sets, Probe, loss):
    X, y, groups = as_rows(*sets)
    weight = np.random.default_rng(1).integers(0, 3, size=360)
    whole = Probe(loss, alpha=0.05).fit(X, y, groups, sample_weight=weight)
    probe = Probe(loss, alpha=0.05)
    for rows in (groups < 20, groups >= 20):
        probe.partial_fit(X[rows], y[rows], groups[rows], weight[rows])
    assert_close(probe, whole)


@every_closed_form
def test_updates_of_several_objectives(sets, Probe, loss):
    X, y = sets[0], np.stack([sets[1], 1 - sets[0][..., 0]], axis=-1)
    whole = Probe(loss, alpha=0.05).fit(X, y)
    probe = Probe(loss, alpha=0.05).partial_fit(X[:9], y[:9]).partial_fit(X[9:], y[9:])
    assert_close(probe, whole)
    assert_refused(probe.partial_fit, "y has 1 objectives.*had 2", X, y[..., :1])


@every_closed_form
def test_updates_in_more_dimensions_than_rows(rng, Probe, loss):
    X, y = rng.normal(size=(6, 3, 50)), rng.normal(size=(6, 3))
    whole = Probe(loss, alpha=0.05).fit(X, y)
    probe = Probe(loss, alpha=0.05).partial_fit(X[:2], y[:2]).partial_fit(X[2:], y[2:])
    assert_close(probe, whole)


@every_closed_form
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_forgetting_is_a_fit_with_weights_by_age(sets, Probe, loss, fit_intercept):
    X, y = sets
    probe = Probe(loss, alpha=0.05, fit_intercept=fit_intercept)
    whole = clone(probe).fit(X, y, sample_weight=0.7 ** np.repeat([2, 1, 0], 20))
    probe.set_params(forgetting_factor=0.7)
    for part in np.split(np.arange(60), 3):
        probe.partial_fit(X[part], y[part])
    assert_close(probe, whole)
    with pytest.raises(ValueError, match="'forgetting_factor' parameter"):
        probe.set_params(forgetting_factor=1.5).partial_fit(X, y)


@every_closed_form
@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_offset_of_the_columns_costs_no_precision(sets, Probe, loss, offset):
    X, y = sets
    probe, other = Probe(loss, alpha=0.05), Probe(loss, alpha=0.05)
    for part in PARTS:
        probe.partial_fit(X[part], y[part])
        other.partial_fit(X[part] + offset, y[part])
    assert_allclose(other.coef_, probe.coef_, rtol=1e-8)
    assert_allclose(other.predict(X + offset), probe.predict(X), atol=1e-8)


@every_closed_form
def test_types_may_differ_between_updates(sets, Probe, loss):
    X, y = (sets[0] + 1e5).astype("f4"), sets[1]
    whole = Probe(loss, alpha=0.05).fit(X.astype("f8"), y)
    for types in (("f4", "f8"), ("f8", "f4")):
        probe = Probe(loss, alpha=0.05)
        for part, dtype in zip(np.split(np.arange(60), 2), types, strict=True):
            probe.partial_fit(X[part].astype(dtype), y[part])
        assert probe.coef_.dtype == dtype
        assert_allclose(probe.coef_, whole.coef_, rtol=1e-5, atol=1e-6)


@every_closed_form
def test_missing_rewards_are_left_out(sets, Probe, loss):
    X, y = sets
    known = np.random.default_rng(1).random(y.shape) < 0.5
    unknown = np.where(known, y, np.nan)
    whole = Probe(loss, missing="ignore").fit(X, unknown)
    for params, weight in (({"missing": "ignore"}, None), ({}, known * 1.0)):
        probe = Probe(loss, **params)
        for part in PARTS:
            of_part = None if weight is None else weight[part]
            probe.partial_fit(X[part], unknown[part], sample_weight=of_part)
        assert_close(probe, whole)


@every_closed_form
def test_named_objectives_may_change_their_order(sets, Probe, loss):
    X, _, groups = as_rows(*sets)
    y = pd.DataFrame({"a": X[:, 0], "b": -X[:, 1]})
    whole = Probe(loss).fit(X, y, groups)
    probe = Probe(loss).partial_fit(X[:90], y[:90], groups[:90])
    probe.partial_fit(X[90:], y.loc[90:, ["b", "a"]], groups[90:])
    assert_close(probe, whole)
    assert probe.objective_names_.tolist() == ["a", "b"]
    other = y.rename(columns={"b": "c"})
    assert_refused(probe.partial_fit, r"fitted to \['a', 'b'\]", X, other, groups)


@every_closed_form
def test_alpha_may_change_between_updates(sets, Probe, loss):
    X, y = sets
    probe = Probe(loss, alpha=10.0).partial_fit(X[:20], y[:20])
    probe.set_params(alpha=0.05).partial_fit(X[20:], y[20:])
    assert_close(probe, Probe(loss, alpha=0.05).fit(X, y))


@every_closed_form
def test_saved_sums_go_on(sets, Probe, loss):
    X, y = sets
    probe = Probe(loss).partial_fit(X[:20].astype("f4"), y[:20])
    loaded = pickle.loads(pickle.dumps(probe))
    for each in (probe, loaded):
        each.partial_fit(X[20:].astype("f4"), y[20:])
    assert_same_state(state_of(loaded), state_of(probe))
    single = Probe(loss).fit(X.astype("f4"), y)
    assert probe.coef_.dtype == np.float32
    assert_allclose(probe.coef_, single.coef_, rtol=1e-4, atol=1e-5)


@every_closed_form
def test_fit_resets(sets, Probe, loss):
    X, y = sets
    probe = Probe(loss).partial_fit(X, y).fit(X[..., :2], y)
    assert_same_state(state_of(probe), state_of(Probe(loss).fit(X[..., :2], y)))
    with pytest.raises(AttributeError, match="partial_fit") as error:
        probe.partial_fit(X[..., :2], y)
    assert "fit keeps no sums" in str(error.value.__cause__)


def test_only_closed_forms_have_updates(sets):
    X, y = sets
    assert hasattr(QProbeRegressor(), "partial_fit")
    for probe in (
        QProbePolicy(),
        QProbePolicy("squared_error", solver="lbfgs"),
        QProbePolicy("squared_error", hidden_layer_sizes=(3,)),
        QProbeRegressor("log_loss"),
        QProbePolicyCV(["squared_error"]),
        QProbePolicyCV(["squared_error"], cv=2).fit(X, y),
    ):
        assert not hasattr(probe, "partial_fit")


class RewardWeighted(ContrastivePolicyGradient):
    """A loss whose weights depend on the rewards."""

    def least_squares(self, rewards, offsets, weight=None):
        v, t = super().least_squares(rewards, offsets, weight)
        return v * (1 + rewards**2), t


def test_weights_that_depend_on_the_rewards(sets):
    X, y = sets
    probe = QProbePolicy(RewardWeighted(), alpha=0.05)
    whole = clone(probe).fit(X, y)
    probe.partial_fit(X[:9], y[:9]).partial_fit(X[9:], y[9:])
    assert_close(probe, whole)
    both = np.stack([y, X[..., 0]], axis=-1)
    assert_refused(clone(probe).partial_fit, "one estimator per objective", X, both)


def test_errors_leave_the_probe_unchanged(sets):
    X, y = sets
    probe = QProbePolicy("squared_error").partial_fit(X, y)
    assert_refused(probe.partial_fit, "features", X[..., :2], y)
    assert_refused(probe.partial_fit, "NaN", X, np.full_like(y, np.nan))
    probe.set_params(fit_intercept=False)
    assert_refused(probe.partial_fit, "cannot update.*fit_intercept=True", X, y)
    probe.set_params(fit_intercept=True, alpha=-1)
    assert_refused(probe.partial_fit, "'alpha' parameter", X, y)
    probe.set_params(alpha=0.1, loss="contrastive_policy_gradient")
    assert_refused(probe.partial_fit, "cannot update.*fitted by SquaredError", X, y)
    probe.set_params(standardize=True)
    assert_refused(probe.partial_fit, "standardize=True needs all data", X, y)
