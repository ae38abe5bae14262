"""ParetoDisplay, with policies whose values in each objective are given."""

import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy, QProbeRegressor
from skqprobe.metrics import base_reward, candidate_values, objective_rewards
from skqprobe.plotting import ParetoDisplay
from skqprobe.preprocessing import PerCandidate


class Given(BaseEstimator):
    """Policy that reads its two values from the first columns of X."""

    def __init__(self, temperature=0.0):
        self.temperature = temperature

    def fit(self, X, y=None):
        self.n_features_in_ = X.shape[-1]
        self.objective_names_ = np.array(["right", "short"])
        return self

    def predict_objectives(self, X, groups=None):
        return X[..., :2]


@pytest.fixture
def vector(rng):
    """Values, as the columns of X, and rewards in two objectives."""
    y = rng.normal(size=(30, 6, 2))
    return y + rng.normal(size=y.shape), y


def test_dots_are_rewards_of_weights(vector):
    X, y = vector
    policy = Given(temperature=0.3).fit(X)
    weights = np.array([[1.0, 0], [2, 0.5], [0, 3]])
    shown = ParetoDisplay.from_estimator(policy, X, y, weights=weights)
    expected = [objective_rewards(y, X @ w, 0.3) for w in weights]
    assert_allclose(shown.rewards, expected)
    assert_allclose(shown.singles[0], expected[0])
    assert_allclose(shown.base, [base_reward(y[..., j]) for j in (0, 1)])
    assert shown.objective_names == ("right", "short")
    assert shown.ax_.get_xlabel().startswith("right")
    (one,) = ParetoDisplay.from_estimator(policy, X, y, weights=[2, 0.5]).rewards
    assert_allclose(one, expected[1])


@pytest.mark.parametrize("Probe", [QProbePolicy, QProbeRegressor])
def test_vector_probes(Probe, vector):
    X, y = vector
    probe = Probe("squared_error").fit(X, y)
    shown = ParetoDisplay.from_estimator(probe, X, y)
    expected = ParetoDisplay.from_predictions(y, probe.predict_objectives(X))
    assert_allclose(shown.rewards, expected.rewards)
    # A pair of weights is a setting of the probe.
    chosen = probe.set_params(objective_weights=shown.weights[7], temperature=0)
    values = candidate_values(chosen, X)
    assert_allclose(objective_rewards(y, values), shown.rewards[7])


def test_names_order_the_rewards(vector):
    pd = pytest.importorskip("pandas")
    X, y = vector
    groups = np.repeat(np.arange(30), 6)
    rows, frame = X.reshape(-1, 2), pd.DataFrame(y.reshape(-1, 2), columns=["a", "b"])
    probe = QProbePolicy("squared_error").fit(rows, frame, groups)
    shown = ParetoDisplay.from_estimator(probe, X, y)
    other = ParetoDisplay.from_estimator(probe, rows, frame[["b", "a"]], groups)
    assert_allclose(other.rewards, shown.rewards)
    with pytest.raises(ValueError, match=r"y has the objectives \['a', 'c'\]"):
        ParetoDisplay.from_estimator(probe, rows, frame.set_axis(["a", "c"], axis=1))


def test_default_weights_do_not_depend_on_units(vector):
    X, y = vector
    shown = ParetoDisplay.from_predictions(y, X)
    assert shown.weights.shape == (21, 2)
    assert_allclose(shown.rewards[[0, -1]], shown.singles)
    unit = np.array([1, 1e5])
    other = ParetoDisplay.from_predictions(y * unit, X * unit)
    assert_allclose(other.rewards, shown.rewards * unit)
    assert np.ptp(other.rewards[:, 1]) > 3e4  # both ends, and points between them
    assert len(np.unique(other.rewards, axis=0)) > 10


def test_front_and_oracle(vector):
    X, y = vector
    shown = ParetoDisplay.from_predictions(y, X)
    front = shown.rewards[shown.is_front]
    assert_array_equal(
        np.transpose(shown.line_.get_data()), front[front[:, 0].argsort()]
    )
    n_dots = len(shown.dominated_.get_xdata())
    assert 0 < n_dots == (~shown.is_front).sum()
    # No choice exceeds the oracle of the same weights.
    best = (shown.oracle @ shown.weights.T).max(axis=0)
    assert (shown.rewards @ shown.weights.T <= best + 1e-9).all()


def test_rows_pipelines_and_searches(vector):
    X, y = vector
    scaler = PerCandidate(StandardScaler())
    pipe = make_pipeline(scaler, Given()).fit(X)
    expected = ParetoDisplay.from_predictions(y, pipe[0].transform(X))
    shown = ParetoDisplay.from_estimator(pipe, X, y)
    assert_allclose(shown.rewards, expected.rewards)
    assert shown.objective_names == ("right", "short")
    groups = np.repeat(np.arange(30), 6)
    rows, y_rows = X.reshape(-1, 2), y.reshape(-1, 2)
    shown = ParetoDisplay.from_estimator(pipe, rows, y_rows, groups)
    assert_allclose(shown.rewards, expected.rewards)
    search = Given().fit(X)
    search.best_estimator_ = pipe
    assert_allclose(ParetoDisplay.from_estimator(search, X, y).rewards, shown.rewards)


def test_two_policies_on_one_axis(vector, pyplot):
    X, y = vector
    figure, ax = pyplot.subplots()
    first = ParetoDisplay.from_predictions(y, X, name="one", ax=ax)
    second = ParetoDisplay.from_predictions(
        y, y, name="two", ax=ax, plot_references=False, color="k"
    )
    assert first.ax_ is second.ax_ is ax and second.figure_ is figure
    assert second.oracle_ is None and second.base_ is None
    assert [m.get_color() for m in (second.line_, *second.singles_)] == ["k"] * 3
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == [
        *("oracle", "base model", "one", "objective 0 alone", "objective 1 alone"),
        "two",
    ]
    assert first.plot(name="again").ax_ is not ax
    figure.canvas.draw()


def test_bad_input(vector, sets, monkeypatch):
    X, y = vector
    with pytest.raises(NotFittedError):
        ParetoDisplay.from_estimator(Given(), X, y)
    with pytest.raises(ValueError, match="Ridge has no method predict_objectives"):
        ParetoDisplay.from_estimator(Ridge().fit(X[:, 0], y[:, 0]), X, y)
    with pytest.raises(ValueError, match=r"weights contains NaN.*weights\[1\]"):
        ParetoDisplay.from_predictions(y, X, weights=[[1, np.nan]])
    for names in (["right"], "ab", None):
        with pytest.raises(ValueError, match="objective_names must hold two names"):
            ParetoDisplay.from_predictions(y, X, objective_names=names)
    with pytest.raises(ValueError, match="y must have two objectives, but it has 1"):
        ParetoDisplay.from_predictions(y[..., :1], X[..., :1])
    with pytest.raises(ValueError, match="values has shape"):
        ParetoDisplay.from_predictions(y, X[:, :5])
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"^ParetoDisplay needs .*\[plot\]"):
        ParetoDisplay.from_predictions(y, X)
