"""Settings of an embedder or generator that determine its output."""

from hashlib import blake2b
from pathlib import Path


def output_settings(backend):
    """Return the settings that determine the output of an embedder or generator.

    Embedders include them in the keys of the cache. `collect` stores them with each
    record and compares them when it resumes.

    Parameters
    ----------
    backend : BaseEmbedder or BaseGenerator
        Estimator with the attribute `inert_parameters`.

    Returns
    -------
    settings : dict
        "class", the public path of the class; the parameters except
        `inert_parameters`, with paths as str; and "model_files", a digest of the files
        of `model`, if it is a local path.
    """
    cls = type(backend)
    settings = {"class": f"{cls.__module__}.{cls.__name__}"}
    for name, value in backend.get_params(deep=False).items():
        if name not in backend.inert_parameters:
            settings[name] = str(value) if isinstance(value, Path) else value
    model = settings.get("model")
    files = file_state(model) if isinstance(model, str) else None
    if files is not None:
        digest = blake2b(repr(files).encode(), digest_size=8)
        settings["model_files"] = digest.hexdigest()
    return settings


def file_state(path):
    """List files by name, size and time of change, which tell versions apart.

    Parameters
    ----------
    path : str or Path
        A file, a folder, or a name that is neither, such as that of a model on a hub.

    Returns
    -------
    state : tuple of (str, int, int), or None
        None if there is no such file or folder.
    """
    path = Path(path)
    if not path.exists():
        return None
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return tuple(
        (str(p.relative_to(path.parent)), p.stat().st_size, p.stat().st_mtime_ns)
        for p in files
        if p.is_file()
    )
