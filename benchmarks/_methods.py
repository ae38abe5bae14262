"""Methods of `reward.py`: probes and their peers, and the settings to choose from."""

import warnings
from dataclasses import dataclass, field
from importlib.util import find_spec

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy, make_probe_pipeline
from skqprobe.losses import LOSSES, get_loss
from skqprobe.metrics import best_of_k_scorer, candidate_values
from skqprobe.preprocessing import PerCandidate, SiblingFeatures

WITH_SIBLINGS = (
    "siblings+log_loss",
    "siblings+pairwise_logistic",
    "siblings+policy_gradient",
    "siblings+network",
)
WITHOUT_SEARCH = (
    "default",
    "recommended",
    "recommended-one-penalty",
    "recommended-by-score",
)
PEERS = (
    "Ridge",
    "Ridge-centered",
    "LogisticRegression",
    "HistGradientBoostingRegressor",
    "LGBMRanker",
)
METHODS = (*LOSSES, *WITH_SIBLINGS, *WITHOUT_SEARCH, *PEERS)
NETWORK_ALPHAS = (0.01, 0.1)
MAX_LABEL = 30
N_LEAVES = 15
N_BINS = 63


class OnRows(BaseEstimator):
    """Estimator of rows, for candidate sets.

    Parameters
    ----------
    estimator : estimator
        Estimator that is fitted to all candidates as rows.
    centered : bool, default=False
        Whether to subtract each prompt's mean reward from its rewards.
    """

    def __init__(self, estimator, centered=False):
        self.estimator = estimator
        self.centered = centered

    def fit(self, X, y):
        """Fit to all candidates."""
        if self.centered:
            y = y - y.mean(axis=1, keepdims=True)
        rows = X.reshape(-1, X.shape[2])
        self.estimator_ = clone(self.estimator).fit(rows, y.ravel())
        return self

    def decision_function(self, X):
        """Compute the value of each candidate, of shape (n_prompts, m)."""
        rows = X.reshape(-1, X.shape[2])
        with warnings.catch_warnings():
            # LightGBM invents names of features, and then warns that X has none.
            warnings.filterwarnings("ignore", "X does not have valid feature names")
            return candidate_values(self.estimator_, rows).reshape(X.shape[:2])


class RankerOnRows(OnRows):
    """LightGBM ranker, which needs integer labels and the sizes of the sets."""

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
    """Estimator of candidate sets, and its settings to choose from.

    Parameters
    ----------
    name : str
        Name in the table.
    estimator : estimator
        Last step of the pipeline, or the whole method if there is no grid.
    grid : dict
        Values to choose from, by parameter of the estimator.
    siblings : SiblingFeatures, default=None
        Step between the scaler and the estimator.
    """

    name: str
    estimator: BaseEstimator
    grid: dict = field(default_factory=dict)
    siblings: SiblingFeatures | None = None

    def search(self, k, n_folds):
        """Make the search by the reward at k, or the estimator if there is no grid."""
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
        """Choose the settings, if there are any, and fit."""
        model = self.search(k, n_folds)
        if not self.grid:
            return model.fit(train.X, train.y)
        return model.fit(train.X, train.y, groups=train.groups)

    @property
    def uses_siblings(self):
        """Whether the value of a candidate depends on the others."""
        steps = getattr(self.estimator, "named_steps", {}).values()
        return any(isinstance(s, SiblingFeatures) for s in (self.siblings, *steps))


def make_methods(train, plan, names=None):
    """Make methods for training prompts.

    Parameters
    ----------
    train : Data
        Training prompts.
    plan : Plan
        Settings to choose from.
    names : list of str, default=None
        Names of the methods; all of `METHODS` by default.

    Returns
    -------
    methods : list of Method
    left_out : dict of str
        Reasons, by name.
    """
    reasons = {name: reason_to_leave_out(name, train.y) for name in names or METHODS}
    methods = [make_method(n, train, plan) for n, why in reasons.items() if not why]
    return methods, {name: why for name, why in reasons.items() if why}


def reason_to_leave_out(name, y):
    """Return the reason why a method cannot be used for these rewards, or None."""
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
    if name.startswith("recommended"):
        pipeline = make_probe_pipeline(view_sizes=train.view_sizes)
        if name == "recommended-one-penalty":  # for all views, and for siblings
            pipeline.set_params(probe__view_weights=[1] * (len(train.view_sizes) + 1))
        if name == "recommended-by-score":
            pipeline.set_params(probe__select_alpha="score")
        return Method(name, pipeline)
    loss, siblings = name.removeprefix("siblings+"), None
    if loss != name:
        siblings = SiblingFeatures(view_sizes=train.view_sizes)
    if loss == "network":
        import torch  # noqa: F401 - a limit of threads applies to loaded libraries

        probe = QProbePolicy(
            "pairwise_logistic", hidden_layer_sizes=(256,), random_state=0
        )
        return Method(name, probe, {"alpha": NETWORK_ALPHAS}, siblings)
    return Method(name, QProbePolicy(loss), {"alpha": plan.alphas}, siblings)


def make_peer(name, n_rows, plan):
    """Make a method of scikit-learn or LightGBM.

    Its penalty is converted to the unit of the probes, whose losses are means: Ridge
    minimizes a sum of squares plus ``alpha |w|**2``, LogisticRegression ``C`` times a
    sum plus ``|w|**2 / 2``. `n_rows` counts all training prompts. The inner folds have
    fewer, which makes less difference than a step of the grid.
    """
    alphas = np.array(plan.alphas)
    rates = {"estimator__learning_rate": plan.learning_rates}
    if name == "Ridge":
        return Method(name, OnRows(Ridge()), {"estimator__alpha": alphas * n_rows / 2})
    if name == "Ridge-centered":
        estimator = OnRows(Ridge(), centered=True)
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
