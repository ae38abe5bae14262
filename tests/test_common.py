"""Our own common checks: every estimator with each of its losses, from one list."""

import copy
import pickle

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.base import clone

from skqprobe import QProbePolicy, QProbeRegressor
from skqprobe._candidates.layout import check_layout
from skqprobe.losses import LOSSES, get_loss

CASES = [
    *((QProbeRegressor, loss) for loss in ("squared_error", "log_loss")),
    *((QProbePolicy, loss) for loss in LOSSES),
]
every = pytest.mark.parametrize(
    ("Probe", "loss"),
    [pytest.param(*case, id=f"{case[0].__name__}-{case[1]}") for case in CASES],
)


def make(Probe, loss, **params):
    """A probe whose coefficients are exact enough to be compared.

    alpha makes the minimum of all losses distinct, that of "policy_gradient", which is
    not convex, in the neighbourhood of zero, where the solver starts.
    """
    return Probe(loss, **{"alpha": 0.05, "tol": 1e-8, "max_iter": 1000} | params)


def objective(probe, X, y, groups=None, coef=None):
    """The objective from its definition, with nothing but the loss of the package."""
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
    """Both are minima of the objective on these data, and the same one."""
    if probe.loss == "pairwise_hinge":
        # At a kink the gradient does not vanish, so that L-BFGS ends where its line
        # search does: two paths end within about 1e-5 of the minimum in value. As the
        # objective is alpha-strongly convex, coefficients then differ by no more than
        # the root of 2/alpha times that.
        gap = abs(objective(probe, X, y, groups) - objective(other, X, y, groups))
        assert gap < 1e-4
        np.testing.assert_allclose(probe.coef_, other.coef_, atol=1e-2)
        return
    np.testing.assert_allclose(probe.coef_, other.coef_, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(probe.intercept_, other.intercept_, rtol=1e-5, atol=1e-6)


def with_coefficients(probe, other):
    """A copy of a probe with the coefficients of another, to compare answers alone."""
    probe = copy.deepcopy(probe)
    probe.coef_, probe.intercept_ = other.coef_, other.intercept_
    return probe


def values(probe, X):
    """A number a candidate: Q of a policy, the expected reward of a regressor."""
    return getattr(probe, "decision_function", probe.predict)(X)


@pytest.fixture
def ragged(rows):
    """The rows of `rows` in prompts of two or more, and rewards of many levels."""
    X, y, groups = rows
    labels, sizes = np.unique(groups, return_counts=True)
    several = np.isin(groups, labels[sizes > 1])
    X, y, groups = X[several], y[several], groups[several]
    return X, (y + np.clip(0.2 * X[:, 2], -1, 1) + 1) / 3, groups


# Layouts


@every
def test_sets_and_rows_agree(sets, Probe, loss):
    X, y = sets
    n, k = y.shape
    flat_X, flat_y = X.reshape(-1, 4), y.ravel()
    groups = np.repeat([f"prompt {i}" for i in range(n)], k)
    probe = make(Probe, loss, temperature=0.5).fit(X, y)
    by_rows = make(Probe, loss, temperature=0.5).fit(flat_X, flat_y, groups)
    np.testing.assert_allclose(by_rows.coef_, probe.coef_, rtol=1e-10)
    np.testing.assert_allclose(by_rows.intercept_, probe.intercept_, rtol=1e-10)
    assert by_rows.n_features_in_ == probe.n_features_in_ == 4
    assert by_rows.n_skipped_prompts_ == probe.n_skipped_prompts_
    np.testing.assert_allclose(
        values(by_rows, flat_X), values(probe, X).ravel(), rtol=1e-9
    )
    assert by_rows.score(flat_X, flat_y, groups) == pytest.approx(probe.score(X, y))
    # Choices are counted along axis 1 in sets, in X in rows.
    starts = k * np.arange(n)
    for size in (None, 5):
        np.testing.assert_array_equal(
            by_rows.sample(flat_X, groups, size=size, random_state=0).T,
            probe.sample(X, size=size, random_state=0).T + starts,
        )
    if Probe is QProbePolicy:
        np.testing.assert_allclose(
            by_rows.predict_proba(flat_X, groups),
            probe.predict_proba(X).ravel(),
            rtol=1e-9,
        )
        np.testing.assert_array_equal(
            by_rows.predict(flat_X, groups), probe.predict(X) + starts
        )


@every
def test_order_of_rows_does_not_matter(ragged, Probe, loss):
    X, y, groups = ragged
    probe = make(Probe, loss, temperature=0.5).fit(X, y, groups)
    p = np.random.default_rng(1).permutation(len(y))
    permuted = make(Probe, loss, temperature=0.5).fit(X[p], y[p], groups[p])
    assert_same_fit(permuted, probe, X, y, groups)
    # With the same coefficients, the answers are the same permuted.
    permuted = with_coefficients(permuted, probe)
    np.testing.assert_allclose(values(permuted, X[p]), values(probe, X)[p], rtol=1e-9)
    score = permuted.score(X[p], y[p], groups[p])
    assert score == pytest.approx(probe.score(X, y, groups))
    cold = copy.deepcopy(probe).set_params(temperature=0)
    assert set(p[cold.sample(X[p], groups[p])]) == set(cold.sample(X, groups))
    if Probe is QProbePolicy:
        np.testing.assert_allclose(
            permuted.predict_proba(X[p], groups[p]),
            probe.predict_proba(X, groups)[p],
            rtol=1e-9,
        )
        chosen = permuted.predict(X[p], groups[p])
        assert set(p[chosen]) == set(probe.predict(X, groups))
        # One a prompt, prompts in the order of their first appearance.
        assert groups[p][chosen].tolist() == list(dict.fromkeys(groups[p]))


@every
def test_names_of_groups_do_not_matter(ragged, Probe, loss):
    X, y, groups = ragged
    probe = make(Probe, loss, temperature=0.5).fit(X, y, groups)
    names = {label: (-i, "x") for i, label in enumerate(np.unique(groups))}
    renamed = [names[label] for label in groups]
    other = make(Probe, loss, temperature=0.5).fit(X, y, renamed)
    np.testing.assert_array_equal(other.coef_, probe.coef_)
    assert other.score(X, y, renamed) == probe.score(X, y, groups)
    np.testing.assert_array_equal(
        other.sample(X, renamed, random_state=0),
        probe.sample(X, groups, random_state=0),
    )


@every
def test_order_of_candidates_and_prompts_does_not_matter(sets, Probe, loss):
    X, y = sets
    rng = np.random.default_rng(1)
    probe = make(Probe, loss, temperature=0.5).fit(X, y)
    prompts = rng.permutation(len(X))
    inside = rng.permuted(np.tile(np.arange(6), (len(X), 1)), axis=1)
    X_new = np.take_along_axis(X[prompts], inside[..., None], axis=1)
    y_new = np.take_along_axis(y[prompts], inside, axis=1)
    permuted = make(Probe, loss, temperature=0.5).fit(X_new, y_new)
    assert_same_fit(permuted, probe, X, y)
    permuted = with_coefficients(permuted, probe)
    expected = np.take_along_axis(values(probe, X)[prompts], inside, axis=1)
    np.testing.assert_allclose(values(permuted, X_new), expected, rtol=1e-9)
    assert permuted.score(X_new, y_new) == pytest.approx(probe.score(X, y))
    if Probe is QProbePolicy:
        proba = np.take_along_axis(probe.predict_proba(X)[prompts], inside, axis=1)
        np.testing.assert_allclose(permuted.predict_proba(X_new), proba, rtol=1e-9)
        chosen = np.take_along_axis(inside, permuted.predict(X_new)[:, None], axis=1)
        np.testing.assert_array_equal(chosen[:, 0], probe.predict(X)[prompts])


# Weights: an integer weight is that many copies


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
    # The weights do something: else this would hold without them as well. (They need
    # not at temperature 0, where copies of the best candidate change nothing.)
    assert score != pytest.approx(one.score(X, y, groups), rel=1e-4)


@every
def test_weights_of_candidates_are_copies(ragged, Probe, loss):
    X, y, groups = ragged
    weight = np.random.default_rng(1).integers(1, 4, size=len(y))
    repeated = [np.repeat(array, weight, axis=0) for array in ragged]
    assert_weights_are_copies(make(Probe, loss), (X, y, groups, weight), repeated)


@every
def test_weights_of_candidates_in_sets_are_copies(sets, Probe, loss):
    X, y = sets
    weight = np.random.default_rng(1).integers(1, 4, size=y.shape)
    # Copies make prompts of different sizes, which are rows.
    times = weight.ravel()
    repeated = (
        np.repeat(X.reshape(-1, 4), times, axis=0),
        np.repeat(y.ravel(), times),
        np.repeat(np.repeat(np.arange(len(X)), 6), times),
    )
    assert_weights_are_copies(make(Probe, loss), (X, y, None, weight), repeated)


@every
@pytest.mark.parametrize("layout", ["sets", "rows"])
def test_candidates_of_weight_zero_are_not_there(sets, ragged, Probe, loss, layout):
    rng = np.random.default_rng(1)
    if layout == "rows":
        X, y, groups = ragged
        weight = rng.integers(0, 2, size=len(y))
        # Whole prompts are gone, too, the first among them.
        weight[np.isin(groups, [groups[0], groups[5], groups[-1]])] = 0
        left = tuple(array[weight > 0] for array in ragged)
    else:
        X, y = sets
        groups, weight = None, rng.integers(0, 2, size=y.shape)
        weight[[0, 3, -1]] = 0
        rows = X.reshape(-1, 4), y.ravel(), np.repeat(np.arange(len(X)), 6)
        left = tuple(array[weight.ravel() > 0] for array in rows)
    assert_weights_are_copies(make(Probe, loss), (X, y, groups, weight), left)


@every
def test_weights_of_prompts_are_copies(sets, Probe, loss):
    X, y = sets
    weight = np.random.default_rng(1).integers(0, 4, size=len(X))
    assert (weight == 0).any()
    repeated = np.repeat(X, weight, axis=0), np.repeat(y, weight, axis=0), None
    assert_weights_are_copies(make(Probe, loss), (X, y, None, weight), repeated)


@pytest.mark.parametrize("Probe", [QProbeRegressor, QProbePolicy])
@pytest.mark.parametrize("loss", ["squared_error", "log_loss"])
def test_weights_of_rows_without_groups_are_copies(rows, Probe, loss):
    X, y, _ = rows
    weight = np.random.default_rng(1).integers(0, 4, size=len(y))
    copied = np.repeat(X, weight, axis=0), np.repeat(y, weight)
    probe = make(Probe, loss).fit(X, y, sample_weight=weight)
    other = make(Probe, loss).fit(*copied)
    assert_same_fit(probe, other, *copied)
    if Probe is QProbeRegressor:
        score = with_coefficients(probe, other).score(X, y, sample_weight=weight)
        assert score == pytest.approx(other.score(*copied))
        assert score != pytest.approx(probe.score(X, y), rel=1e-4)


@every
def test_weights_of_a_lone_candidate_are_copies(rows, Probe, loss):
    # A prompt of one candidate becomes, in copies, one of several equal candidates. It
    # tells a loss that compares them as little as before.
    X, y, groups = rows
    labels, sizes = np.unique(groups, return_counts=True)
    weight = np.where(np.isin(groups, labels[sizes == 1]), 3, 1)
    assert (weight == 3).any()
    repeated = tuple(np.repeat(array, weight, axis=0) for array in rows)
    probe = make(Probe, loss).fit(X, y, groups, sample_weight=weight)
    assert_same_fit(probe, make(Probe, loss).fit(*repeated), *repeated)


@every
def test_scale_of_weights(sets, ragged, Probe, loss):
    # All weights the same are no weights. Those of prompts may have any scale, and
    # those of candidates too, unless the loss is a sum over pairs.
    X, y = sets
    probe = make(Probe, loss).fit(X, y)
    for factor in (1, 1e-3, 1e3):
        other = make(Probe, loss).fit(X, y, sample_weight=np.full(60, factor))
        assert_same_fit(other, probe, X, y)
    if loss == "contrastive_policy_gradient":
        return
    X, y, groups = ragged
    weight = np.random.default_rng(1).uniform(0.5, 2, size=len(y))
    probe = make(Probe, loss).fit(X, y, groups, sample_weight=weight)
    other = make(Probe, loss).fit(X, y, groups, sample_weight=weight / 50)
    assert_same_fit(other, probe, X, y, groups)


# Types and memory


@every
def test_float32_and_float64_agree(sets, Probe, loss):
    X, y = sets
    X = X.astype(np.float32)
    single = make(Probe, loss, tol=1e-5).fit(X, y)
    double = make(Probe, loss, tol=1e-5).fit(X.astype(np.float64), y)
    assert single.coef_.dtype == np.float32
    assert double.coef_.dtype == np.float64
    tol = 1e-2 if loss == "pairwise_hinge" else 1e-3  # for kinks, see assert_same_fit
    np.testing.assert_allclose(single.coef_, double.coef_, rtol=tol, atol=tol)
    assert values(single, X).dtype == np.float32
    assert values(double, X).dtype == np.float32
    assert values(double, X.astype(np.float64)).dtype == np.float64
    if Probe is QProbePolicy:
        assert single.predict_proba(X).dtype == np.float32
        np.testing.assert_allclose(single.predict_proba(X).sum(axis=1), 1, rtol=1e-6)


@every
def test_float16(sets, Probe, loss):
    X, y = sets
    X = X.astype(np.float16)
    half = make(Probe, loss, tol=1e-5).fit(X, y)
    single = make(Probe, loss, tol=1e-5).fit(X.astype(np.float32), y)
    # Nothing is computed in float16, so that it is the same problem as in float32.
    np.testing.assert_array_equal(half.coef_, single.coef_)
    assert half.coef_.dtype == values(half, X).dtype == np.float32
    np.testing.assert_allclose(
        values(half, X), values(single, X.astype(np.float32)), rtol=1e-5, atol=1e-6
    )


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


def reversed_view(X, path):
    return X[::-1].copy()[::-1]


@every
@pytest.mark.parametrize("layout", ["sets", "rows"])
@pytest.mark.parametrize(
    "lay_out",
    [
        memmap,
        read_only,
        strided,
        reversed_view,
        pytest.param(lambda X, path: np.asfortranarray(X), id="fortran"),
        pytest.param(lambda X, path: X.astype(">f8"), id="big endian"),
    ],
)
def test_how_embeddings_lie_in_memory(
    sets, ragged, tmp_path, Probe, loss, lay_out, layout
):
    X, y, groups = (*sets, None) if layout == "sets" else ragged
    expected = make(Probe, loss).fit(X, y, groups)
    X_new = lay_out(X, tmp_path)
    np.testing.assert_array_equal(X_new, X)
    probe = make(Probe, loss).fit(X_new, y, groups)
    # BLAS may round differently in another order of memory.
    assert_same_fit(probe, expected, X, y, groups)
    probe = with_coefficients(probe, expected)
    np.testing.assert_allclose(values(probe, X_new), values(expected, X), rtol=1e-9)
    assert probe.score(X_new, y, groups) == pytest.approx(expected.score(X, y, groups))


# State


@every
def test_fit_again_gives_the_same_to_the_bit(ragged, Probe, loss):
    X, y, groups = ragged
    weight = np.random.default_rng(1).uniform(0, 2, size=len(y))
    for params in ({}, {"n_candidates": 3, "random_state": 0}):
        probe = make(Probe, loss, **params).fit(X, y, groups, sample_weight=weight)
        before = copy.deepcopy(vars(probe))
        probe.fit(X, y, groups, sample_weight=weight)
        assert vars(probe).keys() == before.keys()
        for name, value in before.items():
            np.testing.assert_array_equal(getattr(probe, name), value)
        # Other data in between leave no trace.
        probe.fit(X[:, :2], y, groups).fit(X, y, groups, sample_weight=weight)
        np.testing.assert_array_equal(probe.coef_, before["coef_"])


@every
@pytest.mark.parametrize("layout", ["sets", "rows"])
def test_arguments_are_not_changed(sets, ragged, Probe, loss, layout):
    X, y, groups = (*sets, None) if layout == "sets" else ragged
    weight = np.random.default_rng(1).uniform(0, 2, size=y.shape)
    data = [array for array in (X, y, weight, groups) if array is not None]
    before = copy.deepcopy(data)
    probe = make(Probe, loss, n_candidates=3).fit(X, y, groups, sample_weight=weight)
    probe.score(X, y, groups, sample_weight=weight)
    probe.sample(X, groups)
    values(probe, X)
    for array, copied in zip(data, before, strict=True):
        np.testing.assert_array_equal(array, copied)


@every
def test_fitted_attributes_do_not_share_memory_with_the_data(sets, Probe, loss):
    X, y = sets
    probe = make(Probe, loss).fit(X, y)
    before = values(probe, X[:3].copy())
    first = X[:3].copy()
    X[:], y[:] = 0, 0
    np.testing.assert_array_equal(values(probe, first), before)


@every
def test_clone_and_pickle(sets, Probe, loss):
    X, y = sets
    probe = make(Probe, loss, temperature=0.5, random_state=0).fit(X, y)
    copied = pickle.loads(pickle.dumps(probe))
    np.testing.assert_array_equal(values(copied, X), values(probe, X))
    np.testing.assert_array_equal(copied.sample(X, size=3), probe.sample(X, size=3))
    assert copied.score(X, y) == probe.score(X, y)
    fresh = clone(probe)
    assert not hasattr(fresh, "coef_")
    assert fresh.get_params() == probe.get_params()
    np.testing.assert_array_equal(fresh.fit(X, y).coef_, probe.coef_)


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_loss_by_name_and_as_an_object(sets, loss):
    X, y = sets
    by_name = make(QProbePolicy, loss).fit(X, y)
    policy = make(QProbePolicy, LOSSES[loss]()).fit(X, y)
    np.testing.assert_array_equal(policy.coef_, by_name.coef_)
    copied = pickle.loads(pickle.dumps(policy))
    np.testing.assert_array_equal(copied.predict(X), policy.predict(X))
    fresh = clone(policy)
    assert fresh.loss is not policy.loss
    assert fresh.loss.get_params() == policy.loss.get_params()


# Choice


@every
def test_probabilities_sum_to_one(sets, ragged, Probe, loss):
    if Probe is QProbeRegressor:
        pytest.skip("a regressor has no predict_proba")
    X, y = sets
    policy = make(Probe, loss).fit(X, y)
    for temperature in (0, 1e-3, 1, 1e3):
        policy.temperature = temperature
        proba = policy.predict_proba(X)
        assert proba.shape == y.shape
        assert proba.min() >= 0
        np.testing.assert_allclose(proba.sum(axis=1), 1)
        rows, _, groups = ragged
        proba = policy.predict_proba(rows, groups)
        assert proba.shape == groups.shape
        total = [proba[groups == label].sum() for label in np.unique(groups)]
        np.testing.assert_allclose(total, 1)


@every
def test_sample_at_temperature_zero_is_the_best(sets, ragged, Probe, loss):
    X, y = sets  # continuous embeddings, so without ties
    probe = make(Probe, loss).fit(X, y)
    best = values(probe, X).argmax(axis=1)
    np.testing.assert_array_equal(probe.sample(X, random_state=0), best)
    X, _, groups = ragged
    q = values(probe, X)
    for row in probe.sample(X, groups, random_state=0):
        assert q[row] == q[groups == groups[row]].max()
    if Probe is QProbePolicy:
        np.testing.assert_array_equal(probe.predict(sets[0]), best)
        np.testing.assert_array_equal(
            probe.predict(X, groups), probe.sample(X, groups, random_state=0)
        )


@every
def test_a_fit_is_better_than_chance(sets, Probe, loss):
    X, y = sets
    test_X = np.random.default_rng(2).normal(size=(200, 6, 4))
    test_y = test_X[..., 0] - 0.5 * test_X[..., 1]  # what the fixture's rewards follow
    probe = make(Probe, loss).fit(X, y)
    chosen = np.take_along_axis(test_y, probe.sample(test_X)[:, None], axis=1)
    best, chance = test_y.max(axis=1).mean(), test_y.mean()
    assert chosen.mean() > chance + 0.8 * (best - chance)


# n_candidates


@every
def test_n_candidates_of_whole_prompts_changes_nothing(sets, ragged, Probe, loss):
    for X, y, groups in [(*sets, None), ragged]:
        probe = make(Probe, loss).fit(X, y, groups)
        for n_candidates in (9, 1000):  # the largest prompt has 9
            whole = make(Probe, loss, n_candidates=n_candidates, random_state=0)
            whole.fit(X, y, groups)
            assert whole.n_skipped_prompts_ == probe.n_skipped_prompts_
            # Only the order of candidates differs, see above.
            assert_same_fit(whole, probe, X, y, groups)


@every
def test_random_state_determines_the_sets_of_n_candidates(sets, Probe, loss):
    X, y = sets

    def coef(random_state):
        probe = make(Probe, loss, n_candidates=3, random_state=random_state)
        return probe.fit(X, y).coef_

    np.testing.assert_array_equal(coef(0), coef(0))
    np.testing.assert_array_equal(coef(0), coef(np.random.RandomState(0)))
    state = np.random.RandomState(0)
    one, other = coef(state), coef(state)  # goes on, as everywhere in scikit-learn
    if get_loss(loss).shift_invariant:
        assert abs(coef(0) - coef(1)).max() > 1e-4
        assert abs(one - other).max() > 1e-4
    else:
        # The mean over sets of equal size is that over the prompt.
        np.testing.assert_allclose(coef(0), coef(1), rtol=1e-5, atol=1e-6)
        whole = make(Probe, loss).fit(X, y)
        np.testing.assert_allclose(coef(0), whole.coef_, rtol=1e-5, atol=1e-6)


@every
def test_n_candidates_is_a_split_by_hand(sets, Probe, loss):
    # Prompts of 6 in sets of 4: two of 3 each, that count as half a prompt each.
    X, y = sets
    probe = make(Probe, loss, n_candidates=4, random_state=0).fit(X, y)
    dealt, n_sets = check_layout(y.shape).split(4, np.random.RandomState(0))
    assert (n_sets == 2).all()
    X_sets = X.reshape(-1, 4)[dealt.order].reshape(120, 3, 4)
    y_sets = y.ravel()[dealt.order].reshape(120, 3)
    by_hand = make(Probe, loss).fit(X_sets, y_sets)
    assert_same_fit(probe, by_hand, X_sets, y_sets)
    assert probe.n_skipped_prompts_ == by_hand.n_skipped_prompts_


@every
def test_n_candidates_leaves_each_prompt_its_weight(sets, Probe, loss):
    # A prompt of two sets counts no more than one that fills a single set.
    X, y = sets
    X_rows = np.concatenate([X[:40].reshape(-1, 4), X[40:, :3].reshape(-1, 4)])
    y_rows = np.concatenate([y[:40].ravel(), y[40:, :3].ravel()])
    groups = np.repeat(np.arange(60), [6] * 40 + [3] * 20)
    probe = make(Probe, loss, n_candidates=3, random_state=0).fit(
        X_rows, y_rows, groups
    )
    layout = check_layout(groups.shape, groups)
    dealt, _ = layout.split(3, np.random.RandomState(0))
    by_hand = make(Probe, loss).fit(
        X_rows[dealt.order].reshape(100, 3, 4),
        y_rows[dealt.order].reshape(100, 3),
        sample_weight=[0.5] * 80 + [1.0] * 20,
    )
    # The hinge's kinks end its minimisation early, see assert_same_fit.
    tol = 1e-2 if loss == "pairwise_hinge" else 1e-5
    np.testing.assert_allclose(probe.coef_, by_hand.coef_, rtol=tol, atol=tol / 10)


@pytest.mark.parametrize("loss", ["squared_error", "log_loss"])
def test_n_candidates_of_uneven_sets_in_the_regressor(ragged, loss):
    # "Changes nothing but rounding here": also where a prompt's sets differ in size.
    X, y, groups = ragged
    sizes = np.unique(groups, return_counts=True)[1]
    assert (sizes % 2).any()
    whole = make(QProbeRegressor, loss).fit(X, y, groups)
    for seed in (0, 1):
        dealt = make(QProbeRegressor, loss, n_candidates=2, random_state=seed)
        assert_same_fit(dealt.fit(X, y, groups), whole, X, y, groups)


# The objective is what the documentation says


@every
def test_fit_is_a_minimum_of_the_documented_objective(ragged, Probe, loss):
    X, y, groups = ragged
    probe = make(Probe, loss).fit(X, y, groups)
    at = objective(probe, X, y, groups)
    rng = np.random.default_rng(1)
    # The hinge's minimum is found to about 1e-5 in value only, see assert_same_fit.
    slack, step = (1e-5, 0.05) if loss == "pairwise_hinge" else (0, 1e-3)
    for _ in range(20):
        direction = rng.normal(size=4)
        direction *= step / np.linalg.norm(direction)
        assert objective(probe, X, y, groups, probe.coef_ + direction) > at - slack


@every
def test_decision_and_prediction_follow_from_coefficients(sets, Probe, loss):
    X, y = sets
    probe = make(Probe, loss, temperature=0.5).fit(X, y)
    q = X @ probe.coef_ + probe.intercept_
    if Probe is QProbePolicy:
        np.testing.assert_allclose(probe.decision_function(X), q)
        np.testing.assert_allclose(probe.predict_proba(X), softmax(q / 0.5, axis=1))
        assert (probe.intercept_ == 0.0) == get_loss(loss).shift_invariant
    elif loss == "log_loss":
        np.testing.assert_allclose(probe.predict(X), 1 / (1 + np.exp(-q)))
    else:
        np.testing.assert_allclose(probe.predict(X), q)
    without = make(Probe, loss, fit_intercept=False).fit(X, y)
    assert without.intercept_ == 0.0
