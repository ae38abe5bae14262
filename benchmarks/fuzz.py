"""Fuzz the targets of tests/test_fuzz.py with new cases in each round.

    python benchmarks/fuzz.py --minutes 10 --seed 0
    python benchmarks/fuzz.py --target cache --rounds 1 --seed 17  # repeat a round

Needs hypothesis and pytest. The script stops after the given minutes or a million
cases, whichever comes first, and prints the number of cases by target. For a failure,
it prints the case and the command that repeats it, and leaves out the target in the
following rounds. A case of "estimators" is a sequence of up to 20 calls.
"""

import argparse
import platform
import sys
import time
import traceback
import warnings
from pathlib import Path

import hypothesis
from hypothesis import Phase, given, seed, settings

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "_shared")]

import test_fuzz  # noqa: E402

MAX_CASES = 1_000_000
ROUND = 500
MACHINES = 20
"""Numbers of cases of a round, and of a round of the slower "estimators"."""

STEPS = 20
NAMES = [*test_fuzz.TARGETS, "estimators"]


def run_round(name, number):
    """Run a target on the cases of a seed; return their number and any error."""
    few = name == "estimators"
    options = settings(
        test_fuzz.SETTINGS,
        derandomize=False,
        max_examples=MACHINES if few else ROUND,
        stateful_step_count=STEPS,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    cases = []
    if few:

        class Counted(test_fuzz.Estimators):
            def __init__(self):
                super().__init__()
                cases.append(None)

        def run():
            test_fuzz.use_any_estimator(seed(number)(Counted), options)

    else:
        function, strategies = test_fuzz.TARGETS[name]

        def counted(**case):
            cases.append(None)
            function(**case)

        run = seed(number)(options(given(**strategies)(counted)))
    try:
        run()
    except Exception as error:
        return len(cases), error
    return len(cases), None


def print_failure(name, number, error):
    """Print a failure, and the command that repeats it."""
    print(f"\n{name} failed. To repeat it:")
    print(f"    python benchmarks/fuzz.py --target {name} --rounds 1 --seed {number}\n")
    print("".join(traceback.format_exception(error, limit=-4)), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first round")
    parser.add_argument(
        "--rounds", type=int, default=None, help="maximum number of rounds"
    )
    parser.add_argument("--target", choices=NAMES, help="single target to run")
    arguments = parser.parse_args()
    names = [arguments.target] if arguments.target else list(NAMES)
    warnings.simplefilter("error")
    begin, rounds = time.monotonic(), 0
    n_cases, seconds = dict.fromkeys(names, 0), dict.fromkeys(names, 0.0)
    failed = []

    def is_over():
        late = time.monotonic() - begin > 60 * arguments.minutes
        return late or sum(n_cases.values()) >= MAX_CASES

    while rounds != arguments.rounds and not is_over() and len(failed) < len(names):
        for name in names:
            if name in failed or is_over():
                continue
            start = time.monotonic()
            n, error = run_round(name, arguments.seed + rounds)
            n_cases[name] += n
            seconds[name] += time.monotonic() - start
            if error is not None:
                failed.append(name)
                print_failure(name, arguments.seed + rounds, error)
        rounds += 1
    print(
        f"python {platform.python_version()}, hypothesis {hypothesis.__version__}, "
        f"{time.monotonic() - begin:.0f} s, {rounds} rounds from seed {arguments.seed}"
    )
    for name in names:
        outcome = "FAILED" if name in failed else "no failure"
        print(f"{name:12}{n_cases[name]:10,} cases {seconds[name]:7.0f} s   {outcome}")
    print(f"{'all':12}{sum(n_cases.values()):10,} cases")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
