"""The benchmark of labels spends as many as it says, and its figures are right."""

import json

import numpy as np
import pytest


@pytest.mark.parametrize("rule", ["farthest", "random", "all", "untuned"])
@pytest.mark.parametrize("k, per_prompt", [(2, 2), (4, 2), (12, 4)])
def test_number_of_labels(labels, rule, k, per_prompt):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, k, 3))
    asked = labels.label(rule, X, 24, rng)
    assert asked.sum() == 24
    assert (asked.sum(axis=1) == (k if rule == "all" else per_prompt)).all()
    assert labels.label(rule, X[:2], 48, rng) is None
    assert labels.label("all", X, k - 1, rng) is None


def test_farthest_candidates_are_selected(labels):
    X = np.zeros((6, 12, 1))
    X[:, ::3, 0] = [100, -50, 25, -12]
    asked = labels.label("farthest", X, 24, np.random.default_rng(0))
    assert (asked == labels.label("untuned", X, 24, np.random.default_rng(0))).all()
    assert (asked == (np.arange(12) % 3 == 0)).all()


def test_command(labels, make_npz, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(labels, "N_LABELS", (24, 96, 10_000))
    X, y = make_npz(tmp_path / "summeval.npz", key="emb_swapped")
    X, y = make_npz(tmp_path / "summeval.npz", "emb_swapped", {"emb_completion": X})
    out = tmp_path / "out.json"
    arguments = ["--only", "summeval", "--data", tmp_path, "--json", out, "--quick"]
    labels.main([*map(str, arguments), "--out", str(tmp_path)])
    (result,) = json.loads(out.read_text())
    assert result["base"] == pytest.approx(y.mean())
    assert {line["labels"] for line in result["lines"]} == {24, 96}
    assert {line["rule"] for line in result["lines"]} == set(labels.RULES)
    best = max(line["reward"] for line in result["lines"])
    assert result["base"] + 0.2 < best <= y.max(axis=1).mean() + 0.05
    shown = f"{best:.3f} ("
    assert shown in capsys.readouterr().out
    assert (tmp_path / "labels.png").stat().st_size > 10_000
