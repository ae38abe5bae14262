"""The benchmark of rewards runs on any .npz, and its figures are what it says."""

import importlib.util
import json
import sys
from contextlib import redirect_stdout
from io import StringIO
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy, make_probe_pipeline
from skqprobe.metrics import base_reward, best_of_k_reward, oracle_reward

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "reward.py"

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="not a checkout")

needs_lightgbm = pytest.mark.skipif(
    importlib.util.find_spec("lightgbm") is None, reason="lightgbm is not installed"
)


@pytest.fixture(scope="module")
def reward():
    spec = importlib.util.spec_from_file_location("reward_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


class Train:
    """What make_methods reads of training data."""

    def __init__(self, y):
        self.y, self.view_sizes = y, None


def make_npz(path, seed, n_prompts=40, m=6, binary=True, key="embeddings", **more):
    """Write candidates whose reward leans on the first of five features."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_prompts, m, 5))
    y = X[..., 0] + 0.5 * rng.normal(size=(n_prompts, m))
    y = (y > 0).astype(np.uint8) if binary else y
    np.savez(path, **{key: X.astype(np.float16), "rewards": y}, **more)
    return X.astype(np.float16).astype(np.float32), y.astype(float)


def rows_of(out, k):
    (result,) = json.loads(out.read_text())["results"]
    return {row["method"]: row for row in result["tables"][str(k)]}


@pytest.fixture(scope="module")
def run(reward, tmp_path_factory):
    """All methods, once: training data, test data, figures and what was printed."""
    folder = tmp_path_factory.mktemp("run")
    train, test, out = (folder / name for name in ("A.npz", "B.npz", "out.json"))
    data = make_npz(train, 0), make_npz(test, 1)
    arguments = ["--train", train, "--test", test, "--json", out, "--quick", "--ks"]
    with redirect_stdout(StringIO()) as printed:
        reward.main([*map(str, arguments), "2", "6", "50"])
    (result,) = json.loads(out.read_text())["results"]
    return *data, result, printed.getvalue()


@pytest.mark.parametrize("k", [2, 6])
def test_train_and_test(reward, run, k):
    _, (_, y), result, printed = run
    assert result["name"] == "B" and list(result["tables"]) == ["2", "6"]
    rows = {row["method"]: row for row in result["tables"][str(k)]}
    assert set(rows) | set(result["left_out"]) >= set(reward.METHODS)
    assert set(result["left_out"]) <= {"siblings+network", "LGBMRanker"}
    base, oracle = base_reward(y), oracle_reward(y, k)
    assert rows["base"]["reward"]["value"] == pytest.approx(base)
    assert rows["oracle"]["reward"]["value"] == pytest.approx(oracle)
    for name in set(rows) - {"base", "oracle"}:
        value, share = rows[name]["reward"]["value"], rows[name]["recovery"]
        assert base < value <= oracle + 1e-12
        assert rows[name]["reward"]["low"] < value < rows[name]["reward"]["high"]
        assert share["value"] == pytest.approx((value - base) / (oracle - base))
        assert share["low"] < share["value"] < share["high"]
    # Resampled together: the oracle recovers everything in every resample.
    for name, share in (("base", 0), ("oracle", 1)):
        assert list(rows[name]["recovery"].values()) == pytest.approx([share] * 3)
    for line in printed.split(f"k = {k} ")[1].splitlines()[1 : 1 + len(rows)]:
        name, value = line.split()[:2]
        assert f"{rows[name]['reward']['value']:.3f}" == value


@pytest.mark.parametrize("k", [2, 6])
def test_methods_by_hand(reward, run, k):
    (X, y), (X_test, y_test), result, _ = run
    rows = {row["method"]: row for row in result["tables"][str(k)]}
    reward_of = {name: row["reward"]["value"] for name, row in rows.items()}

    # With the setting that was chosen.
    scaler = StandardScaler().fit(X.reshape(-1, 5))
    ridge = Ridge(**rows["Ridge"]["settings"][0])
    ridge.fit(scaler.transform(X.reshape(-1, 5)), y.ravel())
    values = ridge.predict(scaler.transform(X_test.reshape(-1, 5)))
    expected = best_of_k_reward(y_test, values.reshape(y_test.shape), k)
    assert reward_of["Ridge"] == pytest.approx(expected)

    # With nothing set.
    values = QProbePolicy().fit(X, y).decision_function(X_test)
    assert reward_of["default"] == pytest.approx(best_of_k_reward(y_test, values, k))
    assert rows["default"]["settings"] == [{}]

    # With siblings, from the candidates at hand alone.
    model, chosen = make_probe_pipeline(view_sizes=(5,)).fit(X, y), []
    sets = reward.random_sets(y_test.shape, k, reward.QUICK.n_sets if k < 6 else 1)
    for prompt, some in product(range(len(y_test)), range(len(sets))):
        candidates = sets[some, prompt]
        values = model.decision_function(X_test[prompt : prompt + 1, candidates])[0]
        chosen.append(y_test[prompt, candidates[values == values.max()]].mean())
    assert reward_of["recommended"] == pytest.approx(np.mean(chosen))


def test_difference_to_the_best_of_the_others(reward, tmp_path):
    train, test, out = (tmp_path / name for name in ("A.npz", "B.npz", "out.json"))
    make_npz(train, 0, binary=False)
    _, y = make_npz(test, 1, binary=False, n_chars=np.arange(240).reshape(40, 6))
    arguments = ["--train", train, "--test", test, "--json", out, "--quick"]
    names = ["Ridge", "squared_error", "policy_gradient"]
    reward.main([*map(str, arguments), "--methods", *names])
    rows = rows_of(out, 6)
    assert list(rows) == [*names, "base", "oracle", "longest", "shortest"]
    value = {name: row["reward"]["value"] for name, row in rows.items()}
    assert value["longest"] == pytest.approx(y[:, -1].mean())
    assert value["shortest"] == pytest.approx(y[:, 0].mean())
    for name in (*names, "longest"):
        others = [other for other in names if other != name]
        rival, difference = rows[name]["best_of_others"], rows[name]["difference"]
        assert rival in others and value[rival] == max(map(value.get, others))
        assert difference["value"] == pytest.approx(value[name] - value[rival])
        assert difference["low"] <= difference["value"] <= difference["high"]
    assert rows["oracle"]["difference"] is None


def test_intervals_are_those_of_scipy(reward):
    rng = np.random.default_rng(0)
    base, gain = rng.random((2, 60))
    one, other = base + gain * rng.random((2, 60)) * [[1.0], [0.6]]
    oracle = base + gain
    learned = {
        "one": reward.Record(one[:, None]),
        "other": reward.Record(other[:, None]),
    }
    references = {"base": reward.Record(base[:, None])}
    references["oracle"] = reward.Record(oracle[:, None])
    row = reward.measure(learned, references, 0, 9999)[0]

    def recovery(one, base, oracle, axis):
        gain = oracle.mean(axis) - base.mean(axis)
        return (one.mean(axis) - base.mean(axis)) / gain

    for figure, arrays, statistic in (
        ("reward", (one,), np.mean),
        ("recovery", (one, base, oracle), recovery),
        ("difference", (one - other,), np.mean),
    ):
        expected = bootstrap(
            arrays, statistic, paired=True, vectorized=True, random_state=1
        )
        value = statistic(*arrays, axis=0)
        assert row[figure]["value"] == pytest.approx(value)
        found = row[figure]["low"], row[figure]["high"]
        slack = 0.1 * expected.standard_error
        assert found == pytest.approx(expected.confidence_interval, abs=slack)


def test_nothing_to_recover(reward, tmp_path):
    make_npz(tmp_path / "A.npz", 0, binary=False)
    arguments = ["--train", tmp_path / "A.npz", "--test", tmp_path / "A.npz"]
    arguments += ["--quick", "--methods", "Ridge", "--ks", "1"]
    reward.main([*map(str, arguments), "--json", str(tmp_path / "out.json")])
    rows = rows_of(tmp_path / "out.json", 1)
    assert all(row["recovery"] is None for row in rows.values())
    base = rows["base"]["reward"]["value"]
    assert rows["Ridge"]["reward"]["value"] == pytest.approx(base)


def test_sets_are_valued_by_themselves(reward):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(5, 4, 3)), rng.random((5, 4))
    data = reward.Data("random", X, y, np.arange(5), None, None, (3,))
    all_sets = np.array(list(combinations(range(4), 2)))  # each once: the expectation
    sets = np.broadcast_to(all_sets[:, None], (6, 5, 2))

    class Alone:
        """Values that depend on the candidate alone."""

        def decision_function(self, X):
            return X[..., 0].round()  # with ties

    expected = reward.rewards_by_k(y, X[..., 0].round(), [2, 4])
    found = reward.expected_rewards(Alone(), data, [2, 4], {2: sets})
    np.testing.assert_allclose(found, expected)

    class LikeTheRest:
        """Values by what is shared with the others: in two, equal ones."""

        def decision_function(self, X):
            return -np.abs(X[..., 0] - X[..., 0].mean(axis=1, keepdims=True)).round(9)

    found = reward.expected_rewards(LikeTheRest(), data, [2], {2: sets})
    np.testing.assert_allclose(found[:, 0], y.mean(axis=1))
    exact = reward.expected_rewards(LikeTheRest(), data, [2], {})
    assert np.abs(exact - found).max() > 0.05


def test_random_sets(reward):
    sets = reward.random_sets((50, 8), 3, 40)
    assert sets.shape == (40, 50, 3)
    assert (np.diff(np.sort(sets)) > 0).all()  # without repetition
    counts = np.bincount(sets.ravel(), minlength=8)
    assert len(counts) == 8 and (abs(counts - 750) < 5 * np.sqrt(750)).all()
    np.testing.assert_array_equal(sets, reward.random_sets((50, 8), 3, 40))


def test_which_methods_compare(reward):
    names = [name for name in reward.METHODS if name != "LGBMRanker"]
    methods, left_out = reward.make_methods(
        Train(np.eye(4)), reward.QUICK, [*names, "siblings+log_loss"]
    )
    compare = {method.name for method in methods if method.compares}
    expected = {*reward.WITH_SIBLINGS, "recommended"}
    assert compare == expected - set(left_out)
    (default,) = (method for method in methods if method.name == "default")
    assert type(default.search(4, 2)) is QProbePolicy  # no scaler, no search


def test_no_torch_no_network(reward, monkeypatch):
    monkeypatch.setattr(reward, "find_spec", lambda name: None)
    methods, left_out = reward.make_methods(
        Train(np.eye(4)), reward.QUICK, ["siblings+network", "Ridge"]
    )
    assert [method.name for method in methods] == ["Ridge"]
    assert "pip install torch" in left_out["siblings+network"]


def test_network(reward, tmp_path):
    pytest.importorskip("torch")
    make_npz(tmp_path / "A.npz", 0)
    data = reward.load(tmp_path / "A.npz", ["embeddings"])
    (method,), _ = reward.make_methods(data, reward.QUICK, ["siblings+network"])
    model = method.fit(data, 6, 2).best_estimator_
    assert model["model"].coefs_[0].shape[1] == 256
    assert "siblings" in model.named_steps and model["model"].alpha in (0.01, 0.1)


def test_units_of_the_penalty(reward):
    """One entry of the grid is the same penalty for all that fit squares."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 4, 3)), rng.normal(size=(20, 4))
    coef = {}
    for name in ("squared_error", "contrastive_policy_gradient", *reward.PEERS[:2]):
        (method,), _ = reward.make_methods(Train(y), reward.QUICK, [name])
        ((setting, values),) = method.grid.items()
        estimator = method.estimator.set_params(**{setting: values[-1]})
        # Features without any mean in a prompt, where all of these are one problem.
        estimator.fit(X - X.mean(axis=1, keepdims=True), y)
        coef[name] = getattr(estimator, "estimator_", estimator).coef_
    for other in coef.values():
        np.testing.assert_allclose(other, coef["squared_error"], rtol=1e-6)


def test_groups_stay_together(reward, tmp_path):
    groups = np.repeat(np.arange(20), 2)
    more = {"groups": groups, "models": list("abcdef"), "binary": False}
    X, y = make_npz(tmp_path / "A.npz", 0, **more)
    data = reward.load(tmp_path / "A.npz", ["embeddings"])
    tested = []
    for train, test, where in reward.outer_splits(data):
        assert not set(train.groups) & set(test.groups)
        np.testing.assert_array_equal(test.X, X[where])
        np.testing.assert_array_equal(test.y, y[where])
        tested.extend(where)
        best = train.y.mean(axis=0).argmax()
        values = reward.reference_values(train, test)["best-model"]
        chosen = best_of_k_reward(test.y, values, 6)
        assert chosen == pytest.approx(test.y[:, best].mean())
        # Inside, the same: the search hands the groups to its splitter.
        search = reward.make_peer("Ridge", train.y.size, reward.QUICK).search(6, 3)
        for fit, choose in search.cv.split(train.X, groups=train.groups):
            assert not set(train.groups[fit]) & set(train.groups[choose])
    assert sorted(tested) == list(range(40))


def test_nested_on_a_folder(reward, tmp_path, capsys):
    out, name = tmp_path / "out.json", "siblings+log_loss"
    make_npz(tmp_path / "hh_harmless.npz", 0, m=3)
    only = ["--only", "alpacaeval_gpt4", "hh_harmless", "--methods", name]
    arguments = ["--data", str(tmp_path), "--json", str(out), "--quick"]
    reward.main([*arguments, *only, "--ks", "2", "3"])
    printed = capsys.readouterr().out
    assert "alpacaeval_gpt4: left out" in printed
    assert "there are none" in printed  # no other method to compare with
    for k in (2, 3):
        rows = rows_of(out, k)
        assert len(rows[name]["settings"]) == 5 and rows[name]["difference"] is None
        base = rows["base"]["reward"]["value"]
        assert rows[name]["reward"]["value"] > base + 0.1


def test_left_out(reward, tmp_path, capsys):
    path = tmp_path / "A.npz"
    make_npz(path, 0, binary=False, key="hidden")
    names = ["log_loss", "LogisticRegression", "policy_gradient"]
    arguments = ["--train", str(path), "--test", str(path), "--key", "hidden"]
    reward.main([*arguments, "--quick", "--methods", *names])
    printed = capsys.readouterr().out
    assert "left out: log_loss: y must lie in [0, 1]" in printed
    assert "left out: LogisticRegression: the rewards are not all 0 or 1" in printed
    assert "\npolicy_gradient " in printed and "\nlog_loss " not in printed


@needs_lightgbm
@pytest.mark.parametrize("binary", [True, False])
def test_ranker(reward, tmp_path, binary):
    path = tmp_path / "A.npz"
    X, y = make_npz(path, 0, binary=binary, n_prompts=80)
    (method,), left_out = reward.make_methods(
        Train(y[:40]), reward.QUICK, ["LGBMRanker"]
    )
    assert not left_out
    values = method.estimator.fit(X[:40], y[:40]).decision_function(X[40:])
    chosen, oracle = best_of_k_reward(y[40:], values, 6), oracle_reward(y[40:], 6)
    assert chosen > (y[40:].mean() + oracle) / 2


def test_bad_files(reward, tmp_path):
    path, other = tmp_path / "A.npz", tmp_path / "B.npz"
    X, y = make_npz(path, 0)
    with pytest.raises(SystemExit, match=r"'emb'; it has embeddings, rewards"):
        reward.load(path, ["emb"])
    np.savez(other, embeddings=X, rewards=y[:, :-1])
    with pytest.raises(SystemExit, match=r"\(40, 6, 5\), \(40, 5\)"):
        reward.load(other, ["embeddings"])
    np.savez(other, embeddings=X, rewards=np.where(y == y[0, 0], np.nan, y))
    with pytest.raises(SystemExit, match="has NaN or infinity"):
        reward.load(other, ["embeddings"])
    np.savez(other, embeddings=X[..., :3], rewards=y)
    with pytest.raises(SystemExit, match="--train has 5 features and --test has 3"):
        reward.main(["--train", str(path), "--test", str(other)])


def test_bad_arguments(reward, capsys):
    for arguments, message in (
        (["--train", "A.npz"], "--train and --test go together"),
        (["--ks", "0"], "--ks must be 1 or more"),
    ):
        with pytest.raises(SystemExit):
            reward.main(arguments)
        assert message in capsys.readouterr().err


def test_several_embeddings_stand_side_by_side(reward, tmp_path):
    X, y = make_npz(tmp_path / "A.npz", 0)
    np.savez(tmp_path / "B.npz", one=X[..., :2], two=X[..., 2:], rewards=y)
    data = reward.load(tmp_path / "B.npz", ["one", "two"])
    np.testing.assert_array_equal(data.X, X.astype(np.float32))
    assert data.view_sizes == (2, 3)
    (method,), _ = reward.make_methods(data, reward.QUICK, ["siblings+log_loss"])
    search = method.search(3, 2).fit(data.X, data.y, groups=data.groups)
    assert len(search.best_estimator_["siblings"].scales_) == 2
