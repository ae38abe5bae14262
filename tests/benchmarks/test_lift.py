"""The benchmark of ideas tunes inside training prompts, and its figures are right."""

import json

import numpy as np
import pytest
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy
from skqprobe.metrics import best_of_k_reward
from skqprobe.preprocessing import PerCandidate


def test_tuning_is_inside_the_training_prompts(lift, ideas, make_data):
    """It is a cross-validation; of equal penalties it takes the strongest."""
    data = make_data(np.arange(30) // 2, n_prompts=30, m=6)
    idea = ideas.IDEAS["no_siblings"]
    seen = []

    class Spy(StandardScaler):
        def fit(self, X, y=None):
            seen.append(len(X))
            return super().fit(X)

    features = PerCandidate(Spy())
    alpha = lift.tune(features, idea.probe, ideas.ALPHAS, data, 3)
    assert seen == [20 * 6] * 3
    rewards = np.zeros(3)
    folds = GroupKFold(3, shuffle=True, random_state=1)
    for inside, outside in folds.split(data.X, groups=data.groups):
        scaled = PerCandidate(StandardScaler()).fit(data.X[inside])
        for i, each in enumerate(ideas.ALPHAS):
            probe = QProbePolicy("pairwise_logistic", alpha=each)
            probe.fit(scaled.transform(data.X[inside]), data.y[inside])
            values = probe.decision_function(scaled.transform(data.X[outside]))
            rewards[i] += best_of_k_reward(data.y[outside], values, 3)
    assert alpha == ideas.ALPHAS[np.argmax(rewards)]

    data.X[:] = 0
    alpha = lift.tune(features, idea.probe, ideas.ALPHAS, data, 3)
    assert alpha == max(ideas.ALPHAS)


def test_sets_to_choose_from(lift, make_data, monkeypatch):
    data = make_data(n_prompts=60, m=9)
    np.testing.assert_array_equal(
        lift.draw_sets(data), np.tile(np.arange(9), (1, 60, 1))
    )
    monkeypatch.setattr(lift, "MAX_CANDIDATES", 4)
    sets = lift.draw_sets(data)
    assert sets.shape == (lift.N_SETS, 60, 4)
    assert (np.diff(np.sort(sets)) > 0).all()  # no candidate twice
    np.testing.assert_array_equal(sets, lift.draw_sets(data))  # the same for all ideas


@pytest.mark.slow
def test_command(lift, make_data, monkeypatch, tmp_path, capsys):
    data = make_data(np.arange(40) // 2, n_prompts=40, m=8)
    noise = np.random.default_rng(1).random(data.y.shape) < 0.4
    data.y[noise] = 1 - data.y[noise]  # so that other folds mean other choices
    arrays = {"rewards": data.y, "groups": data.groups}
    np.savez(tmp_path / "hh_harmless.npz", embeddings=data.X, **arrays)
    monkeypatch.setattr(lift, "N_RESAMPLES", 99)
    monkeypatch.setattr(lift, "MAX_CANDIDATES", 5)
    splits, chosen, measure_fold = [], np.zeros(40), lift.measure_fold

    def spy(*arguments):
        test, found = measure_fold(*arguments)
        splits.append(test)
        chosen[test] += found["log_loss"][0] / 2
        return test, found

    monkeypatch.setattr(lift, "measure_fold", spy)
    out, ideas = tmp_path / "out.json", ["log_loss", "set_centered", "bagging"]
    only = ["--data", str(tmp_path), "--only", "hh_harmless", "alpacaeval_gpt4"]
    lift.main([*only, "--ideas", *ideas, "--json", str(out)])
    printed = capsys.readouterr().out
    assert "alpacaeval_gpt4: left out" in printed
    assert "- siblings\nset_centered" in printed and "- columns" not in printed

    assert len(splits) == 2 * 5
    for repeat in (splits[:5], splits[5:]):
        np.testing.assert_array_equal(np.sort(np.concatenate(repeat)), np.arange(40))
        for test in repeat:
            others = np.setdiff1d(np.arange(40), test)
            assert not set(data.groups[test]) & set(data.groups[others])
    assert not np.array_equal(splits[0], splits[5])

    (result,) = json.loads(out.read_text())
    found = result["ideas"]
    assert list(found) == ["reference", "set_centered", "log_loss", "bagging"]
    assert result["k"] == 5 and result["n_prompts"] == 40
    reference = found["reference"]["reward"]
    for name, row in found.items():
        gain, reward = row["gain"], row["reward"]
        assert gain["low"] <= gain["value"] <= gain["high"]
        assert gain["value"] == pytest.approx(reward["value"] - reference["value"])
        assert len(row["alphas"]) == 10
        if name != "reference":
            assert f"{gain['value']:+.3f} [{gain['low']:+.3f}" in printed
    assert found["log_loss"]["reward"]["value"] == pytest.approx(chosen.mean())
    assert found["bagging"]["alphas"] == found["reference"]["alphas"]
    assert found["set_centered"]["gain"]["value"] == pytest.approx(0, abs=0.01)
    y = [data.y[p, sets] for p, sets in enumerate(lift.draw_sets(data).swapaxes(0, 1))]
    base, oracle = np.mean(y), np.mean([prompt.max(axis=1).mean() for prompt in y])
    assert (result["base"], result["oracle"]) == pytest.approx((base, oracle))
    share = (reference["value"] - base) / (oracle - base)
    assert result["recovery"]["value"] == pytest.approx(share)
    assert f"recovery {share:.3f}" in printed


def test_ideas_that_do_not_apply(lift, make_data, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(lift, "find_spec", lambda name: None)
    only = ["--data", str(tmp_path), "--only", "hh_harmless"]
    lift.main([*only, "--ideas", "hidden_layer", "log_loss"])
    printed = capsys.readouterr().out
    assert "pip install torch" in printed and "\nlog_loss:" in printed
    assert "hidden_layer: one" not in printed
    assert lift.applicable(["log_loss", "bagging"], make_data().y) == [
        "log_loss",
        "bagging",
    ]
    assert lift.applicable(["log_loss", "bagging"], -np.ones((3, 4))) == ["bagging"]
    assert "log_loss: left out, y must lie in [0, 1]" in capsys.readouterr().out
