"""The examples of deployment have options that exist, and a unit that is valid."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from skqprobe.serve import _command

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"
ROOT = DEPLOY.parents[1]

pytestmark = pytest.mark.skipif(not DEPLOY.exists(), reason="not a checkout")


def check_options(arguments):
    program, *rest = arguments
    assert Path(program).name == "skqprobe"
    parser, _ = _command._make_parsers()
    return vars(parser.parse_args(rest))


def test_the_file_of_options():
    found = _command._read_file(DEPLOY / "serve.toml")
    assert found["log"].startswith("/var/lib/skqprobe")
    text = (DEPLOY / "serve.toml").read_text()
    left_out = re.findall(r"^# (\w+) = ", text, re.MULTILINE)
    assert set(left_out) == {"api_key_env", "client_token_env"}
    assert set(left_out) <= set(_command.CONSTRAINTS)


def test_the_container():
    text = (DEPLOY / "Dockerfile").read_text()
    entry, command = (
        re.findall(r'"([^"]*)"', re.search(f"^{name} (.*)$", text, re.M)[1])
        for name in ("ENTRYPOINT", "CMD")
    )
    found = check_options([*entry, *command])
    assert found["config"] == "/etc/skqprobe/serve.toml"
    assert found["host"] == "0.0.0.0"


def test_the_unit(tmp_path):
    text = (DEPLOY / "skqprobe.service").read_text()
    command = re.search("^ExecStart=(.*)$", text, re.M)[1]
    assert check_options(shlex.split(command))["config"].endswith("serve.toml")
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    program = shlex.split(command)[0]
    unit = tmp_path / "skqprobe.service"
    unit.write_text(text.replace(program, shutil.which("true")))
    run = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True
    )
    own = [line for line in run.stderr.splitlines() if "skqprobe" in line]
    assert run.returncode == 0 and not own, run.stderr


def test_the_extra_of_the_container_exists():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"serve", "openai"} <= project["optional-dependencies"].keys()
