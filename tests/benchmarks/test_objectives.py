"""The benchmark of two objectives chooses and measures what it says."""

import json

import numpy as np
import pytest


def test_weights_are_even_in_units_of_the_values(objectives, rng):
    values = rng.normal(size=(30, 6, 2)) * [1, 100] + rng.normal(size=(30, 1, 2))
    weights = objectives.make_weights(values)
    assert weights.shape == (21, 2)
    np.testing.assert_array_equal(weights[[0, -1], [1, 0]], 0)
    middle = (values - values.mean(axis=1, keepdims=True)) * weights[10]
    np.testing.assert_allclose(middle.std(axis=(0, 1)), 0.5)


def test_area_by_hand(objectives):
    y = np.array([[[1.0, -8], [0.5, -5]]])
    values = np.array([[[2.0, 0], [0, 1]]])
    # One candidate, then the other; equal weights value them equally.
    assert objectives.weighted_area(y, values) == 0.5 * 4 + 0.25 * 2.5 + 0.25 * 1
    only = objectives.with_second(values, np.array([[3.0, 0]]))
    assert objectives.weighted_area(y, only) == 1


def test_budget_is_spent_on_other_prompts(objectives, rng):
    lengths = rng.integers(100, 1000, size=(200, 6)).astype(float)
    reward = lengths / 1000 + rng.normal(size=lengths.shape)
    values = np.stack([reward, -lengths], axis=2)
    earned, used = objectives.spend(values, reward, lengths, 400)
    assert used == pytest.approx(400, abs=40)
    reward[::2] = lengths[::2] = np.nan  # the prompts that select are not measured
    with pytest.raises(ValueError, match="NaN"):
        objectives.spend(values, reward, lengths, 400)
    assert earned > 1


@pytest.mark.filterwarnings("ignore:The interval:UserWarning")  # has no width
def test_command(objectives, make_npz, monkeypatch, tmp_path, capsys):
    rng = np.random.default_rng(0)
    lengths = {"n_chars": rng.integers(50, 700, size=(60, 6))}
    make_npz(tmp_path / "alpacaeval_gpt4.npz", n_prompts=60, m=6, more=lengths)
    monkeypatch.setattr(objectives, "N_WEIGHTS", 3)
    out = tmp_path / "out.json"
    objectives.main(["--quick", "--data", str(tmp_path), "--json", str(out)])
    lines = json.loads(out.read_text())
    names = [*objectives.LOSSES, *(f"siblings+{loss}" for loss in objectives.LOSSES)]
    assert [line["loss"] for line in lines] == names
    assert [name for line in lines for name in line if name == "refitted"] == [
        "refitted"
    ]
    printed = capsys.readouterr().out
    assert "oracle: hypervolume" in printed and printed.endswith("little else\n")
    with pytest.raises(SystemExit, match=r"There is no alpacaeval_gpt4\.npz in"):
        objectives.main(["--data", str(tmp_path / "nothing")])
