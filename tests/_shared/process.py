"""Python in another process."""

import os
import subprocess
import sys


def run_python(*arguments, cwd, **environment):
    """Run Python with these arguments in a folder, and return what it prints."""
    run = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout
