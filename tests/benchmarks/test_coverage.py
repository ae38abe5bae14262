"""The benchmark of intervals simulates what it says, and its figures are right."""

import json

import numpy as np
import pytest

from skqprobe.metrics import best_of_k_reward, recovery


@pytest.mark.parametrize("rewards", ["binary", "rare", "lognormal"])
def test_rewards(coverage, rewards):
    y, scores = coverage.draw(rewards, 20_000, np.random.default_rng(0))
    assert y.shape == scores.shape == (20_000, coverage.K)
    mean = {"binary": 0.4, "rare": 0.1 / 3.1, "lognormal": np.exp(0.5)}[rewards]
    assert y.mean() == pytest.approx(mean, rel=0.03)
    top, bottom = coverage.terms_of(recovery, y, scores)
    found = recovery(y, scores, coverage.K)
    assert top.sum() / bottom.sum() == pytest.approx(found)


def test_standard_error_is_that_of_many_samples(coverage):
    rng = np.random.default_rng(0)
    bottom = rng.uniform(1, 2, size=(2000, 200))
    top = bottom * rng.uniform(0, 1, size=bottom.shape)
    found = [
        coverage.linearized(*pair, np.ones((1, 200)))
        for pair in zip(top, bottom, strict=True)
    ]
    values, errors = np.squeeze(found).T
    assert values == pytest.approx(top.sum(axis=1) / bottom.sum(axis=1))
    assert errors.mean() == pytest.approx(values.std(), rel=0.05)
    intervals = coverage.other_intervals(top[0], bottom[0], rng)
    for low, high in intervals.values():
        assert low == pytest.approx(values[0] - 1.96 * errors[0], abs=0.01)
        assert high == pytest.approx(values[0] + 1.96 * errors[0], abs=0.01)


def test_measured_shares(coverage, monkeypatch):
    monkeypatch.setattr(coverage, "N_TRUE", 20_000)
    monkeypatch.setattr(coverage, "N_RESAMPLES", 199)
    line = coverage.measure("binary", best_of_k_reward, 20, 40)
    assert line["informative"] == 20 and line["warned"] == 0
    assert line["not warned"] == line["coverage"] > 0.8
    line = coverage.measure("rare", recovery, 20, 20)
    assert line["warned"] == 1 and line["not warned"] is None
    assert 0.3 < line["coverage"] < 0.95


def test_command(coverage, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(coverage, "N_TRUE", 2000)
    monkeypatch.setattr(coverage, "N_RESAMPLES", 19)
    monkeypatch.setattr(coverage, "SIZES", (12,))
    coverage.main(["--quick", "--json", str(tmp_path / "out.json")])
    lines = json.loads((tmp_path / "out.json").read_text())
    assert [(line["rewards"], line["metric"]) for line in lines] == [
        (rewards, metric)
        for rewards in ("binary", "rare", "lognormal")
        for metric in ("mean", "ratio")
    ]
    printed = capsys.readouterr().out
    assert "rare      ratio    12" in printed and printed.endswith("little else\n")
