"""RiskCoverageDisplay: risk of the answers against the share of answered prompts."""

from dataclasses import dataclass

import numpy as np

from skqprobe._candidates.segments import segment_max
from skqprobe._candidates.validation import check_scored
from skqprobe.metrics import risk_coverage
from skqprobe.metrics._values import call
from skqprobe.plotting._display import REFERENCE, Display


@dataclass(kw_only=True, eq=False, repr=False)
class RiskCoverageDisplay(Display):
    """Risk of the answers against the share of prompts that are answered.

    Created by `from_estimator` or `from_predictions`. The prompts with the highest
    predicted reward are answered first, see :func:`~skqprobe.metrics.risk_coverage`.

    Parameters
    ----------
    coverage, risk : ndarray of shape (n_prompts,)
        Shares of the prompts, and risk of their answers.
    area : float
        Area under the curve.
    name : str, default=None
        Name of the prediction, for the legend.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Axes and figure of the plot.
    line_ : matplotlib Line2D
        Line of the risk.
    all_ : matplotlib Line2D or None
        Line of the risk if all prompts are answered; None if it was not drawn.

    Examples
    --------
    >>> from skqprobe import CalibratedPolicyCV, QProbePolicy
    >>> from skqprobe.datasets import load_two_words
    >>> from skqprobe.plotting import RiskCoverageDisplay
    >>> X, y = load_two_words(return_X_y=True)
    >>> policy = CalibratedPolicyCV(QProbePolicy("log_loss")).fit(X[:120], y[:120])
    >>> display = RiskCoverageDisplay.from_estimator(policy, X[120:], y[120:])
    >>> bool(display.area < display.risk[-1])
    True
    """

    coverage: np.ndarray
    risk: np.ndarray
    area: float
    name: str | None = None

    @classmethod
    def from_predictions(
        cls,
        y,
        scores,
        groups=None,
        *,
        predicted=None,
        name=None,
        ax=None,
        plot_references=True,
        **kwargs,
    ):
        """Draw the display of given scores and predictions.

        Parameters
        ----------
        y : array-like of shape (n_prompts, k) or (n_rows,)
            Rewards.
        scores : array-like of shape (n_prompts, k) or (n_rows,)
            Scores of the candidates, such as the values of a probe.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets.
        predicted : array-like of shape (n_prompts,), default=None
            Predicted reward of each choice, in order of first appearance. None takes
            the best score of each prompt; `from_estimator` takes `predict_reward`, if
            the estimator has it.
        name : str, default=None
            Name for the legend.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a figure.
        plot_references : bool, default=True
            Whether to draw the risk if all prompts are answered.
        **kwargs : dict
            Arguments of matplotlib's `plot` for the line.

        Returns
        -------
        display : RiskCoverageDisplay
        """
        if predicted is None:
            values, layout = check_scored(scores, groups, "scores")
            predicted = segment_max(values, layout.offsets)
        curve = risk_coverage(y, scores, predicted, groups)
        display = cls(
            coverage=curve.coverage, risk=curve.risk, area=curve.area, name=name
        )
        return display.plot(ax, plot_references=plot_references, **kwargs)

    @classmethod
    def _settings_of(cls, estimator, X, groups):
        estimator = getattr(estimator, "best_estimator_", estimator)
        if not hasattr(estimator, "predict_reward"):
            return {}
        return {"predicted": call(estimator, "predict_reward", X, groups=groups)}

    def plot(self, ax=None, *, name=None, plot_references=True, **kwargs):
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a figure.
        name : str, default=None
            Name for the legend; None takes that of the display.
        plot_references : bool, default=True
            Whether to draw the risk if all prompts are answered.
        **kwargs : dict
            Arguments of matplotlib's `plot` for the line.

        Returns
        -------
        display : RiskCoverageDisplay
        """
        ax = self._get_axes(ax)
        self.all_ = None
        if plot_references:
            style = {"linestyle": "--", "label": "all prompts", **REFERENCE}
            self.all_ = ax.axhline(self.risk[-1], **style)
        label = f"{name or self.name or 'policy'} (area {self.area:.3f})"
        (self.line_,) = ax.plot(self.coverage, self.risk, **{"label": label} | kwargs)
        ax.set_xlabel("Share of prompts answered")
        ax.set_ylabel("Risk of the answers (1 - reward)")
        ax.set(xlim=(0, 1), ylim=(0, None))
        ax.legend()
        return self
