"""Metrics of several objectives, against those of one objective."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skqprobe.metrics import (
    base_reward,
    objective_rewards,
    prompt_bootstrap,
    softmax_reward,
    weights_at_cost,
)


@pytest.fixture
def vector(rng):
    """Rewards of 40 prompts of 6 in three objectives, and values that predict them."""
    y = rng.normal(size=(40, 6, 3))
    return y, y + rng.normal(size=y.shape)


@pytest.fixture
def ragged(vector, rng):
    """The same without some candidates, as shuffled rows."""
    order = rng.permutation(240)[:150]
    y, values = (array.reshape(240, 3)[order] for array in vector)
    return y, values, np.repeat(np.arange(40), 6)[order].astype(str)


@pytest.mark.parametrize("temperature", [0, 0.5, np.inf])
@pytest.mark.parametrize("average", ["mean", None])
def test_each_objective_is_a_softmax_reward(vector, ragged, temperature, average):
    for y, values, *groups in (vector, ragged):
        scores = values @ [1, 2, 0.5]
        found = objective_rewards(y, scores, temperature, *groups, average=average)
        expected = [
            softmax_reward(y[..., j], scores, temperature, *groups, average=average)
            for j in range(3)
        ]
        assert_allclose(found, np.transpose(expected), rtol=1e-12)


def test_weights_of_prompts(vector):
    y, values = vector
    weight = np.arange(40)
    scores = values[..., 0]
    each = objective_rewards(y, scores, average=None)
    found = objective_rewards(y, scores, prompt_weight=weight)
    assert_allclose(found, weight @ each / weight.sum())


def test_bootstrap_of_each_objective(vector, ragged):
    for y, values, *groups in (vector, ragged):
        groups = groups[0] if groups else None
        one, other = values[..., 0], values[..., 1]
        settings = {"groups": groups, "n_resamples": 200, "random_state": 0}
        for versus in (None, other):
            found = prompt_bootstrap(
                objective_rewards, y, one, versus=versus, temperature=0.5, **settings
            )
            expected = prompt_bootstrap(
                softmax_reward,
                y[..., 1],
                one,
                versus=versus,
                temperature=0.5,
                **settings,
            )
            assert found.value.shape == (3,)
            assert_allclose(found.low[1], expected.low)


def test_other_metrics_name_this_one(vector):
    y, values = vector
    for call in (
        lambda: base_reward(y),
        lambda: softmax_reward(y, values[..., 0], 0),
    ):
        with pytest.raises(ValueError, match=r"y @ weights.*objective_rewards"):
            call()


def test_bad_input(vector, ragged):
    y, values = vector
    with pytest.raises(ValueError, match=r"y must have shape \(n_prompts, k, n_obj"):
        objective_rewards(y[..., 0], values[..., 0])
    with pytest.raises(ValueError, match=r"y must have shape .* with groups; got"):
        objective_rewards(ragged[0], ragged[1][:, 0])
    with pytest.raises(ValueError, match="scores has shape"):
        objective_rewards(y, values)
    with pytest.raises(ValueError, match="y contains NaN"):
        objective_rewards(np.where(y > 2, np.nan, y), values[..., 0])


# Weights that meet a budget


def evaluate(mixture, y, values, temperature=0.0, groups=None):
    """Reward in each objective of a mixture of weights, from its definition."""
    return mixture.probabilities @ [
        objective_rewards(y, values @ weights, temperature, groups)
        for weights in mixture.weights
    ]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_budget_is_met_at_the_highest_reward(vector, ragged, temperature):
    for y, values, *groups in (vector, ragged):
        groups = groups[0] if groups else None
        options = {"groups": groups, "temperature": temperature, "n_resamples": 100}
        options |= {"objective_weights": [1, 0.5, 9], "random_state": 0}
        rewards = []
        for max_cost in (-0.2, 0.0, 5.0):
            mixture = weights_at_cost(y, values, max_cost, **options)
            first, second, last = evaluate(mixture, y, values, temperature, groups)
            assert mixture.cost.value == pytest.approx(-last)
            assert mixture.reward.value == pytest.approx(first + second / 2)
            assert mixture.cost.low < mixture.cost.value < mixture.cost.high
            assert mixture.probabilities.sum() == pytest.approx(1)
            assert (mixture.probabilities > 0).all()
            # The weights of the others stay in proportion.
            assert_allclose(mixture.weights[:, 1], mixture.weights[:, 0] / 2)
            assert -last <= max_cost + 1e-12
            rewards.append(mixture.reward.value)
        assert rewards[0] < rewards[1]
        assert len(mixture.weights) == 1  # a budget that does not bind
        alone = [1.0, 0.5, 0]
        free = objective_rewards(y, values @ alone, temperature, groups) @ alone
        assert mixture.reward.value >= free - 1e-12


@pytest.mark.filterwarnings("ignore:The interval:UserWarning")  # has no width
def test_gap_of_the_front_is_mixed():
    # All prompts change from the long to the short answer at the same weight.
    y = np.tile([[1.0, -100], [0.2, -60], [0.0, -20]], (50, 1, 1))
    mixture = weights_at_cost(y, y, max_cost=40, n_resamples=100)
    assert sorted(mixture.probabilities) == pytest.approx([0.25, 0.75])
    assert mixture.cost.value == pytest.approx(40)
    assert mixture.reward.value == pytest.approx(0.25)
    (single,) = weights_at_cost(y, y, max_cost=20, n_resamples=100).weights
    assert objective_rewards(y, y @ single).tolist() == [0, -20]
    (single,) = weights_at_cost(y, y, max_cost=100, n_resamples=100).weights
    assert single.tolist() == [1, 0]


def test_of_equal_rewards_the_cheapest():
    # As the weight of the cost grows, prompts change to an answer that is as good.
    y = np.array([[[1 + i, -5 - i], [1 + i, -i], [0.0, 0]] for i in range(9)])
    values = y.copy()
    values[:, 0, 0] += 0.1
    mixture = weights_at_cost(y, values, max_cost=20, n_resamples=100)
    assert (mixture.reward.value, mixture.cost.value) == (5, 4)


def test_weights_do_not_depend_on_units(vector):
    y, values = (array[..., :2] for array in vector)
    unit = np.array([1, 1e6])
    one = weights_at_cost(y, values, -0.3, random_state=0, n_resamples=100)
    other = weights_at_cost(
        y * unit, values * unit, -0.3e6, random_state=0, n_resamples=100
    )
    assert_allclose(other.weights * unit, one.weights, rtol=1e-9)
    assert other.reward.value == pytest.approx(one.reward.value)
    assert other.cost.high == pytest.approx(1e6 * one.cost.high)


def test_position_of_the_cost(vector):
    y, values = (array[..., :2] for array in vector)
    one = weights_at_cost(y, values, -0.3, random_state=0, n_resamples=100)
    other = weights_at_cost(
        *(a[..., ::-1] for a in (y, values)),
        -0.3,
        objective=0,
        random_state=0,
        n_resamples=100,
    )
    assert_array_equal(other.weights[:, ::-1], one.weights)
    options = {"random_state": 0, "n_resamples": 100}
    assert weights_at_cost(y, values, -0.3, objective=True, **options).cost == one.cost
    assert other.cost == one.cost


def test_bad_budgets(vector):
    y, values = vector
    for max_cost in (-9, np.float64(-9)):
        with pytest.raises(ValueError, match=r"max_cost=-9 is below the lowest mean"):
            weights_at_cost(y, values, max_cost)
    with pytest.raises(ValueError, match="max_cost is NaN"):
        weights_at_cost(y, values, np.nan)
    with pytest.raises(ValueError, match="objective == 3, must be <= 2"):
        weights_at_cost(y, values, 0, objective=3)
    with pytest.raises(TypeError, match="objective must be an instance of int"):
        weights_at_cost(y, values, 0, objective="length")
    with pytest.raises(TypeError, match="max_cost must be an instance of float"):
        weights_at_cost(y, values, "600")
    with pytest.raises(ValueError, match="y has 1 objective; a trade-off needs two"):
        weights_at_cost(y[..., :1], values[..., :1], 0)
    with pytest.raises(ValueError, match="pass one number per objective"):
        weights_at_cost(y, values, 0, objective_weights=[1, 2])
    with pytest.raises(
        ValueError, match=r"values has shape .* must have the shape of y"
    ):
        weights_at_cost(y[..., :2], values, 0)
