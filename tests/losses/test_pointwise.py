import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skqprobe.losses import LogLoss, SquaredError


@pytest.mark.parametrize("low, high", [(-0.25, 1), (0, 1.5)])
def test_log_loss_needs_rewards_in_0_to_1(low, high):
    message = rf"y must lie in \[0, 1\] for loss='log_loss'.* {low:g} to {high:g}\."
    with pytest.raises(ValueError, match=message):
        LogLoss().check_rewards(np.linspace(low, high, 10))


def test_inverse_link_of_log_loss_is_the_sigmoid():
    probability = LogLoss().inverse_link(np.array([-1e5, -2, 0, 2, 1e5]))
    assert_allclose(probability[1:4], 1 / (1 + np.exp([2, 0, -2])))
    assert_array_equal(probability[[0, 4]], [0, 1])


def test_least_squares_of_squared_error(scores, rewards, offsets, weight):
    v, t = SquaredError().least_squares(rewards, offsets, weight)
    value, _ = SquaredError().value_and_gradient(scores, rewards, offsets, weight)
    assert_allclose(np.add.reduceat(v * (scores - t) ** 2, offsets[:-1]), value)
