"""Saving and exporting: types that skops can trust, and files of linear probes.

Read more in :doc:`/guide/persistence`.
"""

from importlib import import_module

from skqprobe._utils.public import set_module
from skqprobe.io._export import to_json, to_safetensors
from skqprobe.io._sequence_classifier import to_sequence_classifier
from skqprobe.metrics import best_of_k_scorer, expected_reward_scorer, recovery_scorer

__all__ = ["to_json", "to_safetensors", "to_sequence_classifier", "trusted_types"]

MODULES = (
    "skqprobe",
    "skqprobe.embedders",
    "skqprobe.generators",
    "skqprobe.losses",
    "skqprobe.preprocessing",
)
"""Modules of the classes that can be saved."""


def trusted_types():
    """List the types of this package that a file may contain, as skops names them.

    The list has the estimators, transformers, losses, embedders and generators, and the
    parts of the scorers of `skqprobe.metrics`. skops trusts scikit-learn's own
    estimators already. Add the names of your own classes and functions.

    Returns
    -------
    names : list of str
        Names for the parameter `trusted` of ``skops.io.load``.

    Examples
    --------
    >>> from skqprobe.io import trusted_types
    >>> "skqprobe.QProbePolicy" in trusted_types()
    True
    """
    modules = [import_module(name) for name in MODULES]
    public = [getattr(module, name) for module in modules for name in module.__all__]
    scorers = [best_of_k_scorer(1), recovery_scorer(1), expected_reward_scorer()]
    types = [member for member in public if isinstance(member, type)]
    types += [part for scorer in scorers for part in (type(scorer), scorer.metric)]
    return sorted({f"{part.__module__}.{part.__qualname__}" for part in types})


set_module(globals())
