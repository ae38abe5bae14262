"""PromptDifficultyDisplay: probe value against the base model's reward, by prompt."""

import numpy as np
from scipy.stats import spearmanr

from skqprobe._candidates.segments import repeat_per_prompt, segment_mean
from skqprobe.metrics._per_prompt import check_rewards, check_scores
from skqprobe.plotting._display import Display


class PromptDifficultyDisplay(Display):
    """Mean probe value against the base model's mean reward, a dot a prompt.

    A probe trained to predict the reward spends part of its capacity on telling easy
    prompts from hard ones, which is of no use in choosing among the candidates of one
    prompt: its dots lie along a rising line. One trained by a loss that reads only
    differences inside a prompt, such as "policy_gradient", need not do so. This is how
    the paper explains that the latter chooses better [1]_.

    Make one with `from_estimator` or `from_predictions`.

    Parameters
    ----------
    reward : ndarray of shape (n_prompts,)
        Mean reward of the candidates of each prompt.
    value : ndarray of shape (n_prompts,)
        Mean probe value of the candidates of each prompt; the mean of all is taken off,
        and the unit is the values' standard deviation inside prompts, so that policies
        of any loss can share an axis.
    name : str, default=None
        Of the policy, for the legend.

    Attributes
    ----------
    correlation : float
        Spearman's rank correlation of the two; NaN where one is constant.
    ax_, figure_ : matplotlib Axes and Figure
        What was drawn on.
    scatter_ : matplotlib PathCollection
        The prompts.

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

    def __init__(self, *, reward, value, name=None):
        self.reward = reward
        self.value = value
        self.name = name
        constant = np.ptp(reward) == 0 or np.ptp(value) == 0
        self.correlation = (
            float("nan") if constant else float(spearmanr(reward, value).statistic)
        )

    @classmethod
    def from_predictions(cls, y, scores, groups=None, *, name=None, ax=None, **kwargs):
        """Draw given values.

        Parameters
        ----------
        y, scores : array-like of shape (n_prompts, k) or (n_rows,)
            Rewards, and values of the candidates.
        groups : array-like of shape (n_rows,), default=None
            For rows: labels of the prompts, any hashable values in any order.
        name : str, default=None
            For the legend.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **kwargs : dict
            For matplotlib's `scatter`.

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
            Where to draw; None makes a figure.
        name : str, default=None
            For the legend; None takes the display's.
        **kwargs : dict
            For matplotlib's `scatter`.

        Returns
        -------
        display : PromptDifficultyDisplay
        """
        ax = self._get_axes(ax)
        label = f"{name or self.name or 'policy'}, rank correlation "
        label += f"{self.correlation:.2f}"
        style = {"s": 18, "alpha": 0.6, "linewidths": 0, "label": label} | kwargs
        self.scatter_ = ax.scatter(self.reward, self.value, **style)
        ax.set_xlabel("Mean reward of the prompt's candidates (base model)")
        ax.set_ylabel("Mean probe value Q (in units of its spread inside prompts)")
        ax.legend()
        return self
