"""Choice while the model writes: blocks, rejection in the middle, and guidance.

A word is in one of three parts: training, settings and test. A test prompt has words
that are in no other test prompt. No pair is in the shipped data. The constants below
were chosen on the prompts of "settings".
"""

from contextlib import contextmanager, nullcontext

import numpy as np
from _intervals import mean_interval
from _output import format_interval
from _two_words import TEMPLATE, WORDS, draw_pairs, reward
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy, QProbeRegressor
from skqprobe._backends.causal_lm import load_causal_lm
from skqprobe.embedders import HiddenStateEmbedder, expand_prefixes
from skqprobe.generators import collect, stack_embeddings
from skqprobe.metrics import best_of_k_reward

LAYERS = [15, 18, 21, 24]
BLOCK_TOKENS = 2
SIZES = (4,)
N_DRAWN = 32
N_RUNS = 8
GUIDED_LAYER, GUIDED_EVERY = 21, 4
STRENGTHS = (8, 4)
N_GUIDED, N_CHOSEN = 12, 8
N_RESAMPLES = 9999


def make_parts():
    """Make the prompts of the three parts, as items with the prompt and its words.

    Words of training and settings are in up to three prompts.
    """
    seen = {frozenset(pair) for pair in draw_pairs(len(WORDS) // 2).tolist()}
    order = np.random.default_rng(2026).permutation(WORDS)
    parts = {"test": order[:304], "settings": order[304:368], "train": order[368:]}
    items: dict[str, list] = {name: [] for name in parts}
    for name, words in parts.items():
        rng = np.random.default_rng(7)
        for repeat in range(1 if name == "test" else 3):
            words = rng.permutation(words) if repeat else words
            for pair in words[: len(words) // 2 * 2].reshape(-1, 2).tolist():
                if frozenset(pair) not in seen:
                    seen.add(frozenset(pair))
                    prompt = TEMPLATE.format(*pair)
                    items[name].append({"prompt": prompt, "words": pair})
    return items


def score(item, completion):
    return reward(item["words"], completion)


# %% Values of prefixes, and the curve of the best of k


def fit_value(X, y, sample_weight=None):
    """Fit a reward model to states."""
    value = make_pipeline(StandardScaler(), QProbeRegressor("log_loss", alpha=0.03))
    return value.fit(X, y, qproberegressor__sample_weight=sample_weight)


def fit_values(items, generator, k, folder):
    """Collect training candidates; fit the values of prefixes and of whole texts.

    Returns
    -------
    values : dict of str to estimator
        "prefix" and "whole".
    records : list of dict
        The candidates.
    embedder : HiddenStateEmbedder
        Its model and layers are those of the generator.
    """
    records = collect(
        items, generator, score, k, path=folder and folder / "train.jsonl"
    )
    embedder = HiddenStateEmbedder(
        generator.model,
        gguf_file=generator.gguf_file,
        model_dtype=generator.model_dtype,
        layer=generator.hidden_states,
        batch_size=k,
        cache=folder and folder / "states.sqlite",
    )
    pairs, _, y, sample_weight = expand_prefixes(records, BLOCK_TOKENS, embedder)
    prefix = fit_value(embedder.transform(pairs), y, sample_weight)
    X = np.concatenate(stack_embeddings(records, "hidden_states"))
    whole = fit_value(X, np.ravel([record["rewards"] for record in records]))
    return {"prefix": prefix, "whole": whole}, records, embedder


class Curve:
    """Rewards of the best of k whole completions, per prompt.

    Parameters
    ----------
    y, values : ndarray of shape (n_prompts, m)
        Rewards and values of the completions.
    n_tokens : ndarray of shape (n_prompts, m)
        Numbers of their tokens.
    """

    def __init__(self, y, values, n_tokens):
        self.tokens = n_tokens.mean()
        self.rewards = [np.zeros(len(y))]
        for k in range(1, y.shape[1] + 1):
            self.rewards.append(best_of_k_reward(y, values, k, average=None))

    def at(self, n_tokens):
        """Interpolate the rewards at a mean number of tokens per prompt."""
        k = n_tokens / self.tokens
        i = min(int(k), len(self.rewards) - 2)
        return self.rewards[i] + (k - i) * (self.rewards[i + 1] - self.rewards[i])

    def tokens_for(self, reward):
        """Return the mean number of tokens with which the best of k has a reward."""
        means = [rewards.mean() for rewards in self.rewards]
        return np.interp(reward, means, self.tokens * np.arange(len(means)))


def draw_pool(items, generator, values):
    """Draw whole completions; return records with rewards, and their curve."""
    records = generator.generate(items, N_DRAWN)
    y = rewards_of(items, [record["completions"] for record in records])
    X = stack_embeddings(records, "hidden_states")
    found = values["whole"].predict(X.reshape(-1, X.shape[-1])).reshape(y.shape)
    n_tokens = np.array([record["n_tokens"] for record in records])
    return records, Curve(y, found, n_tokens), (y, found, n_tokens)


def rewards_of(items, texts):
    return np.array(
        [[score(item, t) for t in row] for item, row in zip(items, texts, strict=True)],
        dtype=float,
    )


# %% Blocks


def write_blockwise(generator, prompt, value, k, n_runs, rng):
    """Run `BlockwiseBestOfK` with keep=1 several times, in one batch.

    The candidates of run r are those from r * k on. A run that has ended keeps its
    answer, and its other candidates are left out.

    Returns
    -------
    texts : list of str
        Answer of each run.
    n_tokens : float
        Mean number of tokens of a run.
    """
    start, [pair] = generator._starter([prompt], "", k)
    drafts = start(pair)
    runs, parents = np.repeat(np.arange(n_runs), k), [0] * (n_runs * k)
    lengths, answers, total = np.zeros(1, dtype=int), [None] * n_runs, 0
    for left in range(generator.max_tokens, 0, -BLOCK_TOKENS):
        n_block = min(BLOCK_TOKENS, left)
        drafts.select(parents)
        drafts.write(rng.random((len(parents), n_block), dtype=np.float32))
        record = generator._record(prompt, "", drafts.drafts)
        total += (record["n_tokens"] - lengths[parents]).sum()
        found, lengths = value.predict(record["hidden_states"]), record["n_tokens"]
        parents = []
        for run in np.unique(runs):
            rows = np.flatnonzero(runs == run)
            best = rows[found[rows].argmax()]
            goes_on = record["finish_reasons"][best] == "length" and left > n_block
            if goes_on:
                parents += [best] * k
            else:
                answers[run] = record["completions"][best]
        runs = np.array([runs[row] for row in parents], dtype=int)
        if not parents:
            break
    return answers, total / n_runs


def measure_blockwise(items, generator, values, curve, k):
    """Measure blocks against the best of k at equal numbers of tokens."""
    texts, n_tokens = [], []
    for i, item in enumerate(items):
        rng = np.random.default_rng([generator.seed, k, i])
        found = write_blockwise(
            generator, item["prompt"], values["prefix"], k, N_RUNS, rng
        )
        texts.append(found[0])
        n_tokens.append(found[1])
    return compare(rewards_of(items, texts).mean(axis=1), np.mean(n_tokens), curve)


def compare(rewards, n_tokens, curve):
    """Compare rewards per prompt with those of the best of k at equal tokens."""
    same = curve.at(n_tokens)
    return {
        "reward": mean_interval(rewards, N_RESAMPLES),
        "tokens": n_tokens,
        "k": n_tokens / curve.tokens,
        "best of k": same.mean(),
        "gain": mean_interval(rewards - same, N_RESAMPLES),
        "saved": 1 - n_tokens / curve.tokens_for(rewards.mean()),
    }


# %% Rejection in the middle


def measure_rejection(records, pool, values, embedder, curve, k, cut, n_orders=200):
    """Draw k completions, and drop the worst half after `cut` tokens."""
    half = N_DRAWN // 2
    some = [
        {"prompt": r["prompt"], "completions": r["completions"][:half]} for r in records
    ]
    pairs, groups, _, _ = expand_prefixes(some, cut, embedder)
    first = [row for row, (_, number) in enumerate(groups) if number == cut]
    X = embedder.transform([pairs[row] for row in first])
    early = values["prefix"].predict(X).reshape(len(records), half)
    rng = np.random.default_rng(0)
    rewards, n_tokens = [], []
    for z, y, late, lengths in zip(
        early, *(each[:, :half] for each in pool), strict=True
    ):
        drawn = rng.permuted(np.tile(np.arange(half), (n_orders, 1)), axis=1)[:, :k]
        order = np.take_along_axis(drawn, np.argsort(-z[drawn], axis=1), axis=1)
        kept, dropped = order[:, : k // 2], order[:, k // 2 :]
        best = np.take_along_axis(kept, late[kept].argmax(axis=1)[:, None], axis=1)
        rewards.append(y[best].mean())
        cost = lengths[kept].sum(axis=1) + np.minimum(lengths[dropped], cut).sum(axis=1)
        n_tokens.append(cost.mean())
    return compare(np.array(rewards), np.mean(n_tokens), curve)


def print_comparison(name, found):
    print(
        f"  {name:34}{format_interval(found['reward'])} with {found['tokens']:.1f} "
        f"tokens, {found['k']:.2f} draws; best of k {found['best of k']:.3f}, gain "
        f"{format_interval(found['gain'], '+')}, tokens saved {found['saved']:.0%}",
        flush=True,
    )


def run_blockwise(items, generator, values, embedder):
    """Measure and print blocks and rejection."""
    records, curve, pool = draw_pool(items, generator, values)
    y, found, _ = pool
    by_prefix = values["prefix"].predict(
        np.concatenate(stack_embeddings(records, "hidden_states"))
    )
    print(f"{len(items)} prompts, {curve.tokens:.1f} tokens per completion")
    for name, z in ("value of whole", found), ("value of prefixes", by_prefix):
        means = {
            k: best_of_k_reward(y, np.reshape(z, y.shape), k) for k in (1, 2, 4, 8, 16)
        }
        print(f"  best of k, by the {name}: {means}", flush=True)
    for k, cut in (8, 4), (16, 4):
        rejection = measure_rejection(records, pool, values, embedder, curve, k, cut)
        print_comparison(f"best of {k}, half dropped after {cut}", rejection)
    for k in SIZES:
        blockwise = measure_blockwise(items, generator, values, curve, k)
        print_comparison(f"{k} blocks of {BLOCK_TOKENS} tokens", blockwise)


# %% Guidance


def fit_guidance(records, embedder):
    """Fit a policy to the states of the guided layer at prefixes, inside prompts."""
    pairs, groups, y, _ = expand_prefixes(records, GUIDED_EVERY, embedder)
    X = np.split(embedder.transform(pairs), len(LAYERS), axis=1)
    policy = make_pipeline(
        StandardScaler(), QProbePolicy("pairwise_logistic", alpha=0.03)
    )
    X = X[LAYERS.index(GUIDED_LAYER)]
    return policy.fit(X, y, qprobepolicy__groups=groups)


def unit_shift(policy):
    """Return the move of a state by one unit of the spread of its layer.

    With the coefficients w of standardized states and the gradient g = w / scale of the
    value with respect to the states, it is g |w| / |g|^2: along the gradient, and as
    long as raises the value by |w|, as a step of one standard deviation along w does.
    """
    scaler, probe = policy
    gradient = probe.coef_ / scaler.scale_
    return gradient * np.linalg.norm(probe.coef_) / (gradient @ gradient)


@contextmanager
def moved_states(generator, shift, layer=GUIDED_LAYER):
    """Add a shift to the state of the layer from which each token is drawn."""
    import torch

    def move(module, inputs, output):
        states = output[0] if isinstance(output, tuple) else output
        states[:, -1] += torch.tensor(shift).to(states)

    layers = load_causal_lm(generator).network.base_model.layers
    with layers[layer - 1].register_forward_hook(move):
        yield


def measure_draws(items, generator, value, embedder, shift=None):
    """Draw candidates; return figures per prompt, those of the model without guidance.

    "reward" of a random candidate, "chosen" of the best of N_CHOSEN, the share of
    "distinct" texts, and "log_likelihood" and "tokens" of a candidate.
    """
    moved = nullcontext() if shift is None else moved_states(generator, shift)
    with moved:
        records = generator.generate(items, N_GUIDED)
    texts = [record["completions"] for record in records]
    y = rewards_of(items, texts)
    if shift is None:  # they are captured
        states = stack_embeddings(records, "hidden_states")
        likelihood = stack_embeddings(records, "log_likelihoods")[..., 0]
    else:
        X = embedder.transform(records)
        states, likelihood = X[..., :-5], X[..., -5]
    z = value.predict(states.reshape(-1, states.shape[-1])).reshape(y.shape)
    return {
        "reward": y.mean(axis=1),
        "chosen": best_of_k_reward(y, z, N_CHOSEN, average=None),
        "distinct": np.array([len(set(row)) / len(row) for row in texts]),
        "log_likelihood": likelihood.mean(axis=1).astype(float),
        "tokens": np.array([record["n_tokens"].mean() for record in records]),
    }


def run_guidance(items, generator, value, records, embedder):
    """Measure and print guidance of several strengths against none."""
    policy = fit_guidance(records, embedder)
    reader = clone(embedder).set_params(likelihood=True, cache=None)
    base = measure_draws(items, generator, value, reader)
    print_draws("no guidance", base, base)
    for strength in STRENGTHS:
        shift = strength * unit_shift(policy)
        found = measure_draws(items, generator, value, reader, shift)
        print_draws(f"strength {strength}", found, base)


def print_draws(name, found, base):
    """Print the means of figures, and the intervals of their differences."""
    print(f"  {name}")
    for key, values in found.items():
        row = f"    {key:16}{values.mean():8.3f}"
        if found is not base:
            gain = mean_interval(values - base[key], N_RESAMPLES)
            row += f"  difference {format_interval(gain, '+')}"
        print(row, flush=True)
