"""The benchmark of speed runs at any scale, and its figures are right."""

import json
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from skqprobe import QProbePolicy
from skqprobe.metrics import base_reward

SHAPE = (640, 20, 128)


@pytest.fixture
def plan(load):
    return load("_timing").Plan(scale=1 / 32, repeats=1, budget=1.0)


def by_name(rows):
    return {row.what: row for row in rows}


def test_data(load):
    synthetic = load("_synthetic")
    X, y = synthetic.make_data((60, 30, 48), 0)
    assert X.dtype == np.float32 and set(np.unique(y)) == {0, 1}
    spread = X.std(axis=(0, 1))
    assert spread.max() > 5 * spread.min()
    assert (abs(X.mean(axis=(0, 1))) > spread / 2).mean() > 0.5
    assert y.mean(axis=1).std() > 0.15  # difficulty
    X_test, y_test = synthetic.make_data((60, 30, 48), 1)
    assert not np.array_equal(y, y_test)
    policy = QProbePolicy("log_loss").fit(X, y)
    assert policy.score(X_test, y_test) > base_reward(y_test) + 0.2
    assert policy.score(X, y) < 1  # not separable
    out = np.empty(X.shape, np.float16)
    np.testing.assert_array_equal(synthetic.fill_data(out, 1), y_test)
    np.testing.assert_array_equal(out, X_test.astype(np.float16))


def test_objective_of_both_methods(load):
    X, y = load("_synthetic").make_data((30, 10, 8), 0)
    rows, labels, alpha = X.reshape(-1, 8) / X.std((0, 1)), y.reshape(-1), 0.1
    ours = QProbePolicy("log_loss", alpha=alpha, tol=1e-8).fit(rows.reshape(X.shape), y)
    theirs = LogisticRegression(C=1 / (alpha * len(rows)), tol=1e-8).fit(rows, labels)
    np.testing.assert_allclose(ours.coef_, theirs.coef_[0], atol=1e-3)
    objective = partial(load("_speed_fit").log_loss_objective, rows, labels, alpha)
    proba = theirs.predict_proba(rows)[range(len(rows)), labels.astype(int)]
    expected = alpha / 2 * (theirs.coef_**2).sum() - np.log(proba).mean()
    assert objective(theirs) == pytest.approx(expected, rel=1e-5)
    assert objective(ours) == pytest.approx(expected, rel=1e-5)


def test_fit(load, plan):
    rows = by_name(load("_speed_fit").measure_fit(plan, SHAPE, 50))
    for alpha in ("0.001", "0.0001"):
        evaluations = rows[f"alpha {alpha}: evaluations"]
        assert evaluations.value >= 2 and evaluations.target == 40
        row = rows[f"alpha {alpha}: log_loss, same objective"]
        assert row.target == 0.6 and row.ratio > 0
        ours, theirs = (float(row.note.split(", ")[i].split()[-1]) for i in (0, 1))
        assert ours <= theirs
    trained = [row for name, row in rows.items() if " x " in name]
    assert len(trained) == (6 if find_spec("torch") else 0)
    for row in trained:
        assert row.note.startswith("50 steps")
        assert 0 <= row.value <= 1 and 0 <= row.peer_value <= 1
    for alpha in ("0.001", "0.0001") if trained else ():
        gain = rows[f"alpha {alpha}: held-out reward gained on the paper's"]
        row = next(row for row in trained if alpha in row.what and "held" in row.what)
        assert gain.value == pytest.approx(row.peer_value - row.value)


def test_fit_without_torch(load, plan, monkeypatch, capsys):
    speed_fit = load("_speed_fit")
    monkeypatch.setattr(speed_fit, "find_spec", lambda name: None)
    assert len(speed_fit.measure_fit(plan, SHAPE)) == 16
    assert "pip install torch" in capsys.readouterr().out


def test_missing_rewards(load, rng, alone):
    missing_rewards = load("_speed_fit").missing_rewards
    alone.decision_function = lambda X: X[..., 0]
    y = np.zeros((6, 25))
    y[:, 3] = y[:, 13] = 1
    X = 1e3 * y[..., None]
    found = missing_rewards(alone, X, y, X, 1 - y)
    # Both good candidates are found, also in tens; the last five make no set.
    assert found == pytest.approx({"training": 0, "in tens": 0, "held out": 1})
    X = rng.normal(size=(6, 25, 1))
    shares = np.exp(X[:, :20, 0].reshape(12, 10))
    shares /= shares.sum(axis=1, keepdims=True)
    expected = 1 - (shares * y[:, :20].reshape(12, 10)).sum(axis=1).mean()
    assert missing_rewards(alone, X, y, X, y)["in tens"] == pytest.approx(expected)


def test_shapes(load, plan):
    shapes = load("_speed_shapes")
    losses = ("squared_error", "log_loss", "policy_gradient")
    table = by_name(shapes.measure_shapes(plan, [(320, 6, 20)], losses))
    for name in ("10 x 6 x 20", "10 x 6 x 20, ragged rows with text labels"):
        for loss in losses:
            for dtype in ("float32", "float64"):
                row = table[f"{loss}: {name}, {dtype}"]
                assert row.ratio > 0 and row.target in (0.5, 0.8, 1.0)
                missed = float(row.note.split()[1])
                assert missed <= shapes.GAP or row.note.endswith("(warned)")
    assert table["all: geometric mean"].met is not None
    # A probe that is no minimum misses part of the gain.
    case = shapes.make_case((30, 6, 20))
    bad, _ = shapes.fit_with_warning(QProbePolicy("log_loss", alpha=10), case)
    assert 0.1 < shapes.excess(case, "log_loss", bad, {}) < 1


def test_closed_form(load, plan):
    rows = load("_speed_search").measure_closed_form(plan, SHAPE)
    assert [row.target for row in rows] == [1, 2, 1, 2, None]
    assert all(row.ratio > 0 for row in rows)


def test_objectives(load, plan):
    rows = load("_speed_search").measure_objectives(plan, SHAPE)
    assert len(rows) == 4
    assert all(row.ratio > 0 and row.peer.startswith("5 fits") for row in rows)


def test_search(load, plan):
    time_row, choice, difference = load("_speed_search").measure_search(plan, SHAPE)
    assert time_row.target == 1 / 20 and time_row.peer == "GridSearchCV"
    assert choice.value >= 0 and choice.target >= 0 and "alpha" in choice.note
    assert difference.value >= 0 and difference.target == 1e-3


@pytest.mark.usefixtures("proc")
def test_memory(load, plan):
    rows = load("_speed_memory").measure_memory(plan, SHAPE)
    size = 20 * 20 * 128 * 4 / 1e6
    assert [row.peer_value for row in rows] == [pytest.approx(size)] * 2
    assert all(row.target == 0.15 and row.value >= 0 for row in rows)


@pytest.mark.usefixtures("proc")
def test_memmap(load, plan, monkeypatch, capsys):
    """All rows, on a disk that is too full for all prompts."""

    class Disk:
        free = 2 * 2 * 12 * (20 * 128)  # two bytes per entry, half of it, 12 prompts

    speed_memory = load("_speed_memory")
    monkeypatch.setattr(speed_memory.shutil, "disk_usage", lambda folder: Disk)
    rows = by_name(speed_memory.measure_memmap(plan, SHAPE))
    assert "memmap: 12 prompts, not 20" in capsys.readouterr().out
    assert len(rows) == 5 and rows["conversion alone, per byte"].ratio > 0
    for name, timed in (("fit", "one evaluation"), ("predict", "predict")):
        row = rows[f"peak growth of {name}"]
        assert row.target == 0.25 and row.peer == "X itself, 12 x 20 x 128"
        assert row.peer_value == 12 * 20 * 128 * 2 / 1e6
        row = rows[f"{timed}, per byte"]
        assert row.target == 2.5 and row.ratio > 0


def test_memory_without_proc(load, plan, monkeypatch, capsys):
    speed_memory = load("_speed_memory")
    monkeypatch.setattr(speed_memory, "can_measure_memory", lambda: False)
    assert speed_memory.measure_memory(plan) == speed_memory.measure_memmap(plan) == []
    assert capsys.readouterr().out.count("left out") == 2


def test_choose(load, plan):
    shapes = ((1, 6, 20), (30, 6, 12))
    rows = load("_speed_predict").measure_choose(plan, shapes)
    assert [row.target for row in rows] == [3, 2, 2, 2, 2, 2]
    peers = ["LinearRegression.predict", *["predict"] * 2, "X @ w", *["predict"] * 2]
    assert [row.peer for row in rows] == peers and all(row.ratio > 0 for row in rows)


def test_import(load, plan):
    (row,) = load("_speed_predict").measure_import(plan)
    assert row.what == "import skqprobe" and row.target == 1.15
    assert row.peer == "import sklearn.linear_model" and row.ratio > 0


def test_growth_and_output(load, speed, monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    growth = load("_speed_growth")
    assert growth.exponent([1, 10, 100], [3, 300, 30000]) == pytest.approx(2)
    measure = partial(growth.measure_growth, base=(16, 16, 16))
    monkeypatch.setitem(speed.SECTIONS, "growth", measure)
    row = load("_timing").Row("a fit", 3.0, "s", "a peer", 2.0, 1.0, "twice")
    monkeypatch.setitem(speed.SECTIONS, "choose", lambda plan: [row])
    monkeypatch.setattr(speed, "PAPER", SHAPE)
    path = tmp_path / "figures.json"
    arguments = ["growth", "choose", "--quick", "--json", str(path)]
    speed.main([*arguments, "--scale", "1/32", "--out", str(tmp_path / "pictures")])
    printed = " ".join(capsys.readouterr().out.split())
    assert "growth.png" in printed and "read_gb_per_s" in printed
    assert "a fit 3 s a peer, 2 s 1.5 1 NOT MET twice" in printed
    assert (tmp_path / "pictures" / "growth.png").stat().st_size > 10_000
    figures = json.loads(path.read_text())
    assert {"versions", "machine", "plan", "rows"} == set(figures)
    assert figures["plan"]["scale"] == 1 / 32
    rows = [row for row in figures["rows"] if row["section"] == "growth"]
    assert len(rows) == 3 * 3 * 2 and len(figures["rows"]) == len(rows) + 1
    for row in rows:
        at, values = row["points"]["at"], row["points"]["value"]
        assert len(at) == len(values) == 5 and at[-1] >= 10 * at[0]
        slope = np.polyfit(np.log(at[2:]), np.log(values[2:]), 1)[0]
        assert row["value"] == pytest.approx(slope)


def test_arguments(speed, assert_refused):
    parse = speed.parse_arguments
    assert_refused(parse, ["--scale", "0"], "--scale must be above 0")
    assert_refused(parse, ["speed"], "unknown sections ['speed']")
    assert parse(["--quick"]).scale == 1 / 8
    assert parse(["--quick", "--scale", "1/64"]).scale == 1 / 64
    assert parse([]).scale == 1
