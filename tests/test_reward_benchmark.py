"""The benchmark of rewards runs on any .npz, and its figures are what it says."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from skqprobe.losses import LOSSES
from skqprobe.metrics import base_reward, best_of_k_reward, oracle_reward

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "reward.py"

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
        self.y, self.block_sizes = y, None


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


@pytest.mark.parametrize("k", [2, 6])
def test_train_and_test(reward, tmp_path, capsys, k):
    train, test, out = (tmp_path / name for name in ("A.npz", "B.npz", "out.json"))
    X, y = make_npz(train, 0)
    X_test, y_test = make_npz(test, 1)
    arguments = ["--train", train, "--test", test, "--json", out, "--quick", "--ks"]
    reward.main([*map(str, arguments), "2", "6", "50"])
    (result,) = json.loads(out.read_text())["results"]
    assert result["name"] == "B" and list(result["tables"]) == ["2", "6"]
    rows = rows_of(out, k)
    assert {*LOSSES, "Ridge", "LogisticRegression", "base", "oracle"} <= set(rows)
    assert set(reward.WITH_SIBLINGS) <= set(rows)
    base, oracle = base_reward(y_test), oracle_reward(y_test, k)
    assert rows["base"]["reward"]["value"] == pytest.approx(base)
    assert rows["oracle"]["reward"]["value"] == pytest.approx(oracle)
    for name in set(rows) - {"base", "oracle"}:
        value = rows[name]["reward"]["value"]
        assert base < value <= oracle + 1e-12
        assert rows[name]["reward"]["low"] < value < rows[name]["reward"]["high"]
        assert rows[name]["recovery"] == pytest.approx((value - base) / (oracle - base))

    # Ridge by hand, with the setting that was chosen.
    scaler = StandardScaler().fit(X.reshape(-1, 5))
    ridge = Ridge(**rows["Ridge"]["settings"][0])
    ridge.fit(scaler.transform(X.reshape(-1, 5)), y.ravel())
    values = ridge.predict(scaler.transform(X_test.reshape(-1, 5))).reshape(
        y_test.shape
    )
    expected = best_of_k_reward(y_test, values, k)
    assert rows["Ridge"]["reward"]["value"] == pytest.approx(expected)

    printed = capsys.readouterr().out
    for line in printed.split(f"k = {k} ")[1].splitlines()[1 : 1 + len(rows)]:
        name, value = line.split()[:2]
        assert f"{rows[name]['reward']['value']:.3f}" == value


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
    out = tmp_path / "out.json"
    make_npz(tmp_path / "hh_harmless.npz", 0, m=2)
    only = ["--only", "alpacaeval_gpt4", "hh_harmless"]
    arguments = ["--data", str(tmp_path), "--json", str(out), "--quick"]
    reward.main([*arguments, *only, "--methods", "log_loss"])
    printed = capsys.readouterr().out
    assert "alpacaeval_gpt4: left out" in printed
    assert "there are none" in printed  # no other method to compare with
    row = rows_of(out, 2)["log_loss"]
    assert len(row["settings"]) == 5 and row["difference"] is None
    assert row["reward"]["value"] > rows_of(out, 2)["base"]["reward"]["value"] + 0.1


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
    assert data.block_sizes == (2, 3)
    (method,), _ = reward.make_methods(data, reward.QUICK, ["siblings+log_loss"])
    search = method.search(3, 2).fit(data.X, data.y, groups=data.groups)
    assert len(search.best_estimator_["siblings"].scales_) == 2
