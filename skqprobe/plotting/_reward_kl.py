"""RewardKLDisplay: reward against the distance from the base model."""

import numpy as np

from skqprobe._candidates.choice import choice_probabilities, expected_rewards
from skqprobe._candidates.segments import repeat_per_prompt, segment_mean
from skqprobe.metrics._bootstrap import bootstrap_terms
from skqprobe.metrics._distance import choice_kl
from skqprobe.metrics._per_prompt import check_rewards, check_scores, mean_terms
from skqprobe.metrics._values import policy_temperature
from skqprobe.plotting._display import REFERENCE, Display


class RewardKLDisplay(Display):
    """Reward against KL divergence from the base model, as the temperature moves.

    From the base model (an infinite temperature: no divergence, a random candidate) to
    the best candidate (temperature 0). Of two policies the one that lies higher earns
    more for the same distance. The divergence is `kl_upper_estimate`.

    Make one with `from_estimator` or `from_predictions`. For several policies on one
    axis give the first display's ``ax_`` to the next as `ax`, with
    ``plot_references=False``.

    Parameters
    ----------
    temperatures : ndarray of shape (n_temperatures,)
        Falling, from infinity to 0.
    kl : ndarray of shape (n_temperatures,)
        Upper estimate of the KL divergence, in nats.
    reward, low, high : ndarray of shape (n_temperatures,)
        Expected reward and its interval.
    oracle_kl, oracle_reward : ndarray
        The same line for a choice by the rewards themselves, which no other passes.
    point : tuple of float, default=None
        Temperature, divergence and reward to be marked.
    name : str, default=None
        Of the policy, for the legend.
    confidence_level : float, default=0.95
        Of the interval, for the label.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        What was drawn on.
    line_ : matplotlib Line2D
        The policy.
    band_ : matplotlib collection
        The interval.
    point_ : matplotlib Line2D or None
        The marked temperature.
    oracle_ : matplotlib Line2D or None
        The oracle; None if it was not drawn.

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

    def __init__(
        self,
        *,
        temperatures,
        kl,
        reward,
        low,
        high,
        oracle_kl,
        oracle_reward,
        point=None,
        name=None,
        confidence_level=0.95,
    ):
        self.temperatures = temperatures
        self.kl = kl
        self.reward = reward
        self.low = low
        self.high = high
        self.oracle_kl = oracle_kl
        self.oracle_reward = oracle_reward
        self.point = point
        self.name = name
        self.confidence_level = confidence_level

    @classmethod
    def _settings_of(cls, estimator):
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
        """Draw the frontier of choices by given scores.

        Parameters
        ----------
        y, scores : array-like of shape (n_prompts, k) or (n_rows,)
            Rewards, and scores of the candidates.
        groups : array-like of shape (n_rows,), default=None
            For rows: labels of the prompts, any hashable values in any order.
        temperature : float, default=None
            A temperature to mark on the line; `from_estimator` marks the estimator's.
        temperatures : array-like of float, default=None
            The temperatures between 0 and infinity; None takes 30 from a hundredth of
            the scores' standard deviation inside prompts to a hundred times it.
        confidence_level : float, default=0.95
            Of the reward's interval, by a bootstrap over prompts.
        n_resamples : int, default=2000
            Of the bootstrap.
        random_state : int, RandomState instance or None, default=None
            Of the bootstrap.
        name : str, default=None
            For the legend.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        plot_references : bool, default=True
            Whether to draw the oracle and the base model.
        **kwargs : dict
            For matplotlib's `plot`, of the line.

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
            Where to draw; None makes a figure.
        name : str, default=None
            For the legend; None takes the display's.
        plot_references : bool, default=True
            Whether to draw the oracle and the base model.
        **kwargs : dict
            For matplotlib's `plot`, of the line.

        Returns
        -------
        display : RewardKLDisplay
        """
        ax = self._get_axes(ax)
        self.oracle_ = self.point_ = None
        if plot_references:
            # Going further than it must, among equals, would gain it nothing.
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
    """Temperatures, falling, around the scores' standard deviation inside prompts."""
    centred = scores - repeat_per_prompt(
        segment_mean(scores, layout.offsets), layout.offsets
    )
    return (centred.std() or 1.0) * np.logspace(2, -2, 30)
