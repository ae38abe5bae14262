"""The benchmark of speed runs at any scale, and its ratios are what it says."""

import importlib
import json
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from skqprobe import QProbePolicy
from skqprobe.metrics import base_reward

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.exists(), reason="not a checkout")

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is read from /proc"
)


@pytest.fixture
def speed(monkeypatch):
    """The script, on shapes that take no time."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("speed", "paper_recipe", "reward"):  # not another module of the name
        monkeypatch.delitem(sys.modules, name, raising=False)
    speed = importlib.import_module("speed")
    tiny = {
        "PAPER": (640, 20, 128),
        "MEMMAP": (640, 20, 128),
        "CHOICES": ((1, 6, 20), (30, 6, 12)),
        "GROWTH_BASE": (40, 20, 40),
        "PAPER_STEPS": 50,
    }
    for name, value in tiny.items():
        monkeypatch.setattr(speed, name, value)
    return speed


@pytest.fixture
def plan(speed):
    return speed.Plan(scale=1 / 32, repeats=1, budget=1.0)


def by_name(rows):
    return {row.what: row for row in rows}


def test_ratio(speed):
    row = speed.Row("a fit", 3.0, "s", "a peer", 2.0, target=1.5)
    assert row.ratio == 1.5 and row.met is True
    assert speed.Row("a fit", 3.01, "s", "a peer", 2.0, target=1.5).met is False
    alone = speed.Row("evaluations", 41, "", target=40)
    assert alone.ratio is None and alone.met is False
    assert speed.Row("evaluations", 40, "", target=40).met is True
    free = speed.Row("exponent", 1.0, "")
    assert free.ratio is None and free.met is None
    keys = {"what", "value", "unit", "peer", "peer_value", "target", "note", "points"}
    assert set(row.as_dict()) == keys | {"ratio", "met"}


def test_show(speed, capsys):
    speed.show(speed.Row("a fit", 3.0, "s", "a peer", 2.0, 1.0, "twice"))
    first, second = capsys.readouterr().out.splitlines()
    assert " ".join(first.split()) == "a fit 3 s a peer, 2 s 1.5 1 NOT MET"
    assert second.strip() == "twice"


def test_take_turns(speed, monkeypatch):
    clock, order = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def call(name, durations):
        durations = iter(durations)

        def advance():
            order.append(name)
            clock[0] += next(durations)
            return len(order)

        return advance

    calls = {"a": call("a", [9, 1, 5, 2]), "b": call("b", [1, 1, 1, 1])}
    plan = speed.Plan(repeats=3, budget=100)
    seconds, note, results = speed.take_turns(calls, plan)
    assert seconds == {"a": 2, "b": 1}  # medians, without the round that warms up
    assert note == "rounds: 3" and "".join(order) == "ab" * 4
    assert results == {"a": 7, "b": 8}
    # Where the first round takes all the time there is, it counts.
    calls = {"a": call("a", [9]), "b": call("b", [1])}
    seconds, note, _ = speed.take_turns(calls, speed.Plan(repeats=3, budget=5))
    assert seconds == {"a": 9, "b": 1} and note == "rounds: 1"
    # What is fast is called many times.
    calls = {"a": call("a", [0.005] * 100)}
    seconds, _, _ = speed.take_turns(calls, speed.Plan(repeats=2, budget=5))
    assert seconds["a"] == pytest.approx(0.005) and order.count("a") == 4 + 1 + 1 + 8


def test_data(speed):
    X, y = speed.make_data((60, 30, 48), 0)
    assert X.dtype == np.float32 and set(np.unique(y)) == {0, 1}
    spread = X.std(axis=(0, 1))
    assert spread.max() > 5 * spread.min()
    assert (abs(X.mean(axis=(0, 1))) > spread / 2).mean() > 0.5
    assert y.mean(axis=1).std() > 0.15  # difficulty
    X_test, y_test = speed.make_data((60, 30, 48), 1)
    assert not np.array_equal(y, y_test)
    policy = QProbePolicy("log_loss").fit(X, y)
    assert policy.score(X_test, y_test) > base_reward(y_test) + 0.2
    assert policy.score(X, y) < 1  # not separable
    out = np.empty(X.shape, np.float16)
    np.testing.assert_array_equal(speed.fill_data(out, 1), y_test)
    np.testing.assert_array_equal(out, X_test.astype(np.float16))


def test_scale(speed):
    shape, plan = (464, 200, 4096), speed.Plan(1 / 8)
    assert plan.fewer_prompts(shape) == (58, 200, 4096)
    n_prompts, k, d = plan.smaller(shape)
    assert (n_prompts, k, d) == (164, 200, 1448)
    assert speed.Plan(1.0).smaller(shape) == shape
    assert speed.Plan(1e-9).smaller(shape) == (10, 200, 4)


def test_objective_is_the_one_that_both_minimise(speed):
    X, y = speed.make_data((30, 10, 8), 0)
    rows, labels, alpha = X.reshape(-1, 8) / X.std((0, 1)), y.reshape(-1), 0.1
    ours = QProbePolicy("log_loss", alpha=alpha, tol=1e-8).fit(rows.reshape(X.shape), y)
    theirs = LogisticRegression(C=1 / (alpha * len(rows)), tol=1e-8).fit(rows, labels)
    np.testing.assert_allclose(ours.coef_, theirs.coef_[0], atol=1e-3)
    value = [speed.log_loss_objective(rows, labels, alpha, m) for m in (ours, theirs)]
    assert value[0] == pytest.approx(value[1], rel=1e-6)
    proba = theirs.predict_proba(rows)[range(len(rows)), labels.astype(int)]
    penalty = alpha / 2 * (theirs.coef_**2).sum()
    assert value[1] == pytest.approx(penalty - np.log(proba).mean(), rel=1e-5)


def test_fit(speed, plan):
    rows = by_name(speed.measure_fit(plan))
    for alpha in ("0.001", "0.0001"):
        evaluations = rows[f"alpha {alpha}: evaluations"]
        assert evaluations.value >= 2 and evaluations.target == 40
        for what, target in {"an evaluation": 1.3, "log_loss, same end": 0.6}.items():
            row = rows[f"alpha {alpha}: {what}"]
            assert row.target == target and row.ratio > 0
        note = rows[f"alpha {alpha}: log_loss, same end"].note
        ours, theirs = (float(note.split(", ")[i].split()[-1]) for i in (0, 1))
        assert ours <= theirs
    trained = [row for name, row in rows.items() if " x " in name]
    assert len(trained) == (6 if find_spec("torch") else 0)
    assert all(0 <= r.value <= 1 and 0 <= r.peer_value <= 1 for r in trained)


def test_fit_without_torch(speed, plan, monkeypatch, capsys):
    monkeypatch.setattr(speed, "find_spec", lambda name: None)
    rows = speed.measure_fit(plan)
    assert len(rows) == 16 and "pip install torch" in capsys.readouterr().out


def test_counting(speed):
    X, y = speed.make_data((10, 8, 6), 0)
    policy = QProbePolicy("log_loss", alpha=1.0)
    seconds = speed.fit_counting(policy, X, y)
    assert len(seconds) > policy.n_iter_ and min(seconds) > 0
    # And nothing is counted any more.
    policy.fit(X, y)
    assert len(seconds) == len(speed.fit_counting(policy, X, y))


def test_paper_makes_as_many_steps_as_the_paper(speed):
    pytest.importorskip("torch")
    rows = speed.measure_paper(1 / 32)
    assert rows[0].note.startswith("50 steps")


def test_missing_rewards(speed):
    class Known:
        def decision_function(self, X):
            return X[..., 0]

    rng = np.random.default_rng(0)
    y = np.zeros((6, 25))
    y[:, 3] = y[:, 13] = 1
    X = 1e3 * y[..., None]
    found = speed.missing_rewards(Known(), X, y, X, 1 - y)
    # Both good ones are found; in tens too, but the last five make no set.
    assert found == pytest.approx({"training": 0, "in tens": 0, "held out": 1})
    X = rng.normal(size=(6, 25, 1))
    shares = np.exp(X[:, :20, 0].reshape(12, 10))
    shares /= shares.sum(axis=1, keepdims=True)
    expected = 1 - (shares * y[:, :20].reshape(12, 10)).sum(axis=1).mean()
    found = speed.missing_rewards(Known(), X, y, X, y)
    assert found["in tens"] == pytest.approx(expected)


def test_closed_form(speed, plan):
    rows = speed.measure_closed_form(plan)
    assert [row.target for row in rows] == [2, 2, None]
    assert all(row.ratio > 0 for row in rows)


def test_float64_products(speed, rng):
    X = rng.normal(size=(50, 4)).astype(np.float32)
    found = np.tril(speed.float64_products(X))
    np.testing.assert_allclose(found, np.tril(X.T.astype(float) @ X), rtol=1e-12)


def test_search(speed, plan):
    time_row, choice, difference = speed.measure_search(plan)
    assert time_row.target == 1 / 20 and time_row.peer == "GridSearchCV"
    assert choice.value >= 0 and choice.target >= 0 and "alpha" in choice.note
    assert difference.value >= 0 and difference.target == 1e-3


@needs_proc
def test_memory(speed, plan):
    rows = speed.measure_memory(plan)
    size = 20 * 20 * 128 * 4 / 1e6
    assert [row.peer_value for row in rows] == [pytest.approx(size)] * 2
    assert all(row.target == 0.15 and row.value >= 0 for row in rows)


@needs_proc
def test_peak_growth_sees_what_is_freed(speed):
    make_and_drop = partial(np.ones, 200 * 10**6, dtype=np.uint8)
    growth = speed.in_new_process(speed.peak_growth, make_and_drop)
    assert growth == pytest.approx(200e6, rel=0.05)


@needs_proc
def test_memmap(speed, plan):
    rows = by_name(speed.measure_memmap(plan))
    assert len(rows) == 5 and rows["the conversion alone, per byte"].ratio > 0
    for name, timed in (("fit", "an evaluation"), ("predict", "predict")):
        assert rows[f"peak growth of {name}"].target == 0.25
        assert rows[f"peak growth of {name}"].peer_value == 20 * 20 * 128 * 2 / 1e6
        row = rows[f"{timed}, per byte"]
        assert row.target == 2.5 and row.ratio > 0


@needs_proc
def test_memmap_on_a_full_disk(speed, plan, monkeypatch, capsys):
    class Disk:
        free = 2 * 2 * 12 * (20 * 128)  # two bytes an entry, half of it, 12 prompts

    monkeypatch.setattr(speed.shutil, "disk_usage", lambda folder: Disk)
    rows = by_name(speed.measure_memmap(plan))
    assert "memmap: 12 prompts, not" in capsys.readouterr().out
    assert rows["peak growth of fit"].peer == "X itself, 12 x 20 x 128"


def test_choose(speed, plan):
    rows = speed.measure_choose(plan)
    assert [row.target for row in rows] == [3, 2, 2, 2, 2, 2]
    peers = ["LinearRegression.predict", *["predict"] * 2, "X @ w", *["predict"] * 2]
    assert [row.peer for row in rows] == peers and all(row.ratio > 0 for row in rows)


def test_import(speed, plan):
    (row,) = speed.measure_import(plan)
    assert row.what == "import skqprobe" and row.target == 1.15
    assert row.peer == "import sklearn.linear_model" and row.ratio > 0


def test_exponent(speed):
    assert speed.exponent([1, 10, 100], [3, 300, 30000]) == pytest.approx(2)


def test_growth_and_output(speed, monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(speed, "GROWTH_BASE", (16, 16, 16))
    path = tmp_path / "figures.json"
    arguments = ["--quick", "--only", "growth", "choose", "--json", str(path)]
    speed.main([*arguments, "--scale", "1/32", "--out", str(tmp_path / "pictures")])
    printed = capsys.readouterr().out
    assert "growth.png" in printed and "read_gb_per_s" in printed
    assert (tmp_path / "pictures" / "growth.png").stat().st_size > 10_000
    figures = json.loads(path.read_text())
    assert {"versions", "machine", "plan", "rows"} == set(figures)
    assert figures["plan"]["scale"] == 1 / 32
    rows = [row for row in figures["rows"] if row["section"] == "growth"]
    assert len(rows) == 3 * 3 * 2 and len(figures["rows"]) == len(rows) + 6
    for row in rows:
        at, values = row["points"]["at"], row["points"]["value"]
        assert len(at) == len(values) == 5 and at[-1] >= 10 * at[0]
        slope = np.polyfit(np.log(at[2:]), np.log(values[2:]), 1)[0]
        assert row["value"] == pytest.approx(slope)


def test_bad_arguments(speed, capsys):
    for arguments, message in (
        (["--scale", "0"], "--scale must be above 0"),
        (["--only", "speed"], "invalid choice: 'speed'"),
    ):
        with pytest.raises(SystemExit):
            speed.parse_arguments(arguments)
        assert message in capsys.readouterr().err
    assert speed.parse_arguments(["--quick"]).scale == 1 / 8
    assert speed.parse_arguments(["--quick", "--scale", "1/64"]).scale == 1 / 64
    assert speed.parse_arguments([]).scale == 1
