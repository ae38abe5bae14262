"""The examples of the documentation run, and do what they say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


@pytest.mark.skipif(not EXAMPLES.exists(), reason="not a checkout")
def test_quickstart(tmp_path):
    run = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / "plot_quickstart.py")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    table = {
        line[:28].strip(): float(line[28:].split()[0])
        for line in run.stdout.splitlines()
        if "[" in line and not line.startswith("Before")
    }
    base, likely, *by_loss, oracle = table.values()
    assert len(by_loss) == 5
    # The issue that asked for these data had reached 0.81 to 0.85 in a trial.
    assert base < likely < min(by_loss)
    assert 0.8 < max(by_loss) < oracle < 1
    assert (tmp_path / "quickstart.png").stat().st_size > 10_000
