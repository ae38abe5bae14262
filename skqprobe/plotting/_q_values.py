"""QValueDisplay: distribution of probe values by reward."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from skqprobe._candidates.validation import check_scored, check_values
from skqprobe.plotting._display import Display

MOST_REWARDS = 5
"""Maximum number of distinct rewards to draw; more are drawn by quarter."""


@dataclass(kw_only=True, eq=False, repr=False)
class QValueDisplay(Display):
    """Distribution of the probe values Q by reward.

    If the histograms are separate, the value alone separates good candidates from bad
    ones. A policy needs less: to order the candidates of each prompt. With a
    shift-invariant loss the level of the values of a prompt is arbitrary, so that the
    histograms overlap even if the choices are good.

    Created by `from_estimator` or `from_predictions`.

    Parameters
    ----------
    values : list of ndarray
        Values of the candidates of each reward, or quarter of rewards.
    labels : list of str
        Labels of the rewards or quarters.
    name : str, default=None
        Name of the policy, for the title.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Axes and figure of the plot.
    histograms_ : list of matplotlib artists
        Histogram of each reward or quarter.

    Examples
    --------
    >>> from skqprobe import QProbePolicy
    >>> from skqprobe.datasets import load_two_words
    >>> from skqprobe.plotting import QValueDisplay
    >>> X, y = load_two_words(return_X_y=True)
    >>> policy = QProbePolicy("log_loss").fit(X[:120], y[:120])
    >>> QValueDisplay.from_estimator(policy, X[120:], y[120:]).labels
    ['reward 0', 'reward 1']
    """

    values: list[np.ndarray]
    labels: list[str]
    name: str | None = None

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
            Prompt labels of the rows. They are checked, and not used.
        name : str, default=None
            Name for the title.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a figure.
        **kwargs : dict
            Arguments of matplotlib's `hist`.

        Returns
        -------
        display : QValueDisplay
        """
        rewards, layout = check_scored(y, groups, "y")
        scores = layout.to_prompt_order(check_values(scores, layout.shape, "scores"))
        distinct = np.unique(rewards)
        if len(distinct) <= MOST_REWARDS:
            labels = [f"reward {reward:g}" for reward in distinct]
            values = [scores[rewards == reward] for reward in distinct]
        else:
            edges = np.unique(np.quantile(rewards, [0, 0.25, 0.5, 0.75, 1]))
            quarter = np.searchsorted(edges[1:-1], rewards, side="right")
            values = [scores[quarter == i] for i in range(len(edges) - 1)]
            labels = [
                f"reward {low:.3g} to {high:.3g}" for low, high in pairwise(edges)
            ]
        return cls(values=values, labels=labels, name=name).plot(ax, **kwargs)

    def plot(self, ax=None, *, name=None, **kwargs):
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a figure.
        name : str, default=None
            Name for the title; None takes that of the display.
        **kwargs : dict
            Arguments of matplotlib's `hist`.

        Returns
        -------
        display : QValueDisplay
        """
        ax = self._get_axes(ax)
        bins = np.histogram_bin_edges(np.concatenate(self.values), bins=40)
        self.histograms_ = []
        for values, label in zip(self.values, self.labels, strict=True):
            style = {"bins": bins, "density": True}
            if len(self.values) <= 2:
                style |= {"alpha": 0.5}
            else:  # outlines, since more than two overlap
                style |= {"histtype": "step", "linewidth": 1.5}
            style |= kwargs
            _, _, patches = ax.hist(values, label=f"{label} ({len(values):,})", **style)
            self.histograms_.append(patches)
        ax.set_xlabel("Probe value Q")
        ax.set_ylabel("Density of candidates")
        if name or self.name:
            ax.set_title(name or self.name)
        ax.legend()
        return self
