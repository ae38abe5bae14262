"""Display: what all displays share."""

from sklearn.utils.validation import check_is_fitted

from skqprobe._utils.optional import import_optional
from skqprobe.metrics import candidate_values

REFERENCE = {"color": "0.4", "linewidth": 1.2}
"""How lines that are no policy are drawn: the base model, the oracle."""


class Display:
    """Base class of the displays; they differ in `from_predictions` and `plot`."""

    @classmethod
    def from_estimator(cls, estimator, X, y, groups=None, *, name=None, **kwargs):
        """Draw what a fitted policy gains.

        Parameters
        ----------
        estimator : estimator
            A fitted probe; or any classifier, regressor or ranker.
        X : array-like of shape (n_prompts, k, n_features) or (n_rows, n_features)
            What the estimator takes; of prompts that it was not trained on.
        y : array-like of shape (n_prompts, k) or (n_rows,)
            Rewards.
        groups : array-like of shape (n_rows,), default=None
            For rows: labels of the prompts, any hashable values in any order.
        name : str, default=None
            What to call it; None takes the name of the class.
        **kwargs : dict
            See `from_predictions`.

        Returns
        -------
        display : Display
            The drawn display.
        """
        check_is_fitted(estimator)
        scores = candidate_values(estimator, X)
        kwargs = cls._settings_of(estimator) | kwargs
        name = name or type(estimator).__name__
        return cls.from_predictions(y, scores, groups, name=name, **kwargs)

    @classmethod
    def from_predictions(cls, y, scores, groups=None, **kwargs):
        """Draw what choices by given scores gain."""
        raise NotImplementedError

    @classmethod
    def _settings_of(cls, estimator):
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
