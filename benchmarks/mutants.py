"""Measure which small changes of the code the tests detect.

    pip install mutmut
    python benchmarks/mutants.py                 # all mutants: an hour or more
    python benchmarks/mutants.py --sample 800    # a random sample

The modules and the tests are those of [tool.mutmut] in pyproject.toml. The script works
on a copy of the checkout in a temporary folder. It prints a table, and the changes of
the mutants that no test detected. The last column of the table leaves out equivalent
mutants, whose results are those of the code: see `EQUIVALENT`.
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
SURVIVED = (0, 33)  # exit codes of mutmut: all tests passed, or there are none
EQUIVALENT = {
    "blocks of another size": ("_AT_ONCE //",),
    "slower, same codes": ("_hash_char", "_are_equal", "kind ", "first = None"),
    "a new array": ("out=None", "small, )", "margin, )", "copy=", "dtype, )"),
    "the same to numpy": ("astype(None)", "by_score, )", "drawn, )", "shape, )", "-2,"),
    "lengths agree": ("strict=", "of_size, )", "parts, )", "of_all, )"),
    "both branches agree there": ("z > 0", "ndim != 1", "ndim == 2", ">= 1e-3", ">= 3"),
    "no effect": ("] = 2", "ldexp(2.0", "max() + 2", "2d=None", "PIJ", "+ np.repeat"),
    "a warning that does not occur": ("divide=None", '"ignore", )'),
    "wording": ("ypical causes", "TYPICAL CAUSES", "earch over a ", "SEARCH OVER"),
}
"""Why mutants are equivalent, and fragments of their names or changed lines."""


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
    """Read the exit code of pytest for each mutant, by package; None if not tried."""
    results = {}
    for file in sorted((folder / "mutants").glob("**/*.py.meta")):
        codes = json.loads(file.read_text(encoding="utf-8"))["exit_code_by_key"]
        if codes:
            package = str(file.parent.relative_to(folder / "mutants"))
            results.setdefault(package, {}).update(codes)
    return results


def read_survivors(codes, folder):
    """Read the changed lines of each mutant that no test detected."""
    survivors = {}
    for name in (name for name, code in codes.items() if code in SURVIVED):
        lines = mutmut(folder, "show", name).splitlines()
        survivors[name] = [
            line
            for line in lines
            if line[:1] in "+-" and line[:3] not in ("+++", "---")
        ]
    return survivors


def why_equivalent(name, lines):
    """Find the reason why a mutant is equivalent; None if it is not."""
    text = "\n".join([name, *(line for line in lines if line[0] == "+")])
    for reason, fragments in EQUIVALENT.items():
        if any(fragment in text for fragment in fragments):
            return reason
    return None


def print_table(results, survivors):
    """Print the numbers of mutants by package, and the shares that tests detected."""
    print("| package | mutants | tried | detected | share | equivalent | corrected |")
    print("| --- " * 7 + "|")
    rows = []
    for package, codes in results.items():
        tried = sum(code is not None for code in codes.values())
        reasons = [why_equivalent(*mutant) for mutant in survivors[package].items()]
        equivalent = len(reasons) - reasons.count(None)
        detected = tried - len(survivors[package])
        rows.append((len(codes), tried, detected, equivalent))
    rows.append([sum(column) for column in zip(*rows, strict=True)])
    for package, row in zip([*results, "all"], rows, strict=True):
        n, tried, detected, equivalent = row
        shares = [detected / max(n, 1) for n in (tried, tried - equivalent)]
        print(
            f"| {package} | {n} | {tried} | {detected} | {shares[0]:.3f} "
            f"| {equivalent} | {shares[1]:.3f} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, help="number of mutants; all by default")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--children", type=int, default=2, help="number of processes")
    options = parser.parse_args()
    run = "run", "--max-children", str(options.children)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
        if options.sample is None:
            mutmut(copy, *run)
        else:
            mutmut(copy, "run", "none of that name")  # makes the mutants
            names = sorted(
                name for codes in read_results(copy).values() for name in codes
            )
            sample = random.Random(options.seed).sample(names, options.sample)
            mutmut(copy, *run, *sample)
        results = read_results(copy)
        survivors = {
            package: read_survivors(codes, copy) for package, codes in results.items()
        }
        print_table(results, survivors)
        for mutants in survivors.values():
            for name, lines in mutants.items():
                print(f"\n{name} ({why_equivalent(name, lines) or 'not assessed'})")
                print(*lines, sep="\n")


if __name__ == "__main__":
    main()
