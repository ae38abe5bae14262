"""Repeat the paper's experiments on the data at hand: ours against the paper's recipe.

    python benchmarks/paper.py                       # all data sets, ten seeds
    python benchmarks/paper.py --only two_words --out pictures --json figures.json
    python benchmarks/paper.py --jobs 2              # two seeds at a time
    python benchmarks/paper.py --quick               # shows that it runs, little else

The data sets are the shared ones of `benchmarks/reward.py` and the two words that ship
with the package. For each it prints a table and writes a picture, in the manner of the
figures of Li et al., "Q-Probe", ICML 2024, arXiv 2402.14688.

**Protocol.** A seed deals the prompts into 60% for training and 40% that are held out
(prompts of one group stay together), and determines whatever else is random. Every
method gets the same prompts. The figure is the reward of its choice on the held-out
prompts, exactly in expectation over which k of their m candidates there are; where no
temperature is named, the choice is the candidate of highest value.

**Methods**, each with the paper's losses L_Q (squared_error), L_CE (log_loss) and L_PG
(policy_gradient):

- skqprobe: ``PerCandidate(StandardScaler())`` and a `QProbePolicy`. The strength of the
  penalty is chosen from powers of ten by cross-validation inside the training prompts,
  by the reward at the table's largest k; of equal ones the strongest. Probes with
  hidden layers have a penalty of 0.01, and stop early by held-out prompts.
- + siblings: the same with `SiblingFeatures` between the two. With them the value of a
  candidate depends on which others there are, so for k < m the reward is a mean over
  random sets of k, with features made from these k alone.
- paper: the authors' training, `PaperRecipe`. It has no setting to choose.
- paper, scaled: the same behind ``PerCandidate(StandardScaler())``, which the authors
  do not use. It shows how much of the difference is a matter of the features' scale.

**Figures.** Reward against k; against the number of training prompts; against the
temperature of a choice among all m; against the number of layers of the probe. Prompts
and layers are at the table's largest k. A temperature is in standard deviations of the
method's values inside held-out prompts, of each seed by itself: a strong penalty makes
all values small, and the same temperature would mean another choice for every seed.

**Intervals.** A prompt's reward is averaged over the seeds that held it out, and
prompts (groups, where there are some) are resampled: 95% intervals, for a method and
for the difference of two on the same prompts and seeds. They say how the figures would
vary with other prompts to be judged on. Ten seeds are not ten data sets: they deal the
same prompts, so that they tell little of what another collection of training prompts
would change. "seeds ahead" counts the seeds in which ours earned more.

**What the comparison is not.** These embeddings and sizes are not the paper's, whose
recipe was made for more candidates and for hidden states of a large model. It counts
epochs, so that on these data it makes 150 to 2000 steps instead of 13,800, and may owe
much of its distance to ours to that; where its curve jumps, it has got one more batch
an epoch. It is run as published, whereas ours has its penalty tuned.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from paper_recipe import PaperRecipe, import_torch
from reward import (
    DATA,
    Method,
    format_interval,
    interval,
    load,
    load_shipped,
    versions,
)
from reward import DATA_SETS as SHARED
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from skqprobe import QProbePolicy
from skqprobe.metrics import (
    base_reward,
    best_of_k_reward,
    oracle_reward,
    prompt_bootstrap,
    soft_best_of_k_reward,
)
from skqprobe.preprocessing import PerCandidate, SiblingFeatures

DATA_SETS = (*SHARED, "two_words")
LOSSES = {"squared_error": "L_Q", "log_loss": "L_CE", "policy_gradient": "L_PG"}
LAYERS = {1: (), 2: (256,), 3: (256, 256)}
TABLE_KS = (10, 48)
TEST_SIZE = 0.4
AXES = {
    "k": "k, candidates to choose from",
    "prompts": "training prompts",
    "temperature": "temperature, in standard deviations of a prompt's values",
    "layers": "layers of the probe",
}


@dataclass(frozen=True)
class Plan:
    """How much is tried; what `--quick` makes smaller."""

    alphas: tuple = tuple(10.0 ** np.arange(3, -5, -1))
    inner_folds: int = 4
    prompts: tuple = (5, 10, 20, 50, 100, 200, 500)
    temperatures: tuple = tuple(10.0 ** np.arange(-2, 2.01, 0.25))
    layers: tuple = (1, 2, 3)
    n_subsets: int = 20
    n_resamples: int = 9999
    max_prompts: int | None = None


QUICK = Plan(
    alphas=(1e1, 1e0, 1e-1, 1e-2),
    inner_folds=3,
    prompts=(5, 20),
    temperatures=(1e-2, 1e-1, 1e0, 1e1, 1e2),
    layers=(1, 2),
    n_subsets=5,
    n_resamples=999,
    max_prompts=50,
)


# %% Data: one of them, the points at which it is measured, and its splits.


def load_data(name, folder, max_prompts):
    """Load a data set by name; None if the folder does not have it."""
    if name == "two_words":
        return load_shipped().take(slice(max_prompts))
    path = folder / f"{name}.npz"
    return load(path, SHARED[name], max_prompts) if path.exists() else None


def table_ks(m):
    return sorted({min(k, m) for k in TABLE_KS})


def points(data, plan):
    """Where each figure is measured, by figure."""
    m = data.y.shape[1]
    n_train = round((1 - TEST_SIZE) * len(data.y))
    return {
        "table": table_ks(m),
        "k": sorted({*(2 ** np.arange(m.bit_length())).tolist(), m}),
        "prompts": [*(n for n in plan.prompts if n < 0.9 * n_train), n_train],
        "temperature": list(plan.temperatures),
        "layers": list(plan.layers),
    }


def split(data, seed):
    """Deal the prompts: training prompts in random order, and held-out ones."""
    shuffle = GroupShuffleSplit(1, test_size=TEST_SIZE, random_state=seed)
    train, test = next(shuffle.split(data.X, groups=data.groups))
    return np.random.default_rng(seed).permutation(train), test


# %% Methods: each is fitted to a loss, training data and layers.


def fit_ours(loss, train, plan, seed, hidden=(), siblings=False):
    """Fit a `QProbePolicy`; a linear one's penalty is chosen inside `train`."""
    probe = QProbePolicy(loss, alpha=0.01, hidden_layer_sizes=hidden, random_state=seed)
    if hidden:
        pipeline = make_pipeline(PerCandidate(StandardScaler()), probe)
        return pipeline.fit(train.X, train.y)
    features = SiblingFeatures(view_sizes=train.view_sizes) if siblings else None
    method = Method(OURS, probe, {"alpha": plan.alphas}, features)
    n_folds = min(plan.inner_folds, len(np.unique(train.groups)))
    search = method.search(table_ks(train.y.shape[1])[-1], n_folds)
    return search.fit(train.X, train.y, groups=train.groups)


def fit_siblings(loss, train, plan, seed):
    return fit_ours(loss, train, plan, seed, siblings=True)


def fit_paper(loss, train, plan, seed, hidden=()):
    """Train a `PaperRecipe`; there is nothing in the plan that it could use."""
    recipe = PaperRecipe(loss, hidden_layer_sizes=hidden, random_state=seed)
    return recipe.fit(train.X, train.y)


def fit_scaled(loss, train, plan, seed):
    recipe = PaperRecipe(loss, random_state=seed)
    return make_pipeline(PerCandidate(StandardScaler()), recipe).fit(train.X, train.y)


OURS, THEIRS = "skqprobe", "paper"
METHODS = {OURS: fit_ours, THEIRS: fit_paper}
"""In all figures."""

VARIANTS = {"+ siblings": fit_siblings, "paper, scaled": fit_scaled}
"""In the table alone."""

COLUMNS = (OURS, "+ siblings", THEIRS, "paper, scaled")


# %% Measurements: rewards of held-out prompts, each (n_prompts, n_points).


def rewards_by_k(model, test, ks):
    """Reward of the best of k, where a value depends on its candidate alone."""
    Q = model.decision_function(test.X)
    return best_of_k_reward(test.y, Q, ks, prompt_weight=np.eye(len(Q)))


def rewards_by_context(model, test, ks, plan, seed):
    """Reward of the best of k, where a value depends on the other k - 1 too."""
    rng = np.random.default_rng(seed)
    n_prompts, m = test.y.shape
    rewards = np.zeros((n_prompts, len(ks)))
    for column, k in enumerate(ks):
        n_subsets = plan.n_subsets if k < m else 1
        for _ in range(n_subsets):
            some = rng.random((n_prompts, m)).argsort(axis=1)[:, :k]
            X = np.take_along_axis(test.X, some[..., None], axis=1)
            y = np.take_along_axis(test.y, some, axis=1)
            chosen = best_of_k_reward(
                y, model.decision_function(X), k, prompt_weight=np.eye(n_prompts)
            )
            rewards[:, column] += chosen / n_subsets
    return rewards


def rewards_by_temperature(model, test, temperatures):
    """Reward of a choice by softmax among all candidates; see `AXES` for the unit."""
    Q, m = model.decision_function(test.X).astype(float), test.y.shape[1]
    spread = (Q - Q.mean(axis=1, keepdims=True)).std()
    weight = np.eye(len(Q))
    rewards = [
        soft_best_of_k_reward(test.y, Q, m, t * spread, prompt_weight=weight)
        for t in temperatures
    ]
    return np.stack(rewards, axis=1)


def measure_method(method, loss, train, test, at, plan, seed):
    """Measure one of `METHODS` at all points, by figure."""
    fit, largest = METHODS[method], at["table"][-1:]
    model = fit(loss, train, plan, seed)
    rewards = {
        "table": rewards_by_k(model, test, at["table"]),
        "k": rewards_by_k(model, test, at["k"]),
        "temperature": rewards_by_temperature(model, test, at["temperature"]),
    }
    sizes = at["prompts"][:-1]
    fewer = [fit(loss, train.take(slice(n)), plan, seed) for n in sizes]
    deeper = [fit(loss, train, plan, seed, LAYERS[n]) for n in at["layers"] if n > 1]
    for figure, models in (("prompts", [*fewer, model]), ("layers", [model, *deeper])):
        columns = [rewards_by_k(each, test, largest) for each in models]
        rewards[figure] = np.concatenate(columns, axis=1)
    return rewards


def measure_references(test, at):
    """Measure base model and oracle."""
    weight = np.eye(len(test.y))
    base = base_reward(test.y, prompt_weight=weight)
    return {
        ("base", figure): np.repeat(base[:, None], len(at[figure]), axis=1)
        for figure in ("table", "k")
    } | {
        ("oracle", figure): oracle_reward(test.y, at[figure], prompt_weight=weight)
        for figure in ("table", "k")
    }


def measure_seed(data, at, plan, seed):
    """Measure everything on one split.

    Returns
    -------
    rewards : dict of ndarray of shape (n_prompts, n_points)
        By method, loss and figure; NaN for prompts that were trained on.
    """
    start = time.perf_counter()
    import_torch()  # a limit of threads holds for libraries that are already there
    training, held_out = split(data, seed)
    train, test = data.take(training), data.take(held_out)
    rewards = {}
    with threadpool_limits(1):
        for (name, figure), values in measure_references(test, at).items():
            rewards[name, "", figure] = values
        for loss in LOSSES:
            for name in METHODS:
                measured = measure_method(name, loss, train, test, at, plan, seed)
                for figure, values in measured.items():
                    rewards[name, loss, figure] = values
            for name, fit in VARIANTS.items():
                model = fit(loss, train, plan, seed)
                rewards[name, loss, "table"] = rewards_by_context(
                    model, test, at["table"], plan, seed
                )
    for key, values in rewards.items():
        rewards[key] = np.full((len(data.y), values.shape[1]), np.nan)
        rewards[key][held_out] = values
    spent = time.perf_counter() - start
    print(f"{data.name}, seed {seed}: {spent:.0f} s", file=sys.stderr, flush=True)
    return rewards


# %% Summaries: means over seeds and prompts, with intervals over prompts.


def seed_mean(count, total, groups=None, prompt_weight=None):
    """Mean reward of groups of prompts: of their total, by how many there were.

    A metric for `prompt_bootstrap`: `count` has shape (n_groups, 1), `total` (n_groups,
    n_points), and `prompt_weight` (n_weightings, n_groups).
    """
    return (prompt_weight @ total) / (prompt_weight @ count)


def totals(rewards, groups):
    """Sum rewards, (n_seeds, n_prompts, n_points), by group, and count them."""
    _, group = np.unique(groups, return_inverse=True)
    held_out = ~np.isnan(rewards[..., 0])
    total = np.zeros((group.max() + 1, rewards.shape[2]))
    np.add.at(total, group, np.nansum(rewards, axis=0))
    count = np.bincount(group, weights=held_out.sum(axis=0))
    return count[count > 0, None], total[count > 0]


def summarise(rewards, groups, n_resamples, versus=None):
    """Mean with its interval, or that of a difference, and what each seed gave."""
    count, total = totals(rewards, groups)
    other = None if versus is None else totals(versus, groups)[1]
    estimate = prompt_bootstrap(
        seed_mean,
        count,
        total,
        versus=other,
        n_resamples=n_resamples,
        random_state=0,
    )
    by_seed = np.nanmean(rewards if versus is None else rewards - versus, axis=1)
    found = {name: values.tolist() for name, values in interval(estimate).items()}
    return found | {"by_seed": by_seed.T.tolist()}


def evaluate(data, seeds, plan, n_jobs):
    """Measure a data set by all seeds.

    Returns
    -------
    result : dict
        Ready for JSON. `lines` has an entry for each method, loss and figure, and
        `differences` ours less theirs.
    """
    start, at = time.perf_counter(), points(data, plan)
    of_seeds = Parallel(n_jobs)(
        delayed(measure_seed)(data, at, plan, seed) for seed in range(seeds)
    )
    rewards = {key: np.stack([s[key] for s in of_seeds]) for key in of_seeds[0]}
    lines, differences = [], []
    for (method, loss, figure), values in rewards.items():
        entry = {"method": method, "loss": loss, "figure": figure, "at": at[figure]}
        found = summarise(values, data.groups, plan.n_resamples)
        lines.append(entry | found)
        if method == OURS:
            found = summarise(
                values, data.groups, plan.n_resamples, rewards[THEIRS, loss, figure]
            )
            differences.append(entry | found)
    n_prompts, m, d = data.X.shape
    return {
        "name": data.name,
        "n_prompts": n_prompts,
        "n_groups": len(np.unique(data.groups)),
        "n_candidates": m,
        "n_features": d,
        "n_seeds": seeds,
        "lines": lines,
        "differences": differences,
        "seconds": time.perf_counter() - start,
    }


def find(entries, method, loss, figure):
    """Find the entry of a method, loss and figure."""
    wanted = (method, loss, figure)
    return next(e for e in entries if (e["method"], e["loss"], e["figure"]) == wanted)


# %% Tables


def show(result):
    """Print the tables of a data set."""
    print(
        "\n{name}: {n_prompts} prompts in {n_groups} groups, {n_candidates} candidates "
        "each, {n_features} features, {n_seeds} seeds, {seconds:.0f} s".format(**result)
    )
    for number, k in enumerate(find(result["lines"], "base", "", "table")["at"]):
        print(
            f"\n{f'k = {k}':8}"
            + "".join(f"{name:22}" for name in COLUMNS)
            + f"{f'{OURS} - {THEIRS}':25}seeds ahead"
        )
        for loss, short in LOSSES.items():
            found = find(result["differences"], OURS, loss, "table")
            ahead = sum(gain > 0 for gain in found["by_seed"][number])
            print(
                f"{short:8}"
                + "".join(
                    format_point(find(result["lines"], name, loss, "table"), number)
                    for name in COLUMNS
                )
                + f"{format_point(found, number, '+'):25}{ahead}/{result['n_seeds']}"
            )
        for name in ("base", "oracle"):
            entry = find(result["lines"], name, "", "table")
            print(f"{name:8}{format_point(entry, number).rstrip()}")
    for figure in ("prompts", "layers"):
        show_figure(result, figure)


def show_figure(result, figure):
    """Print the lines of a figure, and where ours differs from theirs."""
    at = find(result["lines"], OURS, next(iter(LOSSES)), figure)["at"]
    print(f"\n{AXES[figure]:22}" + "".join(f"{x:8}" for x in at))
    for loss, short in LOSSES.items():
        for name in METHODS:
            values = find(result["lines"], name, loss, figure)["value"]
            row = "".join(f"{value:8.3f}" for value in values)
            print(f"{f'{short}, {name}':22}{row}")
        gain = find(result["differences"], OURS, loss, figure)
        ends = zip(gain["low"], gain["high"], strict=True)
        row = "".join(f"{'+' * (a > 0) + '-' * (b < 0):>8}" for a, b in ends)
        print(f"{'':22}{row}".rstrip())
    print("(+ ours earns more than theirs, - less, with an interval beyond 0)")


def format_point(entry, number, sign=""):
    point = {name: entry[name][number] for name in ("value", "low", "high")}
    return f"{format_interval(point, sign):22}"


# %% Pictures


def draw(result, folder):
    """Draw the four figures of a data set into one picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(11, 8), constrained_layout=True)
    for name, ax in zip(AXES, axes.flat, strict=True):
        draw_figure(result, name, ax)
    figure.suptitle(
        "{name}: reward on held-out prompts, mean of {n_seeds} seeds\n(filled: above "
        "the other of the same loss, by the 95% interval of their difference over "
        "prompts)".format(**result)
    )
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    path = folder / f"{result['name']}.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def draw_figure(result, figure, ax):
    """Draw the lines of one figure, and what a reader needs to know of it."""
    for number, loss in enumerate(LOSSES):
        draw_loss(result, figure, loss, f"C{number}", ax)
    base, oracle = (
        find(result["lines"], name, "", "table") for name in ("base", "oracle")
    )
    ax.axhline(base["value"][0], color="0.4", linestyle=":", label="base model")
    if figure == "k":
        best = zip(oracle["value"], oracle["at"], strict=True)
        text = ", ".join(f"{value:.2f} at k = {k}" for value, k in best)
        ax.set_title(f"oracle, not drawn: {text}", fontsize="medium")
    at = find(result["lines"], OURS, loss, figure)["at"]
    if figure == "temperature":
        ax.set_xscale("log")
    elif figure == "layers":
        ax.set_xticks(at)
    else:
        ax.set_xscale("log", base=2)
        ticks = [*(x for x, after in pairwise(at) if after > 1.4 * x), at[-1]]
        ax.set_xticks(ticks, [str(x) for x in ticks])
        ax.minorticks_off()
    ax.set_xlabel(AXES[figure])
    among = {"k": "k", "temperature": result["n_candidates"]}
    ax.set_ylabel(f"reward of the choice among {among.get(figure, base['at'][-1])}")


def draw_loss(result, figure, loss, color, ax):
    """Draw ours and theirs, filled where one is surely above the other."""
    gain = find(result["differences"], OURS, loss, figure)
    above = {OURS: np.array(gain["low"]) > 0, THEIRS: np.array(gain["high"]) < 0}
    for name, style in ((OURS, "o-"), (THEIRS, "o--")):
        line = find(result["lines"], name, loss, figure)
        x, y = np.array(line["at"]), np.array(line["value"])
        label = f"{LOSSES[loss]}, {name}"
        ax.plot(x, y, style, ms=5, mfc="white", color=color, label=label)
        ax.plot(x[above[name]], y[above[name]], "o", ms=5, color=color)


# %% The command


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data")
    parser.add_argument("--only", nargs="+", choices=DATA_SETS, help="of the data sets")
    parser.add_argument("--seeds", type=int, help="number of splits, 10 or quickly 2")
    parser.add_argument("--quick", action="store_true", help="fewer of everything")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time; -1 all")
    parser.add_argument("--out", type=Path, help="folder to write pictures to")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    args = parser.parse_args(argv)
    if args.seeds is None:
        args.seeds = 2 if args.quick else 10
    if args.seeds < 1:
        parser.error("--seeds must be 1 or more")
    return args


def main(argv=None):
    args = parse_arguments(argv)
    plan = QUICK if args.quick else Plan()
    used = versions() | {"torch": version("torch")}
    print(", ".join(f"{name} {number}" for name, number in used.items()))
    if args.quick:
        print("--quick: the figures show that the script runs, and little else")
    results = []
    for name in args.only or DATA_SETS:
        data = load_data(name, args.data, plan.max_prompts)
        if data is None:
            print(f"\n{name}: left out, there is no {args.data / name}.npz")
            continue
        results.append(evaluate(data, args.seeds, plan, args.jobs))
        show(results[-1])
        if args.out is not None:
            args.out.mkdir(parents=True, exist_ok=True)
            print(f"\npicture: {draw(results[-1], args.out)}")
        if args.json is not None:
            out = {"versions": used, "plan": asdict(plan), "results": results}
            args.json.write_text(json.dumps(out, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
