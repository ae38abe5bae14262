import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skqprobe import QProbePolicy
from skqprobe.losses import PairwiseHinge, PairwiseLogistic

MODULE = "skqprobe.losses._pairwise."
both_losses = pytest.mark.parametrize("Loss", [PairwiseLogistic, PairwiseHinge])


@both_losses
def test_prompts_without_a_pair_have_value_and_gradient_0(Loss, weight):
    offsets = np.array([0, 3, 4, 6])  # equal rewards, one candidate, a pair
    scores = np.array([3.0, -1, 2, 5, 0, 0])
    rewards = np.array([0.5, 0.5, 0.5, 1, 1, 0])
    value, gradient = Loss().value_and_gradient(
        scores, rewards, offsets, None if weight is None else weight[: len(scores)]
    )
    assert_array_equal(value[:2], 0)
    assert_array_equal(gradient[:4], 0)
    assert value[2] > 0
    assert gradient[5] == -gradient[4] > 0


@both_losses
@pytest.mark.parametrize("pairs", [1, 7, 20, 40])
def test_number_of_pairs_at_once_does_not_matter(
    Loss, pairs, scores, rewards, offsets, weight, monkeypatch
):
    expected = Loss().value_and_gradient(scores, rewards, offsets, weight)
    monkeypatch.setattr(MODULE + "PAIRS_AT_ONCE", pairs)
    result = Loss().value_and_gradient(scores, rewards, offsets, weight)
    for one, other in zip(result, expected, strict=True):
        assert_allclose(one, other, atol=1e-15)


@both_losses
@pytest.mark.parametrize("n_rewards", [1, 2, 3, 1000])
@pytest.mark.parametrize("pairs", [1, 100, 2**15])
def test_tables_of_sorted_candidates_have_all_pairs(
    Loss, n_rewards, pairs, weight, rng, monkeypatch
):
    offsets = np.arange(0, 161, 20)
    scores, rewards = rng.normal(size=160), rng.integers(n_rewards, size=160) / 3
    weight = None if weight is None else rng.uniform(0.5, 2, 160)
    expected = Loss().value_and_gradient(scores, rewards, offsets, weight)
    monkeypatch.setattr(MODULE + "SORTED_PROMPT", 1)
    monkeypatch.setattr(MODULE + "PAIRS_AT_ONCE", pairs)
    result = Loss().value_and_gradient(scores, rewards, offsets, weight)
    for one, other in zip(result, expected, strict=True):
        assert_allclose(one, other, atol=1e-14)


@both_losses
def test_products_of_extreme_weights_stay_in_range(Loss, rng):
    scores, rewards, offsets = rng.normal(size=6), np.arange(6.0), np.array([0, 3, 6])
    one, extreme = (
        Loss().value_and_gradient(scores, rewards, offsets, np.repeat(weight, 3))
        for weight in ([1.0, 1.0], [1e150, 1e-150])
    )
    assert_allclose(extreme[0], one[0])
    assert_allclose(extreme[1], one[1])


@pytest.mark.parametrize("width", [0.25, 1.0])
def test_smoothed_hinge_has_a_parabola_of_its_width(width):
    lead = np.linspace(-1, 1, 41)
    n, short, w = len(lead), 0.4 - lead, 0.4 * width
    scores = np.column_stack([lead, 0 * lead]).ravel()
    value, gradient = (
        PairwiseHinge(0.4)
        .smoothed(width)
        .value_and_gradient(scores, np.tile([1.0, 0], n), np.arange(n + 1) * 2)
    )
    parabola = np.where(short > 0, short**2 / (2 * w), 0)
    assert_allclose(value, np.where(short > w, short - w / 2, parabola), atol=1e-15)
    assert_allclose(gradient[::2], -np.clip(short / w, 0, 1), atol=1e-15)


# Large prompts


@pytest.mark.parametrize("width", [None, 1.0, 0.1, 0.001])
@pytest.mark.parametrize("n_rewards", [1, 2, 3, 1000])
@pytest.mark.parametrize("n_scores", [5, 1000])
def test_sorted_candidates_have_the_loss_of_their_pairs(
    width, n_rewards, n_scores, weight, rng, monkeypatch
):
    loss = PairwiseHinge() if width is None else PairwiseHinge().smoothed(width)
    offsets = np.array([0, 1, 41, 120, 160])
    # Multiples of 0.04, of which no two differ by the margin of 0.1.
    scores = 0.04 * rng.integers(n_scores, size=160)
    rewards = -0.3 * rng.integers(n_rewards, size=160)
    weight = None if weight is None else rng.integers(1, 4, 160).astype(float)
    expected = loss.value_and_gradient(scores, rewards, offsets, weight)
    monkeypatch.setattr(MODULE + "LARGE_PROMPT", 1)
    result = loss.value_and_gradient(scores, rewards, offsets, weight)
    for one, other in zip(result, expected, strict=True):
        assert_allclose(one, other, rtol=1e-8, atol=1e-10)
    assert_array_equal(result[1][0], 0)


def test_hinge_of_many_candidates(rng):
    k, margin = 50_000, 0.1
    scores, rewards = rng.normal(size=k), rng.integers(0, 2, k).astype(float)
    low, high = np.sort(scores[rewards == 0]), scores[rewards == 1]
    first = np.searchsorted(low, high - margin, side="right")
    sums = np.append(0, np.cumsum(low[::-1]))[len(low) - first]
    count = len(low) - first
    n_pairs = len(low) * len(high)
    for loss in (PairwiseHinge(margin), PairwiseHinge(margin).smoothed(1e-4)):
        value, gradient = loss.value_and_gradient(scores, rewards, np.array([0, k]))
        total = (count * (margin - high) + sums).sum()
        assert_allclose(value, total / n_pairs, rtol=1e-4)
        assert_allclose(gradient[rewards == 1], -count / n_pairs, atol=1e-3 / k)
        assert_allclose(gradient.sum(), 0, atol=1e-10)


@pytest.mark.parametrize("n_candidates", [None, 10])
@pytest.mark.parametrize("loss", ["pairwise_logistic", "pairwise_hinge"])
def test_many_pairs_warn(loss, n_candidates, rng, monkeypatch):
    monkeypatch.setattr(MODULE + "LARGE_PROMPT", 10)
    monkeypatch.setattr(MODULE + "MANY_PAIRS", 5 * 20**2 - 1)
    X, y = rng.normal(size=(5, 20, 3)), rng.random(size=(5, 20))
    policy = QProbePolicy(loss, n_candidates=n_candidates)
    if loss == "pairwise_logistic" and n_candidates is None:
        with pytest.warns(UserWarning, match=r"2e\+03 in .* Set n_candidates=100") as w:
            policy.fit(X, y)
        assert [warning.filename for warning in w] == [__file__]
    else:
        policy.fit(X, y)
    policy.fit(X[:4], y[:4])  # fewer pairs
