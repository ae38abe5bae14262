"""Public paths: where users import from, and so what saved files name."""


def set_module(namespace):
    """Set `__module__` of what ``__all__`` lists to the public module.

    A pickle or skops file names a class by its `__module__`. With the public path
    there, files stay valid when a private module moves.

    Parameters
    ----------
    namespace : dict
        The ``globals()`` of a public module, after its imports and ``__all__``.
    """
    for name in namespace["__all__"]:
        member = namespace[name]
        if callable(member) and hasattr(member, "__module__"):
            member.__module__ = namespace["__name__"]
