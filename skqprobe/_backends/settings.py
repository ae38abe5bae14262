"""Settings of an embedder or generator that determine its output."""

import os
from functools import lru_cache
from hashlib import blake2b, file_digest
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
        `inert_parameters`, with paths as str; and "model_files", a digest of the
        content of the files of `model`, if it is a local path. Each version of a file
        is read once per process.
    """
    cls = type(backend)
    settings = {"class": f"{cls.__module__}.{cls.__name__}"}
    for name, value in backend.get_params(deep=False).items():
        if name not in backend.inert_parameters:
            settings[name] = str(value) if isinstance(value, Path) else value
    model = settings.get("model")
    if isinstance(model, str):
        digest = _digest_files(os.path.expanduser(model), settings.get("gguf_file"))
        if digest is not None:
            settings["model_files"] = digest
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
        None if there is no such file or folder. Names are relative to `path`.
    """
    path = Path(os.path.expanduser(path))
    if not path.exists():
        return None
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return tuple(
        (str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns)
        for p in files
        if p.is_file()
    )


def _digest_files(path, gguf_file):
    """Digest the content of the files of a local model; None if there are none.

    Hidden files, bytecode and other models in GGUF are left out.
    """
    state = file_state(path)
    if state is None:
        return None
    digest = blake2b(digest_size=8)
    for name, size, time in state:
        parts = Path(name).parts
        other = gguf_file is not None and name.endswith(".gguf") and name != gguf_file
        if not other and not any(p[0] == "." or p == "__pycache__" for p in parts):
            content = _digest_file(Path(path, name), size, time)
            digest.update(f"{name} {content}".encode())
    return digest.hexdigest()


@lru_cache(maxsize=10_000)
def _digest_file(file, size, time):
    """Digest the content of a file; size and time tell when to read it again."""
    with open(file, "rb") as stream:
        return file_digest(stream, "blake2b").hexdigest()
