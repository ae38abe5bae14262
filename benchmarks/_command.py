"""Command lines: common options, data sets, versions."""

import argparse
import os
import platform
import time
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from _data import DEFAULT_NAMES, FOLDERS, load

from skqprobe import __version__

OPTIONS = {
    "data": {
        "nargs": "+",
        "type": Path,
        "default": FOLDERS,
        "metavar": "FOLDER",
        "help": "folders of the data",
    },
    "scale": {"type": Fraction, "help": "share of the full size, such as 1/4"},
    "quick": {"action": "store_true", "help": "a small version of everything"},
    "jobs": {
        "type": int,
        "default": 1,
        "help": "number of processes, -1 for all",
    },
    "out": {"type": Path, "metavar": "FOLDER", "help": "folder for pictures"},
    "json": {"type": Path, "metavar": "FILE", "help": "file for all figures"},
}
"""Options that several scripts have."""

QUICK_NOTE = "--quick: the figures show that the script runs, and little else"


def make_parser(doc, *options, only=None):
    """Make a parser with a description, `--only`, and some of `OPTIONS`."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    if only is not None:
        parser.add_argument("--only", nargs="+", choices=only, help="parts to run")
    for name in options:
        parser.add_argument(f"--{name}", **OPTIONS[name])
    return parser


def check_scale(parser, args):
    """Exit if `--scale` is not positive."""
    if args.scale <= 0:
        parser.error("--scale must be above 0")


def iterate_data(args, max_prompts=None):
    """Yield the data sets of `--only`, and print which ones are missing."""
    for name in args.only or DEFAULT_NAMES:
        data = load(name, args.data, max_prompts)
        if data is None:
            folders = " or ".join(map(str, args.data))
            print(f"\n{name}: left out, there is no {name}.npz in {folders}")
        else:
            yield data


def versions():
    """Return the versions of Python and of the packages; None if not installed."""
    found = {"python": platform.python_version(), "skqprobe": __version__}
    for package in ("numpy", "scipy", "scikit-learn", "torch", "lightgbm"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def machine():
    """Return the date, the number of cores and their load."""
    date, cores = time.strftime("%Y-%m-%d"), os.cpu_count()
    return {"date": date, "cores": cores, "load": os.getloadavg()[0]}
