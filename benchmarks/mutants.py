"""Measure which small changes of the code the tests detect.

    pip install mutmut
    python benchmarks/mutants.py                 # all mutants: an hour or more
    python benchmarks/mutants.py --sample 800    # a random sample

The modules and the tests are those of [tool.mutmut] in pyproject.toml. The script works
on a copy of the checkout in a temporary folder. It prints a table, and the changes of
the mutants that no test detected.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_COPIED = (
    ".git",
    ".venv",
    "build",
    "mutants",
    "__pycache__",
    ".*cache*",
    ".hypothesis",
    "_build",
)
SURVIVED = 0  # exit code of pytest if all tests passed


def mutmut(folder, *arguments):
    """Run mutmut in a folder and return its output."""
    # The tests of a mutant run in a fork, in which threads of the parent do not exist.
    environment = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    return run.stdout


def read_results(folder):
    """Read the exit code of pytest for each mutant; None if it was not tried."""
    files = sorted((folder / "mutants").glob("**/*.py.meta"))
    results = {}
    for file in files:
        codes = json.loads(file.read_text(encoding="utf-8"))["exit_code_by_key"]
        if codes:
            module = str(file.relative_to(folder / "mutants")).removesuffix(".meta")
            results[module] = codes
    return results


def print_table(results):
    """Print the numbers of mutants by module: all, tried and detected."""
    print("| module | mutants | tried | detected | share |")
    print("| --- | --- | --- | --- | --- |")
    rows = []
    for module, codes in results.items():
        tried = [code for code in codes.values() if code is not None]
        rows.append(
            (module, len(codes), len(tried), len(tried) - tried.count(SURVIVED))
        )
    rows.append(("all", *(sum(row[i] for row in rows) for i in (1, 2, 3))))
    for module, n, tried, detected in rows:
        share = detected / max(tried, 1)
        print(f"| {module} | {n} | {tried} | {detected} | {share:.3f} |")


def print_survivors(results, folder):
    """Print the changed lines of each mutant that no test detected."""
    for codes in results.values():
        for name, code in codes.items():
            if code != SURVIVED:
                continue
            lines = mutmut(folder, "show", name).splitlines()
            print(f"\n{name}")
            for line in lines:
                if line[:1] in "+-" and line[:3] not in ("+++", "---"):
                    print(line)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, help="number of mutants; all by default")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
        if options.sample is None:
            mutmut(copy, "run", "--max-children", "2")
        else:
            mutmut(copy, "run", "none of that name")  # makes the mutants
            names = sorted(
                name for codes in read_results(copy).values() for name in codes
            )
            sample = random.Random(options.seed).sample(names, options.sample)
            mutmut(copy, "run", "--max-children", "2", *sample)
        results = read_results(copy)
        print_table(results)
        print_survivors(results, copy)


if __name__ == "__main__":
    main()
