"""Measure the reward of probes and of their peers on prompts they have not seen.

    python benchmarks/reward.py                     # all data sets, nested
    python benchmarks/reward.py --train A.npz --test B.npz [--json OUT]
    python benchmarks/reward.py --quick --only hh_harmless --methods Ridge log_loss

A method gives each candidate of a prompt a value, and the candidate of highest value is
chosen. The figure is the reward of that choice among k candidates, in expectation over
which k of a prompt's m there are, and then a mean over prompts.

**Expectation.** It is exact (`skqprobe.metrics.best_of_k_reward`) where a value depends
on its candidate alone. With sibling features it depends on the other candidates at hand
too, which are k, not m: where k < m, the reward is then a mean over 100 random sets of
k, each valued by itself, the same for all methods. The standard error that they leave
in the figures of these data sets is 0.003 at most, judged by the spread between sets;
the intervals include it.

**Data.** An .npz with `embeddings` (or others, by `--key`; several stand side by side,
for all methods) of shape (n_prompts, m, d) and `rewards` of shape (n_prompts, m); if it
has `groups`, of shape (n_prompts,), prompts of one group stay in one fold, outside and
inside. Without `--train` and `--test`, the two words of `skqprobe.datasets` and the
data sets in `--data` are used; those that are not there are named and left out.

**Nested cross-validation.** The prompts are dealt into 5 folds. For each fold a method
is tuned and fitted on the other four, and chooses among the fold's candidates; the
rewards of all folds together make the figures. Tuning is a `GridSearchCV` with folds
inside those four alone, by the reward at the largest k of the table: outer folds choose
nothing. There sibling features are made from all m candidates, which training prompts
have, also where k < m. With `--train` and `--test`, all of this is one fold: tuned and
fitted on the first file, measured on the second.

**Methods.** All but two stand behind ``PerCandidate(StandardScaler())``, and one grid
serves all data sets, chosen for its width and its price and not by the figures: the
strength of the penalty goes in decades from 1e-4 to 1e3, in units in which Ridge means
the same by it as squared_error, and LogisticRegression as log_loss; the two methods of
trees have two learning rates.

- `QProbePolicy`, each loss by its name.
- siblings+LOSS: the same with `SiblingFeatures`, at their defaults, between the scaler
  and the probe; for three of the losses.
- siblings+network, where torch is installed: that, for pairwise_logistic, with a hidden
  layer of 256 units. Two penalties are tried.
- default, ``QProbePolicy()`` on the embeddings as they are, and recommended,
  ``make_probe_pipeline()``: with nothing set, and without a search.
- Ridge on the rewards, and Ridge-centred on the rewards less their prompt's mean.
- LogisticRegression, where all rewards are 0 or 1; it is left out elsewhere.
- HistGradientBoostingRegressor: 100 trees of 15 leaves, features in 63 bins, and no
  early stopping, which would hold out candidates of the prompts that it trains on.
- LGBMRanker (LambdaRank), where lightgbm is installed: the same trees. Its labels are
  the rewards, scaled to 0 to 30 and rounded, with a gain equal to the label.

**References.** base: a candidate at random. oracle: the best. longest and shortest: by
the lengths in the file. best-model: where the candidates are different models, the one
of highest mean reward on the training prompts (for k below m, of the k that are there).

**Columns.** reward; recovery, (reward - base) / (oracle - base) of the means; the
difference to the best of the other methods (references are not among them). Each has
its 95% bootstrap interval over prompts, whose rewards are resampled together. Then the
seconds of a fit with the settings chosen, the mean over folds; these settings, one a
fold.

**What the figures do not say.** The best of the others is the method of highest reward
in the same table, so it is chosen on the figures that it is compared by: it is the
luckiest of many, and the best method's own lead is over a second that is lucky too. The
intervals take the fitted methods as they are and prompts as independent; they leave out
what another draw of the training prompts or of the folds would change. Where prompts
share a group (75 of the 1381 of hh_harmless repeat an earlier one's), the intervals are
slightly too narrow. LogisticRegression and log_loss are one model on one grid, but for
rounding and for when the solver stops: what lies between them shows how much is owed to
the choice of the setting, on few prompts a good deal.
"""

import argparse
import json
import platform
import sys
import time
import warnings
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from skqprobe import QProbePolicy, __version__, make_probe_pipeline
from skqprobe.datasets import load_two_words
from skqprobe.losses import LOSSES, get_loss
from skqprobe.metrics import (
    best_of_k_reward,
    best_of_k_scorer,
    candidate_values,
    prompt_bootstrap,
)
from skqprobe.preprocessing import PerCandidate, SiblingFeatures

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
DATA_SETS = {
    "humaneval_codegen16b": ["emb_pair", "emb_completion"],
    "alpacaeval_gpt4": ["embeddings"],
    "hh_harmless": ["embeddings"],
}
"""Files in the folder of `--data`, and the name of their embeddings."""

LENGTHS = ("n_chars", "ntok", "ntok_completion")
"""Names of arrays with the lengths of candidates; the first in a file is used."""

WITH_SIBLINGS = (
    "siblings+log_loss",
    "siblings+pairwise_logistic",
    "siblings+policy_gradient",
    "siblings+network",
)
AS_THEY_ARE = ("default", "recommended")
PEERS = (
    "Ridge",
    "Ridge-centred",
    "LogisticRegression",
    "HistGradientBoostingRegressor",
    "LGBMRanker",
)
METHODS = (*LOSSES, *WITH_SIBLINGS, *AS_THEY_ARE, *PEERS)
NETWORK_ALPHAS = (0.01, 0.1)
OUTER_FOLDS = 5
MAX_LABEL = 30
N_LEAVES = 15
N_BINS = 63


@dataclass(frozen=True)
class Plan:
    """How much is tried; what `--quick` makes smaller."""

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


@dataclass(frozen=True)
class Data:
    """Candidate sets; `lengths` and `models` are None where the file has none."""

    name: str
    X: np.ndarray
    y: np.ndarray
    groups: np.ndarray
    lengths: np.ndarray | None
    models: np.ndarray | None
    view_sizes: tuple

    def take(self, prompts):
        """Keep these prompts only."""
        return replace(
            self,
            X=self.X[prompts],
            y=self.y[prompts],
            groups=self.groups[prompts],
            lengths=None if self.lengths is None else self.lengths[prompts],
        )


def load_shipped():
    """Make the data set that ships with the package."""
    data = load_two_words()
    X, y = data.data.astype(np.float32), data.target.astype(np.float64)
    lengths = data.n_tokens.astype(float)
    return Data("two_words", X, y, np.arange(len(y)), lengths, None, X.shape[2:])


def load(path, keys, max_prompts=None):
    """Read an .npz, and check it."""
    with np.load(path) as file:
        for name in (*keys, "rewards"):
            if name not in file:
                raise SystemExit(
                    f"{path} has no array {name!r}; it has {', '.join(file)}. Name the "
                    "embeddings by --key; the rewards must be called 'rewards'."
                )
        blocks = [file[key].astype(np.float32) for key in keys]
        y = file["rewards"].astype(np.float64)
        groups = file["groups"] if "groups" in file else np.arange(len(y))
        lengths = [file[name].astype(float) for name in LENGTHS if name in file]
        models = file.get("models")
    for key, X in zip(keys, blocks, strict=True):
        if X.ndim != 3 or y.shape != X.shape[:2] or groups.shape != X.shape[:1]:
            raise SystemExit(
                f"{path}: {key!r} must have shape (n_prompts, m, d), 'rewards' "
                f"(n_prompts, m) and 'groups' (n_prompts,); got {X.shape}, {y.shape}, "
                f"{groups.shape}."
            )
        if not (np.isfinite(X).all() and np.isfinite(y).all()):
            raise SystemExit(f"{path}: {key!r} or 'rewards' has NaN or infinity.")
    # What is of another shape is something else of the same name.
    lengths = next((array for array in lengths if array.shape == y.shape), None)
    models = models if np.shape(models) == y.shape[1:] else None
    sizes = tuple(X.shape[2] for X in blocks)
    X = np.concatenate(blocks, axis=2)
    data = Data(Path(path).stem, X, y, groups, lengths, models, sizes)
    if max_prompts is None or len(y) <= max_prompts:
        return data
    some = np.random.default_rng(0).permutation(len(y))[:max_prompts]
    return data.take(np.sort(some))


class OnRows(BaseEstimator):
    """Fit an estimator of rows to candidate sets, and value their candidates."""

    def __init__(self, estimator, centred=False):
        self.estimator = estimator
        self.centred = centred

    def fit(self, X, y):
        """Fit to all candidates, as rows."""
        if self.centred:
            y = y - y.mean(axis=1, keepdims=True)
        rows = X.reshape(-1, X.shape[2])
        self.estimator_ = clone(self.estimator).fit(rows, y.ravel())
        return self

    def decision_function(self, X):
        """Give each candidate a value, of shape (n_prompts, m)."""
        rows = X.reshape(-1, X.shape[2])
        with warnings.catch_warnings():
            # LightGBM makes up names of features, and then warns that X has none.
            warnings.filterwarnings("ignore", "X does not have valid feature names")
            return candidate_values(self.estimator_, rows).reshape(X.shape[:2])


class RankerOnRows(OnRows):
    """Fit a LightGBM ranker, which wants integers, and the sizes of the sets."""

    def fit(self, X, y):
        """Fit to the rewards as labels from 0 to MAX_LABEL."""
        share = (y - y.min()) / max(np.ptp(y), np.finfo(float).tiny)
        self.estimator_ = clone(self.estimator).fit(
            X.reshape(-1, X.shape[2]),
            np.rint(MAX_LABEL * share).astype(int).ravel(),
            group=np.full(len(X), X.shape[1]),
        )
        return self


@dataclass(frozen=True)
class Method:
    """An estimator of candidate sets, and what to try of its settings, if anything."""

    name: str
    estimator: BaseEstimator
    grid: dict = field(default_factory=dict)
    siblings: SiblingFeatures | None = None

    def search(self, k, n_folds):
        """Make the search that tunes and fits it, by the reward at k.

        Without a grid that is the estimator itself, on embeddings as they are.
        """
        if not self.grid:
            return clone(self.estimator)
        steps = [
            ("scale", PerCandidate(StandardScaler())),
            ("siblings", self.siblings or "passthrough"),
            ("model", self.estimator),
        ]
        return GridSearchCV(
            Pipeline(steps),
            {f"model__{name}": values for name, values in self.grid.items()},
            scoring=best_of_k_scorer(k),
            cv=GroupKFold(n_folds, shuffle=True, random_state=1),
            error_score="raise",
        )

    def fit(self, train, k, n_folds):
        """Tune it, if there is something to tune, and fit it."""
        model = self.search(k, n_folds)
        if not self.grid:
            return model.fit(train.X, train.y)
        return model.fit(train.X, train.y, groups=train.groups)

    @property
    def compares(self):
        """Whether the value of a candidate depends on which others there are."""
        steps = getattr(self.estimator, "named_steps", {}).values()
        return any(isinstance(s, SiblingFeatures) for s in (self.siblings, *steps))


def make_methods(train, plan, chosen=None):
    """Make the methods for these training prompts, and say which are left out."""
    reasons = {name: why_not(name, train.y) for name in chosen or METHODS}
    methods = [make_method(n, train, plan) for n, why in reasons.items() if not why]
    return methods, {name: why for name, why in reasons.items() if why}


def why_not(name, y):
    """Say why a method cannot be used, or None."""
    loss = name.removeprefix("siblings+")
    if loss in LOSSES:
        try:
            get_loss(loss).check_rewards(y)
        except ValueError as error:
            return str(error)
    if name == "LogisticRegression" and not np.isin(y, (0, 1)).all():
        return "the rewards are not all 0 or 1"
    if name == "siblings+network" and find_spec("torch") is None:
        return "torch is not installed (pip install torch)"
    if name == "LGBMRanker" and find_spec("lightgbm") is None:
        return "lightgbm is not installed (pip install lightgbm)"
    return None


def make_method(name, train, plan):
    """Make a method by its name."""
    if name in PEERS:
        return make_peer(name, train.y.size, plan)
    if name == "default":
        return Method(name, QProbePolicy())
    if name == "recommended":
        return Method(name, make_probe_pipeline(view_sizes=train.view_sizes))
    loss, siblings = name.removeprefix("siblings+"), None
    if loss != name:
        siblings = SiblingFeatures(view_sizes=train.view_sizes)
    if loss == "network":
        import torch  # noqa: F401 - a limit of threads holds for what is there already

        probe = QProbePolicy(
            "pairwise_logistic", hidden_layer_sizes=(256,), random_state=0
        )
        return Method(name, probe, {"alpha": NETWORK_ALPHAS}, siblings)
    # The loss of contrastive_policy_gradient is a sum over pairs.
    unit = train.y.shape[1] ** 2 / 2 if loss == "contrastive_policy_gradient" else 1
    grid = {"alpha": unit * np.array(plan.alphas)}
    return Method(name, QProbePolicy(loss), grid, siblings)


def make_peer(name, n_rows, plan):
    """Make a method of scikit-learn's or LightGBM's.

    Its penalty is brought to the unit of the probes, whose losses are means: Ridge
    minimises a sum of squares plus ``alpha |w|**2``, LogisticRegression ``C`` times a
    sum plus ``|w|**2 / 2``. `n_rows` counts all training prompts; the folds inside have
    fewer, which the steps of the grid are wide enough for.
    """
    alphas = np.array(plan.alphas)
    rates = {"estimator__learning_rate": plan.learning_rates}
    if name == "Ridge":
        return Method(name, OnRows(Ridge()), {"estimator__alpha": alphas * n_rows / 2})
    if name == "Ridge-centred":
        estimator = OnRows(Ridge(), centred=True)
        return Method(name, estimator, {"estimator__alpha": alphas * n_rows / 2})
    if name == "LogisticRegression":
        estimator = OnRows(LogisticRegression(max_iter=1000))
        return Method(name, estimator, {"estimator__C": 1 / (alphas * n_rows)})
    if name == "HistGradientBoostingRegressor":
        trees = HistGradientBoostingRegressor(
            max_iter=plan.n_trees,
            max_leaf_nodes=N_LEAVES,
            max_bins=N_BINS,
            early_stopping=False,
            random_state=0,
        )
        return Method(name, OnRows(trees), rates)
    from lightgbm import LGBMRanker

    ranker = LGBMRanker(
        n_estimators=plan.n_trees,
        num_leaves=N_LEAVES,
        max_bin=N_BINS,
        label_gain=list(range(MAX_LABEL + 1)),
        n_jobs=1,
        random_state=0,
        verbose=-1,
    )
    return Method(name, RankerOnRows(ranker), rates)


def reference_values(train, test):
    """Values by what needs no embedding, as name: array of shape (n_prompts, m)."""
    values = {"base": np.zeros(test.y.shape), "oracle": test.y}
    if test.lengths is not None:
        values |= {"longest": test.lengths, "shortest": -test.lengths}
    if test.models is not None and np.array_equal(test.models, train.models):
        values["best-model"] = np.tile(train.y.mean(axis=0), (len(test.y), 1))
    return values


def outer_splits(data):
    """Yield training data, test data, and the positions of the latter."""
    folds = GroupKFold(OUTER_FOLDS, shuffle=True, random_state=0)
    for train, test in folds.split(data.X, groups=data.groups):
        yield data.take(train), data.take(test), test


def rewards_by_k(y, values, ks):
    """Give the expected reward of each prompt's choice, exactly: (n_prompts, n_ks)."""
    return best_of_k_reward(y, values, ks, prompt_weight=np.eye(len(y)))


def random_sets(shape, k, n_sets):
    """Draw sets of k of each prompt's m candidates: (n_sets, n_prompts, k)."""
    rng = np.random.default_rng(0)
    return rng.random((n_sets, *shape)).argsort(axis=2)[..., :k]


def rewards_by_set(model, data, sets):
    """Give each prompt's reward in its sets, each valued by itself: their shape[:2]."""
    rewards = np.empty(sets.shape[:2])
    for number, some in enumerate(sets):
        X = np.take_along_axis(data.X, some[..., None], axis=1)
        y = np.take_along_axis(data.y, some, axis=1)
        rewards[number] = rewards_by_k(y, model.decision_function(X), y.shape[1])
    return rewards


def expected_rewards(model, data, ks, sets):
    """Give the expected reward of each prompt's choice: (n_prompts, n_ks).

    It is exact, but for the k that `sets` has random sets of: a mean over these.
    """
    rewards = rewards_by_k(data.y, model.decision_function(data.X), ks)
    for column, k in enumerate(ks):
        if k in sets:
            rewards[:, column] = rewards_by_set(model, data, sets[k]).mean(axis=0)
    return rewards


@dataclass
class Record:
    """Rewards by prompt and k, and how they came about, by fold."""

    rewards: np.ndarray
    settings: list = field(default_factory=list)
    seconds: list = field(default_factory=list)


def run_folds(splits, shape, chosen, ks, plan):
    """Tune, fit and choose, fold by fold.

    Returns
    -------
    learned, references : dict of Record
        By name, in the order of the table.
    left_out : dict of str
        Reasons, by method.
    """
    learned, references, left_out = {}, {}, {}
    unknown = np.full((shape[0], len(ks)), np.nan)
    sets = {k: random_sets(shape, k, plan.n_sets) for k in ks if k < shape[1]}
    for number, (train, test, where) in enumerate(splits, start=1):
        methods, reasons = make_methods(train, plan, chosen)
        left_out |= reasons
        for method in methods:
            some = {k: s[:, where] for k, s in sets.items() if method.compares}
            start = time.perf_counter()
            # The work is small: threads that wait for each other only cost time.
            with threadpool_limits(1):
                model = method.fit(train, max(ks), plan.inner_folds)
                fitted = time.perf_counter() - start
                rewards = expected_rewards(model, test, ks, some)
            record = learned.setdefault(method.name, Record(unknown.copy()))
            record.rewards[where] = rewards
            record.settings.append(short_names(getattr(model, "best_params_", {})))
            record.seconds.append(getattr(model, "refit_time_", fitted))
            spent = f"{method.name}, {time.perf_counter() - start:.0f} s"
            print(f"{test.name}, fold {number}: {spent}", file=sys.stderr)
        for name, values in reference_values(train, test).items():
            record = references.setdefault(name, Record(unknown.copy()))
            record.rewards[where] = rewards_by_k(test.y, values, ks)
    # A method may be undefined for the rewards of one fold alone.
    learned = {name: record for name, record in learned.items() if name not in left_out}
    return learned, references, left_out


def short_names(settings):
    """Name settings as the estimator inside the pipeline does."""
    return {name.split("__")[-1]: float(value) for name, value in settings.items()}


def mean_reward(rewards, groups=None, prompt_weight=None):
    """Average over prompts: a metric for `prompt_bootstrap`."""
    return prompt_weight @ rewards / prompt_weight.sum(axis=1)


def mean_recovery(rewards, base, oracle, groups=None, prompt_weight=None):
    """Share of the possible gain, of the means; NaN where there is none: a metric."""
    gain, possible = prompt_weight @ (rewards - base), prompt_weight @ (oracle - base)
    # Rounding leaves a little where k is 1.
    rounding = 1e-12 * np.abs(prompt_weight @ base)
    return gain / np.where(possible > rounding, possible, np.nan)


def measure(learned, references, column, n_resamples):
    """Make the rows of the table at one k, which has this column of the rewards."""
    options = {"n_resamples": n_resamples, "random_state": 0}
    everything = learned | references
    rewards = {name: record.rewards[:, column] for name, record in everything.items()}
    bounds = rewards["base"], rewards["oracle"]
    rows = []
    for name, record in everything.items():
        share = prompt_bootstrap(mean_recovery, rewards[name], *bounds, **options)
        row = {
            "method": name,
            "reward": interval(prompt_bootstrap(mean_reward, rewards[name], **options)),
            "recovery": interval(share) if np.isfinite(share.low) else None,
            "best_of_others": None,
            "difference": None,
            "seconds": float(np.mean(record.seconds)) if record.seconds else None,
            "settings": record.settings,
        }
        others = [other for other in learned if other != name]
        if others and name not in ("base", "oracle"):
            rival = max(others, key=lambda other: rewards[other].mean())
            less = rewards[name] - rewards[rival]
            row["best_of_others"] = rival
            row["difference"] = interval(prompt_bootstrap(mean_reward, less, **options))
        rows.append(row)
    return rows


def interval(estimate):
    """Make a dict of an estimate."""
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def evaluate(splits, data, chosen, ks, plan):
    """Measure all methods on one data set.

    Parameters
    ----------
    splits : iterable of (Data, Data, index)
        Training data, test data, and where the latter's prompts stand in `data`.
    data : Data
        What the figures are about.
    chosen : list of str or None
        Names of the methods; None for all.
    ks : list of int
        Numbers of candidates; settings are chosen at the largest.
    plan : Plan
        How much to try.

    Returns
    -------
    result : dict
        Ready for JSON.
    """
    start = time.perf_counter()
    learned, references, left_out = run_folds(splits, data.y.shape, chosen, ks, plan)
    n_prompts, m, d = data.X.shape
    return {
        "name": data.name,
        "n_prompts": n_prompts,
        "n_groups": len(np.unique(data.groups)),
        "n_candidates": m,
        "n_features": d,
        "left_out": left_out,
        "tables": {
            str(k): measure(learned, references, column, plan.n_resamples)
            for column, k in enumerate(ks)
        },
        "seconds": time.perf_counter() - start,
    }


def show(result):
    """Print the table of a data set."""
    print(
        "\n{name}: {n_prompts} prompts in {n_groups} groups, {n_candidates} candidates "
        "each, {n_features} features, {seconds:.0f} s".format(**result)
    )
    for name, reason in result["left_out"].items():
        print(f"left out: {name}: {reason}")
    for k, rows in result["tables"].items():
        print(
            f"\n{'k = ' + k:30}{'reward':22}{'recovery':24}"
            f"{'less the best of the others':31}{'seconds':>7}  settings"
        )
        for row in rows:
            print(format_row(row))
        rivals = dict.fromkeys(r["best_of_others"] for r in rows if r["best_of_others"])
        print(f"the best of the others: {', or '.join(rivals) or 'there are none'}")


def format_row(row):
    """Format a row of the table."""
    settings, seconds = {}, row["seconds"]
    for fold_scores in row["settings"]:
        for name, value in fold_scores.items():
            settings.setdefault(name, []).append(f"{value:.2g}")
    line = (
        f"{row['method']:30}{format_interval(row['reward'], ''):22}"
        f"{format_interval(row['recovery'], ''):24}"
        f"{format_interval(row['difference'], '+'):31}"
        f"{'' if seconds is None else f'{seconds:.2f}':>7}  "
    )
    line += ", ".join(f"{name} {' '.join(v)}" for name, v in settings.items())
    return line.rstrip()


def format_interval(figure, sign):
    if figure is None:
        return ""
    value, low, high = (format(figure[name], f"{sign}.3f") for name in figure)
    return f"{value} [{low}, {high}]"


def versions():
    found = {"python": platform.python_version(), "skqprobe": __version__}
    for package in ("numpy", "scipy", "scikit-learn", "torch", "lightgbm"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data")
    parser.add_argument("--only", nargs="+", choices=("two_words", *DATA_SETS))
    parser.add_argument("--train", type=Path, help="an .npz to tune and fit on")
    parser.add_argument("--test", type=Path, help="an .npz to measure on")
    parser.add_argument(
        "--key", nargs="+", default=["embeddings"], help="arrays of the embeddings"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--ks", nargs="+", type=int, default=[10, 48])
    parser.add_argument("--quick", action="store_true", help="fewer of everything")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    args = parser.parse_args(argv)
    if (args.train is None) != (args.test is None):
        parser.error("--train and --test go together")
    if args.train is not None and args.only is not None:
        parser.error(
            "--only is for the data sets of --data, not for --train and --test"
        )
    if min(args.ks) < 1:
        parser.error("--ks must be 1 or more")
    return args


def runs(args, plan):
    """Yield splits, what the figures are about and the largest k, by data set."""
    if args.train is not None:
        train = load(args.train, args.key, plan.max_prompts)
        test = load(args.test, args.key, plan.max_prompts)
        if train.X.shape[2] != test.X.shape[2]:
            raise SystemExit(
                f"--train has {train.X.shape[2]} features and --test has "
                f"{test.X.shape[2]}; they must be embeddings of the same kind."
            )
        yield [(train, test, slice(None))], test, min(train.y.shape[1], test.y.shape[1])
        return
    for name in args.only or ("two_words", *DATA_SETS):
        if name == "two_words":
            data = load_shipped().take(slice(plan.max_prompts))
            yield outer_splits(data), data, data.y.shape[1]
            continue
        path = args.data / f"{name}.npz"
        if path.exists():
            data = load(path, DATA_SETS[name], plan.max_prompts)
            yield outer_splits(data), data, data.y.shape[1]
        else:
            print(f"\n{name}: left out, there is no {path}")


def main(argv=None):
    args = parse_arguments(argv)
    plan = QUICK if args.quick else Plan()
    print(", ".join(f"{name} {number}" for name, number in versions().items()))
    if args.quick:
        print("--quick: the figures show that the script runs, and little else")
    results = []
    for splits, data, most in runs(args, plan):
        ks = sorted({min(k, most) for k in args.ks})
        results.append(evaluate(splits, data, args.methods, ks, plan))
        show(results[-1])
        if args.json is not None:
            out = {"versions": versions(), "plan": asdict(plan), "results": results}
            args.json.write_text(json.dumps(out, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
