"""Progress bars by tqdm, if it is installed."""

import sys
from types import FrameType

from skqprobe._utils.optional import import_optional


class _NoBar:
    """Replace a progress bar that is not shown."""

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        return False

    def update(self, n=1):
        """Do nothing."""


def progress_bar(progress, total, description, unit):
    """Open a progress bar: a context manager with the method ``update(n)``.

    Parameters
    ----------
    progress : bool or "auto"
        Whether to show a progress bar. "auto" shows one in a terminal, for work of more
        than two seconds, and not inside a search or cross-validation.
    total : int
        Number of units of work. If 0, no bar is shown.
    description : str
        Title of the bar.
    unit : str
        Name of one unit of work, such as "prompt".

    Returns
    -------
    bar : context manager

    Raises
    ------
    ImportError
        If `progress` is True and tqdm is not installed.
    """
    automatic = progress == "auto"
    # A search would show one bar for each of its fits.
    if progress is False or total == 0 or (automatic and _in_validation()):
        return _NoBar()
    try:
        tqdm = import_optional("tqdm.auto", needed_by="progress=True").tqdm
    except ImportError:
        if automatic:
            return _NoBar()
        raise
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        delay=2 if automatic else 0,
        disable=None if automatic else False,  # None shows the bar in a terminal only
    )


def _in_validation():
    """Return whether a search or cross-validation of scikit-learn is running."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "sklearn.model_selection._validation":
            return True
        frame = frame.f_back
    return False
