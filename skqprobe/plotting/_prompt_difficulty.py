"""PromptDifficultyDisplay: mean probe value against mean reward per prompt."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from skqprobe._candidates.segments import repeat_per_prompt, segment_mean
from skqprobe.metrics._per_prompt import check_rewards, check_scores
from skqprobe.plotting._display import Display


@dataclass(kw_only=True, eq=False, repr=False)
class PromptDifficultyDisplay(Display):
    """Mean probe value against mean reward of the base model, one dot per prompt.

    A probe that is trained to predict the reward uses part of its capacity to separate
    easy prompts from hard ones, which does not help to choose among the candidates of a
    prompt. Its dots lie along a rising line. A probe that is trained with a
    shift-invariant loss, such as "policy_gradient", need not do so. This is the paper's
    explanation of why the latter chooses better [1]_.

    Created by `from_estimator` or `from_predictions`.

    Parameters
    ----------
    reward : ndarray of shape (n_prompts,)
        Mean reward of the candidates of each prompt.
    value : ndarray of shape (n_prompts,)
        Mean probe value of the candidates of each prompt, minus the mean over prompts,
        in units of the standard deviation inside prompts, so that policies of any loss
        can share an axis.
    name : str, default=None
        Name of the policy, for the legend.

    Attributes
    ----------
    correlation : float
        Spearman's rank correlation of the two; NaN if one is constant.
    ax_, figure_ : matplotlib Axes and Figure
        Axes and figure of the plot.
    scatter_ : matplotlib PathCollection
        Dots of the prompts.

    References
    ----------
    .. [1] Li et al., "Q-Probe: A Lightweight Approach to Reward Maximization for
       Language Models", ICML 2024, arXiv 2402.14688.

    Examples
    --------
    >>> from skqprobe import QProbeRegressor
    >>> from skqprobe.datasets import load_two_words
    >>> from skqprobe.plotting import PromptDifficultyDisplay
    >>> X, y = load_two_words(return_X_y=True)
    >>> probe = QProbeRegressor().fit(X[:120], y[:120])
    >>> display = PromptDifficultyDisplay.from_estimator(probe, X[120:], y[120:])
    >>> bool(display.correlation > 0.5)
    True
    """

    reward: np.ndarray
    value: np.ndarray
    name: str | None = None

    @property
    def correlation(self):
        """Spearman's rank correlation of reward and value; NaN if one is constant."""
        if np.ptp(self.reward) == 0 or np.ptp(self.value) == 0:
            return float("nan")
        return float(spearmanr(self.reward, self.value).statistic)

    @classmethod
    def from_predictions(cls, y, scores, groups=None, *, name=None, ax=None, **kwargs):
        """Draw the display of given scores.

        Parameters
        ----------
        y : array-like of shape (n_prompts, k) or (n_rows,)
            Rewards.
        scores : array-like of shape (n_prompts, k) or (n_rows,)
            Scores of the candidates, such as the values of a probe.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets.
        name : str, default=None
            Name for the legend.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a figure.
        **kwargs : dict
            Arguments of matplotlib's `scatter`.

        Returns
        -------
        display : PromptDifficultyDisplay
        """
        rewards, layout = check_rewards(y, groups)
        scores = check_scores(scores, layout)
        value = segment_mean(scores, layout.offsets)
        inside = (scores - repeat_per_prompt(value, layout.offsets)).std() or 1.0
        display = cls(
            reward=segment_mean(rewards, layout.offsets),
            value=(value - value.mean()) / inside,
            name=name,
        )
        return display.plot(ax, **kwargs)

    def plot(self, ax=None, *, name=None, **kwargs):
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a figure.
        name : str, default=None
            Name for the legend; None takes that of the display.
        **kwargs : dict
            Arguments of matplotlib's `scatter`.

        Returns
        -------
        display : PromptDifficultyDisplay
        """
        ax = self._get_axes(ax)
        label = f"{name or self.name or 'policy'}, rank correlation "
        label += f"{self.correlation:.2f}"
        style = {"s": 18, "alpha": 0.6, "linewidths": 0, "label": label} | kwargs
        self.scatter_ = ax.scatter(self.reward, self.value, **style)
        ax.set_xlabel("Mean reward of the candidates (base model)")
        ax.set_ylabel("Mean probe value Q (standard deviations inside prompts)")
        ax.legend()
        return self
