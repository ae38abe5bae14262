"""Sample of the pairs of siblings from which the scales of distances are learned."""

import numpy as np

SAMPLED_PAIRS = 2**20
"""Largest number of distances from which the scales are learned."""


def count_pairs(layout):
    """Count the pairs of siblings, each in both orders."""
    return int((layout.sizes * (layout.sizes - 1)).sum())


def sampling_step(n_pairs):
    """Return the spacing of prompts with at most about SAMPLED_PAIRS pairs."""
    return -(-max(n_pairs, 1) // SAMPLED_PAIRS)


def sampled_candidates(n_pairs):
    """Return a slice of the candidates of each prompt, if few prompts have n_pairs."""
    return slice(None, None, max(1, n_pairs // SAMPLED_PAIRS))


def keep_sampled(layout, step, skip=0):
    """Keep evenly spaced prompts, where `skip` prompts come before."""
    kept = np.zeros(layout.n_prompts, dtype=bool)
    kept[-skip % step :: step] = True
    return layout.keep(np.repeat(kept, layout.sizes))
