"""Measure the trade-off of reward and length that one probe reaches on AlpacaEval.

    python benchmarks/objectives.py          # about two minutes
    python benchmarks/objectives.py --quick

The objectives are the reward and minus the logarithm of the number of characters. Half
of the prompts train a probe of both, and the others measure it, `SPLITS` times. Columns
are scaled, with or without sibling features. The penalty is chosen by `QProbePolicyCV`
among its default strengths, for the sum of both objectives over their standard
deviations inside prompts. The probe then chooses by `N_WEIGHTS` weights, from the
reward alone to the length alone, evenly spaced in units of the standard deviations of
the values inside prompts. Nothing is chosen by rewards of the measuring prompts.

**Hypervolume.** The mean reward and minus mean logarithm of the number of characters of
these choices dominate an area above `REFERENCE`: the larger, the better the trade-off.
The columns are three ways to value the length:

- learned: by the probe, as for a cost that is known only after the choice;
- known: the length of each candidate, as the `offset` of the choice;
- refitted: learned, and a probe is fitted to the weighted rewards for each of the
  weights. For a loss in closed form, this is the same as weighting one probe.

**Budget.** `weights_at_cost` selects weights on half of the measuring prompts, for a
mean of at most a number of characters, and the other half measures the mean reward and
number of characters of these weights. The length is learned as above, or known, as
minus the number of characters. The loss is the first one, without sibling features.
"""

import time

import numpy as np
from _command import QUICK_NOTE, make_parser, versions
from _data import load
from _output import print_pairs, write_json
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy, QProbePolicyCV
from skqprobe.metrics import hypervolume, objective_rewards, weights_at_cost
from skqprobe.preprocessing import PerCandidate, SiblingFeatures

NAME = "alpacaeval_gpt4"
LOSSES = ("contrastive_policy_gradient", "squared_error", "pairwise_logistic")
SPLITS = 3
N_WEIGHTS = 21
REFERENCE = (0, -9)
BUDGETS = (600, 1000, 1500)


def rewards_of(data):
    """Stack the reward and minus the logarithm of the number of characters."""
    return np.stack([data.y, -np.log(np.maximum(data.lengths, 1))], axis=2)


def spreads(values):
    """Compute the standard deviation of each objective inside prompts."""
    return (values - values.mean(axis=1, keepdims=True)).std(axis=(0, 1))


def make_weights(values):
    """Make weights from the first objective alone to the second."""
    share = np.linspace(0, 1, N_WEIGHTS)
    return np.column_stack([1 - share, share]) / spreads(values)


def fit(loss, X, y, siblings):
    """Fit a probe of both objectives; return its features and the probe."""
    steps = [PerCandidate(StandardScaler()), *([SiblingFeatures()] if siblings else [])]
    features = make_pipeline(*steps)
    probe = QProbePolicyCV([loss], objective_weights=1 / spreads(y))
    return features, probe.fit(features.fit_transform(X), y)


def area(y, scores):
    """Compute the hypervolume of choices by several scores, each of shape (n, k)."""
    return hypervolume([objective_rewards(y, each) for each in scores], REFERENCE)


def weighted_area(y, values):
    """Compute the hypervolume of choices by weighted values."""
    return area(y, [values @ weights for weights in make_weights(values)])


def with_second(values, known):
    """Replace the values of the second objective by known ones."""
    return np.stack([values[..., 0], known], axis=2)


def refitted_area(probe, X, y, X_test, y_test):
    """Compute the hypervolume of probes that are fitted to weighted rewards."""
    one = QProbePolicy(probe.loss_, alpha=probe.alpha_)
    weights = make_weights(probe.predict_objectives(X_test))
    fitted = (clone(one).fit(X, y @ pair) for pair in weights)
    return area(y_test, [each.decision_function(X_test) for each in fitted])


def spend(values, reward, lengths, budget):
    """Select weights for a budget on half of the prompts; measure on the others."""
    y, select = np.stack([reward, -lengths], axis=2), np.arange(len(reward)) % 2 == 0
    mixture = weights_at_cost(y[select], values[select], budget, n_resamples=2)
    chosen = [
        objective_rewards(y[~select], values[~select] @ pair)
        for pair in mixture.weights
    ]
    reward, minus_length = mixture.probabilities @ chosen
    return float(reward), float(-minus_length)


def measure_split(data, seed, loss, siblings):
    """Measure one loss on one split; return the figures by name."""
    order = np.random.default_rng(seed).permutation(len(data.y))
    train, test = map(data.take, np.array_split(order, 2))
    y, y_test = rewards_of(train), rewards_of(test)
    features, probe = fit(loss, train.X, y, siblings)
    X, X_test = features.transform(train.X), features.transform(test.X)
    values = probe.predict_objectives(X_test)
    found = {
        "learned": weighted_area(y_test, values),
        "known": weighted_area(y_test, with_second(values, y_test[..., 1])),
    }
    if loss == "pairwise_logistic" and not siblings:
        found["refitted"] = refitted_area(probe, X, y, X_test, y_test)
    if loss == LOSSES[0] and not siblings:
        known = with_second(values, -test.lengths)
        for budget in BUDGETS:
            for name, each in (("learned", values), ("known", known)):
                spent = spend(each, test.y, test.lengths, budget)
                found[f"{name} at {budget}"] = spent
    return found


def print_areas(found):
    """Print the mean hypervolumes of one loss."""
    names = ("learned", "known", "refitted")
    areas = [f"{np.mean(found[n]):10.2f}" if n in found else "" for n in names]
    print(f"{found['loss']:38}{''.join(areas)}", flush=True)


def print_budgets(found):
    """Print the mean reward and number of characters at each budget."""
    print("\ncharacters  length    reward  characters used")
    for budget in BUDGETS:
        for name in ("learned", "known"):
            reward, used = np.mean(found[f"{name} at {budget}"], axis=0)
            print(f"{budget:10}  {name:8}{reward:8.3f}{used:17.0f}")


def main(argv=None):
    args = make_parser(__doc__, "data", "quick", "json").parse_args(argv)
    start = time.perf_counter()
    print_pairs(versions())
    data = load(NAME, args.data)
    if data is None:
        raise SystemExit(
            f"There is no {NAME}.npz in {' or '.join(map(str, args.data))}"
        )
    y = rewards_of(data)
    base = y.mean(axis=(0, 1))
    print(
        f"base: hypervolume {hypervolume([base], REFERENCE):.2f}, "
        f"reward {base[0]:.3f}, {data.lengths.mean():.0f} characters"
    )
    print(f"oracle: hypervolume {weighted_area(y, y):.2f}\n")
    print(f"{'hypervolume':38}{'learned':>10}{'known':>10}{'refitted':>10}")
    lines = []
    for siblings in (False, True):
        for loss in LOSSES:
            splits = range(1 if args.quick else SPLITS)
            each = [measure_split(data, seed, loss, siblings) for seed in splits]
            found = {name: [split[name] for split in each] for name in each[0]}
            name = ("siblings+" if siblings else "") + loss
            lines.append({"loss": name, **found})
            print_areas(lines[-1])
    print_budgets(lines[0])
    write_json(args.json, lines)
    print(f"{time.perf_counter() - start:.0f} s")
    if args.quick:
        print(QUICK_NOTE)


if __name__ == "__main__":
    main()
