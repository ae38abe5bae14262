"""What all displays share: axes, and the estimator's name and values."""

from sklearn.utils.validation import check_is_fitted

from skqprobe.metrics import candidate_values

REFERENCE = {"color": "0.4", "linewidth": 1.2}
"""How lines that are no policy are drawn: the base model, the oracle."""


def get_axes(display, ax):
    """Set `ax_` and `figure_` of a display, and return the axes."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError(
            f"{type(display).__name__} needs matplotlib: pip install skqprobe[plot]."
        ) from None
    if ax is None:
        ax = plt.subplots(constrained_layout=True)[1]
    display.ax_, display.figure_ = ax, ax.figure
    return ax


def values_and_name(estimator, X, name):
    """Values of the candidates by a fitted estimator, and what to call it."""
    check_is_fitted(estimator)
    return candidate_values(estimator, X), name or type(estimator).__name__
