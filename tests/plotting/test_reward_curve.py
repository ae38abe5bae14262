from numpy.testing import assert_allclose

from skqprobe import QProbePolicy
from skqprobe.metrics import base_reward, best_of_k_reward, oracle_reward
from skqprobe.plotting import RewardCurveDisplay


def test_lines_are_the_metrics(sets, policy):
    X, y = sets
    shown = RewardCurveDisplay.from_estimator(policy, X, y, n_resamples=200)
    assert shown.ks.tolist() == [1, 2, 4, 6]
    expected = best_of_k_reward(y, policy.decision_function(X), shown.ks)
    assert_allclose(shown.line_.get_ydata(), expected)
    assert_allclose(shown.oracle_.get_ydata(), oracle_reward(y, shown.ks))
    assert_allclose(shown.base_.get_ydata(), base_reward(y))
    assert (shown.low <= shown.reward).all() and (shown.reward <= shown.high).all()
    assert (shown.low < shown.high).all()


def test_several_policies_on_the_same_axes(sets, policy):
    few = {"n_resamples": 50}
    first = RewardCurveDisplay.from_estimator(policy, *sets, name="one", **few)
    second = RewardCurveDisplay.from_estimator(
        QProbePolicy().fit(*sets),
        *sets,
        name="two",
        ax=first.ax_,
        plot_references=False,
        color="red",
        **few,
    )
    labels = [text.get_text() for text in second.ax_.get_legend().get_texts()]
    assert labels == ["oracle", "base model", "one", "two"]
    assert second.line_.get_color() == "red" and second.oracle_ is None


def test_given_ks_are_sorted_and_distinct(scored):
    shown = RewardCurveDisplay.from_predictions(*scored, ks=[5, 2, 5], n_resamples=99)
    assert shown.line_.get_xdata().tolist() == [2, 5]
