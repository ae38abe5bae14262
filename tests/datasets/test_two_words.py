import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skqprobe.datasets import load_two_words

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "make_two_words.py"
N_FEATURES = {"hidden_state": 576, "minilm": 384}


@pytest.fixture(scope="module")
def two_words():
    return load_two_words()


@pytest.fixture(scope="module")
def script():
    if not SCRIPT.exists():
        pytest.skip("benchmarks/make_two_words.py is not available")
    spec = importlib.util.spec_from_file_location("make_two_words", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("embedding", N_FEATURES)
def test_shapes_and_dtypes(embedding):
    bunch = load_two_words(embedding=embedding)
    n_features = N_FEATURES[embedding]
    expected = {
        "data": ((240, 16, n_features), np.float16),
        "target": ((240, 16), np.float64),
        "log_likelihood": ((240, 16), np.float32),
        "n_tokens": ((240, 16), np.int16),
    }
    for name, (shape, dtype) in expected.items():
        assert bunch[name].shape == shape
        assert bunch[name].dtype == dtype
        assert np.isfinite(bunch[name]).all()
    texts = {"words": (240, 2), "prompts": (240,), "completions": (240, 16)}
    for name, shape in texts.items():
        assert bunch[name].shape == shape
        assert bunch[name].dtype.kind == "U"
    X, y = load_two_words(embedding=embedding, return_X_y=True)
    assert_array_equal(X, bunch.data)
    assert_array_equal(y, bunch.target)
    assert bunch.frame is None
    assert len(bunch.feature_names) == len(set(bunch.feature_names)) == n_features
    assert bunch.feature_names[0] == embedding[0] + "0"
    assert Path(bunch.filename).is_file()
    assert bunch.DESCR.startswith(".. _two_words_dataset:")


def test_values(two_words):
    deviation = two_words.data.astype(np.float32).std(axis=1)
    assert (deviation.max(axis=1) > 0).all()  # completions of a prompt differ
    minilm = load_two_words(embedding="minilm").data.astype(np.float32)
    assert_allclose(np.linalg.norm(minilm, axis=-1), 1, atol=1e-3)
    assert (two_words.log_likelihood < 0).all()
    assert two_words.n_tokens.min() >= 1
    assert two_words.n_tokens.max() <= 40
    assert not any("\n" in text for text in two_words.completions.ravel())
    assert set(np.unique(two_words.target)) == {0.0, 1.0}
    assert 0.2 < two_words.target.mean() < 0.5
    assert two_words.target.max(axis=1).mean() > 0.9


def test_rewards_are_those_of_the_rule(two_words, script):
    expected = [
        [script.reward(words, text) for text in texts]
        for words, texts in zip(two_words.words, two_words.completions, strict=True)
    ]
    assert_array_equal(two_words.target, expected)


@pytest.mark.parametrize(
    ("reward", "texts"),
    [
        (
            1,
            [
                " The fox is under the box.",
                "FOXES like a Box!",
                "“Is the fox in the box?”",
                "The fox's box is red.",
                "The fox is in a" + " very" * 7 + " big box.",
            ],
        ),
        (
            0,
            [
                "The fox is under the box",
                "The fox ran. The box fell.",
                "Mr. Fox, the fox, has a box.",
                "The fox is in the box...",
                "The fox is outfoxed.",
                "The fox is boxed in.",
                "The fox is in a" + " very" * 8 + " big box.",
                *(".", ""),
            ],
        ),
    ],
)
def test_reward_rule(script, reward, texts):
    for text in texts:
        assert script.reward(["fox", "box"], text) == reward


def test_prompts_hold_distinct_words(two_words, script):
    assert len(np.unique(two_words.words)) == 480
    assert_array_equal(two_words.words, script.draw_pairs(240))
    for words, prompt in zip(two_words.words, two_words.prompts, strict=True):
        assert prompt == script.TEMPLATE.format(*words)
        assert prompt.endswith(f"Words: {words[0]} and {words[1]}\nSentence:")
    assert len(script.WORDS) == len(set(script.WORDS)) >= 480
    examples = script.TEMPLATE.lower().replace(".", " ").split()
    assert not set(script.WORDS) & set(examples)


@pytest.mark.parametrize("embedding", N_FEATURES)
def test_as_frame(embedding):
    pd = pytest.importorskip("pandas")
    sets = load_two_words(embedding=embedding)
    bunch = load_two_words(embedding=embedding, as_frame=True)
    X, y = bunch.data, bunch.target
    assert X.shape == (3840, N_FEATURES[embedding])
    assert (X.dtypes == np.float32).all()
    assert list(X.columns) == sets.feature_names == bunch.feature_names
    assert_array_equal(X.to_numpy().reshape(sets.data.shape), sets.data)
    assert_array_equal(y.to_numpy().reshape(240, 16), sets.target)
    assert y.name == "reward"
    assert X.index.name == "prompt"
    assert X.index.equals(y.index)
    assert list(X.index[::16]) == [" ".join(pair) for pair in sets.words]
    assert (X.groupby(level=0).size() == 16).all()
    pd.testing.assert_frame_equal(bunch.frame.drop(columns="reward"), X)
    pd.testing.assert_series_equal(bunch.frame["reward"], y)
    pd.testing.assert_frame_equal(
        load_two_words(embedding=embedding, as_frame=True, return_X_y=True)[0], X
    )


def test_as_frame_without_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="as_frame=True needs pandas"):
        load_two_words(as_frame=True)


def test_unknown_embedding():
    message = "embedding must be one of 'hidden_state', 'minilm'; got"
    for embedding in ("bert", None, ["minilm"]):
        with pytest.raises(ValueError, match=message):
            load_two_words(embedding=embedding)


def test_loading_without_torch_and_pandas():
    code = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in {"torch", "transformers", "pandas"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
from skqprobe.datasets import load_two_words
load_two_words()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_description_has_the_figures_of_the_script(two_words, script, capsys):
    script.describe(script.OUT)
    figures = capsys.readouterr().out.splitlines()
    assert f"{two_words.target.mean():.3f}" in figures[1]
    for line in figures[1:-1]:  # without the versions
        assert line in two_words.DESCR
