"""Repeat the experiments of the paper: our probes against its training.

    python benchmarks/paper.py                       # four data sets, ten seeds
    python benchmarks/paper.py --only two_words --out pictures --json figures.json
    python benchmarks/paper.py --jobs 2              # two seeds at a time
    python benchmarks/paper.py --quick               # shows that the script runs

The data sets are those of `benchmarks/reward.py`. For each, the script prints a table
and writes a picture, after the figures of Li et al., "Q-Probe", ICML 2024, arXiv
2402.14688.

**Protocol.** A seed splits the prompts into 60% for training and 40% that are held out
(prompts of one group stay together), and determines everything else that is random. All
methods get the same prompts. The figure is the reward of a method's choice on the
held-out prompts, exactly in expectation over which k of their m candidates are drawn.
Without a temperature, the choice is the candidate of highest value.

**Methods**, each with the paper's losses L_Q (squared_error), L_CE (log_loss) and L_PG
(policy_gradient):

- skqprobe: ``PerCandidate(StandardScaler())`` and a `QProbePolicy`. The strength of the
  penalty is chosen from powers of ten by cross-validation inside the training prompts,
  by the reward at the table's largest k; of equal ones the strongest. Probes with
  hidden layers have a penalty of 0.01, and early stopping on held-out prompts.
- + siblings: the same with `SiblingFeatures` between the two. The value of a candidate
  then depends on the others in the set, so that for k < m the reward is a mean over
  random sets of k, with features made from these k alone.
- paper: the authors' training, `PaperRecipe`. It has no setting to choose.
- paper, scaled: the same after ``PerCandidate(StandardScaler())``, which the authors
  do not use. It shows how much of the difference is due to the scale of the features.

**Figures.** The reward against k; against the number of training prompts; against the
temperature of a choice among all m; against the number of layers of the probe. Prompts
and layers are at the table's largest k. A temperature is in standard deviations of the
method's values inside held-out prompts, for each seed separately: a strong penalty
makes all values small, so that the same temperature would be another choice for every
seed.

**Intervals.** The reward of a prompt is averaged over the seeds that held it out, and
prompts (or groups, if there are any) are resampled: 95% intervals, for a method and for
the difference of two on the same prompts and seeds. They measure the variation over
held-out prompts. Ten seeds are not ten data sets: they split the same prompts, so that
they show little of the variation over training prompts. "seeds ahead" counts the seeds
in which the reward of skqprobe is higher.

**Limits.** These embeddings and sizes are not the paper's, whose recipe was made for
more candidates and for hidden states of a large model. It counts epochs, so that on
these data it makes 150 to 2000 steps instead of 13,800. Much of the difference may be
due to that. Its curve jumps at sizes with one more batch per epoch. It is run as
published, whereas the penalty of skqprobe is tuned.
"""

import sys
import time
from dataclasses import asdict, dataclass

import numpy as np
from _command import QUICK_NOTE, iterate_data, make_parser, versions
from _data import ALL_NAMES
from _intervals import group_interval
from _methods import Method
from _output import print_pairs, write_json
from _paper_output import LOSSES, OURS, SIBLINGS, THEIRS, THEIRS_SCALED, draw, print_all
from _paper_recipe import PaperRecipe, import_torch
from _rewards import expected_rewards, random_sets
from joblib import Parallel, delayed
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from skqprobe import QProbePolicy
from skqprobe.metrics import base_reward, oracle_reward, softmax_reward
from skqprobe.preprocessing import PerCandidate, SiblingFeatures

NAMES = [name for name in ALL_NAMES if name != "ted_zhen"]  # L_CE needs [0, 1]
LAYERS = {1: (), 2: (256,), 3: (256, 256)}
TABLE_KS = (10, 48)
TEST_SIZE = 0.4


@dataclass(frozen=True)
class Plan:
    """Amount of work, which `--quick` reduces."""

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


# %% Points and splits


def table_ks(m):
    return sorted({min(k, m) for k in TABLE_KS})


def points(data, plan):
    """Return the points on the x axis, by figure."""
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
    """Split the prompts: training prompts in random order, and held-out ones."""
    shuffle = GroupShuffleSplit(1, test_size=TEST_SIZE, random_state=seed)
    train, test = next(shuffle.split(data.X, groups=data.groups))
    return np.random.default_rng(seed).permutation(train), test


# %% Methods, each fitted with a loss to training data


def fit_ours(loss, train, plan, seed, hidden=(), siblings=False):
    """Fit a `QProbePolicy`; the penalty of a linear one is chosen inside `train`."""
    probe = QProbePolicy(loss, alpha=0.01, hidden_layer_sizes=hidden, random_state=seed)
    if hidden:
        pipeline = make_pipeline(PerCandidate(StandardScaler()), probe)
        return pipeline.fit(train.X, train.y)
    features = SiblingFeatures(view_sizes=train.view_sizes) if siblings else None
    method = Method(OURS, probe, {"alpha": plan.alphas}, features)
    n_folds = min(plan.inner_folds, len(np.unique(train.groups)))
    return method.fit(train, table_ks(train.y.shape[1])[-1], n_folds)


def fit_siblings(loss, train, plan, seed):
    return fit_ours(loss, train, plan, seed, siblings=True)


def fit_paper(loss, train, plan, seed, hidden=()):
    """Train a `PaperRecipe`, which has nothing to choose from the plan."""
    recipe = PaperRecipe(loss, hidden_layer_sizes=hidden, random_state=seed)
    return recipe.fit(train.X, train.y)


def fit_scaled(loss, train, plan, seed):
    recipe = PaperRecipe(loss, random_state=seed)
    return make_pipeline(PerCandidate(StandardScaler()), recipe).fit(train.X, train.y)


METHODS = {OURS: fit_ours, THEIRS: fit_paper}
"""Methods of all figures."""

VARIANTS = {SIBLINGS: fit_siblings, THEIRS_SCALED: fit_scaled}
"""Methods of the table alone."""


# %% Rewards of held-out prompts, each of shape (n_prompts, n_points)


def draw_sets(shape, ks, plan, seed):
    """Draw sets of k for each k below m, of shape (n_sets, n_prompts, k)."""
    rng = np.random.default_rng(seed)
    shape = (plan.n_subsets, *shape)
    return {k: random_sets(rng, shape, k) for k in ks if k < shape[2]}


def temperature_rewards(model, test, temperatures):
    """Compute the reward of a choice by softmax among all candidates.

    Temperatures are in standard deviations of the values inside prompts.
    """
    values = model.decision_function(test.X).astype(float)
    unit = (values - values.mean(axis=1, keepdims=True)).std()
    rewards = [
        softmax_reward(test.y, values, t * unit, average=None) for t in temperatures
    ]
    return np.stack(rewards, axis=1)


def measure_method(method, loss, train, test, at, plan, seed):
    """Measure one of `METHODS` at all points, by figure."""
    fit, largest = METHODS[method], at["table"][-1:]
    model = fit(loss, train, plan, seed)
    rewards = {
        "table": expected_rewards(model, test, at["table"]),
        "k": expected_rewards(model, test, at["k"]),
        "temperature": temperature_rewards(model, test, at["temperature"]),
    }
    sizes = at["prompts"][:-1]
    fewer = [fit(loss, train.take(slice(n)), plan, seed) for n in sizes]
    deeper = [fit(loss, train, plan, seed, LAYERS[n]) for n in at["layers"] if n > 1]
    for figure, models in (("prompts", [*fewer, model]), ("layers", [model, *deeper])):
        columns = [expected_rewards(each, test, largest) for each in models]
        rewards[figure] = np.concatenate(columns, axis=1)
    return rewards


def measure_references(test, at):
    """Measure the base model and the oracle, by (name, figure)."""
    rewards = {}
    for figure in ("table", "k"):
        base = base_reward(test.y, average=None)
        rewards["base", figure] = np.tile(base[:, None], len(at[figure]))
        rewards["oracle", figure] = oracle_reward(test.y, at[figure], average=None)
    return rewards


def measure_seed(data, at, plan, seed):
    """Measure everything on one split.

    Returns
    -------
    rewards : dict of ndarray of shape (n_prompts, n_points)
        Rewards by method, loss and figure; NaN for training prompts.
    """
    start = time.perf_counter()
    import_torch()  # a limit of threads applies to loaded libraries
    training, held_out = split(data, seed)
    train, test = data.take(training), data.take(held_out)
    rewards = {}
    with threadpool_limits(1):
        for (name, figure), values in measure_references(test, at).items():
            rewards[name, "", figure] = values
        sets = draw_sets(test.y.shape, at["table"], plan, seed)
        for loss in LOSSES:
            for name in METHODS:
                measured = measure_method(name, loss, train, test, at, plan, seed)
                for figure, values in measured.items():
                    rewards[name, loss, figure] = values
            for name, fit in VARIANTS.items():
                model = fit(loss, train, plan, seed)
                values = expected_rewards(model, test, at["table"], sets)
                rewards[name, loss, "table"] = values
    for key, values in rewards.items():
        rewards[key] = np.full((len(data.y), values.shape[1]), np.nan)
        rewards[key][held_out] = values
    spent = time.perf_counter() - start
    print(f"{data.name}, seed {seed}: {spent:.0f} s", file=sys.stderr, flush=True)
    return rewards


# %% Means over seeds and prompts


def totals(rewards, groups):
    """Count and sum the rewards of each group, from (n_seeds, n_prompts, n_points)."""
    _, group = np.unique(groups, return_inverse=True)
    held_out = ~np.isnan(rewards[..., 0])
    total = np.zeros((group.max() + 1, rewards.shape[2]))
    np.add.at(total, group, np.nansum(rewards, axis=0))
    count = np.bincount(group, weights=held_out.sum(axis=0))
    return count[count > 0], total[count > 0]


def summarize(rewards, groups, n_resamples, versus=None):
    """Estimate the mean, or the mean difference, with its interval and by seed."""
    count, total = totals(rewards, groups)
    other = None if versus is None else totals(versus, groups)[1]
    by_seed = np.nanmean(rewards if versus is None else rewards - versus, axis=1)
    found = group_interval(count, total, n_resamples, versus=other)
    return found | {"by_seed": by_seed.T.tolist()}


def evaluate(data, seeds, plan, n_jobs):
    """Measure a data set with all seeds.

    Returns
    -------
    result : dict
        Figures, ready for JSON. `lines` has an entry for each method, loss and figure,
        and `differences` for skqprobe minus paper.
    """
    start, at = time.perf_counter(), points(data, plan)
    of_seeds = Parallel(n_jobs)(
        delayed(measure_seed)(data, at, plan, seed) for seed in range(seeds)
    )
    rewards = {key: np.stack([s[key] for s in of_seeds]) for key in of_seeds[0]}
    lines, differences = [], []
    for (method, loss, figure), values in rewards.items():
        entry = {"method": method, "loss": loss, "figure": figure, "at": at[figure]}
        found = summarize(values, data.groups, plan.n_resamples)
        lines.append(entry | found)
        if method == OURS:
            theirs = rewards[THEIRS, loss, figure]
            found = summarize(values, data.groups, plan.n_resamples, theirs)
            differences.append(entry | found)
    return data.shape() | {
        "n_seeds": seeds,
        "lines": lines,
        "differences": differences,
        "seconds": time.perf_counter() - start,
    }


# %% Command line


def parse_arguments(argv):
    parser = make_parser(__doc__, "data", "quick", "jobs", "out", "json", only=NAMES)
    parser.add_argument(
        "--seeds", type=int, help="number of splits: 10, or 2 with --quick"
    )
    args = parser.parse_args(argv)
    if args.seeds is None:
        args.seeds = 2 if args.quick else 10
    if args.seeds < 1:
        parser.error("--seeds must be 1 or more")
    return args


def main(argv=None):
    args = parse_arguments(argv)
    plan = QUICK if args.quick else Plan()
    print_pairs(versions())
    if args.quick:
        print(QUICK_NOTE)
    results = []
    for data in iterate_data(args, plan.max_prompts):
        results.append(evaluate(data, args.seeds, plan, args.jobs))
        print_all(results[-1])
        if args.out is not None:
            print(f"\npicture: {draw(results[-1], args.out)}")
        out = {"versions": versions(), "plan": asdict(plan), "results": results}
        write_json(args.json, out)


if __name__ == "__main__":
    main()
