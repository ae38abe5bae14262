"""Control of one request: number of candidates, temperature, what is returned."""

import re
from dataclasses import dataclass, replace

from skqprobe.serve._errors import RequestError

PREFIX = re.compile(r"best-of-(\d{1,9})/(.+)", re.DOTALL)
"""Name of a model that asks for a number of candidates."""

HEADER = "x-skqprobe-"
"""Beginning of the names of the headers of this package."""


@dataclass(frozen=True)
class Control:
    """What one request asks for.

    Parameters
    ----------
    name : str or None
        Name of the model in the request.
    model : str or None
        Name of the model upstream.
    is_explicit : bool
        Whether the request itself asks for a choice.
    k : int
        Number of candidates.
    temperature : float or None
        Temperature of the choice; None for that of the pipeline.
    return_candidates : bool
        Whether to return all candidates in the body.
    has_report : bool
        Whether to return a report of the choice in the body.
    """

    name: str | None
    model: str | None
    is_explicit: bool
    k: int
    temperature: float | None
    return_candidates: bool = False
    has_report: bool = False


def read_control(body, headers, settings):
    """Read what a request asks for; the body precedes headers, these the model name.

    Parameters
    ----------
    body : dict
        Content of the request, from which the control is removed.
    headers : Mapping of str to str
        Headers of the request, by names in lower case.
    settings : SimpleNamespace
        Settings of the server, which apply to the rest.

    Returns
    -------
    control : Control
        The control. `k` is at least the `n` of the body.

    Raises
    ------
    RequestError
        If a value is invalid, or k is larger than `max_k`.
    """
    model = body.get("model", settings.model)
    if model is not None and not isinstance(model, str):
        raise RequestError(400, "model must be a text.", param="model")
    control = Control(body.get("model"), model, False, settings.k, settings.temperature)
    if model is not None and (match := PREFIX.fullmatch(model)):
        control = replace(control, model=match[2], **_read({"k": int(match[1])}))
    named = {name.replace("_", "-"): name for name in _READERS}
    found = {named[h]: headers[HEADER + h] for h in named if HEADER + h in headers}
    if found:
        values = {name: _from_text(text) for name, text in found.items()}
        control = replace(control, **_read(values))
    asked = body.pop("skqprobe", None)
    if asked is not None:
        if not isinstance(asked, dict):
            raise RequestError(400, "skqprobe must be an object.", param="skqprobe")
        control = replace(control, **_read(asked), has_report=True)
    if control.model is not None:
        body["model"] = control.model
    n = body.get("n")
    n = 1 if n is None else _read_count("n", n)
    if max(n, control.k) > settings.max_k:
        name = "k" if control.k > settings.max_k else "n"
        raise RequestError(
            400,
            f"{name}={max(n, control.k)} is more than this server allows: "
            f"{settings.max_k}.",
            param=name,
        )
    has_report = control.has_report or control.return_candidates
    return replace(control, k=max(n, control.k), has_report=has_report)


def _read(asked):
    """Validate the values of a request."""
    unknown = asked.keys() - _READERS.keys()
    if unknown:
        raise RequestError(
            400,
            f"skqprobe has the unknown field {min(unknown)!r}; it may have "
            f"{', '.join(_READERS)}.",
            param="skqprobe",
        )
    values = {name: _READERS[name](name, value) for name, value in asked.items()}
    return values | {"is_explicit": True}


def _from_text(text):
    """Convert the value of a header."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for convert in int, float:
        try:
            return convert(text)
        except ValueError:
            pass
    return text


def _read_count(name, value):
    if type(value) is not int or value < 1:
        raise RequestError(400, f"{name} must be an integer of 1 or more.", param=name)
    return value


def _read_temperature(name, value):
    if type(value) not in (int, float) or not 0 <= value <= _LARGEST:
        raise RequestError(
            400, f"the {name} of the choice must be a number of 0 or more.", param=name
        )
    return float(value)


def _read_boolean(name, value):
    if type(value) is not bool:
        raise RequestError(400, f"{name} must be true or false.", param=name)
    return value


_LARGEST = 1e12
"""Largest temperature."""

_READERS = {
    "k": _read_count,
    "temperature": _read_temperature,
    "return_candidates": _read_boolean,
}
"""Readers of the values by name."""
