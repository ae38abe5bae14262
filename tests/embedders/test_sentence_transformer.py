"""SentenceTransformerEmbedder, compared with sentence-transformers."""

import copy
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.base import clone

from skqprobe.embedders import EmbeddingCache, SentenceTransformerEmbedder

pytestmark = pytest.mark.usefixtures("kept_models")

TEXTS = ["A dog.", "A much longer text about a dog in a park.", "", "Ein Hund?", "狗"]


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


def test_no_weights_in_the_embedder(minilm_folder, capfd):
    embedder = SentenceTransformerEmbedder(minilm_folder, truncate_dim=8).fit(TEXTS)
    pickled = pickle.dumps(embedder)
    assert len(pickled) < 2000
    capfd.readouterr()  # loading has a bar
    embeddings = embedder.transform(TEXTS)
    assert capfd.readouterr() == ("", "")
    close(pickle.loads(pickled).transform(TEXTS), embeddings)
    # Clones share one loaded model.
    assert clone(embedder)._load() is embedder._load()


def test_settings_in_the_key_of_the_cache(minilm_folder, tmp_path):
    cache, n_before = EmbeddingCache(tmp_path / "cache.sqlite"), 0
    for settings, n_new in (
        ({}, 1),
        ({"device": "cpu"}, 0),
        ({"trust_remote_code": True}, 0),
        ({"batch_size": 1}, 0),
        ({"prompt": "a"}, 1),
        ({"prompt_name": "query"}, 1),
        ({"truncate_dim": 8}, 1),
        ({"normalize_embeddings": True}, 1),
        ({"dtype": "float64"}, 1),
        ({"revision": "1"}, 1),
    ):
        embedder = SentenceTransformerEmbedder(minilm_folder, cache=cache, **settings)
        embedder.transform(["a"])
        assert len(cache) - n_before == n_new
        n_before = len(cache)


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
    embedder.transform(["狗" * 254])  # fits: no warning
    with pytest.warns(UserWarning, match="1 of 1 texts"):  # the prompt counts
        embedder.set_params(prompt="two words ").transform(["a " * 253])


def test_a_text_that_is_no_unicode(minilm_folder, minilm):
    texts = ["a", "b\ud83d", "c"]
    embedder = SentenceTransformerEmbedder(minilm_folder)
    with pytest.raises(ValueError, match=r"1 of 3 .* X\[1\] .*half of a surrogate"):
        embedder.transform(texts)
    with pytest.warns(UserWarning, match="1 of 3 texts"):
        X = embedder.set_params(on_error="skip").transform(texts)
    assert np.isnan(X[1]).all()
    close(X[[0, 2]], minilm.encode(["a", "c"]))


def test_half_precision_is_returned_in_single(minilm_folder, monkeypatch):
    embedder = SentenceTransformerEmbedder(minilm_folder)
    exact = embedder.transform(TEXTS)
    half = copy.deepcopy(embedder._load()).bfloat16()
    monkeypatch.setattr(SentenceTransformerEmbedder, "_load", lambda self: half)
    rough = SentenceTransformerEmbedder(minilm_folder).transform(TEXTS)
    assert rough.dtype == np.float32
    close(rough, exact, atol=0.02)
    assert np.abs(rough - exact).max() > 0


def test_a_known_long_text_does_not_warn_again(minilm_folder, tmp_path):
    cache = tmp_path / "cache.sqlite"
    embedder = SentenceTransformerEmbedder(minilm_folder, cache=cache)
    with pytest.warns(UserWarning, match="1 of 1 texts"):
        embedder.transform(["a " * 300])
    embedder.transform(["a " * 300])


def test_a_model_without_a_limit(tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"?": 0, "a": 1, "b": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    static = StaticEmbedding(tokenizer, embedding_weights=np.eye(3, dtype=np.float32))
    sentence_transformers.SentenceTransformer(modules=[static]).save(str(tmp_path))
    embedder = SentenceTransformerEmbedder(tmp_path, device="cpu")
    close(embedder.transform(["a b", "a " * 9999]), [[0, 0.5, 0.5], [0, 1, 0]])


@pytest.mark.parametrize("name", ["nobody/no-model", "./no/folder", "README.md", None])
def test_no_such_model(minilm_folder, tmp_path, name):
    name = str(tmp_path) if name is None else name
    message = f"cannot load model='{name}'. A folder must hold .* needs a connection"
    with pytest.raises(OSError, match=message):
        SentenceTransformerEmbedder(name).transform(TEXTS)


def test_without_sentence_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    message = r'pip install "skqprobe\[sentence-transformers\]"'
    with pytest.raises(ImportError, match=message):
        SentenceTransformerEmbedder("not/loaded").transform(TEXTS)


def test_bad_parameters():
    for name, value in (
        ("model", None),
        ("truncate_dim", 0),
        ("normalize_embeddings", "yes"),
        ("trust_remote_code", "yes"),
        ("device", 0),
        ("prompt", 3),
    ):
        with pytest.raises(ValueError, match=f"The '{name}' parameter of Sentence"):
            SentenceTransformerEmbedder(**{"model": "m", name: value}).fit(TEXTS)


def test_options_are_passed_on(monkeypatch):
    asked = {}

    def load(model, **options):
        asked[model] = options
        raise OSError("stop here")

    library = SimpleNamespace(SentenceTransformer=load)
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    for trust in (False, True):
        options = {"trust_remote_code": trust, "revision": "abc", "device": "cpu"}
        embedder = SentenceTransformerEmbedder(f"a/model {trust}", **options)
        with pytest.raises(OSError, match="stop here"):
            embedder.transform(TEXTS)
        assert asked[f"a/model {trust}"] == options
