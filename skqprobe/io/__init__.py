"""Saving: what skops may load, and linear probes for use without this package.

Read more in :doc:`/guide/persistence`.
"""

from importlib import import_module

from skqprobe._utils.public import set_module
from skqprobe.io._export import to_json, to_safetensors
from skqprobe.metrics import best_of_k_scorer, expected_reward_scorer, recovery_scorer

__all__ = ["to_json", "to_safetensors", "trusted_types"]

MODULES = (
    "skqprobe",
    "skqprobe.embedders",
    "skqprobe.generators",
    "skqprobe.losses",
    "skqprobe.preprocessing",
)
"""Where the classes are that can be saved."""


def trusted_types():
    """List everything of this package that a file may hold, as skops names it.

    These are the estimators, transformers, losses, embedders and generators, and what
    the scorers of `skqprobe.metrics` consist of. scikit-learn's own estimators need not
    be listed, and what you wrote yourself is yours to add.

    Returns
    -------
    names : list of str
        For `trusted` of ``skops.io.load``.

    Examples
    --------
    >>> from skqprobe.io import trusted_types
    >>> "skqprobe.QProbePolicy" in trusted_types()
    True
    """
    modules = [import_module(name) for name in MODULES]
    public = [getattr(module, name) for module in modules for name in module.__all__]
    scorers = [best_of_k_scorer(1), recovery_scorer(1), expected_reward_scorer()]
    types = [thing for thing in public if isinstance(thing, type)]
    types += [part for scorer in scorers for part in (type(scorer), scorer.metric)]
    return sorted({f"{thing.__module__}.{thing.__qualname__}" for thing in types})


set_module(globals())
