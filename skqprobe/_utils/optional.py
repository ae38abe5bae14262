"""Imports of optional packages."""

from importlib import import_module


def import_optional(module, *, needed_by, extra):
    """Import an optional package.

    Parameters
    ----------
    module : str
        Name of the module.
    needed_by : str
        Name of the function, class or argument that needs it.
    extra : str
        Extra of skqprobe that installs it.

    Returns
    -------
    module : module

    Raises
    ------
    ImportError
        If it is not installed or cannot be loaded.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f'{needed_by} needs {module}: pip install "skqprobe[{extra}]". '
            f"(The error was: {error})"
        ) from error
