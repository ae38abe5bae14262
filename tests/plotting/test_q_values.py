from itertools import pairwise

import numpy as np

from skqprobe.plotting import QValueDisplay


def test_few_rewards_are_shown_one_by_one():
    y = np.array([[0, 1, 1, 0.5]] * 3)
    shown = QValueDisplay.from_predictions(y, 10 * y)
    assert shown.labels == ["reward 0", "reward 0.5", "reward 1"]
    assert [set(values) for values in shown.values] == [{0}, {5}, {10}]


def test_many_rewards_are_shown_by_quarter(rng):
    y = rng.normal(size=(10, 8))
    shown = QValueDisplay.from_predictions(y, y)
    assert [len(values) for values in shown.values] == [20] * 4
    assert all(lower.max() < higher.min() for lower, higher in pairwise(shown.values))
