"""Bad input: what the message says, and that a failed fit changes nothing.

Each message should name the argument, say what is wrong with it and, where that is not
plain, what to do.
"""

import copy
import datetime
import re
import sys
from decimal import Decimal

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.exceptions import NotFittedError

from skqprobe import QProbePolicy, QProbeRegressor
from skqprobe.losses import LOSSES, LogLoss, PairwiseHinge, PolicyGradient, SquaredError

PROBES = [QProbeRegressor, QProbePolicy]
CHOICE_LOSSES = [name for name, loss in LOSSES.items() if loss.shift_invariant]
both = pytest.mark.parametrize("Probe", PROBES)


def spoiled(array, place, value):
    array = array.copy()
    array[place] = value
    return array


def methods_of(Probe):
    """Methods that take X first, and what else they must have, by name."""
    names = {"predict": (), "sample": (), "score": ("y",)}
    if Probe is QProbePolicy:
        names |= {"decision_function": (), "predict_proba": ()}
    return names


# X


@both
@pytest.mark.parametrize(
    ("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")]
)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_embeddings_not_finite(sets, rows, Probe, value, word, dtype):
    X, y = sets
    X = spoiled(X.astype(dtype), (7, 2, 1), value)
    with pytest.raises(ValueError, match=rf"X contains {word}.*X\[7, 2, 1\].*embed"):
        Probe().fit(X, y)
    probe = Probe().fit(X[:7], y[:7])
    with pytest.raises(ValueError, match=rf"X contains {word}.*X\[7, 2, 1\]"):
        probe.predict(X)
    X, y, groups = rows
    X = spoiled(X.astype(dtype), (31, 3), value)
    with pytest.raises(ValueError, match=rf"X contains {word}.*X\[31, 3\].*embed"):
        Probe().fit(X, y, groups)


def test_embeddings_not_finite_in_a_later_block(monkeypatch, sets):
    # The check reads X block by block; the place must be counted from the start of X.
    X, y = sets
    monkeypatch.setattr("skqprobe._arrays.blocks.BLOCK_BYTES", 10 * 4 * 8)
    X = spoiled(X, (50, 3, 2), np.nan)
    with pytest.raises(ValueError, match=r"X\[50, 3, 2\]"):
        QProbePolicy().fit(X, y)


@both
@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(lambda X: X[0, 0], "Expected 2D array, got 1D", id="1-D"),
        pytest.param(
            lambda X: X[None],
            r"X has 4 dimensions; candidate sets have 3.* and rows have 2",
            id="4-D",
        ),
        pytest.param(lambda X: 3.0, "Expected 2D array, got scalar", id="scalar"),
        pytest.param(
            lambda X: X[:, :0], "X has 60 prompts with 0 candidates", id="no candidates"
        ),
        pytest.param(
            lambda X: X[:0], "X has 0 prompts with 6 candidates", id="no prompts"
        ),
        pytest.param(
            lambda X: X[:, :, :0], r"0 feature\(s\).*minimum of 1", id="no features"
        ),
        pytest.param(
            lambda X: [prompt.tolist()[: i + 1] for i, prompt in enumerate(X[:3])],
            r"same number of candidates for every prompt.*rows.*groups",
            id="ragged list",
        ),
        pytest.param(
            lambda X: [prompt[: i + 1] for i, prompt in enumerate(X[:3])],
            r"same number of candidates for every prompt.*rows.*groups",
            id="ragged list of arrays",
        ),
        pytest.param(lambda X: X + 1j, "Complex data not supported", id="complex"),
        pytest.param(
            lambda X: np.full(X.shape, "good"),
            "could not convert string to float.*good",
            id="string",
        ),
        pytest.param(
            lambda X: np.full(X.shape, "good", dtype=object),
            "could not convert string to float.*good",
            id="object",
        ),
    ],
)
def test_bad_embeddings(sets, Probe, change, words):
    X, y = sets
    with pytest.raises(ValueError, match=words):
        Probe().fit(change(X), y)
    probe = Probe().fit(X, y)
    with pytest.raises(ValueError, match=words):
        probe.predict(change(X))


@both
def test_no_rows(rows, Probe):
    X, y, groups = rows
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        Probe().fit(X[:0], y[:0], groups[:0])


@both
@pytest.mark.parametrize("container", [sp.csr_array, sp.coo_array, sp.csc_matrix])
def test_sparse_embeddings(rows, Probe, container):
    X, y, groups = rows
    words = r"Sparse data was passed for X, but dense data is required.*toarray"
    with pytest.raises(TypeError, match=words):
        Probe().fit(container(X), y, groups)
    probe = Probe().fit(X, y, groups)
    with pytest.raises(TypeError, match=words):
        probe.predict(container(X))


@both
def test_another_number_of_features(sets, Probe):
    X, y = sets
    probe = Probe().fit(X, y)
    words = rf"X has 3 features, but {Probe.__name__} is expecting 4 features"
    for method, needs in methods_of(Probe).items():
        with pytest.raises(ValueError, match=words):
            getattr(probe, method)(X[..., :3], *(y for _ in needs))
        # In rows as well.
        with pytest.raises(ValueError, match=words):
            getattr(probe, method)(X[:, 0, :3], *(y[:, 0] for _ in needs))


# y


@both
@pytest.mark.parametrize(
    ("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")]
)
def test_rewards_not_finite(sets, rows, Probe, value, word):
    X, y = sets
    y = spoiled(y, (3, 1), value)
    with pytest.raises(ValueError, match=f"y contains {word}"):
        Probe().fit(X, y)
    with pytest.raises(ValueError, match=f"y contains {word}"):
        Probe().fit(X[:3], y[:3]).score(X, y)
    X, y, groups = rows
    with pytest.raises(ValueError, match=f"y contains {word}"):
        Probe().fit(X, spoiled(y, 3, value), groups)


@pytest.mark.parametrize(
    "probe",
    [QProbeRegressor("log_loss"), QProbePolicy("log_loss"), QProbePolicy(LogLoss())],
    ids=repr,
)
@pytest.mark.parametrize("value", [-0.25, 1.5])
def test_rewards_outside_of_log_loss(sets, probe, value):
    X, y = sets
    low, high = min(value, 0), max(value, 1)
    words = rf"y must lie in \[0, 1\] for loss='log_loss'.*from {low:g} to {high:g}"
    with pytest.raises(ValueError, match=words):
        probe.fit(X, spoiled(y, (0, 0), value))
    # The other losses take any reward.
    QProbePolicy().fit(X, spoiled(y, (0, 0), value))


@both
@pytest.mark.parametrize(
    ("change", "shape"),
    [
        pytest.param(lambda y: y[:, :5], r"\(60, 5\)", id="fewer candidates"),
        pytest.param(lambda y: y[:59], r"\(59, 6\)", id="fewer prompts"),
        pytest.param(lambda y: y.ravel(), r"\(360,\)", id="flat"),
        pytest.param(lambda y: y[:, 0], r"\(60,\)", id="one a prompt"),
        pytest.param(lambda y: y.T, r"\(6, 60\)", id="transposed"),
        pytest.param(lambda y: y[..., None], r"\(60, 6, 1\)", id="3-D"),
    ],
)
def test_rewards_of_the_wrong_shape_for_sets(sets, Probe, change, shape):
    X, y = sets
    words = rf"y has shape {shape}, but X holds 60 sets of 6.*must have shape \(60, 6\)"
    with pytest.raises(ValueError, match=words):
        Probe().fit(X, change(y))
    with pytest.raises(ValueError, match=words):
        Probe().fit(X, y).score(X, change(y))


@both
def test_rewards_of_the_wrong_length_for_rows(rows, Probe):
    X, y, groups = rows
    words = rf"y has shape \({len(y) - 1},\), but X holds {len(y)} rows"
    with pytest.raises(ValueError, match=words):
        Probe().fit(X, y[:-1], groups)
    with pytest.raises(ValueError, match=words):
        Probe().fit(X, y, groups).score(X, y[:-1], groups)
    with pytest.raises(ValueError, match="y should be a 1d array"):
        Probe().fit(X, np.column_stack([y, y]), groups)


@both
@pytest.mark.parametrize(
    ("y", "words"),
    [
        (None, "requires y to be passed, but the target y is None"),
        ("rewards", "could not convert string to float"),
        ([["good", "bad"]] * 60, "could not convert string to float"),
        (np.ones((60, 6)) * 1j, "Complex data not supported"),
    ],
)
def test_rewards_that_are_no_numbers(sets, Probe, y, words):
    with pytest.raises(ValueError, match=words):
        Probe().fit(sets[0], y)


# groups


def with_label(label, place=5):
    def change(groups):
        labels = groups.tolist()
        labels[place] = label
        return labels

    return change


@both
@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(lambda g: g[:-1], r"groups has \d+ labels, but X", id="shorter"),
        pytest.param(with_label(None), r"groups contains None", id="None"),
        pytest.param(with_label(np.nan), r"groups contains nan", id="nan"),
        pytest.param(
            with_label(Decimal("NaN")), r"groups contains .*NaN", id="Decimal"
        ),
        pytest.param(
            with_label(np.datetime64("NaT", "s")),
            r"groups contains .*NaT",
            id="numpy NaT",
        ),
        pytest.param(
            lambda g: np.where(np.arange(len(g)) == 5, np.nan, 1.0),
            r"groups contains NaN; every row needs the label of a prompt",
            id="float NaN",
        ),
        pytest.param(
            lambda g: np.where(np.arange(len(g)) == 5, "NaT", "2024").astype("M8[D]"),
            r"groups contains NaN; every row needs",
            id="datetime64",
        ),
        pytest.param(
            lambda g: np.array(with_label(None)(g), dtype=object),
            r"groups contains None",
            id="object array",
        ),
        pytest.param(with_label(["a"]), r"groups must .*hashable.*list", id="a list"),
        pytest.param(
            lambda g: [[label] for label in g], r"groups must .*hashable", id="nested"
        ),
        pytest.param(
            lambda g: np.array(g)[:, None], r"groups must be 1-dim.*, 1\)", id="2-D"
        ),
        pytest.param(lambda g: np.array("a"), r"groups must be 1-dim.*\(\)", id="0-D"),
        pytest.param(lambda g: "a" * len(g), r"groups must be array-like", id="str"),
        pytest.param(lambda g: b"a" * len(g), r"groups must be array-like", id="bytes"),
        pytest.param(lambda g: 3, r"groups must be array-like.*int", id="int"),
        pytest.param(
            lambda g: (label for label in g),
            r"groups must be array-like.*generator",
            id="generator",
        ),
    ],
)
def test_bad_groups(rows, Probe, change, words):
    X, y, groups = rows
    with pytest.raises(ValueError, match=words):
        Probe().fit(X, y, change(groups))
    probe = Probe().fit(X, y, groups)
    with pytest.raises(ValueError, match=words):
        probe.sample(X, change(groups))
    with pytest.raises(ValueError, match=words):
        probe.score(X, y, change(groups))


@pytest.mark.parametrize("missing", ["None", "NA", "NaT"])
@pytest.mark.parametrize("dtype", ["object", "string", "Int64", "category", "datetime"])
def test_missing_groups_in_pandas(rows, missing, dtype):
    pd = pytest.importorskip("pandas")
    X, y, groups = rows
    missing = {"None": None, "NA": pd.NA, "NaT": pd.NaT}[missing]
    if dtype == "datetime":
        labels = [datetime.datetime(2024, 1, 1)] * len(groups)
        dtype = "datetime64[ns]"
    else:
        labels = [1 if dtype == "Int64" else "a"] * len(groups)
    groups = pd.Series(labels, dtype=dtype)
    groups[5] = None  # what is missing is called as the dtype has it
    with pytest.raises(ValueError, match=r"groups contains .*; every row needs"):
        QProbePolicy().fit(X, y, groups)
    groups = [label if i != 5 else missing for i, label in enumerate(labels)]
    with pytest.raises(ValueError, match=r"groups contains .*; every row needs"):
        QProbePolicy().fit(X, y, groups)


@pytest.mark.parametrize("label", ["a", 1, 1.5])
def test_missing_groups_in_polars(rows, label):
    pl = pytest.importorskip("polars")
    X, y, groups = rows
    labels = [label] * (len(groups) - 1)
    with pytest.raises(ValueError, match=r"groups contains .*; every row needs"):
        QProbePolicy().fit(X, y, pl.Series([*labels, None]))


@both
def test_bad_groups_of_sets(sets, Probe):
    X, y = sets
    with pytest.raises(ValueError, match=r"groups has 59 labels, but X has 60 prompts"):
        Probe().fit(X, y, np.arange(59))
    with pytest.raises(ValueError, match=r"groups must be 1-dimensional.*\(60, 6\)"):
        Probe().fit(X, y, np.ones((60, 6)))


# sample_weight


@both
@pytest.mark.parametrize(
    ("weight", "words"),
    [
        pytest.param(-np.ones(60), "sample_weight has negative", id="negative"),
        pytest.param(
            spoiled(np.ones((60, 6)), (1, 1), -1e-9),
            "sample_weight has negative values.*0 or more",
            id="one negative",
        ),
        pytest.param(np.zeros(60), "sample_weight is zero everywhere", id="zero"),
        pytest.param(np.zeros((60, 6)), "sample_weight is zero", id="zero, candidates"),
        pytest.param(
            np.ones(59),
            r"sample_weight has shape \(59,\).*\(60,\) or \(60, 6\)",
            id="length",
        ),
        pytest.param(
            np.ones(360), r"sample_weight has shape \(360,\).*\(60, 6\)", id="flat"
        ),
        pytest.param(np.ones((6, 60)), r"sample_weight has shape \(6, 60\)", id="T"),
        pytest.param(np.ones((60, 1)), r"sample_weight has shape \(60, 1\)", id="2-D"),
        pytest.param(
            np.ones((60, 6, 1)), r"sample_weight has shape \(60, 6, 1\)", id="3-D"
        ),
        pytest.param(
            spoiled(np.ones(60), 4, np.nan), "sample_weight contains NaN", id="NaN"
        ),
        pytest.param(
            spoiled(np.ones(60), 4, np.inf), "sample_weight contains inf", id="inf"
        ),
        pytest.param(["heavy"] * 60, "could not convert string", id="str"),
        pytest.param(-1.0, "sample_weight has negative", id="negative number"),
        pytest.param(0.0, "sample_weight is zero everywhere", id="number zero"),
    ],
)
def test_bad_weights(sets, Probe, weight, words):
    X, y = sets
    with pytest.raises(ValueError, match=words):
        Probe().fit(X, y, sample_weight=weight)
    with pytest.raises(ValueError, match=words):
        Probe().fit(X, y).score(X, y, sample_weight=weight)


@both
def test_bad_weights_of_rows(rows, Probe):
    X, y, groups = rows
    n, n_prompts = len(y), len(np.unique(groups))
    words = rf"sample_weight has shape \({n_prompts},\); it must have shape \({n},\)"
    for labels in (groups, None):  # weights of prompts are not for rows
        with pytest.raises(ValueError, match=words):
            Probe("squared_error").fit(X, y, labels, sample_weight=np.ones(n_prompts))
        with pytest.raises(ValueError, match="sample_weight has negative"):
            Probe("squared_error").fit(X, y, labels, sample_weight=-y)
        with pytest.raises(ValueError, match="sample_weight is zero everywhere"):
            Probe("squared_error").fit(X, y, labels, sample_weight=0 * y)


# Parameters


@both
@pytest.mark.parametrize("temperature", [-1, -1e-9, np.nan, "hot", None, [1.0], 1j])
def test_bad_temperature(sets, Probe, temperature):
    X, y = sets
    with pytest.raises(
        ValueError, match=f"'temperature' parameter of {Probe.__name__}"
    ):
        Probe(temperature=temperature).fit(X, y)
    # After fit no parameter is validated, so that its readers must.
    probe = Probe().fit(X, y)
    probe.set_params(temperature=temperature)
    words = r"temperature must be a number of 0 or more .*got"
    with pytest.raises(ValueError, match=words):
        probe.sample(X)
    if Probe is QProbePolicy:
        with pytest.raises(ValueError, match=words):
            probe.predict_proba(X)
        with pytest.raises(ValueError, match=words):
            probe.score(X, y)
    # What does not read it works on.
    probe.predict(X)


@both
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", -1e-3),
        ("alpha", np.nan),
        ("alpha", np.inf),
        ("alpha", "auto"),
        ("max_iter", 0),
        ("max_iter", 10.0),
        ("tol", 0),
        ("tol", -1e-4),
        ("tol", np.nan),
        ("fit_intercept", "yes"),
        ("n_candidates", 0),
        ("n_candidates", 2.5),
        ("hidden_layer_sizes", 256),
        ("hidden_layer_sizes", None),
        ("solver", "adam"),
        ("warm_start", 2),
        ("random_state", -1),
        ("random_state", "0"),
        ("random_state", np.random.default_rng(0)),
        ("verbose", -1),
        ("loss", "hinge"),
        ("loss", None),
        ("loss", 3),
        ("loss", object()),
        ("loss", SquaredError),  # a class, not an instance
        ("loss", lambda scores, rewards: 0.0),
    ],
)
def test_bad_parameters(sets, Probe, name, value):
    words = f"The '{name}' parameter of {Probe.__name__} must be"
    with pytest.raises(ValueError, match=words):
        Probe(**{name: value}).fit(*sets)


def test_names_of_losses_are_in_the_message(sets):
    with pytest.raises(ValueError, match="'loss'") as caught:
        QProbePolicy("unknown").fit(*sets)
    assert all(f"'{name}'" in str(caught.value) for name in LOSSES)
    assert "BaseLoss" in str(caught.value)


@pytest.mark.parametrize("loss", [*CHOICE_LOSSES, SquaredError(), PolicyGradient()])
def test_losses_that_are_not_for_the_regressor(sets, loss):
    with pytest.raises(ValueError, match="'loss' parameter of QProbeRegressor"):
        QProbeRegressor(loss).fit(*sets)


@both
@pytest.mark.parametrize(
    "sizes", [(0,), (256, -1), [8.0], ["8"], np.array([[8]]), (None,)]
)
def test_bad_sizes_of_hidden_layers(sets, Probe, sizes):
    words = r"hidden_layer_sizes must hold integers of 1 or more.*\(256,\)"
    with pytest.raises(ValueError, match=words):
        Probe(hidden_layer_sizes=sizes).fit(*sets)
    # No layers, in whatever container, are a linear probe.
    Probe(hidden_layer_sizes=sizes[:0]).fit(*sets)


@both
@pytest.mark.parametrize("solver", ["closed_form", "lbfgs"])
def test_solvers_of_linear_probes_only(sets, Probe, solver):
    probe = Probe("squared_error", hidden_layer_sizes=(8,), solver=solver)
    words = rf"solver='{solver}' fits linear.*hidden_layer_sizes=\(8,\).*'auto'"
    with pytest.raises(ValueError, match=words):
        probe.fit(*sets)


@both
def test_hidden_layers_without_torch(sets, Probe, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"hidden layers needs torch: pip install"):
        Probe(hidden_layer_sizes=(8,)).fit(*sets)
    Probe().fit(*sets)


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_closed_form_is_not_for_every_loss(sets, loss):
    policy = QProbePolicy(loss, solver="closed_form")
    if loss in ("squared_error", "contrastive_policy_gradient"):
        policy.fit(*sets)
        return
    with pytest.raises(
        ValueError, match=rf"solver='closed_form'.*loss='{loss}'.*lbfgs"
    ):
        policy.fit(*sets)


@pytest.mark.parametrize("margin", [0, -0.1, np.nan])
def test_bad_setting_of_a_loss(sets, margin):
    with pytest.raises(ValueError, match=r"margin of PairwiseHinge must be .*above 0"):
        QProbePolicy(PairwiseHinge(margin)).fit(*sets)


# Not fitted


@both
def test_not_fitted(sets, Probe):
    X, y = sets
    for method, needs in methods_of(Probe).items():
        with pytest.raises(NotFittedError, match=f"{Probe.__name__} .* not fitted yet"):
            getattr(Probe(), method)(X, *(y for _ in needs))


# Nothing to learn from


def name_of(loss):
    return re.escape(repr(LOSSES[loss]()))


@pytest.mark.parametrize("loss", ["pairwise_logistic", "pairwise_hinge"])
def test_prompts_without_a_pair_are_skipped(sets, loss):
    X, y = sets
    y[:7] = [[0.0], [1.0], [0.0], [0.5], [0.0], [-3.0], [0.0]]
    y[7:, 0], y[7:, 1] = 0, 1
    policy = QProbePolicy(loss, tol=1e-8).fit(X, y)
    assert policy.n_skipped_prompts_ == 7
    # They do not count in the mean either: the fit is that of the others.
    others = QProbePolicy(loss, tol=1e-8).fit(X[7:], y[7:])
    # The hinge's kinks end its minimisation early: a few digits less.
    rtol = 1e-2 if loss == "pairwise_hinge" else 1e-6
    np.testing.assert_allclose(policy.coef_, others.coef_, rtol=rtol, atol=rtol / 10)
    assert others.n_skipped_prompts_ == 0
    # But they count when the policy is scored.
    assert policy.score(X[5:6], y[5:6]) == pytest.approx(-3)


@pytest.mark.parametrize("loss", ["pairwise_logistic", "pairwise_hinge"])
def test_no_prompt_has_a_pair(sets, loss):
    X, y = sets
    policy = QProbePolicy(loss)
    with pytest.warns(UserWarning, match=rf"No prompt .*loss={name_of(loss)}.*zero"):
        policy.fit(X, np.repeat(y[:, :1], 6, axis=1))
    assert policy.n_skipped_prompts_ == 60
    np.testing.assert_array_equal(policy.coef_, 0)
    assert policy.intercept_ == 0
    np.testing.assert_allclose(policy.predict_proba(X), 1 / 6)


@pytest.mark.parametrize("loss", CHOICE_LOSSES)
def test_no_prompt_has_two_candidates(sets, loss):
    X, y = sets
    with pytest.warns(
        UserWarning, match=rf"No prompt .*loss={name_of(loss)}.*two candid"
    ):
        policy = QProbePolicy(loss).fit(X[:, :1], y[:, :1])
    np.testing.assert_array_equal(policy.coef_, 0)
    # n_candidates=1 leaves no choice in the training either.
    with pytest.warns(UserWarning, match="No prompt"):
        QProbePolicy(loss, n_candidates=1).fit(X, y)


@pytest.mark.parametrize("loss", CHOICE_LOSSES)
def test_rows_without_groups(rows, loss):
    X, y, groups = rows
    words = r"no groups were given.*enable_metadata_routing=True"
    with pytest.warns(UserWarning, match=words):
        policy = QProbePolicy(loss).fit(X, y)
    # Not all rows as one prompt, nor anything else made up.
    np.testing.assert_array_equal(policy.coef_, 0)
    with pytest.warns(UserWarning, match=words):
        assert np.isnan(policy.score(X, y))
    assert 0 <= policy.score(X, y, groups) <= 1


@pytest.mark.parametrize("loss", ["squared_error", "log_loss"])
def test_rows_without_groups_are_enough_to_regress(rows, loss):
    # A warning would be an error here.
    X, y, _ = rows
    model = QProbeRegressor(loss, alpha=0.01).fit(X, y)
    assert model.score(X, y) > 0.1
    policy = QProbePolicy(loss, alpha=0.01).fit(X, y)
    np.testing.assert_array_equal(policy.coef_, model.coef_)
    with pytest.warns(UserWarning, match="enable_metadata_routing=True"):
        assert np.isnan(policy.score(X, y))


# A failed fit changes nothing

FAILURES = {
    "X not finite": lambda X, y: {"X": spoiled(X, (3, 1, 2), np.nan)},
    "X complex": lambda X, y: {"X": X + 1j},
    "X 4-D": lambda X, y: {"X": X[None]},
    "X with other features": lambda X, y: {"X": X[..., :3], "y": y[:, :5]},
    "X named, y missing": lambda X, y: {"X": named(X[:, 0]), "y": None},
    "y None": lambda X, y: {"y": None},
    "y not finite": lambda X, y: {"y": spoiled(y, (0, 0), np.nan)},
    "y of another shape": lambda X, y: {"y": y[:, :5]},
    "y outside": lambda X, y: {"y": 2 * y, "loss": "log_loss"},
    "groups too short": lambda X, y: {"groups": np.arange(3)},
    "groups None": lambda X, y: {"groups": [None] * 60},
    "weights negative": lambda X, y: {"sample_weight": -np.ones(60)},
    "weights zero": lambda X, y: {"sample_weight": np.zeros(60)},
    "alpha": lambda X, y: {"alpha": -1.0},
    "loss": lambda X, y: {"loss": "unknown"},
    "solver": lambda X, y: {"loss": "log_loss", "solver": "closed_form"},
    "hidden layers": lambda X, y: {"hidden_layer_sizes": (0,)},
    "hidden layers, solver": lambda X, y: {
        "hidden_layer_sizes": (8,),
        "solver": "lbfgs",
    },
    "warm start": lambda X, y: {"X": X[..., :3], "warm_start": True},
}


def named(X):
    pd = pytest.importorskip("pandas")
    return pd.DataFrame(X[:, :2], columns=["first", "second"])


def same(one, other):
    """Whether two values of attributes are the same, to the bit."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return one is other or one == other


def assert_same_state(probe, before):
    assert vars(probe).keys() == before.keys()
    for name, value in vars(probe).items():
        assert same(value, before[name]), name


@both
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("fitted", ["fitted", "fitted with names", "not fitted"])
def test_failed_fit_leaves_the_estimator_as_it_was(sets, Probe, failure, fitted):
    X, y = sets
    probe = Probe()
    if fitted == "fitted":
        probe.fit(X, y)
    elif fitted == "fitted with names":
        pd = pytest.importorskip("pandas")
        rows = pd.DataFrame(X.reshape(-1, 4), columns=list("abcd"))
        probe.fit(rows, y.ravel(), np.repeat(np.arange(60), 6))
    elif failure == "warm start":
        pytest.skip("there is nothing to start from")
    arguments = {"X": X, "y": y} | FAILURES[failure](X, y)
    fit = {
        name: arguments.pop(name)
        for name in ("X", "y", "groups", "sample_weight")
        if name in arguments
    }
    probe.set_params(**arguments)
    before = copy.deepcopy(vars(probe))
    with pytest.raises(ValueError, match=r"."):
        probe.fit(**fit)
    assert_same_state(probe, before)
    if fitted == "not fitted":
        with pytest.raises(NotFittedError):
            probe.predict(X)


@pytest.mark.parametrize("method", ["predict", "sample", "score", "predict_proba"])
def test_a_failed_answer_leaves_the_estimator_as_it_was(rows, method):
    X, y, groups = rows
    policy = QProbePolicy(random_state=0).fit(X, y, groups)
    before = copy.deepcopy(vars(policy))
    more = (y,) if method == "score" else ()
    for bad_X in (X[:, :3], X * np.nan, X[0]):
        with pytest.raises(ValueError, match=r"X|2D array"):
            getattr(policy, method)(bad_X, *more, groups)
    assert_same_state(policy, before)


def test_fit_interrupted_in_the_solver(sets, monkeypatch):
    # As by Ctrl-C: half a fit is not a fit.
    X, y = sets
    policy = QProbePolicy("log_loss").fit(X, y)
    before = copy.deepcopy(vars(policy))
    calls = []

    def interrupt(self, scores, *args):
        calls.append(scores)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return original(self, scores, *args)

    original = LogLoss.value_and_gradient
    monkeypatch.setattr(LogLoss, "value_and_gradient", interrupt)
    with pytest.raises(KeyboardInterrupt):
        policy.fit(X[:, :3], y[:, :3])
    assert_same_state(policy, before)
