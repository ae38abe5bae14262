"""The identity of an object: what it does, instead of its name or address."""

import copyreg
from collections.abc import Iterator
from hashlib import blake2b
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType

import numpy as np

from skqprobe._arrays.device import detach
from skqprobe._utils.warn import LIBRARIES

_PLAIN = (bool, int, float, complex, str, type(None), type(...))


def identify(value):
    """Compute a digest of what determines the behavior of an object.

    - A function: module, qualified name, code, defaults and captured values.
    - A class: module, qualified name, and those of its attributes that are functions,
      constants or tuples. Of the same for its bases, except those of `LIBRARIES`.
    - Any other object, such as a partial or bound method: class and state, as for a
      copy. If a part cannot be copied, such as a lock, its class and its attributes.

    Global variables and the functions that a function calls are not included.

    Parameters
    ----------
    value : object
        A function, or any other setting.

    Returns
    -------
    digest : str
        Equal in all processes with the same version of Python.
    """
    try:
        return _Digests().of(value)
    except RecursionError:
        return _Digests().of(type(value))


class _Digests:
    """Digests of objects; each object is read once."""

    def __init__(self):
        self._known = {}

    def of(self, value):
        """Return the digest of an object, or its number if it contains itself."""
        if type(value) in _PLAIN:
            return f"{type(value).__name__} {value!r}"
        if id(value) not in self._known:
            # Kept alive with its digest, so that no other object gets its address.
            self._known[id(value)] = [value, f"object {len(self._known)}"]
            try:
                parts = self._parts(value)
            except (RecursionError, MemoryError):
                raise
            except Exception:  # it cannot be copied; or an error of its own code
                parts = self.of(type(value)), self.of(getattr(value, "__dict__", {}))
            text = f"{type(value).__qualname__} {parts}"
            self._known[id(value)][1] = blake2b(
                text.encode(), digest_size=16
            ).hexdigest()
        return self._known[id(value)][1]

    def _parts(self, value):
        if isinstance(value, (bytes, bytearray)):
            return blake2b(value).hexdigest()
        if type(value) in (list, tuple):
            return [self.of(item) for item in value]
        if type(value) in (set, frozenset):
            return sorted(self.of(item) for item in value)
        if type(value) is dict:
            return sorted((self.of(key), self.of(item)) for key, item in value.items())
        for kind, parts in (
            (ModuleType, lambda module: module.__name__),
            (type, self._of_class),
            (FunctionType, self._of_function),
            (CodeType, self._of_code),
            (MethodType, lambda method: self.of((method.__func__, method.__self__))),
        ):
            if isinstance(value, kind):
                return parts(value)
        return self._of_object(value)

    def _of_class(self, cls):
        name = cls.__module__, cls.__qualname__
        is_static = not cls.__flags__ & 1 << 9
        if is_static or name[0].partition(".")[0] in LIBRARIES:
            return name
        attributes = []
        for key, value in vars(cls).items():
            for wrapper in ("__func__", "fget", "func", "__wrapped__"):
                value = getattr(value, wrapper, None) or value
            special = key.startswith("__") and not isinstance(value, FunctionType)
            if isinstance(value, (FunctionType, tuple, bytes, *_PLAIN)) and not special:
                attributes.append((key, self.of(value)))
        return name, sorted(attributes), self.of(cls.__bases__)

    def _of_function(self, function):
        captured = []
        for cell in function.__closure__ or ():
            try:
                captured.append(self.of(cell.cell_contents))
            except ValueError:  # not assigned yet
                captured.append("empty")
        name = function.__module__, function.__qualname__
        defaults = function.__defaults__, function.__kwdefaults__
        rest = (function.__code__, defaults, vars(function))
        return name, captured, [self.of(part) for part in rest]

    def _of_code(self, code):
        names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
        form = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount
        parts = code.co_code, code.co_exceptiontable, code.co_consts
        return form, code.co_flags, names, [self.of(part) for part in parts]

    def _of_object(self, value):
        if isinstance(value, BuiltinFunctionType):
            return value.__module__, value.__qualname__, self.of(value.__self__)
        if hasattr(value, "__dlpack__"):
            return self._of_array(value)
        reduce = copyreg.dispatch_table.get(type(value))
        reduced = reduce(value) if reduce else value.__reduce_ex__(4)
        if isinstance(reduced, str):  # the name of a global object
            wrapped = getattr(value, "__wrapped__", None)
            return getattr(value, "__module__", None), reduced, self.of(wrapped)
        return [
            self.of(list(part) if isinstance(part, Iterator) else part)
            for part in reduced
        ]

    def _of_array(self, array):
        form = str(array.dtype), tuple(array.shape)
        array = np.asarray(detach(array))
        if array.dtype.hasobject:
            return form, self.of(array.tolist())
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return form, blake2b(content.data).hexdigest()
