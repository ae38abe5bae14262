"""Measure the reward of probes and of their peers on held-out prompts.

    python benchmarks/reward.py                     # four data sets, nested
    python benchmarks/reward.py --train A.npz --test B.npz [--json FILE]
    python benchmarks/reward.py --quick --only hh_harmless --methods Ridge log_loss
    python benchmarks/reward.py --prompts 10 20 40 --methods default recommended

A method assigns a value to each candidate of a prompt, and the candidate of highest
value is chosen. The figure is the mean over prompts of the reward of that choice among
k candidates, in expectation over which k of the m candidates of a prompt are drawn.

**Expectation.** It is exact (`skqprobe.metrics.best_of_k_reward`) if a value depends on
its candidate alone. With sibling features it also depends on the other candidates in
the set, which are k, not m. For k < m, the reward is then the mean over 100 random sets
of k, each valued on its own, the same sets for all methods. Judged by the spread
between sets, their standard error is 0.003 at most on these data sets. The intervals
include it.

**Data.** An .npz file with `embeddings` (or others, by `--key`; several are
concatenated, for all methods) of shape (n_prompts, m, d) and `rewards` of shape
(n_prompts, m). If the file has `groups`, of shape (n_prompts,), prompts of one group
stay in one fold, outer and inner. Without `--train` and `--test`, the two words of
`skqprobe.datasets` and the files in `--data` are used. Files that are missing are named
and left out. Three more data sets are used only if `--only` names them: gsm, ted_zhen
and summeval.

**Nested cross-validation.** The prompts are split into 5 folds. For each fold, a method
is tuned and fitted on the other four, and chooses among the candidates of the fold. The
rewards of all folds together make the figures. Tuning is a `GridSearchCV` with folds
inside those four alone, by the reward at the largest k of the table, so that outer
folds choose nothing. Tuning makes sibling features from all m candidates of a training
prompt, also if k < m. With ``--prompts N``, a method gets only N prompts of the four
folds, drawn at random; prompts of a larger N contain those of a smaller one. With
`--train` and `--test`, all of this is one fold: tuned and fitted on the first file,
measured on the second.

**Methods.** All except two follow ``PerCandidate(StandardScaler())``. One grid serves
all data sets, chosen for its width and its cost and not by the figures: the strength of
the penalty is a power of ten from 1e-4 to 1e3, in units in which Ridge has the penalty
of squared_error, and LogisticRegression that of log_loss. The two methods of trees have
two learning rates.

- `QProbePolicy`, each loss by its name.
- siblings+LOSS: the same with `SiblingFeatures`, at their defaults, between the scaler
  and the probe, for three of the losses.
- siblings+network, if torch is installed: the same for pairwise_logistic with a hidden
  layer of 256 units, and two penalties to choose from.
- default, ``QProbePolicy()`` on the raw embeddings, and recommended,
  ``make_probe_pipeline(view_sizes=...)``: without settings and without a search.
- recommended-one-penalty: the same with one penalty for all views and for the sibling
  features, as it was before the pipeline chose a penalty for each.
- Ridge on the rewards, and Ridge-centered on the rewards minus their prompt's mean.
- LogisticRegression, if all rewards are 0 or 1.
- HistGradientBoostingRegressor: 100 trees of 15 leaves, features in 63 bins, and no
  early stopping, which would hold out candidates of the prompts that it trains on.
- LGBMRanker (LambdaRank), if lightgbm is installed: the same trees. Its labels are the
  rewards, scaled to 0 to 30 and rounded, with a gain equal to the label.

**References.** base: a random candidate. oracle: the best candidate. longest and
shortest: by the lengths in the file. best-model: if the candidates are from different
models, the model of highest mean reward on the training prompts (for k below m, of the
k models in the set). consensus: the candidate with the highest mean cosine to the m
candidates of its prompt, in the last embedding. vote: if the completions end with
answers, a candidate with the most frequent answer of the m.

**More columns.** ``--columns length model`` appends the log of the length, and 0/1
columns of the model that wrote a candidate, where the file has them, for all methods.

**Columns.** The reward; the recovery, (reward - base) / (oracle - base) of the means;
the difference from the best other method, where references do not count as methods.
Each has its 95% bootstrap interval over prompts, with the rewards of a prompt resampled
together. Then the seconds of a fit with the chosen settings, the mean over folds; and
these settings, one per fold.

**Limits.** The best other method is the one of highest reward in the same table, chosen
on the figures that it is compared with. It is optimistically biased, and the lead of
the best method is over a second method that is optimistically biased, too. The
intervals condition on the fitted methods and treat prompts as independent. They do not
contain the variation from another draw of the training prompts or of the folds. If
prompts share a group (75 of the 1381 of hh_harmless repeat an earlier one), the
intervals are slightly too narrow. LogisticRegression and log_loss are one model on one
grid, except for rounding and for the stopping rule of the solver. Their difference
shows the influence of the choice of the setting, which is large on few prompts.
"""

import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from _command import QUICK_NOTE, iterate_data, make_parser, versions
from _data import ALL_NAMES, COLUMNS, load_file
from _intervals import mean_interval, recovery_interval
from _methods import METHODS, make_methods
from _output import format_interval, print_data, print_pairs, write_json
from _rewards import exact_rewards, expected_rewards, random_sets
from sklearn.model_selection import GroupKFold
from threadpoolctl import threadpool_limits

OUTER_FOLDS = 5


@dataclass(frozen=True)
class Plan:
    """Amount of work, which `--quick` reduces."""

    alphas: tuple = tuple(10.0 ** np.arange(-4, 4))
    learning_rates: tuple = (0.03, 0.1)
    inner_folds: int = 4
    n_trees: int = 100
    n_sets: int = 100
    n_resamples: int = 9999
    max_prompts: int | None = None


QUICK = Plan(
    alphas=(1e-2, 1e-1, 1.0, 1e1),
    learning_rates=(0.1,),
    inner_folds=3,
    n_trees=20,
    n_sets=10,
    n_resamples=999,
    max_prompts=120,
)


# %% Rewards


@dataclass
class Record:
    """Rewards of a method, of shape (n_prompts, n_ks); settings and time by fold."""

    rewards: np.ndarray
    settings: list = field(default_factory=list)
    seconds: list = field(default_factory=list)


def reference_values(train, test):
    """Compute values that need no embedding, as name: (n_prompts, m)."""
    values = {"base": np.zeros(test.y.shape), "oracle": test.y}
    if test.lengths is not None:
        values |= {"longest": test.lengths, "shortest": -test.lengths}
    if test.models is not None and train.models is not None:
        values["best-model"] = model_values(train, test.models)
    values["consensus"] = consensus(test)
    if test.answers is not None:
        same = test.answers[..., None] == test.answers[:, None]
        values["vote"] = same.sum(axis=2)
    return values


def model_values(train, models):
    """Mean reward of the model of each candidate on the training prompts."""
    names, number = np.unique(train.models, return_inverse=True)
    total = np.bincount(number.ravel(), train.y.ravel())
    means = dict(zip(names, total / np.bincount(number.ravel()), strict=True))
    unknown = train.y.mean()
    return np.array([[means.get(model, unknown) for model in row] for row in models])


def consensus(test):
    """Mean cosine between a candidate and the others, in the last embedding."""
    stop = sum(test.view_sizes[: test.n_embeddings])
    start = stop - test.view_sizes[test.n_embeddings - 1]
    E = test.X[..., start:stop]
    E = E / np.maximum(np.linalg.norm(E, axis=2, keepdims=True), 1e-12)
    return np.einsum("ijk,ik->ij", E, E.sum(axis=1))


def outer_splits(data, n_prompts=None):
    """Yield training data, test data, and the positions of the test prompts.

    The training data are all prompts of the other folds, or `n_prompts` of these.
    """
    folds = GroupKFold(OUTER_FOLDS, shuffle=True, random_state=0)
    for fold, (train, test) in enumerate(folds.split(data.X, groups=data.groups)):
        some = np.random.default_rng(fold).permutation(train)[:n_prompts]
        yield data.take(np.sort(some)), data.take(test), test


def draw_sets(shape, ks, n_sets):
    """Draw sets of k for each k below m, of shape (n_sets, n_prompts, k)."""
    return {
        k: random_sets(np.random.default_rng(0), (n_sets, *shape), k)
        for k in ks
        if k < shape[1]
    }


def run_folds(splits, shape, names, ks, plan):
    """Tune, fit and choose, fold by fold.

    Returns
    -------
    learned, references : dict of Record
        Records by name, in the order of the table.
    left_out : dict of str
        Reasons by method.
    n_training : list of int
        Number of training prompts of each fold.
    """
    learned, references, left_out, n_training = {}, {}, {}, []
    unknown = np.full((shape[0], len(ks)), np.nan)
    sets = draw_sets(shape, ks, plan.n_sets)
    for number, (train, test, where) in enumerate(splits, start=1):
        n_training.append(len(train.y))
        methods, reasons = make_methods(train, plan, names)
        left_out |= reasons
        for method in methods:
            of_fold = {k: s[:, where] for k, s in sets.items() if method.uses_siblings}
            start = time.perf_counter()
            # The problems are small, so that several threads only wait for each other.
            with threadpool_limits(1):
                model = method.fit(train, max(ks), plan.inner_folds)
                fitted = time.perf_counter() - start
                rewards = expected_rewards(model, test, ks, of_fold)
            record = learned.setdefault(method.name, Record(unknown.copy()))
            record.rewards[where] = rewards
            record.settings.append(short_names(getattr(model, "best_params_", {})))
            record.seconds.append(getattr(model, "refit_time_", fitted))
            spent = f"{method.name}, {time.perf_counter() - start:.0f} s"
            print(f"{test.name}, fold {number}: {spent}", file=sys.stderr)
        for name, values in reference_values(train, test).items():
            record = references.setdefault(name, Record(unknown.copy()))
            record.rewards[where] = exact_rewards(test.y, values, ks)
    # A method may be undefined for the rewards of one fold alone.
    learned = {name: record for name, record in learned.items() if name not in left_out}
    return learned, references, left_out, n_training


def short_names(settings):
    """Drop the prefixes of a pipeline from the names of settings."""
    return {name.split("__")[-1]: float(value) for name, value in settings.items()}


def make_table(learned, references, column, n_resamples):
    """Make the rows of the table for the k of one column of the rewards."""
    everything = learned | references
    rewards = {name: record.rewards[:, column] for name, record in everything.items()}
    bounds = rewards["base"], rewards["oracle"]
    rows = []
    for name, record in everything.items():
        row = {
            "method": name,
            "reward": mean_interval(rewards[name], n_resamples),
            "recovery": recovery_interval(rewards[name], *bounds, n_resamples),
            "best_other": None,
            "difference": None,
            "seconds": float(np.mean(record.seconds)) if record.seconds else None,
            "settings": record.settings,
        }
        others = [other for other in learned if other != name]
        if others and name not in ("base", "oracle"):
            best = max(others, key=lambda other: rewards[other].mean())
            difference = mean_interval(rewards[name] - rewards[best], n_resamples)
            row |= {"best_other": best, "difference": difference}
        rows.append(row)
    return rows


def evaluate(splits, data, names, ks, plan):
    """Measure all methods on one data set.

    Parameters
    ----------
    splits : iterable of (Data, Data, index)
        Training data, test data, and positions of the test prompts in `data`.
    data : Data
        All test prompts.
    names : list of str or None
        Names of the methods; None for all.
    ks : list of int
        Numbers of candidates. Settings are chosen at the largest.
    plan : Plan
        Amount of work.

    Returns
    -------
    result : dict
        Figures, ready for JSON.
    """
    start = time.perf_counter()
    found = run_folds(splits, data.y.shape, names, ks, plan)
    learned, references, left_out, n_training = found
    return data.shape() | {
        "left_out": left_out,
        "n_training_prompts": n_training,
        "tables": {
            str(k): make_table(learned, references, column, plan.n_resamples)
            for column, k in enumerate(ks)
        },
        "seconds": time.perf_counter() - start,
    }


# %% Output


def print_result(result):
    """Print the tables of a data set."""
    print_data(result, f"{result['seconds']:.0f} s")
    print("training prompts of the folds:", *result["n_training_prompts"])
    for name, reason in result["left_out"].items():
        print(f"left out: {name}: {reason}")
    for k, rows in result["tables"].items():
        print(
            f"\n{'k = ' + k:30}{'reward':22}{'recovery':24}"
            f"{'minus the best other method':31}{'seconds':>7}  settings"
        )
        for row in rows:
            print(format_row(row))
        best = dict.fromkeys(row["best_other"] for row in rows if row["best_other"])
        print(f"best other method: {' or '.join(best) or 'none'}")


def format_row(row):
    """Format a row of the table."""
    settings, seconds = {}, row["seconds"]
    for of_fold in row["settings"]:
        for name, value in of_fold.items():
            settings.setdefault(name, []).append(f"{value:.2g}")
    line = (
        f"{row['method']:30}{format_interval(row['reward']):22}"
        f"{format_interval(row['recovery']):24}"
        f"{format_interval(row['difference'], '+'):31}"
        f"{'' if seconds is None else f'{seconds:.2f}':>7}  "
    )
    line += ", ".join(f"{name} {' '.join(v)}" for name, v in settings.items())
    return line.rstrip()


# %% Command line


def parse_arguments(argv):
    parser = make_parser(__doc__, "data", "quick", "json", only=ALL_NAMES)
    parser.add_argument("--train", type=Path, help="an .npz to tune and fit on")
    parser.add_argument("--test", type=Path, help="an .npz to measure on")
    parser.add_argument(
        "--key", nargs="+", default=["embeddings"], help="arrays of the embeddings"
    )
    parser.add_argument(
        "--columns", nargs="+", choices=COLUMNS, default=[], help="views to append"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument(
        "--prompts", nargs="+", type=int, help="numbers of training prompts to try"
    )
    parser.add_argument("--ks", nargs="+", type=int, default=[10, 48])
    args = parser.parse_args(argv)
    if (args.train is None) != (args.test is None):
        parser.error("--train and --test go together")
    if args.train is not None and args.only is not None:
        parser.error("--only selects data sets of --data, not --train and --test")
    if min(args.ks) < 1:
        parser.error("--ks must be 1 or more")
    if args.prompts is not None and (args.train is not None or min(args.prompts) < 10):
        parser.error("--prompts must be 10 or more, and goes without --train")
    return args


def iterate_splits(args, plan):
    """Yield splits, all test prompts and the largest k, by data set."""
    if args.train is None:
        for data in iterate_data(args, plan.max_prompts):
            data = data.with_columns(args.columns)
            for n_prompts in args.prompts or [None]:
                yield outer_splits(data, n_prompts), data, data.y.shape[1]
        return
    train = load_file(args.train, args.key, plan.max_prompts)
    test = load_file(args.test, args.key, plan.max_prompts)
    if train.X.shape[2] != test.X.shape[2]:
        raise SystemExit(
            f"--train has {train.X.shape[2]} features and --test has "
            f"{test.X.shape[2]}; they must be embeddings of the same kind."
        )
    yield [(train, test, slice(None))], test, min(train.y.shape[1], test.y.shape[1])


def main(argv=None):
    args = parse_arguments(argv)
    plan = QUICK if args.quick else Plan()
    print_pairs(versions())
    if args.quick:
        print(QUICK_NOTE)
    results = []
    for splits, data, largest in iterate_splits(args, plan):
        ks = sorted({min(k, largest) for k in args.ks})
        results.append(evaluate(splits, data, args.methods, ks, plan))
        print_result(results[-1])
        out = {"versions": versions(), "plan": asdict(plan), "results": results}
        write_json(args.json, out)


if __name__ == "__main__":
    main()
