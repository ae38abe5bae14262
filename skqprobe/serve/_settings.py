"""Settings of the server: their types and ranges, and the secrets that they name."""

import os
from numbers import Integral, Real
from pathlib import Path
from types import SimpleNamespace

from skqprobe._utils.sklearn_compat import (
    Interval,
    StrOptions,
    validate_parameter_constraints,
)

_COUNT = [Interval(Integral, 1, None, closed="left")]
_SECONDS = [Interval(Real, 0, None, closed="neither")]

CONSTRAINTS: dict = {
    "upstream": [str],
    "model": [str, None],
    "k": _COUNT,
    "max_k": _COUNT,
    "temperature": [Interval(Real, 0, None, closed="left"), None],
    "embeddings": [str, list, None],
    "top_logprobs": [Interval(Integral, 1, None, closed="left"), None],
    "n_per_request": [*_COUNT, None],
    "timeout": _SECONDS,
    "max_retries": [Interval(Integral, 0, None, closed="left")],
    "max_requests": _COUNT,
    "max_body_bytes": _COUNT,
    "max_answer_bytes": _COUNT,
    "batch_wait": [Interval(Real, 0, None, closed="left")],
    "keep_alive": _SECONDS,
    "on_error": [StrOptions({"first", "error"})],
    "api_key_env": [str, None],
    "client_token_env": [str, None],
    "log": [str, Path, None],
    "log_content": [StrOptions({"texts", "embeddings"})],
    "random_state": ["random_state"],
}
"""Constraints of the parameters of `create_app`."""


def check_settings(options):
    """Validate the parameters of `create_app`, and read the secrets that they name.

    Parameters
    ----------
    options : dict
        Values of the parameters by name.

    Returns
    -------
    settings : SimpleNamespace
        The same, with "api_key" and "client_token", texts or None.
    """
    validate_parameter_constraints(CONSTRAINTS, options, caller_name="create_app")
    settings = SimpleNamespace(**options)
    if settings.k > settings.max_k:
        raise ValueError(
            f"k={settings.k} is more than max_k={settings.max_k}; raise max_k."
        )
    if settings.api_key_env is not None and settings.client_token_env is None:
        raise ValueError(
            "api_key_env needs client_token_env: with a key of the server's own, "
            "anyone who can reach it could use the key. Name a variable with a token, "
            "which the clients then send as their API key."
        )
    settings.api_key = _read_secret("api_key_env", settings.api_key_env)
    settings.client_token = _read_secret("client_token_env", settings.client_token_env)
    return settings


def _read_secret(parameter, variable):
    """Return the value of an environment variable; None if none is named."""
    if variable is None:
        return None
    secret = os.environ.get(variable, "").strip()
    if not (secret and secret.isascii() and secret.isprintable()):
        raise ValueError(
            f"{parameter}={variable!r}: the environment variable is not set, or has "
            "characters that are not allowed in an HTTP header."
        )
    return secret
