"""Measure the time and the memory of probes against their peers, at the paper's scale.

    python benchmarks/speed.py                      # 464 prompts x 200 x 4096, 4 GB
    python benchmarks/speed.py --quick              # 1/8 of that, fewer repeats
    python benchmarks/speed.py --only fit search --scale 1/4 --json figures.json
    python benchmarks/speed.py --only growth --out pictures

One table: what was measured, a peer measured in the same run, their ratio, and the
ratio that is aimed at. Less is better in every row, and "met" says whether the ratio
(where there is no peer, the figure itself) is at most the target.

**Time.** Those to be compared take turns; the figure is the median over rounds. The
first round warms up and is not counted, unless it alone used the time there is for one
comparison. Threads are left as a user has them. The read bandwidth (of one ``X @ w``
in float32) and the rate of a matrix product are printed first: read all else by them.

**Data** are made in memory, from a seed, to be like hidden states: 32 directions that
differ between prompts and 32 that differ between candidates, under noise of about the
same size; columns whose scales are log-normal, and not centred; float32. A reward is 1
with a probability that is logistic in the candidate's directions and in the prompt's
difficulty. Held-out prompts are of the same model.

**Sections**, as `--only` names them; where no loss is named it is policy_gradient:

- fit: `QProbePolicy` with policy_gradient. Evaluations of the objective and their time,
  the paper's training in torch (two epochs, scaled to 150), LogisticRegression with
  the same penalty and its own defaults, and log_loss with the loosest of a few `tol`
  that reaches LogisticRegression's objective. Rows without a target tell how far one
  can be reached: "bare products", "one evaluation alone". The paper's training is
  carried out only at 1/64 of the paper's scale or less, with as many epochs as make the
  paper's 13,800 steps. There a row is what is missing to a mean reward of 1: by the
  softmax over training prompts, over sets of 10 as the paper trains, and greedily on
  held-out ones.
- closed-form: 20 penalties and 5 folds by `QProbePolicyCV` without its last fit; and
  the products in float64 alone, where Ridge takes X's own float32.
- search: `QProbePolicyCV` against GridSearchCV, at 1/64 of `--scale`.
- memory: by how much the peak of the resident memory in a fresh process exceeds what
  was resident before `fit`, over X's own size. BLAS has its buffers already.
- memmap: the same for a memory-mapped file of 6 GB of float16, which is written to a
  temporary folder, and for `predict`; and the time per byte of `predict`, and of an
  evaluation in a fit of 5 iterations, against float32 in memory, and of the conversion
  of float16 without any product. The file's pages count
  as resident, though the system can drop them; it has just been written, so no disk is
  measured.
- choose: `predict`, `predict_proba` and `sample`; not scaled.
- import: the package, each time in a new interpreter.
- growth: time and allocated memory (by tracemalloc, without BLAS's own) of a fit of 20
  iterations, of `predict` and of `SiblingFeatures`, over two decades of prompts, k and
  features. The exponent is that of the upper decade. `--out` gets a picture.

**Scale.** `--scale` shrinks the number of prompts in fit, memory and memmap: rows keep
their 4096 features, on which block sizes and the solver's conditioning depend. In
closed-form and search prompts and features both shrink, so that their ratio stays.

**What the figures do not say.** A busy machine spoils ratios, too: many small products
on two threads suffer more than one large one. Below full scale, fits are of fewer
prompts for as many features, and need another number of evaluations. Rewards on made
data show that a fast fit is not a bad one, and nothing else.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import numpy as np
import paper_recipe
from reward import versions
from scipy.linalg import LinAlgWarning
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from threadpoolctl import threadpool_info

from skqprobe import QProbePolicy, QProbePolicyCV
from skqprobe._arrays.blocks import PRODUCT_ROWS, BlockReader, row_blocks
from skqprobe._objectives.linear import LinearObjective
from skqprobe._solvers.closed_form import add_products
from skqprobe.metrics import best_of_k_reward
from skqprobe.preprocessing import SiblingFeatures

PAPER = (464, 200, 4096)
"""Prompts, candidates and features of the paper's training data."""

PAPER_STEPS = 13_800
MEMMAP = (3932, 200, 4096)
CHOICES = ((1, 48, 4096), (2000, 48, 384))
GROWTH_BASE = (200, 40, 512)
ALPHAS = (1e-3, 1e-4)
SET_SIZE = paper_recipe.SET_SIZE
N_DIRECTIONS = 32
TOLS = tuple(10.0 ** np.arange(-1, -7, -1))
AXES = ("prompts", "k", "features")
UNITS = {"s": "time", "MB": "memory"}
STATUS, RESET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Plan:
    """How much is measured; `budget` are the seconds for one comparison."""

    scale: float = 1.0
    repeats: int = 7
    budget: float = 60.0

    def fewer_prompts(self, shape):
        """Shrink the prompts of (n_prompts, k, d) by the scale, to 10 at least."""
        return max(10, round(shape[0] * self.scale)), *shape[1:]

    def smaller(self, shape, share=1.0):
        """Shrink prompts and features alike, by the scale times a share."""
        root = (self.scale * share) ** 0.5
        n_prompts, k, d = shape
        return max(10, round(n_prompts * root)), k, max(4, round(d * root))


@dataclass(frozen=True)
class Row:
    """A row of the table: `value` against `peer_value`, or else `target` itself."""

    what: str
    value: float
    unit: str
    peer: str = ""
    peer_value: float | None = None
    target: float | None = None
    note: str = ""
    points: dict | None = None

    @property
    def ratio(self):
        return self.value / self.peer_value if self.peer_value else None

    @property
    def met(self):
        if self.target is None:
            return None
        return bool((self.value if self.ratio is None else self.ratio) <= self.target)

    def as_dict(self):
        """Make a dict that is ready for JSON."""
        return asdict(self) | {"ratio": self.ratio, "met": self.met}


# %% Data


@lru_cache(maxsize=1)
def make_data(shape, seed):
    """Make embeddings (n_prompts, k, d) and rewards (n_prompts, k)."""
    X = np.empty(shape, dtype=np.float32)
    return X, fill_data(X, seed)


def fill_data(X, seed):
    """Fill X, prompt by prompt, and make the rewards; `seed` determines the prompts."""
    n_prompts, k, d = X.shape
    rng = np.random.default_rng(d)  # the model, which all prompts of this d share
    loadings = rng.standard_normal((2 * N_DIRECTIONS, d)) / N_DIRECTIONS**0.5
    loadings = loadings.astype(np.float32)
    means = 2 * rng.standard_normal(d, dtype=np.float32)
    scales = rng.lognormal(size=d).astype(np.float32)
    difficulty, quality = rng.standard_normal((2, N_DIRECTIONS)) / N_DIRECTIONS**0.5

    rng = np.random.default_rng(seed)
    y = np.empty((n_prompts, k))
    for p in range(n_prompts):
        factors = rng.standard_normal((k, 2 * N_DIRECTIONS), dtype=np.float32)
        factors[:, :N_DIRECTIONS] = factors[0, :N_DIRECTIONS]
        embeddings = rng.standard_normal((k, d), dtype=np.float32)
        embeddings += factors @ loadings
        X[p] = (embeddings + means) * scales
        of_prompt, of_candidate = np.split(factors, 2, axis=1)
        logit = 1.5 * (of_candidate @ quality + of_prompt @ difficulty) - 1
        y[p] = rng.random(k) < 1 / (1 + np.exp(-logit))
    return y


# %% Measuring


def take_turns(calls, plan):
    """Time calls that take turns.

    Parameters
    ----------
    calls : dict of str to callable
        What to time, by name.
    plan : Plan
        How often, and for how long in all.

    Returns
    -------
    seconds : dict of str to float
        Medians over rounds.
    note : str
        The number of rounds.
    results : dict
        What the last calls returned.
    """
    rounds, start, loops = [], time.perf_counter(), dict.fromkeys(calls, 1)
    while len(rounds) < 1 + plan.repeats:
        took, results = {}, {}
        for name, call in calls.items():
            began = time.perf_counter()
            for _ in range(loops[name]):
                results[name] = call()
            took[name] = (time.perf_counter() - began) / loops[name]
            if not rounds:  # what is fast is called often, for the clock's sake
                loops[name] = max(1, round(0.02 / took[name]))
        rounds.append(took)
        if time.perf_counter() - start > plan.budget:
            break
    counted = rounds[1:] or rounds
    seconds = {name: float(np.median([t[name] for t in counted])) for name in calls}
    return seconds, f"rounds: {len(counted)}", results


def compare(what, ours, peer, theirs, target, plan):
    """Time two calls in turn, and make the row of it."""
    seconds, note, _ = take_turns({"ours": ours, "peer": theirs}, plan)
    return Row(what, seconds["ours"], "s", peer, seconds["peer"], target, note)


def fit_quietly(estimator, *data):
    """Fit without warnings of too few iterations, and of ill-conditioned X."""
    with warnings.catch_warnings():
        for category in (ConvergenceWarning, LinAlgWarning):
            warnings.simplefilter("ignore", category)
        return estimator.fit(*data)


def fit_counting(estimator, *data):
    """Fit, and tell the seconds of each evaluation of the objective."""
    evaluate, seconds = LinearObjective.value_and_gradient, []

    def timed(objective, theta):
        start = time.perf_counter()
        value = evaluate(objective, theta)
        seconds.append(time.perf_counter() - start)
        return value

    with mock.patch.object(LinearObjective, "value_and_gradient", timed):
        fit_quietly(estimator, *data)
    return seconds


def in_new_process(function, *arguments):
    """Call a function of this module in a process that has done nothing else."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def resident_bytes(field):
    """Read VmRSS (resident now), VmHWM (at most) or RssFile (of it, files' pages)."""
    (line,) = (x for x in STATUS.read_text().splitlines() if x.startswith(field + ":"))
    return 1024 * int(line.split()[1])


def peak_growth(call):
    """Call, and tell by how many bytes the peak exceeds what was resident before."""
    RESET_PEAK.write_text("5")  # to what is resident now
    before = resident_bytes("VmRSS")
    call()
    return resident_bytes("VmHWM") - before


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
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


# %% The sections: each makes rows of a plan


def measure_fit(plan):
    X, y = make_data(plan.fewer_prompts(PAPER), 0)
    epoch = time_paper(X, y)
    table = [row for alpha in ALPHAS for row in measure_alpha(X, y, alpha, epoch, plan)]
    if epoch is None:
        print("left out: the paper's training, which needs torch: pip install torch")
        return table
    return table + measure_paper(min(plan.scale, 1 / 64))


def measure_alpha(X, y, alpha, epoch, plan):
    """Make the rows of one penalty; `epoch` are seconds of the paper's training."""
    rows, labels = X.reshape(-1, X.shape[2]), y.reshape(-1)
    w, g = np.ones(rows.shape[1], np.float32), np.ones(len(rows), np.float32)
    objective = partial(log_loss_objective, rows, labels, alpha)
    logistic = LogisticRegression(C=1 / (alpha * len(rows)))
    reached = objective(fit_quietly(logistic, rows, labels))
    same = QProbePolicy("log_loss", alpha=alpha)
    for tol in TOLS:
        if objective(fit_quietly(same.set_params(tol=tol), X, y)) <= reached:
            break
    policy = QProbePolicy("policy_gradient", alpha=alpha)
    loose = QProbePolicy("policy_gradient", alpha=alpha, tol=1e-3)
    calls = {
        "fit": partial(fit_counting, policy, X, y),
        "loose": partial(fit_counting, loose, X, y),
        "products": lambda: (rows @ w, rows.T @ g),
        "logistic": partial(fit_quietly, logistic, rows, labels),
        "same": partial(fit_quietly, same, X, y),
    }
    seconds, rounds, results = take_turns(calls, plan)
    fit, evaluations = seconds["fit"], results["fit"]
    each, rest = float(np.median(evaluations)), fit - sum(evaluations)
    products = seconds["products"]
    reads = "s", "X @ w and X.T @ g", products
    theirs = "s", "LogisticRegression", seconds["logistic"]
    ends = f"{objective(same):.6f}, theirs {reached:.6f}, with tol={same.tol:.0e}"
    name, n_iter = f"alpha {alpha:g}: ", f"iterations: {logistic.n_iter_[0]}"
    table = [
        Row(name + "evaluations", len(evaluations), "", target=40, note=rounds),
        Row(name + "an evaluation", each, *reads, 1.3),
        Row(name + "the rest of the fit", rest, *reads),
        Row(name + "bare products", products * len(evaluations), "s", "the fit", fit),
        Row(name + "fit", fit, *theirs, 0.4, n_iter),
        Row(name + "evaluations, tol=1e-3", len(results["loose"]), "", target=40),
        Row(name + "fit, tol=1e-3", seconds["loose"], *theirs, 0.4),
        Row(name + "log_loss, same end", seconds["same"], *theirs, 0.6, ends),
    ]
    if epoch is not None:
        recipe = "s", "150 epochs of the paper's", 150 * epoch
        table.append(Row(name + "fit", fit, *recipe, 1 / 300))
        table.append(Row(name + "one evaluation alone", each, *recipe))
    return table


def log_loss_objective(rows, labels, alpha, model):
    """Objective of log_loss and of LogisticRegression, at a fitted model."""
    coef = np.ravel(model.coef_).astype(rows.dtype)
    logit = (rows @ coef).astype(np.float64) + model.intercept_
    return np.mean(np.logaddexp(0, logit) - labels * logit) + alpha / 2 * (coef @ coef)


def time_paper(X, y):
    """Time an epoch of the paper's training; None without torch."""
    if find_spec("torch") is None:
        return None
    train_paper(X[:10], y[:10], 1)  # torch warms up
    start = time.perf_counter()
    train_paper(X, y, 2)
    return (time.perf_counter() - start) / 2


def train_paper(X, y, n_epochs):
    with mock.patch.object(paper_recipe, "N_EPOCHS", n_epochs):
        return paper_recipe.PaperRecipe(random_state=0).fit(X, y)


def measure_paper(scale):
    """Compare what a fit and the paper's training earn, at a small scale."""
    shape = Plan(scale).smaller(PAPER)
    train, test = make_data(shape, 0), make_data(shape, 1)
    n_epochs = -(-PAPER_STEPS // train_paper(*train, 1).n_steps_)
    start, table = time.perf_counter(), []
    recipe = train_paper(*train, n_epochs)
    note = f"{recipe.n_steps_} steps in {time.perf_counter() - start:.1f} s"
    theirs = missing_rewards(recipe, *train, *test)
    for alpha in ALPHAS:
        policy = fit_quietly(QProbePolicy("policy_gradient", alpha=alpha), *train)
        for what, value in missing_rewards(policy, *train, *test).items():
            name = f"alpha {alpha:g}, {times(shape)}: {what}"
            peer = "the paper's training", theirs[what]
            table.append(Row(name, value, "", *peer, 1.0, note))
    return table


def missing_rewards(model, X, y, X_test, y_test):
    """Compute by how much mean rewards fall short of 1."""
    Q, k = model.decision_function(X), y.shape[1]
    some = slice(k // SET_SIZE * SET_SIZE or k)  # as many as make full sets
    Q_sets, y_sets = (v[:, some].reshape(-1, min(SET_SIZE, k)) for v in (Q, y))
    test = best_of_k_reward(y_test, model.decision_function(X_test), k)
    return {
        "training": 1 - float((softmax(Q, axis=1) * y).sum(axis=1).mean()),
        "in tens": 1 - float((softmax(Q_sets, axis=1) * y_sets).sum(axis=1).mean()),
        "held out": 1 - test,
    }


def times(shape):
    return " x ".join(map(str, shape))


def measure_closed_form(plan):
    X, y = make_data(plan.smaller(PAPER), 0)
    ridge = partial(fit_quietly, Ridge(), X.reshape(-1, X.shape[2]), y.reshape(-1))
    table, alphas = [], np.logspace(3, -6, 20)
    for loss in ("squared_error", "contrastive_policy_gradient"):
        path = QProbePolicyCV([loss], alphas=alphas, cv=5, refit=False)
        ours, peer = partial(path.fit, X, y), f"one Ridge().fit, {times(X.shape)}"
        table.append(compare(f"path of {loss}", ours, peer, ridge, 2.0, plan))
    products = partial(float64_products, X.reshape(-1, X.shape[2]))
    table.append(compare("X.T @ X in float64 alone", products, peer, ridge, None, plan))
    return table


def float64_products(rows):
    """Compute X.T @ X block by block, one triangle, as a fit does."""
    gram = np.zeros((rows.shape[1],) * 2, order="F")
    for start in range(0, len(rows), PRODUCT_ROWS):
        block = rows[start : start + PRODUCT_ROWS].astype(np.float64)
        gram, _ = add_products(gram, block, np.ones((2, len(block))))
    return gram


def measure_search(plan):
    X, y = make_data(plan.smaller(PAPER, 1 / 64), 0)
    losses = ["squared_error", "log_loss", "policy_gradient"]
    alphas = [1e1, 1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
    betas = [0.0, 0.03, 0.1, 0.3, 1.0]
    grid = {"loss": losses, "alpha": alphas, "temperature": betas}
    ours = QProbePolicyCV(losses, alphas=alphas, temperatures=betas, cv=5)
    theirs = GridSearchCV(QProbePolicy(), grid, cv=5)
    fits = [partial(fit_quietly, search, X, y) for search in (ours, theirs)]
    what = f"120 settings x 5 folds, {times(X.shape)}"
    row = compare(what, fits[0], "GridSearchCV", fits[1], 1 / 20, plan)
    # Both search the same ParameterGrid, in the same order.
    mine, other = (s.cv_results_["mean_test_score"] for s in (ours, theirs))
    params, differences = theirs.cv_results_["params"], abs(mine - other)
    error = theirs.cv_results_["std_test_score"][theirs.best_index_] / 5**0.5
    behind = float(theirs.best_score_ - other[ours.best_index_])
    found = f"{ours.best_params_}; GridSearchCV {theirs.best_params_}"
    most, where = float(differences.max()), str(params[differences.argmax()])
    return [
        row,
        Row("its choice behind the best", behind, "", target=float(error), note=found),
        Row("largest difference of a score", most, "", target=1e-3, note=where),
    ]


def measure_memory(plan):
    if not RESET_PEAK.exists():
        print(f"left out: memory, which needs {RESET_PEAK}")
        return []
    make_data.cache_clear()  # the new process makes its own
    shape, table = plan.fewer_prompts(PAPER), []
    for layout in ("sets", "rows sorted by group"):
        growth, size = in_new_process(fit_growth, shape, layout)
        what = f"peak growth of fit, {layout}"
        table.append(Row(what, growth / 1e6, "MB", "X itself", size / 1e6, 0.15))
    return table


def warm_up():
    """Have BLAS make its buffers, before memory is read."""
    data = make_data((20, 50, 512), 0)
    fit_quietly(QProbePolicy("policy_gradient", max_iter=2), *data).predict(data[0])
    make_data.cache_clear()


def fit_growth(shape, layout):
    """Tell the peak growth of a fit, and the bytes of X."""
    warm_up()
    data = X, y = make_data(shape, 0)
    if layout != "sets":
        groups = np.repeat(np.arange(shape[0]), shape[1])
        data = X.reshape(-1, shape[2]), y.reshape(-1), groups
    # As many iterations as fill the solver's memory.
    return peak_growth(
        partial(fit_quietly, QProbePolicy("policy_gradient", max_iter=12), *data)
    ), X.nbytes


def measure_memmap(plan):
    if not RESET_PEAK.exists():
        print(f"left out: memmap, which needs {RESET_PEAK}")
        return []
    n_prompts, k, d = plan.fewer_prompts(MEMMAP)
    with tempfile.TemporaryDirectory() as folder:
        most = shutil.disk_usage(folder).free // 2 // (2 * k * d)
        if n_prompts > most:
            print(f"memmap: {most} prompts, not {n_prompts}: half of the free disk")
            n_prompts = most
        path = Path(folder) / "X.npy"
        return in_new_process(memmap_rows, path, (n_prompts, k, d), plan)


def memmap_rows(path, shape, plan):
    """Write the file, and make the rows of it."""
    X = np.lib.format.open_memmap(path, "w+", np.float16, shape)
    y = fill_data(X, 0)
    X.flush()  # so that the system does not write while it is read
    del X  # so that its pages are no longer this process's
    warm_up()
    policy, table = QProbePolicy("policy_gradient", max_iter=5), []
    fit = partial(fit_counting, policy)
    for name, call in {"fit": lambda X: fit(X, y), "predict": policy.predict}.items():
        X = np.load(path, mmap_mode="r")  # anew, so that no page of it is resident
        before = resident_bytes("RssFile")
        growth = peak_growth(partial(call, X)) / 1e6
        pages = (resident_bytes("RssFile") - before) / 1e6
        peer, note = f"X itself, {times(shape)}", f"{pages:.0f} MB are the file's pages"
        row = f"peak growth of {name}", growth, "MB", peer, X.nbytes / 1e6, 0.25, note
        table.append(Row(*row))
    part = max(10, len(X) // 8)
    X32, y32 = X[:part].astype(np.float32), y[:part]
    calls = {
        "fit": partial(fit, X, y),
        "fit 32": partial(fit, X32, y32),
        "predict": partial(policy.predict, X),
        "predict 32": partial(policy.predict, X32),
        "convert": partial(read_all, X.reshape(-1, X.shape[2])),
    }
    seconds, note, results = take_turns(calls, plan)
    for name in ("fit", "fit 32"):
        seconds[name] = float(np.median(results[name]))
    for name, what in {"fit": "an evaluation", "predict": "predict"}.items():
        ns = 1e9 * seconds[name] / X.nbytes
        ns32 = 1e9 * seconds[f"{name} 32"] / X32.nbytes
        row = f"{what}, per byte", ns, "ns", "float32 in memory", ns32, 2.5, note
        table.append(Row(*row))
    ns = 1e9 * seconds["convert"] / X.nbytes
    row = "the conversion alone, per byte", ns, "ns", "predict, float32", ns32
    return [*table, Row(*row)]


def read_all(rows):
    """Read all rows block by block, converted to float32."""
    read = BlockReader(rows)
    for block in row_blocks(rows):
        read(block)


def measure_choose(plan):
    table = []
    for shape in CHOICES:
        X, _ = make_data(shape, 1)
        rows, w = X.reshape(-1, shape[2]), np.ones(shape[2], np.float32)
        policy = QProbePolicy("policy_gradient", temperature=1.0, max_iter=5)
        fit_quietly(policy, *make_data((20, 8, shape[2]), 0))
        peer = "X @ w", partial(np.matmul, rows, w), 2.0
        if len(X) == 1:
            linear = LinearRegression().fit(rows, rows[:, 0])
            peer = "LinearRegression.predict", partial(linear.predict, rows), 3.0
        what, predict = f"predict, {times(shape)}", partial(policy.predict, X)
        table.append(compare(what, predict, *peer, plan))
        for name in ("predict_proba", "sample"):
            what, call = f"{name}, {times(shape)}", partial(getattr(policy, name), X)
            table.append(compare(what, call, "predict", predict, 2.0, plan))
    return table


def measure_import(plan):
    code = "from time import perf_counter as t; s = t(); import {}; print(t() - s)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    names, seconds = ("skqprobe", "sklearn.linear_model"), {}
    for _ in range(1 + plan.repeats):
        for name in names:
            command = [sys.executable, "-c", code.format(name)]
            out = subprocess.check_output(command, env=environment)
            seconds.setdefault(name, []).append(float(out))
    ours, theirs = (float(np.median(seconds[name][1:])) for name in names)
    what, peer = (f"import {name}" for name in names)
    return [Row(what, ours, "s", peer, theirs, 1.15, f"rounds: {plan.repeats}")]


def measure_growth(plan):
    base = [max(4, round(size * plan.scale ** (1 / 3))) for size in GROWTH_BASE]
    table = []
    for axis, name in enumerate(AXES):
        at, figures = [], {}
        for factor in 10.0 ** np.arange(-1, 1.1, 0.5):
            shape = list(base)
            shape[axis] = max(2, round(shape[axis] * factor))
            at.append(shape[axis])
            for what, value in time_and_memory(tuple(shape), plan).items():
                figures.setdefault(what, []).append(value)
        for (what, unit), values in figures.items():
            points = {"axis": name, "of": what, "unit": unit, "at": at, "value": values}
            note = f"{values[0]:.2g} to {values[-1]:.2g} {unit} at {at[0]} to {at[-1]}"
            what = f"{what}, exponent of {UNITS[unit]} in {name}"
            slope = exponent(at[-3:], values[-3:])
            table.append(Row(what, slope, "", note=note, points=points))
    return table


def time_and_memory(shape, plan):
    """Measure what is drawn: seconds and MB, by (what, unit)."""
    X, y = make_data(shape, 0)
    policy = QProbePolicy("policy_gradient", max_iter=20)
    calls = {
        "fit": partial(fit_quietly, policy, X, y),
        "predict": partial(policy.predict, X),
        "SiblingFeatures": partial(SiblingFeatures().fit_transform, X),
    }
    few = Plan(repeats=min(plan.repeats, 3), budget=plan.budget / 10)
    seconds, _, _ = take_turns(calls, few)
    figures = {(name, "s"): value for name, value in seconds.items()}
    for name, call in calls.items():
        tracemalloc.start()
        call()
        figures[name, "MB"] = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
    return figures


def exponent(at, values):
    """Compute the slope of log(values) on log(at), by least squares."""
    return float(np.polyfit(np.log(at), np.log(values), 1)[0])


SECTIONS = {
    "fit": measure_fit,
    "closed-form": measure_closed_form,
    "search": measure_search,
    "memory": measure_memory,
    "memmap": measure_memmap,
    "choose": measure_choose,
    "import": measure_import,
    "growth": measure_growth,
}


# %% Output

HEADER = f"{'what':52}{'measured':>12}  {'peer':48}{'ratio':>9}{'at most':>9}"


def show(row):
    """Print a row of the table, and its note below."""
    value, peer, ratio, target, met = f"{row.value:.4g} {row.unit}", "", "", "", ""
    if row.peer_value is not None:
        peer = f"{row.peer}, {row.peer_value:.4g} {row.unit}"
        ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
    if row.target is not None:
        target, met = f"{row.target:.3g}", "met" if row.met else "NOT MET"
    line = f"{row.what:52}{value:>12}  {peer:48}{ratio:>9}{target:>9}  {met}"
    print(line.rstrip() + (f"\n    {row.note}" if row.note else ""))


def draw(rows, folder):
    """Draw time and memory against prompts, k and features; give the path."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(12, 7), constrained_layout=True)
    for row in rows:
        points = row.points
        ax = axes[list(UNITS).index(points["unit"]), AXES.index(points["axis"])]
        label = f"{points['of']}, exponent {row.value:.2f}"
        ax.loglog(points["at"], points["value"], "o-", label=label)
        ax.set_xlabel(points["axis"])
        ax.set_ylabel(f"{UNITS[points['unit']]}, {points['unit']}")
        ax.legend(fontsize="small")
    figure.suptitle("Time and allocated memory; exponents of the upper decade")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "growth.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="of the sections")
    parser.add_argument("--scale", type=Fraction, help="of the paper's, such as 1/4")
    parser.add_argument("--quick", action="store_true", help="1/8, and fewer repeats")
    parser.add_argument("--out", type=Path, help="folder to write the picture to")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    args = parser.parse_args(argv)
    if args.scale is None:
        args.scale = Fraction(1, 8 if args.quick else 1)
    if args.scale <= 0:
        parser.error("--scale must be above 0")
    return args


def main(argv=None):
    args = parse_arguments(argv)
    plan = Plan(float(args.scale), *((3, 3.0) if args.quick else ()))
    machine, table = measure_machine(plan), []
    out = {"versions": versions(), "machine": machine, "plan": asdict(plan)}
    for figures in (out["versions"], machine):
        texts = (v if isinstance(v, str) else f"{v}"[:60] for v in figures.values())
        print(", ".join(f"{n} {v}" for n, v in zip(figures, texts, strict=True)))
    print(f"scale {args.scale}\n\n{HEADER}")
    for name in args.only or SECTIONS:
        start = time.perf_counter()
        found = SECTIONS[name](plan)
        print(f"\n{name}, {time.perf_counter() - start:.0f} s")
        for row in found:
            show(row)
        table += [(name, row) for row in found]
        if args.json is not None:
            out["rows"] = [{"section": name} | row.as_dict() for name, row in table]
            args.json.write_text(json.dumps(out, indent=1, allow_nan=False) + "\n")
    drawn = [row for _, row in table if row.points is not None]
    if args.out is not None and drawn:
        print(f"\npicture: {draw(drawn, args.out)}")


if __name__ == "__main__":
    main()
