"""Errors of the layouts and losses begin with the argument, and end as they should."""

import numpy as np
import pytest
from sklearn.exceptions import DataConversionWarning

from skqprobe import QProbePolicy, QProbeRegressor
from skqprobe._candidates.validation import list_to_array
from skqprobe.losses import LOSSES
from skqprobe.metrics import base_reward


@pytest.fixture
def probe():
    return QProbePolicy("squared_error")


def test_ragged_lists_are_called_by_the_name_of_the_argument(probe):
    ragged = [[[1.0], [2.0]], [[3.0]]]
    with pytest.raises(ValueError, match=r"^X could not be .*\(n_rows, n_features\)"):
        probe.fit(ragged, [[1, 0], [1]])
    with pytest.raises(ValueError, match=r"^X could not be .*\(n_rows, n_features\)"):
        list_to_array(ragged)


def test_ragged_rewards_are_told_how_rows_look():
    with pytest.raises(ValueError, match=r"pass rows, y of shape \(n_rows,\), with gr"):
        base_reward([[1.0, 2.0], [3.0]])


def test_no_candidates():
    with pytest.raises(
        ValueError, match=r"^There are no candidates: the shape is \(0, 3\)\.$"
    ):
        base_reward(np.empty((0, 3)))


def test_a_column_of_rewards_is_taken_with_a_warning(probe):
    with pytest.warns(DataConversionWarning):
        probe.fit(np.eye(4), np.ones((4, 1)), ["a", "a", "b", "b"])


def test_too_many_dimensions(probe):
    with pytest.raises(
        ValueError, match=r"^X has 4 dim.* have 2, \(n_rows, n_features\)\.$"
    ):
        probe.fit(np.ones((2, 2, 2, 2)), np.ones((2, 2)))


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (0.0, r"^sample_weight is zero everywhere; nothing is left to use\.$"),
        (1e-200, "^sample_weight has numbers .* too small"),
        (1e200, "^sample_weight has numbers .* too large"),
        (-1.0, "^sample_weight has negative values"),
    ],
)
def test_sample_weight(probe, weight, message):
    with pytest.raises(ValueError, match=message):
        probe.fit(np.ones((2, 3, 1)), np.eye(2, 3), sample_weight=np.full(2, weight))


def test_log_loss_says_what_to_do():
    with pytest.raises(
        ValueError,
        match=r"^y must lie in \[0, 1\] .* Rescale the rewards, or use a loss that "
        r"takes any, such as 'squared_error' or 'policy_gradient'\.$",
    ):
        QProbeRegressor("log_loss").fit([[1.0], [2.0]], [0.0, 1.5])


@pytest.mark.parametrize("loss", ["pairwise_logistic", "pairwise_hinge"])
def test_products_of_large_weights_do_not_overflow(loss, rng):
    scores, rewards, offsets = rng.normal(size=5), np.arange(5.0), np.array([0, 2, 5])
    one, large = (
        LOSSES[loss]().value_and_gradient(scores, rewards, offsets, np.full(5, size))
        for size in (1.0, 1e150)
    )
    np.testing.assert_allclose(large[0], one[0])
    np.testing.assert_allclose(large[1], one[1])
