"""Measure whether auxiliary targets help a network with one reward that counts.

    python benchmarks/auxiliary.py                       # four data sets
    python benchmarks/auxiliary.py --only gsm --json FILE
    python benchmarks/auxiliary.py --quick --jobs 2      # one repeat of few prompts

The outputs of a network for several objectives share its hidden layers. The table has
the reward of the choice by the first output, for a network that is trained on the
reward alone, and the gains of two others: with auxiliary targets as further objectives,
and with the same targets shuffled over all candidates, as a control. The targets are in
[0, 1]: outcomes of the tests (humaneval), the system that wrote the candidate (gsm),
and the rank of the length (all).

**Protocol.** Five folds of prompts, with prompts of one group together, `REPEATS`
times. Each network is trained on all training prompts of a fold, and on 20 of them.
Columns are scaled, with sibling features, as in the recommended pipeline. The network
has a hidden layer of `WIDTH`, and ``alpha=ALPHA``; neither is tuned. The choice is the
best of all candidates of a held-out prompt. The reward of a prompt is its mean over
repeats. Intervals are 95% bootstrap intervals over prompts. Data sets are cut to
`MAX_PROMPTS` prompts.
"""

import gzip
import json
import sys
import time
from pathlib import Path

import numpy as np
from _command import iterate_data, make_parser
from _data import ALL_NAMES
from _intervals import mean_interval
from _output import format_interval, write_json
from joblib import Parallel, delayed
from scipy.stats import rankdata
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from skqprobe import QProbePolicy
from skqprobe.metrics import best_of_k_reward
from skqprobe.preprocessing import PerCandidate, SiblingFeatures

NAMES = ("two_words", "humaneval_codegen16b", "alpacaeval_gpt4", "gsm")
LOSSES = ("log_loss", "pairwise_logistic")
VARIANTS = ("reward alone", "with targets", "shuffled targets")
REPEATS, FOLDS, N_RESAMPLES = 2, 5, 9999
WIDTH, ALPHA, FEW, MAX_PROMPTS = 64, 1e-2, 20, 250


# %% Targets


def auxiliary_targets(data, folders):
    """Make the targets of a data set, in [0, 1], by name; each (n_prompts, m)."""
    targets = {}
    if data.lengths is not None:
        ranks = rankdata(data.lengths).reshape(data.y.shape)
        targets["length"] = (ranks - 1) / (ranks.size - 1)
    paths = [Path(folder) / data.name for folder in folders]
    outcomes = next((p for p in paths if p.with_suffix(".jsonl.gz").exists()), None)
    if data.name.startswith("humaneval") and outcomes is not None:
        with gzip.open(outcomes.with_suffix(".jsonl.gz"), "rt") as lines:
            status = np.array([json.loads(line)["status"] for line in lines])
        wrong = status == "exc:AssertionError"
        targets["wrong result"] = wrong * 1.0
        targets["name or syntax error"] = (
            np.isin(
                status, ["exc:NameError", "exc:SyntaxError", "exc:IndentationError"]
            )
        ) * 1.0
        targets["other error"] = (status != "pass") * 1.0 - wrong
    archive = next((p for p in paths if p.with_suffix(".npz").exists()), None)
    if data.name == "gsm" and archive is not None:
        with np.load(archive.with_suffix(".npz")) as file:
            for number, name in enumerate(file["system_names"]):
                targets[str(name)] = (file["systems"] == number) * 1.0
    return targets


def objectives(y, targets, variant, rng):
    """Stack the reward and the targets of a variant, (n_prompts, m, n_objectives)."""
    if variant == "reward alone":
        return y[..., None]
    columns = np.stack(list(targets.values()), axis=-1)
    if variant == "shuffled targets":
        flat = columns.reshape(-1, columns.shape[-1])
        columns = rng.permutation(flat).reshape(columns.shape)
    return np.concatenate([y[..., None], columns], axis=-1)


# %% Rewards


def measure_fold(data, targets, repeat, fold):
    """Measure all networks on one fold; return its prompts, and rewards by key."""
    splitter = GroupKFold(FOLDS, shuffle=True, random_state=repeat)
    train, test = list(splitter.split(data.X, groups=data.groups))[fold]
    rng, start, rewards = np.random.default_rng(repeat), time.perf_counter(), {}
    few = rng.permutation(train)[:FEW]
    with threadpool_limits(1):  # several threads only wait for each other
        for size, prompts in (("few", few), ("all", train)):
            siblings = SiblingFeatures(view_sizes=data.view_sizes)
            features = make_pipeline(PerCandidate(StandardScaler()), siblings)
            X = features.fit_transform(data.X[prompts]).astype(np.float32)
            X_test = features.transform(data.X[test]).astype(np.float32)
            for variant in VARIANTS:
                rewarded = objectives(data.y, targets, variant, rng)[prompts]
                for loss in LOSSES:
                    policy = make_policy(loss, rewarded.shape[-1], repeat)
                    values = policy.fit(X, rewarded).decision_function(X_test)
                    rewards[size, loss, variant] = best_of_k_reward(
                        data.y[test], values, data.y.shape[1], average=None
                    )
    spent = time.perf_counter() - start
    print(f"{data.name}, {repeat}, {fold}: {spent:.0f} s", file=sys.stderr)
    return test, rewards


def make_policy(loss, n_objectives, seed):
    """Make a network of which only the first output counts."""
    weights = np.eye(n_objectives)[0]
    settings = {"hidden_layer_sizes": (WIDTH,), "alpha": ALPHA, "random_state": seed}
    return QProbePolicy(loss, objective_weights=weights, **settings)


def measure(data, targets, repeats, n_jobs):
    """Measure the networks on a data set; return rows that are ready for JSON."""
    folds = Parallel(n_jobs)(
        delayed(measure_fold)(data, targets, repeat, fold)
        for repeat in range(repeats)
        for fold in range(FOLDS)
    )
    rewards = {key: np.zeros(len(data.y)) for key in folds[0][1]}
    for test, found in folds:
        for key, values in found.items():
            rewards[key][test] += values / repeats
    rows = []
    for size in ("few", "all"):
        for loss in LOSSES:
            alone, *others = (rewards[size, loss, variant] for variant in VARIANTS)
            gains = [mean_interval(other - alone, N_RESAMPLES) for other in others]
            row = {"prompts": size, "loss": loss, "gain": gains[0], "control": gains[1]}
            rows.append(row | {"reward": mean_interval(alone, N_RESAMPLES)})
    base, oracle = data.y.mean(), data.y.max(axis=1).mean()
    more = {"targets": list(targets), "base": base, "oracle": oracle, "rows": rows}
    return data.shape() | more


# %% Output


def print_table(result):
    """Print the table of a data set, with a star if an interval does not contain 0."""
    print(
        f"\n{result['name']}: {result['n_prompts']} prompts, "
        f"{result['n_candidates']} candidates, base {result['base']:.3f}, oracle "
        f"{result['oracle']:.3f}; targets: {', '.join(result['targets'])}"
    )
    print(f"{'prompts':8}{'loss':19}{'reward alone':24}{'with targets':27}shuffled")
    for row in result["rows"]:
        gains = [format_gain(row[name]) for name in ("gain", "control")]
        reward = format_interval(row["reward"])
        prompts = FEW if row["prompts"] == "few" else "all"
        print(f"{prompts!s:8}{row['loss']:19}{reward:24}{gains[0]:27}{gains[1]}")
    sys.stdout.flush()


def format_gain(gain):
    star = "*" if gain["low"] > 0 or gain["high"] < 0 else ""
    return format_interval(gain, "+") + star


def main(argv=None):
    parser = make_parser(__doc__, "data", "quick", "jobs", "json", only=ALL_NAMES)
    args = parser.parse_args(argv)
    args.only, results = args.only or NAMES, []
    for data in iterate_data(args):
        if data.y.min() < 0 or data.y.max() > 1:
            print(f"\n{data.name}: left out, its rewards are not in [0, 1]")
            continue
        targets = auxiliary_targets(data, args.data)
        if not targets:
            print(f"\n{data.name}: left out, it has no targets besides the reward")
            continue
        kept = slice(MAX_PROMPTS if not args.quick else 30)
        targets = {name: values[kept] for name, values in targets.items()}
        repeats = 1 if args.quick else REPEATS
        results.append(measure(data.take(kept), targets, repeats, args.jobs))
        print_table(results[-1])
        write_json(args.json, results)


if __name__ == "__main__":
    main()
