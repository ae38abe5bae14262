"""What tells versions of a local model apart."""

from pathlib import Path


def file_state(path):
    """List names, sizes and times of change of files; None where there are none.

    Parameters
    ----------
    path : str or Path
        A file or folder; or a name that is neither, as of a model on a hub.

    Returns
    -------
    state : list of (str, int, int), or None
    """
    path = Path(path)
    if not path.exists():
        return None
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*"))
    return [
        (str(p.relative_to(path.parent)), p.stat().st_size, p.stat().st_mtime_ns)
        for p in files
        if p.is_file()
    ]
