"""The benchmark of auxiliary targets: targets, networks and figures are right."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skqprobe import QProbePolicy
from skqprobe.metrics import best_of_k_reward


def test_targets_are_in_range(auxiliary, make_data, tmp_path):
    data = make_data(n_prompts=4, m=3)
    assert auxiliary.auxiliary_targets(data, [tmp_path]) == {}
    lengths = np.arange(12.0).reshape(4, 3) ** 2
    data = replace(data, name="humaneval_x", lengths=lengths)
    status = [["pass", "exc:AssertionError", "exc:NameError"]] * 3
    status += [["exc:SyntaxError", "cpu", "pass"]]
    with gzip.open(tmp_path / "humaneval_x.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"status": each}) + "\n" for each in status)
    targets = auxiliary.auxiliary_targets(data, [tmp_path])
    assert_array_equal(targets["length"].ravel(), np.arange(12) / 11)
    assert_array_equal(targets["wrong result"], [[0, 1, 0]] * 3 + [[0, 0, 0]])
    expected = [[0, 0, 1]] * 3 + [[1, 0, 0]]
    assert_array_equal(targets["name or syntax error"], expected)
    assert_array_equal(targets["other error"], [[0, 0, 1]] * 3 + [[1, 1, 0]])
    data, systems = replace(data, name="gsm"), np.array([[0, 1, 2]] * 4)
    np.savez(tmp_path / "gsm.npz", systems=systems, system_names=["a", "b", "c"])
    targets = auxiliary.auxiliary_targets(data, [tmp_path])
    assert list(targets) == ["length", "a", "b", "c"]
    assert_array_equal(targets["b"], systems == 1)


def test_variants(auxiliary, rng):
    y, targets = rng.random((5, 3)), {"a": rng.random((5, 3)), "b": np.ones((5, 3))}
    alone, given, shuffled = (
        auxiliary.objectives(y, targets, variant, rng) for variant in auxiliary.VARIANTS
    )
    assert_array_equal(alone, y[..., None])
    assert_array_equal(given, np.stack([y, targets["a"], targets["b"]], axis=-1))
    assert_array_equal(shuffled[..., 0], y)
    assert_array_equal(
        np.sort(shuffled[..., 1], axis=None), np.sort(targets["a"], None)
    )
    assert (shuffled[..., 1] != targets["a"]).any()


def test_only_the_first_output_counts(auxiliary):
    policy = auxiliary.make_policy("log_loss", 3, seed=4)
    assert_array_equal(policy.objective_weights, [1, 0, 0])
    assert policy.hidden_layer_sizes == (auxiliary.WIDTH,)
    assert policy.random_state == 4


def test_figures(auxiliary, make_data, monkeypatch, tmp_path, capsys):
    def linear_probe(loss, n_objectives, seed):
        return QProbePolicy("squared_error", objective_weights=[1, 0.5][:n_objectives])

    changes = {"N_RESAMPLES": 99, "LOSSES": ("log_loss",), "make_policy": linear_probe}
    data = make_data(n_prompts=25, m=4)
    data = replace(data, lengths=np.arange(100.0).reshape(25, 4))
    for name, value in (changes | {"iterate_data": lambda args: [data]}).items():
        monkeypatch.setattr(auxiliary, name, value)
    auxiliary.main(["--json", str(tmp_path / "out.json"), "--quick"])
    (result,) = json.loads((tmp_path / "out.json").read_text())
    assert result["targets"] == ["length"]
    assert [row["prompts"] for row in result["rows"]] == ["few", "all"]
    targets = auxiliary.auxiliary_targets(data, [])
    rewards = {}
    for fold in range(5):
        test, found = auxiliary.measure_fold(data, targets, 0, fold)
        for key, values in found.items():
            rewards.setdefault(key, np.zeros(25))[test] = values
    alone, given, control = (rewards["all", "log_loss", v] for v in auxiliary.VARIANTS)
    row = result["rows"][1]
    assert row["reward"]["value"] == pytest.approx(alone.mean())
    assert row["gain"]["value"] == pytest.approx((given - alone).mean())
    assert row["control"]["value"] == pytest.approx((control - alone).mean())
    assert alone.mean() > data.y.mean() + 0.1
    assert alone.mean() <= best_of_k_reward(data.y, data.y, 4)
    printed = capsys.readouterr().out
    assert f"{alone.mean():.3f}" in printed and "targets: length" in printed
