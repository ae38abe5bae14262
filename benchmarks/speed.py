"""Measure the time and memory of probes against peers, at the paper's scale.

    python benchmarks/speed.py                      # 464 prompts x 200 x 4096, 4 GB
    python benchmarks/speed.py --quick              # 1/8 of that, fewer repeats
    python benchmarks/speed.py fit search --scale 1/4 --json figures.json
    python benchmarks/speed.py growth --out pictures
    python benchmarks/speed.py shapes               # all losses at many shapes

The script prints one table: a measurement, that of a peer in the same run, their ratio,
and the target of the ratio. Less is better in every row. "met" means that the ratio
(without a peer, the measurement) is at most the target.

**Time.** Calls that are compared take turns, and the figure is the median over rounds.
The first round warms up and is not counted, unless it takes all the time for one
comparison. Each call follows a pause, in which the threads of BLAS end their active
wait. The number of threads is the user's. The read bandwidth (of one ``X @ w`` in
float32) and the rate of a matrix product are printed first, for comparison with all
other figures.

**Data** are synthetic, made in memory from a seed; see `benchmarks/_synthetic.py`.

**Sections**, which are arguments of the command; without any, all run. The loss is
policy_gradient, unless another one is named:

- fit: evaluations of the objective in a fit of `QProbePolicy`, and their time; the
  paper's training in torch (two epochs, scaled to 150); LogisticRegression with the
  same penalty and its own defaults; and log_loss with the largest of a few `tol` that
  reaches the objective of LogisticRegression. Rows without a target are lower limits:
  "bare products", and "one evaluation" against the paper's training. This is carried
  out with as many epochs as make the paper's 13,800 steps. Then a row is the difference
  of a mean reward from 1: by softmax over training prompts, by softmax over sets of 10
  as the paper trains, and greedily on as many held-out prompts. The held-out reward
  that a fit gains on the paper's training has a bootstrap interval over prompts.
- shapes: fits by all losses in float32 and float64 against LogisticRegression with 100
  iterations, or Ridge for the two losses with a closed form, at the same penalty, over
  two decades of prompts, k and features; and the part of the gain over a probe of zeros
  that a fit misses, measured by a long run of L-BFGS-B in float64. `--scale` reduces
  the number of prompts.
- busy: fits with all threads of BLAS against the same fits with one thread, while
  another process uses one of the cores all the time.
- closed-form: a fit of `QProbePolicy`, 20 penalties and 5 folds by `QProbePolicyCV`
  without its final fit, and the product X.T @ X alone, against Ridge.
- search: `QProbePolicyCV` against GridSearchCV, at 1/64 of `--scale`.
- objectives: one fit of `QProbePolicy` to five rewards per candidate against five fits,
  at 1/64 of `--scale`. The rewards are those of the data, each with its own noise.
- memory: growth of the peak of the resident memory during `fit`, in a new process, over
  the size of X. BLAS already has its buffers.
- memmap: the same for a memory-mapped file of 6 GB of float16, which is written to a
  temporary folder, and for `predict`; the time per byte of `predict`, and of an
  evaluation in a fit of 5 iterations, against float32 in memory; and of the conversion
  of float16 without any product. The pages of the file count as resident, although the
  system can drop them. The file has just been written, so that no disk is measured.
- choose: `predict`, `predict_proba` and `sample`, not scaled.
- import: the package, each time in a new interpreter.
- growth: time and allocated memory (by tracemalloc, without that of BLAS) of a fit of
  20 iterations, of `predict` and of `SiblingFeatures`, over two decades of prompts, k
  and features. The exponent is that of the upper decade. `--out` is for the picture.

**Scale.** In fit, memory and memmap, `--scale` reduces the number of prompts: rows keep
their 4096 features, on which block sizes and the conditioning of the problem depend. In
closed-form and search, prompts and features are both reduced, with the same ratio.

**Limits.** Load on the machine distorts ratios, too: many small products on two threads
suffer more than one large product. Below full scale, fits have fewer prompts for as
many features, and need another number of evaluations. Rewards on synthetic data show
only that a fast fit is not a bad one.
"""

import time
from dataclasses import asdict, replace
from fractions import Fraction
from functools import partial

import numpy as np
from _command import check_scale, machine, make_parser, versions
from _output import print_pairs, write_json
from _speed_busy import measure_busy
from _speed_fit import measure_fit
from _speed_growth import draw, measure_growth
from _speed_memory import measure_memmap, measure_memory
from _speed_predict import measure_choose, measure_import
from _speed_search import measure_closed_form, measure_objectives, measure_search
from _speed_shapes import measure_shapes
from _synthetic import PAPER
from _timing import Plan, take_turns
from threadpoolctl import threadpool_info

SECTIONS = {
    "fit": measure_fit,
    "shapes": measure_shapes,
    "closed-form": measure_closed_form,
    "busy": measure_busy,
    "search": measure_search,
    "objectives": measure_objectives,
    "memory": measure_memory,
    "memmap": measure_memmap,
    "choose": measure_choose,
    "import": measure_import,
    "growth": measure_growth,
}
HEADER = f"{'quantity':52}{'measured':>12}  {'peer':48}{'ratio':>9}{'target':>9}"


def measure_machine(plan):
    """Measure the read bandwidth and the rate of matrix products."""
    n_prompts, k, d = plan.fewer_prompts(PAPER)
    X, w = np.ones((n_prompts * k, d), np.float32), np.ones(d, np.float32)
    A = {name: np.ones((1024, 1024), name) for name in ("float32", "float64")}
    products = {name: partial(np.matmul, M, M) for name, M in A.items()}
    seconds, _, _ = take_turns({"read": lambda: X @ w, **products}, plan)
    return {
        "read_gb_per_s": X.nbytes / seconds["read"] / 1e9,
        **{f"{name}_gflop_per_s": 2 * 1.024**3 / seconds[name] for name in A},
        "threads": [(i["prefix"], i["num_threads"]) for i in threadpool_info()],
        **machine(),
    }


def print_row(row):
    """Print a row of the table, with its note below."""
    value, peer, ratio, target, met = f"{row.value:.4g} {row.unit}", "", "", "", ""
    if row.peer_value is not None:
        peer = f"{row.peer}, {row.peer_value:.4g} {row.unit}"
        ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
    if row.target is not None:
        target, met = f"{row.target:.3g}", "met" if row.met else "NOT MET"
    line = f"{row.what:52}{value:>12}  {peer:48}{ratio:>9}{target:>9}  {met}"
    print(line.rstrip() + (f"\n    {row.note}" if row.note else ""))


def parse_arguments(argv):
    parser = make_parser(__doc__, "scale", "quick", "out", "json")
    parser.add_argument("sections", nargs="*", help="sections to run")
    parser.add_argument("--budget", type=float, help="seconds for each comparison")
    args = parser.parse_args(argv)
    if args.scale is None:
        args.scale = Fraction(1, 8 if args.quick else 1)
    check_scale(parser, args)
    if unknown := set(args.sections) - set(SECTIONS):
        parser.error(f"unknown sections {sorted(unknown)}; there are {list(SECTIONS)}")
    return args


def main(argv=None):
    args = parse_arguments(argv)
    plan = Plan(float(args.scale), *((3, 3.0) if args.quick else ()))
    if args.budget is not None:
        plan = replace(plan, budget=args.budget)
    out = {"versions": versions(), "machine": measure_machine(plan)}
    for figures in out.values():
        print_pairs(figures)
    print(f"scale {args.scale}\n\n{HEADER}")
    table, out["plan"] = [], asdict(plan)
    for name in args.sections or SECTIONS:
        start = time.perf_counter()
        found = SECTIONS[name](plan)
        print(f"\n{name}, {time.perf_counter() - start:.0f} s")
        for row in found:
            print_row(row)
        table += [(name, row) for row in found]
        out["rows"] = [{"section": name} | row.as_dict() for name, row in table]
        write_json(args.json, out)
    drawn = [row for _, row in table if row.points is not None]
    if args.out is not None and drawn:
        print(f"\npicture: {draw(drawn, args.out)}")


if __name__ == "__main__":
    main()
