"""SentenceTransformerEmbedder, compared with sentence-transformers."""

import pickle
import shutil
import sqlite3
import sys
import warnings
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy
from skqprobe.embedders import EmbeddingCache, SentenceTransformerEmbedder
from skqprobe.preprocessing import PerCandidate

pytestmark = pytest.mark.usefixtures("kept_models")

TEXTS = ["A dog.", "A much longer text about a dog in a park.", "", "Ein Hund?", "狗"]
RECORDS = [
    {
        "prompt": f"Name animal {i}.",
        "completions": [f" dog {i}", " cat", f" {i} stones"],
    }
    for i in range(12)
]


def close(a, b, atol=1e-6):
    # The other texts of a batch change the last bits.
    np.testing.assert_allclose(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"prompt": "query: "},
        {"prompt_name": "query"},
        {"truncate_dim": 64},
        {"normalize_embeddings": True},
        {"truncate_dim": 64, "normalize_embeddings": True, "prompt": "a "},
    ],
    ids=str,
)
def test_agrees_with_the_library(minilm_folder, minilm, settings):
    embedder = SentenceTransformerEmbedder(minilm_folder, batch_size=2, **settings)
    embeddings = embedder.fit_transform(TEXTS)
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (len(TEXTS), settings.get("truncate_dim", 384))
    close(embeddings, minilm.encode(TEXTS, **settings))
    close(embedder.transform(TEXTS), embeddings)
    if "normalize_embeddings" in settings:
        close(np.linalg.norm(embeddings, axis=1), 1)


def test_a_prompt_of_the_model_by_name(minilm_folder, minilm, monkeypatch):
    embedder = SentenceTransformerEmbedder(minilm_folder, prompt_name="query")
    before = embedder.transform(TEXTS)
    # The prompts of this model are empty.
    prompt = "Find what is asked for: "
    monkeypatch.setitem(embedder._load().prompts, "query", prompt)
    embeddings = embedder.transform(TEXTS)
    close(embeddings, minilm.encode(TEXTS, prompt=prompt))
    assert np.abs(embeddings - before).max() > 0.01
    with pytest.raises(ValueError, match="'nothing' not found"):
        embedder.set_params(prompt_name="nothing").transform(TEXTS)


def test_pairs_and_records(minilm_folder, minilm):
    embedder = SentenceTransformerEmbedder(minilm_folder)
    sets = embedder.fit_transform(RECORDS)
    assert sets.shape == (12, 3, 384)
    texts = [f"{r['prompt']}\n{c}" for r in RECORDS for c in r["completions"]]
    close(sets.reshape(-1, 384), minilm.encode(texts))
    chat = [{"role": "user", "content": "Hi"}]
    close(embedder.transform([(chat, "Ho")]), minilm.encode(["user: Hi\nHo"]))
    assert embedder.get_feature_names_out()[-1] == "sentencetransformerembedder383"


def test_dtype(minilm_folder, minilm):
    embeddings = SentenceTransformerEmbedder(minilm_folder, dtype="float16").transform(
        TEXTS
    )
    assert embeddings.dtype == np.float16
    close(embeddings, minilm.encode(TEXTS), atol=1e-3)


def test_no_weights_in_the_embedder(minilm_folder):
    embedder = SentenceTransformerEmbedder(minilm_folder, truncate_dim=8).fit(TEXTS)
    pickled = pickle.dumps(embedder)
    assert len(pickled) < 2000
    close(pickle.loads(pickled).transform(TEXTS), embedder.transform(TEXTS))
    assert clone(embedder).get_params() == embedder.get_params()
    # Clones share one loaded model.
    assert clone(embedder)._load() is embedder._load()


def test_silent(minilm_folder, capfd):
    embedder = SentenceTransformerEmbedder(minilm_folder).fit(
        TEXTS
    )  # loading has a bar
    capfd.readouterr()
    embedder.transform(TEXTS)
    assert capfd.readouterr() == ("", "")


def test_search_in_two_processes(minilm_folder, tmp_path, rng):
    cache = EmbeddingCache(tmp_path / "cache.sqlite")
    embedder = SentenceTransformerEmbedder(minilm_folder, cache=cache, device="cpu")
    y = rng.random((12, 3))
    pipeline = Pipeline(
        [
            ("embed", embedder),
            ("scale", PerCandidate(StandardScaler())),
            ("probe", QProbePolicy()),
        ]
    )
    grid = {"probe__alpha": [0.1, 10.0], "probe__loss": ["log_loss", "policy_gradient"]}
    sets = embedder.transform(RECORDS)
    search = GridSearchCV(pipeline, grid, cv=3, n_jobs=2).fit(RECORDS, y)
    by_hand = GridSearchCV(pipeline[1:], grid, cv=3).fit(sets, y)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], by_hand.cv_results_["mean_test_score"]
    )
    np.testing.assert_array_equal(search.predict(RECORDS), by_hand.predict(sets))
    # A text that is embedded again would get a new number.
    with closing(sqlite3.connect(cache.path)) as connection:
        question = "SELECT COUNT(*), MAX(number) FROM embeddings"
        assert connection.execute(question).fetchone() == (36, 36)


def test_settings_in_the_key_of_the_cache(minilm_folder, tmp_path):
    cache = EmbeddingCache(tmp_path / "cache.sqlite")

    def n_new(**settings):
        before = len(cache)
        SentenceTransformerEmbedder(minilm_folder, cache=cache, **settings).transform(
            ["a"]
        )
        return len(cache) - before

    assert n_new() == 1
    for same in ({"device": "cpu"}, {"trust_remote_code": True}, {"batch_size": 1}):
        assert n_new(**same) == 0
    for other in (
        {"prompt": "a"},
        {"prompt_name": "query"},
        {"truncate_dim": 8},
        {"normalize_embeddings": True},
        {"dtype": "float64"},
        {"revision": "1"},
    ):
        assert n_new(**other) == 1


def test_a_changed_folder_is_loaded_again(minilm_folder, tmp_path):
    from safetensors.numpy import load_file, save_file

    copy = shutil.copytree(minilm_folder, tmp_path / "model")
    embedder = SentenceTransformerEmbedder(copy, cache=tmp_path / "cache.sqlite")
    before = embedder.transform(TEXTS)
    weights = load_file(copy / "model.safetensors")
    name = next(name for name in weights if name.endswith("output.LayerNorm.bias"))
    weights[name] = weights[name] + 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert np.abs(embedder.transform(TEXTS) - before).max() > 0.01


# Texts that are too long


def test_long_texts_are_counted(minilm_folder, minilm):
    # The limit is 256 tokens, of which the model adds two.
    texts = ["a " * 254, "b " * 255, "c" * 5000, "d " * 3000, "short", "d " * 3000]
    embedder = SentenceTransformerEmbedder(minilm_folder, batch_size=2)
    with pytest.warns(UserWarning) as caught:
        embeddings = embedder.transform(texts)
    (warning,) = caught
    message = str(warning.message)
    # "ccc..." is one unknown word, and so one token.
    assert message.startswith("2 of 5 texts are longer than the 256 tokens")
    assert str(minilm_folder) in message
    close(embeddings, minilm.encode(texts))


def test_the_prompt_counts(minilm_folder):
    embedder = SentenceTransformerEmbedder(minilm_folder, prompt="two words ")
    with pytest.warns(UserWarning, match="1 of 1 texts"):
        embedder.transform(["a " * 253])


def test_texts_that_just_fit_do_not_warn(minilm_folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SentenceTransformerEmbedder(minilm_folder).transform(["a " * 254, "狗" * 254])


def test_a_known_long_text_does_not_warn_again(minilm_folder, tmp_path):
    cache = tmp_path / "cache.sqlite"
    embedder = SentenceTransformerEmbedder(minilm_folder, cache=cache)
    with pytest.warns(UserWarning, match="1 of 1 texts"):
        embedder.transform(["a " * 300])
    embedder.transform(["a " * 300])


def test_a_model_without_a_limit(tmp_path):
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"?": 0, "a": 1, "b": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    static = StaticEmbedding(tokenizer, embedding_weights=np.eye(3, dtype=np.float32))
    SentenceTransformer(modules=[static]).save(str(tmp_path))
    embedder = SentenceTransformerEmbedder(tmp_path, device="cpu")
    close(
        embedder.transform(["a b", "a " * 9999]), np.array([[0, 0.5, 0.5], [0, 1, 0]])
    )


# Errors


@pytest.mark.parametrize("name", ["nobody/no-model", "./no/folder", "README.md"])
def test_no_such_model(minilm_folder, monkeypatch, name):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = f"cannot load model='{name}'. A folder must hold .* needs a connection"
    with pytest.raises(OSError, match=message):
        SentenceTransformerEmbedder(name).transform(TEXTS)


def test_a_folder_without_a_model(minilm_folder, tmp_path):
    with pytest.raises(OSError, match=f"cannot load model='{tmp_path}'"):
        SentenceTransformerEmbedder(tmp_path).transform(TEXTS)


def test_without_sentence_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    message = r'pip install "skqprobe\[sentence-transformers\]"'
    with pytest.raises(ImportError, match=message):
        SentenceTransformerEmbedder("not/loaded").transform(TEXTS)


@pytest.mark.parametrize(
    "parameter",
    [
        {"model": None},
        {"model": "m", "truncate_dim": 0},
        {"model": "m", "normalize_embeddings": "yes"},
        {"model": "m", "trust_remote_code": "yes"},
        {"model": "m", "device": 0},
        {"model": "m", "prompt": 3},
    ],
    ids=str,
)
def test_bad_parameters(parameter):
    name = list(parameter)[-1]
    with pytest.raises(ValueError, match=f"The '{name}' parameter of Sentence"):
        SentenceTransformerEmbedder(**parameter).fit(TEXTS)


def test_trust_remote_code_is_passed_on(monkeypatch):
    asked = {}

    def load(model, **options):
        asked[model] = options
        raise OSError("stop here")

    library = SimpleNamespace(SentenceTransformer=load)
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    for trust in (False, True):
        name = f"a/model {trust}"
        embedder = SentenceTransformerEmbedder(
            name, trust_remote_code=trust, revision="abc", device="cpu"
        )
        with pytest.raises(OSError, match="stop here"):
            embedder.transform(TEXTS)
        options = {"revision": "abc", "device": "cpu", "trust_remote_code": trust}
        assert asked[name] == options
