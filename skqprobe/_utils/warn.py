"""Warnings that point at the user's code."""

import sys
import warnings

LIBRARIES = ("skqprobe", "sklearn", "joblib", "contextlib")
"""Packages and modules whose frames are passed over."""


def warn_user(message, category=UserWarning):
    """Warn at the innermost frame outside of this package and the libraries below it.

    Parameters
    ----------
    message : str
        Text of the warning.
    category : type, default=UserWarning
        Class of the warning.
    """
    frame, stacklevel = sys._getframe(1), 2
    while frame.f_back is not None and _package(frame) in LIBRARIES:
        frame, stacklevel = frame.f_back, stacklevel + 1
    warnings.warn(message, category, stacklevel=stacklevel)


def _package(frame):
    return frame.f_globals.get("__name__", "").partition(".")[0]
