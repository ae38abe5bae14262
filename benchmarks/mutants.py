"""Change the code in small ways, and see whether the tests notice.

    pip install mutmut
    python benchmarks/mutants.py                 # every mutant: an hour or more
    python benchmarks/mutants.py --sample 800    # of all, at random

Of the modules, and with the tests, that [tool.mutmut] in pyproject.toml names. Works in
a copy of the checkout, in a temporary folder. Prints a table, and how each mutant that
no test noticed differs from the code.
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
NOT_COPIED = (".git", ".venv", "build", "mutants", "*cache*", ".hypothesis", "_build")
SURVIVED = 0  # what pytest returns where all tests passed


def mutmut(folder, *arguments):
    """Run mutmut in a folder, and return what it prints."""
    # The tests of a mutant run in a fork, which has none of its parent's threads.
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
    """Read what came of each mutant: exit codes of pytest, None for not tried."""
    files = sorted((folder / "mutants").glob("**/*.py.meta"))
    results = {}
    for file in files:
        codes = json.loads(file.read_text(encoding="utf-8"))["exit_code_by_key"]
        if codes:
            module = str(file.relative_to(folder / "mutants")).removesuffix(".meta")
            results[module] = codes
    return results


def print_table(results):
    """Print how many mutants of each module there are, were tried, and noticed."""
    print("| module | mutants | tried | noticed | share |")
    print("| --- | --- | --- | --- | --- |")
    rows = []
    for module, codes in results.items():
        tried = [code for code in codes.values() if code is not None]
        rows.append(
            (module, len(codes), len(tried), len(tried) - tried.count(SURVIVED))
        )
    rows.append(("all", *(sum(row[i] for row in rows) for i in (1, 2, 3))))
    for module, n, tried, noticed in rows:
        print(
            f"| {module} | {n} | {tried} | {noticed} | {noticed / max(tried, 1):.3f} |"
        )


def print_survivors(results, folder):
    """Print the lines in which each mutant that was not noticed differs."""
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
    parser.add_argument("--sample", type=int, help="how many mutants; all by default")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
        if options.sample is None:
            mutmut(copy, "run", "--max-children", "1")
        else:
            mutmut(copy, "run", "none of that name")  # makes the mutants
            names = sorted(
                name for codes in read_results(copy).values() for name in codes
            )
            sample = random.Random(options.seed).sample(names, options.sample)
            mutmut(copy, "run", "--max-children", "1", *sample)
        results = read_results(copy)
        print_table(results)
        print_survivors(results, copy)


if __name__ == "__main__":
    main()
