import math
import pickle
from itertools import combinations, pairwise, permutations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skqprobe import QProbePolicy, QProbeRegressor
from skqprobe.losses import (
    LOSSES,
    BaseLoss,
    ContrastivePolicyGradient,
    LogLoss,
    PairwiseHinge,
    PairwiseLogistic,
    PolicyGradient,
    SoftmaxCrossEntropy,
    SquaredError,
    get_loss,
)

CHOICE_LOSSES = [name for name in LOSSES if LOSSES[name].shift_invariant]
PAIRWISE_LOSSES = ["pairwise_logistic", "pairwise_hinge"]

# Sizes repeat, since the pairwise losses take prompts of equal size together.
SIZES = [3, 1, 6, 3, 2, 1, 6, 4]
OFFSETS = np.append(0, np.cumsum(SIZES))
PROMPTS = [slice(start, end) for start, end in pairwise(OFFSETS)]


@pytest.fixture
def scores(rng):
    return rng.normal(scale=0.3, size=OFFSETS[-1])


@pytest.fixture
def rewards(rng):
    """Multiples of 1/3 from 0 to 1: valid for every loss, and with ties."""
    return rng.integers(0, 4, size=OFFSETS[-1]) / 3


@pytest.fixture(params=[False, True], ids=["unweighted", "weighted"])
def weight(request, rng):
    """None, or whole numbers, whose meaning is that many copies."""
    return rng.integers(1, 4, OFFSETS[-1]).astype(float) if request.param else None


# The formulas of the losses, for one prompt, as plain as can be.


def softmax(values):
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def slow_squared_error(z, r):
    return sum((zi - ri) ** 2 for zi, ri in zip(z, r, strict=True)) / len(z)


def slow_log_loss(z, r):
    total = 0.0
    for zi, ri in zip(z, r, strict=True):
        p = 1 / (1 + math.exp(-zi))
        total -= ri * math.log(p) + (1 - ri) * math.log(1 - p)
    return total / len(z)


def slow_policy_gradient(z, r):
    return -sum(qi * ri for qi, ri in zip(softmax(z), r, strict=True))


def better_pairs(r):
    return [(i, j) for i, j in permutations(range(len(r)), 2) if r[i] > r[j]]


def slow_pairwise_logistic(z, r):
    pairs = better_pairs(r)
    total = sum(-math.log(1 / (1 + math.exp(-(z[i] - z[j])))) for i, j in pairs)
    return total / len(pairs) if pairs else 0.0


def slow_pairwise_hinge(z, r, margin=0.1):
    pairs = better_pairs(r)
    total = sum(max(0.0, margin - (z[i] - z[j])) for i, j in pairs)
    return total / len(pairs) if pairs else 0.0


def slow_softmax_cross_entropy(z, r, target_temperature=0.1):
    target = softmax([ri / target_temperature for ri in r])
    return -sum(ti * math.log(qi) for ti, qi in zip(target, softmax(z), strict=True))


def slow_contrastive_policy_gradient(z, r, b=1.0):
    return sum(
        0.5 * ((r[i] - r[j]) - b * (z[i] - z[j])) ** 2
        for i, j in combinations(range(len(z)), 2)
    )


SLOW = {
    "squared_error": slow_squared_error,
    "log_loss": slow_log_loss,
    "policy_gradient": slow_policy_gradient,
    "pairwise_logistic": slow_pairwise_logistic,
    "pairwise_hinge": slow_pairwise_hinge,
    "softmax_cross_entropy": slow_softmax_cross_entropy,
    "contrastive_policy_gradient": slow_contrastive_policy_gradient,
}

SETTINGS = [
    ("pairwise_hinge", {"margin": 0.7}),
    ("softmax_cross_entropy", {"target_temperature": 0.6}),
    ("contrastive_policy_gradient", {"b": 2.5}),
]
ALL_SETTINGS = [(name, {}) for name in LOSSES] + SETTINGS


def slow_values(name, settings, scores, rewards, weight):
    """Value of each prompt, where a weight repeats a row in its prompt."""
    copies = np.ones(len(scores)) if weight is None else weight
    return [
        SLOW[name](
            np.repeat(scores[rows], copies[rows].astype(int)).tolist(),
            np.repeat(rewards[rows], copies[rows].astype(int)).tolist(),
            **settings,
        )
        for rows in PROMPTS
    ]


def test_every_loss_has_a_formula_here():
    assert set(SLOW) == set(LOSSES)


@pytest.mark.parametrize("name, settings", ALL_SETTINGS)
def test_value_is_that_of_the_formula(name, settings, scores, rewards, weight):
    value, _ = LOSSES[name](**settings).value_and_gradient(
        scores, rewards, OFFSETS, weight
    )
    assert value.dtype == np.float64
    assert_allclose(
        value,
        slow_values(name, settings, scores, rewards, weight),
        rtol=1e-12,
        atol=1e-14,
    )


@pytest.mark.parametrize("name, settings", SETTINGS)
def test_settings_change_the_value(name, settings, scores, rewards):
    default, _ = LOSSES[name]().value_and_gradient(scores, rewards, OFFSETS)
    other, _ = LOSSES[name](**settings).value_and_gradient(scores, rewards, OFFSETS)
    assert abs(default - other).max() > 1e-2


@pytest.mark.parametrize("name, settings", ALL_SETTINGS)
@pytest.mark.parametrize("factor", [None, 1, 0.37])
def test_gradient_by_finite_differences(name, settings, factor, scores, rewards, rng):
    loss = LOSSES[name](**settings)
    weight = None if factor is None else factor * rng.integers(1, 4, len(scores))
    _, gradient = loss.value_and_gradient(scores, rewards, OFFSETS, weight)
    assert gradient.shape == scores.shape
    assert gradient.dtype == np.float64
    step = 1e-6
    for prompt, rows in enumerate(PROMPTS):
        for row in range(rows.start, rows.stop):
            near, far = scores.copy(), scores.copy()
            near[row] -= step
            far[row] += step
            change = (
                loss.value_and_gradient(far, rewards, OFFSETS, weight)[0]
                - loss.value_and_gradient(near, rewards, OFFSETS, weight)[0]
            )
            assert change[prompt] / (2 * step) == pytest.approx(
                gradient[row], abs=1e-7, rel=1e-7
            )
            change[prompt] = 0
            assert_array_equal(change, 0)  # other prompts do not see this row


@pytest.mark.parametrize("name", LOSSES)
def test_weights_are_copies(name, scores, rewards, rng):
    loss = LOSSES[name]()
    weight = rng.integers(1, 4, size=len(scores))
    copies = np.repeat(np.arange(len(scores)), weight)
    offsets = np.append(0, np.cumsum([weight[rows].sum() for rows in PROMPTS]))
    value, gradient = loss.value_and_gradient(
        scores, rewards, OFFSETS, weight.astype(float)
    )
    copied_value, copied_gradient = loss.value_and_gradient(
        scores[copies], rewards[copies], offsets
    )
    assert_allclose(value, copied_value, atol=1e-14)
    # Moving a row moves all its copies.
    assert_allclose(gradient, np.bincount(copies, weights=copied_gradient), atol=1e-14)


@pytest.mark.parametrize("name", LOSSES)
def test_weights_of_one_change_nothing(name, scores, rewards):
    plain = LOSSES[name]().value_and_gradient(scores, rewards, OFFSETS)
    weighted = LOSSES[name]().value_and_gradient(
        scores, rewards, OFFSETS, np.ones(len(scores))
    )
    for one, other in zip(plain, weighted, strict=True):
        assert_allclose(one, other, atol=1e-15)


@pytest.mark.parametrize("name", LOSSES)
def test_arguments_are_left_alone(name, scores, rewards, weight):
    given = [scores, rewards, OFFSETS] + ([] if weight is None else [weight])
    before = [array.copy() for array in given]
    LOSSES[name]().value_and_gradient(scores, rewards, OFFSETS, weight)
    for array, copy in zip(given, before, strict=True):
        assert_array_equal(array, copy)


@pytest.mark.parametrize("name", CHOICE_LOSSES)
def test_losses_of_a_choice_see_differences_only(name, scores, rewards, weight, rng):
    loss = LOSSES[name]()
    value, gradient = loss.value_and_gradient(scores, rewards, OFFSETS, weight)
    shift = np.repeat(rng.normal(size=len(SIZES)), SIZES)
    shifted = loss.value_and_gradient(scores + shift, rewards, OFFSETS, weight)
    assert_allclose(shifted[0], value, atol=1e-12)
    assert_allclose(shifted[1], gradient, atol=1e-12)
    for rows in PROMPTS:
        assert abs(gradient[rows].sum()) < 1e-14 * max(1, abs(gradient[rows]).sum())
    assert abs(gradient).max() > 0.1


@pytest.mark.parametrize("name", sorted(set(LOSSES) - set(CHOICE_LOSSES)))
def test_the_other_losses_see_a_shift(name, scores, rewards):
    loss = LOSSES[name]()
    value, _ = loss.value_and_gradient(scores, rewards, OFFSETS)
    shifted, _ = loss.value_and_gradient(scores + 3, rewards, OFFSETS)
    assert abs(shifted - value).min() > 0.01


def test_reward_baseline_does_not_change_the_policy_gradient(
    scores, rewards, weight, rng
):
    baseline = rng.normal(size=len(SIZES))
    value, gradient = PolicyGradient().value_and_gradient(
        scores, rewards, OFFSETS, weight
    )
    based = PolicyGradient().value_and_gradient(
        scores, rewards - np.repeat(baseline, SIZES), OFFSETS, weight
    )
    assert_allclose(based[1], gradient, atol=1e-14)
    assert_allclose(based[0], value + baseline)


def test_contrastive_policy_gradient_equals_its_centred_form(scores, rewards):
    b = 1.7
    value, gradient = ContrastivePolicyGradient(b).value_and_gradient(
        scores, rewards, OFFSETS
    )
    for prompt, rows in enumerate(PROMPTS):
        z, r = scores[rows], rewards[rows]
        error = (r - r.mean()) - b * (z - z.mean())
        assert value[prompt] == pytest.approx(len(z) / 2 * (error**2).sum())
        assert_allclose(gradient[rows], -len(z) * b * error, atol=1e-14)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"policy_gradient"}))
def test_convex_along_random_lines(name, rewards, weight, rng):
    loss = LOSSES[name]()
    for scale in (0.1, 1, 10):
        start, end = rng.normal(scale=scale, size=(2, len(rewards)))
        start_value, start_gradient = loss.value_and_gradient(
            start, rewards, OFFSETS, weight
        )
        end_value, end_gradient = loss.value_and_gradient(end, rewards, OFFSETS, weight)
        rounding = 1e-12 * (1 + start_value + end_value)
        for share in (0.1, 0.5, 0.8):
            between, _ = loss.value_and_gradient(
                (1 - share) * start + share * end, rewards, OFFSETS, weight
            )
            chord = (1 - share) * start_value + share * end_value
            assert (between <= chord + rounding).all()
        slopes = np.add.reduceat(
            (end_gradient - start_gradient) * (end - start), OFFSETS[:-1]
        )
        assert (slopes >= -rounding * scale).all()


# What a single prompt of scores 1e5, 0, -1e5 and rewards 0, 1/2, 1 tends to.
T = np.exp([0, 5, 10]) / np.exp([0, 5, 10]).sum()
LIMITS = {
    "squared_error": (1e10 + 0.25 + (1e5 + 1) ** 2) / 3,
    "log_loss": (1e5 + math.log(2) + 1e5) / 3,
    "policy_gradient": 0.0,
    "pairwise_logistic": (1e5 + 2e5 + 1e5) / 3,
    "pairwise_hinge": (1e5 + 2e5 + 1e5) / 3 + 0.1,
    "softmax_cross_entropy": T[1] * 1e5 + T[2] * 2e5,
    "contrastive_policy_gradient": (2 * (0.5 + 1e5) ** 2 + (1 + 2e5) ** 2) / 2,
}


@pytest.mark.parametrize("name", LOSSES)
def test_far_away_scores_give_the_limit(name):
    value, _ = LOSSES[name]().value_and_gradient(
        np.array([1e5, 0, -1e5]), np.array([0, 0.5, 1]), np.array([0, 3])
    )
    assert_allclose(value, LIMITS[name], rtol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_scores_give_finite_results(name, rewards, weight, rng):
    # Squares of more than 1e154 are not float64 any more.
    largest = 1e100 if hasattr(LOSSES[name], "least_squares") else 1e300
    for size in (1e5, largest):
        scores = rng.choice([-size, 0.0, size], len(rewards))
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            value, gradient = LOSSES[name]().value_and_gradient(
                scores, rewards, OFFSETS, weight
            )
        assert np.isfinite(value).all()
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", PAIRWISE_LOSSES)
def test_prompts_without_a_pair_count_as_nothing(name, weight):
    sizes = [3, 1, 2]  # equal rewards, one candidate, a pair
    offsets = np.append(0, np.cumsum(sizes))
    scores = np.array([3.0, -1, 2, 5, 0, 0])
    rewards = np.array([0.5, 0.5, 0.5, 1, 1, 0])
    loss = LOSSES[name]()
    value, gradient = loss.value_and_gradient(
        scores, rewards, offsets, None if weight is None else weight[: len(scores)]
    )
    assert_array_equal(value[:2], 0)
    assert_array_equal(gradient[:4], 0)
    assert value[2] > 0
    assert gradient[5] == -gradient[4] > 0
    assert_array_equal(loss.informative_prompts(rewards, offsets), [False, False, True])


@pytest.mark.parametrize("name", sorted(set(LOSSES) - set(PAIRWISE_LOSSES)))
def test_informative_prompts_of_the_other_losses(name):
    offsets, rewards = np.array([0, 2, 3, 5]), np.array([1.0, 1, 0, 1, 0])
    # Also for a lone candidate and for equal rewards there is a value.
    assert LOSSES[name]().informative_prompts(rewards, offsets).tolist() == [True] * 3


@pytest.mark.parametrize("name", PAIRWISE_LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_thousand_candidates_in_a_prompt(name, weighted, rng):
    k = 1000
    scores, rewards = rng.normal(size=k + 2), rng.integers(0, 5, k + 2) / 4
    rewards[-2:] = 1, 0
    weight = rng.uniform(0.5, 3, size=k + 2) if weighted else None
    value, gradient = LOSSES[name]().value_and_gradient(
        scores, rewards, np.array([0, k, k + 2]), weight
    )
    z, r = scores[:k], rewards[:k]
    share = (r[:, None] > r).astype(float)
    if weighted:
        share *= np.outer(weight[:k], weight[:k])
    share /= share.sum()
    lead = z[:, None] - z
    if name == "pairwise_logistic":
        each, slope = np.log1p(np.exp(-lead)), -1 / (1 + np.exp(lead))
    else:
        each, slope = np.maximum(0, 0.1 - lead), -(lead < 0.1).astype(float)
    slope *= share
    assert_allclose(value[0], (each * share).sum())
    assert_allclose(gradient[:k], slope.sum(axis=1) - slope.sum(axis=0), atol=1e-14)


@pytest.mark.parametrize("name", PAIRWISE_LOSSES)
@pytest.mark.parametrize("pairs", [1, 7, 20, 40])
def test_how_many_pairs_are_held_changes_nothing(
    name, pairs, scores, rewards, weight, monkeypatch
):
    expected = LOSSES[name]().value_and_gradient(scores, rewards, OFFSETS, weight)
    monkeypatch.setattr("skqprobe.losses._pairwise.PAIRS_AT_ONCE", pairs)
    result = LOSSES[name]().value_and_gradient(scores, rewards, OFFSETS, weight)
    for one, other in zip(result, expected, strict=True):
        assert_allclose(one, other, atol=1e-15)


@pytest.mark.parametrize("low, high", [(-0.25, 1), (0, 1.5)])
@pytest.mark.parametrize("estimator", [QProbeRegressor, QProbePolicy])
def test_log_loss_needs_rewards_from_0_to_1(estimator, low, high, sets):
    X, _ = sets
    y = np.linspace(low, high, X[..., 0].size).reshape(X.shape[:2])
    message = rf"y must lie in \[0, 1\] for loss='log_loss'.* {low:g} to {high:g}\."
    with pytest.raises(ValueError, match=message):
        estimator(loss="log_loss").fit(X, y)


@pytest.mark.parametrize("name", LOSSES)
def test_only_log_loss_is_picky_about_rewards(name):
    loss = LOSSES[name]()
    loss.check_rewards(np.array([0, 0.5, 1]))
    if name != "log_loss":
        loss.check_rewards(np.array([-3.0, 1e10]))


def test_inverse_link():
    scores = np.array([-1e5, -2, 0, 2, 1e5])
    for name in LOSSES:
        if name != "log_loss":
            assert_array_equal(LOSSES[name]().inverse_link(scores), scores)
    probability = LogLoss().inverse_link(scores)
    assert_allclose(probability[1:4], 1 / (1 + np.exp([2, 0, -2])))
    assert_array_equal(probability[[0, 4]], [0, 1])


def test_least_squares_is_the_squared_error(scores, rewards, weight):
    v, t = SquaredError().least_squares(rewards, OFFSETS, weight)
    value, _ = SquaredError().value_and_gradient(scores, rewards, OFFSETS, weight)
    assert_allclose(np.add.reduceat(v * (scores - t) ** 2, OFFSETS[:-1]), value)


def test_get_loss():
    for name, kind in LOSSES.items():
        assert type(get_loss(name)) is kind
    loss = PairwiseHinge(margin=3)
    assert get_loss(loss) is loss


@pytest.mark.parametrize("loss", ["no_such_loss", PairwiseHinge, 3, None])
def test_what_is_no_loss_raises(loss, sets):
    with pytest.raises(ValueError, match="'loss' parameter of QProbePolicy"):
        QProbePolicy(loss=loss).fit(*sets)


@pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("name, settings", SETTINGS)
def test_settings_must_be_positive(name, settings, value, sets):
    (setting,) = settings
    loss = LOSSES[name](**{setting: value})  # __init__ does not validate
    message = f"{setting} of {type(loss).__name__} must be a finite number above 0; got"
    for solver in ("auto", "lbfgs"):
        policy = QProbePolicy(loss=loss, solver=solver)
        with pytest.raises(ValueError, match=message):
            policy.fit(*sets)
        assert not hasattr(policy, "coef_")


@pytest.mark.parametrize("name, settings", ALL_SETTINGS)
def test_losses_have_params(name, settings):
    loss = LOSSES[name](**settings)
    copy = clone(loss)
    assert copy is not loss
    assert type(copy) is type(loss)
    assert settings.items() <= copy.get_params().items()
    assert pickle.loads(pickle.dumps(loss)).get_params() == loss.get_params()


def test_default_settings_are_the_papers():
    assert PairwiseHinge().get_params() == {"margin": 0.1}
    assert SoftmaxCrossEntropy().get_params() == {"target_temperature": 0.1}
    assert ContrastivePolicyGradient().get_params() == {"b": 1.0}


def test_search_reaches_a_setting(sets):
    X, y = sets
    margins = [0.1, 5.0]
    search = GridSearchCV(
        QProbePolicy(loss=PairwiseHinge(), max_iter=1000), {"loss__margin": margins}
    ).fit(X, y)
    assert search.cv_results_["param_loss__margin"].tolist() == margins
    best = search.best_estimator_
    assert best.loss.margin == search.best_params_["loss__margin"]
    alone = QProbePolicy(loss=PairwiseHinge(best.loss.margin), max_iter=1000)
    assert_array_equal(alone.fit(X, y).coef_, best.coef_)


@pytest.mark.parametrize("name, settings", ALL_SETTINGS)
def test_loss_object_fits_like_its_name(name, settings, sets):
    X, y = sets
    loss = LOSSES[name](**settings)
    by_object = QProbePolicy(loss=loss).fit(X, y)
    by_name = QProbePolicy(loss=name).fit(X, y)
    same = np.array_equal(by_object.coef_, by_name.coef_)
    assert same == (not settings)
    assert loss.get_params() == LOSSES[name](**settings).get_params()  # not touched


# A user's own loss.


class ScaledSquaredError(BaseLoss):
    """One method, one setting."""

    def __init__(self, scale=1.0):
        self.scale = scale

    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        error = scores - rewards
        weight = np.ones(len(scores)) if weight is None else weight
        total = np.add.reduceat(weight, offsets[:-1])
        share = self.scale * weight / np.repeat(total, np.diff(offsets))
        return (
            np.add.reduceat(share * error**2, offsets[:-1]),
            2 * share * error,
        )


class BlindSquaredError(ScaledSquaredError):
    """Says of every score that it is the best."""

    def value_and_gradient(self, scores, rewards, offsets, weight=None):
        value, gradient = super().value_and_gradient(scores, rewards, offsets, weight)
        return value, np.zeros_like(gradient)


def test_own_loss_is_minimised(sets, rng):
    X, y = sets
    policy = QProbePolicy(loss=ScaledSquaredError(scale=5), alpha=0.5, tol=1e-8)
    expected = QProbePolicy(loss="squared_error", alpha=0.1)
    for weight in (None, rng.integers(0, 3, len(y)), rng.integers(0, 3, y.shape)):
        policy.fit(X, y, sample_weight=weight)
        expected.fit(X, y, sample_weight=weight)
        assert_allclose(policy.coef_, expected.coef_, rtol=1e-6)
        assert policy.intercept_ == pytest.approx(expected.intercept_)
    assert policy.predict(X).shape == (len(X),)
    assert policy.score(X, y) > y.mean()


def test_the_gradient_of_an_own_loss_is_used(sets):
    assert_array_equal(QProbePolicy(loss=BlindSquaredError()).fit(*sets).coef_, 0)


def test_own_loss_survives_copying(sets):
    policy = QProbePolicy(loss=ScaledSquaredError(scale=5))
    assert policy.get_params()["loss__scale"] == 5
    copy = clone(policy).set_params(loss__scale=7)
    assert isinstance(copy.loss, ScaledSquaredError)
    assert (policy.loss.scale, copy.loss.scale) == (5, 7)
    copy.fit(*sets)
    loaded = pickle.loads(pickle.dumps(copy))
    assert loaded.loss.scale == 7
    assert_array_equal(loaded.predict(sets[0]), copy.predict(sets[0]))


def test_search_reaches_the_setting_of_an_own_loss(sets):
    X, y = sets
    search = GridSearchCV(
        QProbePolicy(loss=ScaledSquaredError(), alpha=1.0),
        {"loss__scale": [1e-6, 1.0]},
        scoring=lambda policy, X, y: -((policy.decision_function(X) - y) ** 2).mean(),
    ).fit(X, y)
    # Beside the penalty, a loss of 1e-6 is nothing.
    assert search.best_params_ == {"loss__scale": 1.0}


def test_own_loss_has_no_closed_form(sets):
    policy = QProbePolicy(loss=ScaledSquaredError(), solver="closed_form")
    with pytest.raises(ValueError, match="solver='closed_form' cannot minimise"):
        policy.fit(*sets)


def test_a_loss_needs_its_method():
    class Unfinished(BaseLoss):
        pass

    for kind in (BaseLoss, Unfinished):
        with pytest.raises(TypeError, match="value_and_gradient"):
            kind()


def test_regressor_takes_no_loss_object(sets):
    with pytest.raises(ValueError, match="'loss' parameter of QProbeRegressor"):
        QProbeRegressor(loss=PairwiseLogistic()).fit(*sets)
