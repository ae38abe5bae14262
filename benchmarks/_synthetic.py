"""Synthetic data of `speed.py`, like hidden states of a language model.

32 directions differ between prompts, 32 between candidates, under noise of about the
same magnitude. Columns have log-normal scales and are not centered. A reward is 1 with
a probability that is logistic in the candidate's directions and in the difficulty of
the prompt. Held-out prompts are from the same model.
"""

from functools import lru_cache

import numpy as np

PAPER = (464, 200, 4096)
"""Prompts, candidates and features of the paper's training data."""

N_DIRECTIONS = 32


@lru_cache(maxsize=1)
def make_data(shape, seed):
    """Make embeddings (n_prompts, k, d) of float32 and rewards (n_prompts, k)."""
    X = np.empty(shape, dtype=np.float32)
    return X, fill_data(X, seed)


def fill_data(X, seed):
    """Fill X prompt by prompt and return the rewards; `seed` determines the prompts."""
    n_prompts, k, d = X.shape
    rng = np.random.default_rng(d)  # the model is the same for all prompts of this d
    loadings = rng.standard_normal((2 * N_DIRECTIONS, d)) / N_DIRECTIONS**0.5
    loadings = loadings.astype(np.float32)
    means = 2 * rng.standard_normal(d, dtype=np.float32)
    scales = rng.lognormal(size=d).astype(np.float32)
    difficulty, quality = rng.standard_normal((2, N_DIRECTIONS)) / N_DIRECTIONS**0.5

    rng = np.random.default_rng(seed)
    y = np.empty((n_prompts, k))
    for p in range(n_prompts):
        factors = rng.standard_normal((k, 2 * N_DIRECTIONS), dtype=np.float32)
        factors[:, :N_DIRECTIONS] = factors[0, :N_DIRECTIONS]
        embeddings = rng.standard_normal((k, d), dtype=np.float32)
        embeddings += factors @ loadings
        X[p] = (embeddings + means) * scales
        of_prompt, of_candidate = np.split(factors, 2, axis=1)
        logit = 1.5 * (of_candidate @ quality + of_prompt @ difficulty) - 1
        y[p] = rng.random(k) < 1 / (1 + np.exp(-logit))
    return y


def times(shape):
    """Format a shape, such as 464 x 200 x 4096."""
    return " x ".join(map(str, shape))
