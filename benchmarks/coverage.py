"""Measure how often the intervals of `prompt_bootstrap` contain the true value.

    python benchmarks/coverage.py            # about two minutes
    python benchmarks/coverage.py --quick

Each line simulates `REPEATS` data sets of n prompts with `K` candidates and noisy
scores, and computes the nominal 95% interval of a metric:

- mean: the reward of the best of `K` candidates by score;
- ratio: `recovery` at `K`.

Rewards are binary (1 for a share of the candidates that varies between prompts, 40% on
average), rare (1 for 3% of them, in few of the prompts) or lognormal. The true value is
that of `N_TRUE` prompts. The table has

- the mean number of prompts that inform the metric;
- coverage: the share of the intervals that contain the true value;
- warned: the share of the calls that warn of few informative prompts or of no width;
- not warned: the coverage of the others;
- percentile, studentized: the coverage of two other bootstrap intervals from resamples
  of the same size. The latter divides by the standard error of the linearized ratio. An
  undefined metric counts as not covered.
"""

import time
import warnings

import numpy as np
from _command import QUICK_NOTE, make_parser, versions
from _output import print_pairs, write_json

from skqprobe.metrics import best_of_k_reward, prompt_bootstrap, recovery

K = 16
SIZES = (20, 100)
REPEATS = 2000
N_RESAMPLES = 999
N_TRUE = 400_000
TAILS = (0.025, 0.975)


def draw(rewards, n, rng):
    """Draw rewards and scores of n prompts, both of shape (n, K)."""
    noise = rng.normal(size=(n, K))
    if rewards == "lognormal":
        logarithm = (rng.normal(size=(n, 1)) + rng.normal(size=(n, K))) / 2**0.5
        return np.exp(logarithm), logarithm + noise
    share = rng.beta(*{"binary": (1, 1.5), "rare": (0.1, 3)}[rewards], size=(n, 1))
    y = (rng.random((n, K)) < share).astype(float)
    return y, y + noise


def terms_of(metric, y, scores):
    """Compute the numerator and the denominator of a metric per prompt."""
    if metric is recovery:
        return metric.terms(y, scores, K)
    return metric(y, scores, K, average=None), np.ones(len(y))


def other_intervals(top, bottom, rng):
    """Compute the percentile and the studentized interval of a ratio of means."""
    n = len(top)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=N_RESAMPLES)
    with np.errstate(invalid="ignore", divide="ignore"):
        value, error = linearized(top, bottom, np.ones((1, n)))
        values, errors = linearized(top, bottom, counts)
        standardized = (values - value) / errors
    defined = ~np.isnan(standardized)
    if not defined.any():
        return {"percentile": [value[0]] * 2, "studentized": [value[0]] * 2}
    high, low = np.quantile(standardized[defined], TAILS, method="inverted_cdf")
    return {
        "percentile": np.nanquantile(values, TAILS),
        "studentized": [value[0] - low * error[0], value[0] - high * error[0]],
    }


def linearized(top, bottom, counts):
    """Compute ratios of weighted sums, and their standard errors."""
    value = (counts @ top) / (counts @ bottom)
    products = top**2, top * bottom, bottom**2
    squares, cross, below = (counts @ product for product in products)
    variance = np.maximum(squares - 2 * value * cross + value**2 * below, 0)
    return value, np.sqrt(variance) / (counts @ bottom)


def measure(rewards, metric, n, repeats):
    """Measure the coverage for one kind of rewards; return a dict for JSON."""
    rng = np.random.default_rng(0)
    top, bottom = terms_of(metric, *draw(rewards, N_TRUE, rng))
    true = top.sum() / bottom.sum()
    covered: dict = {"coverage": [], "percentile": [], "studentized": []}
    warned, informative = [], []
    for _ in range(repeats):
        y, scores = draw(rewards, n, rng)
        top, bottom = terms_of(metric, y, scores)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = prompt_bootstrap(
                metric, y, scores, k=K, n_resamples=N_RESAMPLES, random_state=0
            )
        warned.append(bool(caught))
        informative.append(np.count_nonzero(bottom))
        intervals = {"coverage": [found.low, found.high]}
        if bottom.any():
            intervals |= other_intervals(top, bottom, rng)
        for name, each in covered.items():
            low, high = intervals.get(name, [np.nan] * 2)
            each.append(low - 1e-12 <= true <= high + 1e-12)
    quiet = np.array(covered["coverage"])[~np.array(warned)]
    return {
        "rewards": rewards,
        "metric": "ratio" if metric is recovery else "mean",
        "n": n,
        "informative": float(np.mean(informative)),
        "coverage": float(np.mean(covered["coverage"])),
        "warned": float(np.mean(warned)),
        "not warned": float(quiet.mean()) if quiet.size else None,
        "percentile": float(np.mean(covered["percentile"])),
        "studentized": float(np.mean(covered["studentized"])),
    }


def format_line(line):
    """Format a line of the table; shares are percentages."""
    cells = f"{line['rewards']:10}{line['metric']:6}{line['n']:5}"
    cells += f"{line['informative']:13.0f}"
    for name in ("coverage", "warned", "not warned", "percentile", "studentized"):
        share = line[name]
        cells += " " * 13 if share is None else f"{share:13.1%}"
    return cells.rstrip()


def main(argv=None):
    args = make_parser(__doc__, "quick", "json").parse_args(argv)
    start, lines = time.perf_counter(), []
    print_pairs(versions())
    print(
        "rewards   metric   n  informative     coverage       warned   not warned"
        "   percentile  studentized"
    )
    for rewards in ("binary", "rare", "lognormal"):
        for metric in (best_of_k_reward, recovery):
            for n in SIZES:
                repeats = 20 if args.quick else REPEATS
                lines.append(measure(rewards, metric, n, repeats))
                print(format_line(lines[-1]), flush=True)
    write_json(args.json, lines)
    print(f"{time.perf_counter() - start:.0f} s")
    if args.quick:
        print(QUICK_NOTE)


if __name__ == "__main__":
    main()
