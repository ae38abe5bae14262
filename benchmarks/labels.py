"""Measure the reward of the choice by the number of rewarded completions.

    python benchmarks/labels.py                          # all data sets, minutes
    python benchmarks/labels.py --only alpacaeval_gpt4 --out pictures --json FILE
    python benchmarks/labels.py --quick

A label is the reward of one completion. Each line spends a number of labels in three
ways, and fits another policy to the labels of the first:

- farthest: four candidates of each prompt (two if k = 4 or less), selected by
  `skqprobe.generators.select_candidates`;
- random: as many candidates of each prompt, drawn at random;
- all: all k candidates of fewer prompts;
- untuned: those of "farthest", but with the policy `BayesianQProbePolicy()`, which
  selects its penalty without other data.

**Protocol.** In each of `SEEDS` splits, a third of the prompts is held out, with
prompts of one group together, and the labels are spent on random prompts of the others.
The columns are scaled. The policy of the three ways has the loss `LOSS` and the penalty
`ALPHA`, the same for all data sets. They were chosen among three losses and penalties
by the reward of 96 labels on AlpacaEval. The policies are fitted to all candidates of
these prompts, with NaN as the reward of those without a label. A prompt's choice, of
training and of held-out prompts, is among all of its candidates, or among 48 random
ones if it has more. The table has the mean reward of the chosen held-out candidates
over the splits, and its standard error.

**Limits.** The splits share prompts, so that the standard error does not contain all of
the variation between data sets. Differences between the columns are paired: they have
the same splits, and all but "all" the same prompts.
"""

import time

import numpy as np
from _command import QUICK_NOTE, iterate_data, make_parser, versions
from _data import ALL_NAMES
from _output import make_axes, print_data, print_pairs, save_figure, write_json
from _rewards import random_sets
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import BayesianQProbePolicy, QProbePolicy
from skqprobe.generators import select_candidates
from skqprobe.preprocessing import PerCandidate

SEEDS = 36
PER_PROMPT = 4
N_LABELS = (24, 48, 96, 192, 384, 768)
MAX_CANDIDATES = 48
LOSS = "contrastive_policy_gradient"
ALPHA = 100.0
RULES = ("farthest", "random", "all", "untuned")


def draw_candidates(data, rng):
    """Draw the sets to choose from, if a prompt has more than 48 candidates."""
    n_prompts, m = data.y.shape
    if m <= MAX_CANDIDATES:
        return data.X, data.y
    sets = random_sets(rng, (n_prompts, m), MAX_CANDIDATES)
    X = np.take_along_axis(data.X, sets[..., None], axis=1)
    return X, np.take_along_axis(data.y, sets, axis=1)


def label(rule, X, n_labels, rng):
    """Return the prompts, and which candidates are rewarded; None if too few prompts.

    The prompts are the first ones.
    """
    k = X.shape[1]
    per_prompt = k if rule == "all" else PER_PROMPT if k > PER_PROMPT else 2
    n_prompts = n_labels // per_prompt
    if not 1 <= n_prompts <= len(X):
        return None
    asked = np.zeros((n_prompts, k), dtype=bool)
    if rule == "all":
        return ~asked
    selected = rng.random(asked.shape).argsort(axis=1)[:, :per_prompt]
    if rule != "random":
        selected = select_candidates(X[:n_prompts], per_prompt, random_state=0)
    np.put_along_axis(asked, selected, True, axis=1)
    return asked


def make_policy(rule):
    """Make the policy that is fitted to the labels."""
    if rule == "untuned":
        return BayesianQProbePolicy(missing="ignore")
    return QProbePolicy(LOSS, alpha=ALPHA, missing="ignore")


def measure_split(data, seed):
    """Reward of the chosen held-out candidates by rule and number of labels."""
    rng = np.random.default_rng(seed)
    X, y = draw_candidates(data, rng)
    splitter = GroupShuffleSplit(1, test_size=1 / 3, random_state=seed)
    train, test = next(splitter.split(X, groups=data.groups))
    train = rng.permutation(train)
    rewards = np.full((len(RULES), len(N_LABELS)), np.nan)
    for place in np.ndindex(rewards.shape):
        asked = label(RULES[place[0]], X[train], N_LABELS[place[1]], rng)
        if asked is None:
            continue
        prompts = train[: len(asked)]
        scaler, probe = PerCandidate(StandardScaler()), make_policy(RULES[place[0]])
        policy = make_pipeline(scaler, probe)
        policy.fit(X[prompts], np.where(asked, y[prompts], np.nan))
        rewards[place] = y[test, policy.predict(X[test])].mean()
    return rewards


def measure(data, n_seeds):
    """Measure a data set; return a dict that is ready for JSON."""
    rewards = np.array([measure_split(data, seed) for seed in range(n_seeds)])
    mean, error = rewards.mean(axis=0), rewards.std(axis=0) / n_seeds**0.5
    lines = [
        {"rule": rule, "labels": n, "reward": mean[i, j], "standard_error": error[i, j]}
        for i, rule in enumerate(RULES)
        for j, n in enumerate(N_LABELS)
        if np.isfinite(mean[i, j])
    ]
    return data.shape() | {"base": float(data.y.mean()), "lines": lines}


def print_result(result):
    """Print the table of a data set."""
    print_data(result, f"base {result['base']:.3f}")
    found = {(line["rule"], line["labels"]): line for line in result["lines"]}
    print("labels" + "".join(f"{rule:>15}" for rule in RULES))
    for n in N_LABELS:
        lines = [found.get((rule, n)) for rule in RULES]
        cells = [
            f"{line['reward']:.3f} ({line['standard_error']:.3f})" if line else ""
            for line in lines
        ]
        print(f"{n:6}" + "".join(f"{cell:>15}" for cell in cells))


def draw(results, folder):
    """Draw reward by number of labels, one panel per data set; return the path."""
    n_columns = min(len(results), 4)
    n_rows = -(-len(results) // n_columns)
    figure, axes = make_axes(n_rows, n_columns, (4 * n_columns, 3.2 * n_rows))
    for ax in np.ravel(axes)[len(results) :]:
        ax.remove()
    for ax, result in zip(np.ravel(axes), results, strict=False):
        for rule in RULES:
            lines = [line for line in result["lines"] if line["rule"] == rule]
            x, y, error = (
                [line[name] for line in lines]
                for name in ("labels", "reward", "standard_error")
            )
            ax.errorbar(x, y, error, marker="o", label=rule)
        ax.axhline(result["base"], color="0.6", linestyle=":", label="base")
        ax.set(xscale="log", title=result["name"], xlabel="Number of labels")
        ax.set_xticks(N_LABELS, N_LABELS)
        ax.minorticks_off()
        ax.set_ylabel("Reward of the choice")
    figure.axes[0].legend()
    return save_figure(figure, folder, "labels")


def main(argv=None):
    options = "data", "quick", "out", "json"
    args = make_parser(__doc__, *options, only=ALL_NAMES).parse_args(argv)
    args.only = args.only or ALL_NAMES
    start, results = time.perf_counter(), []
    print_pairs(versions())
    for data in iterate_data(args):
        results.append(measure(data, 2 if args.quick else SEEDS))
        print_result(results[-1])
    write_json(args.json, results)
    if args.out is not None and results:
        print(f"\n{draw(results, args.out)}")
    print(f"\n{time.perf_counter() - start:.0f} s")
    if args.quick:
        print(QUICK_NOTE)


if __name__ == "__main__":
    main()
