"""Display: the base class of all displays."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skqprobe._utils.optional import import_optional
from skqprobe.metrics._values import candidate_values, weighted_rewards

REFERENCE = {"color": "0.4", "linewidth": 1.2}
"""Style of reference lines: the base model and the oracle."""


class Display:
    """Base class of the displays, which implement `from_predictions` and `plot`."""

    @classmethod
    def from_estimator(cls, estimator, X, y, groups=None, *, name=None, **kwargs):
        """Draw the display of a fitted policy.

        Parameters
        ----------
        estimator : estimator
            Fitted probe, or any classifier, regressor or ranker.
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            Input of the estimator, from prompts that it was not trained on.
        y : array-like of shape (n_prompts, k) or (n_rows,)
            Rewards; or several per candidate, along a last axis. `ParetoDisplay` shows
            two of them; for others, the `objective_weights` of the estimator weight
            them.
        groups : array-like of shape (n_rows,), default=None
            Prompt labels of the rows: hashable values in any order. Not needed for
            sets.
        name : str, default=None
            Name of the policy; None takes the name of the class.
        **kwargs : dict
            Arguments of `from_predictions`.

        Returns
        -------
        display : Display
            Display that was drawn.
        """
        check_is_fitted(estimator)
        y, scores = cls._predict(estimator, X, y, groups)
        labels = groups if np.ndim(y) == 1 else None
        kwargs = cls._settings_of(estimator, X, labels) | kwargs
        name = name or type(estimator).__name__
        return cls.from_predictions(y, scores, groups, name=name, **kwargs)

    @classmethod
    def from_predictions(cls, y, scores, groups=None, **kwargs):
        """Draw the display of given scores."""
        raise NotImplementedError

    @classmethod
    def _predict(cls, estimator, X, y, groups):
        """Rewards that the display shows, and values of the candidates."""
        y = weighted_rewards(estimator, X, y, groups)
        return y, candidate_values(estimator, X, groups if np.ndim(y) == 1 else None)

    @classmethod
    def _settings_of(cls, estimator, X, groups):
        """Arguments of `from_predictions` that a fitted estimator determines."""
        return {}

    def _get_axes(self, ax):
        """Set `ax_` and `figure_`, and return the axes."""
        name = type(self).__name__
        pyplot = import_optional("matplotlib.pyplot", needed_by=name, extra="plot")
        if ax is None:
            ax = pyplot.subplots(constrained_layout=True)[1]
        self.ax_, self.figure_ = ax, ax.figure
        return ax
