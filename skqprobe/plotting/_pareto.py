"""ParetoDisplay: rewards in two objectives, over the weights of the choice."""

from dataclasses import dataclass

import numpy as np

from skqprobe._candidates.choice import check_objective_weights
from skqprobe._candidates.segments import segment_mean
from skqprobe._candidates.validation import (
    check_numbers,
    names_of_objectives,
    order_as_fitted,
    unpack_rewards,
)
from skqprobe.metrics._objectives import (
    check_rewards_and_values,
    choice_rewards,
    weight_path,
)
from skqprobe.metrics._pareto import pareto_front
from skqprobe.metrics._values import (
    candidate_objectives,
    last_step,
    policy_temperature,
)
from skqprobe.plotting._display import REFERENCE, Display

N_WEIGHTS = 21
"""Number of weights by default."""


@dataclass(kw_only=True, eq=False, repr=False)
class ParetoDisplay(Display):
    """Rewards in two objectives for many weights of the choice, and their front.

    A dot is the mean reward, in both objectives, of the choice by one pair of weights.
    The line joins the dots that no other dot dominates; drawing one of two neighboring
    weights at random for each prompt reaches the points between them. The oracle
    chooses by the rewards themselves.

    Created by `from_estimator` or `from_predictions`. To draw several policies on one
    axis, pass ``ax_`` of the first display to the next as `ax`, with
    ``plot_references=False``.

    Parameters
    ----------
    weights : ndarray of shape (n_weights, 2)
        Weights of the objectives.
    rewards : ndarray of shape (n_weights, 2)
        Mean reward in each objective of the choice by these weights.
    singles : ndarray of shape (2, 2)
        Mean rewards of the choice by the first objective alone, and by the second.
    base : ndarray of shape (2,)
        Mean rewards of the base model.
    oracle : ndarray of shape (n_points, 2)
        Front of the choices by the rewards themselves.
    objective_names : sequence of str, default=("objective 0", "objective 1")
        Names of the objectives, for the axes.
    name : str, default=None
        Name of the policy, for the legend.

    Attributes
    ----------
    is_front : ndarray of bool, of shape (n_weights,)
        Whether no other weights have rewards that dominate those of these weights.
    ax_, figure_ : matplotlib Axes and Figure
        Axes and figure of the plot.
    line_ : matplotlib Line2D
        Line of the front.
    dominated_ : matplotlib Line2D
        Dots that are not on the front.
    singles_ : list of matplotlib Line2D
        Markers of the choices by one objective.
    base_, oracle_ : matplotlib Line2D or None
        Marker and line of the references; None if they were not drawn.

    See Also
    --------
    skqprobe.metrics.weights_at_cost : Weights that meet a budget.

    Examples
    --------
    >>> import numpy as np
    >>> from skqprobe.plotting import ParetoDisplay
    >>> rng = np.random.default_rng(0)
    >>> y = rng.normal(size=(100, 8, 2))
    >>> values = y + rng.normal(size=y.shape)
    >>> display = ParetoDisplay.from_predictions(y, values)
    >>> display.rewards.shape
    (21, 2)
    """

    weights: np.ndarray
    rewards: np.ndarray
    singles: np.ndarray
    base: np.ndarray
    oracle: np.ndarray
    objective_names: tuple[str, str] = ("objective 0", "objective 1")
    name: str | None = None

    @property
    def is_front(self):
        """Whether no other weights have rewards that dominate."""
        return pareto_front(self.rewards)

    @classmethod
    def _predict(cls, estimator, X, y, groups):
        y = unpack_rewards(y)
        labels = groups if len(y.shape) == 2 else None
        values = candidate_objectives(estimator, X, labels)
        names = names_of_objectives(y)
        y = check_numbers(y, "y", "Leave the candidate out, as rows with groups.")
        return order_as_fitted(y, names, last_step(estimator)), values

    @classmethod
    def _settings_of(cls, estimator, X, groups):
        settings = {"temperature": policy_temperature(estimator)}
        names = getattr(last_step(estimator), "objective_names_", None)
        return settings if names is None else settings | {"objective_names": names}

    @classmethod
    def from_predictions(  # type: ignore[override]
        cls,
        y,
        values,
        groups=None,
        *,
        weights=None,
        temperature=0.0,
        objective_names=("objective 0", "objective 1"),
        name=None,
        ax=None,
        plot_references=True,
        **kwargs,
    ):
        """Draw the display of given values.

        Parameters
        ----------
        y : array-like of shape (n_prompts, k, 2) or (n_rows, 2)
            Rewards in each objective. Larger is better: change the sign of a cost.
        values : array-like of shape (n_prompts, k, 2) or (n_rows, 2)
            Values of the candidates in each objective, as returned by
            `predict_objectives`. For a known objective, such as the length, these are
            the rewards.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets.
        weights : array-like of shape (n_weights, 2), default=None
            Weights of the objectives. None takes 21 pairs from the first objective
            alone to the second alone, relative to the standard deviations of their
            values inside prompts.
        temperature : float, default=0.0
            Temperature of the choice, in [0, inf], in units of the weighted values;
            `from_estimator` passes the estimator's.
        objective_names : sequence of str, default=("objective 0", "objective 1")
            Names of the objectives; `from_estimator` passes the estimator's, if it has
            `objective_names_`.
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
        display : ParetoDisplay
        """
        rewards, values, layout = check_rewards_and_values(y, values, groups)
        if rewards.shape[1] != 2:
            raise ValueError(
                f"y must have two objectives, but it has {rewards.shape[1]}; of more, "
                "select two in y and in values, such as y[..., :2]."
            )
        names = () if objective_names is None else tuple(objective_names)
        if isinstance(objective_names, str) or len(names) != 2:
            raise ValueError(
                "objective_names must hold two names, of the objectives of y; got "
                f"{objective_names!r}."
            )

        def points(values, weights):
            rewards_of_weights = choice_rewards(
                values, weights, rewards, layout, temperature
            )
            return rewards_of_weights.mean(axis=1)

        first = np.array([1.0, 0.0])
        path = weight_path(values, layout, first, 1, N_WEIGHTS)
        oracle = points(rewards, weight_path(rewards, layout, first, 1, 2 * N_WEIGHTS))
        weights = path if weights is None else np.atleast_2d(weights)
        weights = np.array(
            [check_objective_weights(pair, 2, "weights") for pair in weights]
        )
        display = cls(
            weights=weights,
            rewards=points(values, weights),
            singles=points(values, np.eye(2)),
            base=segment_mean(rewards, layout.offsets).mean(axis=0),
            oracle=oracle[pareto_front(oracle)],
            objective_names=names,
            name=name,
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
        display : ParetoDisplay
        """
        ax = self._get_axes(ax)
        name = name or self.name or "policy"
        self.base_ = self.oracle_ = None
        if plot_references:
            (self.oracle_,) = ax.plot(
                *_sorted(self.oracle).T, ":", label="oracle", **REFERENCE
            )
            (self.base_,) = ax.plot(
                *self.base, "s", color=REFERENCE["color"], label="base model"
            )
        style = {"marker": "o", "markersize": 4, "label": name} | kwargs
        front = self.is_front
        (self.line_,) = ax.plot(*_sorted(self.rewards[front]).T, **style)
        color = self.line_.get_color()
        (self.dominated_,) = ax.plot(
            *self.rewards[~front].T, "o", color=color, markersize=4, alpha=0.4
        )
        self.singles_ = []
        for point, marker, objective in zip(
            self.singles, ">^", self.objective_names, strict=True
        ):
            label = f"{objective} alone" if plot_references else None
            style = {"color": color, "markersize": 9, "label": label}
            self.singles_ += ax.plot(*point, marker, **style)
        x, y = self.objective_names
        ax.set(xlabel=f"{x}, mean over prompts", ylabel=f"{y}, mean over prompts")
        ax.legend()
        return self


def _sorted(points):
    """Sort points by the first objective."""
    return points[np.argsort(points[:, 0])]
