"""Measure which ideas increase the reward of the choice at equal embeddings.

    python benchmarks/lift.py                        # four data sets, all ideas
    python benchmarks/lift.py --only two_words --ideas bagging nystroem --json FILE
    python benchmarks/lift.py --quick --jobs 2       # one repeat, two folds at a time

The table has a row for each idea and a column for each data set of
`benchmarks/reward.py`. An entry is the gain in reward of the chosen candidate over the
reference, on the same held-out prompts, with its 95% bootstrap interval over prompts.
The reference is the recommended pipeline: ``PerCandidate(StandardScaler())``,
`SiblingFeatures` and ``QProbePolicy("pairwise_logistic")``. Each idea of
`benchmarks/_ideas.py` changes one thing in it; the table ends with their descriptions
and sources.

**Protocol.** The prompts are split into five folds, with prompts of one group together,
`REPEATS` times. The reward of a prompt is its mean over repeats. Everything is learned
inside the training folds. The strength of the penalty, and nothing else, is chosen
there for each idea by cross-validation in three folds, by the reward of the best of k;
of equal ones the strongest. The choice is from `ALPHAS`. Two ideas that are expensive
to fit are not tuned, as their descriptions say.

**Choice.** A held-out prompt's choice is among all of its candidates, if there are at
most 48. Otherwise `N_SETS` random sets of 48 are drawn, the same for all ideas. Each
set is valued on its own, because the values of some ideas depend on the siblings, and
the reward of the prompt is the mean. Training uses all candidates.

**Limits.** The intervals do not contain the variation from other training prompts. With
24 ideas on four data sets, about four intervals would not contain zero if no idea had
an effect: a star on one data set alone is weak evidence. Nothing is chosen by this
table. Three strengths are few. The reference's choice is often the weakest or the
strongest of them (`--json` lists them all), so a small gain or loss may be due to the
penalty, which has another effect with another loss or other columns.
"""

import sys
import time
from importlib.util import find_spec

import numpy as np
from _command import iterate_data, make_parser
from _data import ALL_NAMES
from _ideas import GROUPS, IDEAS, REFERENCE
from _intervals import mean_interval, recovery_interval
from _methods import reason_to_leave_out
from _output import format_interval, write_json
from _rewards import random_sets, set_rewards
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from skqprobe.metrics import best_of_k_reward
from skqprobe.preprocessing import PerCandidate

REPEATS = 2
OUTER_FOLDS = 5
INNER_FOLDS = 3
MAX_CANDIDATES = 48
N_SETS = 8
N_RESAMPLES = 9999


# %% Rewards


def fit(idea, train, k, reference_alpha=None):
    """Tune and fit an idea.

    Returns
    -------
    fitted : (Pipeline, float) or None
        Fitted pipeline and its alpha; None if the idea does not apply to the data.
    """
    features = idea.features(train)
    if features is None:
        return None
    features = make_pipeline(PerCandidate(StandardScaler()), features)
    alphas = idea.alphas or (reference_alpha,)
    alpha = tune(features, idea.probe, alphas, train, k) if alphas[1:] else alphas[0]
    model = make_pipeline(features, clone(idea.probe).set_params(alpha=alpha))
    return model.fit(train.X, train.y), alpha


def tune(features, probe, alphas, train, k):
    """Choose alpha by cross-validation; the features are made once per fold."""
    folds, rewards = GroupKFold(INNER_FOLDS, shuffle=True, random_state=1), []
    for inside, outside in folds.split(train.X, groups=train.groups):
        made, y = clone(features).fit(train.X[inside]), train.y[inside]
        X, X_outside = made.transform(train.X[inside]), made.transform(train.X[outside])
        probes = [clone(probe).set_params(alpha=alpha).fit(X, y) for alpha in alphas]
        values = [fitted.decision_function(X_outside) for fitted in probes]
        rewards.append([best_of_k_reward(train.y[outside], Q, k) for Q in values])
    return alphas[np.argmax(np.mean(rewards, axis=0))]


def draw_sets(data):
    """Draw the sets to choose from, of shape (n_sets, n_prompts, k)."""
    n_prompts, m = data.y.shape
    if m <= MAX_CANDIDATES:
        return np.tile(np.arange(m), (1, n_prompts, 1))
    rng = np.random.default_rng(0)
    sets = random_sets(rng, (n_prompts, N_SETS, m), MAX_CANDIDATES)
    return sets.transpose(1, 0, 2)


def measure_fold(data, sets, ideas, repeat, fold):
    """Fit the reference and the ideas to all other folds, and measure them on one.

    Returns
    -------
    test : ndarray of int
        Positions of the prompts of the fold.
    found : dict of (ndarray of shape (n_test,), float, float)
        Rewards, alpha and seconds by idea.
    """
    if find_spec("torch") is not None:
        import torch  # noqa: F401 - a limit of threads applies to loaded libraries
    splitter = GroupKFold(OUTER_FOLDS, shuffle=True, random_state=repeat)
    train, test = list(splitter.split(data.X, groups=data.groups))[fold]
    found, alpha = {}, None
    with threadpool_limits(1):  # several threads only wait for each other
        for name in ("reference", *ideas):
            start = time.perf_counter()
            idea = IDEAS.get(name, REFERENCE)
            fitted = fit(idea, data.take(train), sets.shape[2], alpha)
            if fitted is None:
                continue
            model, used = fitted
            alpha = alpha or used  # the reference comes first
            rewards = set_rewards(model, data.take(test), sets[:, test]).mean(axis=0)
            found[name] = rewards, used, time.perf_counter() - start
    seconds = sum(spent for *_, spent in found.values())
    print(f"{data.name}, {repeat}, {fold}: {seconds:.0f} s", file=sys.stderr)
    return test, found


def measure(data, ideas, repeats, n_jobs):
    """Measure the ideas on a data set; return a dict that is ready for JSON."""
    sets = draw_sets(data)
    folds = Parallel(n_jobs)(
        delayed(measure_fold)(data, sets, ideas, repeat, fold)
        for repeat in range(repeats)
        for fold in range(OUTER_FOLDS)
    )
    rewards, rows = {}, {}
    for name in folds[0][1]:
        rewards[name] = np.zeros(len(data.y))
        for test, found in folds:
            rewards[name][test] += found[name][0] / repeats
        rows[name] = {
            "alphas": [found[name][1] for _, found in folds],
            "seconds": sum(found[name][2] for _, found in folds),
            "gain": mean_interval(rewards[name] - rewards["reference"], N_RESAMPLES),
            "reward": mean_interval(rewards[name], N_RESAMPLES),
        }
    y = np.stack([np.take_along_axis(data.y, some, axis=1) for some in sets])
    base, oracle = y.mean(axis=(0, 2)), y.max(axis=2).mean(axis=0)
    recovery = recovery_interval(rewards["reference"], base, oracle, N_RESAMPLES)
    return data.shape() | {
        "k": sets.shape[2],
        "base": base.mean(),
        "oracle": oracle.mean(),
        "recovery": recovery,
        "ideas": rows,
    }


# %% Output


def print_reference(result):
    """Print the sizes of a data set and the reward of the reference."""
    seconds = sum(row["seconds"] for row in result["ideas"].values())
    reward = format_interval(result["ideas"]["reference"]["reward"])
    print(
        f"\n{result['name']}: {result['n_prompts']} prompts, k = {result['k']}, base "
        f"{result['base']:.3f}, oracle {result['oracle']:.3f}, {seconds:.0f} s\n"
        f"reference: reward {reward}, recovery {format_interval(result['recovery'])}",
        flush=True,
    )


def print_gains(results, ideas):
    """Print the table, with a star if the interval does not contain 0."""
    names = "".join(f"{result['name']:27}" for result in results)
    print(f"\n{'gain over the reference':29}{names}".rstrip())
    for group, members in GROUPS.items():
        chosen = [name for name in members if name in ideas]
        if chosen:
            print(f"- {group}")
        for name in chosen:
            rows = [result["ideas"].get(name) for result in results]
            gains = ["" if row is None else format_gain(row["gain"]) for row in rows]
            print(f"{name:29}{''.join(f'{gain:27}' for gain in gains)}".rstrip())
    print("(* the interval does not contain 0)\n")
    for name in ideas:
        print(f"{name}: {IDEAS[name].text}")


def format_gain(gain):
    star = "*" if gain["low"] > 0 or gain["high"] < 0 else ""
    return format_interval(gain, "+") + star


# %% Command line


def parse_arguments(argv):
    parser = make_parser(__doc__, "data", "quick", "jobs", "json", only=ALL_NAMES)
    parser.add_argument("--ideas", nargs="+", choices=IDEAS)
    return parser.parse_args(argv)


def applicable(ideas, y):
    """Select the ideas whose loss is defined for these rewards; print the others."""
    reasons = {name: reason_to_leave_out(name, y) for name in ideas}
    for name, reason in reasons.items():
        if reason is not None:
            print(f"{name}: left out, {reason}")
    return [name for name, reason in reasons.items() if reason is None]


def main(argv=None):
    args = parse_arguments(argv)
    ideas = [name for name in IDEAS if name in (args.ideas or IDEAS)]
    if "hidden_layer" in ideas and find_spec("torch") is None:
        print("hidden_layer: left out, torch is not installed (pip install torch)")
        ideas = [name for name in ideas if name != "hidden_layer"]
    results, repeats = [], 1 if args.quick else REPEATS
    for data in iterate_data(args):
        results.append(measure(data, applicable(ideas, data.y), repeats, args.jobs))
        print_reference(results[-1])
        write_json(args.json, results)
    print_gains(results, ideas)


if __name__ == "__main__":
    main()
