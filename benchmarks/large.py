"""Measure time and memory on data as large as a machine's memory allows.

    python benchmarks/large.py                       # 10 million rows x 64, 2.56 GB
    python benchmarks/large.py --scale 1/100 --json figures.json
    python benchmarks/large.py --only layout fit

Rows with groups: 2 million prompts of 1 to 9 candidates, float32, made in memory from a
seed. Embeddings are normal, rewards 0 or 1 by a logistic model of them. Rows are
sorted by prompt, or shuffled, so that the rows of a prompt are scattered over all of X;
labels of prompts are integers, strings of numpy (dtype U14), or objects: a Python
string of its own for each row, as a file that is read gives them.

One table, a line a call: its seconds; by how many MB the peak of the resident memory
exceeds what was resident before it, which is X, the rewards and the labels; that over
X's own bytes; and the seconds over those of the bare product ``X @ w``, timed in the
same process. Each section and case has a process of its own. A call is made once.

**Sections**, as `--only` names them:

- layout: what every call with groups does first, to find the rows of each prompt; and
  the bytes of the labels.
- fit: `QProbePolicy` with each loss. L-BFGS makes at most 10 iterations (`max_iter`),
  whether or not it is done by then; two losses have a closed form instead.
- choose: `predict`, `predict_proba`, `sample` and `score`.
- metrics: those of `skqprobe.metrics`. `best_of_k_reward` and `oracle_reward` have
  k=2 and skip prompts that have one candidate; `prompt_bootstrap` has 20 resamples
  (its default is 9999), of `best_of_k_reward` and of `expected_reward`; `policy_report` has
  ks of 1, 2 and 5, 20 resamples, and its other defaults.
- transform: ``PerCandidate(StandardScaler())`` and `SiblingFeatures`, whose results
  are new arrays of X's size; the peak contains them.

The peak is read from /proc, which is Linux's; elsewhere it is left out.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
from reward import versions
from sklearn.preprocessing import StandardScaler
from speed import RESET_PEAK, fit_quietly, in_new_process, peak_growth

from skqprobe import QProbePolicy
from skqprobe._candidates.layout import check_layout
from skqprobe.losses import LOSSES
from skqprobe.metrics import (
    base_reward,
    best_of_k_reward,
    expected_reward,
    oracle_reward,
    policy_report,
    prompt_bootstrap,
)
from skqprobe.preprocessing import PerCandidate, SiblingFeatures

N_PROMPTS, N_FEATURES = 2_000_000, 64
MEAN_SIZE = 5
MAX_ITER = 10
N_RESAMPLES = 20
ORDERS, LABELS = ("sorted", "shuffled"), ("int", "str", "object")


@dataclass(frozen=True)
class Case:
    """How the rows lie, and what kind of labels their prompts have."""

    order: str
    labels: str

    def __str__(self):
        return f"{self.order}, {self.labels}"


CASES = [Case("sorted", "int"), *(Case("shuffled", labels) for labels in LABELS)]


@dataclass(frozen=True)
class Row:
    """A row of the table; `peak_mb` is None where /proc cannot tell."""

    section: str
    case: str
    what: str
    seconds: float
    peak_mb: float | None
    peak_over_x: float | None
    over_product: float


# %% Data


def make_groups(n_prompts, case):
    """Make the labels of all rows: (n_rows,), with MEAN_SIZE rows a prompt."""
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 2 * MEAN_SIZE, n_prompts)
    half = n_prompts // 2
    sizes[half : 2 * half] = 2 * MEAN_SIZE - sizes[:half]  # the mean, exactly
    sizes[2 * half :] = MEAN_SIZE
    prompt = np.repeat(rng.permutation(n_prompts), sizes)
    if case.order == "shuffled":
        rng.shuffle(prompt)
    if case.labels == "int":
        return prompt
    names = np.array([f"prompt-{number:07d}" for number in range(n_prompts)])
    return names[prompt].astype({"str": "U", "object": object}[case.labels])


def label_bytes(groups):
    """Bytes of the labels, with those of the objects that they are."""
    objects = sum(map(sys.getsizeof, groups)) if groups.dtype == object else 0
    return groups.nbytes + objects


def make_rows(n_rows):
    """Make embeddings (n_rows, N_FEATURES) of float32 and rewards (n_rows,)."""
    rng = np.random.default_rng(0)
    X, y = np.empty((n_rows, N_FEATURES), np.float32), np.empty(n_rows)
    w = rng.standard_normal(N_FEATURES, np.float32) / N_FEATURES**0.5
    for start in range(0, n_rows, 2**16):
        some = slice(start, start + 2**16)
        rng.standard_normal(dtype=np.float32, out=X[some])
        y[some] = rng.logistic(size=len(X[some])) < 2 * (X[some] @ w)
    return X, y


# %% The sections: each gives (what, call) of data


def layout_calls(X, y, groups):
    return [("check_layout", partial(check_layout, groups.shape, groups))]


def fit_calls(X, y, groups):
    for loss in LOSSES:
        policy = QProbePolicy(loss, max_iter=MAX_ITER)
        yield f"fit, {loss}", partial(fit_quietly, policy, X, y, groups)


def choose_calls(X, y, groups):
    policy = fitted(X, y, groups)
    yield "predict", partial(policy.predict, X, groups)
    yield "predict_proba", partial(policy.predict_proba, X, groups)
    yield "sample", partial(policy.sample, X, groups, random_state=0)
    yield "score", partial(policy.score, X, y, groups)


def metrics_calls(X, y, groups):
    policy = fitted(X, y, groups)
    scores, proba = policy.decision_function(X), policy.predict_proba(X, groups)
    two = {"k": 2, "groups": groups, "too_few": "skip"}
    few = {"n_resamples": N_RESAMPLES, "random_state": 0}
    yield "base_reward", partial(base_reward, y, groups)
    yield "expected_reward", partial(expected_reward, y, proba, groups)
    yield "best_of_k_reward", partial(best_of_k_reward, y, scores, **two)
    yield "oracle_reward", partial(oracle_reward, y, **two)
    boot = partial(prompt_bootstrap, best_of_k_reward, y, scores, **two, **few)
    yield "prompt_bootstrap, best_of_k", boot
    boot = partial(prompt_bootstrap, expected_reward, y, proba, groups=groups, **few)
    yield "prompt_bootstrap, expected", boot
    yield (
        "policy_report",
        partial(policy_report, policy, X, y, groups, (1, 2, 5), **few),
    )


def transform_calls(X, y, groups):
    scaler, siblings = PerCandidate(StandardScaler()), SiblingFeatures()
    yield "PerCandidate(StandardScaler())", partial(scaler.fit_transform, X)
    yield "SiblingFeatures", partial(siblings.fit_transform, X, None, groups)


def fitted(X, y, groups):
    """Fit a policy on some of the rows, for whose coefficients it is enough."""
    some = slice(0, 2**14)
    policy = QProbePolicy("log_loss", temperature=0.5)
    return fit_quietly(policy, X[some], y[some], groups[some])


SECTIONS = {
    "layout": (layout_calls, [Case(o, labels) for o in ORDERS for labels in LABELS]),
    "fit": (fit_calls, CASES[:2]),
    "choose": (choose_calls, CASES),
    "metrics": (metrics_calls, CASES),
    "transform": (transform_calls, CASES[:2]),
}
"""What is called, and in which cases; labels matter to `layout` alone."""


def measure(section, case, n_prompts):
    """Make the rows of the table of a section in a case, in this process.

    Returns
    -------
    rows : list of Row
    n_bytes : int
        Of the labels.
    """
    groups = make_groups(n_prompts, case)
    X, y = make_rows(len(groups))
    warm_up()
    w = np.ones(N_FEATURES, np.float32)
    product = min(seconds_of(partial(np.matmul, X, w)) for _ in range(3))
    rows = []
    for what, call in SECTIONS[section][0](X, y, groups):
        seconds, peak = timed(call)
        over_x = None if peak is None else peak * 1e6 / X.nbytes
        row = Row(section, str(case), what, seconds, peak, over_x, seconds / product)
        rows.append(row)
    return rows, label_bytes(groups)


def warm_up():
    """Have BLAS make its buffers, and modules be imported, before memory is read."""
    case = Case("shuffled", "int")
    groups = make_groups(200, case)
    X, y = make_rows(len(groups))
    for calls, _ in SECTIONS.values():
        for _, call in calls(X, y, groups):
            call()


def timed(call):
    """Call once; give the seconds, and the MB that the peak grew by."""
    seconds = []

    def timing():
        seconds.append(seconds_of(call))

    if not RESET_PEAK.exists():
        timing()
        return seconds[0], None
    peak = peak_growth(timing) / 1e6
    return seconds[0], peak


def seconds_of(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


# %% Output

HEADER = f"{'what':48}{'seconds':>10}{'/ X @ w':>10}{'peak MB':>10}{'/ X':>8}"


def show(row):
    peak, over_x = "", ""
    if row.peak_mb is not None:
        peak, over_x = f"{row.peak_mb:.0f}", f"{row.peak_over_x:.2f}"
    line = f"{row.what:48}{row.seconds:>10.3g}{row.over_product:>10.3g}"
    print(f"{line}{peak:>10}{over_x:>8}".rstrip(), flush=True)


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="of the sections")
    parser.add_argument(
        "--scale", type=Fraction, default=Fraction(1), help="of the prompts: 1/100"
    )
    parser.add_argument("--json", type=Path, help="where to write all figures")
    args = parser.parse_args(argv)
    if args.scale <= 0:
        parser.error("--scale must be above 0")
    return args


def main(argv=None):
    args = parse_arguments(argv)
    n_prompts = max(100, round(N_PROMPTS * args.scale))
    x_mb = 4 * n_prompts * MEAN_SIZE * N_FEATURES / 1e6
    machine = {"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count()}
    machine["load"] = os.getloadavg()[0]
    print(", ".join(f"{n} {v}" for n, v in (versions() | machine).items()))
    print(f"{n_prompts} prompts, {n_prompts * MEAN_SIZE} rows x {N_FEATURES}, float32:")
    print(f"X has {x_mb:.0f} MB\n\n{HEADER}")
    table, labels = [], {}
    for section in args.only or SECTIONS:
        for case in SECTIONS[section][1]:
            start = time.perf_counter()
            rows, n_bytes = in_new_process(measure, section, case, n_prompts)
            labels[str(case)] = n_bytes / 1e6
            took = time.perf_counter() - start
            print(f"\n{section}, {case}: labels {n_bytes / 1e6:.0f} MB, {took:.0f} s")
            for row in rows:
                show(row)
            table += rows
            if args.json is not None:
                out = {"versions": versions(), "machine": machine, "x_mb": x_mb}
                out |= {"labels_mb": labels, "rows": [asdict(row) for row in table]}
                args.json.write_text(json.dumps(out, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
