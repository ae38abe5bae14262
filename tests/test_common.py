"""Common checks of the probes, with each of their losses.

The checks `of_posteriors` run on BayesianQProbePolicy, too, whose likelihood takes the
place of the loss.
"""

import copy

import numpy as np
import pytest
from cases import (
    PROBES_AND_LOSSES,
    WITH_INTERCEPT,
    as_rows,
    every_probe,
    every_probe_and_loss,
    values_of,
)
from estimators import assert_same_state, state_of
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax
from sklearn.base import clone

from skqprobe import BayesianQProbePolicy, QProbePolicy, QProbeRegressor
from skqprobe._candidates.layout import check_layout
from skqprobe.losses import get_loss

POSTERIORS = [(BayesianQProbePolicy, name) for name in ("gaussian", "choice")]
of_posteriors = pytest.mark.parametrize("Probe, loss", PROBES_AND_LOSSES + POSTERIORS)
every_regression_loss = pytest.mark.parametrize("loss", WITH_INTERCEPT)


def make(Probe, loss, **params):
    """A probe whose coefficients are exact enough to be compared.

    With this alpha, all losses have a distinct minimum; "policy_gradient", which is not
    convex, has it near zero, where the solver starts.
    """
    return Probe(loss, **{"alpha": 0.05, "tol": 1e-8, "max_iter": 1000} | params)


def objective(probe, X, y, groups=None, coef=None):
    """The objective from its definition, with only the loss from the package."""
    coef = probe.coef_ if coef is None else coef
    X, y = np.asarray(X, dtype=float), np.asarray(y, dtype=float)
    layout = check_layout(y.shape, groups)
    scores = X.reshape(-1, X.shape[-1]) @ coef + probe.intercept_
    loss, rewards = get_loss(probe.loss), layout.to_prompt_order(y)
    values, _ = loss.value_and_gradient(
        layout.to_prompt_order(scores), rewards, layout.offsets
    )
    values = values[loss.informative_prompts(rewards, layout.offsets)]
    return values.mean() + probe.alpha / 2 * (coef @ coef)


def assert_same_fit(probe, other, X, y, groups=None):
    """Both are the same minimum of the objective on these data."""
    if getattr(probe, "loss", None) == "pairwise_hinge":
        # The gradient does not vanish at a kink, so L-BFGS ends where its line search
        # does: two paths end within about 1e-5 of the minimum in value. The objective
        # is alpha-strongly convex, so coefficients differ by at most the root of
        # 2/alpha times that.
        gap = abs(objective(probe, X, y, groups) - objective(other, X, y, groups))
        assert gap < 1e-4
        assert_allclose(probe.coef_, other.coef_, atol=1e-2)
        return
    assert_allclose(probe.coef_, other.coef_, rtol=1e-5, atol=1e-6)
    assert_allclose(probe.intercept_, other.intercept_, rtol=1e-5, atol=1e-6)


def with_coefficients(probe, other):
    """A copy of a probe with the coefficients of another one, to compare methods."""
    probe = copy.deepcopy(probe)
    probe.coef_, probe.intercept_ = other.coef_, other.intercept_
    return probe


def results_of(probe, X, groups):
    """Results per candidate, flat, and the best candidates' positions among all."""
    # Choices are indices along axis 1 of sets, and positions in X of rows.
    starts = 0 if groups is not None else X.shape[1] * np.arange(len(X))
    cold = copy.deepcopy(probe).set_params(temperature=0)
    chosen, results = cold.sample(X, groups) + starts, [values_of(probe, X).ravel()]
    if isinstance(probe, QProbePolicy):
        results.append(probe.predict_proba(X, groups).ravel())
        assert_array_equal(probe.predict(X, groups) + starts, chosen)
    return results, chosen


def assert_same_results(probe, other, data, other_data, order):
    """With the same coefficients, the same results; `order` maps the candidates."""
    other = with_coefficients(other, probe)
    assert other.score(*other_data) == pytest.approx(probe.score(*data))
    expected, chosen = results_of(probe, *data[::2])
    found, new_chosen = results_of(other, *other_data[::2])
    for one, two in zip(expected, found, strict=True):
        assert_allclose(two, one[order], rtol=1e-9)
    assert set(order[new_chosen]) == set(chosen)


@pytest.fixture
def ragged(rows):
    """The rows of `rows` in prompts of two or more, and rewards of many levels."""
    X, y, groups = rows
    labels, sizes = np.unique(groups, return_counts=True)
    several = np.isin(groups, labels[sizes > 1])
    X, y, groups = X[several], y[several], groups[several]
    return X, (y + np.clip(0.2 * X[:, 2], -1, 1) + 1) / 3, groups


@pytest.fixture(params=["sets", "rows"])
def candidates(request, sets, ragged):
    """X, y and groups in each layout."""
    return (*sets, None) if request.param == "sets" else ragged


# Layouts


@of_posteriors
def test_sets_and_rows_agree(sets, Probe, loss):
    X, y = sets
    flat = flat_X, _, groups = as_rows(X, y)
    probe = make(Probe, loss, temperature=0.5).fit(X, y)
    by_rows = make(Probe, loss, temperature=0.5).fit(*flat)
    assert_allclose(by_rows.coef_, probe.coef_, rtol=1e-10)
    assert_allclose(by_rows.intercept_, probe.intercept_, rtol=1e-10)
    assert by_rows.n_features_in_ == probe.n_features_in_ == 4
    assert by_rows.n_skipped_prompts_ == probe.n_skipped_prompts_
    assert_same_results(probe, by_rows, (X, y, None), flat, np.arange(y.size))
    for size in (None, 5):
        assert_array_equal(
            by_rows.sample(flat_X, groups, size=size, random_state=0).T,
            probe.sample(X, size=size, random_state=0).T + 6 * np.arange(60),
        )


@of_posteriors
def test_order_of_rows_does_not_matter(ragged, Probe, loss):
    X, y, groups = ragged
    probe = make(Probe, loss, temperature=0.5).fit(X, y, groups)
    p = np.random.default_rng(1).permutation(len(y))
    permuted = make(Probe, loss, temperature=0.5).fit(X[p], y[p], groups[p])
    assert_same_fit(permuted, probe, X, y, groups)
    assert_same_results(probe, permuted, ragged, (X[p], y[p], groups[p]), p)
    # Choices are one per prompt, prompts in order of first appearance.
    chosen = permuted.sample(X[p], groups[p])
    assert groups[p][chosen].tolist() == list(dict.fromkeys(groups[p]))


@of_posteriors
def test_order_of_candidates_and_prompts_does_not_matter(sets, Probe, loss):
    X, y = sets
    rng = np.random.default_rng(1)
    probe = make(Probe, loss, temperature=0.5).fit(X, y)
    order = rng.permuted(np.arange(360).reshape(60, 6)[rng.permutation(60)], axis=1)
    new = X.reshape(360, 4)[order], y.ravel()[order]
    permuted = make(Probe, loss, temperature=0.5).fit(*new)
    assert_same_fit(permuted, probe, X, y)
    assert_same_results(probe, permuted, (X, y, None), (*new, None), order.ravel())


# Several objectives: the same layouts, orders and weights


def several(y):
    """Rewards of two objectives in [0, 1]: `y`, and others of about its values."""
    other = np.clip(y + np.random.default_rng(5).normal(size=y.shape) / 2, 0, 1)
    return np.stack([y, other], axis=-1)


@every_probe_and_loss
def test_sets_and_rows_of_objectives_agree(sets, Probe, loss):
    X, y = sets[0], several(sets[1])
    rows, _, groups = as_rows(*sets)
    settings = {"temperature": 0.5, "objective_weights": [1.0, -0.5]}
    probe = make(Probe, loss, **settings).fit(X, y)
    by_rows = make(Probe, loss, **settings).fit(rows, y.reshape(-1, 2), groups)
    assert_allclose(by_rows.coef_, probe.coef_, rtol=1e-10)
    assert_allclose(by_rows.intercept_, probe.intercept_, rtol=1e-10)
    assert_array_equal(by_rows.n_skipped_prompts_, probe.n_skipped_prompts_)
    flat = rows, y.reshape(-1, 2), groups
    assert_same_results(probe, by_rows, (X, y, None), flat, np.arange(360))
    single = by_rows.predict_objectives(rows)
    assert_allclose(single, probe.predict_objectives(X).reshape(-1, 2))


@every_probe_and_loss
def test_order_of_rows_of_objectives_does_not_matter(ragged, Probe, loss):
    X, y, groups = ragged
    y = several(y)
    probe = make(Probe, loss, temperature=0.5).fit(X, y, groups)
    p = np.random.default_rng(1).permutation(len(y))
    permuted = make(Probe, loss, temperature=0.5).fit(X[p], y[p], groups[p])
    tol = 1e-2 if loss == "pairwise_hinge" else 1e-5
    assert_allclose(permuted.coef_, probe.coef_, rtol=tol, atol=tol)
    data, other_data = (X, y, groups), (X[p], y[p], groups[p])
    assert_same_results(probe, permuted, data, other_data, p)


@every_probe_and_loss
def test_weights_of_candidates_with_objectives_are_copies(candidates, Probe, loss):
    X, y, groups = candidates
    weight = np.random.default_rng(1).integers(0, 4, size=y.shape)
    rows, _, labels = as_rows(X, y) if groups is None else candidates
    y = several(y)
    copied = copies_of(weight, rows, y.reshape(-1, 2), labels)
    weighted = make(Probe, loss).fit(X, y, groups, sample_weight=weight)
    other = make(Probe, loss).fit(*copied)
    tol = 1e-2 if loss == "pairwise_hinge" else 1e-5
    assert_allclose(weighted.coef_, other.coef_, rtol=tol, atol=tol)
    weighted = with_coefficients(weighted, other)
    score = weighted.score(X, y, groups, sample_weight=weight)
    assert score == pytest.approx(other.score(*copied), rel=1e-9)


@every_probe_and_loss
def test_second_fit_to_objectives_has_equal_attributes(ragged, Probe, loss):
    X, y, groups = ragged
    probe = make(Probe, loss, n_candidates=3, random_state=0)
    before = state_of(probe.fit(X, several(y), groups))
    probe.fit(X, y, groups)
    assert_same_state(state_of(probe.fit(X, several(y), groups)), before)


# Weights: an integer weight is a number of copies


def copies_of(weight, *arrays):
    return tuple(np.repeat(array, weight.ravel(), axis=0) for array in arrays)


def assert_weights_are_copies(probe, weighted, copied):
    """`weighted` and `copied` are (X, y, groups, weight) and (X, y, groups)."""
    X, y, groups, weight = weighted
    one = clone(probe).fit(X, y, groups, sample_weight=weight)
    other = clone(probe).fit(*copied)
    assert_same_fit(one, other, *copied)
    one = with_coefficients(one, other)
    for temperature in (0, 0.5):
        one.temperature = other.temperature = temperature
        score = one.score(X, y, groups, sample_weight=weight)
        assert score == pytest.approx(other.score(*copied), rel=1e-9)
    # The weights change the score, or this would hold without them. (At temperature 0,
    # copies of the best candidate need not change it.)
    assert score != pytest.approx(one.score(X, y, groups), rel=1e-4)


@of_posteriors
@pytest.mark.parametrize("low, high", [(1, 4), (0, 2)], ids=["copies", "zeros"])
def test_weights_of_candidates_are_copies(candidates, Probe, loss, low, high):
    X, y, groups = candidates
    weight = np.random.default_rng(1).integers(low, high, size=y.shape)
    rows = as_rows(X, y) if groups is None else candidates
    if low == 0:  # remove whole prompts, too, the first one included
        gone = np.isin(rows[2], rows[2][[0, 5, 18, -1]])
        weight[gone.reshape(weight.shape)] = 0
    copied = copies_of(weight, *rows)
    assert_weights_are_copies(make(Probe, loss), (*candidates, weight), copied)


@of_posteriors
def test_weights_of_prompts_are_copies(sets, Probe, loss):
    weight = np.random.default_rng(1).integers(0, 4, size=60)
    weighted, copied = (*sets, None, weight), (*copies_of(weight, *sets), None)
    assert_weights_are_copies(make(Probe, loss), weighted, copied)


@every_probe
@every_regression_loss
def test_weights_of_rows_without_groups_are_copies(rows, Probe, loss):
    X, y, _ = rows
    weight = np.random.default_rng(1).integers(0, 4, size=len(y))
    copied = copies_of(weight, X, y)
    probe = make(Probe, loss).fit(X, y, sample_weight=weight)
    other = make(Probe, loss).fit(*copied)
    assert_same_fit(probe, other, *copied)
    if Probe is QProbeRegressor:
        score = with_coefficients(probe, other).score(X, y, sample_weight=weight)
        assert score == pytest.approx(other.score(*copied))
        assert score != pytest.approx(probe.score(X, y), rel=1e-4)


@of_posteriors
def test_weights_of_single_candidates_are_copies(rows, Probe, loss):
    # Copies of the only candidate of a prompt make a prompt of equal candidates, which
    # a loss that compares candidates ignores as well.
    X, y, groups = rows
    labels, sizes = np.unique(groups, return_counts=True)
    weight = np.where(np.isin(groups, labels[sizes == 1]), 3, 1)
    assert (weight == 3).any()
    repeated = copies_of(weight, *rows)
    probe = make(Probe, loss).fit(X, y, groups, sample_weight=weight)
    assert_same_fit(probe, make(Probe, loss).fit(*repeated), *repeated)


@every_probe_and_loss
def test_scale_of_weights(sets, ragged, Probe, loss):
    # Equal weights are no weights, and weights may have any scale.
    X, y = sets
    probe = make(Probe, loss).fit(X, y)
    for factor in (1, 1e-140, 1e140):
        other = make(Probe, loss).fit(X, y, sample_weight=np.full(60, factor))
        assert_same_fit(other, probe, X, y)
    X, y, groups = ragged
    weight = np.random.default_rng(1).uniform(0.5, 2, size=len(y))
    probe = make(Probe, loss).fit(X, y, groups, sample_weight=weight)
    for factor in (1e-140, 1 / 50, 1e140):
        other = make(Probe, loss)
        if loss == "conditional_logit":  # weights multiply the number of choices
            other.alpha *= factor
        other.fit(X, y, groups, sample_weight=weight * factor)
        assert_same_fit(other, probe, X, y, groups)


# Dtypes and memory


@of_posteriors
def test_float32_and_float64_agree(sets, Probe, loss):
    X, y = sets
    X = X.astype(np.float32)
    single = make(Probe, loss, tol=1e-5).fit(X, y)
    double = make(Probe, loss, tol=1e-5).fit(X.astype(np.float64), y)
    assert single.coef_.dtype == np.float32
    assert double.coef_.dtype == np.float64
    tol = 1e-2 if loss == "pairwise_hinge" else 1e-3  # kinks, see assert_same_fit
    assert_allclose(single.coef_, double.coef_, rtol=tol, atol=tol)
    assert values_of(single, X).dtype == np.float32
    assert values_of(double, X).dtype == np.float32
    assert values_of(double, X.astype(np.float64)).dtype == np.float64
    if Probe is QProbePolicy:
        assert single.predict_proba(X).dtype == np.float32
        assert_allclose(single.predict_proba(X).sum(axis=1), 1, rtol=1e-6)


@of_posteriors
def test_float16(sets, Probe, loss):
    X, y = sets
    X = X.astype(np.float16)
    half = make(Probe, loss, tol=1e-5).fit(X, y)
    single = make(Probe, loss, tol=1e-5).fit(X.astype(np.float32), y)
    # Nothing is computed in float16, so this is the same problem as in float32.
    assert_array_equal(half.coef_, single.coef_)
    values = values_of(half, X)
    assert half.coef_.dtype == values.dtype == np.float32
    expected = values_of(single, X.astype(np.float32))
    assert_allclose(values, expected, rtol=1e-5, atol=1e-6)


def memmap(X, path):
    np.save(path / "X.npy", X)
    X = np.load(path / "X.npy", mmap_mode="r")
    assert isinstance(X, np.memmap)
    assert not X.flags.writeable
    return X


def read_only(X, path):
    X = X.copy()
    X.setflags(write=False)
    return X


def strided(X, path):
    wide = np.full((*X.shape[:-1], 2 * X.shape[-1]), np.nan, dtype=X.dtype)
    wide[..., ::2] = X
    return wide[..., ::2]


@of_posteriors
@pytest.mark.parametrize(
    "lay_out",
    [
        memmap,
        read_only,
        strided,
        pytest.param(lambda X, path: X[::-1].copy()[::-1], id="reversed"),
        pytest.param(lambda X, path: np.asfortranarray(X), id="fortran"),
        pytest.param(lambda X, path: X.astype(">f8"), id="big endian"),
    ],
)
def test_memory_layout_of_embeddings(candidates, tmp_path, Probe, loss, lay_out):
    X, y, groups = candidates
    expected = make(Probe, loss).fit(X, y, groups)
    X_new = lay_out(X, tmp_path)
    assert_array_equal(X_new, X)
    probe = make(Probe, loss).fit(X_new, y, groups)
    # BLAS may round differently in another memory order.
    assert_same_fit(probe, expected, X, y, groups)
    probe = with_coefficients(probe, expected)
    assert_allclose(values_of(probe, X_new), values_of(expected, X), rtol=1e-9)
    assert probe.score(X_new, y, groups) == pytest.approx(expected.score(X, y, groups))


# State


@every_probe_and_loss
def test_second_fit_has_equal_attributes(ragged, Probe, loss):
    X, y, groups = ragged
    weight = np.random.default_rng(1).uniform(0, 2, size=len(y))
    for params in ({}, {"n_candidates": 3, "random_state": 0}):
        probe = make(Probe, loss, **params).fit(X, y, groups, sample_weight=weight)
        before = state_of(probe)
        probe.fit(X, y, groups, sample_weight=weight)
        assert_same_state(state_of(probe), before)
        # A fit to other data in between changes nothing.
        probe.fit(X[:, :2], y, groups).fit(X, y, groups, sample_weight=weight)
        assert_array_equal(probe.coef_, before["coef_"])


@every_probe
def test_warm_start_uses_the_intercept(sets, Probe):
    X, y = sets
    X = X + 3  # without its intercept, the start is far from the minimum
    probe = Probe("log_loss", alpha=0.1, warm_start=True, tol=1e-6).fit(X, y)
    coef, intercept, n_iter = probe.coef_.copy(), probe.intercept_, probe.n_iter_
    probe.fit(X, y)
    assert probe.n_iter_ < n_iter / 2
    assert_allclose(probe.coef_, coef, atol=1e-4)
    assert_allclose(probe.intercept_, intercept, atol=1e-3)


@every_probe_and_loss
def test_arguments_are_not_changed(candidates, Probe, loss):
    X, y, groups = candidates
    weight = np.random.default_rng(1).uniform(0, 2, size=y.shape)
    data = [array for array in (X, y, weight, groups) if array is not None]
    before = copy.deepcopy(data)
    probe = make(Probe, loss, n_candidates=3).fit(X, y, groups, sample_weight=weight)
    probe.score(X, y, groups, sample_weight=weight)
    probe.sample(X, groups)
    values_of(probe, X)
    for array, copied in zip(data, before, strict=True):
        assert_array_equal(array, copied)


@of_posteriors
def test_fitted_attributes_do_not_share_memory_with_the_data(sets, Probe, loss):
    X, y = sets
    probe = make(Probe, loss).fit(X, y)
    first = X[:3].copy()
    before = values_of(probe, first)
    X[:], y[:] = 0, 0
    assert_array_equal(values_of(probe, first), before)


# n_candidates


@every_probe_and_loss
def test_n_candidates_of_whole_prompts_changes_nothing(candidates, Probe, loss):
    X, y, groups = candidates
    probe = make(Probe, loss).fit(X, y, groups)
    for n_candidates in (9, 1000):  # the largest prompt has 9
        whole = make(Probe, loss, n_candidates=n_candidates, random_state=0)
        whole.fit(X, y, groups)
        assert whole.n_skipped_prompts_ == probe.n_skipped_prompts_
        # Only the order of the candidates differs.
        assert_same_fit(whole, probe, X, y, groups)


@every_probe_and_loss
def test_sets_of_n_candidates_are_random(sets, Probe, loss):
    X, y = sets

    def coef(random_state):
        probe = make(Probe, loss, n_candidates=3, random_state=random_state)
        return probe.fit(X, y).coef_

    state = np.random.RandomState(0)
    one, other = coef(state), coef(state)  # the second fit draws other sets
    assert_array_equal(one, coef(0))
    if get_loss(loss).shift_invariant:
        assert abs(one - coef(1)).max() > 1e-4
        assert abs(one - other).max() > 1e-4
    else:
        # The mean over sets of equal size is the mean over the prompt.
        assert_allclose(one, coef(1), rtol=1e-5, atol=1e-6)
        whole = make(Probe, loss).fit(X, y)
        assert_allclose(one, whole.coef_, rtol=1e-5, atol=1e-6)


@every_probe_and_loss
def test_n_candidates_is_a_split_by_hand(sets, Probe, loss):
    # Prompts of 6 in sets of 4: two sets of 3, each with half the weight of a prompt.
    # A prompt of two sets counts as much as a prompt of a single set.
    kept = np.ones((60, 6), dtype=bool)
    kept[40:, 3:] = False
    X, y, groups = (array[kept.ravel()] for array in as_rows(*sets))
    probe = make(Probe, loss, n_candidates=4, random_state=0).fit(X, y, groups)
    split, n_sets = check_layout(y.shape, groups).split(4, np.random.RandomState(0))
    assert n_sets.tolist() == [2] * 40 + [1] * 20
    by_hand = make(Probe, loss).fit(
        X[split.order].reshape(100, 3, 4),
        y[split.order].reshape(100, 3),
        sample_weight=[0.5] * 80 + [1.0] * 20,
    )
    # The minimization of the hinge ends early, see assert_same_fit.
    tol = 1e-2 if loss == "pairwise_hinge" else 1e-5
    for name in ("coef_", "intercept_"):
        found, expected = getattr(probe, name), getattr(by_hand, name)
        assert_allclose(found, expected, rtol=tol, atol=tol / 10)
    assert probe.n_skipped_prompts_ == by_hand.n_skipped_prompts_


@every_regression_loss
def test_n_candidates_changes_only_rounding_in_the_regressor(ragged, loss):
    # Also if the sets of a prompt differ in size.
    X, y, groups = ragged
    sizes = np.unique(groups, return_counts=True)[1]
    assert (sizes % 2).any()
    whole = make(QProbeRegressor, loss).fit(X, y, groups)
    for seed in (0, 1):
        in_sets = make(QProbeRegressor, loss, n_candidates=2, random_state=seed)
        assert_same_fit(in_sets.fit(X, y, groups), whole, X, y, groups)


# The objective and the methods are those of the documentation


@every_probe_and_loss
def test_fit_minimizes_the_documented_objective(ragged, Probe, loss):
    X, y, groups = ragged
    probe = make(Probe, loss).fit(X, y, groups)
    at = objective(probe, X, y, groups)
    rng = np.random.default_rng(1)
    # The minimum of the hinge is exact to about 1e-5 in value, see assert_same_fit.
    slack, step = (1e-5, 0.05) if loss == "pairwise_hinge" else (0, 1e-3)
    for _ in range(20):
        direction = rng.normal(size=4)
        direction *= step / np.linalg.norm(direction)
        assert objective(probe, X, y, groups, probe.coef_ + direction) > at - slack


@every_probe_and_loss
def test_methods_follow_from_the_coefficients(sets, Probe, loss):
    X, y = sets
    probe = make(Probe, loss, temperature=0.5).fit(X, y)
    q = X @ probe.coef_ + probe.intercept_
    best = q.argmax(axis=1)
    if Probe is QProbePolicy:
        assert_allclose(probe.decision_function(X), q)
        assert_allclose(probe.predict_proba(X), softmax(q / 0.5, axis=1))
        assert_array_equal(probe.predict(X), best)
        assert (probe.intercept_ == 0.0) == get_loss(loss).shift_invariant
    elif loss == "log_loss":
        assert_allclose(probe.predict(X), 1 / (1 + np.exp(-q)))
    else:
        assert_allclose(probe.predict(X), q)
    probe.temperature = 0
    assert_array_equal(probe.sample(X, random_state=0), best)
    without = make(Probe, loss, fit_intercept=False).fit(X, y)
    assert without.intercept_ == 0.0


@pytest.mark.parametrize("sizes", [(), (16,)], ids=["linear", "network"])
@every_probe_and_loss
def test_choice_is_better_than_chance(sets, Probe, loss, sizes):
    if sizes:
        pytest.importorskip("torch", reason="torch is not installed")
    test_X = np.random.default_rng(2).normal(size=(200, 6, 4))
    test_y = test_X[..., 0] - 0.5 * test_X[..., 1]  # the signal of the fixture
    probe = Probe(loss, hidden_layer_sizes=sizes, random_state=0).fit(*sets)
    chosen = np.take_along_axis(test_y, probe.sample(test_X)[:, None], axis=1)
    best, chance = test_y.max(axis=1).mean(), test_y.mean()
    assert chosen.mean() > chance + 0.8 * (best - chance)
