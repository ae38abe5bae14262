"""The benchmark of stopping rules and predicted rewards measures what it says."""

import gzip
import json

import numpy as np
import pytest


def test_halves_keep_groups_together(cost, make_data):
    groups = np.repeat(np.arange(20), 3)
    for train, test in cost.halves(make_data(groups=groups, n_prompts=60), 3):
        assert not set(groups[train]) & set(groups[test])
        assert sorted([*train, *test]) == list(range(60))
        assert len(train) == 30


def test_equal_candidates_by_hand(cost):
    n_drawn, reward = np.array([8.0, 1, 2, 4]), np.array([0.8, 0.1, 0.5, 0.6])
    found = cost.equal_candidates(np.array([0.3, 0.6, 0.7]), n_drawn, reward)
    np.testing.assert_allclose(found, [1.5, 4, 6])


def test_ratios_of_a_rule_that_halves_the_cost(cost, rng):
    ks, n = [2, 4], 50
    fixed = rng.random((n, 1)) + np.array([0.0, 1])
    settings = len(cost.COSTS)
    n_drawn = np.tile(np.linspace(1, 2, settings), (n, 1))
    reward = fixed[:, :1] + np.linspace(0, 1, settings)
    curves = cost.Curves(fixed * 3, {"gain": n_drawn * 3}, {"gain": reward * 3})
    lines = cost.summarize_candidates(curves, np.full(n, 3.0), ks)
    assert [line["gain n_drawn"] for line in lines] == pytest.approx([1, 2])
    assert [line["gain ratio"]["value"] for line in lines] == pytest.approx([2, 2])
    assert lines[1]["gain ratio"]["low"] == pytest.approx(2)
    assert lines[0]["reward"] == pytest.approx(fixed[:, 0].mean())


def test_calibration_error_by_hand(cost, monkeypatch):
    monkeypatch.setattr(cost, "N_BINS", 2)
    predicted, rewards = np.array([0.1, 0.9, 0.3, 0.7]), np.array([0, 1, 1, 0])
    # Bins (0.1, 0.3) and (0.7, 0.9): |0.2 - 0.5| and |0.8 - 0.5|.
    assert cost.calibration_error(predicted, rewards) == pytest.approx(0.3)
    p = np.random.default_rng(0).random(200)
    correct = np.random.default_rng(1).random((500, 200)) < p
    expected = np.mean([cost.calibration_error(p, each) for each in correct])
    assert cost.sampling_error(p) == pytest.approx(expected, rel=0.1)


def test_answers_are_numbers(load):
    extract_answer = load("_data").extract_answer
    assert extract_answer("It is 3.\nA: 1,200") == 1200
    assert extract_answer("A: 3 A: 4.0") == 4
    assert np.isnan(extract_answer("A: none"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The interval")
def test_command(cost, make_npz, monkeypatch, tmp_path, capsys):
    for name in ("alpacaeval_gpt4", "hh_harmless"):
        make_npz(tmp_path / f"{name}.npz", n_prompts=40, m=5)
    X, y = make_npz(tmp_path / "gsm.npz", n_prompts=40, m=5)
    np.savez(tmp_path / "gsm.npz", embeddings=X, emb_completion=X, rewards=y)
    with gzip.open(tmp_path / "gsm.jsonl.gz", "wt") as file:
        for row in y:
            completions = [f"A: {reward}" for reward in row]
            file.write(json.dumps({"completions": completions}) + "\n")
    monkeypatch.setattr(cost, "COSTS", (0.01, 0.1))
    monkeypatch.setattr(cost, "N_ORDERS", 2)
    monkeypatch.setattr(cost, "OF_CANDIDATES", ("alpacaeval_gpt4", "missing"))
    monkeypatch.setattr(cost, "OF_CALIBRATION", ("hh_harmless",))
    out = tmp_path / "out.json"
    cost.main(["--quick", "--data", str(tmp_path), "--json", str(out)])
    figures = json.loads(out.read_text())
    assert set(figures) == {
        "candidates, alpacaeval_gpt4",
        "calibration, hh_harmless",
        "votes",
    }
    assert [line["k"] for line in figures["candidates, alpacaeval_gpt4"]] == [2, 4]
    printed = capsys.readouterr().out
    assert "there is no missing.npz" in printed and printed.endswith("little else\n")
