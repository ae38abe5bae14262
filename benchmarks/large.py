"""Measure time and memory on data as large as the memory of a machine allows.

    python benchmarks/large.py                       # 10 million rows x 64, 2.56 GB
    python benchmarks/large.py --scale 1/100 --json figures.json
    python benchmarks/large.py --only layout fit

The data are rows with groups: 2 million prompts of 1 to 9 candidates, float32, made in
memory from a seed. Embeddings are normal, and rewards are 0 or 1 by a logistic model of
them. Rows are sorted by prompt, or shuffled over all of X. Labels of prompts are
integers, strings of numpy (dtype U14), or objects: a Python string for each row, as a
reader of files returns them.

The script prints one table with a row per call: the seconds; the growth of the peak of
the resident memory over that before the call, in MB, where X, the rewards and the
labels were resident before; the growth over the size of X; and the seconds over those
of the bare product ``X @ w``, timed in the same process. Each section and case has its
own process. A call is made once.

**Sections**, as `--only` names them:

- layout: the first step of every call with groups, which finds the rows of each prompt;
  and the size of the labels.
- fit: `QProbePolicy` with each loss. L-BFGS makes at most 10 iterations (`max_iter`),
  converged or not; two losses have a closed form instead.
- choose: `predict`, `predict_proba`, `sample` and `score`.
- metrics: those of `skqprobe.metrics`. `best_of_k_reward` and `oracle_reward` have
  k=2 and skip prompts that have one candidate. `prompt_bootstrap`, of
  `best_of_k_reward` and of `expected_reward`, has 20 resamples (its default is 9999).
  `policy_report` has ks of 1, 2 and 5, 20 resamples, and its other defaults.
- transform: ``PerCandidate(StandardScaler())`` and `SiblingFeatures`, whose results are
  new arrays of the size of X. The peak contains them.

The peak is read from /proc, which exists on Linux. Elsewhere it is left out.
"""

import sys
import time
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial

import numpy as np
from _command import check_scale, machine, make_parser, versions
from _output import print_pairs, write_json
from _timing import (
    can_measure_memory,
    fit_quietly,
    in_new_process,
    peak_growth,
    seconds_of,
)
from sklearn.preprocessing import StandardScaler

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
    """Order of the rows, and type of the labels."""

    order: str
    labels: str

    def __str__(self):
        return f"{self.order}, {self.labels}"


CASES = [Case("sorted", "int"), *(Case("shuffled", labels) for labels in LABELS)]


@dataclass(frozen=True)
class Row:
    """Row of the table; `peak_mb` is None if the memory cannot be measured."""

    section: str
    case: str
    what: str
    seconds: float
    peak_mb: float | None
    peak_over_x: float | None
    over_product: float


# %% Data


def make_groups(n_prompts, case):
    """Make the labels of all rows, with a mean of MEAN_SIZE rows per prompt."""
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 2 * MEAN_SIZE, n_prompts)
    half = n_prompts // 2
    sizes[half : 2 * half] = 2 * MEAN_SIZE - sizes[:half]  # so that the mean is exact
    sizes[2 * half :] = MEAN_SIZE
    prompt = np.repeat(rng.permutation(n_prompts), sizes)
    if case.order == "shuffled":
        rng.shuffle(prompt)
    if case.labels == "int":
        return prompt
    names = np.array([f"prompt-{number:07d}" for number in range(n_prompts)])
    return names[prompt].astype({"str": "U", "object": object}[case.labels])


def label_bytes(groups):
    """Return the bytes of the labels, including those of objects."""
    objects = sum(map(sys.getsizeof, groups)) if groups.dtype == object else 0
    return groups.nbytes + objects


def make_rows(n_rows):
    """Make embeddings (n_rows, N_FEATURES) of float32 and rewards (n_rows,)."""
    rng = np.random.default_rng(0)
    X, y = np.empty((n_rows, N_FEATURES), np.float32), np.empty(n_rows)
    w = rng.standard_normal(N_FEATURES, np.float32) / N_FEATURES**0.5
    for start in range(0, n_rows, 2**16):
        block = slice(start, start + 2**16)
        rng.standard_normal(dtype=np.float32, out=X[block])
        y[block] = rng.logistic(size=len(X[block])) < 2 * (X[block] @ w)
    return X, y


# %% Sections: each yields (name, call) for data


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
    """Fit a policy to the first rows, which are enough for its coefficients."""
    first = slice(0, 2**14)
    policy = QProbePolicy("log_loss", temperature=0.5)
    return fit_quietly(policy, X[first], y[first], groups[first])


SECTIONS = {
    "layout": (layout_calls, [Case(o, labels) for o in ORDERS for labels in LABELS]),
    "fit": (fit_calls, CASES[:2]),
    "choose": (choose_calls, CASES),
    "metrics": (metrics_calls, CASES),
    "transform": (transform_calls, CASES[:2]),
}
"""Calls and cases of each section. The type of the labels affects `layout` alone."""


def measure(section, case, n_prompts):
    """Measure a section in a case, in this process.

    Returns
    -------
    rows : list of Row
        Rows of the table.
    n_bytes : int
        Size of the labels.
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
    """Make all calls on small data, so that buffers and modules exist beforehand."""
    case = Case("shuffled", "int")
    groups = make_groups(200, case)
    X, y = make_rows(len(groups))
    for calls, _ in SECTIONS.values():
        for _, call in calls(X, y, groups):
            call()


def timed(call):
    """Call once; return the seconds, and the growth of the peak in MB."""
    seconds = []
    if not can_measure_memory():
        return seconds_of(call), None
    peak = peak_growth(lambda: seconds.append(seconds_of(call)))
    return seconds[0], peak / 1e6


# %% Output

HEADER = f"{'call':48}{'seconds':>10}{'/ X @ w':>10}{'peak MB':>10}{'/ X':>8}"


def print_row(row):
    """Print a row of the table."""
    peak, over_x = "", ""
    if row.peak_mb is not None:
        peak, over_x = f"{row.peak_mb:.0f}", f"{row.peak_over_x:.2f}"
    line = f"{row.what:48}{row.seconds:>10.3g}{row.over_product:>10.3g}"
    print(f"{line}{peak:>10}{over_x:>8}".rstrip(), flush=True)


def parse_arguments(argv):
    parser = make_parser(__doc__, "scale", "json", only=SECTIONS)
    parser.set_defaults(scale=Fraction(1))
    args = parser.parse_args(argv)
    check_scale(parser, args)
    return args


def main(argv=None):
    args = parse_arguments(argv)
    n_prompts = max(100, round(N_PROMPTS * args.scale))
    x_mb = 4 * n_prompts * MEAN_SIZE * N_FEATURES / 1e6
    out = {"versions": versions(), "machine": machine(), "x_mb": x_mb}
    print_pairs(out["versions"] | out["machine"])
    print(f"{n_prompts} prompts, {n_prompts * MEAN_SIZE} rows x {N_FEATURES}, float32:")
    print(f"X has {x_mb:.0f} MB\n\n{HEADER}")
    out |= {"labels_mb": {}, "rows": []}
    for section in args.only or SECTIONS:
        for case in SECTIONS[section][1]:
            start = time.perf_counter()
            rows, n_bytes = in_new_process(measure, section, case, n_prompts)
            out["labels_mb"][str(case)] = n_bytes / 1e6
            took = time.perf_counter() - start
            print(f"\n{section}, {case}: labels {n_bytes / 1e6:.0f} MB, {took:.0f} s")
            for row in rows:
                print_row(row)
            out["rows"] += [asdict(row) for row in rows]
            write_json(args.json, out)


if __name__ == "__main__":
    main()
