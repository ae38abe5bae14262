"""reward_at_cost."""

from itertools import permutations

import numpy as np
import pytest
from cases import as_rows
from numpy.testing import assert_allclose

from skqprobe.generators import ExpectedGain, RejectionSampling, Threshold
from skqprobe.metrics import best_of_k_reward, reward_at_cost


class Fixed:
    """Stop after a number of candidates."""

    def __init__(self, n):
        self.n = n

    def accept(self, values, uniforms):
        return np.full(values.shape, values.shape[1] >= self.n)


@pytest.fixture
def scored(rng):
    """Rewards and values of 30 prompts with 6 candidates."""
    values = rng.random((30, 6))
    return (rng.random((30, 6)) < values).astype(float), values


def exact(y, values, threshold):
    """Number and reward of a threshold, over all orders of a prompt."""
    found = []
    for order in permutations(range(len(y))):
        enough = [i for i in range(len(y)) if values[order[i]] >= threshold]
        n = enough[0] + 1 if enough else len(y)
        found.append((n, y[max(order[:n], key=lambda i: values[i])]))
    return np.mean(found, axis=0)


def test_fixed_number_is_best_of_k(scored):
    y, values = scored
    for n in (1, 3, 6):
        found = reward_at_cost(y, values, Fixed(n), random_state=0, n_orders=2000)
        assert found.n_drawn == n
        expected = best_of_k_reward(y, values, n)
        assert found.reward == pytest.approx(expected, abs=0.005)


def test_each_candidate_comes_first_as_often(scored):
    y, values = scored
    for n_orders in (6, 12):
        found = reward_at_cost(y, values, Fixed(1), n_orders=n_orders, average=None)
        assert_allclose(found.reward, y.mean(axis=1))
    few = [
        reward_at_cost(y, values, Fixed(2), random_state=i, n_orders=2).reward
        for i in range(200)
    ]
    assert np.mean(few) == pytest.approx(best_of_k_reward(y, values, 2), abs=0.01)


def test_threshold_over_all_orders(scored):
    y, values = scored
    found = reward_at_cost(
        y, values, Threshold(0.7), random_state=0, n_orders=3000, average=None
    )
    expected = [exact(*each, 0.7) for each in zip(y, values, strict=True)]
    found = np.stack([found.n_drawn, found.reward], axis=1)
    assert_allclose(found, expected, atol=0.15)
    assert_allclose(found.mean(axis=0), np.mean(expected, axis=0), atol=0.02)


def test_batches_and_limit(scored):
    options = {"random_state": 0, "average": None}
    one = reward_at_cost(*scored, Threshold(0.7), batch_size=4, **options)
    assert set(np.unique(one.n_drawn * 20 % 2)) == {0}  # sums of 4 and 6
    assert one.n_drawn.min() >= 4
    limited = reward_at_cost(*scored, Threshold(2.0), k=3, **options)
    assert (limited.n_drawn == 3).all()
    expected = best_of_k_reward(*scored, 3)
    assert limited.reward.mean() == pytest.approx(expected, abs=0.05)


def test_ragged_rows(scored):
    y, values = scored
    rows, rewards, groups = as_rows(values[..., None], y)
    found = reward_at_cost(
        rewards, rows[:, 0], Fixed(6), groups, random_state=0, average=None
    )
    expected = best_of_k_reward(y, values, 6, average=None)
    assert_allclose(found.reward, expected)
    order = np.random.default_rng(0).permutation(180)[:120]
    ragged = rewards[order], rows[order, 0], Threshold(0.6), groups[order]
    found = reward_at_cost(*ragged, random_state=0, n_orders=500, average=None)
    for i, label in enumerate(dict.fromkeys(groups[order])):
        of_prompt = order[groups[order] == label]
        n, reward = exact(rewards[of_prompt], rows[of_prompt, 0], 0.6)
        assert found.n_drawn[i] == pytest.approx(n, abs=0.3)
        assert found.reward[i] == pytest.approx(reward, abs=0.2)


def test_rejection_sampling_earns_the_tilted_reward(rng):
    # 400 copies of a finite space: the reward of the exact tilted policy.
    q = np.array([0.0, 0.2, 0.5, 1.0])
    values = np.tile(np.repeat(q, [40, 30, 20, 10]), (20, 1))
    y = values**2
    weight = np.array([40, 30, 20, 10]) * np.exp(q / 0.3)
    expected = (weight * q**2).sum() / weight.sum()
    rule = RejectionSampling(0.3, 1.0)
    found = reward_at_cost(y, values, rule, random_state=0, n_orders=300)
    assert found.reward == pytest.approx(expected, abs=0.02)


def test_weights_and_random_state(scored):
    weight = np.arange(30)
    options = {"random_state": 3, "n_orders": 5}
    each = reward_at_cost(*scored, Threshold(0.7), average=None, **options)
    mean = reward_at_cost(*scored, Threshold(0.7), prompt_weight=weight, **options)
    assert mean.reward == pytest.approx(np.average(each.reward, weights=weight))
    assert mean.n_drawn == pytest.approx(np.average(each.n_drawn, weights=weight))


def test_a_higher_cost_draws_less(scored):
    y, values = scored
    rule = ExpectedGain(0).fit(values)
    drawn = [
        reward_at_cost(y, values, rule.set_params(cost=c), random_state=0).n_drawn
        for c in (0.0, 0.02, 0.1, 1.0)
    ]
    assert drawn == sorted(drawn, reverse=True) and drawn[0] > 5 and drawn[-1] == 1


def test_errors(scored):
    class Wrong(Fixed):
        def accept(self, values, uniforms):
            return values.max(axis=1) > 0.5

    with pytest.raises(ValueError, match=r"accept of Wrong must return .* \(30, 1\)"):
        reward_at_cost(*scored, Wrong(1))
    for rule in (3, Fixed):
        with pytest.raises(ValueError, match=r"stopping must be a rule.*(3|<class)"):
            reward_at_cost(*scored, rule)
    for options, words in (
        ({"batch_size": 0}, "batch_size must be"),
        ({"k": 0}, "k must be"),
        ({"k": [1, 2]}, "k must be an integer of 1 or more; got"),
        ({"batch_size": None}, "batch_size must be"),
        ({"n_orders": 1.5}, "n_orders must be"),
        ({"average": "median"}, "average must be"),
    ):
        with pytest.raises(ValueError, match=words):
            reward_at_cost(*scored, Fixed(1), **options)
    with pytest.raises(ValueError, match="values has shape"):
        reward_at_cost(scored[0], scored[1][:3], Fixed(1))
