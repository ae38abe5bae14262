"""QValueDisplay: distribution of probe values by reward."""

from itertools import pairwise

import numpy as np

from skqprobe._candidates.validation import check_scored, check_values
from skqprobe.plotting._display import Display

MOST_REWARDS = 5
"""With more distinct rewards than this, they are drawn by quarter."""


class QValueDisplay(Display):
    """Distribution of the probe's values Q, by reward.

    Where the histograms lie apart the probe tells good candidates from bad ones by the
    value alone. A policy needs less: to order the candidates of each prompt. A loss
    that reads only differences inside a prompt leaves the level of a prompt's values
    free, so that here its histograms overlap more than its choices deserve.

    Make one with `from_estimator` or `from_predictions`.

    Parameters
    ----------
    values : list of ndarray
        The values of the candidates of each reward (or quarter of rewards).
    labels : list of str
        What each of them is called.
    name : str, default=None
        Of the policy, for the title.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        What was drawn on.
    histograms_ : list of matplotlib artists
        One a reward (or quarter).

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

    def __init__(self, *, values, labels, name=None):
        self.values = values
        self.labels = labels
        self.name = name

    @classmethod
    def from_predictions(cls, y, scores, groups=None, *, name=None, ax=None, **kwargs):
        """Draw given values.

        Parameters
        ----------
        y, scores : array-like of shape (n_prompts, k) or (n_rows,)
            Rewards, and values of the candidates.
        groups : array-like of shape (n_rows,), default=None
            For rows: labels of the prompts. They make no difference here.
        name : str, default=None
            For the title.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **kwargs : dict
            For matplotlib's `hist`.

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
            Where to draw; None makes a figure.
        name : str, default=None
            For the title; None takes the display's.
        **kwargs : dict
            For matplotlib's `hist`.

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
            else:  # more than two on top of each other are outlines
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
