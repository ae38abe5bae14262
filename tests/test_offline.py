"""The core opens no network connection at import, in fit or in predict.

The test runs the examples of the docstrings and tests of all losses in a process in
which no socket can be created. It records each attempt, also if a library catches the
error.
"""

import socket
import sys
from pathlib import Path

import pytest
from process import run_python

import skqprobe

ATTEMPTS: list[str] = []


def block_network():
    """Make every use of the network fail, and record it in ATTEMPTS."""

    def refuse(event, arguments):
        # Creating a socket or reading the name of this machine is no connection.
        if event in ("socket.__new__", "socket.gethostname"):
            return
        if event.startswith(("socket.", "urllib.", "http.client.")):
            ATTEMPTS.append(event)
            raise ConnectionRefusedError(f"no network in this test: {event}")

    class NoSocket(socket.socket):
        def __init__(self, *args, **kwargs):
            ATTEMPTS.append("socket.socket")
            raise ConnectionRefusedError("no network in this test: socket.socket")

    sys.addaudithook(refuse)
    socket.socket = NoSocket


def run_offline():
    """Run examples and tests, and print the attempts to connect."""
    block_network()
    tests, package = Path(__file__).parent, Path(skqprobe.__file__).parent
    files = [
        "test_common.py",
        "embedders/test_vectorizer.py",
        "generators/test_best_of_k.py",
        "io/test_export.py",
        "plotting/test_reward_curve.py",
    ]
    # An event loop makes a pair of sockets for itself.
    choice = "(not test_common or agree or (log_loss and network)) and not event_loop"
    options = ["-q", "-p", "no:cacheprovider", "-c", tests.parent / "pyproject.toml"]
    paths = [package, *(tests / file for file in files)]
    assert pytest.main([*map(str, (*options, *paths)), "-k", choice]) == 0
    print(f"attempts: {ATTEMPTS}")


def run_here(code):
    return run_python("-W", "error", "-c", code, cwd=Path(__file__).parent)


@pytest.mark.slow
def test_core_needs_no_network():
    printed = run_here("import test_offline; test_offline.run_offline()")
    assert printed.splitlines()[-1] == "attempts: []"


def test_connections_are_recorded():
    code = """
import socket, _socket, test_offline
test_offline.block_network()
tries = [
    lambda: socket.create_connection(("127.0.0.1", 9)),
    lambda: socket.getaddrinfo("localhost", 80),
    lambda: _socket.socket().connect(("127.0.0.1", 9)),
    lambda: __import__("urllib.request").request.urlopen("http://127.0.0.1:9"),
]
for attempt in tries:
    before = len(test_offline.ATTEMPTS)
    try:
        attempt()
    except OSError:
        print(len(test_offline.ATTEMPTS) > before)
"""
    assert run_here(code).split() == ["True"] * 4
