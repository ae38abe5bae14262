"""Imports of optional dependencies."""

from importlib import import_module


def import_optional(module, *, needed_by, extra=None):
    """Import a module of an optional dependency.

    Call it inside the function that needs the module, so that importing skqprobe does
    not import the dependency.

    Parameters
    ----------
    module : str
        Name of the module, such as "torch" or "tqdm.auto".
    needed_by : str
        Subject of the error message: the class, function or parameter that needs the
        module.
    extra : str, default=None
        Extra of skqprobe that installs the package. If None, the message says to
        install the package under its own name.

    Returns
    -------
    module : module

    Raises
    ------
    ImportError
        If the package is not installed, or if it is installed and importing it fails.
        The message of the original error is included in the latter case.

    Examples
    --------
    >>> from skqprobe._utils.optional import import_optional
    >>> json = import_optional("json", needed_by="This example")
    >>> import_optional("no_such", needed_by="An example", extra="io")
    Traceback (most recent call last):
    ...
    ImportError: An example needs no_such: pip install "skqprobe[io]".
    """
    package = module.partition(".")[0]
    install = f'pip install "skqprobe[{extra}]"' if extra else f"pip install {package}"
    try:
        return import_module(module)
    except MemoryError:  # not an error of the package
        raise
    except Exception as error:  # a broken package may raise any exception
        message = f"{needed_by} needs {package}: {install}."
        if not (isinstance(error, ModuleNotFoundError) and error.name == package):
            message += (
                f" {package} is installed, but importing {module} fails with "
                f"{type(error).__name__}: {error}"
            )
        raise ImportError(message, name=package) from error
