"""RewardCurveDisplay: reward against the number of candidates."""

from dataclasses import dataclass

import numpy as np

from skqprobe._candidates.validation import check_scored
from skqprobe.metrics import (
    base_reward,
    best_of_k_reward,
    oracle_reward,
    prompt_bootstrap,
)
from skqprobe.plotting._display import REFERENCE, Display


@dataclass(kw_only=True, eq=False, repr=False)
class RewardCurveDisplay(Display):
    """Reward of the best of k candidates against k, between base model and oracle.

    Created by `from_estimator` or `from_predictions`. To draw several policies on one
    axis, pass ``ax_`` of the first display to the next as `ax`, with
    ``plot_references=False``.

    Parameters
    ----------
    ks : ndarray of int, of shape (n_k,)
        Numbers of candidates.
    reward, low, high : ndarray of shape (n_k,)
        Reward of the best of k candidates by value, and its interval.
    base : float
        Reward of the base model.
    oracle : ndarray of shape (n_k,)
        Reward of the best of k candidates by reward.
    name : str, default=None
        Name of the policy, for the legend.
    confidence_level : float, default=0.95
        Level of the interval, in (0, 1).

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Axes and figure of the plot.
    line_ : matplotlib Line2D
        Line of the reward.
    band_ : matplotlib collection
        Band of the interval.
    base_, oracle_ : matplotlib Line2D or None
        Lines of the references; None if they were not drawn.

    Examples
    --------
    >>> from skqprobe import QProbePolicy
    >>> from skqprobe.datasets import load_two_words
    >>> from skqprobe.plotting import RewardCurveDisplay
    >>> X, y = load_two_words(return_X_y=True)
    >>> policy = QProbePolicy("log_loss").fit(X[:120], y[:120])
    >>> display = RewardCurveDisplay.from_estimator(policy, X[120:], y[120:])
    >>> display.ks
    array([ 1,  2,  4,  8, 16])
    """

    ks: np.ndarray
    reward: np.ndarray
    low: np.ndarray
    high: np.ndarray
    base: float
    oracle: np.ndarray
    name: str | None = None
    confidence_level: float = 0.95

    @classmethod
    def from_predictions(
        cls,
        y,
        scores,
        groups=None,
        *,
        ks=None,
        confidence_level=0.95,
        n_resamples=2000,
        random_state=None,
        name=None,
        ax=None,
        plot_references=True,
        **kwargs,
    ):
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
        ks : array-like of int, default=None
            Numbers of candidates. None takes the powers of 2 up to the size of the
            smallest prompt, and that size.
        confidence_level : float, default=0.95
            Level of the interval, in (0, 1).
        n_resamples : int, default=2000
            Number of resamples of the prompts.
        random_state : int, RandomState instance or None, default=None
            Seed or generator of the resamples.
        name : str, default=None
            Name for the legend.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a figure.
        plot_references : bool, default=True
            Whether to draw the base model and the oracle.
        **kwargs : dict
            Arguments of matplotlib's `plot` for the line.

        Returns
        -------
        display : RewardCurveDisplay
        """
        if ks is None:
            smallest = int(check_scored(y, groups, "y")[1].sizes.min())
            ks = np.unique([*2 ** np.arange(smallest.bit_length()), smallest])
        ks = np.unique(ks)
        estimate = prompt_bootstrap(
            best_of_k_reward,
            y,
            scores,
            k=ks,
            groups=groups,
            n_resamples=n_resamples,
            confidence_level=confidence_level,
            random_state=random_state,
        )
        display = cls(
            ks=ks,
            reward=estimate.value,
            low=estimate.low,
            high=estimate.high,
            base=base_reward(y, groups),
            oracle=oracle_reward(y, ks, groups),
            name=name,
            confidence_level=confidence_level,
        )
        return display.plot(ax, plot_references=plot_references, **kwargs)

    def plot(self, ax=None, *, name=None, plot_references=True, **kwargs):
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a figure.
        name : str, default=None
            Name for the legend; None takes that of the display.
        plot_references : bool, default=True
            Whether to draw the base model and the oracle.
        **kwargs : dict
            Arguments of matplotlib's `plot` for the line.

        Returns
        -------
        display : RewardCurveDisplay
        """
        ax = self._get_axes(ax)
        name = name or self.name or "policy"
        self.base_ = self.oracle_ = None
        if plot_references:
            (self.oracle_,) = ax.plot(
                self.ks, self.oracle, ":", label="oracle", **REFERENCE
            )
            self.base_ = ax.axhline(
                self.base, linestyle="--", label="base model", **REFERENCE
            )
        (self.line_,) = ax.plot(
            self.ks,
            self.reward,
            **{"marker": "o", "markersize": 4, "label": name} | kwargs,
        )
        self.band_ = ax.fill_between(
            self.ks,
            self.low,
            self.high,
            color=self.line_.get_color(),
            alpha=0.2,
            linewidth=0,
        )
        ax.set_xscale("log", base=2)
        ax.set_xticks(self.ks, [str(k) for k in self.ks])
        ax.minorticks_off()
        ax.set_xlabel("Number of candidates k")
        ax.set_ylabel(f"Reward of the choice ({self.confidence_level:.0%} interval)")
        ax.legend()
        return self
