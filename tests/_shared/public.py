"""The public names of the package."""

import importlib
import pkgutil

import skqprobe


def public_names():
    """Yield the paths of the names in `__all__` of the package and public modules."""
    modules = [
        module.name
        for module in pkgutil.iter_modules(skqprobe.__path__, "skqprobe.")
        if not module.name.startswith("skqprobe._")
    ]
    for module in ["skqprobe", *modules]:
        for name in importlib.import_module(module).__all__:
            if name != "__version__":
                yield f"{module}.{name}"


def public_objects():
    """Return the objects behind `public_names`, by path."""
    split = (name.rpartition(".") for name in public_names())
    return {
        f"{module}.{name}": getattr(importlib.import_module(module), name)
        for module, _, name in split
    }
