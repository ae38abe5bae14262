"""The benchmark of the paper's experiments: its figures are right."""

import json
from functools import partial

import numpy as np
import pytest

from skqprobe.metrics import best_of_k_reward

LOSSES = ("squared_error", "log_loss", "policy_gradient")
SMALL = {
    "alphas": (1.0, 0.01),
    "inner_folds": 2,
    "prompts": (5, 10),
    "temperatures": (1e-6, 1.0, 1e6),
    "layers": (1, 2),
    "n_subsets": 2,
    "n_resamples": 99,
    "max_prompts": 60,
}


def entry(entries, *key):
    (found,) = (e for e in entries if (e["method"], e["loss"], e["figure"]) == key)
    return found


def test_command(paper, make_npz, monkeypatch, tmp_path, capsys):
    make_npz(tmp_path / "alpacaeval_gpt4.npz", n_prompts=60, m=12)
    monkeypatch.setattr(paper, "QUICK", paper.Plan(**SMALL))
    monkeypatch.setattr(paper, "PaperRecipe", partial(paper.PaperRecipe, n_epochs=3))
    out, only = tmp_path / "out.json", ["--only", "alpacaeval_gpt4", "hh_harmless"]
    arguments = ["--quick", "--data", str(tmp_path), "--json", str(out), *only]
    paper.main([*arguments, "--out", str(tmp_path / "pictures")])
    assert (tmp_path / "pictures" / "alpacaeval_gpt4.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "hh_harmless: left out" in printed

    (result,) = json.loads(out.read_text())["results"]
    lines, at = result["lines"], {}
    for line in lines:
        at[line["figure"]] = line["at"]
        ends = np.array([line[name] for name in ("low", "value", "high")])
        assert ends.shape == (3, len(line["at"]))
        assert (np.diff(ends, axis=0) >= -1e-12).all()
        # All seeds hold out equally many prompts, so that their mean is the figure.
        np.testing.assert_allclose(np.mean(line["by_seed"], axis=1), line["value"])
    assert at == {
        "table": [10, 12],
        "k": [1, 2, 4, 8, 12],
        "prompts": [5, 10, 36],
        "temperature": [1e-6, 1.0, 1e6],
        "layers": [1, 2],
    }
    base = entry(lines, "base", "", "k")["value"][0]
    for loss, short in zip(LOSSES, ("L_Q", "L_CE", "L_PG"), strict=True):
        for name in ("skqprobe", "paper"):
            by_k = entry(lines, name, loss, "k")["value"]
            assert by_k[0] == pytest.approx(base)
            # The figures agree at the points that they share.
            of_all = entry(lines, name, loss, "table")["value"][-1]
            assert by_k[-1] == pytest.approx(of_all)
            assert entry(lines, name, loss, "prompts")["value"][-1] == of_all
            assert entry(lines, name, loss, "layers")["value"][0] == of_all
            warm = entry(lines, name, loss, "temperature")["value"]
            assert warm[0] == pytest.approx(of_all, abs=1e-3)
            assert warm[-1] == pytest.approx(base, abs=1e-3)
        ours, theirs = (entry(lines, n, loss, "k") for n in ("skqprobe", "paper"))
        gain = entry(result["differences"], "skqprobe", loss, "k")
        difference = np.subtract(ours["value"], theirs["value"])
        np.testing.assert_allclose(gain["value"], difference)
        assert ours["value"][-1] > base + 0.2  # three epochs of the recipe: no gain
        assert f"{ours['value'][-1]:.3f}" in printed.split("k = 12")[1]
        assert f"{short}, paper" in printed


def test_intervals_are_over_groups(paper):
    """Rewards are averaged over the seeds that held a prompt out, and over groups."""
    rewards = np.array([[1.0, 0.0, np.nan, np.nan], [0.5, np.nan, 3.0, np.nan]])
    groups = np.array(["a", "b", "a", "c"])
    count, total = paper.totals(rewards[..., None], groups)
    np.testing.assert_array_equal(count, [3, 1])  # no seed held out the last one
    np.testing.assert_array_equal(total[:, 0], [4.5, 0.0])
    found = paper.summarize(rewards[..., None], groups, 99)
    assert found["value"] == [pytest.approx(4.5 / 4)]
    assert found["by_seed"] == [[pytest.approx(0.5), pytest.approx(1.75)]]
    # A resample of two groups is one of them twice, or both.
    assert found["low"] == [pytest.approx(0.0)]
    assert found["high"] == [pytest.approx(1.5)]
    zero = paper.summarize(rewards[..., None], groups, 99, rewards[..., None])
    assert zero["value"] == zero["low"] == zero["high"] == [0.0]


def test_split_keeps_groups_together(paper, make_data):
    groups = np.repeat(np.arange(20), 2)
    data, tests = make_data(groups), []
    for seed in range(3):
        train, test = paper.split(data, seed)
        assert len(train) == 24 and sorted([*train, *test]) == list(range(40))
        assert not set(groups[train]) & set(groups[test])
        assert (np.diff(train) < 0).any()  # the first few are a random few
        tests.append(set(test))
    assert tests[0] != tests[1] != tests[2]


def test_random_sets(paper, load, make_data, alone):
    """They are as many as planned, for k below m, and agree with the exact reward."""
    data = make_data(n_prompts=30)
    sets = paper.draw_sets((30, 12), [3, 12], paper.Plan(n_subsets=400), seed=0)
    assert {k: s.shape for k, s in sets.items()} == {3: (400, 30, 3)}
    found = load("_rewards").expected_rewards(alone, data, [3, 12], sets)
    exact = best_of_k_reward(
        data.y, alone.decision_function(data.X), [3, 12], average=None
    )
    np.testing.assert_array_equal(found[:, 1], exact[:, 1])
    # The mean of 400 draws of 0 or 1 has a standard error of at most 0.025.
    np.testing.assert_allclose(found[:, 0], exact[:, 0], atol=0.12)


def test_temperature_rewards(paper, make_data, alone):
    data = make_data(n_prompts=5, m=4)
    values = alone.decision_function(data.X)
    unit = (values - values.mean(axis=1, keepdims=True)).std()
    found = paper.temperature_rewards(alone, data, [0.5, 2.0])
    for column, temperature in enumerate([0.5, 2.0]):
        share = np.exp(values / (temperature * unit))
        expected = (share * data.y).sum(axis=1) / share.sum(axis=1)
        np.testing.assert_allclose(found[:, column], expected, rtol=1e-6)


def test_bad_arguments(paper, assert_refused):
    assert_refused(paper.main, ["--seeds", "0"], "--seeds must be 1 or more")
