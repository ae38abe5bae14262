"""Measure what lifts the chosen reward at equal embeddings, and what does not.

    python benchmarks/lift.py                        # all data sets, all ideas
    python benchmarks/lift.py --only two_words --ideas bagging nystroem --json OUT
    python benchmarks/lift.py --quick --jobs 2       # folds dealt once, two at a time

The table has a row for each idea and a column for each data set of
`benchmarks/reward.py`. An entry is the gain in reward of the chosen candidate over the
reference, on the same held-out prompts, with its 95% bootstrap interval over prompts.
The reference is the recommended pipeline: ``PerCandidate(StandardScaler())``,
`SiblingFeatures` and ``QProbePolicy("pairwise_logistic")``. An idea changes one thing
about it; `IDEAS` says what, and where it is from.

**Protocol.** Five folds of prompts, those of one group together, dealt `REPEATS` times;
a prompt's reward is its mean over these. Everything is learned inside the training
folds. There the strength of the penalty, and it alone, is chosen for each idea by
cross-validation in three folds, by the reward of the best of k, of equal ones the
strongest: from `ALPHAS`, times m**2 / 2 for contrastive_policy_gradient, which is a sum
over the pairs of m candidates. Two ideas that are dear to fit are not tuned, as their
lines say.

**Choice.** A held-out prompt's choice is among all of its candidates, where there are
at most 48. Of more, `N_SETS` random sets of 48 are drawn, the same for all ideas; each
is valued by itself, because some ideas look at the siblings, and the prompt's reward is
the mean. Training has all candidates.

**What the figures do not say.** The intervals leave out what other training prompts
would change. With 23 ideas on four data sets, some four intervals would miss zero if no
idea did anything: a star on one data set alone is a hint. Nothing is chosen by this
table. Three strengths are few: the reference's choice is often the weakest or the
strongest of them (`--json` has them all), so a small gain or loss may be one of the
penalty, which means another thing with another loss or other columns.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from reward import DATA, DATA_SETS, load, load_shipped
from scipy.linalg import cholesky, solve_triangular
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.covariance import ShrunkCovariance
from sklearn.decomposition import PCA
from sklearn.kernel_approximation import Nystroem
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from threadpoolctl import threadpool_limits

from skqprobe import QProbePolicy
from skqprobe.metrics import best_of_k_reward, prompt_bootstrap
from skqprobe.preprocessing import PerCandidate, SiblingFeatures

REPEATS = 2
OUTER_FOLDS = 5
INNER_FOLDS = 3
ALPHAS = (1.0, 0.1, 0.01)
MOST_CANDIDATES = 48
N_SETS = 8
N_RESAMPLES = 9999
BANDWIDTH = 0.1
COPG = "contrastive_policy_gradient"
PAIRWISE = QProbePolicy("pairwise_logistic")
ALL_FEATURES = ("mean", "nearest", "share", "density", "duplicates", "rank")


def centred(values):
    """Take off each prompt's mean, of sets (n_prompts, k, d) or rewards."""
    return values - values.mean(axis=1, keepdims=True)


# %% Features: transformers of scaled candidate sets.


class PromptCentred(TransformerMixin, BaseEstimator):
    """Apply a transformer of rows to candidates less their prompt's mean."""

    def __init__(self, transformer):
        self.transformer = transformer

    def fit(self, X, y=None):
        self.transformer_ = PerCandidate(self.transformer).fit(centred(X))
        return self

    def transform(self, X):
        return self.transformer_.transform(centred(X))


class Whitening(TransformerMixin, BaseEstimator):
    """Whiten rows along their principal axes, by a covariance shrunk by half."""

    def fit(self, X, y=None):
        shrunk = ShrunkCovariance(shrinkage=0.5, assume_centered=True)
        variances, axes = np.linalg.eigh(shrunk.fit(X).covariance_)
        self.matrix_ = (axes / np.sqrt(variances)).astype(X.dtype)
        return self

    def transform(self, X):
        return X @ self.matrix_


class NeighbourMean(TransformerMixin, BaseEstimator):
    """Append the siblings' mean, weighted by a kernel of cosine distance, by block."""

    def __init__(self, view_sizes):
        self.view_sizes = view_sizes

    def fit(self, X, y=None):
        self.n_features_in_ = X.shape[2]
        return self

    def transform(self, X):
        parts = [X]
        for start, stop in pairwise(np.cumsum([0, *self.view_sizes])):
            block = X[..., start:stop]
            length = np.linalg.norm(block, axis=2, keepdims=True)
            unit = block / np.where(length, length, 1)
            kernel = np.exp((unit @ unit.transpose(0, 2, 1) - 1) / BANDWIDTH)
            kernel *= 1 - np.eye(X.shape[1], dtype=kernel.dtype)
            parts.append(kernel / kernel.sum(axis=2, keepdims=True) @ block)
        return np.concatenate(parts, axis=2)


class InPlace(TransformerMixin, BaseEstimator):
    """Put something in the embedding's place, and keep the sibling features."""

    def __init__(self, transformer, view_sizes):
        self.transformer = transformer
        self.view_sizes = view_sizes

    def fit(self, X, y=None):
        self.siblings_ = SiblingFeatures(view_sizes=self.view_sizes).fit(X)
        self.transformer_ = clone(self.transformer).fit(X)
        return self

    def transform(self, X):
        siblings = self.siblings_.transform(X)[..., X.shape[2] :]
        return np.concatenate([self.transformer_.transform(X), siblings], axis=2)


def siblings(data, **settings):
    return SiblingFeatures(view_sizes=data.view_sizes, **settings)


def in_place(data, transformer):
    return InPlace(transformer, data.view_sizes)


def neighbour_mean(data):
    return in_place(data, NeighbourMean(data.view_sizes))


def kernel_features(data):
    """Make 500 columns, with the variance of as many scaled columns as X has."""
    d = data.X.shape[2]
    nystroem = Nystroem(gamma=1 / (2 * d), n_components=500, random_state=0)
    larger = FunctionTransformer(lambda rows: rows * float(np.sqrt(d)))
    return in_place(data, PerCandidate(make_pipeline(nystroem, larger)))


def one_embedding(data, key):
    """Keep one embedding of several; None where the data set has no choice."""
    keys = list(DATA_SETS.get(data.name, ()))
    if key not in keys or len(keys) == 1:
        return None
    start, stop = np.cumsum([0, *data.view_sizes])[keys.index(key) :][:2]
    keep = ColumnTransformer([("keep", "passthrough", slice(start, stop))])
    return make_pipeline(PerCandidate(keep), SiblingFeatures())


# %% Probes


class OnSpread(QProbePolicy):
    """Divide rewards by their spread inside the prompt, a small one by a floor."""

    def fit(self, X, y):
        spread = y.std(axis=1, keepdims=True)
        return super().fit(X, y / np.maximum(spread, 0.1 * spread.mean()))


class LowerBound(QProbePolicy):
    """Value less its posterior standard deviation, as ridge on centred rows has it."""

    def fit(self, X, y):
        super().fit(X, y)
        n_prompts, k, d = X.shape
        rows = centred(X.astype(np.float64)).reshape(-1, d)
        error = centred(y - super().decision_function(X))
        # The objective is k / (2 n) |error|**2 + alpha / 2 |coef|**2.
        precision = rows.T @ rows + self.alpha * n_prompts / k * np.eye(d)
        self.factor_ = cholesky(precision, lower=True)
        self.noise_ = np.sqrt((error**2).sum() / (n_prompts * (k - 1)))
        return self

    def decision_function(self, X):
        rows = centred(X.astype(np.float64)).reshape(-1, X.shape[2])
        solved = solve_triangular(self.factor_, rows.T, lower=True)
        doubt = self.noise_ * np.linalg.norm(solved, axis=0)
        return super().decision_function(X) - doubt.reshape(X.shape[:2])


class Bagging(BaseEstimator):
    """Average the values of ten probes on bootstrap resamples of the prompts."""

    def __init__(self, alpha=0.1):
        self.alpha = alpha

    def fit(self, X, y):
        draws = np.random.default_rng(0).integers(len(X), size=(10, len(X)))
        probe = with_alpha(PAIRWISE, self.alpha, y)
        self.probes_ = [clone(probe).fit(X[draw], y[draw]) for draw in draws]
        return self

    def decision_function(self, X):
        return np.mean([probe.decision_function(X) for probe in self.probes_], axis=0)


class TwoProbes(BaseEstimator):
    """Average the standardised values of two probes of different losses."""

    def __init__(self, alpha=0.1):
        self.alpha = alpha

    def fit(self, X, y):
        probes = PAIRWISE, OnSpread(COPG)
        self.probes_ = [with_alpha(probe, self.alpha, y).fit(X, y) for probe in probes]
        spreads = [centred(probe.decision_function(X)).std() for probe in self.probes_]
        self.scales_ = [1 / spread if spread else 1 for spread in spreads]
        return self

    def decision_function(self, X):
        values = [probe.decision_function(X) for probe in self.probes_]
        return np.average(values, axis=0, weights=self.scales_)


# %% The ideas


@dataclass(frozen=True)
class Idea:
    """What is changed about the reference.

    Parameters
    ----------
    text : str
        What it is, and where it is from.
    features : callable
        Makes the step between scaler and probe for a data set; None if it cannot be.
    probe : estimator
        The last step, with a parameter `alpha`.
    alphas : tuple of float
        What alpha is chosen from; () takes the reference's choice.
    """

    text: str
    features: Callable = siblings
    probe: BaseEstimator = PAIRWISE
    alphas: tuple = ALPHAS


LOSSES = {
    "policy_gradient": "the paper's best loss, arXiv 2402.14688",
    "log_loss": "the paper's cross-entropy; sees more than differences in a prompt",
    "squared_error": "the paper's regression; sees more than differences in a prompt",
    "pairwise_hinge": "the paper's clipped preferences",
    "softmax_cross_entropy": "listwise, InfoNCA, arXiv 2402.05369",
    COPG: "ridge on centred rows and rewards, CoPG, arXiv 2406.19185",
}
GROUPS = {
    "siblings": {
        "no_siblings": Idea("the embedding alone", lambda data: "passthrough"),
        "siblings_alone": Idea(
            "their features alone, each of variance 1",
            partial(siblings, embedding="drop", variance_share=1.0),
        ),
        "all_six": Idea(
            "also the share of duplicates and the rank",
            partial(siblings, features=ALL_FEATURES),
        ),
        "set_centred": Idea(
            "the embedding less its set's mean; a check: the loss cannot see it",
            partial(siblings, embedding="center"),
        ),
        "neighbour_mean": Idea(
            "also the mean of near siblings, a graph convolution, arXiv 1902.07153",
            neighbour_mean,
        ),
    },
    "loss": {n: Idea(text, probe=QProbePolicy(n)) for n, text in LOSSES.items()},
    "training": {
        "sets_of_10": Idea(
            "trained on random sets of 10, as the paper does",
            probe=clone(PAIRWISE).set_params(n_candidates=10, random_state=0),
        ),
        "rewards_by_spread": Idea(
            f"{COPG}, rewards over their spread in the prompt, GRPO, arXiv 2402.03300",
            probe=OnSpread(COPG),
        ),
    },
    "columns": {
        "prompt_scale": Idea(
            "scaled by their spread inside prompts",
            partial(in_place, transformer=PromptCentred(StandardScaler())),
        ),
        "prompt_whitening": Idea(
            "whitened inside prompts, covariance shrunk by half, arXiv 2103.15316",
            partial(in_place, transformer=PromptCentred(Whitening())),
        ),
        "prompt_pca": Idea(
            "64 principal components inside prompts",
            partial(in_place, transformer=PromptCentred(PCA(64, random_state=0))),
        ),
        "nystroem": Idea(
            "500 of a radial kernel in the embedding's place, Williams and Seeger 2001",
            kernel_features,
        ),
        **{
            key: Idea("this embedding alone, of two", partial(one_embedding, key=key))
            for key in ("emb_pair", "emb_completion")
        },
    },
    "models": {
        "bagging": Idea(
            "ten probes on resampled prompts, Breiman 1996; alpha is the reference's",
            probe=Bagging(),
            alphas=(),
        ),
        "lower_bound": Idea(
            f"{COPG} less a posterior standard deviation, arXiv 2012.15085",
            probe=LowerBound(COPG),
        ),
        "two_probes": Idea(
            f"mean of pairwise_logistic and {COPG} on rewards_by_spread",
            probe=TwoProbes(),
        ),
        "hidden_layer": Idea(
            "one of 256 units, the paper's; it stops early, and alpha is 0.01",
            probe=clone(PAIRWISE).set_params(hidden_layer_sizes=(256,), random_state=0),
            alphas=(0.01,),
        ),
    },
}
IDEAS = {name: idea for group in GROUPS.values() for name, idea in group.items()}


# %% Measurements


def fit(idea, train, k, reference_alpha=None):
    """Tune and fit an idea; give the pipeline and alpha, or None if it cannot be."""
    features = idea.features(train)
    if features is None:
        return None
    features = make_pipeline(PerCandidate(StandardScaler()), features)
    alphas = idea.alphas or (reference_alpha,)
    alpha = tune(features, idea.probe, alphas, train, k) if alphas[1:] else alphas[0]
    model = make_pipeline(features, with_alpha(idea.probe, alpha, train.y))
    return model.fit(train.X, train.y), alpha


def tune(features, probe, alphas, train, k):
    """Choose alpha by cross-validation; the features are made once a fold."""
    folds, rewards = GroupKFold(INNER_FOLDS, shuffle=True, random_state=1), []
    for inside, outside in folds.split(train.X, groups=train.groups):
        made, y = clone(features).fit(train.X[inside]), train.y[inside]
        X, X_outside = made.transform(train.X[inside]), made.transform(train.X[outside])
        probes = [with_alpha(probe, alpha, y).fit(X, y) for alpha in alphas]
        values = [fitted.decision_function(X_outside) for fitted in probes]
        rewards.append([best_of_k_reward(train.y[outside], Q, k) for Q in values])
    return alphas[np.argmax(np.mean(rewards, axis=0))]


def with_alpha(probe, alpha, y):
    """Copy a probe, with alpha in the unit of its loss, which may grow with pairs."""
    unit = y.shape[1] ** 2 / 2 if getattr(probe, "loss", None) == COPG else 1
    return clone(probe).set_params(alpha=alpha * unit)


def draw_sets(data):
    """Draw what held-out prompts choose among: (n_prompts, n_sets, k)."""
    n_prompts, m = data.y.shape
    if m <= MOST_CANDIDATES:
        return np.tile(np.arange(m), (n_prompts, 1, 1))
    draws = np.random.default_rng(0).random((n_prompts, N_SETS, m))
    return draws.argsort(axis=2)[..., :MOST_CANDIDATES]


def chosen_rewards(model, data, sets):
    """Mean reward over a prompt's sets, of the candidate of highest value in each."""
    n_prompts, n_sets, k = sets.shape
    prompts = np.arange(n_prompts)[:, None, None]
    X = data.X[prompts, sets].reshape(n_prompts * n_sets, k, -1)
    y = data.y[prompts, sets].reshape(n_prompts * n_sets, k)
    values = model.decision_function(X)
    rewards = best_of_k_reward(y, values, k, prompt_weight=np.eye(len(y)))
    return rewards.reshape(n_prompts, n_sets).mean(axis=1)


def measure_fold(data, sets, ideas, repeat, fold):
    """Fit the reference and the ideas to all other folds, and measure them on this.

    Returns
    -------
    test : ndarray of int
        The prompts of the fold.
    found : dict of (ndarray of shape (n_test,), float, float)
        By idea: rewards, alpha and seconds.
    """
    if find_spec("torch") is not None:
        import torch  # noqa: F401  a limit of threads holds for what is loaded already
    splitter = GroupKFold(OUTER_FOLDS, shuffle=True, random_state=repeat)
    train, test = list(splitter.split(data.X, groups=data.groups))[fold]
    found, alpha = {}, None
    with threadpool_limits(1):  # more threads would wait for each other
        for name in ("reference", *ideas):
            idea = IDEAS.get(name, Idea("the recommended pipeline"))
            start = time.perf_counter()
            fitted = fit(idea, data.take(train), sets.shape[2], alpha)
            if fitted is None:
                continue
            model, used = fitted
            alpha = alpha or used  # the reference comes first
            rewards = chosen_rewards(model, data.take(test), sets[test])
            found[name] = rewards, used, time.perf_counter() - start
    seconds = sum(spent for *_, spent in found.values())
    print(f"{data.name}, {repeat}, {fold}: {seconds:.0f} s", file=sys.stderr)
    return test, found


def mean(columns, groups=None, prompt_weight=None):
    return prompt_weight @ columns[:, 0] / prompt_weight.sum(axis=1)


def recovery(columns, groups=None, prompt_weight=None):
    """Share of the possible gain, from columns of base, chosen and best reward."""
    base, chosen, best = (prompt_weight @ columns).T
    return (chosen - base) / (best - base)


def interval(metric, columns):
    found = prompt_bootstrap(
        metric, np.column_stack(columns), n_resamples=N_RESAMPLES, random_state=0
    )
    return {"value": found.value, "low": found.low, "high": found.high}


def measure(data, ideas, repeats, n_jobs):
    """Measure a data set; a dict that is ready for JSON."""
    sets = draw_sets(data)
    folds = Parallel(n_jobs)(
        delayed(measure_fold)(data, sets, ideas, repeat, fold)
        for repeat in range(repeats)
        for fold in range(OUTER_FOLDS)
    )
    rows = {}
    for name in folds[0][1]:
        rewards = np.zeros(len(data.y))
        for test, found in folds:
            rewards[test] += found[name][0] / repeats
        alphas = [found[name][1] for _, found in folds]
        seconds = sum(found[name][2] for _, found in folds)
        rows[name] = {"rewards": rewards, "alphas": alphas, "seconds": seconds}
    reference = rows["reference"]["rewards"]
    y = data.y[np.arange(len(sets))[:, None, None], sets]
    base, best = y.mean(axis=(1, 2)), y.max(axis=2).mean(axis=1)
    for row in rows.values():
        rewards = row.pop("rewards")
        row["gain"] = interval(mean, [rewards - reference])
        row["reward"] = interval(mean, [rewards])
    return {
        "name": data.name,
        "n_prompts": len(data.y),
        "k": sets.shape[2],
        "base": base.mean(),
        "oracle": best.mean(),
        "recovery": interval(recovery, [base, reference, best]),
        "ideas": rows,
    }


# %% The command


def format_interval(figure, sign=""):
    return "{value:{s}.3f} [{low:{s}.3f}, {high:{s}.3f}]".format(s=sign, **figure)


def show_reference(result):
    seconds = sum(row["seconds"] for row in result["ideas"].values())
    reward = format_interval(result["ideas"]["reference"]["reward"])
    print(
        f"\n{result['name']}: {result['n_prompts']} prompts, k = {result['k']}, base "
        f"{result['base']:.3f}, oracle {result['oracle']:.3f}, {seconds:.0f} s\n"
        f"reference: reward {reward}, recovery {format_interval(result['recovery'])}",
        flush=True,
    )


def show_gains(results, ideas):
    """Print the table, with a star where the interval does not hold 0."""
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
    print("(* the interval does not hold 0)\n")
    for name in ideas:
        print(f"{name}: {IDEAS[name].text}")


def format_gain(gain):
    star = "*" if gain["low"] > 0 or gain["high"] < 0 else ""
    return format_interval(gain, "+") + star


def load_data(name, folder):
    """Load a data set by name; None if the folder does not have it."""
    if name == "two_words":
        return load_shipped()
    path = folder / f"{name}.npz"
    return load(path, DATA_SETS[name]) if path.exists() else None


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data")
    parser.add_argument("--only", nargs="+", choices=("two_words", *DATA_SETS))
    parser.add_argument("--ideas", nargs="+", choices=IDEAS)
    parser.add_argument("--quick", action="store_true", help="folds dealt once")
    parser.add_argument("--jobs", type=int, default=1, help="folds at a time; -1 all")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_arguments(argv)
    ideas = [name for name in IDEAS if name in (args.ideas or IDEAS)]
    if "hidden_layer" in ideas and find_spec("torch") is None:
        print("hidden_layer: left out, torch is not installed (pip install torch)")
        ideas = [name for name in ideas if name != "hidden_layer"]
    results = []
    for name in args.only or ("two_words", *DATA_SETS):
        data = load_data(name, args.data)
        if data is None:
            print(f"\n{name}: left out, there is no {args.data / name}.npz")
            continue
        results.append(measure(data, ideas, 1 if args.quick else REPEATS, args.jobs))
        show_reference(results[-1])
        if args.json is not None:
            args.json.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    show_gains(results, ideas)


if __name__ == "__main__":
    main()
