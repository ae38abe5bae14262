"""Kill processes of `collect` at random moments, and count the rewards that are lost.

    python benchmarks/kill.py --kills 100

Each process computes rewards, writes them to a log, and is killed (SIGKILL). The script
checks the file after each kill, and starts the collection again until it is complete.
It prints the number of rewards that are in the log and not in the file. The first run
has one reward in progress at a time, the second has eight.
"""

import argparse
import platform
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "_shared"))

from killed_process import kill_often


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="number of kills")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"python {platform.python_version()}, {platform.system()}")
    for concurrency in (1, 8):
        with tempfile.TemporaryDirectory() as folder:
            outcome = kill_often(
                Path(folder), arguments.kills, concurrency, arguments.seed
            )
        print(
            f"reward_concurrency={concurrency}: {outcome.n_kills} kills, "
            f"{outcome.n_computed} rewards computed, {outcome.n_lost} lost, at most "
            f"{outcome.n_lost_at_once} by one kill"
        )


if __name__ == "__main__":
    main()
