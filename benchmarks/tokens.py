"""Compare a probe that reads every token with probes that read pooled states.

    python benchmarks/tokens.py --cache FOLDER       # the first time, half an hour
    python benchmarks/tokens.py --cache FOLDER --quick
    python benchmarks/tokens.py --cache FOLDER --only gsm --prompts 400

The **gated probe** (SWIFT, arXiv 2505.12225) gives a candidate the mean of the values
of its tokens, w . h_t, with weights g_t = sigmoid(v . h_t + c):

    value = sum_t g_t (w . h_t) / sum_t g_t

The states h_t are those of several layers, standardized over the tokens of all prompts.
w, v and c are trained together, by Adam from zero, with a loss of the package. The
**ungated probe** is trained in the same way on the means of the states: with v = 0, its
value is that of the gated probe.

All other rows are `make_probe_pipeline` on poolings of the same states. "together" has
all poolings of the layer in the middle, each as a view. "chosen" is, in each fold, the
one of these with the best cross-validated score. "chosen + gated" is the chosen one
with the value of the gated probe as one more view.

**Evaluation.** All probes choose on a fold that they were not trained on. The gated
probe takes the penalty and the number of epochs with the least loss on inner folds: it
is trained without the test fold and without one of the others in turn, and with the
chosen setting on all of the others. Intervals are 95% bootstrap intervals over prompts;
those of the gain over "chosen" are paired.

SmolLM2 reads the two words, MiniLM the solutions of gsm (at most 256 tokens). The
script needs the packages of make_two_words.py.
"""

import os
import sys
import time
from itertools import combinations, product
from pathlib import Path

import numpy as np

os.environ["HF_HUB_OFFLINE"] = "1"

from _command import QUICK_NOTE, make_parser, versions
from _intervals import mean_interval
from _output import format_interval, print_pairs, write_json
from _token_states import LAYERS, POOLINGS, load_states
from sklearn.model_selection import KFold
from threadpoolctl import threadpool_limits

from skqprobe import make_probe_pipeline
from skqprobe._solvers.adam import LEARNING_RATE
from skqprobe.losses import LOSSES, get_loss
from skqprobe.metrics import best_of_k_reward

N_FOLDS = 3
LEFT_OUT = [each for n in (1, 2) for each in combinations(range(N_FOLDS), n)]
"""Folds left out of training: the test fold, or the test fold and an inner fold."""
ALPHAS = (1.0, 0.1, 0.01)
EPOCHS = 40
N_BATCHES = 10
N_RESAMPLES = 9999
TITLES = ("gated", "ungated", *POOLINGS, "together", "chosen", "chosen + gated")

# %% The probe with a gate


class GatedProbes:
    """Gated probes of several settings, trained together.

    Parameters
    ----------
    states : ndarray of shape (n_tokens, n_features)
        States of the tokens, one candidate after the other.
    n_tokens : ndarray of shape (n_prompts, k)
        Number of tokens of each candidate.
    weight : ndarray of shape (n_settings, n_prompts)
        Weights of the prompts, with sum 1; 0 for prompts that are held out.
    alphas : sequence of float, of length n_settings
        Strengths of the penalties.
    """

    def __init__(self, states, n_tokens, weight, alphas):
        import torch

        self.torch, self.n_tokens, self.weight = torch, n_tokens, weight
        self.ends = np.concatenate([[0], n_tokens.sum(axis=1).cumsum()])
        self.alphas = torch.tensor(alphas, dtype=torch.float32)
        states = states.astype(np.float32)
        states -= states.mean(axis=0)
        states /= np.maximum(states.std(axis=0), 1e-6)
        self.states = torch.from_numpy(states)
        zeros = torch.zeros(states.shape[1], len(alphas))
        self.w, self.v = (zeros.clone().requires_grad_() for _ in range(2))
        self.c = torch.zeros(len(alphas), requires_grad=True)
        self.optimizer = torch.optim.Adam([self.w, self.v, self.c], lr=LEARNING_RATE)

    def values(self, prompts):
        """Compute the values of candidates, of shape (n_rows, n_settings)."""
        torch, sizes = self.torch, self.n_tokens[prompts].ravel()
        tokens = [np.arange(self.ends[i], self.ends[i + 1]) for i in prompts]
        states = self.states[torch.from_numpy(np.concatenate(tokens))]
        rows = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes))
        gates = torch.sigmoid(states @ self.v + self.c)
        total = torch.zeros(len(sizes), len(self.c))
        weighted = total.index_add(0, rows, gates * (states @ self.w))
        return weighted / total.index_add(0, rows, gates)

    def step(self, loss, prompts, y):
        """Take a step of Adam for a batch of prompts."""
        torch, values = self.torch, self.values(prompts)
        k = y.shape[1]
        offsets = np.arange(0, y[prompts].size + 1, k)
        slopes = [
            np.repeat(weight[prompts], k)
            * loss.value_and_gradient(z, y[prompts].ravel(), offsets)[1]
            for z, weight in zip(
                values.detach().numpy().T.astype(float), self.weight, strict=True
            )
        ]
        slopes = torch.from_numpy(np.transpose(slopes)).to(values) * N_BATCHES
        penalty = self.alphas / 2 * (self.w.square() + self.v.square()).sum(dim=0)
        self.optimizer.zero_grad()
        ((values * slopes).sum() + penalty.sum()).backward()
        self.optimizer.step()


def train(states, n_tokens, y, folds, loss, epochs):
    """Train a gated probe without the folds of each of `LEFT_OUT`, for each penalty.

    Returns
    -------
    values : ndarray of shape (len(LEFT_OUT), epochs, n_alphas, n_prompts, k)
        Values after each epoch.
    """
    left_out, alphas = zip(*product(LEFT_OUT, ALPHAS), strict=True)
    inside = np.array([~np.isin(folds, each) for each in left_out], dtype=float)
    weight = inside / inside.sum(axis=1, keepdims=True)
    probes, loss = GatedProbes(states, n_tokens, weight, alphas), get_loss(loss)
    rng, path = np.random.default_rng(0), []
    for _ in range(epochs):
        for prompts in np.array_split(rng.permutation(len(y)), N_BATCHES):
            probes.step(loss, prompts, y)
        with probes.torch.no_grad():
            blocks = np.array_split(np.arange(len(y)), N_BATCHES)
            path.append(np.concatenate([probes.values(b).numpy() for b in blocks]))
    path = np.reshape(path, (epochs, *y.shape, len(LEFT_OUT), len(ALPHAS)))
    return path.transpose(3, 0, 4, 1, 2)


def out_of_fold(values, y, folds, fold, loss):
    """Choose penalty and epochs for a test fold.

    Returns
    -------
    chosen : ndarray of shape (n_prompts, k)
        Values by probes that were not trained on the prompt, nor on the test fold.
    setting : tuple of (int, int)
        Indices of the number of epochs and of the penalty.
    """
    loss, k = get_loss(loss), y.shape[1]
    chosen, total = np.zeros((*values.shape[1:3], *y.shape)), 0.0
    for left_out, found in zip(LEFT_OUT, values, strict=True):
        if fold not in left_out:
            continue
        inner = [each for each in left_out if each != fold]
        test = folds == (inner or left_out)[0]
        chosen[:, :, test] = found[:, :, test]
        if not inner:
            continue
        rewards = y[test].ravel()
        losses = [
            loss.value_and_gradient(z, rewards, np.arange(0, len(z) + 1, k))[0].sum()
            for z in found[:, :, test].astype(float).reshape(-1, len(rewards))
        ]
        total = total + np.reshape(losses, chosen.shape[:2])
    setting = np.unravel_index(total.argmin(), total.shape)
    return chosen[setting], tuple(int(i) for i in setting)


# %% The comparison


def views_of(data, n_layers):
    """Return the columns and the sizes of the views of each pooled probe."""
    d = data.pooled.shape[-1] // n_layers
    views = {
        name: (X, (d,) * n_layers)
        for name, X in zip(POOLINGS, data.pooled, strict=True)
    }
    middle = n_layers // 2 * d
    together = [X[..., middle : middle + d] for X in data.pooled]
    views["together"] = np.concatenate(together, axis=-1), (d,) * len(together)
    return views


def measure_fold(data, views, gated, folds, fold):
    """Fit the pooled probes without a fold, and compute their rewards on it."""
    inside, test = folds != fold, folds == fold

    def fit(X, sizes):
        X = X.astype(np.float32)
        pipeline = make_probe_pipeline(view_sizes=sizes)
        pipeline.fit(X[inside], data.y[inside])
        values = pipeline.decision_function(X[test])
        return pipeline["probe"].best_score_, reward(data.y[test], values)

    found = {name: fit(*each) for name, each in views.items()}
    best = max(found, key=lambda name: found[name][0])
    X, sizes = views[best]
    more = np.concatenate([X, gated[..., None]], axis=-1), (*sizes, 1)
    rewards = {name: each for name, (_, each) in found.items()}
    rewards |= {"chosen": rewards[best], "chosen + gated": fit(*more)[1]}
    return rewards, best


def reward(y, values):
    """Compute the reward of the candidate with the largest value, per prompt."""
    return best_of_k_reward(y, values, y.shape[1], average=None)


def measure(name, data, loss, epochs):
    """Measure all probes on a data set; return a dict that is ready for JSON."""
    y, start = data.y, time.perf_counter()
    folds = np.empty(len(y), dtype=int)
    splits = KFold(N_FOLDS, shuffle=True, random_state=0).split(y)
    for fold, (_, test) in enumerate(splits):
        folds[test] = fold
    means = data.pooled[POOLINGS.index("completion_mean")]
    inputs = {
        "gated": (data.states, data.n_tokens),
        "ungated": (means.reshape(-1, means.shape[-1]), np.ones_like(data.n_tokens)),
    }
    paths = {key: train(*each, y, folds, loss, epochs) for key, each in inputs.items()}
    report(name, "gated", start)
    rewards = {title: np.empty(len(y)) for title in TITLES}
    settings, views = [], views_of(data, len(LAYERS[name]))
    for fold in range(N_FOLDS):
        test, values, setting = folds == fold, {}, {}
        for key, path in paths.items():
            values[key], chosen = out_of_fold(path, y, folds, fold, loss)
            setting[key] = {"epochs": chosen[0] + 1, "alpha": ALPHAS[chosen[1]]}
            rewards[key][test] = reward(y[test], values[key][test])
        found, best = measure_fold(data, views, values["gated"], folds, fold)
        for title, each in found.items():
            rewards[title][test] = each
        settings.append(setting | {"chosen": best})
        report(name, f"fold {fold}", start)
    return {
        "name": name,
        "n_prompts": len(y),
        "n_candidates": y.shape[1],
        "tokens": float(data.n_tokens.mean()),
        "layers": LAYERS[name],
        "base": y.mean(),
        "oracle": y.max(axis=1).mean(),
        "settings": settings,
        "rows": {
            title: {
                "reward": mean_interval(each, N_RESAMPLES),
                "gain": mean_interval(each - rewards["chosen"], N_RESAMPLES),
            }
            for title, each in rewards.items()
        },
    }


def report(name, part, start):
    seconds = time.perf_counter() - start
    print(f"{name}, {part}: {seconds:.0f} s", file=sys.stderr, flush=True)


def print_result(result):
    """Print the table of a data set."""
    print(
        "\n{name}: {n_prompts} prompts, {n_candidates} candidates of {tokens:.0f} "
        "tokens, layers {layers}, base {base:.3f}, oracle {oracle:.3f}".format(**result)
    )
    for fold, setting in enumerate(result["settings"]):
        print_pairs({"fold": fold} | setting)
    print(f"{'probe':18}{'reward':24}gain over chosen")
    for title, row in result["rows"].items():
        gain = "" if title == "chosen" else format_interval(row["gain"], "+")
        print(f"{title:18}{format_interval(row['reward']):24}{gain}", flush=True)


def main(argv=None):
    parser = make_parser(__doc__, "data", "quick", "json", only=list(LAYERS))
    parser.add_argument("--cache", type=Path, required=True, help="folder of states")
    parser.add_argument("--prompts", type=int, help="number of prompts to read")
    parser.add_argument("--loss", choices=LOSSES, default="pairwise_logistic")
    args = parser.parse_args(argv)
    print_pairs(versions())
    results = []
    for name in args.only or LAYERS:
        n_prompts = 24 if args.quick else args.prompts
        data = load_states(name, args.data, args.cache, n_prompts)
        if data is None:
            print(f"\n{name}: left out, there is no {name}.jsonl.gz")
            continue
        import torch

        torch.set_num_threads(1)  # several threads only wait for each other
        with threadpool_limits(1):
            epochs = 3 if args.quick else EPOCHS
            results.append(measure(name, data, args.loss, epochs))
        print_result(results[-1])
        write_json(args.json, results)
    if args.quick:
        print(QUICK_NOTE)


if __name__ == "__main__":
    main()
