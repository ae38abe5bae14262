"""Removal of secrets from texts and settings."""

import json
import re
from types import MappingProxyType
from urllib.parse import quote

_SECRET = "key|token|secret|passw|auth|cookie|credential|signature"
_USER = re.compile(r"(?<=://)[^/\s@]*@")
_IN_URL = re.compile(rf"([?&][\w.-]*(?:{_SECRET})[\w.-]*=)[^&#\s'\"]+", re.IGNORECASE)


def is_secret(name):
    """Return whether a header or a parameter of a URL holds a secret, by its name."""
    return re.search(_SECRET, str(name), re.IGNORECASE) is not None


def redact(text, secrets=MappingProxyType({})):
    """Remove secrets from a text.

    Parameters
    ----------
    text : str
        The text. User names, passwords and keys in URLs are removed, too.
    secrets : dict of str to str
        Replacements by secret.

    Returns
    -------
    text : str
        The text without secrets and their beginnings, from 8 characters on.
    """
    for secret, shown in secrets.items():
        if len(secret) < 6:  # such as "none", which may be part of any text
            continue
        for form in {secret, quote(secret, safe=""), json.dumps(secret)[1:-1]}:
            for n in range(len(form), min(len(form), 8) - 1, -1):
                text = text.replace(form[:n], shown)
    return _IN_URL.sub(r"\1***", _USER.sub("***@", text))


def without_secrets(settings):
    """Return those settings of a client that may hold secrets, without them.

    Parameters
    ----------
    settings : dict
        Settings by name, of any type.

    Returns
    -------
    shown : dict
        "base_url" with "***" in place of secrets, and the dicts "extra_body",
        "extra_query" and "default_headers" with "***" in place of all values.
    """
    shown = {}
    if isinstance(settings["base_url"], str):
        shown["base_url"] = redact(settings["base_url"])
    for name in "extra_body", "extra_query", "default_headers":
        if isinstance(settings.get(name), dict):
            shown[name] = dict.fromkeys(settings[name], "***")
    return shown
