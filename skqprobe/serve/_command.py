"""The command `skqprobe serve`."""

import argparse
import inspect
import logging
import re
import tomllib
from ipaddress import ip_address
from numbers import Integral, Real
from pathlib import Path

from sklearn import config_context

from skqprobe._utils.optional import import_optional
from skqprobe._utils.sklearn_compat import Interval, StrOptions
from skqprobe.io import trusted_types
from skqprobe.serve._app import create_app
from skqprobe.serve._settings import CONSTRAINTS

OWN = {
    "probe": "Path of the fitted pipeline, a file of skops.",
    "host": "Address to listen on. Default: 127.0.0.1, for this machine only.",
    "port": "Port to listen on. Default: 8000.",
    "trusted": "Names of more types that the file may contain, as skops names them.",
}
"""Options of the command alone; the others are parameters of `create_app`."""


def main(arguments=None):
    """Run the command.

    Parameters
    ----------
    arguments : list of str, default=None
        Arguments of the command; None for those of the process.
    """
    parser, serve = _make_parsers()
    options = vars(parser.parse_args(arguments))
    options.pop("command")
    try:
        options = _read_file(options.pop("config", None)) | options
        missing = [name for name in ("probe", "upstream") if name not in options]
        if missing:
            raise ValueError(f"{missing[0]} is missing.")
        host, port = options.pop("host", "127.0.0.1"), options.pop("port", 8000)
        probe, trusted = options.pop("probe"), options.pop("trusted", [])
        if not (isinstance(host, str) and type(port) is int and 0 <= port < 2**16):
            raise ValueError("host must be a text, and port an integer below 65536.")
        if not (isinstance(probe, str) and isinstance(trusted, list)):
            raise ValueError("probe must be a text, and trusted a list of names.")
        uvicorn = import_optional("uvicorn", needed_by="skqprobe serve", extra="serve")
        pipeline = load_pipeline(probe, trusted)
        with config_context(enable_metadata_routing=True):  # as pipelines of rows need
            app = create_app(pipeline, **options)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        serve.error(str(error))
    if not _is_loopback(host) and options.get("client_token_env") is None:
        logging.getLogger("skqprobe.serve").warning(
            "Anyone who can reach %s can use this server: set --client-token-env.", host
        )
    # No log of requests: an address may hold a key in its query.
    uvicorn.run(app, host=host, port=port, access_log=False, server_header=False)


def load_pipeline(path, trusted):
    """Load a pipeline from a file of skops.

    Parameters
    ----------
    path : str
        Path of the file.
    trusted : list of str
        Names of types that the file may contain, besides `trusted_types`.

    Raises
    ------
    ValueError
        If the file is not one of skops, or contains other types.
    """
    skops = import_optional("skops.io", needed_by="skqprobe serve", extra="serve")
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    known = [*trusted_types(), *trusted]
    try:
        others = sorted(set(skops.get_untrusted_types(file=path)) - set(known))
    except Exception as error:  # skops has no error of its own
        raise ValueError(f"{path} is not a file of skops: {error}") from None
    if others:
        raise ValueError(
            f"{path} contains types that are not trusted: {', '.join(others)}. If you "
            "trust them, add --trusted and these names."
        )
    return skops.load(path, trusted=known)


def _make_parsers():
    """Return the parser, and that of `serve`."""
    parser = argparse.ArgumentParser("skqprobe")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser(
        "serve",
        help="run an OpenAI-compatible server that answers with the best candidate",
        argument_default=argparse.SUPPRESS,
    )
    serve.add_argument("probe", nargs="?", metavar="PROBE.skops", help=OWN["probe"])
    serve.add_argument("--config", metavar="FILE.toml", help="File of these options.")
    serve.add_argument("--host", help=OWN["host"])
    serve.add_argument("--port", type=int, help=OWN["port"])
    serve.add_argument("--trusted", nargs="+", metavar="NAME", help=OWN["trusted"])
    texts = _texts_of_parameters()
    for name, constraints in CONSTRAINTS.items():
        text = texts.get(name, "").replace("%", "%%")
        default = inspect.signature(create_app).parameters[name].default
        if default not in (None, inspect.Parameter.empty):
            text += f" Default: {default}."
        option = f"--{name.replace('_', '-')}"
        serve.add_argument(option, help=text, **_kind(constraints))
    return parser, serve


def _kind(constraints):
    """Return the arguments of an option with these constraints."""
    if list in constraints:
        return {"nargs": "+", "metavar": "NAME"}
    for each in constraints:
        if isinstance(each, StrOptions):
            return {"choices": sorted(each.options)}
        if isinstance(each, Interval) and each.type in (Integral, Real):
            return {"type": int if each.type is Integral else float, "metavar": "N"}
    return {"type": int, "metavar": "N"} if "random_state" in constraints else {}


def _texts_of_parameters():
    """Return the descriptions of the parameters of `create_app`, by name."""
    text = inspect.getdoc(create_app) or ""
    text = text.partition("Parameters\n")[2].partition("Returns\n")[0]
    found = re.findall(r"^(\w+) : .*\n((?: {4}.*\n)+)", text, re.MULTILINE)
    plain = {name: re.sub(r":\w+:`~?([\w.]+)`", r"\1", text) for name, text in found}
    return {name: " ".join(text.split()) for name, text in plain.items()}


def _read_file(path):
    """Return the options in a TOML file, by name."""
    if path is None:
        return {}
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # also of the encoding
        raise ValueError(f"{path} is not valid TOML: {error}.") from None
    found = {name.replace("-", "_"): value for name, value in found.items()}
    unknown = found.keys() - CONSTRAINTS.keys() - OWN.keys()
    if unknown:
        raise ValueError(f"{path} has the unknown option {min(unknown)!r}.")
    return found


def _is_loopback(host):
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
