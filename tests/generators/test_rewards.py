"""Conversion of rewards; test_collect has the tests of threads and coroutines."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from skqprobe.generators._rewards import call_reward


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, 1.0),
        (np.True_, 1.0),
        (Decimal("0.25"), 0.25),
        (Fraction(1, 4), 0.25),
        (np.float16(0.5), 0.5),
        (np.longdouble(0.5), 0.5),
        (np.array(2), 2.0),
        (np.array(2, dtype=object), 2.0),
        (np.ma.array(2.5), 2.5),
        (np.ma.array([1.5, 2.5], mask=[True, False])[1], 2.5),
    ],
    ids=repr,
)
def test_numbers_of_any_type_become_floats(value, expected):
    found, error = call_reward(lambda *_: value, None, "")
    assert (found, error) == (expected, None)
    assert type(found) is float


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ma.masked, "ValueError: the reward is masked"),
        (np.ma.array(1.0, mask=True), "ValueError: the reward is masked"),
        (np.ones((1, 1)), "TypeError: the reward must be one number; got the shape (1"),
        (
            np.ma.array([1.0, 2.0], mask=[0, 1]),
            "ValueError: the reward is masked",
        ),
        ([1.0, np.inf], "ValueError: the reward must be finite; got inf"),
        ([1.0, None], "TypeError: the reward must be a number; got NoneType"),
        ([], "ValueError: the reward is empty; return one number per objective"),
        ([[1.0], 2.0], "TypeError: the reward must be a number; got list"),
        (
            {"right": 1.0, "short": "0"},
            "TypeError: the reward must be a number; got str",
        ),
        ({1: 1.0}, "TypeError: names of rewards must be texts; got [1]"),
        ({}, "ValueError: the reward is empty; return one number per objective"),
        ({1.0, 2.0}, "TypeError: the reward must be a number; got set"),
        (np.array("1"), "TypeError: the reward must be a number; got ndarray"),
        (np.array("1", dtype=object), "TypeError: the reward must be a number"),
        (
            np.timedelta64(5, "ns"),
            "TypeError: the reward must be a number; got timedelta",
        ),
        (np.complex64(1), "TypeError: the reward must be a number; got complex64"),
        (Decimal("NaN"), "ValueError: the reward must be finite; got nan"),
        (Decimal("sNaN"), "ValueError: "),
        (10**400, "OverflowError: "),
        (Fraction(10**400), "OverflowError: "),
        (object(), "TypeError: "),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_values_are_failed_rewards(value, message):
    found, error = call_reward(lambda *_: value, None, "")
    assert found is None and error.startswith(message)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"right": True, "short": np.float32(0.5)}, {"right": 1.0, "short": 0.5}),
        ((1, Fraction(1, 2)), [1.0, 0.5]),
        (np.array([1, 0]), [1.0, 0.0]),
        (np.array([1.0]), [1.0]),
    ],
    ids=repr,
)
def test_several_rewards(value, expected):
    found, error = call_reward(lambda *_: value, None, "")
    assert (found, error) == (expected, None)
    numbers = found.values() if isinstance(found, dict) else found
    assert all(type(number) is float for number in numbers)


def test_tensors():
    torch = pytest.importorskip("torch")
    values = (
        torch.tensor(0.5),
        torch.tensor(0.5, requires_grad=True),
        torch.tensor(True),
    )
    found = [call_reward(lambda *_, v=v: v, None, "") for v in values]
    assert found == [(0.5, None), (0.5, None), (1.0, None)]
    found = call_reward(lambda *_: torch.tensor([1.0, 0.5]), None, "")
    assert found == ([1.0, 0.5], None)
    _, error = call_reward(lambda *_: torch.ones(1, 1), None, "")
    assert error == "TypeError: the reward must be one number; got the shape (1,)"
    _, error = call_reward(lambda *_: torch.tensor(1j), None, "")
    assert error == "TypeError: the reward must be a number; got Tensor"


def test_an_error_without_a_text():
    class MuteError(Exception):
        def __str__(self):
            raise ValueError

    def reward(item, completion):
        raise MuteError

    assert call_reward(reward, None, "") == (None, "MuteError")
