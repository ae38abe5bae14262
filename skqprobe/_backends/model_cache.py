"""The models that are loaded in this process."""

import os
from functools import lru_cache

from skqprobe._backends.settings import file_state


def load_model(load, *, model, **settings):
    """Load a model, unless it is one of the last two that the process used.

    Embedders, generators and their clones share loaded models, so none of them holds
    weights. A local model whose files have changed is loaded again. Threads may call
    this function at the same time.

    Parameters
    ----------
    load : callable
        ``load(model=model, **settings)`` returns the model.
    model : str or Path
        Path of a local model, or name of a model on a hub.
    **settings : hashable
        Other arguments of `load`.

    Returns
    -------
    loaded : object
    """
    path = os.path.expanduser(model)
    return _load(load, file_state(path), model=path, **settings)


@lru_cache(maxsize=2)
def _load(load, files, **settings):
    """Load a model; `files` is part of the key only."""
    return load(**settings)
