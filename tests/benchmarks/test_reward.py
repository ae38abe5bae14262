"""The benchmark of rewards runs on any .npz file, and its figures are right."""

import gzip
import json
from contextlib import redirect_stdout
from io import StringIO
from itertools import product

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy, make_probe_pipeline
from skqprobe.metrics import base_reward, best_of_k_reward, oracle_reward


@pytest.fixture
def run_reward(reward, tmp_path):
    """Function that runs the command and returns the rows of its tables."""

    def run(*arguments):
        out = tmp_path / "out.json"
        reward.main([*map(str, arguments), "--quick", "--json", str(out)])
        (result,) = json.loads(out.read_text())["results"]
        return {
            int(k): {row["method"]: row for row in table}
            for k, table in result["tables"].items()
        }

    return run


@pytest.fixture(scope="module")
def run(reward, make_npz, tmp_path_factory):
    """One run of all methods: training data, test data, figures and printed text."""
    folder = tmp_path_factory.mktemp("run")
    train, test, out = (folder / name for name in ("A.npz", "B.npz", "out.json"))
    data = make_npz(train, seed=0, m=6), make_npz(test, seed=1, m=6)
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
    for name in set(rows) - {"base", "oracle", "consensus"}:
        value, share = rows[name]["reward"]["value"], rows[name]["recovery"]
        assert base < value <= oracle + 1e-12
        assert rows[name]["reward"]["low"] < value < rows[name]["reward"]["high"]
        assert share["value"] == pytest.approx((value - base) / (oracle - base))
        assert share["low"] < share["value"] < share["high"]
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

    # Without settings.
    values = QProbePolicy().fit(X, y).decision_function(X_test)
    assert reward_of["default"] == pytest.approx(best_of_k_reward(y_test, values, k))
    assert rows["default"]["settings"] == [{}]

    # With siblings, from the candidates of each set alone.
    model, chosen = make_probe_pipeline(view_sizes=(5,)).fit(X, y), []
    sets = reward.draw_sets(y_test.shape, [k], reward.QUICK.n_sets)
    sets = sets.get(k, np.tile(np.arange(6), (1, len(y_test), 1)))
    for prompt, number in product(range(len(y_test)), range(len(sets))):
        candidates = sets[number, prompt]
        values = model.decision_function(X_test[prompt : prompt + 1, candidates])[0]
        chosen.append(y_test[prompt, candidates[values == values.max()]].mean())
    assert reward_of["recommended"] == pytest.approx(np.mean(chosen))


def test_difference_from_the_best_other_method(run_reward, make_npz, tmp_path):
    train, test = tmp_path / "A.npz", tmp_path / "B.npz"
    more = {"n_chars": np.arange(240).reshape(40, 6)}
    make_npz(train, seed=0, m=6, binary=False)
    _, y = make_npz(test, more=more, seed=1, m=6, binary=False)
    names = ["Ridge", "squared_error", "policy_gradient"]
    rows = run_reward("--train", train, "--test", test, "--methods", *names)[6]
    assert list(rows) == [*names, "base", "oracle", "longest", "shortest", "consensus"]
    value = {name: row["reward"]["value"] for name, row in rows.items()}
    assert value["longest"] == pytest.approx(y[:, -1].mean())
    assert value["shortest"] == pytest.approx(y[:, 0].mean())
    for name in (*names, "longest"):
        others = [other for other in names if other != name]
        best, difference = rows[name]["best_other"], rows[name]["difference"]
        assert best in others and value[best] == max(map(value.get, others))
        assert difference["value"] == pytest.approx(value[name] - value[best])
        assert difference["low"] <= difference["value"] <= difference["high"]
    assert rows["oracle"]["difference"] is None


def test_no_possible_gain(run_reward, make_npz, tmp_path):
    path = tmp_path / "A.npz"
    make_npz(path, binary=False)
    paths = ["--train", path, "--test", path]
    rows = run_reward(*paths, "--methods", "Ridge", "--ks", 1)[1]
    assert all(row["recovery"] is None for row in rows.values())
    base = rows["base"]["reward"]["value"]
    assert rows["Ridge"]["reward"]["value"] == pytest.approx(base)


def test_outer_splits(reward, load, make_npz, tmp_path):
    groups = np.repeat(np.arange(20), 2)
    more = {"groups": groups, "models": list("abcdef")}
    X, y = make_npz(tmp_path / "A.npz", more=more, m=6, binary=False)
    data = load("_data").load_file(tmp_path / "A.npz", ["embeddings"])
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
    assert sorted(tested) == list(range(40))


def test_numbers_of_training_prompts(reward, make_data):
    data = make_data(n_prompts=40, m=3)
    few, more, every = (list(reward.outer_splits(data, n)) for n in (12, 20, None))
    for (some, test, _), (larger, same, _), (full, *_) in zip(
        few, more, every, strict=True
    ):
        assert (len(some.y), len(larger.y), len(full.y)) == (12, 20, 32)
        assert set(some.groups) < set(larger.groups) < set(full.groups)
        np.testing.assert_array_equal(test.groups, same.groups)


def test_vote_by_hand(reward, load, make_npz, tmp_path):
    make_npz(tmp_path / "gsm.npz", n_prompts=2, m=4)
    texts = [["A: 1", "A: 2", "A: 1.0", "none"], ["none", "A: 3", "none", "no"]]
    with gzip.open(tmp_path / "gsm.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"completions": row}) + "\n" for row in texts)
    data = load("_data").load_file(tmp_path / "gsm.npz", ["embeddings"])
    found = reward.reference_values(data, data)["vote"]
    assert found.tolist() == [[2, 1, 2, 0], [0, 1, 0, 0]]


def test_nested_on_a_folder(run_reward, make_npz, tmp_path, capsys):
    name = "siblings+log_loss"
    make_npz(tmp_path / "hh_harmless.npz", m=3)
    only = ["--only", "alpacaeval_gpt4", "hh_harmless", "--methods", name]
    tables = run_reward("--data", tmp_path, *only, "--ks", 2, 3)
    printed = capsys.readouterr().out
    assert "alpacaeval_gpt4: left out" in printed
    assert f"best other method: {name}\n" in printed  # of the consensus
    for k in (2, 3):
        row, base = tables[k][name], tables[k]["base"]
        assert len(row["settings"]) == 5 and row["difference"] is None
        assert row["reward"]["value"] > base["reward"]["value"] + 0.1


def test_left_out(reward, make_npz, tmp_path, capsys):
    path = tmp_path / "A.npz"
    make_npz(path, "hidden", binary=False)
    names = ["log_loss", "LogisticRegression", "policy_gradient"]
    paths = ["--train", str(path), "--test", str(path), "--key", "hidden"]
    reward.main([*paths, "--quick", "--methods", *names])  # without --json
    printed = capsys.readouterr().out
    assert "left out: log_loss: y must lie in [0, 1]" in printed
    assert "left out: LogisticRegression: the rewards are not all 0 or 1" in printed
    assert "\npolicy_gradient " in printed and "\nlog_loss " not in printed


def test_bad_arguments(reward, make_npz, tmp_path, assert_refused):
    for arguments, message in (
        (["--train", "A.npz"], "--train and --test go together"),
        (["--ks", "0"], "--ks must be 1 or more"),
        (["--prompts", "5"], "--prompts must be 10 or more"),
        (["--train", "A", "--test", "B", "--only", "gsm"], "--only selects data sets"),
    ):
        assert_refused(reward.main, arguments, message)
    make_npz(tmp_path / "A.npz")
    make_npz(tmp_path / "B.npz", d=3)
    paths = ["--train", str(tmp_path / "A.npz"), "--test", str(tmp_path / "B.npz")]
    with pytest.raises(SystemExit, match="--train has 5 features and --test has 3"):
        reward.main(paths)
