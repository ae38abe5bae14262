"""The linter, the formatter and the type checker are clean."""

import importlib.util
from pathlib import Path

import pytest
from process import run_python

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "command", ["ruff check", "ruff format --check", "mypy"], ids=str
)
def test_clean(command):
    tool, *arguments = command.split()
    if importlib.util.find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed")
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("not a checkout")
    run_python("-m", tool, *arguments, cwd=ROOT)
