"""RewardCurveDisplay: reward against the number of candidates."""

import numpy as np

from skqprobe._candidates.validation import check_scored
from skqprobe.metrics import (
    base_reward,
    best_of_k_reward,
    oracle_reward,
    prompt_bootstrap,
)
from skqprobe.plotting._display import REFERENCE, Display


class RewardCurveDisplay(Display):
    """Reward of the best of k candidates against k, between base model and oracle.

    Make one with `from_estimator` or `from_predictions`. For several policies on one
    axis give the first display's ``ax_`` to the next as `ax`, with
    ``plot_references=False``.

    Parameters
    ----------
    ks : ndarray of int, of shape (n_k,)
        Numbers of candidates.
    reward, low, high : ndarray of shape (n_k,)
        Reward of the best of k by the policy's values, and its interval.
    base : float
        Reward of the base model.
    oracle : ndarray of shape (n_k,)
        Reward of the truly best of k.
    name : str, default=None
        Of the policy, for the legend.
    confidence_level : float, default=0.95
        Of the interval, for the legend.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        What was drawn on.
    line_ : matplotlib Line2D
        The reward.
    band_ : matplotlib collection
        The interval.
    base_, oracle_ : matplotlib Line2D or None
        The references; None if they were not drawn.

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

    def __init__(
        self, *, ks, reward, low, high, base, oracle, name=None, confidence_level=0.95
    ):
        self.ks = ks
        self.reward = reward
        self.low = low
        self.high = high
        self.base = base
        self.oracle = oracle
        self.name = name
        self.confidence_level = confidence_level

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
        """Draw the rewards of choices by given scores.

        Parameters
        ----------
        y, scores : array-like of shape (n_prompts, k) or (n_rows,)
            Rewards, and scores of the candidates.
        groups : array-like of shape (n_rows,), default=None
            For rows: labels of the prompts, any hashable values in any order.
        ks : array-like of int, default=None
            Numbers of candidates; None takes the powers of 2 up to the size of the
            smallest prompt, and that size.
        confidence_level : float, default=0.95
            Of the interval, by a bootstrap over prompts.
        n_resamples : int, default=2000
            Of the bootstrap.
        random_state : int, RandomState instance or None, default=None
            Of the bootstrap.
        name : str, default=None
            For the legend.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        plot_references : bool, default=True
            Whether to draw the base model and the oracle.
        **kwargs : dict
            For matplotlib's `plot`, of the line.

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
            Where to draw; None makes a figure.
        name : str, default=None
            For the legend; None takes the display's.
        plot_references : bool, default=True
            Whether to draw the base model and the oracle.
        **kwargs : dict
            For matplotlib's `plot`, of the line.

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
        ax.set_xlabel("k, candidates to choose from")
        ax.set_ylabel(
            f"Reward of the chosen one ({self.confidence_level:.0%} interval)"
        )
        ax.legend()
        return self
