import pytest
from numpy.testing import assert_array_equal
from scipy.special import softmax

from skqprobe import QProbeRegressor, sample_candidates


@pytest.mark.parametrize("loss", ["squared_error", "log_loss"])
def test_choice_is_by_softmax_of_the_predictions(sets, loss):
    """In units of the reward: for log_loss, of the probability."""
    X, y = sets
    model = QProbeRegressor(loss, temperature=0.3).fit(X, y)
    proba = softmax(model.predict(X) / 0.3, axis=1)
    assert_array_equal(
        model.sample(X, size=9, random_state=0),
        sample_candidates(proba, size=9, random_state=0),
    )
    model.temperature = 0
    assert_array_equal(model.sample(X), model.predict(X).argmax(axis=1))
