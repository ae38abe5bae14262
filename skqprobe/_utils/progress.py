"""Progress bars: tqdm's, where they help and where tqdm is installed."""

import sys
from types import FrameType


class _NoBar:
    """Stands in where no bar is shown."""

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        return False

    def update(self, n=1):
        """Do nothing."""


def progress_bar(progress, total, description, unit):
    """Open a progress bar, a context with the method ``update(n)``.

    Parameters
    ----------
    progress : bool or "auto"
        Whether to show it. "auto" shows it where standard error is a terminal (or in a
        notebook), when the work takes more than two seconds, and not inside a search or
        cross-validation, where there would be one for each fit.
    total : int
        How many things there are to do.
    description, unit : str
        What is done, and what is counted.
    """
    if progress is False or total == 0 or (progress == "auto" and _in_validation()):
        return _NoBar()
    try:
        from tqdm.auto import tqdm
    except ImportError:
        if progress == "auto":
            return _NoBar()
        raise ImportError(
            "progress=True needs tqdm: pip install tqdm, or set progress=False."
        ) from None
    automatic = progress == "auto"
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        delay=2 if automatic else 0,
        disable=None if automatic else False,  # None: not where there is no terminal
    )


def _in_validation():
    """Whether a search or cross-validation of scikit-learn is calling."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "sklearn.model_selection._validation":
            return True
        frame = frame.f_back
    return False
