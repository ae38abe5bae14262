"""Bad input: the message of the error, and the state of the estimator after it.

A message names the argument, says what is wrong with it and, where this is not
obvious, what to do. A method that raises an error leaves its estimator unchanged.
"""

import copy
import datetime
import re
import sys
from decimal import Decimal
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from cases import (
    LEAST_SQUARES,
    PAIRWISE,
    SHIFT_INVARIANT,
    WITH_INTERCEPT,
    every_loss,
    every_probe,
)
from estimators import assert_refused
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.preprocessing import StandardScaler

from skqprobe import (
    QProbePolicy,
    QProbePolicyCV,
    QProbeRegressor,
    make_probe_pipeline,
    sample_candidates,
)
from skqprobe.embedders import LikelihoodEmbedder, flatten_records
from skqprobe.embedders._cache import text_keys
from skqprobe.generators import BaseGenerator, collect
from skqprobe.losses import LOSSES, LogLoss, PolicyGradient, SquaredError
from skqprobe.metrics import base_reward, best_of_k_reward
from skqprobe.preprocessing import PerCandidate, SiblingFeatures

NOT_FINITE = pytest.mark.parametrize(
    "value, word", [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")]
)
every_regression_loss = pytest.mark.parametrize("loss", WITH_INTERCEPT)
ROUTING = (
    r"^X has rows but no groups were given.*Pass groups, one prompt label per row\. In"
    r".*enable_metadata_routing=True\)\. .* call search\.best_estimator_\.predict\(X, "
    r"groups=groups\)\..*=sklearn\.metrics\.check_scoring\(QProbePolicy\(\)\)\.$"
)
ONLY_NUMBERS = "could not convert string to float"


def spoiled(array, place, value):
    array = array.copy()
    array[place] = value
    return array


def named(X):
    pd = pytest.importorskip("pandas")
    return pd.DataFrame(X, columns=[f"column {i}" for i in range(X.shape[1])])


@cache
def fitted(Probe, with_names):
    """A probe that was fitted to 4 features."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(24, 4)), rng.integers(0, 2, size=24)
    return Probe().fit(named(X) if with_names else X, y, np.repeat(np.arange(8), 3))


def assert_fit_refused(probe, words, *args, error=ValueError, **kwargs):
    """Check the error of a first fit, and of a fit that follows another one."""
    assert_refused(probe.fit, words, *args, error=error, **kwargs)
    for with_names in (False, True):
        again = copy.deepcopy(fitted(type(probe), with_names))
        again.set_params(**probe.get_params(deep=False))
        assert_refused(again.fit, words, *args, error=error, **kwargs)


def methods_of(probe, *y):
    """Bound methods that take X first, with their further arguments."""
    yield from [(probe.predict, ()), (probe.sample, ()), (probe.score, y)]
    if isinstance(probe, QProbePolicy):
        yield from [(probe.decision_function, ()), (probe.predict_proba, ())]


# X


@every_probe
@NOT_FINITE
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_embeddings_not_finite(sets, rows, Probe, value, word, dtype):
    X, y = sets
    X = spoiled(X.astype(dtype), (7, 2, 1), value)
    words = rf"^Input X contains {word}.* The first is X\[7, 2, 1\]\..*float16\. Embed"
    assert_fit_refused(Probe(), words, X, y)
    for method, more in methods_of(Probe().fit(X[:7], y[:7]), y):
        assert_refused(method, words, X, *more)
    X, y, groups = rows
    X = spoiled(X.astype(dtype), (31, 3), value)
    words = rf"X contains {word}.*X\[31, 3\]"
    assert_fit_refused(Probe(), words, X, y, groups)


def test_embeddings_not_finite_in_a_later_block(monkeypatch, sets):
    # X is read block by block; the index is counted from the start of X.
    X, y = sets
    monkeypatch.setattr("skqprobe._arrays.blocks.BLOCK_BYTES", 10 * 4 * 8)
    X = spoiled(X, (50, 3, 2), np.nan)
    with pytest.raises(ValueError, match=r"X\[50, 3, 2\]"):
        QProbePolicy().fit(X, y)


RAGGED = (
    r"^X could not be .*same number of candidates for every prompt.*pass rows, X of "
    r"shape \(n_rows, n_features\), with groups"
)
BAD_EMBEDDINGS = {
    "1-D": (lambda X: X[0, 0], "Expected 2D array, got 1D"),
    "4-D": (
        lambda X: X[None],
        r"^X has 4 dimensions; candidate sets have 3.* and rows have 2, "
        r"\(n_rows, n_features\)\.$",
    ),
    "scalar": (lambda X: 3.0, "Expected 2D array, got scalar"),
    "no candidates": (lambda X: X[:, :0], "X has 60 prompts with 0 candidates"),
    "no prompts": (lambda X: X[:0], "X has 0 prompts with 6.* least one pro"),
    "no features": (lambda X: X[:, :, :0], r"0 feature\(s\).*minimum of 1"),
    "ragged list": (lambda X: [X[0, :1].tolist(), X[1, :2].tolist()], RAGGED),
    "ragged list of arrays": (lambda X: [X[0, :1], X[1, :2], X[2, :3]], RAGGED),
    "complex": (lambda X: X + 1j, "Complex data not supported"),
    "string": (lambda X: np.full(X.shape, "good"), ONLY_NUMBERS + ".*good"),
    "object": (lambda X: np.full(X.shape, "good", object), ONLY_NUMBERS + ".*good"),
}


@every_probe
@pytest.mark.parametrize("change, words", BAD_EMBEDDINGS.values(), ids=BAD_EMBEDDINGS)
def test_bad_embeddings(sets, Probe, change, words):
    X, y = sets
    assert_fit_refused(Probe(), words, change(X), y)
    assert_refused(Probe().fit(X, y).predict, words, change(X))


@every_probe
def test_no_rows(rows, Probe):
    X, y, groups = rows
    assert_fit_refused(Probe(), r"0 sample\(s\)", X[:0], y[:0], groups[:0])


@every_probe
@pytest.mark.parametrize("container", [sp.csr_array, sp.coo_array, sp.csc_matrix])
def test_sparse_embeddings(rows, Probe, container):
    X, y, groups = rows
    words = r"Sparse data was passed for X, but dense data is required.*toarray"
    assert_fit_refused(Probe(), words, container(X), y, groups, error=TypeError)
    predict = Probe().fit(X, y, groups).predict
    assert_refused(predict, words, container(X), error=TypeError)


@every_probe
def test_another_number_of_features(sets, Probe):
    X, y = sets
    words = rf"X has 3 features, but {Probe.__name__} is expecting 4 features"
    probe = Probe().fit(X, y)
    for method, more in methods_of(probe, y):
        assert_refused(method, words, X[..., :3], *more)
    for method, more in methods_of(probe, y[:, 0]):
        assert_refused(method, words, X[:, 0, :3], *more)
    fit = probe.set_params(warm_start=True).fit
    assert_refused(fit, "warm_start=True: X has 3 features", X[..., :3], y)


# y


@every_probe
@NOT_FINITE
def test_rewards_not_finite(sets, rows, Probe, value, word):
    X, y = sets
    words, bad = f"y contains {word}", spoiled(y, (3, 1), value)
    assert_fit_refused(Probe(), words, X, bad)
    assert_refused(Probe().fit(X, y).score, words, X, bad)
    X, y, groups = rows
    assert_fit_refused(Probe(), words, X, spoiled(y, 3, value), groups)


@pytest.mark.parametrize("value", [-0.25, 1.5])
@pytest.mark.parametrize(
    "probe",
    [QProbeRegressor("log_loss"), QProbePolicy("log_loss"), QProbePolicy(LogLoss())],
    ids=repr,
)
def test_rewards_outside_of_log_loss(sets, probe, value):
    X, y = sets[0], spoiled(sets[1], (0, 0), value)
    words = (
        rf"^y must lie in \[0, 1\] for loss='log_loss'.*from {y.min():g} to "
        rf"{y.max():g}.* Rescale the rewards, or use a loss that takes any, such as "
        r"'squared_error' or 'policy_gradient'\.$"
    )
    assert_fit_refused(probe, words, X, y)
    QProbePolicy().fit(X, y)  # the other losses take any reward


BAD_SHAPES = {
    "fewer candidates": (lambda y: y[:, :5], r"\(60, 5\)"),
    "fewer prompts": (lambda y: y[:59], r"\(59, 6\)"),
    "flat": (lambda y: y.ravel(), r"\(360,\)"),
    "one per prompt": (lambda y: y[:, 0], r"\(60,\)"),
    "transposed": (lambda y: y.T, r"\(6, 60\)"),
    "4-D": (lambda y: y[..., None, None], r"\(60, 6, 1, 1\)"),
    "objectives of fewer": (lambda y: y[:59, :, None], r"\(59, 6, 1\)"),
    "no objective": (lambda y: y[..., None][..., :0], r"\(60, 6, 0\)"),
}


@every_probe
@pytest.mark.parametrize("change, shape", BAD_SHAPES.values(), ids=BAD_SHAPES)
def test_rewards_of_the_wrong_shape_for_sets(sets, Probe, change, shape):
    X, y = sets
    words = rf"y has shape {shape}, but X holds 60 sets of 6.*must have shape \(60, 6\)"
    assert_fit_refused(Probe(), words, X, change(y))
    assert_refused(Probe().fit(X, y).score, words, X, change(y))


@pytest.mark.parametrize(
    "model",
    [
        *(QProbePolicy(), QProbePolicyCV(cv=2), QProbeRegressor()),
        *(SiblingFeatures(), PerCandidate(StandardScaler()), make_probe_pipeline()),
    ],
    ids=lambda model: type(model).__name__,
)
def test_texts_instead_of_embeddings(model):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"prompt": ["p", "q"], "completion": ["a", "b"]})
    message = ONLY_NUMBERS + ": .*If X holds texts, embed them .* skqprobe.embedders"
    for X in (frame, frame.to_numpy().tolist()):
        with pytest.raises(ValueError, match=message):
            model.fit(X, [0.0, 1.0])
    records = [{"prompt": "p", "completions": ["a", "b"]}]
    with pytest.raises(TypeError, match=r"not 'dict'\. If X holds texts, embed them"):
        QProbePolicy().fit([records], [[0.0]])


def test_hint_to_leave_out_what_has_no_number(sets, rows):
    X, y, groups = rows
    message = r"Input y contains NaN\. The first is y\[3\]\. Leave the row out, or set "
    message += r"missing='ignore'\.$"
    assert_fit_refused(QProbePolicy(), message, X, spoiled(y, 3, np.nan), groups)
    X, y = sets
    message = (
        r"is y\[3, 1\]\. Leave the candidate out, as rows with groups, or set miss"
    )
    assert_fit_refused(QProbePolicy(), message, X, spoiled(y, (3, 1), np.nan))
    message = r"is sample_weight\[3\]\. A weight of 0 leaves a prompt or candidate out"
    with pytest.raises(ValueError, match=message):
        QProbePolicy().fit(X, y, sample_weight=spoiled(np.ones(len(y)), 3, np.nan))


@every_probe
def test_rewards_of_the_wrong_shape_for_rows(rows, Probe):
    X, y, groups = rows
    words = rf"y has shape \({len(y) - 1},\), but X holds {len(y)} rows"
    assert_fit_refused(Probe(), words, X, y[:-1], groups)
    assert_refused(Probe().fit(X, y, groups).score, words, X, y[:-1], groups)
    words = rf"y has shape \({len(y) - 1}, 2\).*shape \({len(y)},\), or \({len(y)}, n_o"
    assert_fit_refused(Probe(), words, X, np.column_stack([y, y])[1:], groups)
    words = rf"y has shape \({len(y)}, 1, 1\)"
    assert_fit_refused(Probe(), words, X, y[:, None, None], groups)


@every_probe
@pytest.mark.parametrize(
    "y, words",
    [
        (None, r"requires y to be passed, but the target y is None\. .*np\.tile\(\[1"),
        ("rewards", "y must hold real numbers; got 'rewards'"),
        ([["good", "bad"]] * 60, "y must hold real numbers; got 'good'"),
        (np.ones((60, 6)) * 1j, "Complex data not supported"),
    ],
)
def test_rewards_that_are_no_numbers(sets, Probe, y, words):
    assert_fit_refused(Probe(), words, sets[0], y)
    if y is None:
        assert_fit_refused(Probe(), words, named(sets[0][:, 0]), y)


@pytest.mark.parametrize(
    "y, words",
    [
        ([[1.0, 2.0], [3.0]], r"pass rows, y of shape \(n_rows,\), with gr"),
        (np.empty((0, 3)), r"^There are no candidates: the shape is \(0, 3\)\.$"),
    ],
    ids=["ragged", "no prompts"],
)
def test_bad_rewards_of_a_metric(y, words):
    with pytest.raises(ValueError, match=words):
        base_reward(y)


# groups


def with_label(label):
    return lambda groups: [*groups[:5].tolist(), label, *groups[6:].tolist()]


def with_missing(missing, other, dtype):
    return lambda g: np.where(np.arange(len(g)) == 5, missing, other).astype(dtype)


UNLABELED = "groups contains NaN; every row needs"
BAD_GROUPS = {
    "shorter": (lambda g: g[:-1], r"^groups has \d+ labels, but X has \d+ rows; pass"),
    "None": (with_label(None), "groups contains None"),
    "nan": (with_label(np.nan), "groups contains nan"),
    "Decimal": (with_label(Decimal("NaN")), "groups contains .*NaN"),
    "numpy NaT": (with_label(np.datetime64("NaT", "s")), "groups contains .*NaT"),
    "float NaN": (
        with_missing(np.nan, 1.0, float),
        f"{UNLABELED} the label of a prompt",
    ),
    "datetime64": (with_missing("NaT", "2024", "M8[D]"), UNLABELED),
    "object array": (
        lambda g: np.array(with_label(None)(g), dtype=object),
        "groups contains None",
    ),
    "a list": (with_label(["a"]), "groups must .*hashable.*list"),
    "nested": (lambda g: [[label] for label in g], "groups must .*hashable"),
    "2-D": (lambda g: np.array(g)[:, None], r"groups must be 1-dim.*, 1\)"),
    "0-D": (lambda g: np.array("a"), r"groups must be 1-dim.*\(\)"),
    "str": (lambda g: "a" * len(g), "groups must be array-like"),
    "bytes": (lambda g: b"a" * len(g), "groups must be array-like"),
    "int": (lambda g: 3, "^groups must be array-like, with .* per row; got int"),
    "generator": (
        lambda g: (label for label in g),
        "groups must be array-like.*generator",
    ),
}


@every_probe
@pytest.mark.parametrize("change, words", BAD_GROUPS.values(), ids=BAD_GROUPS)
def test_bad_groups(rows, Probe, change, words):
    X, y, groups = rows
    assert_fit_refused(Probe(), words, X, y, change(groups))
    probe = Probe().fit(X, y, groups)
    assert_refused(probe.sample, words, X, change(groups))
    assert_refused(probe.score, words, X, y, change(groups))


@pytest.mark.parametrize(
    "dtype", ["object", "string", "Int64", "category", "datetime64[ns]"]
)
def test_missing_groups_in_pandas(rows, dtype):
    pd = pytest.importorskip("pandas")
    X, y, _ = rows
    label = {"Int64": 1, "datetime64[ns]": datetime.datetime(2024, 1, 1)}.get(
        dtype, "a"
    )
    series = pd.Series([label] * len(y), dtype=dtype)
    lists = [with_label(missing)(series) for missing in (None, pd.NA, pd.NaT)]
    series[5] = None  # stored as the missing value of the dtype
    for bad in (series, *lists):
        with pytest.raises(ValueError, match=r"groups contains .*; every row needs"):
            QProbePolicy().fit(X, y, bad)


@pytest.mark.parametrize("label", ["a", 1, 1.5])
def test_missing_groups_in_polars(rows, label):
    pl = pytest.importorskip("polars")
    X, y, groups = rows
    labels = pl.Series([*[label] * (len(groups) - 1), None])
    with pytest.raises(ValueError, match=r"groups contains .*; every row needs"):
        QProbePolicy().fit(X, y, labels)


@every_probe
@pytest.mark.parametrize(
    "groups, words",
    [
        (np.arange(59), "groups has 59 labels, but X has 60 prompts"),
        ([None] * 60, "groups contains None"),
        (np.ones((60, 6)), r"groups must be 1-dimensional.*\(60, 6\)"),
    ],
    ids=["shorter", "None", "2-D"],
)
def test_bad_groups_of_sets(sets, Probe, groups, words):
    assert_fit_refused(Probe(), words, *sets, groups)


# sample_weight

BAD_WEIGHTS = {
    "negative": (-np.ones(60), "^sample_weight has negative values"),
    "one negative": (
        spoiled(np.ones((60, 6)), (1, 1), -1e-9),
        r"sample_weight has negative .* number of copies, and must be 0 or more\.$",
    ),
    "zero": (
        np.zeros(60),
        r"^sample_weight is zero everywhere; nothing is left to use\.$",
    ),
    "zero, candidates": (np.zeros((60, 6)), "sample_weight is zero"),
    "length": (np.ones(59), r"sample_weight has shape \(59,\).*\(60,\) or \(60, 6\)"),
    "flat": (np.ones(360), r"sample_weight has shape \(360,\).*\(60, 6\)"),
    "transposed": (np.ones((6, 60)), r"sample_weight has shape \(6, 60\)"),
    "2-D": (np.ones((60, 1)), r"sample_weight has shape \(60, 1\)"),
    "3-D": (np.ones((60, 6, 1)), r"sample_weight has shape \(60, 6, 1\)"),
    "NaN": (spoiled(np.ones(60), 4, np.nan), "sample_weight contains NaN"),
    "inf": (spoiled(np.ones(60), 4, np.inf), "sample_weight contains inf"),
    "tiny": (np.full(60, 1e-200), "sample_weight has numbers .* too small"),
    "str": (["heavy"] * 60, "sample_weight must hold real numbers; got 'heavy'"),
    "negative number": (-1.0, "sample_weight has negative"),
    "number zero": (0.0, "sample_weight is zero everywhere"),
}


@every_probe
@pytest.mark.parametrize("weight, words", BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_bad_weights(sets, Probe, weight, words):
    X, y = sets
    assert_fit_refused(Probe(), words, X, y, sample_weight=weight)
    assert_refused(Probe().fit(X, y).score, words, X, y, sample_weight=weight)


@every_probe
def test_bad_weights_of_rows(rows, Probe):
    X, y, groups = rows
    n, n_prompts = len(y), len(np.unique(groups))
    words = rf"sample_weight has shape \({n_prompts},\); it must have shape \({n},\)"
    for labels in (groups, None):  # weights of prompts are not for rows
        for weight, message in [
            (np.ones(n_prompts), words),
            (-y, "sample_weight has negative"),
            (0 * y, "sample_weight is zero everywhere"),
        ]:
            probe = Probe("squared_error")
            assert_fit_refused(probe, message, X, y, labels, sample_weight=weight)


# Parameters


@every_probe
@pytest.mark.parametrize("temperature", [-1, -1e-9, np.nan, "hot", None, [1.0], 1j])
def test_bad_temperature(sets, Probe, temperature):
    X, y = sets
    words = f"'temperature' parameter of {Probe.__name__}"
    assert_fit_refused(Probe(temperature=temperature), words, X, y)
    # Only fit validates parameters; the methods that read the temperature check it.
    probe = Probe().fit(X, y).set_params(temperature=temperature)
    words = r"temperature must be a number of 0 or more .*got"
    assert_refused(probe.sample, words, X)
    if Probe is QProbePolicy:
        assert_refused(probe.predict_proba, words, X)
        assert_refused(probe.score, words, X, y)
    probe.predict(X)  # does not read it


BAD_PARAMETERS = {
    "alpha": [-1e-3, np.nan, np.inf, "auto"],
    "max_iter": [0, 10.0],
    "tol": [0, -1e-4, np.nan],
    "fit_intercept": ["yes"],
    "n_candidates": [0, 2.5],
    "hidden_layer_sizes": [256, None],
    "solver": ["adam"],
    "warm_start": [2],
    "random_state": [-1, "0", np.random.default_rng(0)],
    "verbose": [-1],
    # A loss is a name or an instance, not a class or a function.
    "loss": ["hinge", None, 3, object(), SquaredError, lambda scores, rewards: 0.0],
}


@every_probe
@pytest.mark.parametrize("name", BAD_PARAMETERS)
def test_bad_parameters(sets, Probe, name):
    words = f"The '{name}' parameter of {Probe.__name__} must be"
    for value in BAD_PARAMETERS[name]:
        assert_fit_refused(Probe(**{name: value}), words, *sets)


def test_names_of_losses_are_in_the_message(sets):
    with pytest.raises(ValueError, match="'loss'") as caught:
        QProbePolicy("unknown").fit(*sets)
    assert all(f"'{name}'" in str(caught.value) for name in LOSSES)
    assert "BaseLoss" in str(caught.value)


@pytest.mark.parametrize("loss", [*SHIFT_INVARIANT, SquaredError(), PolicyGradient()])
def test_losses_that_are_not_for_the_regressor(sets, loss):
    words = "'loss' parameter of QProbeRegressor"
    assert_fit_refused(QProbeRegressor(loss), words, *sets)


@every_probe
@pytest.mark.parametrize(
    "sizes", [(0,), (256, -1), [8.0], ["8"], np.array([[8]]), (None,)]
)
def test_bad_sizes_of_hidden_layers(sets, Probe, sizes):
    words = r"hidden_layer_sizes must hold integers of 1 or more.*\(256,\)"
    assert_fit_refused(Probe(hidden_layer_sizes=sizes), words, *sets)
    # An empty container of any type means a linear probe.
    Probe(hidden_layer_sizes=sizes[:0]).fit(*sets)


@every_probe
@pytest.mark.parametrize("solver", ["closed_form", "lbfgs"])
def test_solvers_of_linear_probes_only(sets, Probe, solver):
    probe = Probe("squared_error", hidden_layer_sizes=(8,), solver=solver)
    words = rf"solver='{solver}' fits linear.*hidden_layer_sizes=\(8,\).*'auto'"
    assert_fit_refused(probe, words, *sets)


@every_loss
def test_solver_closed_form_is_not_for_every_loss(sets, loss):
    policy = QProbePolicy(loss, solver="closed_form")
    if loss in LEAST_SQUARES:
        policy.fit(*sets)
    else:
        words = rf"solver='closed_form'.*loss='{loss}'.*lbfgs"
        assert_fit_refused(policy, words, *sets)


@every_probe
def test_not_fitted(sets, Probe):
    X, y = sets
    for method, more in methods_of(Probe(), y):
        words = f"{Probe.__name__} .* not fitted yet"
        assert_refused(method, words, X, *more, error=NotFittedError)


# Torch is not installed


@every_probe
def test_hidden_layers_without_torch(sets, Probe, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"hidden layers needs torch: pip install"):
        Probe(hidden_layer_sizes=(8,)).fit(*sets)
    Probe().fit(*sets)


def test_likelihood_embedder_without_torch(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install \"skqprobe\[transformers\]\""):
        LikelihoodEmbedder(tmp_path).fit([("a", "b")])


# No prompt is informative; see also the tests of one candidate and of equal rewards
# in test_numbers.py


@pytest.mark.parametrize("loss", PAIRWISE)
def test_prompts_without_a_pair_are_skipped(sets, loss):
    X, y = sets
    y[:7] = [[0.0], [1.0], [0.0], [0.5], [0.0], [-3.0], [0.0]]
    y[7:, 0], y[7:, 1] = 0, 1
    policy = QProbePolicy(loss, tol=1e-8).fit(X, y)
    assert policy.n_skipped_prompts_ == 7
    # They do not count in the mean loss either: the fit is that of the others.
    others = QProbePolicy(loss, tol=1e-8).fit(X[7:], y[7:])
    # The minimization of the hinge ends early, at a kink: fewer digits agree.
    rtol = 1e-2 if loss == "pairwise_hinge" else 1e-6
    np.testing.assert_allclose(policy.coef_, others.coef_, rtol=rtol, atol=rtol / 10)
    assert others.n_skipped_prompts_ == 0
    # They count in the score of the policy.
    assert policy.score(X[5:6], y[5:6]) == pytest.approx(-3)


@pytest.mark.parametrize("loss", SHIFT_INVARIANT)
def test_training_sets_of_one_candidate(sets, loss):
    words = rf"No prompt .*loss={re.escape(repr(LOSSES[loss]()))}.*two candid"
    with pytest.warns(UserWarning, match=words):
        QProbePolicy(loss, n_candidates=1).fit(*sets)


@pytest.mark.parametrize("loss", SHIFT_INVARIANT)
def test_rows_without_groups(rows, loss):
    X, y, groups = rows
    with pytest.warns(UserWarning, match=ROUTING):
        policy = QProbePolicy(loss).fit(X, y)
    # All rows are not taken for one prompt.
    np.testing.assert_array_equal(policy.coef_, 0)
    with pytest.warns(UserWarning, match=ROUTING):
        assert np.isnan(policy.score(X, y))
    assert 0 <= policy.score(X, y, groups) <= 1


@pytest.mark.filterwarnings("ignore::UserWarning")  # that there are no groups
def test_rows_without_groups_in_a_search(rng):
    X, y = rng.normal(size=(12, 2)), rng.normal(size=12)
    search = QProbePolicyCV(["contrastive_policy_gradient"], alphas=[1.0], cv=3)
    np.testing.assert_array_equal(search.fit(X, y).coef_, [0, 0])


@every_regression_loss
def test_rows_without_groups_are_enough_to_regress(rows, loss):
    X, y, _ = rows
    model = QProbeRegressor(loss, alpha=0.01).fit(X, y)  # without a warning
    assert model.score(X, y) > 0.1
    policy = QProbePolicy(loss, alpha=0.01).fit(X, y)
    np.testing.assert_array_equal(policy.coef_, model.coef_)


# Unusual input of embedders and generators


def test_cache_keys_of_settings_of_numpy_types():
    keys = [text_keys({"layer": layer}, ["a"]) for layer in (3, np.int64(3))]
    assert keys[0] == keys[1] != text_keys({"layer": np.int64(4)}, ["a"])
    assert text_keys({"model": Path("a")}, ["a"]) != text_keys({"model": None}, ["a"])


def test_chat_messages_in_an_array():
    # Such as a data frame has that was read from a file.
    messages = [{"role": "user", "content": "Hi"}]
    record = {"prompt": np.array(messages, dtype=object), "completions": ["Ho"]}
    assert flatten_records([record])[0] == [(messages, "Ho")]


def shout(text):
    return text.upper()


class Parrot(BaseGenerator):
    def __init__(self, folder=None, times=1, change=None, progress=False):
        self.folder, self.times, self.change = folder, times, change
        self.progress = progress

    def sample(self, prompt, k):
        return {"prompt": prompt, "completions": [prompt * self.times] * k}


def test_records_are_found_by_settings_without_a_json_type(tmp_path):
    call = {"reward": lambda item, completion: 1, "k": 2, "path": tmp_path / "records"}
    first = collect(["x"], Parrot(Path("a"), np.int64(2), shout), **call)

    class Silent(Parrot):
        def sample(self, prompt, k):
            raise AssertionError("the records are in the file")

    Silent.__name__ = "Parrot"
    assert collect(["x"], Silent("a", 2, shout), **call) == first


# Containers that numpy reads by accident


class DaskLike:
    """A collection that numpy would load as a whole, as a Dask array."""

    def __init__(self, values):
        self.values, self.shape, self.ndim = values, values.shape, values.ndim
        self.dtype = values.dtype

    def __dask_graph__(self):
        return {}

    def __len__(self):
        return len(self.values)

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("loaded as a whole")


def as_masked(values):
    return np.ma.array(values, mask=np.arange(values.size).reshape(values.shape) == 1)


def calls_that_take_arrays(X, y, groups, weight):
    """Calls of each kind, as (name of the argument, function of it, the argument)."""
    policy, probe = QProbePolicy().fit(X, y, groups), QProbeRegressor().fit(X, y)
    scaler = PerCandidate(StandardScaler())
    for fitted in (policy, probe, QProbePolicyCV(cv=2)):
        yield "X", lambda X, e=fitted: e.fit(X, y, groups), X
        yield "y", lambda y, e=fitted: e.fit(X, y, groups), y
        yield "groups", lambda groups, e=fitted: e.fit(X, y, groups), groups
        yield (
            "sample_weight",
            lambda w, e=fitted: e.fit(X, y, groups, sample_weight=w),
            weight,
        )
    yield "X", lambda X: policy.predict(X, groups), X
    yield "X", policy.decision_function, X
    yield "groups", lambda groups: policy.score(X, y, groups), groups
    yield "X", probe.predict, X
    yield "X", lambda X: SiblingFeatures().fit(X, groups=groups), X
    yield "X", scaler.fit, X
    yield "X", scaler.fit_transform, X[None]
    yield "X", scaler.fit(X).transform, X
    sets = X.reshape(8, 3, 4)
    yield "sample_weight", lambda w: scaler.fit(sets, sample_weight=w), weight[:8]
    yield "y", lambda y: base_reward(y, groups), y
    yield "scores", lambda scores: best_of_k_reward(y, scores, 1, groups), y
    yield "groups", lambda groups: base_reward(y, groups), groups
    yield "prompt_weight", lambda w: base_reward(y, groups, prompt_weight=w), weight[:8]
    yield "proba", lambda proba: sample_candidates(proba, groups), np.full(24, 1 / 3)


@pytest.fixture
def candidates(rng):
    X, y = rng.normal(size=(24, 4)), rng.integers(0, 2, size=24).astype(float)
    return X, y, np.repeat(np.arange(8), 3), np.ones(24)


@pytest.mark.parametrize("make", [as_masked, DaskLike])
def test_masked_and_dask_arrays_are_refused(candidates, make):
    words = {as_masked: "is a masked array", DaskLike: "is a Dask collection"}[make]
    for name, call, values in calls_that_take_arrays(*candidates):
        with pytest.raises(ValueError, match=f"^{name} {words}"):
            call(make(values))


def test_a_mask_that_hides_nothing_is_no_mask(candidates):
    X, y, groups, _ = candidates
    plain = QProbePolicy().fit(X, y, groups)
    masked = QProbePolicy().fit(*map(np.ma.array, (X, y, groups)))
    np.testing.assert_array_equal(plain.coef_, masked.coef_)


def test_bfloat16_tensors_are_converted_to_float32(candidates):
    torch = pytest.importorskip("torch")
    for name, call, values in calls_that_take_arrays(*candidates):
        if name == "groups" or name == "proba":
            continue
        short = torch.from_numpy(values).to(torch.bfloat16)
        found, expected = call(short), call(short.float().numpy())
        for attribute in ("coef_", "scales_"):
            if hasattr(found, attribute):
                found, expected = (getattr(x, attribute) for x in (found, expected))
                assert found.dtype == expected.dtype
        if not isinstance(found, BaseEstimator):
            np.testing.assert_array_equal(found, expected)
    X, y, groups, _ = candidates
    both = (torch.from_numpy(v).to(torch.bfloat16) for v in (X, y))
    fitted = QProbePolicy().fit(*both, groups)
    assert fitted.coef_.dtype == np.float32


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_numbers_that_are_not_finite_are_located(candidates, value, word):
    X, y, groups, weight = candidates
    pattern = f"^Input {{}} contains {word}.* The first is {{}} .*(Leave the|out)"

    def check(name, index, call, *arguments, **keywords):
        with pytest.raises(ValueError, match=pattern.format(name, re.escape(index))):
            call(*arguments, **keywords)

    bad = spoiled(spoiled(y, 17, value), 20, -value)
    for probe in (QProbePolicy(), QProbeRegressor(), QProbePolicyCV(cv=2)):
        check("y", "y[17].", probe.fit, X, bad, groups)
        sets = X.reshape(8, 3, 4), bad.reshape(8, 3)
        check("y", "y[5, 2].", probe.fit, *sets)  # prompt, candidate
        weight = spoiled(np.ones((8, 3)), (2, 1), value)
        arguments = sets[0], y.reshape(8, 3)
        check(
            "sample_weight",
            "sample_weight[2, 1].",
            probe.fit,
            *arguments,
            sample_weight=weight,
        )
    check("y", "y[17].", base_reward, bad, groups)
    scores = bad.reshape(8, 3)
    check("scores", "scores[5, 2].", best_of_k_reward, y.reshape(8, 3), scores, 2)


def test_masked_arrays_in_lists_are_refused(candidates):
    X, y, groups, _ = candidates
    masked = [as_masked(row) for row in X]
    with pytest.raises(ValueError, match=r"X\[0\] is a masked array"):
        QProbePolicy().fit(masked, y, groups)
    with pytest.raises(ValueError, match=r"X\[0\]\[1\] is a masked array"):
        QProbePolicy().fit([[X[0], masked[1]]], [[0, 1]])
    rewards = [np.ma.array([0.5, 999.0], mask=[0, 1]), np.ma.array([0.5, 0.9])]
    with pytest.raises(ValueError, match=r"\[0\] is a masked array"):
        base_reward(rewards)
    with pytest.raises(ValueError, match=r"y\[0\] is a masked array"):
        QProbePolicy().fit(np.ones((2, 2, 3)), rewards)
    rewards[0].mask = False
    assert base_reward(rewards) == np.mean([0.5, 999, 0.5, 0.9])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensors_with_gradients_and_lists_of_tensors(rng, dtype):
    torch = pytest.importorskip("torch")
    X = torch.tensor(rng.normal(size=(9, 4, 3))).to(getattr(torch, dtype))
    y = torch.tensor(rng.integers(0, 2, size=(9, 4)), dtype=X.dtype)
    expected = QProbePolicy().fit(X, y)
    for make in (
        list,
        torch.Tensor.requires_grad_,
        lambda values: list(map(list, values)),
    ):
        policy = QProbePolicy().fit(make(X.clone()), make(y.clone()))
        np.testing.assert_array_equal(policy.coef_, expected.coef_)
        assert base_reward(make(y.clone())) == y.double().mean()


@pytest.mark.parametrize("bad", ["1", b"1", 1 + 1j, np.str_("1"), np.complex64(1)])
def test_only_real_numbers_are_rewards(bad):
    X, y = np.ones((2, 2, 3)), np.array([[1, 0], [0, bad]], dtype=object)
    for probe in (QProbePolicy(), QProbeRegressor(), QProbePolicyCV(cv=2)):
        with pytest.raises(
            ValueError, match=f"^y must hold real.*{re.escape(repr(bad))}"
        ):
            probe.fit(X, y)
    with pytest.raises(ValueError, match="y must hold real numbers"):
        QProbePolicy().fit(X.reshape(4, 3), y.ravel(), [0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"^sample_weight must hold real numbers"):
        QProbePolicy().fit(X, np.eye(2), sample_weight=y)
    y[1, 1] = Decimal(1)
    QProbePolicy().fit(X, y)


def test_texts_and_times_are_not_rewards():
    texts = [["1", "0"], ["0", "1"]], np.array([[b"1", b"0"], [b"0", b"1"]])
    for y in (*texts, np.eye(2).astype("m8[s]"), np.eye(2).astype("M8[s]")):
        with pytest.raises(ValueError, match=r"^y must hold real numbers; got "):
            QProbePolicy().fit(np.ones((2, 2, 3)), y)
        with pytest.raises(ValueError, match="must hold real numbers; got "):
            base_reward(y)
