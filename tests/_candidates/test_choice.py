import warnings

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import chisquare

from skqprobe import QProbePolicy, QProbeRegressor, sample_candidates
from skqprobe._candidates.choice import best_candidates, choice_probabilities
from skqprobe._candidates.layout import check_layout
from skqprobe._candidates.sampling import draw_candidates


def policy_of(coef, **params):
    """A policy with these coefficients, so that a test can choose its values Q."""
    coef = np.asarray(coef, dtype=float)
    X = np.vstack([np.eye(len(coef)), np.zeros(len(coef))])
    policy = QProbePolicy("squared_error", alpha=0, fit_intercept=False, **params)
    return policy.fit(X[:, None], np.append(coef, 0)[:, None])


def values_of(*prompts):
    """Sets of one feature, which is the value Q that the policy of [1.0] gives."""
    return np.array(prompts, dtype=float)[..., None]


class EdgeState(np.random.RandomState):
    """Draws only the given number in [0, 1)."""

    def __new__(cls, value):
        return super().__new__(cls)

    def __init__(self, value):
        super().__init__(0)
        self.value = value

    def random_sample(self, size=None):
        return np.full(size, self.value)


# Probabilities


def test_policy_of_gives_the_values_asked_for():
    policy = policy_of([2.0, -3.0])
    np.testing.assert_allclose(policy.decision_function(np.eye(2)), [2.0, -3.0])


@pytest.mark.parametrize("temperature", [0.1, 1, 3.5, np.float32(0.5)])
def test_predict_proba_is_softmax_of_values_over_temperature(sets, rows, temperature):
    X, y = sets
    policy = QProbePolicy(temperature=temperature).fit(X, y)
    expected = softmax(policy.decision_function(X) / temperature, axis=1)
    np.testing.assert_allclose(policy.predict_proba(X), expected, rtol=1e-10)
    # In rows, prompt by prompt, in the place of each row.
    X, _, groups = rows
    proba, q = policy.predict_proba(X, groups), policy.decision_function(X)
    for label in np.unique(groups):
        of_prompt = groups == label
        np.testing.assert_allclose(
            proba[of_prompt], softmax(q[of_prompt] / temperature), rtol=1e-10
        )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("temperature", [0, 5e-324, 1e-300, 1e-10, 1.0, 1e10, 1e300])
def test_extreme_temperatures(sets, rows, temperature, dtype):
    # Without overflow, NaN or, as warnings are errors here, any warning.
    X, y = sets
    policy = QProbePolicy(temperature=temperature).fit(X.astype(dtype), y)
    proba = policy.predict_proba(X.astype(dtype))
    tol = np.finfo(proba.dtype).eps * 10
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=tol)
    best = policy.predict(X)
    if temperature < 1e-9:  # far below any difference of values
        np.testing.assert_array_equal(proba.argmax(axis=1), best)
        assert proba.max(axis=1).min() == 1
        np.testing.assert_array_equal(policy.sample(X), best)
    if temperature > 1e9:
        np.testing.assert_allclose(proba, 1 / X.shape[1], rtol=1e-6)
    assert 0 <= policy.score(X.astype(dtype), y) <= 1
    X, y, groups = rows
    proba = policy.predict_proba(X.astype(dtype), groups)
    for label in np.unique(groups):
        np.testing.assert_allclose(proba[groups == label].sum(), 1, rtol=tol)


@pytest.mark.parametrize("temperature", [1e-300, 1e-3, 1.0, 1e300])
def test_extreme_values(temperature):
    # As large as a float64 score can be at all, and as close together.
    policy = policy_of([1.0], temperature=temperature)
    X = values_of([1e308, -1e308 / 2], [1e-320, 0.0], [-1e300, -1e300])
    proba = policy.predict_proba(X)
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert proba[0].tolist() == [1, 0]
    assert proba[2].tolist() == [0.5, 0.5]


def test_temperature_zero_shares_among_equal_best():
    policy = policy_of([1.0])  # temperature=0 is the default
    X = values_of([0, 2, 2, 1], [3, 3, 3, 3], [5, 1, 5, 5], [0, 1, 2, 3])
    expected = [
        [0, 1 / 2, 1 / 2, 0],
        [1 / 4] * 4,
        [1 / 3, 0, 1 / 3, 1 / 3],
        [0, 0, 0, 1],
    ]
    np.testing.assert_allclose(policy.predict_proba(X), expected)
    # predict takes the first of them.
    assert policy.predict(X).tolist() == [1, 0, 0, 3]
    # In rows too, the first in X and not, say, the first in a sorted order.
    groups = np.array(["z", "a", "z", "a", "z"])
    rows = np.array([[1.0], [2.0], [1.0], [2.0], [0.0]])
    np.testing.assert_allclose(
        policy.predict_proba(rows, groups), [0.5, 0.5, 0.5, 0.5, 0]
    )
    assert policy.predict(rows, groups).tolist() == [0, 1]


def test_predict_is_the_same_at_any_temperature(sets):
    X, y = sets
    policy = QProbePolicy().fit(X, y)
    best = policy.decision_function(X).argmax(axis=1)
    for temperature in (0, 0.1, 10):
        policy.temperature = temperature
        np.testing.assert_array_equal(policy.predict(X), best)


def test_temperature_is_read_when_choosing(sets):
    X, y = sets
    cold, hot = QProbePolicy(temperature=0), QProbePolicy(temperature=2.0)
    cold.fit(X, y)
    hot.fit(X, y)
    # Training does not see it.
    np.testing.assert_array_equal(cold.coef_, hot.coef_)
    assert cold.score(X, y) != hot.score(X, y)
    # And a change after fit is as good as one before.
    cold.set_params(temperature=2.0)
    np.testing.assert_array_equal(cold.predict_proba(X), hot.predict_proba(X))
    assert cold.score(X, y) == hot.score(X, y)
    cold.temperature, hot.temperature = 0.5, 0.5
    draws = [probe.sample(X, size=5, random_state=0) for probe in (cold, hot)]
    np.testing.assert_array_equal(*draws)


def test_higher_temperature_chooses_more_evenly(sets):
    X, y = sets
    policy = QProbePolicy().fit(X, y)
    top = [
        policy.set_params(temperature=t).predict_proba(X).max(axis=1).mean()
        for t in (0, 0.1, 0.5, 2, 1e3)
    ]
    assert top == sorted(top, reverse=True)
    assert len(set(top)) == len(top)


# Score


def test_score_is_the_expected_reward(sets, rows):
    X, y = sets
    policy = QProbePolicy(temperature=0.7).fit(X, y)
    q = policy.decision_function(X)
    expected = np.mean([softmax(z / 0.7) @ r for z, r in zip(q, y, strict=True)])
    assert policy.score(X, y) == pytest.approx(expected)
    # In rows each prompt counts once, however many candidates it has.
    X, y, groups = rows
    q = policy.decision_function(X)
    expected = np.mean(
        [softmax(q[groups == g] / 0.7) @ y[groups == g] for g in np.unique(groups)]
    )
    assert policy.score(X, y, groups) == pytest.approx(expected)


def test_score_on_ties_is_honest(sets):
    # A probe that cannot tell candidates apart gets their mean, wherever the best one
    # stands: taking the first, or the luckiest, would not.
    _, y = sets
    y = -np.sort(-y, axis=1)
    X = np.ones((*y.shape, 2))
    policy = policy_of([1.0, 1.0])
    assert policy.score(X, y) == pytest.approx(y.mean())
    assert policy.score(X, y[:, ::-1]) == pytest.approx(y.mean())
    assert y.mean() < y[:, 0].mean()
    # Two of three share the first place.
    X = values_of([1, 0, 1])
    assert policy_of([1.0]).score(X, [[0.0, 5.0, 1.0]]) == pytest.approx(0.5)


def test_score_at_zero_is_the_limit(sets):
    X, y = sets
    X = np.round(X)  # so that there are ties
    policy = policy_of([1.0, 0.0, 0.0, 0.0])
    limit = policy.set_params(temperature=1e-9).score(X, y)
    assert policy.set_params(temperature=0).score(X, y) == pytest.approx(limit)


def test_score_is_what_sampling_earns(sets):
    X, y = sets
    policy = QProbePolicy(temperature=0.5).fit(X, y)
    draws = policy.sample(X, size=20_000, random_state=0)
    earned = np.take_along_axis(y, draws, axis=1).mean()
    # Each draw's reward is in [0, 1]: a standard error of at most 0.5 / sqrt(n).
    assert earned == pytest.approx(policy.score(X, y), abs=4 * 0.5 / draws.size**0.5)


# Samples


def test_sample_sizes(sets, rows):
    X, y = sets
    policy = QProbePolicy(temperature=1.0).fit(X, y)
    assert policy.sample(X).shape == (60,)
    assert policy.sample(X, size=1).shape == (60, 1)
    assert policy.sample(X, size=np.int64(7)).shape == (60, 7)
    assert policy.sample(X[:1], size=3).shape == (1, 3)
    draws = policy.sample(X, size=50)
    assert np.issubdtype(draws.dtype, np.integer)
    assert set(np.unique(draws)) == set(range(6))
    X, _, groups = rows
    n_prompts = len(np.unique(groups))
    assert policy.sample(X, groups).shape == (n_prompts,)
    assert policy.sample(X, groups, size=4).shape == (n_prompts, 4)


@pytest.mark.parametrize("size", [0, -1, 2.0, "2", (2,)])
def test_bad_sample_size(sets, size):
    X, y = sets
    policy = QProbePolicy().fit(X, y)
    with pytest.raises(ValueError, match=r"size must be None or an integer of 1"):
        policy.sample(X, size=size)
    with pytest.raises(ValueError, match=r"size must be None or an integer of 1"):
        sample_candidates([[0.5, 0.5]], size=size)


@pytest.mark.parametrize("Probe", [QProbePolicy, QProbeRegressor])
def test_random_state_of_sample(sets, Probe):
    X, y = sets
    probe = Probe(temperature=1.0).fit(X, y)

    def draw(**params):
        return probe.sample(X, size=10, **params)

    def same(one, other):
        return (one == other).all()

    # An integer gives the same each time, a RandomState goes on.
    assert same(draw(random_state=0), draw(random_state=0))
    assert not same(draw(random_state=0), draw(random_state=1))
    state = np.random.RandomState(0)
    first = draw(random_state=state)
    assert same(first, draw(random_state=0))
    assert not same(first, draw(random_state=state))
    # None takes the estimator's, and without one NumPy's global state.
    np.random.seed(0)  # noqa: NPY002
    assert same(draw(), first)
    assert not same(draw(), first)
    probe.set_params(random_state=0)
    assert same(draw(), first)
    assert same(draw(), first)
    assert not same(draw(random_state=1), first)
    probe.set_params(random_state=np.random.RandomState(0))
    assert same(draw(), first)
    assert not same(draw(), first)


@pytest.mark.parametrize("layout", ["sets", "rows"])
def test_frequencies_match_predict_proba(sets, rows, layout):
    X, y = sets
    policy = QProbePolicy(temperature=1.0).fit(X, y)
    if layout == "sets":
        X, groups = X[:10], None
        proba = policy.predict_proba(X)
        place = np.arange(10)[:, None] * 6
        label = np.repeat(np.arange(10), 6)
    else:
        X, _, groups = rows
        proba = policy.predict_proba(X, groups)
        place = 0  # positions in X already
        _, label = np.unique(groups, return_inverse=True)
    draws = policy.sample(X, groups, size=4000, random_state=0) + place
    counts = np.bincount(draws.ravel(), minlength=proba.size)
    expected = 4000 * proba.ravel()
    # One chi-square test a prompt; by Bonferroni none of them should be below this.
    pvalues = [
        chisquare(counts[label == i], expected[label == i]).pvalue
        for i in range(label.max() + 1)
        if (label == i).sum() > 1
    ]
    assert min(pvalues) > 0.01 / len(pvalues)
    # Nor should all fit too well: p-values are even in [0, 1].
    assert min(pvalues) < 0.5


def test_draws_of_a_prompt_are_independent():
    proba = np.full((20_000, 2), 0.5)
    draws = sample_candidates(proba, size=2, random_state=0)
    counts = np.bincount(2 * draws[:, 0] + draws[:, 1], minlength=4)
    assert chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("edge", [0.0, np.nextafter(1, 0), None])
def test_a_candidate_of_probability_zero_is_never_drawn(rng, edge):
    # Also where the random number lies at the very edge of a prompt.
    proba = rng.random(size=(500, 7)) ** 4
    proba[rng.random(size=proba.shape) < 0.6] = 0
    proba[np.arange(500), rng.integers(0, 7, size=500)] += 0.1
    proba /= proba.sum(axis=1, keepdims=True)
    assert (proba[:, 0] == 0).any()
    assert (proba[:, -1] == 0).any()
    state = 0 if edge is None else EdgeState(edge)
    draws = sample_candidates(proba, size=50, random_state=state)
    assert np.take_along_axis(proba, draws, axis=1).min() > 0
    # In rows as well, whatever lies next to a prompt.
    groups = np.repeat(np.arange(500), 7)
    state = 0 if edge is None else EdgeState(edge)
    draws = sample_candidates(proba.ravel(), groups, size=50, random_state=state)
    assert proba.ravel()[draws].min() > 0
    assert (groups[draws] == np.arange(500)[:, None]).all()


def test_draws_stay_in_their_prompt_among_very_many():
    # Sums over many prompts are rounded; a draw must not slip into the next one.
    n = 200_000
    proba = np.tile([0.0, 1.0, 0.0], (n, 1))
    for value in (0.0, np.nextafter(1, 0)):
        draws = sample_candidates(proba, random_state=EdgeState(value))
        assert (draws == 1).all()


def test_all_draws_at_temperature_zero_are_best(sets):
    X = np.round(sets[0])  # so that there are ties
    policy = policy_of([1.0, 0.0, 0.0, 0.0])
    best = policy.decision_function(X)
    draws = policy.sample(X, size=100, random_state=0)
    chosen = np.take_along_axis(best, draws, axis=1)
    assert (chosen == best.max(axis=1, keepdims=True)).all()
    # Each of the equal best ones gets its turn.
    assert len(set(draws[0])) == (best[0] == best[0].max()).sum()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [None, 3])
def test_sample_candidates_is_sample(sets, rows, size, dtype):
    X, y = sets
    X = X.astype(dtype)
    policy = QProbePolicy(temperature=0.5).fit(X, y)
    np.testing.assert_array_equal(
        sample_candidates(policy.predict_proba(X), size=size, random_state=3),
        policy.sample(X, size=size, random_state=3),
    )
    X, _, groups = rows
    X = X.astype(dtype)
    proba = policy.predict_proba(X, groups)
    np.testing.assert_array_equal(
        sample_candidates(proba, groups, size=size, random_state=3),
        policy.sample(X, groups, size=size, random_state=3),
    )


@pytest.mark.parametrize("loss", ["squared_error", "log_loss"])
def test_regressor_samples_by_its_predictions(sets, loss):
    # In units of the reward: for log_loss, of the probability.
    X, y = sets
    model = QProbeRegressor(loss, temperature=0.3).fit(X, y)
    proba = softmax(model.predict(X) / 0.3, axis=1)
    np.testing.assert_array_equal(
        model.sample(X, size=9, random_state=0),
        sample_candidates(proba, size=9, random_state=0),
    )
    model.temperature = 0
    np.testing.assert_array_equal(model.sample(X), model.predict(X).argmax(axis=1))


def test_sample_candidates_takes_frames_and_lists():
    pd = pytest.importorskip("pandas")
    pl = pytest.importorskip("polars")
    sets = [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    for proba in (
        sets,
        np.array(sets),
        pd.DataFrame(sets),
        pl.DataFrame(np.array(sets)),
    ):
        assert sample_candidates(proba).tolist() == [1, 2]
    rows, groups = [0.0, 1.0, 1.0, 0.0], ["b", "a", "b", "a"]
    for proba, labels in [
        (rows, groups),
        (np.array(rows), np.array(groups)),
        (pd.Series(rows, index=[3, 2, 1, 0]), pd.Series(groups)),
        (pl.Series(rows), pl.Series(groups)),
    ]:
        assert sample_candidates(proba, labels).tolist() == [2, 1]


def test_sample_candidates_does_not_change_its_input():
    proba = np.array([[0.25, 0.75], [0.5, 0.5]])
    proba.setflags(write=False)
    sample_candidates(proba, random_state=0)
    groups = np.array([1, 0, 1, 0])
    groups.setflags(write=False)
    sample_candidates(np.full(4, 0.5), groups, random_state=0)


def test_sample_candidates_forgives_rounding():
    proba = softmax(np.random.default_rng(0).normal(size=(50, 9)), axis=1)
    draws = sample_candidates(proba, size=5, random_state=0)
    rounded = proba.astype(np.float32)
    np.testing.assert_array_equal(
        sample_candidates(rounded, size=5, random_state=0), draws
    )
    sample_candidates(proba.astype(np.float16))


@pytest.mark.parametrize(
    ("proba", "groups", "words"),
    [
        ([[0.5, 0.6]], None, "proba must .*sum to 1 inside each prompt.*1.1"),
        ([[0.5, 0.5], [0.1, 0.2]], None, "proba must .*sum to 1.* from 0.3 to 1"),
        ([[0.0, 0.0]], None, "proba must .*sum to 1"),
        ([[-0.5, 1.5]], None, "proba must be non-negative"),
        ([[np.nan, 1.0]], None, "proba contains NaN"),
        ([[np.inf, 0.0]], None, "proba contains infinity"),
        ([0.5, 0.5], [0, 1], "proba must .*sum to 1 inside each prompt"),
        ([0.5, 0.5], [0], "groups has 1 label"),
        ([0.5, 0.5], [0, None], "groups contains None"),
        (np.full((2, 2, 2), 0.25), None, r"proba must have shape .*\(2, 2, 2\)"),
        (1.0, None, r"proba must have shape .*\(\)"),
        ([["a", "b"]], None, "could not convert string to float"),
        (np.empty((0, 3)), None, r"no candidates.*\(0, 3\)"),
        (np.empty((3, 0)), None, r"no candidates.*\(3, 0\)"),
        ([], [], "no candidates"),
    ],
)
def test_bad_probabilities(proba, groups, words):
    with pytest.raises(ValueError, match=words):
        sample_candidates(proba, groups)


def test_message_of_negative_probabilities_says_so():
    # The sums are fine here, so that they would be no help.
    with pytest.raises(ValueError, match=r"-0\.5"):
        sample_candidates([[-0.5, 1.5]])


def test_sample_candidates_without_groups_warns():
    with pytest.warns(UserWarning, match="no groups were given"):
        draws = sample_candidates([1.0, 1.0])
    assert draws.tolist() == [0, 0]


# The functions behind


def test_weights_are_copies(rng):
    # choice_probabilities with weights is softmax over the copies, added up.
    scores, weight = rng.normal(size=6), np.array([1, 3, 2, 1, 2, 5])
    layout = check_layout((6,), [0, 0, 0, 1, 1, 1])
    copies = check_layout((14,), np.repeat([0, 0, 0, 1, 1, 1], weight))
    for temperature in (0, 0.5):
        for values in (scores, np.zeros(6)):
            one_by_one = choice_probabilities(
                np.repeat(values, weight), copies, temperature
            )
            np.testing.assert_allclose(
                choice_probabilities(values, layout, temperature, weight),
                np.bincount(np.repeat(np.arange(6), weight), one_by_one),
            )


def test_best_rows_are_the_first_maxima(rng):
    values = rng.integers(0, 3, size=50).astype(float)
    groups = np.sort(rng.integers(0, 12, size=50))
    layout = check_layout((50,), groups)
    expected = [
        start + np.argmax(part)
        for start, part in zip(
            layout.offsets[:-1], np.split(values, layout.offsets[1:-1]), strict=True
        )
    ]
    assert best_candidates(values, layout).tolist() == expected


def test_draw_rows_inverts_the_distribution_function():
    layout = check_layout((5,), ["a", "a", "a", "b", "b"])
    proba = np.array([0.25, 0.5, 0.25, 0.5, 0.5])
    for uniform, expected in [
        (0.0, [0, 3]),
        (0.249, [0, 3]),
        (0.251, [1, 3]),
        (0.499, [1, 3]),
        (0.501, [1, 4]),
        (0.751, [2, 4]),
        (np.nextafter(1, 0), [2, 4]),
    ]:
        assert (
            draw_candidates(proba, layout, None, EdgeState(uniform)).tolist()
            == expected
        )


# The theorem of the paper: as k grows, choosing among k candidates of a base model p0
# tends to the base model tilted by exp(Q / temperature).


def total_variation(p, q):
    return abs(p - q).sum() / 2


def chosen_by_draws(policy, p0, k, n_prompts, rng):
    """Distribution of the chosen completion, from drawn candidate sets.

    The embedding of a completion is one-hot. Probabilities of the choice are averaged,
    not choices, which leaves out the noise of one of the two draws (Rao-Blackwell).
    """
    drawn = rng.choice(len(p0), size=(n_prompts, k), p=p0)
    proba = policy.predict_proba(np.eye(len(p0))[drawn])
    return np.bincount(drawn.ravel(), proba.ravel(), len(p0)) / n_prompts


def test_choice_tends_to_the_tilted_base_model():
    rng = np.random.default_rng(0)
    p0, value, temperature = rng.dirichlet(np.ones(6)), rng.normal(size=6), 0.5
    tilted = p0 * np.exp(value / temperature)
    tilted /= tilted.sum()
    policy = policy_of(value, temperature=temperature)
    sizes = np.array([4, 8, 16, 32, 64])
    # About 2 million candidates for each k, which leaves less noise than error.
    distances = [
        total_variation(chosen_by_draws(policy, p0, k, 2**21 // k, rng), tilted)
        for k in sizes
    ]
    slope = np.polyfit(np.log(sizes), np.log(distances), 1)[0]
    assert -1.25 < slope < -0.8
    # One candidate leaves the base model as it is, which is far off.
    alone = chosen_by_draws(policy, p0, 1, 2**18, rng)
    assert total_variation(alone, p0) < 0.01
    assert total_variation(alone, tilted) > 10 * distances[-1]


def test_rate_of_convergence_to_the_tilted_base_model():
    # The same without noise: with three completions, the candidate sets of size k are
    # few enough to take them all, each as often as the base model draws it.
    p0, value, temperature = np.array([0.2, 0.5, 0.3]), np.array([1.0, 0.0, 0.3]), 0.5
    tilted = p0 * np.exp(value / temperature)
    tilted /= tilted.sum()
    policy = policy_of(value, temperature=temperature)
    sizes = np.array([8, 16, 32, 64])
    distances = []
    for k in sizes:
        counts = np.array(
            [(a, b, k - a - b) for a in range(k + 1) for b in range(k + 1 - a)]
        )
        # log of k! / (a! b! c!) p0^counts
        factorial = np.concatenate([[0], np.cumsum(np.log(np.arange(1, k + 1)))])
        often = np.exp(
            factorial[k] - factorial[counts].sum(axis=1) + counts @ np.log(p0)
        )
        assert often.sum() == pytest.approx(1)
        drawn = np.array([np.repeat([0, 1, 2], count) for count in counts])
        proba = policy.predict_proba(np.eye(3)[drawn])
        mass = (often[:, None] * proba).ravel()
        distances.append(total_variation(np.bincount(drawn.ravel(), mass), tilted))
    slopes = np.diff(np.log(distances)) / np.diff(np.log(sizes))
    # 1/k with a correction of 1/k**2: closer to -1 at each doubling.
    np.testing.assert_allclose(slopes, -1, atol=0.15)
    assert (np.diff(abs(slopes + 1)) < 0).all()


def test_rows_without_groups_warn_and_leave_no_choice(rows):
    X, y, groups = rows
    policy = QProbePolicy(temperature=1.0).fit(X, y, groups)
    calls = {
        "predict": lambda: policy.predict(X),
        "sample": lambda: policy.sample(X),
        "predict_proba": lambda: policy.predict_proba(X),
        "score": lambda: policy.score(X, y),
    }
    answers = {}
    for name, call in calls.items():
        with pytest.warns(UserWarning, match="enable_metadata_routing=True"):
            answers[name] = call()
    assert (answers["predict"] == 0).all()
    assert (answers["sample"] == 0).all()
    assert (answers["predict_proba"] == 1).all()
    assert np.isnan(answers["score"])
    # A single row may well be all there is: it is the choice, without a warning.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert policy.predict(X[:1]).tolist() == [0]


@pytest.mark.parametrize("method", ["predict", "predict_proba", "sample"])
def test_warnings_point_at_the_caller(rows, method):
    X, y, groups = rows
    policy = QProbePolicy().fit(X, y, groups)
    with pytest.warns(UserWarning, match="no groups") as caught:
        getattr(policy, method)(X)
    assert [warning.filename for warning in caught] == [__file__]
