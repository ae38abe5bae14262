"""The benchmark of the posterior measures what it says."""

import json

import numpy as np
import pytest


def test_both_fit_the_same_prompts(posterior, make_npz, load, tmp_path):
    make_npz(tmp_path / "alpacaeval_gpt4.npz", n_prompts=60, m=6)
    data = load("_data").load("alpacaeval_gpt4", [tmp_path])
    rewards, times = posterior.compare(data, 40, 0)
    assert (times > 0).all()
    assert rewards == pytest.approx(rewards[0], abs=0.2)
    assert (rewards > data.y.mean()).all()


def test_coverage_of_many_choices_is_nominal(posterior, monkeypatch):
    monkeypatch.setattr(posterior, "D", 3)
    assert posterior.coverage(100, 100) == pytest.approx([0.9, 0.5], abs=0.08)


def test_error_of_updates(posterior, monkeypatch):
    assert 0.1 < posterior.update_error(200, 5) < 1
    monkeypatch.setattr(posterior, "N_NIGHTS", 1)
    assert posterior.update_error(200, 5) < 1e-5


def test_command(posterior, make_npz, monkeypatch, tmp_path, capsys):
    make_npz(tmp_path / "alpacaeval_gpt4.npz", n_prompts=60, m=6)
    for name, value in {
        "LARGE": (10, 2, 30),
        "DRAWS": 2,
        "SIZES": (5, 10),
        "CHOICES": (20,),
        "NAMES": ("alpacaeval_gpt4", "absent"),
    }.items():
        monkeypatch.setattr(posterior, name, value)
    monkeypatch.setattr(posterior, "coverage", lambda n, n_simulations: [0.9, 0.5])
    monkeypatch.setattr(posterior, "update_error", lambda n, n_simulations: 0.1)
    out = tmp_path / "out.json"
    posterior.main(["--data", str(tmp_path), "--json", str(out)])
    figures = json.loads(out.read_text())
    assert [line["prompts"] for line in figures["rewards"]] == [5, 10]
    for line in figures["rewards"]:
        assert line["gain"] == pytest.approx(line["posterior"] - line["tuned"])
    assert np.all(np.array(figures["large"]) > 0)
    assert figures["update error"] == {"20": 0.1}
    assert "absent: no file" in capsys.readouterr().out
