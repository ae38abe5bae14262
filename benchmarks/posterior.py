"""Compare the posterior with a penalty that is tuned by cross-validation.

    python benchmarks/posterior.py          # about five minutes
    python benchmarks/posterior.py --quick

**Reward.** `BayesianQProbePolicy` and `QProbePolicyCV(["pairwise_logistic"])` are
fitted to `SIZES` random prompts, and choose a candidate of each other prompt. Columns
are scaled for both by the training prompts. The rewards are means over `DRAWS` draws of
the prompts, with the standard error of their difference. The times are those of the
fits.

**Coverage.** The share of coefficients in their posterior intervals of nominal 90% and
50%, for one choice among `K` candidates with `D` features in each prompt. Coefficients
are drawn from the prior, whose precision is given.

**Updates.** With choices, the posterior after `N_NIGHTS` updates differs from that of
one fit. The error is the root mean square of the difference of a coefficient, in
standard deviations of the posterior, on the same data.

**Size.** Time and peak memory of the process for one fit with 4,096 features in
float32.
"""

import resource
import time

import numpy as np
from _command import QUICK_NOTE, make_parser, versions
from _data import TWO_WORDS, load
from _output import print_pairs, write_json
from scipy.stats import norm
from sklearn.base import clone
from sklearn.preprocessing import StandardScaler

from skqprobe import BayesianQProbePolicy, QProbePolicyCV
from skqprobe.preprocessing import PerCandidate

NAMES = (TWO_WORDS, "alpacaeval_gpt4")
SIZES = (5, 10, 20, 40)
DRAWS = 12
K, D, PRECISION = 4, 20, 4.0
CHOICES = (20, 200)
N_NIGHTS = 10
LARGE = (464, 12, 4096)


def fit_and_score(probe, train, test):
    """Fit a probe; return its reward on other prompts and the time of the fit."""
    start = time.perf_counter()
    probe.fit(*train)
    seconds = time.perf_counter() - start
    return probe.score(*test), seconds


def compare(data, n, seed):
    """Fit both to n random prompts; return two rewards and two times."""
    order = np.random.default_rng(seed).permutation(len(data.y))
    train, test = data.take(order[:n]), data.take(order[n:])
    scaler = PerCandidate(StandardScaler()).fit(train.X)
    parts = [(scaler.transform(part.X), part.y) for part in (train, test)]
    probes = BayesianQProbePolicy(), QProbePolicyCV(["pairwise_logistic"])
    return np.transpose([fit_and_score(probe, *parts) for probe in probes])


def compare_rewards(data, n_draws):
    """Print one line per number of prompts, and return the figures."""
    lines = []
    for n in SIZES:
        found = np.array([compare(data, n, seed) for seed in range(n_draws)])
        (reward, tuned), times = found[:, 0].T, found[:, 1].mean(axis=0)
        gain = reward - tuned
        line = {
            "data": data.name,
            "prompts": n,
            "posterior": reward.mean(),
            "tuned": tuned.mean(),
            "gain": gain.mean(),
            "standard error": gain.std(ddof=1) / np.sqrt(n_draws),
            "seconds": times[0],
            "seconds tuned": times[1],
        }
        lines.append(line)
        values = [f"{value:10.3f}" for value in list(line.values())[2:]]
        print(f"{data.name:18}{n:8}{''.join(values)}", flush=True)
    return lines


def simulate(n, n_simulations):
    """Yield coefficients, n choices, and the posterior of the choices."""
    rng = np.random.default_rng(0)
    for _ in range(n_simulations):
        X = rng.normal(size=(n, K, D))
        theta = rng.normal(size=D) / np.sqrt(PRECISION)
        chosen = (X @ theta + rng.gumbel(size=(n, K))).argmax(axis=1)
        y, policy = np.eye(K)[chosen], BayesianQProbePolicy("choice", alpha=PRECISION)
        yield theta, X, y, policy.fit(X, y)


def deviations(policy):
    """Compute the standard deviations of the coefficients."""
    R = policy.factor_
    return np.sqrt(np.linalg.inv(R.T @ R + PRECISION * np.eye(D)).diagonal())


def coverage(n, n_simulations):
    """Measure the coverage of intervals of 90% and 50% with n choices."""
    errors = [
        (theta - policy.coef_) / deviations(policy)
        for theta, _, _, policy in simulate(n, n_simulations)
    ]
    within = np.abs(norm.cdf(errors) - 0.5)
    return [float((within < level / 2).mean()) for level in (0.9, 0.5)]


def update_error(n, n_simulations):
    """Measure the difference of updates from one fit, in standard deviations."""
    errors = []
    for _, X, y, whole in simulate(n, n_simulations):
        nightly = clone(whole)
        for night in np.split(np.arange(n), N_NIGHTS):
            nightly.partial_fit(X[night], y[night])
        errors.append((nightly.coef_ - whole.coef_) / deviations(whole))
    return float(np.sqrt(np.mean(np.square(errors))))


def fit_large():
    """Measure the time and the peak memory of a fit with many features."""
    rng, (n, k, d) = np.random.default_rng(0), LARGE
    X = rng.standard_normal(size=LARGE, dtype=np.float32)
    y = X @ rng.normal(size=d).astype("f4") / 64 + rng.normal(size=(n, k))
    start = time.perf_counter()
    BayesianQProbePolicy().fit(X, y)
    seconds = time.perf_counter() - start
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(argv=None):
    args = make_parser(__doc__, "data", "quick", "json").parse_args(argv)
    print_pairs(versions())
    figures = {"rewards": [], "coverage": {}, "update error": {}}
    if not args.quick:
        figures["large"] = seconds, gigabytes = fit_large()
        print(f"{LARGE}: {seconds:.1f} s, {gigabytes:.2f} GiB\n")
    titles = ("posterior", "tuned", "gain", "s.e.", "seconds", "tuned")
    print(f"{'':18}{'prompts':>8}{''.join(f'{title:>10}' for title in titles)}")
    for name in NAMES:
        data = load(name, args.data)
        if data is None:
            print(f"{name}: no file")
            continue
        figures["rewards"] += compare_rewards(data, 2 if args.quick else DRAWS)
    for n in CHOICES:
        n_simulations = 20 if args.quick else 500
        covered, error = coverage(n, n_simulations), update_error(n, n_simulations)
        figures["coverage"][n], figures["update error"][n] = covered, error
        print(f"{n} choices: coverage {covered[0]:.3f} of 0.9, {covered[1]:.3f} of 0.5")
        print(f"{n} choices: {N_NIGHTS} updates differ by {error:.2f} s.d.")
    write_json(args.json, figures)
    if args.quick:
        print(QUICK_NOTE)


if __name__ == "__main__":
    main()
