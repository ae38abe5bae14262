"""RewardKLDisplay: reward against the distance from the base model."""

from dataclasses import dataclass

import numpy as np

from skqprobe._candidates.choice import choice_probabilities, expected_rewards
from skqprobe._candidates.segments import repeat_per_prompt, segment_mean
from skqprobe.metrics._bootstrap import bootstrap_terms
from skqprobe.metrics._distance import choice_kl
from skqprobe.metrics._per_prompt import check_rewards, check_scores, mean_terms
from skqprobe.metrics._values import policy_temperature
from skqprobe.plotting._display import REFERENCE, Display


@dataclass(kw_only=True, eq=False, repr=False)
class RewardKLDisplay(Display):
    """Reward against KL divergence from the base model, over temperatures.

    The curve leads from the base model (infinite temperature: no divergence, a random
    candidate) to the best candidate (temperature 0). Of two policies, the upper one has
    the higher reward at the same distance. The divergence is `kl_upper_estimate`.

    Created by `from_estimator` or `from_predictions`. To draw several policies on one
    axis, pass ``ax_`` of the first display to the next as `ax`, with
    ``plot_references=False``.

    Parameters
    ----------
    temperatures : ndarray of shape (n_temperatures,)
        Temperatures in descending order, from infinity to 0.
    kl : ndarray of shape (n_temperatures,)
        Upper estimate of the KL divergence, in nats.
    reward, low, high : ndarray of shape (n_temperatures,)
        Expected reward and its interval.
    oracle_kl, oracle_reward : ndarray
        The same curve for a choice by the rewards themselves, an upper bound.
    point : tuple of float, default=None
        Temperature, divergence and reward to mark.
    name : str, default=None
        Name of the policy, for the legend.
    confidence_level : float, default=0.95
        Level of the interval, in (0, 1).

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Axes and figure of the plot.
    line_ : matplotlib Line2D
        Line of the policy.
    band_ : matplotlib collection
        Band of the interval.
    point_ : matplotlib Line2D or None
        Marker of the temperature.
    oracle_ : matplotlib Line2D or None
        Line of the oracle; None if it was not drawn.

    Examples
    --------
    >>> from skqprobe import QProbePolicy
    >>> from skqprobe.datasets import load_two_words
    >>> from skqprobe.plotting import RewardKLDisplay
    >>> X, y = load_two_words(return_X_y=True)
    >>> policy = QProbePolicy("log_loss", temperature=0.5).fit(X[:120], y[:120])
    >>> display = RewardKLDisplay.from_estimator(policy, X[120:], y[120:])
    >>> display.temperatures[[0, -1]]
    array([inf,  0.])
    """

    temperatures: np.ndarray
    kl: np.ndarray
    reward: np.ndarray
    low: np.ndarray
    high: np.ndarray
    oracle_kl: np.ndarray
    oracle_reward: np.ndarray
    point: tuple[float, float, float] | None = None
    name: str | None = None
    confidence_level: float = 0.95

    @classmethod
    def _settings_of(cls, estimator, X, groups):
        return {"temperature": policy_temperature(estimator)}

    @classmethod
    def from_predictions(
        cls,
        y,
        scores,
        groups=None,
        *,
        temperature=None,
        temperatures=None,
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
        temperature : float, default=None
            Temperature to mark on the line; `from_estimator` passes the estimator's.
        temperatures : array-like of float, default=None
            Temperatures between 0 and infinity. None takes 30 values from 0.01 to 100
            times the standard deviation of the scores inside prompts.
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
            Whether to draw the oracle and the base model.
        **kwargs : dict
            Arguments of matplotlib's `plot` for the line.

        Returns
        -------
        display : RewardKLDisplay
        """
        rewards, layout = check_rewards(y, groups)
        scores = check_scores(scores, layout)
        grid = _grid(scores, layout) if temperatures is None else temperatures
        grid = np.array([np.inf, *np.sort(grid)[::-1], 0.0])
        kl, values = _frontier(scores, rewards, layout, grid)
        # One bootstrap, so that all temperatures have the same resamples.
        estimate = bootstrap_terms(
            mean_terms(values),
            n_resamples=n_resamples,
            confidence_level=confidence_level,
            random_state=random_state,
        )
        best_grid = [np.inf, *_grid(rewards, layout), 0.0]
        oracle_kl, best = _frontier(rewards, rewards, layout, best_grid)
        point = None
        if temperature is not None:
            [point_kl], reward = _frontier(scores, rewards, layout, [temperature])
            point = (temperature, point_kl, reward.mean())
        display = cls(
            temperatures=grid,
            kl=kl,
            reward=estimate.value,
            low=estimate.low,
            high=estimate.high,
            oracle_kl=oracle_kl,
            oracle_reward=best.mean(axis=0),
            point=point,
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
            Whether to draw the oracle and the base model.
        **kwargs : dict
            Arguments of matplotlib's `plot` for the line.

        Returns
        -------
        display : RewardKLDisplay
        """
        ax = self._get_axes(ax)
        self.oracle_ = self.point_ = None
        if plot_references:
            # A larger divergence, among equal rewards, adds no reward.
            (self.oracle_,) = ax.plot(
                [*self.oracle_kl, max(self.kl[-1], self.oracle_kl[-1])],
                [*self.oracle_reward, self.oracle_reward[-1]],
                ":",
                label="oracle",
                **REFERENCE,
            )
            ax.plot(
                [0], [self.reward[0]], "s", color=REFERENCE["color"], label="base model"
            )
        label = name or self.name or "policy"
        (self.line_,) = ax.plot(self.kl, self.reward, **{"label": label} | kwargs)
        color = self.line_.get_color()
        self.band_ = ax.fill_between(
            self.kl, self.low, self.high, color=color, alpha=0.2, linewidth=0
        )
        if self.point is not None:
            temperature, kl, reward = self.point
            (self.point_,) = ax.plot(
                [kl],
                [reward],
                "o",
                color=color,
                label=f"{label} at temperature {temperature:g}",
            )
        ax.set_xlabel("KL divergence from the base model (upper estimate, nats)")
        ax.set_ylabel(f"Expected reward ({self.confidence_level:.0%} interval)")
        ax.legend()
        return self


def _frontier(scores, rewards, layout, temperatures):
    """Divergence of the choice at each temperature, and its reward per prompt."""
    kl, values = [], []
    for temperature in temperatures:
        proba = choice_probabilities(scores, layout, temperature)
        kl.append(choice_kl(proba, layout).mean())
        values.append(expected_rewards(proba, rewards, layout))
    return np.array(kl), np.column_stack(values)


def _grid(scores, layout):
    """Descending temperatures around the standard deviation inside prompts."""
    centered = scores - repeat_per_prompt(
        segment_mean(scores, layout.offsets), layout.offsets
    )
    return (centered.std() or 1.0) * np.logspace(2, -2, 30)
