"""RewardCostDisplay: reward against the mean number of candidates."""

from dataclasses import dataclass

import numpy as np

from skqprobe._candidates.validation import check_scored
from skqprobe.metrics import best_of_k_reward, reward_at_cost
from skqprobe.metrics._bootstrap import bootstrap_terms
from skqprobe.metrics._per_prompt import mean_terms
from skqprobe.metrics._values import predicted_rewards, weighted_rewards
from skqprobe.plotting._display import REFERENCE, Display


@dataclass(kw_only=True, eq=False, repr=False)
class RewardCostDisplay(Display):
    """Reward against the mean number of candidates: fixed k, and stopping rules.

    Created by `from_estimator` or `from_predictions`. The candidates are the recorded
    ones, see :func:`~skqprobe.metrics.reward_at_cost`.

    Parameters
    ----------
    ks : ndarray of int, of shape (n_k,)
        Fixed numbers of candidates.
    fixed_reward : ndarray of shape (n_k,)
        Reward of the best of k candidates by value.
    n_drawn : ndarray of shape (n_rules,)
        Mean number of candidates of each rule, in ascending order.
    reward, low, high : ndarray of shape (n_rules,)
        Reward of the choices of each rule, and its interval.
    name : str, default=None
        Name of the rules, for the legend.
    confidence_level : float, default=0.95
        Level of the interval, in (0, 1).

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Axes and figure of the plot.
    line_ : matplotlib Line2D
        Line of the rules.
    band_ : matplotlib collection
        Band of the interval.
    fixed_ : matplotlib Line2D or None
        Line of the fixed numbers; None if it was not drawn.

    Examples
    --------
    >>> from skqprobe import CalibratedPolicyCV, QProbePolicy
    >>> from skqprobe.datasets import load_two_words
    >>> from skqprobe.generators import ExpectedGain
    >>> from skqprobe.plotting import RewardCostDisplay
    >>> X, y = load_two_words(return_X_y=True)
    >>> policy = CalibratedPolicyCV(QProbePolicy("log_loss", alpha=0.01))
    >>> prior = policy.fit(X[:120], y[:120]).held_out_rewards_
    >>> rules = [ExpectedGain(cost).fit(prior) for cost in (0.02, 0.05, 0.1)]
    >>> display = RewardCostDisplay.from_estimator(
    ...     policy, X[120:], y[120:], stopping=rules, random_state=0
    ... )
    >>> display.n_drawn.round()
    array([2., 3., 4.])
    """

    ks: np.ndarray
    fixed_reward: np.ndarray
    n_drawn: np.ndarray
    reward: np.ndarray
    low: np.ndarray
    high: np.ndarray
    name: str | None = None
    confidence_level: float = 0.95

    @classmethod
    def from_predictions(
        cls,
        y,
        scores,
        groups=None,
        *,
        stopping=(),
        ks=None,
        batch_size=1,
        n_orders=20,
        confidence_level=0.95,
        n_resamples=2000,
        random_state=None,
        name=None,
        ax=None,
        plot_references=True,
        **kwargs,
    ):
        """Draw the display of given values.

        Parameters
        ----------
        y : array-like of shape (n_prompts, k) or (n_rows,)
            Rewards.
        scores : array-like of shape (n_prompts, k) or (n_rows,)
            Scores of the candidates, such as the values of a probe.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets.
        stopping : list of object
            Stopping rules, at least one, such as
            :class:`~skqprobe.generators.ExpectedGain` of several costs.
        ks : array-like of int, default=None
            Fixed numbers of candidates. None takes all up to the size of the smallest
            prompt.
        batch_size : int, default=1
            Number of candidates that are drawn before a rule is called again.
        n_orders : int, default=20
            Number of random orders of each prompt, over which results are averaged.
        confidence_level : float, default=0.95
            Level of the interval, in (0, 1).
        n_resamples : int, default=2000
            Number of resamples of the prompts.
        random_state : int, RandomState instance or None, default=None
            Seed or generator of the orders and the resamples.
        name : str, default=None
            Name for the legend.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a figure.
        plot_references : bool, default=True
            Whether to draw the fixed numbers.
        **kwargs : dict
            Arguments of matplotlib's `plot` for the line.

        Returns
        -------
        display : RewardCostDisplay
        """
        if not isinstance(stopping, (list, tuple)) or not stopping:
            raise ValueError(
                f"stopping must be a list of at least one rule; got {stopping!r}."
            )
        if ks is None:
            ks = 1 + np.arange(check_scored(y, groups, "y")[1].sizes.min())
        ks = np.unique(ks)
        found = [
            reward_at_cost(
                y,
                scores,
                rule,
                groups,
                random_state,
                batch_size=batch_size,
                n_orders=n_orders,
                average=None,
            )
            for rule in stopping
        ]
        found.sort(key=lambda each: each.n_drawn.mean())
        estimate = bootstrap_terms(
            mean_terms(np.stack([each.reward for each in found], axis=1)),
            n_resamples=n_resamples,
            confidence_level=confidence_level,
            random_state=random_state,
        )
        display = cls(
            ks=ks,
            fixed_reward=best_of_k_reward(y, scores, ks, groups),
            n_drawn=np.array([each.n_drawn.mean() for each in found]),
            reward=estimate.value,
            low=estimate.low,
            high=estimate.high,
            name=name,
            confidence_level=confidence_level,
        )
        return display.plot(ax, plot_references=plot_references, **kwargs)

    @classmethod
    def _predict(cls, estimator, X, y, groups):
        y = weighted_rewards(estimator, X, y, groups)
        return y, predicted_rewards(estimator, X, groups if np.ndim(y) == 1 else None)

    def plot(self, ax=None, *, name=None, plot_references=True, **kwargs):
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a figure.
        name : str, default=None
            Name for the legend; None takes that of the display.
        plot_references : bool, default=True
            Whether to draw the fixed numbers.
        **kwargs : dict
            Arguments of matplotlib's `plot` for the line.

        Returns
        -------
        display : RewardCostDisplay
        """
        ax = self._get_axes(ax)
        self.fixed_ = None
        if plot_references:
            (self.fixed_,) = ax.plot(
                self.ks, self.fixed_reward, "--", label="fixed k", **REFERENCE
            )
        label = name or self.name or "stopping rule"
        style = {"marker": "o", "markersize": 4, "label": label}
        (self.line_,) = ax.plot(self.n_drawn, self.reward, **style | kwargs)
        self.band_ = ax.fill_between(
            self.n_drawn,
            self.low,
            self.high,
            color=self.line_.get_color(),
            alpha=0.2,
            linewidth=0,
        )
        ax.set_xlabel("Mean number of candidates")
        ax.set_ylabel(f"Reward of the choice ({self.confidence_level:.0%} interval)")
        ax.legend()
        return self
