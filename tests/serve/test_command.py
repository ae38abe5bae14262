"""The command: options, files, types that are trusted, and a server that runs."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from functools import wraps
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

from skqprobe import QProbePolicy
from skqprobe.embedders import VectorizerEmbedder
from skqprobe.serve import _command

skops = pytest.importorskip("skops.io")


@pytest.fixture
def probe(tmp_path):
    """A file with a policy of two features."""
    X = np.random.default_rng(0).normal(size=(4, 3, 1))
    path = tmp_path / "probe.skops"
    skops.dump(QProbePolicy("squared_error").fit(X, X[..., 0]), path)
    return path


@pytest.fixture
def run(extra, monkeypatch):
    """Function that runs the command, and returns the application and its options."""

    def run(*arguments):
        import uvicorn

        found = {}
        monkeypatch.setattr(
            uvicorn, "run", lambda app, **options: found.update(options, app=app)
        )
        _command.main(["serve", *map(str, arguments)])
        return SimpleNamespace(**found)

    return run


@pytest.fixture
def settings(monkeypatch):
    """The settings of the applications that were made."""
    found = []

    @wraps(_command.create_app)
    def create_app(pipeline, **options):
        found.append(options)

    monkeypatch.setattr(_command, "create_app", create_app)
    return found


URL = "http://localhost:9/v1"


def test_options_are_those_of_create_app(run, probe):
    served = run(probe, "--upstream", URL, "--model", "m", "--k", "8", "--port", 81)
    assert (served.host, served.port) == ("127.0.0.1", 81)
    assert served.access_log is False
    assert {route.path for route in served.app.routes} >= {"/v1/feedback", "/health"}


def test_a_file_has_all_options_and_the_command_precedes_it(
    run, probe, settings, tmp_path
):
    file = tmp_path / "serve.toml"
    file.write_text(
        f"""
probe = {str(probe)!r}
upstream = {URL!r}
model = "m"
k = 4
max-k = 6
batch_wait = 0.5
embeddings = ["n_tokens", "mean_entropies"]
on_error = "error"
host = "0.0.0.0"
port = 82
"""
    )
    served = run("--config", file, "--k", "5", "--temperature", "0.5")
    assert settings == [
        {
            "upstream": URL,
            "model": "m",
            "k": 5,
            "max_k": 6,
            "batch_wait": 0.5,
            "embeddings": ["n_tokens", "mean_entropies"],
            "on_error": "error",
            "temperature": 0.5,
        }
    ]
    assert (served.host, served.port) == ("0.0.0.0", 82)


def test_a_server_for_others_without_a_token_warns(run, probe, caplog, monkeypatch):
    run(probe, "--upstream", URL, "--host", "0.0.0.0")
    assert "Anyone who can reach 0.0.0.0" in caplog.text
    caplog.clear()
    monkeypatch.setenv("TOKEN", "0123456789")
    token = "--client-token-env", "TOKEN"
    run(probe, "--upstream", URL, "--host", "0.0.0.0", *token)
    run(probe, "--upstream", URL, "--host", "::1")
    assert not caplog.text


def measure(texts):
    return [[len(text)] for text in texts]


def test_other_types_must_be_trusted(run, tmp_path, capsys):
    records = [{"prompt": "x", "completions": ["a", "bb"]}] * 3
    pipeline = make_pipeline(VectorizerEmbedder(np.size), QProbePolicy("squared_error"))
    pipeline.set_params(vectorizerembedder__vectorizer=measure)
    pipeline.fit(records, [[1, 0]] * 3)
    path = tmp_path / "probe.skops"
    skops.dump(pipeline, path)
    with pytest.raises(SystemExit):
        run(path, "--upstream", URL)
    message = capsys.readouterr().err
    assert "types that are not trusted" in message and "measure" in message
    name = f"{measure.__module__}.measure"
    assert run(path, "--upstream", URL, "--trusted", name).app is not None


BAD = {
    "no probe": (["--upstream", URL], "probe is missing"),
    "no upstream": (["probe.skops"], "upstream is missing"),
    "no file": (["none.skops", "--upstream", URL], "There is no file none.skops"),
    "no skops": (["bad.skops", "--upstream", URL], "is not a file of skops"),
    "no toml": (["--config", "bad.skops"], "is not valid TOML"),
    "unknown": (["--config", "unknown.toml"], "unknown option 'kk'"),
    "bad value": (["probe.skops", "--upstream", URL, "--k", "0"], "'k' parameter"),
    "bad type": (["--config", "type.toml"], "'k' parameter"),
    "port": (["x", "--upstream", URL, "--port", "65536"], "port an integer below"),
    "trusted": (["x", "--config", "trusted.toml"], "trusted a list of names"),
    "no URL": (["probe.skops", "--upstream", "x"], "upstream must be a URL"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options_are_named(run, probe, tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.skops").write_bytes(b"\x80\x04K\x01.")  # a pickle
    (tmp_path / "unknown.toml").write_text("kk = 3")
    (tmp_path / "trusted.toml").write_text(f'upstream = "{URL}"\ntrusted = "a.B"')
    (tmp_path / "type.toml").write_text(
        f'probe = "probe.skops"\nupstream = "{URL}"\nk = "8"'
    )
    arguments, message = BAD[name]
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_without_the_extra_the_command_names_it(probe, capsys, monkeypatch):
    for package in "starlette", "uvicorn":
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit):
        _command.main(["serve", str(probe), "--upstream", URL])
    assert 'pip install "skqprobe[serve]"' in capsys.readouterr().err


def test_help_describes_all_options(extra, capsys):
    with pytest.raises(SystemExit):
        _command.main(["serve", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name in _command.CONSTRAINTS:
        assert f"--{name.replace('_', '-')} " in text
    assert (
        "Largest number of candidates that a request may ask for. Default: 32" in text
    )


@pytest.mark.slow
def test_the_module_runs_a_server_that_ends_on_a_signal(extra, probe):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [probe, "--upstream", URL, "--port", port]
    command = [sys.executable, "-m", "skqprobe", "serve", *map(str, options)]
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    server = subprocess.Popen(
        command, env={**os.environ, **path}, stderr=subprocess.PIPE, text=True
    )
    try:
        url = f"http://127.0.0.1:{port}/health"
        for _ in range(300):
            try:
                with urllib.request.urlopen(url) as answer:
                    assert answer.read() == b'{"status":"ok"}'
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.1)
        server.send_signal(signal.SIGTERM)
        printed = server.communicate(timeout=20)[1]
    finally:
        server.kill()
        server.wait()
    assert "Application shutdown complete" in printed
    assert "/health" not in printed  # requests are in no log
