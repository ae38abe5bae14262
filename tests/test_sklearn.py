"""The estimator checks of scikit-learn, and its callbacks and metadata routing."""

import subprocess
import sys

import numpy as np
import pytest
from cases import every_probe, values_of
from sklearn import config_context
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.metrics import check_scoring
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

from skqprobe import (
    AnswerVote,
    BayesianQProbePolicy,
    CalibratedPolicyCV,
    QProbePolicy,
    QProbePolicyCV,
    QProbeRegressor,
)
from skqprobe.losses import LOSSES
from skqprobe.preprocessing import PerCandidate, SiblingFeatures

PUBLIC = [
    QProbeRegressor(),
    # The rewards of the checks are outside [0, 1], which log_loss refuses.
    *(QProbePolicy(loss=loss) for loss in LOSSES if loss != "log_loss"),
    QProbePolicyCV(),
    QProbePolicyCV(["squared_error", "policy_gradient"], cv=2),
    BayesianQProbePolicy(),
    BayesianQProbePolicy("choice"),
    AnswerVote(QProbePolicy(temperature=1.0)),
    CalibratedPolicyCV(QProbePolicy()),
    CalibratedPolicyCV(QProbeRegressor(), "linear"),
    PerCandidate(StandardScaler()),
    PerCandidate(PCA()),
    SiblingFeatures(),
]


@pytest.mark.filterwarnings("ignore")  # the checks make bad input on purpose
@parametrize_with_checks(PUBLIC)  # no check is expected to fail
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@every_probe
def test_html_repr_links_to_the_documentation(Probe):
    api = "https://skqprobe.readthedocs.io/en/stable/api"
    assert f"{api}/skqprobe.{Probe.__name__}" in Probe()._repr_html_()


@every_probe
def test_tags(Probe):
    tags = get_tags(Probe())
    assert tags.input_tags.three_d_array
    assert tags.input_tags.two_d_array
    assert tags.target_tags.required
    assert not tags.input_tags.sparse
    assert tags.estimator_type == ("regressor" if Probe is QProbeRegressor else None)
    # A regressor of several targets would predict as many numbers per row.
    assert tags.target_tags.multi_output == (Probe is QProbePolicy)


@every_probe
def test_metadata_is_requested_by_default(Probe):
    with config_context(enable_metadata_routing=True):
        routing = Probe().get_metadata_routing()
        for method in ("fit", "score"):
            requests = getattr(routing, method).requests
            assert requests["groups"] is requests["sample_weight"] is True
        assert routing.score.requests["offset"] is True
        assert routing.predict.requests["offset"] is True


@pytest.mark.slow
def test_import_loads_no_heavy_package():
    code = (
        "import sys, skqprobe, skqprobe.preprocessing, skqprobe.datasets;"
        "heavy = {'torch', 'matplotlib', 'sentence_transformers', 'transformers',"
        " 'openai'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Callbacks, from scikit-learn 1.9 on


@pytest.fixture
def callback():
    return pytest.importorskip("sklearn.callback", reason="scikit-learn before 1.9")


NETWORK = {"hidden_layer_sizes": (8, 4), "max_iter": 5, "random_state": 1}
every_solver = pytest.mark.parametrize(
    "settings",
    [{"loss": "log_loss"}, {"loss": "squared_error"}, {"loss": "log_loss", **NETWORK}],
    ids=["lbfgs", "closed form", "network"],
)
pytestmark = pytest.mark.filterwarnings("ignore:The network did not converge")


def make(Probe, settings):
    if "hidden_layer_sizes" in settings:
        pytest.importorskip("torch", reason="torch is not installed")
    return Probe(**settings)


@every_solver
@every_probe
def test_scoring_monitor(callback, Probe, settings, sets):
    probe = make(Probe, settings)
    monitor = callback.ScoringMonitor(scoring={"score": check_scoring(probe)})
    probe.set_callbacks(monitor).fit(*sets)
    log = monitor.get_logs().data
    whole = [entry["score"] for entry in log if entry["task_name"] == "fit"]
    steps = [entry["score"] for entry in log if entry["task_name"] == "iteration"]
    assert len(steps) == probe.n_iter_
    assert whole == [steps[-1]] == [pytest.approx(probe.score(*sets))]
    values, again = values_of(probe, sets[0]), clone(probe).fit(*sets)
    assert values_of(again, sets[0]) == pytest.approx(values, abs=0)


def test_scoring_monitor_on_rows(callback, rows):
    X, y, groups = rows
    with config_context(enable_metadata_routing=True):
        scoring = {"reward": check_scoring(QProbePolicy())}
        monitor = callback.ScoringMonitor(scoring=scoring)
        policy = QProbePolicy().set_callbacks(monitor).fit(X, y, groups)
        last = monitor.get_logs().data[-1]["reward"]
        assert last == pytest.approx(policy.score(X, y, groups))


@every_probe
def test_progress_bar(callback, Probe, sets, capsys):
    pytest.importorskip("rich")
    Probe(solver="lbfgs").set_callbacks(callback.ProgressBar()).fit(*sets)
    printed = capsys.readouterr().out
    assert f"{Probe.__name__} - fit" in printed
    assert "100%" in printed


@every_probe
def test_callbacks_in_a_search(callback, Probe, sets, capsys):
    pytest.importorskip("rich")
    monitor = callback.ScoringMonitor(scoring={"score": check_scoring(Probe())})
    probe = Probe(solver="lbfgs").set_callbacks(monitor)
    search = GridSearchCV(probe, {"alpha": [1e-2, 1.0]}, cv=3)
    search.set_callbacks(callback.ProgressBar()).fit(*sets)
    assert "100%" in capsys.readouterr().out
    runs = {entry["parent_task_id_path"] for entry in monitor.get_logs().data}
    # 2 settings x 3 folds; the refit and the parents of the fits have other paths.
    assert sum(len(run) == 3 for run in runs) == 6


@pytest.mark.parametrize("loss", ["log_loss", "squared_error"])
def test_callbacks_of_a_policy_cv(callback, loss, sets, capsys):
    pytest.importorskip("rich")
    monitor = callback.ScoringMonitor(scoring={"score": check_scoring(QProbePolicy())})
    policy = QProbePolicyCV([loss, "pairwise_logistic"], alphas=[1e-2, 1e-3], cv=3)
    policy.set_callbacks(monitor, callback.ProgressBar()).fit(*sets)
    log = monitor.get_logs().data
    steps = [entry["score"] for entry in log if entry["task_name"] == "iteration"]
    assert len(steps) == policy.n_iter_
    # The ends of the refit, which is a subtask, and of the fit.
    whole = [entry["score"] for entry in log if entry["task_name"] in ("fit", "refit")]
    assert whole == [steps[-1]] * 2 == [pytest.approx(policy.score(*sets))] * 2
    printed = capsys.readouterr().out
    assert "QProbePolicyCV - fit" in printed and "refit" in printed
    assert clone(policy).fit(*sets).coef_ == pytest.approx(policy.coef_, abs=0)


@every_solver
@every_probe
def test_callbacks_of_several_objectives(callback, Probe, settings, sets, capsys):
    pytest.importorskip("rich")
    X, y = sets[0], np.stack([sets[1], 1 - sets[1], sets[0][..., 0] > 0], axis=-1)
    probe = make(Probe, {"tol": 1e-9} | settings)
    monitor = callback.ScoringMonitor(scoring={"score": check_scoring(probe)})
    probe.set_callbacks(monitor, callback.ProgressBar()).fit(X, y)
    log = monitor.get_logs().data
    steps = [entry["score"] for entry in log if entry["task_name"] == "iteration"]
    assert len(steps) >= probe.n_iter_
    assert steps[-1] == pytest.approx(probe.score(X, y))
    assert f"{Probe.__name__} - fit" in capsys.readouterr().out


@pytest.mark.parametrize("settings", [{}, NETWORK], ids=["linear", "network"])
def test_callback_can_stop_the_fit(callback, sets, settings):
    class Stopper:
        def setup(self, estimator, context): ...
        def teardown(self, estimator, context): ...
        def on_fit_task_begin(self, estimator, context): ...
        def on_fit_task_end(self, estimator, context):
            return context.task_name == "iteration" and context.task_id == 1

    policy = make(QProbePolicy, settings).fit(*sets)
    assert policy.n_iter_ > 2
    assert policy.set_callbacks(Stopper()).fit(*sets).n_iter_ == 2


def test_verbose_prints_a_decreasing_objective(sets, capsys):
    policy = QProbePolicy(verbose=1).fit(*sets)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == policy.n_iter_
    values = [float(line.rsplit(" ", 1)[1]) for line in lines]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]


# Metadata routing


@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite")
def test_search_on_rows_without_routing_warns(rows):
    X, y, groups = rows
    search = GridSearchCV(QProbePolicy(), {"alpha": [1e-2, 1.0]}, cv=GroupKFold(3))
    with pytest.warns(UserWarning, match="enable_metadata_routing=True"):
        search.fit(X, y, groups=groups)
    assert np.isnan(search.cv_results_["mean_test_score"]).all()
    with config_context(enable_metadata_routing=True):
        search.fit(X, y, groups=groups)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_groups_reach_the_splitter_of_sets(sets, rng):
    # Prompts of a group, such as those with the same first turn, stay together. The
    # estimator gets these groups as well, and ignores them.
    X, y = sets
    groups = rng.integers(0, 10, size=len(X))
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(QProbePolicy(), {"alpha": [1e-2]}, cv=GroupKFold(3))
        search.fit(X, y, groups=groups)
    folds = list(GroupKFold(3).split(X, y, groups))
    scores = [
        QProbePolicy(alpha=1e-2).fit(X[a], y[a]).score(X[b], y[b]) for a, b in folds
    ]
    assert search.best_score_ == pytest.approx(np.mean(scores))
